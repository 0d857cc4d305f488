"""Event files for TensorBoard, by tensorboardX: ``tensorboard --logdir RUN`` shows them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

from pgx_jax.learn import Metrics
from pgx_jax.runs.watching.listener import Listener

FOLDER = "tensorboard"


class TensorBoard(Listener):
    """Writes into RUN/tensorboard/STAGE/POLICY/: every policy is what TensorBoard calls a run, so that its
    pages show the curves of all policies together, along each one's environment steps."""

    def __init__(self, folder: Path):
        """Write into the folder of a run; nothing is opened yet."""
        self.folder, self.stage = folder / FOLDER, ""
        self.writers: dict[str, SummaryWriter] = {}

    def start(self, stage: str) -> None:
        """Policies of the last stage are done."""
        self.close()
        self.stage = stage

    def metrics(self, metrics: Metrics) -> None:
        """Write all updates."""
        writer = self._writer(metrics.name)
        for name, values in metrics.series().items():
            for step, value in zip(metrics.steps.tolist(), values.tolist(), strict=True):
                if np.isfinite(value):
                    writer.add_scalar(name.replace("return of ", "return/"), value, step)

    def finish(self, stage: str, seconds: float, text: str) -> None:
        """What there is can be read."""
        for writer in self.writers.values():
            writer.flush()

    def close(self) -> None:
        """Close all files."""
        for writer in self.writers.values():
            writer.close()
        self.writers.clear()

    def _writer(self, policy: str) -> SummaryWriter:
        if policy not in self.writers:
            place = self.folder / file_name(self.stage) / file_name(policy)
            self.writers[policy] = SummaryWriter(str(place))
        return self.writers[policy]


def file_name(text: str) -> str:
    """A text as the name of a folder."""
    return re.sub(r"[^\w.,+=-]+", "_", text)[:100]
