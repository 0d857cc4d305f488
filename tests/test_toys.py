"""Toys from outside the package work wherever the package's own do, on both engines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hosts import host_points
from probes import fresh
from toys import Meta, PerTask, Reinforce

from envs.points import points
from pgx_jax.errors import ConfigError
from pgx_jax.learn import LEARNERS, PPO, Learner, collect, evaluate, make_policy, take, train
from pgx_jax.learn.learner import COUNT, check_ranges
from pgx_jax.learn.ppo import Batch
from pgx_jax.learn.updating import row_tasks
from pgx_jax.types import Rows

KEY = jax.random.PRNGKey(7)
SETTINGS = {"n_tasks": 4, "n_groups": 4, "horizon": 15}
FAMILIES = {"device": points(**SETTINGS), "host": host_points(**SETTINGS)}
ENGINES = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
ALL = np.ones((1, 4), bool)


def policy_for(family):
    return make_policy(family, hidden=(16,))


def trained(family, learner, member, updates):
    steps = np.full(len(member), updates * learner.steps_per_update)
    keys = np.asarray(jax.random.split(KEY, len(member)))
    return train(policy_for(family), learner, family, Rows(member, steps, keys))


# A learner


@ENGINES
def test_a_learner_of_ones_own_learns(family):
    learner = LEARNERS["reinforce"]()
    learner.check(4)
    found = trained(family, learner, np.eye(4, dtype=bool)[:1], 60)
    curve = found.returns[0, :, 0]
    assert curve[-10:].mean() > curve[:10].mean() + 3
    data = collect(policy_for(family), family, take(found.agents, 0), KEY, steps=60, num_envs=4)
    assert data.advantage.shape == (4, 60)


@ENGINES
def test_an_agent_adapts_before_it_is_evaluated(family):
    """A policy for four goals that is given one step on each of them is better there."""
    learner = Reinforce(adaptation_steps=16 * 30, adaptation_rate=0.3)
    agents = trained(family, learner, ALL, 20).agents
    row, task = np.zeros(4, int), np.arange(4)

    def played(learner, keep=slice(None), **kw):
        return evaluate(
            policy_for(family), family, agents, row[keep], task[keep], KEY, learner=learner, episodes=32, **kw
        )

    before, after = played(None), played(learner)
    assert after.returns.mean() > before.returns.mean() + 0.5
    np.testing.assert_array_equal(before.adaptation_steps, [0] * 4)
    np.testing.assert_array_equal(after.adaptation_steps, [480] * 4)
    alone = played(learner, slice(2, 3))
    np.testing.assert_allclose(alone.returns[0], after.returns[2], rtol=1e-3, atol=1e-3)
    same = played(learner.replace(adaptation_rate=0.0))
    np.testing.assert_allclose(same.returns, before.returns, rtol=1e-5, atol=1e-5)
    unseen = family.sample_test_tasks(KEY, 4)
    there = [played(which, tasks=unseen).returns.mean() for which in (None, learner)]
    assert there[1] > there[0]
    for rate in (np.nan, 1e10):  # with the second, all numbers are finite
        with pytest.warns(UserWarning, match="adapting to task.* diverged"):
            failed = played(learner.replace(adaptation_rate=rate))
        assert failed.failed.all() and np.isnan(failed.returns).all()


@ENGINES
def test_two_phases_with_parameters_of_the_slots_own(family):
    learner = Meta(num_envs=16, adaptation_rate=0.3)
    assert learner.steps_per_update == 2 * 16 * 30
    found = trained(family, learner, ALL, 40)
    assert found.steps[0] == 40 * 2 * 16 * 30
    agents, (row, task) = found.agents, (np.zeros(4, int), np.arange(4))
    adapts = learner.replace(adaptation_steps=16 * 30)
    policy = policy_for(family)
    before, after = (
        evaluate(policy, family, agents, row, task, KEY, learner=which, episodes=32).returns.mean()
        for which in (learner, adapts)
    )
    assert after > before + 1


def test_gradients_of_single_tasks():
    """Losses per task need no learner of their own: PPO asks a method for the gradients of a minibatch."""
    family = FAMILIES["device"]
    settings = {"learning_rate": 0.02, "num_envs": 8, "num_steps": 15, "epochs": 2, "minibatches": 2}
    curve = trained(family, PerTask(**settings), np.eye(4, dtype=bool)[:1], 15).returns[0, :, 0]
    assert curve[-5:].mean() > curve[:5].mean() + 3

    policy, context = policy_for(family), jnp.asarray(family.context)
    agent = fresh(policy, family, KEY)
    row = row_tasks(PPO(num_envs=7), context, jnp.array([True, False, True, True]), jnp.int32(1))
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(21, *family.observation_space.shape)), rng.normal(size=(21, 2))
    task = np.repeat(row.slot_task, 3)
    weight = 7 / np.bincount(task, minlength=4)[task]  # tasks with 9, 6 and 6 transitions count the same
    batch = Batch(
        obs, context[task], task, action, rng.normal(size=21) - 2, *rng.normal(size=(2, 21)), weight
    )
    params = (agent.actor, agent.critic)
    gradients = jax.jit(lambda learner, *known: learner.gradients(policy, *known))
    plain, mean = (gradients(learner, row, params, batch) for learner in (PPO(), PerTask()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, mean)


@struct.dataclass
class Witness(Learner):
    """Learns nothing; slots push with the number of their task in phase 1; remembers what it saw."""

    gamma: float = 0.9
    num_envs: int = struct.field(pytree_node=False, default=6)
    num_steps: int = struct.field(pytree_node=False, default=10)
    phases = 2

    def begin(self, policy, agent):
        """Mean actions [phase, E]."""
        return jnp.zeros((2, self.num_envs))

    def per_slot(self, phase):
        """In the second phase."""
        return phase == 1

    def acting(self, policy, row, learning, steps):
        """All actors say the task's number, hundred times."""
        assert len(steps) == 1
        many = jax.tree.map(lambda x: jnp.zeros((self.num_envs, *x.shape)), learning.agent.actor)
        bias = many["params"]["MLP_0"]["Dense_1"]["bias"]
        many["params"]["MLP_0"]["Dense_1"]["bias"] = bias + 100.0 * row.slot_task[:, None]
        return many

    def learn(self, policy, row, learning, steps, key):
        """Remember the actions of this phase."""
        phase = len(steps) - 1
        assert steps[-1].action.shape == (10, 6, 2)
        seen = learning.memory.at[phase].set(steps[-1].action.mean((0, 2)))
        actor = jax.tree.map(jnp.zeros_like, learning.agent.actor)
        actor["params"]["MLP_0"]["Dense_1"]["bias"] += seen.mean(1).sum()
        return learning._replace(agent=learning.agent._replace(actor=actor), memory=seen)


@ENGINES
def test_slots_act_with_their_own_parameters(family):
    """Two updates of a row on tasks 1 and 3: its six slots push with 100, 300, 100, ..."""
    member = np.array([[0, 1, 0, 1]], bool)
    found = trained(family, Witness(), member, 1)
    says = found.agents.actor["params"]["MLP_0"]["Dense_1"]["bias"][0]
    assert says == pytest.approx([200.0, 200.0], abs=5.0)  # the mean of the slots
    more = trained(family, Witness(), member, 2).agents  # phase 0 acts as it was left: with 200
    assert more.actor["params"]["MLP_0"]["Dense_1"]["bias"][0] == pytest.approx([400.0, 400.0], abs=10.0)
    assert more.observation.count[0, 0] == pytest.approx(2 * 2 * 60, rel=1e-4)  # all phases of all updates
    assert more.reward.count[0].sum() == pytest.approx(2 * 2 * 60, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 1.5}, "reinforce.gamma = 1.5 must be between 0 and 1"),
        ({"num_envs": 3}, "reinforce.num_envs = 3 environments for 4 tasks"),
        ({"adaptation_steps": 17}, "adaptation_steps = 17 must be a multiple of .*adaptation_envs = 16"),
    ],
)
def test_settings_that_cannot_work(change, message):
    with pytest.raises(ConfigError, match=message):
        Reinforce(**change).check(4)


def test_ranges_of_settings_are_those_of_the_table():
    """A range that there is not is no other one."""
    for words, good, bad in (
        ("between 0 and 1", 1, 1.01), ("positive", 0.1, 0), ("0 or more", 0, -0.1), (COUNT, 1, 0.5),
    ):  # fmt: skip
        check_ranges(Reinforce(gamma=good), "mine", {words: ("gamma",)})
        for value in (bad, np.nan, np.inf):
            with pytest.raises(ConfigError, match=f"mine.gamma = {value} must be {words}"):
                check_ranges(Reinforce(gamma=value), "mine", {words: ("gamma",)})
    with pytest.raises(KeyError, match="at least one"):
        check_ranges(Reinforce(), "mine", {"at least one": ("num_envs",)})
