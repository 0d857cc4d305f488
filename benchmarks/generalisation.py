"""How well fitted policies do on fresh data, and what bounds promise: `python benchmarks/generalisation.py`.

A run of the default settings is made up to its groups, with networks of several depths. The policies that
its estimate fits to what theta* experienced are measured as `pgx-jax analyse RUN generalisation` does: one
for all tasks, one for each group that was found, and one for each group of a random partition of the same
sizes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import approximation
import numpy as np
import tyro
from approximation import deep_run, depth_cells
from common import ResultFile, result_path, says_errors

from pgx_jax import grouping
from pgx_jax.analysis import GeneralisationConfig, generalisation_bound
from pgx_jax.compare.results import to_plain
from pgx_jax.runs.programs import keep_programs
from pgx_jax.runs.run import Run
from pgx_jax.types import Grouping

FAMILIES = ("cartpole-goals", "points-hard", "cartpole-physics")
SMALL = GeneralisationConfig(transitions=64, products=6, depth=4, draws=2, unseen=2)


@dataclass(frozen=True)
class Settings(approximation.Settings):
    """Measure generalisation errors and their bounds by family and depth."""

    families: tuple[str, ...] = FAMILIES
    """Families, with their own default settings."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of family and training."""


def partitions(run: Run) -> dict[str, np.ndarray]:
    """One for all, the groups that were found, and random ones of their sizes: bool [k, n] each. The first
    alone where no groups were found."""
    labels = np.asarray(run.labels)
    found = {"all": np.ones((1, len(labels)), bool)}
    if labels.max():
        sizes = grouping.group_sizes(labels)
        drawn = grouping.random_groupings(run.config.stream("random"), sizes, 1)[0]
        found |= {"ours": Grouping(labels).member, "random": Grouping(drawn).member}
    return found


def compute(cell: Mapping, small: bool) -> dict:
    """The record of the analysis, and how many of its subsets each partition has."""
    run = deep_run(cell, small, k=2).compute("grouping")
    parts = partitions(run)
    settings = SMALL if small else GeneralisationConfig()
    found = generalisation_bound(run, settings, member=np.concatenate(list(parts.values())))
    return {"parts": {name: len(member) for name, member in parts.items()}, "found": to_plain(found)}


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    keep_programs()
    path, small = result_path("generalisation", settings.preset, settings.out), settings.preset == "small"
    used = {"generalisation": dataclasses.asdict(SMALL if small else GeneralisationConfig())}
    results = ResultFile(
        path, name="generalisation", command="python benchmarks/generalisation.py", settings=used
    )
    results.run(depth_cells(settings), lambda cell: compute(cell, small))
    return 0


if __name__ == "__main__":
    sys.exit(main())
