"""The contract that every registered family and every adapter keeps, on either engine.

A family is played by the core's own loop, which knows nothing of what is asked here: a script acts,
at random or with one extreme action for ever, and all checks read the same few recordings.
"""

import functools
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from hosts import host_points, pictures
from scripted import HORIZON, LENGTH, NEVER, SLOTS, play

from envs.points import PointMass
from pgx_jax.learn.rollout import Steps
from pgx_jax.tasks.describing import facts
from pgx_jax.tasks.registry import families, make_family


def gymnax(env_id, params=None, **settings):
    from envs.gymnax_adapter import gymnax_family

    return gymnax_family(env_id, params, **settings)


def gymnasium(env_id, kwargs=None, **settings):
    from envs.gymnasium_adapter import gymnasium_family

    return gymnasium_family(env_id, kwargs, **settings)


def brax(env_name, **settings):
    from envs.brax_adapter import brax_family

    return brax_family(env_name, **settings)


ADAPTERS = {
    "gymnax Pendulum-v1": partial(gymnax, "Pendulum-v1", {"g": [5.0, 10.0, 12.0]}),
    "gymnax Acrobot-v1": partial(gymnax, "Acrobot-v1", n_tasks=2),
    "gymnax Breakout-MinAtar": partial(gymnax, "Breakout-MinAtar", n_tasks=2),
    "gymnasium MountainCar-v0": partial(gymnasium, "MountainCar-v0", {"goal_velocity": [0.0, 0.01]}),
    "gymnasium pictures": pictures,
    "host points": partial(host_points, n_tasks=3),
    "brax inverted_pendulum": partial(brax, "inverted_pendulum", scale={"mass": [1, 2]}),
}
for mode in ("disabled", "same_step", "next_step"):  # what vectors do after an ending
    ADAPTERS[f"gymnasium Pendulum-v1 {mode}"] = partial(
        gymnasium, "Pendulum-v1", {"g": [5.0, 10.0, 12.0]}, vector="sync", autoreset=mode
    )
SLOW = ("ant-directions", "halfcheetah-physics", "halfcheetah-velocities", "brax inverted_pendulum")
FEW_STARTS = ("gymnax Breakout-MinAtar", "metaworld-mt1")
"""Environments that begin in one of a few states."""
TRUSTING = ("gymnax",)
"""Adapters of libraries that trust discrete actions."""


@dataclass(frozen=True)
class Mutant(PointMass):
    """Points whose environment breaks the contract in one way."""

    fault: str = ""

    def reset(self, key, task):
        return super().reset(jax.random.PRNGKey(0) if self.fault == "starts" else key, task)

    def step(self, key, state, action, task):
        if self.fault == "unsafe":  # NaN from infinite actions
            action = action - action + jnp.clip(action, -1, 1)
        out = super().step(key, state, action, task)
        if self.fault == "outside":
            out = out._replace(obs=out.obs + 5.0)
        return out


def mutant(fault):
    family = make_family("points", n_tasks=3)
    return replace(family, env=Mutant(fault=fault))


BROKEN = {fault: partial(mutant, fault) for fault in ("starts", "unsafe", "outside")}


class Case(NamedTuple):
    """A family and its recordings, Steps [T, E, ...]."""

    name: str
    family: object
    twin: object
    """The same family, built again."""
    steps: Steps
    state: object
    again: Steps
    other_seed: Steps
    other_slots: Steps
    """Only the first slot has the same task."""
    endless: Steps
    """Without a time limit."""


@functools.cache
def case(name):
    if name in families() and "pip install" in (problem := facts(name).problem):
        pytest.skip(problem)
    return record(name, ADAPTERS.get(name) or BROKEN.get(name) or partial(make_family, name))


def record(name, build):
    family = build()
    steps, state = play(family)
    more = ({}, {"seed": 1}, {"index": (0, 0, family.n - 1)}, {"horizon": NEVER})
    return Case(name, family, build(), steps, state, *(play(family, **change)[0] for change in more))


def pytest_generate_tests(metafunc):
    """Run every test on every family, one family after the other."""
    if "name" not in metafunc.fixturenames:
        return
    names = [*families(), *ADAPTERS]
    marks = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in names]
    metafunc.parametrize("name", marks, scope="module")


def test_spaces_and_dtypes(name):
    family, steps = case(name).family, case(name).steps
    shape, space = family.observation_space.shape, family.observation_space
    assert space.dtype in (np.float32, np.uint8) and steps.obs.dtype == steps.next_obs.dtype == np.float32
    assert steps.obs.shape == steps.next_obs.shape == (LENGTH, len(SLOTS), *shape)
    assert steps.reward.shape == steps.terminated.shape == (LENGTH, len(SLOTS))
    assert steps.reward.dtype == np.float32 and steps.terminated.dtype == steps.success.dtype == bool
    for obs in (steps.obs, steps.next_obs):
        margin = 1e-5 * np.maximum(1.0, np.abs(obs))
        assert (obs >= space.low - margin).all() and (obs <= space.high + margin).all()
    assert all(family.action_space.contains(a) for a in steps.action.astype(family.action_space.dtype)[:, 0])


def test_what_the_family_says_of_itself(name):
    family, twin = case(name).family, case(name).twin
    assert len(set(family.task_names)) == family.n >= 2 and family.horizon >= 1
    assert family.context.shape[0] == family.n and np.isfinite(family.context).all()
    assert family.metric in ("return", "success")
    for leaf, same in zip(jax.tree.leaves(family.tasks), jax.tree.leaves(twin.tasks), strict=True):
        np.testing.assert_array_equal(leaf, same)
        assert isinstance(leaf, np.ndarray) and (leaf.dtype.kind not in "fc" or np.isfinite(leaf).all())
    if family.engine == "device":  # equal environments share one compiled program
        assert family.env == twin.env and hash(family.env) == hash(twin.env)
    if family.true_groups is not None:
        labels = np.asarray(family.true_groups)
        assert labels.shape == (family.n,) and set(labels) == set(range(labels.max() + 1)) != {0}


def test_the_key_decides_everything(name):
    steps, again, other = case(name).steps, case(name).again, case(name).other_seed
    jax.tree.map(np.testing.assert_array_equal, steps, again)
    assert not np.array_equal(steps.action, other.action)
    if name not in FEW_STARTS:
        for slot in range(len(SLOTS)):
            assert not np.array_equal(steps.obs[0, slot], other.obs[0, slot])
        assert not np.array_equal(steps.obs[0, 0], steps.obs[0, 2])  # two slots of one task


def test_copies_know_nothing_of_each_other(name):
    steps, others = case(name).steps, case(name).other_slots
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, 0], b[:, 0]), steps, others)


def test_endings(name):
    for steps, horizon in ((case(name).steps, HORIZON), (case(name).endless, NEVER)):
        age, total = np.zeros(len(SLOTS), int), np.zeros(len(SLOTS))
        for t in range(LENGTH):
            age, total = age + 1, total + steps.reward[t]
            np.testing.assert_array_equal(steps.done[t], steps.terminated[t] | (age >= horizon))
            np.testing.assert_allclose(steps.episode_return[t], total, rtol=1e-4, atol=1e-4)
            age, total = np.where(steps.done[t], 0, age), np.where(steps.done[t], 0.0, total)
    assert steps.done.sum() == steps.terminated.sum()
    assert (case(name).steps.done.sum(0) >= LENGTH // HORIZON).all()


def test_the_last_observation_is_the_one_before_the_reset(name):
    steps, endless = case(name).steps, case(name).endless
    for slot in range(len(SLOTS)):
        end = int(np.argmax(steps.done[:, slot]))
        same = slice(0, end + 1)
        np.testing.assert_array_equal(steps.obs[same, slot], endless.obs[same, slot])
        np.testing.assert_array_equal(steps.next_obs[same, slot], endless.next_obs[same, slot])
        for t in range(LENGTH - 1):
            stays = np.array_equal(steps.obs[t + 1, slot], steps.next_obs[t, slot])
            assert stays != steps.done[t, slot]


def test_only_the_weights_of_a_vector_reward_differ(name):
    """Relabelling needs it: under all tasks the same happens, and rewards are weights times objectives."""
    family, steps, others = case(name).family, case(name).steps, case(name).other_slots
    if family.objectives is None:
        return
    for one, index in ((steps, SLOTS), (others, (0, 0, family.n - 1))):
        assert one.objectives.shape == (LENGTH, len(SLOTS), family.objectives.shape[1])
        expected = (one.objectives * family.objectives[np.asarray(index)]).sum(-1)
        np.testing.assert_allclose(one.reward, expected, rtol=1e-4, atol=1e-5)
    for what in ("obs", "next_obs", "terminated", "done", "objectives"):
        np.testing.assert_array_equal(getattr(steps, what), getattr(others, what))
    assert np.ptp(steps.objectives, axis=(0, 1)).max() > 0


def extremes(family):
    space = family.action_space
    if isinstance(space, spaces.Box):
        host = (space.low.min(), space.high.max())
        return host if family.engine == "host" else (-np.inf, -1e30, 0.0, 1e30, np.inf)
    last = int(np.min(space.n if isinstance(space, spaces.Discrete) else space.nvec)) - 1
    return (0, last) if family.engine == "host" else (-1, 0, last, last + 1, 2**30)


def test_any_action_is_safe(name):
    family = case(name).family
    recordings = [case(name).steps, case(name).endless]
    for extreme in extremes(family):
        if name.startswith(TRUSTING) and isinstance(family.action_space, spaces.Discrete):
            extreme = np.clip(extreme, 0, family.action_space.n - 1)
        recordings.append(play(family, says=extreme, horizon=NEVER)[0])
        assert (recordings[-1].action == extreme).all()
    for steps in recordings:
        for leaf in (steps.obs, steps.next_obs, steps.reward):
            assert np.isfinite(leaf).all()


def test_unseen_tasks_are_of_the_same_kind(name):
    family = case(name).family
    if family.sample_test_tasks is None:
        return
    drawn = family.sample_test_tasks(jax.random.PRNGKey(0), 5)
    same = family.sample_test_tasks(jax.random.PRNGKey(0), 5)
    assert jax.tree.structure(drawn) == jax.tree.structure(family.tasks)
    pairs = zip(*map(jax.tree.leaves, (drawn, same, family.tasks)), strict=True)
    for leaf, again, trained in pairs:
        assert np.shape(leaf) == (5, *trained.shape[1:]) and leaf.dtype == trained.dtype
        np.testing.assert_array_equal(leaf, again)
        assert leaf.dtype.kind != "f" or np.isfinite(leaf).all()


def pictures(family, state):
    """Pictures of two slots; none of a family that cannot be drawn."""
    for slot in (0, 1):
        task = jax.tree.map(lambda leaf, i=SLOTS[slot]: np.asarray(leaf)[i], family.tasks)
        if family.engine == "device" and family.draw is not None:
            yield family.draw(jax.tree.map(lambda leaf, i=slot: leaf[i], state), task)
        elif family.engine == "host" and hasattr(
            copy := getattr(family.env, "make_drawn", family.env.make)(), "render"
        ):
            copy.reset(slot, task)
            yield copy.render()
            copy.close()


def test_pictures(name):
    images = list(pictures(case(name).family, case(name).state))
    for image in images:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
        assert len(np.unique(image)) > 1
    assert not images or not np.array_equal(*images)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("starts", test_the_key_decides_everything),
        ("unsafe", test_any_action_is_safe),
        ("outside", test_spaces_and_dtypes),
    ],
)
def test_a_broken_family_is_caught(fault, check):
    with pytest.raises(AssertionError):
        check(fault)
    test_endings(fault)  # which it keeps
