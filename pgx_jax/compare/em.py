"""Task clustering by expectation-maximisation on returns (Ackermann, Richter, Wattenhofer, 2021): k policies
are tried on all tasks, every task goes to the one that does best there, each trains on its own, and again.

The evaluations come out of the method's total. Fresh policies all do the same everywhere, so the first groups
are random and of equal sizes, instead of found by an evaluation.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from pgx_jax import grouping, learn
from pgx_jax.compare.budget import Budget, bonus, suited
from pgx_jax.compare.pool import BASE, Pool, Row
from pgx_jax.config import Config
from pgx_jax.learn import Hears, Learner, Metrics, Policy, Progress
from pgx_jax.learn.updating import Earned
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Key, Rows

ROUNDS = 10
"""Trainings, each with an evaluation behind it, at most."""
EPISODES = 2
"""Of every policy on every task, in an evaluation."""
EVALUATING = 0.2
"""Largest part of the total that evaluations may take, but for a single one."""


class Clustered(NamedTuple):
    """Tasks grouped by which policy does best on them."""

    labels: Int[np.ndarray, "n"]
    """int [n]: the policy of every task in the end, canonical."""
    pool: Pool
    """The policies that serve a task, in the order of the labels."""
    spent: Int[np.ndarray, ""]
    """int []: environment steps of all evaluations, and of policies that serve no task in the end."""
    rounds: Int[np.ndarray, "rounds n"]
    """int [rounds, n]: the policy of every task while it trained."""


def rounds_of(total: int, evaluation: int, update: int) -> int:
    """The most rounds, up to `ROUNDS`, of an update of all policies (or more) and an evaluation, both in
    environment steps; 0 if not one fits."""
    if total < evaluation + update:
        return 0
    return max(1, min(ROUNDS, total // (evaluation + update), int(EVALUATING * total // evaluation)))


def cluster(
    policy: Policy,
    learner: Learner,
    family: TaskFamily,
    config: Config,
    budget: Budget,
    k: int,
    progress: Progress | None = None,
    metrics: Hears | None = None,
) -> Clustered | None:
    """Cluster the tasks into at most k groups and train a policy for each, with the total of all methods.

    A policy that is best on no task trains on all of them in the next round, as in the authors' code.

    Args:
        policy, learner: the networks, and what trains them.
        family, config, budget: the tasks, and what may be spent.
        k: number of policies.
        progress, metrics: hear of the training (see `learn.train`).

    Returns:
        None where the total is too small for a round.
    """
    n, total = family.n, budget.total - budget.n * learner.adaptation_steps
    learner = suited(learner, n, total / k, config.min_updates)
    entropy = bonus(config, learner, k, n)  # 1 < k < n policies have groups of several tasks
    if entropy is not None:
        learner = replace(learner, entropy=entropy)  # type: ignore[type-var]
    unit, key = learner.steps_per_update, jax.random.fold_in(config.stream("random"), k)
    evaluation = n * k * (EPISODES * family.horizon + learner.adaptation_steps)
    rounds = rounds_of(total, evaluation, k * unit)
    if not rounds:
        return None
    agents = learn.init_agents(policy, family, np.asarray(jax.random.split(key, k)))
    labels = grouping.random_groupings(key, np.bincount(np.arange(n) % k), 1)[0]
    steps, curves = np.zeros(k, int), [Earned.unknown(family.metric, (0, n))] * k
    evaluated, history = 0, []
    for turn in range(rounds):
        history.append(labels)
        left = total - evaluated - int(steps.sum())
        share = left // (rounds - turn) - evaluation
        own, rows = _rows(labels, k, share, unit, agents, jax.random.fold_in(key, 2 * turn + 1))
        trained = learn.train(
            policy, learner, family, rows,
            rows_per_call=config.rows_per_call, progress=progress,
            metrics=metrics and partial(_tell_on, metrics, own, steps.copy()),
        )  # fmt: skip
        agents = jax.tree.map(lambda x, new, own=own: _put(x, own, new), agents, trained.agents)
        for place, i in enumerate(own):
            steps[i] += rows.steps[place]
            new = learn.take(trained.earned, (place, slice(rows.steps[place] // unit)))
            curves[i] = jax.tree.map(lambda *parts: np.concatenate(parts), curves[i], new)
        labels, taken = _best(policy, learner, family, agents, labels, jax.random.fold_in(key, 2 * turn + 2))
        evaluated += taken
    pool = _serving(labels, agents, steps, curves, learner, config)
    idle = int(steps.sum()) - sum(row.steps for row in pool.rows)
    return Clustered(grouping.canonical(labels), pool, np.array(evaluated + idle), np.stack(history))


def _tell_on(metrics: Hears, own: list[int], before: np.ndarray, each: Metrics) -> None:
    """Tell of the updates of one of the policies that train in a round, after their steps ``before`` [k]."""
    i = own[each.number]
    metrics(each._replace(policy=f"policy {i + 1} of {len(before)}", steps=before[i] + each.steps))


def _serving(
    labels: np.ndarray, agents: Agent, steps: np.ndarray, curves: list[Earned], learner: Learner,
    config: Config,
) -> Pool:  # fmt: skip
    """The policies that serve a task, by the first task of each."""
    places = list(dict.fromkeys(labels.tolist()))
    way = f"clustered {len(steps)}"
    rows = [
        Row(
            tuple((labels == i).tolist()),
            int(steps[i]),
            False,
            BASE,
            config.learner,
            learner.num_envs,
            way=way,
        )
        for i in places
    ]
    return Pool.of(rows, [learn.take(agents, i) for i in places], [curves[i] for i in places])


def _rows(
    labels: np.ndarray, k: int, share: int, unit: int, agents: Agent, key: Key
) -> tuple[list[int], Rows]:
    """The policies that have an update, and their training with ``share`` steps by tasks; those without a
    task train on all of them, with the share of an average policy."""
    n, count = len(labels), np.bincount(labels, minlength=k)
    weight = np.where(count, count, n / k)
    steps = (weight * share / weight.sum() // unit).astype(int) * unit
    own = np.flatnonzero(steps).tolist()
    member = np.stack([labels == i if count[i] else np.ones(n, bool) for i in own])
    keys = np.asarray(jax.random.split(key, len(own)))
    return own, Rows(member, steps[own], keys, jax.tree.map(lambda x: x[own], agents))


def _put(rows: np.ndarray, places: list[int], new: np.ndarray) -> np.ndarray:
    """The rows [k, ...] with others in some places."""
    changed = np.array(rows)
    changed[places] = new
    return changed


def _best(
    policy: Policy, learner: Learner, family: TaskFamily, agents: Agent, labels: np.ndarray, key: Key
) -> tuple[np.ndarray, int]:
    """The best policy of every task, int [n] (the present one, if it is among the best), and the environment
    steps that telling it took."""
    n, k = family.n, len(jax.tree.leaves(agents)[0])
    row, task = np.repeat(np.arange(k), n), np.tile(np.arange(n), k)
    played = learn.evaluate(policy, family, agents, row, task, key, episodes=EPISODES, learner=learner)
    means = np.nan_to_num(played.judged_by(family.metric).mean(1), nan=-np.inf).reshape(k, n)
    stays = means[labels, np.arange(n)] >= means.max(0)
    return np.where(stays, labels, means.argmax(0)), int(played.steps.sum() + played.adaptation_steps.sum())
