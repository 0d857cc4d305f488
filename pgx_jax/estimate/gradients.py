"""Gradients of many transitions that are never held whole: outer products wait until a part is needed.

By the kernel of a dense layer, the gradient of one transition is an outer product: of what went into the
layer and of what comes back to it. Both are short, so a chunk of transitions is differentiated once,
these factors are held, and every piece of the products is made where it is used up, in a cache. They are
found in the traced program: whatever is made of fewer numbers by cheap operations alone waits, and is made
within the loop that takes a part of it, where the compiler makes that part alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var
from jax.extend.core.primitives import dot_general_p, jit_p
from jaxtyping import Float, Num

from pgx_jax.steady import bound
from pgx_jax.types import Array, PyTree

LogProb = Callable[[PyTree, PyTree, Array], Array]
"""(params, obs, action) of one transition -> log pi(action | obs), a scalar."""


def log_probs(log_prob: LogProb, params: PyTree, obs: PyTree, action: Array) -> Float[Array, "U N"]:
    """log pi of every transition of every source: float [U, N], of leaves [U, N, ...]; to be traced."""
    return jax.vmap(jax.vmap(log_prob, (None, 0, 0)), (None, 0, 0))(params, obs, action)


LAYOUT = {"transpose", "reshape", "broadcast_in_dim", "squeeze", "convert_element_type"}
ELEMENTWISE = {"mul", "neg", "add_any"}
"""What, beside outer products, may be done anew for every piece: a compiler makes the wanted part alone."""
OUTER = (((), ()), ((0,), (0,)))
"""Of a product that sums over nothing and has the transitions in front: its dimension numbers."""


class Gradient(NamedTuple):
    """Gradients of c transitions by one leaf of the parameters, [c, *shape], that wait to be made."""

    held: tuple[Array, ...]
    """Factors of outer products, or the gradients as they are."""
    make: Callable[..., Array]
    shape: tuple[int, ...]
    factors: tuple[tuple[Array, Array], ...] | None = None
    """Pairs [c, a], [c, b] whose outer products add up to the gradients [c, a, b], where it is known to be
    so."""

    def at(self, turn: Array) -> Num[Array, "c *shape"]:
        """The gradients, made anew in this turn of a loop (else a compiler would make them before it)."""
        *held, _ = jax.lax.optimization_barrier((*self.held, turn))
        return self.make(*held)


class _Step(NamedTuple):
    """A cheap operation."""

    equation: JaxprEqn
    apply: Callable[..., Array]
    values: list[Array]
    output: Array
    """Kept, so that its identity is no other's."""


class _Recorder:
    """Evaluates a program and remembers the cheap operations, by the identity of what came out."""

    def __init__(self) -> None:
        self.steps: dict[int, _Step] = {}
        self.found: dict[int, dict[int, Array]] = {}

    def evaluate(self, program: ClosedJaxpr, *args: Array) -> list[Array]:
        """What the program computes; calls of compiled functions are opened."""
        jaxpr = program.jaxpr
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *args], strict=True))

        def read(variable: Var | Literal) -> Any:
            return variable.val if isinstance(variable, Literal) else known[variable]

        for equation in jaxpr.eqns:
            outputs = self._apply(equation, [read(x) for x in equation.invars])
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def _apply(self, equation: JaxprEqn, values: list[Array]) -> Sequence[Array]:
        primitive = equation.primitive
        if primitive is jit_p:
            return self.evaluate(equation.params["jaxpr"], *values)
        apply = bound(primitive, equation.params)
        output = apply(*values)
        if _is_cheap(equation):
            self.steps[id(output)] = _Step(equation, apply, values, output)
        return output if primitive.multiple_results else [output]

    def needs(self, value: Array) -> dict[int, Array]:
        """By identity, the fewest entries that a value can be made of by cheap operations."""
        if not isinstance(value, jax.core.Tracer):
            return {}  # a constant
        key = id(value)
        if key not in self.steps:
            return {key: value}
        if key not in self.found:
            parts = {k: x for part in self.steps[key].values for k, x in self.needs(part).items()}
            smaller = sum(x.size for x in parts.values()) < value.size
            self.found[key] = parts if smaller else {key: value}
        return self.found[key]

    def waiting(self, value: Array) -> Gradient:
        """The value [c, *shape], to be made later."""
        held = self.needs(value)

        def make(*values: Array) -> Array:
            return self._again(value, dict(zip(held, values, strict=True)))

        return Gradient(tuple(held.values()), make, value.shape, self.factors(value))

    def factors(self, value: Array) -> tuple[tuple[Array, Array], ...] | None:
        """Of a value [c, a, b], the pairs of `Gradient.factors`."""
        step = self.steps.get(id(value))
        if step is None:
            return None
        primitive, params = step.equation.primitive, step.equation.params
        if primitive is dot_general_p and params["dimension_numbers"] == OUTER:
            left, right = step.values
            return ((left, right),) if left.ndim == right.ndim == 2 else None
        if primitive.name not in ("add_any", "transpose"):
            return None
        parts = [self.factors(part) for part in step.values]
        if any(part is None for part in parts):
            return None
        pairs = tuple(pair for part in parts for pair in part or ())
        if primitive.name == "add_any":
            return pairs
        return tuple((b, a) for a, b in pairs) if params["permutation"] == (0, 2, 1) else None

    def _again(self, value: Array, known: dict[int, Array]) -> Array:
        key = id(value)
        if key not in known:
            if not isinstance(value, jax.core.Tracer):
                return value
            step = self.steps[key]
            known[key] = step.apply(*(self._again(x, known) for x in step.values))
        return known[key]


def _is_cheap(equation: JaxprEqn) -> bool:
    if equation.primitive is dot_general_p:
        (summed, _), _ = equation.params["dimension_numbers"]
        return not summed
    return equation.primitive.name in LAYOUT | ELEMENTWISE


def gradients(log_prob: LogProb, params: PyTree, obs: PyTree, action: Array) -> list[Gradient]:
    """Gradients of log pi of c transitions by every leaf of the parameters, in the order of the leaves.

    To be called while a compiled function is traced. Everything that is not an outer product, such as the
    gradients by the kernels of convolutions, is held as it is.

    Args:
        log_prob: (params, obs, action) of one transition -> scalar.
        params: pytree of the parameters.
        obs: leaves [c, ...].
        action: [c, ...].
    """

    def of_each(*batch: Any) -> list[Array]:
        return jax.tree.leaves(jax.vmap(jax.grad(log_prob), (None, 0, 0))(*batch))

    batch = (params, obs, action)
    recorder = _Recorder()
    leaves = recorder.evaluate(jax.make_jaxpr(of_each)(*batch), *jax.tree.leaves(batch))
    return [recorder.waiting(leaf) for leaf in leaves]


def held_entries(log_prob: LogProb, params: PyTree, obs: PyTree, action: Array) -> int:
    """How many numbers are held for one transition while its gradients wait; of a transition alone."""

    def held(*batch: Any) -> list[tuple[Array, ...]]:
        return [gradient.held for gradient in gradients(log_prob, *batch)]

    one = jax.tree.map(lambda x: x[:1], (obs, action))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(jax.eval_shape(held, params, *one)))
