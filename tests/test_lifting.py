"""Duals and lifts: back from the projected space, against loops of gradients and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.special import expit
from scipy.stats import spearmanr

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate import (
    displace,
    duals,
    fit,
    gaussian,
    gradient_features,
    lift_dual,
    lift_projection,
    relative_distance,
    rescale,
    signed_weights,
)
from pgx_jax.types import FIT, SCORE, Seen

MEMBER = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 0]], bool)
SOLVERS = [("newton", 1), ("lbfgs", None)]


@pytest.fixture(scope="module")
def params():
    keys = jax.random.split(jax.random.PRNGKey(0))
    return {
        "weight": jax.random.normal(keys[0], (3, 9)),
        "out": [jax.random.normal(keys[1], (9, 2)), jnp.ones(2)],
    }


def log_prob(params, obs, action):
    kernel, bias = params["out"]
    return jax.nn.log_softmax(jnp.tanh(obs @ params["weight"]) @ kernel + bias)[action]


@pytest.fixture(scope="module", params=[None, 2], ids=["own sources", "shared sources"])
def solved(request, make_logged, params):
    """Real gradient features, 4 tasks on 4 or on 2 sources, solved to the optimum and by one step."""
    transitions, _ = make_logged(count=120, sources=request.param)
    features = gradient_features(log_prob, params, transitions, jax.random.PRNGKey(7), 25)
    a = signed_weights(transitions)
    surrogates = {
        solver: fit(
            features, transitions, MEMBER, l2=0.3, solver=solver, iterations=iterations, tolerance=1e-6
        )
        for solver, iterations in SOLVERS
    }
    return transitions, features, a, surrogates


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_duals_recombine_the_features_to_the_solution(solved, solver):
    transitions, features, a, surrogates = solved
    alpha = duals(features, transitions, a, surrogates[solver])
    assert alpha.shape == (3, *transitions.split.shape)
    got = np.einsum("mut,utd->md", np.asarray(alpha, np.float64), np.asarray(features.values))
    delta = np.asarray(surrogates[solver].delta)
    np.testing.assert_allclose(got, delta, atol=3e-3 * np.abs(delta).max())
    assert not np.asarray(alpha)[:, transitions.split != FIT].any()


def test_duals_are_the_residuals_at_the_optimum_and_close_the_gap(solved):
    """alpha = w y sigma(-y z) / (|S| N_i l2), and the dual objective there equals the primal one."""
    transitions, features, a, surrogates = solved
    solution = surrogates["lbfgs"]
    alpha, l2 = np.asarray(duals(features, transitions, a, solution)), float(solution.l2)
    for row, delta, got in zip(MEMBER, np.asarray(solution.delta, np.float64), alpha, strict=True):
        expected, primal, entropy = np.zeros(got.shape), l2 / 2 * delta @ delta, 0.0
        for task in np.flatnonzero(row):
            source = transitions.source[task]
            keep = transitions.split[source] == FIT
            z = np.asarray(features.values, np.float64)[source][keep] @ delta
            y, w = np.sign(a[task][keep]), np.abs(a[task][keep]) / keep.sum() / row.sum()
            c = expit(-y * z)
            expected[source, keep] += w * y * c / l2
            primal += (w * np.logaddexp(0, -y * z)).sum()
            entropy -= (w * (c * np.log(c) + (1 - c) * np.log(1 - c))).sum()
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6)
        v = np.einsum("ut,utd->d", expected, np.asarray(features.values, np.float64))
        assert primal == pytest.approx(entropy - l2 / 2 * v @ v, rel=1e-4)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_dual_lift_is_the_weighted_sum_of_gradients(solved, params, solver):
    transitions, features, a, surrogates = solved
    lifted = lift_dual(log_prob, params, transitions, a, surrogates[solver], features)
    alpha = duals(features, transitions, a, surrogates[solver])
    gradients = jax.jit(jax.vmap(jax.vmap(jax.grad(log_prob), (None, 0, 0)), (None, 0, 0)))(
        params, transitions.obs, transitions.action
    )
    for got, gradient in zip(jax.tree.leaves(lifted), jax.tree.leaves(gradients), strict=True):
        expected = np.einsum("mut,ut...->m...", alpha, gradient)
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_observations_may_be_pytrees(solved, params):
    transitions, features, a, surrogates = solved
    tree = transitions._replace(obs=Seen(transitions.obs[..., :2], transitions.obs[..., 2:]))

    def of_tree(params, seen, action):
        return log_prob(params, jnp.concatenate(seen), action)

    expected = lift_dual(log_prob, params, transitions, a, surrogates["newton"], features)
    got = lift_dual(of_tree, params, tree, a, surrogates["newton"], features)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), got, expected)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_projecting_the_dual_lift_gives_the_solution_back(solved, params, solver):
    """P^T sum alpha_t g_t = sum alpha_t g~_t = D."""
    transitions, features, a, surrogates = solved
    lifted = lift_dual(log_prob, params, transitions, a, surrogates[solver], features)
    delta = np.asarray(surrogates[solver].delta)
    for index in range(len(MEMBER)):
        flat = np.asarray(ravel_pytree(jax.tree.map(lambda x, i=index: x[i], lifted))[0])
        again = flat @ np.asarray(gaussian(features.key, flat.size, 25))
        np.testing.assert_allclose(again, delta[index], atol=3e-3 * np.abs(delta[index]).max())


def test_projection_lift_is_the_map_times_the_solution(solved, params):
    _, features, _, surrogates = solved
    delta = surrogates["newton"].delta
    lifted = lift_projection(features, delta, params)
    flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(lifted)
    dense = gaussian(features.key, flat.shape[1], 25)
    np.testing.assert_allclose(flat, delta @ dense.T, atol=1e-5 * np.abs(flat).max())


def test_a_lifted_step_moves_log_probabilities_as_the_surrogate_says(make_logged, params):
    """To first order log pi(theta* + Delta) - log pi(theta*) is g . Delta, which g~ . D estimates."""
    transitions, _ = make_logged(count=120)
    features = gradient_features(log_prob, params, transitions, jax.random.PRNGKey(7), 2000)
    a = signed_weights(transitions)
    surrogates = fit(features, transitions, MEMBER)
    step = rescale(lift_dual(log_prob, params, transitions, a, surrogates, features), params, 1e-3)
    moved = displace(params, step)
    batch = jax.jit(jax.vmap(log_prob, (None, 0, 0)))
    for index, task in ((0, 1), (1, 3)):
        obs, action = transitions.obs[task], transitions.action[task]
        theta = jax.tree.map(lambda x, i=index: x[i], moved)
        change = batch(theta, obs, action) - batch(params, obs, action)
        predicted = features.values[task] @ surrogates.delta[index]
        assert spearmanr(change, predicted).statistic > 0.95


def test_distances_are_relative_and_rescaling_reaches_them(params):
    delta = jax.tree.map(lambda x: jnp.stack([x, 3 * x, 0 * x]), params)
    np.testing.assert_allclose(relative_distance(delta, params), [1, 3, 0], rtol=1e-5)
    scaled = rescale(delta, params, 0.02)
    np.testing.assert_allclose(relative_distance(scaled, params), [0.02, 0.02, 0], rtol=1e-5)
    np.testing.assert_allclose(scaled["weight"][1], 0.02 * params["weight"], rtol=1e-5)
    np.testing.assert_allclose(
        displace(params, scaled)["out"][1], np.outer([1.02, 1.02, 1], [1, 1]), rtol=1e-5
    )


@pytest.mark.parametrize("distance", [0.0, -1.0, float("nan")])
def test_distances_must_be_positive(params, distance):
    with pytest.raises(ConfigError, match="must be positive"):
        rescale(jax.tree.map(lambda x: x[None], params), params, distance)


def test_a_source_without_fitted_data_is_named(solved):
    transitions, features, a, surrogates = solved
    split = np.full_like(transitions.split, SCORE)
    split[0, 0] = FIT
    with pytest.raises(DataError, match="source 1 has no transitions"):
        duals(features, transitions._replace(split=split), a, surrogates["newton"])
