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
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import ArrayLike

from pgx_jax.errors import ConfigError
from pgx_jax.grouping.config import GroupingConfig
from pgx_jax.grouping.paired import collect_gains, paired_differences
from pgx_jax.grouping.rounding import all_partitions, canonical, objective, refine, round_sdp, roundings
from pgx_jax.grouping.sdp import PartitionSDP, standardise
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
    solver: Shaped[np.ndarray, "c"]
    """str [c]: the one of `SDP_SOLVERS` whose solution led to the candidate; empty where a list did."""


def check_k(k: int, n: int) -> int:
    """Return k as an int; ConfigError unless it is a whole number in 1..n."""
    if not 1 <= k <= n or int(k) != k:
        raise ConfigError(f"k = {k} groups of {n} tasks: k must be a whole number between 1 and {n}")
    return int(k)


class _Found(NamedTuple):
    """A partition, and where it comes from."""

    labels: np.ndarray
    penalty: float = np.nan
    solver: str = ""


def _collect(U: np.ndarray, found: Iterable[_Found]) -> Candidates:
    """Leave the first of equal partitions, and order them."""
    first: dict[bytes, _Found] = {}
    for one in found:
        labels = canonical(one.labels)
        first.setdefault(labels.tobytes(), one._replace(labels=labels))
    value = {key: objective(U, one.labels) for key, one in first.items()}
    keys = sorted(first, key=lambda key: _rank(first[key].labels, value[key]))
    return Candidates(
        np.array([first[key].labels for key in keys], dtype=np.int64),
        np.array([value[key] for key in keys]),
        np.array([first[key].penalty for key in keys], dtype=np.float64),
        np.array([first[key].solver for key in keys], dtype=np.str_),
    )


def _rank(labels: np.ndarray, value: float) -> tuple[int, float, list[int]]:
    return int(labels.max()), -round(value, 9), labels.tolist()


def _at_k(sdp: PartitionSDP, k: int) -> list[_Found]:
    """Partitions into exactly k groups: every rounding of the relaxation with tr X = k, refined."""
    if k in (1, sdp.n):
        return [_Found(np.zeros(sdp.n, int) if k == 1 else np.arange(sdp.n))]
    X, solver = sdp.solve(k=k)
    return [_Found(refine(sdp.U, labels), solver=solver) for labels in roundings(X, sdp.U, k)]


def _at_penalties(sdp: PartitionSDP, penalties: Iterable[float]) -> list[_Found]:
    """The partition that the relaxation at each trace penalty rounds to."""
    found = []
    for penalty in penalties:
        X, solver = sdp.solve(trace_penalty=penalty)
        found.append(_Found(round_sdp(X, sdp.U, trace_penalty=penalty), penalty, solver))
    return found


USUAL = 16
"""Up to so many tasks one path suits all n."""


def path_penalties(n: int, penalties: Sequence[float]) -> list[float]:
    """The trace penalties of the path of n tasks: what a group is worth grows with its size, so that the
    grid is multiplied by n / 16 beyond 16 tasks."""
    return [penalty * max(1.0, n / USUAL) for penalty in penalties]


def path_ks(n: int, up_to: int) -> list[int]:
    """The k from 2 to n - 1 at which the relaxation of n tasks is solved: all up to ``up_to``, and of more
    than 16 tasks further ones by steps of a quarter up to n / 2."""
    ks = list(range(2, min(up_to, n - 1) + 1))
    k = max(up_to, 1)
    while n > USUAL and (k := max(k + 1, round(1.25 * k))) <= n // 2:
        ks.append(k)
    return ks


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
        up_to: on the whole path, the relaxation is solved at every k up to this one, see `path_ks`.
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
        return _collect(U, [_Found(row) for row in every if k is not None or row.max() < largest])
    if config.trace_penalty is not None:
        return _collect(U, _at_penalties(PartitionSDP(U, config.solver), [config.trace_penalty]))
    ks = [1, *(size for size in path_ks(n, up_to) if size <= largest), *([n] if largest == n else [])]
    found = []
    for matrix in (U, *(standardise(other, names) for other in others)):
        sdp = PartitionSDP(matrix, config.solver)
        if k is None:
            found += _at_penalties(sdp, path_penalties(n, config.penalties))
        for size in ks if k is None else [k]:
            found += _at_k(sdp, size)
    if k is not None:
        return _collect(U, found)
    if config.lone_tasks:
        found += [_Found(row) for row in np.eye(n, dtype=np.int64)]
    return _collect(U, [one for one in found if one.labels.max() < largest])


def distinct_groups(labels: ArrayLike) -> tuple[Bool[np.ndarray, "G n"], Int[np.ndarray, "c n"]]:
    """The distinct groups among many partitions, so that each is solved once and all in one call.

    Args:
        labels: int [c, n].

    Returns:
        member: bool [G, n], one row a distinct group, in the order in which they first appear: partition
            by partition, and by their first tasks.
        index: int [c, n], the group in which candidate c puts each task: member[index[c, i], i].
    """
    labels = np.atleast_2d(labels)
    known: dict[bytes, int] = {}
    index = np.empty(labels.shape, dtype=np.int64)
    for row, where in zip(map(canonical, labels), index, strict=True):
        groups = row == np.arange(row.max() + 1)[:, None]
        where[:] = np.array([known.setdefault(group.tobytes(), len(known)) for group in groups])[row]
    member = np.frombuffer(b"".join(known), dtype=bool).reshape(len(known), labels.shape[1])
    return member.copy(), index


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
    candidates within ``standard_errors`` of the best (paired by trajectory, see `paired_differences`)
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
        equal, objective, penalty and solver [c], task_score [c, n], chosen and best [].

    Raises:
        DataError: gains that are not finite, not paired, or lack a task.
    """
    labels = np.asarray(candidates.labels)
    gain, task, trajectory = collect_gains(labels, score, names)
    n = labels.shape[1]
    task_score = np.stack([np.bincount(task, weights=row) for row in gain]) / np.bincount(task)
    value = task_score.mean(1)
    best = int(np.argmax(value))
    difference, stderr = paired_differences(gain[best] - gain, task, n, trajectory)
    rounding_error = 1e-12 * np.abs(gain).max()
    k = labels.max(1) + 1
    share = min_share * difference[k == 1].max(initial=0.0)
    equal = difference <= np.maximum(standard_errors * stderr, share) + rounding_error
    least = k[equal].min() if split else k.min()
    chosen = int(np.argmax(np.where((equal | (not split)) & (k == least), value, -np.inf)))
    path = {
        "candidates": labels, "k": k, "score": value, "difference": difference, "stderr_to_best": stderr,
        "equal": equal, "objective": candidates.objective, "penalty": candidates.penalty,
        "solver": candidates.solver, "task_score": task_score, "chosen": np.array(chosen),
        "best": np.array(best),
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
        "solver": candidates.solver,
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
        Grouping with its path (see `select`; without a score only candidates, k, objective, penalty,
        solver and chosen).

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
