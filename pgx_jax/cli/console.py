"""What commands print in a terminal beside the progress of a run: results, and how to go on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pgx_jax import report
from pgx_jax.compare.results import Results
from pgx_jax.compare.seeds import SeedsResult
from pgx_jax.errors import BusyError, DataError, FolderError, FullError, SolverError
from pgx_jax.report import seeds, wording
from pgx_jax.runs.planning import Plan
from pgx_jax.runs.seeds import holds_seeds
from pgx_jax.runs.store import RunStore
from pgx_jax.runs.watching.console import doing


@contextmanager
def resumable(folder: Path, new: bool = False) -> Iterator[None]:
    """Let an interrupt or an error say by which command the run in ``folder`` goes on; ``new`` for a run
    that is to be made there."""
    try:
        yield
    except KeyboardInterrupt:
        whole = f"whole stages are saved, continue with {resuming(folder)}"
        raise KeyboardInterrupt(whole if holds_run(folder) else "nothing is saved yet") from None
    except BusyError:  # no other command could go on either
        raise
    except FullError as error:
        raise FullError(f"{error}: {resuming(folder)}") from error
    except FolderError as error:
        ways = ["--out FOLDER"] if new else []
        if holds_run(folder):
            ways += [resuming(folder), *(["--overwrite"] if new else [])]
        if not ways:
            raise
        raise type(error)(f"{error} ({', '.join(ways)})") from error
    except (DataError, SolverError) as error:
        if not holds_run(folder) or _is_lost(folder):
            raise
        raise type(error)(f"{error} (whole stages are saved: {resuming(folder)} goes on)") from error


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in a folder, or runs of several seeds."""
    return os.path.isfile(folder / "config.json") or holds_seeds(folder)


def _is_lost(folder: Path) -> bool:
    """Whether nothing can be resumed, since the settings of the run in a folder are damaged."""
    if holds_seeds(folder):
        return False
    try:
        RunStore(folder).config  # noqa: B018  (fails if it is damaged)
    except DataError:
        return True
    return False


def resuming(folder: Path) -> str:
    """The command that continues a run."""
    return f"`pgx-jax resume {shlex.quote(str(folder))}`"


def show_results(console: Console, results: Results, path: Path | None) -> None:
    """The advice, the table of methods, and where the report is."""
    console.print()
    console.print(results.advice, style="bold", highlight=False)
    console.print()
    console.print(report.terminal_table(results))
    if results.stability is not None:
        told = f"trajectories drawn again: {wording.certainty(results.stability)}"
        console.print(told, highlight=False, soft_wrap=True)
    if path is not None:
        console.print(f"report: {path}", highlight=False, soft_wrap=True)


def show_seeds(console: Console, found: SeedsResult, path: Path) -> None:
    """The same of several training seeds."""
    console.print()
    console.print(found.advice, style="bold", highlight=False)
    console.print()
    console.print(seeds.terminal_table(found))
    for seed, why in found.unfinished.items():
        console.print(f"seed {seed} is not among them: {why}", highlight=False, markup=False)
    console.print(f"report: {path / 'report.html'}", highlight=False, soft_wrap=True)


def show_plan(console: Console, found: Plan) -> None:
    """What a run would train, and what it would take."""
    table = Table("stage", title=f"{found.family}: {found.n_tasks} tasks, nothing is trained or saved")
    for column in ("policies", "environment steps", "about"):
        table.add_column(column, justify="right")
    for stage in found.stages:
        about = "–" if stage.seconds is None else wording.duration(stage.seconds)
        table.add_row(doing(stage.stage), str(stage.policies or "–"), f"{stage.steps:,}", about)
    console.print(table)
    for line in found.words():
        console.print(line, highlight=False, soft_wrap=True)
