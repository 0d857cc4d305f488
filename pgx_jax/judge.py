"""Judgement by the rule of comparison: baselines with the same total of environment steps.

Every method is a set of rows. Equal rows of different methods are trained once: a row's key
depends on its tasks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from pgx_jax import grouping, learn
from pgx_jax.config import Budget, Config
from pgx_jax.learn import Policy
from pgx_jax.learn.train import init_agents
from pgx_jax.learn.work import Checkpoint, Progress
from pgx_jax.pipeline import row_keys, stream
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


class Method(NamedTuple):
    """A set of policies that serve all tasks, and what they cost."""

    labels: np.ndarray
    """int [n]: which policy serves each task."""
    rows: tuple[Row, ...]
    spent: int
    """Steps that the method needed before its policies existed."""
    equal_steps: bool = True
    label: str | None = None
    note: str | None = None

    @property
    def env_steps(self) -> int:
        """All environment steps of the method."""
        return self.spent + sum(row.steps for row in self.rows)


class Pool(NamedTuple):
    """Trained rows, in order, with their learning curves."""

    rows: tuple[Row, ...]
    agents: tuple[Agent, ...]
    returns: tuple[np.ndarray, ...]
    """float [updates, n] each."""

    def __add__(self, other: Pool) -> Pool:
        return Pool(self.rows + other.rows, self.agents + other.agents, self.returns + other.returns)


EMPTY = Pool((), (), ())


def method(budget: Budget, labels, total: int, *, spent: int = 0, continues: bool = False, **kw) -> Method:
    """A partition whose policies share ``total`` steps by their numbers of tasks."""
    conditioned = kw.pop("conditioned", False)
    labels = grouping.canonical(np.asarray(labels))
    member = labels[None, :] == np.arange(labels.max() + 1)[:, None]
    steps = budget.share(member, total)
    rows = tuple(
        Row(tuple(map(bool, m)), int(s), continues, conditioned) for m, s in zip(member, steps, strict=True)
    )
    if continues and not budget.meta:
        kw |= {"equal_steps": False, "note": "the training of the given meta-policy is not counted"}
    return Method(labels, rows, spent, **kw)


def ours(budget: Budget, config: Config, labels, scoring: int) -> Method:
    """Our groups: what is left after meta-training, collecting and scoring."""
    rest = budget.rest(scoring)
    return method(budget, labels, rest, spent=budget.total - rest, continues=config.continue_meta)


def baselines(
    budget: Budget,
    config: Config,
    labels: np.ndarray,
    similar: dict[str, np.ndarray],
    true_groups: np.ndarray | None,
) -> dict[str, list[Method]]:
    """The methods beside ours; several draws of one method stand in a list.

    Args:
        budget, config: the rule of comparison.
        labels: our grouping.
        similar: groupings by gradient similarity, by the name of the method.
        true_groups: planted labels, used for nothing but the method of that name.
    """
    n, total, rest = budget.n, budget.total, budget.rest(0)
    one, each = np.zeros(n, int), np.arange(n)
    spent, continues = budget.total - rest, config.continue_meta
    rng = np.random.default_rng(np.asarray(stream(config.seed, "random")))
    draws = grouping.random_groupings(rng, grouping.group_sizes(labels), config.random_draws)
    found = {
        "multitask": [method(budget, one, total)],
        "multitask_conditioned": [method(budget, one, total, conditioned=True)],
        "single_task": [method(budget, each, total)],
        "random": [method(budget, draw, total) for draw in draws],
    }
    for name, groups in similar.items():
        found[name] = [method(budget, groups, rest, spent=spent, continues=continues)]
    if true_groups is not None:
        found["true_groups"] = [method(budget, true_groups, total)]
        found["true_groups_continued"] = [
            method(
                budget, true_groups, rest, spent=spent, continues=continues,
                label="True groups, from the meta-policy", note="as many steps a policy as ours",
            )
        ]  # fmt: skip
    if config.compare == "full":
        found |= _outside_the_rule(budget, found)
    return found


def _outside_the_rule(budget: Budget, found: dict[str, list[Method]]) -> dict[str, list[Method]]:
    """What more steps would buy: every policy alone with the whole total."""
    out = {}
    for name, text in (("single_task", "One policy per task"), ("true_groups", "True groups")):
        if name in found:
            base = found[name][0]
            rows = tuple(row._replace(steps=budget.total // budget.unit * budget.unit) for row in base.rows)
            label = f"{text}, each with the whole total"
            out[f"{name}_more_steps"] = [base._replace(rows=rows, equal_steps=False, label=label)]
    return out


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


class Played(NamedTuple):
    """Episodes of every pooled row on its tasks: (row, task) -> values [episodes]."""

    values: dict[tuple[Row, int], np.ndarray]

    def of(self, m: Method) -> np.ndarray:
        """Episodes [n, episodes] of a method: every task by its own policy."""
        return np.stack([self.values[m.rows[g], task] for task, g in enumerate(m.labels)])


def play(pool: Pool, policies: Callable[[bool], Policy], family: TaskFamily, config: Config) -> Played:
    """Evaluate every row on its own tasks, with the same episodes for all of them."""
    values = {}
    for conditioned in (False, True):
        index = [i for i, row in enumerate(pool.rows) if row.conditioned == conditioned]
        if not index:
            continue
        some = [pool.rows[i] for i in index]
        agents = learn.stack([pool.agents[i] for i in index])
        row, task = np.nonzero(np.array([r.member for r in some]))
        played = learn.evaluate(
            policies(conditioned), family, agents, row, task, stream(config.seed, "evaluate"),
            episodes=config.episodes,
        )  # fmt: skip
        chosen = played.success if family.metric == "success" else played.returns
        values |= {(some[r], int(t)): np.asarray(v, float) for r, t, v in zip(row, task, chosen, strict=True)}
    return Played(values)


def stratified(episodes: np.ndarray) -> dict:
    """Mean over tasks and its normal 95% interval from the spread of episodes [n, E] within tasks.

    It tells the noise of the evaluation, not that of training with another seed.
    """
    n, count = episodes.shape
    mean = float(episodes.mean())
    error = float(np.sqrt((episodes.var(1, ddof=1) / count).sum()) / n) if count > 1 else 0.0
    return {"mean": mean, "ci95": [mean - 1.96 * error, mean + 1.96 * error]}


def method_entry(methods: list[Method], played: Played, family: TaskFamily) -> dict:
    """The entry of one method (one or several draws) in results.json."""
    episodes = np.concatenate([played.of(m) for m in methods], axis=1)
    first = methods[0]
    groups = [named_groups(m.labels, family.task_names) for m in methods]
    entry = stratified(episodes) | {
        "groups": groups[0],
        "metric": family.metric,
        "per_task": episodes.mean(1).tolist(),
        "env_steps": int(np.mean([m.env_steps for m in methods])),
        "equal_steps": first.equal_steps,
    }
    if len(methods) > 1:
        entry["draws"] = [
            {"groups": g, "mean": float(played.of(m).mean())} for g, m in zip(groups, methods, strict=True)
        ]
    return entry | {name: text for name in ("label", "note") if (text := getattr(first, name))}


def named_groups(labels: np.ndarray, names: tuple[str, ...]) -> list[list[str]]:
    """The groups as lists of task names."""
    return [[names[i] for i in np.flatnonzero(labels == g)] for g in range(labels.max() + 1)]


def learning_curve(m: Method, pool: Pool, points: int = 40) -> dict:
    """Mean return over tasks along a method's budget, {"steps": [...], "return": [...]}."""
    curves = []
    for task, g in enumerate(m.labels):
        returns = pool.returns[pool.rows.index(m.rows[g])][:, task]
        bins = np.array_split(returns, min(points, len(returns)))
        means = np.array([np.nanmean(b) if np.isfinite(b).any() else np.nan for b in bins])
        at = (np.arange(len(bins)) + 1) / len(bins)
        known = np.isfinite(means)
        grid = (np.arange(points) + 1) / points
        curves.append(np.interp(grid, at[known], means[known]) if known.any() else np.full(points, np.nan))
    steps = m.spent + (np.arange(points) + 1) / points * (m.env_steps - m.spent)
    return {"steps": steps.tolist(), "return": np.mean(curves, axis=0).tolist()}
