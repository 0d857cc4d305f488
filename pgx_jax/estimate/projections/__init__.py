"""Random maps P [p, d] that gradients are projected by, and the way back, by name.

One of your own is a function that draws a tile of P from a key (`tiles.by_tiles`), and perhaps a faster way
to multiply by it: ``PROJECTIONS["mine"] = Projection(by_tiles(mine))``.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from pgx_jax.errors import ConfigError, pick
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.projections.factored import FACTORED
from pgx_jax.estimate.projections.hadamard import HADAMARD
from pgx_jax.estimate.projections.sparse import SPARSE
from pgx_jax.estimate.projections.tiles import (
    TILE,
    Draw,
    Projection,
    Shapes,
    by_tiles,
    draw_tiles,
    gaussian_tile,
    rademacher_tile,
)
from pgx_jax.steady import compiled
from pgx_jax.types import Array, Key, PyTree

__all__ = [
    "PROJECTIONS",
    "TILE",
    "Projection",
    "by_tiles",
    "check_projection",
    "draw_tiles",
    "gaussian",
    "lift",
    "rows",
    "shapes_of",
]

PROJECTIONS: dict[str, Projection] = {
    "gaussian": Projection(by_tiles(gaussian_tile)),
    "rademacher": Projection(by_tiles(rademacher_tile)),
    "sparse": SPARSE,
    "hadamard": HADAMARD,
    "factored": FACTORED,
}
"""By name; what each is, and costs, stands at its function or at the head of its file."""

BLOCK = 4 * TILE
"""Rows of P that lifting holds at a time by default."""


def check_projection(name: str, d: int) -> None:
    """Refuse a projection that is none, or that has not so many dimensions.

    Raises:
        ConfigError: naming setting and remedy.
    """
    most = pick(PROJECTIONS, name, "estimate.projection").most
    if d > most:
        raise ConfigError(
            f"estimate.projection = {name!r} has at most {most} dimensions, and estimate.dim = {d}: lower "
            f"that, or use 'gaussian'"
        )


def shapes_of(params: PyTree) -> Shapes:
    """Shapes of the parameters, leaf by leaf."""
    return tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(params))


def rows(
    key: Key, shapes: Shapes, d: int, start: int = 0, count: int | None = None, *, projection: str
) -> Float[Array, "rows d"]:
    """Draw rows [start, start + count) of P (all from ``start`` on by default).

    Args:
        key: raw PRNG key of the map.
        shapes: of the parameters, leaf by leaf (`shapes_of`).
        d: projected dimension.
        start: first row.
        count: number of rows.
        projection: a name in ``PROJECTIONS``.

    Returns:
        float [count, d].

    Raises:
        ConfigError: if the rows are not rows of P, or there is no such projection.
    """
    check_projection(projection, d)
    p = sum(map(math.prod, shapes))
    count = p - start if count is None else count
    if start < 0 or count < 0 or start + count > p:
        raise ConfigError(f"rows [{start}, {start + count}) are not rows of a map of height {p}")
    first = start // TILE
    tiles = -(-(start + count) // TILE) - first
    offset = start - first * TILE
    draw = PROJECTIONS[projection].draw
    return draw_tiles(draw, key, shapes, first, tiles, d)[offset : offset + count]


def gaussian(key: Key, p: int, d: int, start: int = 0, count: int | None = None) -> Float[Array, "rows d"]:
    """Rows of the Gaussian map of height p, which does not depend on the shapes: see `rows`."""
    return rows(key, ((p,),), d, start, count, projection="gaussian")


def _block_tiles(block: int, p: int) -> int:
    """Number of whole tiles in a block of at least ``block`` rows."""
    if block < 1:
        raise ConfigError(f"block = {block} rows; a block of the map needs at least 1 row")
    return -(-min(block, p) // TILE)


@functools.partial(compiled, static_argnames=("draw", "shapes", "tiles"))
def _lift_flat(
    draw: Draw, key: Key, delta: Float[Array, "r d"], shapes: Shapes, tiles: int
) -> Float[jax.Array, "r p"]:
    """P @ delta for delta [r, d]; returns [r, p]."""
    p = sum(map(math.prod, shapes))

    def lift_block(index: Array) -> Array:
        return draw_tiles(draw, key, shapes, index * tiles, tiles, delta.shape[-1]) @ delta.T

    blocks = jax.lax.map(lift_block, jnp.arange(-(-p // (tiles * TILE))))
    return blocks.reshape(-1, delta.shape[0])[:p].T


@full_precision
def lift(
    key: Key,
    delta: Float[Array, "*lead d"],
    params: PyTree,
    block: int = BLOCK,
    *,
    projection: str = "gaussian",
) -> PyTree:
    """P @ delta as a pytree like ``params``: the paper's way back to the parameters.

    Args:
        key: raw PRNG key of the map (``Features.key``).
        delta: float [..., d]; leading axes are kept.
        params: pytree of the parameters' structure and shapes.
        block: rows of P held at a time, rounded up to whole tiles.
        projection: a name in ``PROJECTIONS`` (``Features.projection``).

    Returns:
        Pytree like ``params``, every leaf with the leading axes of ``delta``.

    Raises:
        ConfigError: without a row in a block, or if there is no such projection.
    """
    draw = pick(PROJECTIONS, projection, "projection").draw
    flat, unravel = ravel_pytree(params)
    delta = jnp.asarray(delta)
    lead = delta.shape[:-1]
    tiles = _block_tiles(block, flat.size)
    lifted = _lift_flat(draw, key, delta.reshape(-1, delta.shape[-1]), shapes_of(params), tiles)
    trees = jax.vmap(unravel)(lifted)
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), trees)
