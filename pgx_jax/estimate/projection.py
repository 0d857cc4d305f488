"""The Gaussian Johnson-Lindenstrauss map P [p, d] of the paper, drawn from a key and never stored whole.

P is made of tiles of ``TILE`` rows. Tile t is drawn from ``fold_in(key, t)``, so any range of rows
can be drawn again at any time, and a row does not depend on how many rows there are or on the
blocks in which they are visited. Rows follow the parameters as ``jax.flatten_util.ravel_pytree``
orders them.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from pgx_jax.errors import ConfigError
from pgx_jax.estimate.precision import full_precision
from pgx_jax.steady import compiled
from pgx_jax.types import Array, Key, PyTree

TILE = 1024
"""Rows of P that are drawn from one folded key. Part of the definition of P: never change it."""

BLOCK = 4 * TILE
"""Rows of P that are held at a time by default."""


@functools.partial(jax.jit, static_argnames=("count", "d"))
def draw_tiles(key: Key, first: Array | int, count: int, d: int) -> Float[Array, "rows d"]:
    """Draw ``count`` consecutive tiles of P, beginning with tile ``first`` (which may be traced).

    Returns:
        float [count * TILE, d], i.i.d. N(0, 1/d).
    """

    def tile(index: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, index), (TILE, d)) / math.sqrt(d)

    return jax.lax.map(tile, first + jnp.arange(count)).reshape(count * TILE, d)


def gaussian(key: Key, p: int, d: int, start: int = 0, rows: int | None = None) -> Float[Array, "rows d"]:
    """Draw rows [start, start + rows) of P (all from ``start`` on by default).

    Args:
        key: raw PRNG key of the map.
        p: number of parameters, the height of P.
        d: projected dimension.
        start: first row.
        rows: number of rows.

    Returns:
        float [rows, d], i.i.d. N(0, 1/d) (paper, stage 1).

    Raises:
        ConfigError: if the rows are not rows of P.
    """
    rows = p - start if rows is None else rows
    if start < 0 or rows < 0 or start + rows > p:
        raise ConfigError(f"rows [{start}, {start + rows}) are not rows of a map of height {p}")
    first = start // TILE
    count = -(-(start + rows) // TILE) - first
    offset = start - first * TILE
    return draw_tiles(key, first, count, d)[offset : offset + rows]


def _block_tiles(block: int, p: int) -> int:
    """Number of whole tiles in a block of at least ``block`` rows."""
    if block < 1:
        raise ConfigError(f"block = {block} rows; a block of the map needs at least 1 row")
    return -(-min(block, p) // TILE)


@functools.partial(compiled, static_argnames=("p", "tiles"))
def _lift_flat(key: Key, delta: Float[Array, "r d"], p: int, tiles: int) -> Float[jax.Array, "r p"]:
    """P @ delta for delta [r, d]; returns [r, p]."""

    def lift_block(index: Array) -> Array:
        return draw_tiles(key, index * tiles, tiles, delta.shape[-1]) @ delta.T

    blocks = jax.lax.map(lift_block, jnp.arange(-(-p // (tiles * TILE))))
    return blocks.reshape(-1, delta.shape[0])[:p].T


@full_precision
def lift(key: Key, delta: Float[Array, "*lead d"], params: PyTree, block: int = BLOCK) -> PyTree:
    """P @ delta as a pytree like ``params``: the paper's way back to the parameters.

    Args:
        key: raw PRNG key of the map (``Features.key``).
        delta: float [..., d]; leading axes are kept.
        params: pytree of the parameters' structure and shapes.
        block: rows of P held at a time, rounded up to whole tiles.

    Returns:
        Pytree like ``params``, every leaf with the leading axes of ``delta``.
    """
    flat, unravel = ravel_pytree(params)
    delta = jnp.asarray(delta)
    lead = delta.shape[:-1]
    tiles = _block_tiles(block, flat.size)
    lifted = _lift_flat(key, delta.reshape(-1, delta.shape[-1]), flat.size, tiles)
    trees = jax.vmap(unravel)(lifted)
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), trees)
