"""Policies of several methods, trained together and each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from pgx_jax import learn
from pgx_jax.config import Config
from pgx_jax.learn import Policy
from pgx_jax.learn.training import init_agents
from pgx_jax.learn.work import Checkpoint, Progress
from pgx_jax.streams import row_keys
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Rows


class Row(NamedTuple):
    """One policy to be trained; equal rows are the same policy."""

    member: tuple[bool, ...]
    steps: int
    continues: bool
    """Starts from theta* and its critic."""
    conditioned: bool = False
    """Its actor is told the task."""


class Pool(NamedTuple):
    """Trained rows, in order, with their learning curves."""

    rows: tuple[Row, ...]
    agents: tuple[Agent, ...]
    returns: tuple[np.ndarray, ...]
    """float [updates, n] each."""

    def __add__(self, other: Pool) -> Pool:
        return Pool(self.rows + other.rows, self.agents + other.agents, self.returns + other.returns)


EMPTY = Pool((), (), ())


def train_pool(
    rows: Iterable[Row],
    policies: Callable[[bool], Policy],
    family: TaskFamily,
    config: Config,
    meta: Agent,
    known: Pool = EMPTY,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Pool:
    """Train all rows that are not known yet, each once.

    Args:
        rows: what to train.
        policies: conditioned -> the policy of such rows.
        family, config: what to train on, and how.
        meta: theta* (no leading axis), for rows that continue it (exploring afresh).
        known: rows that are trained already.
        progress: reports over all of them.
        checkpoint: keeps what long training has reached (see `learn.train`).
    """
    todo = [row for row in dict.fromkeys(rows) if row not in set(known.rows)]
    total, before, pool = sum(row.steps for row in todo), 0, EMPTY
    for conditioned in (False, True):
        some = [row for row in todo if row.conditioned == conditioned]
        if not some:
            continue
        policy, member = policies(conditioned), np.array([row.member for row in some])
        keys = row_keys(config.seed, member)
        init = fresh = init_agents(policy, family, keys)
        continues = np.array([row.continues for row in some])
        if continues.any():
            start = learn.explore_afresh(meta, learn.take(fresh, 0))
            init = jax.tree.map(lambda x, m, c=continues: _where(c, m, x), fresh, start)
        steps = np.array([row.steps for row in some])

        def report(done, _, recent, before=before):
            if progress:
                progress(before + done, total, recent)

        trained = learn.train(
            policy, config.ppo, family, Rows(member, steps, keys, init),
            rows_per_call=config.rows_per_call, progress=report, checkpoint=checkpoint,
        )  # fmt: skip
        before += int(steps.sum())
        agents = tuple(learn.take(trained.agents, i) for i in range(len(some)))
        updates = steps // config.ppo.steps_per_update
        pool += Pool(tuple(some), agents, tuple(trained.returns[i, :u] for i, u in enumerate(updates)))
    return pool


def _where(mask: np.ndarray, value, rows: np.ndarray) -> np.ndarray:
    return np.where(mask.reshape(-1, *[1] * (rows.ndim - 1)), np.asarray(value)[None], rows)
