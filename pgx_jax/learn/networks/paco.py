"""PaCo, parameter-compositional networks: theta of a task is Phi w, with w of the task's own.

Sun et al., "PaCo: Parameter-Compositional Multi-Task Reinforcement Learning" (2022). Every column of Phi is
a set of parameters of the whole network, and w [K] is linear in the context::

    theta_task = Phi w_task

Published for MT10: ``sets=5``, ``hidden=(400, 400, 400)``, ``activation="relu"``. Their training masks tasks
whose loss explodes and starts their w anew from those of others; that belongs to their learner (SAC), and is
not here. Where observations are images, the convolutions are shared, not composed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn

from pgx_jax.learn.networks.layers import Stacked, mixed, of_task
from pgx_jax.learn.networks.told import Body, TaskNetworks
from pgx_jax.learn.networks.torso import Torso
from pgx_jax.types import Array


class PaCo(Body):
    """A perceptron whose parameters are the task's mixture of ``sets``."""

    sets: int = 5
    """K."""

    @nn.compact
    def __call__(self, obs: Array, context: Array) -> Array:
        """[outputs]; a layer is (sum_k w_k W_k) x + sum_k w_k b_k, computed as sum_k w_k (W_k x + b_k)."""
        w = of_task(context, self.sets, self.sets**-0.5, "w")
        x = Torso(name="torso")(obs)
        for i, width in enumerate(self.hidden):
            x = self.activation(mixed(w, Stacked(self.sets, width, name=f"phi_{i}")(x)))
        return mixed(w, Stacked(self.sets, self.outputs, self.scale, name=f"phi_{len(self.hidden)}")(x))


@dataclass(frozen=True)
class PaCoNetworks(TaskNetworks):
    """Parameters composed from ``sets`` by the task; ``hidden`` are the layers of each."""

    counts: ClassVar[tuple[str, ...]] = ("sets",)

    sets: int = 5
    """Sets of parameters that the tasks' parameters are composed of."""

    def body(self, outputs: int, scale: float) -> PaCo:
        """The network."""
        return PaCo(outputs, scale, *self._common, self.sets)
