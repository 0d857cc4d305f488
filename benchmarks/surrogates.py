"""All surrogates against scikit-learn: `python benchmarks/surrogates.py`.

The data are those of cartpole-goals: a meta-policy is trained and collects, and every transition
enters the fit (all parts of the split). All m surrogates are solved by one call of
`estimate.fit(solver="lbfgs")`, whose time includes standardising the advantages and arranging the
rows, and one after the other by scikit-learn, whose time is that of `LogisticRegression.fit` alone, on
rows that were arranged before.

Ours must bring every L - L* to at most 1e-4 of L(0) - L*, where L* is a float64 solution to machine
precision. scikit-learn is given its best: every solver and precision is tried on a few subsets with
the loosest tolerance that reaches this gap there (and given up as soon as it is slower than another),
and the fastest one then solves all subsets, in turns with ours. Where the gap of its other subsets
ends above 1e-4, that favours it. For the record, the fixed-curvature Newton method is timed as well.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
import tyro
from common import Preset, ResultFile, result_path
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from study import SMALL_CONFIG

from pgx_jax import estimate
from pgx_jax.config import Config, override
from pgx_jax.families import make_family
from pgx_jax.run import Run
from pgx_jax.types import FIT, SCORE, SELECT

FAMILY = "cartpole-goals"
ALL = (FIT, SCORE, SELECT)
SOLVERS = (
    *(
        (solver, dtype)
        for solver in ("newton-cg", "newton-cholesky", "lbfgs")
        for dtype in ("float32", "float64")
    ),
    ("liblinear", "float64"),  # it knows no other
    *((solver, dtype) for solver in ("sag", "saga") for dtype in ("float32", "float64")),
)
"""All of scikit-learn's; the likely ones first, since a slower one is given up early."""
COLLECTED = {"estimate": {"steps": 2048, "num_envs": 16}}
"""Ten tasks make N = 20,480 transitions."""
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class Settings:
    """Time all surrogates and scikit-learn's loop over them."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    l2: tuple[float, ...] = (1.0, 0.01, 0.001)
    """Ridges, in multiples of the unit u."""
    subsets: int = 200
    """Number m of surrogates."""
    size: int = 4
    """Tasks in a subset (of 10; there are 210 such subsets)."""
    trial: int = 8
    """Subsets on which scikit-learn's solvers and tolerances are chosen."""
    gap: float = 1e-4
    """Largest L - L* in units of L(0) - L*, for both."""
    repeats: int = 3
    """Timings of either side, in turns; the median counts."""
    seed: int = 0
    """Seed of the run that supplies the data, and of the choice of subsets."""
    out: Path | None = None
    """File of the results."""


class Regression:
    """One surrogate in float64: rows, labels, weights, and its loss."""

    def __init__(self, features: np.ndarray, a: np.ndarray, row: np.ndarray, l2: float):
        """Arrange the rows of features [n, N, d] and signed weights [n, N] of the tasks in row [n]."""
        self.x = np.concatenate(features[row]).astype(np.float64)
        signed = np.concatenate(a[row]).astype(np.float64)
        self.y, self.weight, self.l2 = np.sign(signed), np.abs(signed) / len(signed), l2

    def loss(self, delta: np.ndarray) -> float:
        """L(delta)."""
        margin = self.y * (self.x @ delta)
        return float(self.weight @ np.logaddexp(0, -margin) + self.l2 / 2 * delta @ delta)

    def solve(self, solver: str, dtype: str, tolerance: float) -> tuple[np.ndarray, float]:
        """Solution and seconds of scikit-learn (C = 1 / l2 makes it minimise L / l2)."""
        x, y, weight = (v.astype(dtype) for v in (self.x, self.y, self.weight))
        model = LogisticRegression(
            C=1 / self.l2, fit_intercept=False, solver=solver, tol=tolerance, max_iter=1000
        )
        began = time.perf_counter()
        model.fit(x, y, sample_weight=weight)
        return model.coef_[0].astype(np.float64), time.perf_counter() - began

    def gap(self, delta: np.ndarray, optimum: float) -> float:
        """(L - L*) / (L(0) - L*)."""
        return (self.loss(np.asarray(delta, np.float64)) - optimum) / (
            self.loss(np.zeros(self.x.shape[1])) - optimum
        )


class Data:
    """Transitions and features of a run, collected when they are first needed."""

    def __init__(self, settings: Settings):
        """Name the run; nothing is computed yet."""
        small = settings.preset == "small"
        self.family = make_family(FAMILY, **({"n_tasks": 4, "n_groups": 2, "horizon": 20} if small else {}))
        self.run = Run(
            self.family, override(Config(seed=settings.seed), SMALL_CONFIG if small else COLLECTED)
        )
        n = self.family.n
        size, count = (2, None) if small else (settings.size, settings.subsets)
        self.member = estimate.make_subsets(settings.seed, n, size, count)

    def regressions(self, l2: float) -> list[Regression]:
        """Every surrogate in float64; ``l2`` in absolute units."""
        values, a = np.asarray(self.run.features.values), estimate.signed_weights(self.run.transitions)
        return [Regression(values, a, row, l2) for row in self.member]

    def fit(self, l2: float, **settings):
        """All surrogates at once; returns them and the seconds that it took."""
        transitions, features = self.run.transitions, self.run.features
        began = time.perf_counter()
        found = estimate.fit(features, transitions, self.member, l2=l2, parts=ALL, **settings)
        found.delta.block_until_ready()
        return found, time.perf_counter() - began


def trials(problems: list[Regression], optima: list[float], gap: float) -> list[dict]:
    """Every solver and precision of scikit-learn at its loosest tolerance that reaches the gap.

    One that takes longer than the fastest so far is given up; its ``gap`` and times are of the
    subsets that it has solved.
    """
    out, fastest = [], np.inf
    for solver, dtype in SOLVERS:
        for tolerance in TOLERANCES:
            gaps, seconds = [], []
            for problem, best in zip(problems, optima, strict=True):
                delta, spent = problem.solve(solver, dtype, tolerance)
                gaps.append(problem.gap(delta, best))
                seconds.append(spent)
                if sum(seconds) > fastest:
                    break
            reached = len(gaps) == len(problems) and max(gaps) <= gap
            if reached or sum(seconds) > fastest:
                break
        fastest = min(fastest, sum(seconds)) if reached else fastest
        out.append(
            {
                "solver": solver, "dtype": dtype, "tolerance": tolerance, "gap": max(gaps),
                "reached": reached,
                "timings": {"each": seconds, "sum": float(sum(seconds))},
            }
        )  # fmt: skip
    return out


def compute(data: Data, cell: Mapping, settings: Settings) -> dict:
    """Solve all surrogates of one l2 with both."""
    found, _ = data.fit(cell["l2"], solver="lbfgs")  # compiles
    problems = data.regressions(float(found.l2))
    # The reference solution: Newton's method in float64, to the end.
    optima = [p.loss(p.solve("newton-cholesky", "float64", 1e-10)[0]) for p in problems]

    def gaps(deltas) -> list[float]:
        return [p.gap(d, best) for p, d, best in zip(problems, np.asarray(deltas), optima, strict=True)]

    tried = trials(problems[: cell["trial"]], optima[: cell["trial"]], settings.gap)
    fastest = min((t for t in tried if t["reached"]), key=lambda t: t["timings"]["sum"])
    chosen = (fastest["solver"], fastest["dtype"], fastest["tolerance"])
    ours, theirs = [], []
    for _ in range(cell["repeats"]):
        found, seconds = data.fit(cell["l2"], solver="lbfgs")
        ours.append(seconds)
        solved = [p.solve(*chosen) for p in problems]
        theirs.append([s for _, s in solved])
    newton = []
    for iterations in (1, 5):
        data.fit(cell["l2"], iterations=iterations)
        steps, seconds = data.fit(cell["l2"], iterations=iterations)
        newton.append(
            {"iterations": iterations, "gap": max(gaps(steps.delta)), "timings": {"seconds": seconds}}
        )
    speedups = [sum(t) / o for o, t in zip(ours, theirs, strict=True)]
    return {
        "rows": int(np.size(data.run.transitions.action)),
        "rows_of_each": [len(p.y) for p in problems[:1]][0],
        "dim": int(found.delta.shape[1]),
        "subsets": len(problems),
        "iterations": int(found.iterations),
        "gap": max(gaps(found.delta)),
        "sklearn": {"solver": chosen[0], "dtype": chosen[1], "tolerance": chosen[2],
                    "gap": max(gaps([d for d, _ in solved])), "version": metadata.version("scikit-learn")},
        "sklearn_trials": tried,
        "newton": newton,
        "timings": {
            "ours": ours, "sklearn_each": theirs, "sklearn": [float(sum(t)) for t in theirs],
            "speedups": speedups, "speedup": float(np.median(speedups)),
        },
    }  # fmt: skip


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", category=FutureWarning, module="sklearn")
    small = settings.preset == "small"
    data = Data(settings)
    path = result_path("surrogates", settings.preset, settings.out)
    about = {
        "seed": settings.seed, "gap": settings.gap, "size": int(data.member.sum(1).max()),
        "subsets": len(data.member), "family": data.family.settings, "config": data.run.config,
    }  # fmt: skip
    results = ResultFile(path, name="surrogates", command="python benchmarks/surrogates.py", settings=about)
    shared = {"trial": 2, "repeats": 1} if small else {"trial": settings.trial, "repeats": settings.repeats}
    shared["platform"] = jax.default_backend()
    cells = [{"l2": l2, **shared} for l2 in (settings.l2[:1] if small else settings.l2)]
    results.run(cells, lambda cell: compute(data, cell, settings))
    for done in results.cells:
        theirs, times = done["sklearn"], done["timings"]
        print(
            f"{done['cell']['platform']}: l2 = {done['cell']['l2']} u: "
            f"{done['subsets']} surrogates in {np.median(times['ours']):.2f} s, "
            f"gap {done['gap']:.1e}; scikit-learn ({theirs['solver']}, {theirs['dtype']}) "
            f"{np.median(times['sklearn']):.1f} s, gap {theirs['gap']:.1e}: "
            f"{times['speedup']:.1f} times as long"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
