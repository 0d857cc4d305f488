"""What becomes of work for which a device's memory does not suffice: it is done in smaller parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import jax

from pgx_jax.mesh import is_joined

R = TypeVar("R")


def is_shortage(error: BaseException) -> bool:
    """Whether memory did not suffice, on the device or on the host."""
    told = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return told or isinstance(error, MemoryError)


def in_parts_that_fit(call: Callable[[int], R], size: int, what: str) -> R:
    """``call(size)``; where memory does not suffice, with half the size, and so on down to 1.

    A warning tells of every halving. (Processes that share their devices have to do the same: there the error
    stands.)

    Args:
        call: does all of the work, so many parts at a time, and comes to the same whatever their number.
        size: to begin with.
        what: the parts are, for the warning.
    """
    while True:
        try:
            return jax.block_until_ready(call(size))
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if size <= 1 or not is_shortage(error) or is_joined():
                raise
        smaller = size // 2
        warnings.warn(
            f"memory does not suffice for {size:,} {what} at a time: going on with {smaller:,}", stacklevel=2
        )
        size = smaller
