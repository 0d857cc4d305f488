"""Who hears what a run is doing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock

from pgx_jax.learn import Metrics


class Listener:
    """Hears what a run is doing; this one keeps silent.

    Attributes:
        metric: what the family is judged by, as the run says when it begins.
    """

    metric = "return"

    def start(self, stage: str) -> None:
        """A stage begins."""

    def expect(self, steps: int) -> None:
        """The first training begins: about how many environment steps the run takes in all, its evaluation
        among them."""

    def progress(self, done: int, total: int, recent: float, at_end: float | None = None) -> None:
        """Training goes on: environment steps done and in all, recent mean return. Where tasks are judged by
        success, that in any step of an episode, and that in the last one (which is told of no others)."""

    def metrics(self, metrics: Metrics) -> None:
        """Training goes on: what the last updates of one policy came to (`learn.Metrics`): return by task,
        and loss, divergence, entropy and whatever else its learner measures. They come where the host looks
        at the training anyway, some updates at a time. Updates may come again, after some that were later:
        where training has gone back for want of memory, or goes on from what was saved before it stopped. The
        last told are those that count."""

    def doing(self, what: str) -> None:
        """A part of the stage, or of what comes after the last one, begins, in a few words."""

    def finish(self, stage: str, seconds: float, text: str) -> None:
        """A stage has ended, with its result in one line."""

    def loaded(self, stage: str, text: str) -> None:
        """A stage was done in an earlier sitting and has been read from the run's folder."""

    def close(self) -> None:
        """Nothing more comes in this sitting: the run has ended, or was stopped."""


def _to_all(event: str) -> Callable[..., None]:
    def tell(self: Several, *what: object) -> None:
        with self.lock:
            for listener in self.listeners:
                getattr(listener, event)(*what)

    return tell


class Several(Listener):
    """Tells several listeners, one event after the other, whichever threads they come from."""

    def __init__(self, listeners: Sequence[Listener]):
        """Tell these, in order."""
        self.listeners, self.lock = tuple(listeners), RLock()

    @property
    def metric(self) -> str:  # type: ignore[override]
        """What the family is judged by."""
        return self.listeners[0].metric if self.listeners else "return"

    @metric.setter
    def metric(self, name: str) -> None:
        for listener in self.listeners:
            listener.metric = name

    start, expect, progress = _to_all("start"), _to_all("expect"), _to_all("progress")
    metrics, doing, finish = _to_all("metrics"), _to_all("doing"), _to_all("finish")
    loaded, close = _to_all("loaded"), _to_all("close")


Listeners = Callable[[int], Listener]
"""Makes what listens to the run of a training seed."""
