"""``pgx-jax sweep``: families, settings and seeds crossed."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Self

import jax
import tyro
from rich.console import Console

from pgx_jax.cli.arguments import FamilySettings
from pgx_jax.cli.parsing import parsed
from pgx_jax.cli.study import continued
from pgx_jax.config import PRESETS, Config, changed, config_for
from pgx_jax.errors import ConfigError, SweepError
from pgx_jax.report import sweeps
from pgx_jax.runs.sweep import Cell, Ended, summary, sweep, write
from pgx_jax.runs.workers import OnRay, Processes, Workers
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import families, make_family
from pgx_jax.types import Named

_Flat = tyro.conf.arg(name="")
_Varied = tyro.conf.arg(metavar="KEY=VALUE,VALUE,... [KEY=VALUE,VALUE,... ...]")


@dataclass(frozen=True)
class SweepCommand(FamilySettings):
    """Run families, settings and seeds crossed, in processes or on a Ray cluster, to one table.

    Every run has a folder of its own, and what is done there is not done again: a sweep that was stopped
    goes on when it is called again. A run whose worker died is run again; an error ends its own run alone.
    Settings that are left out are those of each family. A setting of one family alone is
    --set FAMILY.KEY=VALUE.
    """

    families: tyro.conf.Positional[tuple[str, ...]]
    """Names of task families; `pgx-jax families` lists them."""
    seeds: str = ""
    """Training seeds: 0:10 are the ten from 0 to 9, 0,3,5 are these three; that of --seed by default."""
    vary: Annotated[tuple[tuple[str, ...], ...], _Varied, tyro.conf.UseAppendAction] = ()
    """Settings of the runs to be crossed, with their values: estimate.dim=100,400."""
    out: Path | None = None
    """Folder of the runs and the table; runs/sweep-FAMILY-... by default. With --ray, all machines must see
    it at the same place (a shared file system), which is checked before any work."""
    workers: int | None = None
    """Runs at a time, at most. Without --ray as many processes as there are cores by default, which share
    them, or a single one where there may be an accelerator; with --ray as many as there is room for."""
    ray: str | None = None
    """Run on a Ray cluster (extra `cluster`): its HOST:PORT, or "auto" for the one that this machine belongs
    to; "local" starts one here. pgx_jax must be installed on all of its machines."""
    cores: int = 1
    """Cores of a run, with --ray."""
    gpus: float = 0.0
    """GPUs of a run, with --ray; of 0.5, two runs share one."""
    preset: Named[str, PRESETS] | None = None
    """Settings by name instead of those of each family (as of `pgx-jax run`)."""
    config: Annotated[Config, _Flat] = field(default_factory=Config)

    @classmethod
    def read(cls, args: list[str]) -> Sweep:
        """The sweep that the arguments make; settings that they leave out are those of each family.

        Raises:
            ConfigError: an unknown family, or settings that cannot work.
            SystemExit: help was asked for, or the arguments are not those of the command.
        """
        jax.config.update("jax_platforms", "cpu")  # of this process: accelerators are its workers'
        if {"-h", "--help"} & set(args):
            return Sweep(cls.help(args), [])
        command = cls.read_with(args)
        names = dict.fromkeys(command.families)
        if not names:
            raise ConfigError("name a family, or several; `pgx-jax families` lists them")
        seeds, variants = command.training_seeds(), list(crossed(command.vary))
        cells = []
        for name in names:
            family_settings = command.settings_of(name)
            family = command.made(name, family_settings)
            known = config_for(family, command.preset)
            own = command.config if known == Config() else cls.read_with(args, known).config
            for varied in variants:
                config = own
                for key, value in varied.items():
                    config = changed(config, key, value)
                some = (dataclasses.replace(config, seed=seed) for seed in seeds or [own.seed])
                cells += [Cell(name, one, family_settings, varied) for one in some]
        return Sweep(command, cells)

    @classmethod
    def read_with(cls, args: list[str], config: Config | None = None, words: str | None = None) -> Self:
        """The command, with what the arguments leave out taken from ``config``."""
        default = cls((), config=config or Config())
        return parsed(
            lambda: tyro.cli(cls, prog="pgx-jax sweep", args=args, default=default, description=words)
        )

    @classmethod
    def help(cls, args: list[str]) -> Self:
        """Print help, with the defaults of the first family that is named, if it can be built."""
        known = families()
        first = next((name for name in args if name in known), None)
        try:
            config = config_for(make_family(first)) if first else None
        except Exception:  # whatever is wrong with the family, there is help
            config = None
        words = f"{inspect.getdoc(cls)}\n\nThe defaults are those for {first}." if config else None
        return cls.read_with(args, config, words)

    def training_seeds(self) -> list[int]:
        """The seeds that are given; none where that of the settings is meant.

        Raises:
            ConfigError: they are no list of seeds, or --seed is given as well.
        """
        if not self.seeds:
            return []
        if self.config.seed != Config.seed:
            raise ConfigError(f"--seeds {self.seeds} contradicts --seed {self.config.seed}; give one of them")
        return parse_seeds(self.seeds)

    def settings_of(self, name: str) -> dict[str, Any]:
        """The settings that are given for a family, those for it alone over those for all.

        Raises:
            ConfigError: settings for a family that is not among those named, or two that contradict.
        """
        general, own = [], []
        for pair in chain(*self.settings):
            family, dot, rest = pair.partition("=")[0].rpartition(".")
            if dot and family not in self.families:
                raise ConfigError(f"--set {pair} is for {family!r}, which is not among the families")
            if not dot:
                general.append(pair)
            elif family == name:
                own.append(pair.removeprefix(f"{family}."))
        return dataclasses.replace(self, settings=((*general, *own),)).family_settings()

    def made(self, name: str, settings: Mapping[str, Any]) -> TaskFamily:
        """A family with its settings.

        Raises:
            ConfigError: it is unknown, or a setting is not one of its own or cannot work.
        """
        try:
            return make_family(name, **settings)
        except ConfigError as error:
            if not settings or len(set(self.families)) == 1:
                raise
            raise type(error)(f"{error} (--set FAMILY.KEY=VALUE is for one family alone)") from error

    def who(self) -> Workers:
        """Who works.

        Raises:
            ConfigError: what is for Ray alone is given without it.
        """
        if self.ray is not None:
            return OnRay(self.ray, self.workers, self.cores, self.gpus)
        if self.cores != 1 or self.gpus:
            raise ConfigError("--cores and --gpus are for --ray; without it --workers share all cores")
        return Processes(self.workers)


@dataclass(frozen=True)
class Sweep:
    """A sweep whose cells are known."""

    command: SweepCommand
    cells: Sequence[Cell]

    def __call__(self, console: Console) -> None:
        """Run it."""
        cells, workers = self.cells, self.command.who()
        named = dict.fromkeys(cell.family for cell in cells)
        out = self.command.out or Path("runs") / "-".join(("sweep", *named))
        console.print(f"{', '.join(named)}, runs: {len(cells)}; saving to {out}", highlight=False)

        def say(told: str, style: str = "") -> None:
            console.print(told, style=style, highlight=False, markup=False, soft_wrap=True)

        def again(cell: Cell, why: str) -> None:
            say(f"{cell}: {why}; it goes on with another worker")

        ended: list[Ended] = []
        with continued(), closing(sweep(cells, out, workers, again)) as ends:
            for one in ends:
                ended.append(one)
                say(progress(ended, len(cells)), "bold")
                if one.trace:
                    say(one.trace)
        found = summary(ended, cells)
        path = write(out, found)
        if found.parts:
            say(f"\n{sweeps.advice(found)}\n", "bold")
            console.print(sweeps.terminal_table(found))
        say(f"report: {path}")
        if found.failed:
            told = "; ".join(f"{folder}: {why}" for folder, why in found.failed.items())
            raise SweepError(f"{len(found.failed)} of {len(cells)} runs came to no results: {told}")


def progress(ended: Sequence[Ended], count: int) -> str:
    """A line about the cell that has ended last."""
    one, failed = ended[-1], sum(end.results is None for end in ended)
    what = f"failed: {one.error}" if one.results is None else f"k = {one.results.k}"
    earlier = ", saved earlier" if one.known else ""
    counts = (f"{failed} failed" if failed else "", f"{count - len(ended)} left")
    return f"{len(ended)} of {count} ({', '.join(filter(None, counts))}): {one.cell}: {what}{earlier}"


def crossed(vary: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
    """All combinations of the values of several settings, from texts KEY=VALUE,VALUE,...

    Raises:
        ConfigError: a text of another form, a setting twice, or the seed.
    """
    values: dict[str, list[Any]] = {}
    for pair in chain(*vary):
        key, equals, text = pair.partition("=")
        key = key.replace("-", "_")
        if not (key and equals and text):
            raise ConfigError(f"--vary {pair!r} is not of the form KEY=VALUE,VALUE,...")
        if key in values:
            raise ConfigError(f"--vary {key} is given twice; write its values one after the other")
        if key == "seed":
            raise ConfigError("--vary seed: give the training seeds with --seeds")
        values[key] = _values(text)
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def _values(text: str) -> list[Any]:
    """ "100,400" -> [100, 400]; Python literals, or else text."""
    try:
        return list(ast.literal_eval(f"[{text}]"))
    except (ValueError, SyntaxError):
        return [each for each in text.split(",") if each]


def parse_seeds(text: str) -> list[int]:
    """ "0:3,7" -> [0, 1, 2, 7].

    Raises:
        ConfigError: it is neither a range nor a list, it is a single number, or there is no seed in it.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, colon, end = part.partition(":")
        try:
            seeds += range(int(first), int(end)) if colon else [int(first)]
        except ValueError:
            raise ConfigError(f"--seeds {text} is neither a range (0:10) nor a list (0,3,5)") from None
    if text.strip("-").isdigit():
        raise ConfigError(
            f"--seeds {text}: write 0:{text} for so many, or {text}:{int(text) + 1} for this one"
        )
    if not seeds:
        raise ConfigError(f"--seeds {text} are none; 0:10 are the ten from 0 to 9")
    return list(dict.fromkeys(seeds))
