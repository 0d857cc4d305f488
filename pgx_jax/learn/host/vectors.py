"""Slots that vectors of a library's own step, whatever their convention of resetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeGuard

import numpy as np

from pgx_jax.learn.host.slots import Arrival, Placed, Tasks, close_all, spread
from pgx_jax.tasks import HostStep, HostVector, SplitVector, TaskFamily
from pgx_jax.types import PyTree


def _is_split(vector: HostVector) -> TypeGuard[SplitVector]:
    """Whether a vector can be let go without being waited for."""
    return hasattr(vector, "send")


class Vectors(Placed):
    """S slots that vectors of a library's own step, one vector for the slots of a row and a task."""

    def __init__(self, family: TaskFamily, count: int, make: Callable[[PyTree, int], HostVector]):
        """No vector is made before slots are placed; ``make`` is the environment's ``make_vector``."""
        super().__init__(family, count)
        self.make = make
        self.parts: list[tuple[HostVector, np.ndarray, str]] = []
        self.first = np.zeros((count, *self.shape), np.float32)
        """The first observations of vectors that reset in the same step."""
        self.resetting = np.zeros(count, bool)
        """Slots whose next step is a reset."""

    def place(self, slots: np.ndarray, tasks: Tasks, index: np.ndarray) -> None:
        """Give the slots int [S'] the tasks ``index`` int [S']; they must be restarted next.

        Of the vectors that these slots had, those of the same task and size serve again; the others close.
        """
        super().place(slots, tasks, index)
        taken = set(slots.tolist())
        left = [part for part in self.parts if taken & set(part[1].tolist())]
        self.parts = [part for part in self.parts if not taken & set(part[1].tolist())]
        missing: list[tuple[np.ndarray, int]] = []
        for i in dict.fromkeys(index.tolist()):
            own, name = slots[index == i], tasks.names[i]
            again = [j for j, part in enumerate(left) if (part[2], len(part[1])) == (name, len(own))]
            if again:
                self.parts.append((left.pop(again[0])[0], own, name))
            else:
                missing.append((own, i))
        close_all([part[0] for part in left])  # before others are made: both may not fit
        for own, i in missing:
            vector = self.guard("make", tasks.names[i], self.make, tasks.params[i], len(own))
            self.parts.append((vector, own, tasks.names[i]))

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
                    raise self.guard.endless(name)
                given = np.array([seed_of.get(slot, 0) for slot in own.tolist()])
                first = self.guard("reset", name, vector.reset, given, mask)
                obs[own[mask]] = self.guard.shaped(first, name, len(own))[mask]
                self.resetting[own[mask]] = False
            elif vector.autoreset == "same_step":
                obs[own[mask]] = self.first[own[mask]]
            else:
                self.resetting[own[mask]] = True

    def repeat(
        self, slots: np.ndarray, seeds: Sequence[int], ages: np.ndarray, actions: np.ndarray, obs: np.ndarray
    ) -> None:
        """Start episodes in the slots int [S'], and take the first ``ages`` int [S'] of the actions
        [A, S', ...] in each; the observations that this leads to go to the rows of ``obs`` [S, ...].

        All slots of a vector step together, so that each waits for its turn, and starts anew then. Episodes
        of vectors that reset by themselves follow from all before them: they are begun, and not repeated.
        """
        waits = len(actions) - ages
        active, turns = np.zeros(len(obs), bool), np.arange(len(slots))
        active[slots] = True
        self.restart(slots, seeds, obs)
        moved = [vector for vector, own, _ in self.parts if active[own].any()]
        alone = all(vector.autoreset == "disabled" for vector in moved)
        for turn in range(len(actions) if alone else 0):
            arrival = self.step(spread(actions[np.maximum(turn - waits, 0), turns], slots, len(obs)), active)
            obs[slots] = arrival.obs[slots]
            ended = (arrival.terminated | arrival.truncated)[slots]
            anew = (waits == turn + 1) | (ended & (waits > turn))
            if anew.any():
                self.restart(slots[anew], np.asarray(seeds)[anew].tolist(), obs)

    def step(self, actions: np.ndarray, active: np.ndarray) -> Arrival:
        """Advance all slots of the vectors that have one in the mask ``active`` [S]."""
        self.arrival = self.fresh(np.zeros_like(active))
        obs, reward, terminated, truncated, success, acted, objectives = self.arrival
        for vector, own, name, out in self._moved(actions, active):
            obs[own] = self.guard.shaped(out.obs, name, len(own))
            ended = np.asarray(out.terminated, bool) | np.asarray(out.truncated, bool)
            if vector.autoreset == "same_step" and ended.any():
                if out.final_obs is None:
                    raise self.guard.no_final(name)
                self.first[own] = obs[own]
                obs[own[ended]] = np.stack([np.asarray(out.final_obs[i]) for i in np.flatnonzero(ended)])
            reward[own], success[own] = out.reward, out.success
            terminated[own], truncated[own] = out.terminated, out.truncated
            if objectives.shape[1]:
                objectives[own] = out.objectives
            acted[own] = active[own] & ~self.resetting[own]
            reward[own[~acted[own]]] = 0.0
            self.resetting[own] = False
        self.guard.finite(self.arrival.obs, self.arrival.reward, self.arrival.acted, self.names)
        return self.arrival

    def _moved(
        self, actions: np.ndarray, active: np.ndarray
    ) -> Iterator[tuple[HostVector, np.ndarray, str, HostStep]]:
        """The vectors that have an active slot, and what their step leads to; those that can are let go
        before any is waited for."""
        asked = [part for part in self.parts if active[part[1]].any()]
        for vector, own, name in asked:
            if _is_split(vector):
                self.guard("step", name, vector.send, actions[own])
        for vector, own, name in asked:
            if _is_split(vector):
                yield vector, own, name, self.guard("step", name, vector.receive)
            else:
                yield vector, own, name, self.guard("step", name, vector.step, actions[own])

    def close(self) -> None:
        """Close all vectors."""
        super().close()
        close_all([part[0] for part in self.parts])
