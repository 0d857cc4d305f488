"""Soft Modularization: layers of modules, connected by probabilities that a routing network gives.

Yang et al., "Multi-Task Reinforcement Learning with Soft Modularization" (2020). With the paper's letters,
f(s) and h(z) [D] are the embeddings of state and task, g_j the output of a layer's module j, and
p_ij the probability that it contributes to module i of the next layer (a softmax over j)::

    p^1 = W_d^1 relu(f(s) * h(z)),   p^l = W_d^l relu((W_u^l p^<l) * (f(s) * h(z))),   g_i = sum_j p_ij g_j

In three things it is their code that is followed where the paper differs: the probabilities of a layer are
conditioned on those of all earlier layers, a layer's activation comes after the weighted sum, and the last
layer's modules are weighted as well, before one output layer. Left out are two further layers of their
routing network after f(s) * h(z). Published for MT10: ``hidden=(400, 400)``, ``width=256``, ``layers=2``,
``modules=2`` (or 4 and 4), ``activation="relu"``. Their weights of the tasks' losses come from the
temperatures of SAC, and are not here.
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


class SoftModularization(Body):
    """The base network of modules, and the routing network."""

    layers: int = 2
    """L."""
    modules: int = 2
    """n."""
    width: int = 64
    """Of a module."""

    @nn.compact
    def __call__(self, obs: Array, context: Array) -> Array:
        """[outputs]."""
        *widths, size = self.hidden
        x = hidden_layers(Torso(name="torso")(obs), tuple(widths), self.activation)
        f, h = dense(size, name="f")(x), of_task(context, size, 1.0, "h")
        g, earlier = self.activation(f), jnp.zeros(0)
        for layer in range(1, self.layers + 1):
            g = Stacked(self.modules, self.width, name=f"modules_{layer}")(g)
            p = self._probabilities(layer, f * h, earlier)
            earlier = jnp.concatenate([earlier, p.ravel()])
            g = self.activation(mixed(p, g))
        return dense(self.outputs, self.scale, "last")(g[0])

    def _probabilities(self, layer: int, embedding: Array, earlier: Array) -> Array:
        """[next modules, modules] out of a layer; all go to one output after the last."""
        if layer > 1:
            embedding = embedding * dense(len(embedding), name=f"W_u_{layer}")(earlier)
        following = self.modules if layer < self.layers else 1
        logits = dense(following * self.modules, 0.01, f"W_d_{layer}")(nn.relu(embedding))
        p = jax.nn.softmax(logits.reshape(following, self.modules))
        self.sow("intermediates", f"p_{layer}", p)
        return p


@dataclass(frozen=True)
class SoftModularizationNetworks(TaskNetworks):
    """Modules with soft routes; ``hidden`` are the layers of the state's embedding."""

    counts: ClassVar[tuple[str, ...]] = ("layers", "modules", "width")

    layers: int = 2
    """Layers of modules."""
    modules: int = 2
    """Modules of a layer."""
    width: int = 64
    """Width of a module."""

    def body(self, outputs: int, scale: float) -> SoftModularization:
        """The network."""
        return SoftModularization(outputs, scale, *self._common, self.layers, self.modules, self.width)
