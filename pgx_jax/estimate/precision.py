"""How precisely products are computed (some accelerators round their factors to 10 bits by default)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pgx_jax.errors import ConfigError, pick
from pgx_jax.types import Array

P = ParamSpec("P")
R = TypeVar("R")

PRECISIONS: dict[str, jax.lax.Precision | jax.lax.DotAlgorithmPreset] = {
    "float32": jax.lax.Precision.HIGHEST,
    "bf16x3": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3,
    "tf32": jax.lax.DotAlgorithmPreset.TF32_TF32_F32,
}
"""Of the projection's products, by name. All add up in float32; the factors are those of float32, sums of
two numbers of 8 bits each (of whose four products the smallest is dropped), or numbers of 11 bits."""


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function``, and what it compiles, with matrix products in full float32."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("float32"):
            return function(*args, **kwargs)

    return wrapped


def product(a: Float[Array, "m k"], b: Float[Array, "k n"], precision: str) -> Float[Array, "m n"]:
    """a @ b in a precision by name. A processor multiplies in float32 whatever it is."""
    on_processor = jax.default_backend() == "cpu"
    return jnp.dot(a, b, precision=PRECISIONS["float32" if on_processor else precision])


def check_precision(name: str) -> None:
    """Refuse a precision that is none, or that the platform does not have.

    Raises:
        ConfigError: naming setting and remedy.
    """
    pick(PRECISIONS, name, "estimate.precision")
    if name == "float32":
        return
    one = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    try:
        jax.jit(functools.partial(product, precision=name)).lower(one, one)
    except ValueError as error:
        raise ConfigError(
            f"estimate.precision = {name!r} is none of {jax.default_backend()}'s ({error}); use 'float32'"
        ) from error
