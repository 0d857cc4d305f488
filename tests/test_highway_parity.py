"""Our Highway against highway-env's own highway-fast-v0: whole episodes in float64, steps in float32."""

import contextlib
from typing import NamedTuple
from unittest import mock

import gymnasium
import highway_env
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from highway_env.vehicle.behavior import IDMVehicle

from envs.highway import HORIZON, Highway, HighwayState, observe, standard_task

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
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def tasks_of(names, dtype):
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


@pytest.fixture(scope="module")
def journeys():
    wanted = [(name, seed, CAREFUL if seed else RECKLESS) for name in CONFIGS for seed in range(4)]
    return [(name, play(name, seed, mood)) for name, seed, mood in wanted]


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


def check_episodes(journeys):
    """Whole episodes in float64: every vehicle, observation, reward and ending; returns the worst."""
    worst = 0.0
    with jax.enable_x64(True):
        names, played = zip(*journeys, strict=True)
        actions = np.stack([j.actions + [1] * (HORIZON - len(j.actions)) for j in played])
        start = stack([j.states[0] for j in played])
        steps = replay(tasks_of(names, np.float64), jax.tree.map(jnp.asarray, start), actions)
        steps = jax.tree.map(np.asarray, steps)
    assert steps.state.x.dtype == steps.reward.dtype == np.float64
    for i, (name, journey) in enumerate(journeys):
        length = len(journey.actions)
        ours = jax.tree.map(lambda leaf, i=i, length=length: leaf[i, :length], steps)
        vehicles = 1 + int(standard_task(**CONFIGS[name][3]).vehicles_count)
        found = differences(ours.state, stack(journey.states[1:]), vehicles)
        found["reward"] = np.abs(ours.reward - journey.rewards).max()
        found["obs"] = np.abs(ours.obs - np.stack(journey.obs)).max()
        assert max(found.values()) < 1e-6, (name, i, found)
        np.testing.assert_array_equal(ours.terminated, journey.terminated)
        worst = max(worst, *found.values())
    return worst


def test_whole_episodes_agree_in_float64(journeys):
    check_episodes(journeys)
    played = [journey for _, journey in journeys]
    # The episodes contain all that can go wrong: lane changes and aborted ones, crashes, vehicles
    # pushed apart by one, and time limits.
    after = stack([state for journey in played for state in journey.states[1:]])
    assert sum(journey.aborted for journey in played) >= 5
    assert np.sum(after.target_lane != np.round(after.y / 4)) > 20
    assert after.hit[:, 0].any() and sum(j.terminated[-1] for j in played) >= 5
    assert sum(len(j.actions) == HORIZON and not j.terminated[-1] for j in played) >= 3


def test_every_single_step_agrees_in_float32(journeys):
    names = [name for name, journey in journeys for _ in journey.actions]
    played = [journey for _, journey in journeys]
    before, after = (stack([s for j in played for s in j.states[cut]]) for cut in (slice(-1), slice(1, None)))
    before = jax.tree.map(lambda v: v.astype(np.float32) if v.dtype == np.float64 else v, before)
    actions = np.concatenate([j.actions for j in played])[:, None]
    steps = replay(tasks_of(names, np.float32), before, actions)
    ours = jax.tree.map(lambda leaf: np.asarray(leaf[:, 0]), steps)
    assert ours.state.x.dtype == ours.reward.dtype == np.float32 and len(names) > 200

    # A decision between lanes may fall the other way where its two sides are equal to 7 digits.
    same = (ours.state.target_lane == after.target_lane).all(1)
    assert same.mean() > 0.99
    for field, tolerance in {"x": 2e-3, "y": 1e-3, "speed": 1e-3, "heading": 1e-3}.items():
        a, b = getattr(ours.state, field), getattr(after, field)
        there = np.arange(PLACES + 1) <= tasks_of(names, np.float32).vehicles_count[:, None]
        np.testing.assert_allclose(np.where(there, a, 0)[same], b[same], rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.state.timer[same, 1:4], after.timer[same, 1:4], atol=1e-4)
    np.testing.assert_array_equal(ours.terminated[same], np.concatenate([j.terminated for j in played])[same])
    np.testing.assert_allclose(
        ours.reward[same], np.concatenate([j.rewards for j in played])[same], atol=1e-4
    )
    seen = np.concatenate([j.obs for j in played])
    np.testing.assert_allclose(ours.obs[same], seen[same], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 200, 20))
def test_many_more_episodes_agree(first):
    wanted = [(name, seed) for name in CONFIGS for seed in range(first, first + 20)]
    check_episodes([(name, play(name, seed, CAREFUL if seed % 8 else RECKLESS)) for name, seed in wanted])


@pytest.mark.parametrize("name", ["standard", "four crowded lanes"])
def test_traffic_starts_as_highway_envs(name):
    config, _, _, changes = CONFIGS[name]
    task = standard_task(**changes)
    states, _ = jax.jit(jax.vmap(ENV.reset, (0, None)))(jax.random.split(jax.random.PRNGKey(0), 2000), task)
    env, count, theirs = make(config), int(task.vehicles_count) + 1, []
    for seed in range(60):
        env.reset(seed=seed)
        theirs.append(state_of(env))
    theirs = stack(theirs)

    def summaries(state):
        gap = np.diff(state.x[:, :count], axis=1)
        yield "first place", state.x[:, 0]
        for field, values in (("gap", gap), ("speed", state.speed[:, 1:count])):
            yield field, values.ravel()
        yield "exponent", state.exponent[:, 1:count].ravel()
        yield "timer", state.timer[:, 1:count].ravel()
        yield "lane", state.y[:, :count].ravel() / 4

    ours = jax.tree.map(np.asarray, states)
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    for (what, a), (_, b) in zip(summaries(ours), summaries(theirs), strict=True):
        a, b = np.quantile(a, quantiles), np.quantile(b, quantiles)
        tolerance = 1.01 if what == "lane" else 0.06 * max(np.ptp(b), 0.1 * abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=2 * tolerance if what == "first place" else tolerance)
    same = ["target_lane", "target_speed", "crashed", "hit", "heading"]
    assert all(not getattr(ours, field).any() for field in same[2:])
    np.testing.assert_array_equal(ours.target_lane[:, :count], np.round(ours.y[:, :count] / 4))
    np.testing.assert_array_equal(ours.target_speed[:, :count], ours.speed[:, :count])
    np.testing.assert_array_equal(theirs.target_speed[:, :count], theirs.speed[:, :count])
    np.testing.assert_allclose(
        np.bincount(np.round(ours.y[:, :count] / 4).astype(int).ravel()) / ours.y[:, :count].size,
        1 / task.lanes_count,
        atol=0.02,
    )


def test_first_observations_agree():
    env, name = make({}), "standard"
    task = standard_task(**CONFIGS[name][3])
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        state = jax.tree.map(lambda v: v.astype(np.float32) if v.dtype == np.float64 else v, state_of(env))
        np.testing.assert_allclose(observe(state, task), obs.ravel(), atol=1e-6)
