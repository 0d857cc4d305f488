"""Proximal policy optimisation (Schulman et al., 2017) for one row: a policy on its member tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.flatten_util import ravel_pytree

from pgx_jax.errors import ConfigError, pick
from pgx_jax.learn.baselines import BASELINES
from pgx_jax.learn.batches import (
    Batch,
    Judged,
    explained_variance,
    judge_steps,
    make_batch,
    standardise_advantages,
    standardise_targets,
)
from pgx_jax.learn.learner import COUNT, LEARNERS, Learner, Learning, RowTasks, check_ranges, check_slots
from pgx_jax.learn.memory import outputs
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.learn.shuffling import orders
from pgx_jax.learn.stopping import divergence, until
from pgx_jax.types import Agent, Array, Named, PyTree

_RANGES = {
    "between 0 and 1": ("gamma", "gae_lambda"),
    "positive": ("learning_rate", "clip", "max_grad_norm"),
    "None or positive": ("value_clip", "target_kl", "desired_kl"),
    "None, or above 0 and at most 1": ("freeze_observations",),
    "True or False": ("standardise_minibatches", "scale_rewards", "limits_end"),
    "0 or more": ("final_learning_rate", "entropy", "final_entropy", "value"),
    COUNT: ("num_envs", "num_steps", "epochs", "minibatches"),
}


@struct.dataclass
class PPO(Learner):
    """Settings of PPO. From ``num_envs`` on they are compiled in, as is whether one is None; the others are
    traced numbers, so that other values need no new compilation."""

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
    """Weight of the entropy bonus (a Gaussian's ends where its log deviation is `PolicyConfig.bonus_up_to`; a
    policy that begins above it has none until it has fallen below)."""
    final_entropy: float = 1.0
    """Fraction of the entropy bonus that is left at the end of a row's budget (linear annealing)."""
    value: float = 0.5
    """Weight of the critic's squared error."""
    value_clip: float | None = None
    """Distance from what the critic said when the batch was made, beyond which its error draws it no further
    away (as in OpenAI Baselines' PPO2), in units of its output."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm, in minibatches where theirs is larger."""
    target_kl: float | None = None
    """Divergence of the policy from the one that acted, in nats, estimated on every minibatch: once it is
    larger, the rest of the update's gradient steps are left out."""
    desired_kl: float | None = None
    """Divergence of the policy after an update from the one that acted, in nats, by which the step size is
    set instead of the linear annealing: a third less after an update of more than twice as much, half as much
    again after one of less than half (Rudin et al., 2022, "Learning to Walk in Minutes")."""
    freeze_observations: float | None = None
    """Fraction of a row's budget after which the moments that normalise its observations stay as they are."""
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
    standardise_minibatches: bool = struct.field(pytree_node=False, default=False)
    """Standardise advantages over every minibatch, all tasks together, instead of each task's over the
    batch."""
    baseline: Named[str, BASELINES] = struct.field(pytree_node=False, default="critic")
    """What advantages are measured against: the critic's values, or a linear function of features of
    observation and time that is fitted to each task's returns in every update."""
    limits_end: bool = struct.field(pytree_node=False, default=False)
    """Nothing is to come after a time limit, as after any other end of an episode. With it the linear
    baseline needs no critic, and none is trained; in the returns that it is fitted to nothing comes after
    an update's last step either, so give it whole episodes."""

    measures = ("kl", "explained_variance", "learning_rate", "loss", "entropy")

    @property
    def critic(self) -> bool:  # type: ignore[override]
        """Whether anything needs the critic, which is not trained otherwise."""
        return self.baseline == "critic" or not self.limits_end

    def optimiser(self) -> optax.GradientTransformation:
        """Adam on clipped gradients, before the learning rate."""
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), optax.scale_by_adam(eps=1e-5))

    def check(self, n: int = 1, name: str | None = None) -> None:
        """Refuse settings that cannot work for rows of up to n tasks (see `Learner.check`)."""
        name = name or "ppo"
        check_ranges(self, name, _RANGES)
        pick(BASELINES, self.baseline, f"{name}.baseline")
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
        agent = learning.agent
        batch = make_batch(policy, config, agent, steps[0], row.context, row.slot_task)
        if agent.value is not None:
            value, batch = standardise_targets(agent.value, batch)
            learning = learning._replace(agent=agent._replace(value=value))
        arranged = self.arranged(batch)
        learnt = fit_batch(policy, config, row, learning, arranged, key)
        kl = divergence(policy, learnt.agent.actor, arranged)
        found = terms((learnt.agent.actor, learnt.agent.critic), policy, config, arranged)
        means = [jnp.mean(arranged.weight * x) for x in found]
        return learnt._replace(measured=config.measured(kl, means, batch, row))

    def measured(self, kl: Array, means: Sequence[Array], batch: Batch, row: RowTasks) -> Array:
        """Of an update with these settings, float [M] (``measures``).

        Args:
            kl: float [], the divergence that it led to.
            means: float [] each, the weighted means of `terms` after it.
            batch: what it learnt from, leaves [B, ...].
            row: its tasks.
        """
        error, objective, bonus = means
        loss = self.value * error - objective - self.entropy * bonus
        explained = explained_variance(batch, len(row.member))
        return jnp.stack([kl, explained, jnp.asarray(self.learning_rate), loss, bonus])

    def judge(self, policy: Policy, agent: Agent, steps: Steps, context: Array, slot_task: Array) -> Judged:
        """What its networks make of the steps of an update; see `make_batch`."""
        return judge_steps(policy, agent, steps, context, slot_task, self.critic)

    def arranged(self, batch: Batch) -> Batch:
        """A batch, leaves [T * E, ...], with what minibatches are drawn from along its first axis."""
        return batch

    def annealed(self, row: RowTasks, learning: Learning) -> Self:
        """The settings with the learning rate and the entropy bonus of a row's next update."""
        progress = learning.update / jnp.maximum(row.total, 1)
        rate = self.learning_rate * (1.0 - progress * (1.0 - self.final_learning_rate))
        if self.desired_kl is not None:
            rate = rate_by_kl(self.learning_rate, self.desired_kl, learning)
        return self.replace(  # type: ignore[attr-defined]
            learning_rate=rate, entropy=self.entropy * (1.0 - progress * (1.0 - self.final_entropy))
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

    def moved(
        self, policy: Policy, row: RowTasks, params: tuple[PyTree, PyTree], batch: Batch, memory: PyTree
    ) -> Array:
        """How far the policy is from the one that acted, in nats, by a minibatch (see ``target_kl``)."""
        return divergence(policy, params[0], batch)


LEARNERS["ppo"] = PPO


def ppo_loss(params: tuple[PyTree, PyTree], policy: Policy, config: PPO, batch: Batch) -> Array:
    """Value error - clipped surrogate objective - entropy bonus, weighted per transition."""
    value_error, objective, bonus = terms(params, policy, config, batch)
    return jnp.mean(batch.weight * (config.value * value_error - objective - config.entropy * bonus))


def terms(
    params: tuple[PyTree, PyTree], policy: Policy, config: PPO, batch: Batch
) -> tuple[Array, Array, Array]:
    """Value error (of the critic; 0 if it is not trained), clipped surrogate objective and entropy bonus (of
    the actor), each [B] ([E, T] of whole trials)."""
    actor, critic = params
    dist = policy.distribution
    told, seen = (f(batch.obs, batch.context) for f in (policy.actor_input, policy.critic_input))
    dist_params = outputs(policy.actor, actor, told, batch.last)
    log_prob = jax.vmap(dist.log_prob)(dist_params, batch.action)
    ratio = jnp.exp(log_prob - batch.log_prob)
    clipped = jnp.clip(ratio, 1.0 - config.clip, 1.0 + config.clip)
    objective = jnp.minimum(ratio * batch.advantage, clipped * batch.advantage)
    bonus = jax.vmap(dist.exploration)(dist_params)
    if not config.critic:
        return jnp.zeros_like(objective), objective, bonus
    value = outputs(policy.critic, critic, seen, batch.last)
    squared = (value - batch.target) ** 2
    if config.value_clip is not None:
        assert batch.value is not None, "see `make_batch`"
        near = batch.value + jnp.clip(value - batch.value, -config.value_clip, config.value_clip)
        squared = jnp.maximum(squared, (near - batch.target) ** 2)
    return 0.5 * squared, objective, bonus


RATES = (1e-5, 1e-2)
"""Between which the divergence moves the step size; one that begins outside may stay there."""


def rate_by_kl(first: float, desired: float, learning: Learning) -> Array:
    """The step size of the next update, float [] (see `PPO.desired_kl`).

    Args:
        first: step size of the first update.
        desired: divergence, in nats.
        learning: the row, with what was measured of its last update.
    """
    known = dict(zip(PPO.measures, learning.measured, strict=True))
    kl, last = known["kl"], known["learning_rate"]
    factor = jnp.where(kl > 2.0 * desired, 1 / 1.5, jnp.where(kl < 0.5 * desired, 1.5, 1.0))
    lowest, highest = jnp.minimum(RATES[0], first), jnp.maximum(RATES[1], first)
    return jnp.where(learning.update == 0, first, jnp.clip(last * factor, lowest, highest))


def _vector(params: PyTree) -> Any:
    """All numbers in one vector."""
    return ravel_pytree(params)[0]


Fitted = tuple[Any, PyTree]
"""What gradient steps change: the parameters of actor and critic, and the learner's memory."""


def fit_batch(
    policy: Policy, config: PPO, row: RowTasks, learning: Learning, batch: Batch, key: Array
) -> Learning:
    """Epochs of minibatch Adam on one batch, leaves [B, ...]; minibatches are of entries of its first axis.

    The parameters are one vector here: Adam is a few long loops instead of several for each leaf.
    """
    size, agent = batch.weight.shape[0], learning.agent
    width = size // config.minibatches
    start, unravel = ravel_pytree((agent.actor, agent.critic))

    def of_minibatch(index: Array) -> Batch:
        part = jax.tree.map(lambda x: x[index], batch)
        return standardise_advantages(part) if config.standardise_minibatches else part

    def minibatch(fitted: Fitted, at: tuple[Array, Array]) -> tuple[Fitted, None]:
        (vector, memory), (index, number) = fitted, at
        part = of_minibatch(index)
        own = jax.random.fold_in(key, number)
        step, memory = config.direction(policy, row, unravel(vector), part, memory, own)
        vector = vector - config.learning_rate * step
        return (vector, config.look_back(policy, row, unravel(vector), part, memory)), None

    def moved(fitted: Fitted, at: tuple[Array, Array]) -> Array:
        return config.moved(policy, row, unravel(fitted[0]), of_minibatch(at[0]), fitted[1])

    shuffled = orders(key, size, config.epochs)[:, : width * config.minibatches].reshape(-1, width)
    numbered = (shuffled, jnp.arange(len(shuffled)))
    fitted = (start, learning.memory)
    if config.target_kl is None:
        (vector, memory), _ = jax.lax.scan(minibatch, fitted, numbered)
    else:
        step = until(config.target_kl, moved, minibatch)
        ((vector, memory), _), _ = jax.lax.scan(step, (fitted, jnp.array(True)), numbered)
    actor, critic = unravel(vector)
    return learning._replace(agent=agent._replace(actor=actor, critic=critic), memory=memory)
