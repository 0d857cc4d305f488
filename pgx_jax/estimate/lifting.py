"""From the projected space back to the parameters, and how far that leads from theta*.

Two lifts. The paper's, theta* + P D: since P P^T is not the identity, most of its length is noise
(its cosine with the direction meant is sqrt(d / (p + d))). The dual lift, theta* + sum_t alpha_t g_t
with the unprojected gradients g_t, has no such noise: at the solution D = sum_t alpha_t g~_t.
Parameters that the features left out (``Features.private``) are not moved by either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate import projections
from pgx_jax.estimate.gradients import LogProb
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.private import without
from pgx_jax.estimate.surrogates import signed_weights
from pgx_jax.steady import compiled
from pgx_jax.types import FIT, Array, Features, PyTree, Surrogates, Transitions


def lift_projection(features: Features, delta: Float[Array, "*lead d"], params: PyTree) -> PyTree:
    """P D as a pytree like ``params``, with the leading axes of delta [..., d] (the paper's lift)."""
    lifted = projections.lift(features.key, delta, params, projection=features.projection)
    return without(features.private, lifted, params)


def _fit_weights(
    transitions: Transitions, a: Float[Array, "n N"], parts: Sequence[int]
) -> Float[np.ndarray, "n N"]:
    """a / N_i on the chosen parts, 0 elsewhere: float32 [n, N]."""
    source = np.asarray(transitions.source)
    keep = np.isin(np.asarray(transitions.split), list(parts))[source]
    if not keep.any(1).all():
        culprit = int(source[np.argmin(keep.any(1))])
        raise DataError(f"source {culprit} has no transitions in parts {tuple(parts)} of the split")
    return (np.asarray(a) * keep / keep.sum(1, keepdims=True)).astype(np.float32)


def _task_duals(
    delta: Float[Array, "d"], weights: Float[Array, "N"], g: Float[Array, "N d"], linear: Array
) -> Float[Array, "N"]:
    """l2 |S| alpha of one task's transitions for one subset: [N] from delta [d], weights [N], g [N, d]."""
    z = g @ delta
    exact = weights * jax.nn.sigmoid(-jnp.sign(weights) * z)
    return jnp.where(linear, weights / 2 - jnp.abs(weights) * z / 4, exact)


@functools.partial(compiled, quick=True)
def _source_duals(
    member: Bool[Array, "n"],
    delta: Float[Array, "d"],
    l2: Array,
    linear: Array,
    weights: Float[Array, "n N"],
    g: Float[Array, "U N d"],
    source: Int[Array, "n"],
) -> Float[Array, "U N"]:
    """alpha [U, N] of one subset: member [n], delta [d], weights [n, N], g [U, N, d], source [n]."""
    share = member / member.sum() / l2

    def add_task(total: Any, task: Any) -> Any:
        row = share[task] * _task_duals(delta, weights[task], g[source[task]], linear)
        return total.at[source[task]].add(row), None

    return jax.lax.scan(add_task, jnp.zeros(g.shape[:2], g.dtype), jnp.arange(len(source)))[0]


@full_precision
def duals(
    features: Features,
    transitions: Transitions,
    a: Float[Array, "n N"],
    surrogates: Surrogates,
    *,
    parts: Sequence[int] = (FIT,),
) -> Float[Array, "m U N"]:
    """Dual variables of the surrogates: D_S = sum_t alpha_t g~_t over the transitions of S.

    At the optimum alpha_t = w_t y_t sigma(-y_t z_t) / (|S| N_i l2). After one quadratic step the
    same holds with the residual linearised at 0, w_t (y_t / 2 - z_t / 4), which is used where
    ``surrogates.iterations`` is 1. In between (a few Newton iterations) it holds approximately.

    Args:
        features: values [U, N, d].
        transitions: split and sources.
        a: float [n, N], from ``signed_weights``.
        surrogates: m solutions.
        parts: the parts of the data that they were fitted on.

    Returns:
        float [m, U, N]; where tasks share a source, theirs are summed.
    """
    return jnp.stack([*_each_duals(features, transitions, a, surrogates, parts)])


def _each_duals(
    features: Features,
    transitions: Transitions,
    a: Float[Array, "n N"],
    surrogates: Surrogates,
    parts: Sequence[int],
) -> Iterator[Float[Array, "U N"]]:
    """`duals` of one subset after the other."""
    weights, source, g = jax.device_put(
        (_fit_weights(transitions, a, parts), transitions.source, features.values)
    )
    linear = np.asarray(surrogates.iterations) == 1
    for row, delta in zip(*map(np.asarray, (surrogates.member, surrogates.delta)), strict=True):
        yield _source_duals(row, delta, surrogates.l2, linear, weights, g, source)


@functools.partial(compiled, quick=True, static_argnames="log_prob")
def _lift_one(
    log_prob: LogProb, params: PyTree, obs: PyTree, action: Array, alpha: Float[Array, "U N"]
) -> PyTree:
    """sum_t alpha_t grad log pi_t over obs (leaves [U, N, ...]): one backward pass a source."""

    def weighted(params: PyTree, obs: PyTree, action: Array, alpha: Array) -> Array:
        return alpha @ jax.vmap(log_prob, (None, 0, 0))(params, obs, action)

    def add_source(total: PyTree, batch: Any) -> Any:
        # Sources without weight are skipped: subsets are small.
        grad = jax.lax.cond(
            jnp.any(batch[2] != 0),
            lambda: jax.grad(weighted)(params, *batch),
            lambda: jax.tree.map(jnp.zeros_like, params),
        )
        return jax.tree.map(jnp.add, total, grad), None

    zero = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add_source, zero, (obs, action, alpha))[0]


@full_precision
def lift_dual(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    a: Float[Array, "n N"],
    surrogates: Surrogates,
    features: Features,
    *,
    parts: Sequence[int] = (FIT,),
) -> PyTree:
    """sum_t alpha_t grad log pi_t for every subset, by one backward pass of sum_t alpha_t log pi_t.

    Args:
        log_prob: (params, obs, action) of one transition -> scalar.
        params: the parameters theta* at which the features were taken.
        transitions: observations and actions, split and sources.
        a: float [n, N], from ``signed_weights``.
        surrogates: m solutions.
        features: values [U, N, d].
        parts: the parts of the data that the surrogates were fitted on.

    Returns:
        Pytree like ``params`` with a leading axis m: the displacement, not theta* + displacement.
    """
    obs, action = jax.device_put((transitions.obs, transitions.action))
    lifted = [
        _lift_one(log_prob, params, obs, action, alpha)
        for alpha in _each_duals(features, transitions, a, surrogates, parts)
    ]
    return without(features.private, jax.tree.map(lambda *leaves: jnp.stack(leaves), *lifted), params)


@dataclass(frozen=True)
class Lift:
    """A way from the surrogates' solutions back to the parameters."""

    function: Callable[..., PyTree]
    """(features, surrogates, params) -> displacements, a pytree like ``params`` with a leading axis m;
    with the keyword arguments ``log_prob`` and ``transitions`` if it differentiates."""
    differentiates: bool = False
    """Whether it differentiates log pi at the transitions."""


def _dual(
    features: Features, surrogates: Surrogates, params: PyTree, *, log_prob: LogProb, transitions: Transitions
) -> PyTree:
    return lift_dual(log_prob, params, transitions, signed_weights(transitions), surrogates, features)


def _by_projection(features: Features, surrogates: Surrogates, params: PyTree) -> PyTree:
    return lift_projection(features, surrogates.delta, params)


LIFTS: dict[str, Lift] = {"dual": Lift(_dual, differentiates=True), "projection": Lift(_by_projection)}
"""Lifts by name, see the head of this module."""


def _norms(tree: PyTree) -> Array:
    """Euclidean norm of every row of a pytree with a leading axis: [m]."""
    squares = [jnp.square(leaf).reshape(leaf.shape[0], -1).sum(1) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares))


@functools.partial(compiled, quick=True)
def relative_distance(delta_params: PyTree, params: PyTree) -> Float[Array, "m"]:
    """|Delta| / |theta*| of every row: float [m]."""
    return _norms(delta_params) / _norms(jax.tree.map(lambda x: x[None], params))


def rescale(delta_params: PyTree, params: PyTree, distance: float) -> PyTree:
    """Scale every row to |Delta| / |theta*| = ``distance`` (a row of zeros stays).

    Args:
        delta_params: pytree like ``params`` with a leading axis m.
        params: theta*.
        distance: relative distance, for instance 0.02.

    Raises:
        ConfigError: if ``distance`` is not positive.
    """
    if not distance > 0:
        raise ConfigError(f"distance = {distance}; the relative distance of a step must be positive")
    present = relative_distance(delta_params, params)
    scale = jnp.where(present > 0, distance / jnp.where(present > 0, present, 1), 0)
    return jax.tree.map(lambda x: x * scale.reshape(-1, *[1] * (x.ndim - 1)), delta_params)


def displace(params: PyTree, delta_params: PyTree) -> PyTree:
    """theta* + Delta of every row: pytree with the leading axis m of ``delta_params``."""
    return jax.tree.map(lambda x, delta: x + delta, params, delta_params)
