"""Slots of host environments: running copies that rows of a chunk share, of any task at each reset.

`Slots` is all that acting knows of them. `Copies` steps copies in one loop (copies.py); `Vectors` steps
whole vectors of a library's own, whatever their convention of resetting (vectors.py); slots that other
processes step are one more such class. All hand out the observation that an action led to, before any
reset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from pgx_jax.learn.host.guard import Guard
from pgx_jax.learn.host.memory import Grant
from pgx_jax.tasks import HostCopy, HostVector, TaskFamily
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

    def __init__(self, key: Array, slot: int, count: int = 0):
        """The stream of one slot of the row (or pair) that owns ``key``, of which ``count`` are drawn."""
        self.words, self.count = (*np.asarray(key).ravel().tolist(), slot), count

    def __call__(self) -> int:
        """The next seed, in [0, 2^31)."""
        self.count += 1
        return int(np.random.SeedSequence((*self.words, self.count)).generate_state(1)[0] >> 1)


class Slots(Protocol):
    """S running environments that step together."""

    arrival: Arrival
    """Of the last step; every step makes new arrays, so that callers may keep them."""
    grant: Grant
    """The memory that is kept for them until they are closed."""

    def place(self, slots: np.ndarray, tasks: Tasks, index: np.ndarray) -> None:
        """Give the slots int [S'] the tasks ``index`` int [S']; they must be restarted next."""

    def restart(self, slots: np.ndarray, seeds: Sequence[int], obs: np.ndarray) -> None:
        """Start episodes in the slots; their first observations go to the rows of ``obs`` [S, ...], at the
        latest with the next arrival."""

    def step(self, actions: np.ndarray, active: np.ndarray) -> Arrival:
        """Advance the slots of the mask ``active`` [S]."""

    def repeat(
        self, slots: np.ndarray, seeds: Sequence[int], ages: np.ndarray, actions: np.ndarray, obs: np.ndarray
    ) -> None:
        """Start episodes in the slots int [S'], and take the first ``ages`` int [S'] of the actions
        [A, S', ...] in each; the observations that this leads to go to the rows of ``obs`` [S, ...]."""

    def close(self) -> None:
        """Free what the slots hold."""


class Placed:
    """What all kinds of slots share: the task and its name of each slot, and the last arrival."""

    def __init__(self, family: TaskFamily, count: int):
        self.guard, self.grant = Guard(family), Grant()
        self.tasks: list[PyTree] = [None] * count
        self.names: list[str] = [""] * count
        self.shape = family.observation_space.shape
        kinds = 0 if family.objectives is None else family.objectives.shape[1]
        terminated, truncated, success, acted = np.zeros((4, count), bool)
        self.arrival = Arrival(
            np.zeros((count, *self.shape), np.float32), np.zeros(count, np.float32),
            terminated, truncated, success, acted, np.zeros((count, kinds), np.float32),
        )  # fmt: skip

    def place(self, slots: np.ndarray, tasks: Tasks, index: np.ndarray) -> None:
        """Give the slots int [S'] the tasks ``index`` int [S']; they must be restarted next."""
        self.arrival = self.fresh(self.arrival.acted & ~np.isin(np.arange(len(self.names)), slots))
        for slot, i in zip(slots, index, strict=True):
            self.tasks[slot], self.names[slot] = tasks.params[i], tasks.names[i]

    def restart(self, slots: np.ndarray, seeds: Sequence[int], obs: np.ndarray) -> None:
        """See `Slots`: each kind has its own."""
        raise NotImplementedError

    def step(self, actions: np.ndarray, active: np.ndarray) -> Arrival:
        """See `Slots`: each kind has its own."""
        raise NotImplementedError

    def repeat(
        self, slots: np.ndarray, seeds: Sequence[int], ages: np.ndarray, actions: np.ndarray, obs: np.ndarray
    ) -> None:
        """Start episodes in the slots int [S'], and take the first ``ages`` int [S'] of the actions
        [A, S', ...] in each; the observations that this leads to go to the rows of ``obs`` [S, ...]."""
        self.restart(slots, seeds, obs)
        for turn, some in enumerate(actions):
            active = np.zeros(len(obs), bool)
            active[slots] = turn < ages
            arrival = self.step(spread(some, slots, len(obs)), active)
            obs[active] = arrival.obs[active]

    def close(self) -> None:
        """Free what the slots hold, and the memory that is kept for them."""
        self.grant.release()

    def fresh(self, acted: np.ndarray) -> Arrival:
        """The last arrival's observations, no rewards and endings, in new arrays."""
        last, zeros = self.arrival, np.zeros_like
        return Arrival(
            last.obs.copy(), zeros(last.reward), zeros(last.terminated), zeros(last.truncated),
            zeros(last.success), acted, zeros(last.objectives),
        )  # fmt: skip


def spread(actions: np.ndarray, slots: np.ndarray, count: int) -> np.ndarray:
    """Actions [S', ...] of some slots among those of all [S, ...]."""
    found = np.zeros((count, *actions.shape[1:]), actions.dtype)
    found[slots] = actions
    return found


def close_all(opened: Sequence[HostCopy] | Sequence[HostVector]) -> None:
    """Close those that can be closed."""
    for one in opened:
        if hasattr(one, "close"):
            one.close()
