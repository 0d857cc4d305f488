"""The keys of everything random in a run: one stream for every use, so that none disturbs another."""

from __future__ import annotations

import jax
import numpy as np

from pgx_jax.types import Array

STREAMS = (
    "meta", "collect", "project", "rollouts", "rows", "evaluate", "test_tasks", "trial", "random",
    "interval", "deal",
)  # fmt: skip
"""Independent random streams of a run, by what they are used for; new ones go to the end."""


def stream(seed: int, name: str) -> Array:
    """Raw PRNG key of one stream of a run."""
    return jax.random.fold_in(jax.random.PRNGKey(seed), STREAMS.index(name))


def row_keys(seed: int, member: np.ndarray) -> np.ndarray:
    """Keys uint32 [R, 2] of rows: they depend on the seed and the row's own tasks alone, so that
    equal groups of different methods train alike (their difference is paired)."""
    key = stream(seed, "rows")
    words = np.packbits(np.asarray(member, bool), axis=1, bitorder="little")

    def fold(row):
        out = key
        for word in row:
            out = jax.random.fold_in(out, int(word))
        return np.asarray(out)

    return np.stack([fold(row) for row in words])
