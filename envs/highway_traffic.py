"""The family of Highway tasks whose traffic differs; the policy doesn't see how."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from envs import common, highway_drawing
from envs.highway import HORIZON, OBSERVATION, Highway, HighwayTask, standard_task
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Array

DEFAULTS = {
    "steps_per_task": 61_440,
    "ppo.gamma": 0.95,
    "ppo.num_envs": 64,
    "ppo.num_steps": 64,
    "ppo.epochs": 8,
    "estimate.steps": 2048,
}
"""Settings of a run that suit Highway: short episodes, and a policy that learns in about 10^5 steps."""

MOST_VEHICLES = 200


def traffic(
    n_tasks: int = 8,
    horizon: int = HORIZON,
    seed: int = 0,
    density: tuple[float, float] = (0.6, 1.8),
    vehicles: tuple[int, int] = (8, 20),
    lanes: tuple[int, int] = (2, 4),
    speed_limit: tuple[float, float] = (24.0, 36.0),
) -> TaskFamily:
    """Highways that differ by density, number and speed of the other vehicles, and by their lanes.

    The reward is highway-env's: fast, to the right, and no crash. No groups are planted.

    Listed: device; 8 tasks; float [25]; choice of 5; not planted.

    Args:
        n_tasks: Number of tasks.
        horizon: Time limit of an episode, in steps of one second.
        seed: Draws the traffic of each task.
        density: Range of the density, 1 being highway-env's (log-uniform).
        vehicles: Range of the number of other vehicles.
        lanes: Range of the number of lanes.
        speed_limit: Range of the speed limit, in m/s. Traffic starts at 70% to 80% of it, and keeps to that.

    Raises:
        ConfigError: for settings out of range.
    """
    settings = dict(locals())
    n = common.integer("n_tasks", n_tasks, 2)
    density = common.interval("density", density)
    vehicles = whole("vehicles", vehicles, 0, MOST_VEHICLES)
    lanes = whole("lanes", lanes, 1, 20)
    speed_limit = common.interval("speed_limit", speed_limit)

    def draw(key: Array, count: int) -> HighwayTask:
        keys = jax.random.split(key, 4)
        limit = common.uniform(keys[3], *speed_limit, count)
        return standard_tasks(count)._replace(
            density=common.log_uniform(keys[0], *density, count),
            vehicles_count=_integers(keys[1], *vehicles, count),
            lanes_count=_integers(keys[2], *lanes, count),
            speed_limit=limit,
            traffic_slowest=0.7 * limit,
            traffic_fastest=0.8 * limit,
        )

    key = jax.random.fold_in(jax.random.PRNGKey(common.check_seed(seed)), common.TRAIN)
    tasks = HighwayTask(*(np.asarray(leaf) for leaf in draw(key, n)))
    return TaskFamily(
        name="highway-traffic",
        task_names=tuple(
            f"task{i}_lanes{tasks.lanes_count[i]:.0f}_vehicles{tasks.vehicles_count[i]:.0f}"
            f"_density{tasks.density[i]:.2f}_limit{tasks.speed_limit[i]:.0f}"
            for i in range(n)
        ),
        env=Highway(places=vehicles[1]),
        tasks=tasks,
        observation_space=OBSERVATION,
        action_space=spaces.Discrete(5),
        horizon=common.integer("horizon", horizon, 1),
        sample_test_tasks=lambda key, count: draw(jax.random.fold_in(key, common.TEST), count),
        settings=common.record(settings),
        defaults=DEFAULTS,
        draw=highway_drawing.highway,
    )


def standard_tasks(count: int) -> HighwayTask:
    """highway-fast-v0's task [count] times."""
    return HighwayTask(*(jnp.full(count, value, jnp.float32) for value in standard_task()))


def whole(name: str, value, least: int, most: int) -> tuple[int, int]:
    """Return ``value`` as whole numbers (low, high); ConfigError unless least <= low <= high <= most."""
    try:
        low, high = value
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a pair (low, high) of whole numbers, got {value!r}") from None
    low, high = common.integer(f"{name}[0]", low, least), common.integer(f"{name}[1]", high, least)
    if not low <= high <= most:
        raise ConfigError(f"{name} must be a pair with {least} <= low <= high <= {most}, got {value!r}")
    return low, high


def _integers(key: Array, low: int, high: int, count: int) -> Array:
    return jax.random.randint(key, (count,), low, high + 1).astype(jnp.float32)
