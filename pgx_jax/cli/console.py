"""What a run shows in a terminal: stages, progress with rates and remaining time, results."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from rich.console import Console
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

from pgx_jax import report
from pgx_jax.compare.results import Results
from pgx_jax.compare.seeds import SeedsResult
from pgx_jax.errors import BusyError, DataError, FolderError, SolverError
from pgx_jax.report import seeds, wording
from pgx_jax.runs.run import Listener
from pgx_jax.runs.seeds import holds_seeds

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
    "generalisation": "measuring curvature and fresh data",
    "truth": "training subsets of the tasks",
}
"""What a stage is doing, by its name."""


LONG = 120.0
"""Seconds of training that are told beforehand."""


def doing(stage: str) -> str:
    """What a stage is doing, and at which of several looks ("meta-2")."""
    name, _, look = stage.partition("-")
    return f"{DOING.get(name, name)}{f' (look {look})' if look else ''}"


class ConsoleListener(Listener):
    """Shows a progress bar for the running stage and keeps a line for every finished one."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        """Write to ``console``, with seconds as ``clock`` counts them; use as a context manager."""
        self.console, self.clock = console, clock
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self.bar = Progress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            get_time=clock,
        )
        self.task: TaskID | None = None
        self.first: tuple[int, float] | None = None
        self.expected = 0
        """Environment steps of all training, until it is told how long they will take."""

    def __enter__(self) -> ConsoleListener:
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

    def start(self, stage: str) -> None:
        """Show the stage's own progress line."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(doing(stage), total=None, rate="")
        self.first = None
        self.expected = 0

    def expect(self, steps: int) -> None:
        """Say with the stage's first rate how long so many steps will take."""
        self.expected = steps

    def progress(self, done: int, total: int, recent: float) -> None:
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
        self.bar.update(self.task, completed=done, total=total, rate=", ".join(shown))

    def _tell_time(self, rate: float) -> None:
        """Say once how long all training will take at a rate, in steps a second, if it is minutes."""
        steps, self.expected = self.expected, 0
        if steps / rate > LONG:
            whole = f"at most {wording.steps(steps)} steps at {wording.steps(rate)} a second"
            about = wording.duration(steps / rate)
            self.console.print(f"  training will take about {about} ({whole})", highlight=False)

    def finish(self, stage: str, seconds: float, text: str) -> None:
        """Keep one line of result."""
        self.keep(stage, wording.duration(seconds), text)

    def loaded(self, stage: str, text: str) -> None:
        """Keep one line of the result that was saved."""
        self.keep(stage, "saved earlier", text)

    def keep(self, stage: str, when: str, text: str, who: str = "") -> None:
        """Print a line above the bar, in one call: the bar erases a line that has not ended."""
        name = doing(stage)
        self.console.print(Text.assemble(("✓", "green"), f" {who}{name:<32} {when:>13}  {text}"))


class SeedsListener:
    """Shows runs with several seeds side by side: one bar for all of them, and a line for every stage of
    each."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        """Write to ``console``; use as a context manager."""
        self.shown, self.lock = ConsoleListener(console, clock), Lock()
        self.stages: dict[int, str] = {}
        self.steps: dict[int, tuple[int, int]] = {}
        """Done and in all, of the seeds that train."""

    def __enter__(self) -> SeedsListener:
        self.shown.__enter__()
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

    def progress(self, seed: int, done: int, total: int, recent: float) -> None:
        """Move the bar by the steps of all seeds; it is named after what most of them do."""
        with self.lock:
            self.steps[seed] = done, total
            ((stage, _),) = Counter(self.stages[each] for each in self.steps).most_common(1)
            count = len(self.steps)
            assert self.shown.task is not None
            name = f"{doing(stage)} ({count} seed{'s' if count > 1 else ''})"
            self.shown.bar.update(self.shown.task, description=name)
            done, total = map(sum, zip(*self.steps.values(), strict=True))
            self.shown.progress(done, total, recent)


class _SeedListener(Listener):
    """What one of them tells."""

    def __init__(self, all_: SeedsListener, seed: int):
        self.all, self.seed = all_, seed

    def start(self, stage: str) -> None:
        self.all.start(self.seed, stage)

    def progress(self, done: int, total: int, recent: float) -> None:
        self.all.shown.metric = self.metric
        self.all.progress(self.seed, done, total, recent)

    def finish(self, stage: str, seconds: float, text: str) -> None:
        self.all.shown.keep(stage, wording.duration(seconds), text, f"seed {self.seed}: ")

    def loaded(self, stage: str, text: str) -> None:
        self.all.shown.keep(stage, "saved earlier", text, f"seed {self.seed}: ")


@contextmanager
def resumable(folder: Path, new: bool = False) -> Iterator[None]:
    """Let an interrupt or an error say by which command the run in ``folder`` goes on; ``new`` for a run
    that is to be made there."""
    try:
        yield
    except KeyboardInterrupt:
        whole = f"whole stages are saved, continue with {resuming(folder)}"
        raise KeyboardInterrupt(whole if holds_run(folder) else "nothing is saved yet") from None
    except BusyError:  # no other command could go on either
        raise
    except FolderError as error:
        ways = ["--out FOLDER"] if new else []
        if holds_run(folder):
            ways += [resuming(folder), *(["--overwrite"] if new else [])]
        if not ways:
            raise
        raise type(error)(f"{error} ({', '.join(ways)})") from error
    except (DataError, SolverError) as error:
        if not holds_run(folder):
            raise
        raise type(error)(f"{error} (whole stages are saved: {resuming(folder)} goes on)") from error


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in a folder, or runs of several seeds."""
    return os.path.isfile(folder / "config.json") or holds_seeds(folder)


def resuming(folder: Path) -> str:
    """The command that continues a run."""
    return f"`pgx-jax resume {shlex.quote(str(folder))}`"


def show_results(console: Console, results: Results, path: Path | None) -> None:
    """The advice, the table of methods, and where the report is."""
    console.print()
    console.print(results.advice, style="bold", highlight=False)
    console.print()
    console.print(report.terminal_table(results))
    if results.stability is not None:
        told = f"trajectories drawn again: {wording.certainty(results.stability)}"
        console.print(told, highlight=False, soft_wrap=True)
    if path is not None:
        console.print(f"report: {path}", highlight=False, soft_wrap=True)


def show_seeds(console: Console, found: SeedsResult, path: Path) -> None:
    """The same of several training seeds."""
    console.print()
    console.print(found.advice, style="bold", highlight=False)
    console.print()
    console.print(seeds.terminal_table(found))
    for seed, why in found.unfinished.items():
        console.print(f"seed {seed} is not among them: {why}", highlight=False, markup=False)
    console.print(f"report: {path / 'report.html'}", highlight=False, soft_wrap=True)
