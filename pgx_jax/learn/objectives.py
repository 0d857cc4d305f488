"""Vector rewards: families whose tasks are weightings of one, and what they promise."""

from __future__ import annotations

import numpy as np

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.learn.rollout import Steps
from pgx_jax.tasks import TaskFamily


def relabels(family: TaskFamily, conditioned_actor: bool) -> bool:
    """Whether one source serves all tasks: they are weightings of one vector reward, and the actor is
    not told which of them it is on (where it is told, it acts differently on each)."""
    return family.objectives is not None and not conditioned_actor


def check_vector_rewards(family: TaskFamily, weights: np.ndarray, steps: Steps, index: np.ndarray) -> None:
    """Refuse objectives [T, E, K] that are not finite, or whose sums by ``weights`` [n, K] are no rewards.

    The environments are on the tasks ``index`` [E], so that every task's reward is looked at where
    there are as many environments.

    Raises:
        ConfigError: no objectives, or another number of them.
        DataError: naming the objective, or the task.
    """
    shape = (*steps.done.shape, weights.shape[1])
    if steps.objectives is None or np.shape(steps.objectives) != shape:
        got = "none" if steps.objectives is None else f"shape {np.shape(steps.objectives)[2:]}"
        raise ConfigError(
            f"family {family.name!r} has weights of {shape[-1]} objectives, so every step of its environment "
            f"must return Step.objectives of shape {shape[2:]}; got {got}"
        )
    values, reward = np.asarray(steps.objectives, np.float64), np.asarray(steps.reward, np.float64)
    bad = ~np.isfinite(values).all((0, 1))
    if bad.any():
        raise DataError(f"collecting from {family.name} gave a non-finite objective {int(np.argmax(bad))}")
    terms = values * weights[index]
    product = terms.sum(-1)
    wrong = ~(np.abs(product - reward) <= 1e-3 * np.abs(terms).sum(-1).max(0) + 1e-6)
    if wrong.any():
        t, e = np.argwhere(wrong)[0]
        raise DataError(
            f"the reward of task {family.task_names[index[e]]!r} is {reward[t, e]:.6g} where its weights "
            f"times its objectives are {product[t, e]:.6g}: the environment must return their product, and "
            f"the family hold the same weights"
        )
