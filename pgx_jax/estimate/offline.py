"""Policies that are fitted offline to what theta* experienced, and judged by importance weighting.

What somebody would do who has the transitions but no surrogates: a few gradient steps on PPO's objective for
every subset, and the advantages of trajectories that were not fitted, reweighted by the exact ratio of the
policies. It takes no steps of an environment, but passes over the data for every subset.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from pgx_jax.estimate.gradients import LogProb, log_probs
from pgx_jax.estimate.scores import MAX_LOG_RATIO, cross_fitted
from pgx_jax.estimate.surrogates import signed_weights
from pgx_jax.steady import compiled
from pgx_jax.types import FIT, SCORE, Array, PyTree, Scores, Transitions

UPDATES, RATE, CLIP = 20, 1e-3, 0.2
"""Steps of Adam on all transitions of a subset at once, their size, and PPO's clipping range."""


class _Part(NamedTuple):
    """The transitions of one part of the data."""

    obs: PyTree
    """Leaves [U, M, ...]."""
    action: Array
    """[U, M, ...]."""
    before: Float[Array, "U M"]
    """log pi of theta*."""
    advantage: Float[Array, "n M"]
    """Standardised task by task."""
    weight: Float[Array, "n M"]
    """1 / (a task's transitions); 0 of those that pad."""
    source: Int[Array, "n"]


def _part(log_prob: LogProb, params: PyTree, transitions: Transitions, part: int) -> _Part:
    """One part of the data, padded to one length for all sources."""
    keep = np.asarray(transitions.split) == part
    index = np.argsort(~keep, axis=1, kind="stable")[:, : keep.sum(1).max()]
    obs, action = jax.tree.map(
        lambda x: np.stack([rows[own] for rows, own in zip(np.asarray(x), index, strict=True)]),
        (transitions.obs, transitions.action),
    )
    source = np.asarray(transitions.source)
    advantage = np.take_along_axis(signed_weights(transitions), index[source], 1)
    real = np.take_along_axis(keep, index, 1)[source]
    weight = (real / real.sum(1, keepdims=True)).astype(np.float32)
    return _Part(obs, action, _log_probs(log_prob, params, obs, action), advantage, weight, source)


_log_probs = partial(compiled, quick=True, static_argnames="log_prob")(log_probs)


@partial(compiled, static_argnames=("log_prob", "updates"))
def _fitted(
    log_prob: LogProb,
    params: PyTree,
    tasks: Int[Array, "m s"],
    inside: Bool[Array, "m s"],
    fitted: _Part,
    judge: _Part,
    updates: int,
    rate: Array,
    clip: Array,
) -> Float[Array, "m n"]:
    """Scores of every subset: of its tasks (padded to s), ``inside`` are those that count."""
    optimiser = optax.adam(rate)

    def of_subset(subset: tuple[Array, Array]) -> Array:
        own, counts = subset
        source = fitted.source[own]
        obs, action, before = jax.tree.map(
            lambda x: jnp.asarray(x)[source], (fitted.obs, fitted.action, fitted.before)
        )
        advantage, weight = fitted.advantage[own], fitted.weight[own] * counts[:, None] / counts.sum()

        def loss(theta: PyTree) -> Array:
            ratio = jnp.exp(log_probs(log_prob, theta, obs, action) - before)
            clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
            return -(weight * jnp.minimum(ratio * advantage, clipped * advantage)).sum()

        def step(state: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], None]:
            theta, memory = state
            change, memory = optimiser.update(jax.grad(loss)(theta), memory)
            return (optax.apply_updates(theta, change), memory), None

        theta = jax.lax.scan(step, (params, optimiser.init(params)), None, updates)[0][0]
        change = log_probs(log_prob, theta, judge.obs, judge.action) - judge.before
        ratio = jnp.exp(jnp.clip(change, -MAX_LOG_RATIO, MAX_LOG_RATIO))[judge.source] * judge.weight
        gained = (ratio * judge.advantage).sum(1) / ratio.sum(1)
        return gained - (judge.weight * judge.advantage).sum(1)

    return jax.lax.map(of_subset, (tasks, inside))


def offline_scores(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    member: Bool[Array, "m n"],
    *,
    updates: int = UPDATES,
    rate: float = RATE,
    clip: float = CLIP,
) -> Scores:
    """f_i(S) by importance weighting, of policies that are fitted offline to every subset.

    A policy maximises 1/|S| sum_{i in S} mean_t min(r a, clip(r) a) over one part of the data, beginning with
    theta*; on another part f_i(S) = sum_t r_t a_t / sum_t r_t - mean_t a_t, with the exact ratios r of the
    policies (their logarithm kept within -5 ... 5) and advantages a that are standardised task by task.
    Fitted on FIT and scored on SCORE, and the other way round.

    Args:
        log_prob: (params, obs, action) of one transition -> scalar.
        params: theta*.
        transitions: advantages, split and sources.
        member: bool [m, n].
        updates, rate, clip: steps of Adam, their size, and PPO's clipping range.

    Returns:
        Scores with values [m, n], for all tasks, whether in the subset or not.

    Raises:
        DataError: a task's advantages carry no signal.
    """
    member = np.asarray(member, bool)
    tasks = np.argsort(~member, axis=1, kind="stable")[:, : member.sum(1).max()]
    inside = np.take_along_axis(member, tasks, 1)
    parts = [_part(log_prob, params, transitions, part) for part in (FIT, SCORE)]
    sizes = jnp.float32(rate), jnp.float32(clip)
    found = [
        _fitted(log_prob, params, tasks, inside, fitted, judge, updates, *sizes)
        for fitted, judge in (parts, parts[::-1])
    ]
    return cross_fitted([Scores(member, values) for values in found])
