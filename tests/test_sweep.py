"""Sweeps: cells and their folders, workers that die, what is done once, and the table that comes of it."""

import csv
import dataclasses
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager
from importlib import resources
from types import SimpleNamespace

import errands
import jsonschema
import pytest
from conftest import example_results
from msgspec import structs
from small import plain
from test_cli import call

from pgx_jax import Config, ConfigError, DataError, make_family, report, run
from pgx_jax.cli import main as cli
from pgx_jax.cli.sweep import SweepCommand, crossed, parse_seeds
from pgx_jax.compare.results import Gain, Interval, schema, to_plain
from pgx_jax.compare.sweeps import SweepResult, from_plain
from pgx_jax.config import changed
from pgx_jax.errors import FolderError
from pgx_jax.report import sweeps
from pgx_jax.runs import sweep as runs
from pgx_jax.runs import workers
from pgx_jax.runs.serial import dumps
from pgx_jax.runs.sweep import Cell, Ended
from pgx_jax.runs.workers import OnRay, Processes, WorkerDied, accelerated
from pgx_jax.steady import usable_cores


class Here:
    """Works in this process; of some cells the worker dies a few times."""

    def __init__(self, dying=()):
        self.dying, self.worked = dict(dying), []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def check(self, folder):
        assert folder.is_absolute() and folder.is_dir()

    def work(self, function, queue):
        while queue:
            cell = queue.popleft()
            if self.dying.get(cell.folder, 0):
                self.dying[cell.folder] -= 1
                yield cell, WorkerDied("it fell asleep")
                continue
            self.worked.append(cell.folder)
            yield cell, function(cell)


@pytest.fixture(scope="module")
def quick(small_settings):
    """(settings of the family `points`, Config) of a run that trains its groups alone."""
    family, config = small_settings
    return family, dataclasses.replace(
        config, steps_per_task=2700, compare="none", k=2, test_tasks=0, looks=1
    )


@pytest.fixture(scope="module")
def cells(quick):
    """Two seeds of `points`."""
    family, config = quick
    return [Cell("points", dataclasses.replace(config, seed=seed), family) for seed in (5, 6)]


@pytest.fixture(scope="module")
def made(cells, tmp_path_factory):
    """(what the cells came to, the folder), made in this process."""
    out = tmp_path_factory.mktemp("sweeps") / "sweep"
    ended = list(runs.sweep(cells, out, Here()))
    found = runs.summary(ended, cells)
    runs.write(out, found)
    return found, out


# Cells


def test_cells_have_short_folders_that_tell_them_apart():
    cell = Cell("points", Config(seed=3))
    assert (cell.part, cell.folder, str(cell)) == ("points", "points/seed-3", "points, seed 3")
    varied = {"estimate.dim": 100, "policy.hidden": (8, 8), "learner": "a b/c"}
    cell = dataclasses.replace(cell, varied=varied)
    assert cell.part == "points-estimate.dim=100-policy.hidden=8,8-learner=a_b_c"
    assert str(cell).startswith("points, estimate.dim = 100, policy.hidden = (8, 8), ")
    names = {Cell("points", Config(), varied={"baselines": "x" * 200 + end}).part for end in "ab"}
    assert len(names) == 2 and all(len(name) == runs.LONGEST for name in names)


def test_the_folder_of_a_part_is_one_of_several_seeds(made, capsys):
    found, out = made
    (part,) = found.parts
    assert (part.folder, part.name, part.settings) == ("points", "points", {})
    assert part.seeds.seeds == [5, 6] and part.seeds.k == [2, 2]
    before = (out / "points" / "seeds.json").read_bytes()
    status, shown, err = call(capsys, "report", out / "points")
    assert status == 0 and "PolicyGradEx" in shown, err
    assert (out / "points" / "seeds.json").read_bytes() == before


# What is done


def test_runs_are_those_that_are_made_alone(made, cells, tmp_path):
    found, out = made
    alone = run(make_family("points", **cells[0].family_settings), cells[0].config, out=tmp_path / "run")
    assert plain(out / "points" / "seed-5") == plain(alone.store.path)
    assert (
        found.parts[0].seeds.methods["policygradex"].by_seed[0] == alone.results.methods["policygradex"].mean
    )


def test_what_is_done_is_read_and_what_has_begun_goes_on(made, cells, tmp_path):
    found, out = made
    copy = shutil.copytree(out, tmp_path / "sweep")
    here = Here()
    again = list(runs.sweep(cells, copy, here))
    assert not here.worked and all(one.known for one in again) and runs.summary(again, cells) == found
    begun = copy / "points" / "seed-6"
    (begun / "results.json").unlink()
    shutil.rmtree(begun / "stages" / "policies")
    kept = (begun / "stages" / "meta" / "structure.json").stat().st_mtime_ns
    again = list(runs.sweep(cells, copy, here))
    assert here.worked == ["points/seed-6"] and [one.known for one in again] == [True, False]
    assert (begun / "stages" / "meta" / "structure.json").stat().st_mtime_ns == kept
    assert without_timings(runs.summary(again, cells)) == without_timings(found)


def test_a_run_that_was_killed_as_it_began_begins_anew(made, cells, tmp_path, monkeypatch):
    folder = tmp_path / "points" / "seed-5"
    folder.mkdir(parents=True)
    (folder / f".config.json.{'0f' * 16}.tmp").write_text("{")
    monkeypatch.setattr(runs.Run, "compute", lambda self: None)
    monkeypatch.setattr(runs.Run, "write", lambda self: None)
    monkeypatch.setattr(runs.Run, "results", runs.check(cells, made[1])["points/seed-5"])
    (ended,) = runs.sweep(cells[:1], tmp_path, Here())
    assert ended.error == "", ended.trace
    assert ended.results.seed == 5
    assert (folder / "config.json").is_file() and not list(folder.glob(".*"))


def test_runs_of_workers_that_die_are_run_again(made, cells, tmp_path):
    _, out = made
    copy = shutil.copytree(out, tmp_path / "sweep")
    (copy / "points" / "seed-5" / "results.json").unlink()
    (copy / "points" / "seed-6" / "report.html").unlink()
    told = []
    here = Here({"points/seed-5": 2, "points/seed-6": 3})
    ended = list(runs.sweep(cells, copy, here, lambda cell, why: told.append((cell.config.seed, why))))
    assert told == [(5, "it fell asleep"), (6, "it fell asleep")] * 2 and here.worked == ["points/seed-5"]
    assert [(one.cell.config.seed, one.error) for one in ended] == [(5, ""), (6, "its worker died, 3 times")]
    found = runs.summary(ended, cells)
    assert found.failed == {"points/seed-6": "its worker died, 3 times"} and found.parts[0].seeds.seeds == [5]
    assert found.parts[0].seeds.unfinished == {"6": "its worker died, 3 times"}


def test_an_error_ends_its_own_run(made, cells, tmp_path, monkeypatch):
    found, out = made
    copy = shutil.copytree(out, tmp_path / "sweep")
    for seed in (5, 6):
        (copy / "points" / f"seed-{seed}" / "results.json").unlink()
    own = runs.opened
    errors = {5: DataError("no signal"), 6: ZeroDivisionError("by zero")}

    def broken(family, config, folder):
        if config.seed in errors:
            raise errors[config.seed]
        return own(family, config, folder)

    monkeypatch.setattr(runs, "opened", broken)
    ended = list(runs.sweep(cells, copy, Here()))
    assert [one.error for one in ended] == ["DataError: no signal", "ZeroDivisionError: by zero"]
    assert not ended[0].trace and "in broken" in ended[1].trace
    nothing = runs.summary(ended, cells)
    assert not nothing.parts and list(nothing.failed) == ["points/seed-5", "points/seed-6"]
    page = runs.write(copy, nothing).read_text()
    assert "Unfinished" in page and "by zero" in page
    del errors[5]
    ended = list(runs.sweep(cells, copy, Here()))
    assert [one.results is None for one in ended] == [False, True]


def test_a_folder_that_workers_do_not_share_is_told(made, cells, tmp_path):
    class Elsewhere(Here):
        def work(self, function, queue):
            yield queue[0], runs.Attempt(b"{}")
            queue.clear()

    (ended,) = runs.sweep(cells[:1], tmp_path, Elsewhere())
    assert "don't share the folder" in ended.error


def test_bad_sweeps_are_refused_before_any_work(made, cells, tmp_path, no_training):
    out = made[1]
    family, config = cells[0].family_settings, cells[0].config

    def refused(some, folder=tmp_path / "new"):
        with pytest.raises(ConfigError) as error:
            list(runs.sweep(some, folder, Here()))
        assert not (tmp_path / "new").exists()
        return str(error.value)

    assert "at least one family" in refused([])
    assert "share the folder points/seed-5" in refused([cells[0], cells[0]])
    other = dataclasses.replace(config, seed=7, episodes=3)
    assert "different settings would share the folder points" in refused(
        [*cells, Cell("points", other, family)]
    )
    assert "no task family 'pints'" in refused([*cells, Cell("pints", config)])
    assert "k = 11" in refused([*cells, Cell("points", dataclasses.replace(config, k=11), {}, {"k": 11})])
    assert "seed-5 holds a run with other settings" in refused(
        [Cell("points", dataclasses.replace(config, episodes=3), family)], out
    )
    assert "another tasks" in refused([Cell("points", config, family | {"n_tasks": 4})], out)
    assert "other settings" in refused([Cell("points", config, family | {"start": 0.2})], out)
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="is a file"):
        list(runs.sweep(cells, tmp_path / "file", Here()))


# Workers


def done_by(workers, function, pieces):
    queue = deque(pieces)
    with workers:
        return dict(workers.work(function, queue))


def test_processes_share_the_cores():
    found = done_by(Processes(2), errands.place, range(4))
    assert len({pid for pid, _ in found.values()}) == 2 and os.getpid() not in found
    assert {share for _, share in found.values()} == {str(max(1, usable_cores() // 2))}
    assert done_by(Processes(5), errands.twice, [1]) == {1: 2}
    assert done_by(Processes(), errands.twice, []) == {}
    with pytest.raises(ConfigError, match="workers = 0"):
        Processes(0)


def test_the_share_of_a_process_counts(monkeypatch):
    monkeypatch.setenv("NPROC", "1")
    assert usable_cores() == 1
    monkeypatch.setenv("NPROC", "nonsense")
    assert usable_cores() >= 1


@pytest.mark.parametrize(("platforms", "found"), [("cpu", False), ("cuda,cpu", True)])
def test_an_accelerator_is_for_one_process(monkeypatch, platforms, found):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert accelerated() == found


def test_a_killed_process_takes_its_own_work_alone(tmp_path):
    queue = deque([str(tmp_path / "a"), str(tmp_path / "b")])
    (tmp_path / "b").touch()
    died = []
    with Processes(2) as workers:
        for piece, found in workers.work(errands.die_once, queue):
            if isinstance(found, WorkerDied):
                died.append(piece)
                queue.append(piece)
            else:
                assert found == "done"
    assert died == [str(tmp_path / "a")]


def test_processes_end_with_who_waits_for_them(tmp_path):
    marker = tmp_path / "pid"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which pytest's workers ignore
    ends = Processes(1).work(errands.wait_long, deque([str(marker)]))

    def stop():
        until(lambda: marker.is_file() and marker.read_text())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(ends)
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    until(lambda: not alive(int(marker.read_text())))


def until(true, seconds=120.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def once(true, act):
    """Act in another thread, as soon as something is true."""
    stopped = threading.Event()

    def wait():
        while not stopped.wait(0.02):
            if true():
                act()
                return

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def test_a_run_goes_on_with_another_process(made, cells, tmp_path):
    """Its worker is killed between two stages. (What comes of it is what came of it in this process, but for
    how little tests optimise their programs: to the bit, whole sweeps are compared below.)"""
    told, (cell, _) = [], cells
    saved = tmp_path / cell.folder / "stages" / "transitions" / "structure.json"

    def kill():
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)

    with once(saved.is_file, kill):
        (ended,) = runs.sweep([cell], tmp_path, again=lambda cell, why: told.append(why))
    assert "its process ended (SIGKILL)" in told and not ended.error
    both = ended.results, runs.check(cells, made[1])[cell.folder]
    there, here = (one.methods["policygradex"] for one in both)
    assert there.groups == here.groups and there.mean == pytest.approx(here.mean, rel=0.05)


# Ray, of which most is only true on a cluster (below)


def test_without_ray_the_extra_is_named(monkeypatch, cells, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r'pip install "pgx-jax\[cluster\]"'):
        list(runs.sweep(cells, tmp_path, OnRay()))
    with pytest.raises(ConfigError, match="at least one core"):
        OnRay(cores=0)


class Lost(Exception):
    """What this Ray raises where a worker is lost."""


@pytest.fixture
def no_cluster(monkeypatch):
    """What is used of Ray, without Ray: tasks are done when they are made. What is returned may be changed:
    the nodes, and whose tasks are lost."""
    known = SimpleNamespace(nodes={"a": "10.0.0.1"}, lost=[], options=[], cancelled=[])

    class Task:
        def __init__(self, function, args):
            self.value, self.lost = function(*args), args[-1] in known.lost

    def remote(**options):
        known.options.append(options)

        def task(function):
            own = SimpleNamespace(remote=lambda *args: Task(function, args))
            own.options = lambda **more: own
            return own

        return task

    def get(ref, timeout=None):
        if ref.lost:
            raise Lost("its node is gone\nand more")
        return ref.value

    ray = SimpleNamespace(
        is_initialized=lambda: True,
        nodes=lambda: [
            {"NodeID": name, "NodeManagerAddress": address, "Alive": True}
            for name, address in known.nodes.items()
        ],
        remote=remote,
        get=get,
        wait=lambda refs, num_returns: (refs[:1], refs[1:]),
        cancel=lambda ref, force: known.cancelled.append(ref.value),
        exceptions=SimpleNamespace(RayError=Lost),
    )
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda name, soft: name)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.util", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
    return known


def test_tasks_take_what_they_are_given_and_may_be_lost(no_cluster, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    no_cluster.lost.append(2)
    found = done_by(OnRay("auto", 2, 3, 0.5), errands.twice, [1, 2, 3])
    assert found == {1: 2, 2: WorkerDied("Lost: its node is gone"), 3: 6} and not no_cluster.cancelled
    (options,) = no_cluster.options
    assert (options["num_cpus"], options["num_gpus"], options["max_retries"]) == (3, 0.5, 0)
    variables = options["runtime_env"]["env_vars"]
    assert (variables["NPROC"], variables["JAX_ENABLE_X64"]) == ("3", "0") and "PATH" not in variables
    assert variables["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    ends = OnRay("auto").work(errands.twice, deque([1, 3, 5]))
    assert next(ends) == (1, 2)
    ends.close()
    assert no_cluster.cancelled == [6, 10]


def test_a_folder_that_a_machine_does_not_see_is_refused(no_cluster, monkeypatch, tmp_path):
    OnRay().check(tmp_path)
    no_cluster.nodes |= {"b": "10.0.0.2", "c": "10.0.0.3"}
    no_cluster.lost.append("c")
    own = workers._answer
    monkeypatch.setattr(workers, "_answer", lambda token, name: name != "b" and own(token, name))
    with pytest.raises(ConfigError) as error:
        OnRay().check(tmp_path)
    told = "10.0.0.2 (it is not there), 10.0.0.3 (its node is gone)"
    assert f"share the folder {tmp_path}" in str(error.value) and told in str(error.value)
    monkeypatch.setattr(workers, "_answer", lambda token, name: True)
    with pytest.raises(ConfigError, match="what it writes is not seen here"):
        OnRay().check(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:os.fork")
def test_on_a_cluster_of_which_a_node_is_killed(quick, tmp_path):
    """Two families and three seeds on two nodes, one of which goes while both work: the table is that of
    processes."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    config, common = quick[1], {"n_tasks": 4, "horizon": 15}
    cells = [
        Cell(name, dataclasses.replace(config, seed=seed), common | own)
        for name, own in (("points", {"n_groups": 2}), ("cartpole-goals", {"n_groups": 2}))
        for seed in (0, 1, 2)
    ]
    by_processes = runs.summary(list(runs.sweep(cells, tmp_path / "processes", Processes(2))), cells)
    assert not by_processes.failed
    runs.write(tmp_path / "processes", by_processes)

    out, told = tmp_path / "ray", []
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        both = lambda: len(list(out.glob("*/*/stages/transitions/structure.json"))) > 1  # noqa: E731
        with once(both, lambda: cluster.remove_node(second, allow_graceful=False)):
            again = lambda cell, why: told.append((str(cell), why))  # noqa: E731
            ended = list(runs.sweep(cells, out, OnRay(cluster.address), again))
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()
    assert len(told) == 1, told
    on_ray = runs.summary(ended, cells)
    runs.write(out, on_ray)
    assert without_timings(on_ray) == without_timings(by_processes)
    for name in ("sweep.csv", "points/seeds.json", "cartpole-goals/seeds.json"):
        assert (out / name).read_bytes() == (tmp_path / "processes" / name).read_bytes()


# The table


def without_timings(found):
    return structs.replace(found, timings={})


@pytest.fixture
def results():
    """Of a sweep of two families, one with two settings, two seeds each but for one that failed."""
    few = ("policygradex", "multitask", "random", "true_groups_same_steps_per_policy")
    one = example_results()
    one = structs.replace(one, methods={name: one.methods[name] for name in few})
    gain = Gain(None, Interval(3.0, (2.0, 4.0)))
    ended = []
    for dim in (100, 400):
        for seed in (0, 1):
            cell = Cell("points", Config(seed=seed), varied={"estimate.dim": dim})
            made = structs.replace(one, family="points", seed=seed, agreement=None, gain=gain)
            ended.append(Ended(cell, made))
    ended[3] = Ended(ended[3].cell, None, "DataError: <b>")
    other = Cell("cartpole-goals", Config())
    ended.append(Ended(other, one))
    return runs.summary(ended[::-1], [end.cell for end in ended])


def test_the_table_is_in_the_order_of_the_cells(results):
    assert [part.name for part in results.parts] == [
        "points, estimate.dim = 100", "points, estimate.dim = 400", "cartpole-goals",
    ]  # fmt: skip
    assert results.failed == {"points-estimate.dim=400/seed-1": "DataError: <b>"}
    head, rows = sweeps.cells(results)
    assert head == [
        "family", "estimate.dim", "method", "seeds", "policies", "NMI", "mean", "environment steps",
    ]  # fmt: skip
    table = [cells for _, cells in rows]
    assert len(table) == 12 and {len(cells) for cells in table} == {len(head)}
    assert table[0][:6] == ["points", "100", "PolicyGradEx (ours)", "2", "3", "–"]
    assert table[4][1] == "400" and table[4][3] == "1"
    assert table[8][:6] == ["cartpole-goals", "–", "PolicyGradEx (ours)", "1", "3", "1.00"]
    assert sum(cells[2].endswith(" *") for cells in table) == 3
    told = sweeps.advice(results)
    assert told.startswith("Groups gain: points, estimate.dim = 100. No gain is shown: points, ")
    assert "Unfinished: points-estimate.dim=400/seed-1" in told


def test_the_table_as_csv(results):
    rows = list(csv.DictReader(io.StringIO(sweeps.as_csv(results))))
    assert len(rows) == 12 and rows[0]["family"] == "points" and rows[0]["estimate.dim"] == "100"
    assert rows[0]["policies"] == "3 3" and rows[8]["nmi"] == "1.0" and rows[0]["nmi"] == ""
    entry = results.parts[0].seeds.methods["multitask"]
    (row,) = [row for row in rows[:4] if row["method"] == "multitask"]
    assert float(row["mean"]) == entry.mean and float(row["low"]) == entry.interval.lo


def test_the_page_leads_to_those_of_its_parts(results):
    files = report.render_sweep(results, {"cartpole-goals": "cartpole-goals/report.html"})
    page = files["report.html"].decode()
    links = re.findall(r'<a href="([^"]*)"', page)
    assert links == ["cartpole-goals/report.html", "sweep.json", "sweep.csv"]
    assert "&lt;b&gt;" in page and "<b>" not in page and "points, cartpole-goals" in page


def test_the_file_is_what_the_published_schema_says(results):
    published = json.loads((resources.files("pgx_jax.compare") / "sweep.schema.json").read_text())
    assert published == schema(SweepResult)
    values = json.loads(dumps(to_plain(results)))
    jsonschema.validate(values, published)
    assert from_plain(values) == results
    with pytest.raises(DataError, match="call the sweep again"):
        from_plain(values | {"schema_version": 99})


# The command


def test_the_command(made, quick, capsys, tmp_path, monkeypatch, no_training):
    """On runs that are done: the table, and the same files."""
    found, out = made
    copy = shutil.copytree(out, tmp_path / "sweep")
    for name in ("sweep.json", "sweep.csv", "report.html"):
        (copy / name).unlink()
    family, config = quick
    sweep = cells_of(monkeypatch, config, "points", "--seeds", "5:7", *set_(family), "--out", copy)
    assert cli.main(sweep) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 of 2 (0 left): points, seed 6: k = 2, saved earlier" in shown and "PolicyGradEx" in shown
    for name in ("sweep.json", "sweep.csv", "report.html"):
        assert (copy / name).read_bytes() == (out / name).read_bytes()


def set_(settings):
    return ["--set", *(f"{name}={value}" for name, value in settings.items())]


def cells_of(monkeypatch, config, *args):
    """Arguments of a sweep whose defaults are those settings."""
    read_with, config = SweepCommand.read_with, dataclasses.replace(config, seed=0)
    monkeypatch.setattr(SweepCommand, "read_with", lambda args: read_with(args, config))
    return ["sweep", *map(str, args)]


def test_a_failed_run_is_told_after_the_table(made, quick, cells, capsys, monkeypatch):
    found, out = made
    results = runs.check(cells, out)
    ended = [Ended(cells[0], results["points/seed-5"]), Ended(cells[1], None, "DataError: no", "a trace")]
    monkeypatch.setattr("pgx_jax.cli.sweep.sweep", lambda *known: (one for one in ended))
    monkeypatch.setattr("pgx_jax.cli.sweep.write", lambda out, found: out / "report.html")
    args = cells_of(monkeypatch, quick[1], "points", "--seeds", "5,6", *set_(quick[0]))
    status, shown, err = call(capsys, *args)
    assert status == 2 and "2 of 2 (1 failed, 0 left): points, seed 6: failed: DataError: no a trace" in shown
    assert "PolicyGradEx" in shown
    assert err == "error: SweepError: 1 of 2 runs came to no results: points/seed-6: DataError: no"

    def stopped(*known):
        yield ended[0]
        raise KeyboardInterrupt

    monkeypatch.setattr("pgx_jax.cli.sweep.sweep", stopped)
    status, shown, err = call(capsys, *args)
    assert status == 130 and "the same command goes on" in err


def read(*args):
    return SweepCommand.read([str(arg) for arg in args])


def test_families_settings_and_seeds_are_crossed():
    sweep = read(
        "points", "lunarlander", "--seeds", "1:3", "--vary", "estimate.dim=100,400", "k=2,None",
        "--set", "horizon=20", "points.n_groups=2", "--n-tasks", "4", "--episodes", "8",
    )  # fmt: skip
    assert len(sweep.cells) == 16 and len({cell.folder for cell in sweep.cells}) == 16
    first, last = sweep.cells[0], sweep.cells[-1]
    assert first.folder == "points-estimate.dim=100-k=2/seed-1" and last.varied == {
        "estimate.dim": 400,
        "k": None,
    }
    assert first.family_settings == {"horizon": 20, "n_groups": 2, "n_tasks": 4}
    assert last.family_settings == {"horizon": 20, "n_tasks": 4}
    assert (first.config.estimate.dim, first.config.k, first.config.episodes) == (100, 2, 8)
    assert (last.config.estimate.dim, last.config.k, last.config.seed) == (400, None, 2)
    defaults = make_family("lunarlander").defaults
    assert defaults and last.config.steps_per_task == defaults["steps_per_task"]
    assert first.config.steps_per_task == Config().steps_per_task
    assert [cell.config.seed for cell in read("points", "--seed", "7").cells] == [7]
    assert isinstance(read("points").command.who(), Processes)
    found = read("points", "--ray", "auto", "--cores", "2", "--gpus", "0.5", "--workers", "3").command.who()
    assert found == OnRay("auto", 3, 2, 0.5)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "name a family"),
        (["points", "cartpol-goals"], "cartpole-goals"),
        (["points", "cartpole-goals", "--set", "goal_range=1"], "'points' has no setting 'goal_range'"),
        (["points", "cartpole-goals", "--set", "goal_range=1"], "--set FAMILY.KEY=VALUE"),
        (["points", "--set", "reacher.n_groups=2"], "'reacher', which is not among the families"),
        (["points", "--seeds", "5"], "write 0:5 for so many, or 5:6 for this one"),
        (["points", "--seeds", "a:b"], "neither a range (0:10) nor a list (0,3,5)"),
        (["points", "--seeds", "3:3"], "are none"),
        (["points", "--seeds", "0:3", "--seed", "2"], "contradicts --seed 2"),
        (["points", "--vary", "estimate.dimm=3"], "did you mean estimate.dim"),
        (["points", "--vary", "estimate=3"], "no setting 'estimate'"),
        (["points", "--vary", "estimate.dim=some"], "estimate.dim = 'some': expected `int`"),
        (["points", "--vary", "learner=nobody"], "learner = 'nobody'"),
        (["points", "--vary", "seed=1,2"], "--seeds"),
        (["points", "--vary", "k"], "KEY=VALUE,VALUE"),
        (["points", "--vary", "k=2", "--vary", "k=3"], "given twice"),
        (["points", "--vary", "k=2,2"], "share the folder points-k=2/seed-0"),
        (["points", "--vary", "k=2,11"], "k = 11"),
        (["points", "--gpus", "1"], "--cores and --gpus are for --ray"),
    ],
)
def test_bad_arguments(capsys, tmp_path, no_training, args, words):
    status, _, err = call(capsys, "sweep", *args, "--out", tmp_path / "out")
    assert status == 2 and err.startswith("error: ConfigError") and words in err, err
    assert not (tmp_path / "out").exists()


def test_values_that_are_varied():
    assert list(crossed([])) == [{}]
    found = list(crossed([["estimate.dim=100,400", "policy.hidden=(8,8),(16,)"], ["learner=ppo"]]))
    assert len(found) == 4
    assert found[1] == {"estimate.dim": 100, "policy.hidden": (16,), "learner": "ppo"}
    assert parse_seeds("0:3,7,1") == [0, 1, 2, 7] and parse_seeds("-1:1") == [-1, 0]


def test_a_setting_by_its_name():
    found = changed(Config(), "policy.hidden", [8, 8])
    assert found.policy.hidden == (8, 8)
    assert changed(Config(), "ppo.gamma", 1).ppo.gamma == 1.0
    assert changed(Config(), "estimate.score", "importance").estimate.score == "importance"
    with pytest.raises(ConfigError, match="no setting 'ppo.gama' of a run .did you mean ppo.gamma"):
        changed(Config(), "ppo.gama", 1)
    with pytest.raises(ConfigError, match="continue_meta = 3: expected `bool`"):
        changed(Config(), "continue_meta", 3)
