"""Projections that are outer products themselves, leaf by leaf, and so never need an outer product.

A leaf is a matrix [a, b] of its first axes and its last one (a = 1 for a bias). Its rows of P are
P[(i, j), l] = A[i, l] B[j, l] / sqrt(d), with random signs A [a, d] and B [b, d] of its own. By the kernel of
a dense layer the gradient of a transition is an outer product, of the activation x and of what comes back,
delta: its features are (A^T x) * (B^T delta) / sqrt(d), entry by entry, and no gradient is formed
(random features of products: Kar and Karnick, 2012; as projections of tensors: Rakhshan and Rabusseau, 2020).
Gradients that are none (convolutions, leaves of which some parameters are private) are multiplied by
the rows of P, which costs what the Gaussian does.

Entries of P are signs, and E[P P^T] = I as those of two parameters are independent. Of biases the variance is
the rademacher projection's; of outer products x1 d1^T and x2 d2^T it is at most
(|x1|^2 |x2|^2 + 2 <x1, x2>^2) (|d1|^2 |d2|^2 + 2 <d1, d2>^2) / d, up to 9 / d where the Gaussian has 2 / d:
some twice its error.

Cost: 2 (a + b) d operations a transition and layer. Memory: what the backward pass holds, and (a + b) d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pgx_jax.estimate.gradients import Gradient
from pgx_jax.estimate.projections.tiles import TILE, Masks, Product, Projection, Shapes, signs
from pgx_jax.types import Array, Key


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """A leaf's shape as a matrix: its first axes, and its last one."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def factors(key: Key, number: int, shape: tuple[int, ...], d: int) -> list[Float[Array, "entries d"]]:
    """Signs A [a, d] and B [b, d] of a leaf, by its number."""
    keys = jax.random.split(jax.random.fold_in(key, number))
    return [signs(own, (size, d)) for own, size in zip(keys, matrix(shape), strict=True)]


def draw(key: Key, shapes: Shapes, first: Array | int, count: int, d: int) -> Float[Array, "rows d"]:
    """Tiles of P, see `tiles.Draw`."""
    drawn = [factors(key, number, shape, d) for number, shape in enumerate(shapes)]
    left, right = (jnp.concatenate(own) for own in zip(*drawn, strict=True))
    heights, widths = np.array([matrix(shape) for shape in shapes]).T
    starts, lefts, rights = (np.cumsum([0, *sizes]) for sizes in (heights * widths, heights, widths))
    row = jnp.minimum(first * TILE + jnp.arange(count * TILE), starts[-1] - 1)
    leaf = jnp.searchsorted(jnp.asarray(starts[1:]), row, side="right")
    place, width = row - jnp.asarray(starts)[leaf], jnp.asarray(widths)[leaf]
    i, j = jnp.asarray(lefts)[leaf] + place // width, jnp.asarray(rights)[leaf] + place % width
    return left[i] * right[j] / math.sqrt(d)


def project(
    gradients: Sequence[Gradient], masks: Masks, key: Key, d: int, product: Product
) -> Float[Array, "c d"]:
    """P^T g, see `tiles.Project`."""
    parts = []
    for number, (gradient, mask) in enumerate(zip(gradients, masks, strict=True)):
        a, b = factors(key, number, gradient.shape[1:], d)
        if 0 in gradient.shape:  # a leaf without parameters
            continue
        if gradient.factors is None or mask is not None:
            parts.append(_by_rows(gradient, mask, a, b, product))
        else:
            parts += [product(x, a) * product(delta, b) for x, delta in gradient.factors]
    return sum(parts[1:], parts[0]) / math.sqrt(d)


def _by_rows(
    gradient: Gradient, mask: Array | None, a: Float[Array, "a d"], b: Float[Array, "b d"], product: Product
) -> Float[Array, "c d"]:
    """Features of gradients [c, a, b], a row of which is made at a time."""
    shape = gradient.shape[0], len(a), len(b)
    counts = None if mask is None else jnp.reshape(mask, shape[1:])

    def add(i: Array, found: Array) -> Array:
        x = jnp.reshape(gradient.at(i), shape)[:, i]
        return found + product(x if counts is None else jnp.where(counts[i], x, 0), b) * a[i]

    return jax.lax.fori_loop(0, len(a), add, jnp.zeros((shape[0], a.shape[1])))


FACTORED = Projection(draw, project)
