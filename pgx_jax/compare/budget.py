"""The rule of comparison: every method has the same total of environment steps.

What a method needs before its policies exist comes out of the total, and its policies share the rest
by their numbers of tasks. All numbers are environment steps.

Demonstrations are steps as any others. They are a part of what theta* takes, and so of every method that
goes on from it; all of these begin with the same theta*. Methods from scratch see no demonstrations, and have
their whole total to train with.

A batch suits its row: `suited` is the one rule by which the number of environments of a row follows from its
tasks and its steps, for our policies and all others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

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
    ends: tuple[int, ...]
    """Meta-training up to each look that leaves enough for groups; 0 where a meta-policy was given, whose
    training is not counted, and which is asked once."""
    meta_envs: int
    """Environments of the meta-training."""
    collect_once: int
    """Transitions that are collected from all tasks at a look."""
    times: tuple[float, ...]
    """Parts of the total at which the meta-policy, or its groups, are looked at."""
    look: int = 1
    """The look at the meta-policy that has led to the groups."""
    demonstrated: int = 0
    """What experts show before the meta-training, their episodes counted at the horizon."""

    def at(self, look: int) -> Budget:
        """What is spent where this look at the meta-policy leads to the groups."""
        return replace(self, look=look)

    @property
    def meta(self) -> int:
        """Meta-training up to this look."""
        return self.ends[self.look - 1]

    @property
    def collect(self) -> int:
        """Transitions to estimate from, of all looks up to this one."""
        return self.look * self.collect_once

    def rest(self, scoring: int = 0) -> int:
        """What is left for group policies after demonstrations, meta-training, collecting and scoring."""
        return self.total - self.demonstrated - self.meta - self.collect - scoring


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
    n, total = family.n, config.steps_per_task * family.n
    times = pipeline.look_times(config)
    trains = suited(learner, n, 0 if own_meta else times[0] * total, config.min_updates)
    unit = trains.steps_per_update
    ends = (0,) if own_meta else tuple(max(1, round(time * total / unit)) * unit for time in times)
    sources, steps, _ = pipeline.collects(config, family, told)
    shown = 0 if own_meta else config.demonstrations * n * family.horizon
    budget = Budget(n, total, ends, trains.num_envs, sources * steps, times, demonstrated=shown)
    if budget.rest() < least(n, learner, config):
        before = f"demonstrations ({shown}), " if shown else ""
        raise ConfigError(
            f"{total} steps in all leave {budget.rest()} for the groups after {before}meta-training "
            f"({budget.meta}) and collecting ({budget.collect}); {_least_of(n, learner, config)}: raise "
            f"steps_per_task or lower {'demonstrations or ' if shown else ''}meta_fraction"
        )
    needed = least(n, learner, config)
    looks = 1
    while looks < len(ends) and ends[looks] > ends[looks - 1] and budget.at(looks + 1).rest() >= needed:
        looks += 1
    return replace(budget, ends=ends[:looks], times=times if own_meta else times[:looks])


def suited(learner: Learner, tasks: int, steps: float, min_updates: int) -> Learner:
    """The learner with the number of environments that suits a row.

    They are halved while ``steps`` give fewer than ``min_updates`` updates, as long as every task keeps one
    and the learner can work with them (`Learner.check`).

    Args:
        learner: with the largest number of environments.
        tasks: of the row.
        steps: its environment steps.
        min_updates: `Config.min_updates`.
    """
    while steps < min_updates * learner.steps_per_update and learner.num_envs // 2 >= tasks:
        half = replace(learner, num_envs=learner.num_envs // 2)  # type: ignore[type-var]
        try:
            half.check(tasks)
        except ConfigError:
            break
        learner = half
    return learner


def bonus(config: Config, learner: Learner, size: int, n: int) -> float | None:
    """Weight of the entropy bonus of a policy from scratch with so many of n tasks; None: its learner's."""
    return config.group_entropy if 1 < size < n and hasattr(learner, "entropy") else None


def least(n: int, learner: Learner, config: Config) -> int:
    """What n tasks need however they are grouped: an update for every group, shared by numbers of tasks, and
    adapting to each task."""
    units = [suited(learner, size, 0, config.min_updates).steps_per_update for size in range(1, n + 1)]
    return n * (max(-(-unit // size) for size, unit in enumerate(units, 1)) + learner.adaptation_steps)


def _least_of(n: int, learner: Learner, config: Config) -> str:
    adapting = f" and adapting to it ({learner.adaptation_steps})" if learner.adaptation_steps else ""
    return f"one update a task{adapting} takes {least(n, learner, config)}"


def check_scoring(budget: Budget, config: Config, family: TaskFamily, learner: Learner) -> None:
    """Refuse a score by roll-outs that may leave nothing for the groups, if no episode ends early.

    Raises:
        ConfigError: naming what to raise or lower.
    """
    e, pairs = config.estimate, int(pipeline.subsets(config, family.n).sum())
    worst = pairs * e.rollout_episodes * family.horizon
    if SCORES[e.score].rolls_out and budget.rest(worst) < least(family.n, learner, config):
        raise ConfigError(
            f"scoring by roll-outs takes up to {worst} steps ({pairs} pairs of subset and task, "
            f"{e.rollout_episodes} episodes of {family.horizon} steps) of {budget.total} in all, and "
            f"{_least_of(family.n, learner, config)}; raise steps_per_task, or lower "
            f"estimate.rollout_episodes or estimate.subsets"
        )


class Shares(NamedTuple):
    """What each of R policies trains with."""

    steps: np.ndarray
    """int [R]: whole updates."""
    num_envs: np.ndarray
    """int [R]."""


def share(member: np.ndarray, total: int, learner: Learner, min_updates: int) -> Shares:
    """Training steps of policies with the tasks ``member`` [R, n] that share ``total``, after what they take
    to adapt to each task, and the environments that suit them (`suited`).

    Raises:
        ConfigError: that leaves some policy without an update.
    """
    whole, tasks = int(member.sum()), member.sum(1)
    adapting = whole * learner.adaptation_steps
    allowed = tasks * (total - adapting) // whole
    by_row = [suited(learner, int(t), int(s), min_updates) for t, s in zip(tasks, allowed, strict=True)]
    units = np.array([x.steps_per_update for x in by_row])
    if (allowed < units).any():
        worst = int(np.argmax(allowed < units))
        needed = adapting - (-whole * int(units[worst]) // int(tasks[worst]))
        raise ConfigError(
            f"{total} steps are too few for {len(member)} policies of {whole} tasks by "
            f"{type(learner).__name__}: an update of each ({units[worst]}), and adapting to every task "
            f"({adapting}), take {needed}; raise steps_per_task, or lower the learner's num_envs, num_steps "
            f"or adaptation_steps"
        )
    return Shares(allowed // units * units, np.array([x.num_envs for x in by_row]))
