"""Solvers for m weighted logistic regressions that share one design matrix.

For each subset S of the tasks (paper, stage 2, with a ridge and every task weighing the same),

    L_S(D) = 1/|S| sum_{i in S} 1/N_i sum_t w_it log(1 + exp(-y_it g_it . D)) + l2/2 |D|^2.

Every problem reads the rows of its own tasks only. So the work is laid out by task: ``slots [n, c]``
lists the subsets that contain each task, and the logits, residuals and gradients of all problems are
one batched matrix product over the tasks, whose cost is proportional to the sum of the subset sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pgx_jax.estimate.problems import (
    CUT_PROBLEMS,
    Data,
    Problems,
    TaskStatistics,
    data_loss,
    logits,
    pull_back,
    residual,
)
from pgx_jax.steady import Spread, compiled
from pgx_jax.types import Array

HISTORY = 10
"""Pairs that L-BFGS remembers."""
CG_TOLERANCE = 1e-5
"""Relative residual at which a linear system counts as solved."""
CG_LIMIT = 1000
"""Conjugate-gradient iterations at most."""
TINY = 1e-30


def _inverse(curvature: Array, l2: Array) -> Array:
    """(curvature + l2 I)^-1 of one matrix [d, d]."""
    eye = jnp.eye(curvature.shape[-1], dtype=curvature.dtype)
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(curvature + l2 * eye), True), eye)


def solve_quadratic(
    h: Array, b: Array, problems: Problems, l2: Array, tolerance: float = CG_TOLERANCE
) -> tuple[Array, Array]:
    """Solve (mean_{i in S} H_i + l2 I) x = b of all problems by conjugate gradients.

    The curvature of a subset is applied task by task and never formed. The preconditioner is the inverse
    with the mean curvature of all tasks in its place (where losses are added up, times the number of tasks);
    the eigenvectors are shared, so that everything is a matrix product.

    Returns:
        x [m, d]; residual [m], relative, in the norm of the preconditioner.
    """
    weight = problems.collect(jnp.ones(problems.slots.shape, h.dtype))  # 1, or the number of tasks in a sum
    values, vectors = jnp.linalg.eigh(h.mean(0))
    scale = 1 / (weight[:, None] * jnp.maximum(values, 0) + l2)

    def precondition(r: Array) -> Array:
        return ((r @ vectors) * scale) @ vectors.T

    def apply(x: Array) -> Array:
        return problems.collect(jnp.einsum("ncd,nde->nce", problems.spread(x), h)) + l2 * x

    def step(carry: Any) -> Any:
        x, r, direction, rho, iteration = carry
        image = apply(direction)
        alpha = rho / jnp.maximum((direction * image).sum(-1), TINY)
        x, r = x + alpha[:, None] * direction, r - alpha[:, None] * image
        q = precondition(r)
        new = (r * q).sum(-1)
        return x, r, q + (new / jnp.maximum(rho, TINY))[:, None] * direction, new, iteration + 1

    def unfinished(carry: Any) -> Array:
        return (carry[4] < CG_LIMIT) & jnp.any(carry[3] > tolerance**2 * start)

    q = precondition(b)
    start = (b * q).sum(-1)
    x, _, _, rho, _ = jax.lax.while_loop(unfinished, step, (jnp.zeros_like(b), b, q, start, 0))
    return x, jnp.sqrt(jnp.abs(rho) / jnp.maximum(start, TINY))


@partial(compiled, quick=True, spread=Spread({"problems": CUT_PROBLEMS}))
def newton(
    data: Data | None, stats: TaskStatistics, problems: Problems, l2: Array, iterations: int
) -> tuple[Float[Array, "m d"], Float[Array, "m"], Float[Array, "m"]]:
    """Newton's method with the fixed curvature H_i = 1/4 sum w g g^T / N_i.

    H_i bounds the curvature everywhere (Boehning & Lindsay 1988), so the objective falls in every
    iteration. The first is the quadratic step, (mean H_i + l2 I)^-1 mean b_i, and reads the
    statistics alone: without ``data`` it is the only one.

    Args:
        data: the transitions, or None.
        stats: TaskStatistics, b [n, d] and h [n, d, d].
        problems: the m subsets.
        l2: ridge in absolute units.
        iterations: number of iterations (traced).

    Returns:
        theta [m, d]; largest relative residual of a linear system [m]; relative gap bound of the solution
        [m] (see `lbfgs`), 0 without data, where the quadratic model is all that is solved.
    """
    per_slot = jnp.broadcast_to(stats.b[:, None], (*problems.slots.shape, stats.b.shape[-1]))
    theta, error = solve_quadratic(stats.h, problems.collect(per_slot), problems, l2)
    if data is None:
        return theta, error, jnp.zeros_like(error)

    def step(_: Array, carry: Any) -> Any:
        theta, error = carry
        r = residual(logits(theta, data, problems), data)
        move, new = solve_quadratic(stats.h, pull_back(r, data, problems) - l2 * theta, problems, l2)
        return theta + move, jnp.maximum(error, new)

    theta, error = jax.lax.fori_loop(1, iterations, step, (theta, error))
    at_zero = data_loss(jnp.zeros((*problems.slots.shape, data.a.shape[-1])), data, problems)
    return (
        theta,
        error,
        _gradient_and_gap(theta, logits(theta, data, problems), at_zero, data, problems, l2)[1],
    )


def _gradient_and_gap(
    theta: Array, z: Array, at_zero: Array, data: Data, problems: Problems, l2: Array
) -> tuple[Float[Array, "m d"], Float[Array, "m"]]:
    """Gradients of the losses at theta, whose logits are z, and relative bounds of their gaps."""
    grad = l2 * theta - pull_back(residual(z, data), data, problems)
    gain = at_zero - data_loss(z, data, problems) - l2 / 2 * (theta**2).sum(-1)
    gap = (grad**2).sum(-1) / (2 * l2)
    return grad, jnp.where(gap == 0, 0, gap / jnp.maximum(gain, TINY))


class _State(NamedTuple):
    """Where L-BFGS stands; the leading axis of the history is the age of a pair, oldest first."""

    theta: Array
    z: Array
    grad: Array
    gap: Array
    s: Array
    y: Array
    iteration: Array


def _direction(state: _State, precondition: Callable[[Array], Array]) -> Float[Array, "m d"]:
    """Two-loop recursion, with the preconditioner as the initial inverse Hessian: float [m, d]."""
    q = state.grad
    inner = (state.s * state.y).sum(-1)
    rho = jnp.where(inner > 0, 1 / jnp.where(inner > 0, inner, 1), 0)
    alphas = []
    for s, y, r in zip(state.s[::-1], state.y[::-1], rho[::-1], strict=True):
        alphas.append(r * (s * q).sum(-1))
        q = q - alphas[-1][:, None] * y
    q = precondition(q)
    for s, y, r, alpha in zip(state.s, state.y, rho, alphas[::-1], strict=True):
        q = q + s * (alpha - r * (y * q).sum(-1))[:, None]
    return -q


def _line_search(
    state: _State,
    direction: Float[Array, "m d"],
    zd: Float[Array, "n c M"],
    data: Data,
    problems: Problems,
    l2: Array,
    evaluations: int = 3,
) -> Float[Array, "m"]:
    """Step lengths [m] by a bracketed one-dimensional Newton method (the objective is convex)."""
    a = data.a[:, None, :]
    linear, square = (state.theta * direction).sum(-1), (direction**2).sum(-1)

    def slopes(t: Array) -> tuple[Array, Array]:
        z = state.z + problems.spread(t)[..., None] * zd
        q = jax.nn.sigmoid(-jnp.sign(a) * z)
        first = problems.collect((-a * q * zd).sum(-1)) + l2 * (linear + t * square)
        second = problems.collect((jnp.abs(a) * q * (1 - q) * zd**2).sum(-1)) + l2 * square
        return first, second

    def improve(_: Array, carry: Any) -> Any:
        t, low, high, best, best_slope = carry
        first, second = slopes(t)
        better = jnp.abs(first) < best_slope
        best, best_slope = jnp.where(better, t, best), jnp.where(better, jnp.abs(first), best_slope)
        low, high = jnp.where(first < 0, t, low), jnp.where(first < 0, high, t)
        newton_t = t - first / jnp.maximum(second, TINY)
        middle = jnp.where(jnp.isinf(high), 4 * t, (low + high) / 2)
        inside = (newton_t > low) & (newton_t < jnp.minimum(high, 10 * t))
        return jnp.where(inside, newton_t, middle), low, high, best, best_slope

    zero, one, inf = jnp.zeros_like(linear), jnp.ones_like(linear), jnp.full_like(linear, jnp.inf)
    return jax.lax.fori_loop(0, evaluations, improve, (one, zero, inf, one, inf))[3]


def _shared_preconditioner(z: Float[Array, "n c M"], data: Data, l2: Array) -> Float[Array, "d d"]:
    """Inverse of the mean curvature over tasks and problems at the present logits, plus the ridge."""
    q = jax.nn.sigmoid(z)
    filled = jnp.any(z != 0, -1, keepdims=True)
    # Slots of one task share their rows: their mean sigma' makes one curvature per task.
    mean = jnp.where(filled, q * (1 - q), 0).sum(1) / jnp.maximum(filled.sum(1), 1)
    mean = jnp.where(filled.any(1), mean, 0.25)
    return _inverse(data.gram(jnp.abs(data.a) * mean) / len(data.a), l2)


@partial(compiled, spread=Spread({"problems": CUT_PROBLEMS}), static_argnames=("refresh",))
def lbfgs(
    data: Data, problems: Problems, l2: Array, tolerance: float, limit: int, refresh: int = 4
) -> tuple[Float[Array, "m d"], Float[Array, "m"], Array]:
    """Solve all problems side by side with preconditioned L-BFGS.

    The preconditioner is one matrix for all problems (of a device), the mean curvature at their present
    solutions, drawn up again every ``refresh`` iterations. The line search works on logits, which
    are linear in the step, so that an iteration costs two matrix products.

    A problem is solved when |grad|^2 / (2 l2), which is the duality gap of the dual point that
    belongs to the present residuals and so bounds L - L*, is at most ``tolerance`` (L(0) - L).

    Args:
        data: the transitions.
        problems: the m subsets.
        l2: ridge in absolute units.
        tolerance: relative gap.
        limit: iterations at most.
        refresh: iterations between two preconditioners.

    Returns:
        theta [m, d]; relative gap bound [m]; iterations [1] (of each device).
    """
    m, d = problems.size.shape[0], data.g.shape[-1]

    def step(carry: Any) -> Any:
        state, inverse = carry
        inverse = jax.lax.cond(
            state.iteration % refresh == 0, lambda: _shared_preconditioner(state.z, data, l2), lambda: inverse
        )
        direction = _direction(state, lambda q: q @ inverse)
        direction = jnp.where((state.gap <= tolerance)[:, None], 0, direction)
        zd = logits(direction, data, problems)
        t = _line_search(state, direction, zd, data, problems, l2)
        theta = state.theta + t[:, None] * direction
        z = state.z + problems.spread(t)[..., None] * zd
        grad, gap = _gradient_and_gap(theta, z, at_zero, data, problems, l2)
        s = jnp.concatenate([state.s[1:], (theta - state.theta)[None]])
        y = jnp.concatenate([state.y[1:], (grad - state.grad)[None]])
        return _State(theta, z, grad, gap, s, y, state.iteration + 1), inverse

    def unfinished(carry: Any) -> Array:
        state, _ = carry
        return (state.iteration < limit) & jnp.any(~(state.gap <= tolerance))

    z = jnp.zeros((*problems.slots.shape, data.a.shape[-1]))
    at_zero = data_loss(z, data, problems)
    theta, history = jnp.zeros((m, d)), jnp.zeros((HISTORY, m, d))
    grad, gap = _gradient_and_gap(theta, z, at_zero, data, problems, l2)
    state = _State(theta, z, grad, gap, history, history, jnp.int32(0))
    state, _ = jax.lax.while_loop(unfinished, step, (state, jnp.eye(d)))
    return state.theta, state.gap, state.iteration[None]


class Solved(NamedTuple):
    """What a solver found for m problems."""

    delta: Float[Array, "m d"]
    """float [m, d]."""
    error: Float[Array, "m"]
    """float [m]: what must not exceed the tolerance."""
    iterations: int | Array
    """How many it took (of each device)."""
    gap: Float[Array, "m"] | None = None
    """float [m]: relative gap of each problem, of solvers that make as many iterations as they are told."""


@dataclass(frozen=True)
class Solver:
    """A way of solving the m problems, and what it needs."""

    solve: Callable[[Data | None, TaskStatistics, Problems, Array, float, int], Solved]
    """(data, statistics, problems, l2 in absolute units, tolerance, iterations) -> Solved."""
    iterations: int
    """Iterations to make, or to allow, by default."""
    failure: str
    """Message where the tolerance is missed; it may tell the number ``failed`` of the ``count`` problems,
    of the worst its ``tasks`` and ``error``, and ``iterations``, ``l2`` and ``tolerance``."""
    tolerance: float | None = None
    """Largest error, if it is not for the caller of `fit` to say."""
    quadratic_up_to: int = 0
    """Up to so many iterations it solves the quadratic model and needs no transitions, but for the
    statistics: ``data`` is None then."""


def _solve_newton(
    data: Data | None, stats: TaskStatistics, problems: Problems, l2: Array, tolerance: float, iterations: int
) -> Solved:
    delta, error, gap = newton(data, stats, problems, l2, iterations)
    return Solved(delta, error, iterations, gap)


def _solve_lbfgs(
    data: Data | None, stats: TaskStatistics, problems: Problems, l2: Array, tolerance: float, iterations: int
) -> Solved:
    assert data is not None  # it is asked for, see `Solver.quadratic_up_to`
    delta, gap, steps = lbfgs(data, problems, l2, tolerance, iterations)
    return Solved(delta, gap, steps)


SOLVERS: dict[str, Solver] = {
    "newton": Solver(
        _solve_newton,
        iterations=1,
        failure="the Newton system of {tasks} was not solved at l2 = {l2} (relative residual {error:.2g}); "
        "raise l2, and check that the features are finite",
        tolerance=1e-3,
        quadratic_up_to=1,
    ),
    "lbfgs": Solver(
        _solve_lbfgs,
        iterations=500,
        failure="{failed} of {count} surrogates did not converge in {iterations} L-BFGS iterations; the "
        "worst, of {tasks}, has a relative gap of up to {error:.2g} (tolerance {tolerance:.2g}); allow more "
        "iterations or raise l2",
    ),
}
"""Solvers of the surrogates, by name: "newton" (fixed curvature, factored once; slow to converge far from
theta*, which is where a small l2 leads) and "lbfgs" (to the tolerance)."""
