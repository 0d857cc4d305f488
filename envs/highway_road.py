"""The road of the Highway environment: tasks, vehicles, who is next to whom, motion and collisions.

A straight road of parallel lanes, 4 m wide; lane 0 is the leftmost and lies on y = 0, x runs along the
road. Units are metres, seconds and radians. Vehicle 0 is the ego vehicle, which the policy drives; the
others follow. Equations and constants are those of highway-env 1.12.1 (``highway-fast-v0``).

Functions work on one road; every array of vehicles is [V], and all of them are vmapped from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pgx_jax.types import Array

LANE_WIDTH = 4.0
ROAD_LENGTH = 10_000.0
LENGTH, WIDTH = 5.0, 2.0
"""A vehicle's rectangle."""
TOP_SPEED = 40.0
"""Beyond it, forwards and backwards, a vehicle's acceleration is held back."""
_REACH = LANE_WIDTH / 2 + 1.0
"""Lateral distance from the middle of a lane up to which a vehicle counts as a neighbour on it."""
_STEERED = 0.6546536707079772
"""Largest sine of the slip angle: half the tangent of the largest steering angle, pi / 3, bounds its
tangent, and sin(arctan(t)) = t / sqrt(1 + t^2)."""


class HighwayTask(NamedTuple):
    """What may vary between Highway tasks; float32 [] each, [n] for a set of tasks."""

    vehicles_count: Array
    """Vehicles besides the ego vehicle."""
    lanes_count: Array
    density: Array
    """Initial spacing of the traffic is divided by it."""
    ego_spacing: Array
    """Initial gap before the ego vehicle, in units of the spacing at density 1."""
    speed_limit: Array
    """m/s; bounds the speeds that the traffic wants."""
    traffic_slowest: Array
    """Slowest speed at which traffic starts, and which it then wants to keep, in m/s."""
    traffic_fastest: Array
    ego_start: Array
    """Initial speed of the ego vehicle, in m/s."""
    ego_slowest: Array
    """Lowest of the ego vehicle's three speeds, in m/s."""
    ego_fastest: Array
    acceleration: Array
    """Comfortable acceleration of the drivers, in m/s^2 (IDM's a)."""
    braking: Array
    """Comfortable braking, a positive number in m/s^2 (IDM's b)."""
    hardest: Array
    """Largest acceleration and braking of all, in m/s^2."""
    gap: Array
    """Wanted distance between the middles of two standing vehicles, in metres (IDM's s0 + length)."""
    headway: Array
    """Wanted time to the vehicle ahead, in seconds (IDM's T)."""
    exponent_low: Array
    """Range of IDM's exponent delta, drawn for every vehicle."""
    exponent_high: Array
    politeness: Array
    """Weight of the followers' gains in a lane change (MOBIL's p)."""
    gain: Array
    """Least gain of acceleration that is worth a lane change, in m/s^2."""
    imposed: Array
    """Hardest braking that a lane change may impose on the new follower, in m/s^2."""
    patience: Array
    """Time between two thoughts about a lane change, in seconds."""
    collision_reward: Array
    right_lane_reward: Array
    high_speed_reward: Array
    rewarded_slowest: Array
    """Forward speed at which the reward of speed is 0, in m/s."""
    rewarded_fastest: Array
    """Forward speed from which on the reward of speed is full."""


class HighwayState(NamedTuple):
    """All vehicles on the road, [V] each; places above ``vehicles_count`` are empty."""

    x: Array
    y: Array
    heading: Array
    speed: Array
    target_lane: Array
    """int32: the lane that the vehicle drives in or changes to."""
    target_speed: Array
    timer: Array
    """Seconds since the vehicle last thought about changing its lane."""
    exponent: Array
    crashed: Array
    impact_x: Array
    """Displacement that the next simulation step adds, where a vehicle is about to be hit."""
    impact_y: Array
    hit: Array
    """bool: whether there is such a displacement."""


class Motion(NamedTuple):
    """What one simulation step needs to know of the vehicles, [V] each; computed once a step."""

    x: Array
    y: Array
    speed: Array
    cos: Array
    """Of the heading."""
    sin: Array
    lane: Array
    """int32: the nearest lane."""
    wanted: Array
    """The speed that the driver wants and may drive."""
    on_road: Array
    """bool: there is a vehicle, and it is not beyond an end of the road."""


class Vehicle(NamedTuple):
    """What a driver needs to know of a vehicle."""

    x: Array
    speed: Array
    cos: Array
    sin: Array
    wanted: Array

    @property
    def found(self) -> Array:
        """bool: whether it is a vehicle and not a place for one."""
        return jnp.isfinite(self.x)


def nearest_lane(y: Array, task: HighwayTask) -> Array:
    """int32: the lane whose middle is nearest; the left one of two that are equally near."""
    return jnp.clip(jnp.ceil(y / LANE_WIDTH - 0.5), 0, task.lanes_count - 1).astype(jnp.int32)


def beside(y: Array, lane: Array) -> Array:
    """Lateral distance to the middle of a lane, positive to its right."""
    return y - LANE_WIDTH * lane


def within(x: Array, start: float = 0.0) -> Array:
    """Whether x lies on the road, which may be said to begin at ``start``."""
    return (x >= start) & (x < ROAD_LENGTH + LENGTH)


def present(state: HighwayState, task: HighwayTask) -> Array:
    """bool [V]: which places hold a vehicle."""
    return jnp.arange(state.x.shape[0]) <= task.vehicles_count


def motion(state: HighwayState, task: HighwayTask) -> Motion:
    """Compute what a simulation step needs."""
    return Motion(
        state.x,
        state.y,
        state.speed,
        jnp.cos(state.heading),
        jnp.sin(state.heading),
        nearest_lane(state.y, task),
        jnp.clip(state.target_speed, 0, task.speed_limit),
        present(state, task) & within(state.x, -LENGTH),
    )


def neighbours(now: Motion, lanes: Sequence[Array]) -> list[tuple[Vehicle, Vehicle]]:
    """Find the vehicle ahead and the one behind of every vehicle, were it in other lanes.

    Args:
        now: the vehicles.
        lanes: int [V] each, a lane for every vehicle.

    Returns:
        for every item of ``lanes`` the vehicles ahead (abreast counts as ahead; of two at one place the
        later one) and those behind (of two at one place the earlier one), every field [V]. Where there
        is none, x is +inf or -inf and the rest 0.
    """
    number = jnp.arange(now.x.shape[0])
    zero = jnp.zeros_like(now.x)
    nobody = [Vehicle(jnp.full_like(zero, end), *[zero] * 4) for end in (jnp.inf, -jnp.inf)]

    def meet(found, other):
        vehicle, y, on_road, index = other
        front = (vehicle.x >= now.x) & on_road & (index != number)
        rear = (vehicle.x < now.x) & on_road
        after = []
        for lane, (ahead, behind) in zip(lanes, found, strict=True):
            near = jnp.abs(beside(y, lane)) <= _REACH
            ahead = _choose(near & front & (vehicle.x <= ahead.x), vehicle, ahead)
            behind = _choose(near & rear & (vehicle.x > behind.x), vehicle, behind)
            after.append((ahead, behind))
        return after, None

    # Unrolled, the pass over the other vehicles is one fused loop that keeps its findings at hand: on a
    # CPU much faster than minima over a matrix [V, V], and than looking properties up by number.
    vehicles = Vehicle(now.x, now.speed, now.cos, now.sin, now.wanted)
    others = vehicles, now.y, now.on_road, number
    return jax.lax.scan(meet, [tuple(nobody)] * len(lanes), others, unroll=True)[0]


def _choose(where: Array, new: Vehicle, old: Vehicle) -> Vehicle:
    return jax.tree.map(lambda a, b: jnp.where(where, a, b), new, old)


def move(state: HighwayState, sine: Array, acceleration: Array, task: HighwayTask, dt: float) -> HighwayState:
    """Move all vehicles by one simulation step of the kinematic bicycle model.

    Args:
        state: the vehicles.
        sine: [V], sine of the slip angle at the centre of gravity, which the steering wheel sets.
        acceleration: [V], m/s^2.
        task: says which places are empty; those stay as they are.
        dt: length of the step, in seconds.

    Crashed vehicles go straight and brake; a displacement by a collision is added, and is a crash.
    """
    dt = jnp.where(present(state, task), dt, 0)
    sine = jnp.where(state.crashed, 0, jnp.clip(sine, -_STEERED, _STEERED))
    acceleration = jnp.where(state.crashed, -state.speed, acceleration)
    bounded = jnp.clip(acceleration, -TOP_SPEED - state.speed, TOP_SPEED - state.speed)
    acceleration = jnp.where(jnp.abs(state.speed) > TOP_SPEED, bounded, acceleration)
    cosine, cos, sin = jnp.sqrt(1 - sine**2), jnp.cos(state.heading), jnp.sin(state.heading)
    x = state.x + state.speed * (cos * cosine - sin * sine) * dt
    y = state.y + state.speed * (sin * cosine + cos * sine) * dt
    return state._replace(
        x=x + jnp.where(state.hit, state.impact_x, 0),
        y=y + jnp.where(state.hit, state.impact_y, 0),
        heading=state.heading + state.speed * sine / (LENGTH / 2) * dt,
        speed=state.speed + acceleration * dt,
        timer=state.timer + dt,
        crashed=state.crashed | state.hit,
        hit=jnp.zeros_like(state.hit),
    )


def collide(state: HighwayState, now: Motion, dt: float) -> HighwayState:
    """Let the ego vehicle collide with the others; the others never collide among themselves.

    Rectangles that overlap crash. Rectangles that overlap now, or will if both keep their velocity for
    another step, are pushed apart along the axis of the least overlap, half each, in the next step; the
    ego vehicle is pushed by the last vehicle of several. (Separating axes, each in both directions: of
    rectangles within each other's projection the two directions tell different overlaps.)

    Args:
        state: the vehicles after a step.
        now: the same vehicles.
        dt: length of a step, in seconds.
    """
    x, y = now.x - now.x[0], now.y - now.y[0]
    turn_cos = now.cos[0] * now.cos + now.sin[0] * now.sin
    turn_sin = now.cos[0] * now.sin - now.sin[0] * now.cos
    speed_x, speed_y = (now.speed[0] * v[0] - now.speed * v for v in (now.cos, now.sin))
    along = LENGTH / 2 * jnp.abs(turn_cos) + WIDTH / 2 * jnp.abs(turn_sin)
    across = LENGTH / 2 * jnp.abs(turn_sin) + WIDTH / 2 * jnp.abs(turn_cos)

    apart = jnp.zeros(x.shape, bool)
    missing = jnp.zeros(x.shape, bool)
    least, push_x, push_y = jnp.full_like(x, jnp.inf), jnp.zeros_like(x), jnp.zeros_like(x)
    cos, sin = (jnp.broadcast_to(v[0], v.shape) for v in (now.cos, now.sin))
    for w_x, w_y, own, other in (
        (cos, sin, LENGTH / 2, along),
        (-sin, cos, WIDTH / 2, across),
        (now.cos, now.sin, along, LENGTH / 2),
        (-now.sin, now.cos, across, WIDTH / 2),
    ):
        place = x * w_x + y * w_y
        ahead = (speed_x * w_x + speed_y * w_y) * dt
        apart |= jnp.abs(place) > own + other
        low, high = jnp.minimum(ahead, 0) - own, jnp.maximum(ahead, 0) + own
        left, right = low - (place + other), (place - other) - high
        distances = jnp.where(low < place - other, right, left), jnp.where(high > place + other, left, right)
        missing |= jnp.maximum(*distances) > 0
        depth = jnp.minimum(*(jnp.abs(d) for d in distances))
        better = depth < least
        least = jnp.where(better, depth, least)
        side = jnp.where(place < 0, 1, -1) * depth
        push_x, push_y = (jnp.where(better, side * w, p) for w, p in ((w_x, push_x), (w_y, push_y)))

    close = jnp.hypot(x, y) <= jnp.hypot(LENGTH, WIDTH) + now.speed[0] * dt
    number = jnp.arange(x.shape[0])
    near = close & now.on_road & (number > 0)
    crashed, hit = near & ~apart, near & ~missing
    last = jnp.argmax(jnp.where(hit, number, 0))
    ego = number == 0
    return state._replace(
        crashed=state.crashed | crashed | (ego & crashed.any()),
        hit=hit | (ego & hit.any()),
        impact_x=jnp.where(ego, push_x[last] / 2, -push_x / 2),
        impact_y=jnp.where(ego, push_y[last] / 2, -push_y / 2),
    )
