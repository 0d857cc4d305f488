"""Point masses with several goals at once: one vector reward, and tasks that weigh it differently.

Position in metres, velocity in m/s; one step is 0.1 s and the arena [-2, 2]^2, as in `envs.points`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from envs import classic_drawing, common
from envs.points import PointState, check_radius, circle, observation_space, push, rest
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import Step, TaskFamily
from pgx_jax.types import Array


class WeighedTask(NamedTuple):
    """One weighting of K goals; with a leading axis n for a set of tasks."""

    goals: Array
    """float32 [K, 2], metres; the same for all tasks."""
    weights: Array
    """float32 [K]."""


@dataclass(frozen=True)
class ManyGoals:
    """A point of 1 kg in a viscous medium; objective k is 1 - distance to goal k a step.

    Attributes:
        dt: length of a step, in seconds.
        start: standard deviation of the Gaussian starting position, in metres.
        drag: in N s/m.
        gain: newton of a full action along one axis.
    """

    dt: float = 0.1
    start: float = 0.1
    drag: float = 1.0
    gain: float = 2.5

    def reset(self, key: Array, task: WeighedTask) -> tuple[PointState, Array]:
        """Start at rest near the centre. obs: float32 [4], position and velocity."""
        del task
        state = rest(key, self.start)
        return state, jnp.concatenate(state)

    def step(self, key: Array, state: PointState, action: Array, task: WeighedTask) -> Step:
        """Push with ``action`` [2], clipped to [-1, 1]; walls stop the point. Never terminates."""
        del key
        state = push(state, action, self.dt, 1.0, self.drag, self.gain)
        objectives = 1.0 - jnp.sqrt(jnp.sum(jnp.square(state.position - task.goals), axis=-1))
        reward = jnp.sum(task.weights * objectives)
        return Step(state, jnp.concatenate(state), reward, jnp.zeros((), bool), objectives=objectives)


def points_objectives(
    n_tasks: int = 10,
    n_groups: int = 3,
    horizon: int = 50,
    seed: int = 0,
    radius: float = 1.0,
    start: float = 0.1,
    share: tuple[float, float] = (0.7, 0.95),
) -> TaskFamily:
    """Point masses rewarded for coming near several goals, which every task weighs differently.

    Each task gives one goal, that of its group, more than half of the weight, and divides the rest
    among the others at random; the best place is then at that goal. What a policy experiences is the
    same under all weights, so it is collected once and relabelled.

    Listed: device; 10 tasks; float [4]; float [2]; 3 groups, weights of 3 rewards.

    Args:
        n_tasks: Number of tasks.
        n_groups: Number of goals and so of planted groups, evenly spaced on a circle.
        horizon: Time limit of an episode, in steps of 0.1 s.
        seed: Turns the circle, and decides which task is in which group and its weights.
        radius: Radius of the circle, in metres.
        start: Standard deviation of the starting position, in metres.
        share: Range of the weight of a task's own goal, of 1 in all (uniform).

    Raises:
        ConfigError: for settings out of range.
    """
    settings = dict(locals())
    groups = common.plant(n_tasks, n_groups, seed)
    env = ManyGoals(start=common.number("start", start))
    goals = circle(n_groups, check_radius(radius), seed)
    low, high = common.interval("share", share)
    if not 0.5 <= low <= high <= 1:
        raise ConfigError(f"share = {share!r} must lie between 0.5 and 1, so that one goal decides")

    def draw(key: Array, group: Array) -> WeighedTask:
        key_own, key_rest = jax.random.split(key)
        own = common.uniform(key_own, low, high, len(group)) if n_groups > 1 else jnp.ones(len(group))
        is_own = jax.nn.one_hot(group, n_groups)
        others = jax.random.exponential(key_rest, (len(group), n_groups)) * (1 - is_own)
        others = others / jnp.maximum(others.sum(1, keepdims=True), 1e-9)
        weights = own[:, None] * is_own + (1 - own[:, None]) * others
        return WeighedTask(jnp.broadcast_to(goals, (len(group), *goals.shape)), weights)

    drawn = common.drawn_tasks(settings, draw, groups)
    return TaskFamily(
        name="points-objectives",
        task_names=common.names(drawn["tasks"], lambda t: "_".join(f"{weight:.2f}" for weight in t.weights)),
        env=env,
        observation_space=observation_space(),
        action_space=spaces.Box(-1.0, 1.0, (2,), np.float32),
        objectives=drawn["tasks"].weights,
        draw=classic_drawing.weighed_point,
        **drawn,
    )
