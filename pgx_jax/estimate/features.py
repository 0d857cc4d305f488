"""Gradient features: per-transition gradients of log pi, projected on the fly (paper, stage 1)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.projection import default_block, gaussian, project
from pgx_jax.types import Array, Features, PyTree, Transitions

LogProb = Callable[[PyTree, Array, Array], Array]
"""(params, obs, action) of one transition -> log pi(action | obs), a scalar."""

GRADIENT_BYTES = 3 << 29
"""Memory for the unprojected gradients of a chunk. Large, because every chunk draws the map anew."""
CACHED_GRADIENT_BYTES = 1 << 25
"""The same where the map is one block, which is drawn once: small enough for the processor's cache."""


def default_chunk(p: int, block: int) -> int:
    """Transitions to differentiate at a time."""
    return max(1, (CACHED_GRADIENT_BYTES if p <= block else GRADIENT_BYTES) // (4 * p))


@functools.partial(jax.jit, static_argnames=("log_prob", "dim", "chunk", "block"))
def _features(log_prob, params, obs, action, key, dim, chunk, block):
    """Features [N, d] and log-probabilities [N] of transitions obs [N, ...], action [N, ...]."""
    total, p = len(obs), sum(leaf.size for leaf in jax.tree.leaves(params))
    held = gaussian(key, p, dim) if p <= block else None

    def gradient(obs, action):
        value, grad = jax.value_and_grad(log_prob)(params, obs, action)
        return value, ravel_pytree(grad)[0]

    def chunk_features(start):
        rows = (jax.lax.dynamic_slice_in_dim(x, start, chunk) for x in (obs, action))
        value, grads = jax.vmap(gradient)(*rows)
        return (project(key, grads, dim, block) if held is None else grads @ held), value

    # The last chunk is shifted back instead of padded: one shape for all.
    count = -(-total // chunk)
    starts = jnp.minimum(jnp.arange(count) * chunk, total - chunk)
    new = total - (count - 1) * chunk

    def join(x):
        return jnp.concatenate([x[:-1].reshape(-1, *x.shape[2:]), x[-1, chunk - new :]])

    return jax.tree.map(join, jax.lax.map(chunk_features, starts))


@full_precision
def gradient_features(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    key: Array,
    dim: int = 400,
    *,
    chunk: int | None = None,
    block: int | None = None,
    names: Sequence[str] | None = None,
) -> Features:
    """Project the gradient of log pi of every transition: g~ = P^T grad log pi(a|s).

    Args:
        log_prob: (params, obs, action) of one transition -> scalar. It is compiled once per
            function object: pass the same one again rather than an equal lambda.
        params: pytree of the policy's parameters (the actor alone), theta*.
        transitions: what the policy experienced; obs [U, N, ...] and action [U, N, ...].
        key: raw PRNG key of the map P.
        dim: projected dimension d.
        chunk: transitions differentiated at a time; by default as many as 1.5 GiB of
            gradients allows. It does not change the features.
        block: rows of P held at a time. It does not change the features.
        names: names of the U sources, for messages.

    Returns:
        Features with values [U, N, d].

    Raises:
        ConfigError: if ``dim``, ``chunk`` or ``block`` is not positive.
        DataError: if a log-probability or a gradient is not finite, naming the source.
    """
    sources, count = transitions.action.shape[:2]
    total = sources * count
    for name, value in (("dim", dim), ("chunk", chunk), ("block", block)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} = {value}; it must be at least 1")
    p = sum(leaf.size for leaf in jax.tree.leaves(params))
    block = default_block(p) if block is None else block
    chunk = min(total, chunk or default_chunk(p, block))
    chunk = -(-total // -(-total // chunk))
    obs, action = (jnp.reshape(x, (total, *x.shape[2:])) for x in (transitions.obs, transitions.action))
    values, logp = _features(log_prob, params, obs, action, key, dim, chunk, block)
    values, logp = (x.reshape(sources, count, *x.shape[1:]) for x in (values, logp))
    _require_finite(values, logp, names)
    return Features(values, jnp.asarray(key))


def _require_finite(values: Array, logp: Array, names: Sequence[str] | None) -> None:
    """Raise a DataError that names the first source with a non-finite value."""
    bad_logp = np.asarray(~jnp.isfinite(logp))
    bad = bad_logp | np.asarray(~jnp.isfinite(values.sum(-1)))
    if not bad.any():
        return
    source = int(np.flatnonzero(bad.any(1))[0])
    what = "log-probabilities" if bad_logp[source].any() else "gradients of the log-probability"
    transition = int(np.flatnonzero(bad_logp[source] if bad_logp[source].any() else bad[source])[0])
    name = f"source {source}" if names is None else f"source {source} ({names[source]!r})"
    raise DataError(
        f"the policy gives non-finite {what} on {int(bad[source].sum())} of {bad.shape[1]} transitions of "
        f"{name}, first at transition {transition}; check the observations and actions there, and that the "
        f"policy's parameters are finite and its action distribution covers the actions"
    )
