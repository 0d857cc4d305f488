"""Stage 3 alone: one policy a group, for those who group without a whole run."""

from __future__ import annotations

from typing import Any

import numpy as np

from pgx_jax.compare.budget import make_budget
from pgx_jax.compare.methods import Contest, ours
from pgx_jax.compare.pool import BASE, Pool, train_pool
from pgx_jax.config import Config
from pgx_jax.learn import Learner, Policy
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent


def train_groups(
    policy: Policy,
    learner: Learner,
    family: TaskFamily,
    config: Config,
    labels: np.ndarray,
    meta: Agent,
    *,
    scoring: int = 0,
    own_meta: bool = False,
    **kw: Any,
) -> Pool:
    """Stage 3: one policy a group, with what the rule of comparison leaves after estimating.

    Args:
        policy, learner: the networks, and what trains them.
        family, config: what to train on, and how.
        labels: int [n], the group of every task.
        meta: theta*, which the groups continue unless ``config.continue_meta`` is off.
        scoring: environment steps that scoring by roll-outs took.
        own_meta: whether theta* is one of your own, whose training is not counted.
        kw: progress, checkpoint and metrics, see `train_pool`.

    Returns:
        Pool with one row a group, in the order of `grouping.canonical` labels.
    """
    told, learners = policy.conditioned_actor, {config.learner: learner}
    budget = make_budget(config, family, learner, told=told, own_meta=own_meta)
    rows = ours(Contest(config, budget, learners, labels, scoring=scoring)).rows
    return train_pool(rows, {BASE: policy}, learners, family, config, meta, **kw)
