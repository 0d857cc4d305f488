"""Surrogates as single regressions in float64, and the fastest way of scikit-learn to solve them.

It needs NumPy and scikit-learn alone, so that environments without us can import it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

warnings.simplefilter("ignore", ConvergenceWarning)
warnings.filterwarnings("ignore", category=FutureWarning, module="sklearn")

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
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


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

    def prepared(self, solver: str, dtype: str, tolerance: float) -> Callable[[], np.ndarray]:
        """A function that solves it by scikit-learn (C = 1 / l2 makes it minimise L / l2)."""
        x, y, weight = (v.astype(dtype) for v in (self.x, self.y, self.weight))
        model = LogisticRegression(
            C=1 / self.l2, fit_intercept=False, solver=solver, tol=tolerance, max_iter=1000
        )
        return lambda: model.fit(x, y, sample_weight=weight).coef_[0].astype(np.float64)

    def solve(self, solver: str, dtype: str, tolerance: float) -> tuple[np.ndarray, float]:
        """Solution and seconds of scikit-learn, the rows being arranged before."""
        run = self.prepared(solver, dtype, tolerance)
        began = time.perf_counter()
        return run(), time.perf_counter() - began

    def optimum(self) -> float:
        """L*: of Newton's method in float64, to the end."""
        return self.loss(self.solve("newton-cholesky", "float64", 1e-10)[0])

    def gap(self, delta: np.ndarray, optimum: float) -> float:
        """(L - L*) / (L(0) - L*)."""
        return (self.loss(np.asarray(delta, np.float64)) - optimum) / (
            self.loss(np.zeros(self.x.shape[1])) - optimum
        )


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


def choose(problems: list[Regression], optima: list[float], gap: float) -> tuple[tuple, list[dict]]:
    """What solves the problems in the least time: (solver, dtype, tolerance); and all that was tried."""
    tried = trials(problems, optima, gap)
    best = min((t for t in tried if t["reached"]), key=lambda t: t["timings"]["sum"])
    return (best["solver"], best["dtype"], best["tolerance"]), tried
