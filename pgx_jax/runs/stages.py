"""How stages are kept: computed once, timed, saved as they finish, and loaded where they are done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax

from pgx_jax.runs.checkpoint import StageCheckpoint
from pgx_jax.errors import PgxError
from pgx_jax.runs.store import RunStore


class Listener:
    """Hears what a run is doing; this one keeps silent."""

    def start(self, stage: str) -> None:
        """A stage begins."""

    def progress(self, done: int, total: int, recent: float) -> None:
        """Training goes on: environment steps done and in all, recent mean return."""

    def finish(self, stage: str, seconds: float, text: str) -> None:
        """A stage has ended, with its result in one line."""

    def loaded(self, stage: str, text: str) -> None:
        """A stage was done in an earlier sitting and has been read from the run's folder."""


class Stages:
    """Records by the name of their stage, in memory and in the run's folder if it has one."""

    def __init__(self, store: RunStore | None, listener: Listener | None):
        """Keep stages in ``store`` (None keeps them in memory), and tell ``listener`` of them."""
        self.store, self.listener = store, listener or Listener()
        self.records: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    def stage(self, name: str, like, compute: Callable[[], Any], text: Callable[[Any], str]) -> Any:
        """The record of a stage, from memory, from disk, or computed now."""
        if name in self.records:
            return self.records[name]
        if self.store is not None and self.store.has(name):
            record = self.store.load(name, like)
            self.listener.loaded(name, text(record))
        else:
            record = self.timed(name, lambda: jax.block_until_ready(compute()))
            seconds = self.seconds[name]
            if self.store is not None:
                self.store.save(name, record)
                self.checkpoint(name).clear()
                self.store.append_metrics({"stage": name, "seconds": seconds, "result": text(record)})
            self.listener.finish(name, seconds, text(record))
        self.records[name] = record
        return record

    def timed(self, name: str, compute: Callable[[], Any]) -> Any:
        """Start a stage and compute its record; the caller says that it has finished.

        An error of ours is raised again, with the name of the stage before it.
        """
        self.listener.start(name)
        began = time.perf_counter()
        try:
            record = compute()
        except PgxError as error:
            raise type(error)(f"{name}: {error}") from error
        self.seconds[name] = time.perf_counter() - began
        return record

    def checkpoint(self, stage: str) -> StageCheckpoint | None:
        """Where the training of a stage keeps what it has reached; None without a folder."""
        return StageCheckpoint(self.store, stage) if self.store is not None else None

    def training(self, stage: str) -> dict[str, Any]:
        """What the training of a stage is given besides: where it reports, and its checkpoint."""
        return {"progress": self.listener.progress, "checkpoint": self.checkpoint(stage)}

    def timings(self) -> dict:
        """Seconds of all stages, those of earlier sittings too, and today's date."""
        saved = {m["stage"]: m["seconds"] for m in self.store.metrics() if "stage" in m} if self.store else {}
        stages = saved | self.seconds
        return {"stages": [[name, s] for name, s in stages.items()], "total": sum(stages.values())} | {
            "date": time.strftime("%Y-%m-%d %H:%M:%S")
        }
