"""Gradients of n tasks put together as one, so that tasks don't overrule each other.

Each method here gives the tasks weights w [n]; the gradient is sum_i w_i g_i, and of a single task it is its
own. PCGrad and CAGrad compare gradients by their inner products G G^T [n, n], whatever the number of
parameters; GradNorm looks at their lengths, FAMO at losses alone. `transform` makes an Optax transform of a
method, `learn.taskwise` learners that use it.

A method knows the members of a row alone: tasks that the row doesn't have change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Int

from pgx_jax.learn.systems import solve
from pgx_jax.types import Array, Key, PyTree

NONE = -1.0
"""In the place of a loss that there is not yet."""

LEAST_WEIGHT = 1e-2
"""GradNorm's least weight; the paper's steps could lead below zero."""

CLOSE, ROUNDS = 1e-4, 40
"""CAGrad's dual is solved to this gap, relative to |g_0| and the root mean square of the |g_i|; or so many
steps, where float32 doesn't tell better (the gradients' hull has zero in it). About ten are needed."""

SMOOTH = 1e-7
"""Added to |g_w|^2 in it, relative to the mean square of the |g_i|: |g_w| has no slope at zero."""


class Tasks(NamedTuple):
    """What a method sees of n tasks at one step."""

    member: Bool[Array, "n"]
    losses: Float[Array, "n"]
    """Of the batch, 0 or more."""
    again: Float[Array, "n"]
    """Those of the batch before, after the step that was made by it."""
    products: Float[Array, "n n"] | None
    """Inner products of the gradients, if the method `Weighting.compares` them."""
    key: Key

    @property
    def shares(self) -> Float[Array, "n"]:
        """The members' equal parts of 1."""
        return self.member / jnp.maximum(self.member.sum(), 1)


class Weighting(NamedTuple):
    """A method: weights of the tasks' gradients in their sum."""

    init: Callable[[int], PyTree]
    """Number of tasks -> its state."""
    weigh: Callable[[Tasks, PyTree], tuple[Float[Array, "n"], PyTree]]
    """Weights, and the state after."""
    compares: bool = True
    """Whether it needs the tasks' gradients one by one."""
    looks_back: bool = False
    """Whether it needs ``again``."""


class TransformState(NamedTuple):
    """Of `transform`."""

    step: Int[Array, ""]
    """How many were made: each has a key of its own."""
    own: PyTree
    """Of the method."""


def transform(weighting: Weighting, n: int) -> optax.GradientTransformationExtraArgs:
    """A method as a transform of gradients with leaves [n, ...] into one with leaves [...].

    Its ``update`` takes ``losses`` [n] and, where there are any, ``member`` [n], ``again`` [n] (see `Tasks`;
    the losses themselves if they are left out) and a ``key``, into which the number of the step is folded, so
    that one key does for all steps.
    """

    def init(params: Any) -> TransformState:
        return TransformState(jnp.zeros((), jnp.int32), weighting.init(n))

    def update(
        gradients: PyTree, state: TransformState, params: Any = None, *, losses: Array, **more: Any
    ) -> tuple[PyTree, TransformState]:
        del params
        member = jnp.asarray(more.get("member", jnp.ones(n, bool)))
        key = jax.random.fold_in(more.get("key", jax.random.PRNGKey(0)), state.step)
        found = Tasks(member, losses, more.get("again", losses), products(matrix(gradients)), key)
        weights, own = weighting.weigh(found, state.own)
        return jax.tree.map(lambda g: together(weights, g), gradients), TransformState(state.step + 1, own)

    return optax.GradientTransformationExtraArgs(init, update)


def matrix(gradients: PyTree) -> Float[Array, "n p"]:
    """Leaves [n, ...] -> [n, p]."""
    return jax.vmap(lambda g: ravel_pytree(g)[0])(gradients)


def products(gradients: Float[Array, "n p"]) -> Float[Array, "n n"]:
    """All inner products, in full float32."""
    return jnp.matmul(gradients, gradients.T, precision="highest")


def together(weights: Float[Array, "n"], gradients: Float[Array, "n *shape"]) -> Float[Array, "*shape"]:
    """sum_i w_i g_i, in full float32."""
    return jnp.tensordot(weights, gradients, 1, precision="highest")


def _stateless(weights: Callable[[Tasks], Array], compares: bool = True) -> Weighting:
    return Weighting(lambda n: (), lambda tasks, state: (weights(tasks), state), compares)


def mean() -> Weighting:
    """All members count the same."""
    return _stateless(lambda tasks: tasks.shares, compares=False)


# PCGrad


def pcgrad() -> Weighting:
    """Projecting conflicting gradients (Yu et al., 2020, arXiv:2001.06782, algorithm 1).

    From every g_i is taken what goes against other tasks' gradients, one after the other in a random order:
    g_i <- g_i - <g_i, g_j> / |g_j|^2 g_j where <g_i, g_j> < 0. The mean of what is left (in the paper the
    sum; the mean keeps the size of the mean gradient).
    """

    def weights(tasks: Tasks) -> Array:
        assert tasks.products is not None
        member = tasks.member
        left = project(_among(tasks.products, member), _orders(tasks.key, member))
        return tasks.shares @ left

    return _stateless(weights)


def project(products: Float[Array, "n n"], orders: Int[Array, "n n"]) -> Float[Array, "n n"]:
    """What is left of every g_i in PCGrad, as sum_j a_ij g_j: a [n, n].

    Args:
        products: float [n, n], <g_i, g_j>.
        orders: int [n, n], the tasks j in the order in which g_i is held against them; i itself among them
            is left out, even where what is left of g_i goes against g_i.
    """
    tasks, square = jnp.arange(len(products)), jnp.diag(products)

    def of_task(i: Array, order: Array) -> Array:
        def against(t: Array, own: Array) -> Array:
            j = order[t]
            inner = jnp.dot(own, products[:, j], precision="highest")
            taken = jnp.where(inner < 0, inner / jnp.maximum(square[j], 1e-30), 0.0)
            return own - jnp.where((tasks == j) & (j != i), taken, 0.0)

        return jax.lax.fori_loop(0, len(tasks), against, jnp.where(tasks == i, 1.0, 0.0))

    return jax.vmap(of_task)(tasks, orders)


def _orders(key: Key, member: Array) -> Int[Array, "n n"]:
    """For each task a random order of all; that of the members doesn't depend on who else there is."""
    place = jnp.cumsum(member) - 1

    def draw(i: Array, j: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, i), j))

    of_task = jax.vmap(draw, (None, 0))
    return jnp.argsort(jax.vmap(of_task, (0, None))(place, place), axis=1)


def _among(products: Array, member: Array) -> Array:
    """The products of members, zero elsewhere (also where they are not finite)."""
    return jnp.where(member[:, None] & member, products, 0.0)


# CAGrad


def cagrad(c: float | Array = 0.4) -> Weighting:
    """Conflict-averse gradient (Liu et al., 2021, arXiv:2110.14048, algorithm 1).

    The direction d that improves the task that it improves least as much as it can, not further from the
    mean g_0 than c |g_0|: max_d min_i <g_i, d> over |d - g_0| <= c |g_0|. It is d = g_0 + c |g_0| g_w / |g_w|
    with g_w = sum_i w_i g_i, where w solves `worst_case`. (The authors' code divides d by 1 + c^2; here it
    isn't, as Adam would undo it. A single task's gradient stays as it is.)
    """

    def weights(tasks: Tasks) -> Array:
        assert tasks.products is not None
        with jax.default_matmul_precision("float32"):
            found = worst_case(_among(tasks.products, tasks.member), tasks.member, c)
        return jnp.where(tasks.member.sum() > 1, found, tasks.shares)

    return _stateless(weights)


class _Dual(NamedTuple):
    """What `worst_case` minimises, gradients scaled to a mean square length of 1."""

    member: Array
    products: Array
    of_mean: Array
    """<g_i, g_0> [n]."""
    radius: Array
    """c |g_0|."""

    def slope(self, w: Array) -> tuple[Array, Array]:
        """<g_i, d> [n], and |g_w|."""
        inner = self.products @ w
        length = jnp.sqrt(jnp.maximum(w @ inner, 0.0) + SMOOTH)
        return self.of_mean + self.radius * inner / length, length

    def least(self, slope: Array) -> Array:
        """That of the member which is improved least."""
        return jnp.min(jnp.where(self.member, slope, jnp.inf))


class _Point(NamedTuple):
    """Where the interior point method is."""

    w: Array
    multipliers: Array
    """Of w >= 0."""
    gap: Array
    step: Array


def worst_case(
    products: Float[Array, "n n"], member: Bool[Array, "n"], c: float | Array
) -> Float[Array, "n"]:
    """Weights of the gradients in CAGrad's direction d = g_0 + c |g_0| g_w / |g_w|.

    w solves min <g_w, g_0> + c |g_0| |g_w| over w >= 0, sum w = 1, by a primal-dual interior point method.
    The slope of this objective is <g_i, d>, so the gap sum_i w_i <g_i, d> - min_i <g_i, d> bounds what the
    best direction has more. Where d is worse than g_0 nevertheless, it is g_0.

    Args:
        products: float [n, n], <g_i, g_j>; zero where no member.
        member: bool [n].
        c: of the paper.
    """
    shares = member / jnp.maximum(member.sum(), 1)
    scaled = products / jnp.maximum(jnp.trace(products) / jnp.maximum(member.sum(), 1), 1e-30)
    size = jnp.sqrt(jnp.maximum(shares @ scaled @ shares, 0.0))
    dual = _Dual(member, scaled, scaled @ shares, c * size)

    def unfinished(point: _Point) -> Array:
        return (point.gap > CLOSE * size) & (point.step < ROUNDS)

    slope, _ = dual.slope(shares)
    multipliers = jnp.where(member, slope - dual.least(slope) + 0.1 * size + 1e-6, 0.0)
    start = _Point(shares, multipliers, jnp.asarray(jnp.inf), jnp.asarray(0))
    w = jax.lax.while_loop(unfinished, lambda point: _newton(dual, point), start).w
    slope, length = dual.slope(w)
    better = dual.least(slope) >= dual.least(dual.of_mean)
    return shares + jnp.where(better, dual.radius / length, 0.0) * w


def _newton(dual: _Dual, point: _Point) -> _Point:
    """A step, or the end where numbers are not finite.

    The curvature is that of the parabola which touches the objective's square root from above, so that steps
    don't overshoot. Those who are no members stay at zero.
    """
    member, multipliers = dual.member, point.multipliers
    w = jnp.where(member, point.w, 1.0)
    slope, length = dual.slope(point.w)
    target = 0.1 * (point.w @ multipliers) / jnp.maximum(member.sum(), 1)
    bend = dual.radius / length * (dual.products + 1e-6 * jnp.eye(len(w)))
    bend = bend + jnp.diag(jnp.where(member, multipliers / w, 1.0))
    sides = jnp.stack([jnp.where(member, target / w - slope, 0.0), member * 1.0], 1)
    down, even = solve(bend, sides).T
    move = down - even * (down.sum() + point.w.sum() - 1.0) / even.sum()
    turn = jnp.where(member, (target - multipliers * move) / w - multipliers, 0.0)
    stride = jnp.minimum(_room(point.w, move), _room(multipliers, turn))
    after, multipliers = point.w + stride * move, multipliers + stride * turn
    fine = jnp.isfinite(after).all() & jnp.isfinite(multipliers).all()
    after = jnp.where(fine, after / after.sum(), point.w)
    slope, _ = dual.slope(after)
    gap = jnp.where(fine, after @ slope - dual.least(slope), 0.0)
    return _Point(after, jnp.where(fine, multipliers, point.multipliers), gap, point.step + 1)


def _room(x: Array, move: Array) -> Array:
    """How much of a step keeps x above zero."""
    falls = move < 0
    return jnp.minimum(1.0, 0.95 * jnp.min(jnp.where(falls, x / jnp.where(falls, -move, 1.0), jnp.inf)))


# FAMO


class FamoState(NamedTuple):
    """Of `famo`."""

    logits: Float[Array, "n"]
    adam: PyTree
    last: Float[Array, "n"]
    """Losses of the last batch; `NONE` of tasks that it had nothing of."""


def famo(
    rate: float | Array = 0.025, decay: float | Array = 0.01, epsilon: float | Array = 0.01
) -> Weighting:
    """Fast adaptive multitask optimisation (Liu et al., 2023, arXiv:2306.03792, algorithm 1).

    The gradient of c sum_i z_i log l_i, z = softmax(logits), 1 / c = sum_i z_i / l_i: weights
    c z_i / l_i, whose sum is 1. Afterwards the logits fall by Adam along
    d softmax(logits) . (log l_i - log l_i(again)) + decay logits: tasks that improved most count less. It
    needs no task's own gradient. Losses must not be negative; ``epsilon`` is added to them.
    """

    def init(n: int) -> FamoState:
        logits = jnp.zeros(n)
        return FamoState(logits, optax.scale_by_adam().init(logits), jnp.full(n, NONE, jnp.float32))

    def weigh(tasks: Tasks, state: FamoState) -> tuple[Array, FamoState]:
        seen = state.last >= 0
        change = jnp.where(
            seen, jnp.log((jnp.maximum(state.last, 0.0) + epsilon) / (tasks.again + epsilon)), 0
        )
        share = _softmax(state.logits, seen)
        slope = share * (change - share @ change) + decay * state.logits
        step, adam = optax.scale_by_adam().update(slope, state.adam)
        moved = FamoState(state.logits - rate * step, adam, state.last)
        logits, adam, _ = jax.tree.map(lambda x, y: jnp.where(seen.any(), x, y), moved, state)
        share = _softmax(logits, tasks.member) / (tasks.losses + epsilon)
        return share / jnp.maximum(share.sum(), 1e-30), FamoState(
            logits, adam, jnp.where(tasks.member, tasks.losses, NONE)
        )

    return Weighting(init, weigh, compares=False, looks_back=True)


def _softmax(logits: Array, member: Array) -> Array:
    """Over members; all zero without any."""
    return jnp.where(member, jax.nn.softmax(jnp.where(member, logits, -jnp.inf)), 0.0)


# GradNorm


class GradNormState(NamedTuple):
    """Of `gradnorm`."""

    weights: Float[Array, "n"]
    """Of the tasks' losses; their mean over the members is 1."""
    adam: PyTree
    first: Float[Array, "n"]
    """The first loss of every task, or `NONE`."""


def gradnorm(alpha: float | Array = 0.12, rate: float | Array = 0.025) -> Weighting:
    """Gradient normalisation (Chen et al., 2018, arXiv:1711.02257, algorithm 1).

    The mean of w_i g_i, sum_i w_i = n. Afterwards w falls by Adam along the slope of
    sum_i |G_i - mean_j(G_j) r_i^alpha|, G_i = w_i |g_i|, the targets held still; r_i is the inverse training
    rate l_i / l_i(first), over its mean. So gradients become equally long, those of tasks that learn slowly a
    little longer. (The paper takes the gradients of the last shared layer; here they are of all parameters.)
    """

    def init(n: int) -> GradNormState:
        weights = jnp.ones(n)
        return GradNormState(weights, optax.scale_by_adam().init(weights), jnp.full(n, NONE, jnp.float32))

    def weigh(tasks: Tasks, state: GradNormState) -> tuple[Array, GradNormState]:
        assert tasks.products is not None
        member, share, weights = tasks.member, tasks.shares, state.weights
        first = jnp.where(member & (state.first < 0), tasks.losses, state.first)
        lengths = jnp.sqrt(jnp.where(member, jnp.diag(tasks.products), 0.0))
        inverse = jnp.where(member, (tasks.losses + 1e-8) / (first + 1e-8), 1.0)
        target = share @ (weights * lengths) * (inverse / jnp.maximum(share @ inverse, 1e-30)) ** alpha
        slope = jnp.where(member, jnp.sign(weights * lengths - target) * lengths, 0.0)
        step, adam = optax.scale_by_adam().update(slope, state.adam)
        moved = jnp.maximum(weights - rate * step, LEAST_WEIGHT)
        total = weights @ member
        moved = jnp.where(member, moved * total / jnp.maximum(moved @ member, 1e-30), weights)
        used = weights * member / jnp.maximum(total, 1e-30)
        return used, GradNormState(moved, adam, first)

    return Weighting(init, weigh)
