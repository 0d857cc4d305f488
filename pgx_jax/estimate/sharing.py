"""Sources that several tasks share, when groups of different sizes are to be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from pgx_jax.types import Key, Transitions


def deal(
    key: Key, transitions: Transitions, multiple: int, parts: Sequence[int]
) -> Bool[np.ndarray, "n N"] | None:
    """Deal the trajectories of shared sources out to their tasks, as if each had collected its own.

    Tasks that share a source are all fitted on the same transitions, so that a group of several has no
    more data than a task alone, and nothing is lost by splitting it. The policies that will be trained
    do lose: a group's share of the environment steps is that of its tasks. So where groups of
    different sizes compete, each task reads one of ``multiple`` shares of its source (fewer, if it has
    fewer tasks or trajectories), which is what would have been collected for it alone. In rounds of
    ``multiple`` tasks, in random order, all trajectories are dealt out anew.

    Args:
        key: raw PRNG key of the order in which they are dealt.
        transitions: trajectory and split [U, N], source [n].
        multiple: see `EstimateConfig.source_multiple`.
        parts: the parts of the data that are dealt; the others are nobody's.

    Returns:
        bool [n, N], the transitions that each task reads; None if no source is shared.
    """
    source, trajectory = np.asarray(transitions.source), np.asarray(transitions.trajectory)
    if len(np.unique(source)) == len(source):
        return None
    keep = np.isin(np.asarray(transitions.split), list(parts))
    share, rng = keep[source], np.random.default_rng(np.asarray(key))
    for u in np.unique(source):
        tasks = rng.permutation(np.flatnonzero(source == u))
        length = np.bincount(trajectory[u][keep[u]], minlength=trajectory[u].max() + 1)
        hands = max(1, min(multiple, len(tasks), int(np.count_nonzero(length))))
        for start in range(0, len(tasks), hands):
            hand = _hands(length, hands, rng)[trajectory[u]]
            for place, task in enumerate(tasks[start : start + hands]):
                share[task] &= hand == place
    return share


def _hands(length: Int[np.ndarray, "J"], count: int, rng: np.random.Generator) -> Int[np.ndarray, "J"]:
    """int [J]: who gets each trajectory; in random order, each goes to whoever has the fewest steps."""
    hand, steps = np.zeros(len(length), int), np.zeros(count)
    for j in rng.permutation(np.flatnonzero(length)):
        hand[j] = np.argmin(steps)
        steps[hand[j]] += length[j]
    return hand
