"""Watching a run: what every update measures reaches listeners and logs, which are read back; progress in a
terminal, in a file, and nowhere."""

import dataclasses
import io
import json
import re
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from small import copy_of, small

from pgx_jax import ConfigError, Listener, load, resume, run, run_seeds
from pgx_jax.errors import FullError
from pgx_jax.learn import Metrics
from pgx_jax.runs import watching
from pgx_jax.runs.checkpoint import StageCheckpoint
from pgx_jax.runs.store import RunStore
from pgx_jax.runs.watching import LOGS, Several, console
from pgx_jax.runs.watching.console import EVERY, ConsoleListener, SeedsListener
from pgx_jax.runs.watching.curves import BARS, Curves, Line, sparkline
from pgx_jax.runs.watching.tensorboard import file_name


class Heard(Listener):
    """Keeps what is measured, by stage and policy."""

    def __init__(self):
        self.stage, self.kept, self.parts, self.closed = "", {}, [], 0

    def start(self, stage):
        self.stage = stage

    def metrics(self, metrics):
        self.kept.setdefault((self.stage, metrics.name), []).append(metrics)

    def doing(self, what):
        self.parts.append(what)

    def close(self):
        self.closed += 1


@pytest.fixture(scope="module")
def watched(small_settings, tmp_path_factory):
    """A small run that was heard and logged, and who heard it."""
    heard, (family, config) = Heard(), small(small_settings, steps_per_task=2700, k=2)
    out = tmp_path_factory.mktemp("watched") / "run"
    return run(family, config, out=out, listener=heard, log=("tensorboard",)), heard


def whole(parts):
    """Series of a policy over all segments, and the steps."""
    series = [part.series() for part in parts]
    return {name: np.concatenate([one[name] for one in series]) for name in series[0]}, np.concatenate(
        [part.steps for part in parts]
    )


def test_listeners_hear_what_every_update_measures(watched):
    done, heard = watched
    trained, (parts) = done.meta_training, heard.kept["meta", "meta-policy"]
    found, steps = whole(parts)
    unit = int(trained.steps[0]) // trained.returns.shape[1]
    np.testing.assert_array_equal(steps, unit * (1 + np.arange(trained.returns.shape[1])))
    np.testing.assert_array_equal(np.concatenate([part.returns for part in parts]), trained.returns[0])
    assert {"kl", "loss", "entropy"} < set(trained.measured) <= set(found)
    for name, values in trained.measured.items():
        np.testing.assert_array_equal(found[name], values[0])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(found["return"], np.nanmean(trained.returns[0], 1), rtol=1e-6)
    assert set(parts[0].tasks) == set(done.family.task_names) and heard.closed == 1
    assert any("unseen" in part for part in heard.parts) and heard.parts[-1] == "drawing the report"


def test_policies_go_by_their_tasks(watched):
    done, heard = watched
    own = {name: parts for (stage, name), parts in heard.kept.items() if stage == "policies"}
    assert len(own) == done.results.k == len(done.policies.rows)
    for row, returns in zip(done.policies.rows, done.policies.returns, strict=True):
        tasks = [task for task, inside in zip(done.family.task_names, row.member, strict=True) if inside]
        (parts,) = (parts for parts in own.values() if list(parts[0].tasks) == tasks)
        assert int(parts[-1].steps[-1]) == row.steps
        heard_of = np.concatenate([part.returns for part in parts])
        np.testing.assert_array_equal(heard_of, returns[:, np.array(row.member)])


def scalars(folder):
    """(step, value) of every tag in the event files of a folder, as TensorBoard finds them: where a session
    starts anew at a step, what is known of that step and later ones is forgotten."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = {}
    for file in sorted(folder.glob("events.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                found = {tag: [x for x in known if x[0] < event.step] for tag, known in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_reads_the_same(watched):
    done, heard = watched
    folders = [path.parent for path in (done.store.path / "tensorboard").glob("*/*/events.*")]
    assert len(folders) == len(set(folders)) == len(heard.kept)
    for (stage, name), parts in heard.kept.items():
        found = scalars(done.store.path / "tensorboard" / file_name(stage) / file_name(name))
        series, steps = whole(parts)
        assert len(found) == len([x for x in series.values() if np.isfinite(x).any()])
        for tag in ("return", "kl", "loss", "entropy"):
            known = np.isfinite(series[tag])
            at, values = zip(*found[tag], strict=True)
            assert list(at) == steps[known].tolist()
            np.testing.assert_allclose(values, series[tag][known], rtol=1e-6)


class Stopping(Listener):
    """Stops a run when it has told so many segments of a training."""

    def __init__(self, segments):
        self.left = segments

    def metrics(self, metrics):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1


def test_a_run_that_was_killed_has_the_logs_of_an_unbroken_one(watched, tmp_path):
    """It had told more than it had saved, and tells that again."""
    done, heard = watched
    out, log = tmp_path / "run", ("tensorboard",)
    assert len(heard.kept["meta", "meta-policy"]) == 2
    with pytest.raises(KeyboardInterrupt):
        run(done.family, done.config, out=out, listener=Stopping(1), log=log)
    StageCheckpoint(RunStore.open(out), "meta").clear()
    with watching.hearing(Listener(), log, out, False) as hears:
        load(out, listener=hears).compute("meta")
    broken, whole = (path / "tensorboard/meta/meta-policy" for path in (out, done.store.path))
    assert len([*broken.iterdir()]) == 2 and len([*whole.iterdir()]) == 1
    assert scalars(broken) == scalars(whole)


def test_logs_stay_where_a_run_is_opened_and_go_where_it_is_overwritten(watched, tmp_path):
    done, _ = watched
    path = copy_of(done, tmp_path)
    before = sorted(path.rglob("events.*"))
    resume(path, log=("tensorboard",), progress=False)
    assert before and sorted(path.rglob("events.*")) == before  # nothing was trained
    RunStore.open(path).clear(overwrite=True)
    assert not any(path.iterdir())


def test_logs_are_as_their_libraries_make_them(tmp_path):
    """Folders in folders; and those of W&B link to the user's cache. No other link leaves the run."""
    store = RunStore.create(tmp_path / "run", {})
    for file in ("tensorboard/a/b/x", "wandb/run/logs/x"):
        (store.path / file).parent.mkdir(parents=True)
        (store.path / file).write_text("x")
    (store.path / "wandb/run/logs/y").symlink_to(tmp_path)
    RunStore.open(store.path)
    (store.path / "tensorboard/a/y").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="tensorboard/a/y is a link that leaves the run's folder"):
        RunStore.open(store.path)


def some_metrics(steps, name):
    """Two updates of a policy of two tasks."""
    returns, kl = np.array([[1.0, 2.0], [np.nan, 4.0]]), np.array([0.125, 0.25])
    return Metrics(0, ("a", "b"), np.array(steps), returns, {"kl": kl}, name)


def judged_metrics(steps, name="meta-policy"):
    """The same of tasks that are judged by success."""
    return some_metrics(steps, name)._replace(
        returns=np.array([[0.5, 1.0], [np.nan, 0.75]]), at_end=np.array([[0.25, 0.5], [np.nan, 0.0]])
    )


def test_success_in_any_step_and_in_the_last_one_have_names_of_their_own(tmp_path):
    log = LOGS["tensorboard"].load()(tmp_path)
    log.start("meta")
    log.metrics(judged_metrics([10, 20])._replace(tasks=("end of a", "b")))
    log.close()
    assert scalars(tmp_path / "tensorboard/meta/meta-policy") == {
        "success": [(10, 0.75), (20, 0.75)],
        "success_at_the_end": [(10, 0.375), (20, 0.0)],
        "success/end_of_a": [(10, 0.5)],
        "success/b": [(10, 1.0), (20, 0.75)],
        "success_at_the_end/end_of_a": [(10, 0.25)],
        "success_at_the_end/b": [(10, 0.5), (20, 0.0)],
        "kl": [(10, 0.125), (20, 0.25)],
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_ends_a_run_with_an_error(tmp_path, monkeypatch):
    from tensorboardX import record_writer

    monkeypatch.setattr(record_writer, "open_file", lambda path: open("/dev/full", "wb"))
    log = LOGS["tensorboard"].load()(tmp_path)
    log.start("meta")
    log.metrics(some_metrics([10, 20], "meta-policy"))
    for end in (lambda: log.finish("meta", 1.5, "it went well"), log.close):
        with pytest.raises(FullError, match="the log .*tensorboard can't be written to .No space left"):
            end()
    log.close()


@pytest.fixture
def wandb_offline(monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")


def kept_by_wandb(folder, *texts):
    """The names of a folder's files, each of which has these texts; they are written some time after the
    end of their run."""
    end = time.monotonic() + 20
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    while time.monotonic() < end and not all(text in file.read_bytes() for text in texts for file in files):
        time.sleep(0.05)
    for file in files:
        assert all(text in file.read_bytes() for text in texts)
    return [file.name for file in files]


def test_weights_and_biases_offline(tmp_path, wandb_offline):
    (tmp_path / "config.json").write_text(json.dumps({"family": "points"}))
    for sitting in range(2):
        log = LOGS["wandb"].load()(tmp_path)
        log.start("meta")
        log.metrics(some_metrics(np.array([10, 20]) + 20 * sitting, "v1.5 policy"))
        log.finish("meta", 1.5, "it went well")
        log.close()
    names = kept_by_wandb(
        tmp_path, b"meta/v1_5 policy/kl", b"meta/v1_5 policy/return of b", b"0.125", b"it went well"
    )
    assert len(names) == 2 and len({*names}) == 1  # two sittings of one run


def test_every_seed_has_a_run_of_weights_and_biases(tmp_path, wandb_offline):
    """Open side by side; what the first one's end leaves is the others'."""
    folders, logs = [tmp_path / name for name in ("seed-0", "seed-1")], []
    for folder in folders:
        RunStore.create(folder, {"family": "points"})
        logs.append(LOGS["wandb"].load()(folder))
        logs[-1].start("meta")
    for folder, log in zip(folders, logs, strict=True):
        log.metrics(some_metrics([10, 20], f"policy of {folder.name}"))
        log.close()
    names = [kept_by_wandb(folder, f"policy of {folder.name}/kl".encode()) for folder in folders]
    assert [len(own) for own in names] == [1, 1] and names[0] != names[1]
    for folder in folders:
        RunStore.open(folder)


def test_every_seed_has_logs_of_its_own(watched, tmp_path):
    done, _ = watched
    out, stops = tmp_path / "runs", {5: Stopping(1), 6: Stopping(1)}
    config = dataclasses.replace(done.config, rows_per_call=2)  # one core takes one by one else
    with pytest.raises(KeyboardInterrupt):
        run_seeds(done.family, config, 2, out=out, listener=stops.get, log=("tensorboard",))
    own, other = (scalars(out / f"seed-{seed}/tensorboard/meta/meta-policy") for seed in (5, 6))
    whole = scalars(done.store.path / "tensorboard/meta/meta-policy")
    assert own["return"] and own["return"] == whole["return"][: len(own["return"])]
    assert other["return"] and other["return"] != own["return"]


@pytest.mark.parametrize("name", LOGS)
def test_a_missing_library_names_its_extra(name, small_settings, tmp_path, monkeypatch, no_training):
    monkeypatch.setitem(sys.modules, LOGS[name].library, None)
    family, config = small(small_settings)
    with pytest.raises(ConfigError, match=rf'pip install "pgx-jax\[{name}\]"'):
        run(family, config, out=tmp_path / "run", log=(name,))
    assert not (tmp_path / "run").exists()


def test_logs_that_cannot_be(small_settings, tmp_path, no_training):
    family, config = small(small_settings)
    with pytest.raises(ConfigError, match="choose one of 'tensorboard', 'wandb'"):
        run(family, config, out=tmp_path / "run", log=("tensorbord",))
    with pytest.raises(ConfigError, match="give one .out"):
        run(family, config, log=("tensorboard",))


def test_the_first_of_several_processes_alone_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "leads", lambda: False)
    with watching.hearing(None, ("tensorboard",), tmp_path, True) as hears:
        assert [type(one) for one in hears.listeners] == [Listener]


def test_all_of_several_listeners_hear_all(watched):
    events = [name for name, value in vars(Listener).items() if callable(value) and not name.startswith("_")]
    told = []

    class One(Listener):
        def __getattribute__(self, name):
            if name in events:
                return lambda *what: told.append((name, what))
            return super().__getattribute__(name)

    both = Several([One(), One()])
    for event in events:
        getattr(both, event)(event)
    assert told == [(event, (event,)) for event in events for _ in range(2)]
    both.metric = "success"
    assert [one.metric for one in both.listeners] == ["success"] * 2 and both.metric == "success"


# Progress


def test_python_shows_progress_where_nobody_else_does(small_settings, capfd):
    family, config = small(small_settings, steps_per_task=2700, k=2)
    run(family, config, progress=False)
    assert capfd.readouterr() == ("", "")
    run(family, config)
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("✓")]
    assert not out and len(lines) == 10 and "\x1b" not in err
    assert max(map(len, lines)) > 100  # not wrapped


def test_colours_that_a_kernel_asks_for_make_no_bar(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with watching.hearing(None, (), None, True) as heard:
        (shown, *_) = heard.listeners
        assert isinstance(shown, ConsoleListener) and not shown.moves


def test_a_file_gets_a_line_now_and_then():
    output, now = io.StringIO(), [0.0]
    listener = ConsoleListener(Console(file=output, width=40), lambda: now[0])
    listener.start("meta")
    for now[0], done in ((1.0, 10_000), (EVERY + 1, 20_000), (EVERY + 2, 30_000), (3 * EVERY, 40_000)):
        listener.progress(done, 100_000, 2.5)
    listener.finish("meta", 90.0, "a result that is longer than this narrow console")
    listener.doing("drawing the report")
    listener.close()
    first, second, third, last = output.getvalue().splitlines()
    what = console.DOING["meta"]
    assert first == f"… {what}: 20% of 100k steps, 333 steps/s, return 2.5, 4 min 0 s left"
    assert second.startswith(f"… {what}: 40% of 100k steps") and last == "… drawing the report"
    assert third.startswith("✓") and third.endswith("a result that is longer than this narrow console")


def test_curves_in_the_terminal():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
    returns = np.array([[0.0, 1.0], [np.nan, np.nan], [4.0, 5.0]])
    measured = {"loss": np.array([3.0, 2.0, 0.5]), "kl": np.array([0.1, 0.2, 0.03])}
    with SeedsListener(terminal, curves=Curves(width=8)) as listener:
        heard = listener.of(7)
        heard.start("meta")
        heard.metrics(Metrics(0, ("a", "b"), np.array([100, 200, 300]), returns, measured, "meta-policy"))
        terminal.print(listener.shown.curves)
        heard.start("policies")
        assert not listener.shown.curves.lines
        shown = terminal.file.getvalue()
        for text in ("seed 7: meta-policy", "300", "▁ █", "4.5", "0.03", "return while training"):
            assert text in shown
        assert "at the end" not in shown
        heard.metric = "success"
        heard.start("meta")
        heard.metrics(judged_metrics([100, 200]))
        terminal.print(listener.shown.curves)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.file.getvalue()[len(shown) :])
    assert re.search(r"policy +steps +success while training +now +at the end +loss", shown)
    assert re.search(r"seed 7: meta-policy +200 +▁+ +0.75 +0 +– +0.25 +–", shown)
    assert re.search(r" a +▁ +0.5 +0.25 .*\n.* b +█▁ +0.75 +0 ", shown)


def test_the_newest_policies_are_shown_where_there_are_many():
    curves = Curves()
    for i in range(20):
        curves.add(Metrics(i, ("a",), np.array([5]), np.array([[1.0 * i]]), {}))
    output = io.StringIO()
    Console(file=output, width=120).print(curves)
    assert "policy 19" in output.getvalue() and "policy 7 " not in output.getvalue()
    assert "and 8 that began earlier" in output.getvalue()


def test_updates_that_come_again_take_the_place_of_the_first():
    line = Line(("a",))
    for first, value in ((1, 1.0), (4, 2.0), (3, 3.0)):
        steps = 10 * (first + np.arange(3))
        line.add(Metrics(0, ("a",), steps, np.full((3, 1), value), {}))
    assert [*line.steps] == [10, 20, 30, 40, 50] and np.ravel(line.values).tolist() == [1, 1, 3, 3, 3]


def test_a_curve_as_a_line_of_bars():
    assert sparkline(np.arange(8.0), 8) == BARS and sparkline(np.arange(16.0), 8) == BARS
    assert sparkline(np.array([1.0, np.nan, 1.0]), 9) == f"{BARS[0]} {BARS[0]}"
    assert sparkline(np.full(3, np.nan), 9) == sparkline(np.zeros(0), 9) == ""
