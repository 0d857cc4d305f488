"""What PPO learns from: the steps of an update, judged, as weighted training examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from pgx_jax.learn.advantages import gae
from pgx_jax.learn.baselines import expected
from pgx_jax.learn.moments import per_task, standardise, unstandardise, update_moments
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.types import Agent, Array, Last, Moments

if TYPE_CHECKING:
    from pgx_jax.learn.ppo import PPO


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
    """Of the critic's output."""
    weight: Array
    value: Array | None = None
    """The critic's output when the batch was made, where it is needed to clip by."""
    expected: Array | None = None
    """What advantages were measured against, and"""
    returns: Array | None = None
    """what came instead: its sum with the advantages, before they were standardised."""
    last: Last | None = None
    """What a policy with memory was told of the step before."""


class Judged(NamedTuple):
    """Steps with what networks make of them, every leaf [T, E, ...]."""

    steps: Steps
    obs: Array
    """Normalised, as is"""
    next_obs: Array
    """what each step led to."""
    context: Array
    output: Array
    """Of the critic."""
    value: Array
    next_value: Array
    """Of what each step led to, where nothing ends."""
    log_prob: Array | None = None
    """Of the actions, and"""
    last: Last | None = None
    """what was told before them, of policies with memory."""


def make_batch(
    policy: Policy,
    config: PPO,
    agent: Agent,
    steps: Steps,
    context: Array,
    slot_task: Array,
    per_slot: bool = False,
) -> Batch:
    """Turn T steps of E slots into B = T * E weighted training examples.

    Advantages are standardised per task, unless they will be in every minibatch; weights make the row's
    tasks count the same. Targets are values (see `standardise_targets`).

    Args:
        policy, config, agent: what acted.
        steps: what its slots did, leaves [T, E, ...].
        context: float [n, C], the family's.
        slot_task: int [E], the task of every slot.
        per_slot: ``agent.actor`` leads with an axis E: every slot acted with parameters of its own.

    Raises:
        ConfigError: a baseline that is none of such observations.
    """
    one_hot = jax.nn.one_hot(slot_task, len(context))
    judged = config.judge(policy, agent, steps, context, slot_task)
    steps, value, next_value = judged.steps, judged.value, judged.next_value
    scale = one_hot @ jnp.sqrt(agent.reward.var + 1e-8) if config.scale_rewards else 1.0
    reward, ends = steps.reward / scale, steps.ends(config.limits_end)
    values = against = (value, next_value)
    advantage = gae(reward, *values, *ends, config.gamma, config.gae_lambda)
    target = advantage + value
    if config.baseline != "critic":
        against = expected(
            config.baseline, values, slot_task, len(context), (judged.obs, judged.next_obs), steps.age,
            reward, ends, config.gamma,
        )  # fmt: skip
        advantage = gae(reward, *against, *ends, config.gamma, config.gae_lambda)
    returns = against[0] + advantage
    mean, var, count = per_task(one_hot, advantage)
    if not config.standardise_minibatches:
        advantage = (advantage - one_hot @ mean) / (one_hot @ jnp.sqrt(var) + 1e-8)
    weight = one_hot @ (jnp.sum(count) / (jnp.sum(count > 0) * jnp.maximum(count, 1.0)))
    log_prob, told = judged.log_prob, judged.context
    if log_prob is None:
        log_prob_of_slots = jax.vmap(policy.log_prob, (0 if per_slot else None, 0, 0))
        log_prob_of_all = jax.vmap(log_prob_of_slots, (None, 0, 0))
        log_prob = log_prob_of_all(agent.actor, policy.actor_input(judged.obs, told), steps.action)
    batch = Batch(
        obs=judged.obs,
        context=told,
        task=jnp.broadcast_to(slot_task, value.shape),
        action=steps.action,
        log_prob=log_prob,
        advantage=advantage,
        target=target,
        weight=jnp.broadcast_to(weight, value.shape),
        value=None if config.value_clip is None else judged.output,
        expected=against[0],
        returns=returns,
        last=judged.last,
    )
    return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), batch)


def judge_steps(
    policy: Policy, agent: Agent, steps: Steps, context: Array, slot_task: Array, critic: bool = True
) -> Judged:
    """Steps of a policy without memory; without a ``critic`` values are 0 (see `make_batch`)."""
    obs, next_obs = policy.normalise(agent, steps.obs), policy.normalise(agent, steps.next_obs)
    told = everywhere(context, slot_task, steps)
    values: tuple[Array, Array, Array] = (jnp.zeros(steps.done.shape),) * 3
    if critic:
        moments = jax.tree.map(lambda x: x[slot_task], agent.value)
        now, then = (critic_values(policy, agent, x, told, moments) for x in (obs, next_obs))
        values = (*now, then[1])
    return Judged(steps, obs, next_obs, told, *values)


def everywhere(context: Array, slot_task: Array, steps: Steps) -> Array:
    """Of the contexts [n, C] that of every step, [T, E, C]."""
    return jnp.broadcast_to(context[slot_task], steps.done.shape + context.shape[1:])


def critic_values(
    policy: Policy, agent: Agent, obs: Array, told: Array, moments: Moments | None
) -> tuple[Array, Array]:
    """The critic's outputs [T, E] for normalised observations and contexts [T, E, ...], and the values that
    they mean, by moments [E] or [] (see `Policy.normalise_values`; None where outputs are values)."""
    of_all = jax.vmap(jax.vmap(policy.value, (None, 0)), (None, 0))
    output = of_all(agent.critic, policy.critic_input(obs, told))
    return output, unstandardise(moments, output)


def standardise_targets(moments: Moments, batch: Batch) -> tuple[Moments, Batch]:
    """Moments [n] of the values of each task that know those of a batch too, and the batch with targets that
    are standardised by them: those of the output of a critic with ``Policy.normalise_values``."""
    one_hot = jax.nn.one_hot(batch.task, len(moments.mean))
    moments = update_moments(moments, *per_task(one_hot, batch.target[None]))
    own = jax.tree.map(lambda x: x[batch.task], moments)
    return moments, batch._replace(target=standardise(own, batch.target))


def explained_variance(batch: Batch, n: int) -> Array:
    """Part of the returns' variance within tasks that was expected, float []: at most 1; 0 where a constant a
    task would have done as well."""
    assert batch.returns is not None and batch.expected is not None, "see `make_batch`"
    one_hot = jax.nn.one_hot(batch.task, n)
    left, whole = (per_task(one_hot, x[None])[1] for x in (batch.returns - batch.expected, batch.returns))
    return 1.0 - jnp.sum(left) / jnp.maximum(jnp.sum(whole), 1e-8)


def standardise_advantages(batch: Batch) -> Batch:
    """The batch with advantages of mean 0 and variance 1 over all its transitions, by their weights."""
    share = batch.weight / jnp.sum(batch.weight)
    centred = batch.advantage - jnp.vdot(share, batch.advantage)
    return batch._replace(advantage=centred / (jnp.sqrt(jnp.vdot(share, centred**2)) + 1e-8))
