"""Watching a run: what every update measures reaches listeners and logs, which are read back; progress in a
terminal, in a file, and nowhere."""

import io
import json
import struct
import sys

import numpy as np
import pytest
from rich.console import Console
from small import small

from pgx_jax import ConfigError, Listener, resume, run
from pgx_jax.learn import Metrics
from pgx_jax.runs import watching
from pgx_jax.runs.watching import LOGS, Several, console
from pgx_jax.runs.watching.console import EVERY, ConsoleListener, SeedsListener
from pgx_jax.runs.watching.curves import BARS, Curves, sparkline
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
    """(step, value) of every tag in the event files of a folder, as TensorBoard finds them."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in folder.glob("events.*"):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
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


def test_a_run_that_is_overwritten_or_resumed_keeps_its_logs_in_order(watched, monkeypatch):
    done, _ = watched
    before = len(list(done.store.path.rglob("events.*")))
    resume(done.store.path, log=("tensorboard",), progress=False)
    assert len(list(done.store.path.rglob("events.*"))) == before  # nothing was trained
    done.store.clear(overwrite=True)
    assert not any(done.store.path.iterdir())


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "config.json").write_text(json.dumps({"family": "points"}))
    for sitting in range(2):
        log = LOGS["wandb"].load()(tmp_path)
        log.start("meta")
        returns = np.array([[1.0, 2.0], [np.nan, 4.0]])
        steps = np.array([10, 20]) + 20 * sitting
        log.metrics(Metrics(0, ("a", "b"), steps, returns, {"kl": np.array([0.125, 0.25])}, "v1.5 policy"))
        log.finish("meta", 1.5, "it went well")
        log.close()
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # two sittings of one run
    for file in files:
        data = file.read_bytes()
        for text in (b"meta/v1_5 policy/kl", b"meta/v1_5 policy/return of b", b"0.125", b"it went well"):
            assert text in data


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


def test_the_newest_policies_are_shown_where_there_are_many():
    curves = Curves()
    for i in range(20):
        curves.add(Metrics(i, ("a",), np.array([5]), np.array([[1.0 * i]]), {}))
    output = io.StringIO()
    Console(file=output, width=120).print(curves)
    assert "policy 19" in output.getvalue() and "policy 7 " not in output.getvalue()
    assert "and 8 that began earlier" in output.getvalue()


def test_a_curve_as_a_line_of_bars():
    assert sparkline(np.arange(8.0), 8) == BARS and sparkline(np.arange(16.0), 8) == BARS
    assert sparkline(np.array([1.0, np.nan, 1.0]), 9) == f"{BARS[0]} {BARS[0]}"
    assert sparkline(np.full(3, np.nan), 9) == sparkline(np.zeros(0), 9) == ""
