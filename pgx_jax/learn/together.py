"""Threads side by side, and what all of them ask for at the same time answered in one go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from threading import Condition, Event, Thread
from typing import Any, Generic, TypeVar

Asked = TypeVar("Asked")
Got = TypeVar("Got")


class Stopped(BaseException):
    """What ends a thread whose meeting was called off; no error of its own."""


class Meeting(Generic[Asked, Got]):
    """Threads that take turns and meet where they ask for something.

    One of them is awake at a time: what they share needs no locks, no program is compiled twice, and no two
    hold what a stage needs in memory. One that asks sleeps until all others ask as well, or have ended; then
    all are answered at once, in the thread of the caller (who alone hears of an interrupt).
    """

    def __init__(self, answer: Callable[[list[Asked]], Sequence[Got]]):
        """Prepare a meeting.

        Args:
            answer: what was asked for -> an answer to each. An error of several is traced to those who meet
                it alone.
        """
        self.answer = answer
        self.turn = Condition()
        """Held by the thread that is awake."""
        self.met = Event()
        """All who are present have asked."""
        self.present = 0
        self.asked: dict[int, Asked] = {}
        self.answers: dict[int, Got | Exception] = {}
        self.over = False

    def hold(self, bodies: Sequence[Callable[[], object]]) -> list[Exception | None]:
        """Call all bodies, each in a thread of its own, and wait for them.

        Returns:
            The error that ended each, or None. It does not end the others.

        Raises:
            BaseException: an interrupt, or what is no `Exception` in a body; the others are called off
                first, wherever they ask for something (or give way).
        """
        errors: list[BaseException | None] = [None] * len(bodies)
        threads = [Thread(target=self._attend, args=(i, body, errors)) for i, body in enumerate(bodies)]
        self.present = len(bodies)
        try:
            for thread in threads:
                thread.start()
            while self.present and self.met.wait() and not self.over:
                self._answer()
        finally:
            self.over = True
            with self.turn:
                self.turn.notify_all()
            for thread in filter(Thread.is_alive, threads):
                thread.join()
        for error in errors:
            if error is not None and not isinstance(error, Exception | Stopped):
                raise error
        return [error if isinstance(error, Exception) else None for error in errors]

    def _attend(self, number: int, body: Callable[[], object], errors: list[BaseException | None]) -> None:
        _PLACE.set((self, number))
        with self.turn:
            try:
                self._stop_if_over()
                body()
            except BaseException as error:
                errors[number] = error
                self.over = self.over or not isinstance(error, Exception)
            self.present -= 1
            self._look()

    def ask(self, number: int, what: Asked) -> Got:
        """The answer to what a thread asks for, once all others ask, too.

        Raises:
            Stopped: the meeting was called off, and there is none.
        """
        self._stop_if_over()
        self.asked[number] = what
        self._look()
        self.turn.wait_for(lambda: number in self.answers or self.over)
        if number not in self.answers:
            raise Stopped
        answer = self.answers.pop(number)
        self.turn.notify_all()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def give_way(self) -> None:
        """Let those go first whose answer waits for them, so that it is soon used and saved.

        Raises:
            Stopped: the meeting was called off.
        """
        self.turn.wait_for(lambda: not self.answers or self.over)
        self._stop_if_over()

    def _stop_if_over(self) -> None:
        if self.over:
            raise Stopped

    def _look(self) -> None:
        """Wake the caller if nobody is left who may still ask."""
        if len(self.asked) == self.present or self.over:
            self.met.set()

    def _answer(self) -> None:
        with self.turn:
            self.met.clear()
            if self.asked and not self.over:
                numbers = sorted(self.asked)
                found = self._each([self.asked[number] for number in numbers])
                self.answers = dict(zip(numbers, found, strict=True))
                self.asked = {}
                self.turn.notify_all()

    def _each(self, asked: list[Asked]) -> list[Got | Exception]:
        """An answer to each, or the error that it meets alone."""
        try:
            return list(self.answer(asked))
        except Exception as error:
            return [error] if len(asked) == 1 else [self._each([one])[0] for one in asked]


_PLACE: ContextVar[tuple[Meeting[Any, Any], int] | None] = ContextVar("place", default=None)
"""The meeting of this thread, and its number there."""


def place() -> tuple[Meeting[Any, Any], int] | None:
    """The meeting that this thread takes part in, and its number there."""
    return _PLACE.get()


def give_way() -> None:
    """Between two steps of a thread's work: let others go first (`Meeting.give_way`), or stop, if the meeting
    that it takes part in was called off."""
    found = place()
    if found is not None:
        found[0].give_way()
