"""Lanes at work: each takes rows from queues, trains them, and hands over what comes of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import jax
import numpy as np

from pgx_jax.learn.lane import Lane
from pgx_jax.learn.work import Segment, Work, take
from pgx_jax.mesh import agreed, is_joined


class Job(NamedTuple):
    """Rows that one program can train."""

    work: Work
    open_lane: Callable[[], Lane]
    width: int
    """Rows of a lane."""


def run_all(jobs: Sequence[Job], devices: Sequence[jax.Device]) -> None:
    """Train the rows of all jobs on the devices, job after job on each.

    A device goes on to the next job as soon as no row of the last one waits. Whatever stops it, what the
    lanes have reached by then is in the checkpoint.
    """

    def run(number: int, device: jax.Device) -> None:
        try:
            for job in jobs:
                Driver(job, number).run(device)
        except BaseException:
            stop()
            raise

    def stop() -> None:
        for job in jobs:
            job.work.failed = True

    with ThreadPoolExecutor(len(devices)) as pool:
        lanes = [pool.submit(run, number, device) for number, device in enumerate(devices)]
        try:
            for lane in lanes:
                lane.result()
        except BaseException:
            stop()
            for lane in lanes:
                lane.exception()
            for job in jobs:
                job.work.save()
            raise


class Driver:
    """One lane of a job, from its first row to its last.

    Budgets alone decide who leaves and when, so a segment can begin before the one before it has been
    read: a device need not wait for its host (`Lane.ahead`).
    """

    def __init__(self, job: Job, number: int):
        self.work, self.open_lane, self.number = job.work, job.open_lane, number
        self.lane: Lane | None = None
        self.rows: list[int | None] = [None] * job.width
        """The row in every slot."""
        self.begun = np.zeros(len(job.work.total), int)
        """Updates of every row, those under way among them."""
        self.unread: deque[Segment] = deque()

    def run(self, device: jax.Device) -> None:
        """Train rows from the queue until none is left, or something fails."""
        work = self.work
        with work.lock:
            work.running.add(self.number)
        try:
            with jax.default_device(device):
                while not work.failed and (lane := self._fill()):
                    self.unread.append(self._advance(lane))
                    self._read(lane.ahead)
                    if agreed(work.is_due()):
                        self._read()
                        self._keep(lane)
                        work.save_when_all(self.number)
                if not work.failed:
                    self._read()
        except BaseException:
            work.failed = True
            raise
        finally:
            self._leave()

    def _fill(self) -> Lane | None:
        """Let rows enter the slots that are free; the lane, if it has any row."""
        for slot in [slot for slot, row in enumerate(self.rows) if row is None]:
            row = self.work.next()
            if row is not None:
                self.lane = self.lane or self.open_lane()
                self._enter(self.lane, slot, row)
        return None if all(row is None for row in self.rows) else self.lane

    def _enter(self, lane: Lane, slot: int, row: int) -> None:
        work, saved = self.work, self.work.saved.get(row)
        lane.enter(slot, work.member[row], take(work.agents, row), work.key[row])
        if saved is not None:
            lane.restore(slot, saved)
        self.rows[slot], self.begun[row] = row, 0 if saved is None else saved.update

    def _advance(self, lane: Lane) -> Segment:
        """Begin a segment of all slots (idle ones repeat an active row's membership, unused); rows whose
        budgets end with it leave."""
        total = self.work.total
        rows = {slot: row for slot, row in enumerate(self.rows) if row is not None}
        active = list(rows.values())
        index = np.array([active[0] if row is None else row for row in self.rows])
        busy = np.array([row is not None for row in self.rows])
        length = int(min(lane.segment, (total - self.begun)[active].min()))
        outcome = lane.advance(self.work.member[index], total[index], length, busy)
        start = self.begun[active]
        self.begun[active] += length
        leaving = [slot for slot, row in rows.items() if self.begun[row] == total[row]]
        agents = lane.agents(leaving) if leaving else None
        for slot in leaving:
            self.rows[slot] = None
        return Segment(rows, start, length, outcome, [rows[slot] for slot in leaving], agents)

    def _read(self, ahead: int = 0) -> None:
        """Hand over all segments but the last ``ahead``."""
        while len(self.unread) > ahead:
            segment = self.unread.popleft()
            self.work.note(segment)
            self.work.report(segment)

    def _keep(self, lane: Lane) -> None:
        """Save the rows in the slots, as the last segment that was read has left them."""
        rows = {slot: row for slot, row in enumerate(self.rows) if row is not None}
        if rows:
            self.work.remember(rows.values(), lane.save(list(rows)))

    def _leave(self) -> None:
        """No rows are left; or something failed, and the last that is whole of them is kept."""
        with self.work.lock:
            self.work.running.discard(self.number)
        if self.lane is None:
            return
        try:
            if self.work.failed and self.work.is_kept and not is_joined():  # others may be elsewhere
                with suppress(RuntimeError):  # where the state itself broke, what was saved before stands
                    while self.unread:
                        self.work.note(self.unread.popleft())
                    self._keep(self.lane)
        finally:
            self.lane.close()
