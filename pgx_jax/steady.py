"""How programs are compiled: with results that do not depend on the number of cores, and soon.

On the CPU three things split a sum by the number of threads, which changes its last bits, and training
makes large differences of them:

- XLA leaves products whose left factor is contracted over another than its last axis (the gradients of
  every dense layer's kernel) to Eigen, which cuts long sums by threads. All others go to YNNPACK, whose
  threads divide the outputs alone: `compiled` transposes the factor first.
- YNNPACK cuts the sums of reductions: `compiled` leaves these to XLA's own loops.
- LAPACK and NumPy's products use the threads of OpenBLAS: `one_blas_thread` allows a single one. QR
  factors of compiled functions, and wherever else networks begin, are found without it
  (`without_lapack`).

Versions of jaxlib without YNNPACK compile as ever, and so do other platforms but for one thing: a GPU's
compiler does not try kernels for products in full float32 (`FULL`). Gradients of convolutions
(policies on images) are left to Eigen as they are: they may still differ in their last bits.

What a program costs to compile goes by its loops of kernels there, so random bits, which JAX draws in
loops of short kernels on the CPU, are drawn in one; and programs that hardly run (or do little but
products, which are library calls) can be compiled with little optimisation: ``compiled(…, quick=True)``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive, Var
from jax.extend.core.primitives import (
    dot_general_p,
    qr_p,
    random_bits_p,
    random_fold_in_p,
    random_split_p,
    threefry2x32_p,
)
from jax.extend.random import threefry_prng_impl
from jax.sharding import Mesh, NamedSharding
from threadpoolctl import threadpool_limits

from pgx_jax.mesh import AXIS, CUT, WHOLE, local, mesh, place

P = ParamSpec("P")
R = TypeVar("R")

OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
"""Of what XLA may leave to YNNPACK, products alone."""

QUICK = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
"""Half of the time to compile, a fifth more to run; what `XLA_FLAGS` say goes before. The second is no option
of jaxlib 0.11 any more."""


FULL = {"xla_gpu_autotune_level": 0}
"""On a GPU, of programs whose products are all in full float32: the compiler takes the kernels that come
first instead of trying many. The program of the features was compiled in 2.5 s so, and not yet after 100 s
without (H200, jax 0.11.2), and ran as fast as with the library's kernels."""


@functools.cache
def _options(platform: str, quick: bool, full: bool) -> dict[str, Any]:
    """The compiler's options that matter and are known, if any."""
    if platform == "gpu":
        return _known(FULL) if full else {}
    steady = _known(OPTIONS) if platform == "cpu" else {}
    return steady | _known(_unsaid(QUICK)) if steady and quick else steady


def _unsaid(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that `XLA_FLAGS` do not set."""
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if f"--{name}=" not in flags}


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that this version of the compiler has."""

    def has(name: str) -> bool:
        try:
            jax.jit(lambda: 0, compiler_options={name: options[name]}).lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: options[name] for name in filter(has, options)}


class Spread(NamedTuple):
    """How a function's arrays lie on the mesh, if there is one: it is called with parts, once on each device,
    and takes all that it is not told of whole."""

    cut: Mapping[str, Any]
    """How the arguments of these names are cut: `CUT` and the like, for all or for parts of their trees."""
    out: Any = CUT
    """How what it returns is cut; it is put together again."""
    summed: bool = False
    """What it returns is a part of a sum instead."""
    stays: bool = False
    """What it returns stays on the mesh, cut."""


class Compiled(Generic[P, R]):
    """``jax.jit(function, **settings)``, with results that do not depend on the number of cores; ``spread``
    over the devices of the `mesh`, if it is told how.

    Within another compiled function it is a part of that one: the outermost decides how all is compiled.

    For dataclasses of other classes among its arguments (learners) it is another function to JAX: jaxlib 0.10
    may take one for another with the same fields, as it finds programs by tree structures that look alike.
    """

    def __init__(
        self, function: Callable[P, R], *, quick: bool = False, spread: Spread | None = None, **settings: Any
    ):
        functools.update_wrapper(self, function)
        self.function, self.quick, self.spread, self.settings = function, quick, spread, settings
        self._programs: dict[tuple[str, bool, Classes, Mesh | None], Any] = {}
        """Of its own, by platform, whether all products are in full float32, classes of arguments, and the
        mesh that it is spread over."""
        self._parts: dict[Classes, Callable[P, R]] = {}
        """Of others' programs, by classes of arguments."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns."""
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        if traced or jax.config.jax_disable_jit:  # type: ignore[attr-defined]  # flags are made late
            return self._part(_classes(args, kwargs))(*args, **kwargs)
        over = None if self.spread is None else mesh()
        outermost = self._outermost(_classes(args, kwargs), over)
        if self.spread is not None and over is not None:
            found = outermost(**self._placed(args, kwargs, self.spread))
            return found if self.spread.stays else local(found)
        if not getattr(_THREAD, "rehearses", False):
            return outermost(*args, **kwargs)
        lowered = outermost.lower(*args, **kwargs)
        lowered.compile()
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), lowered.out_info)

    def _part(self, classes: Classes) -> Callable[P, R]:
        if classes not in self._parts:
            return self._parts.setdefault(classes, jax.jit(_anew(self.function), **self.settings))
        return self._parts[classes]

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def _placed(self, args: tuple[Any, ...], kwargs: dict[str, Any], spread: Spread) -> dict[str, Any]:
        """The arguments by name, arrays as they lie on the mesh."""
        given = self._signature.bind(*args, **kwargs).arguments
        static = self.settings.get("static_argnames", ())
        return {
            name: value if name in static else place(value, spread.cut.get(name, WHOLE))
            for name, value in given.items()
        }

    def _outermost(self, classes: Classes, over: Mesh | None = None) -> Any:
        """The function as a program of its own, as it is compiled on this platform and in this precision."""
        platform = _platform()
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        full = platform == "gpu" and precision == "float32"
        kind = platform, full, classes, over
        if kind not in self._programs:
            options = _options(platform, self.quick, full)
            alone = not options and over is None
            made = self._part(classes) if alone else self._with_options(platform, options, over)
            return self._programs.setdefault(kind, made)  # another thread may have been first
        return self._programs[kind]

    def _with_options(self, platform: str, options: dict[str, Any], over: Mesh | None) -> Any:
        if platform == "cpu" and options:  # with few optimisations, loops are short
            function = in_order(self.function, unrolled=not self.quick)
        else:
            function = _anew(self.function)
        known = self.settings | ({"compiler_options": options} if options else {})
        if self.spread is None or over is None:
            return jax.jit(function, **known)
        lies = NamedSharding(over, CUT if self.spread.stays else WHOLE)
        static = known.get("static_argnames", ())
        return jax.jit(_over(function, self.spread, over, static), out_shardings=lies, **known)

    @property
    def programs(self) -> int:
        """How many programs it has been compiled to, for shapes and settings of its own."""
        return sum(int(program._cache_size()) for program in self._programs.values())


def _over(function: Callable[P, R], spread: Spread, mesh: Mesh, static: Sequence[str]) -> Callable[..., R]:
    """The function, of arguments by name, called on every device with its parts."""

    @functools.wraps(function)
    def spread_out(**given: Any) -> R:
        fixed = {name: value for name, value in given.items() if name in static}
        arrays = {name: value for name, value in given.items() if name not in static}

        def part(arrays: dict[str, Any]) -> R:
            found = function(**arrays, **fixed)  # type: ignore[call-arg]
            return jax.lax.psum(found, AXIS) if spread.summed else found

        cuts = {name: spread.cut.get(name, WHOLE) for name in arrays}
        out = WHOLE if spread.summed else spread.out
        return jax.shard_map(part, mesh=mesh, in_specs=(cuts,), out_specs=out, check_vma=False)(arrays)

    return spread_out


def _platform() -> str:
    """Where programs run: on the default device, if one is set."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.default_backend() if device is None else getattr(device, "platform", device)


Classes = tuple[type, ...]
"""Of the dataclasses among a function's arguments."""


def _classes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Classes:
    return tuple(type(x) for x in (*args, *kwargs.values()) if dataclasses.is_dataclass(x))


def _anew(function: Callable[P, R]) -> Callable[P, R]:
    """The same function as another object, of which JAX knows no traces yet."""

    @functools.wraps(function)
    def same(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return same


def compiled(
    function: Callable[P, R], *, quick: bool = False, spread: Spread | None = None, **settings: Any
) -> Compiled[P, R]:
    """A decorator: see `Compiled`; the settings are those of `jax.jit`.

    ``quick`` is for programs whose time to compile weighs more than that to run, ``spread`` for those whose
    work is divided among devices.
    """
    return Compiled(function, quick=quick, spread=spread, **settings)


_THREAD = threading.local()


@contextmanager
def rehearsal() -> Iterator[None]:
    """Within it, and in this thread, compiled functions are compiled but not run: zeros stand for what they
    return (no typed keys: a TypeError). Later calls with such arguments, in any thread, find the programs."""
    _THREAD.rehearses = True
    try:
        yield
    finally:
        _THREAD.rehearses = False


SHARE = "NPROC"
"""Environment variable: cores that a process may use at most, where it shares them with others. XLA knows it
as well, and counts its threads by it when a process first computes."""


def usable_cores() -> int:
    """Processor cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get(SHARE, "")
    return min(cores, max(1, int(told))) if told.isdigit() else cores


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


Rewriting = Callable[..., Any]
"""(values, parameters) of a primitive -> what takes the place of its results."""


def in_order(function: Callable[P, R], *, unrolled: bool = True) -> Callable[P, R]:
    """The function (to be traced) with every product's left factor laid out along what is summed, with QR
    factors found without LAPACK, and with random bits drawn without loops if they are ``unrolled``."""
    return _rewritten(function, PRODUCTS | FACTORS | (RANDOM if unrolled else {}))


def without_lapack(function: Callable[P, R]) -> Callable[P, R]:
    """The function (to be traced) with QR factors found without LAPACK, whoever compiles it."""
    return _rewritten(function, FACTORS)


def _rewritten(function: Callable[P, R], rewritings: Mapping[Primitive, Rewriting]) -> Callable[P, R]:
    @functools.wraps(function)
    def anew(*args: P.args, **kwargs: P.kwargs) -> R:
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
        return jax.tree.unflatten(jax.tree.structure(shape), Rewriter(rewritings).evaluate(program, *traced))

    return anew


def bound(primitive: Primitive, params: dict[str, Any]) -> Callable[..., Any]:
    """An operation of a traced program, with its parameters, to be applied to other values."""
    found = primitive.get_bind_params(params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # by version of JAX
    return functools.partial(primitive.bind, *functions, **params)


Program = Jaxpr | ClosedJaxpr
"""The second may be the first, by version of JAX."""


class Rewriter:
    """Traces programs anew with some of their primitives rewritten, in inner programs too.

    The inner ones that have none stay as they are, and each other one is rewritten once, however often it is
    called: so they are traced and lowered once.
    """

    def __init__(self, rewritings: Mapping[Primitive, Rewriting]):
        self.rewritings = rewritings
        self._made: dict[int, tuple[Program, Program]] = {}
        """Inner programs by their identity, and what became of them."""

    def evaluate(self, program: ClosedJaxpr, *args: jax.Array) -> Sequence[jax.Array]:
        """What a traced program computes."""
        jaxpr = program.jaxpr
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *args], strict=True))

        def read(variable: Var | Literal) -> Any:
            return variable.val if isinstance(variable, Literal) else known[variable]

        for equation in jaxpr.eqns:
            primitive, values = equation.primitive, [read(x) for x in equation.invars]
            if primitive in self.rewritings:
                found = self.rewritings[primitive](*values, **equation.params)
            else:
                params = {name: self._parameter(value) for name, value in equation.params.items()}
                found = bound(primitive, params)(*values)
            known.update(zip(equation.outvars, found if primitive.multiple_results else [found], strict=True))
        return [read(x) for x in jaxpr.outvars]

    def _parameter(self, value: Any) -> Any:
        """A parameter of a primitive; the bodies of loops, branches and calls are programs themselves."""
        if not self._concerns(value):
            return value
        if isinstance(value, tuple):
            made = map(self._parameter, value)
            return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
        if id(value) not in self._made:
            self._made[id(value)] = value, self._program(value)
        return self._made[id(value)][1]

    def _program(self, program: Program) -> Program:
        closed = program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())
        inputs = [jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type) for x in closed.in_avals]
        made = jax.make_jaxpr(functools.partial(self.evaluate, closed))(*inputs)
        return made if closed is program else made.jaxpr

    def _concerns(self, value: Any) -> bool:
        """Whether a parameter of a primitive is, or holds, a program with something to rewrite."""
        if isinstance(value, tuple):
            return any(map(self._concerns, value))
        if not isinstance(value, Program):
            return False
        equations = (value.jaxpr if isinstance(value, ClosedJaxpr) else value).eqns
        return any(
            x.primitive in self.rewritings or any(map(self._concerns, x.params.values())) for x in equations
        )


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


PRODUCTS: dict[Primitive, Rewriting] = {dot_general_p: _product}


PANEL = 64
"""Columns that are made orthonormal one after the other; they are to those before by products."""


def _orthonormal(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Q [m, n] and R [n, n] of a matrix [m, n] of full rank, m >= n, by block Gram-Schmidt, everything twice
    (Giraud et al., 2005); the diagonal of R is positive."""
    q = matrix[:, :0]
    for start in range(0, matrix.shape[1], PANEL):
        part = matrix[:, start : start + PANEL]
        for _ in range(2 if start else 0):
            part = part - q @ (q.T @ part)
        q = jnp.concatenate([q, _gram_schmidt(part)], 1)
    return q, jnp.triu(q.T @ matrix)


def _gram_schmidt(matrix: jax.Array) -> jax.Array:
    """Orthonormal columns of the same span [m, n], one by one."""

    def column(j: jax.Array, q: jax.Array) -> jax.Array:
        rest = jnp.take(matrix, j, axis=1)
        for _ in range(2):
            rest = rest - jnp.sum(q * jnp.sum(q * rest[:, None], 0), 1)
        return q.at[:, j].set(rest / jnp.sqrt(jnp.sum(rest**2)))

    return jax.lax.fori_loop(0, matrix.shape[1], column, jnp.zeros_like(matrix))


def _qr(matrix: jax.Array, *, pivoting: bool, full_matrices: bool, **params: Any) -> Sequence[jax.Array]:
    """Of orthogonal initialisations. LAPACK's as jaxlib calls it waits for a free thread of the pool that it
    runs in: as many calls at once as there are threads, two layers' on two cores say, wait for ever."""
    rows, columns = matrix.shape[-2:]
    if pivoting or full_matrices or rows < columns or jnp.iscomplexobj(matrix):
        known = {"pivoting": pivoting, "full_matrices": full_matrices, **params}
        return bound(qr_p, known)(matrix)
    function = _orthonormal
    for _ in matrix.shape[:-2]:
        function = jax.vmap(function)
    return Rewriter(PRODUCTS).evaluate(jax.make_jaxpr(function)(matrix), matrix)


FACTORS: dict[Primitive, Rewriting] = {qr_p: _qr}


ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""Of Threefry-2x32's rounds, four by four in turns."""


def _threefry(key0: jax.Array, key1: jax.Array, x0: jax.Array, x1: jax.Array) -> list[jax.Array]:
    """Threefry-2x32 of 20 rounds (Salmon et al., 2011), bit by bit what the primitive computes."""
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation)))
        x0 = x0 + keys[(block + 1) % 3]
        x1 = x1 + keys[(block + 2) % 3] + np.uint32(block + 1)
    return [x0, x1]


THREEFRY = "threefry2x32"


def _drawn(primitive: Primitive, of_key: Callable[..., jax.Array]) -> Rewriting:
    """What a primitive makes of keys (and arrays that go with them), drawn by `_threefry`.

    ``of_key`` is what JAX's implementation makes of the numbers [2] of one key.
    """

    def draw(keys: jax.Array, *others: jax.Array, **params: Any) -> jax.Array:
        if jax.random.key_impl(keys) != THREEFRY:
            return primitive.bind(keys, *others, **params)
        shape = jnp.broadcast_shapes(keys.shape, *(x.shape for x in others))
        numbers = [jnp.broadcast_to(jax.random.key_data(keys), (*shape, 2))]
        numbers += [jnp.broadcast_to(x, shape) for x in others]
        function: Callable[..., jax.Array] = functools.partial(of_key, **params)
        for _ in shape:
            function = jax.vmap(function)
        (found,) = Rewriter(RANDOM).evaluate(jax.make_jaxpr(function)(*numbers), *numbers)
        # Of a kernel that also uses what is drawn, LLVM may follow all paths through the rounds: for ever.
        found = jax.lax.optimization_barrier(found)
        return found if primitive is random_bits_p else jax.random.wrap_key_data(found, impl=THREEFRY)

    return draw


RANDOM: dict[Primitive, Rewriting] = {
    threefry2x32_p: _threefry,
    random_bits_p: _drawn(
        random_bits_p,
        lambda key, bit_width, shape, **_: threefry_prng_impl.random_bits(key, bit_width, shape),
    ),
    random_split_p: _drawn(random_split_p, lambda key, shape, **_: threefry_prng_impl.split(key, shape)),
    random_fold_in_p: _drawn(
        random_fold_in_p, lambda key, message, **_: threefry_prng_impl.fold_in(key, message)
    ),
}
