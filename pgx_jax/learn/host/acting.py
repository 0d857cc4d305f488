"""Acting on host environments: many policies in one jitted call a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt32

from pgx_jax.learn.host.copies import Copies
from pgx_jax.learn.host.memory import Grant, fits, reserve
from pgx_jax.learn.host.slots import Seeds, Slots, Tasks, spread
from pgx_jax.learn.host.vectors import Vectors
from pgx_jax.learn.host.workers import RemoteCopies, kind_of_crews, processes_of
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.steady import compiled
from pgx_jax.tasks import HostVector, TaskFamily
from pgx_jax.types import Agent, Array, Memory, Moments, PyTree

REMEDY = "lower ppo.num_envs or rows_per_call"
"""What makes slots fewer in training."""


@partial(compiled, static_argnames=("policy", "deterministic", "per_slot"))
def _act(
    policy: Policy,
    deterministic: bool,
    per_slot: bool,
    actor: PyTree,
    moments: Moments,
    obs: Array,
    context: Array,
    keys: Array,
    t: int,
    memory: PyTree,
) -> tuple[Array, Array, PyTree]:
    """Actions of C policies in E slots each, as drawn and as the environment takes them, and the states of
    their networks, [C, E, ...]."""
    dist = policy.distribution
    choose = jax.vmap(policy.choose, (0 if per_slot else None, 0, 0))

    def one(
        actor: PyTree, moments: Moments, obs: Array, context: Array, key: Array, memory: PyTree
    ) -> tuple[Array, PyTree]:
        inputs = policy.actor_input(policy.normalise_by(moments, obs), context)
        params, state = choose(actor, inputs, memory)
        if deterministic:
            return dist.mode(params), state
        return jax.vmap(dist.sample)(jax.random.split(jax.random.fold_in(key, t), len(obs)), params), state

    action, state = jax.vmap(one)(actor, moments, obs, context, keys, memory)
    return action, dist.to_env(action), state


@partial(compiled, static_argnames=("policy",))
def _remember(
    policy: Policy,
    memory: Memory,
    state: PyTree,
    action: Array,
    reward: Array,
    begins: Array,
    acted: Array,
) -> Memory:
    """What policies with memory know after a step of the slots that ``acted``, leaves [C, E, ...]."""

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(acted.reshape(*acted.shape, *[1] * (new.ndim - 2)), new, old)

    return jax.tree.map(choose, policy.remember(state, action, reward, begins), memory)


def open_slots(family: TaskFamily, count: int, *, vectors: bool = True, remedy: str = REMEDY) -> Slots:
    """S slots of a host family: vectors where it makes them (and they are wanted), else copies, in processes
    of their own where it asks for some. Their memory is kept for them until they are closed.

    Raises:
        ConfigError: they would not fit into what memory is free here; the ``remedy`` says which settings
            would make them fewer.
    """
    make, processes, here = _made_by(family, vectors)
    grant = reserve(family, count, processes, remedy) if here else Grant()
    try:
        slots: Slots
        if make is not None:
            slots = Vectors(family, count, make)
        else:
            slots = Copies(family, count) if processes == 1 else RemoteCopies(family, count, processes)
    except BaseException:
        grant.release()
        raise
    slots.grant = grant
    return slots


def width_that_fits(family: TaskFamily, width: int, envs: int) -> int:
    """The width, or half of it and so on, with which copies of ``envs`` slots each fit into memory (1 if
    none does)."""
    _, processes, here = _made_by(family, vectors=False)
    while here and width > 1 and not fits(family, width * envs, processes):
        width //= 2
    return width


def _made_by(
    family: TaskFamily, vectors: bool
) -> tuple[Callable[[PyTree, int], HostVector] | None, int, bool]:
    """What makes a family's vectors (None: it has copies), the processes that step them (0: the vectors'
    own), and whether they take this machine's memory."""
    make = getattr(family.host_env, "make_vector", None) if vectors else None
    processes = processes_of(family) if make is None else 0
    return make, processes, processes <= 1 or kind_of_crews().here


class Episodes(NamedTuple):
    """The running episodes of one policy's E slots: with the tasks all that is needed to come to the same
    state of environments that draw from their seeds alone."""

    key: UInt32[np.ndarray, "2"]
    """Of the slots' seeds."""
    drawn: Int[np.ndarray, "E"]
    """int [E]: how many seeds were drawn; the last one is the episode's."""
    age: Int[np.ndarray, "E"]
    """int [E]: steps so far."""
    actions: Num[np.ndarray, "A E ..."]
    """[A, E, ...]: what was done in each step; beyond a slot's age it is a legal action."""
    obs: Float[np.ndarray, "E ..."]
    """float32 [E, ...]: what that has led to."""
    total: Float[np.ndarray, "E"]
    """float32 [E]: return so far."""
    discounted: Float[np.ndarray, "E"]
    """float32 [E]: `Steps.discounted` so far."""
    solved: Bool[np.ndarray, "E"]
    """bool [E]: whether any step so far was a success."""


class Moment(NamedTuple):
    """Of all slots what `Episodes` are made of; its arrays are written to no more."""

    seeds: dict[int, tuple[tuple[int, ...], int]]
    age: np.ndarray
    obs: np.ndarray
    total: np.ndarray
    discounted: np.ndarray
    solved: np.ndarray
    taken: list[np.ndarray]


class Acting:
    """C policies in the slots of a chunk, E each; counts the age and return of running episodes."""

    def __init__(
        self, policy: Policy, family: TaskFamily, chunk: int, width: int, *,
        vectors: bool = True, remedy: str = REMEDY,
    ):  # fmt: skip
        """Open C * E slots.

        Args:
            policy, family: static description, and where to act.
            chunk, width: C, E.
            vectors: use vectors of the library's own, where the family has them.
            remedy: what would make the slots fewer, for the error where they don't fit into memory.
        """
        self.policy, self.family, self.chunk, self.width = policy, family, chunk, width
        count = chunk * width
        self.slots: Slots = open_slots(family, count, vectors=vectors, remedy=remedy)
        self.obs = np.zeros((count, *family.observation_space.shape), np.float32)
        self.age = np.zeros(count, int)
        self.total, self.discounted = np.zeros((2, count), np.float32)
        self.solved = np.zeros(count, bool)
        self.seeds: dict[int, Seeds] = {}
        self.taken: deque[np.ndarray] = deque(maxlen=family.horizon)
        """Actions [S, ...] of the last steps, as the environments took them: no episode is older."""
        self.context = np.zeros((chunk, width, family.context.shape[1]), np.float32)

    def enter(self, place: int, tasks: Tasks, index: np.ndarray, context: np.ndarray, key: Array) -> None:
        """Start policy number ``place`` on the tasks ``index`` int [E] with ``context`` [E, C]."""
        self.slots.place(self._slots(place), tasks, index)
        self.context[place] = context
        self.reset(place, key)

    def reset(self, place: int, key: Array) -> None:
        """Start policy number ``place`` on its tasks anew, with seeds that depend on the key."""
        slots = self._slots(place)
        for i, slot in enumerate(slots.tolist()):
            self.seeds[slot] = Seeds(key, i)
        self._restart(slots)

    def moment(self) -> Moment:
        """The state of all slots, as it stays if they go on."""
        seeds = {slot: (own.words, own.count) for slot, own in self.seeds.items()}
        now = (self.age, self.obs, self.total, self.discounted, self.solved)
        return Moment(seeds, *now, list(self.taken))

    def episodes(self, place: int, at: Moment) -> Episodes:
        """The running episodes of policy number ``place`` at a moment."""
        slots = self._slots(place)
        words, drawn = zip(*(at.seeds[slot] for slot in slots.tolist()), strict=True)
        age = at.age[slots]
        longest = int(age.max())
        actions = np.zeros((0, len(slots)))
        if longest:
            last = np.stack(at.taken[-longest:])[:, slots]
            turns = np.arange(longest)[:, None] + longest - age
            actions = last[np.minimum(turns, longest - 1), np.arange(len(slots))]
        known = (at.obs, at.total, at.discounted, at.solved)
        return Episodes(
            np.array(words[0][:-1], np.uint32), np.array(drawn), age, actions, *(x[slots] for x in known)
        )

    def go_on(self, place: int, episodes: Episodes) -> bool:
        """Go on with episodes that policy number ``place``, whose tasks are known, was in: act as it did.

        Returns:
            Whether they have come to the same observations; the slots must be `reset` if not.
        """
        slots = self._slots(place)
        for i, (slot, drawn) in enumerate(zip(slots.tolist(), episodes.drawn.tolist(), strict=True)):
            self.seeds[slot] = Seeds(episodes.key, i, drawn - 1)
        seeds = [self.seeds[slot]() for slot in slots.tolist()]
        obs = self.obs.copy()
        self.slots.repeat(slots, seeds, episodes.age, episodes.actions, obs)
        if not np.array_equal(obs[slots], episodes.obs):
            return False
        self.obs = obs
        self._recall(slots, episodes)
        self.age, self.total, self.discounted, self.solved = (
            np.where(np.isin(np.arange(len(obs)), slots), spread(own, slots, len(obs)), now)
            for own, now in (
                (episodes.age, self.age), (episodes.total, self.total),
                (episodes.discounted, self.discounted), (episodes.solved, self.solved),
            )
        )  # fmt: skip
        return True

    def _recall(self, slots: np.ndarray, episodes: Episodes) -> None:
        """Put what was done in repeated episodes among the actions of the last steps."""
        longest = len(episodes.actions)
        if not longest:
            return
        blank = spread(episodes.actions[0], slots, len(self.age))
        taken = [blank] * max(0, longest - len(self.taken)) + list(self.taken)
        recent = np.stack(taken[-longest:])
        turns = np.maximum(np.arange(longest)[:, None] - longest + episodes.age, 0)
        recent[:, slots] = episodes.actions[turns, np.arange(len(slots))]
        self.taken = deque([*taken[:-longest], *recent], maxlen=self.taken.maxlen)

    def _slots(self, place: int) -> np.ndarray:
        return np.arange(place * self.width, (place + 1) * self.width)

    def _restart(self, slots: np.ndarray) -> None:
        """Start episodes in the slots, in new arrays: records of the last step keep theirs."""
        self.obs, self.age = self.obs.copy(), self.age.copy()
        self.total, self.discounted = self.total.copy(), self.discounted.copy()
        self.solved = self.solved.copy()
        self.slots.restart(slots, [self.seeds[slot]() for slot in slots.tolist()], self.obs)
        self.age[slots], self.total[slots], self.discounted[slots], self.solved[slots] = 0, 0.0, 0.0, False

    def chooser(
        self, agents: Agent, keys: Array, deterministic: bool = False, per_slot: bool = False
    ) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        """A function of t: one call for all policies; actions [S, ...] as drawn and as the environment
        takes them. ``agents`` lead with an axis C (and their actors with C, E if ``per_slot``), ``keys``
        are [C, 2]. For policies with memory it is one trial of every slot."""
        actor, moments, context, keys = jax.tree.map(
            jnp.asarray, (agents.actor, agents.observation, self.context.copy(), keys)
        )
        lead = (self.chunk, self.width)
        remembers, age = self.policy.remembers, self.age.reshape(lead)
        memory: PyTree = jax.vmap(self.policy.begin)(agents, age) if remembers else ()
        chosen: tuple[PyTree, Array] | None = None  # states and actions of the last step, for the memory

        def of_slots(x: Array) -> np.ndarray:  # [C, E, ...] -> [S, ...], which may be written to
            return np.array(x).reshape(-1, *x.shape[2:])

        def choose(t: int) -> tuple[np.ndarray, np.ndarray]:
            nonlocal memory, chosen
            if chosen is not None:
                arrival = self.slots.arrival
                came = (x.reshape(lead) for x in (arrival.reward, self.age == 0, arrival.acted))
                memory = _remember(self.policy, memory, *chosen, *came)
            obs = self.obs.reshape(*lead, *self.obs.shape[1:])
            drawn, legal, state = _act(
                self.policy, deterministic, per_slot, actor, moments, obs, context, keys, t, memory
            )
            chosen = (state, drawn) if remembers else None
            return of_slots(drawn), of_slots(legal)

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
        per_slot: bool = False,
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
            per_slot: the agents' actors lead with axes C, E: every slot acts with parameters of its own.

        Returns:
            leaves [C, T, E, ...], NumPy.

        Raises:
            DataError: an environment raised or returned nonsense (which task).
        """
        mask = np.repeat(np.ones(self.chunk, bool) if active is None else active, self.width)
        count, t, records = np.where(mask, 0, length), 0, []
        choose = self.chooser(agents, keys, deterministic, per_slot)
        while count.min() < length:
            before = self.obs
            action, legal = choose(t)
            record, done = self.advance(legal, mask, gamma)
            acted = self.slots.arrival.acted
            records.append((before, action, *record, acted))
            count, t = count + acted, t + 1
            if done.any():
                self._restart(np.flatnonzero(done))
        return self._by_policy(records, length)

    def play_out(self, running: np.ndarray, choose: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
        """Play the slots of the mask ``running`` bool [S] to their first ending, after which they rest.

        Args:
            running: the slots.
            choose: (t, those that are still running) -> legal actions [S, ...].

        Returns:
            bool [S]: whether the last step was a success; ``total``, ``solved`` and ``age`` tell the rest.
        """
        at_end, t = np.zeros(len(running), bool), 0
        while running.any():
            _, done = self.advance(choose(t, running), running, 1.0)
            at_end |= done & self.slots.arrival.success
            running, t = running & ~done, t + 1
        return at_end

    def advance(
        self, legal: np.ndarray, mask: np.ndarray, gamma: float
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Step the slots of the mask; returns the fields of `Steps` from ``reward`` on, and who is done."""
        arrival, age = self.slots.step(legal, mask), self.age
        self.taken.append(legal)
        self.obs = arrival.obs
        self.age = age + arrival.acted
        self.total = self.total + arrival.reward
        self.discounted = np.float32(gamma) * self.discounted + arrival.reward
        self.solved = self.solved | (arrival.acted & arrival.success)
        done = arrival.acted & (arrival.terminated | arrival.truncated | (self.age >= self.family.horizon))
        record = (
            arrival.reward, arrival.obs, arrival.terminated, done, self.total, self.discounted,
            arrival.success, arrival.objectives, age, self.solved,
        )  # fmt: skip
        return record, done

    def _by_policy(self, records: list[tuple[np.ndarray, ...]], length: int) -> Steps:
        """Records of all slots, T and more, as `Steps` with leaves [C, T, E, ...]: of each slot the
        first T steps in which it acted."""
        *fields, acts = zip(*records, strict=True)
        acted = np.stack(acts)
        first = None if acted.all() else np.argsort(~acted, axis=0, kind="stable")[:length]

        def arrange(values: Sequence[np.ndarray]) -> np.ndarray:  # T' arrays [S, ...] -> [C, T, E, ...]
            x = np.stack(values)
            if first is not None:
                x = np.take_along_axis(x, first.reshape(*first.shape, *[1] * (x.ndim - 2)), axis=0)
            x = x.reshape(length, self.chunk, self.width, *x.shape[2:])
            return np.ascontiguousarray(x.swapaxes(0, 1))

        *arrays, objectives, age, solved = map(arrange, fields)
        own = {"objectives": objectives} if objectives.shape[-1] else {}
        return Steps(*arrays)._replace(**own, age=age.astype(np.int32), solved=solved)

    def close(self) -> None:
        """Close the environments."""
        self.slots.close()
