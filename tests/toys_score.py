"""A toy score from outside the package: one function and one entry in its table."""

import numpy as np

from pgx_jax.estimate import SCORES, Score
from pgx_jax.types import SCORE, Scores


def leaning(features, transitions, surrogates, part=SCORE):
    """How far a subset's policy leans towards what went better than it does on average: the share of a
    task's held-out |advantage| that the signs of first-order log-ratios agree with."""
    values, delta = np.empty(surrogates.member.shape, np.float32), np.asarray(surrogates.delta)
    for task, source in enumerate(np.asarray(transitions.source)):
        held_out = np.asarray(transitions.split[source]) == part
        advantage = np.asarray(transitions.advantage[task])[held_out]
        advantage = advantage - advantage.mean()
        ratio = np.asarray(features.values[source])[held_out] @ delta.T
        values[:, task] = advantage @ np.sign(ratio) / np.abs(advantage).sum()
    return Scores(surrogates.member, values)


SCORES["toy"] = Score(leaning)
