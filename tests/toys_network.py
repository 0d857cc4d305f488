"""A toy architecture from outside the package: one file and one entry in its table."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

from pgx_jax.learn import NETWORKS


class Linear(nn.Module):
    """Linear in the observation, with an offset a task where it is told."""

    outputs: int
    gaussian: bool

    @nn.compact
    def __call__(self, obs, context=None):
        """Logits, or mean and deviation."""
        mean = nn.Dense(self.outputs)(jnp.ravel(obs))
        mean = mean if context is None else mean + nn.Dense(self.outputs, use_bias=False)(context)
        if not self.gaussian:
            return mean
        return mean, self.param("spread", nn.initializers.constant(-0.5), (self.outputs,))

    def explores(self, path):
        """The deviation."""
        return path[-1] == "spread"


class LinearValue(nn.Module):
    """A linear critic."""

    @nn.compact
    def __call__(self, obs, context=None):
        """The value."""
        obs = jnp.ravel(obs)
        return nn.Dense(1)(obs if context is None else jnp.concatenate([obs, context]))[0]


@dataclass(frozen=True)
class LinearNetworks:
    """The entry."""

    def actor(self, distribution):
        """The actor."""
        return Linear(distribution.outputs, hasattr(distribution, "low"))

    def critic(self):
        """The critic."""
        return LinearValue()


NETWORKS["linear"] = LinearNetworks
