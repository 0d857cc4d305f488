"""What other random maps than the Gaussian one cost and change: `python benchmarks/projections.py`.

Speed: every projection in turns, on a policy with the wanted number p of parameters and transitions that are
drawn at random (see features.py); of the whole call of `estimate.gradient_features`, compilation left out. On
a CPU processor time is taken, which others on the machine disturb less: give the script one core.

Groups: runs of the default settings up to their first grouping, whose features are then computed with every
projection, each drawn several times, and grouped. The transitions are real, of a trained theta*. The error is
that of the inner products of the features, of a source's first transitions with each other, against those of
the gradients: relative, in the norm of all. One family has no conflict: all its tasks want the same.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from common import Preset, ResultFile, merge, result_path
from features import setup
from study import SMALL_CONFIG, SMALL_FAMILY, settings_of

from pgx_jax import estimate, grouping, learn
from pgx_jax.analysis.inner_products import (
    gradient_products,
    inner_products,
    relative_difference,
    sample_size,
    timed,
)
from pgx_jax.analysis.subject import parameter_count
from pgx_jax.analysis.variants import Theta, Variant
from pgx_jax.config import Config, override
from pgx_jax.estimate import PROJECTIONS
from pgx_jax.runs.run import Run
from pgx_jax.tasks.registry import make_family

FAMILIES = ("cartpole-goals", "points", "points-hard", "cartpole-physics")
SPEED = ((10_000, 4096, 5), (100_000, 2048, 3), (1_000_000, 1024, 1))
"""Parameters, transitions (enough for drawing the map once to weigh little), and rounds."""
SMALL_SPEED = ((2000, 64, 1),)
SAMPLE = 500
"""Transitions of each source whose inner products are compared."""
DRAWS = 2
"""Of every projection's map, for each run; the first Gaussian one is the run's own."""


@dataclass(frozen=True)
class Settings:
    """Compare the projections' speed, errors and groups."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the runs, of their families too."""
    dim: int = 400
    """Projected dimension d where speed is measured."""
    out: Path | None = None
    """File of the results."""


def speed(cell: Mapping) -> dict:
    """Time all projections in turns."""
    log_prob, params, transitions = setup(cell | {"seed": 0})
    key = jax.random.PRNGKey(0)

    def features(name: str):
        known = (log_prob, params, transitions, key, cell["dim"])
        return lambda: estimate.gradient_features(*known, projection=name).values

    calls = {name: features(name) for name in PROJECTIONS}
    first = {name: timed(call)[1] for name, call in calls.items()}  # compiles
    rounds = {name: [] for name in calls}
    for _ in range(cell["rounds"]):
        for name, call in calls.items():
            rounds[name].append(timed(call)[1])
    p = parameter_count(params)
    return {"p": p, "timings": {"first": first, "rounds": rounds}}


def groups(cell: Mapping, preset: Preset) -> dict:
    """Errors, and the groups that follow, of every projection on the transitions of a run."""
    small = preset == "small"
    settings = {"seed": cell["seed"]} | (SMALL_FAMILY if small else {})
    known = settings_of(cell["family"])
    family = make_family(cell["family"], **{k: v for k, v in settings.items() if k in known})
    changes = merge(family.defaults, SMALL_CONFIG if small else {})
    run = Run(family, override(Config(seed=cell["seed"]), changes)).compute("grouping")
    count, truth = sample_size(run, SAMPLE), family.true_groups
    exact, found = gradient_products(run, count), {name: [] for name in PROJECTIONS}
    theta = Theta(run, looks=1)
    for name in PROJECTIONS:
        for draw in range(DRAWS):
            variant = Variant(override(theta.own, {"estimate.projection": name}), draw=draw)
            data = theta.data(variant)
            labels = np.asarray(theta.ask(variant, data).grouping.labels)
            found[name].append({
                "error": relative_difference(inner_products(data[1].values, count), exact),
                "k": len(set(labels.tolist())),
                "nmi": None if truth is None else grouping.nmi(truth, labels),
                "labels": labels.tolist(),
            })  # fmt: skip
    true_k = None if family.true_groups is None else len(set(np.asarray(family.true_groups).tolist()))
    parameters = parameter_count(learn.policy_params(run.meta))
    return {"projections": found, "true_k": true_k, "p": parameters, "dim": run.config.estimate.dim}


def cells(settings: Settings) -> list[dict]:
    """Sizes, and families with their seeds."""
    small, on = settings.preset == "small", {"platform": jax.default_backend()}
    sizes = [
        on | {"part": "speed", "parameters": p, "transitions": count, "rounds": rounds, "dim": settings.dim}
        for p, count, rounds in (SMALL_SPEED if small else SPEED)
    ]
    names, seeds = (FAMILIES[:1], settings.seeds[:1]) if small else (FAMILIES, settings.seeds)
    runs = [{"part": "groups", "family": name, "seed": seed} for seed in seeds for name in names]
    return sizes[:-1] + [on | run for run in runs] + sizes[-1:]  # the largest takes longest


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("projections", settings.preset, settings.out)
    results = ResultFile(path, name="projections", command="python benchmarks/projections.py")

    def compute(cell: Mapping) -> dict:
        return speed(cell) if cell["part"] == "speed" else groups(cell, settings.preset)

    results.run(cells(settings), compute)
    return 0


if __name__ == "__main__":
    sys.exit(main())
