"""Small systems of linear equations inside training programs, without LAPACK.

On a processor jaxlib's calls of LAPACK for several matrices wait for threads of the pool that they run in:
two programs that do so at the same time can wait for each other for ever (jaxlib 0.10.2, two cores).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pgx_jax.types import Array


def solve(matrix: Float[Array, "*n F F"], right: Float[Array, "*n F K"]) -> Float[Array, "*n F K"]:
    """Solve positive definite systems by Gauss-Jordan elimination, which needs no pivots for these."""

    def eliminate(i: jax.Array, system: jax.Array) -> jax.Array:  # [..., F, F + K]
        row = system[..., i, :] / system[..., i, i, None]
        system = system - system[..., i, None] * row[..., None, :]
        return system.at[..., i, :].set(row)

    size = matrix.shape[-1]
    system = jnp.concatenate([matrix, right], -1)
    return jax.lax.fori_loop(0, size, eliminate, system)[..., size:]
