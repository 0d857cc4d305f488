"""Multi-layer perceptrons: the default actor and critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgx_jax.learn.distributions import FRESH_LOG_STD, DiagonalGaussian, Distribution
from pgx_jax.learn.networks.deviation import BOUNDS, is_deviation, log_std
from pgx_jax.learn.networks.settings import check_bounds, check_flag, check_widths
from pgx_jax.learn.networks.torso import Torso
from pgx_jax.types import Array


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
    """Logits [outputs] of a discrete policy."""

    outputs: int
    hidden: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, obs: Array, context: Array | None = None) -> Array:
        """Logits."""
        return MLP(self.outputs, self.hidden, last_scale=0.01)(Torso(name="torso")(obs, context))


class GaussianActor(nn.Module):
    """Mean and state-independent log standard deviation of a continuous policy."""

    size: int
    hidden: tuple[int, ...] = (64, 64)
    initial_log_std: float = FRESH_LOG_STD
    own_deviation: bool = False
    bounds: tuple[float, float] = BOUNDS

    @nn.compact
    def __call__(self, obs: Array, context: Array | None = None) -> tuple[Array, Array]:
        """(mean [size], log_std [size])."""
        mean = MLP(self.size, self.hidden, last_scale=0.01)(Torso(name="torso")(obs, context))
        own, bounds = self.own_deviation, self.bounds
        return mean, log_std(self, self.size, context, own, bounds, self.initial_log_std)

    @staticmethod
    def explores(path: tuple[str, ...]) -> bool:
        """The deviation is exploration."""
        return is_deviation(path)

    def settles(self, path: tuple[str, ...]) -> bool:
        """The last layer: where the mean has left what actions can do, no deviation explores any more."""
        return path[-2:-1] == (f"Dense_{len(self.hidden)}",)


class Critic(nn.Module):
    """The value of a state, []."""

    hidden: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jax.nn.tanh

    @nn.compact
    def __call__(self, obs: Array, context: Array | None = None) -> Array:
        """The value."""
        return MLP(1, self.hidden, self.activation)(Torso(name="torso")(obs, context))[0]


@dataclass(frozen=True)
class MLPNetworks:
    """Two perceptrons; images go through convolutions first."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and critic."""
    own_deviation: bool = False
    """Whether a Gaussian's deviation is a task's own; for actors that are told their task."""
    min_log_std: float = BOUNDS[0]
    """Least logarithm of a Gaussian's deviation, where 0 is half of the environment's box."""
    max_log_std: float = BOUNDS[1]
    """Largest one."""

    needs_task: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_widths(self.hidden)
        check_flag("own_deviation", self.own_deviation)
        check_bounds(self.min_log_std, self.max_log_std)

    def actor(self, distribution: Distribution) -> nn.Module:
        """Logits, or mean and deviation."""
        if isinstance(distribution, DiagonalGaussian):
            own, bounds = self.own_deviation, (self.min_log_std, self.max_log_std)
            return GaussianActor(distribution.outputs, self.hidden, distribution.fresh, own, bounds)
        return CategoricalActor(distribution.outputs, self.hidden)

    def critic(self) -> nn.Module:
        """Values."""
        return Critic(self.hidden)
