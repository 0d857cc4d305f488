"""What a run shows in a terminal: stages, progress with rates and remaining time, results."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
from pgx_jax.errors import DataError, FolderError, SolverError
from pgx_jax.report import wording
from pgx_jax.runs.run import Listener

DOING = {
    "meta": "training the meta-policy",
    "transitions": "collecting transitions",
    "features": "projecting gradients",
    "scores": "solving and scoring subsets",
    "affinity": "averaging over pairs",
    "grouping": "choosing the groups",
    "similarity": "grouping by gradient similarity",
    "clustering": "clustering on returns",
    "policies": "training one policy a group",
    "comparisons": "training the baselines",
    "evaluation": "evaluating all policies",
}
"""What a stage is doing, by its name."""


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

    def __enter__(self) -> ConsoleListener:
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

    def start(self, stage: str) -> None:
        """Show the stage's own progress line."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(DOING.get(stage, stage), total=None, rate="")
        self.first = None

    def progress(self, done: int, total: int, recent: float) -> None:
        """Move the bar; the rate is in environment steps per second.

        It counts from the stage's first report on: what comes before is mostly compilation.
        """
        assert self.task is not None, "a stage reports its progress after its start"
        now = self.clock()
        self.first = self.first or (done, now)
        steps, elapsed = done - self.first[0], now - self.first[1]
        shown = [f"{wording.steps(steps / elapsed)} steps/s"] if steps > 0 and elapsed > 0 else []
        shown += [f"return {recent:.1f}"] if recent == recent else []
        self.bar.update(self.task, completed=done, total=total, rate=", ".join(shown))

    def finish(self, stage: str, seconds: float, text: str) -> None:
        """Keep one line of result."""
        self._keep(stage, wording.duration(seconds), text)

    def loaded(self, stage: str, text: str) -> None:
        """Keep one line of the result that was saved."""
        self._keep(stage, "saved earlier", text)

    def _keep(self, stage: str, when: str, text: str) -> None:
        """Print a line above the bar, in one call: the bar erases a line that has not ended."""
        name = DOING.get(stage, stage)
        self.console.print(Text.assemble(("✓", "green"), f" {name:<32} {when:>13}  {text}"))


@contextmanager
def resumable(folder: Path, new: bool = False) -> Iterator[None]:
    """Let an interrupt or an error say by which command the run in ``folder`` goes on; ``new`` for a run
    that is to be made there."""
    try:
        yield
    except KeyboardInterrupt:
        whole = f"whole stages are saved, continue with {resuming(folder)}"
        raise KeyboardInterrupt(whole if holds_run(folder) else "nothing is saved yet") from None
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
    """Whether a run has begun in a folder."""
    return os.path.isfile(folder / "config.json")


def resuming(folder: Path) -> str:
    """The command that continues a run."""
    return f"`pgx-jax resume {shlex.quote(str(folder))}`"


def show_results(console: Console, results: Results, path: Path | None) -> None:
    """The advice, the table of methods, and where the report is."""
    console.print()
    console.print(results.advice, style="bold", highlight=False)
    console.print()
    console.print(report.terminal_table(results))
    if path is not None:
        console.print(f"report: {path}", highlight=False, soft_wrap=True)
