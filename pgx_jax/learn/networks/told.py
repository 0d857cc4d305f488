"""Actors and critics of architectures that select or mix by the task, and the settings that these share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from pgx_jax.errors import ConfigError, pick
from pgx_jax.learn.distributions import FRESH_LOG_STD, DiagonalGaussian, Distribution
from pgx_jax.learn.networks.deviation import BOUNDS, is_deviation, log_std
from pgx_jax.learn.networks.layers import ACTIVATIONS, Activation
from pgx_jax.learn.networks.settings import check_bounds, check_count, check_flag, check_widths
from pgx_jax.types import Array


class Body(nn.Module):
    """What an architecture computes of one observation and its task's context [C]: float [outputs]."""

    outputs: int
    scale: float = 1.0
    """Of the last layer's orthogonal initialisation."""
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = jnp.tanh

    def __call__(self, obs: Array, context: Array) -> Array:
        """[outputs]."""
        raise NotImplementedError


class LogitsOf(nn.Module):
    """Logits [outputs] of a discrete policy."""

    body: Body

    def __call__(self, obs: Array, context: Array | None = None) -> Array:
        """Logits."""
        return self.body(obs, _needed(context, self.body))


class GaussianOf(nn.Module):
    """Mean and state-independent log standard deviation of a continuous policy."""

    body: Body
    own_deviation: bool = False
    bounds: tuple[float, float] = BOUNDS
    initial_log_std: float = FRESH_LOG_STD

    @nn.compact
    def __call__(self, obs: Array, context: Array | None = None) -> tuple[Array, Array]:
        """(mean [size], log_std [size])."""
        mean = self.body(obs, _needed(context, self.body))
        own, bounds = self.own_deviation, self.bounds
        return mean, log_std(self, self.body.outputs, context, own, bounds, self.initial_log_std)

    @staticmethod
    def explores(path: tuple[str, ...]) -> bool:
        """The deviation is exploration."""
        return is_deviation(path)


class ValueOf(nn.Module):
    """The value of a state, []."""

    body: Body

    def __call__(self, obs: Array, context: Array | None = None) -> Array:
        """The value."""
        return self.body(obs, _needed(context, self.body))[0]


def _needed(context: Array | None, body: Body) -> Array:
    """The context; ConfigError if there is none."""
    if context is None:
        raise ConfigError(
            f"{type(body).__name__} needs its task's context; set conditioned_actor and conditioned_critic"
        )
    return context


@dataclass(frozen=True)
class TaskNetworks:
    """Settings of an architecture that needs the task; ``body`` is what it is."""

    needs_task: ClassVar[bool] = True
    counts: ClassVar[tuple[str, ...]] = ()
    """Names of settings that are whole numbers of at least 1."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of hidden layers."""
    activation: str = "tanh"
    """Of hidden layers: "tanh" or "relu"."""
    own_deviation: bool = False
    """Whether a Gaussian's deviation is a task's own."""
    min_log_std: float = BOUNDS[0]
    """Least logarithm of a Gaussian's deviation, where 0 is half of the environment's box."""
    max_log_std: float = BOUNDS[1]
    """Largest one."""

    def __post_init__(self) -> None:
        check_widths(self.hidden)
        check_flag("own_deviation", self.own_deviation)
        check_bounds(self.min_log_std, self.max_log_std)
        pick(ACTIVATIONS, self.activation, "policy.options: activation")
        for name in self.counts:
            check_count(name, getattr(self, name))

    def body(self, outputs: int, scale: float) -> Body:
        """The architecture, with ``outputs`` outputs and so large a last layer."""
        raise NotImplementedError

    def actor(self, distribution: Distribution) -> nn.Module:
        """Logits, or mean and deviation."""
        body = self.body(distribution.outputs, 0.01)
        if not isinstance(distribution, DiagonalGaussian):
            return LogitsOf(body)
        bounds = (self.min_log_std, self.max_log_std)
        return GaussianOf(body, self.own_deviation, bounds, distribution.fresh)

    def critic(self) -> nn.Module:
        """Values."""
        return ValueOf(self.body(1, 1.0))

    @property
    def _common(self) -> tuple[tuple[int, ...], Activation]:
        """What every `Body` is given after ``outputs`` and ``scale``."""
        return self.hidden, ACTIVATIONS[self.activation]
