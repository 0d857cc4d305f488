"""Policies on tasks that none of them has seen, of every method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from msgspec import UNSET

from pgx_jax import learn
from pgx_jax.compare.methods import Method
from pgx_jax.compare.pool import Pool, Row, places
from pgx_jax.compare.results import OURS, UnseenMethod, UnseenResult
from pgx_jax.compare.summaries import failed_tasks, stratified
from pgx_jax.config import Config
from pgx_jax.learn import Learner, Policy
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Key


class Candidate(NamedTuple):
    """A policy that a new task may find; equal ones of several methods are tried once."""

    row: Row
    told: int | None = None
    """The known task that the policy is told it is on; None if it is not told."""


Pair = tuple[Candidate, int]
"""A candidate and the number of an unseen task."""


class _Played(NamedTuple):
    """Episodes of pairs of a candidate and an unseen task."""

    returns: Float[np.ndarray, "P episodes"]
    judged: Float[np.ndarray, "P episodes"]
    """Success or returns, as the family is judged."""
    steps: Int[np.ndarray, "P"]
    """Environment steps of all its episodes."""
    adapting: Int[np.ndarray, "P"]
    """Environment steps of adapting before them."""


def unseen_tasks(
    methods: Mapping[str, Method],
    pool: Pool,
    policies: Mapping[str, Policy],
    learners: Mapping[str, Learner],
    family: TaskFamily,
    config: Config,
) -> UnseenResult | None:
    """Try the policies of every method on unseen tasks; None where there are none.

    Nobody says what an unseen task wants. It finds its policy by trial: every policy of the method plays a
    few episodes on it, and the best mean return wins. A policy that is told its task is tried with the
    context of each of its tasks: what it is told then is the known task that served best. The winner is
    judged on fresh episodes, the same for all methods (of several draws of a method the first stands for
    all). Where the learner adapts, it does so before the trial, and afresh before it is judged.

    Args:
        methods: by name; ours among them.
        pool: their policies.
        policies, learners: by the names that rows have.
        family, config: what they were trained on, and how.
    """
    if family.sample_test_tasks is None or config.test_tasks < 1:
        return None
    count = config.test_tasks
    tasks = family.unseen(config.stream("test_tasks"), count)
    names = [f"unseen {i + 1}" for i in range(count)]

    def play(pairs: Sequence[Pair], stream: str, episodes: int) -> _Played:
        return _play(pairs, pool, policies, learners, family, tasks, names, config.stream(stream), episodes)

    own = {name: candidates(m, policies) for name, m in methods.items()}
    found, paid = _trial(own, count, lambda pairs: play(pairs, "trial", config.trial_episodes))
    pairs = list(dict.fromkeys(pair for some in found.values() for pair in some))
    final, place = play(pairs, "evaluate", config.episodes), {pair: i for i, pair in enumerate(pairs)}

    def judged(name: str) -> UnseenMethod:
        index = [place[pair] for pair in found[name]]
        whole = stratified(final.judged[index])
        steps = sum(paid[c] for c in own[name]) + int(final.adapting[index].sum())
        failed = [names[i] for i in failed_tasks(final.judged[index])] or UNSET
        return UnseenMethod(mean=whole.mean, ci95=whole.ci95, env_steps=steps, failed=failed)

    mine, rows = judged(OURS), list(methods[OURS].rows)
    told = [family.task_names[c.told] for c, _ in found[OURS] if c.told is not None]
    return UnseenResult(
        mean=mine.mean,
        ci95=mine.ci95,
        names=names,
        method=_by_trial(bool(told), config.trial_episodes),
        assigned=[rows.index(c.row) for c, _ in found[OURS]],
        told=told,
        env_steps=mine.env_steps,
        failed=mine.failed,
        methods={name: judged(name) for name in methods if name != OURS},
    )


def _trial(
    own: Mapping[str, Sequence[Candidate]], count: int, play: Callable[[list[Pair]], _Played]
) -> tuple[dict[str, list[Pair]], dict[Candidate, int]]:
    """Every unseen task with the best of each method's candidates, and the steps that each candidate took on
    all of them."""
    tried = list(dict.fromkeys(candidate for some in own.values() for candidate in some))
    found = play([(candidate, task) for candidate in tried for task in range(count)])
    means = np.nan_to_num(found.returns.mean(1), nan=-np.inf)  # where adapting failed
    value = dict(zip(tried, means.reshape(len(tried), count), strict=True))
    steps = (found.steps + found.adapting).reshape(len(tried), count).sum(1).tolist()
    best = {name: np.stack([value[c] for c in some]).argmax(0).tolist() for name, some in own.items()}
    chosen = {name: [(own[name][i], task) for task, i in enumerate(index)] for name, index in best.items()}
    return chosen, dict(zip(tried, steps, strict=True))


def _by_trial(told: bool, episodes: int) -> str:
    """How an unseen task finds its policy, in words."""
    each = f"in {episodes} trial episodes each"
    if told:
        return f"the best of the groups' policies, told to be on each of their tasks in turn, {each}"
    return f"the best of the groups' policies {each}"


def candidates(method: Method, policies: Mapping[str, Policy]) -> list[Candidate]:
    """The policies of a method, each with the context of each of its tasks if it is told its task."""
    found = []
    for row in method.rows:
        told = policies[row.policy].conditioned_actor
        known: Iterable[int | None] = np.flatnonzero(row.member).tolist() if told else [None]
        found += [Candidate(row, task) for task in known]
    return found


def _play(
    pairs: Sequence[Pair],
    pool: Pool,
    policies: Mapping[str, Policy],
    learners: Mapping[str, Learner],
    family: TaskFamily,
    tasks: object,
    names: Sequence[str],
    key: Key,
    episodes: int,
) -> _Played:
    """Evaluate pairs of a candidate and an unseen task, those of equal programs in one go."""
    context, parts, order = np.asarray(family.context), [], []
    rows = [candidate.row for candidate, _ in pairs]
    for (policy, learner), index in places(rows, lambda row: (row.policy, row.learner)).items():
        some = list(dict.fromkeys(rows[i] for i in index))
        told = [task for i in index if (task := pairs[i][0].told) is not None]
        played = learn.evaluate(
            policies[policy], family, learn.stack([pool.agent(row) for row in some]),
            np.array([some.index(rows[i]) for i in index]), np.array([pairs[i][1] for i in index]), key,
            episodes=episodes, tasks=tasks, names=names, learner=learners[learner],
            context=context[told] if told else None,
        )  # fmt: skip
        parts.append(
            _Played(
                played.returns, played.judged_by(family.metric), played.steps.sum(1), played.adaptation_steps
            )
        )
        order += index
    back = np.argsort(order)
    return _Played(*(np.concatenate(leaves)[back] for leaves in zip(*parts, strict=True)))
