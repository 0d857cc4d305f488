"""A run of Weights & Biases; offline where ``WANDB_MODE=offline`` says so (``wandb sync`` sends it later)."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from pgx_jax.errors import ConfigError
from pgx_jax.learn import Metrics
from pgx_jax.runs import serial
from pgx_jax.runs.watching.listener import Listener

PROJECT = "pgx-jax"
"""Unless WANDB_PROJECT names another."""


class WeightsAndBiases(Listener):
    """Logs to one run of W&B, whose files are in RUN/wandb: what every policy measures, by its name, along
    its own environment steps. A run that is resumed goes on there."""

    def __init__(self, folder: Path):
        """Log the run of a folder; nothing is opened yet."""
        self.folder, self.stage, self.known = folder, "", set[str]()
        self.opened: Any = None

    def start(self, stage: str) -> None:
        """Open the run with its first stage."""
        self.stage = stage
        self._run()

    def metrics(self, metrics: Metrics) -> None:
        """Log all updates, each with its policy's steps."""
        run, prefix = self._run(), f"{self.stage}/{metrics.name}".replace(".", "_")  # dots are paths there
        if prefix not in self.known:
            self.known.add(prefix)
            run.define_metric(f"{prefix}/steps", hidden=True)
            run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/steps")
        series = metrics.series()
        for i, step in enumerate(metrics.steps.tolist()):
            values = {name: float(own[i]) for name, own in series.items() if np.isfinite(own[i])}
            run.log({f"{prefix}/{name}": value for name, value in ({"steps": step} | values).items()})

    def finish(self, stage: str, seconds: float, text: str) -> None:
        """Keep what the stage came to in the run's summary."""
        self._run().summary.update({f"result of {stage}": text, f"seconds of {stage}": seconds})

    def close(self) -> None:
        """The run has ended, or was stopped."""
        if self.opened is not None:
            self.opened.finish()
            self.opened = None

    def _run(self) -> Any:
        """The run of W&B, opened when it is first needed.

        Raises:
            ConfigError: nobody is logged in, or it cannot be reached.
        """
        if self.opened is None:
            import wandb  # of the extra "wandb"

            config = json.loads((self.folder / "config.json").read_text("utf-8"))
            try:
                self.opened = wandb.init(
                    dir=self.folder, name=self.folder.resolve().name, id=self._id(), resume="allow",
                    reinit="create_new",  # others may be open: of other seeds, or of the caller's own
                    project=wandb.Settings().project or PROJECT, config=config,
                    settings=wandb.Settings(console="off", silent=True, save_code=False),
                )  # fmt: skip
            except (wandb.errors.UsageError, wandb.errors.CommError) as error:
                raise ConfigError(
                    f"log = wandb: {error}; log in by `wandb login`, or set WANDB_MODE=offline"
                ) from error
        return self.opened

    def _id(self) -> str:
        """By which W&B knows the run, the same in all its sittings."""
        file = self.folder / "wandb" / "pgx-jax-id"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            serial.write_atomically(file, uuid.uuid4().hex[:8].encode())
        return file.read_text()
