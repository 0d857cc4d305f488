"""PPO: the loss worked out by hand, and the batch it sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from probes import fresh, table, tabular_family

from pgx_jax.learn import PPO, make_policy
from pgx_jax.learn.device import Problem, start, update
from pgx_jax.learn.learner import Learning
from pgx_jax.learn.ppo import Batch, fit_batch, make_batch, ppo_loss
from pgx_jax.learn.rollout import Steps, reset_slots, unroll
from pgx_jax.learn.updating import row_tasks, slot_tasks
from pgx_jax.types import Moments


class ConstantLogits(nn.Module):
    """The same logits everywhere."""

    @nn.compact
    def __call__(self, obs, context=None):
        return self.param("logits", nn.initializers.zeros, (2,))


class LinearValue(nn.Module):
    """w . x"""

    @nn.compact
    def __call__(self, obs, context=None):
        return nn.Dense(1, use_bias=False)(obs)[0]


loss = jax.jit(ppo_loss, static_argnums=1)
gradients = jax.jit(jax.grad(ppo_loss), static_argnums=1)
batch_of = jax.jit(make_batch, static_argnums=0)

FAMILY = tabular_family([table(), table()])
POLICY = make_policy(FAMILY, actor=ConstantLogits(), critic=LinearValue(), conditioned_critic=False)
KEY = jax.random.PRNGKey(0)


def agent_with(weights, policy=POLICY, family=FAMILY):
    """An agent whose value of an observation is its product with ``weights``."""
    agent = fresh(policy, family, KEY)
    kernel = jnp.asarray(weights, jnp.float32)[:, None]
    return agent._replace(critic={"params": {"Dense_0": {"kernel": kernel}}})


# The loss


def hand_batch():
    """Four transitions; the policy gives both actions 1/2, the old one gave 1/3, 1/3, 1, 5/11."""
    return Batch(
        obs=np.eye(4, 3),
        context=np.zeros((4, 2)),
        task=np.zeros(4, int),
        action=np.array([0, 1, 0, 1]),
        log_prob=np.log([1 / 3, 1 / 3, 1.0, 5 / 11]),
        advantage=np.array([2.0, -2.0, -2.0, 3.0]),
        target=np.array([1.5, 0.0, 3.0, -1.0]),
        weight=np.array([1.0, 2.0, 0.5, 1.0]),
    )


def test_the_loss_by_hand():
    # ratios 1.5, 1.5, .5, 1.1; clipped at .2: 1.2, 1.2, .8, 1.1
    # objectives min(r A, clip(r) A): 2.4, -3, -1.6, 3.3
    # values (1, 2, 3, 0), errors (v - target)^2 / 2: .125, 2, 0, .5; entropy log 2 everywhere
    objective = np.array([2.4, -3.0, -1.6, 3.3])
    error, weight = np.array([0.125, 2.0, 0.0, 0.5]), np.array([1.0, 2.0, 0.5, 1.0])
    expected = np.mean(weight * (0.7 * error - objective - 0.1 * np.log(2.0)))
    agent, config = agent_with([1.0, 2.0, 3.0]), PPO(clip=0.2, value=0.7, entropy=0.1)
    params = (agent.actor, agent.critic)
    assert float(loss(params, POLICY, config, hand_batch())) == pytest.approx(expected, rel=1e-5)


def test_clipped_transitions_pull_no_more():
    agent, config = agent_with([0.0, 0.0, 0.0]), PPO(clip=0.2, value=0.0, entropy=0.0)
    batch = hand_batch()

    def pull(i):
        one = jax.tree.map(lambda x: x[i : i + 1], batch)
        grads = gradients((agent.actor, agent.critic), POLICY, config, one)
        return np.asarray(grads[0]["params"]["logits"])

    np.testing.assert_array_equal(pull(0), 0.0)  # better and already 1.5 times as likely
    np.testing.assert_array_equal(pull(2), 0.0)  # worse and already half as likely
    # d(r A w)/d logit of the action = r A w (1 - 1/2); the loss is its negative
    np.testing.assert_allclose(pull(1), [-1.5 * 2 * 2 * 0.5, 1.5 * 2 * 2 * 0.5], rtol=1e-5)
    np.testing.assert_allclose(pull(3), [1.1 * 3 * 0.5, -1.1 * 3 * 0.5], rtol=1e-5)


# The batch


def hand_steps(seed=0, length=6, slots=3):
    """Random steps with both kinds of ending; slots 0 and 2 are on task 0, slot 1 on task 1."""
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.normal(size=(2, length, slots, 3)).astype(np.float32)
    terminated = rng.random((length, slots)) < 0.2
    done = terminated | (rng.random((length, slots)) < 0.3)
    next_obs[:-1] = np.where(done[:-1, :, None], next_obs[:-1], obs[1:])
    reward = rng.normal(size=(length, slots)).astype(np.float32)
    assert (done & ~terminated)[:-1].any() and terminated[:-1].any()
    zero = np.zeros((length, slots), np.float32)
    action = rng.integers(0, 2, (length, slots))
    steps = Steps(obs, action, reward, next_obs, terminated, done, zero, zero, zero)
    return steps, np.array([0, 1, 0])


def slow_advantage(steps, weights, scale, gamma, lam):
    reward = np.asarray(steps.reward) / scale
    value, after = np.asarray(steps.obs) @ weights, np.asarray(steps.next_obs) @ weights
    out = np.zeros(reward.shape)
    for e in range(reward.shape[1]):
        carry = 0.0
        for t in reversed(range(len(reward))):
            future = 0.0 if steps.terminated[t, e] else after[t, e]
            carry = 0.0 if steps.done[t, e] else carry
            carry = reward[t, e] + gamma * future - value[t, e] + gamma * lam * carry
            out[t, e] = carry
    return out, value


def test_the_batch_bootstraps_from_the_observation_before_the_reset():
    steps, slot_task = hand_steps()
    weights = np.array([0.5, -1.0, 2.0])
    agent = agent_with(weights)
    agent = agent._replace(reward=Moments(jnp.zeros(2), jnp.array([4.0, 0.25]), jnp.ones(2)))
    for scale_rewards, scale in ((True, np.array([2.0, 0.5, 2.0])), (False, 1.0)):
        config = PPO(gamma=0.9, gae_lambda=0.8, scale_rewards=scale_rewards)
        batch = batch_of(POLICY, config, agent, steps, np.eye(2, dtype=np.float32), slot_task)
        advantage, value = slow_advantage(steps, weights, scale, 0.9, 0.8)
        np.testing.assert_allclose(batch.target, (advantage + value).ravel(), atol=1e-4)
        standard = np.zeros_like(advantage)
        for slots in ([0, 2], [1]):
            a = advantage[:, slots]
            standard[:, slots] = (a - a.mean()) / a.std()
        np.testing.assert_allclose(batch.advantage, standard.ravel(), atol=1e-4)
    np.testing.assert_allclose(batch.log_prob, np.log(0.5), rtol=1e-6)
    np.testing.assert_array_equal(batch.obs, np.asarray(steps.obs).reshape(-1, 3))
    np.testing.assert_array_equal(batch.task, np.tile([0, 1, 0], 6))
    np.testing.assert_array_equal(batch.context, np.eye(2)[batch.task])


def test_weights_make_the_tasks_of_a_row_count_the_same():
    steps, slot_task = hand_steps()
    agent, context = agent_with(np.zeros(3)), np.eye(2, dtype=np.float32)
    batch = jax.tree.map(np.asarray, batch_of(POLICY, PPO(), agent, steps, context, slot_task))
    weight = batch.weight.reshape(6, 3)
    np.testing.assert_allclose(weight[:, [0, 2]].sum(), weight[:, 1].sum(), rtol=1e-6)
    np.testing.assert_allclose(weight.mean(), 1.0, rtol=1e-6)

    # so that gradients are the mean of the tasks' own, however many slots each one has
    def grads(columns):
        part = jax.tree.map(lambda x: x.reshape(6, 3, *x.shape[1:])[:, columns], batch)
        part = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), part)
        if columns != [0, 1, 2]:
            part = part._replace(weight=np.ones_like(part.weight))
        agent = agent_with([1.0, -1.0, 0.5])
        return jax.tree.map(np.asarray, gradients((agent.actor, agent.critic), POLICY, PPO(), part))

    mean = jax.tree.map(lambda a, b: (a + b) / 2, grads([0, 2]), grads([1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads([0, 1, 2]), mean)


def test_slots_go_round_the_member_tasks():
    member = jnp.array([False, True, False, True, True])
    np.testing.assert_array_equal(slot_tasks(member, 7), [1, 3, 4, 1, 3, 4, 1])
    np.testing.assert_array_equal(slot_tasks(jnp.eye(5, dtype=bool)[2], 3), [2, 2, 2])


def test_the_collector_keeps_the_observation_before_the_reset():
    chain = table(4, following={(0, None): 1, (1, None): 2, (2, None): 3}, terminal={(2, None): True})
    family = tabular_family([chain, chain])
    policy = make_policy(family, hidden=(4,))
    agent = fresh(policy, family, KEY)
    for horizon, states, after, done in (
        (2, [0, 1, 0, 1, 0, 1], [1, 2, 1, 2, 1, 2], [0, 1, 0, 1, 0, 1]),  # cut by the time limit
        (9, [0, 1, 2, 0, 1, 2], [1, 2, 3, 1, 2, 3], [0, 0, 1, 0, 0, 1]),  # terminated
    ):
        slots = reset_slots(family.env, family.tasks, jax.random.split(KEY, 2))
        context = jnp.asarray(family.context)
        _, steps = unroll(policy, family.env, horizon, agent, family.tasks, context, slots, KEY, 6)
        np.testing.assert_array_equal(np.argmax(steps.obs, -1), np.array([states] * 2).T)
        np.testing.assert_array_equal(np.argmax(steps.next_obs, -1), np.array([after] * 2).T)
        np.testing.assert_array_equal(steps.done, np.array([done] * 2).T)
        np.testing.assert_array_equal(steps.terminated, steps.done & (horizon == 9))


def test_returns_and_discounted_sums_of_episodes():
    chain = table(
        3, following={(0, None): 1, (1, None): 2}, reward={(0, None): 1.0, (1, None): 10.0, (2, None): 100.0}
    )
    family = tabular_family([chain, chain], horizon=3)
    policy = make_policy(family, hidden=(4,))
    agent = fresh(policy, family, KEY)
    slots = reset_slots(family.env, family.tasks, jax.random.split(KEY, 2))
    context = jnp.asarray(family.context)
    _, steps = unroll(policy, family.env, 3, agent, family.tasks, context, slots, KEY, 5, gamma=0.5)
    np.testing.assert_allclose(steps.episode_return[:, 0], [1, 11, 111, 1, 11])
    np.testing.assert_allclose(steps.discounted[:, 0], [1, 10.5, 105.25, 1, 10.5])


# Updates


def test_the_learning_rate_is_annealed_to_nothing():
    config = PPO(num_envs=4, num_steps=4, epochs=1, minibatches=1, final_learning_rate=0.0)
    family = tabular_family([table(reward={(0, 0): 1.0}), table(reward={(0, 1): 1.0})])
    policy = make_policy(family, hidden=(4,))
    problem = Problem(jax.tree.map(jnp.asarray, family.tasks), jnp.asarray(family.context))
    member = jnp.ones(2, bool)
    agent = fresh(policy, family, KEY)
    state = jax.jit(start, static_argnums=(0, 1))(policy, family.env, config, problem, member, agent, KEY)
    one = jax.jit(
        lambda state, total: update(policy, family.env, 2, config, problem, member, total, state)[0]
    )

    def moved(done):
        before = state._replace(learning=state.learning._replace(update=jnp.int32(done)))
        after = one(before, jnp.int32(8)).learning
        assert after.update == done + 1 and float(after.agent.observation.count[0]) > 15
        moves = jax.tree.map(lambda a, b: float(abs(a - b).max()), after.agent.actor, agent.actor)
        return max(jax.tree.leaves(moves))

    assert moved(8) == 0.0
    assert moved(0) > 0.0
    assert moved(6) == pytest.approx(moved(0) / 4, rel=0.01)  # Adam's first step has the length of its rate


def test_epochs_see_every_transition_once():
    class Echo(nn.Module):
        """A critic that is linear with one weight per transition."""

        @nn.compact
        def __call__(self, obs, context=None):
            return nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros)(obs)[0]

    policy = make_policy(FAMILY, actor=ConstantLogits(), critic=Echo(), conditioned_critic=False)
    agent = policy.init(KEY, (12,), jnp.asarray(FAMILY.context))
    zeros = np.zeros(12)
    batch = Batch(
        obs=np.eye(12),
        context=np.zeros((12, 2)),
        task=zeros.astype(int),
        action=zeros.astype(int),
        log_prob=zeros + np.log(0.5),
        advantage=zeros,
        target=zeros + 1,
        weight=zeros + 1,
    )
    config = PPO(learning_rate=0.1, epochs=1, minibatches=3, num_envs=4, num_steps=3, entropy=0.0)
    learning = Learning(agent, config.begin(policy, agent), jnp.int32(0))
    row = row_tasks(config, jnp.asarray(FAMILY.context), jnp.ones(2, bool), jnp.int32(1))
    after = jax.jit(fit_batch, static_argnums=0)(policy, config, row, learning, batch, KEY)
    weights = np.asarray(after.agent.critic["params"]["Dense_0"]["kernel"])[:, 0]
    # Adam moves every coordinate that had a gradient by about the learning rate, and later on coasts
    assert (weights > 0.05).all()
    assert (np.asarray(after.agent.actor["params"]["logits"]) == 0).all()
