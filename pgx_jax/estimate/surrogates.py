"""The surrogates: one weighted logistic regression per subset of the tasks (paper, stage 2)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.errors import ConfigError, DataError, NoSignalError, SolverError, pick
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.problems import Data, TaskStatistics, make_problems
from pgx_jax.estimate.solvers import SOLVERS, Solved, Solver
from pgx_jax.mesh import CUT_BY_COLUMNS, WHOLE, rounded
from pgx_jax.steady import Spread, compiled
from pgx_jax.types import FIT, Array, Features, Surrogates, Transitions

MIN_L2 = 1e-4
"""Smallest ridge, in units of ``ridge_unit``, whose systems float32 can still solve."""
EFFECTIVE_DIRECTIONS = 40
"""The unit of the ridge is tr(H) / 40, whatever the projected dimension."""
RIDGES = {"mean": False, "sum": True}
"""What the ridge is added to, by name: whether a subset's losses are added up instead of averaged."""
GAP = 1e-2
"""Relative gap from which on Newton's iterations are said not to have converged."""
TOLERANCE = 1e-4
"""Largest gap of a solution, relative, where nobody says otherwise."""
CHUNK = 256
"""Problems solved at a time: each has a logit for every transition of its tasks."""
ROW_MULTIPLE = 128
"""Rows are padded to a multiple of this, so that similar data share one compiled program."""


def label(task: int, names: Sequence[str] | None) -> str:
    """How messages call a task."""
    return f"task {task}" if names is None else f"task {task} ({names[task]!r})"


def signed_weights(transitions: Transitions, names: Sequence[str] | None = None) -> Float[np.ndarray, "n N"]:
    """Standardise the advantages of every task over all its transitions.

    The label of the paper's classification is y = sign(a), the weight is w = |a|. Standardising
    (mean 0, deviation 1 per task) makes tasks count the same whatever the scale of their rewards.

    Args:
        transitions: advantage [n, N].
        names: names of the n tasks, for messages.

    Returns:
        float32 [n, N]: y w.

    Raises:
        DataError: if a task's advantages are not finite or do not vary, naming the task.
    """
    advantage = np.asarray(transitions.advantage, np.float64)
    for task, row in enumerate(advantage):
        if not np.isfinite(row).all():
            where = int(np.flatnonzero(~np.isfinite(row))[0])
            raise DataError(
                f"{label(task, names)} has {int((~np.isfinite(row)).sum())} non-finite advantages, first at "
                f"transition {where}; check its rewards and the critic's values"
            )
        if row.std() <= 1e-6 * np.abs(row).max():
            value = "zero" if not row.any() else f"equal to {row[0]:.3g}"
            pairs = " (of pairs, let the chosen one come first as often as second)" if row.any() else ""
            raise NoSignalError(
                f"all {row.size} advantages of {label(task, names)} are {value}: nothing tells good actions "
                f"from bad ones{pairs}; collect more transitions, check its rewards, or leave the task out"
            )
    centred = advantage - advantage.mean(1, keepdims=True)
    return (centred / centred.std(1, keepdims=True)).astype(np.float32)


def select_rows(
    features: Features,
    transitions: Transitions,
    a: Float[Array, "n N"],
    parts: Sequence[int],
    share: Bool[Array, "n N"] | None = None,
) -> Data:
    """Keep the transitions of some parts of the data, padded to one length M for all sources.

    Args:
        features: values [U, N, d].
        transitions: split [U, N] and source [n].
        a: float [n, N], signed weights.
        parts: which of FIT, SCORE, SELECT.
        share: bool [n, N], the transitions of its source that each task reads (see `deal`); all if None.

    Returns:
        Data with weights divided by the number of transitions that each task reads in these parts.

    Raises:
        DataError: if a source has no transition in these parts.
    """
    keep = np.isin(np.asarray(transitions.split), list(parts))
    counts = keep.sum(1)
    if not counts.all():
        raise DataError(
            f"source {int(np.argmin(counts))} has no transitions in parts {tuple(parts)} of the split; "
            f"collect more (or shorter) trajectories per task"
        )
    total = keep.shape[1]
    rows = min(total, -(-int(counts.max()) // ROW_MULTIPLE) * ROW_MULTIPLE)
    index = np.argsort(~keep, axis=1, kind="stable")[:, :rows]
    source = np.asarray(transitions.source)
    read = keep[source] if share is None else keep[source] & np.asarray(share)
    weights = np.take_along_axis(np.asarray(a) * read, index[source], 1) / read.sum(1, keepdims=True)
    values = jax.device_put(features.values)
    if not keep.all():  # else the order is as it was
        values = _take(values, index)
    return Data(values, *jax.device_put((weights.astype(values.dtype), source)))


@partial(compiled, quick=True)
def _take(values: Float[Array, "U N d"], index: Int[Array, "U M"]) -> Float[jax.Array, "U M d"]:
    """The rows ``index`` of every source."""
    return jax.vmap(lambda rows, own: rows[own])(values, index)


def statistics(data: Data) -> TaskStatistics:
    """Gradient and curvature of every task's loss at theta*."""
    spare = ((0, 0), (0, rounded(data.g.shape[1]) - data.g.shape[1]))
    if any(spare[1]):
        data = data._replace(g=jnp.pad(data.g, (*spare, (0, 0))), a=jnp.pad(data.a, spare))
    return _statistics(data)


TRANSITIONS = Data(CUT_BY_COLUMNS, CUT_BY_COLUMNS, WHOLE)
"""How data lie on the mesh where each device sums over its own transitions."""


@partial(compiled, quick=True, spread=Spread({"data": TRANSITIONS}, summed=True))
def _statistics(data: Data) -> TaskStatistics:
    """Those of transitions that divide among the devices."""

    def curvature(task: tuple[Array, Array]) -> Array:
        a, source = task
        weighted = data.g[source] * jnp.sqrt(jnp.abs(a) / 4)[:, None]
        return weighted.T @ weighted

    b = data.transposed_times(data.a[:, None] / 2)[:, 0]
    return TaskStatistics(b, jax.lax.map(curvature, (data.a, data.source)))


@full_precision
def task_statistics(
    features: Features,
    transitions: Transitions,
    a: Float[Array, "n N"],
    parts: Sequence[int] = (FIT,),
    share: Bool[Array, "n N"] | None = None,
) -> TaskStatistics:
    """Gradient and curvature of every task's loss at theta* over some parts of its data.

    Args:
        features: values [U, N, d].
        transitions: split and sources.
        a: float [n, N], from ``signed_weights``.
        parts: which of FIT, SCORE, SELECT.
        share: bool [n, N], the transitions of them that each task reads (see `deal`).

    Returns:
        TaskStatistics with b [n, d] and h [n, d, d].
    """
    return statistics(select_rows(features, transitions, a, parts, share))


def ridge_unit(stats: TaskStatistics) -> float:
    """The unit u of the ridge: tr(mean_i H_i) / 40."""
    diagonal = np.einsum("ndd->nd", np.asarray(stats.h))
    return float(diagonal.sum(dtype=np.float64)) / (len(stats.h) * EFFECTIVE_DIRECTIONS)


@full_precision
def fit(
    features: Features,
    transitions: Transitions,
    member: Bool[Array, "m n"],
    *,
    l2: float = 1.0,
    ridge: str = "mean",
    iterations: int | None = None,
    solver: str = "newton",
    stats: TaskStatistics | None = None,
    parts: Sequence[int] = (FIT,),
    share: Bool[Array, "n N"] | None = None,
    tolerance: float = TOLERANCE,
    names: Sequence[str] | None = None,
) -> Surrogates:
    """Fit the surrogates of all subsets.

    Minimises, for every subset S, L_S(D) = 1/|S| sum_{i in S} 1/N_i sum_t w log(1 + exp(-y g.D))
    + l2/2 |D|^2: the paper's weighted logistic regression, with a ridge and every task weighing
    the same.

    Where the ridge is added to the sum of the losses instead (as if to their mean were added l2 / |S|), a
    task's step is as long in a large subset as alone; added to the mean, it is |S| times shorter along
    directions that no other task of the subset sees.

    Args:
        features: values [U, N, d].
        transitions: advantages, split and sources.
        member: bool [m, n], the subsets (the groups of a partition, say, are subsets as well).
        l2: ridge in multiples of ``ridge_unit``, at least 1e-4.
        ridge: a name of `RIDGES`: to the "mean" or the "sum" of a subset's losses it is added.
        iterations: of "newton", how many to make (default 1, the quadratic step); of "lbfgs", how
            many to allow (default 500).
        solver: a name of `SOLVERS`.
        stats: quadratic models if they are known already, from these parts of the data.
        parts: parts of the data that are fitted.
        share: bool [n, N], the transitions of them that each task is fitted on (see `deal`).
        tolerance: of "lbfgs", the largest gap L - L* in units of L(0) - L*.
        names: names of the tasks, for messages.

    Returns:
        Surrogates with delta [m, d], a NumPy array.

    Raises:
        ConfigError: for an l2 that is too small, an unknown solver, an empty or misshapen subset.
        DataError: if a task's advantages carry no signal.
        SolverError: if a problem does not converge.

    Several iterations of Newton that leave a relative gap of more than a hundredth are warned of.
    """
    member = _check_member(member, len(transitions.source))
    if not l2 >= MIN_L2:
        raise ConfigError(f"l2 = {l2} (in multiples of its unit); float32 needs at least {MIN_L2}")
    chosen = pick(SOLVERS, solver, "solver")
    iterations = chosen.iterations if iterations is None else iterations
    if iterations < 1:
        raise ConfigError(f"iterations = {iterations}; a solver needs at least 1")
    quadratic = iterations <= chosen.quadratic_up_to
    data = None
    if stats is None or not quadratic:
        data = select_rows(features, transitions, signed_weights(transitions, names), parts, share)
        stats = statistics(data) if stats is None else stats
    strength, summed = jnp.float32(l2 * ridge_unit(stats)), pick(RIDGES, ridge, "ridge")
    tolerance = tolerance if chosen.tolerance is None else chosen.tolerance

    deltas, used = [], 1 if quadratic else 2
    for start in range(0, len(member), CHUNK):
        chunk = member[start : start + CHUNK]
        problems, own = make_problems(chunk, summed=summed), slice(len(chunk))
        solved = chosen.solve(None if quadratic else data, stats, problems, strength, tolerance, iterations)
        gap = None if solved.gap is None else np.asarray(solved.gap)[own]
        # On the host, where parts of any length need no programs of their own.
        delta, error = np.asarray(solved.delta)[own], np.asarray(solved.error)[own]
        took = int(np.max(solved.iterations))
        solved = solved._replace(delta=delta, error=error, gap=gap, iterations=took)
        _require_solved(chosen, solved, chunk, l2, tolerance, names)
        _warn_of_gaps(solved, chunk, l2, names)
        used = max(used, took)
        deltas.append(solved.delta)
    delta = np.concatenate(deltas)
    _require_finite(delta, member, l2, names)
    return Surrogates(member, delta, strength, jnp.int32(used))


def _check_member(member: Array, n: int) -> Bool[np.ndarray, "m n"]:
    member = np.asarray(member, bool)
    if member.ndim != 2 or member.shape[1] != n or not len(member):
        raise ConfigError(f"member has shape {member.shape}; it must be [m, {n}], one column a task")
    if not member.any(1).all():
        raise ConfigError(f"subset {int(np.argmin(member.any(1)))} is empty; every subset needs a task")
    return member


def _tasks(row: np.ndarray, names: Sequence[str] | None) -> str:
    return ", ".join(label(int(task), names) for task in np.flatnonzero(row))


def _require_solved(
    solver: Solver,
    solved: Solved,
    member: np.ndarray,
    l2: float,
    tolerance: float,
    names: Sequence[str] | None,
) -> None:
    """SolverError in the solver's words if the error of a problem exceeds the tolerance."""
    error = np.asarray(solved.error)
    failed = ~(error <= tolerance)
    if failed.any():
        worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        raise SolverError(
            solver.failure.format(
                failed=int(failed.sum()), count=len(error), tasks=_tasks(member[worst], names),
                error=error[worst], iterations=solved.iterations, l2=l2, tolerance=tolerance,
            )
        )  # fmt: skip


def _warn_of_gaps(solved: Solved, member: np.ndarray, l2: float, names: Sequence[str] | None) -> None:
    """Say of problems whose iterations are used up how far they are from their optimum."""
    gap = np.zeros(1) if solved.gap is None else np.asarray(solved.gap)
    if (far := ~(gap <= GAP)).any():
        worst = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
        warnings.warn(
            f"{int(far.sum())} of {len(gap)} surrogates have not converged in {solved.iterations} Newton "
            f"iterations; the worst, of {_tasks(member[worst], names)}, has a relative gap of up to "
            f"{gap[worst]:.2g} (tolerance {GAP:.2g}): allow more iterations, take the solver 'lbfgs', or "
            f"raise l2 (= {l2})",
            stacklevel=3,
        )


def _require_finite(delta: Array, member: np.ndarray, l2: float, names: Sequence[str] | None) -> None:
    finite = np.isfinite(np.asarray(delta)).all(-1)
    if not finite.all():
        subset = int(np.argmin(finite))
        raise SolverError(
            f"the surrogate of {_tasks(member[subset], names)} is not finite at l2 = {l2}; raise l2, and "
            f"check that the features are finite"
        )
