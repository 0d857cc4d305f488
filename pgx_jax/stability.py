"""How certain the affinity and the groups of a run are: what they would be had other trajectories been
collected with the same theta*."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pgx_jax import estimate, grouping
from pgx_jax.config import Config
from pgx_jax.held_out import HeldOut
from pgx_jax.types import Affinity, Grouping, Scores

LARGEST = 10_000_000
"""Numbers of all drawn affinities together, beyond which there are fewer draws (but at least `FEWEST`)."""
FEWEST = 20
PROPOSING = 1000
"""Over the number of tasks: how many draws propose partitions of their own."""


class Stability(NamedTuple):
    """What draws of the trajectories have come to. What another meta-training run would change is not among
    it: all draws have one theta*."""

    low: Float[np.ndarray, "n n"]
    """float [n, n]: lower bounds of the affinity, of basic 95% bootstrap intervals."""
    high: Float[np.ndarray, "n n"]
    """float [n, n]: upper bounds."""
    found: Int[np.ndarray, "n"]
    """int [n]: the groups that were found."""
    labels: Int[np.ndarray, "B n"]
    """int [B, n]: the groups of every draw, of as many as were found."""
    k: Int[np.ndarray, "B"] | None
    """int [B]: how many groups there would be if that were asked anew, too; None if it was given."""

    @property
    def together(self) -> Float[np.ndarray, "n n"]:
        """float [n, n]: how often every pair of tasks is in one group."""
        return grouping.co_membership(self.labels)

    @property
    def same_k(self) -> float | None:
        """How often there would be as many groups as were found; None if their number was given."""
        return None if self.k is None else float(np.mean(self.k == self.found.max() + 1))


def stability(
    affinity: Affinity,
    held_out: HeldOut,
    found: Grouping,
    config: Config,
    *,
    scores: Scores | None = None,
) -> Stability | None:
    """Draw the trajectories of every task again, ``config.grouping.resamples`` times, and group anew.

    The affinity of a draw comes from the quadratic model (`estimate.resampled_affinity`). Its groups are,
    of all partitions that the run and the draws themselves propose into as many groups as were found, those
    that gain most on its held-out trajectories: so the run's were chosen. Gains go with the weights of
    trajectories to first order, noise of the fit included (`estimate.crossfit`); nothing is fitted anew but
    groups that the run has not met. All draws have the k that was found, as one with another k says little
    about who belongs to whom; how often k would be another, the same draws tell beside.

    Args:
        affinity: that of all data.
        held_out: the data.
        found: the grouping, with its path.
        config: settings.
        scores: of the subsets that the affinity reads, if it reads any.

    Returns:
        None where nothing can be drawn: ``resamples`` = 0, one task, scores that are no surrogate's, or fewer
        than `estimate.LEAST_TRAJECTORIES` trajectories of a source in a part of the data.
    """
    e, data, n = config.estimate, held_out.data, len(found.labels)
    possible = n > 1 and estimate.can_resample(e, n) and estimate.can_draw(data)
    if not (possible and config.grouping.resamples):
        return None
    count = min(config.grouping.resamples, max(FEWEST, LARGEST // n**2))
    drawn = estimate.draw_trajectories(data, config.stream("stability"), count)
    whole = np.concatenate([np.ones((1, drawn.shape[1])), drawn])
    around, *matrices = estimate.resampled_affinity(data, whole, e, None if scores is None else scores.member)
    low, high = estimate.basic_interval(affinity.matrix, around, np.stack(matrices))
    several = 1 < found.k < n
    proposed = grouping.nearby(matrices[: max(1, PROPOSING // n)], found.labels) if several else ()
    return Stability(low, high, found.labels, *_grouped(held_out.afresh(), found, drawn, proposed, config))


def _grouped(
    held_out: HeldOut, found: Grouping, drawn: np.ndarray, proposed: np.ndarray | tuple[()], config: Config
) -> tuple[Int[np.ndarray, "B n"], Int[np.ndarray, "B"] | None]:
    """The groups of every draw at the k that was found, and the k that it would be."""
    data, path = held_out.data, found.path
    assert path is not None, "of a grouping that was chosen"
    candidates = np.asarray(path["candidates"])
    partitions = np.array(list({row.tobytes(): row for row in (*candidates, *proposed)}.values()))
    nested = grouping.Nested.of(path)
    one = np.zeros_like(found.labels)
    score = held_out(np.stack([*partitions, one, *(() if nested is None else nested.labels)]))
    weight = drawn / (np.bincount(data.task)[data.task] * len(one))
    values = weight @ np.stack([score(row).gain for row in partitions]).T
    k = partitions.max(1) + 1
    labels = grouping.best_of_each(values[:, k == found.k], partitions[k == found.k])
    rule = config.grouping
    if config.k is not None or rule.trace_penalty is not None:
        return labels, None
    own = slice(len(candidates))
    chosen = k[grouping.chosen_of_each(values[:, own], k[own], **rule.rule(None))]
    if nested is not None:
        pays = _pays(held_out, nested, weight, float(path["nested_needed"]), config)
        chosen = np.where(pays, chosen, k.min())
    return labels, chosen


def _pays(
    held_out: HeldOut, nested: grouping.Nested, weight: np.ndarray, needed: float, config: Config
) -> np.ndarray:
    """bool [B]: whether a split would pay in every draw, by splits that were chosen without what judges."""
    data, g, one = held_out.data, config.grouping, np.zeros_like(nested.labels[0])
    rows = []
    for way, labels in zip(estimate.OUTER, nested.labels, strict=True):
        ours, base = (data.gains(x, [way]).gain for x in (labels, one))
        rows.append(data.weight[way.judge] * np.stack([ours - base, base]))
    drawn = weight @ np.sum(rows, 0).T
    again = (nested._replace(gain=gain, together=together) for gain, together in drawn)
    return np.array([one.pays(needed, g.min_ratio, g.agreed_ratio) for one in again])
