"""Groupings to compare with, and the agreement of partitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.errors import ConfigError
from pgx_jax.grouping import (
    ari,
    canonical,
    committees,
    exact,
    group_sizes,
    nmi,
    random_groupings,
)
from pgx_jax.tasks.registry import make_family

HYPOTHESIS = settings(derandomize=True, deadline=None, max_examples=20)


@HYPOTHESIS
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 5), st.integers(0, 1000))
def test_random_groupings_have_the_sizes_and_follow_the_key(sizes, draws, seed):
    rows = random_groupings(np.array([0, seed]), sizes, draws)
    assert rows.shape == (draws, sum(sizes))
    for row in rows:
        assert np.array_equal(canonical(row), row)
        assert sorted(group_sizes(row).tolist()) == sorted(sizes)
    assert np.array_equal(rows, random_groupings(np.array([0, seed]), sizes, draws))


def test_random_groupings_are_uniform():
    rows = random_groupings(np.array([0, 0]), [2, 2], 3000)
    _, count = np.unique(rows, axis=0, return_counts=True)
    assert len(count) == 3 and np.all(np.abs(count - 1000) < 130)  # 5 standard deviations
    rows = random_groupings(np.array([0, 1]), [1, 3], 4000)
    _, count = np.unique(rows, axis=0, return_counts=True)
    assert len(count) == 4 and np.all(np.abs(count - 1000) < 140)


def test_random_groupings_refuse_empty_groups():
    for sizes, draws in (([2, 0], 1), ([], 1), ([2], 0)):
        with pytest.raises(ConfigError, match="at least 1"):
            random_groupings(np.array([0, 0]), sizes, draws)


@HYPOTHESIS
@given(st.lists(st.integers(0, 3), min_size=4, max_size=10), st.permutations(range(4)))
def test_agreement_ignores_the_names_of_groups(labels, names):
    renamed = [names[g] for g in labels]
    assert exact(labels, renamed)
    assert nmi(labels, renamed) == pytest.approx(1) and ari(labels, renamed) == pytest.approx(1)


def test_agreement_against_hand_computed_values():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    alone = np.arange(10)
    p = np.array([0.4, 0.3, 0.3])
    shared, entropy = -np.sum(p * np.log(p)), np.log(10)
    assert nmi(truth, alone) == pytest.approx(2 * shared / (shared + entropy))
    assert nmi(truth, alone) == pytest.approx(0.64, abs=0.01) and ari(truth, alone) == pytest.approx(0)
    moved = truth.copy()
    moved[0] = 1
    # pairs together in both 9, in the truth 12, in the other 12, of 45
    expected = 12 * 12 / 45
    assert ari(truth, moved) == pytest.approx((9 - expected) / (12 - expected))
    assert 0 < nmi(truth, moved) < 1 and not exact(truth, moved)
    draws = random_groupings(np.array([0, 0]), [4, 3, 3], 400)
    assert np.mean([ari(truth, row) for row in draws]) == pytest.approx(0, abs=0.03)
    assert np.mean([nmi(truth, row) for row in draws]) == pytest.approx(0.27, abs=0.03)


def test_committees_are_tasks_with_similar_parameters():
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 0, 2, 1, 2, 2, 0])
    centres = np.array([[0.0, 1e-3], [1.0, 1e-3], [1.0, 5e-3]])  # the scale of a parameter does not matter
    parameters = centres[labels] + rng.normal(size=(8, 2)) * [0.02, 2e-5]
    constant = np.full((8, 1), 9.8)
    key = np.array([0, 7], np.uint32)
    found = committees(np.hstack([constant, parameters]), 3, key)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(found, committees(parameters * [100, 1], 3, key))
    assert committees(constant, 3, key).tolist() == [0] * 8
    assert committees(np.zeros((8, 0)), 3, key).tolist() == [0] * 8
    assert sorted(set(committees(labels[:, None], 5, key))) == [
        0,
        1,
        2,
    ]  # no more than there are different ones


def test_parameters_of_a_family_are_all_of_its_numbers():
    family = make_family("points", n_tasks=6, n_groups=2)
    parameters = family.parameters()
    assert parameters.shape[0] == 6
    np.testing.assert_array_equal(parameters[:, :2].astype(np.float32), np.asarray(family.tasks.goal))
    assert exact(committees(parameters, 2, np.zeros(2, np.uint32)), family.true_groups)
