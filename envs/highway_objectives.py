"""The family of Highway tasks that weigh speed, safety and the lane differently: several objectives.

All tasks share one road. The vector reward of a step is

* speed: 0 at 20 m/s of forward speed to 1 at 30 m/s, as in highway-env's reward;
* safety: the time to the vehicle ahead as a part of 4 s, at most 1; a crash costs 5;
* lane: -1 on the leftmost lane to 1 on the rightmost one (of the lane that is driven to).

A task's reward is a weighting of the three. Weightings come in three kinds that no single way of driving
serves, as a policy does not see which one it is paid by:

* swift: speed pays, wherever it is found;
* calm: distance pays, in the left lane, which is gained by driving slowly until the traffic is gone;
* right: the right lane pays, with what speed the traffic on it allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces

from envs import common, highway_drawing
from envs.highway import HORIZON, OBSERVATION, Highway, HighwayState, HighwayTask, forward_speed
from envs.highway_road import LENGTH, motion, neighbours
from envs.highway_traffic import DEFAULTS, MOST_VEHICLES, standard_tasks
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import Step, TaskFamily
from pgx_jax.types import Array

KINDS = {"swift": (0.8, 0.2, 0.0), "calm": (0.0, 0.6, -0.4), "right": (0.3, 0.1, 0.6)}
"""Weights of speed, safety and lane in the middle of each kind."""
OBJECTIVES_DEFAULTS = DEFAULTS | {"meta_fraction": 0.1, "ppo.entropy": 0.02, "estimate.source_multiple": 9}
"""A short meta-training that goes on exploring, and more transitions: with the defaults of highway-traffic
the held-out gain of the true kinds is hardly above its noise."""
_SAFE = 4.0
"""Time to the vehicle ahead, in seconds, that is safe enough."""
_CRASH = 5.0


class ObjectivesTask(NamedTuple):
    """A road and the weights of a task."""

    road: HighwayTask
    weights: Array
    """float32 [3]: of speed, safety and lane."""


@dataclass(frozen=True)
class HighwayObjectives:
    """Highway with a vector reward of speed, safety and lane.

    Attributes:
        places: room for this many vehicles besides the ego vehicle.
    """

    places: int = 20

    def reset(self, key: Array, task: ObjectivesTask) -> tuple[HighwayState, Array]:
        """As `Highway.reset`."""
        return Highway(self.places).reset(key, task.road)

    def step(self, key: Array, state: HighwayState, action: Array, task: ObjectivesTask) -> Step:
        """As `Highway.step`, with another reward."""
        step = Highway(self.places).step(key, state, action, task.road)
        values = objectives(step.state, task.road)
        return step._replace(reward=values @ task.weights, objectives=values)


def objectives(state: HighwayState, task: HighwayTask) -> Array:
    """Speed, safety and lane of the step that led to a state, float32 [3] (see above)."""
    now = motion(state, task)
    ahead, _ = neighbours(now, [now.lane])[0]
    free = ahead.x[0] - state.x[0] - LENGTH  # infinite on a free road
    safety = jnp.clip(free / (_SAFE * jnp.maximum(state.speed[0], 1.0)), 0, 1)
    lane = 2 * state.target_lane[0] / jnp.maximum(task.lanes_count - 1, 1) - 1
    return jnp.stack([forward_speed(state, task), safety - _CRASH * state.crashed[0], lane])


def weightings(
    n_tasks: int = 9,
    n_groups: int = 3,
    horizon: int = HORIZON,
    seed: int = 0,
    spread: float = 0.05,
    density: float = 1.0,
    vehicles: int = 15,
    lanes: int = 3,
) -> TaskFamily:
    """One highway under weightings of speed, safety and lane that pull apart, in three kinds.

    Listed: device; 9 tasks; float [25]; choice of 5; 3 groups, weights of 3 rewards.

    Args:
        n_tasks: Number of tasks.
        n_groups: Number of planted kinds, 2 (swift and calm) or 3 (right, too).
        horizon: Time limit of an episode, in steps of one second.
        seed: Decides which task is of which kind, and its weights.
        spread: Largest deviation of each weight from its kind's.
        density: Density of the traffic, 1 being highway-env's.
        vehicles: Number of other vehicles.
        lanes: Number of lanes.

    Raises:
        ConfigError: for settings out of range.
    """
    settings = dict(locals())
    groups = common.plant(n_tasks, n_groups, seed)
    if n_groups not in (2, 3):
        raise ConfigError(f"highway-objectives has 2 or 3 kinds of weightings; got n_groups = {n_groups}")
    spread = common.number("spread", spread)
    places = common.integer("vehicles", vehicles, 0)
    if places > MOST_VEHICLES:
        raise ConfigError(f"vehicles must be at most {MOST_VEHICLES}, got {places}")
    changes = {
        "density": common.number("density", density, open_end=True),
        "vehicles_count": places,
        "lanes_count": common.integer("lanes", lanes, 2),
    }
    kinds = jnp.asarray(list(KINDS.values()), jnp.float32)

    def draw(key: Array, group: Array) -> ObjectivesTask:
        count = len(group)
        noise = jax.random.uniform(key, (count, 3), jnp.float32, -spread, spread)
        road = {name: jnp.full(count, value, jnp.float32) for name, value in changes.items()}
        return ObjectivesTask(standard_tasks(count)._replace(**road), kinds[group] + noise)

    drawn, names = common.drawn_tasks(settings, draw, groups), list(KINDS)
    weights = drawn["tasks"].weights
    return TaskFamily(
        name="highway-objectives",
        task_names=tuple(
            f"task{i}_{names[group]}_" + "_".join(f"{w:+.2f}" for w in row)
            for i, (group, row) in enumerate(zip(groups, weights, strict=True))
        ),
        env=HighwayObjectives(places),
        observation_space=OBSERVATION,
        action_space=spaces.Discrete(5),
        defaults=OBJECTIVES_DEFAULTS,
        objectives=weights,
        draw=lambda state, task: highway_drawing.highway(state, task.road),
        **drawn,
    )
