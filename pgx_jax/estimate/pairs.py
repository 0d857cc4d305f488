"""From scores of subsets to the affinity of pairs (paper, stage 2), with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pgx_jax.errors import ConfigError, DataError, pick
from pgx_jax.estimate.subsets import check_coverage
from pgx_jax.types import Affinity, Key, Scores

DATAMODEL_RIDGE = 1e-2
"""Ridge of the datamodel, in units of the mean variance of its membership columns."""


def _pair_mean(member: np.ndarray, values: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "B n n"]:
    """Means over the subsets with both tasks of the mean of their two values [m, n] (0 outside the subsets),
    weighted by each row of weights [B, m]: [B, n, n], nan where there is no such subset.

    (V'M + M'V) / 2 M'M, where M is the membership: nothing of size [m, n, n] is made.
    """
    member = member.astype(float)

    def mean(weight: np.ndarray) -> np.ndarray:
        weighted = member.T * weight
        total = weighted @ values
        return (total + total.T) / 2 / (weighted @ member)

    with np.errstate(invalid="ignore"):
        return np.stack([mean(weight) for weight in weights])


def _per_task(member: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _pair_mean(member, values, weights)


def _aggregate(member: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    whole = values.sum(1, keepdims=True) / member.sum(1, keepdims=True)
    return _pair_mean(member, member * whole, weights)


def _datamodel(member: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.stack([_regression(member, values, weight) for weight in weights])


def _regression(member: np.ndarray, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    n = member.shape[1]
    matrix = np.full((n, n), np.nan)
    for i in range(n):
        rows, others = member[:, i], np.arange(n) != i
        if not weight[rows].any():
            continue
        w = weight[rows] / weight[rows].sum()
        x, f = member[rows][:, others].astype(float), values[rows, i]
        level = w @ f
        x, f = x - w @ x, f - level
        ridge = DATAMODEL_RIDGE * max(float((w @ x**2).mean()), 1e-6)
        matrix[i, others] = np.linalg.solve(x.T @ (w[:, None] * x) + ridge * np.eye(n - 1), x.T @ (w * f))
        matrix[i, i] = level
    return (matrix + matrix.T) / 2


Matrices = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(member [m, n], values [m, n] with zeros outside the subsets, weights of the subsets [B, m]) -> symmetric
matrices [B, n, n], nan for a pair that meets in no subset of positive weight."""


@dataclass(frozen=True)
class AffinityKind:
    """How it is told how well pairs go together: from scores of subsets, or from gradients without them."""

    matrices: Matrices | None = None
    """Of scores of subsets."""
    similarity: str | None = None
    """In place of these, the name of a similarity of gradients (in `estimate.SIMILARITIES`)."""

    @property
    def reads_scores(self) -> bool:
        """Whether it comes from scores of subsets."""
        return self.similarity is None


AFFINITIES: dict[str, AffinityKind] = {
    "per_task": AffinityKind(_per_task),
    "aggregate": AffinityKind(_aggregate),
    "datamodel": AffinityKind(_datamodel),
    "closed_form": AffinityKind(similarity="closed_form"),
}
"""Kinds of affinity by name, see `affinity`; where gradients alone tell it, `estimate.similarity`."""


def _of_scores(kind: str) -> Matrices:
    """The function of a kind that comes from scores of subsets."""
    chosen = pick(AFFINITIES, kind, "affinity")
    if chosen.matrices is None:
        raise ConfigError(
            f"the affinity {kind!r} comes from gradients, not from scores of subsets: use estimate.similarity"
        )
    return chosen.matrices


def _checked(scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """member [m, n], values [m, n] with zeros outside the subsets, coverage [n, n]."""
    member, values = np.asarray(scores.member, bool), np.asarray(scores.values, float)
    bad = np.argwhere(member & ~np.isfinite(values))
    if len(bad):
        subset, task = (int(index) for index in bad[0])
        raise DataError(
            f"the score of task {task} in subset {subset} is not finite ({len(bad)} such scores); "
            f"check the features and surrogates of its tasks {np.flatnonzero(member[subset]).tolist()}"
        )
    return member, np.where(member, values, 0.0), check_coverage(member)


def affinity(scores: Scores, kind: str = "per_task") -> Affinity:
    """How well every pair of tasks goes together.

    Only scores of tasks inside their subset are read. Kinds:

    - "per_task": U_ij = mean over the subsets with i and j of (f_i(S) + f_j(S)) / 2;
    - "aggregate": U_ij = mean over the subsets with i and j of mean_{l in S} f_l(S), the paper's;
    - "datamodel": U_ij = (w_ij + w_ji) / 2, where w_i are the coefficients of a ridge regression
      of f_i(S) on the membership of the other tasks, over the subsets with i.

    The diagonal is the mean score of a task over its subsets (of the subsets, for "aggregate").

    Args:
        scores: values [m, n] of subsets member [m, n].
        kind: one of the above, or what else in `AFFINITIES` comes from scores.

    Returns:
        Affinity with matrix and coverage [n, n], and the matrices [F, n, n] of the scores' folds.

    Raises:
        ConfigError: for a kind that is unknown or reads no scores, or if no subset contains some pair,
            naming it.
        DataError: if a score is not finite.
    """
    matrices = _of_scores(kind)
    member, values, met = _checked(scores)
    once, folds = np.ones((1, len(member))), None
    if scores.folds is not None:
        some = (np.where(member, np.asarray(fold, float), 0.0) for fold in scores.folds)
        folds = np.concatenate([matrices(member, fold, once) for fold in some])
    return Affinity(matrices(member, values, once)[0], met, folds)


def affinity_interval(
    scores: Scores,
    key: Key,
    kind: str = "per_task",
    *,
    draws: int = 500,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """Percentile bootstrap interval of the affinity over the choice of subsets.

    It tells the noise of a finite design of subsets, not that of the transitions.

    Args:
        scores: values [m, n] of subsets member [m, n].
        key: raw PRNG key of the samples.
        kind: as in ``affinity``.
        draws: bootstrap samples.
        level: coverage of the interval.

    Returns:
        lower and upper bounds, float [n, n] each.

    Raises:
        ConfigError: an impossible level or number of draws, or as ``affinity``.
        DataError: as ``affinity``.
    """
    if not (0 < level < 1 and draws >= 2):
        raise ConfigError(f"level = {level}, draws = {draws}; need 0 < level < 1 and draws >= 2")
    matrices = _of_scores(kind)
    member, values, _ = _checked(scores)
    m = len(member)
    weights = np.random.default_rng(np.asarray(key)).multinomial(m, np.full(m, 1 / m), size=draws)
    # A pair that a sample misses is unknown there and keeps its point estimate; that is rare unless
    # the pair meets once or twice.
    samples = matrices(member, values, weights)
    point = matrices(member, values, np.ones((1, m)))
    samples = np.where(np.isnan(samples), point, samples)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
