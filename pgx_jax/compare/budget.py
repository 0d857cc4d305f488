"""The rule of comparison: every method has the same total of environment steps.

What a method needs before its policies exist comes out of the total, and its policies share the rest
by their numbers of tasks. All numbers are environment steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgx_jax import pipeline
from pgx_jax.config import Config
from pgx_jax.errors import ConfigError
from pgx_jax.estimate import SCORES
from pgx_jax.learn import Learner
from pgx_jax.tasks import TaskFamily


@dataclass(frozen=True)
class Budget:
    """What the total is spent on."""

    n: int
    """Tasks of the family."""
    total: int
    """T of every method."""
    meta: int
    """Meta-training; 0 where a meta-policy was given, whose training is not counted."""
    collect: int
    """Transitions to estimate from."""

    def rest(self, scoring: int = 0) -> int:
        """What is left for group policies after meta-training, collecting and scoring."""
        return self.total - self.meta - self.collect - scoring


def make_budget(
    config: Config, family: TaskFamily, learner: Learner, *, told: bool = False, own_meta: bool = False
) -> Budget:
    """Work out the budget of a run.

    Args:
        config, family: what is to be done.
        learner: trains the policies.
        told: whether the meta-policy is told its task, so that it must collect on each.
        own_meta: whether the meta-policy is given.

    Raises:
        ConfigError: the total leaves nothing for the groups.
    """
    unit, n, total = learner.steps_per_update, family.n, config.steps_per_task * family.n
    meta = 0 if own_meta else max(1, round(config.meta_fraction * total / unit)) * unit
    sources, steps, _ = pipeline.collects(config.estimate, family, told)
    budget = Budget(n, total, meta, sources * steps)
    if budget.rest() < least(n, learner):
        raise ConfigError(
            f"{total} steps in all leave {budget.rest()} for the groups after meta-training ({meta}) and "
            f"collecting ({budget.collect}); {_least_of(n, learner)}: raise steps_per_task or lower "
            f"meta_fraction"
        )
    return budget


def least(n: int, learner: Learner) -> int:
    """What n tasks need however they are grouped: an update for each, and adapting to each."""
    return n * (learner.steps_per_update + learner.adaptation_steps)


def _least_of(n: int, learner: Learner) -> str:
    adapting = f" and adapting to it ({learner.adaptation_steps})" if learner.adaptation_steps else ""
    return f"one update a task{adapting} takes {least(n, learner)}"


def check_scoring(budget: Budget, config: Config, family: TaskFamily, learner: Learner) -> None:
    """Refuse a score by roll-outs that may leave nothing for the groups, if no episode ends early.

    Raises:
        ConfigError: naming what to raise or lower.
    """
    e, pairs = config.estimate, int(pipeline.subsets(config, family.n).sum())
    worst = pairs * e.rollout_episodes * family.horizon
    if SCORES[e.score].rolls_out and budget.rest(worst) < least(family.n, learner):
        raise ConfigError(
            f"scoring by roll-outs takes up to {worst} steps ({pairs} pairs of subset and task, "
            f"{e.rollout_episodes} episodes of {family.horizon} steps) of {budget.total} in all, and "
            f"{_least_of(family.n, learner)}; raise steps_per_task, or lower estimate.rollout_episodes or "
            f"estimate.subsets"
        )


def share(member: np.ndarray, total: int, learner: Learner) -> np.ndarray:
    """Training steps int [R] of policies with the tasks ``member`` [R, n] that share ``total``: whole
    updates of the learner, after what its policies take to adapt to each task.

    Raises:
        ConfigError: that leaves some policy without an update.
    """
    unit, whole, tasks = learner.steps_per_update, int(member.sum()), member.sum(1)
    adapting = whole * learner.adaptation_steps
    updates = tasks * (total - adapting) // (whole * unit)
    if updates.min() < 1:
        needed = adapting - (-whole * unit // int(tasks.min()))
        raise ConfigError(
            f"{total} steps are too few for {len(member)} policies of {whole} tasks by "
            f"{type(learner).__name__}: an update of each ({unit}), and adapting to every task ({adapting}), "
            f"take {needed}; raise steps_per_task, or lower the learner's num_envs, num_steps or "
            f"adaptation_steps"
        )
    return updates * unit
