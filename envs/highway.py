"""Highway: drive fast through traffic on a straight road of several lanes, without a crash.

Our own port of highway-env 1.12.1's ``highway-fast-v0`` to the device engine. From equal states equal
actions lead to the same positions, speeds, lanes, rewards and endings (tests/test_highway_parity.py).
Named differences:

* The observation is the 5 x 5 table of highway-env row after row, as one vector.
* The time limit belongs to the family: 30 steps of one second there.
* A timer that stands at exactly ``patience`` has not passed it, whatever the rounding of the steps' sum.
* When the ego vehicle runs into one exactly in line, both are pushed sideways. Which of them goes left is
  settled by the last bit of a sum, here and there; the episode is over, and its rewards are the same.
* Random numbers are JAX's: initial traffic has the same distribution, not the same draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from envs.highway_drivers import command, drive, level_speed, speed_level
from envs.highway_road import (
    LANE_WIDTH,
    LENGTH,
    TOP_SPEED,
    HighwayState,
    HighwayTask,
    beside,
    collide,
    motion,
    move,
    nearest_lane,
    within,
)
from pgx_jax.tasks import Step
from pgx_jax.types import Array

SEEN = 5
"""Rows of the observation: the ego vehicle and four others."""
HORIZON = 30
_VIEW = 5 * TOP_SPEED
OBSERVATION = spaces.Box(-1.0, 1.0, (5 * SEEN,), np.float32)


@dataclass(frozen=True)
class Highway:
    """One ego vehicle among traffic; the policy chooses a meta-action every second.

    Attributes:
        places: room for this many vehicles besides the ego vehicle; a task's ``vehicles_count`` may be
            lower.
        frames: simulation steps of a decision, which takes one second.
    """

    places: int = 20
    frames: int = 5

    def reset(self, key: Array, task: HighwayTask) -> tuple[HighwayState, Array]:
        """Put the ego vehicle on the road and the traffic one by one before it, in random lanes.

        Returns:
            the state, and the observation float32 [25] (see ``observe``).
        """
        keys = jax.random.split(key, 4)
        count = self.places + 1
        draw = [jax.random.uniform(k, (count,)) for k in keys]
        ego = jnp.arange(count) == 0
        lane = jnp.minimum(jnp.floor(draw[0] * task.lanes_count), task.lanes_count - 1)
        speed = task.traffic_slowest + draw[1] * (task.traffic_fastest - task.traffic_slowest)
        speed = jnp.where(ego, task.ego_start, speed)
        room = (12 + speed) * jnp.exp(-5 / 40 * task.lanes_count)
        room = room * jnp.where(ego, task.ego_spacing, 1 / task.density)
        x = jnp.cumsum(room * (0.9 + 0.2 * draw[2])) + 3 * room[0]
        y = LANE_WIDTH * lane
        there = jnp.arange(count) <= task.vehicles_count
        x, y, speed = (jnp.where(there, v, 0) for v in (x, y, speed))
        zero, never = jnp.zeros(count), jnp.zeros(count, bool)
        target = level_speed(speed_level(speed[0], task), task)
        state = HighwayState(
            x, y, zero, speed, nearest_lane(y, task), jnp.where(ego, target, speed),
            jnp.mod((x + y) * jnp.pi, 1.0),
            task.exponent_low + draw[3] * (task.exponent_high - task.exponent_low),
            never, zero, zero, never,
        )  # fmt: skip
        return state, observe(state, task)

    def step(self, key: Array, state: HighwayState, action: Array, task: HighwayTask) -> Step:
        """Drive for one second by a meta-action; other integers count as the nearest.

        Actions: 0 lane to the left, 1 nothing, 2 lane to the right, 3 faster, 4 slower. A crash of the
        ego vehicle terminates.
        """
        del key
        dt = 1 / self.frames
        state = command(state, jnp.clip(action, 0, 4), task)

        def frame(state, _):
            state, sine, acceleration = drive(state, task)
            state = move(state, sine, acceleration, task, dt)
            return collide(state, motion(state, task), dt), None

        state, _ = jax.lax.scan(frame, state, None, self.frames)
        return Step(state, observe(state, task), reward(state, task), state.crashed[0])


def reward(state: HighwayState, task: HighwayTask) -> Array:
    """highway-env's reward: speed, right lanes and crashes, rescaled to [0, 1]; 0 off the road."""
    lane = state.target_lane[0] / jnp.maximum(task.lanes_count - 1, 1)
    total = task.collision_reward * state.crashed[0]
    total = total + task.right_lane_reward * lane + task.high_speed_reward * forward_speed(state, task)
    best = task.high_speed_reward + task.right_lane_reward
    return (total - task.collision_reward) / (best - task.collision_reward) * on_road(state, task)


def forward_speed(state: HighwayState, task: HighwayTask) -> Array:
    """The ego vehicle's forward speed as a part of the rewarded range, in [0, 1]."""
    span = task.rewarded_fastest - task.rewarded_slowest
    return jnp.clip((state.speed[0] * jnp.cos(state.heading[0]) - task.rewarded_slowest) / span, 0, 1)


def on_road(state: HighwayState, task: HighwayTask) -> Array:
    """Whether the ego vehicle's middle is on a lane."""
    off = beside(state.y[0], nearest_lane(state.y[0], task))
    return (jnp.abs(off) <= LANE_WIDTH / 2) & within(state.x[0], -LENGTH)


def observe(state: HighwayState, task: HighwayTask) -> Array:
    """The table (presence, x, y, vx, vy) of the ego vehicle and the four nearest others, float32 [25].

    The others are those within 200 m, not more than 10 m behind, in the order of their distance along
    the road, relative to the ego vehicle; missing ones are 0. Values are scaled (200 m, the road's
    width, 80 m/s) and clipped to [-1, 1].
    """
    now = motion(state, task)
    number = jnp.arange(now.x.shape[0])
    far, across = now.x - now.x[0], now.y - now.y[0]
    seen = now.on_road & (number > 0) & (jnp.hypot(far, across) < _VIEW) & (far > -2 * LENGTH)
    nearness, order = jax.lax.top_k(jnp.where(seen, -jnp.abs(far), -jnp.inf), min(SEEN - 1, len(number)))
    columns = now.x, now.y, now.speed * now.cos, now.speed * now.sin
    scale = _VIEW, LANE_WIDTH * task.lanes_count, 2 * TOP_SPEED, 2 * TOP_SPEED
    rows = jnp.stack([jnp.append(v[0], v[order] - v[0]) / s for v, s in zip(columns, scale, strict=True)], 1)
    there = jnp.append(True, nearness > -jnp.inf)
    table = jnp.concatenate([there[:, None], jnp.clip(rows, -1, 1) * there[:, None]], axis=1)
    table = jnp.zeros((SEEN, 5), jnp.float32).at[: len(table)].set(table.astype(jnp.float32))
    return table.ravel()


def standard_task(dtype: type = np.float32, **changes: float) -> HighwayTask:
    """Return the task of highway-fast-v0, float [] each, with changes by name."""
    task = HighwayTask(
        vehicles_count=20, lanes_count=3, density=1, ego_spacing=1.5,
        speed_limit=30, traffic_slowest=21, traffic_fastest=24,
        ego_start=25, ego_slowest=20, ego_fastest=30,
        acceleration=3, braking=5, hardest=6, gap=10, headway=1.5, exponent_low=3.5, exponent_high=4.5,
        politeness=0, gain=0.2, imposed=2, patience=1,
        collision_reward=-1, right_lane_reward=0.1, high_speed_reward=0.4,
        rewarded_slowest=20, rewarded_fastest=30,
    )  # fmt: skip
    return HighwayTask(*(dtype(v) for v in task._replace(**changes)))
