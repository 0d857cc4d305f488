"""Curves of the policies that train, as lines of a table that a terminal can show while they do."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Lock

import numpy as np
from rich.table import Table
from rich.text import Text

from pgx_jax.learn import Metrics
from pgx_jax.learn.work import mean_of_known, over_tasks
from pgx_jax.report import wording

SHOWN = 12
"""Lines at most; of more policies those that began last."""
BARS = "▁▂▃▄▅▆▇█"
SHOWN_MEASURES = ("loss", "kl", "entropy")
"""Of what learners measure, the last value of each has a column."""


class Curves:
    """What was heard of the policies of the running stage: a line each, and of a single one a line a task."""

    def __init__(self, width: int = 32):
        """Draw curves of so many characters."""
        self.width, self.lock, self.metric = width, Lock(), "return"
        self.lines: dict[str, Line] = {}

    def clear(self) -> None:
        """Forget all: another stage begins."""
        with self.lock:
            self.lines.clear()

    def add(self, metrics: Metrics) -> None:
        """Hear of some updates of a policy."""
        with self.lock:
            self.lines.setdefault(metrics.name, Line(metrics.tasks)).add(metrics)

    def __rich__(self) -> Table:
        """The table."""
        with self.lock:
            shown = dict(list(self.lines.items())[-SHOWN:])
            more = len(self.lines) - len(shown)
            table = Table(
                box=None, pad_edge=False, caption=f"and {more} that began earlier" if more else None
            )
            ends = ("at the end",) if any(line.has_ends for line in shown.values()) else ()
            numbers = ("now", *ends, *SHOWN_MEASURES)
            for head, side in zip(
                ("policy", "steps", f"{self.metric} while training", *numbers),
                ("left", "right", "left", *["right"] * len(numbers)),
                strict=True,
            ):
                table.add_column(head, justify=side, no_wrap=True)  # type: ignore[arg-type]
            for name, line in shown.items():
                table.add_row(*map(Text, line.cells(name, self.width)))
            if len(self.lines) == 1:
                for cells in line.by_task(self.width):
                    table.add_row(*map(Text, cells), style="dim")
            return table


class Line:
    """One policy."""

    def __init__(self, tasks: tuple[str, ...]):
        """Nothing is heard yet."""
        self.tasks = tasks
        self.steps: deque[int] = deque(maxlen=4096)
        """After every update."""
        self.values: deque[np.ndarray] = deque(maxlen=4096)
        """[c, m] of every update: of each of its `Metrics.curves`."""
        self.measured: dict[str, float] = {}

    def add(self, metrics: Metrics) -> None:
        """Hear of some updates, which take the place of what was heard of the same steps and later ones."""
        while self.steps and self.steps[-1] >= metrics.steps[0]:
            self.steps.pop()
            self.values.pop()
        self.steps.extend(metrics.steps.tolist())
        self.values.extend(np.stack([*metrics.curves.values()], 1))
        self.measured = {name: float(values[-1]) for name, values in metrics.measured.items()}

    @property
    def has_ends(self) -> bool:
        """Whether success in the last step is told beside that in any."""
        return len(self.values[-1]) > 1

    def cells(self, name: str, width: int) -> list[str]:
        """Its line of the table."""
        curves = [over_tasks(curve) for curve in np.moveaxis(np.array(self.values), 1, 0)]
        known = (self.measured.get(each) for each in SHOWN_MEASURES)
        measures = ["–" if x is None else wording.number(x) for x in known]
        now, steps = map(_last, curves), wording.steps(self.steps[-1])
        return [name, steps, sparkline(curves[0], width), *now, *measures]

    def by_task(self, width: int) -> Iterator[list[str]]:
        """A line of every task, if there are several and they fit."""
        if 1 < len(self.tasks) <= SHOWN:
            for task, curves in zip(self.tasks, np.array(self.values).T, strict=True):
                yield [f"  {task}", "", sparkline(curves[0], width), *map(_last, curves)]


def sparkline(values: np.ndarray, width: int) -> str:
    """A curve [updates] in at most so many characters, from its least value to its largest; a blank where
    nothing is known."""
    parts = (
        [mean_of_known(part) for part in np.array_split(values, min(width, len(values)))]
        if len(values)
        else []
    )
    known = [x for x in parts if np.isfinite(x)]
    if not known:
        return ""
    low, high = min(known), max(known)
    unit = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(BARS[round((x - low) / unit)] if np.isfinite(x) else " " for x in parts)


def _last(curve: np.ndarray) -> str:
    """The last value that is known."""
    known = curve[np.isfinite(curve)]
    return wording.number(float(known[-1])) if len(known) else "–"
