"""Agents that act on host environments without training: collecting, evaluating, adapting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.learn.host.acting import Acting, width_that_fits
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import ADAPTING, Pairs, Steps
from pgx_jax.learn.stopping import drift
from pgx_jax.steady import compiled
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree

SLOTS_PER_CALL = 256
"""Slots that evaluate side by side."""


def experience(
    policy: Policy, family: TaskFamily, agent: Agent, index: np.ndarray, key: Array, length: int
) -> Steps:
    """Steps [T, E, ...] of one agent in E fresh slots on the tasks ``index`` int [E]."""
    reset_key, key = jax.random.split(key)
    remedy = "lower the num_envs that collect (estimate.num_envs of a run)"
    acting = Acting(policy, family, 1, len(index), remedy=remedy)
    try:
        acting.enter(0, Tasks.of(family), index, np.asarray(family.context, np.float32)[index], reset_key)
        steps = acting.unroll(jax.tree.map(lambda x: jnp.asarray(x)[None], agent), key[None], length)
    finally:
        acting.close()
    return jax.tree.map(lambda x: x[0], steps)


class Chunk(NamedTuple):
    """W pairs that have entered the slots of an `Acting`; the last ones of the last chunk are padding."""

    size: int
    """Pairs that count."""
    agents: Agent
    """Leaves [W, ...]."""
    context: np.ndarray
    """float32 [W, C]."""
    keys: np.ndarray
    """uint32 [W, K, 2]: what is left of the pairs' keys after the resets."""


def _chunks(acting: Acting, family: TaskFamily, agents: Agent, pairs: Pairs, keys: int) -> Iterator[Chunk]:
    """All pairs, chunk by chunk, each with ``keys`` keys; the first of them seeds its episodes."""
    named, width = Tasks.of(family, pairs.tasks), acting.chunk
    contexts = pairs.told(family.context)
    agents = jax.tree.map(np.asarray, agents)
    for start in range(0, len(pairs.row), width):
        known = (pairs.row, pairs.task, contexts)
        r, t, told = (np.resize(x[start : start + width], (width, *x.shape[1:])) for x in known)
        own = np.stack([jax.random.split(jax.random.fold_in(pairs.key, int(i)), keys) for i in t])
        for place, i in enumerate(t):
            acting.enter(place, named, np.full(acting.width, i), told[place], own[place, 0])
        chosen = jax.tree.map(lambda x, r=r: x[r], agents)
        yield Chunk(min(width, len(pairs.row) - start), chosen, told, own[:, 1:])


def _over_pairs(
    use: Callable[[Acting, Chunk], PyTree],
    policy: Policy,
    family: TaskFamily,
    agents: Agent,
    pairs: Pairs,
    envs: int,
    keys: int,
    setting: str,
) -> PyTree:
    """``use(acting, chunk)`` -> leaves [W, ...] for chunks of pairs in ``envs`` slots each; leaves [P, ...].

    One after the other, in slots that are opened once; pairs of a chunk act in one call a step. They are
    fewer where memory is short; ``setting`` is the caller's name of ``envs``."""
    width = min(max(1, SLOTS_PER_CALL // envs), 1 << (len(pairs.row) - 1).bit_length())
    width, parts = width_that_fits(family, width, envs), []
    acting = Acting(policy, family, width, envs, vectors=False, remedy=f"lower {setting}")
    try:
        for chunk in _chunks(acting, family, agents, pairs, keys):
            used = use(acting, chunk)
            parts.append(jax.tree.map(lambda x, c=chunk.size: np.asarray(x)[:c], used))
    finally:
        acting.close()
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def play(
    policy: Policy, family: TaskFamily, agents: Agent, pairs: Pairs, episodes: int, deterministic: bool
) -> tuple[np.ndarray, ...]:
    """Returns, success in any step and in the last one, and length [P, episodes] of full episodes of every
    pair.

    A slot rests once its episode has ended.
    """
    use = partial(_first_episodes, deterministic=deterministic)
    return _over_pairs(use, policy, family, agents, pairs, episodes, 2, "episodes")


def _first_episodes(acting: Acting, chunk: Chunk, deterministic: bool) -> tuple[np.ndarray, ...]:
    """Play every slot of the pairs that count to its first ending; leaves [W, E]."""
    running = np.repeat(np.arange(acting.chunk) < chunk.size, acting.width)
    choose = acting.chooser(chunk.agents, chunk.keys[:, 0], deterministic)
    at_end = acting.play_out(running, lambda t, _: choose(t)[1])
    shape = (acting.chunk, acting.width)
    return tuple(x.reshape(shape).copy() for x in (acting.total, acting.solved, at_end, acting.age))


def adapt(
    policy: Policy, learner: Learner, family: TaskFamily, agents: Agent, pairs: Pairs
) -> tuple[Agent, np.ndarray]:
    """An agent for every pair, leaves [P, ...], that has adapted to the pair's task by acting on it, and how
    far that has brought it, float [P] (`drift`)."""
    envs = learner.adaptation_envs
    pairs = pairs._replace(key=jax.random.fold_in(pairs.key, ADAPTING))

    def use(acting: Acting, chunk: Chunk) -> tuple[Agent, Array]:
        active = np.arange(acting.chunk) < chunk.size
        steps = acting.unroll(
            chunk.agents, chunk.keys[:, 0], learner.adaptation_length,
            gamma=learner.gamma, active=active,
        )  # fmt: skip
        return _adapt(policy, learner, chunk.agents, chunk.context, steps, chunk.keys[:, 1])

    return _over_pairs(use, policy, family, agents, pairs, envs, 3, "adaptation_envs")


@partial(compiled, static_argnames=("policy",))
def _adapt(
    policy: Policy, learner: Learner, agents: Agent, context: Array, steps: Steps, keys: Array
) -> tuple[Agent, Array]:
    after = jax.vmap(partial(learner.adapt, policy))(agents, context, steps, keys)
    return after, jax.vmap(partial(drift, policy))(agents, after, context, steps)
