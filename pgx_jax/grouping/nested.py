"""What a split gains, told by data that neither proposed nor chose it."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


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
    opposition: float
    """Gain of the tasks, to first order, from the step of all tasks that are not in their group: below zero
    where they want opposite things."""
    opposition_stderr: float

    @property
    def z(self) -> float:
        """The gain in standard errors."""
        return self.gain / self.stderr if self.stderr > 0 else math.copysign(math.inf, self.gain)

    def plain(self) -> dict[str, np.ndarray]:
        """As arrays, for a grouping's path."""
        return {f"nested_{name}": np.asarray(value) for name, value in self._asdict().items()} | {
            "nested_z": np.array(self.z)
        }


def threshold(level: float) -> float:
    """How many standard errors above zero a gain must be, one-sided at this level."""
    return NormalDist().inv_cdf(1 - level)
