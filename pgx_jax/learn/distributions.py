"""Action distributions. Discrete and continuous policies differ by these objects alone.

A distribution object is static (hashable); the arrays that an actor returns are its parameters.
Actions are kept as the policy drew them; `to_env` makes them legal for the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from pgx_jax.types import Array

FRESH_LOG_STD = -0.5
"""Logarithm of a fresh Gaussian policy's deviation, where 1 is half of the environment's box."""


@dataclass(frozen=True)
class Categorical:
    """A choice among ``size`` actions; the parameters are logits [size], -inf for what is forbidden."""

    size: int

    @property
    def outputs(self) -> int:
        """What an actor returns: so many logits."""
        return self.size

    def sample(self, key: Array, logits: Array) -> Array:
        """Draw an action, int []."""
        return jax.random.categorical(key, logits)

    def mode(self, logits: Array) -> Array:
        """The most probable action, int []."""
        return jnp.argmax(logits, axis=-1)

    def log_prob(self, logits: Array, action: Array) -> Array:
        """log pi(action), float []."""
        drawn = jnp.arange(self.size) == jnp.expand_dims(action, -1)
        return jnp.sum(jnp.where(drawn, jax.nn.log_softmax(logits), 0.0), axis=-1)

    def entropy(self, logits: Array) -> Array:
        """Entropy in nats, float []."""
        log_p = jax.nn.log_softmax(logits)
        possible = log_p > -jnp.inf
        return -jnp.sum(jnp.exp(log_p) * jnp.where(possible, log_p, 0.0), axis=-1)

    def exploration(self, logits: Array) -> Array:
        """What an entropy bonus rewards: the entropy."""
        return self.entropy(logits)

    def features(self, action: Array) -> Array:
        """One-hot, float [..., outputs]."""
        return jax.nn.one_hot(action, self.size)

    def to_env(self, action: Array) -> Array:
        """Identity: every index is legal."""
        return action


@dataclass(frozen=True)
class MultiCategorical:
    """Independent choices among ``sizes`` actions each; the parameters are their logits [sum of sizes]."""

    sizes: tuple[int, ...]

    @property
    def outputs(self) -> int:
        """What an actor returns: the logits of all choices, one after the other."""
        return sum(self.sizes)

    def _each(self, logits: Array) -> list[tuple[Categorical, Array]]:
        """Every choice and its logits."""
        ends = np.cumsum(self.sizes)[:-1].tolist()
        return list(zip(map(Categorical, self.sizes), jnp.split(logits, ends, axis=-1), strict=True))

    def sample(self, key: Array, logits: Array) -> Array:
        """Draw an action, int [choices]."""
        keys = jax.random.split(key, len(self.sizes))
        return jnp.stack([one.sample(k, x) for k, (one, x) in zip(keys, self._each(logits), strict=True)], -1)

    def mode(self, logits: Array) -> Array:
        """The most probable action, int [choices]."""
        return jnp.stack([one.mode(x) for one, x in self._each(logits)], -1)

    def log_prob(self, logits: Array, action: Array) -> Array:
        """log pi(action), float []."""
        return _sum([one.log_prob(x, action[..., i]) for i, (one, x) in enumerate(self._each(logits))])

    def entropy(self, logits: Array) -> Array:
        """Entropy in nats, float []."""
        return _sum([one.entropy(x) for one, x in self._each(logits)])

    def exploration(self, logits: Array) -> Array:
        """What an entropy bonus rewards: the entropy."""
        return self.entropy(logits)

    def features(self, action: Array) -> Array:
        """One-hot vectors, one after the other, float [..., outputs]."""
        return jnp.concatenate([jax.nn.one_hot(action[..., i], k) for i, k in enumerate(self.sizes)], -1)

    def to_env(self, action: Array) -> Array:
        """Identity: every index is legal."""
        return action


def _sum(values: Sequence[Array]) -> Array:
    """The sum of one array or more."""
    return sum(values[1:], values[0])


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normals; the parameters are (mean [size], log_std [size]).

    The drawn value u is mapped to the box [low, high] of the environment from [-1, 1]: by clipping,
    or through tanh if ``squash``. Stored actions are u itself, so log-probabilities stay exact.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    squash: bool = False
    fresh: float = FRESH_LOG_STD
    """Logarithm of the deviation of a policy that has not been trained."""
    bonus_up_to: float = FRESH_LOG_STD
    """Logarithm of the deviation up to which an entropy bonus is paid."""

    @property
    def outputs(self) -> int:
        """What an actor returns: so many means, and deviations."""
        return len(self.low)

    def sample(self, key: Array, params: tuple[Array, Array]) -> Array:
        """Draw u, float [size]."""
        mean, log_std = params
        return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)

    def mode(self, params: tuple[Array, Array]) -> Array:
        """The mean of u, float [size]."""
        return params[0]

    def log_prob(self, params: tuple[Array, Array], action: Array) -> Array:
        """Log density at u (of the squashed action if ``squash``), float []."""
        mean, log_std = params
        z = (action - mean) * jnp.exp(-log_std)
        density = -0.5 * z**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
        if self.squash:
            density -= 2.0 * (jnp.log(2.0) - action - jax.nn.softplus(-2.0 * action))
        return jnp.sum(density, axis=-1)

    def entropy(self, params: tuple[Array, Array]) -> Array:
        """Entropy of u in nats, float []; an upper bound for a squashed action."""
        mean, log_std = params
        return jnp.sum(log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e) + 0.0 * mean, axis=-1)

    def exploration(self, params: tuple[Array, Array]) -> Array:
        """What an entropy bonus rewards: the entropy, of deviations up to ``bonus_up_to``. (A bonus without
        end would drive them, and the means after them, out of the box.)"""
        mean, log_std = params
        return self.entropy((mean, jnp.minimum(log_std, self.bonus_up_to)))

    def features(self, action: Array) -> Array:
        """What was done, where [-1, 1] is the environment's box, float [..., outputs]."""
        return jnp.tanh(action) if self.squash else jnp.clip(action, -1.0, 1.0)

    def to_env(self, action: Array) -> Array:
        """Map u to the environment's box."""
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        return low + 0.5 * (self.features(action) + 1.0) * (high - low)


Distribution = Categorical | MultiCategorical | DiagonalGaussian


def for_space(space: spaces.Space[Any], squash: bool = False) -> Distribution:
    """The distribution that fits an action space: Discrete or MultiDiscrete from 0, or a bounded
    one-dimensional Box of floats.

    Raises:
        ValueError: for any other space.
    """
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return Categorical(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
        return MultiCategorical(tuple(map(int, space.nvec)))
    if (
        isinstance(space, spaces.Box)
        and len(space.shape) == 1
        and np.issubdtype(space.dtype, np.floating)
        and np.isfinite([space.low, space.high]).all()
    ):
        return DiagonalGaussian(tuple(map(float, space.low)), tuple(map(float, space.high)), squash)
    raise ValueError(
        f"no distribution for action space {space}; use Discrete or MultiDiscrete from 0, or a "
        f"bounded Box of floats of shape (n,)"
    )
