"""The subsampled randomised Hadamard transform (Ailon and Chazelle, 2006; Tropp, 2011) of folded gradients.

P = D H S / sqrt(d): D are random signs, one a parameter; H is the Hadamard matrix of size ``TILE``, once
more for every further tile; S takes d of its columns, at random and each once. All tiles are alike but for
their signs, so a gradient is multiplied by its signs and folded: the sum of its tiles is transformed, once.
Of parameters that fill one tile it is the textbook's transform; block by block it is in Balabanov et al.
(2022). E[P P^T] = I: within a tile as H is orthogonal and all its columns are as likely, between tiles by
their signs.

Cost: 2 p + 2 d TILE operations a transition. Memory: whole gradients, of as many transitions as a chunk has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pgx_jax.estimate.gradients import Gradient
from pgx_jax.estimate.projections.tiles import TILE, Masks, Product, Projection, Shapes, flattened, signs
from pgx_jax.types import Array, Key


def columns(key: Key, d: int) -> Float[Array, "rows d"]:
    """d columns of the Hadamard matrix over sqrt(d): entry (i, j) is -1 to the number of bits that i and j
    share."""
    taken = jax.random.permutation(key, TILE)[:d]
    shared: Array = jax.lax.population_count(jnp.arange(TILE)[:, None] & taken)
    return (1.0 - 2.0 * (shared % 2)) / math.sqrt(d)


def flips(key: Key, first: Array | int, count: int) -> Float[Array, "count rows"]:
    """Signs of the rows of tiles."""
    return jax.vmap(lambda t: signs(jax.random.fold_in(key, t), (TILE,)))(first + jnp.arange(count))


def draw(key: Key, shapes: Shapes, first: Array | int, count: int, d: int) -> Float[Array, "rows d"]:
    """Tiles of P, see `tiles.Draw`."""
    del shapes
    of_columns, of_signs = jax.random.split(key)
    tiles = flips(of_signs, first, count)[..., None] * columns(of_columns, d)
    return jnp.reshape(tiles, (count * TILE, d))


def project(
    gradients: Sequence[Gradient], masks: Masks, key: Key, d: int, product: Product
) -> Float[Array, "c d"]:
    """P^T g, see `tiles.Project`."""
    of_columns, of_signs = jax.random.split(key)
    x = flattened(gradients, masks)
    tiles = jnp.reshape(x, (len(x), -1, TILE)) * flips(of_signs, 0, x.shape[1] // TILE)
    return product(tiles.sum(1), columns(of_columns, d))


HADAMARD = Projection(draw, project, whole=True, most=TILE)
