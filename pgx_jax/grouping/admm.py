"""Two solvers of the relaxation by eigenvectors alone, without CVXPY (see `sdp` for the problem).

The matrices that are positive semidefinite and at most I, with unit row sums (and tr X = k), are
``11'/n + V diag(s) V'`` with V orthogonal to the ones and s in [0, 1] (of sum k - 1). The nearest of
them to any matrix takes one eigendecomposition, and so does the one with the largest <G, X>. (X <= I
follows from the constraints of the relaxation: a non-negative matrix of unit row sums has no eigenvalue
above 1.) `Spectral` stops there; `ADMM` alternates between this set and that of X >= 0.

Both are made of one matrix and then called along the path, as the table `SDP_SOLVERS` asks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pgx_jax.errors import SolverError


class Spectral:
    """The relaxation of a matrix without X >= 0: solved exactly, for all penalties and k at once.

    The optimum is ``11'/n`` plus the projector on the eigenvectors of JUJ, J = I - 11'/n, with
    eigenvalues above the penalty, or on the k - 1 leading ones. Its entries are negative where tasks go
    together less than not at all, so that `infeasibility` does not apply. It is a looser bound than the
    relaxation's, and rounds as well where groups are clear.
    """

    def __init__(self, U: Float[np.ndarray, "n n"]):
        self._values, self._vectors = _spectrum(U)

    def __call__(self, trace_penalty: float, k: int | None) -> Float[np.ndarray, "n n"]:
        """The optimal X, float64 [n, n], at a penalty or at tr X = k."""
        count = int(np.sum(self._values > trace_penalty)) if k is None else k - 1
        return _matrix(np.ones(count), self._vectors[:, len(self._values) - count :])


class _Iterate(NamedTuple):
    """Where ADMM stands."""

    Y: Float[np.ndarray, "n n"]
    """Copy of X with Y >= 0."""
    price: Float[np.ndarray, "n n"]
    """Multiplier of X = Y, in units of U."""
    step: float
    """The weight rho of the squared distance, in units of U."""


class ADMM:
    """The relaxation of a matrix by alternating directions: one eigendecomposition a step.

    The augmented Lagrangian of ``max <G, X> : X in A, Y >= 0, X = Y`` with G = U - trace_penalty I and A
    as above is minimised over X and Y in turn, over-relaxed, its weight balancing the residuals. X is
    in A exactly, and not below zero by more than the tolerance. Each call begins with the solution of
    the one before, the first with the spectral relaxation's.

    Args:
        U: float [n, n], symmetric.
        tolerance: residuals relative to X and to the multiplier (or G) at which it ends.
        iterations: after so many it has failed.
    """

    def __init__(self, U: Float[np.ndarray, "n n"], *, tolerance: float = 3e-4, iterations: int = 3000):
        self._U, self._tolerance, self._iterations = _centred(U), tolerance, iterations
        self._last: _Iterate | None = None

    def __call__(self, trace_penalty: float, k: int | None) -> Float[np.ndarray, "n n"]:
        """The optimal X, float64 [n, n], at a penalty or at tr X = k.

        Raises:
            SolverError: the residuals did not vanish.
        """
        n = len(self._U)
        goal = self._U - trace_penalty * (np.eye(n) - 1 / n)
        size = float(np.linalg.norm(goal)) or 1.0
        total = None if k is None else k - 1
        Y, price, step = self._last or _Iterate(_nearest(goal * (1e6 / size), total), 0.0 * goal, size / n)
        Y = np.maximum(Y, 0.0)
        for iteration in range(self._iterations):
            X = _nearest(Y + (goal - price) / step, total)
            ahead = _OVER * X + (1 - _OVER) * Y + price / step
            previous, Y = Y, np.maximum(ahead, 0.0)
            price = step * (ahead - Y)
            apart = float(np.linalg.norm(X - Y) / np.linalg.norm(Y))
            moved = float(step * np.linalg.norm(Y - previous)) / max(float(np.linalg.norm(price)), size)
            if max(apart, moved) <= self._tolerance:
                self._last = _Iterate(Y, price, step)
                return X
            if iteration + 1 in _BALANCED:
                step *= float(np.clip(np.sqrt(apart / max(moved, 1e-12)), 0.5, 2.0))
        raise SolverError(
            f"residuals {apart:.1e} and {moved:.1e} after {self._iterations} iterations of ADMM"
        )


_OVER = 1.6
"""Over-relaxation."""
_BALANCED = frozenset(range(10, 300, 10))
"""Iterations after which the weight of the distance is changed; later on it stays, and all converges."""


def _centred(S: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """JSJ of a symmetric matrix: without the means of rows and columns."""
    mean = S.mean(1)
    return S - mean[:, None] - mean[None, :] + mean.mean()


def _spectrum(S: Float[np.ndarray, "n n"]) -> tuple[Float[np.ndarray, "r"], Float[np.ndarray, "n r"]]:
    """Eigenvalues [n - 1], ascending, and vectors [n, n - 1] of JSJ on what is orthogonal to the ones."""
    S = _centred(S)
    below = 2 * np.linalg.norm(S) + 1.0  # the ones become the first eigenvector, apart from all others
    values, vectors = np.linalg.eigh(S - below / len(S))
    return values[1:], vectors[:, 1:]


def _matrix(shares: Float[np.ndarray, "r"], vectors: Float[np.ndarray, "n r"]) -> Float[np.ndarray, "n n"]:
    return (vectors * shares) @ vectors.T + 1 / len(vectors)


def _nearest(S: Float[np.ndarray, "n n"], total: float | None) -> Float[np.ndarray, "n n"]:
    """The nearest matrix to S of those at the head of this module, of trace 1 + total if given."""
    values, vectors = _spectrum(S)
    shares = np.clip(values, 0.0, 1.0) if total is None else capped_shares(values, total)
    some = shares > 0
    return _matrix(shares[some], vectors[:, some])


def capped_shares(values: Float[np.ndarray, "r"], total: float) -> Float[np.ndarray, "r"]:
    """The nearest point to ``values`` [r] with entries in [0, 1] and of the sum ``total`` <= r.

    It is clip(values - t, 0, 1) for the t with that sum, which is linear between values and values - 1.
    """
    at = np.concatenate([values - 1, values])
    order = np.argsort(at)
    at, sloping = at[order], np.cumsum(np.where(order < len(values), 1, -1))
    sums = len(values) - np.concatenate([[0.0], np.cumsum(sloping[:-1] * np.diff(at))])
    return np.clip(values - np.interp(total, sums[::-1], at[::-1]), 0.0, 1.0)
