"""Policy-evaluation methods: how well every task would do after adapting to every subset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.problems import Data
from pgx_jax.estimate.surrogates import select_rows, signed_weights
from pgx_jax.mesh import CUT, padded
from pgx_jax.steady import Spread, compiled
from pgx_jax.types import SCORE, Array, Features, PyTree, Scores, Surrogates, Transitions

MAX_LOG_RATIO = 5.0
"""Importance ratios are kept within e^-5 ... e^5, so that no single transition decides a score."""


def loss_change(z: Array, a: Array) -> Array:
    """Loss reduction |a| (log 2 - log(1 + exp(-y z))) of single transitions."""
    return jnp.abs(a) * (jnp.log(2.0) - jax.nn.softplus(-jnp.sign(a) * z))


SUBSETS = Spread({"delta": CUT})
"""Subsets are divided among the devices."""


@partial(compiled, quick=True, spread=SUBSETS)
def _heldout(data: Data, delta: Float[Array, "m d"]) -> Float[Array, "m n"]:
    def of_task(batch: tuple[Array, Array]) -> Array:
        a, source = batch
        return loss_change(delta @ data.g[source].T, a).sum(-1)

    return jax.lax.map(of_task, (data.a, data.source)).T


@partial(compiled, quick=True, spread=SUBSETS)
def _importance(data: Data, delta: Float[Array, "m d"]) -> Float[Array, "m n"]:
    def of_task(batch: tuple[Array, Array]) -> Array:
        a, source = batch
        used = a != 0
        ratio = jnp.exp(jnp.clip(delta @ data.g[source].T, -MAX_LOG_RATIO, MAX_LOG_RATIO)) * used
        count = used.sum()
        # a carries 1 / N_i, hence the factor: weighted mean minus plain mean of the advantages.
        return count * (ratio @ a / ratio.sum(-1)) - a.sum()

    return jax.lax.map(of_task, (data.a, data.source)).T


@full_precision
def heldout(
    features: Features, transitions: Transitions, surrogates: Surrogates, part: int = SCORE
) -> Scores:
    """f_i(S) = L_i(0) - L_i(D_S): the loss reduction of task i's surrogate on held-out trajectories.

    Args:
        features: values [U, N, d].
        transitions: advantages, split and sources.
        surrogates: m solutions, fitted on another part.
        part: the part of the data to score on.

    Returns:
        Scores with values [m, n], for all tasks, whether in the subset or not.
    """
    data = select_rows(features, transitions, signed_weights(transitions), (part,))
    return Scores(surrogates.member, _heldout(data, padded(surrogates.delta))[: len(surrogates.delta)])


@full_precision
def importance(
    features: Features, transitions: Transitions, surrogates: Surrogates, part: int = SCORE
) -> Scores:
    """Self-normalised importance weighting of held-out advantages.

    f_i(S) = sum_t r_t a_t / sum_t r_t - mean_t a_t, with the first-order ratios
    r_t = exp(clip(g~_t . D_S, -5, 5)) and the standardised advantages a_t. Unlike PPO's clipped
    objective it keeps telling larger improvements from smaller ones.

    Arguments and result as of ``heldout``.
    """
    data = select_rows(features, transitions, signed_weights(transitions), (part,))
    return Scores(surrogates.member, _importance(data, padded(surrogates.delta))[: len(surrogates.delta)])


def cross_fitted(folds: Sequence[Scores]) -> Scores:
    """The mean of the scores of F ways of dividing the data into one part to fit and one to score."""
    values = jnp.stack([fold.values for fold in folds])
    return Scores(folds[0].member, values.mean(0), values)


def rollouts(
    evaluate: Callable[[PyTree, Array], tuple[Array, int]], thetas: PyTree, member: Bool[Array, "m n"]
) -> tuple[Scores, int]:
    """Real returns of the lifted policies, and the environment steps that they took.

    Args:
        evaluate: (actor parameters with a leading axis m, member [m, n]) -> (returns [m, n], steps), for
            instance with common random numbers for all policies; entries of tasks outside a
            subset may be anything finite.
        thetas: actor parameters with a leading axis m.
        member: bool [m, n].

    Raises:
        DataError: if a return is not finite or the shape is wrong.
    """
    returns, steps = evaluate(thetas, member)
    values = jnp.asarray(returns)
    if values.shape != np.shape(member):
        raise DataError(f"evaluate returned shape {values.shape}; it must be [m, n] = {np.shape(member)}")
    bad = np.argwhere(~np.isfinite(np.asarray(values)) & np.asarray(member, bool))
    if len(bad):
        subset, task = (int(x) for x in bad[0])
        raise DataError(
            f"the return of task {task} after adapting to subset {subset} is not finite; check the "
            f"rewards and take a smaller relative distance"
        )
    return Scores(jnp.asarray(member), values), steps


@dataclass(frozen=True)
class Score:
    """A way of estimating how well every task would do after adapting to every subset."""

    function: Callable[..., Any]
    """(features, transitions, surrogates, part of the data to score on) -> Scores, see `heldout`; or, if
    it rolls out, (evaluate, actor parameters, member) -> (Scores, steps), see `rollouts`."""
    rolls_out: bool = False
    """Whether it plays lifted policies, which takes an environment and steps; else it is cross-fitted:
    surrogates of each of two parts of the data are scored on the other."""
    program: Callable[[Data, Array], Array] | None = None
    """What it computes of the rows of a part and solutions [m, d], as a function that can be traced: of one
    without, operations are not counted."""


SCORES: dict[str, Score] = {
    "surrogate": Score(heldout, program=_heldout),
    "importance": Score(importance, program=_importance),
    "rollouts": Score(rollouts, rolls_out=True),
}
"""Scores by name."""


def require_held_out(name: str, reason: str) -> None:
    """ConfigError that begins with ``reason`` if the score of this name takes roll-outs."""
    if SCORES[name].rolls_out:
        others = [repr(other) for other, score in SCORES.items() if not score.rolls_out]
        raise ConfigError(f"{reason}: choose estimate.score {' or '.join(others)}")
