"""Which subsets of the tasks to estimate: all of a size, or a design that covers every pair."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

from pgx_jax.errors import ConfigError
from pgx_jax.types import Array, Key

MAX_ENUMERATED = math.comb(16, 3)
"""Up to this many subsets of one size are all taken: every triple of up to 16 tasks."""
MANY_TASKS = 30
"""Tasks are many if they are more than these: subsets are lines of a square of the tasks, by default the
affinity is the closed form, which needs none, and it alone proposes."""


def _membership(subsets: Sequence[Sequence[int]], n: int) -> Bool[np.ndarray, "m n"]:
    member = np.zeros((len(subsets), n), bool)
    for row, subset in zip(member, subsets, strict=True):
        row[list(subset)] = True
    return member


def default_size(n: int) -> int:
    """Triples of up to 30 tasks, but never the whole set, which would tell no pair from another (n = 2 has no
    choice); of more tasks their square root, with which n subsets can let all pairs meet once."""
    return min(3, max(2, n - 1)) if n <= MANY_TASKS else math.isqrt(n - 1) + 1


def all_subsets(n: int, size: int) -> Bool[np.ndarray, "m n"]:
    """All subsets of ``size`` of n tasks, in lexicographic order: bool [n over size, n]."""
    _check_size(n, size)
    return _membership(list(itertools.combinations(range(n), size)), n)


def make_subsets(
    key: Key | int, n: int, size: int | None = None, count: int | None = None, min_cover: int = 12
) -> Bool[np.ndarray, "m n"]:
    """Choose subsets such that every pair of tasks meets in some of them.

    Subsets of one size are all taken if they are at most 560 (all triples of up to 16 tasks); else they are
    a random balanced design in which every pair meets at least ``min_cover`` times, or of ``count`` subsets.

    Of more than 30 tasks, where neither size nor count is given, they are lines: the tasks are put on q x q
    places at random, q the least prime not below sqrt(n), ``min_cover`` times, and any two of them are on
    one line of the square each time (the affine plane of order q). That makes about ``min_cover`` n subsets
    of about sqrt(n) tasks, where triples would be about ``min_cover`` n^2 / 6.

    Args:
        key: raw PRNG key, or an integer seed.
        n: number of tasks.
        size: tasks in a subset, see `default_size`.
        count: number of subsets m.
        min_cover: how often every pair must meet where the number of subsets is left open.

    Returns:
        bool [m, n], distinct rows.

    Raises:
        ConfigError: if ``size`` is not in 2 ... n, ``count`` is out of range, ``count`` subsets leave a
            pair uncovered, or no design covers every pair ``min_cover`` times.
    """
    lines = size is None and count is None and n > MANY_TASKS
    size = default_size(n) if size is None else size
    _check_size(n, size)
    possible = math.comb(n, size)
    if count is not None and not 1 <= count <= possible:
        raise ConfigError(
            f"count = {count} subsets of {size} of {n} tasks; there are {possible}, choose 1 to {possible}"
        )
    if count == possible or (count is None and possible <= MAX_ENUMERATED):
        return all_subsets(n, size)
    most = math.comb(n - 2, size - 2)
    if count is None and min_cover > most:
        raise ConfigError(
            f"min_cover = {min_cover}: two of {n} tasks meet in at most {most} subsets of {size}; lower it"
        )
    rng = np.random.default_rng(np.asarray(key).ravel().astype(np.uint32))
    if lines:
        return _lines(rng, n, min_cover)
    member = _balanced_design(rng, n, size, count, min_cover)
    check_coverage(member)
    return member


def _check_size(n: int, size: int) -> None:
    if n < 2:
        raise ConfigError(f"{n} task(s); subsets need at least 2 tasks")
    if size > n:
        raise ConfigError(f"a subset size of {size} exceeds the number of tasks, {n}; choose 2 to {n}")
    if size < 2:
        raise ConfigError(f"a subset size of {size} covers no pair of tasks; choose 2 to {n}")


def _lines(rng: np.random.Generator, n: int, min_cover: int) -> Bool[np.ndarray, "m n"]:
    """Distinct lines of squares of the tasks, until all pairs have met often enough (see `make_subsets`)."""
    q = next(q for q in itertools.count(math.isqrt(n - 1) + 1) if all(q % d for d in range(2, q)))
    x, y = np.divmod(np.arange(q * q), q)
    slopes = [(y - slope * x) % q for slope in range(q)]
    line = np.stack([*slopes, x])[:, :, None] == np.arange(q)  # [q + 1 directions, place, line]
    line = np.moveaxis(line, 1, 2).reshape(-1, q * q)
    found: dict[bytes, np.ndarray] = {}
    met = np.zeros((n, n), int)
    while met.min() < min_cover:
        subsets = line[:, rng.permutation(q * q)[:n]]
        new = {row.tobytes(): row for row in subsets[subsets.sum(1) > 1] if row.tobytes() not in found}
        met += coverage(np.stack([*new.values()]))
        found |= new
    return np.stack([*found.values()])


def _balanced_design(
    rng: np.random.Generator, n: int, size: int, count: int | None, min_cover: int
) -> Bool[np.ndarray, "m n"]:
    """Grow distinct subsets one by one, each of the tasks that have met each other least so far."""
    met = np.zeros((n, n), int)
    seen: set[tuple[int, ...]] = set()
    upper = ~np.tri(n, dtype=bool)
    limit = math.comb(n, size) if count is None else count
    while len(seen) < limit and (count is not None or met[upper].min() < min_cover):
        subset = next((s for s in _least_met_subsets(rng, met, size) if s not in seen), None)
        while subset is None or subset in seen:
            subset = tuple(sorted(rng.choice(n, size, replace=False).tolist()))
        seen.add(subset)
        met[np.ix_(subset, subset)] += 1
    return _membership(sorted(seen), n)


def _least_met_subsets(rng: np.random.Generator, met: np.ndarray, size: int) -> Iterator[tuple[int, ...]]:
    """Subsets to add to a design, best first: a least-met pair, joined by tasks that have met it least.

    They differ in the last task alone; ties are broken at random.
    """
    n = len(met)
    noise = rng.random((n, n))
    pairs = met + np.triu(noise)
    pairs[np.tril_indices(n)] = np.inf
    chosen = list(np.unravel_index(np.argmin(pairs), pairs.shape))
    while True:
        # The square prefers several pairs met once over one pair met often; then the rarer task.
        cost = (met[chosen] ** 2).sum(0) + 1e-3 * np.diag(met) + 1e-6 * noise[0]
        cost[chosen] = np.inf
        order = np.argsort(cost)[: n - len(chosen)]
        if len(chosen) >= size - 1:
            break
        chosen.append(order[0])
    if size == 2:
        yield tuple(sorted(int(task) for task in chosen))
        return
    for last in order:
        yield tuple(sorted(int(task) for task in [*chosen, last]))


def coverage(member: Bool[Array, "m n"]) -> Int[np.ndarray, "n n"]:
    """How many subsets contain both tasks of each pair: int [n, n] (the paper's n_ij)."""
    member = np.asarray(member, bool).astype(np.float32)  # whole numbers up to 2^24, and fast
    return (member.T @ member).astype(int)


def check_coverage(member: Bool[Array, "m n"], names: Sequence[str] | None = None) -> Int[np.ndarray, "n n"]:
    """Return the coverage [n, n] of subsets ``member`` [m, n].

    Raises:
        ConfigError: if no subset contains some task or pair of tasks, naming the first.
    """
    met = coverage(member)
    pairs = np.argwhere(np.triu(met == 0))
    missing = sorted(pairs.tolist(), key=lambda pair: pair[0] != pair[1])  # whole tasks first
    if missing:
        i, j = missing[0]
        label = [f"{t}" if names is None else f"{t} ({names[t]!r})" for t in (i, j)]
        what = f"task {label[0]}" if i == j else f"both task {label[0]} and task {label[1]}"
        raise ConfigError(
            f"none of the {len(member)} subsets contains {what} ({len(missing)} pairs are uncovered): "
            f"their affinity is unknown; take more or larger subsets"
        )
    return met
