"""MOORE, a mixture of orthogonal experts: what they make of one observation is orthonormal.

Hendawy et al., "Multi-Task Reinforcement Learning with Mixture of Orthogonal Experts" (2024). With the
paper's letters, u_k(s) [d] are the representations that the K experts make of an observation, V [d, K] those
after Gram-Schmidt, and w_c [K] the weights of a task, linear in its context c; the output is the task's own
head of tanh(v_c)::

    v_k = u_k - sum_(i<k) <e_i, u_k> e_i,   e_k = v_k / |v_k|,   V = [e_1, ..., e_K],   v_c = V w_c

Published for MT10: ``experts=4``, ``hidden=(400, 400, 400)``, ``activation="relu"``; for MiniGrid (PPO) 2 to
4 experts of convolutions. Here a squared length has 1e-8 added to it, so that a representation that depends
on those before it is nearly zero, with a gradient, and not undefined; and where observations are images, the
convolutions are shared, not one for each expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from pgx_jax.errors import ConfigError
from pgx_jax.learn.networks.layers import Stacked, mixed, of_task
from pgx_jax.learn.networks.told import Body, TaskNetworks
from pgx_jax.learn.networks.torso import Torso
from pgx_jax.types import Array

SMALL = 1e-8
"""Squared length below which what is left of a vector counts as nothing."""


def gram_schmidt(vectors: Float[Array, "K d"]) -> Float[Array, "K d"]:
    """Orthonormal vectors with the same spans, one after the other; near zero for one that depends on those
    before it (which has a gradient all the same)."""
    basis: list[jax.Array] = []
    for vector in jnp.asarray(vectors):
        for known in basis:
            vector = vector - jnp.sum(known * vector) * known
        basis.append(vector * jax.lax.rsqrt(jnp.sum(vector**2) + SMALL))
    return jnp.stack(basis)


class Moore(Body):
    """Experts side by side, the task's mixture of their orthonormal representations, and its head."""

    experts: int = 4
    """K."""

    @nn.compact
    def __call__(self, obs: Array, context: Array) -> Array:
        """[outputs]."""
        x, *widths, last = Torso(name="torso")(obs), *self.hidden
        for i, width in enumerate(widths):
            x = self.activation(Stacked(self.experts, width, name=f"experts_{i}")(x))
        phi = Stacked(self.experts, last, 1.0, name=f"experts_{len(widths)}")(x)
        w = of_task(context, self.experts, self.experts**-0.5, "w")
        v = gram_schmidt(phi)
        self.sow("intermediates", "v", v)
        tau = jnp.tanh(mixed(w, v))
        return mixed(context, Stacked(len(context), self.outputs, self.scale, name="heads")(tau))


@dataclass(frozen=True)
class MooreNetworks(TaskNetworks):
    """Orthogonal experts; ``hidden`` are the layers of each."""

    counts: ClassVar[tuple[str, ...]] = ("experts",)

    experts: int = 4
    """Experts; no more than the last of their layers is wide."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.experts > self.hidden[-1]:
            raise ConfigError(
                f"policy.options: experts = {self.experts} vectors of length policy.hidden[-1] = "
                f"{self.hidden[-1]} cannot be orthogonal; give fewer, or wider layers"
            )

    def body(self, outputs: int, scale: float) -> Moore:
        """The network."""
        return Moore(outputs, scale, *self._common, self.experts)
