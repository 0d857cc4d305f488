"""What networks that are told their task are made of: dense layers, some of them side by side."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgx_jax.types import Array, Key

Activation = Callable[[Array], Array]

ACTIVATIONS: dict[str, Activation] = {"tanh": jnp.tanh, "relu": nn.relu}
"""Activations by the names that settings have for them."""


def dense(outputs: int, scale: float = math.sqrt(2.0), name: str | None = None) -> nn.Dense:
    """A dense layer with orthogonal initialisation."""
    return nn.Dense(outputs, kernel_init=nn.initializers.orthogonal(scale), name=name)


def hidden_layers(x: Array, widths: tuple[int, ...], activation: Activation) -> Array:
    """Dense layers of the calling module, each with its activation; [in] -> [last width]."""
    for width in widths:
        x = activation(dense(width)(x))
    return x


def of_task(context: Array, size: int, deviation: float, name: str) -> Array:
    """A vector [size] of the task's own, linear in the context [C]: one-hot, it is a row of a table [C, size]
    of the calling module."""
    init = nn.initializers.normal(deviation)
    return nn.Dense(size, use_bias=False, kernel_init=init, name=name)(context)


class Stacked(nn.Module):
    """K dense layers side by side, each with an orthogonal initialisation of its own."""

    count: int
    """K."""
    outputs: int
    scale: float = math.sqrt(2.0)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[in], the same for all, or [K, in], one each -> [K, outputs]."""
        kernel = self.param("kernel", self._orthogonal, (self.count, x.shape[-1], self.outputs))
        bias = self.param("bias", nn.initializers.zeros, (self.count, self.outputs))
        return jnp.einsum("ki,kio->ko" if x.ndim == 2 else "i,kio->ko", x, kernel) + bias

    def _orthogonal(self, key: Key, shape: tuple[int, ...]) -> Array:
        of_one = nn.initializers.orthogonal(self.scale)
        return jax.vmap(lambda one: of_one(one, shape[1:]))(jax.random.split(key, shape[0]))


def mixed(weights: Array, values: Array) -> Array:
    """Values [K, d] in proportions [..., K] -> [..., d], as a sum, which is fused (a batch of so small
    products would be as many calls)."""
    return jnp.sum(weights[..., None] * values, -2)
