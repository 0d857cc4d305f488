"""The first moments on unseen tasks: what every method's policies earn there after a few steps of adaptation.

An adaptation step is an environment step on the unseen task, whatever it is used for: to find a policy among
those of several groups, or to train it on. Fine-tuning is ordinary rows of `learn.train`, one an unseen task
and policy to begin from, all side by side. A budget below an episode trains on cut episodes, after which the
critic's value stands for the rest. A policy whose learner adapts in its own way (`Learner.adapt`) does so, on
as many steps. All methods meet the same tasks, their rows have the same keys, and they are judged on the same
fresh episodes, so that differences between them are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from pgx_jax import learn
from pgx_jax.compare.budget import suited
from pgx_jax.compare.finding import FINDERS, NONE, Found
from pgx_jax.compare.pool import places
from pgx_jax.compare.results import Interval
from pgx_jax.compare.summaries import over_draws
from pgx_jax.compare.unknown import Arena, Start
from pgx_jax.config import Config
from pgx_jax.errors import ConfigError, DataError, pick
from pgx_jax.learn import Learner, Policy
from pgx_jax.learn.evaluation import DIVERGED
from pgx_jax.learn.rollout import Pairs
from pgx_jax.types import Agent, Key, Rows

BUDGETS = (0, 200, 1000, 5000)
"""Environment steps of adaptation; 200 is the paper's."""


STREAMS = ("finding", "training", "fresh")
"""What an adaptation draws, each with a key of its own: what happens while a task finds its policy, what
while it trains, and a policy at random."""


def stream(config: Config, purpose: str) -> Key:
    """The key of one of `STREAMS`."""
    return jax.random.fold_in(config.stream("adapting"), STREAMS.index(purpose))


@dataclass(frozen=True)
class Tuning:
    """How the steps of an adaptation are used."""

    finding: float = 0.5
    """Part of them in which a task finds its policy, if there are several; all of them, if less than an
    episode would be left to train on."""
    updates: int = 4
    """Updates that fine-tuning should have at least: environments, and then steps of an update, are halved
    while there are fewer."""
    minibatch: int = 32
    """Least transitions of a gradient step, where the learner divides its batches."""
    rate: float = 0.1
    """Factor on the step size with which a policy was trained: one whose group suits a task is nearly at its
    best there, and few steps are easily worse than none."""

    def check(self) -> None:
        """Raise ConfigError for settings that cannot work."""
        if not 0 < self.finding < 1:
            raise ConfigError(f"finding = {self.finding} must lie between 0 and 1")
        if not self.rate > 0:
            raise ConfigError(f"rate = {self.rate} must be above 0")
        for name in ("updates", "minibatch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1")

    def learner(
        self, learner: Learner, steps: int, rate: float | None = None, baseline: str | None = None
    ) -> Learner:
        """The learner with batches that suit so many steps on one task, and another ``rate`` and ``baseline``
        if given."""
        if baseline is not None:
            learner = replace(learner, baseline=baseline)  # type: ignore[type-var]
        if hasattr(learner, "learning_rate"):
            slower = learner.learning_rate * (self.rate if rate is None else rate)
            learner = replace(learner, learning_rate=slower)  # type: ignore[type-var]
        learner = suited(learner, 1, steps, self.updates)
        while steps < self.updates * learner.steps_per_update and learner.num_steps > 1:
            learner = replace(learner, num_steps=learner.num_steps // 2)  # type: ignore[type-var]
        if hasattr(learner, "minibatches"):
            batches = max(1, min(learner.minibatches, learner.steps_per_update // self.minibatch))
            learner = replace(learner, minibatches=batches)  # type: ignore[type-var]
        return learner


class Entrant(NamedTuple):
    """A method: policies from which an unseen task may begin, and how it finds its own."""

    starts: tuple[Start, ...]
    finder: str | None = None
    """A name of `FINDERS`, where there are several."""
    assigned: Int[np.ndarray, "U"] | None = None
    """int [U]: the policy of every task, where it is told."""
    rate: float | None = None
    """As `Tuning.rate`, for its own policies."""
    baseline: str | None = None
    """What advantages are measured against when its policies are fine-tuned, of `learn.BASELINES`; that with
    which they were trained by default."""
    again: bool = False
    """Whether policies whose learner adapts in its own way do so again and again, each time with about
    `Learner.adaptation_steps`; else once, with all steps."""
    most_steps: int | None = None
    """Steps that its policies adapt on at most; the rest of a budget is left."""
    finding: float | None = None
    """As `Tuning.finding`, for its own policies; up to 1."""


class Adapted(NamedTuple):
    """What came of U unseen tasks with one method and budget."""

    judged: Float[np.ndarray, "U episodes"]
    """float [U, episodes]: returns, or success; NaN where adapting failed."""
    choice: Int[np.ndarray, "U"]
    """int [U]: the policy that each began from, or `finding.NONE`."""
    steps: Int[np.ndarray, "U"]
    """int [U]: environment steps that were taken, of the budget; all that were allowed where it failed."""
    finding_steps: Int[np.ndarray, "U"]
    """int [U]: those of them that finding the policy took."""
    failed: dict[str, str]
    """Names of the tasks whose adaptation diverged, with what was wrong."""
    found: Found | None = None
    """What the choice goes by, where there was one."""

    def mean(self) -> Interval:
        """Mean over the tasks that did not fail, with a 95% t-interval over them."""
        means = self.judged.mean(1)
        known = means[np.isfinite(means)]
        return over_draws(known.tolist()) if len(known) > 1 else Interval(*known.tolist())


class Job(NamedTuple):
    """One policy that adapts to one task."""

    start: Start
    task: int
    """Number among all tasks of the arena's family."""
    steps: int
    """That it may take; 0 leaves it as it is."""
    rate: float | None = None
    baseline: str | None = None
    again: bool = False
    """See `Entrant`, for all three."""

    @property
    def key(self) -> Hashable:
        """What equal jobs have in common."""
        return self.start.key, self.task, self.steps, self.rate, self.baseline, self.again


class Done(NamedTuple):
    """What came of a job."""

    agent: Agent
    steps: int
    """Environment steps that it took."""
    judged: Float[np.ndarray, "episodes"]


def adapt_all(
    arena: Arena,
    entrants: Mapping[str, Entrant],
    budgets: Sequence[int] = BUDGETS,
    tuning: Tuning | None = None,
) -> dict[str, dict[int, Adapted]]:
    """Adapt the policies of all methods to all unseen tasks, with every budget afresh, and judge them.

    A task that has several policies to choose from finds one with a part of its steps; with no step it knows
    nothing, and has theta*.

    Args:
        arena: the tasks.
        entrants: methods by name.
        budgets: environment steps of each task.
        tuning: how they are used.

    Returns:
        By method and budget.

    Raises:
        ConfigError: budgets or names that cannot work.
    """
    tuning = tuning or Tuning()
    check_adapting(arena, entrants, budgets, tuning)
    chosen = {
        (name, budget): choose(arena, entrant, budget, tuning)
        for name, entrant in entrants.items()
        for budget in budgets
    }
    jobs = {pair: jobs_of(arena, entrants[pair[0]], found, pair[1]) for pair, found in chosen.items()}
    done = adapt_and_judge(arena, {job.key: job for some in jobs.values() for job in some}.values(), tuning)
    adapted: dict[str, dict[int, Adapted]] = {name: {} for name in entrants}
    for (name, budget), found in chosen.items():
        adapted[name][budget] = _adapted(arena, jobs[name, budget], done, found, entrants[name])
    return adapted


def check_budgets(budgets: Sequence[int]) -> None:
    """Refuse budgets that cannot work for any method.

    Raises:
        ConfigError: naming the culprit.
    """
    for budget in budgets:
        if budget < 0:
            raise ConfigError(f"{budget} adaptation steps; a budget must be 0 or more")


def check_adapting(
    arena: Arena, entrants: Mapping[str, Entrant], budgets: Sequence[int], tuning: Tuning
) -> None:
    """Refuse methods and budgets that cannot work, before any work.

    Raises:
        ConfigError: naming the culprit.
    """
    tuning.check()
    check_budgets(budgets)
    for name, entrant in entrants.items():
        if entrant.finding is not None and not 0 < entrant.finding <= 1:
            raise ConfigError(f"finding = {entrant.finding} of {name!r} must be above 0 and at most 1")
        if entrant.most_steps is not None and entrant.most_steps < 0:
            raise ConfigError(f"most_steps = {entrant.most_steps} of {name!r} must be 0 or more")
        if len(entrant.starts) == 1 or entrant.assigned is not None:
            continue
        called = entrant.finder or ""
        finder = pick(FINDERS, called, f"the finder of {name!r}")
        for budget in budgets:
            finder.check(arena, entrant.starts, _for_finding(arena, entrant, budget, tuning), called)


def check_finders(
    finders: Sequence[str], k: int, budgets: Sequence[int], least: int, tuning: Tuning | None = None
) -> None:
    """Refuse budgets with which tasks can't find one of k policies, while these are yet to be trained.

    Args:
        finders: names of `FINDERS`.
        k: policies, the most that there may be.
        budgets: environment steps of each task.
        least: steps that are worth training on: an episode, or 0 if the policies adapt in their own way.
        tuning: how the steps are used.

    Raises:
        ConfigError: naming finder, steps and remedy.
    """
    share = (tuning or Tuning()).finding
    for name in finders:
        for budget in budgets:
            pick(FINDERS, name, "finder").check_steps(k, _finding_steps(budget, share, least), name)


def _finding_steps(budget: int, share: float, least: int) -> int:
    """A share of a budget; all of it, if less than the ``least`` that is worth training on would be left."""
    steps = int(share * budget)
    return budget if budget - steps < least else steps


def _for_finding(arena: Arena, entrant: Entrant, budget: int, tuning: Tuning) -> int:
    """Steps of a budget in which a task finds its policy."""
    share = tuning.finding if entrant.finding is None else entrant.finding
    return _finding_steps(budget, share, _worth_training_on(arena, entrant))


def _worth_training_on(arena: Arena, entrant: Entrant) -> int:
    """An episode; to adapt in its own way, a policy may have few steps."""
    adapts = arena.learners[entrant.starts[0].learner].adaptation_steps > 0
    return 0 if adapts else arena.family.horizon


def choose(arena: Arena, entrant: Entrant, budget: int, tuning: Tuning) -> Found:
    """The policy that every unseen task begins from."""
    count, k = len(arena.unseen), len(entrant.starts)
    nothing = np.full((count, k + 1), np.nan)
    if entrant.assigned is not None or k == 1:
        choice = np.zeros(count, int) if entrant.assigned is None else np.asarray(entrant.assigned)
        return Found(choice, np.zeros(count, int), nothing, nothing)
    steps = _for_finding(arena, entrant, budget, tuning)
    if not steps:
        return Found(np.full(count, NONE), np.zeros(count, int), nothing, nothing)
    assert entrant.finder is not None, "see `check_adapting`"
    return FINDERS[entrant.finder].find(arena, entrant.starts, steps, stream(arena.config, "finding"))


def chosen_start(arena: Arena, entrant: Entrant, found: Found, place: int) -> Start:
    """The policy that one of the unseen tasks has found, or theta*."""
    choice = int(found.choice[place])
    return arena.meta if choice == NONE else entrant.starts[choice]


def jobs_of(arena: Arena, entrant: Entrant, found: Found, budget: int) -> list[Job]:
    """A job for every unseen task, which trains on what finding its policy has left."""
    most = budget if entrant.most_steps is None else entrant.most_steps
    least = _worth_training_on(arena, entrant)
    left = [
        0 if spent and budget - spent < least else min(budget - spent, most) for spent in found.steps.tolist()
    ]
    return [
        Job(
            chosen_start(arena, entrant, found, place),
            task,
            left[place],
            entrant.rate,
            entrant.baseline,
            entrant.again,
        )
        for place, task in enumerate(arena.unseen.tolist())
    ]


def _adapted(
    arena: Arena, jobs: Sequence[Job], done: Mapping[Hashable, Done | str], found: Found, entrant: Entrant
) -> Adapted:
    """What came of a method's jobs with one budget."""
    results = [done[job.key] for job in jobs]
    taken = [x.steps if isinstance(x, Done) else job.steps for x, job in zip(results, jobs, strict=True)]
    whole, names = [x for x in results if isinstance(x, Done)], arena.names
    lost = np.full(len(whole[0].judged) if whole else arena.config.episodes, np.nan)
    return Adapted(
        judged=np.stack([x.judged if isinstance(x, Done) else lost for x in results]),
        choice=found.choice,
        steps=found.steps + np.array(taken),
        finding_steps=found.steps,
        failed={name: x for name, x in zip(names, results, strict=True) if isinstance(x, str)},
        found=found if len(entrant.starts) > 1 and entrant.assigned is None else None,
    )


def adapt_and_judge(arena: Arena, jobs: Iterable[Job], tuning: Tuning) -> dict[Hashable, Done | str]:
    """Do all jobs side by side and judge what they lead to on fresh episodes; of those that fail, why."""
    jobs = list(jobs)
    adapted = _bisected(jobs, lambda some: _adapt(arena, some, tuning))
    whole = [i for i, agent in enumerate(adapted) if not isinstance(agent, str)]
    judged = _bisected([(jobs[i], adapted[i][0]) for i in whole], lambda some: _judge(arena, some))
    found: dict[Hashable, Done | str] = {
        job.key: text for job, text in zip(jobs, adapted, strict=True) if isinstance(text, str)
    }
    for i, values in zip(whole, judged, strict=True):
        agent, taken = adapted[i]
        found[jobs[i].key] = values if isinstance(values, str) else Done(agent, taken, values)
    return found


def start_values(arena: Arena, starts: Sequence[Start], tuning: Tuning | None = None) -> np.ndarray:
    """float [U, k + 1]: what every policy earns on every unseen task without adapting, and theta* (last); NaN
    where that is not finite."""
    jobs = [[Job(start, task, 0) for start in (*starts, arena.meta)] for task in arena.unseen.tolist()]
    distinct = {job.key: job for some in jobs for job in some}.values()
    done = adapt_and_judge(arena, distinct, tuning or Tuning())
    found = [[done[job.key] for job in some] for some in jobs]
    return np.array([[x.judged.mean() if isinstance(x, Done) else np.nan for x in some] for some in found])


def _bisected(items: Sequence[Any], work: Callable[[Sequence[Any]], Sequence[Any]]) -> list[Any]:
    """The results of ``work`` on all items, which do not depend on each other; after an error of data on its
    halves, so that those to blame stand alone, with the error's text as their result."""
    if not items:
        return []
    try:
        return list(work(items))
    except DataError as error:
        if len(items) == 1:
            return [str(error)]
    half = len(items) // 2
    return _bisected(items[:half], work) + _bisected(items[half:], work)


def _adapt(arena: Arena, jobs: Sequence[Job], tuning: Tuning) -> list[tuple[Agent, int] | str]:
    """The agent of every job after its steps, and how many it took, or what was wrong with it; all rows train
    side by side.

    Raises:
        DataError: one that is trained is not finite.
    """
    waiting: dict[Hashable, list[tuple[list[int], tuple[Policy, Learner, Rows]]]] = {}
    found: list[tuple[Agent, int] | str] = [(job.start.agent, 0) for job in jobs]
    for (policy, name, steps, rate, baseline, again, *of), index in places(jobs, _kind).items():
        some = [jobs[i] for i in index]
        learner = arena.learners[name]
        if steps and learner.adaptation_steps:
            for i, one in zip(index, _by_its_learner(arena, some, steps, again), strict=True):
                found[i] = one
            continue
        tuned = tuning.learner(learner, steps, rate, baseline)
        whole = steps // tuned.steps_per_update * tuned.steps_per_update
        if whole:
            call = arena.policies[policy], tuned, _rows(arena, some, whole)
            waiting.setdefault(tuple(of), []).append((index, call))
    for calls in waiting.values():
        start = jobs[calls[0][0][0]].start  # all of a call are told the same of their tasks
        trained = learn.train_all(
            [call for _, call in calls], arena.family_of(start), rows_per_call=arena.config.rows_per_call
        )
        for (index, _), own in zip(calls, trained, strict=True):
            for place, i in enumerate(index):
                found[i] = learn.take(own.agents, place), int(own.steps[place])
    return found


def _kind(job: Job) -> tuple[str, str, int, float | None, str | None, bool, tuple[bool, ...], int | None]:
    """What jobs have in common that one call trains."""
    start = job.start
    of = tuple(start.member.tolist()), start.told
    return start.policy, start.learner, job.steps, job.rate, job.baseline, job.again, *of


def _rows(arena: Arena, jobs: Sequence[Job], steps: int) -> Rows:
    """A row of `learn.train` for every job; the keys are those of the tasks."""
    tasks = np.array([job.task for job in jobs])
    base = stream(arena.config, "training")
    keys = np.stack([np.asarray(jax.random.fold_in(base, task)) for task in tasks.tolist()])
    member = tasks[:, None] == np.arange(arena.family.n)
    return Rows(member, np.full(len(jobs), steps), keys, learn.stack([job.start.agent for job in jobs]))


def _by_its_learner(
    arena: Arena, jobs: Sequence[Job], steps: int, again: bool
) -> list[tuple[Agent, int] | str]:
    """The agent of every job after it has adapted as its learner says, on so many steps, and how many it
    took, or what was wrong with it; in so few environments that each has half an episode, if it can."""
    start = jobs[0].start
    policy, name, learner = start.policy, start.learner, arena.learners[start.learner]
    agents = learn.stack([job.start.agent for job in jobs])
    times = max(1, steps // learner.adaptation_steps) if again else 1
    envs, rounds = learner.adaptation_envs, learner.adaptation_rounds
    while envs > 1 and steps // times < envs * rounds * arena.family.horizon / 2:
        envs //= 2
        learner = replace(learner, adaptation_envs=envs)  # type: ignore[type-var]
    if (whole := steps // times // (envs * rounds) * (envs * rounds)) == 0:
        return [(job.start.agent, 0) for job in jobs]
    learner = replace(learner, adaptation_steps=whole)  # type: ignore[type-var]
    pairs = Pairs(
        np.arange(len(jobs)), np.array([job.task for job in jobs]),
        stream(arena.config, "training"), None,
        np.broadcast_to(arena.told(start), (len(jobs), arena.family.context.shape[1])),
    )  # fmt: skip
    failed = np.zeros(len(jobs), bool)
    for turn in range(times):
        own = pairs._replace(key=jax.random.fold_in(pairs.key, turn) if turn else pairs.key)
        agents, fails = learn.adapted(arena.policies[policy], learner, arena.family, agents, own)
        failed |= fails
    wrong = (
        f"adapting by {name} {DIVERGED}; lower the step size of the adaptation, or check the task's rewards"
    )
    taken = times * whole
    return [wrong if fails else (learn.take(agents, i), taken) for i, fails in enumerate(failed.tolist())]


def _judge(arena: Arena, some: Sequence[tuple[Job, Agent]]) -> list[Float[np.ndarray, "episodes"]]:
    """Fresh episodes of every agent on its task, the same for all."""
    found: list[Any] = [None] * len(some)
    for policy, index in places(some, lambda pair: pair[0].start.policy).items():
        agents = learn.stack([some[i][1] for i in index])
        tasks = np.array([some[i][0].task for i in index])
        told = np.stack([arena.told(some[i][0].start) for i in index])
        played = learn.evaluate(
            arena.policies[policy], arena.family, agents, np.arange(len(index)), tasks,
            arena.config.stream("evaluate"), episodes=arena.config.episodes, context=told,
        )  # fmt: skip
        for i, values in zip(index, played.judged_by(arena.family.metric), strict=True):
            found[i] = values
    return found
