"""Slots that other processes step, a share of them in each: of this machine, or of a Ray cluster (`on_ray`).

Every process steps its share as `Copies`, one after the other; errors come back as they are. Processes are
started once for an environment and serve all slots that are opened on it, so that models and libraries are
loaded once in each.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import itertools
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import cloudpickle
import jax
import numpy as np

from pgx_jax.errors import DataError, PgxError
from pgx_jax.learn.host.copies import Copies
from pgx_jax.learn.host.slots import Arrival, Placed, Tasks
from pgx_jax.steady import usable_cores
from pgx_jax.tasks import HostEnv, TaskFamily

START = "import sys; sys.path[:] = {path!r}; from pgx_jax.learn.host.workers import serve; serve({pipe})"
"""What a process runs. (It is no fork, which threads forbid, and does not begin with the caller's script,
as multiprocessing's own do.)"""


class Died(Exception):
    """A process ended without being asked to."""

    def __init__(self, place: int, why: str):
        super().__init__(place, why)
        self.place, self.why = place, why


class Answer(NamedTuple):
    """What a process sends back: a value, or what went wrong."""

    value: Any = None
    error: Exception | None = None


class Member(Protocol):
    """One process of a crew."""

    def send(self, request: bytes) -> None:
        """Ask something; whoever asks is to receive the answer next."""

    def receive(self) -> Answer:
        """The answer, once it is there.

        Raises:
            EOFError, OSError: the process has ended.
        """

    def end(self) -> None:
        """End it."""

    def why(self) -> str:
        """How it ended that has not answered."""


class Process:
    """A process of this machine."""

    def __init__(self) -> None:
        """Start it."""
        self.pipe, theirs = Pipe()
        code = START.format(path=sys.path, pipe=theirs.fileno())
        command, pipes = [sys.executable, "-c", code], (theirs.fileno(),)
        self.process = subprocess.Popen(command, pass_fds=pipes, stdin=subprocess.DEVNULL)
        theirs.close()

    def send(self, request: bytes) -> None:
        """Through its pipe."""
        self.pipe.send_bytes(request)

    def receive(self) -> Answer:
        """From its pipe."""
        return self.pipe.recv()

    def end(self) -> None:
        """By a signal."""
        self.pipe.close()
        self.process.terminate()

    def why(self) -> str:
        """Its exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)  # so that it is its own
        self.process.terminate()
        return f"exit code {self.process.wait()}"


class Kind(NamedTuple):
    """What crews are made of."""

    start: Callable[[], Member]
    cores: Callable[[], int]
    """How many where the environment leaves it open."""
    here: bool = True
    """Whether they take this machine's memory."""


_KIND = [Kind(Process, usable_cores)]
"""The last one is in force."""


@contextlib.contextmanager
def made_of(kind: Kind) -> Iterator[None]:
    """Within it crews that start are of this kind."""
    _KIND.append(kind)
    try:
        yield
    finally:
        _KIND.remove(kind)


def kind_of_crews() -> Kind:
    """The kind in force."""
    return _KIND[-1]


def processes_of(family: TaskFamily) -> int:
    """Processes that step a family's copies; 1 is this one."""
    return getattr(family.host_env, "processes", 1) or kind_of_crews().cores()


class Crew:
    """Processes that serve the slots opened on one environment."""

    def __init__(self, env: HostEnv, count: int, kind: Kind):
        """Start them; ``env`` is kept as long as they live."""
        self.env, self.kind, self.lock, self.numbers = env, kind, threading.Lock(), itertools.count()
        self.open_now: set[int] = set()
        """Numbers of the slots that are open, or about to be."""
        self.first: Died | None = None
        """The first of its processes that ended, and took the others with it."""
        self.members: list[Member] = []
        try:
            for _ in range(count):
                self.members.append(kind.start())
        except BaseException:
            self.close()
            raise

    def open(self, number: int, family: TaskFamily, counts: Sequence[int]) -> None:
        """Open so many slots in every process, under a number that `crew_of` gave."""
        lean = cloudpickle.dumps(dataclasses.replace(family, sample_test_tasks=None, draw=None))
        try:
            self.ask("open", number, [(lean, count) for count in counts])
        except PgxError:
            with contextlib.suppress(Died):  # what was raised says why
                self.let_go(number)
            raise

    def let_go(self, number: int) -> None:
        """Close slots; the processes stay for the next ones."""
        self.open_now.discard(number)
        self.ask("close", number, [()] * len(self.members))

    def ask(self, what: str, number: int, args: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        """What every process answers to a request about its slots of this number (None: it isn't asked).

        Raises:
            Died: a process ended; none of them can be used any more. It is the first one that ended, whoever
                asks.
        """
        with self.lock:
            if self.first is not None:
                raise Died(self.first.place, self.first.why) from self.first
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
                self.members[place].send(pickle.dumps((what, number, args[place])))
            for place in asked:
                answers[place] = self.members[place].receive()
        except (EOFError, OSError) as error:
            self.first = Died(place, self.members[place].why())
            self.close()
            raise self.first from error
        except BaseException:  # an answer left unheard would be taken for that to another request
            self.first = Died(place, "ended when what it was asked was given up")
            self.close()
            raise
        return answers

    def close(self) -> None:
        """End all processes."""
        for member in self.members:
            member.end()
        with _LOCK:
            for key in [key for key, crew in _CREWS.items() if crew is self]:
                del _CREWS[key]


_CREWS: dict[tuple[Hashable, int, Kind], Crew] = {}
_LOCK = threading.RLock()


def crew_of(env: HostEnv, count: int) -> tuple[Crew, int]:
    """The processes of an environment, and a number for slots that are opened there. They are started if
    there are none; those of other environments that nobody uses are ended."""
    key = (env if isinstance(env, Hashable) else id(env), count, kind := kind_of_crews())
    with _LOCK:
        if key not in _CREWS:
            close_crews(idle=True)
            _CREWS[key] = Crew(env, count, kind)
        number = next(_CREWS[key].numbers)
        _CREWS[key].open_now.add(number)
        return _CREWS[key], number


def close_crews(*, idle: bool = False, kind: Kind | None = None) -> None:
    """End all processes, or those that serve no slots, or those of a kind."""
    for crew in [*_CREWS.values()]:
        if not (idle and crew.open_now) and kind in (None, crew.kind):
            crew.close()


atexit.register(close_crews)


def serve(descriptor: int) -> None:
    """What a process does: answer requests about slots until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for who asks
    jax.config.update("jax_platforms", "cpu")  # accelerators are not for it
    pipe, known = Connection(descriptor), dict[int, Copies]()
    while True:
        try:
            asked = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        pipe.send(answer(known, asked))


def answer(known: dict[int, Copies], asked: bytes) -> Answer:
    """What a process answers to a request, with the slots that it has open."""
    try:
        return Answer(_do(known, *pickle.loads(asked)))
    except Exception as error:
        kept = isinstance(error, PgxError)  # others may be of kinds that cannot be sent
        told = error if kept else DataError(f"{type(error).__name__} in a process of its own: {error}")
        told.add_note(traceback.format_exc())
        return Answer(error=told)


def _do(known: dict[int, Copies], what: str, number: int, args: tuple[Any, ...]) -> Any:
    """What is asked of the slots of a number."""
    if what == "open":
        family, count = args
        known[number] = Copies(cloudpickle.loads(family), count)
    elif what == "place":
        slots, tasks, index = args
        known[number].place(slots, cloudpickle.loads(tasks), index)
    elif what == "restart":
        slots, seeds = args
        first = np.zeros_like(known[number].arrival.obs)
        known[number].restart(slots, seeds, first)
        return first[slots]
    elif what == "step":
        return known[number].step(*args)
    elif number in known:
        known.pop(number).close()
    return None


class RemoteCopies(Placed):
    """S slots in the processes of a crew."""

    def __init__(self, family: TaskFamily, count: int, processes: int):
        """Open the slots; they are shared out at random, since some tasks take longer than others."""
        super().__init__(family, count)
        order = np.random.default_rng(0).permutation(count)
        self.shares = [np.sort(order[i::processes]) for i in range(processes)]
        self.seeds = np.zeros(count, np.int64)
        """Of the running episodes, for errors."""
        self.crew, self.number = crew_of(family.host_env, processes)
        self._asked(self.crew.open, self.number, family, [len(share) for share in self.shares])

    def place(self, slots: np.ndarray, tasks: Tasks, index: np.ndarray) -> None:
        """Give the slots int [S'] the tasks ``index`` int [S']; they must be restarted next."""
        super().place(slots, tasks, index)
        sent = cloudpickle.dumps(tasks)
        self._ask("place", [(own, sent, index[given]) for own, given in self._shared(slots)])

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
        return self._asked(self.crew.ask, what, self.number, some)

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
                f"a process that stepped environments of {self.guard.family!r} died "
                f"({died.why}), with episodes of {', '.join(tasks) or 'no task yet'}{more}; look for "
                f"crashes and missing memory, and go on from the last checkpoint with `pgx-jax resume`"
            ) from died

    def close(self) -> None:
        """Close the slots."""
        super().close()
        with contextlib.suppress(Died):
            self.crew.let_go(self.number)
