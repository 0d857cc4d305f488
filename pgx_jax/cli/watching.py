"""Arguments of commands whose runs can be watched and logged."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from pgx_jax.runs.watching import LOGS
from pgx_jax.runs.watching.console import ConsoleListener, SeedsListener
from pgx_jax.runs.watching.curves import Curves
from pgx_jax.types import Named


@dataclass(frozen=True, kw_only=True)
class WatchArguments:
    """How a run is watched."""

    watch: bool = False
    """Show the curves of all policies in the terminal while they train."""
    log: tuple[Named[str, LOGS], ...] = ()
    """Write what every update measures (return by task, loss, divergence, entropy) into folders of the run:
    event files for TensorBoard, or a run of Weights & Biases (WANDB_MODE=offline keeps it here). Each needs
    the extra of its name."""

    def listener(self, console: Console) -> ConsoleListener:
        """What shows the progress of a run."""
        return ConsoleListener(console, curves=Curves() if self.watch else None)

    def seeds_listener(self, console: Console) -> SeedsListener:
        """What shows that of several seeds."""
        return SeedsListener(console, curves=Curves() if self.watch else None)
