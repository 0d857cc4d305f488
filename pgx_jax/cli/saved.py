"""The commands on saved runs: dataclasses of their arguments, called with the console to run."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from msgspec import structs
from rich.console import Console
from rich.table import Table

from pgx_jax import report
from pgx_jax.cli.console import resumable, resuming, show_results, show_seeds
from pgx_jax.cli.devices import DeviceArguments
from pgx_jax.cli.watching import WatchArguments
from pgx_jax.compare.results import from_plain, to_plain
from pgx_jax.config import Config
from pgx_jax.errors import ConfigError, FolderError
from pgx_jax.estimate import AFFINITIES, SCORES, SOLVERS
from pgx_jax.runs.run import write_report
from pgx_jax.runs.saved import Regrouped, load, regroup, resume
from pgx_jax.runs.seeds import holds_seeds, report_seeds, resume_seeds
from pgx_jax.runs.serial import dumps, write_atomically
from pgx_jax.runs.store import RunStore
from pgx_jax.types import Named

HELD_OUT = tuple(name for name, score in SCORES.items() if not score.rolls_out)
"""Scores that take no environment steps."""


@dataclass(frozen=True)
class ResumeCommand(WatchArguments, DeviceArguments):
    """Finish a run from its last whole stage."""

    run: tyro.conf.Positional[Path]
    """The run folder, or that of several seeds."""

    def __call__(self, console: Console) -> None:
        """Resume it."""
        self.settle()
        console = self.told(console)
        with self.stepping():
            if holds_seeds(self.run):
                self._several(console)
                return
            with resumable(self.run), self.listener(console) as listener:
                done = resume(self.run, listener=listener, log=self.log)
        show_results(console, done.results, self.run / "report.html")

    def _several(self, console: Console) -> None:
        """Resume the runs of several seeds."""
        with resumable(self.run):
            with self.seeds_listener(console) as listener:
                done = resume_seeds(self.run, listener=listener.of, log=self.log)
            show_seeds(console, done.results, self.run)
            done.check()


@dataclass(frozen=True)
class RegroupCommand:
    """Group a saved run anew (another k, penalty, score or affinity), without training."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    k: int | None = None
    """Number of groups; chosen by held-out data if not given."""
    trace_penalty: float | None = None
    """Price of a group in the relaxation, instead of k."""
    score: Named[str, HELD_OUT] | None = None
    """How subsets are scored."""
    affinity: Named[str, AFFINITIES] | None = None
    """How scores are averaged over pairs, or the closed form, which reads none."""
    solver: Named[str, SOLVERS] | None = None
    """Solver of the surrogates."""
    l2: float | None = None
    """Ridge of the surrogates, in multiples of its unit."""
    out: Path | None = None
    """JSON file to write; in the run folder by default, named after what is changed (regroup-k=4.json)."""

    def __call__(self, console: Console) -> None:
        """Regroup it."""
        run = load(self.run)
        path = self.out or self.run / self.file_name()
        check_writable(path)
        try:
            found = regroup(run, self.settings(run.config))
        except FolderError as error:
            raise FolderError(f"{error} ({resuming(self.run)})") from error
        show_regrouped(console, found, path)

    def changed(self) -> dict[str, Any]:
        """The options that are given, by their names."""
        names = ("k", "trace_penalty", "score", "affinity", "solver", "l2")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def file_name(self) -> str:
        """The name of the result: regroup.json, or regroup-k=4-score=importance.json and the like."""
        options = (f"{name.replace('_', '-')}={value}" for name, value in self.changed().items())
        return "-".join(("regroup", *options)) + ".json"

    def settings(self, config: Config) -> Config:
        """The settings of the run, with the options that are given in their place."""
        own = {name: value for name, value in self.changed().items() if name not in ("k", "trace_penalty")}
        return dataclasses.replace(
            config,
            k=self.k,
            estimate=dataclasses.replace(config.estimate, **own),
            grouping=dataclasses.replace(config.grouping, trace_penalty=self.trace_penalty),
        )


@dataclass(frozen=True)
class ReportCommand:
    """Write results.json and report.html of a finished run again."""

    run: tyro.conf.Positional[Path]
    """The run folder, or that of several seeds."""

    def __call__(self, console: Console) -> None:
        """Write them."""
        if holds_seeds(self.run):
            show_seeds(console, report_seeds(self.run), self.run)
            return
        store = RunStore.open(self.run)
        with store.claimed():
            results = from_plain(store.read_json("results.json"))
            results = structs.replace(results, advice=report.advice(results))
            store.write_json("results.json", to_plain(results))
            path = write_report(store, results)
        show_results(console, results, path)


def show_regrouped(console: Console, found: Regrouped, path: Path) -> None:
    """Show groups, and write their record."""
    table = Table("group", "tasks", title=f"k = {found.k}")
    for i, names in enumerate(found.groups):
        table.add_row(str(i), ", ".join(names))
    console.print(table)
    gain = found.gain.predicted
    if gain is not None and gain.ci95 is not None:
        low, high = gain.ci95
        words = f"predicted gain over one policy: {gain.mean:+.4f} [{low:.4f}, {high:.4f}]"
        console.print(f"{words} in standardised advantage a step", highlight=False, markup=False)
    write_atomically(path, dumps(to_plain(found)).encode())
    console.print(f"saved: {path}", highlight=False, markup=False, soft_wrap=True)


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written.

    Raises:
        ConfigError: it is a folder, or its folder is missing or closed to writing.
    """
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder; name a file with --out")
    if not os.path.isdir(path.parent):
        reason = f"there is no folder {path.parent}"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        reason = f"the folder {path.parent} is closed to writing"
    else:
        return
    raise ConfigError(f"{path} can't be written: {reason}; choose another file with --out")
