"""Which partition: candidates along the path of the relaxation, and the choice among them.

No single trace penalty suits all families, so the relaxation is solved along a path (a grid of
penalties, and tr X = k for each k), and the partitions that it rounds to compete on held-out data
together with "one group" and "all alone". The score of a partition is a function handed in::

    score(labels [n]) -> Gains: gain [J], task [J] (and trajectory [J] where tasks share trajectories)

the held-out gain of each trajectory under the policy of its task's group, and its task. Trajectories
stand in the same order for every candidate: differences are paired (`paired_difference`). Take the
smallest k of which the difference to the best candidate is within 2 standard errors or 3% of the whole
gain over one group: splitting must be earned. (Whether to split at all is better asked of data that neither
proposed nor chose: `Nested`.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from pgx_jax.errors import ConfigError
from pgx_jax.grouping.config import GroupingConfig
from pgx_jax.grouping.paired import collect_gains, paired_difference
from pgx_jax.grouping.rounding import all_partitions, canonical, objective, refine, round_sdp, roundings
from pgx_jax.grouping.sdp import PartitionSDP, relaxation, standardise
from pgx_jax.types import Gains, Grouping

Score = Callable[[np.ndarray], Gains]


class Candidates(NamedTuple):
    """Distinct partitions, ordered by k and then by falling objective."""

    labels: Int[np.ndarray, "c n"]
    """int [c, n], canonical."""
    objective: Float[np.ndarray, "c"]
    """float [c]: <U, X(labels)> of the standardised affinity, without a penalty."""
    penalty: Float[np.ndarray, "c"]
    """float [c]: trace penalty that led to the candidate; NaN where a fixed k or a list did."""


def check_k(k: int, n: int) -> int:
    """Return k as an int; ConfigError unless it is a whole number in 1..n."""
    if not 1 <= k <= n or int(k) != k:
        raise ConfigError(f"k = {k} groups of {n} tasks: k must be a whole number between 1 and {n}")
    return int(k)


def _collect(U: np.ndarray, found: Iterable[tuple[np.ndarray, float]]) -> Candidates:
    """Deduplicate (labels, penalty) pairs, keeping the first of each, and order them."""
    first: dict[tuple[int, ...], float] = {}
    for labels, penalty in found:
        first.setdefault(tuple(canonical(labels).tolist()), penalty)
    rows = sorted(((objective(U, row), row, penalty) for row, penalty in first.items()), key=_rank)
    return Candidates(
        np.array([row for _, row, _ in rows], dtype=np.int64),
        np.array([value for value, _, _ in rows]),
        np.array([penalty for _, _, penalty in rows], dtype=np.float64),
    )


def _rank(row: tuple[float, tuple[int, ...], float]) -> tuple[int, float, tuple[int, ...]]:
    value, labels, _ = row
    return max(labels), -round(value, 9), labels


def _at_k(sdp: PartitionSDP, U: np.ndarray, k: int) -> list[np.ndarray]:
    """Partitions into exactly k groups: every rounding of the relaxation with tr X = k, refined."""
    n = len(U)
    if k in (1, n):
        return [np.zeros(n, int) if k == 1 else np.arange(n)]
    return [refine(U, labels) for labels in roundings(sdp.solve(U, k=k), U, k)]


def _at_penalties(
    sdp: PartitionSDP, U: np.ndarray, penalties: Iterable[float]
) -> list[tuple[np.ndarray, float]]:
    """The partition that the relaxation at each trace penalty rounds to, with the penalty."""
    solved = ((sdp.solve(U, trace_penalty=penalty), penalty) for penalty in penalties)
    return [(round_sdp(X, U, trace_penalty=penalty), penalty) for X, penalty in solved]


def propose(
    matrix: ArrayLike,
    others: Iterable[ArrayLike] = (),
    *,
    k: int | None = None,
    up_to: int = 12,
    names: Sequence[str] | None = None,
    config: GroupingConfig | None = None,
) -> Candidates:
    """List the partitions worth comparing.

    Args:
        matrix: affinity [n, n], in any unit.
        others: further affinities of the same tasks, of which the partitions along the path are
            candidates, too; not used with a fixed trace penalty.
        k: exact number of groups, or None for the whole path with k = 1 and (unless
            ``max_groups`` forbids it) singletons.
        up_to: largest k for which the relaxation is solved at this k, on the whole path.
        names: n task names for error messages.
        config: settings.

    Raises:
        DataError, ConfigError, SolverError: see `standardise`, `check_k` and `PartitionSDP`.
    """
    config = config or GroupingConfig()
    U = standardise(matrix, names)
    n = len(U)
    if k is not None and config.trace_penalty is not None:
        raise ConfigError(f"give either k (= {k}) or trace_penalty (= {config.trace_penalty}), not both")
    if k is not None:
        k = check_k(k, n)
    largest = n if config.max_groups is None else min(config.max_groups, n)
    if n <= config.exhaustive_up_to and config.trace_penalty is None:
        every = all_partitions(n, k)
        return _collect(U, [(row, np.nan) for row in every if k is not None or row.max() < largest])
    sdp = relaxation(n, config.solver)
    if config.trace_penalty is not None:
        return _collect(U, _at_penalties(sdp, U, [config.trace_penalty]))
    sizes = sorted({1, *range(2, min(largest, n - 1, up_to) + 1), largest if largest == n else 1})
    found = []
    for matrix in (U, *(standardise(other, names) for other in others)):
        if k is None:
            found += _at_penalties(sdp, matrix, config.penalties)
        for size in sizes if k is None else [k]:
            found += [(row, np.nan) for row in _at_k(sdp, matrix, size)]
    if k is not None:
        return _collect(U, found)
    if config.lone_tasks:
        found += [(row, np.nan) for row in np.eye(n, dtype=np.int64)]
    return _collect(U, [(row, penalty) for row, penalty in found if row.max() < largest])


def distinct_groups(labels: ArrayLike) -> tuple[Bool[np.ndarray, "G n"], Int[np.ndarray, "c n"]]:
    """The distinct groups among many partitions, so that each is solved once and all in one call.

    Args:
        labels: int [c, n].

    Returns:
        member: bool [G, n], one row a distinct group.
        index: int [c, n], the group in which candidate c puts each task: member[index[c, i], i].
    """
    labels = np.atleast_2d(labels)
    same = labels[:, :, None] == labels[:, None, :]
    member, index = np.unique(same.reshape(-1, labels.shape[1]), axis=0, return_inverse=True)
    return member, index.reshape(labels.shape)


def select(
    candidates: Candidates,
    score: Score,
    *,
    names: Sequence[str] | None = None,
    standard_errors: float = 2.0,
    min_share: float = 0.0,
    split: bool = True,
) -> Grouping:
    """Choose a partition by its held-out score.

    The score of a candidate is the mean over tasks of the mean gain of a task's trajectories. Of all
    candidates within ``standard_errors`` of the best (paired by trajectory, see `paired_difference`)
    those of the smallest k remain, and of these the one with the highest score is chosen.

    Args:
        candidates: from `propose`.
        score: see the head of this module; called once a candidate.
        names: n task names for error messages.
        standard_errors: 0 is the plain arg max, if ``min_share`` is 0 as well.
        min_share: candidates that lack at most this part of the best one's gain over one group (where
            that is a candidate) remain, too.
        split: whether there is reason to split at all; else it is one group, if that is a candidate.

    Returns:
        Grouping whose ``path`` holds candidates [c, n], k, score, difference, stderr_to_best,
        equal, objective and penalty [c], task_score [c, n], chosen and best [].

    Raises:
        DataError: gains that are not finite, not paired, or lack a task.
    """
    labels = np.asarray(candidates.labels)
    gain, task, trajectory = collect_gains(labels, score, names)
    n = labels.shape[1]
    count = np.bincount(task, minlength=n)
    task_score = np.stack([np.bincount(task, weights=row, minlength=n) for row in gain]) / count
    value = task_score.mean(1)
    best = int(np.argmax(value))
    pairs = [paired_difference(gain[best] - row, task, n, trajectory) for row in gain]
    difference, stderr = np.array(pairs).T
    rounding_error = 1e-12 * np.abs(gain).max()
    k = labels.max(1) + 1
    share = min_share * difference[k == 1].max(initial=0.0)
    equal = difference <= np.maximum(standard_errors * stderr, share) + rounding_error
    least = k[equal].min() if split else k.min()
    chosen = int(np.argmax(np.where((equal | (not split)) & (k == least), value, -np.inf)))
    path = {
        "candidates": labels, "k": k, "score": value, "difference": difference, "stderr_to_best": stderr,
        "equal": equal, "objective": candidates.objective, "penalty": candidates.penalty,
        "task_score": task_score, "chosen": np.array(chosen), "best": np.array(best),
    }  # fmt: skip
    return Grouping(labels[chosen].copy(), path)


def _without_score(candidates: Candidates) -> Grouping:
    """The candidate with the best objective; all of them have one k, or there is only one."""
    chosen = int(np.argmax(candidates.objective))
    path = {
        "candidates": candidates.labels,
        "k": candidates.labels.max(1) + 1,
        "objective": candidates.objective,
        "penalty": candidates.penalty,
        "chosen": np.array(chosen),
    }
    return Grouping(candidates.labels[chosen].copy(), path)


def group(
    matrix: ArrayLike,
    *,
    k: int | None = None,
    score: Score | None = None,
    names: Sequence[str] | None = None,
    config: GroupingConfig | None = None,
) -> Grouping:
    """From an affinity to a partition (paper, "Grouping").

    With ``k`` exactly k groups; with ``config.trace_penalty`` the paper's rule at that penalty;
    with neither, chosen along the path by ``score``. Where k is given, a score chooses among the
    roundings; without one the discrete objective does.

    Args:
        matrix: affinity [n, n], in any unit; the diagonal is ignored.
        k: number of groups.
        score: held-out score of a partition, see the head of this module. To solve all groups in one
            call, use `propose`, `distinct_groups` and `select` instead.
        names: n task names for error messages.
        config: settings.

    Returns:
        Grouping with its path (see `select`; without a score only candidates, k, objective, penalty
        and chosen).

    Raises:
        ConfigError: k outside 1..n; nothing given by which to choose k.
        DataError: an affinity or gains that are not finite.
        SolverError: the relaxation was not solved.
    """
    config = config or GroupingConfig()
    if k is None and score is None and config.trace_penalty is None:
        raise ConfigError("nothing chooses the number of groups: give k, a trace_penalty or a held-out score")
    candidates = propose(matrix, k=k, names=names, config=config)
    if score is None or config.trace_penalty is not None:
        return _without_score(candidates)
    return select(candidates, score, names=names, **config.rule(k))
