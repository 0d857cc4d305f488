"""Families of CartPole tasks on gymnax's physics: hidden goals, flipped forces, varied physics.

What differs between tasks is never observed: a policy sees (x, x_dot, theta, theta_dot) alone,
in metres, m/s, radians and rad/s. One step is 20 ms; the time limit belongs to the family.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from envs import classic_drawing, common
from envs.gymnax_adapter import gymnax_cartpole
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import Step, TaskFamily
from pgx_jax.types import Array

_GYMNAX = gymnax_cartpole.CartPole()
_STANDARD = gymnax_cartpole.EnvParams()


class CartPoleTask(NamedTuple):
    """What may vary between CartPole tasks; float32 [] each, [n] for a set of tasks."""

    goal: Array
    """Position to hold, in metres; read by the goal reward alone."""
    gravity: Array
    """m/s^2."""
    masscart: Array
    """kg."""
    masspole: Array
    """kg."""
    length: Array
    """Half the pole's length, in metres."""
    force_mag: Array
    """Newton; a negative one swaps the two actions."""
    reward_scale: Array


class CartPoleState(NamedTuple):
    """float32 [] each."""

    x: Array
    x_dot: Array
    theta: Array
    theta_dot: Array


@dataclass(frozen=True)
class CartPole:
    """CartPole with gymnax's equations of motion; total mass and mass-length follow the task.

    Attributes:
        goal_width: None rewards every step with 1, as the original does. A width w (metres)
            rewards it with exp(-((x - goal) / w)^2) instead, x after the step.
    """

    goal_width: float | None = None

    def reset(self, key: Array, task: CartPoleTask) -> tuple[CartPoleState, Array]:
        """Start near the centre: every coordinate uniform on [-0.05, 0.05]. obs: float32 [4]."""
        del task
        obs = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
        return CartPoleState(*obs), obs

    def step(self, key: Array, state: CartPoleState, action: Array, task: CartPoleTask) -> Step:
        """Push left (0) or right (1) for 20 ms; other integers count as the nearer of the two.

        The episode terminates beyond 2.4 m or 12 degrees; the step that fails is still rewarded.
        """
        params = _STANDARD.replace(
            gravity=task.gravity,
            masscart=task.masscart,
            masspole=task.masspole,
            length=task.length,
            force_mag=task.force_mag,
            total_mass=task.masscart + task.masspole,
            polemass_length=task.masspole * task.length,
        )
        before = gymnax_cartpole.EnvState(**state._asdict(), time=0)
        obs, after, _, terminated, _ = _GYMNAX.step_env(key, before, jnp.clip(action, 0, 1), params)
        reward = task.reward_scale
        if self.goal_width is not None:
            reward = reward * jnp.exp(-jnp.square((after.x - task.goal) / self.goal_width))
        state = CartPoleState(after.x, after.x_dot, after.theta, after.theta_dot)
        return Step(state, obs, reward, terminated)


def standard_task() -> CartPoleTask:
    """Return the task of the original CartPole-v1 (goal 0), float32 [] each."""
    p = _STANDARD
    values = (0.0, p.gravity, p.masscart, p.masspole, p.length, p.force_mag, 1.0)
    return CartPoleTask(*(np.float32(v) for v in values))


def goals(
    n_tasks: int = 10,
    n_groups: int = 3,
    horizon: int = 200,
    seed: int = 0,
    reward_scales: tuple[float, ...] | None = None,
    goal_range: float = 1.0,
    goal_jitter: float = 0.05,
    goal_width: float = 0.5,
    physics_jitter: float = 0.05,
) -> TaskFamily:
    """CartPole that must hold a hidden goal position: the groups want different places.

    Listed: device; 10 tasks; float [4]; choice of 2; 3 groups.

    Args:
        n_tasks: Number of tasks.
        n_groups: Number of planted groups, with goals evenly spread over the range. Two groups take
            half of it: from its ends, a metre from the start, hardly any reward can be seen there.
        horizon: Time limit of an episode, in steps of 20 ms.
        seed: Decides which task is in which group, and its variation.
        reward_scales: Factors on the tasks' rewards; a shorter tuple is repeated in turn.
        goal_range: The groups' goals lie in [-goal_range, goal_range] metres.
        goal_jitter: Largest distance of a task's goal from its group's, in metres.
        goal_width: Distance from the goal, in metres, at which the reward falls to 1/e.
        physics_jitter: Largest relative deviation of gravity, masses, length and force.

    Raises:
        ConfigError: for settings out of range.
    """
    settings = dict(locals())
    groups = common.plant(n_tasks, n_groups, seed)
    goal_range = common.number("goal_range", goal_range, open_end=True)
    goal_jitter, jitter = common.number("goal_jitter", goal_jitter), _jitter(physics_jitter)
    if goal_range + goal_jitter >= _STANDARD.x_threshold:
        raise ConfigError(
            f"goal_range + goal_jitter = {goal_range + goal_jitter:g} m reaches the end of the track "
            f"at {_STANDARD.x_threshold} m: lower one of them"
        )
    env = CartPole(goal_width=common.number("goal_width", goal_width, open_end=True))
    end = goal_range * min(1.0, (n_groups - 1) / 2)
    centres = np.linspace(-end, end, n_groups)

    def draw(key: Array, group: Array) -> CartPoleTask:
        key, key_goal = jax.random.split(key)
        goal = jnp.asarray(centres, jnp.float32)[group]
        goal = goal + common.uniform(key_goal, -goal_jitter, goal_jitter, len(group))
        return _vary(key, len(group), jitter)._replace(goal=goal)

    return _family("cartpole-goals", env, settings, draw, groups, lambda t: f"x{t.goal:+.2f}")


def flip(
    n_tasks: int = 10,
    n_groups: int = 2,
    horizon: int = 200,
    seed: int = 0,
    reward_scales: tuple[float, ...] | None = None,
    physics_jitter: float = 0.05,
) -> TaskFamily:
    """CartPole in which half of the tasks swap the two actions: what helps one half fails the other.

    Listed: device; 10 tasks; float [4]; choice of 2; 2 groups.

    Args:
        n_tasks: Number of tasks.
        n_groups: Number of planted groups; a sign has two values, so it must be 2.
        horizon: Time limit of an episode, in steps of 20 ms.
        seed: Decides which task is in which group, and its variation.
        reward_scales: Factors on the tasks' rewards; a shorter tuple is repeated in turn.
        physics_jitter: Largest relative deviation of gravity, masses, length and force.

    Raises:
        ConfigError: for settings out of range, among them n_groups other than 2.
    """
    settings = dict(locals())
    if n_groups != 2:
        raise ConfigError(
            f"cartpole-flip has n_groups = 2, one a sign of the force; got {n_groups!r}. "
            "cartpole-goals and points plant other numbers"
        )
    groups, jitter = common.plant(n_tasks, n_groups, seed), _jitter(physics_jitter)

    def draw(key: Array, group: Array) -> CartPoleTask:
        task = _vary(key, len(group), jitter)
        return task._replace(force_mag=jnp.where(group == 1, -task.force_mag, task.force_mag))

    return _family("cartpole-flip", CartPole(), settings, draw, groups, lambda t: f"force{t.force_mag:+.1f}")


def physics(
    n_tasks: int = 10,
    horizon: int = 200,
    seed: int = 0,
    reward_scales: tuple[float, ...] | None = None,
    gravity: tuple[float, float] = (7.0, 13.0),
    length: tuple[float, float] = (0.3, 0.8),
    masscart: tuple[float, float] = (0.5, 2.0),
    masspole: tuple[float, float] = (0.05, 0.2),
    force: tuple[float, float] = (7.0, 14.0),
) -> TaskFamily:
    """CartPole in which only physical parameters vary: no conflict is planted.

    Listed: device; 10 tasks; float [4]; choice of 2; not planted.

    Args:
        n_tasks: Number of tasks.
        horizon: Time limit of an episode, in steps of 20 ms.
        seed: Decides the physics of each task, drawn log-uniformly from the ranges below.
        reward_scales: Factors on the tasks' rewards; a shorter tuple is repeated in turn.
        gravity: Range of the gravity, in m/s^2.
        length: Range of half the pole's length, in metres.
        masscart: Range of the cart's mass, in kg.
        masspole: Range of the pole's mass, in kg.
        force: Range of the force, in newton.

    Raises:
        ConfigError: for settings out of range.
    """
    settings = dict(locals())
    names = ("gravity", "masscart", "masspole", "length", "force")
    ranges = [common.interval(name, settings[name]) for name in names]

    def draw(key: Array, group: Array) -> CartPoleTask:
        count = len(group)
        keys = jax.random.split(key, len(ranges))
        values = (common.log_uniform(k, *r, count) for k, r in zip(keys, ranges, strict=True))
        return CartPoleTask(jnp.zeros(count), *values, jnp.ones(count))

    def label(task: CartPoleTask) -> str:
        return f"g{task.gravity:.1f}_l{task.length:.2f}_f{task.force_mag:.1f}"

    return _family("cartpole-physics", CartPole(), settings, draw, None, label)


def _jitter(value) -> float:
    value = common.number("physics_jitter", value)
    if value >= 1:
        raise ConfigError(f"physics_jitter is relative and must be below 1, got {value}")
    return value


def _vary(key: Array, count: int, jitter: float) -> CartPoleTask:
    """Draw tasks [count] whose physics deviate from the standard by at most a factor 1 +- jitter."""
    standard = standard_task()
    factor = jax.random.uniform(key, (5, count), jnp.float32, 1 - jitter, 1 + jitter)
    return CartPoleTask(
        jnp.zeros(count), *(f * v for f, v in zip(factor, standard[1:6], strict=True)), jnp.ones(count)
    )


def _family(name, env, settings, draw, groups, label) -> TaskFamily:
    """Build the family; ``draw(key, group [count])`` gives tasks [count], ``label(task)`` a name."""
    drawn = common.drawn_tasks(settings, draw, groups)
    high = np.array([2 * _STANDARD.x_threshold, np.inf, 2 * _STANDARD.theta_threshold_radians, np.inf])
    return TaskFamily(
        name=name,
        task_names=common.names(drawn["tasks"], label),
        env=env,
        observation_space=spaces.Box(-high.astype(np.float32), high.astype(np.float32), dtype=np.float32),
        action_space=spaces.Discrete(2),
        draw=partial(classic_drawing.cartpole, goal_width=env.goal_width),
        **drawn,
    )
