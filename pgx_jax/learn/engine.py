"""Engines: where environments run. Training, collecting and evaluating know nothing else of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from pgx_jax.learn import device, host
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.work import Saved
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array


class Lane(Protocol):
    """C rows that train side by side, one a slot."""

    segment: int
    """Updates between two looks at the rows."""

    @staticmethod
    def rows_per_call() -> int:
        """C where nobody says otherwise, on this platform."""

    def __init__(self, policy: Policy, learner: Learner, family: TaskFamily, width: int): ...

    def enter(self, slot: int, member: np.ndarray, agent: Agent, key: Array) -> None:
        """Put a row at the start of its training into a slot; the first one fills all slots."""

    def advance(self, member: np.ndarray, total: np.ndarray, count: int, active: np.ndarray) -> np.ndarray:
        """``count`` updates of the ``active`` rows, bool [C]; returns the curves [C, count, n].

        Args:
            member: bool [C, n].
            total: int [C], updates of the rows' budgets.
            count: 1 to ``segment``.
            active: bool [C]; what comes of the others means nothing.
        """

    def save(self, slots: Sequence[int]) -> list[Saved]:
        """What is needed to go on with these rows later, as far as the engine can hold environments: those
        of the device are saved, those of the host are reset."""

    def restore(self, slot: int, saved: Saved) -> None:
        """Go on with a saved row, in the slot where it has just entered."""

    @property
    def agent(self) -> Agent:
        """The agents [C, ...] as NumPy arrays."""

    def close(self) -> None:
        """Free what the lane holds."""


class Engine(NamedTuple):
    """One way of running environments."""

    lane: type[Lane]
    check: Callable
    """(policy, family, agent) -> None: refuses, before training, an agent that cannot act, as far as that
    can be told without a lane (DataError)."""
    experience: Callable
    """(policy, family, agent, index [E], key, T) -> `Steps` [T, E, ...] of one agent in fresh slots on the
    tasks ``index``."""
    play: Callable
    """(policy, family, agents [R, ...], pairs, episodes, deterministic) -> returns, success and length
    [P, episodes] of the first episodes of every pair (`rollout.Pairs`)."""
    adapt: Callable
    """(policy, learner, family, agents [R, ...], pairs) -> agents [P, ...]: of every pair the agent after
    ``learner.adaptation_steps`` on its task."""


ENGINES: dict[str, Engine] = {
    "device": Engine(
        device.DeviceLane, device.check_first_actions, device.experience, device.play, device.adapt
    ),
    "host": Engine(host.HostLane, lambda *_: None, host.experience, host.play, host.adapt),
}
"""Engines by the name that families have (`TaskFamily.engine`)."""


def engine_of(family: TaskFamily) -> Engine:
    """The engine that runs a family's environments."""
    return ENGINES[family.engine]
