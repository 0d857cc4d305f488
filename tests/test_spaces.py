"""Observations and actions of any space, from real environments to what the method differentiates."""

import dataclasses
import functools
from dataclasses import dataclass

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys_network  # noqa: F401  (adds its architecture to the table)
from gymnasium import spaces
from hosts import Pictures, pictures

from envs.gymnasium_adapter import gymnasium_family
from envs.gymnax_adapter import gymnax_family
from envs.points import points
from pgx_jax.learn import PPO, init_agents, make_policy, take, train
from pgx_jax.learn.engine import engine_of
from pgx_jax.tasks import Step, TaskFamily
from pgx_jax.types import Rows

KEY = jax.random.PRNGKey(3)
LEARNER = PPO(num_envs=2, num_steps=6, minibatches=1, epochs=1)


class Thermometer(Pictures):
    """One number, without an axis."""

    def __init__(self, wanted=0):
        super().__init__(wanted)
        self.observation_space = spaces.Box(-1, 1, (), np.float32)

    def seen(self):
        return self.np_random.uniform(-1, 1)


def breakout():
    return gymnax_family("Breakout-MinAtar", n_tasks=2, horizon=10)


def highway(env_id):
    gymnasium.register_envs(pytest.importorskip("highway_env"))
    return gymnasium_family(env_id, {"config": [{"duration": 4}, {"duration": 5}]}, horizon=5)


def switches():
    """The point mass, pushed along each axis by one of two forces."""
    return dataclasses.replace(points(n_tasks=2, n_groups=2), action_space=spaces.MultiDiscrete([2, 2]))


FAMILIES = {
    "Breakout-MinAtar": (breakout, (10, 10, 4)),
    "merge-v0": (lambda: highway("merge-v0"), (5, 5)),
    "pictures": (pictures, (12, 10, 3)),
    "pictures, channels first": (lambda: pictures((3, 24, 20)), (3, 24, 20)),
    "one number": (lambda: gymnasium_family(Thermometer, {"wanted": [0, 1]}, horizon=4), ()),
    "switches": (switches, (4,)),
}


@functools.partial(jax.jit, static_argnums=0)
def gradients(policy, agent, obs, action):
    """Of the log-probability of an action of each of two tasks."""
    seen = jax.vmap(policy.actor_input)(policy.normalise(agent, obs), jnp.eye(2))
    return jax.vmap(jax.grad(policy.log_prob), (None, 0, 0))(agent.actor, seen, action)


@pytest.mark.filterwarnings("ignore:.*is out of date")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("Breakout-MinAtar", "told"), ("merge-v0", "blind"), ("pictures", "blind"), ("one number", "blind")]
    + [("pictures, channels first", "told"), ("pictures", "own"), ("switches", "own"), ("switches", "told")],
)
def test_what_is_observed_and_done_may_have_any_shape(name, kind):
    build, shape = FAMILIES[name]
    family = build()
    assert family.observation_space.shape == shape
    settings = {"network": "linear"} if kind == "own" else {"hidden": (8,)}
    policy = make_policy(family, conditioned_actor=kind != "blind", **settings)
    rows = Rows(np.ones((1, 2), bool), np.array([2 * LEARNER.steps_per_update]), np.asarray(KEY)[None])
    agents = train(policy, LEARNER, family, rows).agents
    start = init_agents(policy, family, rows.key)
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), agents.actor, start.actor)
    assert all(jax.tree.leaves(moved)) and all(np.isfinite(x).all() for x in jax.tree.leaves(agents))

    agent, index = take(agents, 0), np.array([0, 1])
    steps = engine_of(family).experience(policy, family, agent, index, KEY, 5)
    assert steps.obs.shape == (5, 2, *shape) and steps.action.shape == (5, 2, *family.action_space.shape)
    for leaf in jax.tree.leaves(gradients(policy, agent, steps.obs[0], steps.action[0])):
        assert np.isfinite(leaf).all() and (np.asarray(leaf) != 0).any()
    for obs in (steps.obs[0, 0], family.observation_space.sample()):
        for key in (None, KEY):
            action = policy.act(agent, obs, family.context[0], key)
            assert family.action_space.contains(action.astype(family.action_space.dtype)), action


@dataclass(frozen=True)
class Noise:
    """Images that tell nothing; the task is the action that is rewarded."""

    shape: tuple[int, int, int]

    def reset(self, key, task):
        return jnp.zeros(()), jax.random.uniform(key, self.shape)

    def step(self, key, state, action, task):
        obs = jax.random.uniform(key, self.shape)
        return Step(state, obs, (action == task).astype(jnp.float32), jnp.asarray(False))


def test_the_task_is_learned_beside_an_image():
    """Who does not know the task gets 2 of 4 at best."""
    shape, names = (6, 6, 3), ("a", "b", "c", "d")
    space, actions = spaces.Box(0, 1, shape, np.float32), spaces.Discrete(2)
    family = TaskFamily("noise", names, Noise(shape), np.array([0, 0, 1, 1]), space, actions, 4)
    learner = PPO(num_envs=8, num_steps=16, minibatches=2, learning_rate=1e-2)
    policy = make_policy(family, hidden=(16,), conditioned_actor=True)
    rows = Rows(np.ones((1, 4), bool), np.array([16 * 128]), np.asarray(KEY)[None])
    returns = train(policy, learner, family, rows).returns[0]
    assert np.nanmean(returns[:2]) < 2.5 and np.nanmean(returns[-2:]) > 3.2
