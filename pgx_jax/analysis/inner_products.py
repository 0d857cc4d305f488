"""How well features keep the inner products of the gradients, and what the features take.

Surrogates see the gradients of log pi through their inner products alone: what a random map does to these is
all that it can do to the groups.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from pgx_jax import learn
from pgx_jax.analysis.subject import Subject, parameter_count
from pgx_jax.estimate import LogProb
from pgx_jax.estimate.precision import full_precision
from pgx_jax.steady import compiled
from pgx_jax.types import Array, PyTree

Returned = TypeVar("Returned")
ENTRIES = 2**27
"""Of the gradients that are held at a time: half a GB, and 1 GB in float64."""


def sample_size(run: Subject, most: int) -> int:
    """How many transitions of each source can be compared by their whole gradients, ``most`` if memory allows
    so many."""
    parameters = parameter_count(learn.policy_params(run.meta))
    return max(1, min(most, run.transitions.action.shape[1], ENTRIES // parameters))


@functools.partial(compiled, quick=True, static_argnames="log_prob")
def _gradients(log_prob: LogProb, params: PyTree, obs: PyTree, action: Array) -> Float[Array, "S p"]:
    each = jax.vmap(jax.grad(log_prob), (None, 0, 0))(params, obs, action)
    return jax.vmap(lambda tree: ravel_pytree(tree)[0])(each)


@full_precision
def gradient_products(run: Subject, count: int) -> Float[np.ndarray, "U S S"]:
    """Inner products of the gradients of log pi of a source's first ``count`` transitions with each other, in
    float64; without the parameters that the features leave out (`estimate.private_parameters`)."""
    params, private, given = learn.policy_params(run.meta), run.features.private, run.transitions
    shared = 1.0 if private is None else ~np.asarray(private)

    def of_source(u: int) -> Float[np.ndarray, "S S"]:
        some = jax.tree.map(lambda x: x[u, :count], (given.obs, given.action))
        x = np.asarray(_gradients(run.policy.log_prob, params, *some), np.float64) * shared
        return x @ x.T

    return np.stack([of_source(u) for u in range(len(given.action))])


def inner_products(values: Float[Array, "U N d"], count: int) -> Float[np.ndarray, "U S S"]:
    """Those of the features of a source's first ``count`` transitions with each other, in float64."""
    rows = np.asarray(values[:, :count], np.float64)
    return rows @ rows.transpose(0, 2, 1)


def relative_difference(found: Float[np.ndarray, "*any"], exact: Float[np.ndarray, "*any"]) -> float:
    """|found - exact| / |exact|, in the Euclidean norm of all entries."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def timed(function: Callable[[], Returned]) -> tuple[Returned, float]:
    """What one call returns, and its seconds: of the processor, where that is what computes (others on the
    machine disturb these less), else by the clock."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    began = clock()
    found = jax.block_until_ready(function())
    return found, clock() - began
