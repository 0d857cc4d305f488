"""Slots of host environments: running copies that rows of a chunk share, of any task at each reset.

`Copies` steps copies in one loop; `Vectors` steps whole vectors of a library's own, whatever their
convention of resetting. Both hand out the observation that an action led to, before any reset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from pgx_jax.learn.host.where import Where
from pgx_jax.tasks import HostEnv, HostStep, HostVector, TaskFamily
from pgx_jax.types import Array, PyTree


class Tasks(NamedTuple):
    """Tasks of a family, or unseen ones, with the names under which errors speak of them."""

    names: tuple[str, ...]
    params: tuple[PyTree, ...]
    """One pytree a task, its leaves without a leading axis."""

    @classmethod
    def of(cls, family: TaskFamily, params: PyTree = None) -> Tasks:
        """The family's own tasks, or unseen ones (a pytree with a leading axis)."""
        own = params is None
        params = jax.tree.map(np.asarray, family.tasks if own else params)
        count = family.n if own else len(jax.tree.leaves(params)[0])
        names = family.task_names if own else tuple(f"unseen {i + 1}" for i in range(count))
        return cls(names, tuple(jax.tree.map(lambda x, i=i: x[i], params) for i in range(count)))


class Arrival(NamedTuple):
    """What one step of S slots led to; slots that did not act have no reward."""

    obs: np.ndarray
    """float32 [S, *observation shape], before any reset."""
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray
    acted: np.ndarray
    """bool [S]: the slot took a step; False where it was idle, or spent the call on a reset."""
    objectives: np.ndarray
    """float32 [S, K]: vector rewards; K = 0 where the family has none."""


class Seeds:
    """Streams of seeds, one a slot, that depend on a key and the slot's place alone."""

    def __init__(self, key: Array, slot: int):
        """Start the stream of one slot of the row (or pair) that owns ``key``."""
        self.words, self.count = (*np.asarray(key).ravel().tolist(), slot), 0

    def __call__(self) -> int:
        """The next seed, in [0, 2^31)."""
        self.count += 1
        return int(np.random.SeedSequence((*self.words, self.count)).generate_state(1)[0] >> 1)


class _Slots:
    """What both kinds of slots share: the task and its name of each slot, and the last arrival."""

    def __init__(self, family: TaskFamily, count: int):
        self.env, self.where = family.env, Where(family)
        self.tasks: list[PyTree] = [None] * count
        self.names: list[str] = [""] * count
        self.shape = family.observation_space.shape
        kinds = 0 if family.objectives is None else family.objectives.shape[1]
        self.arrival = Arrival(
            np.zeros((count, *self.shape), np.float32), np.zeros(count, np.float32),
            *np.zeros((4, count), bool), np.zeros((count, kinds), np.float32),
        )  # fmt: skip
        """Of the last step; every step makes new arrays, so that callers may keep them."""

    def place(self, slots: np.ndarray, tasks: Tasks, index: np.ndarray) -> None:
        """Give the slots int [S'] the tasks ``index`` int [S']; they must be restarted next."""
        self.arrival = self._fresh(self.arrival.acted & ~np.isin(np.arange(len(self.names)), slots))
        for slot, i in zip(slots, index, strict=True):
            self.tasks[slot], self.names[slot] = tasks.params[i], tasks.names[i]

    def _fresh(self, acted: np.ndarray) -> Arrival:
        """The last arrival's observations, no rewards and endings, in new arrays."""
        last = self.arrival
        blank = (np.zeros_like(x) for x in (last.reward, last.terminated, last.truncated, last.success))
        return Arrival(last.obs.copy(), *blank, acted, np.zeros_like(last.objectives))


class Copies(_Slots):
    """S copies in this process, stepped one after the other."""

    def __init__(self, family: TaskFamily, count: int):
        """Make the copies."""
        super().__init__(family, count)
        self.copies = [self.where("make", None, self.env.make) for _ in range(count)]
        self.acted, self.no_vectors = np.ones(count, bool), np.zeros((count, 0), np.float32)
        """The same in every arrival, and never written to."""

    def restart(self, slots: np.ndarray, seeds: Sequence[int], obs: np.ndarray) -> None:
        """Start episodes in the slots; their first observations go to the rows of ``obs`` [S, ...]."""
        for slot, seed in zip(slots, seeds, strict=True):
            name = self.names[slot]
            first = self.where("reset", name, self.copies[slot].reset, seed, self.tasks[slot])
            obs[slot] = self.where.shaped(first, name)

    def step(self, actions: np.ndarray, active: np.ndarray) -> Arrival:
        """Advance the slots of the mask ``active`` [S]."""
        which, outs = np.flatnonzero(active).tolist(), []
        legal = actions.tolist() if actions.ndim == 1 else list(actions)
        try:
            for slot in which:
                outs.append(self.copies[slot].step(legal[slot]))
        except Exception as error:
            raise self.where.failed("step", self.names[which[len(outs)]], error) from error
        try:
            found = self._gather(outs)
        except (TypeError, ValueError):
            for slot, out in zip(which, outs, strict=True):
                self.where.shaped(out.obs, self.names[slot])
                self.where("step", self.names[slot], self._gather, [out])
            raise
        if len(which) == len(self.names):
            self.arrival = found
        else:
            self.arrival = self._fresh(active.copy())
            for all_slots, some in zip(self.arrival, found, strict=True):
                all_slots[which] = some
        self.where.finite(self.arrival.obs, self.arrival.reward, self.arrival.acted, self.names)
        return self.arrival

    def _gather(self, outs: list[HostStep]) -> Arrival:
        """Steps of some slots as arrays."""
        obs, reward, terminated, truncated, success, objectives, _ = zip(*outs, strict=True)
        observed = np.array(obs, np.float32)
        if observed.shape[1:] != self.shape:
            raise ValueError(f"observations of shape {observed.shape[1:]}")
        flags = np.array((terminated, truncated, success), bool)
        kinds = self.arrival.objectives.shape[1]
        vectors = np.array(objectives, np.float32) if kinds else self.no_vectors[: len(outs)]
        return Arrival(observed, np.array(reward, np.float32), *flags, self.acted[: len(outs)], vectors)

    def close(self) -> None:
        """Close all copies."""
        _close(self.copies)


class Vectors(_Slots):
    """S slots that vectors of a library's own step, one vector for the slots of a row and a task."""

    def __init__(self, family: TaskFamily, count: int):
        """No vector is made before slots are placed."""
        super().__init__(family, count)
        self.parts: list[tuple[HostVector, np.ndarray, str]] = []
        self.free: dict[tuple[str, int], list[HostVector]] = {}
        self.first = np.zeros((count, *self.shape), np.float32)
        """The first observations of vectors that reset in the same step."""
        self.resetting = np.zeros(count, bool)
        """Slots whose next step is a reset."""

    def place(self, slots: np.ndarray, tasks: Tasks, index: np.ndarray) -> None:
        """Give the slots int [S'] the tasks ``index`` int [S']; they must be restarted next."""
        super().place(slots, tasks, index)
        taken = set(slots.tolist())
        for part in [part for part in self.parts if taken & set(part[1].tolist())]:
            self.parts = [other for other in self.parts if other is not part]
            self.free.setdefault((part[2], len(part[1])), []).append(part[0])
        for i in dict.fromkeys(index.tolist()):
            own, name = slots[index == i], tasks.names[i]
            free = self.free.get((name, len(own)))
            make = self.env.make_vector
            vector = free.pop() if free else self.where("make", name, make, tasks.params[i], len(own))
            self.parts.append((vector, own, name))

    def restart(self, slots: np.ndarray, seeds: Sequence[int], obs: np.ndarray) -> None:
        """Start episodes in the slots; their first observations go to the rows of ``obs`` [S, ...].

        A vector whose slots are all among them is reset as a whole; single slots that ended are
        reset as its convention asks.
        """
        seed_of = dict(zip(np.asarray(slots).tolist(), seeds, strict=True))
        for vector, own, name in self.parts:
            mask = np.array([slot in seed_of for slot in own.tolist()])
            if not mask.any():
                continue
            ended = self.arrival.acted[own] & (self.arrival.terminated | self.arrival.truncated)[own] & mask
            if vector.autoreset == "disabled" or not np.array_equal(ended, mask):
                if vector.autoreset != "disabled" and not mask.all():
                    raise self.where.endless(name)
                given = np.array([seed_of.get(slot, 0) for slot in own.tolist()])
                first = self.where("reset", name, vector.reset, given, mask)
                obs[own[mask]] = self.where.shaped(first, name, len(own))[mask]
                self.resetting[own[mask]] = False
            elif vector.autoreset == "same_step":
                obs[own[mask]] = self.first[own[mask]]
            else:
                self.resetting[own[mask]] = True

    def step(self, actions: np.ndarray, active: np.ndarray) -> Arrival:
        """Advance all slots of the vectors that have one in the mask ``active`` [S]."""
        self.arrival = self._fresh(np.zeros_like(active))
        obs, reward, terminated, truncated, success, acted, objectives = self.arrival
        for vector, own, name in self.parts:
            if not active[own].any():
                continue
            out: HostStep = self.where("step", name, vector.step, actions[own])
            obs[own] = self.where.shaped(out.obs, name, len(own))
            ended = np.asarray(out.terminated, bool) | np.asarray(out.truncated, bool)
            if vector.autoreset == "same_step" and ended.any():
                if out.final_obs is None:
                    raise self.where.no_final(name)
                self.first[own] = obs[own]
                obs[own[ended]] = np.stack([np.asarray(out.final_obs[i]) for i in np.flatnonzero(ended)])
            reward[own], success[own] = out.reward, out.success
            terminated[own], truncated[own] = out.terminated, out.truncated
            if objectives.shape[1]:
                objectives[own] = out.objectives
            acted[own] = active[own] & ~self.resetting[own]
            reward[own[~acted[own]]] = 0.0
            self.resetting[own] = False
        self.where.finite(self.arrival.obs, self.arrival.reward, self.arrival.acted, self.names)
        return self.arrival

    def close(self) -> None:
        """Close all vectors."""
        _close([part[0] for part in self.parts] + [v for some in self.free.values() for v in some])


def open_slots(family: TaskFamily, count: int, *, vectors: bool = True) -> Copies | Vectors:
    """S slots of a host family: vectors where it makes them (and they are wanted), else copies."""
    env: HostEnv = family.env
    return (Vectors if vectors and hasattr(env, "make_vector") else Copies)(family, count)


def _close(opened: Sequence) -> None:
    for one in opened:
        if hasattr(one, "close"):
            one.close()
