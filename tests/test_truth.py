"""Estimates against true training: statistics by loops and simulation, and a comparison of a small run."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small import analysed

from pgx_jax import estimate, learn
from pgx_jax.analysis import TruthConfig, by_default, estimated_against_true, truth
from pgx_jax.analysis.correlation import (
    by_task,
    commoner_sign,
    correlation,
    groups_from,
    of_subsets,
    reliability,
    same_sign,
)
from pgx_jax.analysis.estimates import ESTIMATES, Collected
from pgx_jax.analysis.truth import horizons, subsets_of, train_subsets
from pgx_jax.cli import main as cli
from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate import kernels
from pgx_jax.report import analyses
from pgx_jax.report.truth import label_of, steps_of
from pgx_jax.report.wording import steps
from pgx_jax.types import FIT, SCORE

QUICK = TruthConfig(
    updates=(1, 2), repeats=3, steps_per_task=360, episodes=4, kernel=(4,), draws=2,
    more_transitions=1920, estimates=("dot", "cosine", "rollouts_8"),
)  # fmt: skip
MEMBER = estimate.make_subsets(3, 6, 3, 9)


def noisy(seed, m=40, n=5):
    """(x, y [m, n], member): y is x and noise, and levels of the tasks that tell nothing."""
    rng = np.random.default_rng(seed)
    member = rng.random((m, n)) < 0.6
    member[member.sum(1) == 0, 0] = True
    x = rng.normal(size=(m, n))
    return x, x + rng.normal(size=(m, n)) + 10 * rng.normal(size=n), member


def test_correlations_are_those_of_loops_over_tasks_and_subsets():
    x, y, member = noisy(0)
    own = [stats.spearmanr(x[rows, i], y[rows, i])[0] for i, rows in enumerate(member.T)]
    np.testing.assert_allclose(by_task("spearman", x, y, member), own)
    assert correlation("spearman", "within", x, y, member) == pytest.approx(np.mean(own))
    whole = [
        [np.mean([values[s, i] for i in range(5) if member[s, i]]) for s in range(40)] for values in (x, y)
    ]
    assert correlation("pearson", "subsets", x, y, member) == pytest.approx(stats.pearsonr(*whole)[0])
    pairs = [(x[s, i], y[s, i]) for s in range(40) for i in range(5) if member[s, i]]
    assert correlation("pearson", "pairs", x, y, member) == pytest.approx(stats.pearsonr(*zip(*pairs))[0])  # noqa: B905
    right = np.mean([np.sign(a) == np.sign(b) for a, b in pairs])
    assert same_sign(x, y, member) == pytest.approx(right)
    gains = np.mean([b > 0 for _, b in pairs])
    assert commoner_sign(y, member) == max(gains, 1 - gains)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_what_a_task_earns_anyway_and_what_is_outside_a_subset_tell_nothing_within_tasks(seed):
    x, y, member = noisy(seed)
    rng = np.random.default_rng(seed)
    level, scale = rng.normal(size=5), rng.uniform(0.1, 3, 5)
    moved = np.where(member, scale * x + level, rng.normal(size=x.shape))
    for kind in ("pearson", "spearman"):
        np.testing.assert_allclose(by_task(kind, moved, y, member), by_task(kind, x, y, member), atol=1e-12)
    np.testing.assert_allclose(
        by_task("spearman", np.exp(x), y, member), by_task("spearman", x, y, member), atol=1e-12
    )


def test_where_nothing_varies_or_is_known_there_is_no_correlation():
    x, y, member = noisy(1)
    x[:, 2], x[:, 3] = 1.0, np.nan
    found = by_task("spearman", x, y, member)
    assert np.isnan(found[[2, 3]]).all() and np.isfinite(found[[0, 1, 4]]).all()
    x[::2, 2], x[1::2, 2] = 0.1 + 0.2, 0.3
    assert np.ptp(x[:, 2]) > 0 and np.isnan(by_task("spearman", x, y, member)[2]), "rounding alone"
    assert correlation("spearman", "within", x, y, member) == pytest.approx(found[[0, 1, 4]].mean())
    assert np.isnan(same_sign(np.full_like(x, np.nan), y, member))


@pytest.mark.parametrize("repeats", [2, 4])
def test_reliability_is_the_correlation_with_as_many_further_repeats(repeats):
    rng = np.random.default_rng(repeats)
    true, member = rng.normal(size=(3000, 2)), np.ones((3000, 2), bool)
    once, again = (true + rng.normal(size=(repeats, 3000, 2)) for _ in range(2))
    told = reliability("pearson", "within", once, member)
    assert told == pytest.approx(repeats / (repeats + 1), abs=0.03)
    assert told == pytest.approx(
        correlation("pearson", "within", once.mean(0), again.mean(0), member), abs=0.04
    )
    perfect = correlation("pearson", "within", true, once.mean(0), member)
    assert perfect == pytest.approx(told**0.5, abs=0.03)
    assert np.isnan(reliability("pearson", "within", once[:1], member))


def test_groups_follow_from_who_gains_by_whom():
    labels = np.array([0, 1, 0, 2, 1, 2])
    member = estimate.all_subsets(6, 3)
    same = labels[:, None] == labels
    noise = np.random.default_rng(0).normal(size=member.shape) / 50
    values = member.astype(int) @ same / 3 + noise
    for kind in ("per_task", "aggregate"):
        np.testing.assert_array_equal(groups_from(values, member, 3, kind), labels)
    np.testing.assert_allclose(of_subsets(values, member)[0], values[0, :3].mean())


def test_a_kernel_surrogate_is_the_ridge_solution_in_the_kernel(monkeypatch):
    monkeypatch.setattr(kernels, "GAMMAS", (0.3,))
    monkeypatch.setattr(kernels, "RIDGES", (0.1,))
    rng = np.random.default_rng(0)
    member = rng.random((12, 4)) < 0.5
    asked, values = rng.random((5, 4)) < 0.5, rng.normal(size=(12, 4)) * [1, 10, 0.1, 0] + [0, 5, 1, 2]

    def kernel(a, b):
        return np.array([[np.exp(-0.3 * (x != y).sum()) for y in b] for x in a])

    wanted = np.empty((5, 4))
    for i, y in enumerate(values.T):
        spread = y.std() or 1.0
        weights = np.linalg.solve(kernel(member, member) + 0.1 * np.eye(12), (y - y.mean()) / spread)
        wanted[:, i] = y.mean() + spread * kernel(asked, member) @ weights
    np.testing.assert_allclose(estimate.kernel_surrogate(member, values, asked), wanted, rtol=1e-9)


def test_a_kernel_surrogate_learns_what_its_kernel_can_and_refuses_what_it_cannot():
    member = estimate.all_subsets(8, 3)
    same = np.arange(8)[:, None] % 2 == np.arange(8) % 2
    values = (member.astype(float) @ same) ** 2
    rows = np.random.default_rng(0).permutation(56)
    told = estimate.kernel_surrogate(member[rows[:40]], values[rows[:40]], member[rows[40:]])
    assert correlation("pearson", "pairs", told, values[rows[40:]], np.ones((16, 8), bool)) > 0.95
    with pytest.raises(ConfigError, match="1 trained subset"):
        estimate.kernel_surrogate(member[:1], values[:1], member)
    with pytest.raises(DataError, match="task 3 is not finite"):
        estimate.kernel_surrogate(member, np.where(np.arange(8) == 3, np.nan, values), member)


def log_prob(params, obs, action):
    return jax.nn.log_softmax(jnp.tanh(obs @ params["w"]) @ params["v"])[action]


def test_policies_fitted_offline_are_those_of_a_loop(make_logged):
    transitions, _ = make_logged(n=4, count=90, sources=2)
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    params = {"w": jax.random.normal(keys[0], (3, 4)), "v": jax.random.normal(keys[1], (4, 2))}
    member = np.array([[1, 0, 1, 0], [0, 0, 0, 1]], bool)
    found = estimate.offline_scores(log_prob, params, transitions, member, updates=3, rate=0.05)
    a = estimate.signed_weights(transitions)
    every = jax.jit(jax.vmap(log_prob, (None, 0, 0)))

    def part_of(task, part):
        source = transitions.source[task]
        keep = transitions.split[source] == part
        return transitions.obs[source][keep], transitions.action[source][keep], a[task][keep]

    def once(row, fitted, judge):
        tasks = np.flatnonzero(row)
        known = [part_of(i, fitted) for i in tasks]

        def loss(theta):
            total = 0.0
            for obs, action, own in known:
                ratio = jnp.exp(every(theta, obs, action) - every(params, obs, action))
                total -= jnp.minimum(ratio * own, jnp.clip(ratio, 0.8, 1.2) * own).mean()
            return total / len(tasks)

        theta, adam = params, optax.adam(0.05)
        memory = adam.init(theta)
        for _ in range(3):
            change, memory = adam.update(jax.grad(loss)(theta), memory)
            theta = optax.apply_updates(theta, change)
        out = []
        for i in range(4):
            obs, action, own = part_of(i, judge)
            ratio = np.exp(every(theta, obs, action) - every(params, obs, action))
            out.append(np.average(own, weights=ratio) - own.mean())
        return out

    for fold, way in zip(found.folds, ((FIT, SCORE), (SCORE, FIT)), strict=True):
        np.testing.assert_allclose(fold, [once(row, *way) for row in member], rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(found.values, np.mean(found.folds, 0), rtol=1e-6)


def test_gradients_are_compared_across_parts_of_the_data(small_run):
    a = estimate.signed_weights(small_run.transitions)
    known = small_run.features, small_run.transitions, a
    fit, score = (np.asarray(estimate.task_statistics(*known, (part,)).b, float) for part in (FIT, SCORE))
    told = {
        name: ESTIMATES[name].function(small_run, Collected.own(small_run), MEMBER)
        for name in ("dot", "cosine")
    }
    for s, i in ((0, 0), (3, 5), (8, 2)):
        tasks = np.flatnonzero(MEMBER[s])
        dots = [(fit[i] @ score[j] + score[i] @ fit[j]) / 2 for j in tasks]
        assert told["dot"].values[s, i] == pytest.approx(np.mean(dots), rel=1e-4)
        cosines = [
            x[i] @ y[j] / np.linalg.norm(x[i]) / np.linalg.norm(y[j])
            for j in tasks for x, y in ((fit, score), (score, fit))
        ]  # fmt: skip
        assert told["cosine"].values[s, i] == pytest.approx(np.mean(cosines), rel=1e-4)
    assert told["dot"].steps == small_run.transitions.split.size


@pytest.fixture(scope="module")
def found(small_run):
    return estimated_against_true(small_run, QUICK, member=MEMBER)


def test_a_run_is_compared_with_the_training_of_its_subsets(found, small_run):
    np.testing.assert_array_equal(found.member, MEMBER)
    asked = {x.estimate: x for x in found.agreements if x.horizon == "2 updates"}
    alone = {"surrogate", "dot", "cosine", "rollouts_8", "surrogate_1920", "dot_1920", "cosine_1920"}
    assert set(found.estimates) == alone | {"chosen", "chosen_1920"}
    assert set(asked) == set(found.estimates) | {"kernel_4", "training"}
    own = small_run.scored.scores
    rows = np.array([np.flatnonzero((own.member == row).all(1))[0] for row in MEMBER])
    np.testing.assert_allclose(found.estimates["surrogate"], np.asarray(own.values)[rows], rtol=2e-3)
    rolled = np.array(found.estimates["rollouts_8"], float)
    np.testing.assert_array_equal(np.isfinite(rolled), MEMBER)
    assert asked["rollouts_8"].spearman_of_all == [None] * 6
    unit = small_run.learner.steps_per_update
    assert asked["training"].steps == 9 * 2 * unit and asked["kernel_4"].steps == 4 * 2 * unit
    collected = small_run.transitions.split.size
    assert asked["surrogate"].steps == asked["chosen"].steps == collected
    assert asked["surrogate_1920"].steps == 6 * 1920
    assert collected < asked["rollouts_8"].steps <= collected + (27 + 6) * 8 * 15
    assert len(asked["kernel_4"].labels["per_task"]) == 2 and asked["training"].same_sign > 0.5
    one, two, long = found.horizons
    assert [h.name for h in found.horizons] == ["1 update", "2 updates", "long"]
    assert one.steps * 2 == two.steps == 9 * 2 * unit and 0 < one.distance < two.distance < long.distance
    assert found.truth("1 update").shape == found.truth("2 updates").shape == (3, 9, 6)
    assert found.truth("long").shape == (2, 9, 6) and 0 < two.random_nmi["per_task"] < 1


def test_true_gains_are_those_of_policies_trained_one_by_one(found, small_run):
    """From theta*, played on the same episodes as theta* itself."""
    agents = train_subsets(small_run, MEMBER[:1], QUICK)["2 updates"]
    base = jax.random.fold_in(jax.random.fold_in(small_run.config.stream("analysis"), 0), 2)
    scale = np.sqrt(np.asarray(small_run.meta.reward.var) + 1e-8)
    for repeat, some in enumerate(agents):
        for task in (0, 4):
            returns = [
                learn.evaluate(
                    small_run.policy, small_run.family, agent, np.zeros(1, int), np.array([task]),
                    jax.random.fold_in(base, repeat), episodes=QUICK.episodes,
                ).returns.mean()
                for agent in (some, learn.stack([small_run.meta]))
            ]  # fmt: skip
            wanted = (returns[0] - returns[1]) / scale[task]
            assert found.truth("2 updates")[repeat, 0, task] == pytest.approx(wanted, rel=2e-3, abs=1e-3)


def test_what_is_trained_for_long_is_what_a_group_has(small_run):
    ways = horizons(small_run, MEMBER, TruthConfig())
    a_task, unit = small_run.budget.rest() // 6, small_run.learner.steps_per_update
    assert (ways["long"].steps == 3 * a_task // unit * unit).all()
    assert (ways["4 updates"].steps == 4 * unit).all() and (ways["1 update"].steps == unit).all()
    every = subsets_of(small_run, TruthConfig())
    assert every.shape == (63, 6) and len(np.unique(every, axis=0)) == 63 and every.any(1).all()
    with pytest.raises(ConfigError, match="steps_per_task = 7 .* raise it"):
        horizons(small_run, MEMBER, TruthConfig(steps_per_task=7))


def test_what_is_found_is_written_drawn_and_told(capsys, found, small_run, tmp_path, monkeypatch):
    told = analyses.shown("truth").sentence(found)
    assert "9 subsets trained 3 or 2 times: after 1 update f-hat" in told and "after long training" in told
    analysed("truth", found, small_run, tmp_path, monkeypatch)
    out = capsys.readouterr().out
    assert told in out and "kernel surrogate, 4 trainings" in out and "truth.json" in out


def test_steps_of_what_trains_are_told_from_short_to_long_and_not_on_average(found):
    of = lambda name: [x for x in found.agreements if x.estimate == name]  # noqa: E731
    short, *_, long = sorted(x.steps for x in of("training"))
    assert short < long and steps_of(of("training")) == f"{steps(short)} to {steps(long)}"
    assert steps_of(of("surrogate")) == steps(of("surrogate")[0].steps)


def test_it_is_made_where_it_is_named_alone_and_bad_settings_are_refused_before(capsys, tmp_path):
    assert "truth" not in by_default() and "approximation" in by_default()
    for wrong, told in (
        (["--truth.repeats", "1"], "truth.repeats = 1 must be at least 2"),
        (["--truth.updates", "0", "4"], r"truth.updates = \(0, 4\) must name one horizon or more"),
        (["--truth.kernel", "1"], "truth.kernel = .* at least 2 trainings"),
        (["--truth.k", "1"], "truth.k = 1 must be at least 2"),
        (["--truth.steps-per-task", "0"], "truth.steps_per_task = 0 must be at least 1"),
    ):
        assert cli.main(["analyse", str(tmp_path), "truth", *wrong]) == 2
        err = capsys.readouterr().err
        assert re.search(told, err), err


def test_subsets_that_leave_a_pair_out_are_refused_before_training(small_run, no_training):
    with pytest.raises(ConfigError, match="none of the 3 subsets contains"):
        estimated_against_true(small_run, QUICK, member=MEMBER[:3])


def test_a_budget_of_less_than_an_update_is_refused_before_any_work(small_run, no_training, monkeypatch):
    monkeypatch.setattr(truth, "without_training", lambda *_: pytest.fail("asked of estimates"))
    with pytest.raises(ConfigError, match=r"truth.steps_per_task = 1 gives a subset of 3 task"):
        estimated_against_true(small_run, dataclasses.replace(QUICK, steps_per_task=1), member=MEMBER)


def test_estimates_have_names_in_words():
    assert label_of("dot_8192") == "dot product of gradients, 8,192 transitions a task"
    assert label_of("rollouts_64") == "roll-outs, 64 episodes"
    assert label_of("training") == "every subset trained once"
