"""Gradient features: per-transition gradients of log pi, projected on the fly (paper, stage 1)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate.checks import check_log_prob
from pgx_jax.estimate.gradients import Gradient, LogProb, gradients, held_entries
from pgx_jax.estimate.precision import check_precision, full_precision, product
from pgx_jax.estimate.projections import (
    PROJECTIONS,
    TILE,
    Projection,
    check_projection,
    draw_tiles,
    shapes_of,
)
from pgx_jax.estimate.projections.tiles import Draw, Masks, Shapes
from pgx_jax.mesh import CUT, padded, whole
from pgx_jax.shortage import in_parts_that_fit
from pgx_jax.steady import Spread, compiled
from pgx_jax.types import Array, Features, Key, PyTree, Transitions


class Sizes(NamedTuple):
    """How much is worked on at a time, at most."""

    chunk: int
    """Transitions that are differentiated."""
    piece: int
    """Parameters by which their gradients are projected."""
    memory: int
    """Bytes for what a chunk holds, which makes chunks smaller where gradients are no outer products."""
    whole: int
    """The same where the projection holds whole gradients."""

    def with_chunk(self, chunk: int) -> Sizes:
        """Those of another chunk, with memory in proportion where it is smaller."""
        memory, whole = (min(x, max(1, x * chunk // self.chunk)) for x in (self.memory, self.whole))
        return self._replace(chunk=chunk, memory=memory, whole=whole)


PROCESSOR = Sizes(chunk=512, piece=2 * TILE, memory=1 << 29, whole=1 << 22)
"""Pieces, and whole gradients, that stay in a processor's cache."""
ACCELERATOR = Sizes(chunk=4096, piece=64 * TILE, memory=1 << 30, whole=1 << 30)
"""Products that should fill an accelerator (a guess: not measured)."""
BLOCK = 256 * TILE
"""Rows of the map that are held at a time by default, at most."""


def default_sizes() -> Sizes:
    """The sizes that suit the platform."""
    return PROCESSOR if jax.default_backend() == "cpu" else ACCELERATOR


def equal_parts(total: int, most: int) -> int:
    """The size of parts of ``total``, nearly equal and of at most ``most``; 1 of nothing."""
    return -(-total // -(-total // most)) if total else 1


def chunk_size(total: int, held: int, sizes: Sizes) -> int:
    """Of ``total`` transitions, how many to differentiate at a time if each holds so many numbers."""
    return equal_parts(total, max(1, min(sizes.chunk, sizes.memory // (4 * (held + sizes.piece)))))


class Leaf(NamedTuple):
    """A leaf of the parameters as so many rows of ``width`` entries, ``each`` of which are a piece.

    The last piece is shifted back where they don't divide: one shape for all.
    """

    start: int
    """Place of the leaf among the flattened parameters."""
    rows: int
    width: int
    each: int

    @property
    def places(self) -> Int[np.ndarray, "pieces"]:
        """Where every piece begins among the flattened parameters."""
        begins = np.minimum(np.arange(0, self.rows, self.each), self.rows - self.each)
        return np.asarray(self.start + begins * self.width, np.int32)

    def piece(self, gradient: Num[Array, "c *shape"], turn: Array | int) -> Num[Array, "c entries"]:
        """Of gradients by the leaf, those by one piece; 0 where an earlier piece has them."""
        x = jnp.reshape(gradient, (len(gradient), self.rows, self.width))
        begin = jnp.minimum(turn * self.each, self.rows - self.each)
        new = begin + jnp.arange(self.each) >= turn * self.each
        x = jnp.where(new[:, None], jax.lax.dynamic_slice_in_dim(x, begin, self.each, 1), 0)
        return jnp.reshape(x, (len(gradient), self.each * self.width))


def split_parameters(shapes: Sequence[tuple[int, ...]], piece: int) -> list[Leaf]:
    """Every leaf as rows of at most ``piece`` entries, along its first axes, and as many as fit a piece."""
    sizes = [math.prod(shape) for shape in shapes]
    starts = np.cumsum([0, *sizes])
    found = []
    for shape, size, start in zip(shapes, sizes, starts[:-1], strict=True):
        widths = (math.prod(shape[axis:]) for axis in range(len(shape) + 1))
        width = max(1, next(width for width in widths if width <= piece))
        rows = size // width
        found.append(Leaf(int(start), rows, width, equal_parts(rows, piece // width)))
    return found


def split_map(p: int, block: int) -> range:
    """First rows of the blocks of a map of height p: nearly equal, of whole tiles and about ``block`` rows at
    most, which are the step of the range."""
    return range(0, p, equal_parts(-(-p // TILE), -(-block // TILE)) * TILE)


TRANSITIONS = {"obs": CUT, "action": CUT}
"""What lies cut on the mesh."""


@functools.partial(
    compiled,
    spread=Spread(TRANSITIONS | {"features": CUT}, stays=True),
    static_argnames=("log_prob", "draw", "rows", "sizes", "precision"),
)
def _add_block(
    log_prob: LogProb,
    params: PyTree,
    obs: PyTree,
    action: Array,
    key: Key,
    features: Float[jax.Array, "N d"],
    start: Array,
    draw: Draw,
    rows: int,
    sizes: Sizes,
    precision: str,
    shared: Bool[Array, "p"] | None = None,
) -> Float[jax.Array, "N d"]:
    """Add to the features [N, d] what the parameters of a block contribute: of the pieces that begin in
    ``rows`` rows of the map from row ``start`` on, both whole tiles. Only ``shared`` parameters count."""
    total, dim = features.shape
    shapes = shapes_of(params)
    height = -(-sum(map(math.prod, shapes)) // TILE)
    tiles = min(height, -(-(rows + sizes.piece) // TILE))  # the last piece may reach beyond the block
    first = jnp.minimum(start // TILE, height - tiles)
    drawn = draw_tiles(draw, key, shapes, first, tiles, dim)

    def add_leaf(found: jax.Array, leaf: Leaf, gradient: Gradient) -> jax.Array:
        places = jnp.asarray(leaf.places)

        def add(turn: Array, found: jax.Array) -> jax.Array:
            x = leaf.piece(gradient.at(turn), turn)
            if shared is not None:
                x = jnp.where(jax.lax.dynamic_slice_in_dim(shared, places[turn], x.shape[1]), x, 0)
            part = jax.lax.dynamic_slice_in_dim(drawn, places[turn] - first * TILE, x.shape[1])
            return found + product(x, part, precision)

        return jax.lax.fori_loop((places < start).sum(), (places < start + rows).sum(), add, found)

    chunk = chunk_size(total, held_entries(log_prob, params, obs, action), sizes)

    def chunk_features(obs: PyTree, action: Array) -> jax.Array:
        found = jnp.zeros((len(action), dim))
        leaves = split_parameters(shapes, sizes.piece)
        for leaf, gradient in zip(leaves, gradients(log_prob, params, obs, action), strict=True):
            if leaf.rows:
                found = add_leaf(found, leaf, gradient)
        return found

    return features + in_chunks(chunk_features, chunk, obs, action)


def in_chunks(
    features: Callable[..., Float[Array, "c d"]], chunk: int, obs: PyTree, action: Array
) -> Float[jax.Array, "N d"]:
    """What a function makes of obs (leaves [N, ...]) and action [N, ...], so many at a time."""
    total = len(action)

    def of_chunk(start: Array) -> Array:
        return features(*jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, chunk), (obs, action)))

    # The last chunk is shifted back instead of padded: one shape for all.
    count = -(-total // chunk)
    starts = jnp.minimum(jnp.arange(count) * chunk, total - chunk)
    new = total - (count - 1) * chunk
    found = jax.lax.map(of_chunk, starts)
    return jnp.concatenate([found[:-1].reshape(-1, found.shape[-1]), found[-1, chunk - new :]])


@functools.partial(
    compiled,
    spread=Spread(TRANSITIONS),
    static_argnames=("log_prob", "dim", "projection", "sizes", "precision"),
)
def _project(
    log_prob: LogProb,
    params: PyTree,
    obs: PyTree,
    action: Array,
    key: Key,
    masks: Masks,
    dim: int,
    projection: Projection,
    sizes: Sizes,
    precision: str,
) -> Float[jax.Array, "N d"]:
    """Features [N, d] by a projection's own way, chunk by chunk; ``masks`` as in `Masks`."""
    assert projection.project is not None
    project, multiply = projection.project, functools.partial(product, precision=precision)
    held = held_entries(log_prob, params, obs, action)
    if projection.whole:
        held += sum(map(math.prod, shapes_of(params)))
        sizes = sizes._replace(memory=sizes.whole)

    def chunk_features(obs: PyTree, action: Array) -> Array:
        return project(gradients(log_prob, params, obs, action), masks, key, dim, multiply)

    return in_chunks(chunk_features, chunk_size(len(action), held, sizes), obs, action)


@functools.partial(compiled, spread=Spread(TRANSITIONS), static_argnames=("log_prob", "chunk"))
def _log_probs(
    log_prob: LogProb, params: PyTree, obs: PyTree, action: Array, chunk: int
) -> Float[Array, "N"]:
    """log pi [N] of transitions obs (leaves [N, ...]), action [N, ...]."""
    return jax.lax.map(lambda x: log_prob(params, *x), (obs, action), batch_size=chunk)


def _features(
    log_prob: LogProb,
    params: PyTree,
    obs: PyTree,
    action: Array,
    key: Key,
    dim: int,
    block: int,
    sizes: Sizes,
    precision: str,
    projection: Projection,
    shared: Bool[np.ndarray, "p"] | None = None,
) -> Float[jax.Array, "N d"]:
    """Features [N, d] of transitions obs (leaves [N, ...]), action [N, ...].

    By products with the map: blocks outside, chunks inside, pieces innermost: the map is drawn once, and the
    gradients of a chunk by the parameters of a piece never leave the cache. All blocks are one program.
    """
    shapes = shapes_of(params)
    p = sum(map(math.prod, shapes))
    if projection.project is not None and p:
        return _project(
            log_prob, params, obs, action, key, masks_of(shapes, shared),
            dim=dim, projection=projection, sizes=sizes, precision=precision,
        )  # fmt: skip
    features = jnp.zeros((len(action), dim))
    blocks = split_map(p, block)
    for start in blocks:
        features = _add_block(
            log_prob, params, obs, action, key, features, np.array(start, np.int32), draw=projection.draw,
            rows=blocks.step, sizes=sizes, precision=precision, shared=shared,
        )  # fmt: skip
    return whole(features)


def masks_of(shapes: Shapes, shared: Bool[np.ndarray, "p"] | None) -> Masks:
    """By leaf, which parameters count; None where all do."""
    if shared is None:
        return [None] * len(shapes)
    parts = np.split(shared, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    return [None if own.all() else own.reshape(shape) for own, shape in zip(parts, shapes, strict=True)]


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
    precision: str = "float32",
    names: Sequence[str] | None = None,
    private: Bool[Array, "p"] | None = None,
    projection: str = "gaussian",
) -> Features:
    """Project the gradient of log pi of every transition: g~ = P^T grad log pi(a|s).

    Args:
        log_prob: (params, obs, action) of one transition -> scalar. It is compiled once per
            function object: pass the same one again rather than an equal lambda.
        params: pytree of the policy's parameters (the actor alone), theta*.
        transitions: what the policy experienced; obs (leaves [U, N, ...]) and action [U, N, ...].
        key: raw PRNG key of the map P.
        dim: projected dimension d.
        chunk: transitions differentiated at a time, at most. It does not change the features; where memory
            does not suffice for so many, they are fewer (with a warning).
        block: rows of P held at a time, at most, in whole tiles; 262,144 by default. Each block costs a
            backward pass without its outer products. It does not change the features.
        precision: of the products with P, a name in ``PRECISIONS``. A processor multiplies in float32
            whatever it is.
        names: names of the U sources, for messages.
        private: bool [p], parameters that are left out, as if they were constants (`private_parameters`).
        projection: how the map P is drawn, and multiplied by: a name in ``PROJECTIONS``. Some hold no rows
            of P, and have no blocks.

    Returns:
        Features with values [U, N, d].

    Raises:
        ConfigError: if ``dim``, ``chunk`` or ``block`` is not positive, ``log_prob`` no scalar, the
            platform lacks the precision, or the projection does so many dimensions.
        DataError: if a log-probability or a gradient is not finite, naming the source.
    """
    sources, count = transitions.action.shape[:2]
    total = sources * count
    for name, value in (("dim", dim), ("chunk", chunk), ("block", block)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} = {value}; it must be at least 1")
    check_precision(precision)
    check_projection(projection, dim)
    check_log_prob(log_prob, params, transitions)
    sizes = default_sizes() if chunk is None else default_sizes()._replace(chunk=chunk)
    batch = (transitions.obs, transitions.action)
    obs, action = jax.tree.map(lambda x: jnp.reshape(x, (total, *x.shape[2:])), batch)
    obs, action = jax.tree.map(padded, (obs, action))
    log_probs = in_parts_that_fit(
        lambda chunk: _log_probs(log_prob, params, obs, action, chunk), sizes.chunk, "transitions"
    )[:total]
    _require_finite(log_probs.reshape(sources, count), "log-probabilities", names)
    shared = None if private is None else ~np.asarray(private)
    values = in_parts_that_fit(
        lambda chunk: _features(
            log_prob, params, obs, action, key, dim, block or BLOCK, sizes.with_chunk(chunk), precision,
            PROJECTIONS[projection], shared,
        ),
        sizes.chunk, "transitions' gradients",
    )  # fmt: skip
    values = values[:total].reshape(sources, count, dim)
    _require_finite(values.sum(-1), "gradients of the log-probability", names)
    return Features(values, jnp.asarray(key), private, projection)


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
