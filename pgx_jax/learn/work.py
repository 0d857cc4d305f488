"""The queue of rows that lanes share, and what has come of them."""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from pgx_jax.errors import DataError
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree, Rows

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


def take(tree: PyTree, index: int | np.ndarray) -> PyTree:
    """The rows ``index`` of a record."""
    return jax.tree.map(lambda x: x[index], tree)


def stack(trees: Sequence[PyTree]) -> PyTree:
    """One record of R equal ones, on the host: every leaf gets a leading axis R."""
    return jax.tree.map(lambda *xs: np.stack([np.asarray(x) for x in xs]), *trees)


class Saved(NamedTuple):
    """All that is needed to go on with one row."""

    update: int
    """Updates done."""
    leaves: list[np.ndarray]
    """Of the row's state (of its agent, once it is done)."""


class Lane(Protocol):
    """C rows that train side by side, one a slot."""

    segment: int
    """Updates between two looks at the rows."""

    @staticmethod
    def rows_per_call() -> int:
        """C where nobody says otherwise, on this platform."""

    def __init__(self, policy: Policy, learner: Learner, family: TaskFamily, width: int): ...

    def enter(self, slot: int, member: np.ndarray, agent: Agent, key: Array) -> None:
        """Put a row at the start of its training into a slot; the first one fills all slots."""

    def advance(self, member: np.ndarray, total: np.ndarray, count: int, active: np.ndarray) -> np.ndarray:
        """``count`` updates of the ``active`` rows, bool [C]; returns the curves [C, count, n].

        Args:
            member: bool [C, n].
            total: int [C], updates of the rows' budgets.
            count: 1 to ``segment``.
            active: bool [C]; what comes of the others means nothing.
        """

    def save(self, slots: Sequence[int]) -> list[Saved]:
        """What is needed to go on with these rows later, as far as the engine can hold environments: those
        of the device are saved, those of the host are reset."""

    def restore(self, slot: int, saved: Saved) -> None:
        """Go on with a saved row, in the slot where it has just entered."""

    @property
    def agent(self) -> Agent:
        """The agents [C, ...] as NumPy arrays."""

    def close(self) -> None:
        """Free what the lane holds."""


FORMAT = 2
"""Of the records that `Work` keeps in checkpoints: those of another one are not read."""


def described(what: Any) -> str:
    """Its `repr`, long arrays whole, without addresses in memory, which are others in another process. So
    functions are told apart by their names alone."""
    with np.printoptions(threshold=sys.maxsize):
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(what))


def fingerprint(policy: Policy, learner: Learner, family: TaskFamily, rows: Rows, agents: Agent) -> str:
    """A name that equal calls of training share, and no other."""
    what = (FORMAT, policy, learner, family.name, family.task_names, family.settings)
    digest = hashlib.sha256(described((*what, family.env, family.horizon)).encode())
    for leaf in jax.tree.leaves((rows.member, rows.steps, rows.key, agents, family.tasks, family.context)):
        leaf = np.asarray(leaf)
        digest.update(repr(leaf.tolist()).encode() if leaf.dtype.hasobject else leaf.tobytes())
    return digest.hexdigest()[:12]


class Work:
    """Rows wait in one queue, longest first; lanes take them from it until none is left."""

    def __init__(
        self,
        open_lane: Callable[[], Lane],
        family: TaskFamily,
        member: np.ndarray,
        total: np.ndarray,
        agents: Agent,
        key: Array,
        unit: int = 1,
        progress: Progress | None = None,
    ):
        """Queue all rows.

        Args:
            open_lane: makes a lane.
            family: names the tasks.
            member: bool [R, n].
            total: int [R], updates of each row.
            agents: to start from, leaves with a leading axis R.
            key: uint32 [R, 2].
            unit: environment steps of an update.
            progress: hears of every segment.
        """
        self.open_lane, self.family = open_lane, family
        self.member, self.total, self.agents, self.key = member, total, agents, key
        self.queue = deque(np.argsort(-total, kind="stable").tolist())
        self.done = np.zeros(len(total), int)
        self.finished: list[Agent | None] = [None] * len(total)
        self.returns = np.full((len(total), int(total.max()), family.n), np.nan, np.float32)
        self.unit, self.progress = unit, progress
        self.lock, self.failed = Lock(), False
        self.checkpoint: Checkpoint | None = None
        self.name, self.saved_at = "", time.monotonic()
        self.saved: dict[int, Saved] = {}
        """Of rows that have begun, as they were when a checkpoint was last due."""
        self.running: set[int] = set()
        self.ready: set[int] = set()
        """Lanes at work, and those whose rows are in ``saved`` for the checkpoint that is due."""

    def keep(self, checkpoint: Checkpoint, name: str) -> None:
        """Save what is reached in ``checkpoint`` under ``name``, and go on from what it has."""
        self.checkpoint, self.name = checkpoint, name
        found = checkpoint.load(name)
        if found is None:
            return
        self.returns = np.array(found["returns"])
        structure = jax.tree.structure(take(self.agents, 0))
        for row, update, leaves in zip(found["rows"], found["updates"], found["states"], strict=True):
            row, self.done[row] = int(row), update
            self.saved[row] = Saved(int(update), leaves)
            if update == self.total[row]:
                self.finished[row] = jax.tree.unflatten(structure, leaves)
                self.queue.remove(row)

    def run_all(self, devices: Sequence[jax.Device], width: int) -> None:
        """Train all rows on the devices, ``width`` at a time on each.

        Whatever stops it, what the lanes have reached by then is in the checkpoint.
        """
        self.running = set(range(len(devices)))
        with ThreadPoolExecutor(len(devices)) as pool:
            lanes = [pool.submit(self._run, *lane, width) for lane in enumerate(devices)]
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

    def _run(self, number: int, device: jax.Device, width: int) -> None:
        """One lane: train rows from the queue until none is left."""
        lane: Lane | None = None
        rows: list[int | None] = [None] * width
        try:
            with jax.default_device(device):
                while not self.failed:
                    for slot in [slot for slot, row in enumerate(rows) if row is None]:
                        row = self._next()
                        if row is not None:
                            lane = lane or self.open_lane()
                            self._enter(lane, slot, row)
                            rows[slot] = row
                    if lane is None or all(row is None for row in rows):
                        return
                    self._report(self._advance(lane, rows))
                    self._keep_when_due(number, lane, rows)
        except BaseException:
            self.failed = True
            raise
        finally:
            self._leave(number, lane, rows)

    def _leave(self, number: int, lane: Lane | None, rows: list[int | None]) -> None:
        """A lane has no more rows, or stops: after a failure, with the last that is whole of its rows."""
        with self.lock:
            self.running.discard(number)
        if lane is None:
            return
        try:
            if self.failed:
                with suppress(RuntimeError):  # where the state itself broke, what was saved before stands
                    self._keep(lane, rows)
        finally:
            lane.close()

    def _next(self) -> int | None:
        with self.lock:
            return self.queue.popleft() if self.queue else None

    def _enter(self, lane: Lane, slot: int, row: int) -> None:
        lane.enter(slot, self.member[row], take(self.agents, row), self.key[row])
        if row in self.saved:
            lane.restore(slot, self.saved[row])

    def _advance(self, lane: Lane, rows: list[int | None]) -> np.ndarray:
        """One segment of all slots (idle ones repeat an active row's membership, unused); the curves."""
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
                if self.done[row] == self.total[row]:
                    self.finished[row], rows[slot] = jax.tree.map(np.copy, agent), None
                    leaves = jax.tree.leaves(self.finished[row])
                    self.saved[row] = Saved(int(self.done[row]), leaves)
        return curve

    def _report(self, curve: np.ndarray) -> None:
        with self.lock:
            if self.progress:
                recent = float(np.nanmean(curve)) if np.isfinite(curve).any() else float("nan")
                self.progress(int(self.done.sum()) * self.unit, int(self.total.sum()) * self.unit, recent)

    def _keep_when_due(self, number: int, lane: Lane, rows: list[int | None]) -> None:
        """Keep a lane's rows if a checkpoint is due; the last lane to do so writes it."""
        if self.checkpoint is None or time.monotonic() - self.saved_at < self.checkpoint.every:
            return
        self._keep(lane, rows)
        with self.lock:
            self.ready.add(number)
            if self.ready >= self.running:
                self._save()

    def _keep(self, lane: Lane, rows: list[int | None]) -> None:
        """Remember the states of a lane's rows, but of none that stopped in the middle of a segment: its
        state and its curve are of different moments."""
        slots = {slot: row for slot, row in enumerate(rows) if row is not None}
        if self.checkpoint is None or not slots:
            return
        found = lane.save(list(slots))
        with self.lock:
            for row, saved in zip(slots.values(), found, strict=True):
                if saved.update == self.done[row]:
                    self.saved[row] = saved

    def _save(self) -> None:
        """Write what is remembered: of every row its state and its curve up to the same update."""
        if self.checkpoint is None or not self.saved:
            return
        rows = sorted(self.saved)
        updates = np.zeros(len(self.total), int)
        updates[rows] = [self.saved[row].update for row in rows]
        later = np.arange(self.returns.shape[1]) >= updates[:, None]
        self.checkpoint.save(
            self.name,
            {
                "rows": np.array(rows),
                "updates": updates[rows],
                "states": [self.saved[row].leaves for row in rows],
                "returns": np.where(later[..., None], np.float32(np.nan), self.returns),
            },
        )
        self.saved_at = time.monotonic()
        self.ready.clear()


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
