"""An environment that breaks what its family says is refused before anything is trained, and named."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from hosts import host_points

import pgx_jax
from envs.gymnax_adapter import gymnax_family
from envs.points import PointMass, points
from pgx_jax.errors import ConfigError
from pgx_jax.learn import Evaluation
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.checks import check_family
from pgx_jax.tasks.family import METRICS
from pgx_jax.tasks.registry import families, make_family

FAMILY = points(n_tasks=4, n_groups=2, horizon=6)


def broken(reset=None, step=None, **changes):
    """The family with an environment whose ``reset`` or ``step`` is changed after the fact."""

    class Broken(PointMass):
        def reset(self, key, task):
            started = super().reset(key, task)
            return reset(*started) if reset else started

        def step(self, key, state, action, task):
            out = super().step(key, state, action, task)
            return step(out) if step else out

    return dataclasses.replace(FAMILY, env=Broken(), **changes)


@pytest.mark.parametrize(
    "family",
    [
        FAMILY,
        gymnax_family("Acrobot-v1", n_tasks=2),
        gymnax_family("Breakout-MinAtar", n_tasks=2),
        host_points(n_tasks=3),
        broken(action_space=spaces.MultiDiscrete([3, 3])),
        broken(step=lambda out: out._replace(objectives=jnp.zeros(3)), objectives=np.ones((4, 3))),
    ],
)
def test_sound_families_pass(family):
    check_family(family)


def test_observations_must_be_boxes_that_hold_something():
    for space in (spaces.Discrete(3), spaces.Dict(), spaces.Box(0, 1, (2, 0)), None):
        with pytest.raises(ConfigError, match="is not a Box that holds anything; flatten it"):
            broken(observation_space=space)


@pytest.mark.parametrize("name", families())
def test_registered_families_pass(name):
    check_family(make_family(name))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reset": lambda s, o: (s, o[:3])}, r"reset returns observations of shape \(3,\).*\(4,\)"),
        ({"reset": lambda s, o: (s, o.astype(int))}, "reset returns observations of type int32.*float32"),
        ({"reset": lambda s, o: s}, r"reset returns (float32|observations|PointState).*"),
        ({"reset": lambda s, o: o}, r"reset returns .*pair \(state, obs\)"),
        ({"step": lambda o: o._replace(obs=o.obs[None])}, r"step returns observations of shape \(1, 4\)"),
        ({"step": lambda o: tuple(o)}, "step returns tuple.*tasks.Step"),
        ({"step": lambda o: o._replace(reward=o.obs)}, r"float32\[4\] as reward.*float of shape \(\)"),
        ({"step": lambda o: o._replace(reward=jnp.int32(1))}, r"int32\[\] as reward"),
        ({"step": lambda o: o._replace(terminated=0.0 * o.reward)}, r"float32\[\] as terminated.*bool"),
        ({"step": lambda o: o._replace(success=o.reward)}, r"float32\[\] as success"),
        ({"step": lambda o: o._replace(state=o.obs)}, "state of structure.*that of reset"),
        (
            {"step": lambda o: o._replace(state=o.state._replace(velocity=o.state.velocity.astype(int)))},
            r"step turns .velocity into int32\[2\].*float32\[2\]",
        ),
        ({"step": lambda o: o if o.reward > 0 else None}, "step cannot be traced.*pure function"),
        (
            {"step": lambda o: o.nothing},
            r"raised AttributeError in step \(test_checks.py, line \d+\): .*'nothing'; all of its tasks \('",
        ),
        ({"objectives": np.ones((4, 3))}, r"None as objectives.*\(3,\)"),
        (
            {"objectives": np.ones((4, 3)), "step": lambda o: o._replace(objectives=o.obs)},
            r"float32\[4\] as objectives.*\(3,\)",
        ),
        ({"observation_space": spaces.Box(-1, 1, (5,))}, r"shape \(4,\).*\(5,\)"),
    ],
)
def test_what_is_broken_is_named(changes, words, no_training, tmp_path):
    family = broken(**changes)
    with pytest.raises(ConfigError, match=f"'points': .*{words}"):
        pgx_jax.run(family, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_task_whose_parameter_is_nan_is_named(no_training):
    goal = FAMILY.tasks.goal.copy()
    goal[2, 1] = np.nan
    family = dataclasses.replace(FAMILY, tasks=FAMILY.tasks._replace(goal=goal))
    with pytest.raises(ConfigError, match=rf"task '{FAMILY.task_names[2]}'.*NaN.*\.goal".replace("+", r"\+")):
        pgx_jax.run(family)


def test_parameters_of_integers_and_none_are_fine():
    class Still:
        def reset(self, key, task):
            return {"at": task["start"]}, jnp.zeros(1)

        def step(self, key, state, action, task):
            return pgx_jax.Step(state, jnp.zeros(1), jnp.zeros(()), jnp.asarray(False))

    check_family(
        TaskFamily(
            "still", ("a", "b"), Still(), {"start": np.array([1, 2]), "none": None},
            spaces.Box(-1, 1, (1,)), spaces.Discrete(2), 5,
        )
    )  # fmt: skip


def test_a_family_is_judged_by_what_there_is():
    played = Evaluation(
        np.array([[2.0]]), np.array([[True]]), np.array([[True]]), np.array([[4]]), np.zeros(1, int)
    )
    for metric in METRICS:
        assert dataclasses.replace(FAMILY, metric=metric).metric == metric
        assert played.judged_by(metric) == (2 if metric == "return" else 1)
    with pytest.raises(ConfigError, match="'points': metric = 'reward'; choose one of 'return', 'success'"):
        dataclasses.replace(FAMILY, metric="reward")
    with pytest.raises(ConfigError, match="metric = 'reward'"):
        played.judged_by("reward")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 2.5}, "horizon = 2.5: expected `int`, got `float`"),
        ({"horizon": 0}, "horizon = 0 must be at least 1 step"),
        ({"true_groups": np.zeros(3, int)}, "true_groups must be a whole number for each of the n = 4 tasks"),
        ({"true_groups": [0, 1, 0.5, 1]}, "true_groups must be a whole number"),
        ({"defaults": 3}, "defaults = 3: expected `dict`, got `int`"),
    ],
)
def test_what_a_family_says_of_itself_is_checked(changes, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(FAMILY, **changes)


def test_a_sampler_of_other_tasks_is_named_before_anything_is_trained(no_training):
    def one_short(key, count):
        return FAMILY.sample_test_tasks(key, count - 1)

    for sampler in (one_short, lambda key, count: None, lambda key, count: FAMILY.tasks.goal):
        family = dataclasses.replace(FAMILY, sample_test_tasks=sampler)
        with pytest.raises(ConfigError, match=r"sample_test_tasks\(key, 10\) must return tasks like those"):
            pgx_jax.run(family)
    with pytest.raises(ConfigError, match="no sampler of unseen tasks"):
        dataclasses.replace(FAMILY, sample_test_tasks=None).unseen(np.zeros(2, np.uint32), 2)
