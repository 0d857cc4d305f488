"""The parts of the solvers against loops in float64: one problem, one pair, one step after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from pgx_jax.estimate import solvers
from pgx_jax.estimate.problems import Data, TaskStatistics, data_loss, logits, make_problems
from pgx_jax.estimate.surrogates import statistics

MEMBER = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]], bool)
M, D, L2 = 25, 5, 0.03
RNG = np.random.default_rng(0)
SOURCES = {"own sources": [0, 1, 2, 3], "shared sources": [0, 1, 1, 0], "one source": [0, 0, 0, 0]}


def make_data(source):
    """Rows of uneven directions; those at the end have no weight."""
    rng = np.random.default_rng(1)
    g = rng.normal(size=(max(source) + 1, M, D)) * [3, 1, 1, 0.3, 0.1]
    a = rng.normal(size=(4, M)) * (np.arange(M) < M - 4) / M
    return Data(jnp.asarray(g, jnp.float32), jnp.asarray(a, jnp.float32), jnp.asarray(source))


@pytest.fixture(scope="module", params=SOURCES.values(), ids=SOURCES)
def data(request):
    return make_data(request.param)


@pytest.fixture(scope="module")
def own():
    return make_data([0, 1, 2, 3])


def in_double(data):
    """g [n, M, d] of every task, a [n, M]."""
    return np.asarray(data.g, float)[np.asarray(data.source)], np.asarray(data.a, float)


def slow_loss(data, row, theta, summed=False):
    """L_S(theta), its gradient, and the curvature."""
    loss, grad, curvature = L2 / 2 * theta @ theta, L2 * theta, L2 * np.eye(D)
    for g, a in [
        pair for pair, inside in zip(zip(*in_double(data), strict=True), row, strict=True) if inside
    ]:
        z, share = g @ theta, 1 if summed else 1 / row.sum()
        loss += share * np.sum(np.abs(a) * np.logaddexp(0, -np.sign(a) * z))
        grad = grad - share * g.T @ (a * expit(-np.sign(a) * z))
        curvature = curvature + share * (g.T * np.abs(a) * expit(z) * expit(-z)) @ g
    return loss, grad, curvature


def padded(rows, problems):
    """Of the problems that are none, zeros."""
    spare = len(problems.size) - len(rows)
    return jnp.asarray(np.pad(rows, ((0, spare), *[(0, 0)] * (np.ndim(rows) - 1))), jnp.float32)


def test_products_with_the_rows_of_tasks_are_sums_over_them_and_copy_no_source_alone(data):
    g, _ = in_double(data)
    x, r, weight = RNG.normal(size=(4, 3, D)), RNG.normal(size=(4, 3, M)), RNG.random((4, M))
    for function, argument, expected in (
        (data.times, x, np.einsum("ncd,nMd->ncM", x, g)),
        (data.transposed_times, r, np.einsum("ncM,nMd->ncd", r, g)),
        (data.gram, weight, np.einsum("nM,nMd,nMe->de", weight, g, g)),
    ):
        np.testing.assert_allclose(function(jnp.float32(argument)), expected, rtol=1e-4, atol=1e-5)
        made = jax.make_jaxpr(function)(jnp.float32(argument)).jaxpr.eqns
        copies = any(x.aval.shape == (4, M, D) for one in made for x in one.outvars)
        assert not copies or len(data.g) > 1


def test_problems_and_their_slots_are_padded_to_few_sizes():
    for count, wanted in ((1, 16), (16, 16), (17, 32), (33, 64)):
        problems = make_problems(np.ones((count, 2), bool))
        assert problems.size.tolist() == [2] * count + [1] * (wanted - count)
        assert problems.slots.shape == (2, -(-count // 8) * 8)
        assert problems.slots[0].tolist() == [*range(count), *[wanted] * (-count % 8)]
    assert make_problems(MEMBER, summed=True).size.tolist() == [1] * 16


def slow_systems(b, inverses, apart, limit, tolerance):
    """Conjugate gradients on all systems (matrices ``apart``), until the slowest is done."""
    x, r = np.zeros_like(b), b.copy()
    direction = q = np.stack([inverse @ row for inverse, row in zip(inverses, r, strict=True)])
    start = rho = (r * q).sum(1)
    for _ in range(limit):
        if (rho <= tolerance**2 * start).all():
            break
        image = np.stack([matrix @ row for matrix, row in zip(apart, direction, strict=True)])
        alpha = rho / (direction * image).sum(1)
        x, r = x + alpha[:, None] * direction, r - alpha[:, None] * image
        q = np.stack([inverse @ row for inverse, row in zip(inverses, r, strict=True)])
        before, rho = rho, (r * q).sum(1)
        direction = q + (rho / before)[:, None] * direction
    return x, np.sqrt(rho / start)


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize(("limit", "tolerance"), [(1, 0.0), (3, 0.0), (1000, 0.1), (1000, 1e-4)])
def test_systems_are_solved_by_as_many_steps_as_a_loop_takes(own, monkeypatch, limit, tolerance, summed):
    monkeypatch.setattr(solvers, "CG_LIMIT", limit)
    stats, problems = statistics(own), make_problems(MEMBER, summed=summed)
    b, h = (np.asarray(x, float) for x in stats)
    share = MEMBER / (1 if summed else MEMBER.sum(1, keepdims=True))
    apart = np.einsum("mn,nde->mde", share, h) + L2 * np.eye(D)
    inverses = np.linalg.inv(share.sum(1)[:, None, None] * h.mean(0) + L2 * np.eye(D))
    wanted, left = slow_systems(share @ b, inverses, apart, limit, tolerance)
    x, error = solvers.solve_quadratic(stats.h, padded(share @ b, problems), problems, L2, tolerance)
    np.testing.assert_allclose(x[:4], wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())
    np.testing.assert_allclose(error[:4], left, rtol=0.02, atol=1e-5)
    assert not x[4:].any() and not error[4:].any()


def test_newton_takes_steps_of_the_fixed_curvature(data):
    stats, problems, theta = statistics(data), make_problems(MEMBER), np.zeros((4, D))
    h = [L2 * np.eye(D) + np.asarray(stats.h, float)[row].mean(0) for row in MEMBER]
    for iterations in (1, 2, 3):
        losses = [slow_loss(data, row, x) for row, x in zip(MEMBER, theta, strict=True)]
        theta = theta - np.stack([np.linalg.solve(m, one[1]) for m, one in zip(h, losses, strict=True)])
        found, error, gap = solvers.newton(data, stats, problems, jnp.float32(L2), iterations)
        np.testing.assert_allclose(found[:4], theta, rtol=1e-3, atol=1e-4)
        assert error.max() < 1e-4
        for row, x, told in zip(MEMBER, theta, gap, strict=False):
            (loss, grad, _), zero = slow_loss(data, row, x), slow_loss(data, row, 0 * x)[0]
            assert told == pytest.approx(grad @ grad / (2 * L2) / (zero - loss), rel=0.02, abs=1e-6)
    quadratic, _, gap = solvers.newton(None, TaskStatistics(*stats), problems, jnp.float32(L2), 1)
    np.testing.assert_allclose(quadratic, solvers.newton(data, stats, problems, L2, 1)[0], atol=1e-6)
    assert not gap.any()


def test_newton_tells_the_worst_of_its_systems(own, monkeypatch):
    monkeypatch.setattr(solvers, "CG_LIMIT", 1)
    known = own, statistics(own), make_problems(MEMBER), jnp.float32(L2)
    errors = [solvers.newton.function(*known, iterations)[1][:4] for iterations in (1, 2, 5)]
    assert (np.diff(errors, axis=0) >= 0).all() and (errors[0] > 0).all()


def test_the_gap_is_told_where_nothing_and_where_less_than_nothing_is_gained(own):
    problems = make_problems(MEMBER)
    zero = data_loss(jnp.zeros((*problems.slots.shape, M)), own, problems)
    for scale, told in ((0.0, np.isfinite), (100.0, lambda gap: gap > 1e9)):
        theta = padded(scale * RNG.normal(size=(4, D)), problems)
        grad, gap = solvers._gradient_and_gap(theta, logits(theta, own, problems), zero, own, problems, L2)
        for row, x, found in zip(MEMBER, np.asarray(theta, float), grad, strict=False):
            np.testing.assert_allclose(found, slow_loss(own, row, x)[1], rtol=1e-3, atol=1e-5)
        assert told(gap[:4]).all() and not gap[4:].any()


def test_a_direction_is_that_of_the_matrix_which_pairs_update():
    """Pairs of positive curvature alone; none of the first ones yet."""
    rng, pairs = np.random.default_rng(2), 6
    s, y, grad = rng.normal(size=(pairs, 3, D)), rng.normal(size=(pairs, 3, D)), rng.normal(size=(3, D))
    y[3:, :2] += 2 * s[3:, :2]
    s[:2], y[:2] = 0, 0
    assert 0 < np.sum((s * y).sum(-1)[2:] < 0) < 12
    initial = np.linalg.inv(np.cov(rng.normal(size=(D, 20))))
    state = solvers._State(*[None] * 2, jnp.float32(grad), None, jnp.float32(s), jnp.float32(y), None)
    found = solvers._direction(state, lambda q: q @ jnp.float32(initial))
    for m in range(3):
        inverse = initial
        for u, v in zip(s[:, m], y[:, m], strict=True):
            if u @ v > 0:
                across = np.eye(D) - np.outer(v, u) / (u @ v)
                inverse = across.T @ inverse @ across + np.outer(u, u) / (u @ v)
        np.testing.assert_allclose(found[m], -inverse @ grad[m], rtol=2e-3, atol=1e-3)


def slow_step(slopes, evaluations):
    """The length of the least slope that is met: Newton's within a bracket, else four times as far, or half
    way."""
    t, low, high, tried = 1.0, 0.0, np.inf, {}
    for _ in range(evaluations):
        first, second = slopes(t)
        tried[t] = abs(first)
        low, high = (t, high) if first < 0 else (low, t)
        newton = t - first / second
        middle = 4 * t if high == np.inf else (low + high) / 2
        t = newton if low < newton < min(high, 10 * t) else middle
    return min(tried, key=tried.get)


@pytest.mark.parametrize("far", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("evaluations", [1, 2, 3, 6])
def test_steps_are_as_long_as_a_bracketed_search_finds(own, far, evaluations):
    rng, problems = np.random.default_rng(3), make_problems(MEMBER)
    theta = 0.3 * rng.normal(size=(4, D))
    grads = np.stack([slow_loss(own, row, x)[1] for row, x in zip(MEMBER, theta, strict=True)])
    direction = -far * grads * rng.uniform(0.5, 2, (4, D))
    at, along = padded(theta, problems), padded(direction, problems)
    state = solvers._State(at, logits(at, own, problems), *[None] * 5)
    zd = logits(along, own, problems)
    found = solvers._line_search(state, along, zd, own, problems, jnp.float32(L2), evaluations)
    for row, x, d, t in zip(MEMBER, theta, direction, found, strict=False):

        def slopes(t, row=row, x=x, d=d):
            _, grad, curvature = slow_loss(own, row, x + t * d)
            return grad @ d, d @ curvature @ d

        assert float(t) == pytest.approx(slow_step(slopes, evaluations), rel=1e-2)


def test_the_preconditioner_is_the_mean_curvature_where_the_problems_stand(data):
    problems = make_problems(MEMBER[:3])
    theta = padded([[1.0] * D, [-0.5] * D, [0.0] * D], problems)
    z = logits(theta, data, problems)
    found = solvers._shared_preconditioner(z, data, jnp.float32(L2))
    total = np.zeros((D, D))
    for g, a, inside in zip(*in_double(data), MEMBER[:2].T, strict=True):  # the third stands at zero
        sigma = [expit(g @ x) * expit(-g @ x) for x in np.asarray(theta, float)[:2][inside]]
        total += (g.T * np.abs(a) * (np.mean(sigma, 0) if sigma else 0.25)) @ g
    np.testing.assert_allclose(found, np.linalg.inv(total / 4 + L2 * np.eye(D)), rtol=2e-3, atol=2e-3)
    start = solvers._shared_preconditioner(0 * z, data, jnp.float32(L2))
    curvature = np.asarray(statistics(data).h, float).mean(0)
    np.testing.assert_allclose(start, np.linalg.inv(curvature + L2 * np.eye(D)), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("refresh", [1, 3])
def test_lbfgs_is_a_loop_of_its_parts(own, refresh, monkeypatch):
    """With lists in place of arrays that are shifted; solved problems stand still."""
    monkeypatch.setattr(solvers, "HISTORY", 3)
    problems, l2, tolerance = make_problems(MEMBER), jnp.float32(1e-3), 1e-4
    zero = data_loss(jnp.zeros((*problems.slots.shape, M)), own, problems)

    def at(theta):
        z = logits(theta, own, problems)
        return theta, z, *solvers._gradient_and_gap(theta, z, zero, own, problems, l2)

    now, pairs, none = at(jnp.zeros((16, D))), [], jnp.zeros((16, D))
    for step in range(12):
        if step % refresh == 0:
            inverse = solvers._shared_preconditioner(now[1], own, l2)
        history = [*[(none, none)] * 3, *pairs][-3:]
        s, y = (jnp.stack(column) for column in zip(*history, strict=True))
        state = solvers._State(*now, s, y, None)
        direction = solvers._direction(state, lambda q, inverse=inverse: q @ inverse)
        direction = jnp.where((state.gap > tolerance)[:, None], direction, 0)
        t = solvers._line_search(state, direction, logits(direction, own, problems), own, problems, l2)
        before, now = now, at(now[0] + t[:, None] * direction)
        pairs.append((now[0] - before[0], now[2] - before[2]))
        found, gap, count = solvers.lbfgs(own, problems, l2, tolerance, step + 1, refresh)
        np.testing.assert_allclose(found, now[0], rtol=1e-2, atol=1e-3)
        if (now[3] <= tolerance).all():
            break
        assert int(count[0]) == step + 1
    assert 3 < step < 11 and int(count[0]) == step + 1 and gap.max() <= tolerance
    assert solvers.lbfgs(own, problems, l2, tolerance, 50, refresh)[2].tolist() == [step + 1]
