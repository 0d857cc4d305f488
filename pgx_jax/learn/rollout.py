"""Acting in environments: the one collector behind training, data collection and evaluation.

The core owns time limits and resets. An environment slot keeps the task it was given; whichever
way an episode ends, the step records the observation that the action led to, before the reset.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.learn.policy import Policy
from pgx_jax.tasks import DeviceEnv
from pgx_jax.types import Agent, Array, PyTree

ADAPTING = 2**31 - 1
"""Folded into the key of pairs for their adaptation before evaluation; no task has this number."""


class Slots(NamedTuple):
    """E running environments."""

    state: PyTree
    obs: Array
    """float [E, *observation shape]."""
    age: Array
    """int [E]: steps since the reset."""
    total: Array
    """float [E]: return of the running episode."""
    discounted: Array
    """float [E]: discounted sum of past rewards, whose variance scales the rewards."""
    solved: Array
    """bool [E]: whether a step of the running episode succeeded."""


class Steps(NamedTuple):
    """T steps of E slots, every leaf [T, E, ...]."""

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    """The observation the action led to, before any reset."""
    terminated: Array
    done: Array
    """terminated, or cut by the time limit."""
    episode_return: Array
    """Return of the episode that ended here, where ``done``."""
    discounted: Array
    success: Array
    objectives: Array | None = None
    """float [T, E, K]: the vector rewards of environments that have them."""
    age: Array | None = None
    """int [T, E]: steps of the episode before this one."""
    solved: Array | None = None
    """bool [T, E]: whether a step of the episode succeeded, up to this one."""

    def ends(self, limits: bool) -> tuple[Array, Array]:
        """Steps after which there is nothing to come, and those across which nothing flows back, as `gae`
        takes them; time limits are among the first if ``limits``."""
        return self.done if limits else self.terminated, self.done


class Pairs(NamedTuple):
    """P times a policy on a task."""

    row: np.ndarray
    """int [P]: the policy, of those with a leading axis R."""
    task: np.ndarray
    """int [P]."""
    key: Array
    """What happens in a pair depends on the key and the task alone, so that different policies meet the
    same episodes."""
    tasks: PyTree = None
    """Parameters of unseen tasks; None for the family's own."""
    context: np.ndarray | None = None
    """float [P, C]: what a policy that is told its task is told instead of its context."""

    def told(self, own: np.ndarray) -> np.ndarray:
        """The context of every pair, float32 [P, C]: given, or one of the family's ``own`` [n, C], or zeros
        of a task that is none of the family's."""
        if self.context is not None:
            return np.asarray(self.context, np.float32)
        own = np.asarray(own, np.float32)
        return own[self.task] if self.tasks is None else np.zeros((len(self.task), own.shape[1]), np.float32)


def reset_slots(env: DeviceEnv, tasks: PyTree, keys: Array) -> Slots:
    """Start one episode per slot; ``tasks`` and ``keys`` have a leading axis E."""
    state, obs = jax.vmap(env.reset)(keys, tasks)
    zero = jnp.zeros(obs.shape[0])
    return Slots(state, obs, zero.astype(jnp.int32), zero, zero, zero.astype(bool))


def _restart(env: DeviceEnv, tasks: PyTree, keys: Array, slots: Slots, done: Array) -> Slots:
    """Start a new episode in the slots that are done, bool [E].

    In a loop of one round or none, so that steps in which no episode ends pay for no reset (with most
    physics a good part of a step); a condition would be a selection under ``vmap``, and cost both. On a
    GPU it is such a selection: there every round of a loop waits for the host, which reads whether to go
    on (3.6 times the steps a second with 1 row on an H200, 2.0 with 64, 1.3 with 256).
    """

    def restart(slots: Slots, keys: Array) -> Slots:
        def choose(fresh: Array, ran: Array) -> Array:
            return jnp.where(done.reshape((-1,) + (1,) * (fresh.ndim - 1)), fresh, ran)

        return jax.tree.map(choose, reset_slots(env, tasks, keys), slots)

    if jax.default_backend() == "gpu":
        return restart(slots, keys)

    def of_round(carry: tuple[Slots, jax.Array]) -> tuple[Slots, jax.Array]:
        slots, due = carry
        # The keys seem to depend on the round, or the compiler would move all of the reset out of the loop.
        return restart(slots, jnp.where(due, keys, 0)), jnp.zeros((), bool)

    return jax.lax.while_loop(lambda carry: carry[1], of_round, (slots, jnp.any(done)))[0]


def unroll(
    policy: Policy,
    env: DeviceEnv,
    horizon: int,
    agent: Agent,
    tasks: PyTree,
    context: Array,
    slots: Slots,
    key: Array,
    length: int,
    gamma: float = 1.0,
    deterministic: bool = False,
    restart: bool = True,
    per_slot: bool = False,
) -> tuple[Slots, Steps]:
    """Act for ``length`` steps in all slots: one trial of each, for a policy with memory.

    Args:
        policy, env, horizon: static.
        agent: one agent for all slots.
        tasks, context: task parameters and context vectors [E, ...] of the slots.
        slots: where to continue.
        key: PRNG key.
        length: T.
        gamma: discount of ``Steps.discounted``.
        deterministic: act by the mode instead of drawing.
        restart: begin a new episode where one ends. Without it (and its compilation) what a slot does
            after its first ending means nothing, and need not be finite.
        per_slot: ``agent.actor`` leads with an axis E: every slot acts with parameters of its own.
    """
    dist, count = policy.distribution, slots.age.shape[0]
    choose = jax.vmap(policy.choose, (0 if per_slot else None, 0, 0))

    def step(carry: tuple[Slots, PyTree], key: Array) -> tuple[tuple[Slots, PyTree], Steps]:
        slots, memory = carry
        keys = jax.random.split(key, 3 * count).reshape(3, count, -1)
        inputs = policy.actor_input(policy.normalise(agent, slots.obs), context)
        params, state = choose(agent.actor, inputs, memory)
        action = dist.mode(params) if deterministic else jax.vmap(dist.sample)(keys[0], params)
        out = jax.vmap(env.step)(keys[1], slots.state, dist.to_env(action), tasks)
        age, total = slots.age + 1, slots.total + out.reward
        discounted = gamma * slots.discounted + out.reward
        done = out.terminated | (age >= horizon)
        success = jnp.broadcast_to(jnp.asarray(out.success, bool), (count,))
        solved = slots.solved | success
        ran = Slots(out.state, out.obs, age, total, discounted, solved)
        record = Steps(
            slots.obs,
            action,
            out.reward,
            out.obs,
            out.terminated,
            done,
            total,
            discounted,
            success,
            out.objectives,
            slots.age,
            solved,
        )
        memory = policy.remember(state, action, out.reward, done)
        return (_restart(env, tasks, keys[2], ran, done) if restart else ran, memory), record

    start = (slots, policy.begin(agent, slots.age))
    (slots, _), steps = jax.lax.scan(step, start, jax.random.split(key, length))
    return slots, steps
