"""Designs of subsets: all of a size, and random ones that cover every pair."""

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.config import STREAMS, Config
from pgx_jax.errors import ConfigError
from pgx_jax.estimate.subsets import (
    _least_met_subsets,
    all_subsets,
    check_coverage,
    coverage,
    default_size,
    make_subsets,
)
from pgx_jax.pipeline import subsets

examples = settings(derandomize=True, deadline=None, max_examples=25)


def test_all_triples_up_to_sixteen_tasks():
    for n in (4, 5, 10, 16):
        member = make_subsets(0, n)
        expected = {frozenset(subset) for subset in itertools.combinations(range(n), 3)}
        assert len(member) == len(expected)
        assert {frozenset(np.flatnonzero(row)) for row in member} == expected


def test_few_tasks_get_subsets_that_tell_pairs_apart():
    np.testing.assert_array_equal(make_subsets(0, 2), [[True, True]])
    np.testing.assert_array_equal(make_subsets(0, 3).sum(1), [2, 2, 2])
    np.testing.assert_array_equal(make_subsets(0, 4).sum(1), [3, 3, 3, 3])


def test_subsets_of_many_tasks_are_as_large_as_the_root_of_their_number():
    assert [default_size(n) for n in (2, 3, 4, 30)] == [2, 2, 3, 3]
    assert [default_size(n) for n in range(31, 200)] == [math.ceil(math.sqrt(n)) for n in range(31, 200)]
    assert set(make_subsets(0, 36, count=150).sum(1)) == {6}


@pytest.mark.parametrize("n", [17, 20, 26])
def test_larger_designs_cover_every_pair_evenly_with_few_subsets(n):
    member = make_subsets(jax.random.PRNGKey(n), n)
    met = coverage(member)[np.triu_indices(n, 1)]
    assert met.min() >= 12
    assert met.max() <= 14
    assert len(member) <= 1.1 * math.comb(n, 2) * 12 / 3
    assert len(np.unique(member, axis=0)) == len(member)


@pytest.mark.parametrize("n", [31, 49, 64])
def test_two_tasks_are_on_one_line_of_every_square(n):
    member = make_subsets(0, n, min_cover=4)
    met = coverage(member)[np.triu_indices(n, 1)]
    assert met.min() >= 4
    assert met.mean() <= 5  # a line of two tasks that was there already is left out, and made up for
    assert len(np.unique(member, axis=0)) == len(member)
    if n == 49:  # a full square: lines of 7, eight directions
        assert (member.sum(1) == 7).all() and len(member) == 4 * 7 * 8
        assert (met == 4).all()


@examples
@given(st.integers(2, 18), st.integers(2, 5), st.integers(0, 9), st.data())
def test_every_design_is_distinct_sized_and_covering(n, size, seed, data):
    size = min(size, n)
    possible = math.comb(n, size)
    enough = min(possible, 3 * math.comb(n, 2))
    count = data.draw(st.none() | st.integers(enough, max(enough, min(possible, 200))))
    member = make_subsets(seed, n, size, count, min_cover=2)
    assert member.dtype == bool
    assert (member.sum(1) == size).all()
    assert len(np.unique(member, axis=0)) == len(member)
    assert count is None or len(member) == count
    assert check_coverage(member).min() >= 1
    np.testing.assert_array_equal(member, make_subsets(seed, n, size, count, min_cover=2))


@examples
@given(st.integers(4, 9), st.integers(2, 5), st.integers(0, 99))
def test_who_has_met_least_comes_next(n, size, seed):
    """A pair, and then who has met those that are chosen least, by squares; of several who is in the fewest
    subsets; else at random."""
    met = coverage(np.random.default_rng(seed).random((2 * n, n)) < 0.4)
    size, noise = min(size, n), np.random.default_rng(seed).random((n, n))
    chosen = list(min(itertools.combinations(range(n), 2), key=lambda pair: (met[pair], noise[pair])))

    def ranked():
        rest = [task for task in range(n) if task not in chosen]
        return sorted(rest, key=lambda t: (sum(met[c, t] ** 2 for c in chosen), met[t, t], noise[0, t]))

    while len(chosen) < size - 1:
        chosen.append(ranked()[0])
    expected = [chosen] if size == 2 else [[*chosen, last] for last in ranked()]
    found = _least_met_subsets(np.random.default_rng(seed), met, size)
    assert list(found) == [tuple(sorted(subset)) for subset in expected]


def test_seeds_give_different_designs():
    assert not np.array_equal(make_subsets(0, 17, count=120), make_subsets(1, 17, count=120))
    key = jax.random.PRNGKey(0)
    other = jax.random.fold_in(key, 1)
    assert not np.array_equal(make_subsets(key, 17, count=120), make_subsets(other, 17, count=120))


@examples
@given(st.integers(2, 8), st.integers(1, 12), st.integers(0, 99))
def test_coverage_counts_by_brute_force(n, m, seed):
    member = np.random.default_rng(seed).random((m, n)) < 0.5
    expected = [[sum(row[i] and row[j] for row in member) for j in range(n)] for i in range(n)]
    np.testing.assert_array_equal(coverage(member), expected)


def test_an_uncovered_pair_is_named():
    member = np.array([[1, 1, 0], [0, 1, 1]], bool)
    with pytest.raises(ConfigError, match=r"none of the 2 subsets.*task 0 \('a'\) and task 2 \('c'\)"):
        check_coverage(member, ["a", "b", "c"])
    with pytest.raises(ConfigError, match="contains task 2 "):
        check_coverage(np.array([[1, 1, 0]], bool))


def test_too_few_subsets_for_every_pair_are_refused():
    with pytest.raises(ConfigError, match="none of the 5 subsets"):
        make_subsets(0, 10, size=3, count=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 5, "size": 6}, "size of 6 exceeds the number of tasks, 5"),
        ({"n": 5, "size": 1}, "size of 1 covers no pair"),
        ({"n": 1}, "at least 2 tasks"),
        ({"n": 5, "size": 3, "count": 11}, "there are 10"),
        ({"n": 5, "size": 3, "count": 0}, "choose 1 to 10"),
        ({"n": 17, "min_cover": 16}, "two of 17 tasks meet in at most 15 subsets of 3"),
    ],
)
def test_impossible_designs_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        make_subsets(0, **arguments)


def test_all_subsets_in_lexicographic_order():
    expected = [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
    np.testing.assert_array_equal(all_subsets(4, 2), np.array(expected, bool))


def test_a_run_draws_its_subsets_from_a_stream_of_their_own():
    """Where all triples are taken, nothing is drawn."""
    config = Config(seed=5)
    np.testing.assert_array_equal(subsets(config, 9), all_subsets(9, 3))
    drawn = subsets(config, 18)
    np.testing.assert_array_equal(drawn, make_subsets(config.stream("subsets"), 18))
    assert not np.array_equal(drawn, subsets(Config(seed=6), 18))
    assert STREAMS.index("subsets") == 11  # later than those that were there before, whose keys stay
