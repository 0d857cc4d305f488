"""Running mean and variance, for the normalisation of observations, rewards and values."""

from __future__ import annotations

import jax.numpy as jnp

from pgx_jax.types import Array, Moments


def initial_moments(shape: tuple[int, ...]) -> Moments:
    """Mean 0, variance 1, as if no value had been seen."""
    return Moments(jnp.zeros(shape), jnp.ones(shape), jnp.full(shape, 1e-4))


def update_moments(moments: Moments, mean: Array, var: Array, count: Array) -> Moments:
    """Merge a batch's mean, variance and count (Chan, Golub and LeVeque's parallel formula).

    All arguments broadcast to the shape of the moments; a count of zero changes nothing.
    """
    total = moments.count + count
    delta = mean - moments.mean
    new_mean = moments.mean + delta * count / total
    m2 = moments.var * moments.count + var * count + delta**2 * moments.count * count / total
    return Moments(new_mean, m2 / total, total)


def normalise(moments: Moments, x: Array, clip: float = 10.0) -> Array:
    """(x - mean) / std, clipped to [-clip, clip]."""
    return jnp.clip((x - moments.mean) / jnp.sqrt(moments.var + 1e-8), -clip, clip)


def standardise(moments: Moments, x: Array) -> Array:
    """(x - mean) / std, of moments that broadcast to x."""
    return (x - moments.mean) / jnp.sqrt(moments.var + 1e-8)


def unstandardise(moments: Moments | None, x: Array) -> Array:
    """What `standardise` makes x of; x itself without moments."""
    return x if moments is None else moments.mean + jnp.sqrt(moments.var + 1e-8) * x


def per_task(one_hot: Array, x: Array) -> tuple[Array, Array, Array]:
    """Mean, variance and count [n] per task of x [T, E], given the slots' one-hot tasks [E, n]."""
    count, own = one_hot.sum(0) * x.shape[0], one_hot > 0

    # Not a product with one_hot, in which one task's NaN would reach all tasks.
    def average(x: Array) -> Array:
        return jnp.where(own, x.sum(0)[:, None], 0.0).sum(0) / jnp.maximum(count, 1.0)

    mean = average(x)
    return mean, average((x - jnp.where(own, mean, 0.0).sum(1)) ** 2), count
