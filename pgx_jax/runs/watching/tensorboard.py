"""Event files for TensorBoard, by tensorboardX: ``tensorboard --logdir RUN`` shows them.

They are written by its `EventsWriter` in the thread that tells. (Its `SummaryWriter` has a thread for each
file, which a full disk ends, and waits for that for ever.)
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from pgx_jax.errors import FullError
from pgx_jax.learn import Metrics
from pgx_jax.runs.watching.listener import Listener

FOLDER = "tensorboard"


class TensorBoard(Listener):
    """Writes into RUN/tensorboard/STAGE/POLICY/: every policy is what TensorBoard calls a run, so that its
    pages show the curves of all policies together, along each one's environment steps. Of updates that come
    again the last ones count there, too."""

    def __init__(self, folder: Path):
        """Write into the folder of a run; nothing is opened yet."""
        self.folder, self.stage = folder / FOLDER, ""
        self.writers: dict[str, EventsWriter] = {}

    def start(self, stage: str) -> None:
        """Policies of the last stage are done."""
        self.close()
        self.stage = stage

    def metrics(self, metrics: Metrics) -> None:
        """Write all updates, after an event for which TensorBoard forgets what it has of their steps and
        later ones."""
        series = {_tag(name, metrics): own for name, own in metrics.series().items()}
        steps, now = metrics.steps.tolist(), time.time()
        with self._writing():
            writer = self._writer(metrics.name)
            again = SessionLog(status=SessionLog.START)
            writer.write_event(Event(step=steps[0], wall_time=now, session_log=again))
            for name, values in series.items():
                for step, value in zip(steps, values.tolist(), strict=True):
                    if np.isfinite(value):
                        writer.write_event(Event(step=step, wall_time=now, summary=scalar(name, value)))

    def finish(self, stage: str, seconds: float, text: str) -> None:
        """What there is can be read."""
        with self._writing():
            for writer in self.writers.values():
                writer.flush()

    def close(self) -> None:
        """Close all files."""
        with self._writing():
            while self.writers:
                self.writers.popitem()[1].close()

    def _writer(self, policy: str) -> EventsWriter:
        """Of the newest file of a policy; a later one has a name that comes later."""
        if policy not in self.writers:
            place = self.folder / file_name(self.stage) / file_name(policy)
            place.mkdir(parents=True, exist_ok=True)
            number = len([*place.iterdir()])  # two may begin in one second
            self.writers[policy] = EventsWriter(str(place / "events"), f".{number:04}")
        return self.writers[policy]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Within it, what the system has against writing is told with the folder's name.

        Raises:
            FullError: it cannot be written to.
        """
        try:
            yield
        except OSError as error:
            raise FullError(
                f"the log {self.folder} can't be written to ({error.strerror or error}); what the run has "
                f"saved is whole: make room there, and resume the run"
            ) from error


def _tag(name: str, metrics: Metrics) -> str:
    """What a series is called there: tasks stand below what they are curves of."""
    curve = next((each for each in metrics.curves if name.startswith(f"{each} of ")), None)
    return name if curve is None else f"{curve}/{name.removeprefix(f'{curve} of ')}"


def file_name(text: str) -> str:
    """A text as the name of a folder."""
    return re.sub(r"[^\w.,+=-]+", "_", text)[:100]
