"""Roundings and local search, against enumeration of all partitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.grouping import rounding
from pgx_jax.grouping.rounding import (
    all_partitions,
    canonical,
    components,
    objective,
    partition_matrix,
    pivot,
    refine,
    round_sdp,
    roundings,
    spectral,
    with_k,
)
from pgx_jax.grouping.sdp import PartitionSDP, solve_sdp, standardise

HYPOTHESIS = settings(derandomize=True, deadline=None, max_examples=20)


def noise(n, seed):
    e = np.random.default_rng(seed).normal(size=(n, n))
    return e + e.T


def planted(n, k, spread, seed):
    labels = np.random.default_rng(seed).permutation(np.arange(n) % k)
    return standardise(2.0 * (labels[:, None] == labels) + spread * noise(n, seed)), canonical(labels)


def slow_objective(U, labels):
    groups = [[i for i, g in enumerate(labels) if g == name] for name in set(labels)]
    return sum(U[i][j] / len(c) for c in groups for i in c for j in c)


def neighbours(labels, k):
    """Partitions one move, swap or merge away, by trying them all."""
    n = len(labels)
    for i in range(n):
        for g in range(max(labels) + 2):
            yield [g if t == i else labels[t] for t in range(n)]
        for j in range(i):
            swapped = list(labels)
            swapped[i], swapped[j] = labels[j], labels[i]
            yield swapped
    if k is None:
        for a in range(max(labels) + 1):
            for b in range(a):
                yield [b if g == a else g for g in labels]


def test_canonical_names_by_first_appearance():
    assert canonical([7, 7, -1, 3, -1]).tolist() == [0, 0, 1, 2, 1]
    assert canonical(["b", "a", "b"]).tolist() == [0, 1, 0]


def test_all_partitions_are_all_and_distinct():
    for n, bell in [(1, 1), (2, 2), (3, 5), (4, 15), (5, 52), (6, 203), (7, 877)]:
        rows = all_partitions(n)
        assert len({tuple(row) for row in rows}) == len(rows) == bell
        assert all(np.array_equal(canonical(row), row) for row in rows)
    assert [len(all_partitions(5, k)) for k in range(1, 6)] == [1, 15, 25, 10, 1]


@HYPOTHESIS
@given(st.lists(st.integers(0, 4), min_size=2, max_size=9), st.integers(0, 100))
def test_objective_and_partition_matrix_match_the_definition(labels, seed):
    U = noise(len(labels), seed)
    k = len(set(labels))
    assert objective(U, labels) == pytest.approx(slow_objective(U, labels))
    assert objective(U, labels, 0.5) == pytest.approx(slow_objective(U, labels) - 0.5 * k)
    X = partition_matrix(labels)
    assert np.trace(X) == pytest.approx(k) and np.allclose(X @ X, X) and np.allclose(X.sum(1), 1)


@HYPOTHESIS
@given(st.lists(st.integers(0, 3), min_size=3, max_size=8), st.integers(0, 100))
def test_closed_form_changes_match_recomputing(labels, seed):
    U, labels = noise(len(labels), seed), canonical(labels)
    state, before = rounding._State(U, labels), objective(U, labels)
    move, (tasks, swap), merge = state.move(), state.swap(), state.merge()
    assert np.array_equal(tasks, np.arange(len(labels)))
    for i in range(len(labels)):
        for g in range(state.k + 1):
            alone_already = g == state.k and np.sum(labels == labels[i]) == 1
            if g == labels[i] or alone_already:
                assert move[i, g] == -np.inf
                continue
            after = np.where(np.arange(len(labels)) == i, g, labels)
            assert move[i, g] == pytest.approx(objective(U, after) - before)
        for j in range(len(labels)):
            if labels[i] == labels[j]:
                assert swap[i, j] == -np.inf
                continue
            after = labels.copy()
            after[[i, j]] = labels[[j, i]]
            assert swap[i, j] == pytest.approx(objective(U, after) - before)
    for a in range(state.k):
        for b in range(a):
            after = np.where(labels == a, b, labels)
            change = pytest.approx(objective(U, after) - before)
            assert merge[a, b] == change and merge[b, a] == change
    for least in np.quantile(swap[swap > -np.inf], [0.1, 0.9]) if state.k > 1 else ():
        some, gain = state.swap(float(least))
        assert np.allclose(gain, swap[np.ix_(some, some)])
        assert set(np.argwhere(swap > least + 1e-9).ravel()) <= set(some)


@HYPOTHESIS
@given(st.lists(st.integers(0, 4), min_size=3, max_size=9), st.integers(0, 100), st.data())
def test_sums_over_groups_are_kept_up_to_date(labels, seed, data):
    U = noise(len(labels), seed)
    state, n = rounding._State(U, labels), len(labels)
    for _ in range(4):
        before, (i, j) = state.labels.copy(), data.draw(st.permutations(range(n)))[:2]
        if data.draw(st.booleans()):
            state.put([i], [group := data.draw(st.integers(0, state.k))])
            before[i] = group
        elif before[i] != before[j]:
            state.join(before[i], before[j])
            before[before == before[j]] = before[i]
        state.settle()
        fresh = rounding._State(U, before)
        assert np.array_equal(state.labels, fresh.labels) and np.array_equal(state.size, fresh.size)
        assert np.allclose(state.between, fresh.between) and np.allclose(state.to_group, fresh.to_group)


def slow_with_k(U, labels, k):
    """Every merge, or every split of a task, tried anew until there are k groups."""
    while len(set(labels)) != k:
        if len(set(labels)) > k:
            tried = [np.where(labels == b, a, labels) for a in set(labels) for b in set(labels) if a < b]
        else:
            shared = [i for i in range(len(labels)) if np.sum(labels == labels[i]) > 1]
            tried = [np.where(np.arange(len(labels)) == i, max(labels) + 1, labels) for i in shared]
        labels = max(tried, key=lambda row: slow_objective(U, row))
    return canonical(labels)


@HYPOTHESIS
@given(st.lists(st.integers(0, 11), min_size=3, max_size=12), st.integers(0, 100), st.integers(1, 12))
def test_merges_and_splits_are_those_that_are_found_by_trying_all(labels, seed, k):
    U, k = noise(len(labels), seed), min(k, len(labels))
    assert np.array_equal(with_k(U, labels, k), slow_with_k(U, canonical(labels), k))


@pytest.mark.parametrize("most", [3, 9])
@pytest.mark.parametrize("seed", range(10))
def test_so_they_are_from_few_and_from_many_groups_to_any_number(seed, most):
    U, labels = noise(9, seed), canonical(np.random.default_rng(seed).integers(0, most, 9))
    for k in range(1, 10):
        assert np.array_equal(with_k(U, labels, k), slow_with_k(U, labels, k))


@pytest.mark.parametrize("seed", range(6))
def test_merges_end_where_none_gains_enough(seed):
    U = noise(9, seed)
    for least in (-3.0, -0.5, 0.5, np.inf):
        labels = np.random.default_rng(seed).integers(0, 8, 9)
        found = rounding._merge_down(rounding._State(U, labels), 2, least)
        while len(set(labels)) > 2:
            merged = [np.where(labels == b, a, labels) for a in set(labels) for b in set(labels) if a < b]
            best = max(merged, key=lambda row: slow_objective(U, row))
            if not slow_objective(U, best) - slow_objective(U, labels) > least:
                break
            labels = best
        assert np.array_equal(found, canonical(labels))


def slow_move(U, labels, task, penalty):
    """What the best move of a task gains, and the labels then; without a penalty no group goes or comes."""
    now = slow_objective(U, labels) - (penalty or 0.0) * len(set(labels))
    best = -np.inf, labels
    for group in range(max(labels) + 2):
        after = np.where(np.arange(len(labels)) == task, group, labels)
        if penalty is None and len(set(after)) != len(set(labels)):
            continue
        if not np.array_equal(canonical(after), canonical(labels)):
            value = slow_objective(U, after) - (penalty or 0.0) * len(set(after))
            best = max(best, (value - now, after), key=lambda one: one[0])
    return best


@pytest.mark.parametrize("penalty", [None, 0.0, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_tasks_move_in_turn_those_that_gain_the_most_first(seed, penalty):
    U, labels = noise(8, seed), canonical(np.random.default_rng(seed).integers(0, 4, 8))
    state, least = rounding._State(U, labels), 0.3
    rounding._sweep(state, penalty, least)
    while True:
        gain = [slow_move(U, labels, task, penalty)[0] for task in range(8)]
        tasks = sorted((task for task in range(8) if gain[task] > least), key=lambda task: -gain[task])
        for task in tasks:
            one, after = slow_move(U, labels, task, penalty)
            labels = canonical(after) if one > least else labels
        if not tasks:
            break
    assert np.array_equal(state.labels, labels)


@pytest.mark.parametrize("penalty", [None, 0.0, 3.0])
def test_refine_of_many_tasks_ends_where_no_neighbour_is_better(penalty):
    U, truth = planted(40, 4, 1.0, 0)
    rng = np.random.default_rng(1)
    start = np.where(rng.random(40) < 0.4, rng.integers(0, 4, 40), truth)
    found = refine(U, start, penalty)
    state = rounding._State(U, found)
    price = penalty or 0.0
    assert np.array_equal(found, canonical(found))
    assert objective(U, found, price) >= objective(U, start, price)
    assert rounding._priced(state, penalty).max() <= 1e-6 and state.swap()[1].max() <= 1e-6
    assert penalty is None or state.merge().max() + penalty <= 1e-6
    assert penalty == 0.0 or np.array_equal(found, truth)


@HYPOTHESIS
@given(st.lists(st.integers(0, 3), min_size=3, max_size=7), st.integers(0, 100), st.booleans())
def test_refine_ends_where_no_neighbour_is_better(labels, seed, fixed):
    U = noise(len(labels), seed)
    penalty = None if fixed else 0.4
    found = refine(U, labels, penalty)
    price, k = penalty or 0.0, int(found.max()) + 1
    reached = objective(U, found, price)
    assert reached >= objective(U, labels, price) - 1e-9
    assert not fixed or k == len(set(labels))
    for other in neighbours(found.tolist(), k if fixed else None):
        if not fixed or len(set(other)) == k:
            assert objective(U, other, price) <= reached + 1e-6


def test_spectral_groups_tasks_by_the_directions_of_their_rows_and_not_by_their_lengths():
    labels, length = np.array([0, 1, 0, 1, 0, 1]), np.array([1.0, 1.0, 4.0, 5.0, 16.0, 25.0])
    X = (labels[:, None] == labels) * np.outer(length, length)
    assert np.array_equal(spectral(X, 2), labels)


def test_a_group_that_loses_its_last_task_is_left_out():
    U, state = noise(4, 0), rounding._State(noise(4, 0), [0, 1, 0, 2])
    state.put([1], [0])
    again = rounding._State(U, [0, 0, 0, 1])
    assert state.k == 2 and state.labels.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(state.between, again.between)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_refine_ends_in_any_unit(unit):
    U = noise(9, 4)
    start = np.arange(9) % 3
    assert np.array_equal(refine(unit * U, start), refine(U, start))
    assert np.array_equal(refine(unit * U, start, unit), refine(U, start, 1.0))


@pytest.mark.parametrize(
    "labels", [[0] * 6, [0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 0, 2], [0, 1, 0, 1, 0, 1, 2, 2]]
)
def test_every_rounding_reads_a_partition_off_its_matrix(labels):
    X, k = partition_matrix(labels), len(set(labels))
    X = X + 1e-4 * noise(len(labels), 0)
    for found in (components(X), components(X, k), pivot(X), spectral(X, k)):
        assert np.array_equal(found, labels)


def test_roundings_have_the_number_of_groups_asked_for():
    for seed in range(5):
        U = noise(8, seed)
        X = solve_sdp(U, trace_penalty=1.0)
        for k in range(1, 9):
            found = roundings(X, U, k)
            assert all(labels.max() + 1 == k for labels in found)
            ways = {
                tuple(with_k(U, x, k)) for x in (components(X), pivot(X), components(X, k), spectral(X, k))
            }
            assert len(found) == len(ways) and {*map(tuple, found)} == ways
            assert round_sdp(X, U, k=k).max() + 1 == k
        assert with_k(U, np.zeros(8), 8).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("trace", "sizes"),
    [(2.5, (2, 3)), (3.0, (3,)), (2.9995, (3,)), (3.0005, (3,)), (1.01, (1, 2)), (0.5, (1,))],
)
def test_without_a_number_of_groups_those_beside_the_trace_are_tried(trace, sizes):
    values, vectors = np.linalg.eigh(noise(8, 1))
    values = np.arange(8.0) ** 3
    X = (vectors * values * trace / values.sum()) @ vectors.T
    expected = {tuple(components(X)), tuple(pivot(X))}
    expected |= {tuple(way(X, size)) for size in sizes for way in (components, spectral)}
    found = roundings(X, noise(8, 0))
    assert {*map(tuple, found)} == expected and len(found) == len(expected)


def test_a_chain_that_misleads_components_is_rounded_well():
    labels = np.array([0, 0, 0, 1, 1, 1])
    U = 2.0 * (labels[:, None] == labels) - 1
    X = partition_matrix(labels)
    X[2, 3] = X[3, 2] = 0.3  # one strong link across the two groups
    assert components(X).max() == 0
    assert np.array_equal(round_sdp(X, U, trace_penalty=0.1), labels)


@pytest.mark.parametrize("n, k", [(4, 2), (5, 2), (6, 3), (7, 3), (7, 2)])
def test_rounded_relaxation_is_the_best_of_all_partitions_on_clear_groups(n, k):
    every = all_partitions(n)
    for seed in range(4):
        U, truth = planted(n, k, 0.2, seed)
        found = round_sdp(solve_sdp(U, k=k), U, k=k)
        assert np.array_equal(found, truth)
        best = max(slow_objective(U, row) for row in every if row.max() + 1 == k)
        assert slow_objective(U, found) == pytest.approx(best)


def test_rounded_relaxation_is_nearly_always_the_best_partition_of_noise():
    misses = 0
    for n in (5, 6, 7):
        every = all_partitions(n)
        groups = every.max(1) + 1
        for seed in range(5):
            U = standardise(noise(n, seed))
            problem = PartitionSDP(U)
            values = np.array([objective(U, row) for row in every])
            for penalty in (0.3, 1.0, 2.0):
                found = round_sdp(problem.solve(trace_penalty=penalty).X, U, trace_penalty=penalty)
                misses += objective(U, found, penalty) < (values - penalty * groups).max() - 1e-6
            for k in (2, 3):
                found = round_sdp(problem.solve(k=k).X, U, k=k)
                misses += objective(U, found) < values[groups == k].max() - 1e-6
    assert misses <= 2  # of 75


@HYPOTHESIS
@given(st.integers(5, 9), st.integers(2, 3), st.integers(0, 1000))
def test_rounding_commutes_with_permutations_of_the_tasks(n, k, seed):
    U, _ = planted(n, k, 0.3, seed)
    order = np.random.default_rng(seed).permutation(n)
    V = U[np.ix_(order, order)]
    for setting in ({"k": k}, {"trace_penalty": 1.0}):
        found = round_sdp(solve_sdp(U, **setting), U, **setting)
        assert np.array_equal(round_sdp(solve_sdp(V, **setting), V, **setting), canonical(found[order]))
