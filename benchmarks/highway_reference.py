"""highway-env's own highway-fast-v0 beside our Highway: episodes of it, and our replay of them.

Read by benchmarks/highway.py and by tests/test_highway_parity.py.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple
from unittest import mock

import gymnasium
import highway_env
import jax
import jax.numpy as jnp
import numpy as np
from highway_env.vehicle.behavior import IDMVehicle

from envs.highway import HORIZON, Highway, standard_task
from envs.highway_road import HighwayState
from pgx_jax.tasks import Step

gymnasium.register_envs(highway_env)
PLACES = 24
ENV = Highway(places=PLACES)

CONFIGS = {
    # name: (settings of highway-env, the drivers' class attributes, speed limit, our task)
    "standard": ({}, {}, 30, {}),
    "four crowded lanes": (
        {"vehicles_density": 2.5, "lanes_count": 4, "vehicles_count": PLACES}, {}, 30,
        {"density": 2.5, "lanes_count": 4, "vehicles_count": PLACES},
    ),
    "two lanes": (
        {"vehicles_density": 1.7, "lanes_count": 2, "vehicles_count": 15, "ego_spacing": 1}, {}, 30,
        {"density": 1.7, "lanes_count": 2, "vehicles_count": 15, "ego_spacing": 1},
    ),
    "one lane": (
        {"lanes_count": 1, "vehicles_count": 3}, {}, 30, {"lanes_count": 1, "vehicles_count": 3},
    ),
    "other drivers": (
        {
            "vehicles_density": 2, "lanes_count": 5, "vehicles_count": 20,
            "action": {"type": "DiscreteMetaAction", "target_speeds": [15, 24, 33]},
            "collision_reward": -2, "right_lane_reward": 0.5, "high_speed_reward": 0.7,
            "reward_speed_range": [15, 33],
        },
        {
            "COMFORT_ACC_MAX": 2.5, "COMFORT_ACC_MIN": -4.0, "ACC_MAX": 5.0, "DISTANCE_WANTED": 8.0,
            "TIME_WANTED": 1.1, "POLITENESS": 0.4, "LANE_CHANGE_MIN_ACC_GAIN": 0.1,
            "LANE_CHANGE_MAX_BRAKING_IMPOSED": 3.0, "LANE_CHANGE_DELAY": 0.7, "DELTA_RANGE": [2.5, 5.0],
        },
        27,
        {
            "density": 2, "lanes_count": 5, "vehicles_count": 20, "ego_slowest": 15, "ego_fastest": 33,
            "collision_reward": -2, "right_lane_reward": 0.5, "high_speed_reward": 0.7,
            "rewarded_slowest": 15, "rewarded_fastest": 33, "speed_limit": 27,
            "acceleration": 2.5, "braking": 4, "hardest": 5, "gap": 8, "headway": 1.1, "politeness": 0.4,
            "gain": 0.1, "imposed": 3, "patience": 0.7, "exponent_low": 2.5, "exponent_high": 5,
        },
    ),
}  # fmt: skip
RECKLESS, CAREFUL = (0.2, 0.25, 0.2, 0.3, 0.05), (0.04, 0.3, 0.04, 0.04, 0.58)
"""Probabilities of the five actions."""


class Journey(NamedTuple):
    """An episode of highway-env, T steps."""

    states: list
    """T + 1 states, as ours."""
    actions: list
    obs: list
    """T observations, after the steps."""
    rewards: list
    terminated: list
    aborted: int
    """Lane changes that drivers aborted."""


def make(config):
    """highway-env's highway-fast-v0 with other settings."""
    return gymnasium.make("highway-fast-v0", config=config).unwrapped


def state_of(env) -> HighwayState:
    """highway-env's state as ours, in float64; vehicles in the order of its road, empty places 0."""

    def column(read, dtype=np.float64):
        values = np.zeros(PLACES + 1, dtype)
        values[: len(env.road.vehicles)] = [read(v) for v in env.road.vehicles]
        return values

    return HighwayState(
        x=column(lambda v: v.position[0]),
        y=column(lambda v: v.position[1]),
        heading=column(lambda v: v.heading),
        speed=column(lambda v: v.speed),
        target_lane=column(lambda v: v.target_lane_index[2], np.int32),
        target_speed=column(lambda v: v.target_speed),
        timer=column(lambda v: getattr(v, "timer", 0.0)),
        exponent=column(lambda v: getattr(v, "DELTA", 4.0)),
        crashed=column(lambda v: v.crashed, bool),
        impact_x=column(lambda v: 0.0 if v.impact is None else v.impact[0]),
        impact_y=column(lambda v: 0.0 if v.impact is None else v.impact[1]),
        hit=column(lambda v: v.impact is not None, bool),
    )


@contextlib.contextmanager
def drivers(attributes, aborted):
    """highway-env's drivers with other attributes; appends to ``aborted`` when one aborts."""
    original = IDMVehicle.change_lane_policy

    def counted(self):
        before = self.target_lane_index
        original(self)
        if before not in (self.lane_index, self.target_lane_index):
            aborted.append(self)

    with mock.patch.multiple(IDMVehicle, change_lane_policy=counted, **attributes):
        yield


def play(name, seed, probabilities) -> Journey:
    """Play an episode in highway-env with random actions; odd seeds make the traffic want all speeds."""
    config, attributes, limit, _ = CONFIGS[name]
    rng, aborted = np.random.default_rng(seed), []
    with drivers(attributes, aborted):
        env = make(config)
        env.reset(seed=seed)
        for lane in env.road.network.lanes_list():
            lane.speed_limit = limit
        for vehicle in env.road.vehicles[1:] if seed % 2 else []:
            vehicle.target_speed = rng.uniform(14, 30)
        states, rows, done = [state_of(env)], [], False
        while not done:
            action = int(rng.choice(5, p=probabilities))
            obs, reward, terminated, truncated, _ = env.step(action)
            states.append(state_of(env))
            rows.append((action, obs.ravel(), reward, terminated))
            done = terminated or truncated
    assert truncated == (len(rows) == HORIZON)
    return Journey(states, *map(list, zip(*rows, strict=True)), len(aborted))


def stack(trees):
    """Trees of one structure as one, with a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def tasks_of(names, dtype):
    """Our tasks of the traffics in CONFIGS, stacked."""
    return stack([standard_task(dtype, **CONFIGS[name][3]) for name in names])


@jax.jit
def replay(tasks, states, actions):
    """Run episodes from their first states: actions [J, T] -> Steps [J, T]."""

    def one(task, state, actions):
        def advance(state, action):
            step = ENV.step(jax.random.PRNGKey(0), state, action, task)
            return step.state, step

        return jax.lax.scan(advance, state, actions)[1]

    return jax.vmap(one)(tasks, states, actions)


def differences(ours, theirs, vehicles):
    """Largest difference of each field over vehicles and episodes, as {field: float}."""
    found = {}
    for field in HighwayState._fields:
        a, b = (np.asarray(getattr(tree, field), float)[..., :vehicles] for tree in (ours, theirs))
        if field == "timer":  # the ego vehicle has none
            a, b = a[..., 1:], b[..., 1:]
        if field.startswith("impact"):  # says something where ``hit`` does
            a, b = (np.where(theirs.hit[..., :vehicles], value, 0) for value in (a, b))
        found[field] = float(np.abs(a - b).max())
    return found


def in_line(journey):
    """Whether it ends as the ego vehicle runs into one exactly before it: only rounding errors say then
    which of the two is pushed to the left."""
    before, after = journey.states[-2:]
    others = after.crashed[1:] & (np.abs(before.y[1:] - before.y[0]) < 1e-6)
    return bool(after.crashed[0] and others.any())


def sideways(state):
    """How far every vehicle is from the middle of its target lane."""
    return np.abs(state.y - 4 * state.target_lane)


def replayed(journeys, dtype=np.float64):
    """Replay whole episodes from their first states; yields (name, journey, our Steps [T]) of each.

    Args:
        journeys: (name, journey) each.
        dtype: float64 needs JAX's x64 mode, which is on meanwhile.
    """
    names, played = zip(*journeys, strict=True)
    actions = np.stack([j.actions + [1] * (HORIZON - len(j.actions)) for j in played])
    with jax.enable_x64(dtype == np.float64):
        start = jax.tree.map(jnp.asarray, cast(stack([j.states[0] for j in played]), dtype))
        steps = jax.tree.map(np.asarray, replay(tasks_of(names, dtype), start, actions))
    for i, (name, journey) in enumerate(journeys):
        yield name, journey, jax.tree.map(lambda leaf, i=i, j=journey: leaf[i, : len(j.actions)], steps)


def cast(tree, dtype):
    """The tree with its float64 leaves in another type."""
    return jax.tree.map(lambda v: v.astype(dtype) if v.dtype == np.float64 else v, tree)


def compare(name, journey, ours):
    """Largest differences {field: float} of an episode's replay; "terminated" counts steps.

    Of the last step of an episode that ends ``in_line`` only what a mirror leaves is compared.
    """
    theirs = stack(journey.states[1:])
    vehicles = 1 + int(standard_task(**CONFIGS[name][3]).vehicles_count)
    found = {
        "reward": np.abs(ours.reward - journey.rewards).max(),
        "terminated": np.sum(ours.terminated != journey.terminated),
    }
    if in_line(journey):
        a, b = jax.tree.map(lambda leaf: leaf[-1], (ours.state, theirs))
        found["last x"] = np.abs(a.x - b.x).max()
        found["last y"] = np.abs(sideways(a) - sideways(b)).max()
        ours, theirs = jax.tree.map(lambda leaf: leaf[:-1], (ours, theirs))
    if len(ours.reward):
        found |= differences(ours.state, theirs, vehicles)
        found["obs"] = np.abs(ours.obs - np.stack(journey.obs)[: len(ours.obs)]).max()
    return {field: float(value) for field, value in found.items()}


class SingleSteps(NamedTuple):
    """Every step of episodes, once from highway-env's own state in float32: S steps."""

    ours: Step
    theirs: HighwayState
    """The states that the steps led to there."""
    present: np.ndarray
    """bool [S, V]."""
    same: np.ndarray
    """bool [S]: whether all vehicles drive to the same lanes. A decision may fall the other way where its
    two sides are equal to 7 digits."""
    decided: np.ndarray
    """bool [S]: False for the last steps of episodes that end ``in_line``."""


def single_steps(journeys) -> SingleSteps:
    """Take every step of the episodes in float32, from the state that highway-env was in."""
    names = [name for name, journey in journeys for _ in journey.actions]
    played = [journey for _, journey in journeys]
    before = stack([state for j in played for state in j.states[:-1]])
    after = stack([state for j in played for state in j.states[1:]])
    actions, tasks = np.concatenate([j.actions for j in played])[:, None], tasks_of(names, np.float32)
    ours = jax.tree.map(lambda leaf: np.asarray(leaf[:, 0]), replay(tasks, cast(before, np.float32), actions))
    present = np.arange(PLACES + 1) <= tasks.vehicles_count[:, None]
    same = np.all((ours.state.target_lane == after.target_lane) | ~present, axis=1)
    lines = np.concatenate([np.arange(len(j.actions)) < len(j.actions) - in_line(j) for j in played])
    return SingleSteps(ours, after, present, same, lines)


def single_differences(steps: SingleSteps, journeys) -> dict[str, float]:
    """Largest differences of single steps; those of the vehicles only where the lanes are the same."""
    usable = steps.same & steps.decided
    found = {"same lanes": float(steps.same.mean()), "steps": len(steps.same)}
    for field in ("x", "y", "speed", "heading"):
        a, b = getattr(steps.ours.state, field), getattr(steps.theirs, field)
        found[field] = float(np.abs(np.where(steps.present, a - b, 0))[usable].max())
    rewards, obs, terminated = (
        np.concatenate([getattr(j, name) for _, j in journeys]) for name in ("rewards", "obs", "terminated")
    )
    found["reward"] = float(np.abs(steps.ours.reward - rewards)[steps.same].max())
    found["obs"] = float(np.abs(steps.ours.obs - obs)[usable].max())
    found["terminated"] = int(np.sum(steps.ours.terminated != terminated))
    return found
