"""Gradient features: per-transition gradients of log pi, projected on the fly (paper, stage 1)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.projection import TILE, gaussian
from pgx_jax.steady import compiled
from pgx_jax.types import Array, Features, Key, PyTree, Transitions

LogProb = Callable[[PyTree, PyTree, Array], Array]
"""(params, obs, action) of one transition -> log pi(action | obs), a scalar."""

SMALL_BLOCK, LARGE_BLOCK = 16 * TILE, 256 * TILE
"""By default half of the map is held at a time, but so many rows at least and at most."""
PIECE = 2048
"""Gradients by so many parameters are projected at a time: they stay in a processor's cache."""
CHUNK = 512
"""Transitions differentiated at a time on a processor, at least as many on an accelerator."""
GRADIENT_BYTES = 1 << 30
"""Memory for a chunk's gradients by the parameters of one block on an accelerator."""


class Piece(NamedTuple):
    """Entries [start, stop) of a flattened leaf of the parameters."""

    leaf: int
    start: int
    stop: int

    def of(self, leaves: Sequence[Array]) -> Num[Array, "c entries"]:
        """Gradients by these parameters: [c, stop - start] of leaves [c, ...]."""
        x = leaves[self.leaf]
        width = math.prod(x.shape[2:])
        if self.start % width or self.stop % width:
            return x.reshape(len(x), -1)[:, self.start : self.stop]
        # Whole rows of a kernel: the compiler then makes this part of the outer product alone.
        x = x.reshape(len(x), -1, width)[:, self.start // width : self.stop // width]
        return x.reshape(len(x), -1)


def default_block(p: int) -> int:
    """Rows of the map to hold at a time."""
    return min(max(SMALL_BLOCK, -(-p // 2)), LARGE_BLOCK)


def chunk_size(total: int, p: int, block: int, chunk: int | None = None) -> int:
    """Of ``total`` transitions, how many to differentiate at a time: ``chunk`` or the default at most,
    in chunks of nearly the same size."""
    if chunk is None:
        chunk = CHUNK
        if jax.default_backend() != "cpu":
            chunk = max(CHUNK, GRADIENT_BYTES // (4 * min(p, block)))
    return -(-total // -(-total // min(total, chunk)))


def split_parameters(shapes: Sequence[tuple[int, ...]], block: int) -> list[tuple[Piece, ...]]:
    """Cut the flattened parameters, leaf after leaf, into blocks of at most ``block`` entries.

    A block is a sequence of pieces: whole rows of a leaf where they fit, about ``PIECE`` entries each.
    """
    blocks: list[tuple[Piece, ...]] = []
    current: list[Piece] = []
    room = block
    for leaf, shape in enumerate(shapes):
        size, width, start = math.prod(shape), math.prod(shape[1:]), 0
        while start < size:
            fits = room - room % width if width <= block else room
            take = min(size - start, max(width, PIECE - PIECE % width), fits)
            if take:
                current.append(Piece(leaf, start, start + take))
                start, room = start + take, room - take
            if not take or not room:
                blocks, current, room = [*blocks, tuple(current)], [], block
    return [*blocks, tuple(current)] if current else blocks


@functools.partial(compiled, static_argnames=("log_prob", "chunk", "pieces", "offset"))
def _add_block(
    log_prob: LogProb,
    params: PyTree,
    obs: PyTree,
    action: Array,
    key: Key,
    features: Float[jax.Array, "N d"],
    chunk: int,
    pieces: tuple[Piece, ...],
    offset: int,
) -> Float[jax.Array, "N d"]:
    """Add what one block of parameters, the pieces from ``offset`` on, contributes to the features [N, d]."""
    total, dim = features.shape
    p = sum(leaf.size for leaf in jax.tree.leaves(params))
    ends = np.cumsum([piece.stop - piece.start for piece in pieces])
    rows = jnp.split(gaussian(key, p, dim, offset, int(ends[-1])), ends[:-1])

    def chunk_features(start: Array) -> Any:
        batch = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, chunk), (obs, action))
        leaves = jax.tree.leaves(jax.vmap(jax.grad(log_prob), (None, 0, 0))(params, *batch))
        return sum(piece.of(leaves) @ part for piece, part in zip(pieces, rows, strict=True))

    # The last chunk is shifted back instead of padded: one shape for all.
    count = -(-total // chunk)
    starts = jnp.minimum(jnp.arange(count) * chunk, total - chunk)
    new = total - (count - 1) * chunk

    added = jax.lax.map(chunk_features, starts)
    return features + jnp.concatenate([added[:-1].reshape(-1, dim), added[-1, chunk - new :]])


@functools.partial(compiled, static_argnames=("log_prob", "chunk"))
def _log_probs(
    log_prob: LogProb, params: PyTree, obs: PyTree, action: Array, chunk: int
) -> Float[Array, "N"]:
    """log pi [N] of transitions obs (leaves [N, ...]), action [N, ...]."""
    return jax.lax.map(lambda x: log_prob(params, *x), (obs, action), batch_size=chunk)


def _features(
    log_prob: LogProb, params: PyTree, obs: PyTree, action: Array, key: Key, dim: int, chunk: int, block: int
) -> Float[Array, "N d"]:
    """Features [N, d] of transitions obs (leaves [N, ...]), action [N, ...].

    Blocks outside, chunks inside, pieces innermost: the map is drawn once, and the gradients of a
    chunk by the parameters of a piece never leave the cache. What a block does not need of the
    gradients is not computed, so another block costs a backward pass, but no other outer products.
    """
    features, offset = jnp.zeros((len(action), dim)), 0
    block = -(-block // TILE) * TILE
    for pieces in split_parameters([leaf.shape for leaf in jax.tree.leaves(params)], block):
        features = _add_block(
            log_prob, params, obs, action, key, features, chunk=chunk, pieces=pieces, offset=offset
        )
        offset += sum(piece.stop - piece.start for piece in pieces)
    return features


@full_precision
def gradient_features(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    key: Key,
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
        transitions: what the policy experienced; obs (leaves [U, N, ...]) and action [U, N, ...].
        key: raw PRNG key of the map P.
        dim: projected dimension d.
        chunk: transitions differentiated at a time. It does not change the features.
        block: rows of P held at a time, rounded up to whole tiles; all of a small P and half of a
            larger one by default, 262,144 at most. Each block costs a backward pass and a
            compilation: hold more where they are dear. It does not change the features.
        names: names of the U sources, for messages.

    Returns:
        Features with values [U, N, d].

    Raises:
        ConfigError: if ``dim``, ``chunk`` or ``block`` is not positive, or ``log_prob`` no scalar.
        DataError: if a log-probability or a gradient is not finite, naming the source.
    """
    sources, count = transitions.action.shape[:2]
    total = sources * count
    for name, value in (("dim", dim), ("chunk", chunk), ("block", block)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} = {value}; it must be at least 1")
    p = sum(leaf.size for leaf in jax.tree.leaves(params))
    block = default_block(p) if block is None else block
    chunk = chunk_size(total, p, block, chunk)
    batch = (transitions.obs, transitions.action)
    obs, action = jax.tree.map(lambda x: jnp.reshape(x, (total, *x.shape[2:])), batch)
    told = jax.eval_shape(log_prob, params, *jax.tree.map(lambda x: x[0], (obs, action)))
    if getattr(told, "shape", None) != ():
        raise ConfigError(f"log_prob must return one number for one transition, and it returns {told}")
    log_probs = _log_probs(log_prob, params, obs, action, chunk)
    _require_finite(log_probs.reshape(sources, count), "log-probabilities", names)
    values = _features(log_prob, params, obs, action, key, dim, chunk, block).reshape(sources, count, dim)
    _require_finite(values.sum(-1), "gradients of the log-probability", names)
    return Features(values, jnp.asarray(key))


def _require_finite(values: Float[Array, "U N"], what: str, names: Sequence[str] | None) -> None:
    """Raise a DataError that names the first source with a non-finite value among values [U, N]."""
    bad = ~np.isfinite(np.asarray(values))
    if not bad.any():
        return
    source = int(np.flatnonzero(bad.any(1))[0])
    transition = int(np.flatnonzero(bad[source])[0])
    name = f"source {source}" if names is None else f"source {source} ({names[source]!r})"
    raise DataError(
        f"the policy gives non-finite {what} on {int(bad[source].sum())} of {bad.shape[1]} transitions of "
        f"{name}, first at transition {transition}; check the observations and actions there, and that the "
        f"policy's parameters are finite and its action distribution covers the actions"
    )
