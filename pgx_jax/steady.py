"""Results that do not depend on the number of cores: sums in an order that threads do not change.

On the CPU three things split a sum by the number of threads, which changes its last bits, and training
makes large differences of them:

- XLA leaves products whose left factor is contracted over another than its last axis (the gradients of
  every dense layer's kernel) to Eigen, which cuts long sums by threads. All others go to YNNPACK, whose
  threads divide the outputs alone: `compiled` transposes the factor first.
- YNNPACK cuts the sums of reductions: `compiled` leaves these to XLA's own loops.
- LAPACK and NumPy's products use the threads of OpenBLAS: `one_blas_thread` allows a single one.

Other platforms, and versions of jaxlib without YNNPACK, compile as ever. Gradients of convolutions
(policies on images) are left to Eigen as they are: they may still differ in their last bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Generic, ParamSpec, TypeVar

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive, Var
from jax.extend.core.primitives import dot_general_p
from threadpoolctl import threadpool_limits

P = ParamSpec("P")
R = TypeVar("R")

OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
"""Of what XLA may leave to YNNPACK, products alone."""


@functools.cache
def _options() -> dict[str, str] | None:
    """The compiler's options where they matter and are known, else None."""
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return OPTIONS


class Compiled(Generic[P, R]):
    """``jax.jit(function, **settings)``, with results that do not depend on the number of cores.

    Within another compiled function it is a part of that one: the outermost decides how all is compiled.
    """

    def __init__(self, function: Callable[P, R], **settings: Any):
        functools.update_wrapper(self, function)
        self.function, self.settings = function, settings

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns."""
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        inner = traced or jax.config.jax_disable_jit  # type: ignore[attr-defined]  # flags are made late
        return (self._inner if inner else self._outermost)(*args, **kwargs)

    @functools.cached_property
    def _inner(self) -> Callable[P, R]:
        return jax.jit(self.function, **self.settings)

    @functools.cached_property
    def _outermost(self) -> Any:
        options = _options()
        if options is None:
            return self._inner
        return jax.jit(in_order(self.function), compiler_options=options, **self.settings)

    @property
    def programs(self) -> int:
        """How many programs it has been compiled to, for shapes and settings of its own."""
        return int(self._outermost._cache_size())


def compiled(function: Callable[P, R], **settings: Any) -> Compiled[P, R]:
    """A decorator: see `Compiled`; the settings are those of `jax.jit`."""
    return Compiled(function, **settings)


def one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` with a single thread of NumPy's and LAPACK's libraries.

    What it computes must be done when it returns.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        import_module("scipy.linalg.cython_lapack")  # JAX's; limits reach what is loaded alone
        with threadpool_limits(1, user_api="blas"):
            return function(*args, **kwargs)

    return call


def in_order(function: Callable[P, R]) -> Callable[P, R]:
    """The function (to be traced) with every product's left factor laid out along what is summed."""

    @functools.wraps(function)
    def ordered(*args: P.args, **kwargs: P.kwargs) -> R:
        leaves, structure = jax.tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.core.Tracer)]
        traced = [leaves[i] for i in places]

        def of_traced(*values: jax.Array) -> R:
            own = list(leaves)  # static arguments among them
            for i, value in zip(places, values, strict=True):
                own[i] = value
            args, kwargs = jax.tree.unflatten(structure, own)
            return function(*args, **kwargs)

        program, shape = jax.make_jaxpr(of_traced, return_shape=True)(*traced)
        return jax.tree.unflatten(jax.tree.structure(shape), _evaluate(program, *traced))

    return ordered


def bound(primitive: Primitive, params: dict[str, Any]) -> Callable[..., Any]:
    """An operation of a traced program, with its parameters, to be applied to other values."""
    found = primitive.get_bind_params(params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # by version of JAX
    return functools.partial(primitive.bind, *functions, **params)


def _evaluate(program: ClosedJaxpr, *args: jax.Array) -> Sequence[jax.Array]:
    """What a traced program computes, with its products rewritten, those of inner programs too."""
    jaxpr = program.jaxpr
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *args], strict=True))

    def read(variable: Var | Literal) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        primitive, values = equation.primitive, [read(x) for x in equation.invars]
        if primitive is dot_general_p:
            found = _product(*values, **equation.params)
        else:
            params = {name: _rewritten(value) for name, value in equation.params.items()}
            found = bound(primitive, params)(*values)
        known.update(zip(equation.outvars, found if primitive.multiple_results else [found], strict=True))
    return [read(x) for x in jaxpr.outvars]


def _rewritten(value: Any) -> Any:
    """A parameter of a primitive; the bodies of loops, branches and calls are programs themselves."""
    if isinstance(value, tuple):
        return (
            tuple(map(_rewritten, value)) if any(isinstance(x, Jaxpr | ClosedJaxpr) for x in value) else value
        )
    if isinstance(value, Jaxpr):
        return _rewritten(ClosedJaxpr(value, ())).jaxpr
    if not isinstance(value, ClosedJaxpr):
        return value
    inputs = [jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type) for x in value.in_avals]
    return jax.make_jaxpr(functools.partial(_evaluate, value))(*inputs)


def _product(
    left: jax.Array, right: jax.Array, *, dimension_numbers: jax.lax.DotDimensionNumbers, **params: Any
) -> jax.Array:
    """The same product; the left factor's axes are batches, rows, and what is summed over."""
    (summed, right_summed), (batch, right_batch) = dimension_numbers
    rows = [axis for axis in range(left.ndim) if axis not in (*summed, *batch)]
    order = (*batch, *rows, *summed)
    if not (rows and summed):
        return dot_general_p.bind(left, right, dimension_numbers=dimension_numbers, **params)
    first = len(batch) + len(rows)
    numbers = ((tuple(range(first, left.ndim)), right_summed), (tuple(range(len(batch))), right_batch))
    # The barriers keep the compiler from turning it round again: from taking a transposition of the left
    # factor into the product, or from swapping the factors where the product is transposed.
    left = jax.lax.optimization_barrier(jax.lax.transpose(left, order))
    product = dot_general_p.bind(left, right, dimension_numbers=numbers, **params)
    return jax.lax.optimization_barrier(product)
