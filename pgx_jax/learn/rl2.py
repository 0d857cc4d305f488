"""RL^2 (Duan et al., 2016, arXiv:1611.02779): a policy with memory learns to find out which task it is on.

A trial of a slot is an update's steps of it, ``num_steps``, of one or more episodes of one task. The memory
begins anew with every trial and goes on where its episodes end. So that nothing else tells the task, a trial
begins with a fresh episode, too: an environment that went on would be where the task's goal is. It is trained
by PPO on whole trials, with gradients through all of their steps. An agent adapts by acting: what it
remembers after ``adaptation_steps`` is what each episode of its evaluation begins with, and its parameters
stay as they are.

**What a trial is for.** In the paper it is a fixed number of episodes, and the policy maximises the sum of
their returns. What it finds out in one episode is worth what the next ones gain by it, so values and
advantages flow across the ends of episodes, `terminated` or cut by a limit. Here a trial is a fixed number of
steps instead, and then a return that simply went on would reward ending a bad episode (or, with rewards that
are paid as long as it lasts, take nothing from one that ends early): there would be more episodes. So an
episode's end is followed by what the next one is expected to bring *more than the task's episodes are on
average* in this update, given what is remembered: the sum over a fixed number of episodes changes by a
constant, and their number counts no more.

The last step of a trial is not learnt from: it tells what the one before it led to.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int

from pgx_jax.errors import ConfigError
from pgx_jax.learn.batches import Batch, Judged, everywhere
from pgx_jax.learn.learner import LEARNERS
from pgx_jax.learn.memory import first, recall, told
from pgx_jax.learn.moments import unstandardise
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.ppo import PPO
from pgx_jax.learn.rollout import Steps
from pgx_jax.types import Agent, Array, Key, Memory


@struct.dataclass
class RL2(PPO):
    """Settings of RL^2, beside those of PPO: minibatches are of whole trials (each of one at least), and
    ``limits_end`` changes nothing. Rows begin with agents that have not adapted."""

    num_steps: int = struct.field(pytree_node=False, default=512)
    """Steps of a trial."""
    adaptation_steps: int = struct.field(pytree_node=False, default=200)
    """Environment steps that an agent takes on a task, remembering them, before it is evaluated there."""

    remembers = True

    def check(self, n: int = 1, name: str | None = None) -> None:
        """Refuse settings that cannot work for rows of up to n tasks (see `Learner.check`)."""
        name = name or "rl2"
        super().check(n, name)
        if self.num_steps < 2:
            raise ConfigError(f"{name}.num_steps = {self.num_steps}: a trial needs at least 2 steps")
        if self.baseline != "critic":
            raise ConfigError(
                f"{name}.baseline = {self.baseline!r} is one of single observations, and a policy with "
                f"memory needs one that knows the trial; use 'critic'"
            )
        if self.num_envs < self.minibatches:
            raise ConfigError(
                f"{name}.minibatches = {self.minibatches} of {name}.num_envs = {self.num_envs} trials; use "
                f"fewer"
            )

    def judge(self, policy: Policy, agent: Agent, steps: Steps, context: Array, slot_task: Array) -> Judged:
        """All steps of the trials but the last, as parts of one long episode (see above)."""
        assert steps.age is not None, "the engines tell it"
        begun, trial = policy.begin(agent, steps.age[0]), jax.tree.map(lambda x: x[:-1], steps)
        last, obs = told(policy, begun.last, trial), policy.normalise(agent, steps.obs)
        tasks, critic = everywhere(context, slot_task, steps), first(policy.critic, len(slot_task))
        params, _ = recall(policy.actor, agent.actor, policy.actor_input(obs, tasks), last, begun.state)
        output, _ = recall(policy.critic, agent.critic, policy.critic_input(obs, tasks), last, critic)
        log_prob = jax.vmap(jax.vmap(policy.distribution.log_prob))(params, steps.action)
        value = unstandardise(jax.tree.map(lambda x: x[slot_task], agent.value), output)
        usual = usual_value(value[1:], trial.done, slot_task)
        never = jnp.zeros_like(trial.done)
        all_steps = Judged(steps, obs, obs, tasks, output, value, value, log_prob, last)
        return jax.tree.map(lambda x: x[:-1], all_steps)._replace(
            steps=trial._replace(terminated=never, done=never),
            next_obs=obs[1:],
            next_value=value[1:] - jnp.where(trial.done, usual, 0.0),
        )

    def arranged(self, batch: Batch) -> Batch:
        """Trials along the first axis, leaves [E, T - 1, ...]."""
        length = self.num_steps - 1
        return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(length, -1, *x.shape[1:]), 0, 1), batch)

    def adapt(
        self, policy: Policy, agent: Agent, context: Float[Array, "C"], steps: Steps, key: Key
    ) -> Agent:
        """The agent with what it remembers after the steps."""
        assert steps.age is not None, "the engines tell it"
        begun = policy.begin(agent, steps.age[0])
        last = told(policy, begun.last, steps)
        tasks = jnp.broadcast_to(context, (*steps.done.shape, *context.shape))
        inputs = policy.actor_input(policy.normalise(agent, steps.obs), tasks)
        before, now = (jax.tree.map(lambda x, at=at: x[at], last) for at in (slice(-1), -1))
        _, state = recall(policy.actor, agent.actor, inputs, before, begun.state)
        return agent._replace(memory=jax.tree.map(lambda x: x[0], Memory(state, now)))


def usual_value(
    value: Float[Array, "T E"], done: Bool[Array, "T E"], slot_task: Int[Array, "E"]
) -> Float[Array, "E"]:
    """The mean of a task's values where episodes have just ended, in all slots on it; 0 if none has."""
    same = slot_task[:, None] == slot_task
    total, count = ((same * x).sum(1) for x in (jnp.where(done, value, 0.0).sum(0), done.sum(0)))
    return total / jnp.maximum(count, 1)


LEARNERS["rl2"] = RL2
