"""Workers for many pieces of work: processes of this machine, or tasks on a Ray cluster.

Whoever they are, they take their work from a queue, and what becomes of it is told as it ends. A worker that
dies (its process is killed, its machine lost) takes its own piece of work with it and no other.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import threading
import uuid
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from pgx_jax.cluster import connected, library
from pgx_jax.errors import ConfigError
from pgx_jax.steady import SHARE, usable_cores

Work = TypeVar("Work")
Made = TypeVar("Made")


class WorkerDied(NamedTuple):
    """What became of a piece of work whose worker ended before it."""

    why: str


class Workers(Protocol):
    """Who works; a context, in which they are there."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def check(self, folder: Path) -> None:
        """Refuse a folder that some of them do not see.

        Raises:
            ConfigError: naming who does not.
        """

    def work(
        self, function: Callable[[Work], Made], queue: deque[Work]
    ) -> Generator[tuple[Work, Made | WorkerDied], None, None]:
        """Have all pieces of work done that are in the queue, to which more may be added meanwhile.

        Args:
            function: of a module, what a worker does with a piece of work; it returns its errors.
            queue: the work.

        Yields:
            (piece of work, what the function returned) in the order in which they end. Once the generator is
            closed, work that has not ended is stopped.
        """


# Processes


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, which share its cores. They begin with the caller's script, as those of
    multiprocessing do: one that is run must keep its work below ``if __name__ == "__main__"``."""

    count: int | None = None
    """How many at most; as many as there are cores by default, or a single one where JAX may find an
    accelerator, which it takes whole."""

    def __post_init__(self) -> None:
        check_count(self.count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """They end with their work."""

    def check(self, folder: Path) -> None:
        """They see what the caller sees."""

    def work(
        self, function: Callable[[Work], Made], queue: deque[Work]
    ) -> Generator[tuple[Work, Made | WorkerDied], None, None]:
        """See `Workers.work`."""
        cores = usable_cores()
        count = max(1, min(self.count or (1 if accelerated() else cores), len(queue)))
        idle = [_Process(max(1, cores // count)) for _ in range(count)]
        busy: dict[Future[Made], tuple[_Process, Work]] = {}
        try:
            while queue or busy:
                while queue and idle:
                    piece, process = queue.popleft(), idle.pop()
                    busy[process.submit(function, piece)] = process, piece
                done, _ = wait(busy, return_when=FIRST_COMPLETED)
                for future in done:
                    process, piece = busy.pop(future)
                    found: Made | WorkerDied
                    try:
                        found = future.result()
                    except BrokenProcessPool:
                        found = WorkerDied(process.end())
                    idle.append(process)
                    yield piece, found
        finally:
            for process in [*idle, *(process for process, _ in busy.values())]:
                process.end()


class _Process:
    """One worker, started with its first piece of work, and anew after its end. (A pool of several ends with
    the first that dies, and does not tell whose work that was.)"""

    def __init__(self, cores: int):
        self.cores = cores
        self.pool: ProcessPoolExecutor | None = None
        self.processes: list[BaseProcess] = []
        """The single one of the pool."""
        self.works: Future[Any] | None = None

    def submit(self, function: Callable[[Work], Made], piece: Work) -> Future[Made]:
        if self.pool is None:
            spawn = multiprocessing.get_context("spawn")  # threads forbid to fork
            self.pool = ProcessPoolExecutor(1, spawn, _begin, (self.cores,))
        self.works = future = self.pool.submit(function, piece)
        self.processes = list((self.pool._processes or {}).values())
        return future

    def end(self) -> str:
        """Stop it; what it works on is lost. Returns how it ended."""
        if self.pool is None:
            return "it never began"
        if self.works is not None and not self.works.done():
            for process in self.processes:
                process.kill()
        self.pool.shutdown()
        self.pool = None
        codes = [process.exitcode for process in self.processes]
        return f"its process ended ({', '.join(map(_told, codes))})"


def _told(code: int | None) -> str:
    """What an exit code says."""
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit status {code}"


def _begin(cores: int) -> None:
    """What a process does first: an interrupt is the caller's business, and it ends when that does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[SHARE] = str(cores)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def accelerated() -> bool:
    """Whether JAX may find an accelerator; a process that asks JAX itself would hold it from then on."""
    if platforms := os.environ.get("JAX_PLATFORMS", ""):
        return platforms.split(",")[0] != "cpu"
    return bool(metadata.entry_points(group="jax_plugins")) or importlib.util.find_spec("libtpu") is not None


# Ray

PASSED_ON = ("JAX_", "XLA_", "PGX_JAX_")
"""How the names of environment variables begin that tasks on other machines are given as well."""


@dataclass
class OnRay:
    """Tasks on a Ray cluster, each of which takes some cores; Ray finds a machine for every one.

    Ray must be installed (extra ``cluster``). Where it is initialised already, that one is used, and stays.
    """

    address: str = "local"
    """Of the cluster: HOST:PORT, "auto" for the one that this machine belongs to, or "local" to start one
    here."""
    count: int | None = None
    """Tasks at a time, at most; as many as there is room for by default."""
    cores: int = 1
    """Of a task."""
    gpus: float = 0.0
    """Of a task; a part of one is shared with others."""
    connection: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count(self.count)
        if self.cores < 1 or self.gpus < 0:
            raise ConfigError("a task takes at least one core, and 0 GPUs or more")

    def __enter__(self) -> Self:
        cores = self.cores * self.count if self.count else max(self.cores, usable_cores())
        self.connection.enter_context(connected(self.address, cores))
        return self

    def __exit__(self, *exc: object) -> None:
        self.connection.close()

    def check(self, folder: Path) -> None:
        """Have a file read and another one written on every machine.

        Raises:
            ConfigError: naming the machines that don't see the folder.
        """
        ray = library()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        token = folder.resolve() / f".{uuid.uuid4().hex}.tmp"
        token.write_text(token.name)
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        ask = ray.remote(num_cpus=0, max_retries=1)(_answer)
        on = {name: NodeAffinitySchedulingStrategy(name, soft=False) for name in nodes}
        asked = {name: ask.options(scheduling_strategy=on[name]).remote(str(token), name) for name in nodes}
        try:
            unseen = [
                f"{nodes[name]} ({why})" for name, ref in asked.items() if (why := _unseen(ref, token, name))
            ]
        finally:
            for file in folder.glob(f"{token.name}*"):
                file.unlink(missing_ok=True)
        if unseen:
            raise ConfigError(
                f"all machines of the cluster must share the folder {folder}, at the same place; "
                f"not so: {', '.join(unseen)}"
            )

    def work(
        self, function: Callable[[Work], Made], queue: deque[Work]
    ) -> Generator[tuple[Work, Made | WorkerDied], None, None]:
        """See `Workers.work`."""
        ray = library()
        known = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        known |= {SHARE: str(self.cores)}
        if self.gpus % 1:
            known.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        task = ray.remote(
            num_cpus=self.cores, num_gpus=self.gpus, runtime_env={"env_vars": known},
            max_retries=0,  # whoever calls decides what is done again: Ray would not tell
        )(_call)  # fmt: skip
        busy: dict[Any, Work] = {}
        try:
            while queue or busy:
                while queue and (self.count is None or len(busy) < self.count):
                    piece = queue.popleft()
                    busy[task.remote(function, piece)] = piece
                (done, *_), _ = ray.wait(list(busy), num_returns=1)
                found: Made | WorkerDied
                try:
                    found = ray.get(done)
                except ray.exceptions.RayError as error:
                    found = WorkerDied(f"{type(error).__name__}: {_first_line(error)}")
                yield busy.pop(done), found
        finally:
            for left in busy:
                ray.cancel(left, force=True)


def _call(function: Callable[[Work], Made], piece: Work) -> Made:
    return function(piece)


def _answer(token: str, name: str) -> bool:
    """Whether a file is there; another one is put beside it."""
    path = Path(token)
    if not path.is_file() or path.read_text() != path.name:
        return False
    path.with_name(f"{path.name}-{name}").write_text(name)
    return True


def _unseen(ref: Any, token: Path, name: str) -> str:
    """Why a machine is of no use for work in the token's folder; nothing if it is."""
    ray = library()
    try:
        if not ray.get(ref, timeout=300):
            return "it is not there"
    except (ray.exceptions.RayError, OSError) as error:
        return _first_line(error)
    os.listdir(token.parent)  # network file systems look again then
    return "" if token.with_name(f"{token.name}-{name}").is_file() else "what it writes is not seen here"


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None)
    return next(iter(str(cause or error).strip().splitlines()), type(error).__name__)


def check_count(count: int | None) -> None:
    """Refuse a number of workers that cannot work.

    Raises:
        ConfigError: it is less than 1.
    """
    if count is not None and count < 1:
        raise ConfigError(f"workers = {count} must be at least 1")
