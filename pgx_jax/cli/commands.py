"""The commands on families: dataclasses of their arguments, called with the console to run."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgx_jax.config import Config
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import TaskFamily

WIDE = 120
"""Columns of a terminal from which on the list of families says what each one is."""

_Flat = tyro.conf.arg(name="")
_Settings = tyro.conf.arg(
    name="set",
    metavar="KEY=VALUE [KEY=VALUE ...]",
    help="Settings of the family; `pgx-jax families FAMILY` lists them.",
)


@dataclass(frozen=True)
class FamilyArguments:
    """Which family, with which settings."""

    family: tyro.conf.Positional[str]
    """Name of a task family; `pgx-jax families` lists them."""
    family_seed: int | None = None
    """Seed of the family: which task is in which group, and its variation (the family's own default)."""
    n_tasks: int | None = None
    """Number of tasks of the family."""
    settings: Annotated[tuple[tuple[str, ...], ...], _Settings, tyro.conf.UseAppendAction] = ()
    """What follows each --set."""

    def family_settings(self) -> dict:
        """The settings given for the family.

        Raises:
            ConfigError: two of them contradict.
        """
        settings = parse_settings(chain(*self.settings))
        for name, flag, value in (
            ("seed", "--family-seed", self.family_seed),
            ("n_tasks", "--n-tasks", self.n_tasks),
        ):
            if value is not None and settings.setdefault(name, value) != value:
                raise ConfigError(
                    f"{flag} {value} contradicts --set {name}={settings[name]}; give one of them"
                )
        return settings

    def make_family(self) -> TaskFamily:
        """Build the family.

        Raises:
            ConfigError: an unknown family, a setting that cannot work, or two that contradict.
        """
        from pgx_jax.tasks.registry import make_family

        return make_family(self.family, **self.family_settings())


@dataclass(frozen=True)
class RunCommand(FamilyArguments):
    """Group the tasks of a family, train one policy a group, and compare at equal steps."""

    out: Path | None = None
    """Run folder; runs/FAMILY-DATE-TIME by default."""
    overwrite: bool = False
    """Replace an earlier run in the folder."""
    config: Annotated[Config, _Flat] = field(default_factory=Config)

    def __call__(self, console: Console) -> None:
        """Run it."""
        from pgx_jax.cli.console import ConsoleListener, resumable, show_results
        from pgx_jax.runs.run import run

        family = self.make_family()
        out = self.out or Path("runs") / f"{self.family}-{time.strftime('%Y%m%d-%H%M%S')}"
        console.print(f"{family.n} tasks of {self.family}; saving to {out}", highlight=False)
        with resumable(out), ConsoleListener(console) as listener:
            done = run(family, self.config, out=out, listener=listener, overwrite=self.overwrite)
        show_results(console, done.results, out / "report.html")


@dataclass(frozen=True)
class FamiliesCommand:
    """List the task families, or what one is and its settings."""

    family: tyro.conf.Positional[str | None] = None
    """A family to describe."""

    def __call__(self, console: Console) -> None:
        """Print them."""
        from pgx_jax.tasks.registry import facts, families

        if self.family:
            self._describe(console, self.family)
            return
        wide = console.width >= WIDE
        found = [facts(name) for name in families()]
        table = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("family", no_wrap=True, min_width=max((len(f.name) for f in found), default=0))
        for short in ("engine", "n", "observed", "action"):
            table.add_column(short, no_wrap=True)
        for long in ("conflict", "what") if wide else ("conflict",):
            table.add_column(long)
        for f in found:
            cells = (f.name, f.engine, f.n, f.observation, f.action, f.conflict, f.summary)
            table.add_row(*map(escape, cells[: len(table.columns)]))
        console.print(table)
        for f in found:
            if f.problem:
                console.print(f"{f.name}: {f.problem}", markup=False, highlight=False)
        what = "a family's settings" if wide else "what a family is, and its settings"
        console.print(f"`pgx-jax families FAMILY` tells {what}.", highlight=False)

    def _describe(self, console: Console, name: str) -> None:
        from pgx_jax.tasks.registry import describe_family, facts

        info, f = describe_family(name), facts(name)
        defaults = ", ".join(f"{key} = {value!r}" for key, value in f.defaults.items())
        console.print(info.summary, markup=False, highlight=False)
        if f.problem:
            console.print(f"cannot be built as it stands: {f.problem}", markup=False, highlight=False)
        table = Table(show_header=False)
        for fact, words in (
            ("engine", f.engine),
            ("tasks", f.n),
            ("observation", f.observation),
            ("action", f.action),
            ("conflict", f.conflict),
            ("drawn by `pgx-jax show`", "yes" if f.drawn else "no"),
            ("its defaults of a run", defaults or "the general ones"),
            ("registered by", f.origin),
        ):
            table.add_row(fact, escape(words))
        if not f.problem:
            console.print(table)
        table = Table("setting", "type", "default", "meaning")
        for s in info.settings:
            table.add_row(s.name, *map(escape, (s.annotation, repr(s.default), s.help)))
        console.print(table)


@dataclass(frozen=True)
class ShowCommand(FamilyArguments):
    """Draw a short roll-out of one task as a moving GIF, or as a PNG of its first episode."""

    task: str | None = None
    """Name or number of the task; the first one by default."""
    run: Path | None = None
    """Act by the policy that a saved run of the family trained for the task, instead of at random."""
    out: Path | None = None
    """File to write, *.gif or *.png; FAMILY-TASK.gif by default."""
    steps: int = 100
    """Environment steps to take; episodes that end sooner start again."""
    seed: int = 0
    """Seed of the roll-out."""

    def __call__(self, console: Console) -> None:
        """Draw it."""
        from pgx_jax import show

        show.check_ending(self.out)
        given = self.family_settings()
        if self.run is None:
            family, agent = self.make_family(), None
        else:
            if given:
                raise ConfigError("--run brings the family's settings; leave out " + ", ".join(given))
            family, agent = show.trained(self.run, self.family)
        task = show.task_number(family, self.task)
        picture = show.roll_out(family, task, steps=self.steps, seed=self.seed, agent=agent)
        path = show.write(picture, self.out)
        console.print(f"{picture.title}: {len(picture.frames)} steps drawn", highlight=False, markup=False)
        console.print(f"saved: {path}", highlight=False, soft_wrap=True)


def parse_settings(pairs: Iterable[str]) -> dict:
    """("horizon=300", ...) -> {"horizon": 300, ...}; values are Python literals, or else text.

    Raises:
        ConfigError: a pair without "=".
    """
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair!r} is not of the form KEY=VALUE")
        try:
            settings[key.replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key.replace("-", "_")] = value
    return settings
