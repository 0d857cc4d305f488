"""TAG's lookahead affinity (Fifty, Amid, Zhao, Yu, Anil, Finn, NeurIPS 2021, arXiv:2109.04617): what a step
of the policy along one task's gradient does to every other task's loss.

In supervised learning it is Z_{i->j} = 1 - L_j(theta - eta grad L_i) / L_j(theta), averaged over measurements
along the training. Three things differ for policy gradients:

- The loss is L_j(theta) = - mean_t a_t pi_theta(t) / pi_theta*(t), with the standardised advantages a_t of
  what theta* experienced. At theta* it is zero but for noise, and a ratio of losses means nothing. The
  affinity is the decrease L_j(theta*) - L_j(theta* + step); that tasks count the same, which the ratio is
  for, is what advantages are standardised for, task by task.
- It is measured once, at theta*, on all that was collected there, instead of batch by batch on the way. One
  part of the data steps and another judges, so that no noise is in both.
- eta is what gives the tasks' steps, in the root mean square, a given relative distance |step| / |theta*|.
  It is one number for all tasks, as theirs is: a task whose gradient is long has more influence. As eta goes
  to 0, Z / eta becomes the dot product of two gradients.

Parameters that one task's context alone can reach are not moved (see `estimate.private`): no step along them
tells anything of another task.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate.features import default_sizes
from pgx_jax.estimate.gradients import LogProb
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.private import without
from pgx_jax.estimate.scores import MAX_LOG_RATIO
from pgx_jax.estimate.surrogates import label, signed_weights
from pgx_jax.steady import compiled
from pgx_jax.types import FIT, SCORE, SELECT, Array, PyTree, Transitions

DISTANCE = 0.02
"""Relative distance of a step, by default."""


@full_precision
def lookahead(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    *,
    distance: float = DISTANCE,
    share: Bool[Array, "n N"] | None = None,
    private: Bool[Array, "p"] | None = None,
    names: Sequence[str] | None = None,
) -> Float[np.ndarray, "3 3 n n"]:
    """Held-out gain of every task from a real step along every task's gradient (see the head of this module).

    Args:
        log_prob: (params, obs, action) of one transition -> scalar.
        params: pytree of the policy's parameters (the actor alone), theta*.
        transitions: what the policy experienced, with trajectories of every source in all three parts.
        distance: relative distance |step| / |theta*|, in the root mean square over the tasks.
        share: bool [n, N], the transitions of its source by which each task steps (see `deal`); all if None.
            All of a source judge.
        private: bool [p], parameters that are not moved (`private_parameters`).
        names: n task names, for messages.

    Returns:
        float [3, 3, n, n], not symmetric: [p, q, i, j] is L_j(theta*) - L_j(theta* + step of i), with the
        step by part p of the data and the loss on part q. Where p = q, the data of the step judge it.

    Raises:
        ConfigError: a distance that is not positive.
        DataError: a task's advantages carry no signal, it has no transitions in a part, or its step leads to
            log-probabilities that are not finite.
    """
    if not 0 < distance < np.inf:
        raise ConfigError(f"distance = {distance}; the relative distance of a step must be positive")
    a, parts = signed_weights(transitions, names), (FIT, SCORE, SELECT)
    stepping = [_weights(transitions, a, part, names, share) for part in parts]
    judging = np.stack([_weights(transitions, a, part, names) for part in parts])
    moved = None if private is None else without(private, jax.tree.map(jnp.ones_like, params), params)
    obs, action, source, judging = jax.device_put(
        (transitions.obs, transitions.action, transitions.source, judging)
    )
    far, chunk = jnp.float32(distance), default_sizes().chunk
    found = [
        _gains(log_prob, params, obs, action, source, moved, judging, weights, far, chunk=chunk)
        for weights in stepping
    ]
    gains = np.asarray(jnp.stack(found), np.float64)
    bad = ~np.isfinite(gains).all((0, 1, 3))
    if bad.any():
        raise DataError(
            f"the step of {label(int(np.argmax(bad)), names)} leads to log-probabilities that are not "
            f"finite: take a smaller distance than {distance}"
        )
    return gains


def _weights(
    transitions: Transitions,
    a: Float[np.ndarray, "n N"],
    part: int,
    names: Sequence[str] | None,
    share: Bool[Array, "n N"] | None = None,
) -> Float[np.ndarray, "n N"]:
    """Standardised advantages of one part, divided by the number of transitions that a task reads there."""
    read = (np.asarray(transitions.split) == part)[np.asarray(transitions.source)]
    read = read if share is None else read & np.asarray(share)
    if not read.any(1).all():
        culprit = label(int(np.argmin(read.any(1))), names)
        raise DataError(f"{culprit} has no transitions in part {part} of the split")
    return (a * read / read.sum(1, keepdims=True)).astype(np.float32)


@partial(compiled, quick=True, static_argnames=("log_prob", "chunk"))
def _gains(
    log_prob: LogProb,
    params: PyTree,
    obs: PyTree,
    action: Array,
    source: Int[Array, "n"],
    moved: PyTree | None,
    judging: Float[Array, "q n N"],
    stepping: Float[Array, "n N"],
    distance: Float[Array, ""],
    chunk: int,
) -> Float[Array, "q n n"]:
    """Gains [q, n, n] of the steps of one part on every part.

    The gradients of n tasks are held, and one stepped policy at a time, which is tried on a chunk of
    transitions at a time (its backward pass too, which does their forward pass again).
    """

    def log_probs(params: PyTree, obs: PyTree, action: Array) -> Float[Array, "N"]:
        one = jax.checkpoint(lambda x: log_prob(params, *x))  # type: ignore[attr-defined]
        return jax.lax.map(one, (obs, action), batch_size=chunk)

    def gradient(task: tuple[Array, Array]) -> PyTree:
        weights, own = task
        batch = jax.tree.map(lambda x: x[own], (obs, action))
        found = jax.grad(lambda params: weights @ log_probs(params, *batch))(params)
        return found if moved is None else jax.tree.map(jnp.multiply, found, moved)

    def squared(tree: PyTree) -> Array:
        return jnp.stack([jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)]).sum()

    gradients = jax.lax.map(gradient, (stepping, source))
    mean = squared(gradients) / len(source)
    eta = distance * jnp.sqrt(squared(params) / jnp.where(mean > 0, mean, jnp.inf))
    total = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (obs, action))
    before = log_probs(params, *total)

    def gain(step: PyTree) -> Float[Array, "q n"]:
        theta = jax.tree.map(lambda x, g: x + eta * g, params, step)
        change = jnp.clip(log_probs(theta, *total) - before, -MAX_LOG_RATIO, MAX_LOG_RATIO)
        return jnp.einsum("qjt,jt->qj", judging, jnp.expm1(change).reshape(action.shape[:2])[source])

    return jax.lax.map(gain, gradients).swapaxes(0, 1)
