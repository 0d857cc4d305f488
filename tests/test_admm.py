"""The solvers by eigenvectors, against Clarabel and against the conditions of their optima."""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.errors import SolverError
from pgx_jax.grouping import PartitionSDP, admm, solve_sdp, standardise
from pgx_jax.grouping.admm import ADMM, Spectral, capped_shares
from pgx_jax.grouping.sdp import infeasibility

HYPOTHESIS = settings(derandomize=True, deadline=None, max_examples=20)


def noise(n, seed):
    e = np.random.default_rng(seed).normal(size=(n, n))
    return standardise(e + e.T)


def planted(n, k, seed):
    labels = np.random.default_rng(seed).permutation(np.arange(n) % k)
    return standardise(2.0 * (labels[:, None] == labels) + 1.5 * noise(n, seed))


def goal(U, X, penalty=0.0):
    return np.sum(U * X) - penalty * np.trace(X)


@pytest.mark.parametrize("U", [noise(6, 0), noise(13, 1), planted(9, 3, 2), planted(20, 4, 3)], ids=len)
def test_admm_finds_the_optimum_that_clarabel_finds(U):
    n = len(U)
    ours, theirs = PartitionSDP(U, "ADMM"), PartitionSDP(U, "CLARABEL")
    for setting in [{"trace_penalty": p} for p in (0.0, 0.5, 2.0, 8.0)] + [
        {"k": k} for k in (1, 2, 3, n - 1, n)
    ]:
        X = ours.solve(**setting).X
        best = goal(U, theirs.solve(**setting).X, setting.get("trace_penalty", 0.0))
        assert infeasibility(X, setting.get("k")) < 1e-3
        error = goal(U, X, setting.get("trace_penalty", 0.0)) - best
        assert abs(error) < 2e-3 * max(abs(best), n), setting


@HYPOTHESIS
@given(st.integers(3, 12), st.integers(0, 1000), st.floats(0, 5))
def test_admm_from_another_solution_ends_where_it_ends_afresh(n, seed, penalty):
    U = noise(n, seed)
    warm = ADMM(U)
    warm(0.0, 1 + seed % n)
    X, fresh = warm(penalty, None), ADMM(U)(penalty, None)
    assert goal(U, X, penalty) == pytest.approx(goal(U, fresh, penalty), abs=2e-3 * n)


def test_admm_takes_few_steps_and_fewer_from_a_solution_nearby(monkeypatch):
    """Some 90 of 28 relaxations, each begun with the spectral one, in the mean; its weight and
    over-relaxation are for that."""
    calls, nearest = [], admm._nearest
    monkeypatch.setattr(admm, "_nearest", lambda *args: calls.append(nearest(*args)) or calls[-1])
    settings = [(p, None) for p in (0.0, 0.5, 2.0, 8.0)] + [(0.0, k) for k in (2, 3, 8)]
    matrices = noise(13, 1), planted(9, 3, 2), planted(20, 4, 3), noise(30, 2)
    for U in matrices:
        for setting in settings:
            first = len(calls)
            ADMM(U)(*setting)
            np.testing.assert_allclose(calls[first], Spectral(U)(*setting), atol=1e-3)
    assert len(calls) < 98 * 28
    fresh = len(calls)
    for U in matrices:
        solver = ADMM(U)
        for penalty in (0.5, 0.55, 0.6, 0.65, 0.7):
            solver(penalty, None)
    assert len(calls) - fresh < 50 * 20


def test_centred_matrices_have_no_means():
    S, J = noise(5, 0) + 3, np.eye(5) - 1 / 5
    np.testing.assert_allclose(admm._centred(S), J @ S @ J, atol=1e-12)


def test_admm_of_no_signal_is_feasible_and_one_that_is_stopped_says_so():
    zero = np.zeros((5, 5))
    assert infeasibility(solve_sdp(zero, k=2, solver="ADMM"), 2) < 1e-3
    assert infeasibility(solve_sdp(zero, trace_penalty=1.0, solver="ADMM")) < 1e-3
    with pytest.raises(SolverError, match="residuals .* after 2 iterations of ADMM"):
        ADMM(noise(8, 0), iterations=2)(0.1, None)


@pytest.mark.parametrize("seed", range(3))
def test_the_spectral_relaxation_is_optimal_without_non_negativity(seed):
    n, U = 7, noise(7, seed)
    X = cp.Variable((n, n), symmetric=True)
    feasible = [X >> 0, np.eye(n) - X >> 0, cp.sum(X, axis=1) == 1]
    solver = Spectral(U)
    for penalty, k in ((0.0, None), (1.0, None), (50.0, None), (0.0, 1), (0.0, 3), (0.0, n)):
        fixed = [] if k is None else [cp.trace(X) == k]
        best = cp.Problem(cp.Maximize(cp.sum(cp.multiply(U, X)) - penalty * cp.trace(X)), feasible + fixed)
        best.solve(solver="CLARABEL")
        found = solver(penalty, k)
        assert goal(U, found, penalty) == pytest.approx(best.value, abs=1e-4)
        assert np.allclose(found @ found, found) and np.allclose(found.sum(1), 1)  # a projector
        assert k is None or np.trace(found) == pytest.approx(k)
        tighter = solve_sdp(U, solver="CLARABEL", **({"trace_penalty": penalty} if k is None else {"k": k}))
        assert goal(U, found, penalty) >= goal(U, tighter, penalty) - 1e-4


@HYPOTHESIS
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8), st.floats(0, 1))
def test_capped_shares_are_the_nearest_point_of_their_sum(values, part):
    values = np.array(values)
    total = part * len(values)
    found = capped_shares(values, total)
    assert found.min() >= 0 and found.max() <= 1 and found.sum() == pytest.approx(total, abs=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(20):  # no step towards another point of that sum comes nearer
        other = capped_shares(3 * rng.normal(size=len(values)), total)
        assert np.dot(values - found, other - found) <= 1e-8
