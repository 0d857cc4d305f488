"""Groupings to compare with: random ones, and those by the tasks' parameters."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from pgx_jax.errors import ConfigError
from pgx_jax.grouping.rounding import canonical
from pgx_jax.types import Key


def group_sizes(labels: ArrayLike) -> Int[np.ndarray, "k"]:
    """Sizes of the groups of a labelling [n], int [k]."""
    return np.bincount(canonical(labels))


def random_groupings(key: Key, sizes: ArrayLike, draws: int) -> Int[np.ndarray, "draws n"]:
    """Uniformly random partitions with given group sizes.

    Args:
        key: raw PRNG key.
        sizes: int [k], each at least 1; `group_sizes` gives those of a labelling.
        draws: number of partitions, drawn independently.

    Returns:
        Canonical labels, int [draws, n].

    Raises:
        ConfigError: a size or ``draws`` below 1.
    """
    sizes = np.asarray(sizes)
    if sizes.ndim != 1 or not len(sizes) or sizes.min() < 1 or draws < 1:
        raise ConfigError(f"random groupings need sizes and draws of at least 1, got {sizes} and {draws}")
    labels, rng = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(np.asarray(key))
    return np.stack([canonical(rng.permutation(labels)) for _ in range(draws)])


def committees(parameters: ArrayLike, k: int, key: Key) -> Int[np.ndarray, "n"]:
    """Groups of tasks with similar parameters, by k-means on standardised parameters (compare the committees
    of Ge et al., ICML 2025): what somebody would do who knows what differs between the tasks.

    Args:
        parameters: float [n, q]; those that do not vary count for nothing.
        k: number of groups, at most as many as there are different tasks.
        key: raw PRNG key of where k-means begins.

    Returns:
        Canonical labels, int [n].
    """
    from sklearn.cluster import KMeans  # here: a second that few need to wait for

    x = np.asarray(parameters, np.float64)
    x = x[:, x.std(0) > 1e-9 * (1 + np.abs(x).max(0))]
    if not x.shape[1]:
        return np.zeros(len(x), np.int64)
    x = x / x.std(0)
    seed = int(np.asarray(key)[-1])
    return canonical(KMeans(min(k, len(np.unique(x, axis=0))), n_init=10, random_state=seed).fit_predict(x))
