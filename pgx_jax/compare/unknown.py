"""Tasks that nobody has trained on, beside the known ones, and the policies from which they may begin."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.compare.pool import BASE
from pgx_jax.config import Config
from pgx_jax.errors import ConfigError
from pgx_jax.learn import Learner, Policy
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Features, Moments, PyTree, Transitions


class Start(NamedTuple):
    """A policy from which a task may begin."""

    key: Hashable
    """What equal policies of several methods have in common: they adapt once."""
    agent: Agent
    """It knows the unseen tasks, see `widened`."""
    member: Bool[np.ndarray, "n"]
    """bool [n]: the known tasks that it was trained on."""
    policy: str = BASE
    """Name of its networks."""
    learner: str = "ppo"
    """Name of its learner."""
    told: int | None = None
    """The known task that it is told it is on; None if its actor is not told its task."""


class Arena(NamedTuple):
    """Where U unseen tasks are adapted to."""

    family: TaskFamily
    """n known tasks, and behind them the unseen ones."""
    n: int
    """Known tasks."""
    policies: Mapping[str, Policy]
    """By the names that starts have."""
    learners: Mapping[str, Learner]
    config: Config
    meta: Start
    """theta*; if it is told its task, it is told to be on the first known one (nothing tells a better one to
    tasks that have tried nothing)."""
    transitions: Transitions
    """What theta* has experienced on the known tasks."""
    features: Features
    """Of these."""

    def told(self, start: Start) -> Float[np.ndarray, "C"]:
        """float [C]: what a policy and its critic are told of an unseen task: the known task that `Start`
        names, or (the critic alone, of a blind policy) the mean of what they know."""
        known = np.asarray(self.family.context[: self.n], np.float32)
        return known[np.asarray(start.member)].mean(0) if start.told is None else known[start.told]

    def family_of(self, start: Start) -> TaskFamily:
        """The tasks, told so."""
        context = np.array(self.family.context, np.float32)
        context[self.n :] = self.told(start)
        return replace(self.family, context=context)

    @property
    def unseen(self) -> Int[np.ndarray, "U"]:
        """int [U]: numbers of the unseen tasks."""
        return np.arange(self.n, self.family.n)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the unseen tasks."""
        return self.family.task_names[self.n :]


def joined(family: TaskFamily, tasks: PyTree, names: Sequence[str]) -> TaskFamily:
    """A family with further tasks behind its own.

    The context of a further task is the mean of the known ones: nothing is known of it.

    Args:
        family: the known tasks.
        tasks: parameters of the further ones, every leaf with a leading axis U.
        names: U names.

    Raises:
        ConfigError: parameters of another form than the family's.
    """
    own, more = (jax.tree_util.tree_leaves_with_path(x) for x in (family.tasks, tasks))
    for (path, mine), (other, new) in zip(own, more, strict=False):
        if path != other or np.shape(new) != (len(names), *np.shape(mine)[1:]):
            raise ConfigError(
                f"unseen tasks of {family.name!r}: parameter {jax.tree_util.keystr(other)} has shape "
                f"{np.shape(new)}; expected {jax.tree_util.keystr(path)} of shape "
                f"{(len(names), *np.shape(mine)[1:])}"
            )
    if len(own) != len(more):
        raise ConfigError(
            f"unseen tasks of {family.name!r} have {len(more)} parameters; expected its {len(own)}: "
            f"{', '.join(jax.tree_util.keystr(path) for path, _ in own)}"
        )
    structure, context = jax.tree.structure(family.tasks), np.asarray(family.context, np.float32)
    pairs = ((np.asarray(x), np.asarray(y)) for (_, x), (_, y) in zip(own, more, strict=True))
    leaves = [np.concatenate([x, y.astype(x.dtype)]) for x, y in pairs]
    return replace(
        family,
        task_names=(*family.task_names, *names),
        tasks=jax.tree.unflatten(structure, leaves),
        context=np.concatenate([context, np.broadcast_to(context.mean(0), (len(names), context.shape[1]))]),
        sample_test_tasks=None,
        true_groups=None,
        objectives=None,
    )


def task_of(family: TaskFamily, values: Mapping[str, Any]) -> PyTree:
    """Parameters of one's own task, as ``family.tasks`` without their leading axis.

    Args:
        family: the known tasks.
        values: by the names of parameters ("goal", "road.density"); those in which all known tasks are equal
            may be left out.

    Raises:
        ConfigError: there is no such parameter, one is missing, one has another shape, or is not finite.
    """
    leaves = jax.tree_util.tree_leaves_with_path(family.tasks)
    known = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in leaves}
    if unknown := sorted({*values} - {*known}):
        raise ConfigError(
            f"tasks of {family.name!r} have no parameter {', '.join(unknown)}; they have {', '.join(known)}"
        )
    vary = [name for name, x in known.items() if (x != x[:1]).any()]
    if missing := [name for name in vary if name not in values]:
        raise ConfigError(
            f"give {', '.join(missing)} of the task, too: the tasks of {family.name!r} differ in them"
        )
    found = []
    for name, of_tasks in known.items():
        try:
            value = np.asarray(values.get(name, of_tasks[0]), of_tasks.dtype)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name} = {values[name]!r} is no number, or array of numbers") from error
        if value.shape != of_tasks.shape[1:]:
            raise ConfigError(f"{name} has shape {value.shape}; expected {of_tasks.shape[1:]}")
        if name in values and value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ConfigError(f"{name} = {values[name]!r} is not finite; give numbers")
        found.append(value)
    return jax.tree.unflatten(jax.tree.structure(family.tasks), found)


def sampled(family: TaskFamily, key: PyTree, count: int) -> PyTree:
    """Unseen tasks of the family's sampler.

    Raises:
        ConfigError: it has none, or no two tasks are asked for.
    """
    if count < 2:
        raise ConfigError(f"{count} unseen task(s) tell nothing of others; ask for at least 2")
    return family.unseen(key, count)


def widened(agent: Agent, member: Bool[np.ndarray, "n"], count: int) -> Agent:
    """An agent that knows ``count`` more tasks: their rewards are scaled (and values given) as those of its
    own tasks are on average, by what it has seen of each."""

    def wider(moments: Moments) -> Moments:
        own = Moments(*(np.asarray(x)[member] for x in moments))
        share = own.count / own.count.sum()
        usual = Moments(share @ own.mean, share @ own.var, own.count.mean())
        return Moments(
            *(
                np.concatenate([x, np.full(count, y, np.asarray(x).dtype)])
                for x, y in zip(moments, usual, strict=True)
            )
        )

    value = None if agent.value is None else wider(agent.value)
    return agent._replace(reward=wider(agent.reward), value=value)


def likeliest_group(family: TaskFamily, labels: Int[np.ndarray, "n"], tasks: PyTree) -> Int[np.ndarray, "U"]:
    """int [U]: the group of known tasks whose mean parameters are the nearest to each unseen one's, in units
    of how far tasks of one group differ: what groups differ in counts, what varies within them does not."""
    known = family.parameters()
    count = len(jax.tree.leaves(tasks)[0])
    numbers = [np.asarray(leaf) for leaf in jax.tree.leaves(tasks)]
    new = np.concatenate([x.reshape(count, -1) for x in numbers if x.dtype.kind in "biuf"], axis=1)
    varies = known.std(0) > 1e-5 * np.abs(known).max(0)  # others differ by rounding, at most
    known, new = known[:, varies], new[:, varies]
    means = np.stack([known[labels == group].mean(0) for group in range(labels.max() + 1)])
    within = np.square(known - means[labels]).mean(0) + 1e-3 * known.var(0)
    return (np.square(new[:, None] - means) / within).sum(-1).argmin(1)
