"""What it costs to start: `python benchmarks/startup.py`.

CPU time of whole processes, with a warm file cache: importing the package, the command's help, and the
list of families.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from common import Preset, ResultFile, result_path, timed

COMMANDS = {
    "import pgx_jax": ("-c", "import pgx_jax"),
    "pgx-jax --help": ("-m", "pgx_jax", "--help"),
    "pgx-jax families": ("-m", "pgx_jax", "families"),
}
"""What is shown -> the arguments of Python."""


@dataclass(frozen=True)
class Settings:
    """Take the CPU time of processes that start and end."""

    preset: Preset = "full"
    """full: what the README shows; small: one process each, for tests."""
    repeats: int = 5
    """Processes of each command, after one that is not counted."""
    out: Path | None = None
    """File of the results."""


def compute(cell: Mapping) -> dict:
    """All processes of one command, the commands' processes one after the other."""
    seconds = [timed(COMMANDS[cell["command"]])[0]["cpu"] for _ in range(cell["repeats"] + 1)][1:]
    return {"timings": {"cpu": seconds, "median": float(np.median(seconds))}}


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    results = ResultFile(
        result_path("startup", settings.preset, settings.out),
        name="startup",
        command="python benchmarks/startup.py",
    )
    repeats = settings.repeats if settings.preset == "full" else 1
    results.run([{"command": name, "repeats": repeats} for name in COMMANDS], compute)
    for done in results.cells:
        print(f"{done['cell']['command']}: {done['timings']['median']:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
