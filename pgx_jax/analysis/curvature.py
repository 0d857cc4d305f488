"""Curvature of a loss at some parameters, without its Hessian H: trace and extreme eigenvalues, by products
H v (a derivative along v of the gradient).

By matfree (extra ``analysis``), which has Hutchinson's estimator, XTrace and Lanczos' tridiagonalisation.
Hutch++ is put together here: it has none.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from pgx_jax.analysis.subject import parameter_count
from pgx_jax.errors import ConfigError, pick
from pgx_jax.estimate.precision import full_precision
from pgx_jax.steady import compiled
from pgx_jax.types import Array, Key, PyTree

Loss = Callable[..., Array]
"""(params, *data) -> a scalar. It is compiled once per function object: pass the same one again, and what
differs as data."""

Product = Callable[[Float[Array, "p"]], Float[Array, "p"]]
"""v -> H v."""


def matfree(part: str = "stochtrace") -> ModuleType:
    """A module of matfree.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(f"matfree.{part}")
    except ImportError:
        raise ConfigError(
            "curvature is measured by the library matfree, which is not installed: "
            'pip install "pgx-jax[analysis]"'
        ) from None


class Estimate(NamedTuple):
    """A number that was estimated from random vectors."""

    mean: float
    stderr: float
    """0 where it is exact."""


def _hutchinson(product: Product, like: Array, key: Key, products: int) -> tuple[Array, Array]:
    """Mean of v.Hv over random signs v (Hutchinson, 1990)."""
    trace = matfree()
    sampler = trace.sampler_signs(like, num=products)
    return trace.estimator_monte_carlo_mean_and_sem(trace.monte_carlo_trace(), sampler)(product, key)


def _hutch_plus_plus(product: Product, like: Array, key: Key, products: int) -> tuple[Array, Array]:
    """A third of the products find a subspace, a third the trace on it, and Hutchinson's estimator gives what
    is left (Meyer, Musco, Musco and Woodruff, 2021, "Hutch++: optimal stochastic trace estimation")."""
    first, second = jax.random.split(key)
    count = max(1, products // 3)
    signs = jax.random.rademacher(first, (count, like.size), like.dtype)
    basis, _ = jnp.linalg.qr(jax.lax.map(product, signs).T)

    def beside(v: Array) -> Array:
        return v - basis @ (basis.T @ v)

    within = jnp.sum(basis.T * jax.lax.map(product, basis.T))
    mean, stderr = _hutchinson(lambda v: beside(product(beside(v))), like, second, count)
    return within + mean, stderr


def _xtrace(product: Product, like: Array, key: Key, products: int) -> tuple[Array, Array]:
    """XTrace (Epperly, Tropp and Webber, 2024): every vector serves the subspace and the rest, in turn."""
    trace = matfree()
    sampler = trace.sampler_normal(like, num=max(2, products // 2))
    estimator = trace.estimator_leave_one_out_mean_and_sem(trace.leave_one_out_xtrace(), sampler)
    return estimator(product, key)


TRACES: dict[str, Callable[[Product, Array, Key, int], tuple[Array, Array]]] = {
    "hutchinson": _hutchinson,
    "hutch++": _hutch_plus_plus,
    "xtrace": _xtrace,
}
"""Estimators of a trace by name: (H v, a vector like v, key, products that may be made) -> mean and standard
error."""


def products_of(loss: Loss, params: PyTree, data: tuple[Any, ...]) -> tuple[Product, Float[Array, "p"]]:
    """v -> H v of flattened parameters [p], and these."""
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda theta: loss(unravel(theta), *data))
    return (lambda v: jax.jvp(gradient, (flat,), (v,))[1]), flat


@partial(compiled, quick=True, static_argnames=("loss", "method", "products"))
def _trace(
    loss: Loss, params: PyTree, data: tuple[Any, ...], key: Key, method: str, products: int
) -> tuple[Array, Array]:
    product, flat = products_of(loss, params, data)
    return TRACES[method](product, flat, key, products)


@full_precision
def hessian_trace(
    loss: Loss, params: PyTree, *data: Any, key: Key, method: str = "hutch++", products: int = 48
) -> Estimate:
    """Trace of the Hessian of ``loss(params, *data)`` by the parameters.

    Args:
        loss: see `Loss`.
        params: pytree of p numbers.
        *data: further arguments, pytrees of arrays.
        key: raw PRNG key of the random vectors.
        method: a name of `TRACES`.
        products: of the Hessian and a vector, that may be made. Hutchinson's and XTrace's vectors are worked
            on all at once, which takes so many times the memory of a gradient.

    Raises:
        ConfigError: no such method, too few products, or matfree is missing.
    """
    matfree()
    pick(TRACES, method, "the trace's method")
    if products < 6:
        raise ConfigError(f"products = {products}; an estimate with a standard error takes at least 6")
    mean, stderr = _trace(loss, params, data, key, method=method, products=products)
    return Estimate(float(mean), float(stderr))


@partial(compiled, quick=True, static_argnames=("loss", "depth"))
def _tridiagonal(loss: Loss, params: PyTree, data: tuple[Any, ...], key: Key, depth: int) -> Array:
    product, flat = products_of(loss, params, data)
    start = jax.random.normal(key, flat.shape, flat.dtype)
    decomposed = matfree("decomp").tridiag_sym(depth, custom_vjp=False)(product, start)
    return decomposed.J_small


@full_precision
def extreme_eigenvalues(
    loss: Loss, params: PyTree, *data: Any, key: Key, depth: int = 24
) -> tuple[float, float]:
    """The least and the greatest eigenvalue of the Hessian, by Lanczos' method: they approach the true ones
    from within as ``depth`` (products, at most p) grows.

    Raises:
        ConfigError: matfree is missing, or ``depth`` is not positive.
    """
    matfree()
    if depth < 1:
        raise ConfigError(f"depth = {depth} must be at least 1")
    depth = min(depth, parameter_count(params))
    found = np.linalg.eigvalsh(np.asarray(_tridiagonal(loss, params, data, key, depth=depth), np.float64))
    return float(found[0]), float(found[-1])
