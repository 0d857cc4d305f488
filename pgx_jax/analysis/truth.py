"""Estimated against true: subsets of the tasks are fully trained, side by side, and every estimate is asked.

f_i(S) is what task i gains by training on subset S: the return of a policy that goes on from theta* and its
critic on the tasks of S, less that of theta* on the same episodes, in units of the task's reward scale (of a
family that is judged by success, the difference of the rates). There are several horizons:

- ``1 update``, ``4 updates``: a few of the run's learner, as theta* is, with the learner's own batch;
- ``long``: the budget that a group of so many tasks has after the look at theta*, with the batch that suits
  it, exploring afresh: what the method itself would train.

All rows of one batch are one program (`learn.train_all`). Every subset is trained several times with other
keys, and judged on other episodes each time, so that it is known how far the truth is known
(`correlation.reliability`): an estimate can't do better than its root.

An estimate says f_i(S) without training S (`estimates.ESTIMATES`). Beside these stand a kernel surrogate,
fitted to a few of the trainings and asked of the rest, and a single training of every subset; both are judged
on the other repeats than the one that they know. The affinity of every estimate and of the truth goes
through the same relaxation and rounding, at one k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax import estimate, grouping, learn, pipeline
from pgx_jax.analysis.correlation import (
    CORRELATIONS,
    SCOPES,
    by_task,
    commoner_sign,
    correlation,
    groups_from,
    reliability,
    same_sign,
)
from pgx_jax.analysis.estimates import ESTIMATES, Collected
from pgx_jax.analysis.subject import Subject, checked_members, finite, groups_of
from pgx_jax.compare.budget import suited
from pgx_jax.compare.pool import places, row_keys
from pgx_jax.compare.results import Number, Record
from pgx_jax.compare.summaries import numbers
from pgx_jax.errors import ConfigError, pick
from pgx_jax.estimate import kernel_surrogate
from pgx_jax.learn import Learner, Progress
from pgx_jax.types import Agent, Key, Named, Rows, Scores

LONG = "long"
"""Name of the horizon that is no number of updates."""

DIGITS = 4
"""Significant digits of returns in the record."""

FEW_TASKS = 6
"""Up to so many tasks all their subsets are trained."""

AFFINITIES = ("aggregate", "per_task")
"""Affinities by which groups are compared: the paper's, and the method's default."""

RANDOM = 1000
"""Random groups of the true ones' sizes that are compared with these."""


@dataclass(frozen=True)
class TruthConfig:
    """Settings of the comparison with true training."""

    subsets: int = 60
    """Subsets of the usual size that are trained, drawn so that every pair meets about as often; all that
    there are, if they are fewer. Of up to 6 tasks all subsets of all sizes are."""
    updates: tuple[int, ...] = (1, 4)
    """Updates of the short horizons, one each."""
    repeats: int = 8
    """Trainings of every subset at each of these; the fewer the updates, the more are needed."""
    long_repeats: int = 2
    """Trainings of every subset at the long horizon."""
    steps_per_task: int | None = None
    """Environment steps of the long horizon, for each task of a subset; what a group has if not given."""
    episodes: int = 64
    """Episodes of every policy and task that tell what came of it."""
    estimates: tuple[Named[str, ESTIMATES], ...] = tuple(ESTIMATES)
    """Names of the estimates without training that are asked; f-hat always is."""
    more_transitions: int = 8192
    """Transitions of each task that theta* collects once more, for estimates that get better with them; 0
    leaves that out."""
    kernel: tuple[int, ...] = (10, 20, 40)
    """Trainings that kernel surrogates are fitted to; those that leave nothing to predict are left out."""
    draws: int = 5
    """Times that these are drawn."""
    k: int | None = None
    """Number of groups; by default that of the planted ones, or of those that were found, but at least 2."""
    seed: int = 0
    """Of training, episodes and draws, beside the run's own."""

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: naming the setting.
        """
        least_of = {"subsets": 3, "repeats": 2, "long_repeats": 2, "episodes": 1, "draws": 1}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least {least}")
        if not self.updates or min(self.updates) < 1:
            raise ConfigError(f"updates = {self.updates} must name one horizon or more, each of at least 1")
        if any(count < 2 for count in self.kernel):
            raise ConfigError(f"kernel = {self.kernel}: a kernel surrogate needs at least 2 trainings")
        for name in self.estimates:
            pick(ESTIMATES, name, "estimates")
        if self.more_transitions < 0:
            raise ConfigError(f"more_transitions = {self.more_transitions} must be 0 or more")
        for name, least in {"steps_per_task": 1, "k": 2}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least {least}")


def subsets_of(run: Subject, settings: TruthConfig) -> Bool[np.ndarray, "m n"]:
    """The subsets that are trained, bool [m, n] (see `TruthConfig.subsets`)."""
    n = run.family.n
    if n <= FEW_TASKS:
        return (np.arange(1, 2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    size = run.config.estimate.subset_size
    every = math.comb(n, size or min(3, n))
    key = jax.random.fold_in(run.config.stream("analysis"), settings.seed)
    return estimate.make_subsets(key, n, size or 3, min(settings.subsets, every))


class Horizon(NamedTuple):
    """How the subsets are trained at one horizon."""

    learners: Sequence[Learner]
    """Of each subset."""
    steps: Int[np.ndarray, "m"]
    """Environment steps of each subset."""
    start: Agent
    """What training goes on from."""
    repeats: int
    """Trainings of every subset."""


def horizons(run: Subject, member: Bool[np.ndarray, "m n"], settings: TruthConfig) -> dict[str, Horizon]:
    """The horizons of a run by name, from short to long.

    Raises:
        ConfigError: a budget of less than an update.
    """
    m, size = len(member), member.sum(1)
    a_task = settings.steps_per_task or run.budget.rest() // run.family.n
    learners = [suited(run.learner, int(s), int(s) * a_task, run.config.min_updates) for s in size]
    units = np.array([learner.steps_per_update for learner in learners])
    if (less := size * a_task < units).any():
        first = int(np.argmax(less))
        raise ConfigError(
            f"truth.steps_per_task = {a_task} gives a subset of {size[first]} task(s) less than an update of "
            f"{units[first]} steps; raise it"
        )
    key = np.asarray(_key(run, settings, 0))[None]
    fresh = learn.take(learn.init_agents(run.policy, run.family, key), 0)
    short = {
        _name(count): Horizon(
            [run.learner] * m, np.full(m, count * run.learner.steps_per_update), run.meta, settings.repeats
        )
        for count in sorted(set(settings.updates))
    }
    rest, start = size * a_task // units * units, learn.explore_afresh(run.policy, run.meta, fresh)
    return short | {LONG: Horizon(learners, rest, start, settings.long_repeats)}


def _name(updates: int) -> str:
    """The name of the horizon of so many updates."""
    return f"{updates} update{'s' * (updates > 1)}"


def _key(run: Subject, settings: TruthConfig, use: int) -> Key:
    """The key of one use of random numbers."""
    return jax.random.fold_in(jax.random.fold_in(run.config.stream("analysis"), settings.seed), use)


def train_subsets(
    run: Subject,
    member: Bool[np.ndarray, "m n"],
    settings: TruthConfig,
    progress: Progress | None = None,
) -> dict[str, list[Agent]]:
    """The policies of every horizon and repeat, leaves [m, ...]; all of them are trained in one go."""
    found, calls, where = horizons(run, member, settings), [], []
    base, most = _key(run, settings, 1), max(horizon.repeats for horizon in found.values())
    keys = np.stack([row_keys(jax.random.fold_in(base, repeat), member) for repeat in range(most)])
    for name, horizon in found.items():
        repeats = horizon.repeats
        for num_envs, rows in places(horizon.learners, lambda learner: learner.num_envs).items():
            del num_envs
            start = learn.stack([horizon.start] * (repeats * len(rows)))
            given = Rows(
                np.tile(member[rows], (repeats, 1)), np.tile(horizon.steps[rows], repeats),
                keys[:repeats, rows].reshape(-1, 2), start,
            )  # fmt: skip
            calls.append((run.policy, horizon.learners[rows[0]], given))
            where += [(name, repeat, row) for repeat in range(repeats) for row in rows]
    trained = learn.train_all(calls, run.family, rows_per_call=run.config.rows_per_call, progress=progress)
    agents = [learn.take(one.agents, i) for one in trained for i in range(len(one.steps))]
    known = dict(zip(where, agents, strict=True))
    return {
        name: [
            learn.stack([known[name, r, row] for row in range(len(member))]) for r in range(horizon.repeats)
        ]
        for name, horizon in found.items()
    }


def true_changes(run: Subject, agents: Sequence[Agent], settings: TruthConfig) -> Float[np.ndarray, "R m n"]:
    """f_i(S) of every repeat, of all tasks, in the subset or not: float [R, m, n]."""
    n, base = run.family.n, _key(run, settings, 2)
    by_success = run.family.metric == "success"
    scale = 1.0 if by_success else np.sqrt(np.asarray(run.meta.reward.var, np.float64) + 1e-8)

    def judged(some: Agent, count: int, repeat: int) -> Float[np.ndarray, "count n"]:
        row, task = np.divmod(np.arange(count * n), n)
        played = learn.evaluate(
            run.policy, run.family, some, row, task, jax.random.fold_in(base, repeat),
            learner=run.learner, episodes=settings.episodes,
        )  # fmt: skip
        return played.judged_by(run.family.metric).mean(1).reshape(count, n)

    def changes(repeat: int, some: Agent) -> Float[np.ndarray, "m n"]:
        after = judged(some, len(jax.tree.leaves(some)[0]), repeat)
        return (after - judged(learn.stack([run.meta]), 1, repeat)) / scale

    return np.stack([changes(repeat, some) for repeat, some in enumerate(agents)])


class Known(NamedTuple):
    """What an estimate says at one horizon, of one or several draws of what it needed."""

    values: Float[np.ndarray, "D m n"]
    steps: float
    repeats: Sequence[int | None]
    """Of each draw: the repeat of the truth that it knows, if any."""
    trained: Bool[np.ndarray, "D m"]
    """The subsets whose training it knows, which correlations leave out."""
    labels: Int[np.ndarray, "n"] | None = None
    """int [n]: groups, where they are not those that its values lead to by relaxation and rounding."""


def without_training(
    run: Subject, member: Bool[np.ndarray, "m n"], k: int, settings: TruthConfig
) -> dict[str, Known]:
    """What the estimates say that train nothing, of the run's own transitions and (with the number behind
    their names) of ``more_transitions`` of each task; and f-hat with the groups that the method chooses, of
    all that affinity and similarities propose, on held-out data ("chosen")."""
    none, asked, more = np.zeros((1, len(member)), bool), {}, settings.more_transitions
    ways = {name: ESTIMATES[name] for name in dict.fromkeys(("surrogate", *settings.estimates))}
    for count in (0, more) if more else (0,):
        known, suffix = (Collected.more(run, count), f"_{count}") if count else (Collected.own(run), "")
        for name, way in ways.items():
            if not count or way.by_transitions:
                told = way.function(run, known, member)
                asked[name + suffix] = Known(told.values[None], told.steps, [None], none)
        ours = asked["surrogate" + suffix]
        scores = Scores(member, ours.values[0])
        affinity = pipeline.affinity(scores, known.held_out, run.config.estimate)
        names = run.family.task_names
        chosen = pipeline.choose_groups(affinity, known.held_out, run.config, k=k, kind=None, names=names)
        asked["chosen" + suffix] = ours._replace(labels=chosen.labels)
    return asked


def with_training(
    run: Subject,
    member: Bool[np.ndarray, "m n"],
    truth: Float[np.ndarray, "R m n"],
    steps: Int[np.ndarray, "m"],
    settings: TruthConfig,
) -> Iterator[tuple[str, Known]]:
    """Kernel surrogates of a few trainings (which stay as they are, where they are known), and a training of
    every subset."""
    m, repeats = len(member), len(truth)
    rng = np.random.default_rng(np.asarray(_key(run, settings, 3)))
    for count in settings.kernel:
        if count > m - 3:
            continue
        used = np.zeros((settings.draws, m), bool)
        for row in used:
            row[rng.choice(m, count, replace=False)] = True
        own = [draw % repeats for draw in range(settings.draws)]
        values = np.stack([
            np.where(row[:, None], truth[r], kernel_surrogate(member[row], truth[r][row], member))
            for row, r in zip(used, own, strict=True)
        ])  # fmt: skip
        yield f"kernel_{count}", Known(values, float(count * steps.mean()), own, used)
    none = np.zeros((repeats, m), bool)
    yield "training", Known(truth, float(steps.sum()), list(range(repeats)), none)


class EstimateAgreement(Record, frozen=True, kw_only=True):
    """How well one estimate tells the truth of one horizon; means over what was drawn."""

    estimate: str
    """A name of `ESTIMATES` (behind it the transitions of each task, where they are not the run's own),
    "chosen", "kernel_T" or "training"."""
    horizon: str
    """As ``HorizonTruth.name`` has it."""
    steps: Number
    """Environment steps that it took beside those of theta*; of trainings without the episodes that tell what
    came of them."""
    correlations: dict[str, dict[str, Number]]
    """{"subsets", "pairs" or "within": {"pearson" or "spearman": …}}, over a subset's own tasks."""
    spearman_by_task: list[Number]
    """Of each task, over the subsets with it."""
    spearman_of_all: list[Number]
    """The same over all subsets, with the task or not; None where it says nothing of the latter."""
    same_sign: Number
    """Part of the pairs that it tells right of whether the task gains."""
    labels: dict[str, list[list[int]]]
    """By affinity: the groups of each draw."""
    nmi: dict[str, Number]
    """By affinity: mean NMI with the groups from true training."""
    ari: dict[str, Number]


class HorizonTruth(Record, frozen=True, kw_only=True):
    """What came of training every subset at one horizon."""

    name: str
    """"1 update" or another number of them, or "long"."""
    steps: int
    """Environment steps of all subsets, once."""
    distance: Number
    """Mean relative distance |theta - theta*| / |theta*| of the policies."""
    values: list[list[list[Number]]]
    """[R, m, n]: f_i(S) of every repeat, in units of the task's reward scale."""
    reliability: dict[str, dict[str, Number]]
    """Of the mean over repeats, as ``EstimateAgreement.correlations`` has it."""
    reliability_of_all: Number
    """Of Spearman's correlation within tasks over all subsets, with the task or not."""
    commoner_sign: Number
    """Part of the pairs with the commoner sign."""
    labels: dict[str, list[int]]
    """By affinity: the groups from true training."""
    random_nmi: dict[str, Number]
    """By affinity: mean NMI of random groups of the same sizes with these."""
    planted_nmi: dict[str, Number]
    """By affinity: NMI of the planted groups with these; empty if none are planted."""


class TruthResult(Record, frozen=True, kw_only=True):
    """What ``analysis/truth.json`` holds."""

    schema_version: int = 2
    family: str
    task_names: list[str]
    k: int
    episodes: int
    subsets: list[list[int]]
    """Tasks of each."""
    horizons: list[HorizonTruth]
    estimates: dict[str, list[list[Number]]]
    """[m, n] each, of those that train nothing; None outside the subset where nothing is said."""
    agreements: list[EstimateAgreement]

    def agreement(self, estimate: str, horizon: str) -> EstimateAgreement | None:
        """Of one estimate at one horizon, if it was asked."""
        known = (x for x in self.agreements if (x.estimate, x.horizon) == (estimate, horizon))
        return next(known, None)

    @property
    def member(self) -> Bool[np.ndarray, "m n"]:
        """bool [m, n]: the subsets."""
        found = np.zeros((len(self.subsets), len(self.task_names)), bool)
        for row, tasks in zip(found, self.subsets, strict=True):
            row[tasks] = True
        return found

    def truth(self, horizon: str) -> Float[np.ndarray, "R m n"]:
        """The changes of one horizon, float [R, m, n]."""
        (found,) = (x.values for x in self.horizons if x.name == horizon)
        return np.array(found, float)


def _agreement(
    name: str,
    horizon: str,
    known: Known,
    truth: Float[np.ndarray, "R m n"],
    member: Bool[np.ndarray, "m n"],
    k: int,
) -> EstimateAgreement:
    """The record of an estimate at a horizon."""
    draws, groups = [], []
    for values, repeat, trained in zip(known.values, known.repeats, known.trained, strict=True):
        target = (truth if repeat is None else np.delete(truth, repeat, 0)).mean(0)
        draws.append(_compared(values[~trained], target[~trained], member[~trained]))
        groups.append({
            kind: (
                groups_from(values, member, k, kind) if known.labels is None else known.labels,
                groups_from(target, member, k, kind),
            )
            for kind in AFFINITIES
        })  # fmt: skip

    def mean(function: Callable[[np.ndarray, np.ndarray], float]) -> dict[str, Number]:
        return {kind: float(np.mean([function(*each[kind]) for each in groups])) for kind in AFFINITIES}

    return EstimateAgreement(
        estimate=name,
        horizon=horizon,
        steps=known.steps,
        labels={kind: [each[kind][0].tolist() for each in groups] for kind in AFFINITIES},
        nmi=mean(grouping.nmi),
        ari=mean(grouping.ari),
        **jax.tree.map(lambda *values: finite(_mean_of_known(values)), *draws),
    )


def _compared(
    x: Float[np.ndarray, "m n"], y: Float[np.ndarray, "m n"], member: Bool[np.ndarray, "m n"]
) -> dict[str, Any]:
    """Fields of `EstimateAgreement` that compare values with the truth, of one draw."""
    n, everything = x.shape[1], np.ones(x.shape, bool)
    of_all = by_task("spearman", x, y, everything) if np.isfinite(x).all() else np.full(n, np.nan)
    return {
        "correlations": {
            scope: {kind: correlation(kind, scope, x, y, member) for kind in CORRELATIONS} for scope in SCOPES
        },
        "spearman_by_task": by_task("spearman", x, y, member).tolist(),
        "spearman_of_all": of_all.tolist(),
        "same_sign": same_sign(x, y, member),
    }


def _mean_of_known(values: Sequence[float]) -> float:
    """Mean over draws of what is known; NaN where nothing is."""
    known = [x for x in values if math.isfinite(x)]
    return float(np.mean(known)) if known else math.nan


def _horizon(
    run: Subject,
    name: str,
    horizon: Horizon,
    agents: Sequence[Agent],
    truth: Float[np.ndarray, "R m n"],
    member: Bool[np.ndarray, "m n"],
    k: int,
) -> HorizonTruth:
    """The record of the truth at a horizon."""
    mean, params = truth.mean(0), learn.policy_params(run.meta)
    labels = {kind: groups_from(mean, member, k, kind) for kind in AFFINITIES}
    moved = [
        jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), learn.policy_params(each), params)
        for each in agents
    ]
    everything, planted = np.ones(mean.shape, bool), run.family.true_groups
    return HorizonTruth(
        name=name,
        steps=int(horizon.steps.sum()),
        distance=float(np.mean([estimate.relative_distance(x, params) for x in moved])),
        values=numbers(truth, DIGITS),
        reliability={
            scope: {kind: finite(reliability(kind, scope, truth, member)) for kind in CORRELATIONS}
            for scope in SCOPES
        },
        reliability_of_all=finite(reliability("spearman", "within", truth, everything)),
        commoner_sign=commoner_sign(mean, member),
        labels={kind: found.tolist() for kind, found in labels.items()},
        random_nmi={kind: _random_nmi(run, found) for kind, found in labels.items()},
        planted_nmi={}
        if planted is None
        else {kind: grouping.nmi(planted, found) for kind, found in labels.items()},
    )


def _random_nmi(run: Subject, labels: Int[np.ndarray, "n"]) -> float:
    """Mean NMI of random groups of these sizes with these groups."""
    drawn = grouping.random_groupings(run.config.stream("random"), grouping.group_sizes(labels), RANDOM)
    distinct, counts = np.unique(drawn, axis=0, return_counts=True)
    return float(np.average([grouping.nmi(row, labels) for row in distinct], weights=counts))


def _k(run: Subject, settings: TruthConfig) -> int:
    """Number of groups (see `TruthConfig.k`)."""
    planted = run.family.true_groups
    known = len(groups_of(run)) if planted is None and settings.k is None else 0
    k = settings.k or (known if planted is None else len(np.unique(planted)))
    if settings.k is not None and k > run.family.n:
        raise ConfigError(f"truth.k = {k}, but there are {run.family.n} tasks")
    return min(max(k, 2), run.family.n)


def estimated_against_true(
    run: Subject,
    settings: TruthConfig | None = None,
    *,
    member: Bool[np.ndarray, "m n"] | None = None,
    progress: Progress | None = None,
) -> TruthResult:
    """Train subsets of a run's tasks, and compare with every estimate (see the head of this module).

    Args:
        run: its theta*, transitions and features are read, and its family is trained on.
        settings: defaults if not given.
        member: bool [m, n], the subsets; every pair of tasks must be in some. See `TruthConfig.subsets`.
        progress: hears of the training.

    Raises:
        ConfigError: settings that cannot work.
        DataError: training was not finite, or a task has no signal.
    """
    settings = settings or TruthConfig()
    settings.check()
    names, k = run.family.task_names, _k(run, settings)
    member = checked_members(subsets_of(run, settings) if member is None else member, names)
    estimate.check_coverage(member, names)
    ways = horizons(run, member, settings)
    known = without_training(run, member, k, settings)
    agents = train_subsets(run, member, settings, progress)
    found, agreements = [], []
    for name in ways:
        truth = true_changes(run, agents[name], settings)
        found.append(_horizon(run, name, ways[name], agents[name], truth, member, k))
        asked: Mapping[str, Known] = known | dict(
            with_training(run, member, truth, ways[name].steps, settings)
        )
        agreements += [_agreement(who, name, one, truth, member, k) for who, one in asked.items()]
    return TruthResult(
        family=run.family.name,
        task_names=list(names),
        k=k,
        episodes=settings.episodes,
        subsets=[np.flatnonzero(row).tolist() for row in member],
        horizons=found,
        estimates={name: numbers(one.values[0], DIGITS) for name, one in known.items()},
        agreements=agreements,
    )
