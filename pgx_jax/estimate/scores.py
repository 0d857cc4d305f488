"""Policy-evaluation methods: how well every task would do after adapting to every subset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.problems import Data
from pgx_jax.estimate.surrogates import select_rows, signed_weights
from pgx_jax.steady import compiled
from pgx_jax.types import SCORE, SELECT, Array, Features, Gains, PyTree, Scores, Surrogates, Transitions

MAX_LOG_RATIO = 5.0
"""Importance ratios are kept within e^-5 ... e^5, so that no single transition decides a score."""


def _loss_change(z: Array, a: Array) -> Array:
    """Loss reduction |a| (log 2 - log(1 + exp(-y z))) of single transitions."""
    return jnp.abs(a) * (jnp.log(2.0) - jax.nn.softplus(-jnp.sign(a) * z))


@partial(compiled, quick=True)
def _heldout(data: Data, delta: Float[Array, "m d"]) -> Float[Array, "m n"]:
    def of_task(batch: tuple[Array, Array]) -> Array:
        a, source = batch
        return _loss_change(delta @ data.g[source].T, a).sum(-1)

    return jax.lax.map(of_task, (data.a, data.source)).T


@partial(compiled, quick=True)
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
    return Scores(surrogates.member, _heldout(data, surrogates.delta))


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
    return Scores(surrogates.member, _importance(data, surrogates.delta))


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


SCORES: dict[str, Score] = {
    "surrogate": Score(heldout),
    "importance": Score(importance),
    "rollouts": Score(rollouts, rolls_out=True),
}
"""Scores by name."""


def require_held_out(name: str, reason: str) -> None:
    """ConfigError that begins with ``reason`` if the score of this name takes roll-outs."""
    if SCORES[name].rolls_out:
        others = [repr(other) for other, score in SCORES.items() if not score.rolls_out]
        raise ConfigError(f"{reason}: choose estimate.score {' or '.join(others)}")


@partial(compiled, quick=True)
def _transition_gains(data: Data, delta: Float[Array, "n d"]) -> Float[Array, "n M"]:
    def of_task(batch: tuple[Array, Array, Array]) -> Array:
        a, source, delta = batch
        return _loss_change(data.g[source] @ delta, a)

    return jax.lax.map(of_task, (data.a, data.source, delta))


class TrajectoryGains:
    """Held-out loss reduction of every trajectory when each task follows its group's solution.

    Sums over the transitions of a trajectory, scaled by (trajectories / transitions) of its task,
    so that the mean over a task's trajectories is the mean over its transitions, f_i.
    """

    def __init__(self, features: Features, transitions: Transitions, part: int = SELECT):
        """Arrange one part of the data, for any number of partitions.

        Args:
            features: values [U, N, d].
            transitions: advantages, trajectories, split and sources.
            part: the part of the data to score on.

        Raises:
            DataError: a source without a transition in this part.
        """
        self.data = select_rows(features, transitions, signed_weights(transitions), (part,))
        keep, number = np.asarray(transitions.split) == part, np.asarray(transitions.trajectory)
        found = [np.unique(row[kept], return_inverse=True) for row, kept in zip(number, keep, strict=True)]
        source, each = np.asarray(transitions.source), int(number.max()) + 1
        self.inverse = [found[s][1] for s in source]
        self.count = [len(found[s][0]) for s in source]
        self.task = np.repeat(np.arange(len(source)), self.count)
        self.trajectory = np.concatenate([s * each + found[s][0] for s in source])

    @full_precision
    def __call__(self, delta: Float[Array, "k d"], labels: Int[Array, "n"]) -> Gains:
        """Gains of a partition.

        Args:
            delta: float [k, d], one solution a group.
            labels: int [n], the group of each task.

        Returns:
            Gains, in the same order of tasks and trajectories in every call, so that two partitions can
            be compared pair by pair. Tasks that share a source share its trajectories.
        """
        chosen = np.asarray(delta)[np.asarray(labels)]
        per_transition = np.asarray(_transition_gains(self.data, chosen), np.float64)
        gains = [
            np.bincount(inverse, gain[: len(inverse)]) * count  # the weights are divided by transitions
            for gain, inverse, count in zip(per_transition, self.inverse, self.count, strict=True)
        ]
        return Gains(np.concatenate(gains), self.task, self.trajectory)
