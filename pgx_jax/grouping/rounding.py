"""From the relaxed matrix X to a partition: several roundings, the best discrete objective kept.

Each rounding alone fails somewhere (components chain groups together, pivots break at ties,
spectral needs the right k), so all of them are run, each result is improved by a local search,
and the partition with the highest objective ``<U, X(labels)> - trace_penalty * k`` is returned.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import linkage
from scipy.sparse import coo_array
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
    return _cut(linkage(squareform(distance, checks=False), "single"), k)


def _cut(tree: Float[np.ndarray, "merges 4"], k: int) -> Int[np.ndarray, "n"]:
    """The k clusters of a hierarchy of n: those that its first n - k merges make."""
    n = len(tree) + 1
    made = np.repeat(np.arange(n, 2 * n - k), 2)
    parts = tree[: n - k, :2].astype(np.int64).ravel()
    links = coo_array((np.ones(len(made)), (made, parts)), shape=(2 * n,) * 2)
    return canonical(connected_components(links, directed=False)[1][:n])


def pivot(X: Float[np.ndarray, "n n"]) -> Int[np.ndarray, "n"]:
    """Take the most decided task as a pivot, group it with all that share half its weight, repeat."""
    labels, k = np.full(len(X), -1), 0
    for i in np.argsort(-np.sum(X**2, axis=1), kind="stable"):
        if labels[i] < 0:
            labels[(labels < 0) & (X[i] > X[i, i] / 2)] = k
            labels[i] = k
            k += 1
    return canonical(labels)


Eigen = tuple[np.ndarray, np.ndarray]


def spectral(X: Float[np.ndarray, "n n"], k: int, eigen: Eigen | None = None) -> Int[np.ndarray, "n"]:
    """Ward's clustering of the rows of X's leading k eigenvectors, scaled to unit length.

    Args:
        X: float [n, n].
        k: number of groups.
        eigen: what `numpy.linalg.eigh` says of X, if that is known.
    """
    values, vectors = np.linalg.eigh(X) if eigen is None else eigen
    rows = vectors[:, -k:] * np.sqrt(np.maximum(values[-k:], 0.0))
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return _cut(linkage(rows, "ward"), k)


class _State:
    """Sums over the groups of a labelling, from which the effect of any change is closed-form.

    Changes keep them up to date; `settle` makes the labels canonical again.
    """

    def __init__(self, U: np.ndarray, labels: ArrayLike):
        self.U, self.own, self.labels = U, np.diag(U), canonical(labels)
        member = np.eye(int(self.labels.max()) + 1)[self.labels]
        self.to_group = U @ member
        self.between = member.T @ self.to_group
        self.size = member.sum(0)

    @property
    def k(self) -> int:
        """Number of groups."""
        return len(self.size)

    @property
    def within(self) -> Float[np.ndarray, "k"]:
        """Sum of U inside each group."""
        return np.diag(self.between)

    def leave(self, tasks: Any = slice(None)) -> Float[np.ndarray, "t"]:
        """Change of the objective, [t], when one of some tasks leaves its group, counted without the task."""
        labels = self.labels[tasks]
        within, size = self.within[labels], self.size[labels]
        to_own = self.to_group[np.arange(len(self.labels))[tasks], labels]
        rest = within - 2 * to_own + self.own[tasks]
        return np.where(size > 1, rest / np.maximum(size - 1, 1), 0.0) - within / size

    def move(self, tasks: Any = slice(None)) -> Float[np.ndarray, "t options"]:
        """Change [t, k + 1] when one of some tasks moves to a group; the last column is one of its own."""
        labels, own, k, per = self.labels[tasks], self.own[tasks], self.k, 1 / (self.size + 1)
        gain = np.empty((len(labels), k + 1))
        np.multiply(self.to_group[tasks], 2 * per, out=gain[:, :k])
        gain[:, :k] += np.outer(own, per)
        gain[:, :k] += self.within * (per - 1 / self.size)
        gain[:, k] = own
        gain += self.leave(tasks)[:, None]
        gain[np.arange(len(labels)), labels] = -np.inf
        gain[self.size[labels] == 1, k] = -np.inf
        return gain

    def swap(self, least: float = -np.inf) -> tuple[Int[np.ndarray, "t"], Float[np.ndarray, "t t"]]:
        """Change [t, t] when two tasks of different groups trade places, and the t tasks.

        Those are all of which a swap may gain more than ``least``, by a bound that looks at groups alone:
        a swap of i in A with j in B gains r_iB + r_jA - 2 U_ij (1/|A| + 1/|B|), with r [n, k].
        """
        n, each = len(self.labels), np.arange(len(self.labels))
        per = 1 / self.size
        mine = per[self.labels]
        r = (2 * self.to_group + self.own[:, None]) * per
        r += ((self.own - 2 * self.to_group[each, self.labels]) * mine)[:, None]
        r[each, self.labels] = -np.inf
        tasks = each
        if least > -np.inf:
            order = np.argsort(self.labels, kind="stable")
            starts = np.cumsum(self.size[:-1], dtype=np.int64)
            best = np.maximum.reduceat(r[order], np.concatenate([[0], starts]), axis=0)
            bound = r + best.T[self.labels] - 2 * self._lowest[:, None] * (mine[:, None] + per)
            tasks = np.flatnonzero((bound > least).any(1))
        gain = r[np.ix_(tasks, self.labels[tasks])]
        apart = self.U if len(tasks) == n else self.U[np.ix_(tasks, tasks)]
        return tasks, gain + gain.T - 2 * apart * (mine[tasks, None] + mine[tasks])

    @functools.cached_property
    def _lowest(self) -> Float[np.ndarray, "n"]:
        """The least affinity of each task to another."""
        return np.where(np.eye(len(self.U), dtype=bool), np.inf, self.U).min(1)

    def merge(self) -> Float[np.ndarray, "k k"]:
        """Change [k, k] when two groups become one."""
        return _merging(self.between, self.size)

    def put(self, tasks: Iterable[int], groups: Iterable[int]) -> None:
        """Move tasks to groups, of which k is a new one; what else is empty then is left out."""
        for task, group in zip(tasks, groups, strict=True):
            if group == self.k:
                self.to_group = np.pad(self.to_group, ((0, 0), (0, 1)))
                self.between = np.pad(self.between, (0, 1))
                self.size = np.pad(self.size, (0, 1))
            for changed, sign in ((self.labels[task], -1.0), (group, 1.0)):
                sums = sign * self.to_group[task]
                self.between[changed] += sums
                self.between[:, changed] += sums
                self.between[changed, changed] += self.own[task]
                self.to_group[:, changed] += sign * self.U[task]
                self.size[changed] += sign
            self.labels[task] = group
        if not self.size.all():
            self.settle()

    def join(self, a: int, b: int) -> None:
        """Merge two groups."""
        self.between[a] += self.between[b]
        self.between[:, a] += self.between[:, b]
        self.to_group[:, a] += self.to_group[:, b]
        self.size[a] += self.size[b]
        self.labels[self.labels == b] = a
        self.settle()

    def settle(self) -> None:
        """Leave out empty groups, and order the others by first appearance."""
        _, first = np.unique(self.labels, return_index=True)
        names = self.labels[np.sort(first)]
        if len(names) == self.k and (np.diff(names) > 0).all():
            return
        self.to_group, self.between = self.to_group[:, names], self.between[np.ix_(names, names)]
        self.size, self.labels = self.size[names], canonical(self.labels)


def _merging(between: np.ndarray, size: np.ndarray, rows: Any = slice(None)) -> Float[np.ndarray, "a k"]:
    """Change [a, k] when the groups ``rows`` are merged with any of the k."""
    within = np.diag(between)
    mean = within / size
    union = within[rows, None] + within + 2 * between[rows]
    gain = union / (size[rows, None] + size) - mean[rows, None] - mean
    gain[np.arange(len(gain)), np.arange(len(size))[rows]] = -np.inf
    return gain


def _argmax(gain: np.ndarray) -> tuple[float, tuple[int, int]]:
    if not gain.size:
        return -np.inf, (0, 0)
    row, column = np.unravel_index(np.argmax(gain), gain.shape)
    return float(gain[row, column]), (int(row), int(column))


def with_k(U: Float[np.ndarray, "n n"], labels: ArrayLike, k: int) -> Int[np.ndarray, "n"]:
    """Merge groups, or split tasks off, greedily by the objective until there are k groups."""
    state = _State(U, labels)
    return _split_up(U, state.labels, k) if state.k < k else _merge_down(state, k)


def _merge_down(state: _State, k: int, least: float = -np.inf) -> Int[np.ndarray, "n"]:
    """Merge the two groups that go together best until k are left, by the sums of groups alone; to more than
    k where no merge gains more than ``least``."""
    between, size = state.between.copy(), state.size.copy()
    ends = np.arange(state.k)  # where each of the first groups has ended
    gain = state.merge()
    partner = gain.argmax(1)
    best = gain[ends, partner]
    for _ in range(state.k - k):
        first = int(best.argmax())
        if not best[first] > least:
            break
        a, b = sorted((first, int(partner[first])))
        between[a] += between[b]
        between[:, a] += between[:, b]
        size[a] += size[b]
        ends[ends == b] = a
        gone = best == -np.inf
        gone[b] = True
        gain[a] = np.where(gone, -np.inf, _merging(between, size, [a])[0])
        gain[:, a] = gain[a]
        gain[b], gain[:, b] = -np.inf, -np.inf
        again = np.flatnonzero((gain[:, a] >= best) | np.isin(partner, (a, b)))
        partner[again] = gain[again].argmax(1)
        best[again] = gain[again, partner[again]]
    return canonical(ends[state.labels])


def _split_up(U: np.ndarray, labels: Int[np.ndarray, "n"], k: int) -> Int[np.ndarray, "n"]:
    """Give the task that gains the most a group of its own until there are k."""
    labels, each, own = labels.copy(), np.arange(len(labels)), np.diag(U)
    same = labels[:, None] == labels
    size, to_own = same.sum(1), np.where(same, U, 0.0).sum(1)
    within = np.where(same, to_own, 0.0).sum(1)  # of each task's group
    for group in range(int(labels.max()) + 1, k):
        rest = (within - 2 * to_own + own) / np.maximum(size - 1, 1)
        task = int(np.argmax(np.where(size > 1, rest - within / size + own, -np.inf)))
        others = (labels == labels[task]) & (each != task)
        within[others] += own[task] - 2 * to_own[task]
        to_own[others] -= U[others, task]
        size[others] -= 1
        labels[task], size[task] = group, 1
        within[task] = to_own[task] = own[task]
    return canonical(labels)


def refine(U: ArrayLike, labels: ArrayLike, trace_penalty: float | None = None) -> Int[np.ndarray, "n"]:
    """Improve a partition by local search: the best move, swap or merge until none helps.

    Args:
        U: float [n, n], symmetric.
        labels: int [n], the start.
        trace_penalty: price of a group; None keeps the number of groups as it is.

    Returns:
        Canonical labels int [n] of an objective at least as high.
    """
    U = np.asarray(U, dtype=np.float64)
    state = _State(U, labels)
    threshold = _IMPROVEMENT * max(np.abs(U).max(), trace_penalty or 0.0)
    if len(U) > _FEW:
        _sweep(state, trace_penalty, threshold)
        if trace_penalty is not None:
            state = _State(U, _merge_down(state, 1, threshold - trace_penalty))
    while True:
        moving, (task, group) = _argmax(_priced(state, trace_penalty))
        merging, (a, b) = (-np.inf, (0, 0)) if trace_penalty is None else _argmax(state.merge())
        merging += trace_penalty or 0.0
        tasks, swap = state.swap(max(moving, merging, 0.0))
        swapping, (i, j) = _argmax(swap)
        best = max(moving, swapping, merging)
        if not best > threshold:
            return state.labels
        if best == moving:
            state.put([task], [group])
        elif best == swapping:
            state.put(tasks[[i, j]], state.labels[tasks[[j, i]]])
        else:
            state.join(a, b)
        state.settle()


_FEW = 30
"""Of more tasks than this the local search begins with moves and merges that are cheap to find."""


def _sweep(state: _State, trace_penalty: float | None, threshold: float) -> None:
    """Move every task that gains by it to its best group, those first that gain the most, until none does."""
    while True:
        gain = _priced(state, trace_penalty).max(1)
        tasks = np.argsort(-gain, kind="stable")[: int(np.sum(gain > threshold))]
        if not len(tasks):
            state.settle()
            return
        for task in tasks:
            gain, (_, group) = _argmax(_priced(state, trace_penalty, [task]))
            if gain > threshold:
                state.put([task], [group])


def _priced(
    state: _State, trace_penalty: float | None, tasks: Any = slice(None)
) -> Float[np.ndarray, "t options"]:
    """What moves gain where a group has a price, or where their number is to stay as it is (None)."""
    move, last = state.move(tasks), state.size[state.labels[tasks]] == 1
    if trace_penalty is None:
        move[:, -1], move[last] = -np.inf, -np.inf
    else:
        move[:, -1] -= trace_penalty
        move[last] += trace_penalty
    return move


def roundings(
    X: Float[np.ndarray, "n n"], U: Float[np.ndarray, "n n"], k: int | None = None
) -> list[np.ndarray]:
    """All roundings of X [n, n] that differ, canonical; brought to exactly k groups when k is given."""
    n, trace, eigen = len(X), float(np.trace(X)), np.linalg.eigh(X)
    sizes = {k} if k is not None else {int(np.floor(trace + 1e-3)), int(np.ceil(trace - 1e-3))}
    starts = [components(X), pivot(X)]
    for size in sorted(int(np.clip(size, 1, n)) for size in sizes):
        starts += [components(X, size), spectral(X, size, eigen)]
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
