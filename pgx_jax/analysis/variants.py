"""theta* of a run, asked again with other settings: nothing is trained, and what these settings leave as it
is, is not computed anew."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from pgx_jax import estimate, grouping, learn, pipeline
from pgx_jax.analysis.subject import Subject
from pgx_jax.config import Config, check_method
from pgx_jax.estimate.config import COLLECTED, PROJECTED
from pgx_jax.estimate.crossfit import PARTS, Way
from pgx_jax.held_out import HeldOut
from pgx_jax.types import FIT, SCORE, SELECT, Affinity, Features, Grouping, Scores, Transitions


class Fitting(NamedTuple):
    """On which parts of the data groups are fitted, and on which they are judged."""

    scores: tuple[tuple[int, int], ...]
    """Of subsets: (part that is fitted, part that scores)."""
    ways: tuple[Way, ...]
    """Of the candidates."""


BOTH = ((FIT, SCORE), (SCORE, FIT))
FITTINGS = {
    "cross-fitted, no test": Fitting(BOTH, estimate.OUTER),
    "one way, no test": Fitting(BOTH[:1], (Way((FIT, SCORE), SELECT),)),
    "in sample, no test": Fitting(((FIT, FIT), (SCORE, SCORE)), tuple(Way(PARTS, part) for part in PARTS)),
}
"""Other ways than the method's, by name; none of them tests whether a split pays."""


@dataclass(frozen=True)
class Variant:
    """How theta* is asked."""

    config: Config
    fitting: Fitting | None = None
    """None: the method's own, with its test of a split."""
    draw: int = 0
    """Of the projection's random map; 0 is the run's own."""


class Answer(NamedTuple):
    """What theta* answers."""

    grouping: Grouping
    affinity: Affinity
    at_k: Callable[[int], Grouping]
    """The groups at another k."""
    steps: int
    """Environment steps that collecting and rolling out took anew."""

    @property
    def gain(self) -> dict[str, Any]:
        """What splitting is predicted to gain, whether the tasks were split or not: "mean", and "ci95" where
        a test tells it (`pipeline.gain_of_splitting`); of one group that may not be split, 0. Nothing where
        other candidates than the given k were not judged."""
        if told := pipeline.gain_of_splitting(self.grouping):
            return told
        path = self.grouping.path or {}
        together = path["score"][path["k"] == 1]
        return {"mean": float(path["score"][path["chosen"]] - together.max())} if len(together) else {}


class Theta:
    """theta* of a run, and what it experienced."""

    def __init__(self, run: Subject, looks: int | None = None):
        """Of a run whose features are known; ``looks`` share the level of the test of a split, those of its
        settings by default."""
        self.run, self.own = run, settled(run, run.config)
        self.looks = pipeline.look_count(run.config) if looks is None else looks

    def transitions(self, config: Config) -> Transitions:
        """What it experiences; the very same steps as the run's, if these settings collect as many."""
        run = self.run
        if not differ(COLLECTED, settled(run, config), self.own):
            return run.transitions
        return pipeline.collect(run.policy, run.learner, run.family, config, run.meta, run.look)

    def project(self, transitions: Transitions, config: Config, draw: int = 0) -> Features:
        """Features of transitions."""
        run, e, key = self.run, config.estimate, self.run.features.key
        names = run.family.task_names
        estimate.signed_weights(transitions, names)  # refuses tasks without a signal before the long part
        return estimate.gradient_features(
            run.policy.log_prob, learn.policy_params(run.meta), transitions,
            jax.random.fold_in(key, draw) if draw else key, e.dim, precision=e.precision,
            names=names if len(transitions.split) == len(names) else None,
            private=run.features.private, projection=e.projection,
        )  # fmt: skip

    def data(self, variant: Variant) -> tuple[Transitions, Features]:
        """Transitions and their features."""
        config, came_to = variant.config, settled(self.run, variant.config)
        transitions = self.transitions(config)
        seen = [name for name in COLLECTED if name != "gae_lambda"]  # which does not change what was done
        if variant.draw or differ((*seen, *PROJECTED), came_to, self.own):
            return transitions, self.project(transitions, config, variant.draw)
        return transitions, self.run.features

    def ask(self, variant: Variant, data: tuple[Transitions, Features] | None = None) -> Answer:
        """The groups of its tasks.

        Args:
            variant: how it is asked.
            data: what `data` returns, if that is known.

        Raises:
            ConfigError, DataError, SolverError: settings that cannot work, or with which nothing is found.
        """
        run, config, names = self.run, variant.config, self.run.family.task_names
        check_method(config, run.family.n)
        transitions, feats = self.data(variant) if data is None else data
        policy: dict[str, Any] = {"log_prob": run.policy.log_prob, "params": learn.policy_params(run.meta)}
        held_out = HeldOut(feats, transitions, config.estimate, config.stream("deal"), names, **policy)
        member = pipeline.subsets(config, run.family.n)
        collected = 0 if transitions is run.transitions else steps_of(transitions, config)
        if variant.fitting is not None:
            fitting = variant.fitting
            scores = scores_of(feats, transitions, member, config, fitting.scores) if len(member) else None
            affinity = pipeline.affinity(scores, held_out, config.estimate)
            at_k = functools.partial(competing, affinity, held_out, config, fitting.ways)
            return Answer(at_k(config.k), affinity, at_k, collected)
        scored = pipeline.score_subsets(
            feats, transitions, member, config.estimate, names=names,
            roll_out=pipeline.make_roll_out(run.policy, run.family, run.meta, config), **policy,
        )  # fmt: skip
        affinity = pipeline.affinity(scored.scores, held_out, config.estimate)
        choose = functools.partial(pipeline.choose_groups, affinity, held_out, config, names=names)
        found = choose(k=config.k, looks=self.looks)
        return Answer(found, affinity, lambda k: choose(k=k, kind=None), collected + int(scored.steps))


def settled(run: Subject, config: Config) -> Config:
    """Settings with what they come to, for a run, in the place of those that they leave open.

    Raises:
        ConfigError: they leave too few transitions.
    """
    e, made = config.estimate, pipeline.collects(config, run.family, run.policy.conditioned_actor)
    multiple = 1 if made.sources > 1 else min(e.source_multiple, run.family.n)
    found = replace(
        e, steps=made.steps // multiple, num_envs=made.num_envs // multiple,
        gae_lambda=run.learner.gae_lambda if e.gae_lambda is None else e.gae_lambda,
        affinity=e.affinity_of(run.family.n),
    )  # fmt: skip
    return replace(config, estimate=found)


def steps_of(transitions: Transitions, config: Config) -> int:
    """Environment steps that collecting took."""
    return int(np.size(transitions.trajectory)) * config.estimate.thin


def differ(names: Sequence[str], config: Config, other: Config) -> bool:
    """Whether one of these settings of the estimate does."""
    return any(getattr(config.estimate, name) != getattr(other.estimate, name) for name in names)


def scores_of(
    feats: Features,
    transitions: Transitions,
    member: Bool[np.ndarray, "m n"],
    config: Config,
    ways: Sequence[tuple[int, int]],
) -> Scores:
    """Scores of subsets that are fitted on one part of the data and scored on another (or the same).

    Raises:
        ConfigError: the score takes roll-outs, which nothing is held out for.
    """
    e = config.estimate
    estimate.require_held_out(e.score, "roll-outs are not cross-fitted")
    score = estimate.SCORES[e.score].function
    return estimate.cross_fitted([
        score(feats, transitions, pipeline.fit_subsets(feats, transitions, member, e, parts=(fitted,)), judge)
        for fitted, judge in ways
    ])  # fmt: skip


def competing(
    affinity: Affinity, held_out: HeldOut, config: Config, ways: Sequence[Way], k: int | None = None
) -> Grouping:
    """The candidate that gains most in these ways, by the method's rule but without its test of a split."""
    others = pipeline.proposing(affinity)
    candidates = grouping.propose(affinity.matrix, others, k=k, config=config.grouping)
    apart = all(way.judge not in way.fitted for way in ways)
    held_out.data.solve(grouping.distinct_groups(candidates.labels)[0], ways, noise=apart)
    gains = functools.partial(held_out.data.gains, ways=ways)
    return grouping.select(candidates, gains, **config.grouping.rule(k))
