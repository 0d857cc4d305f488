"""Standardised affinities and the semidefinite relaxation, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.errors import ConfigError, DataError, SolverError
from pgx_jax.grouping import GroupingConfig
from pgx_jax.grouping.admm import ADMM
from pgx_jax.grouping.sdp import (
    SDP_SOLVERS,
    PartitionSDP,
    SDPSolver,
    check_matrix,
    infeasibility,
    solve_sdp,
    standardise,
)

HYPOTHESIS = settings(derandomize=True, deadline=None, max_examples=20)


def partitions(n):
    """Every partition of range(n) as a list of lists: task n-1 joins a group or opens one."""
    if n == 0:
        yield []
        return
    for rest in partitions(n - 1):
        for g in range(len(rest)):
            yield [c + [n - 1] if i == g else c for i, c in enumerate(rest)]
        yield rest + [[n - 1]]


def value(U, partition):
    return sum(U[i, j] / len(c) for c in partition for i in c for j in c)


def noise(n, seed):
    e = np.random.default_rng(seed).normal(size=(n, n))
    return e + e.T


def planted(n, k, spread, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    return 2.0 * (labels[:, None] == labels) + spread * noise(n, seed), labels


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7])
def test_relaxation_bounds_every_partition_from_above(n):
    every = list(partitions(n))
    for seed in range(3):
        U = noise(n, seed)
        problem = PartitionSDP(U)
        for penalty in (0.0, 0.7, 3.0):
            X = problem.solve(trace_penalty=penalty).X
            best = max(value(U, p) - penalty * len(p) for p in every)
            assert np.sum(U * X) - penalty * np.trace(X) >= best - 1e-4
        for k in range(1, n + 1):
            X = problem.solve(k=k).X
            assert np.sum(U * X) >= max(value(U, p) for p in every if len(p) == k) - 1e-4


@pytest.mark.parametrize("solver", ["CLARABEL", "ADMM", "SCS"])
@pytest.mark.parametrize("n, k", [(5, 2), (6, 3), (7, 3), (7, 2)])
def test_relaxation_is_tight_on_clear_groups(n, k, solver):
    raw, labels = planted(n, k, 0.05, n)
    U = standardise(raw)
    same = labels[:, None] == labels
    truth = same / same.sum(1)
    X = solve_sdp(U, k=k, solver=solver)
    assert np.allclose(X, truth, atol=2e-3)
    best = max(value(U, p) for p in partitions(n) if len(p) == k)
    assert np.sum(U * X) == pytest.approx(best, abs=2e-3)


@HYPOTHESIS
@given(st.integers(2, 9), st.integers(0, 1000), st.floats(0, 5), st.booleans())
def test_solutions_are_feasible_and_symmetric(n, seed, penalty, fixed):
    k = 1 + seed % n if fixed else None
    X = solve_sdp(noise(n, seed), trace_penalty=None if fixed else penalty, k=k)
    assert np.array_equal(X, X.T)
    assert X.min() > -1e-5 and np.linalg.eigvalsh(X).min() > -1e-5
    assert np.allclose(X.sum(1), 1, atol=1e-5)
    assert k is None or np.trace(X) == pytest.approx(k, abs=1e-4)
    assert infeasibility(X, k) < 1e-4


def test_infeasibility_sees_each_constraint():
    assert infeasibility(np.eye(3), 3) == 0
    assert infeasibility(np.eye(3), 2) == pytest.approx(1)
    assert infeasibility(1.5 * np.eye(3)) == pytest.approx(0.5)
    assert infeasibility(np.array([[1.2, -0.2], [-0.2, 1.2]])) == pytest.approx(0.2)
    assert infeasibility(np.array([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx(1)
    assert np.isnan(infeasibility(np.full((2, 2), np.nan)))


def test_solution_commutes_with_permutations_of_the_tasks():
    U, _ = planted(7, 3, 0.4, 3)
    order = np.random.default_rng(0).permutation(7)
    X = solve_sdp(U, trace_penalty=0.5)
    assert np.allclose(
        solve_sdp(U[np.ix_(order, order)], trace_penalty=0.5), X[np.ix_(order, order)], atol=1e-4
    )


def test_additive_effects_leave_the_solution_and_penalty_lowers_the_trace():
    U = noise(7, 1)
    a = np.random.default_rng(2).normal(size=7)
    shifted = U + 3 + a[:, None] + a[None, :]
    assert np.allclose(solve_sdp(U, trace_penalty=1.0), solve_sdp(shifted, trace_penalty=1.0), atol=1e-3)
    traces = [np.trace(solve_sdp(U, trace_penalty=penalty)) for penalty in (0.0, 1.0, 3.0, 50.0)]
    assert all(b <= a + 1e-4 for a, b in zip(traces, traces[1:], strict=False)) and traces[0] > traces[-1]
    assert traces[-1] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("solver", ["CLARABEL", "ADMM"])
def test_a_solution_depends_neither_on_other_matrices_nor_on_the_unit(solver):
    first, second = noise(6, 1), noise(6, 2)
    fresh = solve_sdp(second, trace_penalty=1.0, solver=solver)
    solve_sdp(first, k=3, solver=solver)
    assert np.array_equal(solve_sdp(second, trace_penalty=1.0, solver=solver), fresh)
    for unit in (1e-12, 1e9):
        assert np.allclose(solve_sdp(unit * second, trace_penalty=unit, solver=solver), fresh, atol=1e-4)


def test_solvers_stand_in_a_table_the_fast_ones_first(monkeypatch):
    def order(n, solver=None):
        return PartitionSDP(np.eye(n), solver).solvers

    assert order(16) == ["CLARABEL", "ADMM", "SCS", "SPECTRAL"]
    assert order(17) == ["ADMM", "SCS", "SPECTRAL", "CLARABEL"]
    assert order(300)[0] == "SPECTRAL"
    monkeypatch.setitem(SDP_SOLVERS, "MINE", SDPSolver({"effort": 3}, up_to=4))
    assert GroupingConfig(solver="MINE").solver == "MINE"
    assert order(5)[-1] == "MINE" and order(5, "MINE") == ["MINE"]


def test_a_solver_may_be_a_function(monkeypatch):
    made = []

    def mine(U, share):
        made.append(U)
        return lambda trace_penalty, k: share * np.eye(len(U)) + (1 - share) / len(U)

    monkeypatch.setitem(SDP_SOLVERS, "MINE", SDPSolver({"share": 1.0}, of=mine))
    sdp = PartitionSDP(noise(4, 0), "MINE")
    for _ in range(2):
        X, solver = sdp.solve(k=4)
        assert solver == "MINE" and np.array_equal(X, np.eye(4))
    assert len(made) == 1
    with pytest.raises(SolverError, match="MINE: constraints violated by 2.0e"):
        sdp.solve(k=2)


def test_solvers_agree():
    U = standardise(noise(12, 5))
    a, b = (solve_sdp(U, k=4, solver=solver) for solver in ("CLARABEL", "SCS"))
    assert np.sum(U * a) == pytest.approx(np.sum(U * b), abs=1e-2)


def test_a_solver_that_does_not_converge_is_replaced_and_then_reported(monkeypatch):
    monkeypatch.setitem(SDP_SOLVERS, "CLARABEL", SDPSolver({"max_iter": 1}))
    U, labels = planted(6, 2, 0.1, 0)
    same = labels[:, None] == labels
    found = PartitionSDP(U).solve(k=2)
    assert found.solver == "ADMM" and np.allclose(found.X, same / same.sum(1), atol=1e-2)
    with pytest.raises(SolverError, match="6 tasks at k = 2.*CLARABEL"):
        solve_sdp(U, k=2, solver="CLARABEL")
    monkeypatch.setitem(SDP_SOLVERS, "ADMM", SDPSolver({"iterations": 1}, of=ADMM))
    assert PartitionSDP(U).solve(k=2).solver == "SCS"
    monkeypatch.setitem(SDP_SOLVERS, "SCS", SDPSolver({"max_iters": 1}))
    assert PartitionSDP(U).solve(k=2).solver == "SPECTRAL"
    monkeypatch.delitem(SDP_SOLVERS, "SPECTRAL")
    for penalty, told in ((0.3, 0.3), (None, 0.0)):
        with pytest.raises(
            SolverError, match=f"at trace_penalty = {told} was.*CLARABEL.*ADMM: residuals.*SCS"
        ):
            solve_sdp(U, trace_penalty=penalty)


def test_bad_requests_to_the_relaxation():
    U = noise(4, 0)
    for k in (0, 5):
        with pytest.raises(ConfigError, match=f"k = {k} groups of 4"):
            solve_sdp(U, k=k)
    with pytest.raises(ConfigError, match="not both"):
        solve_sdp(U, trace_penalty=1.0, k=2)
    with pytest.raises(ConfigError, match="^solver = 'SIMPLEX'; choose one of 'CLARABEL', 'ADMM', 'SCS'"):
        solve_sdp(U, k=2, solver="SIMPLEX")
    with pytest.raises(ConfigError, match="grouping.solver = 'scs'; choose one of 'CLARABEL', 'ADMM', 'SCS'"):
        GroupingConfig(solver="scs")
    with pytest.raises(DataError, match="finite"):
        solve_sdp(np.where(np.eye(4) > 0, np.nan, U), k=2)


@HYPOTHESIS
@given(st.integers(4, 9), st.integers(0, 1000), st.floats(-3, 3), st.sampled_from([1e-6, 0.1, 1e4]))
def test_standardise_ignores_unit_shift_task_effects_and_diagonal(n, seed, shift, unit):
    rng = np.random.default_rng(seed)
    U, a = noise(n, seed), rng.normal(size=n)
    other = unit * (U + shift + a[:, None] + a[None, :])
    np.fill_diagonal(other, rng.normal(size=n) * 100)
    V = standardise(U)
    assert np.allclose(standardise(other), V, atol=1e-6)
    off = ~np.eye(n, dtype=bool)
    assert np.array_equal(V, V.T)
    assert V[off].std() == pytest.approx(1) and np.allclose(np.where(off, V, 0).sum(1), 0, atol=1e-9)
    assert np.array_equal(np.diag(V), np.where(off, V, -np.inf).max(1))
    order = rng.permutation(n)
    assert np.allclose(standardise(U[np.ix_(order, order)]), V[np.ix_(order, order)])


def test_standardise_symmetrises():
    U = np.random.default_rng(0).normal(size=(5, 5))
    assert np.allclose(standardise(U), standardise((U + U.T) / 2))
    np.testing.assert_array_equal(check_matrix(U), (U + U.T) / 2 * (1 - np.eye(5)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_affinity_without_signal_is_zero(dtype):
    a = np.linspace(0.1, 0.9, 6).astype(dtype)
    assert not standardise(np.full((6, 6), 0.3, dtype)).any()
    assert not standardise(a[:, None] + a[None, :]).any()
    assert not standardise(np.zeros((4, 4), dtype)).any()
    assert standardise(a[:, None] * a[None, :]).any()


def test_two_and_three_tasks():
    assert not standardise([[1.0, 5.0], [5.0, 1.0]]).any()
    U = np.array([[0, 1, -2], [1, 0, -2], [-2, -2, 0.0]])
    V = standardise(U)
    assert V[0, 1] > 0 > V[0, 2] == V[1, 2]
    assert V[~np.eye(3, dtype=bool)].std() == pytest.approx(1)


def test_bad_affinities_name_the_culprit():
    U = noise(4, 0)
    U[1, 3], U[2, 3] = np.nan, np.inf
    with pytest.raises(DataError, match=r"'b' and 'd' .*\(2 such entries\).*more subsets"):
        standardise(U, names="abcd")
    with pytest.raises(DataError, match="tasks 1 and 3"):
        standardise(U)
    with pytest.raises(DataError, match="square"):
        standardise(np.zeros((3, 4)))
    with pytest.raises(DataError, match="at least 2"):
        standardise(np.zeros((1, 1)))
    with pytest.raises(ConfigError, match="3 task names"):
        standardise(noise(4, 0), names="abc")
    fine = noise(4, 0)
    np.fill_diagonal(fine, np.nan)
    assert np.isfinite(standardise(fine)).all()
