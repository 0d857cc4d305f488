"""Estimated against true: `python benchmarks/truth.py`.

Of several families and seeds the meta-policy is trained up to its first look. Then subsets of the tasks are
trained from it, side by side and several times, for one update, for a few, and for what a group has, and all
estimates are compared with what came of it, as `pgx-jax analyse RUN truth` does. Of six tasks all 63 subsets
are trained.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from common import Preset, ResultFile, check_known, result_path, says_errors
from stability import SMALL as SMALL_CONFIG

from pgx_jax.analysis import TruthConfig, estimated_against_true
from pgx_jax.compare.results import to_plain
from pgx_jax.config import config_for, override
from pgx_jax.estimate import make_subsets
from pgx_jax.runs.programs import keep_programs
from pgx_jax.runs.run import Run
from pgx_jax.tasks.registry import make_family

FAMILIES = {
    "cartpole-goals": {},
    "points-hard": {},
    "cartpole-physics": {},
    "cartpole-goals, 6 tasks": {"name": "cartpole-goals", "n_tasks": 6},
}
"""Names in tables -> settings of the families."""
SMALL_FAMILY = {"name": "points", "n_tasks": 6, "n_groups": 2, "horizon": 15}

FULL = TruthConfig(subsets=60, updates=(1, 4), repeats=8, long_repeats=2, episodes=64)
SMALL = replace(
    FULL,
    updates=(1, 2),
    repeats=2,
    steps_per_task=360,
    episodes=4,
    estimates=("dot",),
    more_transitions=0,
    kernel=(4,),
    draws=2,
)
FEW = 9
"""Triples that the small preset trains."""
GROUPS = 3
"""k where no groups are planted."""


@dataclass(frozen=True)
class Settings:
    """Compare estimates with true training, by family and seed."""

    preset: Preset = "full"
    """full: what the docs show; small: seconds, for tests."""
    families: tuple[str, ...] = tuple(FAMILIES)
    """Names of `FAMILIES`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of family and training."""
    out: Path | None = None
    """File of the results."""


def compute(cell: Mapping, small: bool) -> dict:
    """The record of the analysis of one meta-policy."""
    own = SMALL_FAMILY if small else FAMILIES[cell["family"]]
    family = make_family(**{"name": cell["family"], "seed": cell["seed"], **own})
    config = override(config_for(family), {"seed": cell["seed"], **(SMALL_CONFIG if small else {})})
    run = Run(family, config).compute("features")
    settings = replace(SMALL if small else FULL, k=GROUPS if family.true_groups is None else None)
    member = make_subsets(3, family.n, 3, FEW) if small else None
    found = to_plain(estimated_against_true(run, settings, member=member))
    planted = None if family.true_groups is None else list(map(int, family.true_groups))
    return {"found": found, "planted": planted}


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    check_known(settings.families, FAMILIES)
    keep_programs()
    path, small = result_path("truth", settings.preset, settings.out), settings.preset == "small"
    results = ResultFile(
        path, name="truth", command="python benchmarks/truth.py",
        settings={"truth": SMALL if small else FULL},
    )  # fmt: skip
    families, seeds = settings.families, settings.seeds
    if small:
        families, seeds = ("points",), (5,)
    results.run(
        ({"family": family, "seed": seed} for seed in seeds for family in families),
        lambda cell: compute(cell, small),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
