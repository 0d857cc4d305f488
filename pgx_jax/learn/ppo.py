"""Proximal policy optimisation (Schulman et al., 2017) for one row: a policy on its member tasks."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.flatten_util import ravel_pytree

from pgx_jax.errors import ConfigError
from pgx_jax.learn.advantages import gae
from pgx_jax.learn.learner import COUNT, LEARNERS, Learner, Learning, RowTasks, check_ranges, check_slots
from pgx_jax.learn.moments import per_task
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.learn.shuffling import orders
from pgx_jax.types import Agent, Array, PyTree

_RANGES = {
    "between 0 and 1": ("gamma", "gae_lambda"),
    "positive": ("learning_rate", "clip", "max_grad_norm"),
    "0 or more": ("final_learning_rate", "entropy", "final_entropy", "value"),
    COUNT: ("num_envs", "num_steps", "epochs", "minibatches"),
}


@struct.dataclass
class PPO(Learner):
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
    final_entropy: float = 1.0
    """Fraction of the entropy bonus that is left at the end of a row's budget (linear annealing)."""
    value: float = 0.5
    """Weight of the critic's squared error."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm, in minibatches where theirs is larger."""
    num_envs: int = struct.field(pytree_node=False, default=40)
    """Environments of a policy, shared evenly by its tasks; in a run fewer, where its budget is small
    (`Config.min_updates`)."""
    num_steps: int = struct.field(pytree_node=False, default=128)
    """Steps of every environment between updates."""
    epochs: int = struct.field(pytree_node=False, default=4)
    """Passes over the data of an update."""
    minibatches: int = struct.field(pytree_node=False, default=4)
    """Gradient steps of a pass."""
    scale_rewards: bool = struct.field(pytree_node=False, default=True)
    """Divide every task's rewards by the running deviation of its discounted returns."""

    def optimiser(self) -> optax.GradientTransformation:
        """Adam on clipped gradients, before the learning rate."""
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), optax.scale_by_adam(eps=1e-5))

    def check(self, n: int = 1, name: str | None = None) -> None:
        """Refuse settings that cannot work for rows of up to n tasks (see `Learner.check`)."""
        name = name or "ppo"
        check_ranges(self, name, _RANGES)
        check_slots(self, n, name)
        count, batch = self.minibatches, self.steps_per_update
        if batch < count:
            raise ConfigError(f"{name}.minibatches = {count} of a batch of {batch} steps; use fewer")

    def begin(self, policy: Policy, agent: Agent) -> PyTree:
        """The state of Adam, for all parameters in one vector."""
        return self.optimiser().init(_vector((agent.actor, agent.critic)))

    def learn(
        self, policy: Policy, row: RowTasks, learning: Learning, steps: tuple[Steps, ...], key: Array
    ) -> Learning:
        """Epochs of minibatches on the clipped objective."""
        config = self.annealed(row, learning)
        batch = make_batch(policy, config, learning.agent, steps[0], row.context, row.slot_task)
        return fit_batch(policy, config, row, learning, batch, key)

    def annealed(self, row: RowTasks, learning: Learning) -> Self:
        """The settings with the learning rate and the entropy bonus of a row's next update."""
        progress = learning.update / jnp.maximum(row.total, 1)
        return self.replace(  # type: ignore[attr-defined]
            learning_rate=self.learning_rate * (1.0 - progress * (1.0 - self.final_learning_rate)),
            entropy=self.entropy * (1.0 - progress * (1.0 - self.final_entropy)),
        )

    def gradients(
        self, policy: Policy, row: RowTasks, params: tuple[PyTree, PyTree], batch: Batch
    ) -> tuple[PyTree, PyTree]:
        """Of (actor, critic) on a minibatch, before they are clipped. ``batch.task`` says whose each
        transition is, ``row.member`` which tasks there are. (Methods that put the gradients of single tasks
        together derive from `taskwise.Taskwise`.)"""
        return jax.grad(ppo_loss)(params, policy, self, batch)

    def direction(
        self,
        policy: Policy,
        row: RowTasks,
        params: tuple[PyTree, PyTree],
        batch: Batch,
        memory: PyTree,
        key: Array,
    ) -> tuple[Array, PyTree]:
        """Where a gradient step on a minibatch takes all parameters away from, before the learning rate, and
        what is remembered after it."""
        return self.optimiser().update(_vector(self.gradients(policy, row, params, batch)), memory)

    def look_back(
        self, policy: Policy, row: RowTasks, params: tuple[PyTree, PyTree], batch: Batch, memory: PyTree
    ) -> PyTree:
        """What is remembered once the step of a minibatch is done."""
        return memory


LEARNERS["ppo"] = PPO


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


def ppo_loss(params: tuple[PyTree, PyTree], policy: Policy, config: PPO, batch: Batch) -> Array:
    """Value error - clipped surrogate objective - entropy bonus, weighted per transition."""
    value_error, objective, bonus = terms(params, policy, config, batch)
    return jnp.mean(batch.weight * (config.value * value_error - objective - config.entropy * bonus))


def terms(
    params: tuple[PyTree, PyTree], policy: Policy, config: PPO, batch: Batch
) -> tuple[Array, Array, Array]:
    """Value error (of the critic), clipped surrogate objective and entropy bonus (of the actor), each [B]."""
    actor, critic = params
    dist = policy.distribution
    dist_params = jax.vmap(policy.params, (None, 0))(actor, policy.actor_input(batch.obs, batch.context))
    log_prob = jax.vmap(dist.log_prob)(dist_params, batch.action)
    ratio = jnp.exp(log_prob - batch.log_prob)
    clipped = jnp.clip(ratio, 1.0 - config.clip, 1.0 + config.clip)
    objective = jnp.minimum(ratio * batch.advantage, clipped * batch.advantage)
    value = jax.vmap(policy.value, (None, 0))(critic, policy.critic_input(batch.obs, batch.context))
    value_error = 0.5 * (value - batch.target) ** 2
    return value_error, objective, jax.vmap(dist.exploration)(dist_params)


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
    value_of_all = jax.vmap(jax.vmap(policy.value, (None, 0)), (None, 0))
    value, next_value = (value_of_all(agent.critic, policy.critic_input(x, told)) for x in (obs, next_obs))
    scale = one_hot @ jnp.sqrt(agent.reward.var + 1e-8) if config.scale_rewards else 1.0
    advantage = gae(
        steps.reward / scale, value, next_value, steps.terminated, steps.done, config.gamma, config.gae_lambda
    )
    mean, var, count = per_task(one_hot, advantage)
    standardised = (advantage - one_hot @ mean) / (one_hot @ jnp.sqrt(var) + 1e-8)
    weight = one_hot @ (jnp.sum(count) / (jnp.sum(count > 0) * jnp.maximum(count, 1.0)))
    log_prob_of_all = jax.vmap(jax.vmap(policy.log_prob, (None, 0, 0)), (None, 0, 0))
    log_prob = log_prob_of_all(agent.actor, policy.actor_input(obs, told), steps.action)
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


def _vector(params: PyTree) -> Any:
    """All numbers in one vector."""
    return ravel_pytree(params)[0]


Fitted = tuple[Any, PyTree]
"""What gradient steps change: the parameters of actor and critic, and the learner's memory."""


def fit_batch(
    policy: Policy, config: PPO, row: RowTasks, learning: Learning, batch: Batch, key: Array
) -> Learning:
    """Epochs of minibatch Adam on one batch.

    The parameters are one vector here: Adam is a few long loops instead of several for each leaf.
    """
    size, agent = batch.weight.shape[0], learning.agent
    width = size // config.minibatches
    start, unravel = ravel_pytree((agent.actor, agent.critic))

    def minibatch(fitted: Fitted, at: tuple[Array, Array]) -> tuple[Fitted, None]:
        (vector, memory), (index, number) = fitted, at
        part = jax.tree.map(lambda x: x[index], batch)
        own = jax.random.fold_in(key, number)
        step, memory = config.direction(policy, row, unravel(vector), part, memory, own)
        vector = vector - config.learning_rate * step
        return (vector, config.look_back(policy, row, unravel(vector), part, memory)), None

    shuffled = orders(key, size, config.epochs)[:, : width * config.minibatches].reshape(-1, width)
    numbered = (shuffled, jnp.arange(len(shuffled)))
    (vector, memory), _ = jax.lax.scan(minibatch, (start, learning.memory), numbered)
    actor, critic = unravel(vector)
    return learning._replace(agent=agent._replace(actor=actor, critic=critic), memory=memory)
