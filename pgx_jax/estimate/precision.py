"""Full float32 products on every platform (some accelerators round the factors to 10 bits by default)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function``, and what it compiles, with matrix products in full float32."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("float32"):
            return function(*args, **kwargs)

    return wrapped
