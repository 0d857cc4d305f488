"""Parameters that the context of one task alone can reach: they are left out of the features.

A policy that is told its task has some: with one-hot contexts a row of weights of a layer that sees the
context, a row of a table, a task's head or deviation. Between tasks their gradients never overlap; they would
add to what every task is to itself, and so dilute similarities and surrogates.

Which they are is decided by tracing: the program of the gradient is gone through with nothing known of
parameters, observations and actions, and a task's context as it is. What is zero then, is zero whatever the
others are; a unit that happens to be off on all observations is not. So in no network a parameter that two
tasks reach is called private. One that is may be missed, where a program does what is not in the tables below
(loops, branches): it counts as shared.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import Bool

from pgx_jax.errors import ConfigError
from pgx_jax.estimate.gradients import LogProb
from pgx_jax.steady import bound, compiled
from pgx_jax.types import Array, PyTree, Seen, Transitions

CALLS = {
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr",
}  # fmt: skip
"""Operations that are programs, which are opened."""
SUMS = {
    "mul", "dot_general", "conv_general_dilated", "add", "add_any", "reduce_sum", "cumsum", "reduce_max",
    "reduce_window_sum", "transpose", "reshape", "broadcast_in_dim", "squeeze", "expand_dims", "slice",
    "concatenate", "pad", "rev", "split", "stack", "unstack", "copy", "copy_p",
}  # fmt: skip
"""Sums of products, and rearrangements: of marks that are 0 or 1, they are 0 where they must be."""
PLACED = {
    "gather": slice(1, 2), "scatter-add": slice(1, 2), "scatter_add": slice(1, 2),
    "dynamic_slice": slice(1, None), "dynamic_update_slice": slice(2, None), "select_n": slice(0, 1),
}  # fmt: skip
"""The same, if these of the operands are known."""
ANY = {"sub", "max", "min", "clamp", "select_n"}
"""Zero where all operands are."""
FIRST = {
    "div", "neg", "tanh", "sqrt", "square", "sign", "abs", "sin", "tan", "asin", "atan", "sinh", "asinh",
    "atanh", "expm1", "log1p", "erf", "cbrt", "floor", "ceil", "round", "real", "imag", "stop_gradient",
    "reduce_precision", "convert_element_type", "optimization_barrier",
}  # fmt: skip
"""Zero where the first operand is."""


class Mark(NamedTuple):
    """What is known of an array, whatever parameters, observations and actions are."""

    mark: Array
    """0 where it is zero, 1 where it may be something else; of its shape."""
    value: Array | None = None
    """The array, if it comes from the context alone."""


def _unknown(variable: Any, mark: Array | None = None) -> Mark:
    """A variable (its aval) that may be anything, but for zeros where ``mark`` has them; whole numbers may be
    anything in any case."""
    exact = not jnp.issubdtype(variable.dtype, jnp.inexact)
    if exact or mark is None:
        return Mark(jnp.ones(variable.shape, jnp.float32 if exact else variable.dtype))
    return Mark(jnp.broadcast_to(mark != 0, variable.shape).astype(variable.dtype))


def _known(value: Any) -> Mark:
    """An array that is known."""
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        return Mark(jnp.ones(jnp.shape(value)), value)
    return Mark(jnp.asarray(value != 0, value.dtype), value)


def _marks(program: ClosedJaxpr, marks: Sequence[Mark]) -> list[Mark]:
    """What is known of the results of a program, by what is of its inputs."""
    jaxpr = program.jaxpr
    found = dict(zip(jaxpr.constvars, map(_known, map(jnp.asarray, program.consts)), strict=True))
    found |= dict(zip(jaxpr.invars, marks, strict=True))

    def read(variable: Var | Literal) -> Mark:
        return _known(jnp.asarray(variable.val)) if isinstance(variable, Literal) else found[variable]

    for equation in jaxpr.eqns:
        outputs = _apply(equation, [read(x) for x in equation.invars])
        found.update(zip(equation.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _apply(equation: JaxprEqn, marks: list[Mark]) -> list[Mark]:
    """What is known of the results of one operation."""
    values = [x.value for x in marks]
    if equation.primitive.name in CALLS:
        inner = next(x for x in equation.params.values() if isinstance(x, ClosedJaxpr | Jaxpr))
        return _marks(inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ()), marks)
    if values and all(value is not None for value in values):
        return [_known(x) for x in _results(equation, values)]
    made = zip(equation.outvars, _zeros(equation, marks), strict=True)
    return [_unknown(variable.aval, mark) for variable, mark in made]


def _zeros(equation: JaxprEqn, marks: list[Mark]) -> Sequence[Array | None]:
    """Arrays that are zero where an operation's results must be; None where that is not told."""
    name = equation.primitive.name
    own: list[Any] = [x.mark for x in marks]
    places = PLACED.get(name, slice(0))
    placed = [x.value for x in marks[places]]
    if name in SUMS or (name in PLACED and all(value is not None for value in placed)):
        own[places] = placed
        return _results(equation, own)
    if name in ANY:
        return [sum(own[1:] if name == "select_n" else own)]
    if name in FIRST or (name == "integer_pow" and equation.params["y"] > 0):
        return own[: len(equation.outvars)]
    return [None] * len(equation.outvars)


def _results(equation: JaxprEqn, values: Sequence[Any]) -> Sequence[Array]:
    """An operation's results for other values than those it was traced with."""
    results = bound(equation.primitive, equation.params)(*values)
    return results if equation.primitive.multiple_results else [results]


@functools.partial(compiled, quick=True, static_argnames="log_prob")
def _reached(log_prob: LogProb, params: PyTree, obs: PyTree, context: Array, action: Array) -> PyTree:
    """The parameters that log pi may depend on in a context: bool, like ``params``; of these, and of an
    observation and an action, the shapes alone matter."""
    program = jax.make_jaxpr(jax.grad(log_prob))(params, Seen(obs, context), action)
    marks = [_unknown(variable.aval) for variable in program.jaxpr.invars]
    marks[len(jax.tree.leaves((params, obs)))] = _known(context)
    found = [x.mark != 0 for x in _marks(program, marks)]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def private_parameters(
    log_prob: LogProb, params: PyTree, transitions: Transitions
) -> Bool[np.ndarray, "p"] | None:
    """The parameters that the context of at most one of the tasks can reach (see the head of this module).

    Args:
        log_prob: (params, obs, action) of one transition -> log pi, a scalar.
        params: pytree of the policy's parameters.
        transitions: what the policy experienced; told its task, it saw `Seen`, with one context a source.

    Returns:
        bool [p], as ``ravel_pytree`` orders the parameters; None if there are none, as where it is not told.

    Raises:
        ConfigError: no parameter is shared by two tasks.
    """
    source = np.asarray(transitions.source)
    if not isinstance(transitions.obs, Seen) or len(source) < 2:
        return None
    contexts = np.asarray(transitions.obs.context)
    if (contexts != contexts[:, :1]).any():
        return None
    obs, action = jax.tree.map(lambda x: x[0, 0], (transitions.obs.obs, transitions.action))
    reached = np.zeros(sum(np.size(x) for x in jax.tree.leaves(params)), int)
    for context, tasks in zip(*np.unique(contexts[source, 0], axis=0, return_counts=True), strict=True):
        leaves = jax.tree.leaves(_reached(log_prob, params, obs, context, action))
        reached += tasks * np.concatenate([np.ravel(x) for x in leaves])
    private = reached < 2
    if private.all():
        raise ConfigError(
            "every parameter of this policy is a single task's own, and nothing tells which tasks go "
            "together; take a network that shares some"
        )
    return private if private.any() else None


def without(private: Bool[Array, "p"] | None, moved: PyTree, params: PyTree) -> PyTree:
    """``moved``, like the parameters but for leading axes of every leaf, with zeros for what is private."""
    if private is None:
        return moved
    leaves, structure = jax.tree.flatten(params)
    starts = np.cumsum([math.prod(np.shape(x)) for x in leaves])[:-1]
    kept = [
        np.reshape(~part, np.shape(x))
        for part, x in zip(np.split(np.asarray(private), starts), leaves, strict=True)
    ]
    return jax.tree.map(lambda x, keep: x * keep, moved, jax.tree.unflatten(structure, kept))
