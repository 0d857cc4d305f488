"""How certain a partition is, told by partitions of the same tasks from data that were drawn again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from pgx_jax.grouping.rounding import canonical, refine, spectral
from pgx_jax.grouping.sdp import standardise

ELSEWHERE = 0.2
"""A task is undecided if it is with the tasks of another group in more of the draws than this: in
`benchmarks/stability.py` pairs of planted groups that were found were apart in up to 12% of the draws, those
of the one task that was put with others than its planted companions in 30%."""


def co_membership(labels: Int[np.ndarray, "B n"]) -> Float[np.ndarray, "n n"]:
    """How often every pair of tasks is in one group: float [n, n] in [0, 1], symmetric, of diagonal 1."""
    labels = np.asarray(labels)
    return np.mean([row[:, None] == row for row in labels], 0)


class Cohesion(NamedTuple):
    """How often the tasks of each of k groups are together in other partitions."""

    within: Float[np.ndarray, "k"]
    """float [k]: mean over the pairs of a group; NaN of a single task."""
    least: Float[np.ndarray, "k"]
    """float [k]: the least of its pairs; NaN of a single task."""
    across: Float[np.ndarray, "k"]
    """float [k]: the largest of its tasks with one outside; NaN where there is none."""


def cohesion(together: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"]) -> Cohesion:
    """That of the groups ``labels`` by a co-membership [n, n]."""
    rows, alone = [], ~np.eye(len(labels), dtype=bool)
    for group in range(int(labels.max()) + 1):
        inside = labels == group
        pairs = together[np.outer(inside, inside) & alone]
        outer = together[np.outer(inside, ~inside)]
        rows.append((*(_of(np.mean, pairs), _of(np.min, pairs)), _of(np.max, outer)))
    return Cohesion(*np.array(rows).T)


def _of(measure: object, values: np.ndarray) -> float:
    return float(measure(values)) if len(values) else float("nan")  # type: ignore[operator]


class Undecided(NamedTuple):
    """A task that may as well belong elsewhere."""

    task: int
    own: float
    """How often it is with a task of its group, on average; NaN of a single task."""
    other: int
    """The other group whose tasks it is with most often."""
    elsewhere: float
    """How often it is with a task of that group, on average."""


def undecided(
    together: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], most: float = ELSEWHERE
) -> list[Undecided]:
    """The tasks that may as well belong elsewhere, the least decided first: on average, they are with the
    tasks of one other group in more of the draws than ``most``, and without those of their own in as many (if
    they have any), or without these in more than half."""
    labels = canonical(labels)
    k, others, found = int(labels.max()) + 1, ~np.eye(len(labels), dtype=bool), []
    for task, label in enumerate(labels):
        means = [_of(np.mean, together[task, others[task] & (labels == group)]) for group in range(k)]
        own, means[label] = means[label], -1.0
        other = int(np.argmax(means))
        leaves = not own >= 1 - most  # NaN of a single task
        if k > 1 and (own < 0.5 or (leaves and means[other] > most)):
            found.append(Undecided(task, own, other, means[other]))
    return sorted(found, key=lambda one: one.elsewhere - np.nan_to_num(one.own), reverse=True)


def nearby(matrices: Iterable[ArrayLike], labels: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c n"]:
    """Partitions into as many groups as ``labels`` has that affinities [n, n] propose, without a relaxation:
    the best that a local search reaches from each one's own leading eigenvectors, and from ``labels``."""
    k, found = int(labels.max()) + 1, {}
    for matrix in matrices:
        U = standardise(matrix)
        for start in (spectral(U, k), labels):
            one = refine(U, start)
            found[one.tobytes()] = one
    return np.array(list(found.values()))


def best_of_each(values: Float[np.ndarray, "B c"], labels: Int[np.ndarray, "c n"]) -> Int[np.ndarray, "B n"]:
    """The candidate of the highest value in every draw."""
    return np.asarray(labels)[np.argmax(values, 1)]


def chosen_of_each(
    values: Float[np.ndarray, "B c"],
    k: Int[np.ndarray, "c"],
    *,
    standard_errors: float = 2.0,
    min_share: float = 0.0,
) -> Int[np.ndarray, "B"]:
    """The candidate that the rule of `select` takes in every draw, with the spread over the draws as the
    standard error of a difference."""
    best, rows = np.argmax(values, 1), np.arange(len(values))
    difference = values[rows, best][:, None] - values
    spread = np.cov(values.T).reshape(len(k), len(k))
    variance = np.diag(spread)
    error = np.sqrt(np.maximum(variance[best][:, None] + variance - 2 * spread[best], 0.0))
    one = np.where(k == 1, difference, 0.0).max(1, keepdims=True)
    equal = difference <= np.maximum(standard_errors * error, min_share * one) + 1e-12 * np.abs(values).max()
    least = np.where(equal, k, k.max()).min(1, keepdims=True)
    return np.argmax(np.where(equal & (k == least), values, -np.inf), 1)
