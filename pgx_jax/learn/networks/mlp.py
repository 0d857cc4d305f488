"""Multi-layer perceptrons: the default actor and critic."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgx_jax.learn.distributions import FRESH_LOG_STD
from pgx_jax.types import Array


def join(obs: Array, context: Array | None) -> Array:
    """One observation of any shape and its task's context (None: not told) as one vector."""
    flat = jnp.ravel(obs)
    return flat if context is None else jnp.concatenate([flat, context])


class MLP(nn.Module):
    """Dense layers with orthogonal initialisation; [..., in] -> [..., outputs]."""

    outputs: int
    hidden: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jnp.tanh
    last_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply the layers."""
        for width in self.hidden:
            x = self.activation(nn.Dense(width, kernel_init=nn.initializers.orthogonal(jnp.sqrt(2.0)))(x))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.orthogonal(self.last_scale))(x)


class CategoricalActor(nn.Module):
    """Logits [actions] of a discrete policy."""

    actions: int
    hidden: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, obs: Array, context: Array | None = None) -> Array:
        """Logits."""
        return MLP(self.actions, self.hidden, last_scale=0.01)(join(obs, context))


class GaussianActor(nn.Module):
    """Mean and state-independent log standard deviation of a continuous policy."""

    size: int
    hidden: tuple[int, ...] = (64, 64)
    initial_log_std: float = FRESH_LOG_STD

    @nn.compact
    def __call__(self, obs: Array, context: Array | None = None) -> tuple[Array, Array]:
        """(mean [size], log_std [size])."""
        mean = MLP(self.size, self.hidden, last_scale=0.01)(join(obs, context))
        log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), (self.size,))
        return mean, jnp.clip(log_std, -5.0, 2.0)


class Critic(nn.Module):
    """The value of a state, []."""

    hidden: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jax.nn.tanh

    @nn.compact
    def __call__(self, obs: Array, context: Array | None = None) -> Array:
        """The value."""
        return MLP(1, self.hidden, self.activation)(join(obs, context))[0]
