"""Paired differences of held-out gains, and their standard errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.errors import DataError
from pgx_jax.grouping import Candidates, paired_difference, paired_differences, select
from pgx_jax.types import Gains

HYPOTHESIS = settings(derandomize=True, deadline=None, max_examples=20)


@HYPOTHESIS
@given(st.integers(0, 1000), st.integers(2, 5))
def test_paired_difference_matches_the_definition(seed, n):
    rng = np.random.default_rng(seed)
    task = np.concatenate([np.arange(n), rng.integers(0, n, size=12)])
    task = np.concatenate([task, task])  # at least two a task
    difference = rng.normal(size=len(task)) * (1 + task)
    of = [difference[task == i] for i in range(n)]
    mean, stderr = paired_difference(difference, task, n)
    assert mean == pytest.approx(np.mean([x.mean() for x in of]))
    assert stderr == pytest.approx(np.sqrt(sum(x.var(ddof=1) / len(x) for x in of)) / n)


def test_standard_error_matches_a_stratified_bootstrap_and_ignores_task_levels():
    rng = np.random.default_rng(0)
    n, J = 4, 60
    task = np.repeat(np.arange(n), J)
    difference = rng.normal(size=n * J) + 100 * task
    rows = difference.reshape(n, J)
    draws = [np.mean([rng.choice(row, J).mean() for row in rows]) for _ in range(2000)]
    assert paired_difference(difference, task, n)[1] == pytest.approx(np.std(draws), rel=0.1)


def test_standard_error_with_single_trajectories():
    mean, stderr = paired_difference(np.array([1.0, 3.0]), np.array([0, 1]), 2)
    assert (mean, stderr) == (2.0, 1.0)
    difference, task = np.array([0.0, 2.0, 5.0]), np.array([0, 0, 1])
    assert paired_difference(difference, task, 2)[1] == pytest.approx(np.sqrt(2 / 2 + 2 / 1) / 2)


# Trajectories that several tasks read are drawn once


@pytest.mark.parametrize("sources", [[0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 2]])
def test_the_standard_error_is_the_spread_over_draws(sources):
    rng, n, count, draws = np.random.default_rng(1), len(sources), 12, 1500
    task = np.repeat(np.arange(n), count)
    trajectory = (np.array(sources)[:, None] * count + np.arange(count)).ravel()
    level, own = rng.normal(size=n), rng.uniform(0.2, 1.0, size=n)

    def draw():
        shared = rng.normal(size=(max(sources) + 1) * count)
        return level[task] + shared[trajectory] + own[task] * rng.normal(size=n * count)

    rows = [draw() for _ in range(draws)]
    right = np.array([paired_difference(row, task, n, trajectory) for row in rows])
    np.testing.assert_allclose(np.array(paired_differences(rows, task, n, trajectory)).T, right)
    spread = right[:, 0].std()
    assert np.sqrt((right[:, 1] ** 2).mean()) == pytest.approx(spread, rel=0.06)
    np.testing.assert_allclose(right[:, 0].mean(), level.mean(), atol=5 * spread / np.sqrt(draws))
    apart = np.array([paired_difference(row, task, n) for row in rows])
    np.testing.assert_allclose(apart[:, 0], right[:, 0])
    if len(set(sources)) == n:  # nothing is shared: the same number
        np.testing.assert_allclose(apart[:, 1], right[:, 1])
    else:  # taken for independent, they would look far surer than they are
        assert np.sqrt((apart[:, 1] ** 2).mean()) < 0.8 * spread


def test_the_order_of_the_rows_does_not_matter():
    rng = np.random.default_rng(2)
    task, trajectory = np.repeat([0, 1, 2], 5), np.concatenate([np.arange(5), np.arange(5), np.arange(5) + 9])
    difference, order = rng.normal(size=15), rng.permutation(15)
    first = paired_difference(difference, task, 3, trajectory)
    again = paired_difference(difference[order], task[order], 3, trajectory[order])
    np.testing.assert_allclose(first, again)
    summed = difference[:5] + difference[5:10]
    expected = np.sqrt(summed.var(ddof=1) / 5 + difference[10:].var(ddof=1) / 5) / 3
    assert first[1] == pytest.approx(expected)


def test_shared_trajectories_that_make_no_sense():
    task = np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match="share all of theirs"):
        paired_difference(np.zeros(4), task, 2, np.array([0, 1, 1, 2]))
    with pytest.raises(DataError, match="share one held-out trajectory"):
        paired_difference(np.zeros(2), np.array([0, 1]), 2, np.array([3, 3]))
    candidates = Candidates(np.array([[0, 0], [0, 1]]), np.zeros(2), np.zeros(2), np.full(2, ""))
    for second in (np.array([1, 0, 1, 0]), None):
        numbers = iter([np.array([0, 1, 0, 1]), second])
        with pytest.raises(DataError, match="same tasks for every partition"):
            select(candidates, lambda labels, numbers=numbers: Gains(np.zeros(4), task, next(numbers)))
    same = select(candidates, lambda labels: Gains(np.arange(4.0), task, np.array([0, 1, 0, 1])))
    assert same.path["equal"].all()
