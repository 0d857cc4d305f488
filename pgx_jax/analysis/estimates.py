"""Every way to tell f_i(S) without training subset S on its own, with its environment steps.

An estimate is a function of a run, what theta* has collected, and the subsets; it returns values [m, n] and
the steps that it took beside those of theta*. `ESTIMATES` has them by name. Two more need true trainings, and
are found in `truth`: the kernel surrogate, and training every subset once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from pgx_jax import estimate, learn, pipeline
from pgx_jax.analysis.subject import Subject, unlimited
from pgx_jax.held_out import HeldOut
from pgx_jax.types import FIT, SCORE, Features, Transitions

Member = Bool[np.ndarray, "m n"]


class Collected(NamedTuple):
    """What theta* has experienced."""

    transitions: Transitions
    features: Features
    held_out: HeldOut
    steps: int
    """Environment steps that it took, of all tasks together."""

    @classmethod
    def own(cls, run: Subject) -> Collected:
        """What the run has collected at its look."""
        return cls(run.transitions, run.features, run.held_out, run.budget.collect_once)

    @classmethod
    def more(cls, run: Subject, steps: int) -> Collected:
        """Another collection, of about so many transitions of each source, at whatever part of the total."""
        config, names = run.config, run.family.task_names
        envs = config.estimate.num_envs
        e = replace(config.estimate, steps=max(4, steps // envs) * envs)
        free = unlimited(replace(config, estimate=e), run.family.n)
        known = pipeline.collect(run.policy, run.learner, run.family, free, run.meta)
        params, log_prob = learn.policy_params(run.meta), run.policy.log_prob
        feats = pipeline.features(log_prob, params, known, config, names)
        judge = HeldOut(
            feats, known, config.estimate, config.stream("deal"), names, log_prob=log_prob, params=params
        )
        spent = pipeline.collects(free, run.family, run.policy.conditioned_actor)
        return cls(known, feats, judge, spent.sources * spent.steps)


class Told(NamedTuple):
    """What an estimate says."""

    values: Float[np.ndarray, "m n"]
    """NaN where it says nothing of tasks outside their subset."""
    steps: int
    """Environment steps that it took beside those of theta*."""


def _scored(run: Subject, known: Collected, member: Member, *, score: str) -> Told:
    """A held-out score of the surrogates (`estimate.SCORES`), as the method has it."""
    config, names = replace(run.config.estimate, score=score), run.family.task_names
    found = pipeline.score_subsets(known.features, known.transitions, member, config, names=names)
    return Told(np.asarray(found.scores.values, np.float64), known.steps)


def _offline(run: Subject, known: Collected, member: Member) -> Told:
    """Importance weighting of policies that are fitted offline."""
    params = learn.policy_params(run.meta)
    found = estimate.offline_scores(run.policy.log_prob, params, known.transitions, member)
    return Told(np.asarray(found.values, np.float64), known.steps)


def _similar(run: Subject, known: Collected, member: Member, *, unit: bool) -> Told:
    """Mean inner product of a task's gradient with those of the subset's tasks, itself included, which are
    taken from another part of the data (else noise would make a task its own best company)."""
    a = estimate.signed_weights(known.transitions, run.family.task_names)
    gradients = [
        np.asarray(estimate.task_statistics(known.features, known.transitions, a, (part,)).b, np.float64)
        for part in (FIT, SCORE)
    ]
    if unit:
        gradients = [b / np.linalg.norm(b, axis=1, keepdims=True) for b in gradients]
    share = member / member.sum(1, keepdims=True)
    ways = [share @ fitted @ judge.T for fitted, judge in (gradients, gradients[::-1])]
    return Told(np.mean(ways, axis=0), known.steps)


def _rolled_out(run: Subject, known: Collected, member: Member, *, episodes: int) -> Told:
    """Return of theta* + Delta less that of theta* on the same episodes, in units of a task's reward scale;
    of a subset's own tasks."""
    e = replace(run.config.estimate, score="rollouts", rollout_episodes=episodes)
    params, names = learn.policy_params(run.meta), run.family.task_names
    roll_out = pipeline.make_roll_out(run.policy, run.family, run.meta, replace(run.config, estimate=e))
    found = pipeline.score_subsets(
        known.features, known.transitions, member, e, names=names,
        log_prob=run.policy.log_prob, params=params, roll_out=roll_out,
    )  # fmt: skip
    one = jax.tree.map(lambda x: np.asarray(x)[None], params)
    still, steps = roll_out(one, np.ones((1, run.family.n), bool))
    change = np.asarray(found.scores.values, np.float64) - np.asarray(still)
    return Told(np.where(member, change, np.nan), steps + int(found.steps) + known.steps)


@dataclass(frozen=True)
class Estimate:
    """A way to tell f_i(S) without training."""

    function: Callable[[Subject, Collected, Member], Told]
    by_transitions: bool = False
    """Whether it is quick and gets better with transitions alone, so that it is asked of more, too."""


ESTIMATES: dict[str, Estimate] = {
    "surrogate": Estimate(partial(_scored, score="surrogate"), by_transitions=True),
    "dot": Estimate(partial(_similar, unit=False), by_transitions=True),
    "cosine": Estimate(partial(_similar, unit=True), by_transitions=True),
    "importance": Estimate(partial(_scored, score="importance"), by_transitions=True),
    "offline": Estimate(_offline),
    "rollouts_8": Estimate(partial(_rolled_out, episodes=8)),
    "rollouts_64": Estimate(partial(_rolled_out, episodes=64)),
}
"""Estimates by name; "surrogate" is the method's f-hat."""
