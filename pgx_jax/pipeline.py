"""The method on one page: every function is one arrow from n tasks to one policy a group.

    TaskFamily --meta_train--> Agent --collect--> Transitions --features--> Features
      --score_subsets--> Scored --estimate.affinity--> Affinity
      --choose_groups--> Grouping --compare.groups.train_groups--> Pool

From Transitions to Grouping no environment is needed: with a policy and logged data of your own,
enter there (see `group_transitions`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax import estimate, grouping, learn
from pgx_jax.config import Config, EstimateConfig, check_method
from pgx_jax.errors import ConfigError, pick
from pgx_jax.estimate import LogProb
from pgx_jax.learn import Checkpoint, Learner, Policy, Progress, Trained
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import (
    FIT,
    SCORE,
    SELECT,
    Affinity,
    Agent,
    Array,
    Features,
    Gains,
    Grouping,
    Key,
    PyTree,
    Rows,
    Scores,
    Surrogates,
    Transitions,
)


def meta_train(
    policy: Policy,
    learner: Learner,
    family: TaskFamily,
    config: Config,
    steps: int,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Stage 1: one meta-policy theta* on all tasks (R = 1), with an entropy bonus of its own if its
    learner has one."""
    if config.meta_entropy is not None and hasattr(learner, "entropy"):
        learner = dataclasses.replace(learner, entropy=config.meta_entropy)  # type: ignore[type-var]
    member, key = np.ones((1, family.n), bool), np.asarray(config.stream("meta"))[None]
    return learn.train(
        policy, learner, family, Rows(member, np.array([steps]), key),
        rows_per_call=config.rows_per_call, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip


class Collecting(NamedTuple):
    """What is collected to estimate from."""

    sources: int
    """U: n, or one where it serves all tasks."""
    steps: int
    """Transitions N of a source."""
    num_envs: int
    """Environments of a source."""


def collects(config: Config, family: TaskFamily, told: bool) -> Collecting:
    """Sources, and each one's transitions and environments: those of ``config.estimate``, or fewer
    transitions where they would take more than ``config.collect_fraction`` of all steps.

    Raises:
        ConfigError: that leaves too few.
    """
    e, n = config.estimate, family.n
    one = learn.relabels(family, told)
    sources, multiple = (1, min(e.source_multiple, n)) if one else (n, 1)
    allowed = int(config.collect_fraction * config.steps_per_task * n) // (sources * multiple)
    steps = e.steps if allowed >= e.steps else allowed // e.num_envs * e.num_envs
    if steps < 4 * e.num_envs:
        raise ConfigError(
            f"collect_fraction = {config.collect_fraction} of {config.steps_per_task} steps a task leaves "
            f"{allowed} transitions to estimate from, fewer than four of each of estimate.num_envs = "
            f"{e.num_envs} environments; raise steps_per_task or collect_fraction, or lower estimate.num_envs"
        )
    if steps < e.steps:  # else it was checked with the settings
        dataclasses.replace(e, steps=steps).check_collecting(family.horizon)
    return Collecting(sources, multiple * steps, multiple * e.num_envs)


def collect(
    policy: Policy, learner: Learner, family: TaskFamily, config: Config, agent: Agent
) -> Transitions:
    """Roll theta* out on every task, or once for all tasks that are weightings of a vector reward."""
    e = config.estimate
    _, steps, num_envs = collects(config, family, policy.conditioned_actor)
    transitions = learn.collect(
        policy, family, agent, config.stream("collect"),
        steps=steps, num_envs=num_envs, gamma=learner.gamma,
        gae_lambda=learner.gae_lambda if e.gae_lambda is None else e.gae_lambda,
        scale_rewards=learner.scale_rewards, critic=learner.critic,
    )  # fmt: skip
    estimate.check_transitions(transitions, family.task_names)
    return transitions


def subsets(config: Config, n: int) -> Bool[np.ndarray, "m n"]:
    """The subsets bool [m, n] that are estimated.

    Raises:
        ConfigError: subsets that cannot be drawn, or that leave a pair uncovered.
    """
    e = config.estimate
    return estimate.make_subsets(config.stream("subsets"), n, e.subset_size, e.subsets, e.min_cover)


def features(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    config: Config,
    names: Sequence[str] | None = None,
) -> Features:
    """Projected gradients of log pi of every transition."""
    estimate.signed_weights(transitions, names)  # refuses tasks without a signal before the long part
    key, e = config.stream("project"), config.estimate
    names = names if len(transitions.split) == len(transitions.source) else None  # of sources, not of tasks
    return estimate.gradient_features(
        log_prob, params, transitions, key, e.dim, precision=e.precision, names=names
    )


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


class HeldOut:
    """Scores partitions on trajectories that their groups' surrogates have not seen.

    Cross-fitted: surrogates of every two of the three parts are judged on the third, so that all
    trajectories count. (The affinity that proposed the partitions has seen two of the parts.) Groups are
    remembered: what several partitions have in common is solved once.
    """

    def __init__(
        self,
        feats: Features,
        transitions: Transitions,
        config: EstimateConfig,
        key: Key,
        names: Sequence[str] | None = None,
    ):
        """Arrange the data; nothing is fitted yet. ``key`` is that of how shared sources are dealt."""
        self.feats, self.transitions, self.config, self.names = feats, transitions, config, names
        a, self.ways = estimate.signed_weights(transitions, names), []
        for judge in (SELECT, FIT, SCORE):
            parts = tuple(part for part in (FIT, SCORE, SELECT) if part != judge)
            share = estimate.deal(key, transitions, config.source_multiple, parts)
            fitted = {
                "parts": parts,
                "share": share,
                "stats": estimate.task_statistics(feats, transitions, a, parts, share),
            }
            self.ways.append((fitted, estimate.TrajectoryGains(feats, transitions, judge)))
        self.solved: dict[tuple[bool, ...], list[np.ndarray]] = {}
        """Solutions [d] of the groups that have been met, one a way."""

    def afresh(self) -> HeldOut:
        """The same without the groups that it has met: last digits of a solution tell what was solved along
        with it, and what is worked out now must not depend on what was before."""
        other = copy.copy(self)
        other.solved = {}
        return other

    def __call__(self, partitions: Int[np.ndarray, "c n"]) -> Callable[[np.ndarray], Gains]:
        """Solve all groups of ``partitions`` [c, n] that are new, in one call a way; returns the score."""
        groups = map(tuple, grouping.distinct_groups(partitions)[0].tolist())
        new = [group for group in groups if group not in self.solved]
        if new:
            deltas = [np.asarray(self._fit(np.array(new), fitted).delta) for fitted, _ in self.ways]
            self.solved |= zip(new, map(list, zip(*deltas, strict=True)), strict=True)
        return self._score

    def _fit(self, member: Bool[np.ndarray, "m n"], fitted: Mapping[str, Any]) -> Surrogates:
        return fit_subsets(self.feats, self.transitions, member, self.config, names=self.names, **fitted)

    def _score(self, labels: Int[np.ndarray, "n"]) -> Gains:
        """The held-out gains of one of the partitions that have been solved."""
        same = np.equal.outer(labels, labels).tolist()
        solved = [self.solved[tuple(group)] for group in same]  # of every task
        judged = [
            gains(np.stack([of_task[way] for of_task in solved]), np.arange(len(solved)))
            for way, (_, gains) in enumerate(self.ways)
        ]
        return Gains(*map(np.concatenate, zip(*judged, strict=True)))


def choose_groups(
    affinity: Affinity,
    held_out: HeldOut,
    config: Config,
    *,
    k: int | None = None,
    names: Sequence[str] | None = None,
) -> Grouping:
    """From an affinity to a partition; k chosen on held-out data if not given.

    The affinities of the scores' folds propose partitions as well.
    """
    g, folds = config.grouping, () if affinity.folds is None else affinity.folds
    candidates = grouping.propose(affinity.matrix, folds, k=k, names=names, config=g)
    score = held_out(candidates.labels)
    return grouping.select(candidates, score, names=names, **g.rule(k))


def similar_groups(held_out: HeldOut, config: Config, our_k: int) -> dict[str, Grouping]:
    """Groups by the similarity of the tasks' gradients at theta*, to compare ours with.

    From the data that ours has: FIT and SCORE together and one by one propose, ``held_out`` decides.

    Returns:
        {"dot": at its own k, "dot_our_k": at ``our_k``, and so on for all of ``config.similarities``}.
    """
    held_out = held_out.afresh()
    feats, transitions, names, found = held_out.feats, held_out.transitions, held_out.names, {}
    a = estimate.signed_weights(transitions)
    parts = [estimate.task_statistics(feats, transitions, a, p) for p in ((FIT, SCORE), (FIT,), (SCORE,))]
    for kind in config.similarities:
        whole, *folds = (grouping.similarity(s.b, s.h, kind, config.estimate.l2, names) for s in parts)
        similar = Affinity(whole, np.zeros(whole.shape, int), np.stack(folds))  # no subsets are behind it
        for name, k in ((kind, None), (f"{kind}_our_k", our_k)):
            found[name] = choose_groups(similar, held_out, config, k=k, names=names)
    return found


def predicted_gain(labels: Int[np.ndarray, "n"], held_out: HeldOut) -> dict[str, Any]:
    """Held-out surrogate gain of a partition over one group, with a normal 95% interval.

    In units of the surrogate's loss: standardised advantage per step. The partition was chosen on the
    same trajectories, so that the interval of a k that was given (a plain arg max) is a little hopeful.
    """
    one = np.zeros_like(labels)
    score = held_out.afresh()(np.stack([labels, one]))
    ours, base = score(labels), score(one)
    mean, error = grouping.paired_difference(ours.gain - base.gain, ours.task, len(labels), ours.trajectory)
    return {"mean": mean, "ci95": (mean - 1.96 * error, mean + 1.96 * error)}


class Grouped(NamedTuple):
    """What `group_transitions` returns."""

    surrogates: Surrogates
    scores: Scores
    affinity: Affinity
    grouping: Grouping
    predicted: dict[str, Any]


def group_transitions(
    log_prob: LogProb,
    params: PyTree,
    transitions: Transitions,
    config: Config | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Grouped:
    """Group tasks from logged data alone: no environment, no training.

    Args:
        log_prob: (params, obs, action) of one transition -> log pi, a scalar.
        params: pytree of the policy's parameters.
        transitions: logged data with advantages (see `Transitions`).
        config: settings; roll-outs cannot score here.
        names: names of the n tasks.

    Raises:
        ConfigError: settings that cannot work with n tasks.
        DataError: transitions that are not complete (see `check_transitions`), or not finite.
        SolverError: the relaxation was not solved.
    """
    config = config or Config()
    e, n = config.estimate, len(transitions.source)
    check_method(config, n)
    estimate.require_held_out(e.score, "roll-outs need an environment")
    estimate.check_transitions(transitions, names)
    member = subsets(config, n)
    feats = features(log_prob, params, transitions, config, names)
    surrogates, scores, _ = score_subsets(feats, transitions, member, e, names=names)
    affinity = estimate.affinity(scores, e.affinity)
    held_out = HeldOut(feats, transitions, e, config.stream("deal"), names)
    found = choose_groups(affinity, held_out, config, k=config.k, names=names)
    return Grouped(surrogates, scores, affinity, found, predicted_gain(found.labels, held_out))
