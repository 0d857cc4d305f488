"""PPO's options: each against a plain reference, off as the default, for all its kinds on both engines."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hosts import host_points
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import fresh
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from envs.points import points
from envs.points_objectives import points_objectives
from pgx_jax.errors import ConfigError
from pgx_jax.learn import (
    LEARNERS,
    PPO,
    check_agent,
    check_networks,
    collect,
    init_agents,
    make_policy,
    train,
)
from pgx_jax.learn.baselines import features, linear
from pgx_jax.learn.batches import (
    Batch,
    explained_variance,
    make_batch,
    standardise_advantages,
    standardise_targets,
)
from pgx_jax.learn.engine import engine_of
from pgx_jax.learn.learner import Learning
from pgx_jax.learn.moments import initial_moments
from pgx_jax.learn.ppo import fit_batch, ppo_loss, terms
from pgx_jax.learn.rollout import Steps
from pgx_jax.learn.shuffling import orders
from pgx_jax.learn.stopping import divergence
from pgx_jax.learn.updating import row_tasks
from pgx_jax.types import Moments, Rows

KEY = jax.random.PRNGKey(3)
SETTINGS = {
    "learning_rate": 2e-2, "num_envs": 6, "num_steps": 5, "epochs": 2, "minibatches": 2,
}  # fmt: skip
DEVICE = points(n_tasks=4, n_groups=2, horizon=6)
HOST = host_points(n_tasks=4, n_groups=2, horizon=6)
POLICY = make_policy(DEVICE, hidden=(8,), normalise_observations=True)
CONTEXT = jnp.asarray(DEVICE.context)
MEMBER = jnp.array([True, True, False, True])


def trained(family=DEVICE, policy=POLICY, name="ppo", updates=4, **changes):
    """The agents of two rows, of several tasks and of one."""
    learner = LEARNERS[name]().replace(**SETTINGS | changes)
    steps = np.full(2, updates * learner.steps_per_update)
    rows = Rows(np.array([[1, 1, 0, 1], [0, 0, 1, 0]], bool), steps, np.asarray(jax.random.split(KEY)))
    return train(policy, learner, family, rows, rows_per_call=2).agents


def close(ours, theirs, **tolerance):
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


def farthest(ours, theirs):
    """The largest difference of two records."""
    return max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True))


def row_of(config, total=8):
    """A row of three tasks."""
    return row_tasks(config, CONTEXT, MEMBER, jnp.int32(total))


@pytest.fixture(scope="module")
def plain():
    """What PPO makes of it with the default settings."""
    return trained()


OFF = {
    "final_entropy": 1.0,
    "value_clip": 1e9,
    "target_kl": 1e9,
    "freeze_observations": 1.0,
    "limits_end": False,
}
"""Values with which options do nothing."""
ON = {
    "entropy": 0.3, "final_entropy": 0.0, "value_clip": 1e-3, "target_kl": 1e-3, "freeze_observations": 0.25,
    "standardise_minibatches": True, "baseline": "linear", "limits_end": True, "desired_kl": 1e-3,
}  # fmt: skip
"""Values with which they do something."""


def test_options_that_are_off_change_nothing(plain):
    close(trained(**OFF), plain)


@pytest.mark.parametrize("option", ON)
def test_an_option_that_is_on_changes_what_is_learnt(plain, option):
    """Beside the others that are off, so that one program does for many."""
    part = "critic" if option == "value_clip" else "actor"
    assert farthest(getattr(trained(**OFF | {option: ON[option]}), part), getattr(plain, part)) > 1e-4


def test_other_numbers_need_no_other_program():
    off, some, other = (
        jax.tree.structure(PPO(target_kl=x, value_clip=x, freeze_observations=x)) for x in (None, 0.1, 0.2)
    )
    assert some == other != off


@pytest.mark.parametrize(("family", "name"), [(DEVICE, "pcgrad"), (HOST, "famo")])
def test_every_kind_of_ppo_has_all_options_on_both_engines(family, name):
    policy = dataclasses.replace(POLICY, normalise_values=True)
    agents = trained(family, policy, name, **ON)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(agents))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"final_entropy": -0.1}, "mine.final_entropy = -0.1 must be 0 or more"),
        ({"value_clip": 0.0}, "mine.value_clip = 0.0 must be None or positive"),
        ({"target_kl": float("nan")}, "mine.target_kl = nan must be None or positive"),
        ({"target_kl": "small"}, "mine.target_kl = 'small' must be None or positive"),
        (
            {"freeze_observations": 1.5},
            "mine.freeze_observations = 1.5 must be None, or above 0 and at most 1",
        ),
        ({"standardise_minibatches": 1}, "mine.standardise_minibatches = 1 must be True or False"),
        ({"limits_end": 1}, "mine.limits_end = 1 must be True or False"),
        ({"desired_kl": 0.0}, "mine.desired_kl = 0.0 must be None or positive"),
        ({"baseline": "mean"}, "mine.baseline = 'mean'; choose one of 'critic', 'linear'"),
    ],
)
def test_values_that_cannot_be(changes, words):
    with pytest.raises(ConfigError, match=words):
        PPO(**changes).check(4, "mine")


def test_the_learning_rate_and_the_entropy_bonus_are_annealed():
    config = PPO(**SETTINGS, entropy=0.2, final_entropy=0.5, final_learning_rate=0.0)
    agent = fresh(POLICY, DEVICE, KEY)
    for done, rate, entropy in ((0, 2e-2, 0.2), (2, 1.5e-2, 0.175), (8, 0.0, 0.1)):
        now = config.annealed(row_of(config), Learning(agent, (), jnp.int32(done)))
        assert float(now.learning_rate) == pytest.approx(rate, rel=1e-6)
        assert float(now.entropy) == pytest.approx(entropy, rel=1e-6)
        assert now == dataclasses.replace(config, learning_rate=now.learning_rate, entropy=now.entropy)


# Clipped values


NUMBERS = st.floats(-5, 5, width=32)
loss = jax.jit(terms, static_argnums=1)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=4, max_size=4), st.floats(0.125, 3, width=32))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_a_critic_that_has_gone_far_is_not_drawn_further(numbers, clip):
    value, before, target = np.array(numbers, np.float32).T
    agent, policy = echo(value)
    batch = some_batch(4)._replace(obs=np.eye(4, dtype=np.float32), target=target, value=before)
    error = loss((agent.actor, agent.critic), policy, PPO(value_clip=clip), batch)[0]
    near = np.minimum(np.maximum(value, before - clip), before + clip)
    expected = 0.5 * np.maximum((value - target) ** 2, (near - target) ** 2)
    np.testing.assert_allclose(error, expected, rtol=1e-4, atol=1e-5)


class Weights(nn.Module):
    """A critic that says w . obs."""

    @nn.compact
    def __call__(self, obs, context=None):
        return nn.Dense(1, use_bias=False)(obs)[0]


def echo(weights, **changes):
    """An agent with such a critic, and its policy."""
    policy = make_policy(DEVICE, hidden=(4,), critic=Weights(), conditioned_critic=False, **changes)
    agent = jax.tree.map(jnp.asarray, policy.init(KEY, (len(weights),), CONTEXT))
    kernel = jnp.asarray(weights, jnp.float32)[:, None]
    return agent._replace(critic={"params": {"Dense_0": {"kernel": kernel}}}), policy


def some_batch(size, seed=0, task=None):
    """Random transitions, of all tasks in turn."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=(size, *shape)).astype(np.float32)  # noqa: E731
    task = np.arange(size) % 4 if task is None else task
    weight = rng.uniform(0.5, 2, size).astype(np.float32)
    return Batch(draw(4), np.asarray(CONTEXT)[task], task, draw(2), draw() - 2, draw(), draw(), weight)


# Advantages of a minibatch


@given(st.sampled_from([2, 3, 8, 30]), st.integers(0, 100), st.sampled_from([1e-2, 1.0, 1e3]))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_advantages_of_a_minibatch_are_standardised_by_weight(size, seed, scale):
    batch = some_batch(size, seed)
    batch = batch._replace(advantage=scale * (batch.advantage + 3))
    found = np.asarray(standardised(batch).advantage, float)
    mean = np.average(batch.advantage, weights=batch.weight)
    deviation = np.sqrt(np.average((batch.advantage - mean) ** 2, weights=batch.weight))
    np.testing.assert_allclose(found, (batch.advantage - mean) / deviation, rtol=2e-3, atol=2e-3)


standardised = jax.jit(standardise_advantages)


def test_a_batch_keeps_the_scales_of_its_tasks_for_its_minibatches():
    steps, slot_task = some_steps()
    agent, policy = echo(np.zeros(4))
    kept, standard = (
        made(policy, PPO(standardise_minibatches=x, gae_lambda=0.5), agent, steps, CONTEXT, slot_task)
        for x in (True, False)
    )
    np.testing.assert_allclose(kept.advantage, kept.target, rtol=1e-5)  # the critic says 0
    for task in (0, 1, 3):
        own = np.asarray(kept.advantage)[kept.task == task]
        expected = (own - own.mean()) / own.std()
        np.testing.assert_allclose(standard.advantage[kept.task == task], expected, atol=1e-4)


made = jax.jit(make_batch, static_argnums=0)


def some_steps(seed=0, length=40, slots=5):
    """Random steps with both kinds of ending; slots go round the tasks 0, 1 and 3."""
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.normal(size=(2, length, slots, 4)).astype(np.float32)
    terminated = rng.random((length, slots)) < 0.1
    done = terminated | (rng.random((length, slots)) < 0.1)
    age, running = np.zeros((length, slots), np.int32), np.arange(slots)
    for t in range(length):
        age[t] = running
        running = np.where(done[t], 0, running + 1)
    reward = rng.normal(size=(length, slots)).astype(np.float32) + np.arange(slots, dtype=np.float32)
    zero, action = np.zeros((length, slots), np.float32), np.zeros((length, slots, 2), np.float32)
    steps = Steps(obs, action, reward, next_obs, terminated, done, zero, zero, zero, age=age)
    return steps, np.array([0, 1, 3, 0, 1])


# Target KL


def test_the_rest_of_an_update_is_left_out_once_the_policy_is_far():
    """Gradient steps one by one, and after each the divergence from the policy that acted."""
    config, batch = PPO(**SETTINGS | {"epochs": 3}), some_batch(30)
    agent = fresh(POLICY, DEVICE, KEY)
    params = jax.vmap(POLICY.params, (None, 0))(agent.actor, batch.obs)
    batch = batch._replace(log_prob=jax.vmap(POLICY.distribution.log_prob)(params, batch.action))
    learning = Learning(agent, config.begin(POLICY, agent), jnp.int32(0))
    fit = jax.jit(fit_batch, static_argnums=0)
    whole = fit(POLICY, config, row_of(config), learning, batch, KEY)
    vector, unravel = jax.flatten_util.ravel_pytree((agent.actor, agent.critic))
    step = jax.jit(lambda *args: config.direction(POLICY, row_of(config), *args, KEY))
    memory, seen, reached = learning.memory, [], [vector]
    for index in np.asarray(orders(KEY, 30, 3)).reshape(-1, 15):
        part = jax.tree.map(lambda x, index=index: x[index], batch)
        seen.append(slow_divergence(unravel(vector)[0], part))
        move, memory = step(unravel(vector), part, memory)
        vector = vector - config.learning_rate * move
        reached.append(vector)
    close(unravel(reached[-1]), (whole.agent.actor, whole.agent.critic))
    assert seen[0] == pytest.approx(0, abs=1e-6) and max(seen[:3]) < 0.9 * seen[3]
    for target, steps in ((seen[3] * 0.95, 3), (1e-12, 1), (1e9, 6)):
        stopped = fit(POLICY, config.replace(target_kl=target), row_of(config), learning, batch, KEY)
        close(unravel(reached[steps]), (stopped.agent.actor, stopped.agent.critic))
        assert int(stopped.memory[1].count) == steps  # Adam's


def slow_divergence(actor, batch):
    total = 0.0
    for i in range(len(batch.weight)):
        new = float(POLICY.log_prob(actor, batch.obs[i], batch.action[i]))
        ratio = np.exp(new - float(batch.log_prob[i]))
        total += float(batch.weight[i]) * (ratio - 1 - np.log(ratio))
    return total / len(batch.weight)


@given(st.integers(0, 1000), st.floats(0, 2))
@settings(derandomize=True, deadline=None, max_examples=20)
def test_divergences_are_not_negative(seed, shift):
    batch, agent = some_batch(12, seed), fresh(POLICY, DEVICE, KEY)
    found = float(distance(POLICY, agent.actor, batch._replace(log_prob=batch.log_prob + np.float32(shift))))
    assert found >= 0


distance = jax.jit(divergence, static_argnums=0)


# Frozen moments


@pytest.mark.parametrize("family", [DEVICE, HOST], ids=["device", "host"])
def test_observation_moments_stay_after_a_part_of_the_budget(family):
    unit = SETTINGS["num_envs"] * SETTINGS["num_steps"]
    for fraction, updates in ((0.0, 0), (0.3, 2), (1.0, 4), (None, 4)):
        agents = trained(family, freeze_observations=fraction)
        np.testing.assert_allclose(agents.observation.count, updates * unit, atol=1e-2)


# Values


@given(st.lists(st.sampled_from([5, 12, 25]), min_size=1, max_size=4), st.integers(0, 1000))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_targets_are_standardised_by_the_moments_of_all_of_their_task(sizes, seed):
    moments, seen = initial_moments((4,)), [[] for _ in range(4)]
    for i, size in enumerate(sizes):
        task = np.random.default_rng(seed + i).choice([0, 1, 3], size)
        batch = some_batch(size, seed + i, task)
        batch = batch._replace(target=10 * task + (1 + task) * batch.target)
        moments, found = known(moments, batch)
        for t in (0, 1, 3):
            seen[t] += batch.target[task == t].tolist()
            count = len(seen[t]) + 1e-4  # moments begin with mean 0 and variance 1, as if of so few
            mean = np.sum(seen[t]) / count
            np.testing.assert_allclose(moments.mean[t], mean, rtol=1e-3, atol=1e-3)
            variance = (np.sum(np.square(seen[t])) + 1e-4) / count - mean**2
            np.testing.assert_allclose(moments.var[t], variance, rtol=1e-2, atol=1e-2)
        expected = (batch.target - moments.mean[task]) / np.sqrt(moments.var[task] + 1e-8)
        np.testing.assert_allclose(found.target, expected, rtol=1e-4, atol=1e-4)
    assert (moments.mean[2], moments.var[2]) == (0, 1)  # of which nothing was seen


known = jax.jit(standardise_targets)


def test_values_of_a_standardised_critic():
    """Of twice the weights and a shift, that its moments add."""
    steps, slot_task = some_steps()
    (agent, policy), (other, plain) = echo([1.0, -2, 0.5, 0], normalise_values=True), echo([2.0, -4, 1, 0])
    moments = Moments(jnp.zeros(4), jnp.full(4, 4.0), jnp.ones(4))
    ours, theirs = (
        made(p, PPO(), a, steps, CONTEXT, slot_task)
        for p, a in ((policy, agent._replace(value=moments)), (plain, other))
    )
    close(ours, theirs)
    shifted = made(
        policy, PPO(value_clip=0.1), agent._replace(value=moments._replace(mean=jnp.arange(4.0))), steps,
        CONTEXT, slot_task,
    )  # fmt: skip
    value = 2 * np.asarray(shifted.value) + np.asarray(shifted.task)
    np.testing.assert_allclose(shifted.value, steps.obs.reshape(-1, 4) @ [1.0, -2, 0.5, 0], rtol=1e-4)
    after = 2 * steps.next_obs @ [1.0, -2, 0.5, 0] + slot_task
    delta = steps.reward + 0.99 * np.where(steps.terminated, 0, after) - value.reshape(40, 5)
    last = np.asarray(shifted.target).reshape(40, 5)[-1] - value.reshape(40, 5)[-1]
    np.testing.assert_allclose(last, delta[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [points, points_objectives])
def test_collecting_knows_what_a_standardised_critic_means(make):
    family = make(n_tasks=4, n_groups=2, horizon=6)
    (agent, policy), (other, plain) = echo([1.0, -2, 0.5, 0], normalise_values=True), echo([2.0, -4, 1, 0])
    agent = agent._replace(value=Moments(jnp.zeros(4), jnp.full(4, 4.0), jnp.ones(4)))
    ours, theirs = (
        collect(p, family, a, KEY, steps=32, num_envs=4).advantage
        for p, a in ((policy, agent), (plain, other))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_moments_of_values_belong_to_the_agent():
    policy = dataclasses.replace(POLICY, normalise_values=True)
    agents = trained(policy=policy)
    assert POLICY.init(KEY, (4,), CONTEXT).value is None
    unit = 4 * SETTINGS["num_envs"] * SETTINGS["num_steps"]
    np.testing.assert_allclose(agents.value.count.sum(1), [unit, unit], rtol=1e-3)
    np.testing.assert_array_equal(agents.value.count > 1, [[1, 1, 0, 1], [0, 0, 1, 0]])
    expected = check_networks(policy, DEVICE)
    with pytest.raises(ConfigError, match="the meta-policy's value does not fit the policy"):
        check_agent(POLICY.init(KEY, (4,), CONTEXT), expected)


# The linear baseline


fitted = jax.jit(linear, static_argnums=1)


def slow_features(obs, age):
    o, t = np.clip(np.asarray(obs, float), -10, 10), age / 100
    return np.array([*o, *o**2, t, t**2, t**3])


def slow_linear(steps, slot_task, returns):
    """Ridge regression for each task by scikit-learn, in float64."""
    out = np.zeros((2, *returns.shape))
    for task in set(slot_task):
        places = [(t, e) for t in range(len(returns)) for e in range(len(slot_task)) if slot_task[e] == task]
        x = np.array([slow_features(steps.obs[p], steps.age[p]) for p in places])
        after = np.array([slow_features(steps.next_obs[p], steps.age[p] + 1) for p in places])
        scaler = StandardScaler().fit(x)
        ridge = Ridge(1e-4 * len(x)).fit(scaler.transform(x), [returns[p] for p in places])
        for i, rows in enumerate((x, after)):
            out[i][tuple(np.array(places).T)] = ridge.predict(scaler.transform(rows))
    return out


@pytest.mark.parametrize("seed", range(3))
def test_the_linear_baseline_is_a_ridge_regression_per_task(seed):
    steps, slot_task = some_steps(seed)
    returns = np.random.default_rng(seed).normal(size=steps.done.shape).astype(np.float32) + 2 * slot_task
    found = fitted(slot_task, 4, steps.obs, steps.next_obs, steps.age, returns)
    np.testing.assert_allclose(found, slow_linear(steps, slot_task, returns), rtol=2e-2, atol=2e-2)


@given(st.integers(0, 1000), st.floats(-100, 100, width=32), st.sampled_from([0.1, 1.0, 50.0]))
@settings(derandomize=True, deadline=None, max_examples=20)
def test_what_is_linear_is_predicted_wherever_it_lies(seed, level, scale):
    steps, slot_task = some_steps(seed)
    own, times = np.random.default_rng(seed).normal(size=(2, 4, 4))

    def line(obs, age):
        return np.einsum("teo,eo->te", scale * obs, own[slot_task]) + level + times[slot_task, 0] * age / 100

    found = fitted(slot_task, 4, steps.obs, steps.next_obs, steps.age, line(steps.obs, steps.age))
    both = (line(steps.obs, steps.age), line(steps.next_obs, steps.age + 1))
    np.testing.assert_allclose(found, both, atol=2e-2 * scale + 1e-3 * abs(level) + 2e-2)


def test_advantages_against_the_linear_baseline():
    steps, slot_task = some_steps()
    weights = np.array([0.5, -1, 2, 0])
    agent, policy = echo(weights)
    config = PPO(baseline="linear", gamma=0.9, gae_lambda=0.8, standardise_minibatches=True)
    batch = made(policy, config, agent, steps, CONTEXT, slot_task)
    value, after = steps.obs @ weights, steps.next_obs @ weights
    returns = slow_advantage(steps, value, after, 0.9, 1.0) + value
    base, next_base = slow_linear(steps, slot_task, returns)
    expected = slow_advantage(steps, base, next_base, 0.9, 0.8)
    np.testing.assert_allclose(batch.advantage, expected.ravel(), atol=5e-2)
    target = slow_advantage(steps, value, after, 0.9, 0.8) + value  # the critic's is what it was
    np.testing.assert_allclose(batch.target, target.ravel(), atol=1e-3)


def test_without_what_comes_after_time_limits_the_linear_baseline_needs_no_critic():
    steps, slot_task = some_steps()
    agent, policy = echo([0.5, -1, 2, 0])
    config = PPO(baseline="linear", limits_end=True, gamma=0.9, gae_lambda=0.8, standardise_minibatches=True)
    assert not config.critic and PPO(limits_end=True).critic and PPO(baseline="linear").critic
    batch = made(policy, config, agent, steps, CONTEXT, slot_task)
    ended = steps._replace(terminated=steps.done)
    zero = np.zeros(steps.done.shape)
    base, next_base = slow_linear(steps, slot_task, slow_advantage(ended, zero, zero, 0.9, 1.0))
    np.testing.assert_allclose(
        batch.advantage, slow_advantage(ended, base, next_base, 0.9, 0.8).ravel(), atol=5e-2
    )
    before = init_agents(POLICY, DEVICE, np.asarray(jax.random.split(KEY)))
    after = trained(baseline="linear", limits_end=True)
    assert farthest(after.critic, before.critic) == 0 < farthest(after.actor, before.actor)
    assert LEARNERS["famo"]().replace(baseline="linear", limits_end=True).critic  # it weighs by its errors


@pytest.mark.parametrize("make", [points, points_objectives])
def test_collecting_has_the_linear_baseline_too(make):
    family = make(n_tasks=4, n_groups=2, horizon=6)
    agent, policy = echo([1.0, -2, 0.5, 0])
    options = {"gamma": 0.9, "gae_lambda": 0.8, "baseline": "linear", "limits_end": True, "critic": False}
    found = collect(policy, family, agent, KEY, steps=32, num_envs=4, **options).advantage
    sources = 1 if len(found) != 4 or family.objectives is not None else 4
    index = np.repeat(np.arange(4), 4) if sources == 4 else np.arange(4)
    steps = engine_of(family).experience(policy, family, agent, index, KEY, 8)
    steps = jax.tree.map(np.asarray, steps._replace(terminated=steps.done))
    steps = steps._replace(
        obs=policy.normalise(agent, steps.obs), next_obs=policy.normalise(agent, steps.next_obs)
    )
    zero, scale = np.zeros(steps.done.shape), np.sqrt(np.asarray(agent.reward.var) + 1e-8)
    for task in range(4):
        reward = steps.reward if sources == 4 else steps.objectives @ family.objectives[task]
        own = steps._replace(reward=reward / scale[task])
        slots = index if sources == 4 else np.zeros(4, int)
        base, after = slow_linear(own, slots, slow_advantage(own, zero, zero, 0.9, 1.0))
        slow = slow_advantage(own, base, after, 0.9, 0.8)
        slow = slow[:, index == task] if sources == 4 else slow
        np.testing.assert_allclose(found[task], slow.T.ravel(), atol=5e-2)


# What is measured


def test_the_divergence_sets_the_step_size():
    config = PPO(**SETTINGS, desired_kl=0.01)
    agent = fresh(POLICY, DEVICE, KEY)

    def rate(kl, last, update=3):
        measured = jnp.array([kl, 0.0, last, 0.0, 0.0])
        return float(
            config.annealed(row_of(config), Learning(agent, (), jnp.int32(update), measured)).learning_rate
        )

    assert rate(np.nan, np.nan, update=0) == pytest.approx(2e-2)
    assert [rate(x, 1e-3) for x in (0.021, 0.019, 0.006, 0.004)] == pytest.approx(
        [1e-3 / 1.5, 1e-3, 1e-3, 1.5e-3]
    )
    assert rate(1.0, 1e-5) == pytest.approx(1e-5) and rate(0.0, 2e-2) == pytest.approx(2e-2)


@pytest.mark.parametrize("family", [DEVICE, HOST], ids=["device", "host"])
def test_what_is_measured_of_every_update(family):
    learner = PPO(**SETTINGS)
    rows = Rows(np.ones((2, 4), bool), np.array([90, 30]), np.asarray(jax.random.split(KEY)))
    found = train(POLICY, learner, family, rows, rows_per_call=2).measured
    assert tuple(found) == learner.measures and {x.shape for x in found.values()} == {(2, 3)}
    assert all(np.isfinite(x[0]).all() and np.isnan(x[1, 1:]).all() for x in found.values())
    assert (found["kl"][0] > 0).all() and (found["explained_variance"][0] <= 1).all()
    np.testing.assert_allclose(found["learning_rate"][0], 2e-2, rtol=1e-5)


def test_loss_and_entropy_are_those_of_the_data_after_the_update():
    steps, slot_task = some_steps()
    steps = jax.tree.map(jnp.asarray, steps)
    config = PPO(**SETTINGS | {"num_envs": 5, "num_steps": 40}, entropy=0.1)
    agent = fresh(POLICY, DEVICE, KEY)
    row = row_of(config)
    learning = Learning(agent, config.begin(POLICY, agent), jnp.int32(0), jnp.full(5, jnp.nan))
    learnt = jax.jit(lambda x: config.learn(POLICY, row, x, (steps,), KEY))(learning)
    found = dict(zip(config.measures, learnt.measured.tolist(), strict=True))
    batch = make_batch(POLICY, config, agent, steps, CONTEXT, slot_task)
    params = learnt.agent.actor, learnt.agent.critic
    assert found["loss"] == pytest.approx(float(ppo_loss(params, POLICY, config, batch)), rel=1e-4)
    dist = jax.vmap(POLICY.params, (None, 0))(params[0], batch.obs)
    bonus = jax.vmap(POLICY.distribution.exploration)(dist)
    assert found["entropy"] == pytest.approx(float(np.mean(batch.weight * bonus)), rel=1e-4)


def test_the_explained_variance_is_that_within_tasks():
    steps, slot_task = some_steps()
    agent, policy = echo([0.5, -1, 2, 0])
    batch = made(policy, PPO(), agent, steps, CONTEXT, slot_task)
    left = whole = 0.0
    for task in (0, 1, 3):
        own = np.asarray(batch.task) == task
        left += np.var(np.asarray(batch.returns - batch.expected)[own])
        whole += np.var(np.asarray(batch.returns)[own])
    assert float(explained_variance(batch, 4)) == pytest.approx(1 - left / whole, abs=1e-3)


def slow_advantage(steps, value, after, gamma, lam):
    out, carry = np.zeros(value.shape), np.zeros(value.shape[1])
    for t in reversed(range(len(value))):
        delta = steps.reward[t] + gamma * np.where(steps.terminated[t], 0, after[t]) - value[t]
        carry = delta + gamma * lam * np.where(steps.done[t], 0, carry)
        out[t] = carry
    return out


def test_the_linear_baseline_is_one_of_vectors():
    with pytest.raises(ConfigError, match=r"'linear' is one of vectors, .* shape \[5, 5, 3\]; use 'critic'"):
        features(np.zeros((2, 3, 5, 5, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize("family", [DEVICE, HOST], ids=["device", "host"])
def test_steps_know_their_age(family):
    agent = jax.tree.map(np.asarray, POLICY.init(KEY, (4,), CONTEXT))
    steps = engine_of(family).experience(POLICY, family, agent, np.array([0, 1, 3]), KEY, 15)
    np.testing.assert_array_equal(steps.age, np.tile(np.arange(15)[:, None] % 6, 3))
    np.testing.assert_array_equal(steps.done, steps.age == 5)
