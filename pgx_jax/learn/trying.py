"""A few steps of a policy on tasks that it doesn't know, and what critics make of them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num

from pgx_jax.learn.batches import critic_values, everywhere
from pgx_jax.learn.collecting import judge, reward_scales
from pgx_jax.learn.engine import engine_of
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.steady import compiled
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, Key, PyTree


class Tried(NamedTuple):
    """T steps of one policy on each of U tasks, as J of the tasks that it knows would have them."""

    earned: Float[np.ndarray, "U"]
    """float [U]: undiscounted return of an episode: all rewards over the number of episodes that began. The
    last one counts, though it is cut: nobody has been trained to say what would come on a task that none has
    seen. So a policy whose episodes are short by falling earns less than one that keeps its task going, where
    each step pays the same, and more where each step costs."""
    earned_stderr: Float[np.ndarray, "U"]
    """float [U]: its standard error, by how the episodes differ; NaN of a single one."""
    returns: Float[np.ndarray, "J U"]
    """float [J, U]: mean discounted return of the episodes that began, in the tasks' own rewards; after the
    end of the window an episode is worth what the critic says of the known task (nothing, if the critic was
    not trained)."""
    surprise: Float[np.ndarray, "J U"]
    """float [J, U]: mean squared error of the critic from step to step (r + gamma V(s') - V(s), in rewards),
    as if the task were the known one."""
    obs: PyTree
    """The policy's inputs, leaves [U, T, ...]."""
    action: Num[np.ndarray, "U T ..."]
    advantage: Float[np.ndarray, "U T"]
    """float [U, T]: with the context that the family gives the task."""


def try_out(
    policy: Policy,
    learner: Learner,
    family: TaskFamily,
    agent: Agent,
    index: Int[np.ndarray, "U"],
    key: Key,
    steps: int,
    known: Int[np.ndarray, "J"] | None = None,
    baseline: str | None = None,
) -> Tried:
    """Act for ``steps`` in one fresh environment of each task ``index`` [U].

    What happens depends on the key and the tasks, so that policies that are tried with the same key begin
    alike.

    Args:
        policy, family, agent: what acts, and where.
        learner: trained it: discount, trace decay, and whether there is a critic.
        index: int [U], numbers of tasks.
        key: PRNG key.
        steps: environment steps on each task.
        known: int [J], numbers of tasks by whose contexts and scales the critic judges the steps; none by
            default.
        baseline: what advantages are measured against, of `BASELINES`; the learner's own by default.
    """
    index, known = np.asarray(index), np.asarray([] if known is None else known, int)
    played = engine_of(family).experience(policy, family, agent, index, key, steps)
    scale = reward_scales(agent, learner.scale_rewards)
    context, critic, ends = jnp.asarray(family.context), learner.critic, learner.limits_end
    inputs, _, advantage = judge(
        policy, agent, scale, played, index, context, None, learner.gamma, learner.gae_lambda, critic,
        baseline or learner.baseline, ends,
    )  # fmt: skip
    found: list[tuple[Array, Array]] = [
        _foretold(
            policy, agent, scale, played, np.full_like(index, task), context, learner.gamma, critic, ends
        )
        for task in known.tolist()
    ]
    empty = (np.zeros((0, len(index))),) * 2
    returns, surprise = map(np.array, zip(*found, strict=True)) if found else empty
    swapped = jax.tree.map(lambda x: np.moveaxis(np.asarray(x), 0, 1), (inputs, played.action, advantage))
    assert played.age is not None, "the engines tell it"
    earned = _per_episode(np.asarray(played.reward), np.asarray(played.age))
    return Tried(*earned, returns, surprise, *swapped)


def _per_episode(
    reward: Float[np.ndarray, "T E"], age: Int[np.ndarray, "T E"]
) -> tuple[Float[np.ndarray, "E"], Float[np.ndarray, "E"]]:
    """The mean return of the episodes that began in every slot, and its standard error."""
    begun = (age == 0).cumsum(0)
    count, slots = begun[-1], np.broadcast_to(np.arange(len(begun[0])), begun.shape)
    returns = np.zeros((count.max(), len(count)))
    np.add.at(returns, (begun - 1, slots), reward)
    mean, known = returns.sum(0) / count, np.arange(len(returns))[:, None] < count
    squares = np.where(known, (returns - mean) ** 2, 0.0).sum(0)
    degrees = np.where(count > 1, count - 1, np.nan)
    return mean, np.sqrt(squares / degrees / count)


@partial(compiled, quick=True, static_argnames=("policy", "critic", "limits_end"))
def _foretold(
    policy: Policy,
    agent: Agent,
    scale: Array,
    steps: Steps,
    index: Array,
    context: Array,
    gamma: float,
    critic: bool,
    limits_end: bool,
) -> tuple[Float[Array, "E"], Float[Array, "E"]]:
    """Mean discounted return of the episodes that began in every slot, of ``steps`` [T, E, ...], and the
    critic's mean squared error; its values are those on the tasks ``index`` [E]."""
    assert steps.age is not None, "the engines tell it"
    now: Array = jnp.zeros(steps.done.shape)
    then = now
    if critic:
        told, moments = everywhere(context, index, steps), jax.tree.map(lambda x: x[index], agent.value)
        seen = policy.normalise(agent, steps.obs), policy.normalise(agent, steps.next_obs)
        now, then = (critic_values(policy, agent, x, told, moments)[1] * scale[index] for x in seen)

    def before(after: jax.Array, step: tuple[Array, ...]) -> tuple[jax.Array, jax.Array]:
        reward, value, terminated, done = step
        found = jnp.add(reward, gamma * jnp.where(terminated, 0.0, jnp.where(done, value, after)))
        return found, found

    terminated, done = steps.ends(limits_end)
    _, returns = jax.lax.scan(
        before, jnp.asarray(then[-1]), (steps.reward, then, terminated, done), reverse=True
    )
    begins = steps.age == 0
    error = steps.reward + gamma * jnp.where(terminated, 0.0, then) - now
    return jnp.sum(jnp.where(begins, returns, 0.0), 0) / jnp.sum(begins, 0), jnp.mean(error**2, 0)
