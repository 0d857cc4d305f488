"""Families of Brax tasks: hidden targets, speeds and directions that pull apart, and varied physics.

What differs between tasks is never observed. One step is 20 ms of the reacher and 50 ms of the
halfcheetah and the ant; lengths are in metres, angles in degrees where they are settings.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from envs import brax_drawing, common
from envs.brax_adapter import BraxEnv, env_spaces
from envs.brax_goals import (
    GoalEnv,
    GoalTask,
    PhysicsEnv,
    PhysicsTask,
    Reach,
    ReacherEnv,
    keep_speed,
    run_towards,
)
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Array


def reacher_targets(
    n_tasks: int = 6,
    n_groups: int = 3,
    horizon: int = 50,
    seed: int = 0,
    reward_scales: tuple[float, ...] | None = None,
    target_radius: float = 0.14,
    target_jitter: float = 0.02,
    control_cost: float = 0.1,
    backend: str = "spring",
) -> TaskFamily:
    """Brax's two-jointed arm that must reach a hidden target: the groups want different places.

    The reward of a step is minus the distance of the fingertip from the target, in metres, minus
    the control cost.

    Listed: device; 6 tasks; float [6]; float [2]; 3 groups; needs brax.

    Args:
        n_tasks: Number of tasks.
        n_groups: Number of planted groups, with targets evenly spread over a circle.
        horizon: Time limit of an episode, in steps of 20 ms.
        seed: Decides which task is in which group, and its target.
        reward_scales: Factors on the tasks' rewards; a shorter tuple is repeated in turn.
        target_radius: Distance of the groups' targets from the shoulder, in metres; the arm is 0.21 long.
        target_jitter: Largest distance of a task's target from its group's along either axis, in metres.
        control_cost: Cost of the squared torques, of at most 1 each.
        backend: Brax's physics: "spring", "generalized", "positional" or "mjx".

    Raises:
        ConfigError: for settings out of range, or if Brax is missing.
    """
    settings = dict(locals())
    groups = common.plant(n_tasks, n_groups, seed)
    radius = common.number("target_radius", target_radius, open_end=True)
    jitter = common.number("target_jitter", target_jitter)
    if radius + jitter * np.sqrt(2) > 0.21:
        raise ConfigError(
            f"targets up to {radius + jitter * np.sqrt(2):.3f} m away are out of reach of an arm of 0.21 m: "
            "lower target_radius or target_jitter"
        )
    angle = 2 * np.pi * (np.arange(n_groups) + 0.5) / n_groups
    centres = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    reward = Reach(common.number("control_cost", control_cost))
    env = ReacherEnv(BraxEnv("reacher", backend), reward)
    draw = _around(centres, jitter)
    return _family(
        "reacher-targets", env, settings, draw, groups, lambda t: "x{:+.2f}_y{:+.2f}".format(*t.goal)
    )


def halfcheetah_velocities(
    n_tasks: int = 6,
    n_groups: int = 2,
    horizon: int = 100,
    seed: int = 0,
    reward_scales: tuple[float, ...] | None = None,
    velocity_range: float = 2.0,
    velocity_jitter: float = 0.25,
    control_cost: float = 0.05,
    backend: str = "spring",
) -> TaskFamily:
    """Brax's halfcheetah that must run at a hidden speed, forwards or backwards.

    The reward of a step is minus the difference to the desired speed, in m/s, minus the control cost.

    Listed: device; 6 tasks; float [17]; float [6]; 2 groups; needs brax.

    Args:
        n_tasks: Number of tasks.
        n_groups: Number of planted groups, with speeds evenly spread over the range.
        horizon: Time limit of an episode, in steps of 50 ms.
        seed: Decides which task is in which group, and its speed.
        reward_scales: Factors on the tasks' rewards; a shorter tuple is repeated in turn.
        velocity_range: The groups' speeds lie in [-velocity_range, velocity_range] m/s.
        velocity_jitter: Largest difference of a task's speed to its group's, in m/s.
        control_cost: Cost of the squared torques, of at most 1 each.
        backend: Brax's physics: "spring", "generalized", "positional" or "mjx".

    Raises:
        ConfigError: for settings out of range, or if Brax is missing.
    """
    settings = dict(locals())
    groups = common.plant(n_tasks, n_groups, seed)
    end = common.number("velocity_range", velocity_range, open_end=True)
    jitter = common.number("velocity_jitter", velocity_jitter)
    cost = common.number("control_cost", control_cost)
    centres = np.linspace(-end, end, n_groups) if n_groups > 1 else np.array([end])
    env = GoalEnv(BraxEnv("halfcheetah", backend, (("ctrl_cost_weight", cost),)), keep_speed)
    draw = _around(centres, jitter)
    return _family("halfcheetah-velocities", env, settings, draw, groups, lambda t: f"v{t.goal:+.2f}")


def ant_directions(
    n_tasks: int = 8,
    n_groups: int = 4,
    horizon: int = 200,
    seed: int = 0,
    reward_scales: tuple[float, ...] | None = None,
    direction_jitter: float = 10.0,
    control_cost: float = 0.5,
    backend: str = "spring",
) -> TaskFamily:
    """Brax's ant that must run in a hidden direction. Meant for GPUs: it takes hours on two cores.

    The reward of a step is the speed in that direction in m/s, plus 1 for being upright, minus the
    control cost; the episode terminates when the ant falls over or jumps.

    Listed: device; 8 tasks; float [27]; float [8]; 4 groups; needs brax.

    Args:
        n_tasks: Number of tasks.
        n_groups: Number of planted groups, with directions evenly spread over the circle.
        horizon: Time limit of an episode, in steps of 50 ms.
        seed: Decides which task is in which group, and its direction.
        reward_scales: Factors on the tasks' rewards; a shorter tuple is repeated in turn.
        direction_jitter: Largest difference of a task's direction to its group's, in degrees.
        control_cost: Cost of the squared torques, of at most 1 each.
        backend: Brax's physics: "spring", "generalized", "positional" or "mjx".

    Raises:
        ConfigError: for settings out of range, or if Brax is missing.
    """
    settings = dict(locals())
    groups = common.plant(n_tasks, n_groups, seed)
    jitter = np.deg2rad(common.number("direction_jitter", direction_jitter))
    cost = common.number("control_cost", control_cost)
    centres = 2 * np.pi * np.arange(n_groups) / n_groups
    env = GoalEnv(BraxEnv("ant", backend, (("ctrl_cost_weight", cost),)), run_towards)
    draw = _around(centres, jitter)
    return _family("ant-directions", env, settings, draw, groups, lambda t: f"{np.rad2deg(t.goal):+.0f}deg")


def halfcheetah_physics(
    n_tasks: int = 6,
    horizon: int = 100,
    seed: int = 0,
    reward_scales: tuple[float, ...] | None = None,
    mass_range: tuple[float, float] = (0.8, 1.25),
    gear_range: tuple[float, float] = (0.8, 1.25),
    gravity_range: tuple[float, float] = (0.8, 1.25),
    friction_range: tuple[float, float] = (0.6, 1.6),
    backend: str = "spring",
) -> TaskFamily:
    """Brax's halfcheetah that must run forwards, with other physics in every task. No conflict is planted.

    Listed: device; 6 tasks; float [17]; float [6]; not planted; needs brax.

    Args:
        n_tasks: Number of tasks.
        horizon: Time limit of an episode, in steps of 50 ms.
        seed: Decides the physics of each task, drawn log-uniformly from the ranges below.
        reward_scales: Factors on the tasks' rewards; a shorter tuple is repeated in turn.
        mass_range: Factors on all masses and moments of inertia.
        gear_range: Factors on the strength of the motors.
        gravity_range: Factors on gravity.
        friction_range: Factors on all coefficients of friction.
        backend: Brax's physics: "spring", "generalized", "positional" or "mjx".

    Raises:
        ConfigError: for settings out of range, or if Brax is missing.
    """
    settings = dict(locals())
    ranges = [
        common.interval(name, settings[name])
        for name in ("mass_range", "gear_range", "gravity_range", "friction_range")
    ]

    def draw(key: Array, group: Array) -> PhysicsTask:
        count = len(group)
        keys = jax.random.split(key, len(ranges))
        drawn = (common.log_uniform(k, *pair, count) for k, pair in zip(keys, ranges, strict=True))
        return PhysicsTask(*drawn, jnp.ones(count))

    def label(t: PhysicsTask) -> str:
        return f"m{t.mass:.2f}_a{t.gear:.2f}_g{t.gravity:.2f}_f{t.friction:.2f}"

    env = PhysicsEnv(BraxEnv("halfcheetah", backend))
    return _family("halfcheetah-physics", env, settings, draw, None, label)


def _around(centres: np.ndarray, jitter: float):
    """draw(key, group [count]): tasks whose goals are at most ``jitter`` from their group's of the
    ``centres`` [n_groups, ...], along every axis."""
    centres = jnp.asarray(centres, jnp.float32)

    def draw(key: Array, group: Array) -> GoalTask:
        noise = jax.random.uniform(key, (len(group), *centres.shape[1:]), jnp.float32, -jitter, jitter)
        return GoalTask(centres[group] + noise, jnp.ones(len(group)))

    return draw


_CHEETAH = {
    "steps_per_task": 120_000,
    "ppo.num_envs": 48,
    "ppo.num_steps": 50,
    "ppo.minibatches": 8,
    "ppo.gamma": 0.97,
    "ppo.entropy": 0.0,
    "policy.normalise_observations": True,
    "estimate.steps": 3200,
    "episodes": 32,
}
DEFAULTS = {
    "reacher-targets": {
        "steps_per_task": 120_000,
        "ppo.num_envs": 48,
        "ppo.num_steps": 50,
        "ppo.minibatches": 8,
        "ppo.gamma": 0.95,
        "ppo.entropy": 0.0,
        "policy.normalise_observations": True,
        "estimate.steps": 3200,
    },
    "halfcheetah-velocities": _CHEETAH
    | {
        "meta_fraction": 0.1,
        "estimate.steps": 9600,
        "estimate.num_envs": 96,
        "estimate.gae_lambda": 0.3,
        "meta_entropy": None,
    },
    "halfcheetah-physics": _CHEETAH,
    "ant-directions": {
        "steps_per_task": 4_000_000,
        "ppo.num_envs": 512,
        "ppo.num_steps": 40,
        "ppo.minibatches": 16,
        "ppo.gamma": 0.97,
        "ppo.learning_rate": 3e-4,
        "ppo.entropy": 0.0,
        "policy.normalise_observations": True,
    },
}
"""Settings of a run by family: budgets that two cores manage, and what learns fast within them.

What a policy for all of halfcheetah-velocities does, standing still, hardly moves its speed: with the
general lambda the noise of the advantages hides which way it should move."""


def _family(name, env, settings, draw, groups, label) -> TaskFamily:
    """Build the family; ``draw(key, group [count])`` gives tasks [count], ``label(task)`` a name."""
    drawn = common.drawn_tasks(settings, draw, groups)
    first = jax.tree.map(lambda leaf: leaf[0], drawn["tasks"])
    observed = jax.eval_shape(env.reset, jax.random.PRNGKey(0), first)[1]
    return TaskFamily(
        name=name,
        task_names=common.names(drawn["tasks"], label),
        env=env,
        observation_space=spaces.Box(-np.inf, np.inf, observed.shape, np.float32),
        action_space=env_spaces(env.base)[1],
        defaults=DEFAULTS.get(name, {}),
        draw=partial(brax_drawing.body, env.base),
        **drawn,
    )
