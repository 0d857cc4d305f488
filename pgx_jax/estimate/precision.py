"""Full float32 products on every platform (some accelerators round the factors to 10 bits by default)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import jax

F = TypeVar("F", bound=Callable)


def full_precision(function: F) -> F:
    """Run ``function``, and what it compiles, with matrix products in full float32."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with jax.default_matmul_precision("float32"):
            return function(*args, **kwargs)

    return wrapped
