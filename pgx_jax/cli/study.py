"""``pgx-jax study``: several runs, and what they come to together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pgx_jax.cli.console import ConsoleListener
from pgx_jax.cli.run import FamilyRun
from pgx_jax.errors import pick
from pgx_jax.report import budgets
from pgx_jax.runs.budgets import BUDGETS, run_budgets
from pgx_jax.runs.serial import write_atomically


@dataclass(frozen=True)
class BudgetStudy(FamilyRun):
    """Run a family at several budgets, and draw what every method earns by steps a task.

    Where groups pay, and where one policy for all or one policy a task does. Runs that are done in the folder
    are read, so that a study that was stopped goes on when it is called again.
    """

    steps: tuple[int, ...] = BUDGETS
    """Budgets: environment steps of every method, per task (in the place of --steps-per-task)."""
    seeds: int = 1
    """Runs of every budget, with training seeds from --seed on; with several there are intervals."""
    out: Path | None = None
    """Folder of the runs and the figure; runs/budget-FAMILY by default."""

    prog = "pgx-jax study budget"

    def __call__(self, console: Console) -> None:
        """Run them."""
        family, out = self.make_family(), self.out or Path("runs") / f"budget-{self.family}"
        seeds = range(self.config.seed, self.config.seed + self.seeds)
        count = len(set(self.steps)) * self.seeds
        console.print(f"{count} runs of {self.family}; saving to {out}", highlight=False)
        points: list[budgets.Point] = []
        with ConsoleListener(console) as listener:
            for steps, results in run_budgets(family, self.config, self.steps, seeds, out, listener):
                points.append(budgets.Point.of(results, steps))
                which = f"{steps:,} steps a task, seed {results.seed}: k = {results.k}"
                console.print(f"{len(points)} of {count}: {which}", style="bold", highlight=False)
        console.print()
        console.print(budgets.advice(points), style="bold", highlight=False)
        console.print()
        console.print(budgets.terminal_table(points, self.family))
        console.print(f"figure: {draw(points, out)}", highlight=False, soft_wrap=True)


def draw(points: list[budgets.Point], out: Path) -> Path:
    """Draw the figure into a folder; returns its path."""
    from pgx_jax.report import figures  # matplotlib takes a second to import

    out.mkdir(parents=True, exist_ok=True)
    path = out / "budget.png"
    write_atomically(path, figures.png(figures.by_budget(points)))
    return path


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
        name = args[0] if args and args[0] not in ("-h", "--help") else "budget"
        return pick(STUDIES, name, "the study").read(args[1:] or ["--help"])
