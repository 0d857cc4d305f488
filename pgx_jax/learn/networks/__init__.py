"""Flax policies and critics, one architecture a file, and the table of them.

A network is a Flax module that sees one observation (float, of the family's shape; bytes are divided
by 255 before) and its task's context (float [C]; None where it is not told its task)::

    def __call__(self, obs, context): ...

`Torso` makes one vector of the two, whatever the observation's shape. Architectures that select or mix by
the task (`networks.told`) leave the context out of it, and are linear in the context with what is a task's
own: with one-hot contexts that are rows of tables, and any other context mixes these. Nobody needs to name
these rows: estimation leaves out what one context alone can reach, and finds it by tracing.

An actor returns logits [outputs], or (mean, log_std) [outputs] each for continuous actions, a critic
the value []. What of an actor's parameters is exploration, the actor says itself, by a method
``explores(path) -> bool`` of a parameter's path (a tuple of names): policies that continue theta*
begin with these afresh. If it has a method ``settles(path) -> bool`` as well, what that names is begun
afresh, too, where a single task leaves the policy of several. The core maps networks over batches, rows and
tasks.

A network with memory has a method ``begin() -> state`` and takes what it knows as well (`types.Memory`: the
state, and the last action, its reward and whether an episode begins)::

    def __call__(self, obs, context, memory): ...

It returns (what others return, the next state). Such policies are for learners that train them (`learn.rl2`).

What the table holds is called with the settings of its network by name (`MLPNetworks`) and makes the
two modules. Another module adds its own, ``NETWORKS["mine"] = Mine``, for settings in Python:
``PolicyConfig(network="mine", options=("width=32",))``. With ``needs_task = True`` its policies are told
their task without being asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import flax.linen as nn

from pgx_jax.learn.distributions import Distribution
from pgx_jax.learn.networks.care import CareNetworks
from pgx_jax.learn.networks.gru import GRUNetworks
from pgx_jax.learn.networks.mlp import MLP, CategoricalActor, Critic, GaussianActor, MLPNetworks
from pgx_jax.learn.networks.moore import MooreNetworks
from pgx_jax.learn.networks.multi_head import MultiHeadNetworks
from pgx_jax.learn.networks.paco import PaCoNetworks
from pgx_jax.learn.networks.soft_modularization import SoftModularizationNetworks
from pgx_jax.learn.networks.torso import Torso


class Networks(Protocol):
    """Settings of an architecture, and the modules that they describe (which must be hashable).

    It may say ``needs_task: ClassVar[bool] = True``: neither actor nor critic can do without the context; and
    ``has_memory: ClassVar[bool] = True``: both have memory, and find out what they are not told.
    """

    def actor(self, distribution: Distribution) -> nn.Module:
        """The actor for the actions of a family; ``distribution.outputs`` is how much it returns."""

    def critic(self) -> nn.Module:
        """The critic."""


NETWORKS: dict[str, Callable[..., Networks]] = {
    "mlp": MLPNetworks,
    "multi_head": MultiHeadNetworks,
    "soft_modularization": SoftModularizationNetworks,
    "paco": PaCoNetworks,
    "care": CareNetworks,
    "moore": MooreNetworks,
    "gru": GRUNetworks,
}
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
