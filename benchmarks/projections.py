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
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from common import Preset, ResultFile, merge, result_path
from features import setup
from jax.flatten_util import ravel_pytree
from precision import difference, estimates, inner_products
from study import SMALL_CONFIG, SMALL_FAMILY, settings_of

from pgx_jax import estimate, grouping, learn
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


def seconds(function: Callable[[], object]) -> float:
    """Of one call: of processor time where that is what computes."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    began = clock()
    jax.block_until_ready(function())
    return clock() - began


def speed(cell: Mapping) -> dict:
    """Time all projections in turns."""
    log_prob, params, transitions = setup(cell | {"seed": 0})
    key = jax.random.PRNGKey(0)

    def features(name: str):
        known = (log_prob, params, transitions, key, cell["dim"])
        return lambda: estimate.gradient_features(*known, projection=name).values

    calls = {name: features(name) for name in PROJECTIONS}
    first = {name: seconds(call) for name, call in calls.items()}  # compiles
    rounds = {name: [] for name in calls}
    for _ in range(cell["rounds"]):
        for name, call in calls.items():
            rounds[name].append(seconds(call))
    p = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
    return {"p": p, "timings": {"first": first, "rounds": rounds}}


def kernel(run: Run) -> np.ndarray:
    """Inner products of the gradients of a source's first transitions: float64 [U, SAMPLE, SAMPLE]."""
    params, counts = learn.policy_params(run.meta), run.features.private
    counts = 1.0 if counts is None else ~np.asarray(counts)

    @jax.jit
    @jax.default_matmul_precision("float32")
    def gradients(obs, action):
        each = jax.vmap(jax.grad(run.policy.log_prob), (None, 0, 0))(params, obs, action)
        return jax.vmap(lambda tree: ravel_pytree(tree)[0])(each)

    obs, action = jax.tree.map(lambda x: x[:, :SAMPLE], (run.transitions.obs, run.transitions.action))
    parts = range(len(action))
    every = (gradients(*jax.tree.map(lambda x, i=i: x[i], (obs, action))) for i in parts)
    return np.stack([(x := np.asarray(g, np.float64) * counts) @ x.T for g in every])


def groups(cell: Mapping, preset: Preset) -> dict:
    """Errors, and the groups that follow, of every projection on the transitions of a run."""
    small = preset == "small"
    settings = {"seed": cell["seed"]} | (SMALL_FAMILY if small else {})
    known = settings_of(cell["family"])
    family = make_family(cell["family"], **{k: v for k, v in settings.items() if k in known})
    changes = merge(family.defaults, SMALL_CONFIG if small else {})
    run = Run(family, override(Config(seed=cell["seed"]), changes)).compute("grouping")
    exact, found = kernel(run), {name: [] for name in PROJECTIONS}
    for name in PROJECTIONS:
        for draw in range(DRAWS):
            own = run.features.key if not draw else jax.random.fold_in(run.features.key, draw)
            feats = estimate.gradient_features(
                run.policy.log_prob, learn.policy_params(run.meta), run.transitions, own,
                run.config.estimate.dim, private=run.features.private, projection=name,
            )  # fmt: skip
            _, labels = estimates(run, np.asarray(feats.values))
            truth = family.true_groups
            found[name].append({
                "error": difference(inner_products(feats.values[:, :SAMPLE]), exact),
                "k": len(set(labels)),
                "nmi": None if truth is None else float(grouping.nmi(np.asarray(truth), np.array(labels))),
                "labels": labels,
            })  # fmt: skip
    true_k = None if family.true_groups is None else len(set(np.asarray(family.true_groups).tolist()))
    parameters = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(learn.policy_params(run.meta)))
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
