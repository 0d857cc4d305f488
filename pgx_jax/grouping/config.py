"""Settings of the grouping."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pgx_jax.errors import ConfigError, check_types
from pgx_jax.grouping.sdp import SDP_SOLVERS
from pgx_jax.types import Named


@dataclasses.dataclass(frozen=True)
class GroupingConfig:
    """Settings of the grouping; the defaults are meant for every family.

    Attributes:
        trace_penalty: price of a group in standardised units; None chooses along the path.
        penalties: grid of trace penalties of the path of up to 16 tasks; of more it is multiplied by n / 16.
        max_groups: largest k among the candidates; None allows any. (The relaxation is solved at each k up
            to 12, and of more than 16 tasks at further ones up to n / 2; all alone is a candidate, too.)
        standard_errors: how many standard errors below the best candidate count as equal to it.
        min_share: so does a smaller part than this of what the best candidate gains over one group:
            more groups must pay for the data that each of them loses.
        level: chance of splitting where nothing is gained by it, over all looks at the same tasks; at most
            .5, where any gain splits.
        min_ratio: least gain of a split, in multiples of what one policy for all still has to gain: as long
            as training together brings more, nothing needs to be split. (Where physics alone differ a
            split gains a little, of which training has nothing.) 0 leaves the test of noise alone.
        agreed_ratio: the same where all parts of the data choose one and the same split (of more than four
            tasks, or that is luck), if it is less.
        group_ratio: the same for groups that were split off, of tasks among which there is a conflict.
        exhaustive_up_to: up to this n all partitions are candidates, without a relaxation.
        lone_tasks: also try each task alone against all the others together. Centring takes a task
            that goes with none of the others for an additive effect, so that its affinities do not
            show it (from 6 tasks on); n more candidates also mean more chances to split by luck.
        resamples: times that trajectories are drawn again to tell how certain the affinity and the groups
            are (fewer of more than some 200 tasks); 0 leaves that out.
        solver: a name of `SDP_SOLVERS`, or None for the fastest one at this n.
    """

    trace_penalty: float | None = None
    penalties: tuple[float, ...] = (0.1, 0.3, 0.6, 1.0, 1.6, 2.5, 4.0, 6.5, 10.0)
    max_groups: int | None = None
    standard_errors: float = 2.0
    min_share: float = 0.03
    level: float = 0.05
    min_ratio: float = 1.0
    agreed_ratio: float = 0.6
    group_ratio: float = 0.5
    exhaustive_up_to: int = 5
    lone_tasks: bool = False
    resamples: int = 200
    solver: Named[str, SDP_SOLVERS] | None = None

    def __post_init__(self) -> None:
        check_types(self, GroupingConfig, "grouping")
        penalties = (*self.penalties, self.trace_penalty or 0.0)
        if not all(np.isfinite(penalty) and penalty >= 0 for penalty in penalties):
            raise ConfigError(f"trace penalties must be finite and not negative, got {penalties}")
        if self.max_groups is not None and self.max_groups < 1:
            raise ConfigError(f"max_groups = {self.max_groups}: at least 1 group is needed")
        if self.resamples != 0 and self.resamples < 2:
            raise ConfigError(f"resamples = {self.resamples}: at least 2 draws tell of a spread, 0 of none")
        for name in ("standard_errors", "min_share", "min_ratio", "agreed_ratio", "group_ratio"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} = {getattr(self, name)} must not be negative")
        if not 0 < self.level <= 0.5:
            raise ConfigError(f"level = {self.level} must lie above 0 and not above .5")
        if self.exhaustive_up_to > 8:
            raise ConfigError(
                f"exhaustive_up_to = {self.exhaustive_up_to}: more than 4140 partitions; use <= 8"
            )

    def check(self, n: int, k: int | None = None) -> None:
        """Refuse settings with which n tasks cannot be grouped, into k groups if k is given.

        Raises:
            ConfigError: naming setting and remedy.
        """
        if k is None:
            return
        if not (1 <= k <= n and k == int(k)):
            raise ConfigError(f"k = {k}, but there are {n} tasks; choose a whole number from 1 to {n}")
        if self.max_groups is not None and k > self.max_groups:
            raise ConfigError(
                f"k = {k} is more than grouping.max_groups = {self.max_groups}; change one of them"
            )
        if self.trace_penalty is not None:
            raise ConfigError(
                f"give either k (= {k}) or grouping.trace_penalty (= {self.trace_penalty}), not both"
            )

    def rule(self, k: int | None) -> dict[str, Any]:
        """What `select` takes: the arg max where k or the penalty is given, else the careful rule."""
        careful = k is None and self.trace_penalty is None
        return {name: getattr(self, name) if careful else 0.0 for name in ("standard_errors", "min_share")}
