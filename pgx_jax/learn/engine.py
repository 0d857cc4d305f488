"""Engines: where environments run. Training, collecting and evaluating know nothing else of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pgx_jax.learn import device, host
from pgx_jax.learn.lane import Lane
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Pairs, Steps
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array


class Engine(NamedTuple):
    """One way of running environments."""

    lane: type[Lane]
    experience: Callable[[Policy, TaskFamily, Agent, np.ndarray, Array, int], Steps]
    """(policy, family, agent, index [E], key, T) -> `Steps` [T, E, ...] of one agent in fresh slots on the
    tasks ``index``."""
    play: Callable[[Policy, TaskFamily, Agent, Pairs, int, bool], tuple[np.ndarray, ...]]
    """(policy, family, agents [R, ...], pairs, episodes, deterministic) -> returns, success in any
    step and in the last one, and length, [P, episodes] each, of the first episodes of every pair
    (`rollout.Pairs`)."""
    adapt: Callable[[Policy, Learner, TaskFamily, Agent, Pairs], tuple[Agent, np.ndarray]]
    """(policy, learner, family, agents [R, ...], pairs) -> agents [P, ...], of every pair the agent after
    a round of adapting to its task, and float [P], how far that has brought it (`stopping.drift`)."""


ENGINES: dict[str, Engine] = {
    "device": Engine(device.DeviceLane, device.experience, device.play, device.adapt),
    "host": Engine(host.HostLane, host.experience, host.play, host.adapt),
}
"""Engines by the name that families have (`TaskFamily.engine`)."""


def engine_of(family: TaskFamily) -> Engine:
    """The engine that runs a family's environments."""
    return ENGINES[family.engine]
