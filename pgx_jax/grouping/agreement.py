"""How far two partitions agree, whatever their groups are called.

Mutual information reads high on small partitions (all alone against three planted groups of ten
tasks scores .64), so the chance-corrected Rand index belongs beside it. Where the truth is one
group, both are 0 for anything else, and neither says how far off it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pgx_jax.grouping.rounding import canonical


def nmi(a: ArrayLike, b: ArrayLike) -> float:
    """Normalised mutual information (arithmetic mean of the entropies) of labels [n], in [0, 1]."""
    from sklearn.metrics import normalized_mutual_info_score  # here: a second that few need to wait for

    return float(normalized_mutual_info_score(np.asarray(a), np.asarray(b)))


def ari(a: ArrayLike, b: ArrayLike) -> float:
    """Adjusted Rand index of labels [n]: 1 for equal partitions, 0 in the mean over random ones."""
    from sklearn.metrics import adjusted_rand_score  # here: a second that few need to wait for

    return float(adjusted_rand_score(np.asarray(a), np.asarray(b)))


def exact(a: ArrayLike, b: ArrayLike) -> bool:
    """Whether two labellings [n] are the same partition."""
    return bool(np.array_equal(canonical(a), canonical(b)))
