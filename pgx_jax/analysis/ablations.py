"""What other settings of the method would have done to the groups of a run, one setting at a time.

Nothing is trained: theta* of the run's last look is asked again (`variants.Theta`) with every value of an
axis (`axes.AXES`), and what it answers is compared with what it answers to the run's own settings. What needs
a meta-policy of its own (how long it trains, its entropy bonus, the number of looks) is not among the axes.

For other projections and other dimensions the error of the features' inner products is told as well, of a
source's first transitions with each other, relative to those of the gradients (in the norm of all), and the
seconds of one warm call of the features.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pgx_jax import grouping
from pgx_jax.analysis.axes import AXES, Axis, axis_of_setting
from pgx_jax.analysis.inner_products import (
    gradient_products,
    inner_products,
    relative_difference,
    sample_size,
    timed,
)
from pgx_jax.analysis.subject import Subject, finite
from pgx_jax.analysis.variants import Answer, Theta, Variant
from pgx_jax.compare.results import Number, Record
from pgx_jax.errors import ConfigError, PgxError, pick
from pgx_jax.learn import Progress
from pgx_jax.types import Features, Named, Transitions


@dataclass(frozen=True)
class AblationsConfig:
    """Settings of the ablations."""

    axes: tuple[Named[str, AXES], ...] = ()
    """What is varied, one at a time; by default all but "lambda", "transitions" and "rollouts", which act in
    the environment again (the last in many episodes), and "cross_fitting", which can't be set. "dim" and
    "projection" compute all features anew for every value: of large policies these take longest."""
    also: tuple[str, ...] = ()
    """Further axes, each SETTING=VALUE,VALUE,…: estimate.dim=25,50 for instance. The setting is k, or one
    that begins with estimate. or grouping. Without axes, these alone are varied."""
    draws: int = 2
    """Random maps that are drawn for every projection; the first is drawn as that of the run."""
    sample: int = 500
    """Transitions of each source whose gradients' inner products are compared with those of the features;
    fewer where the policy is so large that memory does not allow it."""

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: naming the setting.
        """
        for name in self.axes:
            pick(AXES, name, "axes")
        for name, least in {"draws": 1, "sample": 2}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least {least}")


class AblatedValue(Record, frozen=True, kw_only=True):
    """What theta* answers to one value."""

    value: str
    draw: int = 0
    """Of the projection's random map."""
    own: bool = False
    """Whether these are the run's own settings."""
    refused: str = ""
    """Why nothing was found; all that follows is then empty."""
    labels: list[int] = []
    """Groups."""
    nmi: Number = None
    """With the groups of the run's own settings."""
    ari: Number = None
    planted_nmi: Number = None
    """With the planted groups; None if none are planted."""
    planted_ari: Number = None
    auc: Number = None
    """How well the affinity tells pairs that are planted together from others: area under the curve."""
    gain: Number = None
    """What splitting is predicted to gain, in standardised advantage a step; where k is given, into k."""
    gain_ci95: tuple[Number, Number] | None = None
    """None without the test of a split."""
    error: Number = None
    """Of the features' inner products, as a fraction; None where the features are those of the run anyway."""
    env_steps: int = 0
    """Environment steps that asking took."""

    @property
    def k(self) -> int:
        """Number of groups."""
        return max(self.labels, default=-1) + 1


class AblatedAxis(Record, frozen=True, kw_only=True):
    """All values of an axis, in order; those that are drawn several times once for every draw."""

    name: str
    setting: str
    """What a user would set."""
    values: list[AblatedValue]

    @property
    def own(self) -> AblatedValue:
        """The run's own."""
        return next(x for x in self.values if x.own)


class AblationsResult(Record, frozen=True, kw_only=True):
    """What ``analysis/ablations.json`` holds."""

    schema_version: int = 1
    family: str
    task_names: list[str]
    labels: list[int]
    """The groups that the last look at theta* finds with the run's own settings (later looks at the groups
    may have split them, or joined some)."""
    given: int | None
    """k, if it is given."""
    final: list[int]
    """The groups that the run has in the end."""
    planted: list[int] | None
    """The planted groups, if there are any."""
    draws: int
    sample: int
    """Transitions of each source whose inner products are compared."""
    axes: list[AblatedAxis]
    timings: dict[str, dict[str, Number]]
    """Seconds of the features by axis and value: one warm call, in processor time where that computes."""

    @property
    def k(self) -> int:
        """Number of groups with the run's own settings."""
        return max(self.labels) + 1


def axes_of(theta: Theta, settings: AblationsConfig) -> dict[str, Axis]:
    """The axes that are asked for, by name.

    Raises:
        ConfigError: one that cannot be varied, or that tells nothing of this run.
    """
    run, n = theta.run, theta.run.family.n
    if n < 2:
        raise ConfigError(f"ablations: {run.family.name!r} has {n} task, and groups need at least 2")
    also: dict[str, Axis] = {}
    for name, axis in (axis_of_setting(text, theta.own, n) for text in settings.also):
        if name in also:
            raise ConfigError(f"ablations.also varies {name!r} twice; give its values together, with commas")
        also[name] = axis
    for name in settings.axes:
        if reason := AXES[name].lacks(run):
            raise ConfigError(f"ablations.axes: {name!r} would tell nothing: {reason}; leave it out")
    usual = [name for name, axis in AXES.items() if axis.usual and not axis.lacks(run)]
    names = settings.axes or (() if also else usual)
    return {name: AXES[name] for name in names} | also


class _Compared(NamedTuple):
    """What answers are compared with."""

    labels: Int[np.ndarray, "n"]
    """Of the run's own settings."""
    planted: Int[np.ndarray, "n"] | None


def pair_auc(matrix: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"]) -> float | None:
    """How well an affinity tells pairs of a group from others: area under the curve; None where all pairs are
    of one kind."""
    from sklearn.metrics import roc_auc_score  # a second that few need to wait for

    pairs = np.triu_indices(len(labels), 1)
    together = np.equal.outer(labels, labels)[pairs]
    if together.all() or not together.any():
        return None
    return float(roc_auc_score(together, np.asarray(matrix)[pairs]))


def _found(answer: Answer, known: _Compared) -> dict[str, Any]:
    """Fields of `AblatedValue` that tell of an answer."""
    labels, told, planted = np.asarray(answer.grouping.labels), answer.gain, known.planted
    found = {
        "labels": labels.tolist(),
        "nmi": grouping.nmi(known.labels, labels),
        "ari": grouping.ari(known.labels, labels),
        "gain": finite(told["mean"]) if told else None,
        "gain_ci95": told.get("ci95"),
        "env_steps": answer.steps,
    }
    if planted is None:
        return found
    return found | {
        "planted_nmi": grouping.nmi(planted, labels),
        "planted_ari": grouping.ari(planted, labels),
        "auc": pair_auc(answer.affinity.matrix, planted),
    }


class _Asking:
    """Asks theta* with all values of axes; with the run's own settings once."""

    def __init__(self, theta: Theta, settings: AblationsConfig):
        self.theta, self.draws = theta, settings.draws
        self.count = sample_size(theta.run, settings.sample)
        self.reference = theta.ask(Variant(theta.own))
        planted = theta.run.family.true_groups
        known = None if planted is None else grouping.canonical(planted)
        self.known = _Compared(np.asarray(self.reference.grouping.labels), known)

    @functools.cached_property
    def exact(self) -> Float[np.ndarray, "U S S"]:
        """Inner products of the gradients."""
        return gradient_products(self.theta.run, self.count)

    def axis(self, name: str, axis: Axis) -> tuple[AblatedAxis, dict[str, Number]]:
        """All values of an axis, and the seconds of their features."""
        values: list[AblatedValue] = []
        spent: dict[str, Number] = {}
        draws, n = self.draws if axis.draws else 1, self.theta.run.family.n
        for value, variant in axis.variants(self.theta.own, n).items():
            for draw in range(draws):
                found, took = self.value(axis, value, replace(variant, draw=draw), last=draw == draws - 1)
                values.append(found)
                spent |= {} if took is None else {value: took}
        return AblatedAxis(name=name, setting=axis.setting, values=values), spent

    def value(
        self, axis: Axis, name: str, variant: Variant, *, last: bool
    ) -> tuple[AblatedValue, float | None]:
        """A value of an axis, and (of its ``last`` draw) the seconds of its features."""
        own = variant == Variant(self.theta.own)
        known: dict[str, Any] = {"value": name, "draw": variant.draw, "own": own}
        try:
            data, spent = self._projected(variant) if axis.projects and last else (None, None)
            data = self.theta.data(variant) if data is None else data
            known |= _found(self.reference if own else self.theta.ask(variant, data), self.known)
            if axis.projects:
                products = inner_products(data[1].values, self.count)
                known["error"] = finite(relative_difference(products, self.exact))
        except PgxError as error:
            return AblatedValue(**{**known, "refused": str(error)}), None
        return AblatedValue(**known), spent

    def _projected(self, variant: Variant) -> tuple[tuple[Transitions, Features], float]:
        """Transitions and features, and the seconds of these, once they are compiled: by an earlier draw, if
        that was not the run's own."""
        transitions = self.theta.transitions(variant.config)
        known = transitions, variant.config, variant.draw
        if not variant.draw or replace(variant, draw=0) == Variant(self.theta.own):
            self.theta.project(*known)
        feats, spent = timed(lambda: self.theta.project(*known))
        return (transitions, feats), spent


def other_settings(
    run: Subject, settings: AblationsConfig | None = None, *, progress: Progress | None = None
) -> AblationsResult:
    """What other settings would have done to the groups of a run (see the head of this module).

    Values that cannot work with the run, or with which nothing is found, are recorded with the reason.

    Args:
        run: its theta*, transitions and features are read; axes that act in the environment read its family.
        settings: defaults if not given.
        progress: hears nothing, since nothing is trained.

    Raises:
        ConfigError: settings that cannot work, before any work.
        DataError, SolverError: nothing is found with the run's own settings either.
    """
    del progress
    settings = settings or AblationsConfig()
    settings.check()
    theta = Theta(run)
    axes = axes_of(theta, settings)
    asking = _Asking(theta, settings)
    found = {name: asking.axis(name, axis) for name, axis in axes.items()}
    labels, planted = asking.known
    return AblationsResult(
        family=run.family.name,
        task_names=list(run.family.task_names),
        labels=labels.tolist(),
        given=run.config.k,
        final=grouping.canonical(run.labels).tolist(),
        planted=None if planted is None else planted.tolist(),
        draws=settings.draws,
        sample=asking.count,
        axes=[axis for axis, _ in found.values()],
        timings={name: spent for name, (_, spent) in found.items() if spent},
    )
