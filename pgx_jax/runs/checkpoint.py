"""Snapshots inside a long stage, so that a run that was stopped in the middle of it can go on."""

from __future__ import annotations

import time
from typing import Any

from pgx_jax.runs.store import RunStore

FIRST = 1.0
"""Seconds until the first saving."""
SHARE = 0.05
"""Of the time of training, what savings may take."""


class StageCheckpoint:
    """Keeps what the training of one stage has reached, in the run folder, until the stage is done.

    The records stand beside the stages as ``stages/<stage>.<name>``, in the same safe format. They are saved
    as often as `SHARE` allows: after every segment, unless that takes less time than 20 savings.

    Attributes:
        every: seconds between two savings, at least.
    """

    def __init__(self, store: RunStore, stage: str, every: float | None = None):
        """Nothing is read or written yet; ``every`` follows from what savings take if it is not given."""
        self.store, self.stage = store, stage
        self.every, self.is_given = FIRST if every is None else every, every is not None

    def load(self, name: str) -> Any | None:
        """The record last saved under the name, or None.

        Raises:
            DataError: it is damaged.
        """
        full = f"{self.stage}.{name}"
        return self.store.load(full) if self.store.has(full) else None

    def save(self, name: str, record: Any) -> None:
        """Replace the record of this name, in one step."""
        began = time.monotonic()
        self.store.save(f"{self.stage}.{name}", record)
        if not self.is_given:
            self.every = (time.monotonic() - began) / SHARE

    def clear(self) -> None:
        """Delete all records of the stage."""
        for name in self.store.begun(self.stage):
            self.store.remove(name)
