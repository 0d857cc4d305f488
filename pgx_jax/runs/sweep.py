"""A sweep: families, settings and training seeds crossed, a run each, by workers of this machine or of a
cluster.

::

    runs/<name>/
      points/                         a family; "points-estimate.dim=100" where its settings vary
        seed-0/  seed-1/ ...          a run each, whole in itself (see `runs.store`)
        seeds.json  report.html ...   what its seeds come to (see `runs.seeds`)
      sweep.json                      what all come to (`compare.sweeps`)
      sweep.csv  report.html

The results of a run are the same whoever made it, at once or after stops, so what a sweep comes to is, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pgx_jax import report
from pgx_jax.compare import results
from pgx_jax.compare.results import Results
from pgx_jax.compare.sweeps import SCHEMA_VERSION, Part, SweepResult
from pgx_jax.config import Config
from pgx_jax.errors import ConfigError, DataError, FolderError, PgxError
from pgx_jax.runs import seeds, serial
from pgx_jax.runs.budgets import opened
from pgx_jax.runs.provenance import check_identity, identity
from pgx_jax.runs.run import Run
from pgx_jax.runs.saved import saved_settings
from pgx_jax.runs.store import RunStore
from pgx_jax.runs.workers import Processes, WorkerDied, Workers
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family

SUMMARY = "sweep.json"
AGAIN = 2
"""Times that a cell is run again whose worker died."""
REMEDY = "tell them apart by what is varied"
LONGEST = 100
"""Characters of a folder's name; what would be longer is cut, and ends in a hash."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    family: str
    """Name of a registered family."""
    config: Config
    """Its seed included."""
    family_settings: Mapping[str, Any] = field(default_factory=dict)
    varied: Mapping[str, Any] = field(default_factory=dict)
    """Settings by which it differs from other cells of the family, for its folder's name and the table."""

    @property
    def part(self) -> str:
        """Folder of the cells that differ from it by their seed alone."""
        name = "-".join((self.family, *(f"{key}={_plain(value)}" for key, value in self.varied.items())))
        if len(name) <= LONGEST:
            return name
        return f"{name[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    @property
    def folder(self) -> str:
        """Its own folder in that of the sweep."""
        return str(seeds.folder(Path(self.part), self.config.seed))

    def __str__(self) -> str:
        settings = (f"{key} = {value}" for key, value in self.varied.items())
        return ", ".join((self.family, *settings, f"seed {self.config.seed}"))


class Ended(NamedTuple):
    """What became of a cell."""

    cell: Cell
    results: Results | None
    error: str = ""
    """Why there are none."""
    trace: str = ""
    """Where an error was raised that is none of ours."""
    known: bool = False
    """Whether it was finished before."""


def by_part(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Cells that differ by their seed alone, by their folder, in order."""
    parts: dict[str, list[Cell]] = {}
    for cell in cells:
        parts.setdefault(cell.part, []).append(cell)
    return parts


def sweep(
    cells: Sequence[Cell],
    out: str | Path,
    workers: Workers | None = None,
    again: Callable[[Cell, str], None] | None = None,
) -> Generator[Ended, None, None]:
    """Run all cells that are not finished; those that have begun go on from their last whole stage.

    An error ends its own cell alone. One whose worker died is run again, `AGAIN` times at most.

    Args:
        cells: each one run.
        out: folder of the run folders, which all workers see.
        workers: who runs them; processes of this machine by default.
        again: is told of a cell that is run again, and why.

    Yields:
        What becomes of every cell, as soon as it has ended; first of those that are finished already.

    Raises:
        ConfigError: cells that cannot work, a folder with runs of other settings, or one that workers do not
            see, before any long work.
    """
    out, workers, again = Path(out).resolve(), workers or Processes(), again or (lambda cell, why: None)
    known = check(cells, out)
    for cell in cells:
        if (found := known.get(cell.folder)) is not None:
            yield Ended(cell, found, known=True)
    queue = deque(cell for cell in cells if cell.folder not in known)
    if not queue:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"the folder {out} can't be written to ({error.strerror})") from error
    deaths: Counter[str] = Counter()
    with workers:
        workers.check(out)
        with closing(workers.work(partial(_attempt, out), queue)) as ends:
            for cell, end in ends:
                if not isinstance(end, WorkerDied):
                    yield _read(cell, out, end)
                    continue
                deaths[cell.folder] += 1
                if deaths[cell.folder] <= AGAIN:
                    queue.append(cell)
                    again(cell, end.why)
                else:
                    yield Ended(cell, None, f"its worker died, {AGAIN + 1} times")


def check(cells: Sequence[Cell], out: Path) -> dict[str, Results]:
    """Refuse what cannot work; returns the results of the cells that are finished, by their folders.

    Raises:
        ConfigError: no cells, two of one folder, settings that cannot work, or a folder with a run of others.
    """
    if not cells:
        raise ConfigError("a sweep needs at least one family, one seed and one value of what is varied")
    twice = [name for name, count in Counter(cell.folder for cell in cells).items() if count > 1]
    if twice:
        raise ConfigError(f"two cells would share the folder {twice[0]}; {REMEDY}")
    if out.exists() and not out.is_dir():
        raise FolderError(f"the folder {out} is a file; choose another")
    made: dict[str, tuple[TaskFamily, dict[str, Any]]] = {}
    known = {}
    for part, (first, *others) in by_part(cells).items():
        if any(_but_seed(cell) != _but_seed(first) for cell in others):
            raise ConfigError(f"cells of different settings would share the folder {part}; {REMEDY}")
        name = serial.dumps([first.family, first.family_settings])
        if name not in made:
            family = make_family(first.family, **first.family_settings)
            made[name] = family, identity(family)
        family, own = made[name]
        Run(family, first.config)
        for cell in (first, *others):
            found = _finished(cell, family, own, out / cell.folder)
            if found is not None:
                known[cell.folder] = found
    return known


def _but_seed(cell: Cell) -> Cell:
    return dataclasses.replace(cell, config=dataclasses.replace(cell.config, seed=0))


def _finished(cell: Cell, family: TaskFamily, own: Mapping[str, Any], folder: Path) -> Results | None:
    """The results of a cell if it is finished.

    Raises:
        ConfigError: the folder holds another run.
    """
    if not (folder / "config.json").is_file():
        return None
    store = RunStore.open(folder)
    saved, settled = saved_settings(store)
    check_identity(saved.get("identity", {}), own, folder)
    settings = settled, saved["family"], saved["family_settings"]
    if settings != (cell.config, family.name, serial.jsonable(family.settings)):
        raise ConfigError(f"{folder} holds a run with other settings; choose another folder with --out")
    if not (store.has_file("results.json") and store.has_file("report.html")):
        return None
    try:
        return results.from_plain(store.read_json("results.json"))
    except DataError:  # of another version: made anew
        return None


# What workers do


class Attempt(NamedTuple):
    """What a worker says of a cell: its results, in JSON, or its error."""

    results: bytes = b""
    error: str = ""
    trace: str = ""


def _attempt(out: Path, cell: Cell) -> Attempt:
    """Run a cell, or what is missing of it."""
    try:
        family, folder = make_family(cell.family, **cell.family_settings), out / cell.folder
        run = opened(family, cell.config, folder)
        run.finish()
        return Attempt(msgspec.json.encode(run.results))
    except PgxError as error:
        return Attempt(error=f"{type(error).__name__}: {error}")
    except Exception as error:
        return Attempt(error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())


def _read(cell: Cell, out: Path, end: Attempt) -> Ended:
    """What became of a cell that a worker has ended."""
    if end.error:
        return Ended(cell, None, end.error, end.trace)
    if not (out / cell.folder / "config.json").is_file():
        return Ended(cell, None, f"it was finished, but {out} lacks it: the machines don't share the folder")
    return Ended(cell, msgspec.json.decode(end.results, type=Results))


# What it comes to


def summary(ended: Sequence[Ended], cells: Sequence[Cell]) -> SweepResult:
    """Put the results of cells together, in the order of ``cells``."""
    by_folder = {one.cell.folder: one for one in ended}
    parts: list[Part] = []
    failed: dict[str, str] = {}
    timings: dict[str, float | None] = {}
    for name, some in by_part(cells).items():
        ends = [by_folder[cell.folder] for cell in some if cell.folder in by_folder]
        done = [one.results for one in ends if one.results is not None]
        unfinished = {one.cell.config.seed: one.error for one in ends if one.results is None}
        if done:
            settings = serial.jsonable(ends[0].cell.varied)
            parts.append(Part(folder=name, settings=settings, seeds=seeds.summary(done, unfinished)))
        failed |= {one.cell.folder: one.error for one in ends if one.results is None}
        timings |= {one.cell.folder: one.results.timings.total for one in ends if one.results is not None}
    return SweepResult(parts=parts, failed=failed, timings=timings, schema_version=SCHEMA_VERSION)


def write(out: Path, found: SweepResult) -> Path:
    """Write what a sweep comes to, its report and those of its parts; returns the path of its page."""
    for part in found.parts:
        seeds.write(out / part.folder, part.seeds)
    links = {part.folder: f"{part.folder}/report.html" for part in found.parts}
    out.mkdir(parents=True, exist_ok=True)
    serial.write_atomically(out / SUMMARY, f"{serial.dumps(results.to_plain(found))}\n".encode())
    for name, content in report.render_sweep(found, links).items():
        serial.write_atomically(out / name, content)
    return out / "report.html"


def _plain(value: Any) -> str:
    """A value as part of a folder's name."""
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return re.sub(r"[^\w.,+-]+", "_", text)
