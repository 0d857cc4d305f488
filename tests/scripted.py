"""Any family of either engine, played by the core's own loop with a script in place of a policy."""

from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from pgx_jax.learn import host
from pgx_jax.learn.moments import initial_moments
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import reset_slots, unroll
from pgx_jax.types import Agent

LENGTH, HORIZON, NEVER = 12, 5, 10_000
SLOTS = (0, 1, 0)
"""The tasks of the three slots."""


class Script(nn.Module):
    """An actor that says the one number it has learnt, whatever it sees."""

    rank: int

    @nn.compact
    def __call__(self, obs, context=None):
        return jnp.broadcast_to(
            self.param("says", lambda key: jnp.zeros(())), obs.shape[: obs.ndim - self.rank]
        )


@dataclass(frozen=True)
class Chance:
    """A distribution over a space: uniform where the actor says NaN, else all that it says."""

    size: int | tuple[int, ...]
    """How many choices there are (of each, if several are made at once), or the length of a vector."""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def sample(self, key, says):
        if not self.low:
            drawn = jax.random.randint(key, np.shape(self.size), 0, np.array(self.size))
            return jnp.where(jnp.isnan(says), drawn, says).astype(int)
        drawn = jax.random.uniform(key, (self.size,), jnp.float32, *map(jnp.asarray, (self.low, self.high)))
        return jnp.where(jnp.isnan(says), drawn, says)

    def to_env(self, action):
        return action

    @classmethod
    def over(cls, space):
        if isinstance(space, spaces.Discrete):
            return cls(int(space.n))
        if isinstance(space, spaces.MultiDiscrete):
            return cls(tuple(map(int, space.nvec)))
        return cls(len(space.low), tuple(map(float, space.low)), tuple(map(float, space.high)))


@partial(jax.jit, static_argnames=("policy", "env", "length"))
def _play(policy, env, agent, tasks, context, horizon, key, length):
    first, key = jax.random.split(key)
    slots = reset_slots(env, tasks, jax.random.split(first, len(context)))
    slots, steps = unroll(policy, env, horizon, agent, tasks, context, slots, key, length)
    return steps, slots.state


def play_device(family, policy, agent, index, horizon, key):
    """Steps [T, E, ...], and the states that the slots are left in."""
    tasks = jax.tree.map(lambda leaf: np.asarray(leaf)[index], family.tasks)
    context = np.asarray(family.context)[index]
    return _play(policy, family.env, agent, tasks, context, horizon, key, LENGTH)


def play_host(family, policy, agent, index, horizon, key):
    """The same; the states stay inside of the environments. Vectors end episodes themselves."""
    env = replace(family.env, horizon=horizon) if hasattr(family.env, "horizon") else family.env
    family = replace(family, env=env, horizon=horizon)
    return host.experience(policy, family, agent, index, key, LENGTH), None


PLAYERS = {"device": play_device, "host": play_host}


def play(family, says=np.nan, index=SLOTS, horizon=HORIZON, seed=0):
    """Steps [T, E, ...] as NumPy arrays of the script in E slots of a family, and their states."""
    shape, index = family.observation_space.shape, np.asarray(index)
    policy = Policy(Script(len(shape)), Script(len(shape)), Chance.over(family.action_space))
    agent = Agent({"params": {"says": jnp.float32(says)}}, None, initial_moments(shape), None)
    key = jax.random.PRNGKey(seed)
    return jax.tree.map(np.asarray, PLAYERS[family.engine](family, policy, agent, index, horizon, key))
