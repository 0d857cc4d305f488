"""The surrogates that all solve, and the judge of solutions."""

from dataclasses import dataclass

import numpy as np
from regressions import Regression
from worker import shared


@dataclass
class Problems:
    """All surrogates of one ridge."""

    features: np.ndarray
    """[n, N, d]."""
    a: np.ndarray
    """[n, N], signed weights."""
    member: np.ndarray
    """bool [m, n]."""
    l2: float
    single: list
    """m regressions in float64."""
    optima: list
    """Their least losses."""

    @classmethod
    def read(cls):
        """Those that our script left."""
        with np.load(shared("surrogates.npz")) as found:
            features, a, member, l2 = (found[name] for name in ("features", "a", "member", "l2"))
        single = [Regression(features, a, row, float(l2)) for row in member]
        return cls(features, a, member, float(l2), single, [one.optimum() for one in single])

    def first(self, count):
        """The first ones alone."""
        few = (self.member[:count], self.l2, self.single[:count], self.optima[:count])
        return Problems(self.features, self.a, *few)

    def told(self):
        """What must be equal for all."""
        return {
            "transitions": int(self.a.size),
            "dim": int(self.features.shape[-1]),
            "subsets": len(self.member),
            "size": int(self.member.sum(1).max()),
        }

    def gap(self, deltas):
        """The largest (L - L*) / (L(0) - L*) of solutions [m, d]."""
        each = zip(self.single, np.asarray(deltas), self.optima, strict=True)
        return max(one.gap(delta, best) for one, delta, best in each)
