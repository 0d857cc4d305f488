"""Very sparse projections (Li, Hastie and Church, 2006, after Achlioptas, 2003): one entry in s is not 0.

Every feature reads ``READ`` parameters of each tile, at random (one may be read more than once), each with a
random sign: s = TILE / READ = 128, which is the sqrt(p) that the paper advises for p = 16,000. Entries are
+-sqrt(s / d), or 0, so E[P P^T] = I by the signs. The variance of an inner product of the features of x and y
is the Gaussian's and about (s - 3) sum_i x_i^2 y_i^2 / d, which is much where gradients have few entries that
matter: do not use it for fewer than some thousand parameters.

Cost: p d / s additions a transition, from all over its gradient. Memory: whole gradients, of as many
transitions as a chunk has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from pgx_jax.estimate.gradients import Gradient
from pgx_jax.estimate.projections.tiles import TILE, Masks, Product, Projection, by_tiles, flattened, signs
from pgx_jax.types import Array, Key

READ = 8
"""Parameters of a tile that a feature reads."""


def entries(key: Key, d: int) -> tuple[Int[Array, "read d"], Float[Array, "read d"]]:
    """Rows of a tile's entries, and what these are."""
    of_rows, of_signs = jax.random.split(key)
    rows = jax.random.randint(of_rows, (READ, d), 0, TILE)
    return rows, signs(of_signs, (READ, d)) * math.sqrt(TILE / (READ * d))


def tile(key: Key, d: int) -> Float[Array, "rows d"]:
    """A tile of P, see `tiles.by_tiles`."""
    rows, values = entries(key, d)
    return jnp.zeros((TILE, d)).at[rows, jnp.arange(d)].add(values)


def project(
    gradients: Sequence[Gradient], masks: Masks, key: Key, d: int, product: Product
) -> Float[Array, "c d"]:
    """P^T g, see `tiles.Project`: no product."""
    del product
    x = flattened(gradients, masks).T
    numbers = jnp.arange(len(x) // TILE)
    rows, values = jax.vmap(lambda t: entries(jax.random.fold_in(key, t), d))(numbers)
    rows = rows + TILE * numbers[:, None, None]

    def add(found: jax.Array, entry: Any) -> tuple[jax.Array, None]:
        row, value = entry
        return found + x[row] * value[:, None], None

    every = rows.reshape(-1, d), values.reshape(-1, d)
    found, _ = jax.lax.scan(add, jnp.zeros((d, x.shape[1])), every)
    # What no feature reads is looked at all the same: it may not be finite.
    return jnp.where(jnp.isfinite(x.sum(0)), found, jnp.nan).T


SPARSE = Projection(by_tiles(tile), project, whole=True)
