"""Similarities of gradients against their definitions, and the closed form against all triples."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate import affinity, similarity
from pgx_jax.grouping import canonical, exact, group
from pgx_jax.types import Scores

HYPOTHESIS = settings(derandomize=True, deadline=None, max_examples=20)


def gradients(n, k, d, seed, noise=0.3):
    rng = np.random.default_rng(seed)
    labels = canonical(rng.permutation(np.arange(n) % k))
    return rng.normal(size=(k, d))[labels] + noise * rng.normal(size=(n, d)), labels


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
    assert similarity(b.astype(np.float32)).dtype == np.float64
    short = H.astype(np.float32)  # what is worked out with it is in double precision
    same = similarity(b, short.astype(float), "whitened", l2)
    assert np.array_equal(similarity(b, short, "whitened", l2), same)


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
