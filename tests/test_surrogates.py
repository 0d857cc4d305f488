"""Surrogates, their statistics and solvers against autodiff, SciPy and scikit-learn."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from pgx_jax.errors import ConfigError, DataError, SolverError
from pgx_jax.estimate import fit, ridge_unit, signed_weights, surrogates, task_statistics
from pgx_jax.estimate.problems import make_problems
from pgx_jax.estimate.solvers import SOLVERS, Solved
from pgx_jax.types import FIT, SCORE

MEMBER = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]], bool)


def fit_rows(transitions, features, a, task, parts=(FIT,)):
    """float64 features and signed weights of the transitions that a task is fitted on."""
    source = transitions.source[task]
    keep = np.isin(transitions.split[source], parts)
    return np.asarray(features.values, np.float64)[source][keep], np.asarray(a, np.float64)[task][keep]


def reference_loss(transitions, features, row, l2, parts=(FIT,)):
    """L_S and its gradient in float64, written from the definition."""
    a = signed_weights(transitions)
    data = [fit_rows(transitions, features, a, task, parts) for task in np.flatnonzero(row)]

    def value_and_grad(delta):
        value, grad = l2 / 2 * delta @ delta, l2 * delta
        for g, a in data:
            y, w, z = np.sign(a), np.abs(a), g @ delta
            value = value + (w * np.logaddexp(0, -y * z)).mean() / len(data)
            grad = grad - g.T @ (w * y * expit(-y * z)) / len(a) / len(data)
        return value, grad

    return value_and_grad


def reference_solution(*args):
    loss = reference_loss(*args)
    start = np.zeros(np.asarray(args[1].values).shape[-1])
    return minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-11, "ftol": 1e-15, "maxiter": 5000}
    ).x


def relative_gap(loss, delta, optimum):
    zero, best = loss(np.zeros_like(optimum))[0], loss(optimum)[0]
    return (loss(np.asarray(delta, np.float64))[0] - best) / (zero - best)


def test_weights_are_standardised_per_task_whatever_the_scale(make_logged):
    transitions, _ = make_logged()
    a = signed_weights(transitions)
    np.testing.assert_allclose(a.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(a.std(1), 1, rtol=1e-6)
    scale, shift = np.array([[0.01], [100], [1], [5]]), np.array([[3], [-2], [0], [1]])
    moved = transitions._replace(advantage=transitions.advantage * scale + shift)
    np.testing.assert_allclose(signed_weights(moved), a, atol=1e-3)


def test_weights_name_the_task_that_has_no_signal(make_logged):
    transitions, _ = make_logged()
    for value, message in ((0.0, "are zero"), (2.5, "are equal to 2.5")):
        advantage = transitions.advantage.copy()
        advantage[2] = value
        with pytest.raises(DataError, match=rf"task 2 \('c'\) {message}"):
            signed_weights(transitions._replace(advantage=advantage), ["a", "b", "c", "d"])
    advantage[2, 9] = np.inf
    with pytest.raises(DataError, match="task 2 has 1 non-finite advantages, first at transition 9"):
        signed_weights(transitions._replace(advantage=advantage))


def test_problems_list_the_subsets_of_every_task():
    member = np.random.default_rng(0).random((40, 5)) < 0.6
    member[:, 0] = True
    problems = make_problems(member)
    for task, listed in enumerate(problems.listed()):
        assert listed[listed < 40].tolist() == np.flatnonzero(member[:, task]).tolist()
    assert np.asarray(problems.size)[:40].tolist() == member.sum(1).tolist()


def test_statistics_are_the_gradient_and_curvature_at_zero(make_logged):
    transitions, features = make_logged()
    a = signed_weights(transitions)
    for part in (FIT, SCORE):
        stats = task_statistics(features, transitions, a, (part,))
        for task, row in enumerate(np.eye(4, dtype=bool)):
            loss = reference_loss(transitions, features, row, 0.0, (part,))
            np.testing.assert_allclose(stats.b[task], -loss(np.zeros(12))[1], atol=1e-5)
            step = 1e-4
            curvature = [(loss(step * e)[1] - loss(-step * e)[1]) / (2 * step) for e in np.eye(12)]
            np.testing.assert_allclose(stats.h[task], curvature, atol=1e-5)


def test_ridge_unit_is_a_fortieth_of_the_mean_trace(make_logged):
    transitions, features = make_logged()
    stats = task_statistics(features, transitions, signed_weights(transitions))
    expected = np.mean([np.trace(h) for h in np.asarray(stats.h)]) / 40
    assert ridge_unit(stats) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("l2", [1.0, 1e-3, 1e-4])
def test_quadratic_step_solves_the_averaged_systems(make_logged, l2):
    transitions, features = make_logged(d=30)
    stats = task_statistics(features, transitions, signed_weights(transitions))
    got = fit(features, transitions, MEMBER, l2=l2)
    assert int(got.iterations) == 1
    assert float(got.l2) == pytest.approx(l2 * ridge_unit(stats), rel=1e-5)
    for row, delta in zip(MEMBER, got.delta, strict=True):
        h, b = (np.asarray(x, np.float64)[row].mean(0) for x in (stats.h, stats.b))
        expected = np.linalg.solve(h + float(got.l2) * np.eye(30), b)
        np.testing.assert_allclose(delta, expected, atol=1e-4 * np.abs(expected).max())
    again = fit(features, transitions, MEMBER, l2=l2, stats=stats)
    np.testing.assert_allclose(again.delta, got.delta, atol=1e-6)


@pytest.mark.parametrize(("solver", "iterations"), [("lbfgs", None), ("newton", 300)])
@pytest.mark.parametrize("l2", [1.0, 0.1, 0.01, 1e-3])
@pytest.mark.parametrize("sources", [None, 2])
def test_solvers_reach_the_optimum_that_scipy_finds(make_logged, solver, iterations, l2, sources):
    transitions, features = make_logged(d=30, sources=sources, seed=1)
    got = fit(features, transitions, MEMBER, l2=l2, solver=solver, iterations=iterations)
    for row, delta in zip(MEMBER, got.delta, strict=True):
        loss = reference_loss(transitions, features, row, float(got.l2))
        optimum = reference_solution(transitions, features, row, float(got.l2))
        assert -1e-9 < relative_gap(loss, delta, optimum) < 1e-4
        assert np.linalg.norm(delta - optimum) < 0.05 * np.linalg.norm(optimum)


def test_solution_is_scikit_learns(make_logged):
    """C = 1 / l2 and one weight a row make scikit-learn minimise L_S / l2."""
    transitions, features = make_logged(d=20, seed=2)
    a = signed_weights(transitions)
    got = fit(features, transitions, MEMBER, l2=0.1, solver="lbfgs", tolerance=1e-7)
    for row, delta in zip(MEMBER, got.delta, strict=True):
        data = [fit_rows(transitions, features, a, task) for task in np.flatnonzero(row)]
        x, y = np.concatenate([g for g, _ in data]), np.concatenate([np.sign(w) for _, w in data])
        weight = np.concatenate([np.abs(w) / len(w) / row.sum() for _, w in data])
        model = LogisticRegression(
            C=1 / float(got.l2), fit_intercept=False, solver="newton-cholesky", tol=1e-10
        )
        expected = model.fit(x, y, sample_weight=weight).coef_[0]
        np.testing.assert_allclose(delta, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("l2", [1.0, 1e-3])
def test_newton_descends_in_every_iteration_from_the_quadratic_step(make_logged, l2):
    transitions, features = make_logged(d=30, seed=3)
    losses = []
    for iterations in (1, 2, 3, 5, 9, 40):
        got = fit(features, transitions, MEMBER, l2=l2, iterations=iterations)
        assert int(got.iterations) == iterations
        loss = [reference_loss(transitions, features, row, float(got.l2)) for row in MEMBER]
        losses.append([f(np.asarray(x, np.float64))[0] for f, x in zip(loss, got.delta, strict=True)])
    assert (np.diff(losses, axis=0) < 1e-7).all()
    assert (losses[0] < [f(np.zeros(30))[0] for f in loss]).all()


def test_newton_says_when_its_iterations_were_too_few(make_logged, recwarn):
    transitions, features = make_logged(d=30, seed=3)
    fit(features, transitions, MEMBER, l2=1e-3)  # the quadratic step, which is all that was asked for
    fit(features, transitions, MEMBER, l2=1.0, iterations=40)
    assert not recwarn
    with pytest.warns(UserWarning, match=r"4 of 4 .* converged in 2 Newton iterations; .* task \d \('.'\)"):
        fit(features, transitions, MEMBER, l2=1e-3, iterations=2, names=list("abcd"))


@pytest.mark.parametrize("ridge", ["mean", "sum"])
def test_the_ridge_is_added_to_the_mean_or_to_the_sum(make_logged, ridge):
    transitions, features = make_logged()
    got = fit(features, transitions, MEMBER, l2=0.5, ridge=ridge)
    stats = task_statistics(features, transitions, signed_weights(transitions))
    b, h = np.asarray(stats.b, float), np.asarray(stats.h, float)
    for row, delta in zip(MEMBER, np.asarray(got.delta), strict=True):
        pooled = np.mean if ridge == "mean" else np.sum
        expected = np.linalg.solve(pooled(h[row], 0) + float(got.l2) * np.eye(12), pooled(b[row], 0))
        np.testing.assert_allclose(delta, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("count", [20, 100, 128, 200])
def test_data_of_any_length_are_fitted(make_logged, count):
    """Whether or not rows are padded, and whatever the order of the parts."""
    transitions, features = make_logged(count=count, d=5, seed=5)
    got = fit(features, transitions, MEMBER, solver="lbfgs", tolerance=1e-6)
    for row, delta in zip(MEMBER, got.delta, strict=True):
        expected = reference_solution(transitions, features, row, float(got.l2))
        np.testing.assert_allclose(delta, expected, atol=2e-3 * np.abs(expected).max())


def test_parts_of_the_data_are_told_apart(make_logged):
    transitions, features = make_logged(d=8, seed=4)
    both = fit(features, transitions, MEMBER, solver="lbfgs", parts=(FIT, SCORE), tolerance=1e-6)
    expected = reference_solution(transitions, features, MEMBER[1], float(both.l2), (FIT, SCORE))
    np.testing.assert_allclose(both.delta[1], expected, atol=1e-3 * np.abs(expected).max())
    spoilt = np.where(transitions.split[..., None] == FIT, features.values, 1e6).astype(np.float32)
    clean = fit(features, transitions, MEMBER).delta
    np.testing.assert_allclose(
        fit(features._replace(values=spoilt), transitions, MEMBER).delta, clean, rtol=1e-4
    )


def test_many_problems_are_solved_in_chunks(make_logged, monkeypatch):
    transitions, features = make_logged(n=6, d=8)
    member = np.array([[i in pair for i in range(6)] for pair in itertools.combinations(range(6), 2)])
    whole = {
        solver: fit(features, transitions, member, solver=solver).delta for solver in ("newton", "lbfgs")
    }
    monkeypatch.setattr(surrogates, "CHUNK", 10)
    for solver, expected in whole.items():
        got = fit(features, transitions, member, solver=solver).delta
        np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())


def test_problems_do_not_depend_on_their_company(make_logged):
    transitions, features = make_logged(d=8)
    together = fit(features, transitions, MEMBER)
    for index in range(len(MEMBER)):
        alone = fit(features, transitions, MEMBER[index : index + 1])
        np.testing.assert_allclose(
            alone.delta[0], together.delta[index], atol=1e-4 * np.abs(alone.delta).max()
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l2": 9e-5}, "l2 = 9e-05"),
        ({"l2": float("nan")}, "l2 = nan"),
        ({"solver": "sgd"}, "solver = 'sgd'; choose one of 'newton', 'lbfgs'"),
        ({"iterations": 0}, "iterations = 0"),
        ({"member": np.zeros((2, 4), bool)}, "subset 0 is empty"),
        ({"member": np.ones((2, 5), bool)}, "one column a task"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_logged, arguments, message):
    transitions, features = make_logged()
    with pytest.raises(ConfigError, match=message):
        fit(features, transitions, **({"member": MEMBER} | arguments))


def test_an_unfinished_solver_names_the_subset(make_logged):
    transitions, features = make_logged(d=30)
    with pytest.raises(
        SolverError, match=r"^4 of 4 surrogates did not converge in 1 L-BFGS iterations.*task \d \('.'\)"
    ):
        fit(features, transitions, MEMBER, l2=1e-3, solver="lbfgs", iterations=1, names=list("abcd"))


def test_the_worst_of_those_that_failed_is_named():
    """One that is no number before all others."""
    solved = Solved(None, None, 7)
    for error, named in (([0.1, 0.5, 0.3, 0.0], "1 .'b'.*0.*5 "), ([0.1, 0.5, np.nan, 0.6], "2 .'c'.*nan ")):
        count = np.sum(~(np.array(error) <= 0.1))
        with pytest.raises(SolverError, match=rf"^{count} of 4 surrogates .* 7 L.* of task {named}"):
            failed = solved._replace(error=np.array(error))
            surrogates._require_solved(SOLVERS["lbfgs"], failed, np.eye(4, dtype=bool), 1.0, 0.1, "abcd")
        with pytest.warns(UserWarning, match=rf"^{count} of 4 surrogates .* 7 N.* of task {named}"):
            gaps = solved._replace(gap=np.array(error) / 10)
            surrogates._warn_of_gaps(gaps, np.eye(4, dtype=bool), 1.0, "abcd")


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_features_that_are_not_finite_are_refused(make_logged, solver):
    transitions, features = make_logged()
    values = features.values.copy()
    values[2, transitions.split[2] == FIT] = np.nan
    with pytest.raises(SolverError, match="check that the features are finite|did not converge"):
        fit(features._replace(values=values), transitions, MEMBER, solver=solver)


def test_a_source_without_data_in_a_part_is_named(make_logged):
    transitions, features = make_logged()
    split = transitions.split.copy()
    split[3] = SCORE
    with pytest.raises(DataError, match="source 3 has no transitions"):
        fit(features, transitions._replace(split=split), MEMBER)
