"""Tiny environments whose values are known exactly, and a family of them."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from pgx_jax.learn import Policy
from pgx_jax.tasks import Step, TaskFamily

init = jax.jit(Policy.init, static_argnums=(0, 2))


def fresh(policy, family, key):
    """A fresh agent, made by one program."""
    return init(policy, key, family.observation_space.shape, jnp.asarray(family.context))


class Table(NamedTuple):
    """A Markov decision process of S states and A actions; with a leading axis n for n tasks."""

    following: Any
    """int [S, A]: the next state."""
    reward: Any
    """float [S, A]."""
    terminal: Any
    """bool [S, A]: whether the episode terminates."""
    solved: Any
    """bool [S, A]: whether the step counts as success."""
    start: Any
    """float [S]: log probability of starting there."""


@dataclass(frozen=True)
class Tabular:
    """Acts out a `Table`; the observation is the one-hot state."""

    def reset(self, key, task):
        """Draw the first state."""
        state = jax.random.categorical(key, task.start)
        return state, jax.nn.one_hot(state, len(task.start))

    def step(self, key, state, action, task):
        """Look everything up."""
        del key
        after = task.following[state, action]
        at = (state, action)
        obs = jax.nn.one_hot(after, len(task.start))
        return Step(after, obs, task.reward[at], task.terminal[at], task.solved[at])


@dataclass(frozen=True)
class Reach:
    """One step; the reward is minus the squared distance of the action to a task's target."""

    def reset(self, key, task):
        """Observe a number in [-1, 1]."""
        obs = jax.random.uniform(key, (1,), minval=-1.0)
        return obs, obs

    def step(self, key, state, action, task):
        """The best action is slope * observation."""
        del key
        reward = -jnp.sum((action - task * state) ** 2)
        return Step(state, state, reward, jnp.ones((), bool))


class Weighed(NamedTuple):
    """A table whose reward is a weighting of K others; with a leading axis n for n tasks."""

    table: Table
    """Its own reward is not used."""
    rewards: Any
    """float [S, A, K]."""
    weights: Any
    """float [K]."""


@dataclass(frozen=True)
class VectorTabular:
    """Acts out a `Weighed`, and tells the vector reward if it is ``telling``."""

    telling: bool = True

    def reset(self, key, task):
        """Draw the first state."""
        return Tabular().reset(key, task.table)

    def step(self, key, state, action, task):
        """Look everything up."""
        step = Tabular().step(key, state, action, task.table)
        rewards = task.rewards[state, action]
        told = {"objectives": rewards} if self.telling else {}
        return step._replace(reward=(rewards * task.weights).sum(-1), **told)


def table(states=3, actions=2, **cells) -> Table:
    """A task in which nothing happens, but for ``cells``: name -> {(state, action or None): value}."""
    shape = (states, actions)
    own = np.broadcast_to(np.arange(states)[:, None], shape).astype(np.int32).copy()
    start = np.full(states, -np.inf, np.float32)
    start[0] = 0.0
    out = Table(own, np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool), start)
    for name, values in cells.items():
        array = getattr(out, name)
        for at, value in values.items():
            array[at] = value
    return out


def tabular_family(tables, horizon=2, names=None, **settings) -> TaskFamily:
    """A family of tables of equal shape."""
    tables = list(tables)
    states, actions = tables[0].reward.shape
    return TaskFamily(
        name="tables",
        task_names=tuple(names or (f"table{i}" for i in range(len(tables)))),
        env=Tabular(),
        tasks=jax.tree.map(lambda *x: np.stack(x), *tables),
        observation_space=spaces.Box(0.0, 1.0, (states,), np.float32),
        action_space=spaces.Discrete(actions),
        horizon=horizon,
        **settings,
    )


def vector_family(one: Table, rewards, weights, horizon=4, **settings) -> TaskFamily:
    """Weightings [n, K] of the rewards [S, A, K] of one table."""
    family = tabular_family([one] * len(weights), horizon)
    many = np.repeat(np.asarray(rewards, np.float32)[None], len(weights), axis=0)
    tasks = Weighed(family.tasks, many, np.asarray(weights, np.float32))
    changes = {"env": VectorTabular(), "tasks": tasks, "objectives": weights} | settings
    return dataclasses.replace(family, **changes)


def reach_family(slopes, horizon=5) -> TaskFamily:
    """A family of `Reach`, one slope a task."""
    return TaskFamily(
        name="reach",
        task_names=tuple(f"slope{i}" for i in range(len(slopes))),
        env=Reach(),
        tasks=np.asarray(slopes, np.float32),
        observation_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
        action_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
        horizon=horizon,
    )
