"""How well one set of numbers f_i(S) tells another: correlations, signs, and the groups that follow.

Arrays are [m, n], of m subsets and n tasks; only those of tasks inside their subset are read, as the affinity
does. Three scopes:

- ``subsets``: f(S), the mean over a subset's tasks, over all subsets (the paper's performance of a subset);
- ``pairs``: f_i(S) over all pairs of subset and task together;
- ``within``: f_i(S) over the subsets with task i, task by task. What a task earns anyway, whoever comes
  along, is in the first two and not in this one; which company suits a task is told by this one alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from pgx_jax import estimate, grouping
from pgx_jax.errors import pick
from pgx_jax.types import Scores

Coefficient = Callable[[Float[np.ndarray, "N"], Float[np.ndarray, "N"]], float]
"""(x [N], y [N]) -> their correlation; NaN where one of them does not vary."""


ROUNDING = 1e-9
"""Numbers that differ by no more than this part of the largest are the same: means of the same numbers in
another order do."""


def _varies(x: Float[np.ndarray, "N"]) -> bool:
    return bool(np.ptp(x) > ROUNDING * np.abs(x).max())


def _where_both_vary(function: Callable[..., tuple[float, float]]) -> Coefficient:
    def correlation(x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> float:
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        return float(function(x, y)[0]) if len(x) > 2 and _varies(x) and _varies(y) else math.nan

    return correlation


CORRELATIONS: dict[str, Coefficient] = {
    "pearson": _where_both_vary(stats.pearsonr),
    "spearman": _where_both_vary(stats.spearmanr),
}
"""Correlations by name."""

SCOPES = ("subsets", "pairs", "within")


def by_task(
    kind: str,
    x: Float[np.ndarray, "m n"],
    y: Float[np.ndarray, "m n"],
    read: Bool[np.ndarray, "m n"],
) -> Float[np.ndarray, "n"]:
    """Correlation within every task, over the pairs that are ``read``: float [n], NaN where there is none."""
    function = pick(CORRELATIONS, kind, "the correlation")
    return np.array([function(x[rows, i], y[rows, i]) for i, rows in enumerate(read.T)])


def correlation(
    kind: str,
    scope: str,
    x: Float[np.ndarray, "m n"],
    y: Float[np.ndarray, "m n"],
    member: Bool[np.ndarray, "m n"],
) -> float:
    """A correlation of `CORRELATIONS` in one of `SCOPES`, "within" as the mean over tasks; NaN where nothing
    varies."""
    function = pick(CORRELATIONS, kind, "the correlation")
    if scope == "within":
        found = by_task(kind, x, y, member)
        return float(np.nanmean(found)) if np.isfinite(found).any() else math.nan
    if scope == "pairs":
        return function(x[member], y[member])
    return function(of_subsets(x, member), of_subsets(y, member))


def of_subsets(values: Float[np.ndarray, "m n"], member: Bool[np.ndarray, "m n"]) -> Float[np.ndarray, "m"]:
    """f(S): the mean over the tasks of every subset, float [m]."""
    return np.where(member, values, 0.0).sum(1) / member.sum(1)


def same_sign(
    x: Float[np.ndarray, "m n"], y: Float[np.ndarray, "m n"], member: Bool[np.ndarray, "m n"]
) -> float:
    """Part of the pairs in which both have one sign: whether a task gains by a subset or loses."""
    known = member & np.isfinite(x) & np.isfinite(y)
    return float((np.sign(x[known]) == np.sign(y[known])).mean()) if known.any() else math.nan


def commoner_sign(y: Float[np.ndarray, "m n"], member: Bool[np.ndarray, "m n"]) -> float:
    """What `same_sign` is of whoever says always the same."""
    gains = float((y[member] > 0).mean())
    return max(gains, 1 - gains)


def reliability(kind: str, scope: str, values: Float[np.ndarray, "R m n"], member: np.ndarray) -> float:
    """How far the mean over R repeats is known: its correlation with what the mean over R others would be.

    The mean correlation of two repeats, stepped up to R of them (Spearman-Brown). An estimate without any
    error correlates with the mean by the root of it, which is the ceiling; NaN of a single repeat.
    """
    count = len(values)
    pairs = [correlation(kind, scope, *pair, member) for pair in itertools.combinations(values, 2)]
    one = max(float(np.mean(pairs)), 0.0) if pairs else math.nan
    return count * one / (1 + (count - 1) * one)


def groups_from(
    values: Float[np.ndarray, "m n"], member: Bool[np.ndarray, "m n"], k: int, kind: str
) -> Int[np.ndarray, "n"]:
    """The k groups that scores of subsets lead to, int [n]: affinity (`estimate.AFFINITIES`), relaxation and
    rounding as in the method; of the roundings the one with the largest objective.

    Raises:
        ConfigError: a pair of tasks that no subset contains.
        DataError: a score that is not finite.
    """
    matrix = estimate.affinity(Scores(member, values), kind).matrix
    return grouping.group(matrix, k=k).labels
