"""One running copy of a host environment with Gymnasium's interface, rebuilt for every other task."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pgx_jax.tasks import HostStep
from pgx_jax.types import Array


class GymnasiumTask(NamedTuple):
    """A task; with a leading axis n for a set of tasks."""

    arguments: dict[str, Any]
    """Keyword arguments of the environment."""
    weights: Array | None = None
    """float32 [K]: of the environment's vector reward, where it has one."""


class Copy:
    """One environment; another task rebuilds it."""

    def __init__(self, maker: Any):
        """Make nothing yet; ``maker`` is a `GymnasiumEnv`."""
        self.maker, self.env, self.task = maker, None, None

    def reset(self, seed: int, task: GymnasiumTask) -> np.ndarray:
        """Start an episode."""
        if task is not self.task:
            self.close()
            self.env, self.task = self.maker.build(task), task
            self.weights, self._step = task.weights, self.env.step
        return self.env.reset(seed=seed)[0]

    def step(self, action) -> HostStep:
        """Advance; a vector reward is weighted."""
        obs, reward, terminated, truncated, info = self._step(action)
        success = bool(info.get(self.maker.success, False)) if self.maker.success else False
        if self.weights is None:
            return HostStep(obs, reward, terminated, truncated, success)
        return HostStep(obs, np.dot(self.weights, reward), terminated, truncated, success, reward)

    def render(self) -> np.ndarray:
        """Draw the present state."""
        return np.asarray(self.env.render())

    def close(self) -> None:
        """Close the environment."""
        if self.env is not None:
            self.env.close()
