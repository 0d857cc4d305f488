"""The same family with several training seeds, side by side: a run each, and what they come to together.

::

    runs/<name>/
      seed-0/  seed-1/ ...            a run each, whole in itself (see `runs.store`)
      seeds.json                      what they come to (`compare.seeds`)
      report.html  figures/*.png
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pgx_jax import learn, report
from pgx_jax.compare import results
from pgx_jax.compare.results import Results
from pgx_jax.compare.seeds import SeedsResult, over_seeds
from pgx_jax.config import Config, config_for
from pgx_jax.errors import ConfigError, FolderError, FullError, PgxError, checked
from pgx_jax.mesh import in_first
from pgx_jax.report.seeds import advice
from pgx_jax.runs.run import Run, begin, write_files
from pgx_jax.runs.saved import load
from pgx_jax.runs.store import RunStore, is_taken, unwritable
from pgx_jax.runs.watching import check_logs, hearing_seeds
from pgx_jax.runs.watching.listener import Listener, Listeners
from pgx_jax.steady import one_blas_thread
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family

SUMMARY = "seeds.json"
_FOLDER = re.compile(r"seed-(-?\d+)")


class SeedRuns(NamedTuple):
    """Runs that differ by their training seed alone."""

    runs: list[Run]
    """Those that are finished."""
    results: SeedsResult
    """What they come to."""
    errors: dict[int, Exception]
    """What ended the runs of other seeds."""

    def check(self) -> None:
        """Raise the error of a seed that has come to no results, if there is one."""
        if self.errors:
            raise told(self.errors)


@checked
def run_seeds(
    family: TaskFamily | str,
    config: Config | None = None,
    seeds: int = 5,
    *,
    out: str | Path | None = None,
    listener: Listeners | None = None,
    log: Sequence[str] = (),
    progress: bool = True,
    overwrite: bool = False,
    **own: Any,
) -> SeedRuns:
    """Run the whole method with several training seeds, side by side, and put their results together.

    The runs take turns; whatever all of them train at the same time is trained in one go. Each is what it
    would be alone (`run`). An error ends the run of its seed alone.

    Args:
        family: a task family, or the name of a registered one.
        config: settings; those of `config_for(family)` by default. Its seed is the first one.
        seeds: number of training seeds.
        out: folder to be made: in it a run folder a seed (``seed-0``, ...), ``seeds.json`` and a report; None
            keeps everything in memory.
        listener: makes what hears about the progress of a seed.
        log, progress: what is logged, and whether progress is shown, as of `run`.
        overwrite: replace earlier runs of several seeds in ``out``.
        own: ``policy``, ``meta``, ``policies``, ``learners``, as of `run`.

    Raises:
        ConfigError: settings or a folder that cannot work, before any long work.
        DataError, SolverError: what a stage could not use, with every seed.
    """
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds} must be at least 1")
    family = make_family(family) if isinstance(family, str) else family
    config = config_for(family) if config is None else config
    Run(family, config, **own)  # refuses what cannot work before the folder is touched
    check_logs(log, out)
    out = None if out is None else Path(out)
    if out is not None:
        in_first(partial(_prepare, out, overwrite))
    listener = listener and cache(listener)
    places = None if out is None else partial(folder, out)
    with hearing_seeds(listener, log, places, progress) as hears, given_back() as runs:
        for seed in range(config.seed, config.seed + seeds):
            place = None if places is None else places(seed)
            runs.append(begin(family, replace(config, seed=seed), out=place, listener=hears(seed), **own))
        found = _finished(runs, out)
    return _heard_by(found, listener)


@checked
def resume_seeds(
    path: str | Path,
    *,
    listener: Listeners | None = None,
    log: Sequence[str] = (),
    progress: bool = True,
    **own: Any,
) -> SeedRuns:
    """Finish the runs of all seeds in a folder, side by side, and put their results together.

    Args:
        path: the folder that `run_seeds` has made.
        listener: makes what hears about the progress of a seed.
        log, progress: what is logged, and whether progress is shown, as of `run`.
        own: ``family``, ``policy``, ``policies``, ``learners``, as of `load`.
    """
    path = Path(path)
    listener = listener and cache(listener)
    runs: list[Run] = []
    with hearing_seeds(listener, log, partial(folder, path), progress) as hears:
        for seed, place in folders(path).items():
            runs.append(load(place, **own, listener=hears(seed)))
            own = {**own, "family": runs[0].family}
        found = _finished(runs, path)
    return _heard_by(found, listener)


@contextmanager
def given_back() -> Iterator[list[Run]]:
    """A list for runs that begin; at its end none of their folders is claimed any more, whatever ended it."""
    runs: list[Run] = []
    try:
        yield runs
    finally:
        for one in runs:
            if one.store is not None:
                one.store.release()


def finish(runs: Sequence[Run]) -> dict[int, Exception]:
    """Compute and write runs of different seeds, side by side; what can be compiled ahead is compiled for
    the first.

    Returns:
        The errors that ended some, by their seeds.
    """
    for one in runs[1:]:
        one.rehearses = False
    # limits of threads are the process's: held here, they do not change where runs take turns
    ended = one_blas_thread(learn.side_by_side)([one.finish for one in runs])
    errors = zip(runs, ended, strict=True)
    return {one.config.seed: error for one, error in errors if error is not None}


def _finished(runs: Sequence[Run], out: Path | None) -> SeedRuns:
    """The runs, after their work."""
    errors = finish(runs)
    whole = [one for one in runs if one.config.seed not in errors]
    if not whole:
        raise told(errors)
    found = summary([one.results for one in whole], {seed: str(error) for seed, error in errors.items()})
    if out is not None:
        in_first(partial(write, out, found))
    return SeedRuns(whole, found, errors)


def _heard_by(found: SeedRuns, listener: Listeners | None) -> SeedRuns:
    """The runs, heard by the caller's own listeners alone: those beside them are closed."""
    for one in found.runs:
        one.listener = listener(one.config.seed) if listener else Listener()
    return found


def told(errors: dict[int, Exception]) -> Exception:
    """One error for those of several seeds; the first as it is, if it is none of ours."""
    seed, first = next(iter(errors.items()))
    if not isinstance(first, PgxError):
        first.add_note(f"with seed {seed}")
        return first
    others = f" (and an error with seed {', '.join(map(str, list(errors)[1:]))})" if len(errors) > 1 else ""
    return type(first)(f"seed {seed}: {first}{others}")


def summary(runs: Sequence[Results], unfinished: dict[int, str]) -> SeedsResult:
    """What the results of several seeds come to, in words, too."""
    found = over_seeds(runs, unfinished)
    return msgspec.structs.replace(found, advice=advice(found))


# The folder


def folder(out: Path, seed: int) -> Path:
    """The run folder of a seed."""
    return out / f"seed-{seed}"


def folders(out: Path) -> dict[int, Path]:
    """Seeds in a folder, in order, and their run folders.

    Raises:
        FolderError: there is none.
    """
    found = _folders(out)
    if not found:
        raise FolderError(f"{out} holds no runs of several seeds; give the folder of some")
    return found


def holds_seeds(out: Path) -> bool:
    """Whether runs of several seeds have begun in a folder."""
    return bool(_folders(out))


def _folders(out: Path) -> dict[int, Path]:
    places: Iterable[Path] = out.iterdir() if out.is_dir() else ()
    found = {int(m[1]): place for place in places if (m := _FOLDER.fullmatch(place.name))}
    return {seed: found[seed] for seed in sorted(found) if (found[seed] / "config.json").is_file()}


def report_seeds(out: Path) -> SeedsResult:
    """Write the summary and the report of all finished seeds in a folder again.

    Raises:
        FolderError: there is none.
        DataError: what is saved is damaged, or no seed is finished.
    """
    done, unfinished = [], {}
    for seed, place in folders(out).items():
        store = RunStore.open(place)
        if store.has_file("results.json"):
            done.append(results.from_plain(store.read_json("results.json")))
        else:
            unfinished[seed] = "its run is not finished"
    found = summary(done, unfinished)
    write(out, found)
    return found


def write(out: Path, found: SeedsResult) -> Path:
    """Write the summary and its report; returns the path of its page."""
    store = RunStore(out)
    store.write_json(SUMMARY, results.to_plain(found))
    links = {seed: f"{folder(out, seed).name}/report.html" for seed in found.seeds}
    config = RunStore(folder(out, found.seeds[0])).config
    return write_files(store, report.SEEDS_FILES, report.render_seeds(found, config, links))


def _prepare(out: Path, overwrite: bool) -> None:
    """Refuse a folder with contents, or remove earlier runs of several seeds from it: all, or none where
    another process works on one.

    Raises:
        FolderError: it has contents, or other ones, or can't be emptied.
    """
    try:
        if not is_taken(out, overwrite, "resume the runs in it, or overwrite them"):
            return
        if not holds_seeds(out):
            raise FolderError(f"{out} has contents but no runs of several seeds; choose another or empty it")
        stores = [RunStore(place) for place in folders(out).values()]
        with ExitStack() as claims:
            for store in stores:
                store.claim()
                claims.callback(store.release)
            for store in stores:
                store.clear(overwrite)
                if not any(store.path.iterdir()):
                    store.path.rmdir()
        for name in (SUMMARY, *report.SEEDS_FILES):
            RunStore(out).remove_file(name)
    except (OSError, FullError) as error:
        raise unwritable(out, error) from error
