"""CartPole on the device against gymnasium's own, step by step."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.cartpole import CartPole, CartPoleState, CartPoleTask, goals, standard_task

PHYSICS = {
    "standard": {},
    "flipped": {"force_mag": -10.0},
    "heavy pole": {"masspole": 0.4, "length": 0.9},
    "heavy cart": {"masscart": 2.5, "force_mag": 14.0},
    "moon": {"gravity": 1.6, "length": 0.25},
}


def reference_env(changes):
    """gymnasium's CartPole with other physics, its dependent attributes recomputed."""
    env = gymnasium.make("CartPole-v1").unwrapped
    for name, value in changes.items():
        setattr(env, name, value)
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length
    return env


def device_task(changes):
    return standard_task()._replace(**{name: np.float32(value) for name, value in changes.items()})


def reference_steps(changes, seed, episodes, length):
    """Roll gymnasium out: random actions, and a controller that keeps the pole up in every other episode.

    Returns arrays before [T, 4], action [T], after [T, 4], terminated [T], start [T].
    """
    env, rng, rows = reference_env(changes), np.random.default_rng(seed), []
    sign = 1 if env.force_mag > 0 else -1
    for episode in range(episodes):
        env.reset(seed=seed * 1000 + episode)
        for t in range(length):
            before = np.array(env.state)
            push = sign * (before @ [0.3, 0.6, 10.0, 1.5] + rng.normal(scale=0.3)) > 0
            action = int(push) if episode % 2 else int(rng.integers(2))
            _, _, terminated, _, _ = env.step(action)
            rows.append((before, action, np.array(env.state), terminated, t == 0))
            if terminated:
                break
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("changes", PHYSICS.values(), ids=PHYSICS)
def test_every_single_step_agrees(changes):
    before, action, after, terminated, _ = reference_steps(changes, seed=1, episodes=8, length=300)
    task, env = device_task(changes), CartPole()
    state = CartPoleState(*jnp.asarray(before.T, jnp.float32))
    step = jax.jit(jax.vmap(env.step, (None, 0, 0, None)))(jax.random.PRNGKey(0), state, action, task)

    assert len(before) > 300 and terminated.any() and not terminated.all()
    np.testing.assert_allclose(step.obs, after, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.stack(step.state, -1), step.obs)
    np.testing.assert_array_equal(step.reward, np.ones(len(before)))
    margin = np.abs(np.abs(after[:, [0, 2]]) - [2.4, 12 * 2 * np.pi / 360]).min(1)
    assert (margin < 1e-5).mean() < 0.01
    np.testing.assert_array_equal(np.where(margin < 1e-5, terminated, step.terminated), terminated)


@jax.jit
def replay(start, actions):
    """Run the standard task from start [4] through actions [T]; obs [T, 4], terminated [T]."""
    env, task = CartPole(), standard_task()

    def advance(state, action):
        step = env.step(jax.random.PRNGKey(0), state, action, task)
        return step.state, (step.obs, step.terminated)

    return jax.lax.scan(advance, CartPoleState(*start), actions)[1]


@pytest.mark.parametrize("seed", range(3))
def test_long_trajectories_agree_in_pieces(seed):
    # The pole is unstable at 4/s, so a rounding error grows 3000-fold in 100 steps: the pieces of
    # a trajectory of 400 steps are compared, each from gymnasium's own state.
    before, action, after, terminated, start = reference_steps({}, seed, episodes=2, length=400)
    first = np.flatnonzero(start)[1]  # the controlled episode
    pieces = [x[first:].reshape(4, 100, *x.shape[1:]) for x in (before, action, after, terminated)]
    for before, action, after, terminated in zip(*pieces, strict=True):
        obs, ended = replay(jnp.asarray(before[0], jnp.float32), jnp.asarray(action))
        np.testing.assert_allclose(obs, after, atol=5e-3)
        np.testing.assert_array_equal(ended, terminated)


def test_random_episodes_end_in_the_same_step():
    env, rng = reference_env({}), np.random.default_rng(5)
    for seed in range(20):
        start, _ = env.reset(seed=seed)
        start, actions, ended, count = np.array(env.state), rng.integers(2, size=100), False, 0
        while not ended:
            _, _, ended, _, _ = env.step(int(actions[count]))
            count += 1
        obs, terminated = replay(jnp.asarray(start, jnp.float32), jnp.asarray(actions))
        assert np.flatnonzero(terminated)[0] + 1 == count
        np.testing.assert_allclose(obs[count - 1], env.state, atol=1e-3)


def test_starts_are_distributed_as_gymnasiums():
    keys = jax.random.split(jax.random.PRNGKey(3), 4000)
    obs = np.asarray(jax.vmap(CartPole().reset, (0, None))(keys, standard_task())[1])
    env = gymnasium.make("CartPole-v1")
    theirs = np.stack([env.reset(seed=seed)[0] for seed in range(1000)])
    assert obs.min() >= -0.05 and obs.max() <= 0.05
    quantiles = [0.0, 0.1, 0.5, 0.9, 1.0]
    np.testing.assert_allclose(
        np.quantile(obs, quantiles, axis=0), np.quantile(theirs, quantiles, axis=0), atol=6e-3
    )
    assert np.abs(np.corrcoef(obs.T) - np.eye(4)).max() < 0.1


def test_spaces_are_gymnasiums():
    theirs, family = gymnasium.make("CartPole-v1"), goals()
    assert family.observation_space == theirs.observation_space
    assert family.action_space == theirs.action_space


def test_goal_reward_is_a_bell_around_the_goal():
    env = CartPole(goal_width=0.4)
    task = standard_task()._replace(goal=np.float32(0.7), reward_scale=np.float32(3.0))
    x = np.linspace(-2.3, 2.3, 24, dtype=np.float32)
    state = CartPoleState(x, np.full_like(x, 0.5), np.zeros_like(x), np.zeros_like(x))
    reward = jax.vmap(lambda s: env.step(jax.random.PRNGKey(0), s, 1, task).reward)(state)
    after = x + 0.02 * 0.5
    np.testing.assert_allclose(reward, 3 * np.exp(-(((after - 0.7) / 0.4) ** 2)), rtol=1e-4, atol=1e-7)


def test_a_task_is_what_the_docstring_says():
    task = standard_task()
    assert task == CartPoleTask(*np.float32([0.0, 9.8, 1.0, 0.1, 0.5, 10.0, 1.0]))
