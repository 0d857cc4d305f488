"""The run folder: atomic, resumable, and safe to load.

::

    runs/<name>/
      config.json                     resolved settings, seed, versions, device, commit
      checksums.json                  of config.json and results.json
      stages/<stage>/structure.json   one folder a stage: the shape of the record ...
      stages/<stage>/arrays-*.npz     ... and its arrays (numpy, no pickle)
      metrics.jsonl                   one JSON object a line, appended while it runs
      results.json  report.html  figures/*.png
      tensorboard/  wandb/            where the run was asked for these logs (`runs.watching`)
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import struct
import uuid
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, ParamSpec

import numpy as np

from pgx_jax import types
from pgx_jax.errors import BusyError, ConfigError, DataError, FolderError, FullError, NewerError
from pgx_jax.mesh import in_first, leads
from pgx_jax.runs import serial
from pgx_jax.types import PyTree

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
"""Version of the layout of a stage; a reader refuses versions that it doesn't know."""
CONFIG_FORMAT = 1
"""Version of the layout of config.json, which begins with 1 where it isn't told."""
CHECKED = ("config.json", "results.json")
"""Files whose checksums are in `CHECKSUMS`; stages tell their own."""
CHECKSUMS = "checksums.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
"""With what is written behind it, it is shorter than the longest that file systems take (255)."""
_LOGS = ("tensorboard", "wandb")
"""Folders that libraries fill as they like (`runs.watching.LOGS`)."""
_OWN_FOLDERS = ("stages", "figures", "analysis", "pictures", "exported", *_LOGS)
_OWN_FILES = (
    "metrics.jsonl", "results.json", "results.csv", "report.html", "regroup.json", "regroup-*=*.json",
    "adapted-*.json", "checksums.json", "config.json",
)  # fmt: skip
_REWRITTEN = ("figures", "analysis", "pictures", "exported")
"""Own folders whose files are written one by one, each in one step; a stage clears its own folder."""
_LEFT = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")
"""What a process leaves that is killed while it writes a file (`serial.write_atomically`)."""
DAMAGED = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, ArithmeticError,
    SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
_CLASSES = {name: value for name, value in vars(types).items() if serial.is_namedtuple_class(value)}


def is_taken(path: Path, overwrite: bool, otherwise: str) -> bool:
    """Whether an output folder has contents, which are to be overwritten.

    Raises:
        FolderError: they are not, or it is a file; ``otherwise`` says what can be done but choose another.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    if not path.is_dir():
        raise FolderError(f"the output folder {path} is a file; choose another")
    if not overwrite:
        raise FolderError(f"the output folder {path} already has contents; choose another, {otherwise}")
    return True


P = ParamSpec("P")


def _once(write: Callable[P, None]) -> Callable[P, None]:
    """Of several processes that share their devices the first one alone writes; what the system has against
    it is told with the folder's name."""

    @functools.wraps(write)
    def written(*args: P.args, **kwargs: P.kwargs) -> None:
        if leads():
            try:
                write(*args, **kwargs)
            except OSError as error:
                raise _unwritten(args[0], error) from error  # type: ignore[arg-type]

    return written


def _unwritten(store: RunStore, error: OSError) -> FullError:
    return FullError(
        f"the run folder {store.path} can't be written to ({error.strerror or error}); what it holds is "
        f"whole: make room there, or open it to writing, and resume the run"
    )


def unwritable(path: Path, error: OSError | FullError) -> FolderError:
    """What is told of an output folder that can't be written to, or emptied."""
    cause = error if isinstance(error, OSError) else error.__cause__
    reason = getattr(cause, "strerror", None) or cause
    return FolderError(f"the output folder {path} can't be written to ({reason}); choose another")


class RunStore:
    """One run's folder on disk. A file or a stage is either there whole or not there at all. Of several
    processes that share their devices the first one alone writes, and all may read.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Refer to ``path`` without looking at it; use :meth:`create` or :meth:`open`."""
        self.path = Path(path)
        self._claim: Callable[[], object] | None = None
        """Gives back the claim that it holds, if it does."""
        self._within = 0
        """How many `claimed` are open."""

    def __repr__(self) -> str:
        return f"RunStore({str(self.path)!r})"

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, overwrite: bool = False
    ) -> RunStore:
        """Start a run in a new or empty folder.

        Args:
            path: the folder; parents are made.
            config: what is written to ``config.json``.
            overwrite: replace an earlier run in that folder. Only what a run writes is removed,
                and only from a folder that holds a run.

        Raises:
            FolderError: the folder has contents, can't be written to, or another process works on it.
            DataError: the settings can't be written as JSON.
        """
        store = cls(path)
        store.begin(config, overwrite=overwrite)
        store.release()
        return store

    def begin(self, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Start a run in this folder, as `create` does; it is claimed (`claim`) from the first moment on, and
        stays so."""
        serial.jsonable(config)
        try:
            if not self.path.exists() or self.path.is_dir():
                self.path.mkdir(parents=True, exist_ok=True)
                self.claim()
            self.clear(overwrite)
            self.write_json("config.json", config)
        except (OSError, FullError) as error:
            self.release()
            raise unwritable(self.path, error) from error
        except BaseException:
            self.release()
            raise

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunStore:
        """Open an existing run.

        Raises:
            FolderError: there is no run in this folder, a link leaves it, or a folder is in a file's place.
            DataError: its ``config.json`` is damaged.
        """
        store = cls(path)
        if not os.path.lexists(store.path / "config.json"):
            raise FolderError(
                f"{store.path} holds no run (there is no config.json in it); give the folder of one"
            )
        store._check_contents()
        store.config  # noqa: B018  (fails early if it is damaged)
        return store

    def _check_contents(self) -> None:
        """Refuse links that leave the folder, through which places outside of it would be read or written,
        folders in the place of a run's files, and files in that of its folders. What W&B keeps is its own,
        with links into the user's cache; nothing is read through them.

        Raises:
            FolderError: naming what is in the way.
        """
        files = self._own_files()
        folders = [path for name in _OWN_FOLDERS if os.path.lexists(path := self.path / name)]
        inside = os.path.realpath(self.path)
        watched = [folder for folder in folders if folder.name != "wandb"]
        for path in (*files, *folders, *(path for folder in watched for path in folder.rglob("*"))):
            leads_to = os.path.realpath(path)
            if path.is_symlink() and os.path.commonpath((inside, leads_to)) != inside:
                raise FolderError(
                    f"{path} is a link that leaves the run's folder, to {leads_to}; put what it leads to in "
                    f"its place, or remove it"
                )
        stages = [*(self.path / "stages").glob("*")]
        flat = [folder for folder in folders if folder.name not in ("stages", *_LOGS)]
        files += [path for folder in (*stages, *flat) for path in folder.glob("*")]
        for path in filter(Path.is_dir, files):
            raise FolderError(f"{path} is a folder, where a run has a file; move it elsewhere")
        for path in (*folders, *stages):
            if not path.is_dir():
                raise FolderError(f"{path} is a file, where a run has a folder; move it elsewhere")

    def claim(self) -> None:
        """From here on no other process may claim the folder (where the system can lock folders), until it is
        given back: by `release`, at the end of `claimed`, or when nothing refers to this object any more.

        Raises:
            BusyError: another one has.
        """
        if self._claim is not None or not leads():
            return
        if fcntl is not None:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise BusyError(
                    f"another process works on the run {self.path}; wait until it has ended, or choose "
                    f"another folder"
                ) from None
            except OSError:  # a file system without locks
                pass
            self._claim = weakref.finalize(self, os.close, descriptor)
        self._tidy()

    def release(self) -> None:
        """Give back the claim, if there is one."""
        if self._claim is not None:
            self._claim()
            self._claim = None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Within it, no other process may claim the folder; it is given back at the end of the outermost one.
        Of processes that share their devices the first one claims it for all, and each must come here.

        Raises:
            BusyError: another one has; in all of them.
        """
        in_first(self.claim)
        self._within += 1
        try:
            yield
        finally:
            self._within -= 1
            if not self._within:
                self.release()

    def _tidy(self) -> None:
        """Remove what processes have left that were killed while they wrote, and nothing of others."""
        with suppress(OSError, DataError):
            left = [*filter(_is_left, self.path.iterdir())]
            if (self.path / "config.json").exists():
                left += [
                    path
                    for name in _REWRITTEN
                    for path in (self.path / name).glob(".*.tmp")
                    if _LEFT.fullmatch(path.name)
                ]
            for path in left:
                path.unlink()
            if [path.name for path in self.path.iterdir()] == [CHECKSUMS] and self._checksums():
                (self.path / CHECKSUMS).unlink()  # written before config.json, which it had not come to

    @_once
    def clear(self, overwrite: bool) -> None:
        """Remove an earlier run from the folder, and nothing else.

        Raises:
            FolderError: the folder has contents that are not to be overwritten, that are no run, or on
                which another process works.
            FullError: something cannot be removed.
        """
        if not is_taken(self.path, overwrite, "resume the run in it, or overwrite it"):
            return
        if not (self.path / "config.json").is_file():
            raise FolderError(f"{self.path} has contents but no run, so it isn't overwritten; empty it first")
        held = self._claim is not None
        self.claim()
        try:
            for name in _OWN_FOLDERS:
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
            for file in self._own_files():
                file.unlink()
        finally:
            if not held:
                self.release()

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the run.

        Raises:
            DataError: config.json is missing, damaged, or a newer version's.
        """
        found, path = self.read_json("config.json"), self.path / "config.json"
        if not isinstance(found, dict):
            raise DataError(f"{path} is damaged (it holds no settings); run it anew (with overwrite)")
        version = found.get("format", CONFIG_FORMAT)
        try:
            check_version(path, version, CONFIG_FORMAT, written_by(found))
        except ValueError as error:
            if isinstance(error, NewerError):
                raise
            raise DataError(f"{path} is damaged ({error}); run it anew (with overwrite)") from error
        return found

    # Stages

    @_once
    def save(self, stage: str, record: PyTree) -> None:
        """Write a stage, replacing an earlier one of that name.

        The arrays are written first; ``structure.json``, which names them, is replaced last and
        in one step, so a reader sees the old record or the new one, whenever the run is killed.

        Args:
            stage: its name.
            record: NamedTuples, dicts, lists and tuples of arrays, numbers, text and None.

        Raises:
            ConfigError: a name that isn't a plain file name.
            DataError: something in the record isn't plain data.
            FullError: the disk can't be written to.
        """
        folder = self._stage(stage)
        structure, arrays = serial.encode(record)
        whole = [name for name in self.stages() if "." not in name]  # not what a `StageCheckpoint` keeps
        last = max(map(self._position, whole), default=0)
        order = self._position(stage) or last + 1
        folder.mkdir(parents=True, exist_ok=True)
        earlier = {*folder.glob("arrays-*.npz")}
        name = self._write_arrays(folder, arrays)
        header = {"format": FORMAT, "order": order, "arrays": name, "record": structure, "sha256": ""}
        try:
            serial.write_atomically(folder / "structure.json", _signed(json.dumps(header, indent=1)).encode())
        except OSError:
            if folder / name not in earlier:
                (folder / name).unlink(missing_ok=True)
            raise
        for leftover in {*folder.glob("arrays-*.npz"), *folder.glob(".*.tmp")} - {folder / name}:
            leftover.unlink(missing_ok=True)

    def _write_arrays(self, folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
        """Write the arrays of a stage into a file, which is named after what it holds; returns its name."""
        scratch = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            serial.write_arrays(scratch, arrays)
            name = _arrays_name(scratch)
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(scratch, folder / name)
        finally:
            scratch.unlink(missing_ok=True)
        return name

    def load(self, stage: str, like: type[NamedTuple] | Sequence[type[NamedTuple]] = ()) -> PyTree:
        """Read a stage; arrays come back as NumPy arrays of the same dtype and shape.

        Args:
            stage: its name.
            like: the NamedTuple class that the record must be; or several classes that may occur
                in it. Those of :mod:`pgx_jax.types` are always known.

        Raises:
            ConfigError: a name that isn't a plain file name.
            DataError: the stage is missing, damaged, or holds another kind of record.
        """
        folder = self._stage(stage)
        if not self.has(stage):
            raise DataError(
                f"{self.path} has no stage {stage!r} (it has {', '.join(self.stages()) or 'none'}); "
                "resume the run first"
            )
        wanted, extra = (like, (like,)) if isinstance(like, type) else (None, like)
        classes = {**_CLASSES, **{cls.__name__: cls for cls in extra}}
        place = folder / "structure.json"
        try:
            header = self._header(stage)
            place = folder / _plain(header["arrays"])
            if _arrays_name(place) != place.name:
                raise ValueError("it isn't what was written")
            record = serial.decode(header["record"], serial.read_arrays(place), classes)
        except DataError as error:
            raise type(error)(f"stage {stage!r} of {self.path}: {error}") from error
        except DAMAGED as error:
            raise DataError(
                f"stage {stage!r} of {self.path} is damaged in {place.name} "
                f"({type(error).__name__}: {error}); delete the folder {folder} and resume the run"
            ) from error
        if wanted is not None and not isinstance(record, wanted):
            raise DataError(
                f"stage {stage!r} of {self.path} holds a {type(record).__name__}, not a {wanted.__name__}"
            )
        return record

    def has(self, stage: str) -> bool:
        """Whether a stage of this name is on disk (a damaged one counts: :meth:`load` says so)."""
        return (self._stage(stage) / "structure.json").is_file()

    def stages(self) -> list[str]:
        """Names of the stages, in the order in which they were first saved."""
        found = (self.path / "stages").glob("*/structure.json")
        names = [path.parent.name for path in found if _NAME.fullmatch(path.parent.name)]
        return sorted(names, key=lambda name: (self._position(name), name))

    def begun(self, stage: str) -> list[str]:
        """Names under which a `StageCheckpoint` keeps what a stage has reached; damaged ones, too."""
        found = (path.name for path in (self.path / "stages").glob(f"{_plain(stage)}.*"))
        return sorted(name for name in found if _NAME.fullmatch(name))

    @_once
    def remove(self, stage: str) -> None:
        """Delete a stage, if it is there."""
        folder = self._stage(stage)
        (folder / "structure.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    # Other files

    @_once
    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append one object to ``metrics.jsonl``; non-finite numbers become null."""
        path = self.path / "metrics.jsonl"
        line = serial.dumps(metrics, indent=None) + "\n"
        with path.open("ab+") as file:
            if file.tell() and not _ends_with_newline(file):  # a killed run left half a line
                line = "\n" + line
            file.write(line.encode())

    def metrics(self) -> list[dict[str, Any]]:
        """Every object of ``metrics.jsonl``; half lines that a killed run left are skipped."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        found = []
        for line in path.read_bytes().split(b"\n"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [entry for entry in found if isinstance(entry, dict)]

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file with sorted keys, NaN and infinity as null; return its path."""
        return self.write_text(name, serial.dumps(value) + "\n")

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            DataError: it is missing or damaged.
        """
        path = self.path / _plain(name)
        try:
            content = path.read_bytes()
            known = self._checksums().get(name)
            if known is not None and _checksum(content) not in known:
                raise ValueError(f"it isn't what was written, by {CHECKSUMS}")
            return json.loads(content.decode("utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"{self.path} has no {name}; resume the run first") from error
        except DataError:
            raise
        except (ValueError, OSError, RecursionError) as error:
            remedy = "delete it and resume the run"
            if name == "config.json":
                remedy = (
                    "nothing else knows the run's settings: put back what it held (the command that made the "
                    "run writes the same into another folder), or run it anew (with overwrite)"
                )
            raise DataError(f"{path} is damaged ({error}); {remedy}") from error

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file into the run folder in one step; return its path."""
        path = self.path / _plain(name)
        self._write_text(path, text.encode())
        return path

    @_once
    def _write_text(self, path: Path, content: bytes) -> None:
        if path.name in CHECKED:
            self._note(path.name, content)
        serial.write_atomically(path, content)

    def _checksums(self) -> dict[str, list[str]]:
        """Of the files in `CHECKED`, of what was last written, and of what it has replaced: the process may
        have been killed between the two writings. Nothing is known of older runs.

        Raises:
            DataError: they are damaged.
        """
        path = self.path / CHECKSUMS
        try:
            known = json.loads(path.read_text("utf-8"))
            if "config.json" not in known or not {*known} <= {*CHECKED}:
                raise ValueError("it names other files")
            return {name: [*map(_hexadecimal, own)] for name, own in known.items()}
        except FileNotFoundError:
            return {}
        except DAMAGED as error:
            raise DataError(f"{path} is damaged ({error}); delete it: only checks depend on it") from error

    def _note(self, name: str, content: bytes) -> None:
        """Keep the checksum of a file that is about to be written, beside those of what was written before.
        What stands there and isn't what was written stays known as damaged."""
        known: dict[str, list[str]] = {}
        with suppress(DataError):  # damaged checksums are made anew
            known = self._checksums()
        kept = {}
        for each in CHECKED:
            if (self.path / each).is_file():
                stands = _checksum((self.path / each).read_bytes())
                own = known.get(each, [stands])
                kept[each] = [stands] if stands in own else own
        kept[name] = [_checksum(content), *kept.get(name, [])]
        serial.write_atomically(self.path / CHECKSUMS, f"{serial.dumps(kept)}\n".encode())

    def has_file(self, name: str) -> bool:
        """Whether the run folder has a file of this name."""
        return (self.path / _plain(name)).is_file()

    @_once
    def write_file(self, name: str, content: bytes) -> None:
        """Write a file into the run folder, or into one of its own folders ("figures/methods.png"), in
        one step."""
        path = self._file(name)
        path.parent.mkdir(exist_ok=True)
        serial.write_atomically(path, content)

    @_once
    def remove_file(self, name: str) -> None:
        """Delete a file of the run, if it is there."""
        self._file(name).unlink(missing_ok=True)

    # Inner workings

    def _own_files(self) -> list[Path]:
        """What has the name of one of a run's files, links to nothing as well (which `Path.glob` may leave
        out, and which would be written through)."""
        return [path for path in self.path.iterdir() if any(fnmatch(path.name, own) for own in _OWN_FILES)]

    def _file(self, name: str) -> Path:
        folder, _, file = name.rpartition("/")
        return (self.path / folder if folder in _OWN_FOLDERS else self.path) / _plain(file)

    def _stage(self, stage: str) -> Path:
        return self.path / "stages" / _plain(stage)

    def _header(self, stage: str) -> dict[str, Any]:
        """What ``structure.json`` of a stage holds.

        Raises:
            NewerError: another version has written it.
            ValueError and others of `DAMAGED`: it is damaged.
        """
        path = self._stage(stage) / "structure.json"
        text = path.read_text("utf-8")
        header = json.loads(text)
        check_version(path, header["format"], FORMAT)
        if not {*header} <= _HEADER or _signed(text) != text:
            raise ValueError("it isn't what was written")
        return header

    def _position(self, stage: str) -> int:
        """Position of a stage in the order of saving, from 1; 0 if it is missing or damaged."""
        try:
            return int(self._header(stage)["order"])
        except DAMAGED:
            return 0


_HEADER = {"format", "order", "arrays", "record", "sha256"}
_DIGEST = re.compile(r'"sha256": "[0-9a-f]*"')


def _signed(text: str) -> str:
    """The text of a JSON object with its own checksum at the end, which it has a place for; as it is, if it
    has none (older code wrote such)."""
    if not (places := [*_DIGEST.finditer(text)]):
        return text
    begin, end = places[-1].span()
    blank = f'{text[:begin]}"sha256": ""{text[end:]}'
    return f'{text[:begin]}"sha256": "{hashlib.sha256(blank.encode()).hexdigest()}"{text[end:]}'


def _arrays_name(path: Path) -> str:
    """What a file of arrays is called, by what it holds."""
    with path.open("rb") as file:
        return f"arrays-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}.npz"


def _is_left(path: Path) -> bool:
    """Whether a process has left it that was killed while it wrote a file of a run."""
    found = _LEFT.fullmatch(path.name)
    return found is not None and any(fnmatch(found[1], own) for own in _OWN_FILES)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _hexadecimal(digest: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{digest!r} is no checksum")
    return digest


def written_by(config: Mapping[str, Any]) -> str:
    """The version of this package that wrote a config.json, if it tells."""
    found = config.get("environment")
    versions = found.get("versions") if isinstance(found, dict) else None
    return str(versions.get("pgx-jax", "")) if isinstance(versions, dict) else ""


def check_version(path: Path | str, version: object, known: int, wrote: str = "") -> None:
    """Refuse a file of another version than is known here.

    Args:
        path: the file.
        version: which it tells.
        known: the one that is known.
        wrote: version of the package that wrote it, if it tells.

    Raises:
        NewerError: a newer one.
        ValueError: what is none.
    """
    if version == known and not isinstance(version, bool):
        return
    if isinstance(version, int) and version > known:
        by = f" by pgx-jax {wrote}" if wrote else ""
        raise NewerError(
            f"{path} was written{by} in format {version}, and this version knows {known}: install a newer "
            f"pgx-jax"
        )
    raise ValueError(f"format {version!r} is not {known}")


def _plain(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't name a file of the run; use letters, digits, '.', '_' and '-', "
            "starting with a letter or digit, 200 at most"
        )
    return name


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
