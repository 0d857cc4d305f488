"""Policies of several methods, trained together and each once."""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt32

from pgx_jax import learn
from pgx_jax.config import Config
from pgx_jax.errors import DataError, named
from pgx_jax.learn import Checkpoint, Hears, Learner, Policy, Progress
from pgx_jax.learn.updating import Earned
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Key, Rows

BASE = "base"
"""Name of the policy that a run's settings describe (or of one's own networks)."""


class Row(NamedTuple):
    """One policy to be trained; equal rows are the same policy."""

    member: tuple[bool, ...]
    steps: int
    continues: bool
    """Starts from theta* and its critic."""
    policy: str = BASE
    """Name of its networks."""
    learner: str = "ppo"
    """Name of its learner."""
    num_envs: int | None = None
    """Environments that it trains in; those of its learner if None."""
    entropy: float | None = None
    """Weight of its entropy bonus; that of its learner if None."""
    way: str = ""
    """How it was trained, where that is not by one call with its tasks and steps from scratch or theta*; the
    name of the agent that it continues, if that is known by one (`train_pool`)."""

    def trained_by(self, learners: Mapping[str, Learner]) -> Learner:
        """Its learner, as it is set for this row."""
        own = {"num_envs": self.num_envs, "entropy": self.entropy}
        changes = {name: value for name, value in own.items() if value is not None}
        return replace(learners[self.learner], **changes)  # type: ignore[type-var]


class Pool(NamedTuple):
    """Trained rows, in order, with their learning curves."""

    rows: tuple[Row, ...]
    agents: tuple[Agent, ...]
    returns: tuple[Float[np.ndarray, "updates n"], ...]
    """float [updates, n] each: returns or success rates, as of `learn.Trained`."""
    at_end: tuple[Float[np.ndarray, "updates n"], ...] | None = None
    """float [updates, n] each: success in the last step; None where the family is judged by the return, or
    older code has trained some of the rows."""

    @classmethod
    def of(cls, rows: Sequence[Row], agents: Sequence[Agent], earned: Sequence[Earned]) -> Pool:
        """Rows with their agents, and what each earned in its updates."""
        returns = tuple(np.asarray(own.returns) for own in earned)
        ends = tuple(np.asarray(own.at_end) for own in earned if own.at_end is not None)
        return cls(tuple(rows), tuple(agents), returns, ends if len(ends) == len(returns) else None)

    def joined(self, other: Pool) -> Pool:
        """The rows of both, one pool after the other."""
        ends = None if self.at_end is None or other.at_end is None else self.at_end + other.at_end
        return Pool(self.rows + other.rows, self.agents + other.agents, self.returns + other.returns, ends)

    def agent(self, row: Row) -> Agent:
        """The trained policy of a row.

        Raises:
            DataError: it is not among them.
        """
        if row not in self.rows:
            raise DataError(
                "a policy that the run's settings ask for was not trained: the run may be another version's, "
                "with another rule of budgets; run it anew"
            )
        return self.agents[self.rows.index(row)]


EMPTY = Pool((), (), (), ())


Item = TypeVar("Item")
Kind = TypeVar("Kind")


def places(rows: Sequence[Item], kind: Callable[[Item], Kind]) -> dict[Kind, list[int]]:
    """Places of the rows (or other things) of every kind."""
    found: dict[Kind, list[int]] = {}
    for i, row in enumerate(rows):
        found.setdefault(kind(row), []).append(i)
    return found


def program(row: Row) -> Row:
    """What rows have in common that can be trained in one call: all but tasks, steps and start."""
    return row._replace(member=(), steps=0, continues=False, way="")


def row_keys(
    key: Key, member: Bool[np.ndarray, "R n"], ways: Sequence[str] | None = None
) -> UInt32[np.ndarray, "R 2"]:
    """Keys uint32 [R, 2] of rows: they depend on the run's key, the row's tasks and the agent that it goes on
    from (``ways``, "" being theta*), so that equal groups of different methods train alike (their difference
    is paired)."""
    words = np.packbits(np.asarray(member, bool), axis=1, bitorder="little").tolist()

    def fold(row: list[int], way: str) -> np.ndarray:
        out = key
        for word in row + ([zlib.crc32(way.encode())] if way else []):
            out = jax.random.fold_in(out, word)
        return np.asarray(out)

    return np.stack([fold(*pair) for pair in zip(words, ways or [""] * len(words), strict=True)])


def of_tasks(member: Sequence[bool]) -> str:
    """How ways call the policy of some tasks."""
    return "of tasks " + " ".join(str(i) for i, inside in enumerate(member) if inside)


def _leaves(row: Row) -> bool:
    """Whether it is that of a single task, which goes on from a policy of several."""
    return row.continues and sum(row.member) == 1 and row.way.split(", ")[0] != of_tasks(row.member)


def train_pool(
    rows: Iterable[Row],
    policies: Mapping[str, Policy],
    learners: Mapping[str, Learner],
    family: TaskFamily,
    config: Config,
    meta: Agent,
    known: Pool = EMPTY,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    *,
    metrics: Hears | None = None,
    starts: Mapping[str, Agent] | None = None,
) -> Pool:
    """Train all rows that are not known yet, each once.

    Args:
        rows: what to train.
        policies, learners: by the names that rows have.
        family, config: what to train on, and how.
        meta: theta* (no leading axis), for rows that continue it (exploring afresh).
        known: rows that are trained already.
        progress: reports over all of them.
        checkpoint: keeps what long training has reached (see `learn.train`).
        metrics: hears what the updates of each row came to, by the name of its policy.
        starts: agents to continue, by the rows' ``way``.
    """
    starts = {"": meta} | dict(starts or {})
    todo = [row for row in dict.fromkeys(rows) if row not in set(known.rows)]
    kinds = [
        ((policies[kind.policy], kind.trained_by(learners)), [todo[i] for i in index])
        for kind, index in places(todo, program).items()
    ]
    calls = [
        (policy, learner, _rows(some, policy, family, config, starts)) for (policy, learner), some in kinds
    ]
    names = _names([row for _, some in kinds for row in some], family, config)
    found = learn.train_all(
        calls, family, rows_per_call=config.rows_per_call, progress=progress, checkpoint=checkpoint,
        metrics=metrics and (lambda each: metrics(each._replace(policy=names[each.number]))),
    )  # fmt: skip
    pool = EMPTY
    for ((_, learner), some), trained in zip(kinds, found, strict=True):
        updates = [row.steps // learner.steps_per_update for row in some]
        agents = [learn.take(trained.agents, i) for i in range(len(some))]
        earned = [learn.take(trained.earned, (i, slice(count))) for i, count in enumerate(updates)]
        pool = pool.joined(Pool.of(some, agents, earned))
    return pool


def _names(rows: Sequence[Row], family: TaskFamily, config: Config) -> list[str]:
    """What the policies of rows are called, each by a name of its own."""
    names = [_name(row, family, config) for row in rows]
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        seen[name] += 1
        names[i] = name if seen[name] == 1 else f"{name} #{seen[name]}"
    return names


def _name(row: Row, family: TaskFamily, config: Config) -> str:
    """The tasks of a row, and what else tells it from most others: "goal+1-0, goal+1-3, told"."""
    tasks = [name for name, inside in zip(family.task_names, row.member, strict=True) if inside]
    which = "all tasks" if 1 < len(tasks) == family.n else named(tasks)
    own = [row.policy] if row.policy != BASE else []
    own += [row.learner] if row.learner != config.learner else []
    own += ["continued"] if row.continues and len(tasks) == family.n else []
    return ", ".join((which, *own))


def _rows(
    some: list[Row], policy: Policy, family: TaskFamily, config: Config, starts: Mapping[str, Agent]
) -> Rows:
    """The rows of one call of `learn.train`, fresh or from the agents of their ways."""
    member, steps = np.array([row.member for row in some]), np.array([row.steps for row in some])
    keys = row_keys(config.stream("rows"), member, [row.way for row in some])
    fresh = learn.init_agents(policy, family, keys)
    first = learn.take(fresh, 0)

    @functools.cache
    def start(way: str, alone: bool) -> Agent:
        known = learn.tell(starts[way], first) if policy.conditioned_actor else starts[way]
        return learn.explore_afresh(policy, known, first, alone=alone)

    begin = [
        start(row.way, _leaves(row)) if row.continues else learn.take(fresh, i) for i, row in enumerate(some)
    ]
    return Rows(member, steps, keys, learn.stack(begin))
