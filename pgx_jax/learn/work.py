"""The queue of rows that lanes share, and what has come of them."""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Float, Int

from pgx_jax.errors import DataError
from pgx_jax.learn.lane import Outcome, Saved
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.updating import Earned
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree, Rows


class Progress(Protocol):
    """Called after every segment."""

    def __call__(self, done: int, total: int, recent: float, at_end: float | None = None, /) -> None:
        """Hear of the environment steps done and in all, and of the mean recent return (or success); of a
        family that is judged by success also of that in the last step, which others are not given."""


class Metrics(NamedTuple):
    """What some updates of one policy came to: all of a segment, in order."""

    number: int
    """Of the policy, among those of the call that trains it."""
    tasks: tuple[str, ...]
    """[m], names of its tasks."""
    steps: Int[np.ndarray, "updates"]
    """int [updates]: its environment steps after each, in this call."""
    returns: Float[np.ndarray, "updates m"]
    """float [updates, m]: mean return (success rate, of a family that is judged by it) of the episodes that
    ended in each, by task; NaN where none ended."""
    measured: dict[str, Float[np.ndarray, "updates"]]
    """float [updates] each: what the learner measured, by name (`Learner.measures`)."""
    policy: str = ""
    """What the policy is called; empty where it has a number alone."""
    at_end: Float[np.ndarray, "updates m"] | None = None
    """float [updates, m]: of a family that is judged by success (in any step), that in the last step of these
    episodes; None of others."""

    @property
    def name(self) -> str:
        """What the policy is called, or "policy 0" and so on."""
        return self.policy or f"policy {self.number}"

    @property
    def curves(self) -> dict[str, Float[np.ndarray, "updates m"]]:
        """float [updates, m] each: "return"; or, of a family that is judged by success, "success" and
        "success at the end"."""
        if self.at_end is None:
            return {"return": self.returns}
        return {"success": self.returns, "success at the end": self.at_end}

    def series(self) -> dict[str, Float[np.ndarray, "updates"]]:
        """float [updates] each, by name: what was measured, of each of `curves` the mean over tasks, and
        "return of TASK" (or "success of TASK" and so on) of several."""
        means = {name: over_tasks(curve) for name, curve in self.curves.items()}
        several = {
            f"{name} of {task}": own
            for name, curve in self.curves.items()
            for task, own in zip(self.tasks, curve.T, strict=True)
            if len(self.tasks) > 1
        }
        return means | self.measured | several


def over_tasks(curve: Float[np.ndarray, "updates m"]) -> Float[np.ndarray, "updates"]:
    """Means of what is known; NaN where nothing is."""
    known = np.isfinite(curve)
    mean: np.ndarray = np.where(known, curve, 0.0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)
    return mean


def mean_of_known(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN if nothing is known."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


Hears = Callable[[Metrics], None]
"""Called for every policy of a segment, after `Progress`."""


class Checkpoint(Protocol):
    """Keeps what long training has reached; records are dicts and lists of arrays and numbers."""

    every: float
    """Seconds between two savings, at least; those of several that are saved together add up."""

    def load(self, name: str) -> Any | None:
        """The record last saved under the name, or None."""

    def save(self, name: str, record: Any) -> None:
        """Replace the record of this name."""


def take(tree: PyTree, index: Any) -> PyTree:
    """The rows ``index`` of a record (or what else arrays are indexed with)."""
    return jax.tree.map(lambda x: x[index], tree)


def stack(trees: Sequence[PyTree]) -> PyTree:
    """One record of R equal ones, on the host: every leaf gets a leading axis R."""
    return jax.tree.map(lambda *xs: np.stack([np.asarray(x) for x in xs]), *trees)


FORMAT = 6
"""Of the records that `Work` keeps in checkpoints: those of another one are not read."""


def described(what: Any) -> str:
    """Its `repr`, long arrays whole, without addresses in memory, which are others in another process. So
    functions are told apart by their names alone."""
    with np.printoptions(threshold=sys.maxsize):
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(what))


def fingerprint(policy: Policy, learner: Learner, family: TaskFamily, rows: Rows, agents: Agent) -> str:
    """A name that equal calls of training share, and no other."""
    what = (FORMAT, policy, learner, family.name, family.task_names, family.settings, family.metric)
    digest = hashlib.sha256(described((*what, family.env, family.horizon)).encode())
    for leaf in jax.tree.leaves((rows.member, rows.steps, rows.key, agents, family.tasks, family.context)):
        leaf = np.asarray(leaf)
        digest.update(repr(leaf.tolist()).encode() if leaf.dtype.hasobject else leaf.tobytes())
    return digest.hexdigest()[:12]


class Segment(NamedTuple):
    """Some updates of the rows of a lane, which may still be under way."""

    rows: dict[int, int]
    """Slots and their rows."""
    start: np.ndarray
    """int: updates that each of these had done before."""
    length: int
    """Updates of each."""
    outcome: Outcome
    leaving: list[int]
    """The rows that are done with it."""
    agents: Agent | None
    """Theirs, leaves with a leading axis."""


class Part(NamedTuple):
    """Rows of one queue that belong together: who hears of them, and where they are kept."""

    rows: range
    hear: Callable[[Earned], None] | None = None
    """Called with what they earned on average, of floats, after every segment that had any of them."""
    checkpoint: Checkpoint | None = None
    name: str = ""
    """Of their record in the checkpoint."""
    metrics: Hears | None = None
    """Called with what the updates of each came to."""
    first: int = 0
    """Number of the first of them, as they are told."""


class Work:
    """Rows wait in one queue, longest first; lanes take them from it until none is left."""

    def __init__(
        self,
        family: TaskFamily,
        member: np.ndarray,
        total: np.ndarray,
        agents: Agent,
        key: Array,
        unit: int = 1,
        measures: Sequence[str] = (),
    ):
        """Queue all rows.

        Args:
            family: names the tasks.
            member: bool [R, n].
            total: int [R], updates of each row.
            agents: to start from, leaves with a leading axis R.
            key: uint32 [R, 2].
            unit: environment steps of an update.
            measures: names [M] of the numbers that the learner measures of an update.
        """
        self.family = family
        self.member, self.total, self.agents, self.key = member, total, agents, key
        self.queue = deque(np.argsort(-total, kind="stable").tolist())
        self.done = np.zeros(len(total), int)
        """Updates of every row whose outcome is known."""
        self.finished: list[Agent | None] = [None] * len(total)
        rows, updates, self.measures = len(total), int(total.max()), measures
        self.earned = Earned.unknown(family.metric, (rows, updates, family.n))
        self.measured = np.full((rows, updates, len(measures)), np.nan, np.float32)
        self.unit = unit
        self.lock, self.failed = Lock(), False
        self.parts: list[Part] = []
        self.saved_at = time.monotonic()
        self.saved: dict[int, Saved] = {}
        """Of rows that have begun, as they were when a checkpoint was last due."""
        self.running: set[int] = set()
        self.ready: set[int] = set()
        """Lanes at work, and those whose rows are in ``saved`` for the checkpoint that is due."""

    def add(self, part: Part) -> None:
        """Let rows go on from what their checkpoint has, and be told and kept from here on."""
        self.parts.append(part)
        found = part.checkpoint.load(part.name) if part.checkpoint is not None else None
        if found is None:
            return
        structure = jax.tree.structure(take(self.agents, 0))
        for name, curves in _by_name(self.earned, self.measured).items():
            curves[part.rows, : np.shape(found[name])[1]] = found[name]
        for row, update, leaves in zip(found["rows"], found["updates"], found["states"], strict=True):
            row = part.rows[int(row)]
            self.done[row] = update
            self.saved[row] = Saved(int(update), leaves)
            if update == self.total[row]:
                self.finished[row] = jax.tree.unflatten(structure, leaves)
                self.queue.remove(row)

    def steps(self, rows: range) -> tuple[int, int]:
        """Environment steps of some rows whose outcome is known, and all."""
        return int(self.done[rows].sum()) * self.unit, int(self.total[rows].sum()) * self.unit

    def next(self) -> int | None:
        """The next row of the queue."""
        with self.lock:
            return self.queue.popleft() if self.queue else None

    def note(self, segment: Segment) -> None:
        """Wait for a segment, and take over what it led to of all rows that are still finite."""
        earned, measured, finite, _ = jax.tree.map(np.asarray, segment.outcome)
        agents = jax.tree.map(np.asarray, segment.agents)
        with self.lock:
            for (slot, row), start in zip(segment.rows.items(), segment.start, strict=True):
                if not finite[slot] or self.done[row] != start:
                    continue
                self.done[row] = end = start + segment.length
                known, new = _by_name(self.earned, self.measured), _by_name(earned, measured)
                for name, curves in known.items():
                    curves[row, start:end] = new[name][slot, : segment.length]
                if row in segment.leaving:
                    agent = jax.tree.map(np.copy, take(agents, segment.leaving.index(row)))
                    self.finished[row] = agent
                    self.saved[row] = Saved(int(end), jax.tree.leaves(agent))

    def report(self, segment: Segment) -> None:
        """Tell of a segment that was noted.

        Raises:
            DataError: a row is not finite; names the row, its tasks and the culprits.
        """
        earned, measured, finite, spoilt = jax.tree.map(np.asarray, segment.outcome)
        for slot, row in segment.rows.items():
            if not finite[slot]:
                raise not_finite(row, self.member[row], spoilt[slot], self.family)
        with self.lock:
            for part in self.parts:
                slots = [slot for slot, row in segment.rows.items() if row in part.rows]
                if slots and part.hear is not None:
                    part.hear(jax.tree.map(mean_of_known, take(earned, (slots, slice(segment.length)))))
                if part.metrics is not None:
                    for slot in slots:
                        part.metrics(self._metrics(part, segment, slot, take(earned, slot), measured[slot]))

    def _metrics(
        self, part: Part, segment: Segment, slot: int, earned: Earned, measured: np.ndarray
    ) -> Metrics:
        """What a segment came to of the row in a slot, from its curves [T, n] and its measures [T, M]."""
        row, length = segment.rows[slot], segment.length
        member, start = self.member[row], segment.start[list(segment.rows).index(slot)]
        own = jax.tree.map(lambda x: x[:length, member], earned)
        return Metrics(
            part.first + part.rows.index(row),
            tuple(self.family.task_names[i] for i in np.flatnonzero(member)),
            (start + 1 + np.arange(length)) * self.unit,
            own.returns,
            dict(zip(self.measures, measured[:length].T, strict=True)),
            at_end=own.at_end,
        )

    @property
    def is_kept(self) -> bool:
        """Whether any part has a checkpoint."""
        return any(part.checkpoint is not None for part in self.parts)

    def is_due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        kept = [part.checkpoint.every for part in self.parts if part.checkpoint is not None]
        return bool(kept) and time.monotonic() - self.saved_at >= sum(kept)

    def remember(self, rows: Iterable[int], found: Sequence[Saved]) -> None:
        """Keep the states of a lane's rows for the checkpoint, but of none that stopped in the middle of a
        segment: its state and its curve are of different moments."""
        with self.lock:
            for row, saved in zip(rows, found, strict=True):
                if saved.update == self.done[row]:
                    self.saved[row] = saved

    def save_when_all(self, number: int) -> None:
        """A lane's rows are remembered; the last lane to come to this writes the checkpoints."""
        with self.lock:
            self.ready.add(number)
            if self.ready >= self.running:
                self.save()

    def save(self) -> None:
        """Write what is remembered, into the checkpoint of every part: of every row its state and its curve
        up to the same update."""
        for part in self.parts:
            rows = sorted(self.saved.keys() & set(part.rows))
            if part.checkpoint is not None and rows:
                part.checkpoint.save(part.name, self._record(part.rows, rows))
        self.saved_at = time.monotonic()
        self.ready.clear()

    def _record(self, part: range, rows: list[int]) -> dict[str, Any]:
        """Of a part, as its rows are numbered there, what is remembered of some."""
        updates = np.zeros(len(self.total), int)
        updates[rows] = [self.saved[row].update for row in rows]
        length = self.total[part].max()
        later = (np.arange(length) >= updates[part, None])[..., None]
        return {
            "rows": np.array(rows) - part.start,
            "updates": updates[rows],
            "states": [self.saved[row].leaves for row in rows],
        } | {
            name: np.where(later, np.float32(np.nan), curves[part, :length])
            for name, curves in _by_name(self.earned, self.measured).items()
        }


def _by_name(earned: Earned, measured: np.ndarray) -> dict[str, np.ndarray]:
    """What there is of each update."""
    found = earned._asdict() | {"measured": measured}
    return {name: curves for name, curves in found.items() if curves is not None}


def not_finite(row: int, member: np.ndarray, spoilt: np.ndarray, family: TaskFamily) -> DataError:
    """The error of a row with non-finite numbers.

    Args:
        row: its number.
        member: bool [n], its tasks.
        spoilt: bool [n], tasks whose rewards or observations are to blame, if any.
        family: names the tasks.
    """
    culprits = [family.task_names[i] for i in np.flatnonzero(spoilt)]
    tasks = [family.task_names[i] for i in np.flatnonzero(member)]
    what = (
        f"non-finite rewards or observations from task(s) {culprits}" if culprits else "non-finite parameters"
    )
    return DataError(
        f"training of row {row} (tasks {tasks}) met {what}; check the environment's rewards and "
        f"observations and, if the networks are your own, that they give finite outputs; or lower the "
        f"learning rate"
    )
