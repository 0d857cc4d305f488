"""``pgx-jax show``: pictures of a roll-out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pgx_jax import show
from pgx_jax.cli.arguments import FamilyArguments
from pgx_jax.errors import ConfigError


@dataclass(frozen=True)
class ShowCommand(FamilyArguments):
    """Draw a short roll-out of one task as a moving GIF or MP4, or as a PNG of its first episode."""

    task: str | None = None
    """Name or number of the task; the first one by default."""
    run: Path | None = None
    """Act by the policy that a saved run of the family trained for the task (as it is before it adapts, if
    its learner does so), instead of at random."""
    out: Path | None = None
    """File to write, *.gif, *.mp4 (extra "video") or *.png; FAMILY-TASK.gif by default."""
    steps: int = 100
    """Environment steps to take; episodes that end sooner start again."""
    seed: int = 0
    """Seed of the roll-out."""

    def __call__(self, console: Console) -> None:
        """Draw it."""
        show.check_ending(self.out)
        given = self.family_settings()
        if self.run is None:
            family, player = self.make_family(), None
        else:
            if given:
                raise ConfigError("--run brings the family's settings; leave out " + ", ".join(given))
            from pgx_jax.runs.saved import load_trained  # which imports all that makes a run

            run = load_trained(self.run, of=self.family)
            family, player = run.family, run.player
        task = show.task_number(family, self.task)
        picture = show.roll_out(family, task, steps=self.steps, seed=self.seed, player=player)
        path = show.write(picture, self.out)
        console.print(f"{picture.title}: {len(picture.frames)} steps drawn", highlight=False, markup=False)
        console.print(f"saved: {path}", highlight=False, soft_wrap=True)
