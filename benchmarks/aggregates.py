"""Statistics over runs: interquartile means with bootstrap intervals, and who is better how often.

Interquartile means are what Agarwal et al. (2021, arXiv:2108.13264) recommend; the bootstrap is SciPy's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from pgx_jax.compare.results import Interval

RESAMPLES = 2000

Statistic = Callable[[np.ndarray], np.ndarray]
"""float [..., units, tasks] -> float [...]."""


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all units on all tasks."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    return stats.trim_mean(flat, 0.25, axis=-1)


def bootstrap(scores: np.ndarray, statistic: Statistic) -> Interval:
    """A statistic of scores [units, tasks] and its 95% percentile interval, by units that are drawn again
    with their tasks; no interval for a single unit."""
    value = float(statistic(scores))
    if len(scores) < 2:
        return Interval(value)

    def of_units(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(scores[drawn])

    found = stats.bootstrap(
        (np.arange(len(scores)),),
        of_units,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        random_state=np.random.default_rng(0),
    )
    low, high = map(float, found.confidence_interval)
    return Interval(value, (low, high))


def share_ahead(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Part of the pairs in which ours is larger; ties count half."""
    return float(np.mean((np.sign(np.subtract(ours, theirs)) + 1) / 2))
