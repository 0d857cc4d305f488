"""Collected transitions: what they contain, and how they are split."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import fresh, table, tabular_family
from toys import Reinforce

from pgx_jax import PPO, Config, EstimateConfig, pipeline
from pgx_jax.errors import ConfigError, DataError
from pgx_jax.learn import collect, make_policy
from pgx_jax.learn.collecting import split_by_trajectory
from pgx_jax.types import FIT, SCORE, SELECT, Moments

KEY = jax.random.PRNGKey(2)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    slots=st.sampled_from([1, 3, 8]),
    length=st.sampled_from([4, 50]),
    ends=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_a_trajectory_is_never_split(seed, slots, length, ends):
    rng = np.random.default_rng(seed)
    done = rng.random((2, slots, length)) < ends
    trajectory, split = split_by_trajectory(done, rng)
    assert trajectory.shape == split.shape == (2, slots * length)
    for u in range(2):
        expected, number = [], 0  # one number an episode, slot after slot
        for slot in done[u]:
            for step in slot:
                expected.append(number)
                number += bool(step)
            number += not slot[-1]
        np.testing.assert_array_equal(trajectory[u], expected)
        parts = [set(split[u][trajectory[u] == j]) for j in range(number)]
        assert all(len(part) == 1 for part in parts)
        assert set().union(*parts) <= {FIT, SCORE, SELECT}
        if number >= 3:
            assert set().union(*parts) == {FIT, SCORE, SELECT}
        longest = np.bincount(trajectory[u]).max()
        for part, share in ((FIT, 0.5), (SCORE, 0.25), (SELECT, 0.25)):
            assert abs((split[u] == part).sum() - share * slots * length) <= 2 * longest


def test_the_parts_are_drawn_at_random():
    done = np.ones((4, 1, 80), bool)
    _, split = split_by_trajectory(done, np.random.default_rng(0))
    assert [(split == part).mean() for part in (FIT, SCORE, SELECT)] == [0.5, 0.25, 0.25]
    assert (split[0] != split[1]).mean() > 0.3
    _, again = split_by_trajectory(done, np.random.default_rng(0))
    np.testing.assert_array_equal(split, again)


# Two tasks on three states: action 1 moves on; task 1 terminates in state 2; horizon 4

MOVE = {(0, 1): 1, (1, 1): 2}
TABLES = [
    table(following=MOVE, reward={(0, 0): 1.0, (1, 0): -2.0, (2, None): 5.0}),
    table(following=MOVE, reward={(0, 1): 3.0, (1, 1): 1.0}, terminal={(1, 1): True}),
]
FAMILY = tabular_family(TABLES, horizon=4)
POLICY = make_policy(FAMILY, hidden=(4,))
VAR = np.array([4.0, 0.25])


@pytest.fixture(scope="module")
def agent():
    """An agent whose critic says 0 everywhere, with known reward scales."""
    agent = fresh(POLICY, FAMILY, KEY)
    critic = jax.tree.map(jnp.zeros_like, agent.critic)
    return agent._replace(
        critic=critic, reward=Moments(jnp.zeros(2), jnp.asarray(VAR, jnp.float32), jnp.ones(2))
    )


@pytest.fixture(scope="module")
def collected(agent):
    return collect(POLICY, FAMILY, agent, KEY, steps=60, num_envs=5, gamma=0.9, gae_lambda=1.0)


def test_shapes(collected):
    assert collected.obs.shape == (2, 60, 3) and collected.action.shape == (2, 60)
    assert collected.advantage.shape == collected.trajectory.shape == collected.split.shape == (2, 60)
    assert collected.split.dtype == np.int8
    np.testing.assert_array_equal(collected.source, [0, 1])
    assert {FIT, SCORE, SELECT} == set(collected.split[0]) == set(collected.split[1])


@pytest.mark.parametrize(("own", "used"), [(None, 0.5), (1.0, 1.0)])
def test_the_estimate_may_have_a_lambda_of_its_own(agent, own, used):
    estimate = EstimateConfig(steps=60, num_envs=5, gae_lambda=own)
    config = Config(ppo=PPO(gamma=0.9, gae_lambda=0.5), estimate=estimate)
    found = pipeline.collect(POLICY, config.ppo, FAMILY, config, agent)
    key = config.stream("collect")
    wanted = collect(POLICY, FAMILY, agent, key, steps=60, num_envs=5, gamma=0.9, gae_lambda=used)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_trajectories_are_episodes_in_order(collected):
    for task in range(2):
        state, action, j = (
            np.asarray(x[task]) for x in (collected.obs.argmax(-1), collected.action, collected.trajectory)
        )
        assert (np.diff(j) >= 0).all() and set(np.diff(j)) <= {0, 1}
        for number in range(j.max() + 1):
            s, a = state[j == number], action[j == number]
            assert s[0] == 0 and len(s) <= 4
            np.testing.assert_array_equal(s[1:], TABLES[task].following[s[:-1], a[:-1]])
            assert not TABLES[task].terminal[s[:-1], a[:-1]].any()


def test_advantages_are_discounted_rewards_to_go_where_the_critic_says_nothing(collected):
    for task in range(2):
        state, action, j = (
            np.asarray(x[task]) for x in (collected.obs.argmax(-1), collected.action, collected.trajectory)
        )
        reward = TABLES[task].reward[state, action] / np.sqrt(VAR[task])
        expected = np.zeros(60)
        for t in reversed(range(60)):
            follows = t + 1 < 60 and j[t + 1] == j[t]
            expected[t] = reward[t] + (0.9 * expected[t + 1] if follows else 0.0)
        np.testing.assert_allclose(collected.advantage[task], expected, atol=1e-4)
        assert np.abs(expected).max() > 1


def test_a_critic_that_was_never_trained_is_not_asked(agent):
    """Returns to go, as if it said 0 and lambda were 1."""
    untrained = agent._replace(critic=fresh(POLICY, FAMILY, KEY).critic)
    estimate = EstimateConfig(steps=60, num_envs=5, gae_lambda=0.3)
    config, learner = Config(estimate=estimate), Reinforce(gamma=0.9)
    found = pipeline.collect(POLICY, learner, FAMILY, config, untrained).advantage
    silent = collect(
        POLICY, FAMILY, agent, config.stream("collect"), steps=60, num_envs=5, gamma=0.9, gae_lambda=1.0
    )
    np.testing.assert_allclose(found, silent.advantage, atol=1e-5)
    asked = pipeline.collect(POLICY, PPO(gamma=0.9), FAMILY, config, untrained).advantage
    assert np.abs(asked - found).max() > 0.1


def test_the_key_decides(agent, collected):
    again = collect(POLICY, FAMILY, agent, KEY, steps=60, num_envs=5, gamma=0.9, gae_lambda=1.0)
    jax.tree.map(np.testing.assert_array_equal, collected, again)
    other = collect(
        POLICY, FAMILY, agent, jax.random.PRNGKey(3), steps=60, num_envs=5, gamma=0.9, gae_lambda=1.0
    )
    assert not np.array_equal(collected.action, other.action)


def test_thinned_transitions_are_some_of_all(agent):
    """Every fifth of 12 steps of each environment, from another one on in each; nothing else changes."""
    given = {"steps": 60, "num_envs": 5, "gamma": 0.9, "gae_lambda": 1.0}
    every, thinned = (collect(POLICY, FAMILY, agent, KEY, **given, thin=thin) for thin in (1, 5))
    kept = [12 * slot + slot % 5 + 5 * i for slot in range(5) for i in range(2)]
    expected = jax.tree.map(lambda x: x[:, kept], every._replace(source=None))
    jax.tree.map(np.testing.assert_array_equal, thinned._replace(source=None), expected)
    with pytest.raises(ConfigError, match="thin = 13"):
        collect(POLICY, FAMILY, agent, KEY, steps=60, num_envs=5, thin=13)


@pytest.mark.parametrize(("steps", "num_envs"), [(61, 5), (15, 5)])
def test_steps_that_do_not_divide(agent, steps, num_envs):
    with pytest.raises(ConfigError, match="multiple"):
        collect(POLICY, FAMILY, agent, KEY, steps=steps, num_envs=num_envs)


def test_non_finite_rewards_are_traced_to_their_task(agent):
    family = tabular_family([TABLES[0], table(reward={(0, None): np.nan})], names=("good", "bad"), horizon=4)
    with pytest.raises(DataError, match="task 'bad' gave non-finite rewards"):
        collect(POLICY, family, agent, KEY, steps=60, num_envs=5)


def test_a_task_without_rewards_is_named(agent):
    """Its advantages are noise of the critic, which nothing should be grouped by."""
    family = tabular_family([TABLES[0], table()], names=("good", "silent"), horizon=4)
    with pytest.raises(DataError, match="task 'silent' gave no reward but 0 in 60 collected steps"):
        collect(POLICY, family, agent, KEY, steps=60, num_envs=5)


def test_a_task_with_too_few_trajectories_is_named(agent):
    long = dataclasses.replace(tabular_family([TABLES[0]] * 2, names=("one", "other")), horizon=100)
    with pytest.raises(DataError, match="task 'one' has no trajectory to select by, of 2 in all"):
        pipeline.collect(POLICY, PPO(), long, Config(estimate=EstimateConfig(steps=20, num_envs=2)), agent)


def test_rewards_are_scaled_as_the_critic_was_trained(agent):
    """Without scaling in training, the critic's values are of rewards as they are."""
    estimate = EstimateConfig(steps=60, num_envs=5)
    scaled, plain = (
        pipeline.collect(POLICY, PPO(scale_rewards=s), FAMILY, Config(estimate=estimate), agent).advantage
        for s in (True, False)
    )  # of a critic that says 0, so that advantages are sums of rewards
    np.testing.assert_allclose(scaled * np.sqrt(VAR)[:, None], plain, rtol=1e-4, atol=1e-5)
