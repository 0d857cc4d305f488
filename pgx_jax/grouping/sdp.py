"""The semidefinite relaxation of the best partition (paper, "Grouping").

A partition of n tasks is the matrix X with X_ij = 1/|C| inside a group C and 0 across groups:
positive semidefinite, non-negative, of unit row sums, and tr X is the number of groups. The
relaxation keeps these properties and drops integrality::

    max <U, X> - trace_penalty * tr X    subject to   X psd,  X >= 0,  X 1 = 1   (,  tr X = k)

With X 1 = 1, adding a constant or a_i + a_j to U (diagonal included) changes nothing, but the
scale of U sets the unit of ``trace_penalty`` and its diagonal sets the meaning: hence `standardise`.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from pgx_jax.errors import ConfigError, DataError, SolverError, pick
from pgx_jax.grouping.admm import ADMM, Spectral

_FEASIBILITY = 1e-3


Solve = Callable[[float, int | None], np.ndarray]
"""(trace_penalty, k) -> X [n, n] of one matrix; raises SolverError where it does not get there."""


@dataclass(frozen=True)
class SDPSolver:
    """A solver of the relaxation: one that CVXPY knows by its name, or a function."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """What it is given."""
    up_to: float = math.inf
    """Largest n for which it is fast."""
    of: Callable[..., Solve] | None = None
    """What makes a `Solve` of U [n, n] (and the options), which may begin each solution with its last one;
    None for CVXPY's."""
    nonnegative: bool = True
    """Whether X >= 0 is among its constraints."""


SDP_SOLVERS: dict[str, SDPSolver] = {
    "CLARABEL": SDPSolver(up_to=16),
    "ADMM": SDPSolver(up_to=80, of=ADMM),
    "SCS": SDPSolver({"eps_abs": 1e-5, "eps_rel": 1e-5, "max_iters": 20_000}, up_to=60),
    "SPECTRAL": SDPSolver(of=Spectral, nonnegative=False),
}
"""Solvers of the relaxation by name; where none is asked for, those that are fast come first."""


def check_matrix(matrix: ArrayLike, names: Sequence[str] | None = None) -> Float[np.ndarray, "n n"]:
    """Return the affinity as float64 [n, n], symmetrised.

    Entries on the diagonal are not used by anything in this package and may be anything.

    Raises:
        DataError: not a square matrix of at least 2 tasks, or a pair without a finite affinity.
    """
    U = np.asarray(matrix, dtype=np.float64)
    if U.ndim != 2 or U.shape[0] != U.shape[1] or U.shape[0] < 2:
        raise DataError(f"the affinity must be a square matrix of at least 2 tasks, got shape {U.shape}")
    n = len(U)
    if names is not None and len(names) != n:
        raise ConfigError(f"{len(names)} task names for an affinity of {n} tasks")
    bad = np.argwhere(~np.isfinite(U) & ~np.eye(n, dtype=bool))
    if len(bad):
        i, j = (repr(names[t]) if names is not None else int(t) for t in bad[0])
        raise DataError(
            f"the affinity of tasks {i} and {j} is not finite ({len(bad)} such entries): "
            "draw more subsets so that every pair is covered, and check the scores of these tasks"
        )
    U = (U + U.T) / 2
    np.fill_diagonal(U, 0.0)
    return U


def standardise(matrix: ArrayLike, names: Sequence[str] | None = None) -> Float[np.ndarray, "n n"]:
    """Bring an affinity to the scale on which one grid of trace penalties fits all families.

    Symmetrise; remove the additive effects a_i + a_j of the tasks (least squares over the
    off-diagonal entries, so that the diagonal plays no part); divide by the one standard deviation
    of the off-diagonal entries; set the diagonal to the maximum of its row, so that no task is
    better off alone than with its closest companion. At n <= 3 the additive effects would explain
    everything, and only the mean is removed. An affinity without signal becomes zero.

    Args:
        matrix: [n, n], in any unit; the diagonal is ignored.
        names: n task names for error messages.

    Returns:
        float64 [n, n], symmetric, of unit off-diagonal deviation (or zero).

    Raises:
        DataError: see `check_matrix`.
    """
    eps = np.finfo(np.asarray(matrix).dtype).eps if np.asarray(matrix).dtype.kind == "f" else 1e-15
    U = check_matrix(matrix, names)
    n = len(U)
    off = ~np.eye(n, dtype=bool)
    magnitude = np.abs(U[off]).max()
    mean = U[off].mean()
    effect = (U.sum(1) - (n - 1) * mean) / (n - 2) if n > 3 else np.zeros(n)
    U = U - (mean + (effect[:, None] + effect[None, :]))
    scale = U[off].std()
    if scale <= 10 * eps * magnitude:
        return np.zeros((n, n))
    U = U / scale
    U[~off] = np.where(off, U, -np.inf).max(1)
    return U


class Relaxed(NamedTuple):
    """A solution of the relaxation."""

    X: Float[np.ndarray, "n n"]
    solver: str
    """Name of the one of `SDP_SOLVERS` that found it."""


class PartitionSDP:
    """The relaxation for one matrix, solved at many penalties and k.

    Args:
        U: float [n, n], symmetric, standardised where penalties are to be comparable.
        solver: a name of `SDP_SOLVERS`; None tries all of them, those first that are fast for n tasks
            (Clarabel up to n = 16, then ADMM, then the spectral relaxation), until one succeeds.

    Raises:
        ConfigError: for an unknown solver.
        DataError: U is not square, or not finite.
    """

    def __init__(self, U: ArrayLike, solver: str | None = None):
        if solver is not None:
            pick(SDP_SOLVERS, solver, "solver")
        U = np.asarray(U, dtype=np.float64)
        if U.ndim != 2 or U.shape[0] != U.shape[1] or not np.isfinite(U).all():
            raise DataError(f"the SDP needs a finite affinity [n, n], got one of shape {U.shape}")
        self.U, self.n, self._solver = (U + U.T) / 2, len(U), solver
        self._made: dict[str, Solve] = {}

    @property
    def solvers(self) -> list[str]:
        """Names of the solvers, in the order in which they are tried."""
        if self._solver is not None:
            return [self._solver]
        return sorted(SDP_SOLVERS, key=lambda name: self.n > SDP_SOLVERS[name].up_to)

    def solve(self, *, trace_penalty: float | None = None, k: int | None = None) -> Relaxed:
        """The optimal X, float64 [n, n], and who found it.

        Args:
            trace_penalty: price of a group, in units of U (0 when None).
            k: number of groups as the constraint tr X = k; excludes ``trace_penalty``.

        Raises:
            ConfigError: both k and a penalty, or k outside 1..n.
            SolverError: no solver reached a feasible optimum.
        """
        if k is not None and trace_penalty is not None:
            raise ConfigError("give either k or trace_penalty, not both")
        if k is not None and not 1 <= k <= self.n:
            raise ConfigError(f"k = {k} groups of {self.n} tasks: k must be between 1 and {self.n}")
        failures = []
        for name in self.solvers:
            try:
                return Relaxed(self._attempt(name, trace_penalty or 0.0, k), name)
            except (SolverError, np.linalg.LinAlgError) as error:
                failures.append(f"{name}: {error}")
        setting = f"k = {k}" if k is not None else f"trace_penalty = {trace_penalty or 0.0}"
        raise SolverError(
            f"the grouping SDP of {self.n} tasks at {setting} was not solved ({'; '.join(failures)}); "
            "try another solver, and look for extreme entries in the affinity"
        )

    def _attempt(self, name: str, trace_penalty: float, k: int | None) -> np.ndarray:
        """Solve by one solver, and judge the solution by its violations.

        Raises:
            SolverError: it did not get there.
        """
        solver = SDP_SOLVERS[name]
        if name not in self._made:
            made = None if solver.of is None else solver.of(self.U, **solver.options)
            self._made[name] = made or partial(_compiled(self.n).solve, name, solver.options, self.U)
        X = self._made[name](trace_penalty, k)
        X = (X + X.T) / 2
        violation = infeasibility(X, k) if solver.nonnegative else 0.0
        if not violation <= _FEASIBILITY:
            raise SolverError(f"constraints violated by {violation:.1e}")
        return X


class _Compiled:
    """The relaxation for n tasks as CVXPY has it, compiled once and solved for many objectives."""

    def __init__(self, n: int):
        import cvxpy as cp  # here: a third of a second that few need to wait for

        self._X = cp.Variable((n, n), symmetric=True)
        self._objective = cp.Parameter((n, n), symmetric=True)
        self._trace = cp.Parameter()
        upper = np.triu_indices(n)
        feasible = [self._X >> 0, self._X[upper] >= 0, cp.sum(self._X, axis=1) == 1]
        goal = cp.Maximize(cp.sum(cp.multiply(self._objective, self._X)))
        self._free = cp.Problem(goal, feasible)
        self._fixed = cp.Problem(goal, [*feasible, cp.trace(self._X) == self._trace])

    def solve(
        self, solver: str, options: Mapping[str, Any], U: np.ndarray, trace_penalty: float, k: int | None
    ) -> np.ndarray:
        """X [n, n] by one of CVXPY's solvers, from a cold start.

        Raises:
            SolverError: it gave none.
        """
        import cvxpy as cp  # as above

        goal = U - trace_penalty * np.eye(len(U))
        goal = goal + goal.T
        self._objective.value = goal / (np.abs(goal).max() or 1.0)  # the unit changes no solution
        self._trace.value = float(k or 0)
        problem = self._free if k is None else self._fixed
        try:
            with warnings.catch_warnings():  # an inaccurate solution is judged by its violations
                warnings.simplefilter("ignore", UserWarning)
                problem.solve(solver=solver, warm_start=False, **options)
        except (cp.error.SolverError, ValueError, ArithmeticError) as error:
            raise SolverError(str(error).splitlines()[0]) from None
        if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE) or self._X.value is None:
            raise SolverError(f"status {problem.status}")
        return self._X.value


_THREAD = threading.local()


def _compiled(n: int) -> _Compiled:
    """Of which each thread has one a size: CVXPY takes longer to compile it than to solve it once."""
    made: dict[int, _Compiled] = _THREAD.__dict__.setdefault("made", {})
    if n not in made:
        made[n] = _Compiled(n)
    return made[n]


def infeasibility(X: Float[np.ndarray, "n n"], k: int | None = None) -> float:
    """Largest violation of the constraints of the relaxation by X [n, n]; NaN if X is not finite."""
    if not np.isfinite(X).all():
        return float("nan")
    violations = [np.abs(X.sum(1) - 1).max(), -X.min(), -np.linalg.eigvalsh(X).min()]
    if k is not None:
        violations.append(abs(np.trace(X) - k))
    return float(max(0.0, *violations))


def solve_sdp(
    U: ArrayLike, trace_penalty: float | None = None, k: int | None = None, solver: str | None = None
) -> Float[np.ndarray, "n n"]:
    """Solve one relaxation; see `PartitionSDP` for a path of them. Returns X, float64 [n, n]."""
    return PartitionSDP(U, solver).solve(trace_penalty=trace_penalty, k=k).X
