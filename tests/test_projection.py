"""The Gaussian map: rows that don't depend on blocks, blocked against dense, Johnson-Lindenstrauss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from scipy import stats

from pgx_jax.errors import ConfigError
from pgx_jax.estimate.projections import BLOCK, TILE, gaussian, lift

KEY = jax.random.PRNGKey(3)
examples = settings(derandomize=True, deadline=None, max_examples=15)


@functools.partial(jax.jit, static_argnums=2)
def tile(key, t, d):
    return jax.random.normal(jax.random.fold_in(key, t), (TILE, d))


def dense(p: int, d: int, key=KEY) -> np.ndarray:
    """P by the definition: tile after tile, each from its folded key."""
    tiles = [np.asarray(tile(key, t, d)) for t in range(-(-p // TILE))]
    return np.concatenate(tiles)[:p] / np.sqrt(d)


@examples
@given(st.integers(0, 4000), st.integers(0, 1500))
def test_rows_are_those_of_the_dense_map(start, rows):
    np.testing.assert_allclose(
        gaussian(KEY, 5500, 7, start, rows), dense(5500, 7)[start : start + rows], rtol=1e-6, atol=1e-7
    )


def test_rows_do_not_depend_on_the_height():
    np.testing.assert_array_equal(gaussian(KEY, 10_000, 5)[:1300], gaussian(KEY, 1300, 5))


@pytest.mark.parametrize(("start", "rows"), [(-1, 5), (0, 101), (90, 20), (5, -1)])
def test_rows_outside_the_map_are_refused(start, rows):
    with pytest.raises(ConfigError, match="height 100"):
        gaussian(KEY, 100, 3, start, rows)


def test_entries_are_independent_normals_of_variance_one_over_d():
    d = 50
    entries = np.asarray(gaussian(KEY, 4 * TILE, d)) * np.sqrt(d)
    assert stats.kstest(entries.ravel(), "norm").pvalue > 1e-3
    flat = entries.reshape(4, -1)
    correlation = np.corrcoef(np.concatenate([flat, np.roll(flat, 1, axis=1), np.roll(flat, d, axis=1)]))
    assert np.abs(correlation - np.eye(12)).max() < 5 / np.sqrt(flat.shape[1])
    other = np.asarray(gaussian(jax.random.PRNGKey(4), TILE, d)).ravel()
    assert abs(np.corrcoef(other, flat[0])[0, 1]) < 5 / np.sqrt(other.size)


@pytest.mark.parametrize("block", [BLOCK, TILE, 3 * TILE])
def test_lift_is_the_dense_map_in_the_order_of_ravel_pytree(block):
    rng = np.random.default_rng(0)
    params = {"z": np.ones((40, 50), np.float32), "a": [np.ones(3, np.float32), np.ones((), np.float32)]}
    p = ravel_pytree(params)[0].size
    delta = rng.normal(size=(2, 3, 16)).astype(np.float32)
    lifted = lift(KEY, delta, params, block)
    assert jax.tree.structure(lifted) == jax.tree.structure(params)
    assert lifted["z"].shape == (2, 3, 40, 50)
    assert lifted["a"][1].shape == (2, 3)
    flat = ravel_pytree(jax.tree.map(lambda x: x[1, 2], lifted))[0]
    np.testing.assert_allclose(flat, dense(p, 16) @ delta[1, 2], rtol=1e-4, atol=1e-5)
    single = lift(KEY, delta[1, 2], params, block)
    np.testing.assert_allclose(ravel_pytree(single)[0], flat, atol=1e-6)


@pytest.mark.parametrize(("p", "d"), [(1, 1), (1500, 40), (BLOCK + 1, 3)])
def test_lift_is_the_adjoint_of_the_projection(p, d):
    rng = np.random.default_rng(p + d)
    x, delta = rng.normal(size=p).astype(np.float32), rng.normal(size=d).astype(np.float32)
    left = float(np.asarray(lift(KEY, delta, x), np.float64) @ x)
    right = float(delta @ (x @ np.asarray(gaussian(KEY, p, d), np.float64)))
    assert left == pytest.approx(right, rel=1e-3, abs=1e-3 * np.sqrt(p))


def test_inner_products_are_kept_as_johnson_and_lindenstrauss_say():
    """E <P'x, P'y> = <x, y> with variance (|x|^2 |y|^2 + <x, y>^2) / d."""
    p, d, draws = 700, 40, 400
    rng = np.random.default_rng(1)
    x = rng.normal(size=p)
    y = 0.6 * x + 0.8 * rng.normal(size=p)
    xy = jnp.asarray(np.stack([x, y]), jnp.float32)
    keys = jax.random.split(KEY, draws)
    x_, y_ = np.moveaxis(np.asarray(jax.lax.map(lambda key: xy @ gaussian(key, p, d), keys)), 1, 0)
    inner, expected = (x_ * y_).sum(-1), x @ y
    deviation = np.sqrt((x @ x * (y @ y) + expected**2) / d)
    assert abs(inner.mean() - expected) < 4 * deviation / np.sqrt(draws)
    assert inner.std() == pytest.approx(deviation, rel=0.15)


def test_lifting_a_projection_keeps_the_stated_part_of_its_direction():
    """cos(P P'x, x) = sqrt(d / (p + d)): most of a lifted step is noise."""
    p, d = 20_000, 100
    x = np.random.default_rng(2).normal(size=p).astype(np.float32)
    back = np.asarray(lift(KEY, x @ np.asarray(gaussian(KEY, p, d)), x), np.float64)
    cosine = back @ x / np.linalg.norm(back) / np.linalg.norm(x)
    assert cosine == pytest.approx(np.sqrt(d / (p + d)), rel=0.15)


def test_blocks_need_a_row():
    with pytest.raises(ConfigError, match="block = 0"):
        lift(KEY, jnp.ones(3), jnp.ones(5), 0)
