"""``pgx-jax policy``: trained policies as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from pgx_jax.runs.exporting import FORMATS, export_policy
from pgx_jax.types import Named


@dataclass(frozen=True)
class PolicyCommand:
    """Export a trained policy of a saved run, to be used without the run."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    group: int | None = None
    """Number of the group, from 1 as in the report; not needed where there is one group."""
    task: str | None = None
    """Name or number of a task instead: the policy of its group."""
    format: Named[str, FORMATS] = "numpy"
    """numpy: an .npz and a .py that acts by it with NumPy alone (perceptrons); stablehlo: a serialised JAX
    program (any network, any number of observations at once); safetensors: the parameters (any network; extra
    `export`)."""
    out: Path | None = None
    """Folder for the files; RUN/exported by default."""

    def __call__(self, console: Console) -> None:
        """Export it."""
        found = export_policy(self.run, group=self.group, task=self.task, format=self.format, out=self.out)
        lines = [f"the policy of {', '.join(found.group)}", *(f"saved: {path}" for path in found.paths)]
        for line in (*lines, f"use it: {found.use}"):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
