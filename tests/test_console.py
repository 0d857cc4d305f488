"""What a run shows in a terminal, on the screen of a small emulated one."""

import io
import re

import pytest
from rich.console import Console
from small import copy_of

from pgx_jax import load
from pgx_jax.runs.store import RunStore
from pgx_jax.runs.watching.console import DOING, ConsoleListener, SeedsListener

WIDTH = 100
TOKEN = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


def screen(raw):
    """The lines that a terminal shows after ``raw``: text, line ends, moves up, erased lines, no colours."""
    lines, row, column = [""], 0, 0
    for numbers, order, end, text in TOKEN.findall(raw):
        if text:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
        elif end:
            column, row = 0, row + (end == "\n")
            lines += [""] * (row + 1 - len(lines))
        elif order == "A":
            row = max(0, row - int(numbers or 1))
        elif order == "K":
            assert numbers == "2"
            lines[row] = ""
        else:
            assert order in "mhl", f"an order that this terminal does not know: {numbers}{order}"
    return [line.rstrip() for line in lines]


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=WIDTH, height=25)


def test_the_emulated_terminal():
    assert screen("one\ntwo\r\x1b[2K\x1b[1A\x1b[32mON\x1b[0m\nthree\x1b[?25h") == ["ONe", "three"]


def test_finished_stages_stay_on_the_screen(terminal):
    with ConsoleListener(terminal) as listener:
        for stage, seconds, text in (("meta", 75.0, "mean [bold]return[/] 1.5"), ("features", 2.0, "done")):
            listener.start(stage)
            listener.progress(10, 20, 1.5)
            listener.bar.refresh()
            listener.finish(stage, seconds, text)
            listener.bar.refresh()
    shown = [line for line in screen(terminal.file.getvalue()) if line]
    assert len(shown) == 2
    first, second = (line.split() for line in shown)
    assert first[:1] + first[-3:] == ["✓", "mean", "[bold]return[/]", "1.5"]
    assert DOING["meta"] in shown[0] and "1 min" in shown[0]
    assert DOING["features"] in shown[1] and second[0] == "✓" and second[-1] == "done"
    assert shown[0].index("mean") == shown[1].index("done")


def test_a_finished_stage_is_one_print(terminal, monkeypatch):
    printed = []
    monkeypatch.setattr(terminal, "print", lambda *args, **kw: printed.append(args))
    listener = ConsoleListener(terminal)
    listener.finish("meta", 1.0, "done")
    listener.loaded("features", "done")
    assert len(printed) == 2


def test_the_rate_leaves_out_what_comes_before_the_first_report():
    clock = Clock()
    listener = ConsoleListener(Console(file=io.StringIO()), clock)

    def rate(done, recent=float("nan"), *at_end):
        listener.progress(done, 100_000, recent, *at_end)
        return listener.bar.tasks[-1].fields["rate"]

    listener.start("meta")
    clock.now = 60.0  # compiling
    assert rate(4_000) == ""
    clock.now = 62.0
    assert rate(8_000) == "2k steps/s"
    clock.now = 64.0
    assert rate(16_000, 1.25) == "3k steps/s, return 1.2"
    listener.start("policies")
    assert rate(1_000, 1.25) == "return 1.2"
    listener.metric = "success"
    assert rate(1_000, 0.25) == "success 25%"
    assert rate(1_000, 0.25, 0.2) == "success 25%, at the end 20%"


@pytest.mark.parametrize(("expected", "said"), [(900_000, "about 5 min 0 s"), (100_000, None), (0, None)])
def test_minutes_of_a_run_are_told_beforehand(expected, said):
    console, clock = Console(file=io.StringIO(), width=WIDTH), Clock()
    listener = ConsoleListener(console, clock)
    for stage in ("meta", "policies"):
        listener.start(stage)
        if stage == "meta":
            listener.expect(expected)
        for clock.now, done in ((60.0, 3_000), (61.0, 6_000), (62.0, 9_000)):
            listener.progress(done, 10_000, 0.5)
    whole = f"  the run will take {said} (900k steps with its evaluation, at 3k a second)\n" if said else ""
    told = console.file.getvalue().splitlines(keepends=True)
    assert "".join(line for line in told if not line.startswith("…")) == whole


def test_several_seeds_share_a_bar(terminal):
    clock = Clock()
    with SeedsListener(terminal, clock) as listener:
        heard = {seed: listener.of(seed) for seed in (3, 4)}
        for one in heard.values():
            one.start("meta")
        heard[3].progress(100, 1000, 1.0)
        heard[4].progress(0, 500, 1.0)
        clock.now = 2.0
        heard[4].progress(300, 500, 2.5)
        (task,) = listener.shown.bar.tasks
        assert (task.completed, task.total) == (400, 1500)
        assert task.description == f"{DOING['meta']} (2 seeds)" and task.fields["rate"].endswith("return 2.5")
        heard[3].finish("meta", 2.0, "done")
        heard[3].start("features")
        heard[4].progress(500, 500, 2.5)
        (task,) = listener.shown.bar.tasks
        assert (task.completed, task.total, task.description) == (500, 500, f"{DOING['meta']} (1 seed)")
        heard[4].loaded("features", "read")
    shown = [line for line in screen(terminal.file.getvalue()) if line]
    assert [line[:9] for line in shown] == ["✓ seed 3:", "✓ seed 4:"] and "saved earlier" in shown[1]


def test_stages_that_were_saved_are_told(small_run, tmp_path, terminal):
    store = RunStore.open(copy_of(small_run, tmp_path))
    store.remove("affinity")

    def sitting():
        with ConsoleListener(terminal) as listener:
            run = load(store.path, listener=listener)
            for _ in range(2):
                run.compute("affinity")
        shown = [line for line in screen(terminal.file.getvalue()) if line]
        terminal.file.truncate(0)
        terminal.file.seek(0)
        return shown[-1]

    computed = sitting()
    assert "saved earlier" not in computed and computed.endswith("every pair met in at least 4 subsets")
    assert sitting().split()[:6] == ["✓", *DOING["affinity"].split(), "saved", "earlier"]
