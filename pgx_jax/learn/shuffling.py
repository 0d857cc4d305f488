"""Orders in which a batch is gone through, without sorting."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from pgx_jax.types import Key

ROUNDS = 2
"""Of an affine map and a fixed permutation."""


def orders(key: Key, size: int, epochs: int) -> Int[jax.Array, "epochs size"]:
    """A permutation of ``size`` transitions for each epoch.

    A place i becomes p(a i + b mod size), twice: p is a fixed permutation, a is drawn for every epoch and
    round from the numbers that have no divisor in common with ``size``, and b at random. Neighbours are
    strangers after the first round, and the second one parts those that it kept at the same distance. So
    two transitions share a minibatch by chance alone, in every epoch anew, as after a sort an epoch.
    """
    units = multipliers(size)
    fixed = jnp.asarray(np.random.default_rng(0).permutation(size).astype(np.uint32))
    which, offset = jax.random.bits(key, (2, ROUNDS, epochs, 1))
    factor, offset = jnp.asarray(units)[which % len(units)], offset % size
    places = jnp.arange(size, dtype=np.uint32)
    for a, b in zip(factor, offset, strict=True):
        places = fixed[(a * places + b) % size]
    return places.astype(jnp.int32)


def multipliers(size: int) -> Int[np.ndarray, " units"]:
    """uint32: numbers without a divisor in common with ``size``, whose products with places (and an offset
    added) stay below 2^32."""
    known = np.arange(1, max(2, min(size, 2**32 // size - 1)), dtype=np.uint32)
    return known[np.gcd(known, size) == 1]
