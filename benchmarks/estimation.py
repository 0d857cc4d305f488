"""Estimating all triples against training them: `taskset -c 1 python benchmarks/estimation.py`.

On cartpole-goals, by depth and total: what the estimate of all 120 triples costs, and what a policy trained
for each would, as `pgx-jax analyse RUN cost` tells (`pgx_jax.analysis.cost` says how): in operations and in
time, with meta-training and collecting and without. Beside the run's own projection stand half its dimension
(`ablations.py` tells what that does to the groups), and a projection that is as exact. On one core processor
time is the time by the clock of a machine with nothing else to do.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import msgspec
import tyro
from common import Preset, ResultFile, merge, result_path
from study import SMALL_CONFIG, SMALL_FAMILY

from pgx_jax.analysis import CostConfig, CostResult, estimation_cost
from pgx_jax.analysis.cost import CostTimings
from pgx_jax.compare.results import to_plain
from pgx_jax.config import config_for, override
from pgx_jax.runs.programs import keep_programs
from pgx_jax.runs.run import Run
from pgx_jax.tasks.registry import make_family

FAMILY = "cartpole-goals"
WIDTH = 64
ROWS, ALONE = 8, 2
"""Triples that are trained side by side, and one after another."""


@dataclass(frozen=True)
class Settings:
    """Time and count the estimation of all triples, and training them."""

    preset: Preset = "full"
    """full: what the docs show; small: seconds, for tests."""
    seed: int = 0
    """Seed of the run."""
    layers: tuple[int, ...] = (2, 4, 8)
    """Hidden layers of actor and critic."""
    steps_per_task: tuple[int, ...] = (30_720, 81_920, 163_840)
    """Totals of a run: those of the main table's first families, and twice the longer."""
    updates: tuple[int, int] = (10, 20)
    """The two lengths that are trained."""
    repeats: int = 3
    """Timings of everything; the medians count."""
    out: Path | None = None
    """File of the results."""


def make_run(cell: Mapping, seed: int, small: bool) -> Run:
    """The run whose triples are estimated, up to its first look."""
    family = make_family(FAMILY, **(SMALL_FAMILY if small else {}))
    size = {
        "estimate": {"subset_size": 3},
        "policy": {"hidden": [8 if small else WIDTH] * cell["layers"]},
        "steps_per_task": cell["steps_per_task"],
    }
    config = override(config_for(family), merge(SMALL_CONFIG if small else {}, {"seed": seed}, size))
    return Run(family, config).compute("scores")


def compute(run: Run, updates: tuple[int, int], repeats: int) -> dict:
    """The record of one network and total; its times stand apart."""
    dim = run.config.estimate.dim
    also = (("gaussian", dim // 2), ("hadamard", dim))
    settings = CostConfig(updates=updates, repeats=repeats, rows=ROWS, alone=ALONE, also=also)
    found = to_plain(estimation_cost(run, settings))
    return {"timings": found.pop("timings"), "found": found}


def found_of(cell: Mapping) -> CostResult:
    """The record again, of a cell of the results."""
    timings = {name: cell["timings"][name] for name in CostTimings.__struct_fields__}
    return msgspec.convert(cell["found"] | {"timings": timings}, CostResult)


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    small = settings.preset == "small"
    layers, totals, updates, repeats = (
        settings.layers,
        settings.steps_per_task,
        settings.updates,
        settings.repeats,
    )
    if small:
        layers, totals, updates, repeats = (2,), (SMALL_CONFIG["steps_per_task"],), (1, 2), 1
    keep_programs()
    path = result_path("estimation", settings.preset, settings.out)
    about = {"family": FAMILY, "seed": settings.seed, "updates": updates, "repeats": repeats}
    results = ResultFile(path, name="estimation", command="python benchmarks/estimation.py", settings=about)
    here = {"platform": jax.default_backend()}
    todo = [here | {"layers": depth, "steps_per_task": total} for total in totals for depth in layers]
    results.run(todo, lambda cell: compute(make_run(cell, settings.seed, small), updates, repeats))
    return 0


if __name__ == "__main__":
    sys.exit(main())
