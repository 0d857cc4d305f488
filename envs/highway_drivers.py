"""The drivers of the Highway environment: what every vehicle does in a simulation step.

The traffic follows the car ahead by the Intelligent Driver Model (Treiber, Hennecke and Helbing, 2000) and
changes lanes by MOBIL (Kesting, Treiber and Helbing, 2007); the ego vehicle keeps the lane and the speed
that its policy chose. All of them steer by the same cascade. Equations are highway-env 1.12.1's.

There the vehicles decide one after another. Positions, speeds and lanes stay as they are meanwhile, and a
vehicle looks at what others have decided only when it asks whether to abort a lane change that is under
way; so everything else is computed for all vehicles at once, and the aborts as the one fixed point of a
triangular system (``aborts``).
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from envs.highway_road import (
    LANE_WIDTH,
    LENGTH,
    HighwayState,
    HighwayTask,
    Motion,
    beside,
    motion,
    neighbours,
    within,
)
from pgx_jax.types import Array

LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)
"""The meta-actions of the ego vehicle."""
SPEEDS = 3
"""Number of speeds that the ego vehicle can keep, evenly spaced."""
_REACHABLE = 2 * LANE_WIDTH
_SPEED_GAIN, _LATERAL_GAIN, _HEADING_GAIN = 1 / 0.6, 1 / 0.6, 1 / 0.2
_SLOPE = math.sin(math.pi / 4)
"""Sine of the largest angle between a vehicle's wanted heading and the road."""
_STANDING = 1e-30
"""Keeps the logarithm of a standing vehicle's speed finite."""
_TICK = 1e-5
"""Tolerance of the timers: five steps of 0.2 s are one second and no more, in float32 too."""


def not_zero(value: Array) -> Array:
    """Keep a divisor away from 0, by 0.01."""
    return jnp.where(jnp.abs(value) > 1e-2, value, jnp.where(value >= 0, 1e-2, -1e-2))


def wanted_gap(driver, front, task: HighwayTask) -> Array:
    """IDM's wanted distance to a vehicle ahead, in metres; both have x, speed, cos and sin."""
    facing = front.speed * (front.cos * driver.cos + front.sin * driver.sin)
    closing = driver.speed * (driver.speed - facing)
    return task.gap + driver.speed * task.headway + closing / (2 * jnp.sqrt(task.acceleration * task.braking))


def free(driver, exponent: Array, task: HighwayTask) -> Array:
    """IDM's acceleration on a free road, in m/s^2."""
    ratio = jnp.maximum(driver.speed, 0) / not_zero(driver.wanted)
    return task.acceleration * (1 - jnp.exp(exponent * jnp.log(jnp.maximum(ratio, _STANDING))))


def interaction(driver, front, found: Array, task: HighwayTask) -> Array:
    """IDM's braking for a vehicle ahead, >= 0 in m/s^2; 0 where there is none."""
    ratio = wanted_gap(driver, front, task) / not_zero(front.x - driver.x)
    return jnp.where(found, task.acceleration * ratio**2, 0)


def steer(state: HighwayState) -> Array:
    """Steer towards the middle of the target lane: the sine of the slip angle [V].

    A lateral speed in proportion to the distance gives a heading, and the heading's error a rate of
    turning; the slip angle is the one at which the vehicle turns at that rate.
    """
    speed = not_zero(state.speed)
    sine = -_LATERAL_GAIN * beside(state.y, state.target_lane) / speed
    error = jnp.arcsin(jnp.clip(sine, -_SLOPE, _SLOPE)) - state.heading
    error = error - 2 * jnp.pi * jnp.round(error / (2 * jnp.pi))
    return jnp.clip(LENGTH / 2 / speed * _HEADING_GAIN * error, -1, 1)


def command(state: HighwayState, action: Array, task: HighwayTask) -> HighwayState:
    """Set the ego vehicle's target lane and speed by a meta-action, int [] in 0..4."""
    lane = state.target_lane[0] + jnp.where(action == RIGHT, 1, jnp.where(action == LEFT, -1, 0))
    lane = jnp.clip(lane, 0, (task.lanes_count - 1).astype(lane.dtype))
    open_to_it = (jnp.abs(beside(state.y[0], lane)) <= _REACHABLE) & within(state.x[0])
    lane = jnp.where(open_to_it, lane, state.target_lane[0])
    level = speed_level(state.speed[0], task)
    level = jnp.clip(level + jnp.where(action == FASTER, 1, -1), 0, SPEEDS - 1)
    faster_or_slower = (action == FASTER) | (action == SLOWER)
    speed = jnp.where(faster_or_slower, level_speed(level, task), state.target_speed[0])
    return state._replace(
        target_lane=state.target_lane.at[0].set(lane), target_speed=state.target_speed.at[0].set(speed)
    )


def speed_level(speed: Array, task: HighwayTask) -> Array:
    """Number of the ego vehicle's speed that is nearest to ``speed``, as a float."""
    place = (speed - task.ego_slowest) / (task.ego_fastest - task.ego_slowest)
    return jnp.clip(jnp.round(place * (SPEEDS - 1)), 0, SPEEDS - 1)


def level_speed(level: Array, task: HighwayTask) -> Array:
    """The ego vehicle's speed of a number, in m/s."""
    return task.ego_slowest + level / (SPEEDS - 1) * (task.ego_fastest - task.ego_slowest)


def drive(state: HighwayState, task: HighwayTask) -> tuple[HighwayState, Array, Array]:
    """Let every vehicle decide on lane, steering and acceleration.

    Returns:
        the state with new target lanes and timers, and for every vehicle [V] the sine of the slip angle
        and the acceleration in m/s^2.
    """
    now = motion(state, task)
    ego = jnp.arange(now.x.shape[0]) == 0
    found = neighbours(now, [now.lane, now.lane - 1, now.lane + 1])
    front, rear = zip(*found, strict=True)
    free_road = free(now, state.exponent, task)
    pulls = [free_road - interaction(now, ahead, ahead.found, task) for ahead in front]

    changing = now.lane != state.target_lane
    deciding = ~changing & (state.timer > task.patience + _TICK) & ~state.crashed & ~ego
    target = state.target_lane
    for k, side in ((-1, 1), (1, 2)):
        better = _mobil(now, state.exponent, pulls, front, rear, side, task)
        exists = (now.lane + k >= 0) & (now.lane + k <= task.lanes_count - 1)
        close = (jnp.abs(beside(now.y, now.lane + k)) <= _REACHABLE) & within(now.x)
        chosen = deciding & exists & close & (jnp.abs(now.speed) >= 1) & better
        target = jnp.where(chosen, now.lane + k, target)
    stopped = aborts(now, state.target_lane, target, changing & ~state.crashed & ~ego, task)
    target = jnp.where(stopped, now.lane, target)

    onto = jnp.where(target < now.lane, pulls[1], jnp.where(target > now.lane, pulls[2], pulls[0]))
    acceleration = jnp.clip(jnp.minimum(pulls[0], onto), -task.hardest, task.hardest)
    kept = _SPEED_GAIN * (state.target_speed - state.speed)
    state = state._replace(target_lane=target, timer=jnp.where(deciding, 0, state.timer))
    return state, steer(state), jnp.where(ego, kept, acceleration)


def _mobil(now, exponent, pulls, front, rear, side: int, task: HighwayTask) -> Array:
    """Whether MOBIL recommends a lane change [V].

    Args:
        now: the vehicles.
        exponent: IDM's exponents; a driver judges others by its own.
        pulls: own acceleration in the present, the left and the right lane, [V] each.
        front, rear: the neighbours in these lanes.
        side: 1 for the left lane, 2 for the right one.
        task: the parameters.
    """
    ahead, behind, old_ahead, old_behind = front[side], rear[side], front[0], rear[0]
    new_pull = free(behind, exponent, task) - interaction(behind, now, behind.found, task)
    safe = ~behind.found | (new_pull >= -task.imposed)
    new_loss = interaction(behind, now, True, task) - interaction(behind, ahead, ahead.found, task)
    old_gain = interaction(old_behind, now, True, task)
    old_gain = old_gain - interaction(old_behind, old_ahead, old_ahead.found, task)
    others = jnp.where(old_behind.found, old_gain, 0) - jnp.where(behind.found, new_loss, 0)
    return safe & (pulls[side] - pulls[0] + task.politeness * others >= task.gain)


def aborts(now: Motion, before: Array, after: Array, active: Array, task: HighwayTask) -> Array:
    """Decide which vehicles abort the lane change that they are in [V].

    A vehicle gives way if another one that isn't in its target lane either is changing into it, ahead and
    closer than the wanted distance. Vehicles decide in their order: of those before it a vehicle sees the
    lane they have just decided on (``after``, or the present one if they aborted), of those behind it in
    the order the lane of the last step (``before``). What a vehicle decides depends on earlier ones
    alone, so repeating all decisions until none changes ends with the ones that a loop in order makes.

    Args:
        now: the vehicles.
        before: int [V], target lanes before this step.
        after: the same with the new lane changes.
        active: bool [V], who is in a lane change and may abort it.
        task: the parameters.
    """
    number = jnp.arange(now.x.shape[0])
    words = range(-(-len(number) // 32))  # sets of vehicles as bits, 32 in a word
    bits = [jnp.where(number // 32 == word, jnp.uint32(1) << (number % 32), 0) for word in words]

    def meet(carry, other):
        given, unsure = carry
        them, was, will, index, may_abort, bit = other
        distance = them.x - now.x
        rival = (distance > 0) & (distance < wanted_gap(now, them, task)) & them.on_road
        earlier = index < number
        wants = jnp.where(earlier, will, was) == before
        rival &= active & wants & (them.lane != before)
        waits = earlier & may_abort
        return (
            given | (rival & ~waits),
            [u | jnp.where(rival & waits, b, 0) for u, b in zip(unsure, bit, strict=True)],
        ), None

    nobody = jnp.zeros_like(active), [jnp.zeros_like(b) for b in bits]
    others = now, before, after, number, active, bits
    (given, unsure), _ = jax.lax.scan(meet, nobody, others, unroll=True)

    def decide(stopped):
        out = [jnp.sum(jnp.where(stopped, b, 0)) for b in bits]
        return functools.reduce(
            jnp.logical_or, [u & ~o != 0 for u, o in zip(unsure, out, strict=True)], given
        )

    start = given, decide(given)
    repeat = lambda carry: (carry[1], decide(carry[1]))  # noqa: E731
    return jax.lax.while_loop(lambda carry: jnp.any(carry[0] != carry[1]), repeat, start)[1]
