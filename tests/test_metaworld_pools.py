"""EnvPool's Meta-World beside Meta-World itself: what is the same, and what exactly differs."""

import importlib.util

import jax
import numpy as np
import pytest

import pgx_jax
from envs import metaworld_pools
from envs.metaworld_copies import Copy, MetaworldTask
from envs.metaworld_pools import PoolVector
from pgx_jax.errors import ConfigError
from pgx_jax.learn import init_agents, make_policy, take
from pgx_jax.learn.host import experience

pool = pytest.mark.skipif(importlib.util.find_spec("envpool") is None, reason="EnvPool is not installed")
ALL = np.ones(2, bool)


@pool
@pytest.mark.parametrize(
    ("name", "low", "high"), [("reach-v3", 0, 1e-6), ("push-v3", 0, 1e-2), ("pick-place-v3", 5e-3, 0.08)]
)
def test_the_same_goal_and_actions_give_nearly_the_same(name, low, high, monkeypatch):
    """Observations to 5 mm over a hundred steps; rewards agree, but for pick-place's."""
    theirs = PoolVector(name, 2)
    first = theirs.reset(np.array([3, 4]), ALL)
    vector = np.concatenate([first[0, 4:7], first[0, 36:39]])
    monkeypatch.setattr("envs.metaworld_copies.goals", lambda *args: (vector,))
    ours = Copy()
    np.testing.assert_allclose(ours.reset(0, MetaworldTask(name, 1, 0)), first[0], atol=1e-3)
    rng, apart = np.random.default_rng(0), []
    for action in rng.uniform(-1, 1, (100, 4)).astype(np.float32):
        mine, other = ours.step(action), theirs.step(np.stack([action, action]))
        np.testing.assert_allclose(mine.obs, other.obs[0], atol=5e-3)
        apart.append(abs(mine.reward - other.reward[0]))
    theirs.close()
    assert low <= max(apart) <= high


@pool
def test_goals_are_drawn_in_every_episode_by_the_seed_of_every_copy():
    one, two = PoolVector("reach-v3", 2), PoolVector("reach-v3", 2)
    first = one.reset(np.array([3, 4]), ALL)[:, 36:]
    assert np.array_equal(two.reset(np.array([3, 5]), ALL)[0, 36:], first[0])
    assert not np.array_equal(first[0], first[1])
    still = np.zeros((2, 4), np.float32)
    for t in range(500):
        step = one.step(still)
        assert step.truncated.all() == (t == 499) and not step.terminated.any()
    assert np.array_equal(step.obs[:, 36:], first)
    fresh = one.step(still)  # the action is ignored, and the reward must be
    assert fresh.reward.all() and not np.isclose(fresh.obs[:, 36:], first).all(1).any()
    assert np.array_equal(one.reset(np.array([3, 4]), ALL)[:, 36:], first)
    one.close(), two.close()


@pool
def test_all_pools_of_a_row_step_in_the_engine():
    family = pgx_jax.make_family("metaworld", tasks=("reach-v3", "push-v3"), engine="envpool")
    policy = make_policy(family, hidden=(4,))
    agent = take(init_agents(policy, family, np.zeros((1, 2), np.uint32)), 0)
    steps = experience(policy, family, agent, np.array([0, 1, 0]), jax.random.PRNGKey(0), 510)
    assert steps.done.sum() == 3 and steps.done[499].all() and steps.age[500].max() == 0
    assert np.abs(steps.obs[499, :, 36:] - steps.obs[500, :, 36:]).min(0).max() > 0


@pool
def test_episodes_of_pools_have_one_length():
    with pytest.raises(ConfigError, match="after 500 steps"):
        pgx_jax.make_family("metaworld-mt10", engine="envpool", horizon=400)


def test_without_envpool(monkeypatch):
    monkeypatch.setattr(metaworld_pools.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install envpool"):
        pgx_jax.make_family("metaworld-mt10", engine="envpool")
