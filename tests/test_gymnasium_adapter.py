"""Any Gymnasium environment as a family: the same steps as the library's own, all conventions, errors."""

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

from envs import gymnasium_adapter
from envs.gymnasium_adapter import gymnasium_family
from pgx_jax.errors import ConfigError
from pgx_jax.learn import collect, init_agents, make_policy, take
from pgx_jax.learn.host import experience
from pgx_jax.learn.host.slots import Seeds
from pgx_jax.tasks import TaskFamily

KEY = jax.random.PRNGKey(6)
GRAVITY = {"g": [6.0, 12.0]}
INDEX = np.array([0, 1, 1])
LENGTH, HORIZON = 40, 15
PLAIN = gymnasium_family("Pendulum-v1", GRAVITY, horizon=HORIZON)
POLICY = make_policy(PLAIN, hidden=(4,))


@pytest.fixture(scope="module")
def agent():
    return take(init_agents(POLICY, PLAIN, np.asarray(KEY)[None]), 0)


@pytest.fixture(scope="module")
def plain(agent):
    return experience(POLICY, PLAIN, agent, INDEX, KEY, LENGTH)


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_what_a_family_says_of_itself():
    assert isinstance(PLAIN, TaskFamily) and PLAIN.engine == "host"
    assert (PLAIN.name, PLAIN.n, PLAIN.task_names) == ("Pendulum-v1", 2, ("task0_g6", "task1_g12"))
    assert PLAIN.observation_space.shape == (3,) and PLAIN.action_space.shape == (1,)
    assert gymnasium_family("Pendulum-v1", GRAVITY).horizon == 200  # the id's own
    assert PLAIN.settings == {"env": "Pendulum-v1", "g": (6.0, 12.0)} and PLAIN.objectives is None


def test_steps_are_those_of_the_library(plain):
    """One slot after the other, replayed in an environment that gymnasium made and limits itself."""
    for slot, task in enumerate(INDEX):
        env = gymnasium.make("Pendulum-v1", g=GRAVITY["g"][task], max_episode_steps=HORIZON)
        seeds = Seeds(jax.random.split(KEY)[0], slot)
        obs, total = env.reset(seed=seeds())[0], 0.0
        for t in range(LENGTH):
            np.testing.assert_array_equal(plain.obs[t, slot], obs)
            action = np.asarray(POLICY.distribution.to_env(plain.action[t, slot]))
            obs, reward, terminated, truncated, _ = env.step(action)
            total += reward
            np.testing.assert_array_equal(plain.next_obs[t, slot], obs)
            assert plain.reward[t, slot] == np.float32(reward)
            assert (plain.terminated[t, slot], plain.done[t, slot]) == (terminated, truncated)
            if truncated:
                assert plain.episode_return[t, slot] == pytest.approx(total, rel=1e-5)
                obs, total = env.reset(seed=seeds())[0], 0.0


@pytest.mark.parametrize("autoreset", ["disabled", "same_step", "next_step"])
def test_vectors_of_every_convention(agent, plain, autoreset):
    family = gymnasium_family("Pendulum-v1", GRAVITY, horizon=HORIZON, vector="sync", autoreset=autoreset)
    steps = experience(POLICY, family, agent, INDEX, KEY, LENGTH)
    first = slice(0, HORIZON)
    equal(*(jax.tree.map(lambda x: x[first], found) for found in (steps, plain)))
    if autoreset == "disabled":
        equal(steps, plain)
    np.testing.assert_array_equal(steps.done, plain.done)
    follows = (steps.obs[1:] == steps.next_obs[:-1]).all(-1)
    np.testing.assert_array_equal(follows, ~steps.done[:-1])  # the last observation is never the first
    again = experience(POLICY, family, agent, INDEX, KEY, LENGTH)
    equal(steps, again)


@pytest.mark.slow
def test_vectors_of_processes(agent, plain):
    family = gymnasium_family("Pendulum-v1", GRAVITY, horizon=HORIZON, vector="async")
    equal(experience(POLICY, family, agent, INDEX, KEY, LENGTH), plain)


class Fruit(gymnasium.Env):
    """Three fruits; the reward counts each kind apart."""

    observation_space, action_space = spaces.Discrete(4), spaces.Discrete(3)

    def __init__(self, kinds=3):
        self.kinds = kinds

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(4))
        return self.at, {}

    def step(self, action):
        reward, self.at = np.zeros(self.kinds), (self.at + 1) % 4
        reward[action] = 1.0 + self.at
        return self.at, reward, self.at == 3, False, {"ripe": self.at == 2}


WEIGHTS = [[1.0, 0.0, 0.0], [0.0, 2.0, -1.0]]


def test_vector_rewards_are_weighted():
    family = gymnasium_family(Fruit, objectives=WEIGHTS, horizon=10, success="ripe")
    assert family.metric == "success" and family.observation_space.shape == (4,)  # one-hot
    np.testing.assert_array_equal(family.objectives, np.float32(WEIGHTS))
    policy = make_policy(family, hidden=(4,))
    agent = take(init_agents(policy, family, np.asarray(KEY)[None]), 0)
    index = np.array([0, 1, 1])
    steps = experience(policy, family, agent, index, KEY, 12)
    assert steps.objectives.shape == (12, 3, 3) and (steps.objectives.sum(-1) >= 1).all()
    np.testing.assert_allclose(
        steps.reward, np.einsum("tek,ek->te", steps.objectives, family.objectives[index])
    )
    np.testing.assert_array_equal(steps.success, steps.next_obs[..., 2] == 1)
    np.testing.assert_array_equal(steps.terminated, steps.next_obs[..., 3] == 1)
    data = collect(policy, family, agent, KEY, steps=40, num_envs=4, gamma=0.0)  # one source for both tasks
    assert data.obs.shape == (1, 40, 4) and data.source.tolist() == [0, 0]
    reward = np.float32(WEIGHTS)[:, data.action[0]] * (1 + (data.obs[0].argmax(-1) + 1) % 4)
    inputs = policy.critic_input(np.repeat(data.obs, 2, 0), np.repeat(family.context[:, None], 40, 1))
    value = jax.vmap(jax.vmap(policy.value, (None, 0)), (None, 0))(agent.critic, inputs)
    np.testing.assert_allclose(data.advantage, reward - value, atol=1e-4)
    several = gymnasium_family(Fruit, {"kinds": [3, 3]}, objectives=WEIGHTS, horizon=10)
    assert several.objectives is not None  # nothing but the weights differs
    np.testing.assert_array_equal(several.tasks.weights, np.float32(WEIGHTS))


def test_unseen_tasks():
    family = gymnasium_family(
        "Pendulum-v1", GRAVITY, sample_test_tasks=lambda key, count: {"g": np.linspace(5, 9, count)}
    )
    np.testing.assert_array_equal(family.sample_test_tasks(KEY, 3).arguments["g"], [5, 7, 9])


def test_pictures():
    pytest.importorskip("pygame")
    copy = PLAIN.env.make_drawn()
    copy.reset(0, jax.tree.map(lambda x: x[0], PLAIN.tasks))
    picture = copy.render()
    copy.close()
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8


class Sized(Fruit):
    def __init__(self, size=2, actions=3):
        super().__init__()
        self.observation_space, self.action_space = spaces.Box(0, 1, (size,)), spaces.Discrete(actions)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gymnasium_family("Pendulm-v1", GRAVITY), "did you mean Pendulum-v1"),
        (lambda: gymnasium_family("Pendulum-v1", {"gravty": [1, 2]}), "takes no argument 'gravty'"),
        (lambda: gymnasium_family("Pendulum-v1", {"g": [1, 2, 3]}, task_names=("a", "b")), "3 tasks, but 2"),
        (lambda: gymnasium_family("Pendulum-v1", {"g": 9.8}), "argument 'g' must be a sequence"),
        (lambda: gymnasium_family("Pendulum-v1"), "number of tasks .* unclear"),
        (
            lambda: gymnasium_family("Pendulum-v1", GRAVITY, objectives=[[1], [1], [1]]),
            "g: 2, objectives: 3",
        ),
        (lambda: gymnasium_family("Pendulum-v1", GRAVITY, objectives=[[1.0], [1]]), r"shape \(\), expected"),
        (lambda: gymnasium_family(Fruit, {"kinds": [3, 4]}, horizon=5), "give objectives"),
        (lambda: gymnasium_family(Fruit, {"kinds": [3, 4]}), "states no time limit; give a horizon"),
        (
            lambda: gymnasium_family(Sized, {"size": [2, 3]}, objectives=WEIGHTS, horizon=5),
            "task 'task1_size3' .* observation space .*3.* task 'task0_size2' has",
        ),
        (
            lambda: gymnasium_family(Sized, {"actions": [3, 2]}, objectives=WEIGHTS, horizon=5),
            r"task 'task1_actions2' .* action space Discrete\(2\)",
        ),
        (
            lambda: gymnasium_family("LunarLander-v3", {"gravity": [-5.0, -13.0]}),
            "task 'task1_gravity-13'.* refuses its arguments .*between -12 and 0",
        ),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


class Unsteppable(gymnasium.Env):
    def __init__(self, number=0, seen=spaces.Box(-1, 1, (2,)), action=spaces.Discrete(2)):  # noqa: B008
        self.observation_space, self.action_space = seen, action


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"action": spaces.Dict(x=spaces.Discrete(2))},
            r"action space is Dict\(.* MultiBinary, Box; wrap .*ActionWrapper",
        ),
        ({"action": spaces.Text(3)}, r"action space is Text\(.* wrap .*ActionWrapper"),
        (
            {"seen": spaces.Sequence(spaces.Discrete(2))},
            r"Sequence\(.*no fixed size.*ObservationWrapper",
        ),
    ],
)
def test_spaces_that_no_family_can_have_are_named_before_a_step(given, message):
    with pytest.raises(ConfigError, match=f"(?s)^task 'task0_number0' of Unsteppable: the .*{message}"):
        gymnasium_family(Unsteppable, {"number": [0, 1]}, fixed=given, horizon=5)


def test_a_missing_package_is_named(monkeypatch):
    def missing(entry):
        raise gymnasium.error.DependencyNotInstalled(
            'Box2D is not installed, run `pip install "gymnasium[box2d]"`'
        )

    monkeypatch.setattr(gymnasium_adapter.gymnasium.envs.registration, "load_env_creator", missing)
    with pytest.raises(ConfigError, match=r'^LunarLander-v3 needs [\w ]+: pip install "pgx-jax\[box2d\]"$'):
        gymnasium_family("LunarLander-v3", {"gravity": [-5.0, -9.0]})
