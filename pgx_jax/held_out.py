"""What partitions gain on data that they were not fitted on, and what a split does on data that neither
proposed nor chose it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from pgx_jax import estimate, grouping
from pgx_jax.config import Config, EstimateConfig
from pgx_jax.errors import ConfigError, pick
from pgx_jax.estimate import LogProb
from pgx_jax.types import Features, Gains, Grouping, Key, PyTree, Transitions


class HeldOut:
    """Scores partitions on trajectories that their groups' surrogates have not seen.

    Surrogates of every two of the three parts are judged on the third, so that all trajectories count (see
    `estimate.crossfit`). Groups are remembered: what several partitions have in common is solved once.
    """

    def __init__(
        self,
        feats: Features,
        transitions: Transitions,
        config: EstimateConfig,
        key: Key,
        names: Sequence[str] | None = None,
        *,
        log_prob: LogProb | None = None,
        params: PyTree = None,
    ):
        """Arrange the data; nothing is fitted yet. ``key`` is that of what is drawn: how shared sources are
        dealt, and random partitions. ``log_prob`` and ``params`` are the policy's, for similarities that
        step it."""
        self.data, self.key = estimate.CrossFit(feats, transitions, config, key, names), key
        self.config, self.log_prob, self.params = config, log_prob, params
        self._gains: dict[str, np.ndarray] = {}

    def afresh(self) -> HeldOut:
        """The same without the groups that it has met."""
        other = copy.copy(self)
        other.data = copy.copy(self.data)
        other.data.forget()
        return other

    def __call__(self, partitions: Int[np.ndarray, "c n"]) -> Callable[[np.ndarray], Gains]:
        """Solve all groups of ``partitions`` [c, n] that are new, in one call a way; returns the score."""
        self.data.solve(grouping.distinct_groups(partitions)[0], estimate.OUTER)
        return functools.partial(self.data.gains, ways=estimate.OUTER)

    def without(self, judge: int, partitions: Int[np.ndarray, "c n"]) -> Callable[[np.ndarray], Gains]:
        """The same on all data but the part ``judge``, between the two others; the rows lack the noise of
        what is fitted."""
        ways = estimate.inner(judge)
        self.data.solve(grouping.distinct_groups(partitions)[0], ways, noise=False)
        return functools.partial(self.data.gains, ways=ways)

    def similarity(
        self, kind: str, parts: Sequence[int], names: Sequence[str] | None = None
    ) -> Float[np.ndarray, "n n"]:
        """A similarity of the tasks' gradients at theta*, or of steps along them, in parts of the data."""
        if pick(estimate.SIMILARITIES, kind, "similarity").steps:
            return self.folds(kind, parts, names).mean(0)
        stats = self.data.statistics(parts)
        return estimate.similarity(stats.b, stats.h.mean(0), kind, self.config.l2, names)

    def folds(
        self, kind: str, parts: Sequence[int], names: Sequence[str] | None = None
    ) -> Float[np.ndarray, "F n n"]:
        """The same part by part; where the policy steps, of every way to step on one and judge on another.

        Raises:
            ConfigError: one part for a similarity that steps, or no policy.
        """
        if not estimate.SIMILARITIES[kind].steps:
            return np.stack([self.similarity(kind, (part,), names) for part in parts])
        if len(parts) < 2:
            raise ConfigError(f"the similarity {kind!r} steps on one part of the data and judges on another")
        gains = self._stepped(kind, names)
        ways = [gains[step, judge] for step, judge in itertools.permutations(parts, 2)]
        return np.stack([(gain + gain.T) / 2 for gain in ways])

    def _stepped(self, kind: str, names: Sequence[str] | None) -> Float[np.ndarray, "3 3 n n"]:
        """What every task gains from a step along every task's gradient, see `estimate.lookahead`."""
        if self.log_prob is None:
            raise ConfigError(
                f"the similarity {kind!r} steps the policy: give HeldOut its log_prob and params"
            )
        if kind not in self._gains:
            self._gains[kind] = estimate.SIMILARITIES[kind].function(
                self.log_prob, self.params, self.data.transitions, distance=self.config.distance,
                share=self.data.share, private=self.data.features.private, names=names,
            )  # fmt: skip
        return self._gains[kind]


RANDOM_PARTITIONS = 5
"""Drawn for the null of a nested gain, for each part that judges."""
INNER_UP_TO = 5
"""Largest k for which splits are proposed one by one within the nested choice (which asks three times)."""


def nested_gain(
    held_out: HeldOut,
    config: Config,
    *,
    k: int | None = None,
    kind: str = "closed_form",
    also: Int[np.ndarray, "c n"] | None = None,
    names: Sequence[str] | None = None,
) -> grouping.Nested | None:
    """What a split gains over one group, told by data that neither proposed nor chose it.

    Each part of the data judges once: from the two others alone, a similarity of the tasks' gradients
    proposes splits, their cross-fitted gains choose one, it is fitted on both, and the third part judges it.

    Args:
        held_out: the data.
        config: settings.
        k: number of groups; at least 2 by default.
        kind: the similarity that proposes.
        also: int [c, n], further partitions that are to be solved in the same calls.
        names: n task names for error messages.

    Returns:
        The mean over the judges; None if the settings allow no split.
    """
    n = len(held_out.data.transitions.source)
    if n == 1 or k == 1 or config.grouping.max_groups == 1:
        return None
    chosen, rows = [], []
    for way in estimate.OUTER:
        labels = _split_without(way.judge, held_out, config, k, kind, names)
        key = np.append(np.asarray(held_out.key), way.judge)
        random = grouping.random_groupings(key, grouping.group_sizes(labels), RANDOM_PARTITIONS)
        rows.append(_judged(held_out, labels, way, random, also))
        chosen.append(labels)
    return _nested(held_out, chosen, rows)


def given_gain(held_out: HeldOut, labels: Int[np.ndarray, "n"]) -> grouping.Nested:
    """What a split that these data neither proposed nor chose gains over one group; without a null."""
    rows = [_judged(held_out, labels, way, labels[None]) for way in estimate.OUTER]
    return _nested(held_out, [labels] * len(rows), rows)._replace(null=np.nan)


def _judged(
    held_out: HeldOut,
    labels: Int[np.ndarray, "n"],
    way: estimate.Way,
    random: Int[np.ndarray, "r n"],
    also: Int[np.ndarray, "c n"] | None = None,
) -> Float[np.ndarray, "4 J"]:
    """Rows of one way, weighted by its judge: gain of a split and of ``random`` ones, of one group over
    theta*, and opposition."""
    data, one = held_out.data, np.zeros_like(labels)
    asked = np.stack([one, labels, *random, *(() if also is None else also)])
    data.solve(grouping.distinct_groups(asked)[0], [way], Grouping(labels).member)
    base, ours = (data.gains(x, [way]).gain for x in (one, labels))
    drawn = np.mean([data.gains(x, [way]).gain for x in random], 0)
    against = data.opposition(labels, way)
    return data.weight[way.judge] * np.stack([ours - base, drawn - base, base, against])


def _nested(held_out: HeldOut, chosen: list[np.ndarray], rows: list[np.ndarray]) -> grouping.Nested:
    """The mean over the ways, of their rows."""
    data = held_out.data
    known = data.task, len(data.transitions.source), data.trajectory
    gain, null, together, opposition = (grouping.paired_difference(row, *known) for row in np.sum(rows, 0))
    return grouping.Nested(np.stack(chosen), *gain, null[0], together[0], *opposition)


def _split_without(
    judge: int,
    held_out: HeldOut,
    config: Config,
    k: int | None,
    kind: str,
    names: Sequence[str] | None,
) -> Int[np.ndarray, "n"]:
    """The split that the data without one part propose and choose."""
    parts, g = estimate.other_parts(judge), config.grouping
    matrix = held_out.similarity(kind, parts, names)
    fewer = dataclasses.replace(g, penalties=g.penalties[1::3], trace_penalty=None)
    found = grouping.propose(matrix, k=k, up_to=INNER_UP_TO, names=names, config=fewer)
    splits = found.labels.max(1) > 0
    candidates = grouping.Candidates(*(values[splits] for values in found))
    score = held_out.without(judge, candidates.labels)
    return grouping.select(candidates, score, names=names, **fewer.rule(k)).labels
