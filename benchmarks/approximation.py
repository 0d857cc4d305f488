"""How linear the log-ratio of policies is: `python benchmarks/approximation.py`.

The meta-policy of the default settings is trained up to its first look, with networks of several depths.
Its first-order error is measured as `pgx-jax analyse` does: along fine-tuning on all tasks and on three
single ones, along the surrogates of the same subsets, and along random directions.

Meta-World is no default: `--families metaworld-mt10 --layers 2 --seeds 0` adds it (extra `metaworld`), in
about 40 minutes of one core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import Preset, ResultFile, merge, result_path, says_errors
from study import SMALL_CONFIG, SMALL_FAMILY, settings_of

from pgx_jax.analysis import ApproximationConfig, first_order_error
from pgx_jax.compare.results import to_plain
from pgx_jax.config import config_for, override
from pgx_jax.runs.programs import keep_programs
from pgx_jax.runs.run import Run
from pgx_jax.tasks.registry import make_family

FAMILIES = (
    "cartpole-goals",
    "points-hard",
    "cartpole-physics",
    "highway-objectives",
    "reacher-targets",
    "lunarlander",
)
WIDTH = 64
ALONE = 3
"""Tasks that are fine-tuned on alone, spread over the family."""
SMALL = ApproximationConfig(distances=(0.01, 0.05), transitions=64, updates=2, draws=2)


@dataclass(frozen=True)
class Settings:
    """Measure the first-order error by family and depth."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    families: tuple[str, ...] = FAMILIES
    """Families, with their own default settings."""
    layers: tuple[int, ...] = (2, 4, 8)
    """Hidden layers of actor and critic."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of family and training."""
    out: Path | None = None
    """File of the results."""


def members(n: int) -> np.ndarray:
    """All tasks, and some of them alone: bool [m, n]."""
    alone = np.unique(np.linspace(0, n - 1, min(ALONE, n)).round().astype(int))
    return np.concatenate([np.ones((1, n), bool), np.eye(n, dtype=bool)[alone]])


def deep_run(cell: Mapping, small: bool, **shrunk: Any) -> Run:
    """A run that is not made yet, with networks of the cell's depth; ``shrunk``: settings of small ones."""
    name, known = cell["family"], settings_of(cell["family"])
    given = {"seed": cell["seed"]} | (SMALL_FAMILY if small else {})
    family = make_family(name, **{key: value for key, value in given.items() if key in known})
    deep = {"seed": cell["seed"], "policy": {"hidden": [4 if small else WIDTH] * cell["layers"]}}
    changes = merge(merge(SMALL_CONFIG, shrunk), deep) if small else deep
    return Run(family, override(config_for(family), changes))


def depth_cells(settings: Settings) -> list[dict]:
    """A cell for every depth, family and seed; the first of each alone if small."""
    most = 1 if settings.preset == "small" else None
    return [
        {"family": family, "layers": depth, "seed": seed}
        for depth in settings.layers[:most]
        for family in settings.families[:most]
        for seed in settings.seeds[:most]
    ]


def compute(cell: Mapping, small: bool) -> dict:
    """The record of the analysis of one meta-policy."""
    run = deep_run(cell, small).compute("features")
    settings = SMALL if small else ApproximationConfig()
    return {"found": to_plain(first_order_error(run, settings, member=members(run.family.n)))}


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    keep_programs()
    path, small = result_path("approximation", settings.preset, settings.out), settings.preset == "small"
    results = ResultFile(path, name="approximation", command="python benchmarks/approximation.py")
    results.run(depth_cells(settings), lambda cell: compute(cell, small))
    return 0


if __name__ == "__main__":
    sys.exit(main())
