"""Families of point masses in the plane that must reach hidden goals; continuous actions.

Position in metres, velocity in m/s; one step is 0.1 s and the arena [-2, 2]^2. Nothing that
differs between tasks is observed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from envs import classic_drawing, common
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import Step, TaskFamily
from pgx_jax.types import Array

ARENA = 2.0
"""Half the side of the arena, in metres."""


class PointTask(NamedTuple):
    """What may vary between point-mass tasks; with a leading axis n for a set of tasks."""

    goal: Array
    """float32 [2], metres."""
    mass: Array
    """float32 [], kg."""
    drag: Array
    """float32 [], N s/m."""
    gain: Array
    """float32 [], newton of a full action along one axis."""
    reward_scale: Array
    """float32 []."""


class PointState(NamedTuple):
    """float32 [2] each."""

    position: Array
    velocity: Array


def rest(key: Array, start: float) -> PointState:
    """At rest near the centre, with ``start`` the standard deviation of the position."""
    return PointState(jnp.clip(start * jax.random.normal(key, (2,)), -ARENA, ARENA), jnp.zeros(2))


def push(state: PointState, action: Array, dt: float, mass: Array, drag: Array, gain: Array) -> PointState:
    """Push with ``action`` [2], clipped to [-1, 1], for ``dt`` seconds; walls stop the point."""
    force = gain * jnp.clip(action, -1.0, 1.0) - drag * state.velocity
    velocity = state.velocity + dt / mass * force
    position = jnp.clip(state.position + dt * velocity, -ARENA, ARENA)
    return PointState(position, (position - state.position) / dt)


@dataclass(frozen=True)
class PointMass:
    """A point pushed through a viscous medium, rewarded with 1 - distance to the goal a step.

    Attributes:
        dt: length of a step, in seconds.
        start: standard deviation of the Gaussian starting position, in metres.
    """

    dt: float = 0.1
    start: float = 0.1

    def reset(self, key: Array, task: PointTask) -> tuple[PointState, Array]:
        """Start at rest near the centre. obs: float32 [4], position and velocity."""
        del task
        state = rest(key, self.start)
        return state, jnp.concatenate(state)

    def step(self, key: Array, state: PointState, action: Array, task: PointTask) -> Step:
        """Push with ``action`` [2], clipped to [-1, 1]; walls stop the point. Never terminates."""
        del key
        state = push(state, action, self.dt, task.mass, task.drag, task.gain)
        reward = task.reward_scale * (1.0 - jnp.sqrt(jnp.sum(jnp.square(state.position - task.goal))))
        return Step(state, jnp.concatenate(state), reward, jnp.zeros((), bool))


def points(
    n_tasks: int = 10,
    n_groups: int = 3,
    horizon: int = 50,
    seed: int = 0,
    reward_scales: tuple[float, ...] | None = None,
    radius: float = 1.0,
    spread: float = 0.06,
    start: float = 0.1,
    mass: tuple[float, float] = (1.0, 1.0),
    drag: tuple[float, float] = (1.0, 1.0),
    gain: tuple[float, float] = (2.5, 2.5),
    reward_range: tuple[float, float] = (1.0, 1.0),
) -> TaskFamily:
    """Point masses whose hidden goals form clear clusters on a circle.

    Listed: device; 10 tasks; float [4]; float [2]; 3 groups.

    Args:
        n_tasks: Number of tasks.
        n_groups: Number of planted clusters, evenly spaced on the circle.
        horizon: Time limit of an episode, in steps of 0.1 s.
        seed: Turns the circle, and decides which task is in which cluster and its variation.
        reward_scales: Factors on the tasks' rewards; a shorter tuple is repeated in turn.
        radius: Radius of the circle, in metres.
        spread: Standard deviation of the goals around their cluster's centre along each axis, metres.
        start: Standard deviation of the starting position, in metres.
        mass: Range of the mass, in kg (log-uniform, as the next three).
        drag: Range of the drag, in N s/m.
        gain: Range of the force of a full action, in newton.
        reward_range: Range of the reward scales, where reward_scales does not give them.

    Raises:
        ConfigError: for settings out of range.
    """
    return _family("points", dict(locals()))


def points_hard(
    n_tasks: int = 10,
    n_groups: int = 3,
    horizon: int = 50,
    seed: int = 0,
    reward_scales: tuple[float, ...] | None = None,
    radius: float = 1.0,
    spread: float = 0.3,
    start: float = 0.1,
    mass: tuple[float, float] = (0.5, 2.0),
    drag: tuple[float, float] = (0.5, 2.0),
    gain: tuple[float, float] = (1.5, 4.0),
    reward_range: tuple[float, float] = (0.05, 20.0),
) -> TaskFamily:
    """Point masses with overlapping clusters, unequal dynamics and rewards of very different scale.

    Listed: device; 10 tasks; float [4]; float [2]; 3 groups.

    Args:
        n_tasks: Number of tasks.
        n_groups: Number of planted clusters, evenly spaced on the circle.
        horizon: Time limit of an episode, in steps of 0.1 s.
        seed: Turns the circle, and decides which task is in which cluster and its variation.
        reward_scales: Factors on the tasks' rewards; a shorter tuple is repeated in turn.
        radius: Radius of the circle, in metres.
        spread: Standard deviation of the goals around their cluster's centre along each axis, metres.
        start: Standard deviation of the starting position, in metres.
        mass: Range of the mass, in kg (log-uniform, as the next three).
        drag: Range of the drag, in N s/m.
        gain: Range of the force of a full action, in newton.
        reward_range: Range of the reward scales, where reward_scales does not give them.

    Raises:
        ConfigError: for settings out of range.
    """
    return _family("points-hard", dict(locals()))


def check_radius(radius) -> float:
    """Return the radius in metres; ConfigError unless goals at that distance are in the arena."""
    radius = common.number("radius", radius, open_end=True)
    if radius >= ARENA:
        raise ConfigError(f"radius = {radius:g} m puts goals outside of the arena: keep it below {ARENA:g}")
    return radius


def circle(count: int, radius: float, seed: int) -> np.ndarray:
    """``count`` points evenly spaced on a circle that the seed turns: float32 [count, 2]."""
    turn = np.random.default_rng([common.TRAIN, seed]).uniform(0, 2 * math.pi)
    angle = turn + 2 * math.pi * np.arange(count) / count
    return (radius * np.stack([np.cos(angle), np.sin(angle)], -1)).astype(np.float32)


def observation_space() -> spaces.Box:
    """Position and velocity: float32 [4]."""
    high = np.array([ARENA, ARENA, np.inf, np.inf], np.float32)
    return spaces.Box(-high, high, dtype=np.float32)


def _drawer(settings, n_groups: int, env: PointMass):
    """Check the settings and return draw(key, group [count]) -> PointTask [count]."""
    radius = check_radius(settings["radius"])
    spread = common.number("spread", settings["spread"])
    names = ("mass", "drag", "gain", "reward_range")
    ranges = [common.interval(name, settings[name]) for name in names]
    if env.dt * ranges[1][1] > ranges[0][0]:
        raise ConfigError(
            f"drag up to {ranges[1][1]:g} with mass down to {ranges[0][0]:g} is unstable at steps of "
            f"{env.dt:g} s: keep drag below mass / {env.dt:g}"
        )
    centres = jnp.asarray(circle(n_groups, radius, settings["seed"]))

    def draw(key: Array, group: Array) -> PointTask:
        count = len(group)
        key, key_goal = jax.random.split(key)
        goal = centres[group] + spread * jax.random.normal(key_goal, (count, 2))
        keys = jax.random.split(key, len(ranges))
        values = (common.log_uniform(k, *r, count) for k, r in zip(keys, ranges, strict=True))
        return PointTask(jnp.clip(goal, -ARENA, ARENA), *values)

    return draw


def _family(name: str, settings) -> TaskFamily:
    groups = common.plant(settings["n_tasks"], settings["n_groups"], settings["seed"])
    env = PointMass(start=common.number("start", settings["start"]))
    drawn = common.drawn_tasks(settings, _drawer(settings, settings["n_groups"], env), groups)
    return TaskFamily(
        name=name,
        task_names=common.names(drawn["tasks"], lambda t: "x{:+.2f}_y{:+.2f}".format(*t.goal)),
        env=env,
        observation_space=observation_space(),
        action_space=spaces.Box(-1.0, 1.0, (2,), np.float32),
        draw=classic_drawing.point,
        **drawn,
    )
