"""Vector rewards: tasks that are weightings of one, relabelled from one source."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import VectorTabular, fresh, table, tabular_family, vector_family

from pgx_jax import PPO, Config, EstimateConfig, PolicyConfig, estimate, make_family, pipeline, run
from pgx_jax.compare.budget import make_budget
from pgx_jax.config import check
from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate import fit, heldout, importance, lift_dual, signed_weights, task_statistics
from pgx_jax.grouping import GroupingConfig
from pgx_jax.held_out import HeldOut
from pgx_jax.learn import collect, make_policy
from pgx_jax.runs.saved import load, regroup
from pgx_jax.tasks.checks import check_family
from pgx_jax.types import FIT, SCORE, SELECT, Moments

FAMILY = tabular_family([table(), table()], names=("first", "second"))


@pytest.mark.parametrize(
    ("field", "values", "what"),
    [
        *((field, *bad) for field in ("objectives", "context") for bad in (
            ([[1.0, 0.0]], f"{field} must have the shape .*n = 2 tasks, got \\[1, 2\\]"),
            ([1.0, 0.0], f"{field} must have the shape .*got \\[2\\]"),
            ([[1.0], [1.0, 2.0]], f"{field} must be numbers .*of the same length"),
            ([["left"], ["right"]], f"{field} must be numbers .*got .*left"),
            ([[1.0, 0.0], [np.nan, 1.0]], f"'second' has numbers in its {field} that are not finite"),
        )),
        ("objectives", np.ones((2, 0)), "'first' has no weight but 0"),
        ("objectives", [[0.0, 0.0], [1.0, 1.0]], "'first' has no weight but 0"),
    ],
)  # fmt: skip
def test_numbers_of_tasks_that_cannot_be(field, values, what):
    with pytest.raises(ConfigError, match=what):
        dataclasses.replace(FAMILY, **{field: values})


def test_weights_are_kept_as_numbers():
    family = dataclasses.replace(FAMILY, objectives=[[1, 0], [0, -1]])
    assert family.objectives.dtype == np.float32 and family.objectives.shape == (2, 2)
    assert FAMILY.objectives is None


# Collecting: three weightings of two rewards on one table; action 1 moves on, the last move ends it

MOVES = table(following={(0, 1): 1, (1, 1): 2}, terminal={(2, 1): True})
REWARDS = np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32)
WEIGHTS = np.array([[1.0, 0.0], [0.25, 0.75], [-2.0, 3.0]], np.float32)
VECTORS = vector_family(MOVES, REWARDS, WEIGHTS, horizon=7)
POLICY = make_policy(VECTORS, hidden=(4,))
KEY = jax.random.PRNGKey(4)
SIZES = {"steps": 60, "num_envs": 5, "gamma": 0.9, "gae_lambda": 0.7}


@pytest.fixture(scope="module")
def agent():
    """A fresh agent with reward scales of its own for every task."""
    agent = fresh(POLICY, VECTORS, KEY)
    return agent._replace(reward=Moments(jnp.zeros(3), jnp.asarray([4.0, 0.25, 1.0]), jnp.ones(3)))


def test_one_source_is_relabelled_for_every_task(agent):
    """Against a loop over tasks and time that works everything out of states and actions."""
    got = collect(POLICY, VECTORS, agent, KEY, **SIZES)
    assert got.obs.shape == (1, 60, 3) and got.action.shape == got.trajectory.shape == got.split.shape == (
        1,
        60,
    )
    assert got.advantage.shape == (3, 60) and got.source.tolist() == [0, 0, 0]
    state, action, number = np.argmax(got.obs[0], -1), np.asarray(got.action[0]), got.trajectory[0]
    after, ends = MOVES.following[state, action], MOVES.terminal[state, action]
    assert ends.any() and (np.bincount(number) == 7).any()  # terminated ones and truncated ones
    for task in range(3):
        inputs = [POLICY.critic_input(obs, jnp.asarray(VECTORS.context[task])) for obs in jnp.eye(3)]
        value = np.array([POLICY.value(agent.critic, one) for one in inputs])
        reward = REWARDS[state, action] @ WEIGHTS[task] / np.sqrt(np.asarray(agent.reward.var)[task])
        delta = reward + 0.9 * np.where(ends, 0.0, value[after]) - value[state]
        expected = np.zeros(60)
        for t in reversed(range(60)):
            follows = t + 1 < 60 and number[t + 1] == number[t]
            expected[t] = delta[t] + (0.9 * 0.7 * expected[t + 1] if follows else 0.0)
        np.testing.assert_allclose(got.advantage[task], expected, atol=1e-4)


def test_an_actor_that_is_told_the_task_plays_each():
    policy = make_policy(VECTORS, hidden=(4,), conditioned_actor=True)
    told = fresh(policy, VECTORS, KEY)
    got = collect(policy, VECTORS, told, KEY, **SIZES)
    assert got.obs.obs.shape == got.obs.context.shape == (3, 60, 3) and got.source.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(got.obs.context, np.repeat(np.eye(3)[:, None], 60, 1))


@pytest.mark.parametrize(
    ("changes", "error", "what"),
    [
        ({"env": VectorTabular(telling=False)}, ConfigError, "must return Step.objectives .*got none"),
        ({"objectives": np.ones((3, 4))}, ConfigError, "4 objectives.*got shape .*2,?\\)"),
        ({"objectives": WEIGHTS + [[0, 0], [0, 0.1], [0, 0]]}, DataError, "reward of task 'table1' is"),
    ],
)
def test_promises_that_are_not_kept(agent, changes, error, what):
    family = dataclasses.replace(VECTORS, **changes)
    with pytest.raises(error, match=what):
        collect(POLICY, family, agent, KEY, **SIZES)
    if error is ConfigError:  # known without playing
        with pytest.raises(error, match="objectives"):
            check_family(family)


def test_an_objective_that_is_not_finite_is_named(agent):
    spoilt = np.where(np.arange(2) == 1, np.nan, REWARDS)
    with pytest.raises(DataError, match="non-finite objective 1"):
        collect(POLICY, vector_family(MOVES, spoilt, WEIGHTS, horizon=7), agent, KEY, **SIZES)


def test_the_budget_counts_one_source():
    config = Config(steps_per_task=100_000, estimate=EstimateConfig(steps=960, num_envs=32))

    def collected(family=VECTORS, told=False, **changes):
        changed = dataclasses.replace(config, estimate=dataclasses.replace(config.estimate, **changes))
        return make_budget(changed, family, config.ppo, told=told).collect

    assert collected() == 3 * 960  # never more than one source a task would
    assert collected(source_multiple=2) == 2 * 960
    assert collected(source_multiple=2, told=True) == 3 * 960
    assert collected(dataclasses.replace(VECTORS, objectives=None), source_multiple=2) == 3 * 960
    with pytest.raises(ConfigError, match="estimate.source_multiple = 0"):
        check(dataclasses.replace(config, estimate=EstimateConfig(source_multiple=0)), VECTORS)


# Estimating: the same as with a copy of the source for every task

MEMBER = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]], bool)


def copied(transitions, features):
    """The slow reference: a source of its own, with the same transitions, for every task."""
    source = transitions.source
    own = {name: getattr(transitions, name)[source] for name in ("obs", "action", "trajectory", "split")}
    return transitions._replace(source=np.arange(len(source)), **own), features._replace(
        values=np.asarray(features.values)[source]
    )


@pytest.fixture(scope="module")
def both(make_logged):
    """(transitions, features) of one source, and with copies of it."""
    one = make_logged(sources=1, count=400)
    return one, copied(*one)


def linear_log_prob(params, obs, action):
    return jax.nn.log_softmax(obs @ params)[action]


@pytest.mark.parametrize("how", [{}, {"solver": "lbfgs"}], ids=["quadratic", "exact"])
def test_one_source_gives_what_copies_of_it_give(both, how):
    found = []
    for transitions, features in both:
        a = signed_weights(transitions)
        solved = fit(features, transitions, MEMBER, l2=0.1, **how)
        theta = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
        found.append(
            {
                "statistics": task_statistics(features, transitions, a),
                "delta": solved.delta,
                "heldout": heldout(features, transitions, solved).values,
                "importance": importance(features, transitions, solved).values,
                "lifted": lift_dual(linear_log_prob, theta, transitions, a, solved, features),
            }
        )  # fmt: skip
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-5), *found)
    assert np.abs(found[0]["delta"]).max() > 0.1


def test_logged_data_of_one_source_are_grouped(both):
    """Tasks 0, 2 and tasks 1, 3 share a planted direction; the two are at an acute angle, no conflict."""
    (transitions, features), _ = both
    config = EstimateConfig()
    member = estimate.make_subsets(0, 4, 2)
    scores = pipeline.score_subsets(features, transitions, member, config).scores
    held_out = HeldOut(features, transitions, config, KEY)
    affinity, differing = estimate.affinity(scores), GroupingConfig(min_ratio=0.0)
    assert pipeline.choose_groups(affinity, held_out, Config()).k == 1
    found = pipeline.choose_groups(affinity, held_out, Config(grouping=differing))
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert pipeline.predicted_gain(found)["ci95"][0] > 0


@pytest.mark.parametrize(("n", "multiple"), [(4, 4), (4, 9), (7, 3), (5, 1)])
def test_trajectories_are_dealt_to_the_tasks_of_a_source(make_logged, n, multiple):
    transitions, _ = make_logged(n=n, sources=1, count=1000)
    share = estimate.deal(KEY, transitions, multiple, (FIT, SCORE))
    kept, hands = transitions.split[0] != SELECT, min(multiple, n)
    assert share.shape == (n, 1000) and not share[:, ~kept].any()
    longest = np.bincount(transitions.trajectory[0]).max()
    assert np.abs(share.sum(1) - kept.sum() / hands).max() <= longest
    for row in share:
        inside = transitions.trajectory[0][row]
        assert row.sum() == np.isin(transitions.trajectory[0], inside).sum()  # none is split
    times = share[:, kept].sum(0)  # as often as there are rounds, but for the last
    assert n // hands <= times.min() and times.max() <= -(-n // hands)
    assert estimate.deal(KEY, make_logged(n=n)[0], multiple, (FIT, SCORE)) is None


def test_a_share_is_a_source_with_nothing_else(both):
    (transitions, features), (apart, copies) = both
    share = estimate.deal(KEY, transitions, 4, (FIT, SCORE))
    got = fit(features, transitions, MEMBER, parts=(FIT, SCORE), share=share, l2=0.1)
    alone = apart._replace(split=np.where(share, apart.split, SELECT))
    expected = fit(copies, alone, MEMBER, parts=(FIT, SCORE), l2=0.1)
    np.testing.assert_allclose(got.delta, expected.delta, rtol=1e-3, atol=2e-5)


# The whole method


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A run of seconds on six weightings of two goals."""
    config = Config(
        seed=5, steps_per_task=10_800, meta_fraction=0.2, meta_entropy=0.0, looks=1, compare="none",
        episodes=8, test_tasks=3, trial_episodes=2,
        policy=PolicyConfig(hidden=(8, 8)),
        ppo=PPO(learning_rate=2e-2, entropy=0.0, num_envs=12, num_steps=15, epochs=4, minibatches=2),
        estimate=EstimateConfig(steps=960, num_envs=16, dim=48),
    )  # fmt: skip
    family = make_family("points-objectives", n_tasks=6, n_groups=2, horizon=15, seed=1, share=(0.8, 1.0))
    return run(family, config, out=tmp_path_factory.mktemp("runs") / "weightings")


def test_a_run_recovers_the_groups_from_one_source(found):
    results = found.results
    assert results.agreement.exact and results.k == 2
    assert found.transitions.obs.shape == (1, 4 * 960, 4) and found.features.values.shape == (1, 4 * 960, 48)
    spent, mine = results.diagnostics, results.methods["policygradex"]
    assert spent.collect_steps == 4 * 960 < 6 * 960
    assert found.ours().spent == spent.meta_steps + spent.collect_steps
    assert 0.95 * 6 * 10_800 <= mine.env_steps <= 6 * 10_800
    assert results.gain.predicted.ci95[0] > 0
    assert results.test_tasks.mean == pytest.approx(mine.mean, abs=3)


def test_its_baselines_and_its_folder(found, no_training):
    found.compute("similarity")
    found.compute("similarity")
    np.testing.assert_array_equal(found.similar["dot_our_k"].labels, found.family.true_groups)
    saved = load(found.store.path)
    assert regroup(saved, saved.config).groups == found.results.groups
    changed = dataclasses.replace(saved.config.estimate, source_multiple=2)
    with pytest.raises(ConfigError, match="estimate.source_multiple is fixed"):
        regroup(saved, dataclasses.replace(saved.config, estimate=changed))
    gains = saved.held_out(saved.grouping.labels[None])(saved.grouping.labels)
    assert len(gains.gain) == 6 * len(np.unique(saved.transitions.trajectory))
