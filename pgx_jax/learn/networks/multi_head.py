"""Multi-head networks: all is shared but the last layer (as multi-head SAC of Meta-World, Yu et al., 2020).

With the shared layers phi(s) and the weights W_i, b_i of head i, the output on a task is W_i phi(s) + b_i;
of a context c that is not one-hot it is sum_i c_i (W_i phi(s) + b_i). Published for MT10:
``hidden=(400, 400, 400)``, ``activation="relu"``. There the learner (SAC) has a temperature of each task as
well, which belongs to it and is not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn

from pgx_jax.learn.networks.layers import Stacked, hidden_layers, mixed
from pgx_jax.learn.networks.told import Body, TaskNetworks
from pgx_jax.learn.networks.torso import Torso
from pgx_jax.types import Array


class MultiHead(Body):
    """Hidden layers for all tasks, and a linear head a task."""

    @nn.compact
    def __call__(self, obs: Array, context: Array) -> Array:
        """[outputs]: of the task's own head; for other contexts than one-hot ones, the heads weighted."""
        x = hidden_layers(Torso(name="torso")(obs), self.hidden, self.activation)
        return mixed(context, Stacked(len(context), self.outputs, self.scale, name="heads")(x))


@dataclass(frozen=True)
class MultiHeadNetworks(TaskNetworks):
    """A head a task; ``hidden`` are the shared layers."""

    def body(self, outputs: int, scale: float) -> MultiHead:
        """The network."""
        return MultiHead(outputs, scale, *self._common)
