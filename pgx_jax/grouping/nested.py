"""What a split gains, told by data that neither proposed nor chose it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

FEW_TASKS = 4
"""Up to so many tasks there are at most 14 splits, and parts of the data choose the same one by luck."""


class Nested(NamedTuple):
    """The gain of splits over one group, each judged by a part of the data from which it was not chosen.

    Gains are means over the parts that judge, and their standard errors hold the noise of what is fitted.
    """

    labels: Int[np.ndarray, "F n"]
    """int [F, n]: the split that was chosen without each of the parts."""
    gain: float
    stderr: float
    null: float
    """Mean gain of random partitions into groups of the same sizes, judged in the same way."""
    together: float
    """Gain of one group over what theta* is: what training one policy for all on still brings."""
    opposition: float
    """Gain of the tasks, to first order, from the step of all tasks that are not in their group: below zero
    where they want opposite things, above it where they differ in the states that they see, in scale or in
    how much they know, and not in what they want."""
    opposition_stderr: float

    @property
    def z(self) -> float:
        """The gain in standard errors."""
        return _in_errors(self.gain, self.stderr)

    def kind(self, needed: float) -> Literal["conflict", "company", "apart"]:
        """What the step of all other groups' tasks does to a task, where it is more than ``needed`` standard
        errors: "conflict" (harm) or "company" (help); else "apart"."""
        z = _in_errors(self.opposition, self.opposition_stderr)
        return "conflict" if z < -needed else "company" if z > needed else "apart"

    @property
    def agreed(self) -> bool:
        """Whether the same split was chosen without each of the parts, of tasks that are too many for that to
        be luck."""
        many = self.labels.shape[1] > FEW_TASKS
        return many and bool((self.labels == self.labels[0]).all())

    def pays(self, needed: float, min_ratio: float = 0.0, agreed_ratio: float | None = None) -> bool:
        """Whether a split gains more than ``needed`` standard errors, and more than ``min_ratio`` times what
        is to be gained together; ``agreed_ratio`` takes its place where it is less and the parts `agreed`."""
        ratio = min_ratio if agreed_ratio is None or not self.agreed else min(min_ratio, agreed_ratio)
        return self.z > needed and self.gain > ratio * self.together

    def plain(self) -> dict[str, np.ndarray]:
        """As arrays, for a grouping's path."""
        return {f"nested_{name}": np.asarray(value) for name, value in self._asdict().items()}

    @classmethod
    def of(cls, path: Mapping[str, Any] | None) -> Nested | None:
        """What `plain` put into a path; None if it did not."""
        if path is None or "nested_gain" not in path:
            return None
        labels, *others = (np.asarray(path[f"nested_{name}"]) for name in cls._fields)
        return cls(labels, *map(float, others))


def _in_errors(value: float, error: float) -> float:
    return value / error if error > 0 else math.copysign(math.inf, value) if value else 0.0


def threshold(level: float) -> float:
    """How many standard errors above zero a gain must be, one-sided at this level."""
    return NormalDist().inv_cdf(1 - level)


def interval(mean: float, stderr: float) -> tuple[float, float]:
    """The normal 95% interval."""
    return mean - 1.96 * stderr, mean + 1.96 * stderr
