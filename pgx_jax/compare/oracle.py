"""The best of all partitions of a few tasks, by true training: what any grouping could come to.

Every nonempty subset of the tasks trains a policy of its own, from scratch and with its tasks' share of the
total, as a group of a partition would. So 2^n - 1 policies serve all partitions, each of which earns what the
policies of its groups earn. All of them together take many times the total.

Episodes that the methods are not judged by choose: the luck of an evaluation is not in what the best
partition is then said to earn. The luck of a training is, as long as these very policies are judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pgx_jax import grouping
from pgx_jax.compare.judging import play
from pgx_jax.compare.methods import Contest, Method, method
from pgx_jax.compare.pool import Pool, Row, train_pool
from pgx_jax.config import COMPARE, Config
from pgx_jax.learn import Policy
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent

MOST_TASKS = 5
"""Tasks up to which it is asked for: 31 policies, 52 partitions, and 16 times the total."""


class Oracle(NamedTuple):
    """All partitions, and what their policies earn."""

    labels: Int[np.ndarray, "n"]
    """int [n]: the partition that earns most, canonical; of several the one with the fewest groups."""
    partitions: Int[np.ndarray, "B n"]
    """int [B, n]: all of them, by their number of groups."""
    means: Float[np.ndarray, "B"]
    """float [B]: mean over tasks of the episodes that chose."""
    pool: Pool
    """The policies of all 2^n - 1 subsets."""
    spent: Int[np.ndarray, ""]
    """int []: environment steps of these episodes, adapting included."""

    @property
    def steps(self) -> int:
        """All environment steps that the search took."""
        return int(self.spent) + sum(row.steps for row in self.pool.rows)


def searches(config: Config, n: int) -> bool:
    """Whether the best partition of n tasks is searched for: if all is compared, and they are few."""
    return config.compare == COMPARE[-1] and 1 < n <= MOST_TASKS


def planned(contest: Contest) -> list[Row]:
    """The policies that the search would train; none where there is no search.

    Raises:
        ConfigError: the total leaves some task alone without an update.
    """
    return _rows(_methods(contest)) if searches(contest.config, contest.budget.n) else []


def search(
    contest: Contest, policies: Mapping[str, Policy], family: TaskFamily, meta: Agent, **kw: Any
) -> Oracle:
    """Train a policy for every nonempty subset of the tasks, and find the partition that earns most.

    Args:
        contest: the rule of comparison.
        policies: by the names that rows have.
        family: the tasks.
        meta: theta*; no policy continues it.
        kw: progress, checkpoint and metrics, see `train_pool`.

    Raises:
        ConfigError: the total leaves some task alone without an update.
    """
    made = _methods(contest)
    pool = train_pool(_rows(made), policies, contest.learners, family, contest.config, meta, **kw)
    played = play(pool, policies, contest.learners, family, contest.config, "oracle")
    means = np.array([played.of(m).mean() for m in made])
    partitions = np.stack([m.labels for m in made])
    return Oracle(partitions[means.argmax()], partitions, means, pool, np.array(played.steps))


def _methods(contest: Contest) -> list[Method]:
    """All partitions [B], by their number of groups, each with the total."""
    partitions = grouping.all_partitions(contest.budget.n)
    partitions = partitions[np.argsort(partitions.max(1), kind="stable")]
    return [method(contest, labels, contest.budget.total) for labels in partitions]


def _rows(made: Sequence[Method]) -> list[Row]:
    """Their policies, each once."""
    return list(dict.fromkeys(row for m in made for row in m.rows))
