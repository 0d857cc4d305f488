"""Means with intervals of evaluation episodes, and learning curves along a method's budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from msgspec import UNSET
from msgspec.structs import replace
from scipy import stats

from pgx_jax.compare.methods import Method
from pgx_jax.compare.pool import Pool
from pgx_jax.compare.results import Curve, Interval, Number
from pgx_jax.learn.work import mean_of_known


def stratified(episodes: Float[np.ndarray, "n E"]) -> Interval:
    """Mean over tasks and its normal 95% interval from the spread of episodes [n, E] within tasks.

    It tells the noise of the evaluation, not that of training with another seed; one episode a task
    has no interval.
    """
    n, count = episodes.shape
    mean = float(episodes.mean())
    if count == 1:
        return Interval(mean)
    error = float(np.sqrt((episodes.var(1, ddof=1) / count).sum()) / n)
    return Interval(mean, (mean - 1.96 * error, mean + 1.96 * error))


def by_task(episodes: Float[np.ndarray, "n E"]) -> list[tuple[float | None, float | None]]:
    """The normal 95% interval of every task's mean, from the spread of its episodes [n, E], E > 1."""
    mean, half = episodes.mean(1), 1.96 * np.sqrt(episodes.var(1, ddof=1) / episodes.shape[1])
    return list(zip((mean - half).tolist(), (mean + half).tolist(), strict=True))


def numbers(values: np.ndarray, digits: int | None = None) -> list[Any]:
    """An array [..., n] as nested lists of floats, of so many significant digits if they are given; None
    where they are not finite."""
    if np.ndim(values) > 1:
        return [numbers(row, digits) for row in values]
    known = [float(x) if np.isfinite(x) else None for x in values]
    return known if digits is None else [None if x is None else float(f"{x:.{digits}g}") for x in known]


def failed_tasks(episodes: Float[np.ndarray, "... n E"]) -> list[int]:
    """Numbers of the tasks with episodes [..., n, E] that are not finite: adapting to them failed."""
    whole = np.isfinite(episodes).all(-1).reshape(-1, episodes.shape[-2])
    return np.flatnonzero(~whole.all(0)).tolist()


def over_draws(means: Sequence[float]) -> Interval:
    """Mean over draws of a grouping and its 95% t-interval."""
    mean, count = float(np.mean(means)), len(means)
    half = float(stats.t.ppf(0.975, count - 1) * np.std(means, ddof=1) / np.sqrt(count))
    return Interval(mean, (mean - half, mean + half))


def over_runs(means: Sequence[float | None]) -> Interval:
    """Mean over runs and its 95% t-interval, if there are several; nothing where one has no number, since
    what has all would be compared with other runs."""
    known = [mean for mean in means if mean is not None]
    if not known or len(known) < len(means):
        return Interval()
    return over_draws(known) if len(known) > 1 else Interval(known[0])


def unbeaten(means: Mapping[str, Sequence[float]]) -> list[str]:
    """The methods that no other one is shown to be better than: the one with the largest mean over runs, and
    those whose paired difference to it has a 95% t-interval that covers zero.

    Args:
        means: of every method, by run.
    """
    values = {name: np.array(own, float) for name, own in means.items()}
    first = max(values, key=lambda name: np.nan_to_num(values[name].mean(), nan=-np.inf))

    def ties(name: str) -> bool:
        difference = values[first] - values[name]
        if len(difference) < 2 or (difference == 0).all():
            return bool((difference == 0).all())
        low = over_draws(difference.tolist()).lo
        return low is not None and low <= 0

    return [first, *(name for name in values if name != first and ties(name))]


def summarise(episodes: Sequence[Float[np.ndarray, "n E"]]) -> Interval:
    """Mean and 95% interval of one method's episodes [n, E], or of the means of several draws."""
    return stratified(episodes[0]) if len(episodes) == 1 else over_draws([float(x.mean()) for x in episodes])


class Before(NamedTuple):
    """The training of theta*, with which the curves of methods begin whose policies all go on from it."""

    steps: Float[np.ndarray, "updates"]
    """Environment steps after each update."""
    returns: Float[np.ndarray, "updates n"]
    at_end: Float[np.ndarray, "updates n"] | None = None
    """Success in the last step, where the metric is success in any."""


def learning_curve(
    methods: Sequence[Method],
    pool: Pool,
    points: int = 40,
    *,
    by_task: bool = False,
    before: Before | None = None,
) -> Curve:
    """Mean return (success rate, where a family is judged by it) over tasks and draws along a method's
    budget; ``by_task`` of every task, too. ``before`` its policies' own training is that of theta*, if it is
    given and they go on from it. Success in the last step is told where all of these have it."""
    if not all(row.continues for m in methods for row in m.rows):
        before = None
    steps, mean, each = _over_draws(methods, pool, points, before)
    found = Curve(steps, mean, per_task=each if by_task else UNSET)
    first = None if before is None or before.at_end is None else before._replace(returns=before.at_end)
    if pool.at_end is None or (before is not None and first is None):
        return found
    _, mean, each = _over_draws(methods, pool._replace(returns=pool.at_end), points, first)
    return replace(found, at_end=mean, per_task_at_end=each if by_task else UNSET)


def _over_draws(
    methods: Sequence[Method], pool: Pool, points: int, before: Before | None
) -> tuple[list[Number], list[Number], list[list[Number]]]:
    """Steps [points], and what the pool's curves come to over tasks and draws, and over draws of every task
    [n, points]."""
    curves = [_curve(m, pool, points) for m in methods]
    if before is not None:
        ends = [m.env_steps for m in methods]
        curves = [_with_before(curve, before, end) for curve, end in zip(curves, ends, strict=True)]
    steps, returns = zip(*curves, strict=True)
    mean, each = np.mean([own.mean(0) for own in returns], axis=0), np.mean(returns, axis=0)
    return np.mean(steps, axis=0).tolist(), _numbers(mean), [_numbers(task) for task in each]


def _numbers(values: Float[np.ndarray, "points"]) -> list[Number]:
    return [float(x) if np.isfinite(x) else None for x in values]


_Steps = tuple[Float[np.ndarray, "points"], Float[np.ndarray, "n points"]]
"""Steps [points] and mean returns [n, points]."""


def _with_before(curve: _Steps, before: Before, end: int) -> _Steps:
    """A curve that ends after so many steps, of as many points, with the training of theta* in front."""
    (steps, returns), points = curve, len(curve[0])
    bins = np.array_split(np.arange(len(before.steps)), min(points, len(before.steps)))
    x = np.concatenate([[before.steps[own[-1]] for own in bins], steps])
    even, whole = end * (np.arange(points) + 1) / points, []
    for task, own in enumerate(returns):
        y = np.concatenate([[mean_of_known(before.returns[part, task]) for part in bins], own])
        known = np.isfinite(y)
        whole.append(np.interp(even, x[known], y[known]) if known.any() else np.full(points, np.nan))
    return even, np.array(whole)


def _curve(m: Method, pool: Pool, points: int) -> _Steps:
    """Of one draw."""
    curves, grid = [], (np.arange(points) + 1) / points
    for task, g in enumerate(m.labels):
        returns = pool.returns[pool.rows.index(m.rows[g])][:, task]
        bins = np.array_split(returns, min(points, len(returns)))
        means = np.array([mean_of_known(part) for part in bins])
        at, known = (np.arange(len(bins)) + 1) / len(bins), np.isfinite(means)
        curves.append(np.interp(grid, at[known], means[known]) if known.any() else np.full(points, np.nan))
    steps = m.spent + grid * (m.env_steps - m.spent)
    return steps, np.array(curves)
