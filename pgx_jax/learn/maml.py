"""MAML, first-order MAML and Reptile: policies that a few gradient steps adapt to a task.

An inner step is one of plain gradient ascent on a task's own roll-outs, which every task takes from the same
parameters. With several inner steps, each acts anew with what the one before it led to.

**What goes through an inner step.** Its objective is mean(r A) over a task's transitions, where r is the
probability of an action divided by the one that it was drawn with (PPO's, clipped at the same range). At the
parameters that acted its gradient is that of the policy, mean(A grad log pi); differentiated once more it is
mean(A (hess log pi + grad log pi grad log pi^T)), whose second part tells how other parameters would have
drawn other actions. (Of mean(A log pi), as the first implementations had it, that part is missing.) This is
DiCE (Foerster et al., 2018, arXiv:1802.05098) one action at a time, the "low variance curvature" of ProMP
(Rothfuss et al., 2019, arXiv:1810.06784): exact where an episode is one step; in longer ones, what an action
changes in the later actions' returns is left out, for far less variance. Roll-outs are not credited with
what they tell the inner step (E-MAML), as in ProMP's formulation I.

**The outer step** is PPO's, on what the adapted policies did, as in ProMP: several passes over the same
roll-outs, in all of which the inner steps are taken again from the parameters as they have become.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Int

from pgx_jax.errors import ConfigError
from pgx_jax.learn.batches import Batch, make_batch, standardise_targets
from pgx_jax.learn.learner import COUNT, LEARNERS, Learning, RowTasks, check_ranges
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.ppo import PPO, fit_batch, terms
from pgx_jax.learn.rollout import Steps
from pgx_jax.learn.stopping import divergence
from pgx_jax.types import Agent, Array, Key, Moments, PyTree


class Memory(NamedTuple):
    """What is remembered between gradient steps."""

    adam: PyTree
    scales: Moments
    """Moments [phases, n] of the rewards by which each phase of an update was judged."""
    inner: tuple[Batch, ...] = ()
    """What the inner steps are taken on, leaves [T, E, ...], while an update learns; nothing between two."""


@struct.dataclass
class MAML(PPO):
    """Model-agnostic meta-learning (Finn et al., 2017, arXiv:1703.03400, equation 4), see above.

    The critic learns from all roll-outs, those before and those after an inner step; it is the same for both,
    and inner steps leave it alone. With ``baseline = "linear"`` advantages are measured against a function
    that is fitted to each task's own roll-outs before or after. Its minibatches are of some steps of every
    environment, so that all tasks are in each.
    """

    inner_rate: float = 0.1
    """Size of an inner step: along the gradient, of advantages standardised per task."""
    inner_steps: int = struct.field(pytree_node=False, default=2)
    """Inner steps, each with roll-outs of its own. (With hidden goals on CartPole two did better than one.)
    """
    first_order: bool = struct.field(pytree_node=False, default=False)
    """Take the outer gradient at the adapted parameters as that at those before (FOMAML)."""
    adaptation_steps: int = struct.field(pytree_node=False, default=2048)
    """Environment steps that an agent takes on a task to adapt to it before it is evaluated there, shared by
    the inner steps; they are of the budget."""
    adaptation_envs: int = struct.field(pytree_node=False, default=8)
    """Environments in which it takes them."""

    @property
    def phases(self) -> int:  # type: ignore[override]
        """One for every inner step, and one of the adapted policies."""
        return self.inner_steps + 1

    @property
    def adaptation_rounds(self) -> int:  # type: ignore[override]
        """One for every inner step."""
        return self.inner_steps

    def check(self, n: int = 1, name: str | None = None) -> None:
        """Refuse settings that cannot work for rows of up to n tasks (see `Learner.check`)."""
        name = name or type(self).__name__.lower()
        ranges = {COUNT: ("inner_steps",), "positive": ("inner_rate",), "True or False": ("first_order",)}
        check_ranges(self, name, ranges)
        super().check(n, name)
        if self.num_steps < self.minibatches:
            raise ConfigError(
                f"{name}.minibatches = {self.minibatches} of {self.num_steps} steps of every environment "
                f"({name}.num_steps); use fewer"
            )

    def begin(self, policy: Policy, agent: Agent) -> Memory:
        """The state of Adam, and room for the scales of the rewards."""
        scales = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.phases, *x.shape)), agent.reward)
        return Memory(super().begin(policy, agent), scales)

    def per_slot(self, phase: int) -> bool:
        """In all phases but the first."""
        return phase > 0

    def acting(self, policy: Policy, row: RowTasks, learning: Learning, steps: tuple[Steps, ...]) -> PyTree:
        """Adapted to the slots' tasks; the actor before the inner steps, where one of these diverged."""
        return self._followed(policy, row, learning, steps)[0]

    def learn(
        self, policy: Policy, row: RowTasks, learning: Learning, steps: tuple[Steps, ...], key: Key
    ) -> Learning:
        """After the last phase: epochs of minibatches on what the adapted policies did. Nothing is learnt
        from a task on which an inner step diverged in this update; if it still does in the end, adapting to
        the task fails."""
        memory, phase = learning.memory, len(steps) - 1
        scales = jax.tree.map(lambda x, y: x.at[phase].set(y), memory.scales, learning.agent.reward)
        learning = learning._replace(memory=memory._replace(scales=scales))
        if len(steps) < self.phases:
            return learning
        _, batches, sound = self._followed(policy, row, learning, steps)
        if (value := learning.agent.value) is not None:
            for phase, batch in enumerate(batches):
                value, batches[phase] = standardise_targets(value, batch)
            learning = learning._replace(agent=learning.agent._replace(value=value))
        *inner, last = [_spared(_by_slot(batch, self.num_envs), sound) for batch in batches]
        memory = learning.memory._replace(inner=tuple(inner))
        config = self.annealed(row, learning)
        learning = fit_batch(policy, config, row, learning._replace(memory=memory), last, key)
        params = (learning.agent.actor, learning.agent.critic)
        kl = self.moved(policy, row, params, last, learning.memory)
        adapted = self.adapted(policy, row.slot_task, params, inner)
        means = self._terms(policy, adapted, learning.agent.critic, last)
        return learning._replace(
            memory=learning.memory._replace(inner=()), measured=config.measured(kl, means, batches[-1], row)
        )

    def direction(
        self,
        policy: Policy,
        row: RowTasks,
        params: tuple[PyTree, PyTree],
        batch: Batch,
        memory: Memory,
        key: Key,
    ) -> tuple[Array, Memory]:
        """Clipped and scaled by Adam, through the inner steps."""
        gradients = self.meta_gradients(policy, row.slot_task, params, memory.inner, batch)
        step, adam = self.optimiser().update(ravel_pytree(gradients)[0], memory.adam)
        return step, memory._replace(adam=adam)

    def moved(
        self, policy: Policy, row: RowTasks, params: tuple[PyTree, PyTree], batch: Batch, memory: Memory
    ) -> Array:
        """How far the adapted policies are from those that acted, in nats."""
        actors = self.adapted(policy, row.slot_task, params, memory.inner)
        return jax.vmap(lambda actor, part: divergence(policy, actor, part), (0, 1))(actors, batch).mean()

    def adapt(
        self, policy: Policy, agent: Agent, context: Float[Array, "C"], steps: Steps, key: Key
    ) -> Agent:
        """One inner step on a task, of which nobody says whether it was trained on: rewards have the scale of
        the tasks that were, on average."""
        envs = steps.done.shape[1]
        slot_task, actors = jnp.zeros(envs, int), _spread(agent.actor, envs)
        judge = agent._replace(
            actor=actors, reward=_mean(agent.reward), value=agent.value and _mean(agent.value)
        )
        batch = self._judged(policy, judge, steps, context[None], slot_task)
        actors = self._step(policy, slot_task, agent.critic, actors, _by_slot(batch, envs))
        return agent._replace(actor=jax.tree.map(lambda x: x[0], actors))

    def adapted(
        self,
        policy: Policy,
        slot_task: Int[Array, "E"],
        params: tuple[PyTree, PyTree],
        batches: Sequence[Batch],
    ) -> PyTree:
        """Actors, leaves [E, ...], of every slot's task after an inner step on each of the batches, leaves
        [T, E, ...], from the same (actor, critic)."""
        actors = _spread(params[0], len(slot_task))
        for batch in batches:
            actors = self._step(policy, slot_task, params[1], actors, batch)
        return actors

    def meta_gradients(
        self,
        policy: Policy,
        slot_task: Int[Array, "E"],
        params: tuple[PyTree, PyTree],
        inner: tuple[Batch, ...],
        batch: Batch,
    ) -> tuple[PyTree, PyTree]:
        """Of (actor, critic), of PPO's loss of the adapted policies; leaves of the batches are [T, E, ...].

        Args:
            policy: static description.
            slot_task: int [E].
            params: (actor, critic).
            inner: what each inner step is taken on.
            batch: what the adapted policies did.
        """

        def loss(params: tuple[PyTree, PyTree]) -> Array:
            actors = self.adapted(policy, slot_task, params, inner)
            error, objective, bonus = self._terms(policy, actors, params[1], batch)
            return self._value_error(policy, params, inner, error) - objective - self.entropy * bonus

        return jax.grad(loss)(params)

    def _followed(
        self, policy: Policy, row: RowTasks, learning: Learning, steps: tuple[Steps, ...]
    ) -> tuple[PyTree, list[Batch], Bool[Array, "E"]]:
        """Actors [E, ...] that the inner steps on the phases up to now led to, the batches, leaves
        [T * E, ...], of these phases, as they were acted, and in which slots all steps were finite; the
        actors of the others are those before."""
        agent, batches = learning.agent, []
        actors, sound = _spread(agent.actor, self.num_envs), jnp.ones(self.num_envs, bool)
        for phase, done in enumerate(steps):
            scale = jax.tree.map(lambda x, phase=phase: x[phase], learning.memory.scales)
            acted = agent._replace(actor=actors, reward=scale)
            batch = self._judged(
                policy, acted, done, row.context, row.slot_task, last=phase == self.phases - 1
            )
            batches.append(batch)
            if phase < self.inner_steps:
                part = _by_slot(batch, self.num_envs)
                stepped = self._step(policy, row.slot_task, agent.critic, actors, part)
                sound &= jnp.all(jnp.array([_finite(x) for x in jax.tree.leaves(stepped)]), 0)
                actors = jax.tree.map(partial(_where, sound), stepped, agent.actor)
        return actors, batches, sound

    def _judged(
        self, policy: Policy, agent: Agent, steps: Steps, context: Array, slot_task: Array, last: bool = False
    ) -> Batch:
        """What slots did, each with an actor of its own. Advantages of inner steps are standardised per
        task."""
        config = self if last else self.replace(standardise_minibatches=False)  # type: ignore[attr-defined]
        return make_batch(policy, config, agent, steps, context, slot_task, per_slot=True)

    def _step(self, policy: Policy, slot_task: Array, critic: PyTree, actors: PyTree, batch: Batch) -> PyTree:
        """Actors [E, ...] after an inner step on a batch, leaves [T, E, ...], from others."""

        def loss(actor: PyTree, part: Batch) -> Array:  # of one slot
            return -jnp.mean(terms((actor, critic), policy, self, part)[1])

        same = (slot_task[:, None] == slot_task) * 1.0
        share = same / same.sum(1, keepdims=True)

        def step(actor: Array, gradient: Array) -> Array:
            mean = jnp.tensordot(share, gradient, 1, precision="highest")
            return actor - self.inner_rate * mean

        gradients = jax.vmap(jax.grad(loss), (0, 1))(actors, batch)
        if self.first_order:
            gradients = jax.lax.stop_gradient(gradients)
        return jax.tree.map(step, actors, gradients)

    def _terms(self, policy: Policy, actors: PyTree, critic: PyTree, batch: Batch) -> tuple[Array, ...]:
        """Weighted means of value error, clipped objective and entropy bonus, of a batch with leaves
        [T, E, ...] and actors [E, ...]."""

        def of_slot(actor: PyTree, part: Batch) -> tuple[Array, ...]:
            return tuple(jnp.mean(part.weight * x) for x in terms((actor, critic), policy, self, part))

        return tuple(x.mean() for x in jax.vmap(of_slot, (0, 1))(actors, batch))

    def _value_error(
        self, policy: Policy, params: tuple[PyTree, PyTree], inner: Sequence[Batch], last: Array
    ) -> Array:
        """The critic's loss, of all phases the same; the last one's error is given."""
        actors = _spread(params[0], self.num_envs)
        errors = [self._terms(policy, actors, params[1], batch)[0] for batch in inner]
        return self.value * jnp.mean(jnp.array([*errors, last]))


@struct.dataclass
class FOMAML(MAML):
    """First-order MAML (Finn et al., 2017, section 5.2): cheaper, as nothing goes through the inner steps."""

    first_order: bool = struct.field(pytree_node=False, default=True)
    """Take the outer gradient at the adapted parameters as that at those before."""


@struct.dataclass
class Reptile(MAML):
    """Reptile (Nichol et al., 2018, arXiv:1803.02999): towards the mean of the adapted parameters.

    The difference, over the step size, is the gradient of the outer step, by Adam, as its authors propose.
    An update has no roll-outs of adapted policies but those of the inner steps; with one of these it is plain
    training on all tasks. The entropy bonus is that of the policy before the inner steps.
    """

    inner_steps: int = struct.field(pytree_node=False, default=4)
    """Inner steps, each with roll-outs of its own."""
    adaptation_steps: int = struct.field(pytree_node=False, default=4096)
    """Environment steps that an agent takes on a task to adapt to it before it is evaluated there, shared by
    the inner steps; they are of the budget."""

    @property
    def phases(self) -> int:  # type: ignore[override]
        """One for every inner step."""
        return self.inner_steps

    def meta_gradients(
        self,
        policy: Policy,
        slot_task: Int[Array, "E"],
        params: tuple[PyTree, PyTree],
        inner: tuple[Batch, ...],
        batch: Batch,
    ) -> tuple[PyTree, PyTree]:
        """Of (actor, critic); see `MAML.meta_gradients`. The last inner step is taken on ``batch``."""

        def loss(params: tuple[PyTree, PyTree]) -> Array:
            error, _, bonus = self._terms(policy, _spread(params[0], self.num_envs), params[1], batch)
            return self._value_error(policy, params, inner, error) - self.entropy * bonus

        actor, critic = jax.grad(loss)(params)
        weight, ends = batch.weight.mean(0), self.adapted(policy, slot_task, params, (*inner, batch))

        def towards(gradient: Array, start: Array, ends: Array) -> Array:
            return gradient + jnp.tensordot(weight, start - ends, 1) / (len(weight) * self.inner_rate)

        return jax.tree.map(towards, actor, params[0], ends), critic


def _spread(actor: PyTree, envs: int) -> PyTree:
    """The same actor for every slot, leaves [E, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (envs, *jnp.shape(x))), actor)


def _by_slot(batch: Batch, envs: int) -> Batch:
    """A batch with leaves [T, E, ...], of one with leaves [T * E, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, envs, *x.shape[1:]), batch)


def _where(slots: Bool[Array, "E"], new: Float[Array, "E ..."], old: Array) -> Float[Array, "E ..."]:
    """The new numbers in some slots, and the old ones, the same for all, in the others."""
    return jnp.where(slots.reshape(-1, *[1] * jnp.ndim(old)), new, old)


def _spared(batch: Batch, sound: Bool[Array, "E"]) -> Batch:
    """A batch, leaves [T, E, ...], from which only some slots take steps, and count."""
    return batch._replace(
        advantage=jnp.where(sound, batch.advantage, 0.0), weight=jnp.where(sound, batch.weight, 0.0)
    )


def _mean(moments: Moments) -> Moments:
    """Moments [1] of any task: those [n] of the tasks on average, by what is known of each."""
    return jax.tree.map(lambda x: jnp.average(x, weights=moments.count, keepdims=True), moments)


def _finite(x: Array) -> Array:
    """Whether all numbers of every slot are finite, bool [E], of [E, ...]."""
    return jnp.isfinite(x).reshape(len(x), -1).all(1)


LEARNERS |= {"maml": MAML, "fomaml": FOMAML, "reptile": Reptile}
