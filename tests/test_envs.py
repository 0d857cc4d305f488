"""The families of cartpole and points: what is hidden, what is planted, and the conflict in it."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from envs.cartpole import CartPole, flip, goals, physics
from envs.points import PointMass, PointTask, points, points_hard
from pgx_jax.tasks.registry import make_family

LENGTH = 60  # of all roll-outs alike: one program for each environment
OURS = ("cartpole-flip", "cartpole-goals", "cartpole-physics", "points", "points-hard", "points-objectives")


def random_actions(family, key, shape):
    if isinstance(family.action_space, spaces.Discrete):
        return jax.random.randint(key, shape, 0, family.action_space.n)
    return jax.random.normal(key, (*shape, *family.action_space.shape))


@partial(jax.jit, static_argnums=0)
def _roll(env, tasks, actions, key):
    def one(task, actions, key):
        key, key_reset = jax.random.split(key)
        state, obs = env.reset(key_reset, task)

        def advance(state, xs):
            step = env.step(xs[1], state, xs[0], task)
            return step.state, step

        return obs, jax.lax.scan(advance, state, (actions, jax.random.split(key, len(actions))))[1]

    return jax.vmap(one, (0, 0, None))(tasks, actions, key)


def roll(family, actions, key):
    """Run all tasks without resets; actions [n, T, ...] -> first obs [n, ...], Steps [n, T, ...]."""
    return _roll(family.env, family.tasks, jnp.asarray(actions), key)


@pytest.mark.parametrize("name", ["cartpole-goals", "cartpole-flip", "cartpole-physics"])
def test_other_actions_count_as_the_nearer_of_the_two(name):
    family = make_family(name)
    for extreme, nearest in ((-1, 0), (7, 1)):
        actions = np.full((2, family.n, LENGTH), [[[extreme]], [[nearest]]])
        theirs, ours = (roll(family, a, jax.random.PRNGKey(0))[1].obs for a in actions)
        np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize("name", OURS)
def test_the_task_is_hidden(name):
    family = make_family(name)
    actions = random_actions(family, jax.random.PRNGKey(1), (1, LENGTH)).repeat(family.n, 0)
    keep = "goal", "reward_scale", "weights"
    tasks = family.tasks._replace(
        **{k: v[:1].repeat(family.n, 0) for k, v in family.tasks._asdict().items() if k not in keep}
    )
    obs, steps = roll(dataclasses.replace(family, tasks=tasks), actions, jax.random.PRNGKey(2))
    np.testing.assert_array_equal(obs, obs[:1].repeat(family.n, 0))
    np.testing.assert_array_equal(steps.obs, steps.obs[:1].repeat(family.n, 0))
    np.testing.assert_array_equal(family.context, np.eye(family.n))


class Poison:
    """Stands for labels that nobody may read."""

    def _refuse(self, *args, **kwargs):
        raise AssertionError("the true groups were read")

    __getattr__ = __getitem__ = __iter__ = __len__ = __array__ = __eq__ = __hash__ = __bool__ = _refuse


@pytest.mark.parametrize("name", OURS)
def test_nothing_in_a_family_reads_its_true_groups(name):
    family = make_family(name)
    poisoned = dataclasses.replace(family, true_groups=Poison())
    actions = random_actions(family, jax.random.PRNGKey(1), (family.n, LENGTH))
    ours, theirs = (
        (roll(f, actions, jax.random.PRNGKey(0)), f.sample_test_tasks(jax.random.PRNGKey(0), 5))
        for f in (family, poisoned)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("name", OURS)
def test_the_seed_decides_everything(name):
    first, same, other = (make_family(name, seed=seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first.tasks, same.tasks)
    assert first.task_names == same.task_names
    assert any(not np.array_equal(a, b) for a, b in zip(first.tasks, other.tasks, strict=True))
    if first.true_groups is not None:
        np.testing.assert_array_equal(first.true_groups, same.true_groups)
        others = [make_family(name, seed=seed).true_groups for seed in range(3)]
        assert any(not np.array_equal(first.true_groups, labels) for labels in others)


@pytest.mark.parametrize("name", OURS)
def test_unseen_tasks(name):
    family = make_family(name)
    tasks = family.sample_test_tasks(jax.random.PRNGKey(0), 300)
    assert jax.tree.structure(tasks) == jax.tree.structure(family.tasks)
    for leaf, trained in zip(tasks, family.tasks, strict=True):
        assert leaf.shape == (300, *trained.shape[1:]) and leaf.dtype == np.float32
        assert np.isfinite(leaf).all()
    jax.tree.map(np.testing.assert_array_equal, tasks, family.sample_test_tasks(jax.random.PRNGKey(0), 300))
    assert not np.isin(tasks[1], family.tasks[1]).all() or not np.isin(tasks.goal, family.tasks.goal).all()
    if family.true_groups is None:
        return
    what = {"cartpole-flip": "force_mag", "points-objectives": "weights"}.get(name, "goal")
    where = np.asarray(getattr(tasks, what)).reshape(300, -1)
    train = getattr(family.tasks, what).reshape(family.n, -1)
    k = family.true_groups.max() + 1
    centres = np.stack([train[family.true_groups == g].mean(0) for g in range(k)])
    nearest = np.linalg.norm(where[:, None] - centres, axis=-1).argmin(1)
    assert (np.bincount(nearest, minlength=k) > 300 / k / 2).all()  # every group of the plant


@pytest.mark.parametrize("family", [goals, flip, physics, points])
def test_reward_scales_multiply_the_reward(family):
    plain, scaled = family(), family(reward_scales=(1, 100, 0.01))
    factor = np.resize([1, 100, 0.01], 10)
    actions = random_actions(plain, jax.random.PRNGKey(1), (10, LENGTH))
    ours, theirs = (roll(f, actions, jax.random.PRNGKey(0))[1] for f in (plain, scaled))
    np.testing.assert_allclose(theirs.reward, ours.reward * factor[:, None], rtol=1e-5)
    np.testing.assert_array_equal(theirs.obs, ours.obs)
    np.testing.assert_allclose(points_hard(reward_scales=[2.0]).tasks.reward_scale, 2.0)


def test_point_mass_against_a_loop():
    rng = np.random.default_rng(0)
    task = PointTask(*(np.float32(v) for v in ([0.5, -0.7], 1.3, 0.8, 2.2, 3.0)))
    actions = rng.normal(size=(150, 2)).astype(np.float32) + [1.0, -0.2]
    env = PointMass(dt=0.1)
    state, obs = env.reset(jax.random.PRNGKey(0), task)
    p, v, hit = np.array(obs[:2], float), np.zeros(2), 0
    for action in actions:
        step = env.step(jax.random.PRNGKey(1), state, jnp.asarray(action, jnp.float32), task)
        v = v + 0.1 * (2.2 * np.clip(action, -1, 1) - 0.8 * v) / 1.3
        for axis in range(2):
            moved = p[axis] + 0.1 * v[axis]
            if abs(moved) > 2:
                moved, hit = np.sign(moved) * 2, hit + 1
                v[axis] = (moved - p[axis]) / 0.1
            p[axis] = moved
        np.testing.assert_allclose(step.obs, [*p, *v], atol=1e-4)
        np.testing.assert_allclose(step.reward, 3 * (1 - np.hypot(*(p - [0.5, -0.7]))), atol=1e-3)
        assert not step.terminated
        state = step.state
    assert hit > 0


def episode_return(family, act):
    """Mean return [n] over 16 episodes of the policy act(obs, task) -> action."""

    def one(task, key):
        state, obs = family.env.reset(key, task)

        def advance(carry, _):
            state, obs, alive = carry
            step = family.env.step(key, state, act(obs, task), task)
            return (step.state, step.obs, alive & ~step.terminated), step.reward * alive

        return jax.lax.scan(advance, (state, obs, True), None, family.horizon)[1].sum()

    keys = jax.random.split(jax.random.PRNGKey(0), 16)
    run = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return np.asarray(jax.jit(run)(family.tasks, keys)).mean(1)


def test_conflict_of_the_goals():
    def hold(goal):  # the sign of a linear-quadratic regulator's force
        def act(obs, task):
            error = jnp.clip(obs[0] - goal(task), -0.8, 0.8)
            return (20 * error + obs[1:] @ jnp.array([17.7, 85.2, 22.0]) > 0).astype(jnp.int32)

        return act

    for seed in range(3):
        family = goals(seed=seed)
        assert episode_return(family, hold(lambda task: task.goal)).mean() > 145
        one_for_all = episode_return(family, hold(lambda task: 0.0))
        assert 40 < one_for_all.mean() < 90 and one_for_all.max() > 190 and one_for_all.min() < 10


def test_conflict_of_the_points():
    def reach(goal):
        return lambda obs, task: jnp.clip(8 * (goal(task) - obs[:2]) - 4 * obs[2:], -1, 1)

    family = points()
    assert 37 < episode_return(family, reach(lambda task: task.goal)).mean() < 44
    assert -3 < episode_return(family, reach(lambda task: jnp.zeros(2))).mean() < 3


def test_conflict_of_the_objectives():
    """The best place of a task is at the goal of its group; at the others' or in the middle it is worse."""

    def reach(goal):
        return lambda obs, task: jnp.clip(8 * (goal(task) - obs[:2]) - 4 * obs[2:], -1, 1)

    family = make_family("points-objectives")
    at = [episode_return(family, reach(lambda task, k=k: task.goals[k])) for k in range(3)]
    own = family.tasks.weights.argmax(1)
    np.testing.assert_array_equal(np.argmax(at, 0), own)
    middle = episode_return(family, reach(lambda task: jnp.zeros(2)))
    assert (np.max(at, 0) > middle + 1).all() and (np.min(at, 0) < middle - 10).all()
    np.testing.assert_array_equal(own[:, None] == own, family.true_groups[:, None] == family.true_groups)


def test_conflict_of_the_flip():
    for swap in (0, 1):

        def balance(obs, task, swap=swap):
            return ((obs @ jnp.array([1.0, 2.0, 30.0, 6.0]) > 0) != swap).astype(jnp.int32)

        returns = episode_return(flip(), balance)
        assert np.sum(returns > 190) == 5 and np.sum(returns < 30) == 5


def test_environments_are_equal_by_value():
    assert CartPole() == CartPole() != CartPole(0.5) and hash(CartPole(0.5)) == hash(CartPole(0.5))
    assert goals(seed=1).env == goals(seed=2, n_tasks=5).env
