"""The families on Brax: what they hide, what they reward, what they change, and their pictures."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("brax")

from envs import brax_drawing
from envs.brax_adapter import brax_family
from envs.brax_goals import keep_speed, run_towards
from pgx_jax.config import check, config_for
from pgx_jax.errors import ConfigError
from pgx_jax.tasks.describing import describe_family
from pgx_jax.tasks.registry import make_family

NAMES = ("ant-directions", "halfcheetah-physics", "halfcheetah-velocities", "reacher-targets")
GREEN = np.array([63, 153, 90])


@functools.cache
def built(name):
    """A family at its defaults; read it only."""
    return make_family(name)


@functools.partial(jax.jit, static_argnums=0)
def _roll(env, tasks, actions, key):
    def one(task):
        state, obs = env.reset(key, task)

        def advance(state, action):
            step = env.step(key, state, action, task)
            return step.state, step

        return state, obs, jax.lax.scan(advance, state, actions)[1]

    return jax.vmap(one)(tasks)


@pytest.fixture(scope="module")
def reached():
    """(family, actions, first states, first obs [n, 6], Steps [n, T, ...]) of the reacher."""
    family = make_family("reacher-targets", reward_scales=(1.0, 2.0))
    actions = jnp.asarray(np.random.default_rng(0).normal(0, 0.8, (20, 2)), jnp.float32)
    return family, actions, *_roll(family.env, family.tasks, actions, jax.random.PRNGKey(0))


def fingertip(obs):
    """Where the observed angles put the end of an arm of 0.1 m and 0.11 m; [..., 6] -> [..., 2]."""
    first = np.arctan2(obs[..., 2], obs[..., 0])
    both = first + np.arctan2(obs[..., 3], obs[..., 1])
    return np.stack([0.1 * f(first) + 0.11 * f(both) for f in (np.cos, np.sin)], axis=-1)


def test_the_reacher_hides_its_target(reached):
    family, _, _, first, steps = reached
    assert first.shape == (6, 6) == (6, *family.observation_space.shape)
    for obs in (first, steps.obs):
        np.testing.assert_array_equal(obs, obs[:1].repeat(6, 0))
    assert np.ptp(np.asarray(steps.obs[0]), axis=0).min() > 0.01
    assert not steps.terminated.any()


def test_the_reacher_is_rewarded_for_being_near(reached):
    family, actions, _, _, steps = reached
    away = np.linalg.norm(fingertip(np.asarray(steps.obs)) - family.tasks.goal[:, None], axis=-1)
    cost = 0.1 * np.square(np.clip(actions, -1, 1)).sum(-1)
    expected = np.resize([1.0, 2.0], 6)[:, None] * -(away + cost)
    np.testing.assert_allclose(steps.reward, expected, atol=4e-3)  # springs give a little


def test_rewards_of_speeds_and_directions():
    metrics = {"x_velocity": 3.0, "y_velocity": -1.0, "reward_ctrl": -0.5, "reward_survive": 1.0}
    assert keep_speed(metrics, 2.0) == pytest.approx(-1.5)
    assert keep_speed(metrics, -1.0) == pytest.approx(-4.5)
    assert run_towards(metrics, 0.0) == pytest.approx(3.5)
    assert run_towards(metrics, -np.pi / 2) == pytest.approx(1.5)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_tasks(name):
    one, same, other = (make_family(name, seed=seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one.tasks, same.tasks)
    assert one.task_names == same.task_names != other.task_names and "_" in one.task_names[0]
    assert one.env == other.env and hash(one.env) == hash(other.env)
    unseen = one.sample_test_tasks(jax.random.PRNGKey(0), 40)
    assert jax.tree.structure(unseen) == jax.tree.structure(one.tasks)
    assert all(leaf.shape[0] == 40 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(unseen))


def test_groups_are_apart():
    for name, k in (("reacher-targets", 3), ("halfcheetah-velocities", 2), ("ant-directions", 4)):
        family = make_family(name, n_tasks=12, n_groups=k, seed=1)
        goals = family.tasks.goal.reshape(12, -1)
        if name == "ant-directions":
            goals = np.concatenate([np.cos(goals), np.sin(goals)], axis=1)
        distance = np.linalg.norm(goals[:, None] - goals[None], axis=-1)
        same = family.true_groups[:, None] == family.true_groups[None, :]
        assert distance[same].max() < 0.5 * distance[~same].min()
        assert np.bincount(family.true_groups).tolist() == [12 // k] * k
    assert built("halfcheetah-physics").true_groups is None


def test_physics_reach_the_system():
    family = built("halfcheetah-physics")
    plain = family.env.base.raw().sys
    task = jax.tree.map(lambda leaf: leaf[2], family.tasks)
    seen = {}

    class Spy:
        """Stands for the base environment and keeps what it is told to change."""

        def reset(self, key, changes):
            seen.update(changes.scale)

    type(family.env).reset(SimpleNamespace(base=Spy()), None, task)
    assert {k: float(v) for k, v in seen.items()} == pytest.approx(
        {k: float(v) for k, v in task._asdict().items() if k != "reward_scale"}
    )
    sys = family.env.base.raw(brax_family("halfcheetah", n_tasks=2).tasks._replace(scale=seen)).sys
    np.testing.assert_allclose(sys.gravity, plain.gravity * task.gravity, rtol=1e-6)
    np.testing.assert_allclose(sys.geom_friction, plain.geom_friction * task.friction, rtol=1e-6)
    np.testing.assert_allclose(sys.actuator.gear, plain.actuator.gear * task.gear, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_of_a_run_are_settings(name):
    family = built(name)
    config = config_for(family)
    check(config, family)
    assert config.policy.normalise_observations and config.steps_per_task > 100_000
    settings = describe_family(name).settings
    assert all(setting.help for setting in settings) and "backend" in [s.name for s in settings]


@pytest.mark.parametrize(
    "name,settings,word",
    [
        ("reacher-targets", {"target_radius": 0.2}, "out of reach"),
        ("reacher-targets", {"backend": "sprong"}, "spring"),
        ("reacher-targets", {"n_groups": 7}, "n_groups"),
        ("halfcheetah-velocities", {"velocity_range": -1}, "velocity_range"),
        ("ant-directions", {"control_cost": "much"}, "control_cost"),
        ("halfcheetah-physics", {"mass_range": (2, 1)}, "mass_range"),
    ],
)
def test_errors_name_the_culprit(name, settings, word):
    with pytest.raises(ConfigError, match=word):
        make_family(name, **settings)


def test_pictures(reached):
    family, _, state, first, _ = reached
    one, task = (jax.tree.map(lambda leaf: np.asarray(leaf[1]), tree) for tree in (state, family.tasks))
    picture = family.draw(one, task)
    assert picture.shape == (260, 260, 3) and picture.dtype == np.uint8
    row, column = np.argwhere((picture == GREEN).all(-1)).mean(0)
    there = np.array([column - 130, 130 - row]) * 0.52 / 260
    np.testing.assert_allclose(there, task.goal, atol=0.005)
    tips = [s for s in brax_drawing.shapes(family.env.base.raw().sys, one.pipeline_state) if s[0] == 1]
    reach = max((end for _, *ends, _ in tips for end in ends), key=lambda end: np.linalg.norm(end[:2]))
    np.testing.assert_allclose(reach[:2], fingertip(np.asarray(first[1])), atol=0.012)


@pytest.mark.parametrize("name", ["halfcheetah-velocities", "halfcheetah-physics", "ant-directions"])
def test_pictures_of_bodies(name):
    family = built(name)
    sys = family.env.base.raw().sys
    height = np.array([0.0, 0.0, 0.7])
    places = np.asarray(sys.link.transform.pos) + height
    turns = np.tile([1.0, 0, 0, 0], (len(places), 1))
    pose = SimpleNamespace(x=SimpleNamespace(pos=places, rot=turns))
    task = jax.tree.map(lambda leaf: leaf[0], family.tasks)
    picture = family.draw(SimpleNamespace(pipeline_state=pose), task)
    assert picture.dtype == np.uint8 and picture.shape[1] in (260, 360)
    assert (picture == GREEN).all(-1).any() == hasattr(task, "goal")
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5
