"""Flax policies and critics, one architecture a file, and the table of them.

A network is a Flax module that sees one observation (float, of the family's shape; bytes are divided
by 255 before) and its task's context (float [C]; None where it is not told its task)::

    def __call__(self, obs, context): ...

`Torso` makes one vector of the two, whatever the observation's shape.

An actor returns logits [outputs], or (mean, log_std) [outputs] each for continuous actions, a critic
the value []. What of an actor's parameters is exploration, the actor says itself, by a method
``explores(path) -> bool`` of a parameter's path (a tuple of names): policies that continue theta*
begin with these afresh. If it has a method ``settles(path) -> bool`` as well, what that names is begun
afresh, too, where a single task leaves the policy of several. The core maps networks over batches, rows and
tasks.

What the table holds is called with the settings of its network by name (`MLPNetworks`) and makes the
two modules. Another module adds its own, ``NETWORKS["mine"] = Mine``, for settings in Python:
``PolicyConfig(network="mine", options=("width=32",))``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import flax.linen as nn

from pgx_jax.learn.distributions import Distribution
from pgx_jax.learn.networks.mlp import MLP, CategoricalActor, Critic, GaussianActor, MLPNetworks
from pgx_jax.learn.networks.torso import Torso


class Networks(Protocol):
    """Settings of an architecture, and the modules that they describe (which must be hashable)."""

    def actor(self, distribution: Distribution) -> nn.Module:
        """The actor for the actions of a family; ``distribution.outputs`` is how much it returns."""

    def critic(self) -> nn.Module:
        """The critic."""


NETWORKS: dict[str, Callable[..., Networks]] = {"mlp": MLPNetworks}
"""Architectures by name."""

__all__ = [
    "MLP",
    "NETWORKS",
    "CategoricalActor",
    "Critic",
    "GaussianActor",
    "MLPNetworks",
    "Networks",
    "Torso",
]
