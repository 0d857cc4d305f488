"""Toys from outside the package: one class and one entry in its table each."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from pgx_jax.learn import LEARNERS, PPO, Learner
from pgx_jax.learn.advantages import gae
from pgx_jax.learn.moments import per_task
from pgx_jax.learn.ppo import ppo_loss


@struct.dataclass
class Reinforce(Learner):
    """REINFORCE (Williams, 1992) without a critic: returns to go, standardised per task."""

    learning_rate: float = 0.03
    """Step size of Adam."""
    adaptation_rate: float = 1.0
    """Step size of the one gradient step of `adapt`."""
    gamma: float = 0.9
    num_envs: int = struct.field(pytree_node=False, default=8)
    num_steps: int = struct.field(pytree_node=False, default=30)
    adaptation_steps: int = struct.field(pytree_node=False, default=0)
    adaptation_envs: int = struct.field(pytree_node=False, default=16)
    critic = False

    def begin(self, policy, agent):
        """The state of Adam."""
        return optax.scale_by_adam().init(agent.actor)

    def learn(self, policy, row, learning, steps, key):
        """One step along the policy gradient."""
        grads = jax.grad(self.loss)(learning.agent.actor, policy, learning.agent, row, steps[-1])
        return self.step(learning, grads)

    def step(self, learning, grads):
        """One step of Adam."""
        updates, memory = optax.scale_by_adam().update(grads, learning.memory)
        actor = jax.tree.map(lambda p, u: p - self.learning_rate * u, learning.agent.actor, updates)
        return learning._replace(agent=learning.agent._replace(actor=actor), memory=memory)

    def adapt(self, policy, agent, context, steps, key):
        """One plain gradient step."""
        context = jnp.broadcast_to(context, (steps.done.shape[1], *context.shape))
        one = jnp.ones((len(context), 1))
        grads = jax.grad(self.loss_of)(agent.actor, policy, agent, context, one, steps)
        actor = jax.tree.map(lambda p, g: p - self.adaptation_rate * g, agent.actor, grads)
        return agent._replace(actor=actor)

    def loss(self, actor, policy, agent, row, steps):
        """Of one actor on all slots of a row."""
        one_hot = jax.nn.one_hot(row.slot_task, len(row.member))
        return self.loss_of(actor, policy, agent, row.context[row.slot_task], one_hot, steps)

    def loss_of(self, actor, policy, agent, context, one_hot, steps, per_slot=False):
        """- mean of A log pi, of steps [T, E, ...] of slots with context [E, C] and tasks [E, n]; the actor
        leads with an axis E if ``per_slot``."""
        zero = jnp.zeros_like(steps.reward)
        to_go = gae(steps.reward, zero, zero, steps.terminated, steps.done, self.gamma, 1.0)
        mean, var, _ = per_task(one_hot, to_go)
        advantage = (to_go - one_hot @ mean) / (one_hot @ jnp.sqrt(var) + 1e-8)
        inputs = policy.actor_input(
            policy.normalise(agent, steps.obs),
            jnp.broadcast_to(context, (*steps.done.shape, context.shape[-1])),
        )
        of_time = jax.vmap(policy.log_prob, (None, 0, 0))
        of_slots = jax.vmap(of_time, (0 if per_slot else None, 1, 1), 1)
        return -jnp.mean(of_slots(actor, inputs, steps.action) * advantage)


@struct.dataclass
class Meta(Reinforce):
    """MAML (Finn et al., 2017) on it: every slot acts a second time with parameters that one step on its
    task led to, and the gradient goes through that step."""

    phases = 2

    def per_slot(self, phase):
        """In the second phase."""
        return phase == 1

    def acting(self, policy, row, learning, steps):
        """Adapted to the slots' tasks."""
        return self.adapted(learning.agent.actor, policy, learning.agent, row, steps[0])

    def adapted(self, actor, policy, agent, row, steps):
        """Actors [E, ...]: one step of each slot's own task."""
        share = jax.nn.one_hot(row.slot_task, len(row.member))

        def of_task(own):  # gradients of the other tasks' slots count nothing
            mine = steps._replace(reward=steps.reward * own)
            grads = jax.grad(self.loss)(actor, policy, agent, row, mine)
            return jax.tree.map(lambda p, g: p - self.adaptation_rate * g, actor, grads)

        of_tasks = jax.vmap(of_task)(share.T)
        return jax.tree.map(lambda x: x[row.slot_task], of_tasks)

    def learn(self, policy, row, learning, steps, key):
        """After the second phase alone."""
        if len(steps) == 1:
            return learning
        agent, one_hot = learning.agent, jax.nn.one_hot(row.slot_task, len(row.member))

        def loss(actor):
            actors = self.adapted(actor, policy, agent, row, steps[0])
            context = row.context[row.slot_task]
            return self.loss_of(actors, policy, agent, context, one_hot, steps[1], per_slot=True)

        return self.step(learning, jax.grad(loss)(agent.actor))


@struct.dataclass
class PerTask(PPO):
    """PPO by the mean of its tasks' own gradients: where PCGrad and its kind would put others."""

    def gradients(self, policy, row, params, batch):
        """The mean over the row's tasks, each by its own transitions of the minibatch."""
        own = batch.task == jnp.arange(len(row.member))[:, None]  # [n, B]
        share = own / jnp.maximum(own.mean(1, keepdims=True), 1e-8)

        def of_task(share):
            return jax.grad(ppo_loss)(params, policy, self, batch._replace(weight=share))

        count = jnp.maximum(row.member.sum(), 1)
        return jax.tree.map(lambda x: x.sum(0) / count, jax.vmap(of_task)(share))


LEARNERS["reinforce"] = Reinforce
LEARNERS["toy-maml"] = Meta
