"""Action distributions against SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.learn.distributions import (
    FRESH_LOG_STD,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    for_space,
)

logits = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=6)
numbers = st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3)


@functools.partial(jax.jit, static_argnums=0)
def described(dist, params, actions):
    """Log-probabilities of actions [N, ...], entropy and mode of a distribution."""
    return jax.vmap(dist.log_prob, (None, 0))(params, actions), dist.entropy(params), dist.mode(params)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(logits)
def test_categorical_against_scipy(x):
    x = np.array(x, np.float32)
    expected = scipy.special.log_softmax(x.astype(float))
    log_prob, entropy, mode = described(Categorical(len(x)), x, np.arange(len(x)))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(entropy, scipy.stats.entropy(np.exp(expected)), atol=1e-5)
    assert x[mode] == x.max()


def test_forbidden_actions_leave_everything_finite():
    """Logits of -inf mask actions: as if these did not exist, with gradients."""
    dist, allowed = Categorical(4), np.array([0, 2])
    x = np.array([0.3, -np.inf, 1.0, -np.inf], np.float32)

    @functools.partial(jax.jit, static_argnums=1)
    @jax.value_and_grad
    def told(x, dist, action):
        return dist.log_prob(x, action) + dist.entropy(x)

    for i, action in enumerate(allowed):
        masked, slope = told(x, dist, action)
        plain, expected = told(x[allowed], Categorical(2), i)
        np.testing.assert_allclose(masked, plain, rtol=1e-6)
        np.testing.assert_allclose(slope[allowed], expected, rtol=1e-5)
        np.testing.assert_array_equal(slope[np.array([1, 3])], 0.0)
    assert dist.log_prob(x, 1) == -np.inf


def test_categorical_draws_with_its_probabilities():
    dist, p = Categorical(4), np.array([0.1, 0.2, 0.3, 0.4])
    keys = jax.random.split(jax.random.PRNGKey(0), 4000)
    drawn = jax.jit(jax.vmap(dist.sample, (0, None)))(keys, np.log(p))
    assert scipy.stats.chisquare(np.bincount(drawn, minlength=4), 4000 * p).pvalue > 1e-3
    np.testing.assert_array_equal(dist.to_env(drawn), drawn)


@pytest.mark.parametrize("sizes", [(3,), (2, 4), (5, 1, 3)])
def test_several_choices_are_independent_categoricals(sizes):
    dist, rng = MultiCategorical(sizes), np.random.default_rng(0)
    assert dist.outputs == sum(sizes)
    x, action = rng.normal(size=(4, sum(sizes))).astype(np.float32), rng.integers(sizes, size=(4, len(sizes)))
    each = np.split(x.astype(float), np.cumsum(sizes)[:-1], axis=1)
    each = [scipy.special.log_softmax(part, axis=1) for part in each]
    expected = sum(part[np.arange(4), action[:, i]] for i, part in enumerate(each))
    found = jax.jit(lambda x, a: (dist.log_prob(x, a), dist.entropy(x), dist.exploration(x), dist.mode(x)))
    log_prob, entropy, exploration, mode = found(x, action)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(dist.log_prob))(x, action), expected, rtol=1e-5)
    by_scipy = sum(scipy.stats.entropy(np.exp(part), axis=1) for part in each)
    np.testing.assert_allclose(entropy, by_scipy, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(exploration, entropy)
    np.testing.assert_array_equal(mode, np.stack([part.argmax(1) for part in each], 1))
    every = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).reshape(-1, len(sizes))
    np.testing.assert_allclose(np.exp(jax.jit(dist.log_prob)(x[0], every)).sum(), 1.0, rtol=1e-5)


def test_several_choices_are_drawn_independently():
    dist, p = MultiCategorical((2, 3)), [np.array([0.3, 0.7]), np.array([0.2, 0.5, 0.3])]
    keys = jax.random.split(jax.random.PRNGKey(3), 4000)
    drawn = np.asarray(jax.jit(jax.vmap(dist.sample, (0, None)))(keys, np.log(np.concatenate(p))))
    np.testing.assert_array_equal(dist.to_env(drawn), drawn)
    joint = np.zeros((2, 3))
    np.add.at(joint, tuple(drawn.T), 1)
    assert scipy.stats.chisquare(joint.ravel(), 4000 * np.outer(*p).ravel()).pvalue > 1e-3


@settings(derandomize=True, deadline=None, max_examples=30)
@given(numbers, numbers, numbers)
def test_gaussian_against_scipy(mean, log_std, action):
    dist = DiagonalGaussian((-1.0,) * 3, (1.0,) * 3)
    mean, log_std, action = (np.array(x, np.float32) for x in (mean, log_std, action))
    normal = scipy.stats.norm(mean.astype(float), np.exp(log_std.astype(float)))
    (log_prob,), entropy, mode = described(dist, (mean, log_std), action[None])
    np.testing.assert_allclose(log_prob, normal.logpdf(action).sum(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(entropy, normal.entropy().sum(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(mode, mean)
    score, _ = scores(dist, (mean, log_std), action)
    np.testing.assert_allclose(
        score, (action - mean) / np.exp(2 * log_std.astype(float)), rtol=1e-3, atol=1e-4
    )


@functools.partial(jax.jit, static_argnums=0)
def scores(dist, params, action):
    """The gradient of an action's log-probability by the parameters."""
    return jax.grad(dist.log_prob)(params, action)


def test_exploration_is_rewarded_up_to_a_fresh_deviation():
    dist, mean = DiagonalGaussian((-1.0,) * 2, (1.0,) * 2), jnp.zeros(2)
    slope = jax.grad(lambda log_std: dist.exploration((mean, log_std)))
    np.testing.assert_array_equal(slope(jnp.array([FRESH_LOG_STD - 1, FRESH_LOG_STD + 1])), [1.0, 0.0])
    fresh = (mean, jnp.full(2, FRESH_LOG_STD))
    assert dist.exploration(fresh) == dist.entropy(fresh) == dist.exploration((mean, fresh[1] + 1))
    assert Categorical(3).exploration(jnp.arange(3.0)) == Categorical(3).entropy(jnp.arange(3.0))


def test_gaussian_draws_with_its_mean_and_deviation():
    dist = DiagonalGaussian((-1.0, -1.0), (1.0, 1.0))
    params = jnp.array([0.5, -2.0]), jnp.log(jnp.array([0.3, 2.0]))
    keys = jax.random.split(jax.random.PRNGKey(1), 3000)
    drawn = np.asarray(jax.jit(jax.vmap(dist.sample, (0, None)))(keys, params), float)
    for i, normal in enumerate((scipy.stats.norm(0.5, 0.3), scipy.stats.norm(-2.0, 2.0))):
        assert scipy.stats.kstest(drawn[:, i], normal.cdf).pvalue > 1e-3
    assert abs(scipy.stats.spearmanr(*drawn.T).statistic) < 0.06


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.4, 0.2), (-1.5, 0.7)])
def test_the_squashed_density_integrates_to_one(mean, std):
    dist = DiagonalGaussian((-1.0,), (1.0,), squash=True)
    params = jnp.array([mean]), jnp.log(jnp.array([std]))
    density = jax.jit(lambda u: jnp.exp(dist.log_prob(params, u[None])))

    def of_action(a):  # density over the action a = tanh(u), by quadrature over a itself
        return float(density(jnp.arctanh(jnp.float32(a))))

    total, _ = scipy.integrate.quad(of_action, -0.99999, 0.99999, limit=200, epsabs=1e-4)
    assert total == pytest.approx(1.0, abs=5e-3)


def test_the_squashed_density_far_out_is_finite():
    dist = DiagonalGaussian((-1.0,), (1.0,), squash=True)
    params = jnp.zeros(1), jnp.zeros(1)
    for u in (-60.0, 60.0):
        value, slope = jax.value_and_grad(lambda u: dist.log_prob(params, u[None]))(jnp.float32(u))
        assert np.isfinite(value) and slope == pytest.approx(-u + np.sign(u) * 2.0)


@pytest.mark.parametrize("squash", [False, True])
def test_actions_fit_the_box(squash):
    box = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32))
    dist = for_space(box, squash)
    u = jnp.array([[-1e9, 1e9], [0.0, 0.0], [0.3, -0.3], [1.0, -1.0]])
    action = np.asarray(dist.to_env(u))
    assert all(box.contains(a) for a in action)
    np.testing.assert_allclose(action[:2], [[-2.0, 5.0], [0.0, 2.5]], atol=1e-6)
    inner = np.tanh([0.3, -0.3]) if squash else np.array([0.3, -0.3])
    np.testing.assert_allclose(action[2], [2 * inner[0], 2.5 + 2.5 * inner[1]], rtol=1e-5)
    assert (abs(action[3] - [2.0, 0.0]) < 1e-6).all() == (not squash)


def test_which_spaces_have_a_distribution():
    assert for_space(spaces.Discrete(3)) == Categorical(3)
    assert for_space(spaces.Box(-1.0, 1.0, (2,))).outputs == 2
    assert for_space(spaces.MultiDiscrete([3, 2])) == MultiCategorical((3, 2))
    unbounded = spaces.Box(-np.inf, np.inf, (2,))
    for space in (
        spaces.MultiBinary(3),
        spaces.Discrete(3, start=1),
        spaces.MultiDiscrete([3, 2], start=[0, 1]),
        spaces.MultiDiscrete([[3, 2], [2, 2]]),
        spaces.Box(-1.0, 1.0, (2, 2)),
        spaces.Box(-3, 3, (2,), np.int32),
        unbounded,
    ):
        with pytest.raises(ValueError, match="no distribution"):
            for_space(space)
