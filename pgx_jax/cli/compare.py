"""``pgx-jax compare``: saved runs beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from pgx_jax.report import runs
from pgx_jax.runs.comparing import compare_runs, write


@dataclass(frozen=True)
class CompareCommand:
    """Compare saved runs of one family: what every method earned, and which settings differ.

    A run folder is one side of the comparison; so is a folder of several seeds, with intervals over them. Of
    a sweep every part is a side. The first side is what the others are compared with, paired by seed.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, folders of several seeds, or of sweeps."""
    out: Path | None = None
    """Folder for the report, with figure, CSV and JSON; an earlier comparison there is replaced.
    runs/compare-RUN-RUN... by default."""

    def __call__(self, console: Console) -> None:
        """Compare them."""
        found = compare_runs(*self.runs)
        console.print(runs.advice(found), style="bold", highlight=False, markup=False)
        for table in runs.terminal_tables(found):
            console.print(table)
        path = write(self.out or default_folder([side.name for side in found.sides]), found)
        console.print(f"report: {path}", highlight=False, markup=False, soft_wrap=True)


def default_folder(names: list[str]) -> Path:
    """runs/compare-RUN-RUN..., or how many there are, where that would be long."""
    name = "-".join(("compare", *(name.replace("/", "-") for name in names)))
    return Path("runs") / (name if len(name) <= 100 else f"{name[:80]}-and-others-{len(names)}")
