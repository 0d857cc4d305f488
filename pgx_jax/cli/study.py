"""``pgx-jax study``: several runs, and what they come to together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pgx_jax import report
from pgx_jax.cli.run import FamilyRun
from pgx_jax.errors import pick
from pgx_jax.mesh import in_first
from pgx_jax.report import budgets
from pgx_jax.runs.budgets import PARTS, run_budgets, run_folder
from pgx_jax.runs.serial import write_atomically
from pgx_jax.runs.watching.console import SeedsListener


@dataclass(frozen=True)
class BudgetStudy(FamilyRun):
    """Run a family at several budgets, and draw what every method earns by steps a task.

    Where groups pay, and where one policy for all or one policy a task does. Runs that are done in the folder
    are read, so that a study that was stopped goes on when it is called again.
    """

    steps: tuple[int, ...] = ()
    """Budgets: environment steps of every method, per task; by default from a sixth of --steps-per-task to
    five times as many, each twice the one before."""
    seeds: int = 1
    """Runs of every budget, side by side, with training seeds from --seed on; with several there are
    intervals."""
    out: Path | None = None
    """Folder of the runs and the figure; runs/budget-FAMILY by default."""

    prog = "pgx-jax study budget"

    def __call__(self, console: Console) -> None:
        """Run them."""
        console = self.told(console)
        family, out = self.make_family(), self.out or Path("runs") / f"budget-{self.family}"
        seeds = range(self.config.seed, self.config.seed + self.seeds)
        tried = self.steps or tuple(round(part * self.config.steps_per_task) for part in PARTS)
        count = len(set(tried)) * len(seeds)
        console.print(f"{self.family}, runs: {count}; saving to {out}", highlight=False)
        points: list[budgets.Point] = []
        with continued(), self.stepping(family), SeedsListener(console) as listener:
            for steps, results in run_budgets(family, self.config, tried, seeds, out, listener.of):
                points.append(budgets.Point.of(results, steps))
                which = f"{steps:,} steps a task, seed {results.seed}: k = {results.k}"
                console.print(f"{len(points)} of {count}: {which}", style="bold", highlight=False)
        console.print()
        console.print(budgets.advice(points), style="bold", highlight=False)
        console.print()
        console.print(budgets.terminal_table(points, self.family))
        in_first(partial(write, points, self.family, out))
        console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


@contextmanager
def continued() -> Iterator[None]:
    """Let an interrupt say how the study goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("whole runs and stages are saved, the same command goes on") from None


def write(points: list[budgets.Point], family: str, out: Path) -> Path:
    """Write report and figure into a folder; returns the path of the report."""
    links = {
        (point.steps_per_task, point.seed): f"{folder}/report.html"
        for point in points
        if (out / (folder := run_folder(point.steps_per_task, point.seed)) / "report.html").is_file()
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in report.render_budgets(points, family, links).items():
        write_atomically(out / name, content)
    return out / "report.html"


STUDIES: dict[str, type[FamilyRun]] = {"budget": BudgetStudy}
"""Studies by name."""


class StudyCommand:
    """Run a family at several budgets, and draw what every method earns (`study budget FAMILY`)."""

    @staticmethod
    def read(args: list[str]) -> Any:
        """The study that the arguments name.

        Raises:
            ConfigError: there is no such study, or settings that cannot work.
            SystemExit: help was asked for, or the arguments are not those of the study.
        """
        if not args or args[0] in ("-h", "--help"):
            name, *args = ("budget", "--help")
        else:
            name, *args = args
        return pick(STUDIES, name, "the study").read(args)
