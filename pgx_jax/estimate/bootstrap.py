"""The affinity as it would be had other trajectories been collected: a bootstrap over trajectories.

The trajectories of every source are drawn anew with replacement, within each part of the data, so that no
trajectory is fitted and judged by at once. Nothing is fitted again. Near theta* the surrogate of a subset is
quadratic; with its curvature held at the mean of all tasks, what it does goes by products of two tasks alone:

    s_j = (H + lambda)^-1 b_j     K_ij = b_i . s_j  (b_i of what judges)     Q_jl = s_j . H s_l
    f_i(S) = 1/|S| sum_{j in S} K_ij - 1/(2 |S|^2) sum_{j, l in S} Q_jl

and b_i is a sum over trajectories, in units of the deviation of the advantages, which is that of the draw.
Curvature and ridge stay those of all data. As they go with the gradients, the affinity spreads more than with
everything anew (the slow way, which is in the tests), by 13 and 20% in runs of points-hard and cartpole-goals
(11 and 33% without additive effects): intervals are rather too wide than too narrow. Draws of T trajectories
spread a little less than other data would, by a factor (1 - 1/T)^1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.errors import DataError
from pgx_jax.estimate.config import EstimateConfig
from pgx_jax.estimate.crossfit import CrossFit
from pgx_jax.estimate.pairs import AFFINITIES
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.problems import Data, TaskStatistics
from pgx_jax.estimate.similarities import closed_form
from pgx_jax.estimate.surrogates import ridge_unit, signed_weights
from pgx_jax.steady import compiled
from pgx_jax.types import FIT, SCORE, Array, Key

AT_ONCE = 16
"""Draws that the device works on at a time."""
LEAST_TRAJECTORIES = 3
"""Trajectories of a source in each part of the data, of which fewer tell too little of their spread."""


def draw_trajectories(data: CrossFit, key: Key, count: int) -> Float[np.ndarray, "B J"]:
    """How often the trajectory of each row (see `CrossFit`) is drawn, in each of ``count`` draws of as many
    trajectories as there are, within every source and part.

    Raises:
        DataError: a source has fewer than `LEAST_TRAJECTORIES` in a part.
    """
    _, first, number = np.unique(data.trajectory, return_index=True, return_inverse=True)
    stratum = np.stack([np.asarray(data.transitions.source)[data.task[first]], data.part[first]])
    rng = np.random.default_rng(np.asarray(key))
    drawn = np.zeros((count, len(first)))
    for own in np.unique(stratum, axis=1).T:
        inside = np.flatnonzero((stratum == own[:, None]).all(0))
        if (size := len(inside)) < LEAST_TRAJECTORIES:
            raise DataError(
                f"source {own[0]} has {size} trajectories in a part of the data, too few to draw from: "
                f"collect more (or shorter) ones, or set grouping.resamples to 0"
            )
        drawn[:, inside] = rng.multinomial(size, np.full(size, 1 / size), size=count)
    return drawn[:, number]


def can_draw(data: CrossFit) -> bool:
    """Whether every source has trajectories enough to draw from."""
    return all(len(own) >= LEAST_TRAJECTORIES for part in data.parts for own in part.numbers)


def can_resample(config: EstimateConfig, n: int) -> bool:
    """Whether the affinity of n tasks comes from what can be drawn again: not where roll-outs score, or
    another model than the surrogate's loss."""
    return not config.reads_scores(n) or config.score == "surrogate"


class _Sums(NamedTuple):
    """Gradients of all tasks, trajectory by trajectory, and how much each counts in every draw."""

    gradient: Float[Array, "n T d"]
    """Of which the sum over a task's trajectories is b_i."""
    weight: Float[np.ndarray, "B n T"]


def resampled_affinity(
    data: CrossFit,
    drawn: Float[np.ndarray, "B J"],
    config: EstimateConfig,
    member: Bool[Array, "m n"] | None = None,
) -> Float[np.ndarray, "B n n"]:
    """The affinity of every draw, by the quadratic model (see the head of this file).

    Args:
        data: the trajectories.
        drawn: float [B, J], see `draw_trajectories`; a row of ones is the data as they are.
        config: whose affinity it is; see `can_resample`.
        member: bool [m, n], the subsets whose scores it reads, if it reads any.

    Returns:
        float64 [B, n, n], symmetric, diagonals not to be used where it reads no scores.
    """
    kind = AFFINITIES[config.affinity_of(len(data.transitions.source))]
    scale = _scales(data, drawn)
    if kind.matrices is None:
        both = data.statistics((FIT, SCORE))
        pooled = _pooled([_sums(data, part, drawn, scale, dealt=True) for part in (FIT, SCORE)], data)
        gains, costs = _products(pooled, pooled, both, both, config.l2)
        return closed_form((gains + gains.swapaxes(1, 2)) / 2, costs)
    sums = [_sums(data, part, drawn, scale, dealt=False) for part in (FIT, SCORE)]
    stats = [data.statistics((part,)) for part in (FIT, SCORE)]
    ways = ((FIT, SCORE), (SCORE, FIT))
    products = [_products(sums[j], sums[f], stats[j], stats[f], config.l2) for f, j in ways]
    gains, costs = np.mean(products, 0)
    member = np.asarray(member, bool)
    once = np.ones((1, len(member)))
    values = (_scores(member, *pair) for pair in zip(gains, costs, strict=True))
    return np.concatenate([kind.matrices(member, each, once) for each in values])


def basic_interval(
    point: Float[np.ndarray, "n n"],
    around: Float[np.ndarray, "n n"],
    draws: Float[np.ndarray, "B n n"],
    level: float = 0.95,
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """Basic bootstrap interval of ``point``: what it is less the quantiles of what ``draws`` add to
    ``around``, which is the same without drawing. (What noise adds to an affinity on average, draws add once
    more: basic intervals take it off, percentiles would count it twice.)"""
    low, high = np.quantile(draws - around, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return point - high, point - low


def _scores(
    member: Bool[np.ndarray, "m n"], gains: Float[np.ndarray, "n n"], costs: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, "m n"]:
    """f_i(S) of all subsets; 0 outside of them."""
    share = member / member.sum(1, keepdims=True)
    cost = np.sum(share @ costs * share, 1, keepdims=True)
    return np.where(member, share @ gains.T - cost / 2, 0.0)


def _scales(data: CrossFit, drawn: Float[np.ndarray, "B J"]) -> Float[np.ndarray, "B n"]:
    """Deviation of every task's advantages in every draw, where that of all data is 1."""
    t, found = data.transitions, []
    each = int(np.asarray(t.trajectory).max()) + 1
    numbers, place = np.unique(t.trajectory, return_inverse=True)
    place = place.reshape(np.shape(t.trajectory))
    for i, (a, source) in enumerate(zip(signed_weights(t, data.names), np.asarray(t.source), strict=True)):
        mine = data.task == i
        sums = (np.bincount(place[source], power, len(numbers)) for power in (np.ones_like(a), a, a**2))
        rows = np.searchsorted(numbers, data.trajectory[mine] % each)
        count, mean, square = (drawn[:, mine] @ x[rows] for x in sums)
        found.append(np.sqrt(np.maximum(square / count - (mean / count) ** 2, 1e-12)))
    return np.stack(found, 1)


def _sums(
    data: CrossFit,
    part: int,
    drawn: Float[np.ndarray, "B J"],
    scale: Float[np.ndarray, "B n"],
    *,
    dealt: bool,
) -> _Sums:
    """Those of one part; of shared sources what each task reads of it if they are ``dealt``, or all."""
    own = data.parts[part]
    rows = own.fitted if dealt else own.judged
    width = max(len(numbers) for each in data.parts for numbers in each.numbers)
    width += -width % 16
    n = len(data.transitions.source)
    weight = np.zeros((len(drawn), n, width), np.float32)
    for i in range(n):
        length = _lengths(data, part, i, dealt)
        mine = drawn[:, data.rows_of(i, part)]
        total = mine @ length
        mine, total = np.where(total[:, None] > 0, mine, 1.0), np.where(total > 0, total, 1.0)
        weight[:, i, : mine.shape[1]] = mine / (total * scale[:, i])[:, None]
    return _Sums(_trajectory_gradients(rows, own.segment, width), weight)


def _lengths(data: CrossFit, part: int, task: int, dealt: bool) -> Float[np.ndarray, "T"]:
    """Share of a task's transitions in each trajectory of its source in a part."""
    own, source = data.parts[part], int(np.asarray(data.transitions.source)[task])
    segment = np.asarray(own.segment)[source]
    count = np.bincount(segment[segment >= 0], minlength=len(own.numbers[source])).astype(float)
    if dealt:
        count *= own.reads[task]
    return count / count.sum()


def _pooled(sums: Sequence[_Sums], data: CrossFit) -> _Sums:
    """Those of several parts together, by the share of each task's transitions that are in them."""
    read = np.stack([data.parts[part].read for part in (FIT, SCORE)]).astype(np.float32)
    shares = (read / read.sum(0))[:, None, :, None]
    weight = np.concatenate([share * one.weight for share, one in zip(shares, sums, strict=True)], 2)
    return _Sums(jnp.concatenate([one.gradient for one in sums], 1), weight)


@full_precision
def _products(
    judged: _Sums, fitted: _Sums, judges: TaskStatistics, fits: TaskStatistics, l2: float
) -> tuple[Float[np.ndarray, "B n n"], Float[np.ndarray, "B n n"]]:
    """K and Q of all draws."""
    curvature = np.asarray(fits.h, np.float64).mean(0)
    inverse = np.linalg.inv(curvature + l2 * ridge_unit(fits) * np.eye(len(curvature)))
    cost = np.asarray(judges.h, np.float64).mean(0)
    known = (np.asarray(x, np.float32) for x in (inverse, inverse @ cost @ inverse))
    gains, costs = _pairs(judged.gradient, fitted.gradient, judged.weight, fitted.weight, *known)
    return np.asarray(gains, np.float64), np.asarray(costs, np.float64)


@partial(compiled, quick=True, static_argnames=("width",))
def _trajectory_gradients(data: Data, segment: Int[Array, "U M"], width: int) -> Float[Array, "n T d"]:
    """The part of b_i that every trajectory adds."""

    def of_task(batch: tuple[Array, Array]) -> Array:
        a, source = batch
        return (jax.nn.one_hot(segment[source], width, dtype=a.dtype) * (a / 2)[:, None]).T @ data.g[source]

    return jax.lax.map(of_task, (data.a, data.source))


@partial(compiled, quick=True)
def _pairs(
    judged: Float[Array, "n T d"],
    fitted: Float[Array, "n T d"],
    judging: Float[Array, "B n T"],
    fitting: Float[Array, "B n T"],
    inverse: Float[Array, "d d"],
    cost: Float[Array, "d d"],
) -> tuple[Float[Array, "B n n"], Float[Array, "B n n"]]:
    """K and Q of all draws, of gradients by trajectory and their weights, (H + lambda)^-1, and this times
    H times this."""

    def of_draw(weights: tuple[Array, Array]) -> tuple[Array, Array]:
        judge, fit = (jnp.einsum("nt,ntd->nd", w, g) for w, g in zip(weights, (judged, fitted), strict=True))
        return judge @ inverse @ fit.T, fit @ cost @ fit.T

    return jax.lax.map(of_draw, (judging, fitting), batch_size=AT_ONCE)
