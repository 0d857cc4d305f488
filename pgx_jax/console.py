"""What a run shows in a terminal: stages, progress with rates and remaining time, results."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pgx_jax import report, wording
from pgx_jax.stages import Listener

STAGES = {
    "meta": "training the meta-policy",
    "transitions": "collecting transitions",
    "features": "projecting gradients",
    "scores": "solving and scoring subsets",
    "affinity": "averaging over pairs",
    "grouping": "choosing the groups",
    "similarity": "grouping by gradient similarity",
    "policies": "training one policy a group",
    "comparisons": "training the baselines",
    "evaluation": "evaluating all policies",
}


class ConsoleListener(Listener):
    """Shows a progress bar for the running stage and keeps a line for every finished one."""

    def __init__(self, console: Console):
        """Write to ``console``; use as a context manager."""
        self.console = console
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self.bar = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True
        )
        self.task = None

    def __enter__(self) -> ConsoleListener:
        self.bar.start()
        return self

    def __exit__(self, *exc) -> None:
        self.bar.stop()

    def start(self, stage: str) -> None:
        """Show the stage's own progress line."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(STAGES.get(stage, stage), total=None, rate="")

    def progress(self, done: int, total: int, recent: float) -> None:
        """Move the bar; the rate is in environment steps per second."""
        elapsed = self.bar.tasks[-1].elapsed or 0.0
        rate = f"{wording.steps(done / elapsed)} steps/s" if elapsed > 0 else ""
        shown = "" if recent != recent else f", return {recent:.1f}"
        self.bar.update(self.task, completed=done, total=total, rate=rate + shown)

    def finish(self, stage: str, seconds: float, text: str) -> None:
        """Keep one line of result."""
        name = STAGES.get(stage, stage)
        self.console.print(f"[green]✓[/] {name:<32} {wording.duration(seconds):>10}  ", end="")
        self.console.print(text, markup=False, highlight=False)


def show_results(console: Console, results: Mapping, path) -> None:
    """The advice, the table of methods, and where the report is."""
    console.print()
    console.print(results["advice"], style="bold", highlight=False)
    console.print()
    console.print(report.terminal_table(results))
    if path is not None:
        console.print(f"report: {path}", highlight=False, soft_wrap=True)
