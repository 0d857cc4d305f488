"""The method on one page: every function is one arrow from n tasks to one policy a group.

    TaskFamily --meta_train--> Agent --collect--> Transitions --features--> Features
      --score_subsets--> Scored --affinity--> Affinity
      --choose_groups--> Grouping --compare.groups.train_groups--> Pool
        --stability--> Stability (how certain affinity and groups are)

From Transitions to Grouping no environment is needed: with a policy and logged data of your own,
enter there (see `group_transitions`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax import estimate, grouping, learn
from pgx_jax.config import Config, EstimateConfig, check_method
from pgx_jax.errors import ConfigError, of_type, pick
from pgx_jax.estimate import LogProb
from pgx_jax.held_out import HeldOut, given_gain, nested_gain
from pgx_jax.learn import Checkpoint, Cloned, Hears, Learner, Policy, Progress, Trained
from pgx_jax.stability import Stability, stability
from pgx_jax.steady import one_blas_thread
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import (
    FIT,
    SCORE,
    Affinity,
    Agent,
    Array,
    Features,
    Grouping,
    Key,
    PyTree,
    Rows,
    Scores,
    Surrogates,
    Transitions,
)

DEMONSTRATED_NOISE = 0.1
"""Deviation of what is added to the experts' actions, where 1 is half of the box: it leads to states from
which they find back."""


def clone_experts(policy: Policy, family: TaskFamily, config: Config) -> Cloned:
    """Where theta* begins if there are demonstrations (`Config.demonstrations`): as ever, but fitted to what
    the family's experts do."""
    show_key, order_key = jax.random.split(config.stream("demonstrations"))
    shown = learn.demonstrate(
        policy, family, show_key, episodes=config.demonstrations, noise=DEMONSTRATED_NOISE
    )
    fresh = learn.init_agents(policy, family, np.asarray(config.stream("meta"))[None])
    agent = learn.clone(policy, family, learn.take(fresh, 0), shown, order_key)
    return Cloned(jax.tree.map(np.asarray, agent), np.array(len(shown.task)), shown.success)


def meta_train(
    policy: Policy,
    learner: Learner,
    family: TaskFamily,
    config: Config,
    steps: int,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    *,
    metrics: Hears | None = None,
    look: int = 1,
    agents: Agent | None = None,
) -> Trained:
    """Stage 1: one meta-policy theta* on all tasks (R = 1), with an entropy bonus of its own if its
    learner has one. It goes on from ``agents`` (leaves [1, ...]): for a later ``look`` those of the last."""
    if config.meta_entropy is not None and hasattr(learner, "entropy"):
        learner = dataclasses.replace(learner, entropy=config.meta_entropy)  # type: ignore[type-var]
    member, key = np.ones((1, family.n), bool), np.asarray(of_look(config.stream("meta"), look))[None]
    return learn.train(
        policy, learner, family, Rows(member, np.array([steps]), key, agents),
        rows_per_call=config.rows_per_call, progress=progress, checkpoint=checkpoint,
        metrics=metrics and (lambda each: metrics(each._replace(policy="meta-policy"))),
    )  # fmt: skip


def of_look(key: Key, look: int) -> Key:
    """The key of a stream for one of several looks; the first has the stream's own."""
    return key if look == 1 else jax.random.fold_in(key, look)


def look_times(config: Config) -> tuple[float, ...]:
    """Parts of all steps at which the tasks are looked at (`Config.looks`), up to three quarters."""
    given = config.k is not None or config.grouping.trace_penalty is not None
    once = given or estimate.SCORES[config.estimate.score].rolls_out
    count = 1 if once else min(config.looks, 64)  # so many doublings lead past the last one
    times = [config.meta_fraction * 2**i for i in range(count)]
    return tuple(time for i, time in enumerate(times) if not i or time <= LAST_LOOK)


def look_count(config: Config) -> int:
    """Number of these looks, which share a level."""
    return len(look_times(config))


LAST_LOOK = 0.75
"""Part of all steps after which no group is asked again: too few are left to gain by it."""


class Collecting(NamedTuple):
    """What is collected to estimate from."""

    sources: int
    """U: n, or one where it serves all tasks."""
    steps: int
    """Transitions N of a source."""
    num_envs: int
    """Environments of a source."""


def collects(config: Config, family: TaskFamily, told: bool) -> Collecting:
    """Sources, and each one's transitions and environments at a look: those of ``config.estimate``, or fewer
    transitions where all looks would take more than ``config.collect_fraction`` of all steps.

    Raises:
        ConfigError: that leaves too few.
    """
    e, n = config.estimate, family.n
    one = learn.relabels(family, told)
    sources, multiple = (1, min(e.source_multiple, n)) if one else (n, 1)
    looks = look_count(config)
    allowed = int(config.collect_fraction * config.steps_per_task * n) // (sources * multiple * looks)
    steps, envs = e.steps if allowed >= e.steps else allowed // e.num_envs * e.num_envs, e.num_envs
    if e.whole_episodes and steps < e.steps and allowed >= 3 * (length := e.steps // e.num_envs):
        envs = allowed // length
        steps = envs * length
    if steps < 4 * e.num_envs:
        raise ConfigError(
            f"collect_fraction = {config.collect_fraction} of {config.steps_per_task} steps a task leaves "
            f"{allowed} transitions to estimate from at each of {looks} look(s), fewer than four of each of "
            f"estimate.num_envs = {e.num_envs} environments; raise steps_per_task or collect_fraction, or "
            f"lower looks or estimate.num_envs"
        )
    if steps < e.steps:  # else it was checked with the settings
        dataclasses.replace(e, steps=steps, num_envs=envs).check_collecting(family.horizon)
    return Collecting(sources, multiple * steps, multiple * envs)


def collect(
    policy: Policy, learner: Learner, family: TaskFamily, config: Config, agent: Agent, look: int = 1
) -> Transitions:
    """Roll theta* out on every task, or once for all tasks that are weightings of a vector reward."""
    e = config.estimate
    _, steps, num_envs = collects(config, family, policy.conditioned_actor)
    transitions = learn.collect(
        policy, family, agent, of_look(config.stream("collect"), look),
        steps=steps, num_envs=num_envs, gamma=learner.gamma,
        gae_lambda=learner.gae_lambda if e.gae_lambda is None else e.gae_lambda,
        scale_rewards=learner.scale_rewards, critic=learner.critic, baseline=learner.baseline,
        limits_end=learner.limits_end, thin=e.thin,
    )  # fmt: skip
    estimate.check_transitions(transitions, family.task_names)
    return transitions


def subsets(config: Config, n: int) -> Bool[np.ndarray, "m n"]:
    """The subsets bool [m, n] that are estimated; none where the affinity does not read their scores.

    Raises:
        ConfigError: subsets that cannot be drawn, or that leave a pair uncovered.
    """
    e = config.estimate
    if not e.reads_scores(n):
        return np.zeros((0, n), bool)
    return estimate.make_subsets(config.stream("subsets"), n, e.subset_size, e.subsets, e.min_cover)


def features(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    config: Config,
    names: Sequence[str] | None = None,
) -> Features:
    """Projected gradients of log pi of every transition, without parameters that one task's context alone can
    reach (`estimate.private_parameters`)."""
    estimate.signed_weights(transitions, names)  # refuses tasks without a signal before the long part
    key, e = config.stream("project"), config.estimate
    names = names if len(transitions.split) == len(transitions.source) else None  # of sources, not of tasks
    private = estimate.private_parameters(log_prob, params, transitions)
    return estimate.gradient_features(
        log_prob, params, transitions, key, e.dim,
        precision=e.precision, names=names, private=private, projection=e.projection,
    )  # fmt: skip


def fit_subsets(
    feats: Features,
    transitions: Transitions,
    member: Bool[Array, "m n"],
    config: EstimateConfig,
    **kw: Any,
) -> Surrogates:
    """Stage 2: the surrogates of all subsets in one batched call."""
    return estimate.fit(
        feats, transitions, member, l2=config.l2, iterations=config.iterations, solver=config.solver, **kw
    )


RollOut = Callable[[PyTree, Bool[Array, "m n"]], tuple[Float[Array, "m n"], int]]
"""(actor parameters with a leading axis m, member [m, n]) -> returns [m, n], environment steps taken."""


class Scored(NamedTuple):
    """The estimates of all subsets."""

    surrogates: Surrogates
    """Those that were fitted on FIT."""
    scores: Scores
    steps: Int[np.ndarray, ""]
    """int []: environment steps that scoring took."""


def score_subsets(
    feats: Features,
    transitions: Transitions,
    member: Bool[Array, "m n"],
    config: EstimateConfig,
    *,
    names: Sequence[str] | None = None,
    log_prob: LogProb | None = None,
    params: PyTree = None,
    roll_out: RollOut | None = None,
) -> Scored:
    """Fit every subset and estimate every task's performance after adapting to it.

    Held-out scores are cross-fitted: fitted on FIT and scored on SCORE, and the other way round.
    ``log_prob``, ``params`` and ``roll_out`` are needed by scores that roll out alone.
    """
    score = pick(estimate.SCORES, config.score, "estimate.score")
    if not len(member):
        return _nothing_scored(feats, member)
    surrogates = fit_subsets(feats, transitions, member, config, names=names)
    if score.rolls_out:
        moved = lift(feats, transitions, surrogates, config, log_prob, params)
        thetas = estimate.displace(params, estimate.rescale(moved, params, config.distance))
        scores, steps = score.function(roll_out, thetas, member)
        return Scored(surrogates, scores, np.array(steps))
    turned = fit_subsets(feats, transitions, member, config, names=names, parts=(SCORE,))
    ways = ((surrogates, SCORE), (turned, FIT))
    scores = estimate.cross_fitted([score.function(feats, transitions, *way) for way in ways])
    return Scored(surrogates, scores, np.array(0))


def _nothing_scored(feats: Features, member: Bool[Array, "0 n"]) -> Scored:
    """What scoring returns of no subsets."""
    none = np.zeros((0, feats.values.shape[-1]), np.float32)
    solved = Surrogates(member, none, np.array(np.nan, np.float32), np.array(0, np.int32))
    return Scored(solved, Scores(member, np.zeros(member.shape, np.float32)), np.array(0))


def lift(
    feats: Features,
    transitions: Transitions,
    surrogates: Surrogates,
    config: EstimateConfig,
    log_prob: LogProb | None,
    params: PyTree,
) -> PyTree:
    """Displacements of theta* that the surrogates' solutions stand for, with a leading axis m."""
    chosen = pick(estimate.LIFTS, config.lift, "estimate.lift")
    policy = {"log_prob": log_prob, "transitions": transitions} if chosen.differentiates else {}
    return chosen.function(feats, surrogates, params, **policy)


def make_roll_out(policy: Policy, family: TaskFamily, agent: Agent, config: Config) -> RollOut:
    """Real roll-outs with common random numbers, in units of each task's reward scale."""

    def roll_out(thetas: PyTree, member: Array) -> tuple[np.ndarray, int]:
        row, task = np.nonzero(member)
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(member), *jnp.shape(x))), agent)
        played = learn.evaluate(
            policy, family, learn.with_policy_params(many, thetas), row, task,
            config.stream("rollouts"), episodes=config.estimate.rollout_episodes,
        )  # fmt: skip
        values = np.zeros(member.shape)
        values[row, task] = played.returns.mean(1) / np.sqrt(np.asarray(agent.reward.var) + 1e-8)[task]
        return values, int(played.steps.sum())

    return roll_out


def affinity(scores: Scores | None, held_out: HeldOut, config: EstimateConfig) -> Affinity:
    """How well every pair of tasks goes together.

    Args:
        scores: of the subsets; None or none will do for a kind that does not read them.
        held_out: the data, of which the other kinds take gradients and curvature, see `similarity`.
        config: settings.

    Raises:
        ConfigError: scores that are needed are missing, or as `estimate.affinity` and `estimate.similarity`.
        DataError: as these.
    """
    name = config.affinity_of(len(held_out.data.transitions.source))
    kind = pick(estimate.AFFINITIES, name, "estimate.affinity")
    if kind.similarity is not None:
        found = similarity(held_out, kind.similarity)
    elif scores is None or not len(scores.member):
        raise ConfigError(f"the affinity {name!r} needs the scores of subsets")
    else:
        found = estimate.affinity(scores, name)
    others = [held_out.similarity(name, (FIT, SCORE), held_out.data.names) for name in config.beside]
    return found._replace(beside=np.stack(others) if others else None)


def similarity(held_out: HeldOut, kind: str) -> Affinity:
    """A similarity of the tasks' gradients at theta*, from FIT and SCORE together and fold by fold; there are
    no subsets behind it."""
    known = kind, (FIT, SCORE), held_out.data.names
    return Affinity(held_out.similarity(*known), None, held_out.folds(*known))


def choose_groups(
    affinity: Affinity,
    held_out: HeldOut,
    config: Config,
    *,
    k: int | None = None,
    kind: str | None = "closed_form",
    looks: int = 1,
    names: Sequence[str] | None = None,
) -> Grouping:
    """From an affinity to a partition; k chosen on held-out data if not given.

    Whether to split at all is decided by the `nested_gain`, which must exceed zero at the one-sided level
    ``config.grouping.level`` / ``looks``, and what there is to be gained together (``min_ratio`` times, or
    ``agreed_ratio`` times where all parts of the data choose the same split). If it does, candidates that the
    affinity (and of at most 30 tasks those of its folds, and others beside it) propose compete on all data.

    Args:
        affinity: how well pairs go together.
        held_out: the data.
        config: settings.
        k: number of groups; no test then.
        kind: similarity that proposes within the nested choice; None leaves that out (and the test).
        looks: how many such questions share the level: the times that the same tasks may be asked, or
            all looks at groups.
        names: n task names for error messages.

    Returns:
        Grouping whose path holds the candidates (see `grouping.select`) and, with "nested_" before their
        names, the fields of `grouping.Nested` and "nested_needed", the least z that splits.
    """
    g = config.grouping
    others = proposing(affinity)
    candidates = grouping.propose(affinity.matrix, others, k=k, names=names, config=g)
    nested = None
    if kind is not None:
        nested = nested_gain(held_out, config, k=k, kind=kind, also=candidates.labels, names=names)
    needed = grouping.threshold(g.level / looks)
    chooses = k is None and g.trace_penalty is None
    split = nested is None or not chooses or nested.pays(needed, g.min_ratio, g.agreed_ratio)
    score = held_out(candidates.labels)
    found = grouping.select(candidates, score, names=names, split=split, **g.rule(k))
    evidence = {} if nested is None else nested.plain() | {"nested_needed": np.array(needed)}
    return found._replace(path=(found.path or {}) | evidence)


def proposing(affinity: Affinity) -> list[np.ndarray]:
    """The matrices of an affinity that propose beside its own: none of many tasks, of which one has enough to
    tell, and every candidate much to judge."""
    if len(affinity.matrix) > estimate.MANY_TASKS:
        return []
    several = (affinity.folds, affinity.beside)
    return [matrix for matrices in several if matrices is not None for matrix in matrices]


def similar_groups(held_out: HeldOut, config: Config, our_k: int) -> dict[str, Grouping]:
    """Groups by the similarity of the tasks' gradients at theta*, to compare ours with.

    From the data that ours has: FIT and SCORE together and fold by fold propose, ``held_out`` decides.

    Returns:
        {"dot": at its own k, "dot_our_k": at ``our_k``, and so on for all of ``config.similarities``}.
    """
    held_out = held_out.afresh()
    names, looks, found = held_out.data.names, look_count(config), {}
    for kind in config.similarities:
        similar = similarity(held_out, kind)
        found[kind] = choose_groups(similar, held_out, config, kind=kind, looks=looks, names=names)
        at_ours = choose_groups(similar, held_out, config, k=our_k, kind=None, names=names)
        found[f"{kind}_our_k"] = at_ours
    return found


def predicted_gain(found: Grouping) -> dict[str, Any]:
    """The nested gain of splitting, of a grouping's path, with a normal 95% interval; of one group, 0.

    In units of the surrogate's loss: standardised advantage per step. Without numbers where there is none.
    """
    return {"mean": 0.0, "ci95": (0.0, 0.0)} if found.k == 1 else gain_of_splitting(found)


def gain_of_splitting(found: Grouping) -> dict[str, Any]:
    """The same, whether the tasks were split or not."""
    nested = grouping.Nested.of(found.path)
    if nested is None:
        return {}
    return {"mean": nested.gain, "ci95": grouping.interval(nested.gain, nested.stderr)}


class Grouped(NamedTuple):
    """What `group_transitions` returns."""

    surrogates: Surrogates
    """Of the subsets; of none where the affinity needs none."""
    scores: Scores
    affinity: Affinity
    grouping: Grouping
    predicted: dict[str, Any]
    stability: Stability | None
    """How certain affinity and groups are; None where that can't be told (see `stability`)."""
    held_out: HeldOut
    """The data by which partitions were judged: what `similar_groups` and others take."""

    def __str__(self) -> str:
        """The groups, what splitting is said to gain, and how certain they are."""
        labels = np.asarray(self.grouping.labels)
        names = self.held_out.data.names or [str(task) for task in range(len(labels))]
        groups = [list(itertools.compress(names, row)) for row in self.grouping.member]
        told = f"k = {self.grouping.k}: " + ", ".join(f"{{{', '.join(group)}}}" for group in groups)
        if self.grouping.k > 1 and self.predicted:
            low, high = self.predicted["ci95"]
            told += f"; predicted gain {self.predicted['mean']:+.4f} [{low:.4f}, {high:.4f}]"
        if self.stability is not None:
            same = (self.stability.labels == labels).all(1).mean()
            told += f"; the same from {same:.0%} of {len(self.stability.labels)} draws of the trajectories"
        return told


@one_blas_thread
def group_transitions(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    config: Config | None = None,
    *,
    looks: int = 1,
    names: Sequence[str] | None = None,
) -> Grouped:
    """Group tasks from logged data alone: no environment, no training.

    A policy that trains on may be looked at again, and so may that of a group, with what it experienced on
    the group's tasks: say with ``looks`` how often you will have asked in all.

    Args:
        log_prob: (params, obs, action) of one transition -> log pi, a scalar.
        params: pytree of the policy's parameters.
        transitions: logged data with advantages (see `Transitions`).
        config: settings; roll-outs cannot score here.
        looks: looks that share the level of a test (see `choose_groups`).
        names: names of the n tasks.

    Raises:
        ConfigError: settings that cannot work with n tasks.
        DataError: transitions that are not complete (see `check_transitions`), or not finite, or parameters
            that are no numbers.
        SolverError: the relaxation was not solved.
    """
    config = config or Config()
    member = _checked_subsets(transitions, config, looks, names)
    estimate.check_params(params)
    estimate.check_log_prob(log_prob, params, transitions)
    feats = features(log_prob, params, transitions, config, names)
    return _grouped(feats, transitions, member, config, looks, names, log_prob=log_prob, params=params)


@one_blas_thread
def group_features(
    feats: Features,
    transitions: Transitions,
    config: Config | None = None,
    *,
    looks: int = 1,
    names: Sequence[str] | None = None,
    log_prob: LogProb | None = None,
    params: PyTree = None,
) -> Grouped:
    """The same from gradient features that are known.

    Args:
        feats: of the transitions, values [U, N, d].
        transitions: their advantages, trajectories and parts; observations and actions are not read.
        config, looks, names: see `group_transitions`.
        log_prob, params: the policy, which similarities need that step it, and nothing else.

    Raises:
        ConfigError, DataError, SolverError: see `group_transitions`.
    """
    config = config or Config()
    member = _checked_subsets(transitions, config, looks, names)
    estimate.check_features(feats, transitions)
    return _grouped(feats, transitions, member, config, looks, names, log_prob=log_prob, params=params)


def _checked_subsets(
    transitions: Transitions, config: Config, looks: int, names: Sequence[str] | None
) -> Bool[np.ndarray, "m n"]:
    """The subsets of tasks with logged data, once data and settings can be grouped."""
    estimate.check_transitions(transitions, names)
    check_method(config, len(transitions.source))
    if of_type(looks, int, "looks") < 1:
        raise ConfigError(f"looks = {looks} must be at least 1")
    estimate.require_held_out(config.estimate.score, "roll-outs need an environment")
    return subsets(config, len(transitions.source))


def _grouped(
    feats: Features,
    transitions: Transitions,
    member: Bool[np.ndarray, "m n"],
    config: Config,
    looks: int,
    names: Sequence[str] | None,
    **policy: Any,
) -> Grouped:
    e = config.estimate
    surrogates, scores, _ = score_subsets(feats, transitions, member, e, names=names)
    held_out = HeldOut(feats, transitions, e, config.stream("deal"), names, **policy)
    pairs = affinity(scores, held_out, e)
    found = choose_groups(pairs, held_out, config, k=config.k, looks=looks, names=names)
    certain = stability(pairs, held_out, found, config, scores=scores)
    return Grouped(surrogates, scores, pairs, found, predicted_gain(found), certain, held_out)


def _experienced(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    config: Config,
    names: Sequence[str] | None,
) -> HeldOut:
    """What a group's policy experienced, to judge partitions of its tasks by."""
    feats = features(log_prob, params, transitions, config, names)
    policy: dict[str, Any] = {"log_prob": log_prob, "params": params}
    return HeldOut(feats, transitions, config.estimate, config.stream("deal"), names, **policy)


def split_group(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    config: Config,
    *,
    looks: int,
    names: Sequence[str] | None = None,
) -> Grouping:
    """Whether a group's policy should be split, from what it experienced on its tasks: `group_transitions`
    for one of several looks, without subsets; the closed form of their affinity proposes.

    Args:
        log_prob, params, transitions, config, names: see `group_transitions`, of the group's tasks alone.
        looks: how often such questions are asked in all (see `choose_groups`).
    """
    held_out = _experienced(log_prob, params, transitions, config, names)
    proposes = similarity(held_out, "closed_form")
    g = config.grouping
    g = dataclasses.replace(g, min_ratio=g.group_ratio, agreed_ratio=g.group_ratio)
    config = dataclasses.replace(config, grouping=g)
    return choose_groups(proposes, held_out, config, looks=looks, names=names)


def join_groups(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    labels: Int[np.ndarray, "n"],
    config: Config,
    *,
    looks: int,
    names: Sequence[str] | None = None,
) -> tuple[grouping.Nested, bool]:
    """Whether two groups had better be one, from what one policy experienced on the tasks of both.

    They had where nothing tells that they gain by being apart (at the one-sided level
    ``config.grouping.level``), and the step of the other group's tasks helps a task, on average over all (at
    that level / ``looks``).

    Args:
        log_prob, params, transitions, config, names: see `group_transitions`, of the two groups' tasks.
        labels: int [n], 0 and 1.
        looks: how often such questions are asked in all.

    Returns:
        What being apart gains, and whether they had better be one.
    """
    held_out = _experienced(log_prob, params, transitions, config, names)
    found, level = given_gain(held_out, labels), config.grouping.level
    helps = found.kind(grouping.threshold(level / looks)) == "company"
    return found, helps and found.z <= grouping.threshold(level)
