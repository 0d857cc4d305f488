"""CARE: a mixture of encoders, weighted by attention that the task's context decides.

Sodhani et al., "Multi-Task Reinforcement Learning with Context-based Representations" (2021). K encoders
make z_k(s) [D] of an observation, the context gives z_context [D] and by it the attention alpha [K] over the
encoders, and the policy's layers take both encodings::

    alpha = softmax(MLP(z_context)),   z_enc = sum_k alpha_k z_k(s),   output = MLP([z_enc, z_context])

Published for MT10: ``encoders=6`` (or 4), ``encoding=50``, ``hidden=(400, 400, 400)``, ``activation="relu"``,
temperature 1. Two things differ: there z_context is computed from a description of the task in words, by a
language model, and here from a learnt embedding of the context vector; and there the encoders belong to
actor and critic together and only the critic's loss (SAC) trains them, while here each has its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgx_jax.learn.networks.layers import Stacked, dense, hidden_layers, mixed, of_task
from pgx_jax.learn.networks.told import Body, TaskNetworks
from pgx_jax.learn.networks.torso import Torso
from pgx_jax.types import Array


class Care(Body):
    """Encoders side by side, attention over them, and a perceptron of both encodings."""

    encoders: int = 4
    """K."""
    encoding: int = 32
    """D, the length of the encodings, and the width of what makes them."""

    @nn.compact
    def __call__(self, obs: Array, context: Array) -> Array:
        """[outputs]."""
        x = Torso(name="torso")(obs)
        z = self.activation(Stacked(self.encoders, self.encoding, name="encoder_0")(x))
        z = Stacked(self.encoders, self.encoding, name="encoder_1")(z)  # [K, D]
        z_context = self.activation(of_task(context, self.encoding, 1.0, "embedding"))
        z_context = dense(self.encoding, name="context_1")(
            self.activation(dense(self.encoding, name="context_0")(z_context))
        )
        alpha = self.activation(dense(self.encoding, name="attention_0")(z_context))
        alpha = jax.nn.softmax(dense(self.encoders, 1.0, name="attention_1")(alpha))
        self.sow("intermediates", "alpha", alpha)
        both = jnp.concatenate([mixed(alpha, z), z_context])
        return dense(self.outputs, self.scale, "last")(hidden_layers(both, self.hidden, self.activation))


@dataclass(frozen=True)
class CareNetworks(TaskNetworks):
    """Encoders with attention by the task; ``hidden`` are the layers after them."""

    counts: ClassVar[tuple[str, ...]] = ("encoders", "encoding")

    encoders: int = 4
    """Encoders of two layers each."""
    encoding: int = 32
    """Length of the encodings of observation and context."""

    def body(self, outputs: int, scale: float) -> Care:
        """The network."""
        return Care(outputs, scale, *self._common, self.encoders, self.encoding)
