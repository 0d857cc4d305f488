"""Gradient features against a loop of jax.grad, closed forms, and every chunk and block size."""

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
from pgx_jax.estimate.features import _features, split_parameters
from pgx_jax.estimate.projection import TILE
from pgx_jax.types import Seen, Transitions

KEY = jax.random.PRNGKey(5)


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
def test_a_large_map_is_drawn_once_and_never_held_whole(logged, block):
    params, dim, chunk = mlp_params(300), 64, 3
    p = sum(x.size for x in jax.tree.leaves(params))
    obs, action = logged.obs[0], logged.action[0]
    program = jax.make_jaxpr(lambda *x: _features(mlp_log_prob, *x, KEY, dim, chunk, block))
    shapes = list(shapes_inside(program(params, obs, action).jaxpr))
    largest = max(math.prod(shape) for shape in shapes)
    assert largest <= max((block + 2 * TILE) * dim, chunk * p) < p * dim / 3
    drawn = sum(math.prod(shape) // dim for shape in shapes if shape[2:] == (dim,) and shape[1] == TILE)
    assert p <= drawn <= p + 2 * TILE * -(-p // block)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(1, 7), max_size=3).map(tuple), min_size=1, max_size=6), st.integers(1, 60)
)
def test_blocks_cut_the_flattened_parameters_in_order(shapes, block):
    blocks = split_parameters(shapes, block)
    leaves = np.split(np.arange(sum(map(math.prod, shapes))), np.cumsum([math.prod(s) for s in shapes])[:-1])
    batch = [leaf.reshape(1, *shape) for leaf, shape in zip(leaves, shapes, strict=True)]
    sizes = [sum(piece.stop - piece.start for piece in pieces) for pieces in blocks]
    assert 0 < min(sizes)
    assert max(sizes) <= block
    cut = np.concatenate([piece.of(batch)[0] for pieces in blocks for piece in pieces])
    np.testing.assert_array_equal(cut, np.concatenate(leaves))


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
