"""Processes of a crew on a Ray cluster: actors, wherever there is a core for one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from pgx_jax.cluster import connected, library
from pgx_jax.errors import ConfigError
from pgx_jax.learn.host.copies import Copies
from pgx_jax.learn.host.workers import Answer, Kind, answer, close_crews, made_of
from pgx_jax.steady import usable_cores

PATIENCE = 180.0
"""Seconds in which there must be room for an actor, and what it imports be there."""


class Served:
    """What an actor is: slots that it steps."""

    def __init__(self, path: Sequence[str]) -> None:
        sys.path += [place for place in path if place not in sys.path]  # modules of one's own
        jax.config.update("jax_platforms", "cpu")  # accelerators are not for it
        self.known: dict[int, Copies] = {}

    def answer(self, asked: bytes) -> Answer:
        """To a request about them."""
        return answer(self.known, asked)


class Actor:
    """A process of a cluster, which takes a core of it."""

    def __init__(self) -> None:
        """Start it, as soon as there is room."""
        self.served = library().remote(num_cpus=1)(Served).remote(sys.path)
        self.asked: Any = None
        self.patience: float | None = PATIENCE
        """Seconds for the next answer; after the first one it has its core."""
        self.error = ""

    def send(self, request: bytes) -> None:
        """As a call."""
        self.asked = self.served.answer.remote(request)

    def receive(self) -> Answer:
        """What the call returns.

        Raises:
            ConfigError: there is no room for the actor.
        """
        ray = library()
        try:
            found = ray.get(self.asked, timeout=self.patience)
            self.patience = None
            return found
        except ray.exceptions.GetTimeoutError as error:
            free = ray.available_resources().get("CPU", 0)
            raise ConfigError(
                f"no core of the Ray cluster became free in {PATIENCE:.0f} s for a process that steps "
                f"environments: it has {cores()} cores, and {free:.0f} are free; lower `processes`, or wait"
            ) from error
        except ray.exceptions.RayError as error:
            self.error = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EOFError(self.error) from error

    def end(self) -> None:
        """At once."""
        ray = library()
        if ray.is_initialized():
            ray.kill(self.served)

    def why(self) -> str:
        """What Ray says."""
        return self.error


def cores() -> int:
    """Of the cluster."""
    return max(1, int(library().cluster_resources().get("CPU", 1)))


@contextmanager
def on_ray(address: str = "local") -> Iterator[None]:
    """Within it the processes that step environments are actors of a Ray cluster: as many as an environment
    asks for, or as the cluster has cores.

    All its machines have pgx_jax and the environment's libraries installed, and so many cores must be free.

    Args:
        address: HOST:PORT, "auto" for the cluster that this machine belongs to, or "local" to start one here.

    Raises:
        ConfigError: Ray (extra ``cluster``) is not installed, or no such cluster can be reached.
    """
    kind = Kind(Actor, cores, here=False)
    with connected(address, usable_cores()), made_of(kind):
        try:
            yield
        finally:
            close_crews(kind=kind)
