"""gymnax environments behind the device protocol: against gymnax itself, and the errors."""

from functools import partial

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from envs.gymnax_adapter import GymnaxEnv, gymnax_family
from pgx_jax.errors import ConfigError


@partial(jax.jit, static_argnums=(0, 3))
def _roll(env, task, action, length):
    def advance(state, key):
        step = env.step(key, state, action, task)
        return step.state, step

    state, _ = env.reset(jax.random.PRNGKey(0), task)
    return jax.lax.scan(advance, state, jax.random.split(jax.random.PRNGKey(1), length))[1]


def roll(family, action, length):
    """Repeat one action in task 0, without resets -> Steps [T, ...]."""
    return _roll(family.env, jax.tree.map(lambda leaf: leaf[0], family.tasks), action, length)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0"])
def test_agrees_with_gymnax(env_id):
    theirs, params = gymnax.make(env_id)
    family = gymnax_family(env_id, n_tasks=2)
    ours, task = family.env, jax.tree.map(lambda leaf: leaf[0], family.tasks)
    assert family.horizon == params.max_steps_in_episode
    theirs_obs, theirs_state = theirs.reset_env(jax.random.PRNGKey(0), params)
    state, obs = ours.reset(jax.random.PRNGKey(0), task)
    np.testing.assert_array_equal(obs, theirs_obs)
    step, step_env = jax.jit(ours.step), jax.jit(theirs.step_env)
    for i, key in enumerate(jax.random.split(jax.random.PRNGKey(1), 40)):
        if isinstance(family.action_space, spaces.Box):
            low, high = family.action_space.low, family.action_space.high
            action = jax.random.uniform(jax.random.PRNGKey(i), low.shape, minval=low, maxval=high)
        else:
            action = jax.random.randint(jax.random.PRNGKey(i), (), 0, family.action_space.n)
        result = step(key, state, action, task)
        theirs_obs, theirs_state, reward, terminated, _ = step_env(key, theirs_state, action, params)
        np.testing.assert_allclose(result.obs, theirs_obs, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result.reward, reward, rtol=1e-5)
        assert bool(result.terminated) == bool(terminated)
        state = result.state


def test_there_is_no_time_limit_and_no_reset():
    steps = roll(gymnax_family("Pendulum-v1", n_tasks=2, horizon=5), jnp.zeros(1), 30)
    assert not steps.terminated.any()
    np.testing.assert_array_equal(steps.state.time, np.arange(1, 31))


def test_a_termination_is_told_and_its_observation_kept():
    steps = roll(gymnax_family("CartPole-v1", n_tasks=2), 1, 30)
    fallen = np.abs(steps.obs[:, 2]) > 12 * 2 * np.pi / 360
    assert fallen.any() and not fallen[:5].any()
    np.testing.assert_array_equal(steps.terminated, fallen)


def test_actions_are_clipped_into_a_box():
    family = gymnax_family("MountainCarContinuous-v0", n_tasks=2)
    beyond, full = (roll(family, jnp.full(1, force), 5).reward for force in (9.0, 1.0))
    np.testing.assert_array_equal(beyond, full)
    wider = gymnax_family("Pendulum-v1", {"max_torque": 5.0}, n_tasks=2)
    assert wider.action_space.high == 5
    assert roll(wider, jnp.full(1, 5.0), 1).obs[0, 2] != roll(wider, jnp.full(1, 2.0), 1).obs[0, 2]


def test_recomputes_what_gymnax_stores_twice():
    family = gymnax_family("CartPole-v1", {"masspole": [0.1, 0.4], "length": 0.7})
    np.testing.assert_allclose(family.tasks.total_mass, [1.1, 1.4], rtol=1e-6)
    np.testing.assert_allclose(family.tasks.polemass_length, [0.07, 0.28], rtol=1e-6)
    assert family.task_names == ("task0_masspole0.1", "task1_masspole0.4")
    np.testing.assert_array_equal(
        gymnax_family("CartPole-v1", {"masspole": [0.1, 0.4], "total_mass": 3.0}).tasks.total_mass, [3.0, 3.0]
    )


@pytest.mark.parametrize(
    "env_id,settings,word",
    [
        ("Pendulum-v2", {"n_tasks": 2}, "Pendulum-v1"),
        ("Pendulum-v1", {"params": {"gravity": [1.0, 2.0]}}, "gravity"),
        ("Pendulum-v1", {"params": {"g": [1.0, 2.0], "m": [1.0, 2.0, 3.0]}}, "m: 3"),
        ("Pendulum-v1", {}, "n_tasks"),
        ("Pendulum-v1", {"params": {"g": [1.0]}}, "n_tasks"),
        ("Pendulum-v1", {"params": {"max_torque": [1.0, 2.0]}}, "action space"),
        ("Pendulum-v1", {"params": {"g": np.ones((2, 2))}}, "shape"),
        ("Pendulum-v1", {"n_tasks": 2, "horizon": 0}, "horizon"),
    ],
)
def test_errors_name_the_culprit(env_id, settings, word):
    with pytest.raises(ConfigError, match=word):
        gymnax_family(env_id, **settings)


def test_equal_environments_are_one():
    assert GymnaxEnv("Pendulum-v1") == GymnaxEnv("Pendulum-v1") != GymnaxEnv("Acrobot-v1")
    assert hash(GymnaxEnv("Pendulum-v1")) == hash(GymnaxEnv("Pendulum-v1"))


def test_other_environments_of_gymnax_run():
    for env_id in ("Catch-bsuite", "PointRobot-misc"):
        family = gymnax_family(env_id, n_tasks=2)
        action = jnp.asarray(family.action_space.sample() * 0)
        steps = roll(family, action, 4)
        assert steps.obs.shape == (4, *family.observation_space.shape) and steps.obs.dtype == np.float32
        assert np.isfinite(steps.obs).all() and np.isfinite(steps.reward).all()
