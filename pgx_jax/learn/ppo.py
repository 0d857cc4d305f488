"""Proximal policy optimisation (Schulman et al., 2017) for one row: a policy on its member tasks.

Everything here is a pure function of one row's state; `train` maps it over rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from pgx_jax.learn.advantages import gae
from pgx_jax.learn.moments import update_moments
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Slots, Steps, reset_slots, unroll
from pgx_jax.tasks import DeviceEnv
from pgx_jax.types import Agent, Array, PyTree


@struct.dataclass
class PPO:
    """Settings of PPO. The last five are compiled in; the others are traced numbers, so that other
    values need no new compilation."""

    learning_rate: float = 1e-3
    """Step size of Adam."""
    final_learning_rate: float = 1.0
    """Fraction of the step size that is left at the end of a row's budget (linear annealing)."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """Trace decay of the advantages."""
    clip: float = 0.2
    """Clipping range of the probability ratio."""
    entropy: float = 0.01
    """Weight of the entropy bonus (a Gaussian's ends at the deviation of a fresh policy)."""
    value: float = 0.5
    """Weight of the critic's squared error."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm, in minibatches where theirs is larger."""
    num_envs: int = struct.field(pytree_node=False, default=40)
    """Environments of a policy, shared evenly by its tasks."""
    num_steps: int = struct.field(pytree_node=False, default=128)
    """Steps of every environment between updates."""
    epochs: int = struct.field(pytree_node=False, default=4)
    """Passes over the data of an update."""
    minibatches: int = struct.field(pytree_node=False, default=4)
    """Gradient steps of a pass."""
    scale_rewards: bool = struct.field(pytree_node=False, default=True)
    """Divide every task's rewards by the running deviation of its discounted returns."""

    @property
    def steps_per_update(self) -> int:
        """Environment steps between updates."""
        return self.num_envs * self.num_steps

    @property
    def adaptation_steps(self) -> int:
        return 0

    def optimiser(self) -> optax.GradientTransformation:
        """Adam on clipped gradients, before the learning rate."""
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), optax.scale_by_adam(eps=1e-5))


class Problem(NamedTuple):
    """The arrays of a family that training needs, shared by all rows."""

    tasks: PyTree
    context: Array
    """float [n, C]."""


class RowState(NamedTuple):
    """Training state of one row."""

    agent: Agent
    optimiser: PyTree
    slots: Slots
    key: Array
    update: Array
    """int []: updates done."""


class Batch(NamedTuple):
    """What the loss sees, every leaf [B, ...]."""

    obs: Array
    """Normalised."""
    context: Array
    task: Array
    """int [B]: the task that each transition is of."""
    action: Array
    log_prob: Array
    """Of the action when it was taken."""
    advantage: Array
    target: Array
    weight: Array


def slot_tasks(member: Array, num_envs: int) -> Array:
    """int [E]: the task of every slot; a row's slots go round its member tasks in turn."""
    order = jnp.argsort(~member, stable=True)
    return order[jnp.arange(num_envs) % jnp.maximum(member.sum(), 1)]


def begin(config: PPO, agent: Agent, key: Array) -> tuple[RowState, Array]:
    """Training state of a row before its first update, without slots, and the key of their resets."""
    key, reset_key = jax.random.split(key)
    optimiser = config.optimiser().init((agent.actor, agent.critic))
    return RowState(agent, optimiser, (), key, jnp.zeros((), jnp.int32)), reset_key


def start(config: PPO, env: DeviceEnv, problem: Problem, member: Array, agent: Agent, key: Array) -> RowState:
    """Training state of a row before its first update, its environments reset."""
    state, reset_key = begin(config, agent, key)
    tasks = jax.tree.map(lambda x: x[slot_tasks(member, config.num_envs)], problem.tasks)
    return state._replace(slots=reset_slots(env, tasks, jax.random.split(reset_key, config.num_envs)))


def ppo_loss(params: tuple[PyTree, PyTree], policy: Policy, config: PPO, batch: Batch) -> Array:
    """Value error - clipped surrogate objective - entropy bonus, weighted per transition."""
    actor, critic = params
    dist = policy.distribution
    dist_params = jax.vmap(policy.params, (None, 0))(actor, policy.actor_input(batch.obs, batch.context))
    log_prob = jax.vmap(dist.log_prob)(dist_params, batch.action)
    ratio = jnp.exp(log_prob - batch.log_prob)
    clipped = jnp.clip(ratio, 1.0 - config.clip, 1.0 + config.clip)
    objective = jnp.minimum(ratio * batch.advantage, clipped * batch.advantage)
    value = jax.vmap(policy.value, (None, 0))(critic, policy.critic_input(batch.obs, batch.context))
    value_error = 0.5 * (value - batch.target) ** 2
    bonus = jax.vmap(dist.exploration)(dist_params)
    return jnp.mean(batch.weight * (config.value * value_error - objective - config.entropy * bonus))


def _per_task(one_hot: Array, x: Array) -> tuple[Array, Array, Array]:
    """Mean, variance and count [n] per task of x [T, E], given the slots' one-hot tasks [E, n]."""
    count, own = one_hot.sum(0) * x.shape[0], one_hot > 0

    def average(x):  # not a product with one_hot, in which one task's NaN would reach all tasks
        return jnp.where(own, x.sum(0)[:, None], 0.0).sum(0) / jnp.maximum(count, 1.0)

    mean = average(x)
    return mean, average((x - jnp.where(own, mean, 0.0).sum(1)) ** 2), count


def make_batch(
    policy: Policy, config: PPO, agent: Agent, steps: Steps, context: Array, slot_task: Array
) -> Batch:
    """Turn T steps of E slots into B = T * E weighted training examples.

    Advantages are standardised per task; weights make the row's tasks count the same.

    Args:
        policy, config, agent: what acted.
        steps: what its slots did, leaves [T, E, ...].
        context: float [n, C], the family's.
        slot_task: int [E], the task of every slot.
    """
    one_hot = jax.nn.one_hot(slot_task, len(context))
    obs, next_obs = policy.normalise(agent, steps.obs), policy.normalise(agent, steps.next_obs)
    told = jnp.broadcast_to(context[slot_task], steps.done.shape + context.shape[1:])
    of_all = jax.vmap(jax.vmap(policy.value, (None, 0)), (None, 0))
    value, next_value = (of_all(agent.critic, policy.critic_input(x, told)) for x in (obs, next_obs))
    scale = one_hot @ jnp.sqrt(agent.reward.var + 1e-8) if config.scale_rewards else 1.0
    advantage = gae(
        steps.reward / scale, value, next_value, steps.terminated, steps.done, config.gamma, config.gae_lambda
    )
    mean, var, count = _per_task(one_hot, advantage)
    standardised = (advantage - one_hot @ mean) / (one_hot @ jnp.sqrt(var) + 1e-8)
    weight = one_hot @ (jnp.sum(count) / (jnp.sum(count > 0) * jnp.maximum(count, 1.0)))
    of_all = jax.vmap(jax.vmap(policy.log_prob, (None, 0, 0)), (None, 0, 0))
    log_prob = of_all(agent.actor, policy.actor_input(obs, told), steps.action)
    batch = Batch(
        obs=obs,
        context=told,
        task=jnp.broadcast_to(slot_task, value.shape),
        action=steps.action,
        log_prob=log_prob,
        advantage=standardised,
        target=advantage + value,
        weight=jnp.broadcast_to(weight, value.shape),
    )
    return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), batch)


def fit_batch(
    policy: Policy, config: PPO, state: RowState, batch: Batch, key: Array, rate: Array
) -> RowState:
    """Epochs of minibatch Adam on one batch."""
    optimiser, size = config.optimiser(), batch.weight.shape[0]
    width = size // config.minibatches

    def minibatch(carry, index):
        params, opt = carry
        part = jax.tree.map(lambda x: x[index], batch)
        grads = jax.grad(ppo_loss)(params, policy, config, part)
        updates, opt = optimiser.update(grads, opt)
        return (jax.tree.map(lambda p, u: p - rate * u, params, updates), opt), None

    def epoch(carry, key):
        order = jax.random.permutation(key, size)[: width * config.minibatches]
        return jax.lax.scan(minibatch, carry, order.reshape(config.minibatches, width))

    carry = ((state.agent.actor, state.agent.critic), state.optimiser)
    ((actor, critic), opt), _ = jax.lax.scan(epoch, carry, jax.random.split(key, config.epochs))
    return state._replace(agent=state.agent._replace(actor=actor, critic=critic), optimiser=opt)


def _update_normalisation(config: PPO, agent: Agent, steps: Steps, one_hot: Array) -> Agent:
    count = jnp.asarray(steps.obs.shape[0] * steps.obs.shape[1], jnp.float32)
    observation = update_moments(agent.observation, steps.obs.mean((0, 1)), steps.obs.var((0, 1)), count)
    # An observation that is not finite counts as such a reward: those are kept apart by task.
    seen = jnp.isfinite(steps.obs) & jnp.isfinite(steps.next_obs)
    rewards = jnp.where(seen.reshape(*steps.done.shape, -1).all(-1), steps.discounted, jnp.nan)
    return agent._replace(
        observation=observation, reward=update_moments(agent.reward, *_per_task(one_hot, rewards))
    )


def step_keys(key: Array) -> tuple[Array, Array, Array]:
    """The keys of an update: that of the next one, of acting and of fitting."""
    next_key, act_key, fit_key = jax.random.split(key, 3)
    return next_key, act_key, fit_key


def update(
    policy: Policy,
    env: DeviceEnv,
    horizon: int,
    config: PPO,
    problem: Problem,
    member: Array,
    total_updates: Array,
    state: RowState,
) -> tuple[RowState, Array]:
    """One PPO update of one row: act in its slots, then `learn_from` what came of it."""
    _, act_key, _ = step_keys(state.key)
    tasks, context = jax.tree.map(lambda x: x[slot_tasks(member, config.num_envs)], problem)
    slots, steps = unroll(
        policy,
        env,
        horizon,
        state.agent,
        tasks,
        context,
        state.slots,
        act_key,
        config.num_steps,
        gamma=config.gamma,
    )
    state = state._replace(slots=slots)
    return learn_from(policy, config, problem.context, member, total_updates, state, steps)


def learn_from(
    policy: Policy,
    config: PPO,
    context: Array,
    member: Array,
    total_updates: Array,
    state: RowState,
    steps: Steps,
) -> tuple[RowState, Array]:
    """The second half of an update, the same for both engines.

    Args:
        policy, config: static description and settings.
        context: float [n, C], the family's.
        member: bool [n], the row's tasks.
        total_updates: int [], of the row's budget.
        state: the row, as it acted.
        steps: what its slots did, leaves [T, E, ...].

    Returns:
        The new state, and the mean return [n] of the episodes that ended, per task (NaN if none).
    """
    key, _, fit_key = step_keys(state.key)
    slot_task = slot_tasks(member, config.num_envs)
    one_hot = jax.nn.one_hot(slot_task, member.shape[0])
    agent = state.agent._replace(reward=_update_normalisation(config, state.agent, steps, one_hot).reward)
    batch = make_batch(policy, config, agent, steps, context, slot_task)
    progress = state.update / jnp.maximum(total_updates, 1)
    rate = config.learning_rate * (1.0 - progress * (1.0 - config.final_learning_rate))
    state = state._replace(agent=agent)
    # After a non-finite reward or observation the policy stands still, so that its task can be named.
    sane = jnp.isfinite(agent.reward.var).all()
    fitted = fit_batch(policy, config, state, batch, fit_key, rate)
    state = jax.tree.map(lambda x, y: jnp.where(sane, x, y), fitted, state)
    observation = _update_normalisation(config, state.agent, steps, one_hot).observation
    observation = jax.tree.map(lambda x, y: jnp.where(sane, x, y), observation, state.agent.observation)
    state = state._replace(
        agent=state.agent._replace(observation=observation), key=key, update=state.update + 1
    )
    ended = (steps.done * 1.0).sum(0) @ one_hot
    returns = (steps.done * steps.episode_return).sum(0) @ one_hot / ended
    return state, returns
