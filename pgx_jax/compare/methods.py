"""Judgement by the rule of comparison: baselines with the same total of environment steps.

Every method is a set of rows. Equal rows of different methods are trained once: a row's key
depends on its tasks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from pgx_jax import grouping, learn
from pgx_jax.compare.pool import Pool, Row, train_pool
from pgx_jax.config import Budget, Config
from pgx_jax.learn import Policy
from pgx_jax.streams import stream
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent


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
    same_as: str | None = None
    """The method that comes to the same groups, of several of a kind."""

    @property
    def env_steps(self) -> int:
        """All environment steps of the method."""
        return self.spent + sum(row.steps for row in self.rows)


def method(budget: Budget, labels, total: int, *, spent: int = 0, continues: bool = False, **kw) -> Method:
    """A partition whose policies share ``total`` steps by their numbers of tasks."""
    conditioned = kw.pop("conditioned", False)
    labels = grouping.canonical(np.asarray(labels))
    member = labels[None, :] == np.arange(labels.max() + 1)[:, None]
    steps = budget.share(member, total)
    rows = tuple(
        Row(tuple(map(bool, m)), int(s), continues, conditioned) for m, s in zip(member, steps, strict=True)
    )
    if spent and not budget.meta:
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
    scoring: int = 0,
    told: bool = False,
) -> dict[str, list[Method]]:
    """The methods beside ours; several draws of one method stand in a list.

    Args:
        budget, config: the rule of comparison.
        labels: our grouping.
        similar: groupings by gradient similarity, by the name of the method.
        true_groups: planted labels, used for nothing but the methods of that name.
        scoring: environment steps that ours took for scoring.
        told: whether all policies are told the task, so that none is needed to compare with one that is.
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
    if told:
        found["multitask"] = [
            found.pop("multitask_conditioned")[0]._replace(note="told the task, as all here")
        ]
    for name, groups in similar.items():
        known = [other for other in similar if (similar[other] == groups).all()]
        same = {"same_as": known[0]} if known[0] != name else {}
        found[name] = [method(budget, groups, rest, spent=spent, continues=continues, **same)]
    if true_groups is not None:
        found["true_groups"] = [method(budget, true_groups, total)]
        if continues:
            found["true_groups_continued"] = [
                ours(budget, config, true_groups, scoring)._replace(label="True groups, from the meta-policy")
            ]
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


def train_groups(
    policy: Policy,
    family: TaskFamily,
    config: Config,
    labels,
    meta: Agent,
    *,
    scoring: int = 0,
    own_meta: bool = False,
    **kw,
) -> Pool:
    """Stage 3: one policy a group, with what the rule of comparison leaves after estimating.

    Args:
        policy: the networks.
        family, config: what to train on, and how.
        labels: int [n], the group of every task.
        meta: theta*, which the groups continue unless ``config.continue_meta`` is off.
        scoring: environment steps that scoring by roll-outs took.
        own_meta: whether theta* is one of your own, whose training is not counted.
        kw: progress and checkpoint, see `train_pool`.

    Returns:
        Pool with one row a group, in the order of `grouping.canonical` labels.
    """
    budget = Budget(config, family, policy.conditioned_actor)
    if own_meta:
        budget.meta = 0
    rows = ours(budget, config, labels, scoring).rows
    return train_pool(rows, lambda _: policy, family, config, meta, **kw)


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

    It tells the noise of the evaluation, not that of training with another seed; one episode a task
    has no interval.
    """
    n, count = episodes.shape
    mean = float(episodes.mean())
    if count == 1:
        return {"mean": mean, "ci95": None}
    error = float(np.sqrt((episodes.var(1, ddof=1) / count).sum()) / n)
    return {"mean": mean, "ci95": [mean - 1.96 * error, mean + 1.96 * error]}


def over_draws(means: Sequence[float]) -> dict:
    """Mean over draws of a grouping and its 95% t-interval."""
    mean, count = float(np.mean(means)), len(means)
    half = float(stats.t.ppf(0.975, count - 1) * np.std(means, ddof=1) / np.sqrt(count))
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def summarise(episodes: Sequence[np.ndarray]) -> dict:
    """Mean and 95% interval of one method's episodes [n, E], or of the means of several draws."""
    return stratified(episodes[0]) if len(episodes) == 1 else over_draws([float(x.mean()) for x in episodes])


def distinct(methods: Sequence[Method]) -> Sequence[Method]:
    """The draws of a method, or the first alone where there was nothing to draw (k is 1 or n)."""
    return methods[:1] if all((m.labels == methods[0].labels).all() for m in methods) else methods


def difference(mine: Method, methods: Sequence[Method], played: Played) -> dict:
    """Ours minus a method (one or several draws), {"mean", "ci95"}, paired by tasks and episodes.

    All methods play the same episodes, so that their noise is in the differences once; the interval is
    that of `stratified`, or of `over_draws` for several draws.
    """
    return summarise([played.of(mine) - played.of(m) for m in distinct(methods)])


def method_entry(methods: Sequence[Method], played: Played, family: TaskFamily) -> dict:
    """The entry of one method (one or several draws) in results.json."""
    methods = distinct(methods)
    episodes = [played.of(m) for m in methods]
    first, draws = methods[0], [float(x.mean()) for x in episodes]
    groups = [named_groups(m.labels, family.task_names) for m in methods]
    entry = summarise(episodes) | {
        "groups": groups[0],
        "metric": family.metric,
        "per_task": np.mean([x.mean(1) for x in episodes], axis=0).tolist(),
        "env_steps": int(np.mean([m.env_steps for m in methods])),
        "equal_steps": first.equal_steps,
    }
    if len(methods) > 1:
        entry["draws"] = [{"groups": g, "mean": mean} for g, mean in zip(groups, draws, strict=True)]
    return entry | {name: text for name in ("label", "note", "same_as") if (text := getattr(first, name))}


def named_groups(labels: np.ndarray, names: tuple[str, ...]) -> list[list[str]]:
    """The groups as lists of task names."""
    return [[names[i] for i in np.flatnonzero(labels == g)] for g in range(labels.max() + 1)]


def learning_curve(methods: Sequence[Method], pool: Pool, points: int = 40) -> dict:
    """Mean return over tasks (and draws) along a method's budget, {"steps": [...], "return": [...]}."""
    curves = [_curve(m, pool, points) for m in distinct(methods)]
    steps, returns = np.mean(curves, axis=0)
    return {"steps": steps.tolist(), "return": returns.tolist()}


def _curve(m: Method, pool: Pool, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and mean returns over tasks [points] of one draw."""
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
    return steps, np.mean(curves, axis=0)
