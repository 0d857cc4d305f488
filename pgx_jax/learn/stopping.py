"""How far a policy has gone from the one that acted; ending an update's gradient steps where that is far."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pgx_jax.learn.batches import Batch
from pgx_jax.learn.memory import outputs
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.types import Agent, Array, PyTree


def divergence(policy: Policy, actor: PyTree, batch: Batch) -> Array:
    """Estimated KL(the policy that acted, the actor), in nats, float []: the mean of r - 1 - log r over
    transitions, by their weights, where r is the ratio of probabilities (Schulman, 2020, "Approximating KL
    divergence")."""
    params = outputs(policy.actor, actor, policy.actor_input(batch.obs, batch.context), batch.last)
    log_ratio = jax.vmap(policy.distribution.log_prob)(params, batch.action) - batch.log_prob
    return jnp.mean(batch.weight * (jnp.expm1(log_ratio) - log_ratio))


def drift(
    policy: Policy, before: Agent, after: Agent, context: Float[Array, "C"], steps: Steps
) -> Float[Array, ""]:
    """Estimated KL(before, after) on one task, in nats: the mean of log pi_before - log pi_after over what
    the agent ``before`` did there, ``steps`` [T, E, ...]; not finite where one of these is not. 0 of a policy
    with memory, which adapts by what it remembers."""
    if policy.remembers:
        return jnp.zeros(())
    tasks = jnp.broadcast_to(context, (*steps.done.shape, *context.shape))

    def log_prob(agent: Agent) -> Array:
        inputs = policy.actor_input(policy.normalise(agent, steps.obs), tasks)
        return jax.vmap(jax.vmap(partial(policy.log_prob, agent.actor)))(inputs, steps.action)

    return jnp.mean(log_prob(before) - log_prob(after))


def until(
    limit: float,
    far: Callable[[PyTree, PyTree], Array],
    step: Callable[[PyTree, PyTree], tuple[PyTree, None]],
) -> Callable[[Any, Any], tuple[Any, None]]:
    """The step of a scan that changes nothing any more once ``far(carry, x)``, float [], has been larger than
    the limit. Its carry is (that of ``step``, whether it still goes on)."""

    def guarded(carry: tuple[PyTree, Array], x: PyTree) -> tuple[tuple[PyTree, Array], None]:
        state, going = carry
        going = going & (far(state, x) <= limit)
        return (jax.tree.map(partial(jnp.where, going), step(state, x)[0], state), going), None

    return guarded
