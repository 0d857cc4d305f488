"""Ending an update's gradient steps where the policy has gone far from the one that acted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pgx_jax.learn.batches import Batch
from pgx_jax.learn.memory import outputs
from pgx_jax.learn.policy import Policy
from pgx_jax.types import Array, PyTree


def divergence(policy: Policy, actor: PyTree, batch: Batch) -> Array:
    """Estimated KL(the policy that acted, the actor), in nats, float []: the mean of r - 1 - log r over
    transitions, by their weights, where r is the ratio of probabilities (Schulman, 2020, "Approximating KL
    divergence")."""
    params = outputs(policy.actor, actor, policy.actor_input(batch.obs, batch.context), batch.last)
    log_ratio = jax.vmap(policy.distribution.log_prob)(params, batch.action) - batch.log_prob
    return jnp.mean(batch.weight * (jnp.expm1(log_ratio) - log_ratio))


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
