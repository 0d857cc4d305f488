"""What goes wrong in host environments, as errors that say where: which task of which family."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

import numpy as np

from pgx_jax.errors import DataError
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.checks import raised

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class Guard:
    """Turns what goes wrong in an environment into errors that name its task."""

    def __init__(self, family: TaskFamily):
        self.family, self.shape = family.name, family.observation_space.shape

    def __call__(
        self, what: str, task: str | None, call: Callable[[*Ts], R], *args: *Ts, of: int | None = None
    ) -> R:
        """``call(*args)``, or a DataError that names the task, and the seed ``of`` the episode if given."""
        try:
            return call(*args)
        except Exception as error:
            raise self.failed(what, task, error, of) from error

    def failed(self, what: str, task: str | None, error: Exception, seed: int | None = None) -> DataError:
        """An environment raised, in an episode of this seed if it is known."""
        at = self._at(task, seed) if task else f"an environment of {self.family!r}"
        return DataError(f"{at} {raised(what, error)}; mend the environment")

    def _at(self, task: str | None, seed: int | None) -> str:
        return f"task {task!r}{'' if seed is None else f' (seed {seed})'} of {self.family!r}"

    def shaped(
        self, obs: np.ndarray, task: str | None, count: int | None = None, seed: int | None = None
    ) -> np.ndarray:
        """The observation(s) as they are, if their shape is the family's."""
        shape = self.shape if count is None else (count, *self.shape)
        if np.shape(obs) != shape:
            raise DataError(
                f"{self._at(task, seed)} returned an observation of shape {np.shape(obs)}; its "
                f"observation space promises {shape}"
            )
        return obs

    def finite(
        self, obs: np.ndarray, reward: np.ndarray, acted: np.ndarray, names: Sequence[str],
        seeds: Sequence[int | None] = (),
    ) -> None:  # fmt: skip
        """Refuse non-finite observations [S, ...] and rewards [S] of slots that acted, bool [S]."""
        if math.isfinite(np.add.reduce(obs, axis=None) + np.add.reduce(reward)):
            return
        for what, values in (("observation", obs), ("reward", reward)):
            sane = np.isfinite(values.reshape(len(reward), -1)).all(1)
            if not sane[acted].all():
                slot = int(np.argmax(~sane & acted))
                at = self._at(names[slot], seeds[slot] if seeds else None)
                raise DataError(f"{at} returned a non-finite {what}; mend the environment")

    def endless(self, task: str) -> DataError:
        """An episode outlived the horizon in a vector that resets by itself."""
        return DataError(
            f"task {task!r} of {self.family!r}: a vector that resets by itself went on past the family's "
            "horizon; give its environments that time limit, or use autoreset 'disabled'"
        )

    def no_final(self, task: str) -> DataError:
        """A same-step vector kept the last observation to itself."""
        return DataError(
            f"task {task!r} of {self.family!r}: its vector resets in the same step, but gave no final_obs "
            "for an episode that ended"
        )
