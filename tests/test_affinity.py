"""Affinity against loops over subsets and pairs, scikit-learn's ridge, and planted models."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate import affinity, affinity_interval, all_subsets, cross_fitted
from pgx_jax.estimate.pairs import AFFINITIES, DATAMODEL_RIDGE
from pgx_jax.types import Scores

OF_SCORES = [name for name, kind in AFFINITIES.items() if kind.reads_scores]
KEY = np.array([3, 4], np.uint32)

examples = settings(derandomize=True, deadline=None, max_examples=20)


def random_scores(n=6, size=3, seed=0):
    member = all_subsets(n, size)
    return Scores(member, np.random.default_rng(seed).normal(size=member.shape))


def planted_scores(seed=0, noise=0.3):
    """f_i(S) = mean over S of +1 for tasks of i's group and -1 for others, plus noise."""
    group = np.array([0, 1, 0, 1, 1, 0, 0])
    member = all_subsets(7, 3)
    like = np.where(group[:, None] == group, 1.0, -1.0)
    values = member @ like / 3 + noise * np.random.default_rng(seed).normal(size=member.shape)
    return Scores(member, values), group[:, None] == group


@examples
@given(st.integers(3, 7), st.integers(2, 4), st.integers(0, 99))
def test_means_by_brute_force(n, size, seed):
    scores = random_scores(n, min(size, n), seed)
    member, f, _ = scores
    per_task, aggregate = affinity(scores, "per_task"), affinity(scores, "aggregate")
    for i in range(n):
        for j in range(n):
            both = [s for s in range(len(member)) if member[s, i] and member[s, j]]
            assert per_task.coverage[i, j] == len(both)
            expected = np.mean([(f[s, i] + f[s, j]) / 2 for s in both])
            assert per_task.matrix[i, j] == pytest.approx(expected)
            expected = np.mean([np.mean(f[s][member[s]]) for s in both])
            assert aggregate.matrix[i, j] == pytest.approx(expected)


def test_datamodel_is_a_ridge_regression_on_membership():
    scores = random_scores(7, 3)
    got = affinity(scores, "datamodel").matrix
    weight = np.zeros((7, 7))
    for i in range(7):
        rows, others = scores.member[:, i], np.arange(7) != i
        x = scores.member[rows][:, others].astype(float)
        alpha = DATAMODEL_RIDGE * x.var(0).mean() * rows.sum()
        weight[i, others] = Ridge(alpha=alpha).fit(x, scores.values[rows, i]).coef_
    off = ~np.eye(7, dtype=bool)
    np.testing.assert_allclose(got[off], ((weight + weight.T) / 2)[off])


@pytest.mark.parametrize("kind", OF_SCORES)
def test_like_tasks_get_a_higher_affinity(kind):
    scores, same = planted_scores()
    matrix = affinity(scores, kind).matrix
    off = ~np.eye(7, dtype=bool)
    assert matrix[same & off].mean() > matrix[~same].mean() + 2 * matrix[~same].std()
    if kind != "aggregate":  # the paper's mean over a subset says less about each pair
        assert matrix[same & off].min() > matrix[~same].max()


@pytest.mark.parametrize("kind", OF_SCORES)
@examples
@given(order=st.permutations(range(6)), seed=st.integers(0, 9))
def test_renaming_tasks_renames_the_affinity(kind, order, seed):
    scores = random_scores(6, 3, seed)
    moved = Scores(scores.member[:, order], scores.values[:, order])
    expected = affinity(scores, kind).matrix[np.ix_(order, order)]
    np.testing.assert_allclose(affinity(moved, kind).matrix, expected, atol=1e-9)


@pytest.mark.parametrize("kind", OF_SCORES)
def test_scores_of_tasks_outside_a_subset_are_not_read(kind):
    scores = random_scores()
    spoilt = Scores(scores.member, np.where(scores.member, scores.values, np.nan))
    np.testing.assert_array_equal(affinity(spoilt, kind).matrix, affinity(scores, kind).matrix)


@pytest.mark.parametrize("kind", OF_SCORES)
def test_two_tasks_and_one_subset_suffice(kind):
    result = affinity(Scores(np.ones((1, 2), bool), np.array([[0.2, 0.4]])), kind)
    assert np.isfinite(result.matrix).all()
    np.testing.assert_array_equal(result.coverage, np.ones((2, 2)))


@pytest.mark.parametrize("kind", OF_SCORES)
def test_interval_covers_the_estimate_and_the_noise_of_the_design(kind):
    off = ~np.eye(7, dtype=bool)
    widths = []
    for noise in (0.1, 0.4):
        scores, _ = planted_scores(noise=noise)
        low, high = affinity_interval(scores, KEY, kind, draws=200)
        point = affinity(scores, kind).matrix
        assert (low <= point + 1e-9).all()
        assert (point <= high + 1e-9).all()
        widths.append((high - low)[off].mean())
    assert widths[1] > widths[0]


def test_interval_has_the_width_of_the_standard_error():
    """For many subsets that all hold the pair: 2 * 1.96 standard errors of the mean."""
    rng = np.random.default_rng(0)
    scores = Scores(np.ones((400, 2), bool), rng.normal(size=(400, 2)))
    low, high = affinity_interval(scores, KEY, draws=2000)
    error = scores.values.mean(1).std() / np.sqrt(400)
    assert high[0, 1] - low[0, 1] == pytest.approx(2 * 1.96 * error, rel=0.1)
    narrow = affinity_interval(scores, KEY, draws=2000, level=0.5)
    assert narrow[1][0, 1] - narrow[0][0, 1] == pytest.approx(2 * 0.674 * error, rel=0.1)


def test_interval_follows_its_key_and_stays_finite_where_pairs_are_rare():
    scores = random_scores(6, 2)  # every pair meets once: most samples miss some
    first, again, other = (affinity_interval(scores, key, draws=50) for key in (KEY, KEY, KEY + 1))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(first).all()
    assert not np.array_equal(first, other)


def test_what_cannot_be_known_is_refused():
    scores = random_scores()
    with pytest.raises(ConfigError, match="'cosine'; choose one of 'per_task', .*, 'closed_form'"):
        affinity(scores, "cosine")
    for function in (affinity, lambda *given: affinity_interval(given[0], KEY, given[1])):
        with pytest.raises(ConfigError, match="'closed_form' comes from gradients"):
            function(scores, "closed_form")
    with pytest.raises(ConfigError, match="both task 0 and task 2"):
        affinity(Scores(np.array([[1, 1, 0], [0, 1, 1]], bool), np.zeros((2, 3))))
    values = scores.values.copy()
    values[0, 1] = np.nan
    with pytest.raises(DataError, match="score of task 1 in subset 0"):
        affinity(Scores(scores.member, values))
    with pytest.raises(ConfigError, match="level = 1"):
        affinity_interval(scores, KEY, level=1)


def test_folds_have_matrices_of_their_own():
    ways = [random_scores(seed=seed) for seed in (1, 2)]
    both = affinity(cross_fitted(ways), "per_task")
    apart = np.stack([affinity(way, "per_task").matrix for way in ways])
    np.testing.assert_allclose(both.folds, apart, rtol=1e-5)
    np.testing.assert_allclose(both.matrix, apart.mean(0), rtol=1e-5, atol=1e-6)
    assert affinity(ways[0], "per_task").folds is None
