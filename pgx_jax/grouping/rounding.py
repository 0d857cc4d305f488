"""From the relaxed matrix X to a partition: several roundings, the best discrete objective kept.

Each rounding alone fails somewhere (components chain groups together, pivots break at ties,
spectral needs the right k), so all of them are run, each result is improved by a local search,
and the partition with the highest objective ``<U, X(labels)> - trace_penalty * k`` is returned.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

_IMPROVEMENT = 1e-9
"""Smallest improvement of the local search, relative to the largest entry of U."""


def canonical(labels: ArrayLike) -> Int[np.ndarray, "n"]:
    """Rename the groups by first appearance: int [n] with labels 0 … k-1."""
    labels = np.asarray(labels)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)].astype(np.int64)


def partition_matrix(labels: ArrayLike) -> Float[np.ndarray, "n n"]:
    """The normalised partition matrix X(labels), float64 [n, n]: 1/|C| inside a group C, else 0."""
    labels = np.asarray(labels)
    same = labels[:, None] == labels[None, :]
    return same / same.sum(1, keepdims=True)


def objective(U: ArrayLike, labels: ArrayLike, trace_penalty: float = 0.0) -> float:
    """The discrete objective <U, X(labels)> - trace_penalty * k, in units of U."""
    return float(np.sum(np.asarray(U) * partition_matrix(labels)) - trace_penalty * len(np.unique(labels)))


def all_partitions(n: int, k: int | None = None) -> Int[np.ndarray, "count n"]:
    """Every partition of n tasks (into k groups if given), canonical labels int [count, n].

    There are 2, 5, 15, 52, 203, 877 for n = 2 … 7.
    """
    rows = [[0]]
    for _ in range(n - 1):
        rows = [[*row, group] for row in rows for group in range(max(row) + 2)]
    labels = np.array(rows, dtype=np.int64)
    return labels if k is None else labels[labels.max(1) + 1 == k]


def components(X: Float[np.ndarray, "n n"], k: int | None = None) -> Int[np.ndarray, "n"]:
    """Connected components of the links with X_ij > min(X_ii, X_jj)/2, or the k of single linkage."""
    diagonal = np.maximum(np.diag(X), 1e-12)
    relative = X / np.minimum(diagonal[:, None], diagonal[None, :])
    if k is None:
        return canonical(connected_components(relative > 0.5, directed=False)[1])
    distance = 2.0 - np.clip(relative, 0.0, 2.0)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "single")
    return canonical(cut_tree(tree, n_clusters=k)[:, 0])


def pivot(X: Float[np.ndarray, "n n"]) -> Int[np.ndarray, "n"]:
    """Take the most decided task as a pivot, group it with all that share half its weight, repeat."""
    labels = np.full(len(X), -1)
    for i in np.argsort(-np.sum(X**2, axis=1), kind="stable"):
        if labels[i] < 0:
            labels[(labels < 0) & (X[i] > X[i, i] / 2)] = labels.max() + 1
            if labels[i] < 0:
                labels[i] = labels.max() + 1
    return canonical(labels)


def spectral(X: Float[np.ndarray, "n n"], k: int) -> Int[np.ndarray, "n"]:
    """Ward's clustering of the rows of X's leading k eigenvectors, scaled to unit length."""
    from sklearn.cluster import AgglomerativeClustering  # here: a second that few need to wait for

    if k == 1:
        return np.zeros(len(X), dtype=np.int64)
    values, vectors = np.linalg.eigh(X)
    rows = vectors[:, -k:] * np.sqrt(np.maximum(values[-k:], 0.0))
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return canonical(AgglomerativeClustering(n_clusters=k).fit_predict(rows))


class _State:
    """Sums over the groups of a labelling, from which the effect of any change is closed-form."""

    def __init__(self, U: np.ndarray, labels: ArrayLike):
        self.U, self.labels = U, canonical(labels)
        self.k = int(self.labels.max()) + 1
        member = np.eye(self.k)[self.labels]
        self.to_group = U @ member
        self.between = member.T @ self.to_group
        self.within = np.diag(self.between)
        self.size = member.sum(0)

    def leave(self) -> Float[np.ndarray, "n"]:
        """Change of the objective, [n], when a task leaves its group, counted without the task."""
        own = np.arange(len(self.labels)), self.labels
        rest = self.within[self.labels] - 2 * self.to_group[own] + np.diag(self.U)
        size = self.size[self.labels]
        return np.where(size > 1, rest / np.maximum(size - 1, 1), 0.0) - self.within[self.labels] / size

    def move(self) -> Float[np.ndarray, "n options"]:
        """Change [n, k + 1] when a task moves to a group; the last column is a group of its own."""
        joined = (self.within + 2 * self.to_group + np.diag(self.U)[:, None]) / (self.size + 1)
        gain = self.leave()[:, None] + joined - self.within / self.size
        gain[np.arange(len(gain)), self.labels] = -np.inf
        alone = np.where(self.size[self.labels] > 1, self.leave() + np.diag(self.U), -np.inf)
        return np.concatenate([gain, alone[:, None]], axis=1)

    def swap(self) -> Float[np.ndarray, "n n"]:
        """Change [n, n] when two tasks of different groups trade places."""
        own, u = self.to_group[np.arange(len(self.U)), self.labels], np.diag(self.U)
        other = self.to_group[:, self.labels]  # [i, j]: task i to the group of j
        mine = 2 * (other.T - self.U - own[:, None]) + u[:, None] + u[None, :]
        mine = mine / self.size[self.labels][:, None]
        gain = mine + mine.T
        gain[self.labels[:, None] == self.labels[None, :]] = -np.inf
        return gain

    def merge(self) -> Float[np.ndarray, "k k"]:
        """Change [k, k] when two groups become one."""
        mean = self.within / self.size
        union = self.within[:, None] + self.within[None, :] + 2 * self.between
        gain = union / (self.size[:, None] + self.size[None, :]) - mean[:, None] - mean[None, :]
        np.fill_diagonal(gain, -np.inf)
        return gain


def _argmax(gain: np.ndarray) -> tuple[float, tuple[int, int]]:
    if not gain.size:
        return -np.inf, (0, 0)
    row, column = np.unravel_index(np.argmax(gain), gain.shape)
    return float(gain[row, column]), (int(row), int(column))


def _with(labels: np.ndarray, task: int | list[int], group: int | np.ndarray) -> Int[np.ndarray, "n"]:
    labels = labels.copy()
    labels[task] = group
    return canonical(labels)


def with_k(U: Float[np.ndarray, "n n"], labels: ArrayLike, k: int) -> Int[np.ndarray, "n"]:
    """Merge groups, or split tasks off, greedily by the objective until there are k groups."""
    labels = canonical(labels)
    while (state := _State(U, labels)).k != k:
        if state.k > k:
            _, (a, b) = _argmax(state.merge())
            labels = canonical(np.where(labels == b, a, labels))
        else:
            labels = _with(labels, int(np.argmax(state.move()[:, -1])), state.k)
    return labels


def refine(U: ArrayLike, labels: ArrayLike, trace_penalty: float | None = None) -> Int[np.ndarray, "n"]:
    """Improve a partition by local search: the best move, swap or merge until none helps.

    Args:
        U: float [n, n], symmetric.
        labels: int [n], the start.
        trace_penalty: price of a group; None keeps the number of groups as it is.

    Returns:
        Canonical labels int [n] of an objective at least as high.
    """
    U, labels = np.asarray(U, dtype=np.float64), canonical(labels)
    threshold = _IMPROVEMENT * max(np.abs(U).max(), trace_penalty or 0.0)
    while True:
        state = _State(U, labels)
        move, merge = state.move(), state.merge()
        last = state.size[labels] == 1
        if trace_penalty is None:
            move[:, -1], move[last], merge = -np.inf, -np.inf, merge[:0]
        else:
            move[:, -1] -= trace_penalty
            move[last] += trace_penalty
            merge = merge + trace_penalty
        found = [_argmax(move), _argmax(state.swap()), _argmax(merge)]
        best = int(np.argmax([gain for gain, _ in found]))
        gain, (a, b) = found[best]
        if not gain > threshold:
            return labels
        if best == 0:
            labels = _with(labels, a, b)
        elif best == 1:
            labels = _with(labels, [a, b], labels[[b, a]])
        else:
            labels = canonical(np.where(labels == b, a, labels))


def roundings(
    X: Float[np.ndarray, "n n"], U: Float[np.ndarray, "n n"], k: int | None = None
) -> list[np.ndarray]:
    """All roundings of X [n, n] that differ, canonical; brought to exactly k groups when k is given."""
    n, trace = len(X), float(np.trace(X))
    sizes = {k} if k is not None else {int(np.floor(trace + 1e-3)), int(np.ceil(trace - 1e-3))}
    starts = [components(X), pivot(X)]
    for size in sorted(int(np.clip(size, 1, n)) for size in sizes):
        starts += [components(X, size), spectral(X, size)]
    if k is not None:
        starts = [with_k(U, labels, k) for labels in starts]
    return list({labels.tobytes(): labels for labels in starts}.values())


def round_sdp(
    X: ArrayLike, U: ArrayLike, *, k: int | None = None, trace_penalty: float | None = None
) -> Int[np.ndarray, "n"]:
    """Round X to the partition with the best discrete objective that the roundings lead to.

    Args:
        X: float [n, n], a solution of the relaxation.
        U: float [n, n], the affinity with which it was solved.
        k: exact number of groups, or None.
        trace_penalty: price of a group when k is None.

    Returns:
        Canonical labels, int [n].
    """
    X, U = np.asarray(X, dtype=np.float64), np.asarray(U, dtype=np.float64)
    penalty = None if k is not None else float(trace_penalty or 0.0)
    found = [refine(U, labels, penalty) for labels in roundings(X, U, k)]
    return max(found, key=lambda labels: objective(U, labels, penalty or 0.0))
