"""Statistics over runs: means and interquartile means with bootstrap intervals, and who is better how often.

The statistics that Agarwal et al. (2021, arXiv:2108.13264) recommend, by SciPy's bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from pgx_jax.compare.results import Interval

RESAMPLES = 2000

Statistic = Callable[[np.ndarray], np.ndarray]
"""float [..., runs, tasks] -> float [...]."""


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean over runs and tasks."""
    return scores.mean((-2, -1))


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs on all tasks."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    return stats.trim_mean(flat, 0.25, axis=-1)


def bootstrap(
    scores: np.ndarray,
    statistic: Statistic = mean,
    strata: Sequence[int] | None = None,
) -> Interval:
    """A statistic and its 95% percentile interval, by runs that are drawn again with their tasks.

    Args:
        scores: float [runs, tasks]; of pairs of runs their differences.
        statistic: [..., runs, tasks] -> [...].
        strata: int [runs]; runs are drawn within each (families, say). One stratum by default.
    """
    of = np.zeros(len(scores), int) if strata is None else np.asarray(strata)
    places = [np.flatnonzero(of == stratum) for stratum in np.unique(of)]
    value = float(statistic(scores))
    if min(map(len, places)) < 2:
        return Interval(value)

    def of_runs(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(scores[np.concatenate(drawn, axis=-1)])

    found = stats.bootstrap(
        tuple(places),
        of_runs,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        random_state=np.random.default_rng(0),
    )
    low, high = map(float, found.confidence_interval)
    return Interval(value, (low, high))


def improvement(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Part of the runs in which ours is better, of the same family and seed; ties count half."""
    difference = np.subtract(ours, theirs)
    return bootstrap(((np.sign(difference) + 1) / 2)[:, None])
