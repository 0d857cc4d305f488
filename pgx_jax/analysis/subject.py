"""What analyses read of a run, and what they are given besides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import jax
import numpy as np
from jaxtyping import Bool, Int

from pgx_jax.compare.budget import Budget
from pgx_jax.compare.results import Number
from pgx_jax.config import Config
from pgx_jax.errors import ConfigError
from pgx_jax.held_out import HeldOut
from pgx_jax.learn import Learner, Policy
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Features, Grouping, PyTree, Transitions


class Subject(Protocol):
    """A run (`runs.run.Run`), or whatever has what is read of one."""

    family: TaskFamily
    config: Config
    policy: Policy
    learner: Learner
    look: int
    """The look at theta* that has led to its groups."""

    @property
    def meta(self) -> Agent:
        """theta*, its critic and normalisation."""
        ...

    @property
    def transitions(self) -> Transitions:
        """What theta* experienced."""
        ...

    @property
    def features(self) -> Features:
        """Their projected gradients."""
        ...

    @property
    def held_out(self) -> HeldOut:
        """Judges partitions on held-out trajectories."""
        ...

    @property
    def budget(self) -> Budget:
        """What its total is spent on."""
        ...

    @property
    def labels(self) -> Int[np.ndarray, "n"]:
        """int [n]: the groups that were found."""
        ...


def groups_of(run: Subject) -> Bool[np.ndarray, "k n"]:
    """The groups that a run has found: bool [k, n]."""
    return Grouping(np.asarray(run.labels)).member


def finite(x: float) -> Number:
    """A number as records have it: None where it is not finite."""
    return x if math.isfinite(x) else None


def as_float(x: Number) -> float:
    """A number of a record: NaN where it is None."""
    return math.nan if x is None else x


def parameter_count(params: PyTree) -> int:
    """p, the parameters of all leaves together."""
    return sum(int(np.size(x)) for x in jax.tree.leaves(params))


def checked_members(member: Bool[np.ndarray, "m n"], names: Sequence[str]) -> Bool[np.ndarray, "m n"]:
    """Subsets of the tasks as they are asked for.

    Raises:
        ConfigError: another shape, or an empty subset.
    """
    member = np.asarray(member, bool)
    if member.ndim != 2 or member.shape[1] != len(names) or not len(member):
        raise ConfigError(f"member has shape {member.shape}; it must be [m, {len(names)}], one column a task")
    if not member.any(1).all():
        raise ConfigError(f"subset {int(np.argmin(member.any(1)))} is empty; every subset needs a task")
    return member


def unlimited(config: Config, n: int) -> Config:
    """Settings with which as many transitions are collected as ``config.estimate.steps`` says, whatever part
    of the total that is."""
    total = 2 * config.estimate.steps * n
    return replace(config, steps_per_task=total, collect_fraction=0.9, looks=1)
