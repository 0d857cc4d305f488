"""Slots that other processes step, a share of them in each.

Every process steps its share as `Copies`, one after the other; errors come back as they are. Processes are
started once for an environment and serve all slots that are opened on it, so that models and libraries are
loaded once in each.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import cloudpickle
import jax
import numpy as np

from pgx_jax.errors import DataError, PgxError
from pgx_jax.learn.host.copies import Copies
from pgx_jax.learn.host.slots import Arrival, Placed, Tasks
from pgx_jax.tasks import HostEnv, TaskFamily

START = "import sys; sys.path[:] = {path!r}; from pgx_jax.learn.host.workers import serve; serve({pipe})"
"""What a process runs. (It is no fork, which threads forbid, and does not begin with the caller's script,
as multiprocessing's own do.)"""


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Died(Exception):
    """A process ended without being asked to."""

    def __init__(self, place: int, exitcode: int | None):
        super().__init__(place, exitcode)
        self.place, self.exitcode = place, exitcode


class Answer(NamedTuple):
    """What a process sends back: a value, or what went wrong."""

    value: Any = None
    error: Exception | None = None


class Pool:
    """Processes that serve the slots opened on one environment."""

    def __init__(self, count: int):
        """Start them."""
        self.lock, self.numbers, self.open_now = threading.Lock(), itertools.count(), set[int]()
        self.pipes: list[Connection] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        for _ in range(count):
            mine, theirs = Pipe()
            code = START.format(path=sys.path, pipe=theirs.fileno())
            command, pipes = [sys.executable, "-c", code], (theirs.fileno(),)
            self.processes.append(subprocess.Popen(command, pass_fds=pipes, stdin=subprocess.DEVNULL))
            theirs.close()
            self.pipes.append(mine)

    def open(self, family: TaskFamily, counts: Sequence[int]) -> int:
        """Open so many slots in every process; returns their number."""
        lean, number = dataclasses.replace(family, sample_test_tasks=None, draw=None), next(self.numbers)
        self.ask("open", number, [(cloudpickle.dumps(lean), count) for count in counts])
        self.open_now.add(number)
        return number

    def let_go(self, number: int) -> None:
        """Close slots; the processes stay for the next ones."""
        self.open_now.discard(number)
        self.ask("close", number, [()] * len(self.pipes))

    def ask(self, what: str, number: int, args: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        """What every process answers to a request about its slots of this number (None: it isn't asked).

        Raises:
            Died: a process ended; none of them can be used any more.
        """
        with self.lock:
            answers = self._answers(what, number, args)
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        return [answer.value for answer in answers]

    def _answers(self, what: str, number: int, args: Sequence[tuple[Any, ...] | None]) -> list[Answer]:
        asked, answers = [i for i, own in enumerate(args) if own is not None], [Answer()] * len(args)
        place = 0
        try:
            for place in asked:
                self.pipes[place].send((what, number, args[place]))
            for place in asked:
                answers[place] = self.pipes[place].recv()
        except BaseException as error:  # an answer left unheard would be taken for that to another request
            self.close()
            if isinstance(error, EOFError | OSError):
                raise Died(place, self.processes[place].wait()) from error
            raise
        return answers

    def close(self) -> None:
        """End all processes."""
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            pipe.close()
            process.terminate()
        for key in [key for key, pool in _POOLS.items() if pool is self]:
            del _POOLS[key]


_POOLS: dict[tuple[HostEnv, int], Pool] = {}
_LOCK = threading.Lock()


def pool_of(env: HostEnv, count: int) -> Pool:
    """The pool of an environment, started if there is none; those of others that nobody uses are ended."""
    with _LOCK:
        if (env, count) not in _POOLS:
            close_pools(idle=True)
            _POOLS[env, count] = Pool(count)
        return _POOLS[env, count]


def close_pools(*, idle: bool = False) -> None:
    """End all processes, or those that serve no slots."""
    for pool in [pool for pool in _POOLS.values() if not (idle and pool.open_now)]:
        pool.close()


atexit.register(close_pools)


def serve(descriptor: int) -> None:
    """What a process does: answer requests about slots until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for who asks
    jax.config.update("jax_platforms", "cpu")  # accelerators are not for it
    pipe, known = Connection(descriptor), dict[int, Copies]()
    while True:
        try:
            what, number, args = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = Answer(_do(known, what, number, args))
        except PgxError as error:
            answer = Answer(error=error)
        except Exception as error:  # of a library, perhaps one that cannot be sent
            answer = Answer(error=DataError(f"{type(error).__name__} in a process of its own: {error}"))
        pipe.send(answer)


def _do(known: dict[int, Copies], what: str, number: int, args: tuple[Any, ...]) -> Any:
    """What is asked of the slots of a number."""
    if what == "open":
        family, count = args
        known[number] = Copies(cloudpickle.loads(family), count)
    elif what == "place":
        known[number].place(*args)
    elif what == "restart":
        slots, seeds = args
        first = np.zeros_like(known[number].arrival.obs)
        known[number].restart(slots, seeds, first)
        return first[slots]
    elif what == "step":
        return known[number].step(*args)
    else:
        known.pop(number).close()
    return None


class Workers(Placed):
    """S slots in the processes of a pool."""

    def __init__(self, family: TaskFamily, count: int, processes: int):
        """Open the slots; they are shared out at random, since some tasks take longer than others."""
        super().__init__(family, count)
        order = np.random.default_rng(0).permutation(count)
        self.shares = [np.sort(order[i::processes]) for i in range(processes)]
        self.seeds = np.zeros(count, np.int64)
        """Of the running episodes, for errors."""
        self.pool = pool_of(family.host_env, processes)
        self.number = self._asked(self.pool.open, family, [len(share) for share in self.shares])

    def place(self, slots: np.ndarray, tasks: Tasks, index: np.ndarray) -> None:
        """Give the slots int [S'] the tasks ``index`` int [S']; they must be restarted next."""
        super().place(slots, tasks, index)
        self._ask("place", [(own, tasks, index[given]) for own, given in self._shared(slots)])

    def restart(self, slots: np.ndarray, seeds: Sequence[int], obs: np.ndarray) -> None:
        """Start episodes in the slots; their first observations go to the rows of ``obs`` [S, ...]."""
        slots, given = np.asarray(slots), np.asarray(seeds)
        self.seeds[slots] = given
        parts = self._shared(slots)
        first = self._ask("restart", [(own, given[which].tolist()) for own, which in parts])
        for (_, which), some in zip(parts, first, strict=True):
            if len(which):
                obs[slots[which]] = some

    def step(self, actions: np.ndarray, active: np.ndarray) -> Arrival:
        """Advance the slots of the mask ``active`` [S]."""
        asked = [(actions[share], active[share]) for share in self.shares]
        found = self._ask("step", [own if own[1].any() else None for own in asked])
        self.arrival = self.fresh(active.copy())
        for share, some in zip(self.shares, found, strict=True):
            if some is not None:
                for all_slots, own in zip(self.arrival, some, strict=True):
                    all_slots[share] = own
        return self.arrival

    def _shared(self, slots: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every process: which of its slots these are, and where they stand among ``slots``."""
        places = [np.flatnonzero(np.isin(slots, share)) for share in self.shares]
        return [
            (np.searchsorted(share, np.asarray(slots)[where]), where)
            for share, where in zip(self.shares, places, strict=True)
        ]

    def _ask(self, what: str, args: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        some = [None if own is None or not len(own[0]) else own for own in args]
        return self._asked(self.pool.ask, what, self.number, some)

    def _asked(self, call: Callable[..., Any], *args: Any) -> Any:
        """``call(*args)``, or a DataError that names the tasks of a process that died."""
        try:
            return call(*args)
        except Died as died:
            slots = self.shares[died.place].tolist()
            tasks = [
                f"{self.names[slot]} (seed {self.seeds[slot]})" for slot in slots[:8] if self.names[slot]
            ]
            more = f" and {len(slots) - 8} more" if len(slots) > 8 else ""
            raise DataError(
                f"a process that stepped environments of {self.guard.family!r} died (exit code "
                f"{died.exitcode}), with episodes of {', '.join(tasks) or 'no task yet'}{more}; look for "
                f"crashes and missing memory, and go on from the last checkpoint with `pgx-jax resume`"
            ) from died

    def close(self) -> None:
        """Close the slots."""
        with contextlib.suppress(Died):
            self.pool.let_go(self.number)
