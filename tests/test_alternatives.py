"""Groupings to compare with, and the agreement of partitions."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate import affinity
from pgx_jax.grouping import (
    ari,
    canonical,
    committees,
    exact,
    group,
    group_sizes,
    nmi,
    random_groupings,
    similarity,
)
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Scores

HYPOTHESIS = settings(derandomize=True, deadline=None, max_examples=20)


def gradients(n, k, d, seed, noise=0.3):
    rng = np.random.default_rng(seed)
    labels = canonical(rng.permutation(np.arange(n) % k))
    return rng.normal(size=(k, d))[labels] + noise * rng.normal(size=(n, d)), labels


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
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 1000), st.floats(0.01, 10))
def test_similarities_match_their_definitions(n, d, seed, l2):
    rng = np.random.default_rng(seed)
    b = rng.normal(size=(n, d))
    roots = rng.normal(size=(n, d, d + 2))
    H = np.stack([root @ root.T for root in roots])
    mean = sum(H) / n
    inverse = np.linalg.inv(mean + l2 * np.trace(mean) / 40 * np.eye(d))
    dot, cosine, whitened, shared = (
        similarity(b),
        similarity(b, kind="cosine"),
        similarity(b, H, "whitened", l2),
        similarity(b, mean, "whitened", l2),
    )
    for i in range(n):
        for j in range(n):
            assert dot[i, j] == pytest.approx(sum(x * y for x, y in zip(b[i], b[j], strict=True)))
            norms = np.sqrt(sum(b[i] ** 2) * sum(b[j] ** 2))
            assert cosine[i, j] == pytest.approx(sum(b[i] * b[j]) / norms)
            assert whitened[i, j] == pytest.approx(b[i] @ inverse @ b[j], rel=1e-6, abs=1e-9)
    assert np.allclose(whitened, shared) and np.array_equal(whitened, whitened.T)


def test_cosine_ignores_the_length_of_gradients_and_dot_does_not():
    b, _ = gradients(5, 2, 7, 0)
    longer = b * np.array([1, 100, 0.01, 1, 1])[:, None]
    assert np.allclose(similarity(longer, kind="cosine"), similarity(b, kind="cosine"))
    assert not np.allclose(similarity(longer), similarity(b))


@pytest.mark.parametrize("kind", ["dot", "cosine", "whitened"])
def test_similarities_recover_groups_through_the_same_clustering(kind):
    for n, k in ((7, 2), (10, 3)):
        b, truth = gradients(n, k, 40, seed=k)
        assert exact(group(similarity(b, np.eye(40), kind), k=k).labels, truth)


def test_bad_gradients_and_kinds():
    b = np.ones((3, 2))
    broken = np.array([[1, 0], [np.nan, 0], [0, 1.0]])
    with pytest.raises(DataError, match="task 'y'"):
        similarity(broken, names="xyz")
    with pytest.raises(DataError, match="task 2 is zero"):
        similarity(np.array([[1, 0], [0, 1], [0, 0.0]]), kind="cosine")
    with pytest.raises(ConfigError, match="'euclidean'; choose one of 'dot', 'cosine', 'whitened'"):
        similarity(b, kind="euclidean")
    with pytest.raises(ConfigError, match="needs the curvature"):
        similarity(b, kind="whitened")
    with pytest.raises(ConfigError, match="l2 = 0"):
        similarity(b, np.eye(2), "whitened", l2=0)
    with pytest.raises(DataError, match="curvature"):
        similarity(b, np.zeros((2, 2)), "whitened")


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


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_is_the_affinity_over_all_triples(seed):
    """Quadratic surrogates of all triples, solved one by one; their per-task affinity, pair by pair."""
    n, d, l2 = 6, 9, 0.7
    b, _ = gradients(n, 2, d, seed)
    root = np.random.default_rng(seed).normal(size=(d, d)) / 3
    H = root @ root.T
    ridge = l2 * np.trace(H) / 40
    member = np.array([[i in triple for i in range(n)] for triple in combinations(range(n), 3)])
    values = np.zeros(member.shape)
    for row, tasks in zip(values, member, strict=True):
        delta = np.linalg.solve(H + ridge * np.eye(d), b[tasks].mean(0))
        row[tasks] = b[tasks] @ delta - delta @ H @ delta / 2
    sampled = affinity(Scores(member, values), "per_task").matrix
    exact = similarity(b, H, "closed_form", l2=l2)
    for i, j, k, m in permutations(range(n), 4):  # what is left of a pair without terms of single tasks
        one, other = (u[i, j] - u[i, m] - u[k, j] + u[k, m] for u in (sampled, exact))
        assert 3 * (n - 2) / (n - 3) * one == pytest.approx(other, abs=1e-10)


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
