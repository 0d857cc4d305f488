"""Brax environments with a hidden goal, or with other physics in every task.

What differs between tasks is never observed. One step is 20 ms of the reacher and 50 ms of the
halfcheetah and the ant; lengths are in metres.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from envs.brax_adapter import BraxEnv, BraxTask
from pgx_jax.tasks import Step
from pgx_jax.types import Array, PyTree

_UNCHANGED = BraxTask({}, {}, {})


class GoalTask(NamedTuple):
    """What varies between tasks with a hidden goal; float32, [n, ...] for a set of tasks."""

    goal: Array
    """[2] target in metres (reacher), [] speed in m/s (halfcheetah), [] angle in radians (ant)."""
    reward_scale: Array


class PhysicsTask(NamedTuple):
    """What varies between tasks of one reward: factors, float32 [] each, [n] for a set of tasks."""

    mass: Array
    gear: Array
    gravity: Array
    friction: Array
    reward_scale: Array


@dataclass(frozen=True)
class GoalEnv:
    """A Brax environment whose reward depends on a hidden goal.

    Attributes:
        base: the environment.
        reward: (brax's metrics of a step, goal) -> reward []; a function of a module.
    """

    base: BraxEnv
    reward: Callable[[Mapping[str, Array], Array], Array]

    def reset(self, key: Array, task: GoalTask) -> tuple[PyTree, Array]:
        """Return brax's initial (state, obs)."""
        del task
        return self.base.reset(key, _UNCHANGED)

    def step(self, key: Array, state: PyTree, action: Array, task: GoalTask) -> Step:
        """Advance by one action, clipped to [-1, 1]."""
        step = self.base.step(key, state, action, _UNCHANGED)
        return step._replace(reward=task.reward_scale * self.reward(step.state.metrics, task.goal))


@dataclass(frozen=True)
class ReacherEnv(GoalEnv):
    """Brax's reacher with the target where the task wants it, and out of sight.

    Observed are cosines [2] and sines [2] of the joints and the velocity [2] of the fingertip.
    """

    def reset(self, key: Array, task: GoalTask) -> tuple[PyTree, Array]:
        """Return (state, obs [6]); the arm is nearly stretched along x."""
        env = copy.copy(self.base.raw())
        env._random_target = lambda rng: (rng, task.goal)
        state, obs = self.base.first(env, key)
        return state, _without_target(obs)

    def step(self, key: Array, state: PyTree, action: Array, task: GoalTask) -> Step:
        """Advance by one action, clipped to [-1, 1]."""
        step = super().step(key, state, action, task)
        return step._replace(obs=_without_target(step.obs))


@dataclass(frozen=True)
class PhysicsEnv:
    """A Brax environment with its own reward, whose physics the task changes."""

    base: BraxEnv

    def reset(self, key: Array, task: PhysicsTask) -> tuple[PyTree, Array]:
        """Return brax's initial (state, obs)."""
        return self.base.reset(key, _factors(task))

    def step(self, key: Array, state: PyTree, action: Array, task: PhysicsTask) -> Step:
        """Advance by one action, clipped to [-1, 1]."""
        step = self.base.step(key, state, action, _factors(task))
        return step._replace(reward=task.reward_scale * step.reward)


@dataclass(frozen=True)
class Reach:
    """Minus the distance of the fingertip from the target, minus a cost of the torques."""

    control_cost: float

    def __call__(self, metrics: Mapping[str, Array], goal: Array) -> Array:
        """Return the reward []; the target is in brax's own state."""
        del goal
        return metrics["reward_dist"] + self.control_cost * metrics["reward_ctrl"]


def keep_speed(metrics: Mapping[str, Array], goal: Array) -> Array:
    """Minus the difference to the speed ``goal`` in m/s, minus brax's cost of the torques."""
    return metrics["reward_ctrl"] - jnp.abs(metrics["x_velocity"] - goal)


def run_towards(metrics: Mapping[str, Array], goal: Array) -> Array:
    """Speed in the direction ``goal`` (radians), plus brax's reward for health and cost of the torques."""
    speed = metrics["x_velocity"] * jnp.cos(goal) + metrics["y_velocity"] * jnp.sin(goal)
    return speed + metrics["reward_survive"] + metrics["reward_ctrl"]


def _without_target(obs: Array) -> Array:
    """The reacher's observation [11] without the target and what leads to it -> [6]."""
    return jnp.concatenate([obs[:4], obs[6:8]])


def _factors(task: PhysicsTask) -> BraxTask:
    factors = task._asdict()
    factors.pop("reward_scale")
    return BraxTask(factors, {}, {})
