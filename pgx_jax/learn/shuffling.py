"""Orders in which a batch is gone through, several times, for the price of one sort."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from pgx_jax.types import Key


def orders(key: Key, size: int, epochs: int) -> Int[jax.Array, "epochs size"]:
    """A permutation of ``size`` transitions for each epoch.

    One random permutation p is drawn by sorting; epoch e takes p(a_e i + b_e mod size) in the place i, with
    a_e drawn from the numbers that have no divisor in common with ``size``, and b_e at random. So two
    transitions share a minibatch by chance alone, in every epoch anew, as after a sort an epoch.
    """
    base_key, *own = jax.random.split(key, 3)
    base = jnp.argsort(jax.random.bits(base_key, (size,)))
    units = multipliers(size)
    a = jnp.asarray(units)[jax.random.randint(own[0], (epochs,), 0, len(units))]
    b = jax.random.randint(own[1], (epochs,), 0, size, np.uint32)
    places = (a[:, None] * jnp.arange(size, dtype=np.uint32) + b[:, None]) % size
    return base[places]


def multipliers(size: int) -> Int[np.ndarray, " units"]:
    """uint32: numbers without a divisor in common with ``size``, whose products with places (and an offset
    added) stay below 2^32."""
    known = np.arange(1, max(2, min(size, 2**32 // size - 1)), dtype=np.uint32)
    return known[np.gcd(known, size) == 1]
