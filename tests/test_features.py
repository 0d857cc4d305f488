"""Gradient features against a loop of jax.grad, closed forms, and every chunk and block size."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from jax.flatten_util import ravel_pytree

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate import gaussian, gradient_features
from pgx_jax.estimate.checks import check_log_prob
from pgx_jax.estimate.features import (
    PROCESSOR,
    _add_block,
    _features,
    chunk_size,
    split_map,
    split_parameters,
)
from pgx_jax.estimate.projections import PROJECTIONS, TILE
from pgx_jax.types import Seen, Transitions

KEY = jax.random.PRNGKey(5)
GAUSSIAN = PROJECTIONS["gaussian"]


def transitions_of(obs, action) -> Transitions:
    sources, count = action.shape[:2]
    zeros = np.zeros((sources, count), int)
    return Transitions(
        obs, action, zeros.astype(np.float32), zeros, zeros.astype(np.int8), np.arange(sources)
    )


@pytest.fixture(scope="module")
def logged():
    rng = np.random.default_rng(0)
    return transitions_of(rng.normal(size=(2, 15, 3)).astype(np.float32), rng.integers(0, 4, (2, 15)))


def mlp_params(width: int):
    keys = jax.random.split(jax.random.PRNGKey(1), 3)
    shapes = {"in": (3, width), "hidden": (width, width), "out": (width, 4)}
    return {
        name: {"kernel": jax.random.normal(key, shape) / np.sqrt(shape[0]), "bias": jnp.full(shape[1], 0.1)}
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def mlp_log_prob(params, obs, action):
    h = jnp.tanh(obs @ params["in"]["kernel"] + params["in"]["bias"])
    h = jnp.tanh(h @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return jax.nn.log_softmax(h @ params["out"]["kernel"] + params["out"]["bias"])[action]


def test_features_are_a_loop_of_gradients_times_the_dense_map(logged):
    params = mlp_params(8)
    got = gradient_features(mlp_log_prob, params, logged, KEY, 20)
    gradient = jax.jit(jax.grad(mlp_log_prob))
    assert got.values.shape == (2, 15, 20)
    np.testing.assert_array_equal(got.key, KEY)
    for source in range(2):
        for t in range(15):
            grad = gradient(params, logged.obs[source, t], logged.action[source, t])
            flat = np.asarray(ravel_pytree(grad)[0])
            expected = flat @ np.asarray(gaussian(KEY, flat.size, 20))
            np.testing.assert_allclose(got.values[source, t], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [dict, Seen])
def test_observations_may_be_pytrees(logged, kind):
    parts = {"obs": logged.obs[..., :2], "context": logged.obs[..., 2:]}
    tree = logged._replace(obs=kind(**parts))

    def log_prob(params, seen, action):
        obs, context = (seen["obs"], seen["context"]) if kind is dict else seen
        return mlp_log_prob(params, jnp.concatenate([obs, context]), action)

    params = mlp_params(8)
    expected = gradient_features(mlp_log_prob, params, logged, KEY, 20, chunk=7)
    got = gradient_features(log_prob, params, tree, KEY, 20, chunk=7)
    np.testing.assert_allclose(got.values, expected.values, rtol=1e-4, atol=1e-6)


def test_softmax_linear_policy_has_the_closed_form(logged):
    """grad_W log pi(a|s) = s (e_a - pi(s))^T for logits s W."""
    weight = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    got = gradient_features(lambda w, s, a: jax.nn.log_softmax(s @ w)[a], weight, logged, KEY, 30)
    obs, action = np.asarray(logged.obs, np.float64), np.asarray(logged.action)
    exp = np.exp(obs @ weight)
    error = np.eye(4)[action] - exp / exp.sum(-1, keepdims=True)
    gradient = (obs[..., :, None] * error[..., None, :]).reshape(2, 15, 12)
    np.testing.assert_allclose(got.values, gradient @ np.asarray(gaussian(KEY, 12, 30)), rtol=1e-3, atol=1e-5)


def test_gaussian_policy_has_the_closed_form():
    """For N(s W, sigma^2): by W, s (a - s W)^T / sigma^2; by log sigma, ((a - s W) / sigma)^2 - 1."""
    rng = np.random.default_rng(2)
    obs, action = rng.normal(size=(1, 9, 3)).astype(np.float32), rng.normal(size=(1, 9, 2)).astype(np.float32)
    params = {
        "a_log_std": np.array([0.3, -0.2], np.float32),
        "weight": rng.normal(size=(3, 2)).astype(np.float32),
    }

    def log_prob(params, s, a):
        return jax.scipy.stats.norm.logpdf(a, s @ params["weight"], jnp.exp(params["a_log_std"])).sum()

    got = gradient_features(log_prob, params, transitions_of(obs, action), KEY, 25)
    sigma, miss = np.exp(params["a_log_std"]), action - obs @ params["weight"]
    by_weight = (obs[..., :, None] * (miss / sigma**2)[..., None, :]).reshape(1, 9, 6)
    gradient = np.concatenate([(miss / sigma) ** 2 - 1, by_weight], -1)
    np.testing.assert_allclose(got.values, gradient @ np.asarray(gaussian(KEY, 8, 25)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("chunk", "block"), [(1, None), (7, 1), (11, 3000), (30, 10**9), (10**9, 2048)])
def test_chunks_and_blocks_do_not_change_the_features(logged, chunk, block):
    params = mlp_params(70)  # 5,534 parameters: six tiles of the map
    reference = gradient_features(mlp_log_prob, params, logged, KEY, 10).values
    got = gradient_features(mlp_log_prob, params, logged, KEY, 10, chunk=chunk, block=block).values
    np.testing.assert_allclose(got, reference, rtol=1e-3, atol=2e-5)


def shapes_inside(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from shapes_inside(inner)


@pytest.mark.parametrize("block", [4096, 20_000])
def test_a_large_map_is_drawn_once_and_neither_it_nor_the_gradients_are_held_whole(logged, block):
    params, dim, sizes = mlp_params(300), 64, PROCESSOR._replace(chunk=3)
    p = sum(x.size for x in jax.tree.leaves(params))
    obs, action = logged.obs[0], logged.action[0]
    rows = split_map(p, block).step
    program = jax.make_jaxpr(
        lambda *x: _add_block.function(
            mlp_log_prob, *x, draw=GAUSSIAN.draw, rows=rows, sizes=sizes, precision="float32"
        )
    )(params, obs, action, KEY, jnp.zeros((15, dim)), np.int32(0))
    shapes = list(shapes_inside(program.jaxpr))
    drawn = sum(math.prod(shape) // dim for shape in shapes if shape[2:] == (dim,) and shape[1] == TILE)
    assert min(rows, p) <= drawn <= rows + 2 * PROCESSOR.piece
    assert max(math.prod(shape) for shape in shapes) <= drawn * dim < p * dim / 2


def compiled_memory(logged, params, chunk):
    """Bytes that the compiled program works with."""
    args = (params, logged.obs[0], logged.action[0], KEY, jnp.zeros((15, 8)), np.int32(0))
    settings = {
        "draw": GAUSSIAN.draw,
        "rows": 2 * TILE,
        "sizes": PROCESSOR._replace(chunk=chunk),
        "precision": "float32",
    }
    lowered = jax.jit(_add_block.function, static_argnums=0, static_argnames=settings).lower(
        mlp_log_prob, *args, **settings
    )
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_outer_products_are_made_piece_by_piece(logged):
    params = mlp_params(1000)  # whose gradients take 4 MB a transition
    once, more = (compiled_memory(logged, params, chunk) for chunk in (1, 15))
    assert more - once < 15 * 4 * (PROCESSOR.piece + 10 * 1000) * 2 < 15 * 4 * 10**6 / 8


def test_one_program_does_for_all_blocks(logged):
    params = mlp_params(150)
    p = sum(x.size for x in jax.tree.leaves(params))

    def log_prob(*x):  # of its own, which nothing was compiled for
        return mlp_log_prob(*x)

    for block, calls in ((4 * TILE, 6), (TILE, 24)):
        assert len(split_map(p, block)) == calls
        before = _add_block.programs
        gradient_features(log_prob, params, logged, KEY, 6, block=block)
        assert _add_block.programs == before + 1


def reference(log_prob, params, obs, action, dim):
    """Transition after transition, the whole gradient times the whole map in float64."""
    gradient = jax.jit(jax.grad(log_prob))
    flat = [
        np.asarray(ravel_pytree(gradient(params, o, a))[0], np.float64)
        for o, a in zip(obs, action, strict=True)
    ]
    return np.stack(flat) @ np.asarray(gaussian(KEY, flat[0].size, dim), np.float64)


def any_log_prob(params, obs, action):
    """Of leaves of any shapes: each enters by products, as it is, shared, masked, or through a compiled
    function."""
    found = action * 0.1
    for i, leaf in enumerate(jax.tree.leaves(params)):
        flat = leaf.reshape(-1) if leaf.ndim < 2 else leaf.reshape(len(leaf), math.prod(leaf.shape[1:]))
        if flat.ndim == 1:
            found = found + jnp.sum(jnp.sin(flat * obs[0] + i))
        else:
            x = jnp.cos(jnp.arange(len(flat)) + obs[i % 3])
            y = jax.jit(lambda x, w: jnp.tanh(x @ w))(x, flat)
            z = (flat * (1.0 + jnp.arange(flat.shape[1]) % 2)) @ y + (flat.T @ x).mean()
            found = found + jnp.sum(jnp.tanh(z) * obs[1])
    return found


SHAPES = st.lists(st.integers(1, 9), max_size=4).map(tuple)


@settings(derandomize=True, deadline=None, max_examples=6)
@given(
    st.lists(
        st.one_of(SHAPES, st.sampled_from([(0, 3), (1500,), (3, 700), (2, 1100, 1)])), min_size=1, max_size=4
    ),
    st.integers(1, 6),
    st.integers(1, 5000),
    st.sampled_from([1, 7, 64, 2048]),
)
def test_leaves_of_any_shape_in_any_chunks_blocks_and_pieces(shapes, chunk, block, piece):
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    obs, action = rng.normal(size=(5, 3)).astype(np.float32), rng.integers(0, 4, 5)
    sizes = PROCESSOR._replace(chunk=chunk, piece=piece)
    got = _features(any_log_prob, params, obs, action, KEY, 10, block, sizes, "float32", GAUSSIAN)
    np.testing.assert_allclose(got, reference(any_log_prob, params, obs, action, 10), rtol=2e-4, atol=2e-4)


def test_convolutions_and_scans_have_gradients_too(logged):
    rng = np.random.default_rng(3)
    params = {
        "conv": rng.normal(size=(3, 3, 1, 5)).astype(np.float32),
        "dense": rng.normal(size=(2, 5, 5)).astype(np.float32) / 3,
        "scale": np.float32(0.7),
    }

    def log_prob(params, obs, action):
        image = jnp.outer(jnp.tile(obs, 3), jnp.tile(obs, 3))[None, :, :, None]
        dims = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(image, params["conv"], (2, 2), "SAME", dimension_numbers=dims)
        h = jnp.tanh(h).mean((0, 1, 2))
        h = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, params["dense"])[0]
        return jax.nn.log_softmax(h * params["scale"])[action]

    got = gradient_features(log_prob, params, logged, KEY, 10, chunk=4).values.reshape(-1, 10)
    obs, action = logged.obs.reshape(-1, 3), logged.action.reshape(-1)
    np.testing.assert_allclose(got, reference(log_prob, params, obs, action, 10), rtol=1e-4, atol=1e-5)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(
    st.lists(st.lists(st.integers(0, 7), max_size=3).map(tuple), min_size=1, max_size=6), st.integers(1, 60)
)
def test_pieces_cut_the_flattened_parameters_in_order(shapes, piece):
    sizes = [math.prod(shape) for shape in shapes]
    leaves = np.split(np.arange(1, 1 + sum(sizes)), np.cumsum(sizes)[:-1])
    parts, cut = split_parameters(shapes, piece), np.zeros(sum(sizes), int)
    places = [part.places if part.rows else [] for part in parts]

    @jax.jit
    def pieces(leaves):
        """Of each leaf, all turns."""
        return [
            [part.piece(leaf.reshape(1, *shape), turn)[0] for turn in range(len(turns))]
            for leaf, shape, part, turns in zip(leaves, shapes, parts, places, strict=True)
        ]

    for leaf, part, turns, found in zip(leaves, parts, places, pieces(leaves), strict=True):
        assert part.each * part.width <= piece and part.rows * part.width == len(leaf)
        for place, own in zip(turns, found, strict=True):
            cut[place : place + len(own)] += own
    np.testing.assert_array_equal(cut, np.arange(1, 1 + sum(sizes)))


@pytest.mark.parametrize(("p", "block"), [(0, 5), (1, 1), (5000, 2048), (300_000, 262_144), (10**6, 1000)])
def test_blocks_are_nearly_equal_and_cover_the_map(p, block):
    blocks = split_map(p, block)
    assert blocks.step % TILE == 0 and blocks.step <= max(TILE, block + TILE - 1)
    assert len(blocks) * blocks.step >= p and len(blocks) == -(-p // (-(-block // TILE) * TILE))


def test_chunks_are_smaller_where_gradients_are_no_outer_products():
    assert chunk_size(20_480, 4000, PROCESSOR) == 512 and chunk_size(1000, 4000, PROCESSOR) == 500
    small = chunk_size(20_480, 10**6, PROCESSOR)
    assert 4 * small * 10**6 <= PROCESSOR.memory and chunk_size(5, 10**12, PROCESSOR) == 1


@settings(derandomize=True, deadline=None, max_examples=60)
@given(*map(st.integers, (1, 0, 1, 1, 1), (300, 50, 40, 5000, 50)))
def test_chunks_are_the_fewest_that_fit_and_nearly_equal(total, held, chunk, memory, piece):
    sizes = PROCESSOR._replace(chunk=chunk, memory=memory, piece=piece)
    most = max((c for c in range(1, chunk + 1) if 4 * c * (held + piece) <= memory), default=1)
    count = next(count for count in itertools.count(1) if count * most >= total)
    assert chunk_size(total, held, sizes) == math.ceil(total / count)


def test_several_objectives_share_the_features_of_their_source(logged):
    shared = logged._replace(advantage=np.ones((5, 15)), source=np.array([0, 0, 1, 1, 1]))
    assert gradient_features(mlp_log_prob, mlp_params(8), shared, KEY, 6).values.shape == (2, 15, 6)


def test_non_finite_log_probabilities_name_source_and_transition(logged):
    obs = logged.obs.copy()
    obs[1, 4] = np.nan
    with pytest.raises(DataError, match=r"log-probabilities on 1 of 15.*source 1 \('hover'\).*transition 4"):
        gradient_features(mlp_log_prob, mlp_params(8), logged._replace(obs=obs), KEY, 6, names=["a", "hover"])


def test_non_finite_gradients_name_source_and_transition(logged):
    obs = np.abs(logged.obs) + 0.1
    obs[0, 7] = 0.0  # the square root is finite there, its slope is not
    with pytest.raises(DataError, match="non-finite gradients.*source 0, first at transition 7"):
        gradient_features(
            lambda w, s, a: jnp.sqrt(jnp.sum(s * w)), jnp.ones(3), logged._replace(obs=obs), KEY, 6, chunk=4
        )


@pytest.mark.parametrize("setting", ["dim", "chunk", "block"])
def test_sizes_must_be_positive(logged, setting):
    with pytest.raises(ConfigError, match=f"{setting} = 0"):
        gradient_features(mlp_log_prob, mlp_params(4), logged, KEY, **{setting: 0})


def test_a_log_probability_is_one_number(logged):
    with pytest.raises(ConfigError, match=r"must return one number.*shape=\(1,\)"):
        gradient_features(lambda *x: mlp_log_prob(*x)[None], mlp_params(4), logged, KEY, 10)
    for other in (lambda *x: mlp_log_prob(*x)[None], lambda *x: 1, lambda *x: jnp.int32(1)):
        with pytest.raises(ConfigError, match="must return one number"):
            check_log_prob(other, mlp_params(4), logged)
