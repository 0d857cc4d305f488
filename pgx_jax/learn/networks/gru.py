"""Networks with memory: a gated recurrent unit (Cho et al., 2014) over what a policy sees and experiences.

As in RL^2 (Duan et al., 2016, arXiv:1611.02779) they are told the last action, its reward, and whether an
episode begins, beside the observation. Rewards may be of any size: they are told as sign(r) log(1 + |r|).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from pgx_jax.learn.distributions import FRESH_LOG_STD, DiagonalGaussian, Distribution
from pgx_jax.learn.networks.deviation import BOUNDS, is_deviation, log_std
from pgx_jax.learn.networks.layers import dense, hidden_layers
from pgx_jax.learn.networks.settings import check_bounds, check_count, check_widths
from pgx_jax.learn.networks.torso import Torso
from pgx_jax.types import Array, Last, Memory


class Recurrent(nn.Module):
    """Hidden layers of the observation, a recurrent unit beside them, and a linear layer of both."""

    outputs: int
    scale: float = 1.0
    """Of the last layer's orthogonal initialisation."""
    hidden: tuple[int, ...] = (64, 64)
    width: int = 64
    """Of the recurrent unit."""

    def begin(self) -> Array:
        """The state before a trial, float [width]."""
        return jnp.zeros(self.width)

    def recur(self, obs: Array, context: Array | None, memory: Memory) -> tuple[Array, Array]:
        """[outputs], and the next state; within the compact method of a derived module."""
        seen = hidden_layers(Torso(name="torso")(obs, context), self.hidden, jnp.tanh)
        inputs = jnp.concatenate([seen, _told(memory.last)])
        state, _ = nn.GRUCell(self.width, name="gru")(memory.state, inputs)
        return dense(self.outputs, self.scale, "head")(jnp.concatenate([seen, state])), state


def _told(last: Last) -> Array:
    """What it is told of the last step, in one vector."""
    reward = jnp.sign(last.reward) * jnp.log1p(jnp.abs(last.reward))
    return jnp.concatenate([last.action, jnp.stack([reward, last.begins * 1.0])])


class RecurrentLogits(Recurrent):
    """Logits [outputs] of a discrete policy."""

    @nn.compact
    def __call__(self, obs: Array, context: Array | None, memory: Memory) -> tuple[Array, Array]:
        """Logits, and the next state."""
        return self.recur(obs, context, memory)


class RecurrentGaussian(Recurrent):
    """Mean and state-independent log standard deviation of a continuous policy."""

    initial_log_std: float = FRESH_LOG_STD
    bounds: tuple[float, float] = BOUNDS

    @nn.compact
    def __call__(
        self, obs: Array, context: Array | None, memory: Memory
    ) -> tuple[tuple[Array, Array], Array]:
        """(mean [outputs], log_std [outputs]), and the next state."""
        mean, state = self.recur(obs, context, memory)
        return (mean, log_std(self, self.outputs, None, False, self.bounds, self.initial_log_std)), state

    @staticmethod
    def explores(path: tuple[str, ...]) -> bool:
        """The deviation is exploration."""
        return is_deviation(path)


class RecurrentCritic(Recurrent):
    """The value of a trial's next steps, []."""

    @nn.compact
    def __call__(self, obs: Array, context: Array | None, memory: Memory) -> tuple[Array, Array]:
        """The value, and the next state."""
        value, state = self.recur(obs, context, memory)
        return value[0], state


@dataclass(frozen=True)
class GRUNetworks:
    """Actor and critic with a memory each; for the learner ``rl2``."""

    has_memory: ClassVar[bool] = True

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the observation."""
    width: int = 64
    """Of the recurrent unit."""
    min_log_std: float = BOUNDS[0]
    """Least logarithm of a Gaussian's deviation, where 0 is half of the environment's box."""
    max_log_std: float = BOUNDS[1]
    """Largest one."""

    def __post_init__(self) -> None:
        check_widths(self.hidden)
        check_count("width", self.width)
        check_bounds(self.min_log_std, self.max_log_std)

    def actor(self, distribution: Distribution) -> nn.Module:
        """Logits, or mean and deviation."""
        known = (distribution.outputs, 0.01, self.hidden, self.width)
        if isinstance(distribution, DiagonalGaussian):
            return RecurrentGaussian(*known, distribution.fresh, (self.min_log_std, self.max_log_std))
        return RecurrentLogits(*known)

    def critic(self) -> nn.Module:
        """Values."""
        return RecurrentCritic(1, 1.0, self.hidden, self.width)
