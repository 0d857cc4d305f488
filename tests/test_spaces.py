"""Observations and actions of any space, from real environments to what the method differentiates."""

import dataclasses

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
    "roundabout-v0": (lambda: highway("roundabout-v0"), (5, 5)),
    "pictures": (pictures, (12, 10, 3)),
    "pictures, channels first": (lambda: pictures((3, 24, 20)), (3, 24, 20)),
    "one number": (lambda: gymnasium_family(Thermometer, {"wanted": [0, 1]}, horizon=4), ()),
    "switches": (switches, (4,)),
}


@pytest.mark.filterwarnings("ignore:.*is out of date")
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("Breakout-MinAtar", "merge-v0", "pictures") for kind in ("blind", "told")]
    + [("roundabout-v0", "told"), ("pictures, channels first", "told"), ("one number", "blind")]
    + [(name, "own") for name in ("merge-v0", "pictures", "switches")]
    + [("switches", "told")],
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
    seen = jax.vmap(policy.actor_input)(policy.normalise(agent, steps.obs[0]), jnp.eye(2))
    gradients = jax.vmap(jax.grad(policy.log_prob), (None, 0, 0))(agent.actor, seen, steps.action[0])
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all() and (np.asarray(leaf) != 0).any()
    for obs in (steps.obs[0, 0], family.observation_space.sample()):
        for key in (None, KEY):
            action = policy.act(agent, obs, family.context[0], key)
            assert family.action_space.contains(action.astype(family.action_space.dtype)), action
