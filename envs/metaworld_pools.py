"""Meta-World in EnvPool's pools: sooner, and nearly the same (the package ``envpool``).

What differs from Meta-World itself: goals are drawn anew in every episode instead of from 50, MuJoCo is a
newer one, so that episodes drift apart, and pick-place rewards a grasp a little otherwise. So train here, and
judge on Meta-World itself, which is what evaluation does.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from envs.metaworld_copies import MetaworldEnv, MetaworldTask
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import HostStep

POOLED = 20 * 2**20
"""Bytes of one of EnvPool's copies (measured)."""


class PoolVector:
    """EnvPool's copies of one task as a `HostVector`; they step while others do."""

    autoreset: Literal["next_step"] = "next_step"

    def __init__(self, task: str, count: int):
        """Make nothing before the seeds are known, which EnvPool takes at no other time."""
        words = task.removesuffix("-v3").split("-")
        self.id, self.count = f"MetaWorld/{''.join(map(str.capitalize, words))}-v3", count
        self.env: Any = None

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Start episodes in all slots."""
        import envpool

        self.close()
        self.env = envpool.make_gymnasium(
            self.id, num_envs=self.count, env_seed=np.asarray(seeds).tolist(), num_threads=1,
            partially_observable=False,
        )  # fmt: skip
        return self.env.reset()[0]

    def send(self, actions: np.ndarray) -> None:
        """Let all slots advance, and do not wait."""
        self.env.send(np.asarray(actions, np.float32))

    def receive(self) -> HostStep:
        """What that led to."""
        obs, reward, terminated, truncated, info = self.env.recv()
        return HostStep(obs, reward, terminated, truncated, info["success"] > 0)

    def step(self, actions: np.ndarray) -> HostStep:
        """Advance all slots."""
        self.send(actions)
        return self.receive()

    def close(self) -> None:
        """Close the pool."""
        if self.env is not None:
            self.env.close()


@dataclass(frozen=True)
class PoolEnv(MetaworldEnv):
    """Training in pools; copies, in which policies are judged, are Meta-World's own."""

    def memory(self, count: int, n: int, processes: int) -> int:
        """Bytes that ``count`` copies of n tasks take; in pools each has a model of its own."""
        return super().memory(count, n, processes) if processes else count * POOLED

    def make_vector(self, task: MetaworldTask, count: int) -> PoolVector:
        """A pool of a task."""
        return PoolVector(str(task.name), count)


def check_installed() -> None:
    """ConfigError without EnvPool."""
    if importlib.util.find_spec("envpool") is None:
        raise ConfigError('engine = "envpool" needs the package envpool: pip install envpool')
