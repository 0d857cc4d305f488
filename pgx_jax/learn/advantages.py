"""Generalised advantage estimation (Schulman et al., 2016)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from pgx_jax.types import Array


def gae(
    reward: Float[Array, "T *lead"],
    value: Float[Array, "T *lead"],
    next_value: Float[Array, "T *lead"],
    terminated: Bool[Array, "T *lead"],
    done: Bool[Array, "T *lead"],
    gamma: float,
    gae_lambda: float,
) -> Float[Array, "T *lead"]:
    """Advantages [T, ...] of T consecutive steps.

    Args:
        reward, value: [T, ...], r_t and V(s_t).
        next_value: [T, ...], V of the observation that step t led to, *before* any reset.
        terminated: bool [T, ...]: the episode ended in s_{t+1}, whose value is therefore zero.
        done: bool [T, ...]: terminated or truncated; nothing flows back across it.
        gamma, gae_lambda: discount and trace decay.
    """
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    decay = gamma * gae_lambda * (1.0 - done)

    def step(carry: jax.Array, x: tuple[Array, Array]) -> tuple[jax.Array, jax.Array]:
        delta_t, decay_t = x
        carry = jnp.add(delta_t, decay_t * carry)
        return carry, carry

    return jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]
