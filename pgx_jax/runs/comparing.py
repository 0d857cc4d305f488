"""Saved runs compared: folders of runs, of several seeds, or of sweeps.

::

    OUT/
      compare.json                    what they come to beside each other (`compare.runs`)
      compare.csv  report.html  figures/runs.png
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pgx_jax import report
from pgx_jax.compare import results
from pgx_jax.compare.results import Results
from pgx_jax.compare.runs import Given, RunsResult, compare
from pgx_jax.errors import DataError, FolderError, check_argument, checked
from pgx_jax.report import wording
from pgx_jax.runs import serial
from pgx_jax.runs.saved import saved_settings
from pgx_jax.runs.seeds import folders, holds_seeds
from pgx_jax.runs.store import RunStore

SUMMARY = "compare.json"


@checked
def compare_runs(*paths: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> RunsResult:
    """Compare saved runs of one family by what their methods earned.

    Args:
        paths: run folders, folders of several seeds (which are one side of the comparison), or of sweeps (a
            side for each of their parts); at least two sides in all.
        out: folder for a report, ``compare.json`` and ``compare.csv``; nothing is written without.

    Raises:
        FolderError: no run in one of the folders, or a run twice.
        DataError: runs that are not finished or can't be read, fewer than two, or of different families.
    """
    for path in paths:
        check_argument(path, str | os.PathLike, "a path")
    places = [place for path in paths for place in _sides(Path(path))]
    twice = {str(place) for place in places if sum(_same(place, other) for other in places) > 1}
    if twice:
        raise FolderError(f"{min(twice)} is given twice; a run compared with itself shows nothing")
    found = compare([_given(place, name) for place, name in zip(places, _names(places), strict=True)])
    if out is not None:
        write(Path(out), found)
    return found


def write(out: Path, found: RunsResult) -> Path:
    """Write what runs come to beside each other, in place of an earlier comparison; returns the path of the
    page.

    Raises:
        FolderError: the folder has other contents, or can't be written to.
    """
    try:
        if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / SUMMARY).is_file())):
            raise FolderError(f"{out} has contents that are no comparison; choose another folder with out")
        links = {
            side.name: os.path.relpath(page, out) for side in found.sides if (page := _page(side.folder))
        }
        (out / "figures").mkdir(parents=True, exist_ok=True)
        serial.write_atomically(out / SUMMARY, f"{serial.dumps(results.to_plain(found))}\n".encode())
        for name, content in report.render_runs(found, links).items():
            serial.write_atomically(out / name, content)
    except OSError as error:
        raise FolderError(f"the folder {out} can't be written to ({error.strerror})") from error
    return out / "report.html"


def _page(folder: str) -> Path | None:
    page = Path(folder) / "report.html"
    return page if page.is_file() else None


def _sides(path: Path) -> Iterator[Path]:
    """The folders that are a side each.

    Raises:
        FolderError: there is none.
    """
    if (path / "config.json").is_file() or holds_seeds(path):
        yield path
        return
    parts = sorted(part for part in path.iterdir() if holds_seeds(part)) if path.is_dir() else []
    if not parts:
        raise FolderError(f"{path} holds no run, runs of several seeds or sweep; give the folder of one")
    yield from parts


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _names(places: Sequence[Path]) -> list[str]:
    """The ends of the paths that tell them apart."""
    parts = [place.resolve().parts for place in places]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            break
    return names if places else []


def _given(place: Path, name: str) -> Given:
    """What is saved of a side."""
    runs = list(folders(place).values()) if holds_seeds(place) else [place]
    stores = [RunStore.open(run) for run in runs]
    return Given(name, str(place), [_results(store) for store in stores], _settings(stores[0]))


def _results(store: RunStore) -> Results:
    """The results of a run.

    Raises:
        DataError: it is not finished, or they are another version's.
    """
    if not store.has_file("results.json"):
        raise DataError(f"the run {store.path} is not finished; `pgx-jax resume {store.path}` finishes it")
    try:
        return results.from_plain(store.read_json("results.json"))
    except DataError as error:
        raise DataError(f"{store.path}: {error}") from error


def _settings(store: RunStore) -> dict[str, str]:
    """All that may tell runs apart, but for their seed, as text.

    Raises:
        ConfigError, DataError: as `saved_settings`.
    """
    saved, _ = saved_settings(store)
    config = {name: value for name, value in saved["config"].items() if name != "seed"}
    where = saved.get("environment", {})
    known = config | {f"family {name}": value for name, value in saved["family_settings"].items()}
    known |= {name: where[name] for name in ("device", "devices", "commit") if name in where}
    return dict(wording.flatten(known | where.get("versions", {})))
