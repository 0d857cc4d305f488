"""Groups are looked at again: each is a meta-policy of its own tasks, and is asked whether a split pays.

Between two looks the groups train on, with the meta-policy's entropy bonus where they will be asked. What is
spent here comes out of our total. Policies go on from what they are: those of a group that is split from the
group's. Then groups that gain nothing by being apart become one again (`joining`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax import grouping, pipeline
from pgx_jax.compare.asking import Asking
from pgx_jax.compare.budget import Budget, Shares, least, share
from pgx_jax.compare.joining import ask_pairs
from pgx_jax.compare.pool import BASE, EMPTY, Pool, Row, of_tasks, train_pool
from pgx_jax.config import Config
from pgx_jax.errors import ConfigError, NoSignalError
from pgx_jax.learn import Hears, Learner, Metrics, Policy
from pgx_jax.pipeline import HeldOut
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Grouping


class Found(NamedTuple):
    """What one look at one policy has found."""

    look: int
    """Which look, from 1 on."""
    member: Bool[np.ndarray, "n"]
    """bool [n]: the tasks that it was about: the policy's, and those that might join them."""
    labels: Int[np.ndarray, "n"]
    """int [n]: into which of its groups each task goes; -1 for all other tasks."""
    gain: Float[np.ndarray, "3"]
    """float [3]: predicted gain of being apart in standardised advantage a step, and its 95% interval."""
    collected: int
    """Environment steps that were collected."""
    steps: int
    """Environment steps up to this look, its own included: of all since the first split, or (of a look at
    the meta-policy) of the whole method."""
    guest: Bool[np.ndarray, "n"] | None = None
    """bool [n]: of two groups that were asked to become one, the tasks of the one whose policy was not asked;
    None where a split was asked."""

    @property
    def k(self) -> int:
        """Groups that were found."""
        return int(self.labels.max()) + 1


class Looked(NamedTuple):
    """The groups after all looks."""

    labels: Int[np.ndarray, "n"]
    """int [n], canonical."""
    pool: Pool
    """The policies of the groups as they were at the last look; none if that was the first split."""
    origin: tuple[int, ...]
    """Which of these each of the k groups continues."""
    spent: int
    """Environment steps of training and looking since the first split."""
    found: tuple[Found, ...]
    """What the looks after the first split have found."""

    @property
    def ways(self) -> tuple[str, ...]:
        """Names of the agents that the k groups continue; "" is the meta-policy."""
        return tuple(way(self.pool.rows[place]) for place in self.origin) or ("",) * self.k

    @property
    def k(self) -> int:
        """Number of groups."""
        return int(self.labels.max()) + 1

    def starts(self) -> dict[str, Agent]:
        """The agents that the groups continue, by their names."""
        pairs = zip(self.pool.rows, self.pool.agents, strict=True)
        return {way(row): agent for row, agent in pairs}


def way(row: Row) -> str:
    """The name of a group's policy at the last look: its tasks, and what it went on from itself."""
    return of_tasks(row.member) + (f", {row.way}" if row.way else "")


def look_again(
    policy: Policy,
    learner: Learner,
    family: TaskFamily,
    config: Config,
    budget: Budget,
    labels: Int[np.ndarray, "n"],
    meta: Agent,
    held_out: HeldOut | None = None,
    *,
    scoring: int = 0,
    metrics: Hears | None = None,
    **kw: Any,
) -> Looked:
    """Train the groups on and look at each of them, at all times of ``budget`` that are left.

    Args:
        policy, learner: the networks, and what trains them.
        family, config: what to train on, and how.
        budget: what may be spent, at the look that led to the groups.
        labels: int [n], the groups.
        meta: theta*, from which they go on.
        held_out: what theta* has experienced; without it no groups become one again.
        scoring: environment steps that scoring took.
        metrics: hears what the updates of each policy came to, by its name and the look that they lead to.
        kw: progress and checkpoint, see `train_pool`.
    """
    looked, asking = Looked(labels, EMPTY, (), 0, ()), Asking(policy, learner, family, config)
    before = budget.total - budget.rest(scoring)
    if not config.continue_meta:
        return looked
    for look in range(budget.look + 1, len(budget.times) + 1):
        groups = Grouping(looked.labels).member
        collecting = [asking.collecting(member) for member in groups]
        spent = before + looked.spent
        allowed = int(budget.times[look - 1] * budget.total) - spent
        left = budget.rest(scoring) - looked.spent - allowed - sum(collecting)
        left -= least(family.n, learner, config)
        if not any(collecting) or left < 0:
            break
        try:
            shares = share(groups, allowed, learner, config.min_updates)
        except ConfigError:  # not one update for each until then
            continue
        rows = _rows(groups, shares, looked.ways, np.array(collecting) > 0, learner, config)
        own = {BASE: policy}, {config.learner: learner}
        hears = metrics and partial(_tell_look, metrics, look)
        pool = train_pool(rows, *own, family, config, meta, starts=looked.starts(), metrics=hears, **kw)
        looked = _split(asking, look, pool, rows, collecting, looked)
        if held_out is not None:
            looked = _join(asking, look, looked, held_out, left)
    return looked


def _tell_look(metrics: Hears, look: int, each: Metrics) -> None:
    """Tell of some updates of a policy by a name that it has until this look alone: a group that is not split
    trains again until the next one, from 0 steps on."""
    metrics(each._replace(policy=f"{each.policy} (look {look})"))


def _rows(
    groups: Bool[np.ndarray, "k n"],
    shares: Shares,
    ways: tuple[str, ...],
    asked: Bool[np.ndarray, "k"],
    learner: Learner,
    config: Config,
) -> list[Row]:
    """The groups' training until this look; those that will be ``asked`` have the meta-policy's bonus."""
    has = config.meta_entropy is not None and hasattr(learner, "entropy")
    return [
        Row(
            tuple(member.tolist()), int(steps), True, BASE, config.learner, int(envs),
            config.meta_entropy if has and explores else None, name,
        )
        for member, steps, envs, name, explores in zip(groups, *shares, ways, asked, strict=True)
    ]  # fmt: skip


def _split(
    asking: Asking,
    look: int,
    pool: Pool,
    rows: list[Row],
    collecting: list[int],
    looked: Looked,
) -> Looked:
    """Look at the groups for which something is to be collected."""
    config, n = asking.config, asking.family.n
    looks = pipeline.look_count(config) * sum(steps > 0 for steps in collecting)
    spent = looked.spent + sum(row.steps for row in rows)
    labels = np.zeros(n, int)
    origin: list[int] = []
    found: list[Found] = []
    for place, (row, steps) in enumerate(zip(rows, collecting, strict=True)):
        tasks = np.flatnonzero(row.member)
        own = np.zeros(len(tasks), int)
        groups = len(origin) + len(rows) - place
        limit = config.grouping.max_groups
        if steps and (limit is None or groups < limit):
            most = None if limit is None else limit - groups + 1
            own_config = replace(config, grouping=replace(config.grouping, max_groups=most))
            asked = asking._replace(config=own_config)
            own, promised = _ask(asked, pool.agent(row), tasks, look, looks)
            spent += steps
            inside = np.full(n, -1)
            inside[tasks] = own
            found.append(Found(look, np.array(row.member), inside, promised, steps, spent))
        labels[tasks] = len(origin) + own
        origin += [place] * (int(own.max()) + 1)
    return _numbered(Looked(labels, pool, tuple(origin), spent, looked.found + tuple(found)))


def _numbered(looked: Looked) -> Looked:
    """The same with canonical labels."""
    first = list(dict.fromkeys(looked.labels.tolist()))  # in the order in which canonical labels number them
    origin = tuple(looked.origin[group] for group in first)
    return looked._replace(labels=grouping.canonical(looked.labels), origin=origin)


def _join(asking: Asking, look: int, looked: Looked, held_out: HeldOut, afford: int) -> Looked:
    """Ask pairs of groups whether they had better be one, for so many steps at most."""
    agents, number = looked.pool.agents, look + pipeline.look_count(asking.config)
    pairs = ask_pairs(asking, held_out, looked.labels, looked.origin, agents, number, afford)
    labels, spent, found = looked.labels.copy(), looked.spent, list(looked.found)
    for pair in pairs:
        guest = looked.labels == pair.guest
        inside = np.where(pair.member, guest & (not pair.joined), -1)
        spent += pair.collected
        found.append(Found(look, pair.member, inside, pair.gain, pair.collected, spent, guest))
        if pair.joined:
            labels[guest] = pair.host
    return _numbered(looked._replace(labels=labels, spent=spent, found=tuple(found)))


def _ask(
    asking: Asking, agent: Agent, tasks: Int[np.ndarray, "m"], look: int, looks: int
) -> tuple[Int[np.ndarray, "m"], Float[np.ndarray, "3"]]:
    """Whether a split of a group's tasks pays: their labels int [m], and the predicted gain with its
    interval. It is one of so many ``looks`` that share a level.

    Tasks of which nothing tells good actions from bad ones any more are left together.
    """
    try:
        seen = asking.experience(agent, tasks, look)
        found = pipeline.split_group(
            asking.policy.log_prob, seen.params, seen.transitions, asking.config,
            looks=looks, names=seen.family.task_names,
        )  # fmt: skip
    except NoSignalError:
        return np.zeros(len(tasks), int), np.full(3, np.nan)
    return found.labels, gain(found)


def gain(found: Grouping) -> Float[np.ndarray, "3"]:
    """float [3]: predicted gain of a split, made or not, in standardised advantage a step, and its interval;
    NaN if it is unknown."""
    predicted = pipeline.gain_of_splitting(found)
    return np.array([predicted["mean"], *predicted["ci95"]]) if predicted else np.full(3, np.nan)
