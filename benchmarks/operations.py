"""Counting floating-point operations of a traced JAX program.

The count walks the program as it is traced, before compilation: a matrix product counts 2 M N K, a
Cholesky factor n^3 / 3, a triangular solve n^2 a right-hand side, a sort s log2 s, a reduction the
size of its input, and every other primitive one operation for each element of its output, however
costly it is (exp, tanh and random bits included). Loops count as often as they run.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import numpy as np

FREE = {
    "reshape", "broadcast_in_dim", "squeeze", "transpose", "slice", "dynamic_slice", "dynamic_update_slice",
    "concatenate", "gather", "convert_element_type", "bitcast_convert_type", "copy", "iota", "rev", "pad",
    "stop_gradient", "expand_dims", "random_wrap", "random_unwrap", "optimization_barrier", "split",
}  # fmt: skip
"""Primitives that move data."""


def operations(function: Callable, *args, while_trips: float = 1.0, **kwargs) -> float:
    """Operations of ``function(*args, **kwargs)``; args may be arrays or their shapes.

    Args:
        function: what to trace.
        *args: its arguments.
        while_trips: how often loops run whose length the program does not tell.
        **kwargs: static arguments.
    """
    jaxpr = jax.make_jaxpr(lambda *a: function(*a, **kwargs))(*args)
    return _count(jaxpr.jaxpr, while_trips)


def _count(jaxpr, trips: float) -> float:
    return float(sum(_equation(eqn, trips) for eqn in jaxpr.eqns))


def _inner(params) -> list:
    """The programs inside an equation's parameters."""
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                found.append(item)
    return found


def _equation(eqn, trips: float) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        return params["length"] * _count(params["jaxpr"].jaxpr, trips)
    if name == "while":
        return trips * (_count(params["cond_jaxpr"].jaxpr, trips) + _count(params["body_jaxpr"].jaxpr, trips))
    if name == "cond":
        return max(_count(branch.jaxpr, trips) for branch in params["branches"])
    if inner := _inner(params):
        return sum(_count(program, trips) for program in inner)
    return _primitive(name, eqn)


def _primitive(name: str, eqn) -> float:
    shapes = [getattr(v.aval, "shape", ()) for v in eqn.invars]
    out = float(sum(np.prod(getattr(v.aval, "shape", ()), dtype=float) for v in eqn.outvars))
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
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
