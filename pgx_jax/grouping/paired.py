"""Differences between partitions on held-out trajectories, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from pgx_jax.errors import DataError
from pgx_jax.types import Array, Gains


def paired_difference(
    difference: Float[Array, "J"],
    task: Int[Array, "J"],
    n: int,
    trajectory: Int[Array, "J"] | None = None,
) -> tuple[float, float]:
    """Mean over tasks of the mean paired difference of a task, and its standard error.

    Stratified by source: every task counts the same, and differences between tasks are no noise. The
    tasks of a source share its trajectories, and with them the noise, so that the differences of a
    trajectory are summed over its tasks first; trajectories are what is drawn independently. A source
    of a single trajectory takes the pooled variance of the others; if none has two, the spread over
    sources stands in.

    Args:
        difference: float [J], paired differences of gains.
        task: int [J], the task of each; every one of the n tasks has at least one.
        n: number of tasks.
        trajectory: int [J], its trajectory (see `Gains`); None if every task has its own.

    Raises:
        DataError: tasks that share some of their trajectories but not all, or a single trajectory in
            all, shared by all tasks, from which no error can be told.
    """
    mean, stderr = paired_differences(np.asarray(difference)[None], task, n, trajectory)
    return float(mean[0]), float(stderr[0])


def paired_differences(
    difference: Float[Array, "c J"],
    task: Int[Array, "J"],
    n: int,
    trajectory: Int[Array, "J"] | None = None,
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """The `paired_difference` of each of c partitions: means [c] and standard errors [c]."""
    task, rows = np.asarray(task), np.asarray(difference)
    if trajectory is None:
        source_of, sources = task, n
    else:
        source = _sources(task, np.asarray(trajectory))
        sources = int(source.max()) + 1
        _, first, number = np.unique(trajectory, return_index=True, return_inverse=True)
        rows = np.stack([np.bincount(number, weights=row) for row in rows])
        source_of = source[task[first]]
    count = np.bincount(source_of)
    mean = np.stack([np.bincount(source_of, weights=row) for row in rows]) / count
    if (count > 1).any():
        spread = ((row - own[source_of]) ** 2 for row, own in zip(rows, mean, strict=True))
        squares = np.stack([np.bincount(source_of, weights=row) for row in spread])
        pooled = squares.sum(1, keepdims=True) / (count - 1).sum()
        variance = np.where(count > 1, squares / np.maximum(count - 1, 1), pooled)
        return mean.sum(1) / n, np.sqrt(np.sum(variance / count, axis=1)) / n
    if sources == 1:
        raise DataError(
            "all tasks share one held-out trajectory, which tells no error: collect more (or shorter) ones, "
            "in more environments"
        )
    return mean.sum(1) / n, np.std(mean, axis=1, ddof=1) / np.sqrt(sources) * (sources / n)


def _sources(task: Int[np.ndarray, "J"], trajectory: Int[np.ndarray, "J"]) -> Int[np.ndarray, "n"]:
    """int [n]: the source of each task, numbered from 0; tasks of one source have the same trajectories."""
    by_task = np.lexsort((trajectory, task))
    read = np.split(trajectory[by_task], np.cumsum(np.bincount(task))[:-1])
    _, first, source = np.unique([x[0] for x in read], return_index=True, return_inverse=True)
    same = all(np.array_equal(x, read[first[s]]) for x, s in zip(read, source, strict=True))
    if not same or len(np.unique(trajectory)) != sum(len(read[i]) for i in first):
        raise DataError("tasks that share one trajectory must share all of theirs: they read one source")
    return source


def collect_gains(
    labels: Int[np.ndarray, "c n"], score: Callable[[np.ndarray], Gains], names: Sequence[str] | None
) -> Gains:
    """Score the partitions ``labels`` [c, n]: Gains with gain [c, J], checked.

    Raises:
        DataError: gains that are not finite, not paired, or lack a task.
    """
    n = labels.shape[1]
    called = [Gains(*score(row)) for row in labels]
    gain = [np.asarray(one.gain, np.float64) for one in called]
    task, trajectory = np.asarray(called[0].task), called[0].trajectory
    for row, one in zip(gain, called, strict=True):
        if row.ndim != 1 or row.shape != task.shape or not _paired(one, called[0]):
            raise DataError("score must return gain [J] and task [J] with the same tasks for every partition")
    if not len(task) or task.min() < 0 or task.max() >= n:
        raise DataError(f"score must return one of the {n} task indices for every trajectory")
    name = (lambda i: repr(names[i])) if names is not None else str
    missing = np.setdiff1d(np.arange(n), task)
    if len(missing):
        raise DataError(
            f"task {name(missing[0])} has no trajectory to choose the groups by: collect more transitions"
        )
    gains = np.stack(gain)
    if not np.isfinite(gains).all():
        culprit = task[np.argwhere(~np.isfinite(gains))[0, 1]]
        raise DataError(
            f"the held-out gains of task {name(culprit)} are not finite: check its features and "
            "advantages, or raise l2"
        )
    return Gains(gains, task.astype(np.int64), trajectory)


def _paired(one: Gains, other: Gains) -> bool:
    """Whether the rows of two partitions' gains are the same trajectories of the same tasks."""
    if not np.array_equal(one.task, other.task):
        return False
    if one.trajectory is None or other.trajectory is None:
        return one.trajectory is other.trajectory
    return np.array_equal(one.trajectory, other.trajectory)
