"""Snapshots inside a long stage, so that a run that was stopped in the middle of it can go on."""

from __future__ import annotations

from typing import Any

from pgx_jax.runs.store import RunStore


class StageCheckpoint:
    """Keeps what the training of one stage has reached, in the run folder, until the stage is done.

    The records stand beside the stages as ``stages/<stage>.<name>``, in the same safe format.

    Attributes:
        every: seconds between two savings.
    """

    def __init__(self, store: RunStore, stage: str, every: float = 60.0):
        """Nothing is read or written yet."""
        self.store, self.stage, self.every = store, stage, every

    def load(self, name: str) -> Any | None:
        """The record last saved under the name, or None.

        Raises:
            DataError: it is damaged.
        """
        full = f"{self.stage}.{name}"
        return self.store.load(full) if self.store.has(full) else None

    def save(self, name: str, record: Any) -> None:
        """Replace the record of this name, in one step."""
        self.store.save(f"{self.stage}.{name}", record)

    def clear(self) -> None:
        """Delete all records of the stage."""
        for name in self.store.stages():
            if name.startswith(f"{self.stage}."):
                self.store.remove(name)
