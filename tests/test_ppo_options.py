"""PPO's options: each against a plain reference, off as the default, for all its kinds on both engines."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hosts import host_points
from probes import fresh

from envs.points import points
from pgx_jax.errors import ConfigError
from pgx_jax.learn import LEARNERS, PPO, make_policy, train
from pgx_jax.learn.learner import Learning
from pgx_jax.learn.updating import row_tasks
from pgx_jax.types import Rows

KEY = jax.random.PRNGKey(3)
SETTINGS = {
    "learning_rate": 2e-2, "num_envs": 6, "num_steps": 5, "epochs": 2, "minibatches": 2,
}  # fmt: skip
DEVICE = points(n_tasks=4, n_groups=2, horizon=6)
HOST = host_points(n_tasks=4, n_groups=2, horizon=6)
POLICY = make_policy(DEVICE, hidden=(8,), normalise_observations=True)
CONTEXT = jnp.asarray(DEVICE.context)
MEMBER = jnp.array([True, True, False, True])


def trained(family=DEVICE, policy=POLICY, name="ppo", updates=4, **changes):
    """The agents of two rows, of several tasks and of one."""
    learner = LEARNERS[name]().replace(**SETTINGS | changes)
    steps = np.full(2, updates * learner.steps_per_update)
    rows = Rows(np.array([[1, 1, 0, 1], [0, 0, 1, 0]], bool), steps, np.asarray(jax.random.split(KEY)))
    return train(policy, learner, family, rows, rows_per_call=2).agents


def close(ours, theirs, **tolerance):
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


def farthest(ours, theirs):
    """The largest difference of two records."""
    return max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True))


def row_of(config, total=8):
    """A row of three tasks."""
    return row_tasks(config, CONTEXT, MEMBER, jnp.int32(total))


@pytest.fixture(scope="module")
def plain():
    """What PPO makes of it with the default settings."""
    return trained()


OFF = {"final_entropy": 1.0}
"""Values with which options do nothing."""
ON = {"entropy": 0.3, "final_entropy": 0.0}
"""Values with which they do something."""


@pytest.mark.parametrize("option", OFF)
def test_an_option_that_is_off_changes_nothing(plain, option):
    close(trained(**{option: OFF[option]}), plain)


@pytest.mark.parametrize("option", ON)
def test_an_option_that_is_on_changes_what_is_learnt(plain, option):
    assert farthest(trained(**{option: ON[option]}).actor, plain.actor) > 1e-4


@pytest.mark.parametrize("name", ("ppo", "pcgrad", "famo"))
@pytest.mark.parametrize("family", [DEVICE, HOST], ids=["device", "host"])
def test_every_kind_of_ppo_has_all_options_on_both_engines(family, name):
    agents = trained(family, name=name, **ON)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(agents))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"final_entropy": -0.1}, "mine.final_entropy = -0.1 must be 0 or more"),
    ],
)
def test_values_that_cannot_be(changes, words):
    with pytest.raises(ConfigError, match=words):
        PPO(**changes).check(4, "mine")


def test_the_learning_rate_and_the_entropy_bonus_are_annealed():
    config = PPO(**SETTINGS, entropy=0.2, final_entropy=0.5, final_learning_rate=0.0)
    agent = fresh(POLICY, DEVICE, KEY)
    for done, rate, entropy in ((0, 2e-2, 0.2), (2, 1.5e-2, 0.175), (8, 0.0, 0.1)):
        now = config.annealed(row_of(config), Learning(agent, (), jnp.int32(done)))
        assert float(now.learning_rate) == pytest.approx(rate, rel=1e-6)
        assert float(now.entropy) == pytest.approx(entropy, rel=1e-6)
        assert now == dataclasses.replace(config, learning_rate=now.learning_rate, entropy=now.entropy)
