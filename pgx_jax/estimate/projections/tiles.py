"""What a projection is: how the rows of its map P [p, d] are drawn, ``TILE`` at a time, from a key.

So P is never stored whole: any range of rows can be drawn again at any time. Rows follow the parameters
as ``jax.flatten_util.ravel_pytree`` orders them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from pgx_jax.estimate.gradients import Gradient
from pgx_jax.types import Array, Key

TILE = 1024
"""Rows of P that are drawn from one folded key. Part of the definition of P: never change it."""

Shapes = tuple[tuple[int, ...], ...]
"""Shapes of the parameters, leaf by leaf."""
Draw = Callable[[Key, Shapes, "Array | int", int, int], Array]
"""(key, shapes, first, count, d) -> ``count`` consecutive tiles of P [count * TILE, d], beginning with tile
``first`` (which may be traced); rows beyond the last parameter may be anything."""
Product = Callable[[Array, Array], Array]
"""Of matrices, in the precision of the projection (`EstimateConfig.precision`)."""
Masks = Sequence[Bool[Array, "*shape"] | None]
"""By leaf, the parameters that count; None if all do."""
Project = Callable[[Sequence[Gradient], Masks, Key, int, Product], Array]
"""(gradients of c transitions by leaf, masks, key, d, product) -> features [c, d]."""


class Projection(NamedTuple):
    """A random map P [p, d] with E[P P^T] = I, so that inner products of features are unbiased."""

    draw: Draw
    """The rows of P, which define it."""
    project: Project | None = None
    """P^T g, where there is a faster way than products with the rows of P."""
    whole: bool = False
    """Whether that way holds whole gradients, p numbers a transition."""
    most: float = math.inf
    """Largest d."""


def by_tiles(tile: Callable[[Key, int], Array]) -> Draw:
    """P whose tiles are drawn independently: tile t is ``tile(fold_in(key, t), d)`` [TILE, d], so that a row
    depends neither on how many rows there are nor on the blocks in which they are visited."""

    def draw(key: Key, shapes: Shapes, first: Array | int, count: int, d: int) -> Array:
        del shapes
        drawn = jax.lax.map(lambda t: tile(jax.random.fold_in(key, t), d), first + jnp.arange(count))
        return jnp.reshape(drawn, (count * TILE, d))

    return draw


@functools.partial(jax.jit, static_argnames=("draw", "shapes", "count", "d"))
def draw_tiles(
    draw: Draw, key: Key, shapes: Shapes, first: Array | int, count: int, d: int
) -> Float[Array, "rows d"]:
    """Tiles of P, see `Draw`."""
    return draw(key, shapes, first, count, d)


def signs(key: Key, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """-1 or 1, each as likely."""
    return jax.random.rademacher(key, shape, jnp.float32)


def flattened(gradients: Sequence[Gradient], masks: Masks) -> Float[Array, "c rows"]:
    """Whole gradients of c transitions as they fill the tiles: zeros follow the last parameter."""
    leaves = [g.make(*g.held) if m is None else jnp.where(m, g.make(*g.held), 0)
              for g, m in zip(gradients, masks, strict=True)]  # fmt: skip
    flat = jnp.concatenate([x.reshape(len(x), -1) for x in leaves], 1)
    return jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % TILE)))


def gaussian_tile(key: Key, d: int) -> Float[Array, "rows d"]:
    """The paper's map (stage 1): entries are i.i.d. N(0, 1/d).

    Of gradients x and y the inner product of the features has the variance (|x|^2 |y|^2 + <x, y>^2) / d
    (Johnson and Lindenstrauss, 1984). Cost: 2 p d operations a transition. Memory: a block of rows.
    """
    return jax.random.normal(key, (TILE, d)) / math.sqrt(d)


def rademacher_tile(key: Key, d: int) -> Float[Array, "rows d"]:
    """Entries are +-1/sqrt(d), each as likely (Achlioptas, 2003).

    The variance is the Gaussian's less 2 sum_i x_i^2 y_i^2 / d. Cost and memory are the Gaussian's, but for
    what drawing takes: a bit for a normal number.
    """
    return signs(key, (TILE, d)) / math.sqrt(d)
