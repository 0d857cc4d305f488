"""The choice among partitions, on synthetic affinities and held-out gains of known truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.grouping import (
    Candidates,
    GroupingConfig,
    all_partitions,
    canonical,
    distinct_groups,
    exact,
    group,
    propose,
    select,
)
from pgx_jax.grouping.sdp import PartitionSDP
from pgx_jax.grouping.selection import path_ks, path_penalties

HYPOTHESIS = settings(derandomize=True, deadline=None, max_examples=20)


def planted(n, k, seed, spread=0.3):
    """An affinity with k groups, task effects and noise; and the groups."""
    rng = np.random.default_rng(seed)
    labels = canonical(rng.permutation(np.arange(n) % k))
    a, e = rng.normal(size=n), rng.normal(size=(n, n))
    return 5 + (labels[:, None] == labels) + a[:, None] + a[None, :] + spread * (e + e.T) / 2, labels


def test_the_path_of_up_to_sixteen_tasks_is_as_given_and_grows_with_more():
    for n in range(2, 17):
        assert path_ks(n, 12) == list(range(2, min(12, n - 1) + 1)) and path_ks(n, 3) == [2, 3][: n - 2]
        assert path_penalties(n, (0.3, 2.0)) == [0.3, 2.0]
    assert path_ks(30, 12) == [*range(2, 13), 15] and path_ks(40, 5) == [2, 3, 4, 5, 6, 8, 10, 12, 15, 19]
    assert path_ks(100, 12)[10:] == [12, 15, 19, 24, 30, 38, 48] and path_ks(1000, 12)[-1] == 451
    assert path_penalties(80, (0.3, 2.0)) == [1.5, 10.0]


@HYPOTHESIS
@given(st.integers(2, 400), st.integers(1, 20))
def test_the_ks_of_the_path_rise_within_the_possible(n, up_to):
    ks = path_ks(n, up_to)
    assert ks == sorted(set(ks)) and all(2 <= k < n for k in ks)
    assert set(range(2, min(up_to, n - 1) + 1)) <= set(ks)


@pytest.mark.parametrize(("n", "k", "solver"), [(40, 5, "ADMM"), (130, 8, "SPECTRAL")])
def test_planted_groups_of_many_tasks_are_candidates_that_name_their_solver(n, k, solver):
    U, truth = planted(n, k, seed=1, spread=0.5)
    config = GroupingConfig(penalties=(1.0,), max_groups=10)
    found = propose(U, config=config, up_to=k)
    row = next(i for i, labels in enumerate(found.labels) if np.array_equal(labels, truth))
    assert found.solver[row] == solver
    assert set(found.solver.tolist()) == {solver, ""} and found.solver[0] == ""
    exactly = propose(U, k=k, config=GroupingConfig(solver="SPECTRAL"))
    assert set(exactly.solver.tolist()) == {"SPECTRAL"} and np.array_equal(exactly.labels[0], truth)


def scorer(truth, seed, *, conflict, noise, sharing=0.3, trajectories=12):
    """Held-out gains of a model: the policy of a group C fits task i by the share of C that is in i's
    true group, minus the noise of a direction estimated from |C| tasks (worse in small groups).

    Trajectories have a task's own level and spread, common to all partitions (the pairing).
    """
    rng = np.random.default_rng(seed)
    n = len(truth)
    task = np.repeat(np.arange(n), trajectories)
    level = rng.standard_t(3, size=len(task)) + 5 * rng.normal(size=n)[task]
    features = rng.normal(size=(len(task), 8))
    directions = {}

    def score(labels):
        same = labels[:, None] == labels
        size = same.sum(1)
        pure = (same & (truth[:, None] == truth)).sum(1) / size
        gain = conflict * pure - sharing / size
        error = np.zeros(len(task))
        for name in np.unique(labels):
            bits = (labels == name).astype(int)
            seed_of = int("".join(map(str, bits)), 2)
            if seed_of not in directions:
                directions[seed_of] = np.random.default_rng(seed_of).normal(size=8) / np.sqrt(bits.sum())
            inside = bits[task] == 1
            error[inside] = features[inside] @ directions[seed_of]
        return level + gain[task] + noise * error, task

    return score


@pytest.mark.parametrize("n, k", [(4, 2), (5, 2), (5, 3), (8, 3), (10, 3), (10, 2), (13, 4), (16, 5)])
def test_planted_groups_are_found_with_and_without_k(n, k):
    U, truth = planted(n, k, seed=n)
    score = scorer(truth, n, conflict=2.0, noise=0.1)
    found = group(U, score=score)
    assert np.array_equal(found.labels, truth) and found.k == k
    alone = group(U, k=k)
    assert np.array_equal(alone.labels, truth) and set(alone.path["k"]) == {k}
    assert np.array_equal(group(U, k=k, score=score).labels, truth)
    assert {1, n} <= set(found.path["k"].tolist())


def test_where_nothing_is_gained_the_answer_is_one_group():
    one, arg_max = 0, 0
    for seed in range(12):
        n = (3, 6, 8, 10)[seed % 4]
        e = np.random.default_rng(seed).normal(size=(n, n))
        score = scorer(np.zeros(n), seed, conflict=0.0, noise=0.15, sharing=0.05)
        one += group(e + e.T, score=score).k == 1
        arg_max += group(e + e.T, score=score, config=GroupingConfig(standard_errors=0)).k == 1
    assert one >= 11  # of 12: a 2-standard-error rule errs now and then
    assert arg_max <= 8  # the plain arg max invents groups on the same data


def test_a_task_that_goes_with_none_is_found_when_lone_tasks_are_tried():
    truth = np.array([0, 0, 1, 0, 0, 0, 0])
    U = 1.0 * (truth[:, None] == truth)
    score = scorer(truth, 0, conflict=2.0, noise=0.1)
    assert np.array_equal(group(U, score=score, config=GroupingConfig(lone_tasks=True)).labels, truth)


def test_an_affinity_without_signal_gives_one_group():
    score = scorer(np.zeros(7), 0, conflict=0.0, noise=0.0, sharing=0.5)
    assert group(np.full((7, 7), 0.2), score=score).k == 1


def test_tasks_that_share_nothing_stay_alone():
    U, _ = planted(6, 6, seed=0)
    score = scorer(np.arange(6), 0, conflict=3.0, noise=0.01)
    assert group(U, score=score).k == 6


def table(gains):
    """A score that looks gains up: {labels: gain of the 4 trajectories of each of 2 tasks x 2}."""
    task = np.repeat(np.arange(3), 2)
    return lambda labels: (np.asarray(gains[tuple(labels.tolist())], dtype=float), task)


def test_rule_takes_the_smallest_k_within_the_errors_and_its_best_candidate():
    rows = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 2]])
    candidates = Candidates(rows, np.zeros(4), np.full(4, np.nan), np.full(4, ""))
    gains = {
        (0, 0, 0): [1, 1, 1, 1, 1, 1],
        (0, 0, 1): [4, 2, 4, 2, 4, 2],
        (0, 1, 1): [5, 2, 5, 2, 5, 2],
        (0, 1, 2): [4, 4, 4, 4, 4, 4],
    }
    found = select(candidates, table(gains))
    path = found.path
    # differences to all alone: 3 (se 0), 1 (se 1/sqrt 3), .5 (se 1.5/sqrt 3), 0
    assert np.allclose(path["difference"], [3, 1, 0.5, 0])
    assert np.allclose(path["stderr_to_best"], [0, 1 / np.sqrt(3), 1.5 / np.sqrt(3), 0])
    assert path["equal"].tolist() == [False, True, True, True]
    assert found.labels.tolist() == [0, 1, 1] and path["chosen"] == 2 and path["best"] == 3
    assert select(candidates, table(gains), standard_errors=0.0).labels.tolist() == [0, 1, 2]
    assert select(candidates, table(gains), standard_errors=1.0).labels.tolist() == [0, 1, 1]
    assert np.allclose(path["task_score"][2], [3.5, 3.5, 3.5]) and np.allclose(path["score"], [1, 3, 3.5, 4])


def test_what_is_surely_worse_is_not_chosen_for_its_higher_score():
    rows = np.array([[0, 0, 1], [0, 1, 1], [0, 1, 2]])
    gains = {(0, 0, 1): [3] * 6, (0, 1, 1): [5.9, -0.1] * 3, (0, 1, 2): [4] * 6}
    candidates = Candidates(rows, np.zeros(3), np.zeros(3), np.full(3, ""))
    assert select(candidates, table(gains)).path["chosen"] == 1
    assert select(candidates, table(gains), split=False).path["chosen"] == 0  # nothing is tested then


def test_negligible_differences_count_as_equal_and_without_a_reason_it_is_one_group():
    rows = np.array([[0, 0, 0], [0, 1, 1], [0, 1, 2]])
    gains = {(0, 0, 0): [0] * 6, (0, 1, 1): [0.97] * 6, (0, 1, 2): [1] * 6}
    candidates = Candidates(rows, np.zeros(3), np.zeros(3), np.full(3, ""))
    assert select(candidates, table(gains)).k == 3
    assert select(candidates, table(gains), min_share=0.02).k == 3
    assert select(candidates, table(gains), min_share=0.05).k == 2
    found = select(candidates, table(gains), split=False)
    assert found.k == 1 and found.path["best"] == 2 and found.path["chosen"] == 0
    config = GroupingConfig()
    assert config.rule(None) == {"standard_errors": 2, "min_share": 0.03} and not any(config.rule(3).values())


def test_equal_gains_choose_the_smaller_k_even_without_noise():
    rows = np.array([[0, 0, 0], [0, 1, 2]])
    gains = {(0, 0, 0): [0.1] * 6, (0, 1, 2): [0.1 + 1e-17] * 6}
    candidates = Candidates(rows, np.zeros(2), np.zeros(2), np.full(2, ""))
    assert select(candidates, table(gains), standard_errors=0.0).k == 1


def test_tasks_weigh_the_same_whatever_their_number_of_trajectories():
    task = np.array([0] * 10 + [1] * 2)
    gains = {(0, 0): np.where(task == 0, 1.0, 0.0), (0, 1): np.where(task == 0, 0.0, 2.0)}
    candidates = Candidates(np.array([[0, 0], [0, 1]]), np.zeros(2), np.zeros(2), np.full(2, ""))
    assert select(candidates, lambda labels: (gains[tuple(labels.tolist())], task)).k == 2


def test_the_choice_does_not_depend_on_the_order_of_the_tasks():
    U, truth = planted(8, 3, seed=1, spread=0.5)
    score = scorer(truth, 3, conflict=1.0, noise=0.0)
    order = np.random.default_rng(5).permutation(8)
    back = np.argsort(order)

    def permuted(labels):
        gain, task = score(canonical(labels[back]))
        return gain, back[task]

    plain = group(U, score=score).labels
    assert np.array_equal(group(U[np.ix_(order, order)], score=permuted).labels, canonical(plain[order]))
    moved = group(U[np.ix_(order, order)], k=3).labels
    assert np.array_equal(moved, canonical(group(U, k=3).labels[order]))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 9])
def test_candidates_are_distinct_canonical_and_complete(n):
    U, _ = planted(n, 2, seed=n, spread=1.0)
    rows = propose(U).labels
    assert len({tuple(row) for row in rows}) == len(rows)
    assert all(np.array_equal(canonical(row), row) for row in rows)
    k = rows.max(1) + 1
    assert set(k.tolist()) == set(range(1, n + 1)) and np.all(np.diff(k) >= 0)
    if n <= 5:
        assert {tuple(row) for row in rows} == {tuple(row) for row in all_partitions(n)}
    for size in range(1, n + 1):
        assert set((propose(U, k=size).labels.max(1) + 1).tolist()) == {size}
    capped = propose(U, config=GroupingConfig(max_groups=2)).labels
    assert set((capped.max(1) + 1).tolist()) == {1, 2}


def test_the_relaxation_is_solved_along_the_path(monkeypatch):
    asked, solve = [], PartitionSDP.solve
    monkeypatch.setattr(PartitionSDP, "solve", lambda sdp, **kw: asked.append(kw) or solve(sdp, **kw))
    propose(planted(7, 2, seed=0)[0], up_to=4, config=GroupingConfig(penalties=(0.5, 2.0)))
    assert asked == [{"trace_penalty": 0.5}, {"trace_penalty": 2.0}, {"k": 2}, {"k": 3}, {"k": 4}]


def test_other_affinities_add_their_partitions():
    first, second = (planted(8, 3, seed=seed, spread=1.0)[0] for seed in (1, 2))
    apart = [{tuple(row) for row in propose(U).labels.tolist()} for U in (first, second)]
    both = propose(first, [second]).labels.tolist()
    assert {tuple(row) for row in both} == apart[0] | apart[1] and len(both) == len(apart[0] | apart[1])
    exact = {tuple(row) for row in propose(first, [second], k=2).labels.tolist()}
    assert exact == {tuple(row) for U in (first, second) for row in propose(U, k=2).labels.tolist()}


def test_a_fixed_trace_penalty_needs_no_score_and_falls_in_k():
    U, truth = planted(9, 3, seed=2)
    ks = [group(U, config=GroupingConfig(trace_penalty=p)).k for p in (0.0, 1.0, 100.0)]
    assert ks == sorted(ks, reverse=True) and ks[-1] == 1
    assert exact(group(U, config=GroupingConfig(trace_penalty=1.5)).labels, truth)


def test_path_is_made_of_plain_arrays():
    U, truth = planted(6, 2, seed=0)
    path = group(U, score=scorer(truth, 0, conflict=1.0, noise=0.1)).path
    c = len(path["candidates"])
    assert all(isinstance(value, np.ndarray) and value.dtype != object for value in path.values())
    for name in ("k", "score", "difference", "stderr_to_best", "equal", "objective", "penalty", "solver"):
        assert path[name].shape == (c,)
    assert path["task_score"].shape == (c, 6) and path["difference"].min() == 0
    assert np.array_equal(path["k"], path["candidates"].max(1) + 1)


@HYPOTHESIS
@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=6))
def test_distinct_groups_cover_every_candidate_once(rows):
    labels = np.array(rows)
    member, index = distinct_groups(labels)
    assert len({tuple(row) for row in member}) == len(member)
    assert set(np.unique(index)) == set(range(len(member)))
    for row, where in zip(labels, index, strict=True):
        for i in range(5):
            assert np.array_equal(member[where[i]], row == row[i])
    groups = [tuple(row == name) for row in rows_of(labels) for name in range(row.max() + 1)]
    assert [tuple(row) for row in member] == list(dict.fromkeys(groups))  # by first appearance


def rows_of(labels):
    return [canonical(row) for row in labels]


def test_distinct_groups_give_the_same_choice_as_scoring_one_by_one():
    U, truth = planted(8, 3, seed=4)
    score = scorer(truth, 4, conflict=1.0, noise=0.1)
    candidates = propose(U)
    member, index = distinct_groups(candidates.labels)
    gains = {}
    for row in member:  # solving a group: its tasks together, the others in a group of their own
        gain, task = score(canonical(~row))
        gains[row.tobytes()] = gain
    lookup = {row.tobytes(): where for row, where in zip(candidates.labels, index, strict=True)}

    def batched(labels):
        where = lookup[labels.tobytes()]
        return np.array([gains[member[where[i]].tobytes()][t] for t, i in enumerate(task)]), task

    one, other = select(candidates, score), select(candidates, batched)
    assert np.allclose(one.path["score"], other.path["score"])
    assert np.array_equal(one.labels, other.labels)


def test_bad_requests():
    U, truth = planted(6, 2, seed=0)
    score = scorer(truth, 0, conflict=1.0, noise=0.1)
    for k in (0, 7, -1, 2.5):
        with pytest.raises(ConfigError, match=f"k = {k} groups of 6 tasks"):
            group(U, k=k)
    with pytest.raises(ConfigError, match="nothing chooses"):
        group(U)
    with pytest.raises(ConfigError, match="not both"):
        group(U, k=2, config=GroupingConfig(trace_penalty=1.0))
    bad = U.copy()
    bad[2, 4] = np.inf
    with pytest.raises(DataError, match="'t2' and 't4'"):
        group(bad, score=score, names=[f"t{i}" for i in range(6)])
    for setting in (
        {"penalties": (1.0, -1.0)},
        {"trace_penalty": float("nan")},
        {"max_groups": 0},
        {"standard_errors": -1.0},
        {"level": 0.0},
        {"level": 0.6},
        {"exhaustive_up_to": 20},
    ):
        with pytest.raises(ConfigError):
            GroupingConfig(**setting)


def test_bad_gains_name_the_task():
    U, truth = planted(6, 2, seed=0)
    score = scorer(truth, 0, conflict=1.0, noise=0.1)
    names = [f"t{i}" for i in range(6)]

    def broken(labels):
        gain, task = score(labels)
        return np.where(task == 3, np.nan, gain), task

    def without(labels):
        gain, task = score(labels)
        return gain[task != 4], task[task != 4]

    def shuffled(labels):
        gain, task = score(labels)
        return (gain, task) if labels.max() else (gain, task[::-1])

    with pytest.raises(DataError, match="'t3' are not finite"):
        group(U, score=broken, names=names)
    with pytest.raises(DataError, match="task 't4' has no trajectory"):
        group(U, score=without, names=names)
    with pytest.raises(DataError, match="same tasks for every partition"):
        group(U, score=shuffled)
    for task in ([0, 1, 6], [5, 0, -1], []):
        with pytest.raises(DataError, match="6 task indices"):
            group(U, score=lambda labels, task=task: (np.zeros(len(task)), np.array(task, int)))
    for shape in ((6, 1), (5,), (7,), ()):
        with pytest.raises(DataError, match=r"gain \[J\] and task \[J\]"):
            group(U, score=lambda labels, shape=shape: (np.zeros(shape), np.arange(6)))
    assert group(U, score=lambda labels: (np.zeros(6), np.arange(6))).k == 1
