"""Slots that are copies in this process, stepped one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pgx_jax.learn.host.slots import Arrival, Placed, close_all
from pgx_jax.tasks import HostStep, TaskFamily


class Copies(Placed):
    """S copies in this process, stepped one after the other."""

    def __init__(self, family: TaskFamily, count: int):
        """Make the copies."""
        super().__init__(family, count)
        self.copies = [self.guard("make", None, family.host_env.make) for _ in range(count)]
        self.seeds: list[int | None] = [None] * count
        """Of the running episodes, for errors."""
        self.acted, self.no_vectors = np.ones(count, bool), np.zeros((count, 0), np.float32)
        """The same in every arrival, and never written to."""

    def restart(self, slots: np.ndarray, seeds: Sequence[int], obs: np.ndarray) -> None:
        """Start episodes in the slots; their first observations go to the rows of ``obs`` [S, ...]."""
        for slot, seed in zip(slots, seeds, strict=True):
            self.seeds[slot], name = seed, self.names[slot]
            first = self.guard("reset", name, self.copies[slot].reset, seed, self.tasks[slot], of=seed)
            obs[slot] = self.guard.shaped(first, name, seed=seed)

    def step(self, actions: np.ndarray, active: np.ndarray) -> Arrival:
        """Advance the slots of the mask ``active`` [S]."""
        which, outs = np.flatnonzero(active).tolist(), []
        legal = actions.tolist() if actions.ndim == 1 else list(actions)
        try:
            for slot in which:
                outs.append(self.copies[slot].step(legal[slot]))
        except Exception as error:
            slot = which[len(outs)]
            raise self.guard.failed("step", self.names[slot], error, self.seeds[slot]) from error
        try:
            found = self._gather(outs)
        except (TypeError, ValueError):
            for slot, out in zip(which, outs, strict=True):
                name, seed = self.names[slot], self.seeds[slot]
                self.guard.shaped(out.obs, name, seed=seed)
                self.guard("step", name, self._gather, [out], of=seed)
            raise
        if len(which) == len(self.names):
            self.arrival = found
        else:
            self.arrival = self.fresh(active.copy())
            for all_slots, some in zip(self.arrival, found, strict=True):
                all_slots[which] = some
        arrival = self.arrival
        self.guard.finite(arrival.obs, arrival.reward, arrival.acted, self.names, self.seeds)
        return arrival

    def _gather(self, outs: list[HostStep]) -> Arrival:
        """Steps of some slots as arrays."""
        obs, reward, terminated, truncated, success, objectives, _ = zip(*outs, strict=True)
        observed = np.array(obs, np.float32)
        if observed.shape[1:] != self.shape:
            raise ValueError(f"observations of shape {observed.shape[1:]}")
        kinds = self.arrival.objectives.shape[1]
        vectors = np.array(objectives, np.float32) if kinds else self.no_vectors[: len(outs)]
        ended, cut, solved = np.array((terminated, truncated, success), bool)
        acted = self.acted[: len(outs)]
        return Arrival(observed, np.array(reward, np.float32), ended, cut, solved, acted, vectors)

    def close(self) -> None:
        """Close all copies."""
        super().close()
        close_all(self.copies)
