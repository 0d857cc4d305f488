"""``pgx-jax run``: the main job."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Self

import tyro
from rich.console import Console

from pgx_jax.cli.arguments import FamilyArguments
from pgx_jax.cli.console import resumable, show_plan, show_results, show_seeds
from pgx_jax.cli.devices import DeviceArguments
from pgx_jax.cli.parsing import parsed
from pgx_jax.cli.watching import WatchArguments
from pgx_jax.config import PRESETS, Config, config_for
from pgx_jax.runs.planning import plan
from pgx_jax.runs.run import run
from pgx_jax.runs.seeds import run_seeds
from pgx_jax.runs.watching.console import ConsoleListener
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import families, make_family
from pgx_jax.types import Named

_Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class FamilyRun(DeviceArguments, FamilyArguments):
    """A command that runs the method on a family."""

    preset: Named[str, PRESETS] | None = None
    """Settings by name instead of the family's: "quick" has a third of the steps, and less of all else;
    "thorough" trains the same, judged with narrower intervals and beside more baselines. Settings that are
    given go before."""
    config: Annotated[Config, _Flat] = field(default_factory=Config)

    prog: ClassVar[str]
    """How the command is called."""

    @classmethod
    def read(cls, args: list[str]) -> Self:
        """The command that the arguments make; settings that they leave out are those of its family.

        Raises:
            ConfigError: an unknown family, or settings that cannot work.
            SystemExit: help was asked for, or the arguments are not those of the command.
        """
        if {"-h", "--help"} & set(args) and (default := cls.default_for_help(args)):
            return cls.read_with(args, default)
        command = parsed(lambda: tyro.cli(cls, prog=cls.prog, args=args))
        command.settle()
        own = config_for(command.make_family(), command.preset)
        return command if own == Config() else cls.read_with(args, cls(command.family, config=own))

    @classmethod
    def read_with(cls, args: list[str], default: Self) -> Self:
        """The command, with what the arguments leave out taken from ``default``."""
        words = f"{inspect.getdoc(cls)}\n\nThe defaults are those for {default.family}."
        return parsed(lambda: tyro.cli(cls, prog=cls.prog, args=args, default=default, description=words))

    @classmethod
    def default_for_help(cls, args: list[str]) -> Self | None:
        """The defaults for the first family that the arguments name; None without one that can be built."""
        known = families()
        for name in args:
            if name in known:
                try:
                    return cls(name, config=config_for(make_family(name)))
                except Exception:  # whatever is wrong with the family, there is help
                    return None
        return None


@dataclass(frozen=True)
class RunCommand(WatchArguments, FamilyRun):
    """Group the tasks of a family, train one policy a group, and compare at equal steps."""

    seeds: int = 1
    """Training seeds, from --seed on, that are run side by side: with several there are intervals over
    seeds (that of one run leaves out what another seed would change), and a run folder for each."""
    out: Path | None = None
    """Run folder; runs/FAMILY-DATE-TIME by default."""
    overwrite: bool = False
    """Replace an earlier run (or earlier runs of several seeds) in the folder."""
    dry_run: bool = False
    """Say what would be trained, how long it would take, by timing an update of every program, and with how
    much memory; train and save nothing."""

    prog = "pgx-jax run"

    def __call__(self, console: Console) -> None:
        """Run it."""
        console, family = self.told(console), self.make_family()
        stepping = self.stepping(family)
        if self.dry_run:
            with stepping:
                self._plan(console, family)
            return
        out = self.out or Path("runs") / f"{self.family}-{time.strftime('%Y%m%d-%H%M%S')}"
        console.print(f"{family.n} tasks of {self.family}; saving to {out}", highlight=False)
        with stepping:
            if self.seeds != 1:
                self._several(console, family, out)
                return
            with resumable(out, new=True), self.listener(console) as listener:
                done = run(
                    family, self.config, out=out, listener=listener, log=self.log, overwrite=self.overwrite
                )
        show_results(console, done.results, out / "report.html")

    def _plan(self, console: Console, family: TaskFamily) -> None:
        """Say what would be done."""
        with ConsoleListener(console) as listener:
            listener.start("timing")
            found = plan(family, self.config, seeds=self.seeds, doing=listener.doing)
        show_plan(console, found)

    def _several(self, console: Console, family: TaskFamily, out: Path) -> None:
        """Run several seeds."""
        known = (family, self.config, self.seeds)
        with resumable(out, new=True):
            with self.seeds_listener(console) as listener:
                done = run_seeds(
                    *known, out=out, listener=listener.of, log=self.log, overwrite=self.overwrite
                )
            show_seeds(console, done.results, out)
            done.check()
