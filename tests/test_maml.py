"""MAML, first-order MAML and Reptile: meta-gradients against exact expectations and loops, both engines."""

import dataclasses
import re
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from hosts import host_points
from jax.flatten_util import ravel_pytree
from probes import fresh, table, tabular_family
from small import slow_but

from envs.points import points
from pgx_jax.errors import ConfigError
from pgx_jax.learn import (
    LEARNERS,
    MAML,
    PPO,
    check_learner,
    check_networks,
    evaluate,
    learners_by_name,
    make_policy,
    take,
    train,
)
from pgx_jax.learn.batches import Batch, make_batch
from pgx_jax.learn.device import experience
from pgx_jax.learn.learner import Learning
from pgx_jax.learn.maml import Reptile
from pgx_jax.learn.rollout import Steps
from pgx_jax.learn.updating import row_tasks
from pgx_jax.steady import compiled
from pgx_jax.tasks import HostStep
from pgx_jax.types import Moments, Rows

KEY = jax.random.PRNGKey(5)
NAMES = ("maml", "fomaml", "reptile")

# Exact: a contextual bandit of S states and A actions, for n tasks

S, A, N = 2, 3, 3
REWARD = np.random.default_rng(0).normal(size=(N, S, A)).astype(np.float32)
BANDIT = tabular_family(
    [table(S, A, terminal={(None, None): True})._replace(reward=r, start=np.log([0.5, 0.5])) for r in REWARD],
    horizon=1,
)
RATE = 2.0


class Linear(nn.Module):
    """Logits b + W_s."""

    @nn.compact
    def __call__(self, obs, context=None):
        return nn.Dense(A)(obs)


LINEAR = make_policy(BANDIT, hidden=(8,), actor=Linear())


def close(ours, theirs, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


def chances(theta):
    """pi(a | s) [S, A] of logits b + W_s, where theta = (b, W)."""
    logits = theta[:A] + theta[A:].reshape(S, A)
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def expected(theta, i):
    """Return of task i."""
    return (chances(theta) * REWARD[i]).sum() / S


def gradient(theta, i):
    """Of `expected`, worked out by hand: pi (r - V) for every logit."""
    p = chances(theta)
    of_logits = p * (REWARD[i] - (p * REWARD[i]).sum(1, keepdims=True)) / S
    return np.concatenate([of_logits.sum(0), of_logits.ravel()])


def adapted(theta, i, steps):
    for _ in range(steps):
        theta = theta + RATE * gradient(theta, i)
    return theta


def after(theta, steps):
    """Mean return of the tasks after their inner steps."""
    return np.mean([expected(adapted(theta, i, steps), i) for i in range(N)])


def differences(function, theta, h=1e-5):
    one = h * np.eye(len(theta))
    return np.array([(function(theta + e) - function(theta - e)) / (2 * h) for e in one])


def every_action(counts):
    """A batch, leaves [T, E, ...], of every task's actions in every state, as often as ``counts`` [A] says;
    two slots a task, which have half of the states each."""
    actions = np.repeat(np.arange(A), counts)
    slot_task = np.arange(2 * N) % N
    state = np.arange(2 * N) // N
    shape = (len(actions), 2 * N)
    action = np.broadcast_to(actions[:, None], shape)
    log_prob = np.log(counts / np.sum(counts))[action]
    zero = np.zeros(shape)
    return slot_task, Batch(
        np.broadcast_to(np.eye(S)[state], (*shape, S)),
        np.broadcast_to(np.eye(N)[slot_task], (*shape, N)),
        np.broadcast_to(slot_task, shape),
        action, log_prob, REWARD[slot_task, state, action], zero, zero + 1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def start():
    """(agent, theta) of a drawn policy, and what makes an actor's tree a vector (b, W)."""
    agent = fresh(LINEAR, BANDIT, KEY)
    flat, unravel = ravel_pytree(agent.actor)
    theta = np.random.default_rng(1).normal(size=flat.shape)
    return agent, theta, unravel


def found(start, name, theta, steps, counts=(1, 1, 1)):
    """The meta-gradient of expected returns, without bonus and clipping."""
    agent, _, unravel = start
    learner = LEARNERS[name]().replace(
        inner_rate=RATE, inner_steps=steps, clip=1e6, entropy=0.0, num_envs=2 * N
    )
    slot_task, batch = every_action(counts)
    params = (unravel(jnp.asarray(theta, jnp.float32)), agent.critic)
    inner = (batch,) * (learner.phases - 1)
    gradients = jax.jit(lambda *known: learner.meta_gradients(LINEAR, slot_task, *known))
    return np.asarray(ravel_pytree(gradients(params, inner, batch)[0])[0])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_meta_gradient_is_that_of_the_expected_return_after_adapting(start, steps):
    """Exact: all actions, weighted by their ratios, are the expectation; the slope is of differences."""
    theta = start[1]
    np.testing.assert_allclose(
        -found(start, "maml", theta, steps),
        differences(lambda x: after(x, steps), theta),
        rtol=2e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_first_order_leaves_out_what_goes_through_the_inner_steps(start, steps):
    theta = start[1]
    first = np.mean([gradient(adapted(theta, i, steps), i) for i in range(N)], 0)
    np.testing.assert_allclose(-found(start, "fomaml", theta, steps), first, rtol=2e-3, atol=1e-5)
    second = differences(lambda x: after(x, steps), theta)
    assert np.linalg.norm(second - first) > 0.2 * np.linalg.norm(second)  # so that the tests tell them apart


@pytest.mark.parametrize("steps", [1, 2])
def test_reptile_goes_towards_the_mean_of_the_adapted_parameters(start, steps):
    theta = start[1]
    mean = np.mean([adapted(theta, i, steps) for i in range(N)], 0)
    expected = (theta - mean) / RATE
    np.testing.assert_allclose(found(start, "reptile", theta, steps), expected, rtol=2e-3, atol=1e-5)


def test_a_meta_gradient_of_what_was_drawn_by_the_policy_itself_is_the_same(start):
    """At the parameters that acted, where all ratios are 1: the curvature knows how actions are drawn."""
    theta = np.concatenate([np.log([0.25, 0.25, 0.5]), np.zeros(S * A)])
    slope = differences(lambda x: after(x, 1), theta)
    np.testing.assert_allclose(-found(start, "maml", theta, 1, (1, 1, 2)), slope, rtol=2e-3, atol=1e-5)


# A loop over tasks, in which nothing is shared

DEVICE = points(n_tasks=4, n_groups=2, horizon=6)
HOST = host_points(n_tasks=4, n_groups=2, horizon=6)
POLICY = make_policy(DEVICE, hidden=(8,), normalise_observations=True)
SETTINGS = {
    "num_envs": 7, "num_steps": 5, "epochs": 2, "minibatches": 1, "learning_rate": 2e-2, "inner_rate": 0.3,
    "adaptation_steps": 96, "adaptation_envs": 8,
}  # fmt: skip
MEMBER = jnp.array([True, True, False, True])


def moments(seed):
    """Of the four tasks' rewards."""
    rng = np.random.default_rng(seed)
    return Moments(
        *(jnp.asarray(x, jnp.float32) for x in (rng.normal(size=4), 1 + rng.random(4), np.ones(4)))
    )


@pytest.fixture(scope="module")
def lived():
    """A drawn agent, and what it did in three phases of slots on the row's tasks."""
    agent = fresh(POLICY, DEVICE, KEY)
    rng = np.random.default_rng(5)
    drawn = lambda x: np.float32(x + 0.3 * rng.normal(size=x.shape))  # noqa: E731
    agent = agent._replace(actor=jax.tree.map(drawn, agent.actor))
    index = np.array([0, 1, 3, 0, 1, 3, 0])
    return agent, [experience(POLICY, DEVICE, agent, index, key, 5) for key in jax.random.split(KEY, 3)]


def objective(learner, actor, batch):
    """PPO's, of one task's batch: mean and entropy bonus."""
    inputs = POLICY.actor_input(batch.obs, batch.context)
    out = jax.vmap(POLICY.params, (None, 0))(actor, inputs)
    ratio = jnp.exp(jax.vmap(POLICY.distribution.log_prob)(out, batch.action) - batch.log_prob)
    clipped = jnp.clip(ratio, 1 - learner.clip, 1 + learner.clip)
    gain = jnp.minimum(ratio * batch.advantage, clipped * batch.advantage).mean()
    return gain, jax.vmap(POLICY.distribution.exploration)(out).mean()


def value_error(critic, batch):
    inputs = POLICY.critic_input(batch.obs, batch.context)
    return 0.5 * jnp.mean((jax.vmap(POLICY.value, (None, 0))(critic, inputs) - batch.target) ** 2)


@partial(compiled, quick=True)
def walk(learner, actor, batches):
    """The parameters after a gradient step on each batch of one task."""
    for batch in batches:
        slope = jax.grad(lambda x, batch=batch: objective(learner, x, batch)[0])(actor)
        if learner.first_order:
            slope = jax.lax.stop_gradient(slope)
        actor = jax.tree.map(lambda x, g: x + learner.inner_rate * g, actor, slope)
    return actor


batch_of = compiled(make_batch, quick=True, static_argnames="policy")


def slow_update(learner, row, agent, scales, steps):
    """(actor, critic) after an update, and the actors of the tasks after the inner steps."""
    steps, data, ends = jax.tree.map(np.asarray, steps), {}, {}
    for task in np.flatnonzero(row.member):
        actor, data[task] = agent.actor, []
        slots = np.flatnonzero(row.slot_task == task)
        for scale, done in zip(scales, steps, strict=True):
            own = jax.tree.map(lambda x, slots=slots: x[:, slots], done)
            acted = agent._replace(actor=actor, reward=scale)
            batch = batch_of(POLICY, learner, acted, own, row.context, row.slot_task[slots])
            data[task].append(batch)
            actor = walk(learner, agent.actor, data[task][: learner.inner_steps])
        ends[task] = actor

    def loss(params):
        total = 0.0
        for own in data.values():
            error = sum(value_error(params[1], batch) for batch in own) / len(own)
            if type(learner) is Reptile:  # its gradient is put in below
                gain, bonus = 0.0, objective(learner, params[0], own[-1])[1]
            else:
                gain, bonus = objective(learner, walk(learner, params[0], own[:-1]), own[-1])
            total += (learner.value * error - gain - learner.entropy * bonus) / len(data)
        return total

    @jax.jit
    def gradient(params):
        actor, critic = jax.grad(loss)(params)
        if type(learner) is Reptile:
            for own in data.values():
                end, scale = walk(learner, params[0], own), learner.inner_rate * len(data)
                actor = jax.tree.map(lambda g, x, y, scale=scale: g + (x - y) / scale, actor, params[0], end)
        return actor, critic

    params, memory = (agent.actor, agent.critic), None
    adam = optax.chain(
        optax.clip_by_global_norm(learner.max_grad_norm),
        optax.scale_by_adam(eps=1e-5),
        optax.scale(-learner.learning_rate),
    )
    memory = adam.init(params)
    for _ in range(learner.epochs):
        change, memory = adam.update(gradient(params), memory)
        params = optax.apply_updates(params, change)
    return params, ends


@partial(compiled, quick=True, static_argnames="policy")
def updated(learner, policy, row, learning, phases, key):
    """What a learner makes of its phases so far."""
    return learner.learn(policy, row, learning, phases, key)


@pytest.mark.parametrize("name", NAMES)
def test_an_update_is_that_of_a_loop_over_the_tasks(lived, name):
    """Rewards of other scales in every phase, and two passes over the same roll-outs."""
    agent, steps = lived
    learner = LEARNERS[name]().replace(**SETTINGS, inner_steps=1 if name == "maml" else 2)
    steps, scales = steps[: learner.phases], [moments(phase) for phase in range(learner.phases)]
    row = row_tasks(learner, jnp.asarray(DEVICE.context), MEMBER, jnp.int32(8))
    learning = Learning(agent, learner.begin(POLICY, agent), jnp.int32(0))
    for phase in range(learner.phases):
        assert learner.per_slot(phase) == (phase > 0)
        before = learning._replace(agent=learning.agent._replace(reward=scales[phase]))
        last = phase == learner.phases - 1
        learning = updated(learner, POLICY, row, before, tuple(steps[: phase + 1]), KEY)
        if not last:
            close(learning.agent, before.agent, rtol=0, atol=0)
            followed = learning, tuple(steps[: phase + 1])
    params, ends = slow_update(learner, jax.tree.map(np.asarray, row), agent, scales, steps)
    close((learning.agent.actor, learning.agent.critic), params, rtol=1e-3, atol=1e-4)
    if name == "fomaml":  # all act alike, but Reptile, which has no phase after the last inner step
        act = jax.jit(lambda learner: learner.acting(POLICY, row, *followed))
        for slot, task in enumerate(np.asarray(row.slot_task)):
            close(take(act(learner), slot), ends[task], rtol=1e-3, atol=1e-5)
            close(take(act(learner.replace(inner_rate=np.nan)), slot), agent.actor)  # nobody acts by NaN


@struct.dataclass
class Diverging(MAML):
    """Inner steps are infinite on task 1, if there is anything to learn."""

    def _step(self, policy, slot_task, critic, actors, batch):
        bad = (slot_task == 1) & (jnp.abs(batch.advantage).sum(0) > 0)
        stepped = super()._step(policy, slot_task, critic, actors, batch)
        return jax.tree.map(lambda x: jnp.where(bad.reshape(-1, *[1] * (x.ndim - 1)), jnp.inf, x), stepped)


def test_where_inner_steps_diverge_on_a_task_the_others_are_learnt_as_if_it_were_not_there(lived):
    agent, steps = lived
    learner = Diverging().replace(**SETTINGS, inner_steps=1)
    row = row_tasks(learner, jnp.asarray(DEVICE.context), MEMBER, jnp.int32(8))
    on = np.asarray(row.slot_task) == 1

    @jax.jit
    def learnt(first, second):
        learning = Learning(agent, learner.begin(POLICY, agent), jnp.int32(0))
        learning = learner.learn(POLICY, row, learning, (first,), KEY)
        acting = learner.acting(POLICY, row, learning, (first,))
        after = learner.learn(POLICY, row, learning, (first, second), KEY).agent
        return acting, ravel_pytree((after.actor, after.critic))[0]

    acting, found = learnt(*steps[:2])
    for new, old in zip(jax.tree.leaves(acting), jax.tree.leaves(agent.actor), strict=True):
        np.testing.assert_array_equal((new == old).reshape(len(on), -1).all(1), on)
    others = [x._replace(reward=jnp.where(on, 5 - 3 * x.reward, x.reward)) for x in steps[:2]]
    np.testing.assert_array_equal(learnt(*others)[1], found)
    assert np.isfinite(found).all() and not np.allclose(found, ravel_pytree((agent.actor, agent.critic))[0])


# Where adapting is all: two tasks of opposite rewards, a policy that does not see which it is on


@dataclass(frozen=True)
class HostTables:
    """One-step tables in plain Python."""

    def make(self):
        return _HostTable()


class _HostTable:
    def reset(self, seed, task):
        self.reward = task.reward
        return np.ones(1, np.float32)

    def step(self, action):
        return HostStep(np.ones(1, np.float32), float(self.reward[0, int(action)]), True)

    def close(self):
        pass


OPPOSITE = tabular_family(
    [table(1, 2, reward={(0, 0): r, (0, 1): -r}, terminal={(None, None): True}) for r in (1.0, -1.0)],
    horizon=1,
)
FAMILIES = OPPOSITE, dataclasses.replace(OPPOSITE, env=HostTables())
BLIND = make_policy(OPPOSITE, hidden=(16,))
PROBE = {
    "num_envs": 8, "num_steps": 16, "minibatches": 1, "learning_rate": 0.01, "entropy": 0.0,
    "inner_rate": 0.4, "adaptation_steps": 256,
}  # fmt: skip
PAIR = np.zeros(2, int), np.arange(2)
MEMBERS = np.array([[1, 1], [0, 1]], bool)


def trained(family, learner, updates, rows_per_call=2):
    """The agents of a row of both tasks and of one of the second."""
    steps = np.full(2, updates * learner.steps_per_update)
    rows = Rows(MEMBERS, steps, np.asarray(jax.random.split(KEY)))
    return train(BLIND, learner, family, rows, rows_per_call=rows_per_call).agents


def probed(family, learner, updates):
    """These agents, and the first one's returns [2] on both tasks before and after it adapts."""
    agents = trained(family, learner, updates)
    before, after = (
        evaluate(BLIND, family, agents, *PAIR, KEY, episodes=128, learner=which) for which in (None, learner)
    )
    assert before.failed is None and not after.failed.any()
    np.testing.assert_array_equal(after.adaptation_steps, 256)
    return agents, before.returns.mean(1), after.returns.mean(1)


@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_a_policy_learns_to_adapt_on_both_engines_the_same(name):
    """A fresh one does not get there in its inner steps, and none earns more than 0 on both without them."""
    more = {"inner_steps": 2, "inner_rate": 0.2} if name == "reptile" else {"inner_steps": 1}
    learner = LEARNERS[name]().replace(**PROBE | more)
    learner.check(2)
    for updates in (1, 40):
        device, host = (probed(family, learner, updates) for family in FAMILIES)
        close(host[0].actor, device[0].actor, rtol=1e-2, atol=1e-3)
        for _, before, after in (device, host):
            assert abs(before.mean()) < 0.15
            assert after.mean() > 0.9 if updates > 1 else after.mean() < 0.85


def test_rows_learn_side_by_side_what_they_learn_alone():
    """With several inner steps, all of them taken again to adapt."""
    learner = LEARNERS["fomaml"]().replace(**PROBE, inner_steps=2)
    together, _, late = probed(OPPOSITE, learner, 30)
    alone = trained(OPPOSITE, learner, 30, rows_per_call=1)
    close(together.actor, alone.actor, rtol=1e-2, atol=1e-3)
    assert (late > 0.95).all() and np.isfinite(ravel_pytree(together)[0]).all()


def drawn_steps(learner, seed):
    """Any steps [T, E, ...] that there may be on the points."""
    rng, shape = np.random.default_rng(seed), (learner.num_steps, learner.num_envs)

    def draw(*more):
        return rng.normal(size=(*shape, *more)).astype(np.float32)

    done, age = rng.random(shape) < 0.2, rng.integers(0, 6, shape)
    return Steps(draw(4), draw(2), draw(), draw(4), done, done, draw(), draw(), done, age=age)


NETWORKS = ("mlp", "multi_head", "soft_modularization", "paco", "care", "moore")


@pytest.mark.parametrize("network", slow_but(NETWORKS, "mlp", "moore"))
def test_every_network_learns_through_an_inner_step(network):
    """Second order, told its task or not; with PPO's options where there is one pass more."""
    policy = make_policy(DEVICE, network=network, hidden=(6, 6), normalise_values=network == "mlp")
    options = {"standardise_minibatches": True, "target_kl": 0.5, "value_clip": 0.2, "baseline": "linear"}
    more = options if network == "mlp" else {"epochs": 1}
    learner = LEARNERS["maml"]().replace(**SETTINGS | more, inner_steps=1)
    row = row_tasks(learner, jnp.asarray(DEVICE.context), MEMBER, jnp.int32(8))
    agent = fresh(policy, DEVICE, KEY)
    check_learner(learner, policy, DEVICE, check_networks(policy, DEVICE), "maml")
    learning = Learning(agent, learner.begin(policy, agent), jnp.int32(0))
    first, second = (drawn_steps(learner, seed) for seed in range(2))
    learning = updated(learner, policy, row, learning, (first,), KEY)
    found = updated(learner, policy, row, learning, (first, second), KEY).agent
    for new, old in ((found.actor, agent.actor), (found.critic, agent.critic)):
        assert 1e-3 < np.abs(ravel_pytree(new)[0] - ravel_pytree(old)[0]).max() < 0.1


def test_an_updates_steps_end_at_a_divergence_of_the_adapted_policies(lived):
    """At none, nothing is learnt; the policies that act as they did have not diverged."""
    agent, steps = lived
    learner = LEARNERS["fomaml"]().replace(**SETTINGS, target_kl=1e-6, inner_steps=1)
    row = row_tasks(learner, jnp.asarray(DEVICE.context), MEMBER, jnp.int32(8))
    learning = Learning(agent, learner.begin(POLICY, agent), jnp.int32(0))
    learning = updated(learner, POLICY, row, learning, tuple(steps[:1]), KEY)
    one, many = (
        updated(learner.replace(target_kl=kl), POLICY, row, learning, tuple(steps[:2]), KEY).agent.actor
        for kl in (1e-6, 10.0)
    )
    moved = [np.abs(ravel_pytree(x)[0] - ravel_pytree(agent.actor)[0]).max() for x in (one, many)]
    assert moved[0] == pytest.approx(2e-2, rel=0.05) and moved[1] > 1.5 * moved[0]  # a step of Adam, or two


# What cannot work, and what fails


NARROW = make_policy(DEVICE, hidden=(8,), initial_log_std=-5.0)


@pytest.mark.parametrize("family", [DEVICE, HOST], ids=["device", "host"])
def test_a_task_where_adapting_fails_is_named_and_counts_as_nothing_else(family):
    """Task 1 pays nothing, so that no inner step changes anything there; task 0's goes beyond all numbers."""
    pays = np.array([1.0, 0.0, 1.0, 1.0], np.float32)
    family = dataclasses.replace(family, tasks=family.tasks._replace(reward_scale=pays))
    agent = fresh(NARROW, family, KEY)
    agent = agent._replace(critic=jax.tree.map(jnp.zeros_like, agent.critic))
    pairs = jax.tree.map(lambda x: x[None], agent), np.zeros(2, int), np.arange(2), KEY
    learner = LEARNERS["fomaml"]().replace(**SETTINGS | {"inner_rate": 3e38})
    before = evaluate(NARROW, family, *pairs, episodes=4)
    words = rf"adapting to task\(s\) {re.escape(repr(family.task_names[0]))} diverged"
    with pytest.warns(UserWarning, match=words):
        after = evaluate(NARROW, family, *pairs, episodes=4, learner=learner)
    np.testing.assert_array_equal(after.failed, [True, False])
    np.testing.assert_array_equal(after.returns[1], before.returns[1])
    assert not after.success[0].any() and not after.success_at_end[0].any()
    for metric in ("return", "success"):
        np.testing.assert_array_equal(np.isnan(after.judged_by(metric)), [[True] * 4, [False] * 4])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("maml", {"inner_steps": 0}, "maml.inner_steps = 0 must be a whole number of at least 1"),
        ("fomaml", {"inner_rate": 0.0}, "fomaml.inner_rate = 0.0 must be positive"),
        ("reptile", {"inner_rate": np.nan}, "reptile.inner_rate = nan must be positive"),
        ("maml", {"first_order": 1}, "maml.first_order = 1 must be True or False"),
        ("maml", {"num_envs": 3}, "maml.num_envs = 3 environments for 4 tasks"),
        (
            "maml",
            {"minibatches": 6},
            r"maml.minibatches = 6 of 5 steps of every environment \(maml.num_steps\)",
        ),
        (
            "maml",
            {"adaptation_steps": 24, "inner_steps": 2},
            "maml.adaptation_steps = 24 must be a multiple of maml.adaptation_envs = 8 times 2 rounds",
        ),
    ],
)
def test_settings_that_cannot_work(name, change, words):
    with pytest.raises(ConfigError, match=words):
        LEARNERS[name]().replace(**SETTINGS | change).check(4)


def test_they_have_the_settings_of_the_runs_ppo():
    """But for what they name otherwise themselves."""
    found = learners_by_name(PPO(gamma=0.5, num_envs=12))
    assert found["maml"] == MAML(gamma=0.5, num_envs=12) and found["maml"].phases == 3
    assert found["fomaml"].first_order and found["reptile"].phases == found["reptile"].inner_steps
