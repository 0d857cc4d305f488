"""Observations and actions of any space, from real environments to what the method differentiates."""

import collections
import dataclasses
import functools
import re
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys_network  # noqa: F401  (adds its architecture to the table)
from gymnasium import spaces
from gymnax.environments import spaces as gymnax_spaces
from hosts import Pictures, pictures

from envs import arguments, gymnax_adapter, plain_spaces
from envs.gymnasium_adapter import gymnasium_family
from envs.gymnax_adapter import gymnax_family
from envs.points import points
from pgx_jax.errors import ConfigError
from pgx_jax.learn import PPO, init_agents, make_policy, take, train
from pgx_jax.learn.engine import engine_of
from pgx_jax.tasks import Step, TaskFamily
from pgx_jax.types import Rows

KEY = jax.random.PRNGKey(3)
LEARNER = PPO(num_envs=2, num_steps=6, minibatches=1, epochs=1)


class Thermometer(Pictures):
    """One number, without an axis."""

    def __init__(self, wanted=0):
        super().__init__(wanted)
        self.observation_space = spaces.Box(-1, 1, (), np.float32)

    def seen(self):
        return self.np_random.uniform(-1, 1)


def breakout():
    return gymnax_family("Breakout-MinAtar", n_tasks=2, horizon=10)


def highway(env_id):
    gymnasium.register_envs(pytest.importorskip("highway_env"))
    return gymnasium_family(env_id, {"config": [{"duration": 4}, {"duration": 5}]}, horizon=5)


def switches():
    """The point mass, pushed along each axis by one of two forces."""
    return dataclasses.replace(points(n_tasks=2, n_groups=2), action_space=spaces.MultiDiscrete([2, 2]))


FAMILIES = {
    "Breakout-MinAtar": (breakout, (10, 10, 4)),
    "merge-v0": (lambda: highway("merge-v0"), (5, 5)),
    "pictures": (pictures, (12, 10, 3)),
    "pictures, channels first": (lambda: pictures((3, 24, 20)), (3, 24, 20)),
    "one number": (lambda: gymnasium_family(Thermometer, {"wanted": [0, 1]}, horizon=4), ()),
    "switches": (switches, (4,)),
}


@functools.partial(jax.jit, static_argnums=0)
def gradients(policy, agent, obs, action):
    """Of the log-probability of an action of each of two tasks."""
    seen = jax.vmap(policy.actor_input)(policy.normalise(agent, obs), jnp.eye(2))
    return jax.vmap(jax.grad(policy.log_prob), (None, 0, 0))(agent.actor, seen, action)


@pytest.mark.filterwarnings("ignore:.*is out of date")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("Breakout-MinAtar", "told"), ("merge-v0", "blind"), ("pictures", "blind"), ("one number", "blind")]
    + [("pictures, channels first", "told"), ("pictures", "own"), ("switches", "own"), ("switches", "told")],
)
def test_what_is_observed_and_done_may_have_any_shape(name, kind):
    build, shape = FAMILIES[name]
    family = build()
    assert family.observation_space.shape == shape
    settings = {"network": "linear"} if kind == "own" else {"hidden": (8,)}
    policy = make_policy(family, conditioned_actor=kind != "blind", **settings)
    rows = Rows(np.ones((1, 2), bool), np.array([2 * LEARNER.steps_per_update]), np.asarray(KEY)[None])
    agents = train(policy, LEARNER, family, rows).agents
    start = init_agents(policy, family, rows.key)
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), agents.actor, start.actor)
    assert all(jax.tree.leaves(moved)) and all(np.isfinite(x).all() for x in jax.tree.leaves(agents))

    agent, index = take(agents, 0), np.array([0, 1])
    steps = engine_of(family).experience(policy, family, agent, index, KEY, 5)
    assert steps.obs.shape == (5, 2, *shape) and steps.action.shape == (5, 2, *family.action_space.shape)
    for leaf in jax.tree.leaves(gradients(policy, agent, steps.obs[0], steps.action[0])):
        assert np.isfinite(leaf).all() and (np.asarray(leaf) != 0).any()
    for obs in (steps.obs[0, 0], family.observation_space.sample()):
        for key in (None, KEY):
            action = policy.act(agent, obs, family.context[0], key)
            assert family.action_space.contains(action.astype(family.action_space.dtype)), action


@dataclass(frozen=True)
class Noise:
    """Images that tell nothing; the task is the action that is rewarded."""

    shape: tuple[int, int, int]

    def reset(self, key, task):
        return jnp.zeros(()), jax.random.uniform(key, self.shape)

    def step(self, key, state, action, task):
        obs = jax.random.uniform(key, self.shape)
        return Step(state, obs, (action == task).astype(jnp.float32), jnp.asarray(False))


def test_the_task_is_learned_beside_an_image():
    """Who does not know the task gets 2 of 4 at best."""
    shape, names = (6, 6, 3), ("a", "b", "c", "d")
    space, actions = spaces.Box(0, 1, shape, np.float32), spaces.Discrete(2)
    family = TaskFamily("noise", names, Noise(shape), np.array([0, 0, 1, 1]), space, actions, 4)
    learner = PPO(num_envs=8, num_steps=16, minibatches=2, learning_rate=1e-2)
    policy = make_policy(family, hidden=(16,), conditioned_actor=True)
    rows = Rows(np.ones((1, 4), bool), np.array([16 * 128]), np.asarray(KEY)[None])
    returns = train(policy, learner, family, rows).returns[0]
    assert np.nanmean(returns[:2]) < 2.5 and np.nanmean(returns[-2:]) > 3.2


OBSERVED = {
    "a dict": spaces.Dict(
        speed=spaces.Box(-1, 1, (2,), np.float32),
        gear=spaces.Discrete(3, start=1),
        lights=spaces.Tuple((spaces.MultiBinary(2), spaces.Box(0, 9, (2, 2), np.float32))),
    ),
    "a tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (), np.float32))),
    "a number": spaces.Discrete(5),
}
ACTED = {
    "from 3": spaces.Discrete(4, start=3),
    "switches": spaces.MultiBinary(3),
    "a field of switches": spaces.MultiBinary((2, 3)),
    "a field of choices": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
    "a field of numbers": spaces.Box(-2, 5, (2, 2), np.float32),
}


class Panel(gymnasium.Env):
    """Shows anything, and takes legal actions alone."""

    def __init__(self, number=0, seen=OBSERVED["a dict"], acted=ACTED["switches"]):
        self.observation_space, self.action_space = seen, acted

    def reset(self, seed=None, options=None):
        self.observation_space.seed(seed)
        self.shown = self.observation_space.sample()
        return self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.shown, self.done = self.observation_space.sample(), action
        return self.shown, float(np.sum(action)), False, False, {}


def panel(**fixed):
    return gymnasium_family(Panel, {"number": [0, 1]}, fixed=fixed, horizon=5)


@pytest.mark.parametrize("name", OBSERVED)
def test_observations_of_any_kind_become_one_box(name):
    """Gymnasium's own flattening is the reference for what is traced."""
    space, family = OBSERVED[name], panel(seen=OBSERVED[name])
    assert family.observation_space.shape == spaces.flatten_space(space).shape
    env = family.env.build(jax.tree.map(lambda x: x[0], family.tasks))
    obs, _ = env.reset(seed=1)
    np.testing.assert_array_equal(obs, spaces.flatten(space, env.unwrapped.shown))
    flat = jax.jit(functools.partial(plain_spaces.flat, space))
    for _ in range(5):
        shown = space.sample()
        found = flat(shown)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, spaces.flatten(space, shown))


@pytest.mark.parametrize("name", ACTED)
def test_actions_of_any_kind_are_taken_by_their_environment(name):
    family = panel(acted=ACTED[name])
    plain = family.action_space
    make_policy(family, hidden=(4,))  # has actions for it
    env = family.env.build(jax.tree.map(lambda x: x[0], family.tasks))
    env.reset(seed=0)
    taken = []
    for _ in range(40):
        env.step(np.asarray(plain.sample()))
        taken.append(np.asarray(env.unwrapped.done).ravel())
    own = ACTED[name]
    if isinstance(own, spaces.Box):
        assert np.min(taken) < -1 and np.max(taken) > 4
        return
    for values, first, count in zip(
        np.transpose(taken), np.ravel(getattr(own, "start", 0) + np.zeros(own.shape, int)),
        np.ravel(getattr(plain, "nvec", getattr(plain, "n", None))), strict=True,
    ):  # fmt: skip
        assert set(values.astype(int)) == set(range(first, first + count))


def test_a_policy_acts_by_switches_on_a_dict():
    family = panel()
    policy = make_policy(family, hidden=(4,))
    agent = take(init_agents(policy, family, np.asarray(KEY)[None]), 0)
    steps = engine_of(family).experience(policy, family, agent, np.array([0, 1]), KEY, 4)
    assert steps.obs.shape == (4, 2, 2 + 3 + 2 + 4) and steps.action.shape == (4, 2, 3)
    np.testing.assert_array_equal(steps.reward, steps.action.sum(-1))


def test_gymnax_observations_that_are_no_box():
    family = gymnax_family("FrozenLake-misc", n_tasks=2, horizon=9)
    task = jax.tree.map(lambda x: x[0], family.tasks)
    state, obs = jax.jit(family.env.reset)(KEY, task)
    step = jax.jit(family.env.step)(KEY, state, 1, task)
    for seen, at in ((obs, state.position), (step.obs, step.state.position)):
        np.testing.assert_array_equal(seen, np.eye(16)[at])


def test_gymnax_observations_of_several_parts(monkeypatch):
    """As a dict, and as attributes of a record."""

    class Two(type(gymnax.make("FrozenLake-misc")[0])):
        def observation_space(self, params):
            return gymnax_spaces.Dict(
                {"where": super().observation_space(params), "time": gymnax_spaces.Box(0, 99, ())}
            )

        def observe(self, key, state, action, params):
            return {"where": state.position, "time": state.time}

    own = Two(), gymnax.make("FrozenLake-misc")[1]
    monkeypatch.setattr(gymnax_adapter, "_make", lambda env_id: own)
    family = gymnax_family("two parts", n_tasks=2, horizon=9)
    assert family.observation_space.shape == (17,)
    state, obs = family.env.reset(KEY, jax.tree.map(lambda x: x[0], family.tasks))
    np.testing.assert_array_equal(obs, [state.time, *np.eye(16)[state.position]])  # by their names
    record = collections.namedtuple("Record", "where time")(state.position, state.time)
    np.testing.assert_array_equal(plain_spaces.flat(gymnax_adapter._seen("two parts"), record), obs)


CONFIGS = [
    {"duration": 4, "road": {"lanes": 2, "length": 100.0}, "screen": {"length": 9}, "kind": "Kinematics"},
    {"duration": 4, "road": {"lanes": 3, "length": 200.0}, "screen": {"length": 8}, "kind": "Kinematics"},
]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"g": [6.0, 12.5]}, ("task0_g6", "task1_g12.5")),
        ({"mode": ["easy", "hard"], "g": [1, 1]}, ("task0_modeeasy_g1", "task1_modehard_g1")),
        (
            {"config": CONFIGS},
            ("task0_lanes2_road.length100_screen.length9", "task1_lanes3_road.length200_screen.length8"),
        ),
        ({"config": [{}, {"lanes": [1, 2]}]}, ("task0_lanes", "task1_lanes1-2")),
        ({"config": [{"a": 1}, None]}, ("task0_a1_", "task1_a_None")),
        ({"sizes": [[1, 2], [3]]}, ("task0_sizes1-2", "task1_sizes3")),
        ({"text": ["x" * 60, "x" * 60]}, (f"task0_text{'x' * 37}…", f"task1_text{'x' * 37}…")),
    ],
)
def test_names_of_tasks_are_short_and_distinct(given, names):
    values = {key: arguments.values(key, value) for key, value in given.items()}
    assert arguments.names(values, 2) == names


class Broken(Panel):
    def step(self, action):
        raise RuntimeError("the wheel came off\nat speed")


def test_an_environment_that_fails_is_told_from_settings_that_do():
    with pytest.raises(
        ConfigError, match=r"task 'task0_number0' of Broken raised RuntimeError in step \(test_sp"
    ):
        gymnasium_family(Broken, {"number": [0, 1]}, horizon=5)


def page(name):
    return (Path(__file__).resolve().parents[1] / "docs" / "guides" / name).read_text()


def test_the_page_on_spaces_names_what_there_is_and_its_example_runs():
    text = page("spaces.md")
    assert all(f"`{kind.__name__}`" in text for kind in plain_spaces.ACTIONS)
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"__name__": "example"}
    exec(compile(example, "docs/guides/spaces.md", "exec"), names)
    family = names["family"]
    assert family.observation_space.shape == (5,) and family.action_space == spaces.MultiDiscrete([2, 2])
    assert family.task_names == ("task0_wanted0", "task1_wanted1")
