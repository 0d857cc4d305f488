"""Our Highway by itself: its fast paths against loops, its tasks, and the families that are made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.highway import HORIZON, Highway, HighwayState, standard_task
from envs.highway_drawing import highway
from envs.highway_drivers import FASTER, IDLE, LEFT, RIGHT, SLOWER, aborts
from envs.highway_objectives import KINDS, HighwayObjectives
from envs.highway_road import motion, neighbours
from pgx_jax.errors import ConfigError
from pgx_jax.tasks.registry import make_family

COUNT = 40  # more than the bits of one word
TASK = standard_task(lanes_count=4, vehicles_count=COUNT - 1)


def crowd(seed):
    """A state of many vehicles close together, half of them changing lanes; some stand abreast."""
    rng = np.random.default_rng(seed)
    lane = rng.integers(0, 4, COUNT)
    target = np.clip(lane + rng.integers(-1, 2, COUNT), 0, 3)
    zero, never = np.zeros(COUNT, np.float32), np.zeros(COUNT, bool)
    return HighwayState(
        x=rng.integers(100, 400, COUNT).astype(np.float32),
        y=(4 * lane + rng.uniform(-1.9, 1.9, COUNT)).astype(np.float32),
        heading=rng.normal(0, 0.1, COUNT).astype(np.float32),
        speed=rng.uniform(15, 30, COUNT).astype(np.float32),
        target_lane=target.astype(np.int32),
        target_speed=zero + 25, timer=zero, exponent=zero + 4,
        crashed=never, impact_x=zero, impact_y=zero, hit=never,
    )  # fmt: skip


@jax.jit
def found(state, lanes):
    return neighbours(motion(state, TASK), lanes)


def test_neighbours_against_a_loop():
    for seed in range(3):
        state = crowd(seed)
        lanes = [np.round(state.y / 4).astype(int) + k for k in (0, -1, 1)]
        x, y = state.x, state.y
        for lane, (ahead, behind) in zip(lanes, found(state, lanes), strict=True):
            for i in range(COUNT):
                near = [j for j in range(COUNT) if j != i and abs(y[j] - 4 * lane[i]) <= 3]
                front = [(x[j], -j) for j in near if x[j] >= x[i]]
                rear = [(x[j], -j) for j in near if x[j] < x[i]]
                wanted = -min(front)[1] if front else None, -max(rear)[1] if rear else None
                # of two at one place the later one is ahead, the earlier one behind
                if front:
                    wanted = max(j for j in near if x[j] == min(front)[0]), wanted[1]
                for number, vehicle, end in zip(wanted, (ahead, behind), (np.inf, -np.inf), strict=True):
                    assert vehicle.x[i] == (end if number is None else x[number])
                    assert vehicle.speed[i] == (0 if number is None else state.speed[number])


@jax.jit
def aborted(state, before, after, active):
    return aborts(motion(state, TASK), before, after, active, TASK)


def aborts_in_order(state, before, after, active):
    """The rule as a loop: one vehicle after the other, with the targets as they stand."""
    lane = np.clip(np.ceil(state.y / 4 - 0.5), 0, 3).astype(int)
    target, stopped = before.copy(), np.zeros(COUNT, bool)
    for i in range(COUNT):
        target[i] = after[i]
        for j in range(COUNT) if active[i] else ():
            if j == i or lane[j] == target[i] or target[j] != target[i]:
                continue
            facing = state.speed[j] * np.cos(state.heading[j] - state.heading[i])
            gap = 10 + 1.5 * state.speed[i] + state.speed[i] * (state.speed[i] - facing) / (2 * np.sqrt(15))
            if 0 < state.x[j] - state.x[i] < gap:
                stopped[i], target[i] = True, lane[i]
                break
    return stopped


def test_aborted_lane_changes_against_a_loop():
    total = 0
    for seed in range(20):
        state, rng = crowd(seed), np.random.default_rng(seed)
        lane = np.clip(np.ceil(state.y / 4 - 0.5), 0, 3).astype(np.int32)
        before = state.target_lane
        active = (before != lane) & (rng.random(COUNT) < 0.8)
        new = np.clip(lane + rng.integers(-1, 2, COUNT), 0, 3).astype(np.int32)
        after = np.where((before == lane) & (rng.random(COUNT) < 0.5), new, before)
        wanted = aborts_in_order(state, before, after, active)
        np.testing.assert_array_equal(aborted(state, before, after, active), wanted)
        alone = aborted(state, before, np.where(active, lane, after), active)
        total += np.sum(np.asarray(alone) != wanted)  # what others decided matters
    assert total > 10


@jax.jit
def two_sizes(key, actions):
    """The same tasks [2] in an environment with room for 6 vehicles and in one for 9."""
    task = standard_task(vehicles_count=6, lanes_count=2)

    def run(env, state):
        def advance(state, action):
            step = env.step(key, state, action, task)
            return step.state, (step.obs, step.reward, step.terminated)

        return jax.lax.scan(advance, state, actions)

    state, _ = Highway(6).reset(key, task)
    padded = jax.tree.map(lambda v: jnp.pad(v, (0, 3), constant_values=v.dtype.type(1)), state)
    padded = padded._replace(hit=jnp.pad(state.hit, (0, 3)))
    return run(Highway(6), state), run(Highway(9), padded)


def test_empty_places_are_not_there():
    actions = np.random.default_rng(0).integers(0, 5, 12)
    (small, seen), (large, same) = two_sizes(jax.random.PRNGKey(1), actions)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), seen, same)
    for a, b in zip(small, large, strict=True):
        np.testing.assert_allclose(a, b[:7], rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(large.x[7:], 1)


def rules(t, state):
    """The action of three ways to drive: fast where there is room, slow on the left, fast on the right."""
    front = (jnp.abs(state.y - state.y[0]) < 3) & (state.x > state.x[0])
    gap = jnp.min(jnp.where(front, state.x - state.x[0], jnp.inf))
    swift = jnp.where(gap < 40, SLOWER, FASTER)
    return jnp.stack([swift, jnp.where(t < 3, LEFT, SLOWER), jnp.where(t < 3, RIGHT, swift)])


def test_the_kinds_of_objectives_pull_apart():
    family = make_family("highway-objectives", n_tasks=6, vehicles=10)

    def one(rule, task, key):
        state, _ = family.env.reset(key, task)

        def advance(carry, t):
            state, alive = carry
            step = family.env.step(key, state, rules(t, state)[rule], task)
            return (step.state, alive & ~step.terminated), (step.reward * alive, step.objectives * alive)

        return jax.lax.scan(advance, (state, True), jnp.arange(HORIZON))[1]

    keys = jax.random.split(jax.random.PRNGKey(0), 16)
    episodes = jax.vmap(jax.vmap(jax.vmap(one, (None, None, 0)), (None, 0, None)), (0, None, None))
    rewards, values = jax.jit(episodes)(jnp.arange(3), family.tasks, keys)
    # The reward is the weighted vector reward, which does not depend on the weights itself.
    np.testing.assert_allclose(rewards, np.einsum("rnetk,nk->rnet", values, family.objectives), atol=1e-5)
    np.testing.assert_allclose(values, np.broadcast_to(values[:, :1], values.shape), atol=1e-5)
    kinds = np.array([name.split("_")[1] for name in family.task_names])
    assert set(kinds) == set(KINDS) and len(np.unique(family.true_groups)) == 3
    returns = np.asarray(rewards).sum(-1).mean(-1)
    scores = np.stack([returns[:, kinds == kind].mean(1) for kind in KINDS], 1)  # [rule, kind]
    assert (scores.argmax(0) == [0, 1, 2]).all(), scores


def test_families_say_what_is_wrong():
    for settings, words in (
        ({"density": (0, 1)}, "density"), ({"lanes": (3, 2)}, "lanes"), ({"lanes": (2.5, 3)}, "lanes"),
        ({"vehicles": 7}, "vehicles"), ({"vehicles": (1, 1000)}, "vehicles"), ({"horizon": 0}, "horizon"),
        ({"speed_limit": (30, 20)}, "speed_limit"), ({"n_tasks": 1}, "n_tasks"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            make_family("highway-traffic", **settings)
    for settings, words in (
        ({"n_groups": 4}, "n_groups"), ({"spread": -1}, "spread"), ({"vehicles": 999}, "vehicles"),
        ({"lanes": 1}, "lanes"), ({"density": 0}, "density"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            make_family("highway-objectives", **settings)


def test_traffic_lies_in_its_ranges():
    family = make_family("highway-traffic", n_tasks=40, lanes=(2, 5), vehicles=(3, 12), seed=1)
    unseen = family.sample_test_tasks(jax.random.PRNGKey(0), 40)
    for tasks in (family.tasks, unseen):
        assert set(np.unique(tasks.lanes_count)) == {2, 3, 4, 5}
        assert tasks.vehicles_count.min() == 3 and tasks.vehicles_count.max() == 12
        assert 0.6 <= tasks.density.min() < 0.8 and 1.4 < tasks.density.max() <= 1.8
        np.testing.assert_allclose(tasks.traffic_fastest, 0.8 * tasks.speed_limit, rtol=1e-6)
    assert family.env.places == 12 and not np.isin(unseen.density, family.tasks.density).any()
    assert family.env == make_family("highway-traffic", seed=5, vehicles=(1, 12)).env
    assert HighwayObjectives(10) == make_family("highway-objectives", vehicles=10).env


def test_pictures_show_the_ego_vehicle_and_crashes():
    task = standard_task(vehicles_count=3)
    state, _ = Highway(3).reset(jax.random.PRNGKey(0), task)
    state = jax.tree.map(np.asarray, state)
    image = highway(state, task)

    def amount(image, channel):
        strong = image[..., channel].astype(int) - np.delete(image, channel, -1).max(-1)
        return (strong > 40).sum()

    assert amount(image, 1) > 100 and amount(image, 0) == 0  # one green car, no red one
    crashed = highway(state._replace(crashed=np.arange(4) == 0), task)
    assert amount(crashed, 1) == 0 and amount(crashed, 0) > 100
    moved = highway(state._replace(x=state.x + 5), task)
    assert not np.array_equal(image, moved) and IDLE == 1  # the dashes move
