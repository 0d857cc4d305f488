"""Speed of the environments: `python benchmarks/environments.py`.

Every part is a module with `cells(small)` and `compute(cell)`, whose results stand in one file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import environments_device
import environments_host
import tyro
from common import Preset, ResultFile, result_path

PARTS = {"device": environments_device, "host": environments_host}
"""Part -> module; the cells of a part name it first, as "host overhead"."""


@dataclass(frozen=True)
class Settings:
    """Time environments, and what the engines add to them."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    parts: tuple[str, ...] = tuple(PARTS)
    """Parts to time."""
    out: Path | None = None
    """File of the results."""


def compute(cell: Mapping) -> dict:
    """Time one cell of its part."""
    return PARTS[cell["part"].split()[0]].compute(cell)


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("environments", settings.preset, settings.out)
    results = ResultFile(path, name="environments", command="python benchmarks/environments.py")
    small = settings.preset == "small"
    results.run([cell for part in settings.parts for cell in PARTS[part].cells(small)], compute)
    return 0


if __name__ == "__main__":
    sys.exit(main())
