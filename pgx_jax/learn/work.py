"""The queue of rows that lanes share, and what has come of them."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Protocol

import jax
import numpy as np

from pgx_jax.errors import DataError
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree

Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, mean recent return) after every segment."""


class Checkpoint(Protocol):
    """Keeps what long training has reached; records are dicts and lists of arrays and numbers."""

    every: float
    """Seconds between two savings."""

    def load(self, name: str) -> Any | None:
        """The record last saved under the name, or None."""

    def save(self, name: str, record: Any) -> None:
        """Replace the record of this name."""


def take(tree: PyTree, index) -> PyTree:
    """The rows ``index`` of a record."""
    return jax.tree.map(lambda x: x[index], tree)


def stack(trees: Sequence[PyTree]) -> PyTree:
    """One record of R equal ones, on the host: every leaf gets a leading axis R."""
    return jax.tree.map(lambda *xs: np.stack([np.asarray(x) for x in xs]), *trees)


def fingerprint(policy, config, family: TaskFamily, rows, agents: Agent) -> str:
    """A name that equal calls of training share, and no other."""
    digest = hashlib.sha256(repr((policy, config, family.name, family.task_names, family.settings)).encode())
    for leaf in jax.tree.leaves((rows.member, rows.steps, rows.key, agents, family.tasks, family.context)):
        leaf = np.asarray(leaf)
        digest.update(repr(leaf.tolist()).encode() if leaf.dtype.hasobject else leaf.tobytes())
    return digest.hexdigest()[:12]


class Work:
    """Rows wait in one queue, longest first; lanes take them from it until none is left."""

    def __init__(
        self,
        open_lane: Callable,
        family: TaskFamily,
        member: np.ndarray,
        total: np.ndarray,
        agents: Agent,
        key: Array,
    ):
        """Queue all rows.

        Args:
            open_lane: makes a lane.
            family: names the tasks.
            member: bool [R, n].
            total: int [R], updates of each row.
            agents: to start from, leaves with a leading axis R.
            key: uint32 [R, 2].
        """
        self.open_lane, self.family = open_lane, family
        self.member, self.total, self.agents, self.key = member, total, agents, key
        self.queue = deque(np.argsort(-total, kind="stable").tolist())
        self.done = np.zeros(len(total), int)
        self.finished: list[Agent | None] = [None] * len(total)
        self.returns = np.full((len(total), int(total.max()), family.n), np.nan, np.float32)
        self.unit, self.progress = 1, None
        self.lock, self.failed = Lock(), False
        self.checkpoint: Checkpoint | None = None
        self.name, self.saved_at = "", time.monotonic()
        self.states: dict[int, list[np.ndarray]] = {}
        """Leaves of the states of rows that have begun, where a checkpoint keeps them."""

    def keep(self, checkpoint: Checkpoint, name: str) -> None:
        """Save what is reached in ``checkpoint`` under ``name``, and go on from what it has."""
        self.checkpoint, self.name = checkpoint, name
        found = checkpoint.load(name)
        if found is None:
            return
        self.done, self.returns = np.array(found["done"]), np.array(found["returns"])
        self.states = dict(zip(found["rows"].tolist(), found["states"], strict=True))
        structure = jax.tree.structure(take(self.agents, 0))
        for row in np.flatnonzero(self.done == self.total).tolist():
            self.finished[row] = jax.tree.unflatten(structure, self.states[row])
            self.queue.remove(row)

    def run_all(self, devices: Sequence[jax.Device], width: int) -> None:
        """Train all rows on the devices, ``width`` at a time on each."""
        with ThreadPoolExecutor(len(devices)) as pool:
            lanes = [pool.submit(self._run, device, width) for device in devices]
            try:
                for lane in lanes:
                    lane.result()
            except BaseException:
                self.failed = True
                raise
            finally:
                if self.failed:
                    for lane in lanes:
                        lane.exception()
                    self._save()

    def _run(self, device: jax.Device, width: int) -> None:
        """One lane: train rows from the queue until none is left."""
        lane = None
        try:
            with jax.default_device(device):
                rows = [None] * width
                while not self.failed:
                    for slot in [slot for slot, row in enumerate(rows) if row is None]:
                        rows[slot] = self._next()
                        if rows[slot] is not None:
                            lane = lane or self.open_lane()
                            self._enter(lane, slot, rows[slot])
                    if all(row is None for row in rows):
                        return
                    self._advance(lane, rows)
        except BaseException:
            self.failed = True
            raise
        finally:
            if lane is not None:
                lane.close()

    def _next(self) -> int | None:
        with self.lock:
            return self.queue.popleft() if self.queue else None

    def _enter(self, lane, slot: int, row: int) -> None:
        lane.enter(slot, self.member[row], take(self.agents, row), self.key[row])
        if row in self.states:
            lane.restore(slot, self.states[row])

    def _advance(self, lane, rows: list[int | None]) -> None:
        """One segment of all slots (idle ones repeat an active row's membership, unused)."""
        active = [row for row in rows if row is not None]
        index = np.array([active[0] if row is None else row for row in rows])
        length = int(min(lane.segment, (self.total - self.done)[active].min()))
        busy = np.array([row is not None for row in rows])
        curve = lane.advance(self.member[index], self.total[index], length, busy)
        agents = lane.agent
        for slot, row in enumerate(rows):
            if row is None:
                continue
            agent = take(agents, slot)
            check_finite(agent, row, self.member, self.family)
            with self.lock:
                self.returns[row, self.done[row] : self.done[row] + length] = curve[slot]
                self.done[row] += length
                over = self.done[row] == self.total[row]
                if over:
                    self.finished[row], rows[slot] = jax.tree.map(np.copy, agent), None
                if self.checkpoint is not None:
                    self.states[row] = jax.tree.leaves(self.finished[row]) if over else lane.leaves(slot)
        self._report(curve)

    def _report(self, curve: np.ndarray) -> None:
        with self.lock:
            if self.progress:
                recent = float(np.nanmean(curve)) if np.isfinite(curve).any() else float("nan")
                self.progress(int(self.done.sum()) * self.unit, int(self.total.sum()) * self.unit, recent)
            if self.checkpoint is not None and time.monotonic() - self.saved_at >= self.checkpoint.every:
                self._save()

    def _save(self) -> None:
        if self.checkpoint is None or not self.states:
            return
        rows = sorted(self.states)
        states = [self.states[row] for row in rows]
        record = {"rows": np.array(rows), "states": states, "done": self.done, "returns": self.returns}
        self.checkpoint.save(self.name, record)
        self.saved_at = time.monotonic()


def check_finite(agent: Agent, row: int, member: np.ndarray, family: TaskFamily) -> None:
    """Refuse an agent with non-finite numbers.

    Raises:
        DataError: naming the row, its tasks and the culprits.
    """
    if all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(agent)):
        return
    culprits = [family.task_names[i] for i in np.flatnonzero(~np.isfinite(np.asarray(agent.reward.var)))]
    tasks = [family.task_names[i] for i in np.flatnonzero(member[row])]
    what = (
        f"non-finite rewards or observations from task(s) {culprits}" if culprits else "non-finite parameters"
    )
    raise DataError(
        f"training of row {row} (tasks {tasks}) met {what}; check the environment's rewards and "
        f"observations and, if the networks are your own, that they give finite outputs; or lower the "
        f"learning rate"
    )
