"""Networks with memory over whole trials.

A trial is what a slot does in one phase of an update (`learn.learner`), as it adapts, or in an episode of an
evaluation. It may be of several episodes, and the memory goes on from one to the next; where a trial begins,
it is what the agent holds (`Agent.memory`).
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgx_jax.learn.policy import Policy, apply
from pgx_jax.learn.rollout import Steps
from pgx_jax.types import Array, Last, Memory, PyTree, Seen


def outputs(network: nn.Module, params: PyTree, inputs: Array | Seen, last: Last | None = None) -> PyTree:
    """What a network returns for B inputs, leaves [B, ...].

    One with memory, which is told of every step the ``last`` one, returns it for E whole trials of T steps,
    all leaves [E, T, ...], from its own beginning.
    """
    if last is None:
        return jax.vmap(partial(apply, network), (None, 0))(params, inputs)
    begun = first(network, len(last.reward))
    inputs, last = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (inputs, last))
    found, _ = recall(network, params, inputs, last, begun)
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), found)


def first(network: nn.Module, count: int) -> PyTree:
    """The states of a network at the beginning of E trials, leaves [E, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), network.begin())


def recall(
    network: nn.Module, params: PyTree, inputs: Array | Seen, last: Last, state: PyTree
) -> tuple[PyTree, PyTree]:
    """What a network with memory returns for T steps of E slots, leaves [T, E, ...], and its states after
    them, leaves [E, ...]. Gradients go back through all of them.

    Args:
        network, params: the network.
        inputs, last: what it sees, and what it is told of the step before, leaves [T, E, ...].
        state: where it begins, leaves [E, ...].
    """
    of_slots = jax.vmap(partial(apply, network), (None, 0, 0))

    def step(state: PyTree, at: tuple[Array | Seen, Last]) -> tuple[PyTree, PyTree]:
        inputs, last = at
        output, state = of_slots(params, inputs, Memory(state, last))
        return state, output

    state, found = jax.lax.scan(step, state, (inputs, last))
    return found, state


def told(policy: Policy, before: Last, steps: Steps) -> Last:
    """What a policy was told before each of T steps, and after them, leaves [T + 1, E, ...]; ``before``
    [E, ...] is what it was told at first."""
    after = policy.told(steps.action, steps.reward, steps.done)
    return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), before, after)
