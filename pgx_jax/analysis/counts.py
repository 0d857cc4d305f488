"""Operations of the steps of an estimate, and of training (see `operations`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from pgx_jax import estimate, learn
from pgx_jax.analysis.operations import operations
from pgx_jax.analysis.subject import Subject
from pgx_jax.estimate import PROJECTIONS, Solver, surrogates
from pgx_jax.estimate.features import masks_of
from pgx_jax.estimate.gradients import Gradient, gradients
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.problems import Data, Problems, TaskStatistics, make_problems
from pgx_jax.learn import Learner, device
from pgx_jax.types import FIT, SCORE, Array, Features, PyTree, Transitions

NOT_TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""Errors of functions that look at what they are given."""


def count_features(run: Subject, transitions: Transitions, projection: str, dim: int) -> float:
    """Operations of the features of a single source, by the definition of their projection: whole gradients
    times the map, or the projection's own way, where it has one."""
    log_prob, params = run.policy.log_prob, learn.policy_params(run.meta)
    shapes, chosen, private = estimate.shapes_of(params), PROJECTIONS[projection], run.features.private
    known = masks_of(shapes, None if private is None else ~np.asarray(private))
    masks = [None if mask is None else jnp.asarray(mask) for mask in known]

    def whole(params: PyTree, obs: PyTree, action: Array) -> list[Array]:
        leaves: list[Array] = jax.tree.leaves(jax.vmap(jax.grad(log_prob), (None, 0, 0))(params, obs, action))
        return leaves

    def features(params: PyTree, obs: PyTree, action: Array, key: Array) -> Array:
        if chosen.project is None:
            pairs = zip(whole(params, obs, action), masks, strict=True)
            flat = [(x if m is None else jnp.where(m, x, 0)).reshape(len(x), -1) for x, m in pairs]
            return jnp.concatenate(flat, 1) @ estimate.rows(key, shapes, dim, projection=projection)
        if chosen.whole:
            made = [Gradient((x,), lambda x: x, x.shape) for x in whole(params, obs, action)]
        else:
            made = gradients(log_prob, params, obs, action)
        return chosen.project(made, masks, key, dim, jnp.matmul)

    obs, action = jax.tree.map(lambda x: x[0], (transitions.obs, transitions.action))
    return operations(features, params, obs, action, run.features.key)


@full_precision
def count_surrogates(
    run: Subject, feats: Features, member: Bool[np.ndarray, "m n"]
) -> dict[str, float] | None:
    """Operations of the surrogates' quadratic models ("statistics"), of solving them ("solve"), and of their
    scores ("scores"); None where they can't be counted."""
    e, transitions = run.config.estimate, run.transitions
    solver, program = estimate.SOLVERS[e.solver], estimate.SCORES[e.score].program
    if program is None:
        return None
    a, iterations = estimate.signed_weights(transitions), e.iterations or solver.iterations
    delta = jnp.zeros((len(member), feats.values.shape[-1]))
    found = {"statistics": 0.0, "solve": 0.0, "scores": 0.0}
    for way in ((FIT, SCORE), (SCORE, FIT)):
        fitted, scored = (surrogates.select_rows(feats, transitions, a, (part,)) for part in way)
        stats = surrogates.statistics(fitted)
        ridge = jnp.float32(e.l2 * estimate.ridge_unit(stats))
        data = None if iterations <= solver.quadratic_up_to else fitted
        found["statistics"] += operations(surrogates.statistics, fitted)
        found["scores"] += operations(program, scored, delta)
        for start in range(0, len(member), surrogates.CHUNK):
            problems = make_problems(member[start : start + surrogates.CHUNK])
            try:
                found["solve"] += operations(_solving(solver, problems, iterations), data, stats, ridge)
            except NOT_TRACED:
                return None
    return found


def _solving(
    solver: Solver, problems: Problems, iterations: int
) -> Callable[[Data | None, TaskStatistics, Array], Array]:
    """(data, statistics, ridge) -> solutions [m, d]."""
    tolerance = surrogates.TOLERANCE if solver.tolerance is None else solver.tolerance
    return lambda data, stats, l2: solver.solve(data, stats, problems, l2, tolerance, iterations).delta


def count_update(run: Subject, learner: Learner, member: Bool[np.ndarray, "n"]) -> float | None:
    """Operations of one update of one policy; None where environments are on the host.

    Loops of unknown length count as one turn: every step of an environment pays for a reset.
    """
    family = run.family
    if family.engine != "device":
        return None
    env, updates = family.device_env, np.array(40)
    problem = device.Problem(jax.tree.map(jnp.asarray, family.tasks), jnp.asarray(family.context))

    def start(problem: device.Problem, member: Array, key: Array) -> Any:
        return device.start(run.policy, env, learner, problem, member, run.meta, key)

    def update(problem: device.Problem, member: Array, state: Any) -> Any:
        known = (run.policy, env, family.horizon, learner, problem)
        return device.update(*known, member, updates, state)[0].learning.agent

    state = jax.eval_shape(start, problem, jnp.asarray(member), jax.random.PRNGKey(0))
    return operations(update, problem, member, state, once=True)
