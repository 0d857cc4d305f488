"""Random maps: rows that don't depend on blocks, each against its dense map, and products without bias."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from scipy import stats
from scipy.linalg import hadamard as hadamard_matrix
from test_features import transitions_of

from pgx_jax.config import Config, check_method
from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate import EstimateConfig, gradient_features
from pgx_jax.estimate.features import PROCESSOR, _project
from pgx_jax.estimate.lifting import lift_projection
from pgx_jax.estimate.projections import (
    BLOCK,
    PROJECTIONS,
    TILE,
    Projection,
    by_tiles,
    draw_tiles,
    gaussian,
    lift,
    rows,
    shapes_of,
)
from pgx_jax.estimate.projections.factored import factors, matrix
from pgx_jax.estimate.projections.sparse import READ

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
    assert gaussian(KEY, 5500, 7, start).shape == (5500 - start, 7)


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


# Every projection

RNG = np.random.default_rng(0)
PARAMS = {
    "conv": RNG.normal(size=(2, 2, 1, 4)).astype(np.float32),
    "dense": {"bias": np.full(40, 0.1, np.float32), "kernel": RNG.normal(size=(4, 40)).astype(np.float32)},
    "empty": np.zeros((0, 3), np.float32),
    "out": RNG.normal(size=(40, 3)).astype(np.float32) / 3,
    "scale": np.float32(0.7),
    "twice": RNG.normal(size=(40, 40)).astype(np.float32) / 6,
}
LOGGED = transitions_of(RNG.normal(size=(2, 9, 4)).astype(np.float32), RNG.integers(0, 3, (2, 9)))
P = sum(x.size for x in jax.tree.leaves(PARAMS))


def log_prob(params, obs, action):
    """Of convolutions, of layers whose gradients are outer products, and of one that is used twice."""
    image = jnp.outer(obs, obs)[None, :, :, None]
    dims = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(image, params["conv"], (2, 2), "SAME", dimension_numbers=dims)
    h = jnp.tanh(h.mean((0, 1, 2)) @ params["dense"]["kernel"] + params["dense"]["bias"])
    h = jnp.tanh(jnp.tanh(h @ params["twice"]) @ params["twice"]) + 0 * params["empty"].sum()
    return jax.nn.log_softmax(h @ params["out"] * params["scale"])[action]


@functools.cache
def gradients():
    """[18, p], in float64."""
    each = jax.jit(jax.vmap(lambda o, a: ravel_pytree(jax.grad(log_prob)(PARAMS, o, a))[0]))
    return np.asarray(each(LOGGED.obs.reshape(18, 4), LOGGED.action.reshape(18)), np.float64)


def some_private():
    """Parts of the kernels that are used once and twice, and all of a bias: bool [p]."""
    marks = jax.tree.map(lambda x: np.zeros(x.shape, bool), PARAMS)
    marks["dense"]["kernel"][1], marks["dense"]["bias"][:], marks["twice"][:5, 7:9] = True, True, True
    return ravel_pytree(marks)[0].astype(bool)


@pytest.mark.parametrize("private", [lambda: None, some_private], ids=["all", "some private"])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_features_and_lifts_are_products_with_the_dense_map(name, private):
    left_out = private()
    dense = np.asarray(rows(KEY, shapes_of(PARAMS), 30, projection=name), np.float64)
    assert dense.shape == (P, 30)
    found = gradient_features(
        log_prob, PARAMS, LOGGED, KEY, 30, chunk=4, block=TILE, private=left_out, projection=name
    )
    counts = np.ones(P) if left_out is None else ~np.asarray(left_out)
    expected = (gradients() * counts) @ dense
    np.testing.assert_allclose(found.values.reshape(18, 30), expected, rtol=1e-4, atol=1e-5)
    assert found.projection == name
    delta = np.random.default_rng(1).normal(size=(2, 30)).astype(np.float32)
    lifted = jax.vmap(lambda tree: ravel_pytree(tree)[0])(lift_projection(found, delta, PARAMS))
    np.testing.assert_allclose(lifted, delta @ (counts[:, None] * dense).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_rows_do_not_depend_on_where_drawing_begins(name):
    shapes, draw = ((30, 70), (70,), (70, 2)), PROJECTIONS[name].draw
    whole = rows(KEY, shapes, 9, projection=name)
    for first in range(3):
        one = draw_tiles(draw, KEY, shapes, first, 1, 9)[: len(whole) - first * TILE]
        np.testing.assert_allclose(one, whole[first * TILE : (first + 1) * TILE], rtol=1e-6)


def test_rademacher_entries_are_independent_signs():
    d = 50
    entries = np.asarray(rows(KEY, ((2 * TILE,),), d, projection="rademacher")) * np.sqrt(d)
    np.testing.assert_allclose(np.abs(entries), 1, rtol=1e-6)
    flat = entries.reshape(2, -1)
    assert np.abs(flat.mean(1)).max() < 4 / np.sqrt(flat.shape[1])
    assert np.abs(np.corrcoef([*flat, *np.roll(flat, d, 1)]) - np.eye(4)).max() < 5 / np.sqrt(flat.shape[1])


def test_hadamard_tiles_are_columns_of_the_matrix_whose_rows_change_signs():
    d = 300
    tiles = np.asarray(rows(KEY, ((3 * TILE,),), d, projection="hadamard")).reshape(3, TILE, d) * np.sqrt(d)
    flips = tiles[..., 0] * tiles[0, :, 0]
    np.testing.assert_allclose(tiles, flips[..., None] * tiles[0], rtol=1e-5)
    assert np.abs(np.corrcoef(np.concatenate([flips[1:], tiles[:1, :, 0]])) - np.eye(3)).max() < 0.15
    known = hadamard_matrix(TILE)
    products = np.abs((tiles[0] * tiles[0, :, :1]).T @ known)  # of columns without what they begin with
    assert (products.max(1) > TILE - 0.1).all() and len(set(products.argmax(1))) == d


def test_sparse_tiles_have_few_entries_of_the_stated_size():
    d, s = 200, TILE / READ
    entries = np.asarray(rows(KEY, ((4 * TILE,),), d, projection="sparse")).reshape(4, TILE, d)
    values, counts = np.unique(np.round(np.abs(entries) * np.sqrt(d / s), 3), return_counts=True)
    assert values[:2].tolist() == [0, 1] and (entries != 0).sum(1).max() == READ
    assert counts[1] / entries.size == pytest.approx(1 / s, rel=0.05)
    assert counts[2:].sum() < 0.05 * counts[1]  # read twice
    many = rows(KEY, ((TILE,),), 4 * TILE, projection="sparse")
    assert (np.asarray(many) != 0).any(1).all()  # no parameter is left out


def test_factored_rows_are_products_of_their_leafs_signs():
    shapes, d = ((3, 2, 5), (7,), (), (40, 30)), 6
    found, blocks = np.asarray(rows(KEY, shapes, d, projection="factored")), []
    for number, shape in enumerate(shapes):
        a, b = map(np.asarray, factors(KEY, number, shape, d))
        assert (len(a), len(b)) == matrix(shape) and set(np.unique([*a, *b])) == {-1, 1}
        blocks += [a[i] * b[j] / np.sqrt(d) for i in range(len(a)) for j in range(len(b))]
    np.testing.assert_allclose(found, blocks, rtol=1e-6)


def test_factored_features_form_no_gradient():
    params = [np.ones((4, 300), np.float32), np.ones((300, 300), np.float32), np.ones((300, 3), np.float32)]
    layers = lambda w, s, a: jnp.tanh(jnp.tanh(s @ w[0]) @ w[1])[None] @ w[2][:, a]  # noqa: E731
    args = (params, LOGGED.obs[0], LOGGED.action[0], KEY, [None] * 3)
    settings = {"dim": 10, "projection": PROJECTIONS["factored"], "sizes": PROCESSOR, "precision": "float32"}
    lowered = jax.jit(lambda *x: _project.function(lambda *y: layers(*y)[0], *x, **settings)).lower(*args)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 9 * 4 * 300**2 / 4


DRAWS, DIM = 300, 25


@functools.lru_cache(maxsize=1)
def drawn_maps(name: str) -> np.ndarray:
    """Many maps: [DRAWS, 1100, DIM]."""
    draw, shapes = PROJECTIONS[name].draw, ((20, 50), (50,), (10, 5))
    one = jax.jit(lambda key: draw_tiles(draw, key, shapes, 0, 2, DIM)[:1100])
    return np.asarray(jax.lax.map(one, jax.random.split(KEY, DRAWS)))


def excess(name: str, x, y, d: int) -> float:
    """By how much the variance may exceed the Gaussian's."""
    if name == "sparse":
        return (TILE / READ - 3) * float((x**2 * y**2).sum()) / d
    return 7 * (x @ x * (y @ y)) / d if name == "factored" else 0.0


@pytest.mark.parametrize("name", PROJECTIONS)
@settings(derandomize=True, deadline=None, max_examples=8)
@given(st.integers(0, 999), st.sampled_from([0.02, 0.3, 1.0]), st.sampled_from([0, 3]), st.floats(-1, 1))
def test_inner_products_are_unbiased_and_concentrate(name, seed, part, level, alike):
    """Of any two vectors, few of whose entries may count, or all of which may be of one sign."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(level, size=(2, 1100)) * (rng.random((2, 1100)) < part)
    y = alike * x + (1 - abs(alike)) * y
    features = np.float32([x, y]) @ drawn_maps(name)
    inner, expected = features.prod(1, dtype=np.float64).sum(-1), x @ y
    deviation = np.sqrt((x @ x * (y @ y) + expected**2) / DIM + excess(name, x, y, DIM))
    assert abs(inner.mean() - expected) < 4.5 * deviation / np.sqrt(DRAWS) + 1e-4
    assert inner.std() < 1.3 * deviation + 1e-4


@pytest.mark.parametrize("name", PROJECTIONS)
def test_gradients_that_are_not_finite_are_seen(name):
    obs = np.abs(LOGGED.obs) + 0.1
    obs[1, 7, :3] = 0.0  # the square root is finite there, its slope is not
    root = lambda w, s, a: jnp.sqrt(jnp.sum(s[:3] * w))  # noqa: E731
    with pytest.raises(DataError, match="non-finite gradients.*source 1, first at transition 7"):
        gradient_features(root, np.ones(3), LOGGED._replace(obs=obs), KEY, 6, projection=name)


def test_what_cannot_be_projected_is_refused_before_any_work():
    for config, told in (
        (EstimateConfig(projection="random"), "estimate.projection = 'random'; choose one of 'gaussian', 'r"),
        (EstimateConfig(projection="hadamard", dim=1025), "at most 1024 dimensions, and estimate.dim = 1025"),
    ):
        with pytest.raises(ConfigError, match=told):
            check_method(Config(estimate=config), 10)
        with pytest.raises(ConfigError, match=told):
            gradient_features(None, None, LOGGED, KEY, config.dim, projection=config.projection)


def test_a_projection_of_ones_own(monkeypatch):
    """Of which only tiles are told: features of parts of the parameters."""
    tile = by_tiles(lambda key, d: jnp.eye(TILE, d) * jax.random.rademacher(key, (d,), jnp.float32))
    monkeypatch.setitem(PROJECTIONS, "toy", Projection(tile))
    assert "toy" in typing.get_args(typing.get_type_hints(EstimateConfig)["projection"])
    EstimateConfig(projection="toy").check()
    found = gradient_features(log_prob, PARAMS, LOGGED, KEY, 50, projection="toy")
    expected = np.zeros((18, 50))
    for start in range(0, P, TILE):
        key = jax.random.fold_in(KEY, start // TILE)
        part = gradients()[:, start : start + 50]
        expected[:, : part.shape[1]] += part * np.asarray(jax.random.rademacher(key, (50,)))[: part.shape[1]]
    np.testing.assert_allclose(found.values.reshape(18, 50), expected, rtol=1e-4, atol=1e-5)
    lifted = ravel_pytree(lift_projection(found, np.ones(50, np.float32), PARAMS))[0]
    np.testing.assert_array_equal(np.abs(lifted), np.arange(P) % TILE < 50)
