"""Curvature against dense Hessians, the PAC-Bayes bound against a loop and simulation, and a whole run."""

import sys

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from small import analysed

from pgx_jax import learn
from pgx_jax.analysis import (
    TRACES,
    GeneralisationConfig,
    analysis_of,
    extreme_eigenvalues,
    generalisation_bound,
    hessian_trace,
)
from pgx_jax.analysis.generalisation import (
    Scale,
    clipped_gains,
    clipped_loss,
    pac_bayes,
    sample_of,
    standard_error,
    task_losses,
)
from pgx_jax.errors import ConfigError
from pgx_jax.report import analyses
from pgx_jax.types import FIT, SELECT

QUICK = GeneralisationConfig(transitions=120, products=12, depth=4, draws=2, unseen=3)


def loss(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["weight"]) @ params["out"] - y) ** 2)


@pytest.fixture(scope="module")
def small_loss():
    """(params, x, y) and the Hessian [24, 24]."""
    keys = jax.random.split(jax.random.PRNGKey(0), 4)
    params = {"weight": jax.random.normal(keys[0], (3, 6)), "out": jax.random.normal(keys[1], (6,))}
    data = jax.random.normal(keys[2], (80, 3)), jax.random.normal(keys[3], (80,))
    flat, unravel = ravel_pytree(params)
    return (params, *data), np.asarray(jax.hessian(lambda theta: loss(unravel(theta), *data))(flat))


@pytest.mark.parametrize("method", TRACES)
def test_traces_are_those_of_the_dense_hessian_within_their_errors(small_loss, method):
    given_, dense = small_loss
    found = hessian_trace(loss, *given_, key=jax.random.PRNGKey(1), method=method, products=18)
    assert 0 < found.stderr < 0.5 * abs(np.trace(dense))
    assert abs(found.mean - np.trace(dense)) < 4 * found.stderr


def test_subspaces_that_hold_everything_give_the_trace_itself(small_loss):
    given_, dense = small_loss
    found = hessian_trace(loss, *given_, key=jax.random.PRNGKey(1), products=3 * len(dense))
    assert found.mean == pytest.approx(np.trace(dense), rel=1e-3)


def test_extreme_eigenvalues_are_those_of_the_dense_hessian(small_loss):
    given_, dense = small_loss
    values = np.linalg.eigvalsh(dense)
    found = extreme_eigenvalues(loss, *given_, key=jax.random.PRNGKey(1), depth=100)
    np.testing.assert_allclose(found, values[[0, -1]], rtol=1e-3)
    least, greatest = extreme_eigenvalues(loss, *given_, key=jax.random.PRNGKey(1), depth=4)
    assert values[0] * 1.001 <= least < greatest <= values[-1] * 1.001


def test_what_is_missing_or_unknown_is_named(small_loss, monkeypatch):
    given_, _ = small_loss
    for wrong, told in (({"method": "guess"}, "choose one of 'hutchinson'"), ({"products": 2}, "at least 6")):
        with pytest.raises(ConfigError, match=told):
            hessian_trace(loss, *given_, key=jax.random.PRNGKey(1), **wrong)
    monkeypatch.setitem(sys.modules, "matfree.stochtrace", None)
    for call in (lambda: analysis_of("generalisation"), lambda: extreme_eigenvalues(loss, *given_, key=None)):
        with pytest.raises(ConfigError, match=r"matfree, which is not installed: pip install .*\[analysis\]"):
            call()
    assert analysis_of("approximation")


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=4),
    st.floats(0, 4),
    st.integers(1, 500),
    st.sampled_from([1, 63]),
    st.data(),
)
def test_the_bound_is_the_least_of_a_loop_over_the_grid(expected, squared, n, choices, data):
    sigmas = data.draw(st.lists(st.floats(0.01, 2), min_size=len(expected), max_size=len(expected)))
    lambdas, width, delta = [0.5, 8.0, 100.0], 1.2, 0.05
    found = pac_bayes(
        np.array(expected), squared, np.array(sigmas), np.array(lambdas),
        n=n, width=width, delta=delta, choices=choices,
    )  # fmt: skip
    price = np.log(len(sigmas) * 3 * choices / delta)
    by_pair = [
        e + lam * width**2 / (8 * n) + (squared / (2 * s * s) + price) / lam
        for e, s in zip(expected, sigmas, strict=True)
        for lam in lambdas
    ]
    assert found.value == pytest.approx(min(by_pair), rel=1e-9, abs=1e-9)
    assert found.kl == pytest.approx(squared / (2 * sigmas[found.noise] ** 2))


def test_the_bound_holds_where_the_truth_is_known():
    """Losses clip(theta + noise, -1, 1) x / 2 + 1/2 of x = -1 or 1, whose mean is 1/2 for all theta, which is
    fitted to 20 of them: the bound fails in at most 5% of 400 trials."""
    rng, sigmas, lambdas = np.random.default_rng(0), np.array([0.1, 0.3, 1.0]), 2.0 ** np.arange(10)
    noise, fails, gaps = rng.normal(size=(3, 500)) * sigmas[:, None], 0, []
    for _ in range(400):
        x = rng.choice([-1, 1], 20)
        theta = -0.5 * np.sign(x.mean())  # whose loss is the smallest on these
        noisy = np.clip(theta + noise, -1, 1).mean(1)
        bound = pac_bayes(0.5 + noisy * x.mean() / 2, theta**2, sigmas, lambdas, n=20, width=1, delta=0.05)
        fails += bound.value < 0.5
        gaps.append(bound.value - 0.5)
    assert fails <= 20 and 0 < np.median(gaps) < 0.5


def test_the_bound_of_a_chosen_subset_holds_where_the_truth_is_known():
    """The same of 63 subsets that know nothing either, of which the data choose the one with the least bound:
    without paying for the choice it fails far more often than in 5% of the trials, and with it does not."""
    rng, sigmas, lambdas = np.random.default_rng(1), np.array([1e-3]), np.array([20.0])
    fails = {1: 0, 63: 0}
    for _ in range(400):
        x = rng.choice([-1, 1], (63, 20)).mean(1)
        for choices in fails:
            known = {"n": 20, "width": 1, "delta": 0.05, "choices": choices}
            least = min(pac_bayes(np.array([0.5 + m / 2]), 0.0, sigmas, lambdas, **known).value for m in x)
            fails[choices] += least < 0.5
    assert fails[63] <= 20 < 40 < fails[1]


@pytest.fixture(scope="module")
def fitted(small_run):
    given_ = small_run.transitions
    return sample_of(given_, Scale.of(given_, (SELECT,)), parts=(FIT,), cut=3.0, transitions=10_000)


def test_the_loss_is_a_mean_over_trajectories_of_means_over_their_transitions(small_run, fitted):
    run, given_ = small_run, small_run.transitions
    before = learn.policy_params(run.meta)
    params = jax.tree.map(lambda x: np.asarray(x) * 1.1, before)
    losses = task_losses(fitted, clipped_gains(run.policy.log_prob, params, before, fitted, 0.2))
    log_prob = jax.jit(jax.vmap(run.policy.log_prob, (None, 0, 0)))
    for task in (0, 4):
        advantage, split = np.asarray(given_.advantage, float)[task], given_.split[task]
        a = (advantage - advantage[split == SELECT].mean()) / advantage[split == SELECT].std()
        new, old = (log_prob(x, given_.obs[task], given_.action[task]) for x in (params, before))
        values = -np.clip(a, -3, 3) * (np.clip(np.exp(np.asarray(new - old)), 0.8, 1.2) - 1)
        numbers = np.unique(given_.trajectory[task][split == FIT])
        of_each = [values[given_.trajectory[task] == number].mean() for number in numbers]
        assert losses[task] == pytest.approx(np.mean(of_each), rel=1e-3, abs=1e-6)
        assert fitted.trajectories[task] == len(of_each)


def test_the_loss_that_is_differentiated_is_the_mean_over_the_subsets_tasks(small_run, fitted):
    before = learn.policy_params(small_run.meta)
    params = jax.tree.map(lambda x: np.asarray(x) * 1.05, before)
    member = np.array([1, 0, 1, 1, 0, 0], bool)
    gains = clipped_gains(small_run.policy.log_prob, params, before, fitted, 0.2)
    known = task_losses(fitted, gains)[member].mean()
    of = clipped_loss(small_run.policy.log_prob)
    room, most = fitted.rooms(np.stack([member, np.ones(6, bool)]))
    assert room < most < fitted.coefficient(member).size
    for size in (room, most):
        counted = fitted.counted(member, size)
        assert float(of(params, before, *counted, 0.2)) == pytest.approx(known, rel=1e-3, abs=1e-6)
    counts = fitted.trajectories[member]
    assert fitted.effective(member) == pytest.approx(9 / (1 / counts).sum())
    shared = fitted._replace(source=np.zeros(6, int), trajectories=np.full(6, 7))
    assert shared.effective(member) == pytest.approx(7)  # its tasks read the same trajectories


def test_the_standard_error_is_that_of_means_over_trajectories(small_run, fitted):
    before = learn.policy_params(small_run.meta)
    params = jax.tree.map(lambda x: np.asarray(x) * 1.05, before)
    gains, of_task = clipped_gains(small_run.policy.log_prob, params, before, fitted, 0.2), []
    for task in range(6):
        member = np.arange(6) == task
        own = [
            task_losses(fitted._replace(weight=fitted.weight * (fitted.number == j)), gains)[task]
            for j in np.unique(fitted.number[task][fitted.weight[task] > 0])
        ]  # each is the mean over a trajectory, divided by their number
        of_task.append(np.std(own, ddof=1) * np.sqrt(len(own)))
        assert standard_error(fitted, gains, member) == pytest.approx(of_task[-1], rel=1e-3)
    together = np.linalg.norm(of_task) / 6
    assert standard_error(fitted, gains, np.ones(6, bool)) == pytest.approx(together, rel=1e-3)


@pytest.fixture(scope="module")
def found(small_run):
    return generalisation_bound(small_run, QUICK)


def test_a_run_has_losses_bounds_and_curvature(found, small_run):
    assert len(found.subsets) == 1 + small_run.grouping.k and found.subsets[0].tasks == list(
        small_run.family.task_names
    )
    for x in found.subsets:
        assert x.distance == pytest.approx(small_run.config.estimate.distance, rel=1e-3)
        assert x.fitted < 0 and x.bound > x.fresh and x.kl > 0 and 0 < x.gap_stderr < 0.1
        assert x.eigenvalues[0] <= x.eigenvalues[1] and set(x.trace) == {"hutchinson", "hutch++"}
        assert x.vacuous == (x.bound >= found.largest)
        assert x.choices == (1 if len(x.tasks) == 6 else 63)  # groups are chosen by the same data
        assert abs(x.fresh) < found.largest and x.promised > x.gap
    assert found.subsets[0].unseen_tasks == 3 == sum(x.unseen_tasks for x in found.subsets[1:])


def test_what_is_found_is_written_drawn_and_told(capsys, found, small_run, tmp_path, monkeypatch):
    told = analyses.generalisation_sentence(found)
    assert "a gap of" in told and "3 unseen tasks" in told
    args = ("--generalisation.unseen", "3")
    analysed("generalisation", found, small_run, tmp_path, monkeypatch, *args)
    assert told in capsys.readouterr().out


def test_vacuous_bounds_are_said_to_be_vacuous(found):
    worst = [msgspec.structs.replace(x, bound=1.0, vacuous=True) for x in found.subsets]
    told = analyses.generalisation_sentence(msgspec.structs.replace(found, subsets=worst))
    assert told.endswith("The bounds are vacuous: no loss is above 0.6.")


@pytest.mark.parametrize(
    ("name", "value"), [("cut", 0), ("delta", 1), ("unseen", 1), ("products", 3), ("draws", 1)]
)
def test_bad_settings_are_refused_before_any_work(name, value):
    with pytest.raises(ConfigError, match=f"{name} = {value}"):
        generalisation_bound(None, GeneralisationConfig(**{name: value}))
