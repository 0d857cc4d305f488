"""Counting floating-point operations of a traced JAX program.

The count walks the program as it is traced, before compilation: a matrix product counts 2 M N K, a
Cholesky factor n^3 / 3, a triangular solve n^2 a right-hand side, a sort s log2 s, a reduction the
size of its input, and every other primitive one operation for each element of its output, however
costly it is (exp, tanh and random bits included). Of branches the dearest counts.

Loops count as often as they run. Where the program does not tell how often that is, it is run once with a
counter beside every such loop. (Those inside what is neither a loop nor a branch nor a call, a solver of
equations that are given as functions for instance, count as one turn.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal, Var
from jaxtyping import Int

from pgx_jax.estimate.private import CALLS
from pgx_jax.steady import Program, bound, compiled
from pgx_jax.types import Array

FREE = {
    "reshape", "broadcast_in_dim", "squeeze", "transpose", "slice", "dynamic_slice", "dynamic_update_slice",
    "concatenate", "gather", "convert_element_type", "bitcast_convert_type", "copy", "iota", "rev", "pad",
    "stop_gradient", "expand_dims", "random_wrap", "random_unwrap", "optimization_barrier", "split",
}  # fmt: skip
"""Primitives that move data."""


def operations(function: Callable[..., Any], *args: Any, once: bool = False) -> float:
    """Operations of ``function(*args)``, which is traced (and run, if only that tells how long loops are).

    Args:
        function: of arrays.
        *args: pytrees of arrays; their shapes will do where nothing is run.
        once: whether loops of unknown length count as one turn, so that nothing is run.
    """
    program = jax.make_jaxpr(function)(*args)
    loops = {} if once else {id(loop): loop for loop in _loops(program)}
    total = _count(program, loops)
    if loops:
        counted = compiled(lambda *leaves: _Run(loops).evaluate(program, *leaves)[1], quick=True)
        turns = np.asarray(counted(*jax.tree.leaves(args)))
        for loop, own in zip(loops.values(), turns.tolist(), strict=True):
            total += own * sum(_count(loop.params[part], loops) for part in ("cond_jaxpr", "body_jaxpr"))
    return total


def _equations(program: Program) -> Sequence[JaxprEqn]:
    """Of a program, closed or not."""
    return getattr(program, "jaxpr", program).eqns


def _inner(equation: JaxprEqn) -> list[Program]:
    """The programs inside an equation's parameters."""
    values = equation.params.values()
    items = [x for value in values for x in (value if isinstance(value, tuple | list) else [value])]
    return [item for item in items if hasattr(getattr(item, "jaxpr", item), "eqns")]


def _followed(equation: JaxprEqn) -> list[Program]:
    """Those that `_Run` goes into."""
    name, params = equation.primitive.name, equation.params
    if name == "while":
        return [params["body_jaxpr"]]
    return _inner(equation) if name in {"scan", "cond", *CALLS} else []


def _loops(program: Program) -> Iterator[JaxprEqn]:
    """The loops of unknown length that `_Run` counts."""
    for equation in _equations(program):
        if equation.primitive.name == "while":
            yield equation
        for inner in _followed(equation):
            yield from _loops(inner)


def _count(program: Program, loops: Container[int]) -> float:
    """Operations of a program, without those of the ``loops``."""
    return float(sum(0 if id(x) in loops else _equation(x, loops) for x in _equations(program)))


def _equation(equation: JaxprEqn, loops: Container[int]) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return params["length"] * _count(params["jaxpr"], loops)
    if name == "cond":
        return max(_count(branch, loops) for branch in params["branches"])
    if inner := _inner(equation):
        return sum(_count(program, loops) for program in inner)
    return _primitive(name, equation)


def _primitive(name: str, equation: JaxprEqn) -> float:
    shapes: list[tuple[int, ...]] = [getattr(v.aval, "shape", ()) for v in equation.invars]
    out = float(sum(np.prod(getattr(v.aval, "shape", ()), dtype=float) for v in equation.outvars))
    if name == "dot_general":
        (contract, _), _ = equation.params["dimension_numbers"]
        return 2 * out * float(np.prod([shapes[0][axis] for axis in contract], dtype=float))
    if name == "cholesky":
        return out * shapes[0][-1] / 3
    if name == "triangular_solve":
        return out * shapes[0][-1]
    if name == "sort":
        return out * max(1.0, math.log2(max(shapes[0], default=1)))
    if name.startswith(("reduce", "arg")):
        return float(np.prod(shapes[0], dtype=float))
    return 0.0 if name in FREE else out


def _where(here: Array, new: Array, old: Array) -> Array:
    """New values in those parts of a batch that are ``here``, old ones elsewhere."""
    return jnp.where(here.reshape(*here.shape, *[1] * (new.ndim - here.ndim)), new, old)


Turns = Int[Array, "L"]
"""int [L]: how often the body of each loop has run."""


class _Run:
    """Computes what a program does (to be traced), and how often the bodies of its loops run."""

    def __init__(self, loops: dict[int, JaxprEqn]):
        self.place = {loop: i for i, loop in enumerate(loops)}
        self.none = jnp.zeros(len(loops), jnp.int32)

    def evaluate(self, program: Program, *args: Any) -> tuple[list[Any], Turns]:
        """Results of a program, and the turns of the loops in it."""
        jaxpr, turns = getattr(program, "jaxpr", program), self.none
        inputs = [*jaxpr.constvars, *jaxpr.invars]
        known: dict[Var, Any] = dict(zip(inputs, [*getattr(program, "consts", ()), *args], strict=True))

        def read(variable: Var | Literal) -> Any:
            if isinstance(variable, Literal):
                return jnp.asarray(variable.val, getattr(variable.aval, "dtype", None))
            return known[variable]

        for equation in jaxpr.eqns:
            values = [read(x) for x in equation.invars]
            if id(equation) in self.place or any(any(_loops(inner)) for inner in _followed(equation)):
                found, more = self._open(equation, values)
                turns = turns + more
            else:
                found = bound(equation.primitive, equation.params)(*values)
                found = found if equation.primitive.multiple_results else [found]
            known.update(zip(equation.outvars, found, strict=True))
        return [read(x) for x in jaxpr.outvars], turns

    def _open(self, equation: JaxprEqn, values: list[Any]) -> tuple[Sequence[Any], Turns]:
        """The same of an equation that holds loops, or is one."""
        open_it = {"while": self._while, "scan": self._scan, "cond": self._branch}
        name = equation.primitive.name
        if name in open_it:
            return open_it[name](equation, values)
        return self.evaluate(_inner(equation)[0], *values)

    def _while(self, equation: JaxprEqn, values: list[Any]) -> tuple[Sequence[Any], Turns]:
        params, place = equation.params, self.place[id(equation)]
        first = params["cond_nconsts"]
        of_condition, rest = values[:first], values[first:]
        of_body, start = rest[: params["body_nconsts"]], rest[params["body_nconsts"] :]

        def on(values: list[Any]) -> Array:
            """Whether the loop goes on; of a batch, whose loops turn until all are done, for each."""
            going: Array = self.evaluate(params["cond_jaxpr"], *of_condition, *values)[0][0]
            return going

        def body(carry: Any) -> Any:
            values, turns = carry
            found, more = self.evaluate(params["body_jaxpr"], *of_body, *values)
            if (going := on(values)).ndim:
                found = [_where(going, new, old) for new, old in zip(found, values, strict=True)]
            return found, (turns + more).at[place].add(1)

        return jax.lax.while_loop(lambda carry: jnp.any(on(carry[0])), body, (start, self.none))

    def _scan(self, equation: JaxprEqn, values: list[Any]) -> tuple[Sequence[Any], Turns]:
        params, first = equation.params, equation.params["num_consts"]
        last = first + params["num_carry"]
        fixed, start, each = values[:first], values[first:last], values[last:]

        def body(carry: Any, each: Any) -> Any:
            values, turns = carry
            found, more = self.evaluate(params["jaxpr"], *fixed, *values, *each)
            return (found[: len(start)], turns + more), found[len(start) :]

        known = {"length": params["length"], "reverse": params["reverse"]}
        (values, turns), made = jax.lax.scan(body, (start, self.none), each, **known)
        return [*values, *made], turns

    def _branch(self, equation: JaxprEqn, values: list[Any]) -> tuple[Sequence[Any], Turns]:
        index, *operands = values
        branches = [lambda *own, x=x: self.evaluate(x, *own) for x in equation.params["branches"]]
        return jax.lax.switch(index, branches, *operands)
