"""What a run shows while it works: a bar with rates and remaining time in a terminal, a line now and then
elsewhere, and a line for every stage that is done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from threading import Lock

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pgx_jax.learn import Metrics
from pgx_jax.report import wording
from pgx_jax.runs.watching.curves import Curves
from pgx_jax.runs.watching.listener import Listener

DOING = {
    "demonstrations": "learning from experts",
    "meta": "training the meta-policy",
    "transitions": "collecting transitions",
    "features": "projecting gradients",
    "scores": "solving and scoring subsets",
    "affinity": "rating all pairs",
    "grouping": "choosing the groups",
    "stability": "drawing trajectories again",
    "looks": "looking at the groups again",
    "similarity": "grouping by gradient similarity",
    "clustering": "clustering on returns",
    "oracle": "training a policy for every subset",
    "policies": "training one policy a group",
    "comparisons": "training the baselines",
    "evaluation": "evaluating all policies",
    "approximation": "measuring the first order",
    "ablations": "asking with other settings",
    "generalisation": "measuring curvature and fresh data",
    "cost": "timing the estimate and training",
    "truth": "training subsets of the tasks",
    "timing": "timing updates",
}
"""What a stage is doing, by its name."""


LONG = 120.0
"""Seconds of training that are told beforehand."""
EVERY = 30.0
"""Seconds between two lines about a stage, where there is no bar."""


def doing(stage: str) -> str:
    """What a stage is doing, and at which of several looks ("meta-2")."""
    name, _, look = stage.partition("-")
    return f"{DOING.get(name, name)}{f' (look {look})' if look else ''}"


def has_bar(console: Console) -> bool:
    """Whether a bar can move there: in a terminal, or in a notebook with ipywidgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


class ConsoleListener(Listener):
    """Shows a progress bar for the running stage (or a line now and then, where no bar can move) and keeps a
    line for every finished one."""

    def __init__(
        self, console: Console, clock: Callable[[], float] = time.monotonic, curves: Curves | None = None
    ):
        """Write to ``console``, with seconds as ``clock`` counts them; use as a context manager.

        Args:
            console: a terminal or any other output.
            clock: counts seconds.
            curves: shown above the bar while policies train; none if not given.
        """
        self.console, self.clock, self.curves = console, clock, curves
        self.moves, self.said = has_bar(console), clock()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self.bar = _Bar(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            get_time=clock,
        )
        self.bar.curves = curves
        self.task: TaskID | None = None
        self.first: tuple[int, float] | None = None
        self.expected = 0
        """Environment steps of all training, until it is told how long they will take."""

    def __enter__(self) -> ConsoleListener:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self.moves:
            self.bar.stop()

    def start(self, stage: str) -> None:
        """Show the stage's own progress line."""
        self._clear()
        self._show(doing(stage))
        self.first, self.expected, self.said = None, 0, self.clock()
        if self.curves is not None:
            self.curves.metric = self.metric
            self.curves.clear()

    def expect(self, steps: int) -> None:
        """Say with the stage's first rate how long so many steps will take."""
        self.expected = steps

    def progress(self, done: int, total: int, recent: float, at_end: float | None = None) -> None:
        """Move the bar; the rate is in environment steps per second.

        It counts from the stage's first report on: what comes before is mostly compilation.
        """
        assert self.task is not None, "a stage reports its progress after its start"
        now = self.clock()
        self.first = self.first or (done, now)
        steps, elapsed = done - self.first[0], now - self.first[1]
        rate = steps / elapsed if steps > 0 and elapsed > 0 else 0.0
        shown = [f"{wording.steps(rate)} steps/s"] if rate else []
        if rate:
            self._tell_time(rate)
        if recent == recent:
            shown.append(f"success {recent:.0%}" if self.metric == "success" else f"return {recent:.1f}")
            if at_end is not None:
                shown.append(f"at the end {at_end:.0%}")
        self.bar.update(self.task, completed=done, total=total, rate=", ".join(shown))
        if not self.moves and now - self.said >= EVERY:
            self.said = now
            left = [f"{wording.duration((total - done) / rate)} left"] if rate else []
            self._say(f"{done / total:.0%} of {wording.steps(total)} steps", *shown, *left)

    def metrics(self, metrics: Metrics) -> None:
        """Draw the curves on."""
        if self.curves is not None:
            self.curves.add(metrics)

    def doing(self, what: str) -> None:
        """Name the part beside the stage, or alone after the last stage."""
        if not self.moves:
            self._say(what)
        if self.task is None:
            self._show(what)
        else:
            self.bar.update(self.task, rate=what)

    def _say(self, *what: str) -> None:
        """Print a line about the running stage, where there is no bar."""
        name = "" if self.task is None else f"{self.bar.tasks[-1].description}: "
        self.console.print(f"… {name}{', '.join(what)}", highlight=False, markup=False, soft_wrap=True)

    def _show(self, what: str) -> None:
        """Show a bar of this name."""
        self.task = self.bar.add_task(what, total=None, rate="")
        if self.moves:
            self.bar.start()

    def _clear(self) -> None:
        """Take away what was shown of a stage."""
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None

    def _tell_time(self, rate: float) -> None:
        """Say once how long the run will take at a rate, in steps a second, if it is minutes."""
        steps, self.expected = self.expected, 0
        if steps / rate > LONG:
            whole = f"{wording.steps(steps)} steps with its evaluation, at {wording.steps(rate)} a second"
            about = wording.duration(steps / rate)
            self.console.print(f"  the run will take about {about} ({whole})", highlight=False)

    def finish(self, stage: str, seconds: float, text: str) -> None:
        """Keep one line of result."""
        self.keep(stage, wording.duration(seconds), text)
        self._clear()

    def loaded(self, stage: str, text: str) -> None:
        """Keep one line of the result that was saved."""
        self.keep(stage, "saved earlier", text)

    def keep(self, stage: str, when: str, text: str, who: str = "") -> None:
        """Print a line above the bar, in one call: the bar erases a line that has not ended."""
        name = doing(stage)
        line = Text.assemble(("✓", "green"), f" {who}{name:<32} {when:>13}  {text}")
        self.console.print(line, soft_wrap=not self.console.is_terminal)


class _Bar(Progress):
    """The bar, below curves if there are any."""

    curves: Curves | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.curves is not None and self.curves.lines:
            yield self.curves
        yield from super().get_renderables()


class SeedsListener:
    """Shows runs with several seeds side by side: one bar for all of them, and a line for every stage of
    each."""

    def __init__(
        self, console: Console, clock: Callable[[], float] = time.monotonic, curves: Curves | None = None
    ):
        """Write to ``console``; use as a context manager (see `ConsoleListener`)."""
        self.shown, self.lock = ConsoleListener(console, clock, curves), Lock()
        self.stages: dict[int, str] = {}
        self.steps: dict[int, tuple[int, int]] = {}
        """Done and in all, of the seeds that train."""

    def __enter__(self) -> SeedsListener:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shown.__exit__(*exc)

    def of(self, seed: int) -> Listener:
        """What listens to the run of a seed."""
        return _SeedListener(self, seed)

    def start(self, seed: int, stage: str) -> None:
        """A stage of a seed begins."""
        with self.lock:
            self.stages[seed] = stage
            self.steps.pop(seed, None)
            self.shown.start(stage)

    def progress(self, seed: int, done: int, total: int, recent: float, at_end: float | None = None) -> None:
        """Move the bar by the steps of all seeds; it is named after what most of them do."""
        with self.lock:
            self.steps[seed] = done, total
            ((stage, _),) = Counter(self.stages[each] for each in self.steps).most_common(1)
            count = len(self.steps)
            assert self.shown.task is not None
            name = f"{doing(stage)} ({count} seed{'s' if count > 1 else ''})"
            self.shown.bar.update(self.shown.task, description=name)
            done, total = map(sum, zip(*self.steps.values(), strict=True))
            self.shown.progress(done, total, recent, at_end)


class _SeedListener(Listener):
    """What one of them tells."""

    def __init__(self, all_: SeedsListener, seed: int):
        self.all, self.seed = all_, seed

    def start(self, stage: str) -> None:
        self.all.shown.metric = self.metric
        self.all.start(self.seed, stage)

    def progress(self, done: int, total: int, recent: float, at_end: float | None = None) -> None:
        self.all.shown.metric = self.metric
        self.all.progress(self.seed, done, total, recent, at_end)

    def metrics(self, metrics: Metrics) -> None:
        self.all.shown.metrics(metrics._replace(policy=f"seed {self.seed}: {metrics.name}"))

    def doing(self, what: str) -> None:
        with self.all.lock:
            self.all.shown.doing(f"{what} (seed {self.seed})")

    def finish(self, stage: str, seconds: float, text: str) -> None:
        self.all.shown.keep(stage, wording.duration(seconds), text, f"seed {self.seed}: ")

    def loaded(self, stage: str, text: str) -> None:
        self.all.shown.keep(stage, "saved earlier", text, f"seed {self.seed}: ")
