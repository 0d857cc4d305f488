"""Whether transitions are complete, before anything is estimated from them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from pgx_jax.errors import DataError
from pgx_jax.types import FIT, SCORE, SELECT, Transitions


def check_transitions(transitions: Transitions, names: Sequence[str] | None = None) -> None:
    """Refuse transitions that cannot be estimated from.

    Args:
        transitions: what a policy experienced.
        names: n task names for error messages.

    Raises:
        DataError: a field of another shape than `Transitions` says, a source that does not exist, or
            one without trajectories to fit, to score or to select by.
    """
    advantage, split = np.asarray(transitions.advantage), np.asarray(transitions.split)
    source = np.asarray(transitions.source)
    n, (sources, count) = len(source), split.shape
    read = {"obs": transitions.obs, "action": transitions.action, "trajectory": transitions.trajectory}
    for path, leaf in jax.tree_util.tree_leaves_with_path(read):
        found = np.shape(leaf)
        if found[:2] != split.shape:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise DataError(f"transitions.{name} has shape {found}; it must begin with split's {split.shape}")
    if advantage.shape != (n, count):
        raise DataError(
            f"transitions.advantage has shape {advantage.shape}; it must be {(n, count)}: a row a task, "
            f"as many as transitions.source has, and a column a transition"
        )
    if n and not (0 <= source.min() and source.max() < sources):
        raise DataError(f"transitions.source = {source.tolist()}; there are sources 0 to {sources - 1}")
    called = [repr(name) for name in names] if names is not None else list(map(str, range(n)))
    for part, purpose in ((FIT, "fit"), (SCORE, "score"), (SELECT, "select")):
        lacking = ~(split == part).any(1)[source]
        if lacking.any():
            task = int(np.argmax(lacking))
            there = len(np.unique(np.asarray(transitions.trajectory)[source[task]]))
            raise DataError(
                f"task {called[task]} has no trajectory to {purpose} by, of {there} in all; at least three "
                f"are needed: collect more (or shorter) trajectories, in more environments"
            )
