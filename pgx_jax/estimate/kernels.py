"""Predicting subsets from a few that were trained: kernel ridge regression on the indicators of subsets.

This is the surrogate of KernelSM (arXiv 2602.03783), fitted to true trainings: what every task gains from a
subset is a smooth function of the subset's indicator in {0, 1}^n, by Gaussian kernels. Unlike the surrogates
of the method it needs trained policies, and knows nothing of the tasks but who was trained with whom.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from pgx_jax.errors import ConfigError, DataError

GAMMAS = (0.03, 0.1, 0.3, 1.0)
"""Widths that are tried: exp(-gamma |x - x'|^2); two subsets of one size are 2, 4, ... apart."""
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridges that are tried, in units of a task's variance over the subsets."""
FOLDS = 5
"""Of the cross-validation that chooses among them."""


def kernel_surrogate(
    member: Bool[np.ndarray, "t n"],
    values: Float[np.ndarray, "t n"],
    asked: Bool[np.ndarray, "m n"],
) -> Float[np.ndarray, "m n"]:
    """Predict every task's value after training on subsets that were not trained.

    Width and ridge are chosen for all tasks together by cross-validation over the subsets; values are
    standardised task by task.

    Args:
        member: bool [t, n], the subsets that were trained.
        values: float [t, n], what came of it, of all tasks (in the subset or not).
        asked: bool [m, n], the subsets to predict.

    Returns:
        float [m, n].

    Raises:
        ConfigError: fewer than two subsets.
        DataError: a value is not finite.
    """
    from sklearn.kernel_ridge import KernelRidge  # here: a second that few need to wait for
    from sklearn.model_selection import GridSearchCV, KFold

    known, count = np.asarray(values, np.float64), len(member)
    if count < 2:
        raise ConfigError(f"{count} trained subset(s); a kernel surrogate needs at least 2")
    if not np.isfinite(known).all():
        raise DataError(
            f"the value of task {int(np.argmin(np.isfinite(known).all(0)))} is not finite after some training"
        )
    level, spread = known.mean(0), known.std(0)
    scaled = (known - level) / np.where(spread > 0, spread, 1)
    search = GridSearchCV(
        KernelRidge(kernel="rbf"),
        {"gamma": GAMMAS, "alpha": RIDGES},
        scoring="neg_mean_squared_error",
        cv=KFold(min(FOLDS, count)),
    )
    search.fit(np.asarray(member, np.float64), scaled)
    return search.predict(np.asarray(asked, np.float64)) * spread + level
