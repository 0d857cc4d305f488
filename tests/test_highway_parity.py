"""Our Highway against highway-env's own highway-fast-v0: whole episodes in float64, steps in float32."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from envs.highway import HORIZON, observe, standard_task

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

from highway_reference import (  # noqa: E402
    CAREFUL,
    CONFIGS,
    ENV,
    RECKLESS,
    cast,
    compare,
    make,
    play,
    replayed,
    single_differences,
    single_steps,
    stack,
    state_of,
)


@pytest.fixture(scope="module")
def journeys():
    wanted = [(name, seed, CAREFUL if seed else RECKLESS) for name in CONFIGS for seed in range(4)]
    return [(name, play(name, seed, mood)) for name, seed, mood in wanted]


def check_episodes(journeys):
    """Whole episodes in float64: every vehicle, observation, reward and ending."""
    for i, (name, journey, ours) in enumerate(replayed(journeys)):
        assert ours.state.x.dtype == ours.reward.dtype == np.float64
        found = compare(name, journey, ours)
        assert max(found.values()) < 1e-6, (name, i, found)


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
    steps = single_steps(journeys)
    assert steps.ours.state.x.dtype == steps.ours.reward.dtype == np.float32 and len(steps.same) > 100
    found = single_differences(steps, journeys)
    assert found["same lanes"] > 0.99 and found["terminated"] == 0, found
    limits = {"x": 2e-3, "y": 1e-3, "speed": 1e-3, "heading": 1e-3, "reward": 1e-4, "obs": 1e-4}
    assert all(found[field] < limit for field, limit in limits.items()), found
    # Five steps of 0.2 s are not more than a second, in float32 neither.
    timers = steps.ours.state.timer[:, 1:] - steps.theirs.timer[:, 1:]
    assert np.abs(np.where(steps.present[:, 1:], timers, 0))[steps.same & steps.decided].max() < 1e-4


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
        np.testing.assert_allclose(observe(cast(state_of(env), np.float32), task), obs.ravel(), atol=1e-6)
