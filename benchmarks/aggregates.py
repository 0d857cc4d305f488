"""Statistics over runs: interquartile means, who is better how often, and bootstrap intervals.

Interquartile means and probabilities of improvement, with stratified bootstrap intervals, are what Agarwal et
al. (2021, arXiv:2108.13264) recommend; the bootstrap is SciPy's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pgx_jax.compare.results import Interval

RESAMPLES = 2000

Statistic = Callable[..., np.ndarray]
"""Scores float [..., units, ...] of every stratum -> float [...]."""


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all units on all tasks, [..., units, tasks] -> [...]."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    return stats.trim_mean(flat, 0.25, axis=-1)


def ratio_of_means(scores: np.ndarray) -> np.ndarray:
    """The mean of the first of two columns over that of the second, [..., units, 2] -> [...]."""
    means = scores.mean(-2)
    return means[..., 0] / means[..., 1]


def mean_of_strata(*strata: np.ndarray) -> np.ndarray:
    """Mean over strata, [..., units] each, of the mean over units; every stratum counts the same."""
    return np.mean([scores.mean(-1) for scores in strata], axis=0)


def ahead(ours: ArrayLike, theirs: ArrayLike) -> np.ndarray:
    """1 where ours is larger, 0 where theirs is, and a half where they are equal: its mean is the probability
    of improvement."""
    return (np.sign(np.subtract(ours, theirs)) + 1) / 2


def bootstrap(statistic: Statistic, *strata: np.ndarray) -> Interval:
    """A statistic of scores and its 95% percentile interval.

    Args:
        statistic: of all strata.
        strata: scores, units first. Units are drawn again within each stratum, with all that is theirs; one
            that is alone stays.

    Returns:
        No interval if there is one unit in every stratum, or if what is drawn is always the same: that all
        units agree does not make them certain.
    """
    value = float(statistic(*strata))
    if all(len(scores) < 2 for scores in strata):
        return Interval(value)

    def of_units(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(*(scores[units] for scores, units in zip(strata, drawn, strict=True)))

    units: Sequence[np.ndarray] = [np.arange(max(len(x), 2)) % len(x) for x in strata]
    found = stats.bootstrap(
        units, of_units, vectorized=True, n_resamples=RESAMPLES, method="percentile",
        random_state=np.random.default_rng(0),
    )  # fmt: skip
    low, high = map(float, found.confidence_interval)
    return Interval(value, (low, high) if low < high else None)


def probability(*strata: np.ndarray) -> Interval:
    """Mean over strata of a probability, from its values [units] between 0 and 1, with a 95% interval.

    It is that of `bootstrap`. Where all units of all strata are 1 (or all 0) that has no width: it is the
    exact one of so many units (Clopper, Pearson, 1934). Where strata have different numbers, as many count
    as the smallest has, so that the bound also holds for the mean of different probabilities.
    """
    found, (first, *others) = bootstrap(mean_of_strata, *strata), np.concatenate(strata)
    if found.ci95 is None and first in (0.0, 1.0) and all(value == first for value in others):
        count = len(strata) * min(map(len, strata))
        low, high = stats.binomtest(round(first) * count, count).proportion_ci(0.95, "exact")
        return Interval(found.mean, (float(low), float(high)))
    return found
