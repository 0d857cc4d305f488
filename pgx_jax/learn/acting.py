"""Acting on host environments: many policies in one jitted call a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.learn.slots import Copies, Seeds, Tasks, Vectors, open_slots
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array


@partial(jax.jit, static_argnames=("policy", "deterministic"))
def _act(policy, deterministic, actor, moments, obs, context, keys, t):
    """Actions of C policies in E slots each, as drawn and as the environment takes them, [C, E, ...]."""
    dist = policy.distribution

    def one(actor, moments, obs, context, key):
        agent = Agent(actor, None, moments, None)
        params = policy.actor.apply(actor, policy.actor_input(policy.normalise(agent, obs), context))
        if deterministic:
            return dist.mode(params)
        return jax.vmap(dist.sample)(jax.random.split(jax.random.fold_in(key, t), len(obs)), params)

    action = jax.vmap(one)(actor, moments, obs, context, keys)
    return action, dist.to_env(action)


class Acting:
    """C policies in the slots of a chunk, E each; counts the age and return of running episodes."""

    def __init__(self, policy: Policy, family: TaskFamily, chunk: int, width: int, *, vectors: bool = True):
        """Open C * E slots.

        Args:
            policy, family: static description, and where to act.
            chunk, width: C, E.
            vectors: use vectors of the library's own, where the family has them.
        """
        self.policy, self.family, self.chunk, self.width = policy, family, chunk, width
        count = chunk * width
        self.slots: Copies | Vectors = open_slots(family, count, vectors=vectors)
        self.obs = np.zeros((count, *family.observation_space.shape), np.float32)
        self.age = np.zeros(count, int)
        self.total, self.discounted = np.zeros((2, count), np.float32)
        self.seeds: list[Seeds | None] = [None] * count
        self.context = np.zeros((chunk, width, family.context.shape[1]), np.float32)

    def enter(self, place: int, tasks: Tasks, index: np.ndarray, context: np.ndarray, key: Array) -> None:
        """Start policy number ``place`` on the tasks ``index`` int [E] with ``context`` [E, C]."""
        self.slots.place(self._slots(place), tasks, index)
        self.context[place] = context
        self.reset(place, key)

    def reset(self, place: int, key: Array) -> None:
        """Start policy number ``place`` on its tasks anew, with seeds that depend on the key."""
        slots = self._slots(place)
        for i, slot in enumerate(slots):
            self.seeds[slot] = Seeds(key, i)
        self._restart(slots)

    def _slots(self, place: int) -> np.ndarray:
        return np.arange(place * self.width, (place + 1) * self.width)

    def _restart(self, slots: np.ndarray) -> None:
        self.slots.restart(slots, [self.seeds[slot]() for slot in slots.tolist()], self.obs)
        self.age[slots], self.total[slots], self.discounted[slots] = 0, 0.0, 0.0

    def chooser(self, agents: Agent, keys: Array, deterministic: bool) -> Callable:
        """A function of t: one call for all policies; actions [S, ...] as drawn and as the environment
        takes them. ``agents`` lead with an axis C, ``keys`` are [C, 2]."""
        actor, moments, context, keys = jax.tree.map(
            jnp.asarray, (agents.actor, agents.observation, self.context.copy(), keys)
        )
        obs = self.obs.reshape(self.chunk, self.width, *self.obs.shape[1:])

        def choose(t: int) -> tuple[np.ndarray, ...]:
            chosen = _act(self.policy, deterministic, actor, moments, obs, context, keys, t)
            return tuple(np.array(x).reshape(-1, *x.shape[2:]) for x in chosen)  # which may be written to

        return choose

    def unroll(
        self,
        agents: Agent,
        keys: Array,
        length: int,
        *,
        gamma: float = 1.0,
        active: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> Steps:
        """Act until every slot has T steps.

        A slot whose vector spends calls on resets lags behind the others, which then go on without
        being recorded: at most as many steps as the laggard had episodes, and not counted.

        Args:
            agents: one a policy, leading axis C.
            keys: of acting, [C, 2].
            length: T.
            gamma: discount of ``Steps.discounted``.
            active: bool [C], the policies that act (all by default); the others' steps mean nothing.
            deterministic: act by the mode instead of drawing.

        Returns:
            leaves [C, T, E, ...], NumPy.

        Raises:
            DataError: an environment raised or returned nonsense (which task).
        """
        mask = np.repeat(np.ones(self.chunk, bool) if active is None else active, self.width)
        pointer, t, out = np.where(mask, 0, length), 0, None
        choose = self.chooser(agents, keys, deterministic)
        while pointer.min() < length:
            before = self.obs.copy()
            action, legal = choose(t)
            if out is None:
                out = self._buffers(length, action)
            record, done = self.advance(legal, mask, gamma)
            kept = np.flatnonzero(self.slots.arrival.acted & (pointer < length))
            at = pointer[kept]
            for buffer, value in zip(out, (before, action, *record), strict=True):
                if buffer is not None:
                    buffer[at, kept] = value[kept]
            pointer[kept] += 1
            if done.any():
                self._restart(np.flatnonzero(done))
            t += 1

        def by_policy(x):  # [T, S, ...] -> [C, T, E, ...]
            return np.ascontiguousarray(
                x.reshape(length, self.chunk, self.width, *x.shape[2:]).swapaxes(0, 1)
            )

        return jax.tree.map(by_policy, out)

    def advance(self, legal: np.ndarray, mask: np.ndarray, gamma: float) -> tuple[tuple, np.ndarray]:
        """Step the slots of the mask; returns the fields of `Steps` from ``reward`` on, and who is done."""
        arrival = self.slots.step(legal, mask)
        acted = arrival.acted
        self.obs[mask] = arrival.obs[mask]
        self.age[acted] += 1
        self.total[acted] += arrival.reward[acted]
        self.discounted[acted] = gamma * self.discounted[acted] + arrival.reward[acted]
        done = acted & (arrival.terminated | arrival.truncated | (self.age >= self.family.horizon))
        record = (
            arrival.reward, arrival.obs, arrival.terminated, done, self.total, self.discounted,
            arrival.success, arrival.objectives,
        )  # fmt: skip
        return record, done

    def _buffers(self, length: int, action: np.ndarray) -> Steps:
        count, arrival = len(self.obs), self.slots.arrival

        def like(x):
            return np.zeros((length, count, *x.shape[1:]), x.dtype)

        flag, number = arrival.acted, arrival.reward
        objectives = like(arrival.objectives) if arrival.objectives.shape[1] else None
        return Steps(
            like(self.obs), like(action), like(number), like(self.obs), like(flag), like(flag),
            like(number), like(number), like(flag), objectives,
        )  # fmt: skip

    def close(self) -> None:
        """Close the environments."""
        self.slots.close()
