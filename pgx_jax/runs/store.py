"""The run folder: atomic, resumable, and safe to load.

::

    runs/<name>/
      config.json                     resolved settings, seed, versions, device, commit
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
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, ParamSpec

from pgx_jax import types
from pgx_jax.errors import BusyError, ConfigError, DataError, FolderError
from pgx_jax.mesh import leads
from pgx_jax.runs import serial
from pgx_jax.types import PyTree

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
"""Version of the layout of a stage; a reader refuses versions that it doesn't know."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OWN_FOLDERS = ("stages", "figures", "analysis", "tensorboard", "wandb")
_OWN_FILES = (
    "metrics.jsonl", "results.json", "report.html", "regroup.json", "regroup-*=*.json", "adapted-*.json",
    "config.json",
)  # fmt: skip
DAMAGED = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, ArithmeticError,
    SyntaxError, zipfile.BadZipFile, zlib.error, struct.error,
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
    """Of several processes that share their devices the first one alone writes."""

    @functools.wraps(write)
    def written(*args: P.args, **kwargs: P.kwargs) -> None:
        if leads():
            write(*args, **kwargs)

    return written


class RunStore:
    """One run's folder on disk. A file or a stage is either there whole or not there at all. Of several
    processes that share their devices the first one alone writes, and all may read.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Refer to ``path`` without looking at it; use :meth:`create` or :meth:`open`."""
        self.path = Path(path)

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
            FolderError: the folder has contents, or can't be written to.
            DataError: the settings can't be written as JSON.
        """
        store = cls(path)
        serial.jsonable(config)
        try:
            store.clear(overwrite)
            store.path.mkdir(parents=True, exist_ok=True)
            store.write_json("config.json", config)
        except OSError as error:
            raise FolderError(
                f"the output folder {store.path} can't be written to ({error.strerror or error}); "
                "choose another"
            ) from error
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunStore:
        """Open an existing run.

        Raises:
            FolderError: there is no run in this folder, a link leaves it, or a folder is in a file's place.
            DataError: its ``config.json`` is damaged.
        """
        store = cls(path)
        if not (store.path / "config.json").is_file():
            raise FolderError(
                f"{store.path} holds no run (there is no config.json in it); give the folder of one"
            )
        store._check_contents()
        store.config  # noqa: B018  (fails early if it is damaged)
        return store

    def _check_contents(self) -> None:
        """Refuse links that leave the folder, through which places outside of it would be read or written,
        and folders in the place of a run's files.

        Raises:
            FolderError: naming the link or folder.
        """
        files = [path for pattern in _OWN_FILES for path in self.path.glob(pattern)]
        for path in filter(Path.is_dir, files):
            raise FolderError(f"{path} is a folder, where a run has a file; move it elsewhere")
        folders = [self.path / name for name in _OWN_FOLDERS]
        for path in folders:
            if path.exists() and not path.is_dir():
                raise FolderError(f"{path} is a file, where a run has a folder; move it elsewhere")
        inside = os.path.realpath(self.path)
        for path in (*files, *folders, *(path for folder in folders for path in folder.rglob("*"))):
            leads_to = os.path.realpath(path)
            if path.is_symlink() and os.path.commonpath((inside, leads_to)) != inside:
                raise FolderError(
                    f"{path} is a link that leaves the run's folder, to {leads_to}; put what it leads to in "
                    f"its place, or remove it"
                )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """No other process may claim the folder meanwhile (where the system can lock folders).

        Raises:
            BusyError: another one has.
        """
        if fcntl is None or not leads():
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BusyError(
                f"another process works on the run {self.path}; wait until it has ended, or choose another "
                f"folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            os.close(descriptor)

    @_once
    def clear(self, overwrite: bool) -> None:
        """Remove an earlier run from the folder, and nothing else.

        Raises:
            FolderError: the folder has contents that are not to be overwritten, that are no run, or on
                which another process works.
            OSError: something cannot be removed.
        """
        if not is_taken(self.path, overwrite, "resume the run in it, or overwrite it"):
            return
        if not (self.path / "config.json").is_file():
            raise FolderError(f"{self.path} has contents but no run, so it isn't overwritten; empty it first")
        with self.claimed():
            for name in _OWN_FOLDERS:
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
            for pattern in _OWN_FILES:
                for file in self.path.glob(pattern):
                    file.unlink()

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the run."""
        return self.read_json("config.json")

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
            OSError: the disk can't be written to.
        """
        folder = self._stage(stage)
        structure, arrays = serial.encode(record)
        last = max(map(self._position, self.stages()), default=0)
        order = self._position(stage) or last + 1
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            serial.write_arrays(scratch, arrays)
            with scratch.open("rb") as file:
                name = f"arrays-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}.npz"
                os.fsync(file.fileno())
            os.replace(scratch, folder / name)
        finally:
            scratch.unlink(missing_ok=True)
        header = {"format": FORMAT, "order": order, "arrays": name, "record": structure}
        serial.write_atomically(folder / "structure.json", json.dumps(header, indent=1).encode())
        for leftover in {*folder.glob("arrays-*.npz"), *folder.glob(".*.tmp")} - {folder / name}:
            leftover.unlink(missing_ok=True)

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
        try:
            header = self._header(stage)
            arrays = serial.read_arrays(folder / _plain(header["arrays"]))
            record = serial.decode(header["record"], arrays, classes)
        except DataError as error:
            raise DataError(f"stage {stage!r} of {self.path}: {error}") from error
        except DAMAGED as error:
            raise DataError(
                f"stage {stage!r} of {self.path} is damaged ({type(error).__name__}: {error}); "
                f"delete the folder {folder} and resume the run"
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
            return json.loads(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"{self.path} has no {name}; resume the run first") from error
        except (ValueError, OSError) as error:
            remedy = "delete it and resume the run"
            if name == "config.json":
                remedy = "nothing else knows the run's settings, so run it anew (with overwrite)"
            raise DataError(f"{path} is damaged ({error}); {remedy}") from error

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file into the run folder in one step; return its path."""
        path = self.path / _plain(name)
        if leads():
            serial.write_atomically(path, text.encode())
        return path

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

    def _file(self, name: str) -> Path:
        folder, _, file = name.rpartition("/")
        return (self.path / folder if folder in _OWN_FOLDERS else self.path) / _plain(file)

    def _stage(self, stage: str) -> Path:
        return self.path / "stages" / _plain(stage)

    def _header(self, stage: str) -> dict[str, Any]:
        header = json.loads((self._stage(stage) / "structure.json").read_text("utf-8"))
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']!r} is not {FORMAT}; another version wrote it")
        return header

    def _position(self, stage: str) -> int:
        """Position of a stage in the order of saving, from 1; 0 if it is missing or damaged."""
        try:
            return int(self._header(stage)["order"])
        except DAMAGED:
            return 0


def _plain(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't name a file of the run; use letters, digits, '.', '_' and '-', "
            "starting with a letter or digit"
        )
    return name


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
