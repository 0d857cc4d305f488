"""What less precise projections would change: `python benchmarks/precision.py`.

`estimate.precision` acts on accelerators alone, and is taken there as it is. On a processor its products are
worked out in plain float32 from factors that are rounded as theirs are: to 11 significant bits (tf32), or
split into two numbers of 8 bits each, whose products are added but for that of the two small ones (bf16x3);
all to the nearest, and summed in float32. A run of the default settings is taken up to its grouping, its
features are computed in float64 and in every precision, and what follows from them is compared: their inner
products, the affinity, the groups.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import estimation
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from common import Preset, ResultFile, result_path
from study import SMALL_CONFIG

from pgx_jax import estimate, learn, pipeline
from pgx_jax.analysis.cost import estimated_subsets
from pgx_jax.analysis.inner_products import inner_products, relative_difference
from pgx_jax.config import Config
from pgx_jax.held_out import HeldOut
from pgx_jax.runs.run import Run
from pgx_jax.types import Features

SAMPLE = 2000
"""Transitions of each source whose inner products with each other are compared."""


@dataclass(frozen=True)
class Settings:
    """Compare the estimates from projections of every precision."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs."""
    out: Path | None = None
    """File of the results."""


def rounded(x, bits: int):
    """Numbers with so many significant bits, the nearest ones (of two the even one)."""
    mantissa, exponent = jnp.frexp(x)
    return jnp.ldexp(jnp.round(mantissa * 2**bits) / 2**bits, exponent)


def halves(x):
    """The two numbers of 8 significant bits that x is split into."""
    large = rounded(x, 8)
    return large, rounded(x - large, 8)


def bf16x3(x, y):
    """The product of split numbers, without that of the two small ones."""
    (large, small), (other, rest) = halves(x), halves(y)
    return small @ other + large @ rest + large @ other


PRODUCTS: dict[str, Callable] = {
    "float32": jnp.matmul,
    "bf16x3": bf16x3,
    "tf32": lambda x, y: rounded(x, 11) @ rounded(y, 11),
}
"""By the names of `estimate.PRECISIONS`."""


def projections(run: Run) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features of a run's transitions, whole gradients times the whole map: in float64, and by precision."""
    params, found, exact = learn.policy_params(run.meta), {name: [] for name in PRODUCTS}, []
    p = sum(int(np.size(x)) for x in jax.tree.leaves(params))
    rows = estimate.gaussian(run.features.key, p, run.config.estimate.dim)

    @jax.jit
    @jax.default_matmul_precision("float32")
    def gradients(obs, action):
        leaves = jax.tree.leaves(jax.vmap(jax.grad(run.policy.log_prob), (None, 0, 0))(params, obs, action))
        return jnp.concatenate([x.reshape(len(x), -1) for x in leaves], 1)

    emulated = PRODUCTS if jax.default_backend() == "cpu" else {}
    multiply = {name: jax.jit(product) for name, product in emulated.items()}
    for obs, action in zip(run.transitions.obs, run.transitions.action, strict=True):
        x = gradients(obs, action)
        exact.append(np.asarray(x, np.float64) @ np.asarray(rows, np.float64))
        for name, product in multiply.items():
            found[name].append(np.asarray(product(x, rows)))
    if emulated:
        return np.stack(exact), {name: np.stack(values) for name, values in found.items()}
    return np.stack(exact), {name: real(run, name) for name in PRODUCTS}


def real(run: Run, precision: str) -> np.ndarray:
    """Features of a run's transitions [U, N, d], as an accelerator computes them in a precision."""
    known = (run.policy.log_prob, learn.policy_params(run.meta), run.transitions, run.features.key)
    found = estimate.gradient_features(*known, run.config.estimate.dim, precision=precision)
    return np.asarray(found.values)


def estimates(run: Run, values: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Affinity [n, n] and labels [n] that follow from features [U, N, d]."""
    feats = Features(jnp.asarray(values, jnp.float32), run.features.key)
    names, e = run.family.task_names, run.config.estimate
    scored = pipeline.score_subsets(feats, run.transitions, estimated_subsets(run), e, names=names)
    held_out = HeldOut(feats, run.transitions, e, run.config.stream("deal"), names)
    affinity = pipeline.affinity(scored.scores, held_out, e)
    grouping = pipeline.choose_groups(affinity, held_out, run.config, names=names)
    return np.asarray(affinity.matrix, np.float64), np.asarray(grouping.labels).tolist()


def compute(cell: Mapping, preset: Preset) -> dict:
    """Features, affinity and groups of one seed by precision."""
    small = preset == "small"
    total = SMALL_CONFIG["steps_per_task"] if small else Config().steps_per_task
    asked = {"layers": 2, "steps_per_task": total}
    run = estimation.make_run(asked, cell["seed"], small)
    exact, by_precision = projections(run)
    gram, (matrix, labels) = inner_products(exact, SAMPLE), estimates(run, exact)
    off = ~np.eye(len(matrix), dtype=bool)
    found = {}
    for name, values in by_precision.items():
        own, groups = estimates(run, values)
        found[name] = {
            "features": relative_difference(values, exact),
            "inner_products": relative_difference(inner_products(values, SAMPLE), gram),
            "affinity": relative_difference(own[off], matrix[off]),
            "largest_of_range": float(np.abs(own - matrix)[off].max() / np.ptp(matrix[off])),
            "same_groups": groups == labels,
        }
    return {"precisions": found, "k": len(set(labels)), "dim": run.config.estimate.dim}


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("precision", settings.preset, settings.out)
    results = ResultFile(path, name="precision", command="python benchmarks/precision.py")
    seeds = settings.seeds if settings.preset == "full" else settings.seeds[:1]
    here = {"family": estimation.FAMILY, "platform": jax.default_backend()}
    cells = [here | {"seed": seed} for seed in seeds]
    results.run(cells, lambda cell: compute(cell, settings.preset))
    for done in results.cells:
        for name, own in done["precisions"].items():
            print(f"seed {done['cell']['seed']}, {name}: {own}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
