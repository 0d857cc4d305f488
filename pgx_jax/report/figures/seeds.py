"""Figures of several training seeds: methods with intervals over them, and who is grouped with whom."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pgx_jax.compare.results import AffinityResult
from pgx_jax.compare.seeds import SeedsResult
from pgx_jax.report.figures.canvas import task_labels
from pgx_jax.report.figures.comparison import intervals
from pgx_jax.report.figures.method import affinity_of


def over_seeds(found: SeedsResult) -> Figure | None:
    """Mean of every method with its interval over seeds, and every seed's own mean."""
    return intervals(found.methods, {name: entry.by_seed for name, entry in found.methods.items()})


def together(found: SeedsResult) -> Figure | None:
    """The part of seeds that have each pair of tasks in one group; None where no seed has several groups."""
    if max(found.k) == 1:
        return None
    labels = np.stack([task_labels(groups, found.task_names) for groups in found.groups])
    same = (labels[:, :, None] == labels[:, None]).astype(float)
    middle = np.abs(same - np.array(found.together, float)).sum((1, 2)).argmin()
    entry = AffinityResult(found.together, None)
    groups = found.groups[middle]
    title = "part of seeds with both in one group"
    return affinity_of(entry, found.task_names, groups, found.true_groups, title=title, limits=(0.0, 1.0))


DRAWERS = {"over_seeds": over_seeds, "together": together}
"""File name (without ending) -> drawing function."""
