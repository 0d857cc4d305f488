"""Whether transitions are complete, before anything is estimated from them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import ConfigError, DataError, called
from pgx_jax.estimate.gradients import LogProb
from pgx_jax.types import FIT, REAL, SCORE, SELECT, Features, PyTree, Transitions


def check_transitions(transitions: Transitions, names: Sequence[str] | None = None) -> None:
    """Refuse transitions that cannot be estimated from.

    Args:
        transitions: what a policy experienced.
        names: n task names for error messages.

    Raises:
        DataError: they are none, a field of another shape than `Transitions` says, a source that does not
            exist, or one without trajectories to fit, to score or to select by.
    """
    if not isinstance(transitions, Transitions):
        raise DataError(
            f"transitions must be a pgx_jax.Transitions, not a {type(transitions).__name__}; "
            f"pgx_jax.transitions_from makes them of logged steps"
        )
    for name, value in transitions._asdict().items():
        if value is None:
            told = ": np.arange(n) if each task has transitions of its own" if name == "source" else ""
            raise DataError(f"transitions.{name} is None; give it{told}")
    advantage, split = np.asarray(transitions.advantage), np.asarray(transitions.split)
    source = np.asarray(transitions.source)
    if source.ndim != 1 or source.dtype.kind not in "iu":
        raise DataError(
            f"transitions.source must be a whole number for each task, the row of its transitions: "
            f"{transitions.source!r}"
        )
    if split.ndim != 2:
        raise DataError(f"transitions.split has shape {split.shape}; it must be [U, N], a row a source")
    n, (sources, count) = len(source), split.shape
    read = {"obs": transitions.obs, "action": transitions.action, "trajectory": transitions.trajectory}
    for path, leaf in jax.tree_util.tree_leaves_with_path(read):
        found, name = np.shape(leaf), jax.tree_util.keystr(path, simple=True, separator=".")
        if found[:2] != split.shape:
            raise DataError(f"transitions.{name} has shape {found}; it must begin with split's {split.shape}")
        kind = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not jnp.isdtype(kind, REAL):
            raise DataError(f"transitions.{name} is of type {kind}; give numbers")
    trajectory = np.asarray(transitions.trajectory)
    if trajectory.dtype.kind not in "iu" or (trajectory.size and trajectory.min() < 0):
        raise DataError(
            f"transitions.trajectory must be whole numbers from 0 on; its type is {trajectory.dtype}, the "
            f"least is {trajectory.min(initial=0)}"
        )
    if advantage.shape != (n, count):
        raise DataError(
            f"transitions.advantage has shape {advantage.shape}; it must be {(n, count)}: a row a task, "
            f"as many as transitions.source has, and a column a transition"
        )
    if n and not (0 <= source.min() and source.max() < sources):
        raise DataError(f"transitions.source = {source.tolist()}; there are sources 0 to {sources - 1}")
    tasks = called(names, n)
    for part, purpose in ((FIT, "fit"), (SCORE, "score"), (SELECT, "select")):
        lacking = ~(split == part).any(1)[source]
        if lacking.any():
            task = int(np.argmax(lacking))
            there = len(np.unique(trajectory[source[task]]))
            raise DataError(
                f"task {tasks[task]} has no trajectory to {purpose} by, of {there} in all; at least three "
                f"are needed: collect more (or shorter) trajectories, in more environments"
            )


def check_features(feats: Features, transitions: Transitions) -> None:
    """Refuse features that are not those of the transitions.

    Raises:
        DataError: they are none, of other transitions, or not finite.
    """
    if not isinstance(feats, Features):
        raise DataError(f"features must be a pgx_jax.types.Features, not a {type(feats).__name__}")
    wanted, found = np.shape(transitions.split), np.shape(feats.values)
    if len(found) != 3 or found[:2] != wanted:
        raise DataError(f"features have the shape {found}; it must be [U, N, d], with split's {wanted}")
    if not np.isfinite(np.asarray(feats.values).sum(-1)).all():
        raise DataError("features have numbers that are not finite")


def check_log_prob(log_prob: LogProb, params: PyTree, transitions: Transitions) -> None:
    """Trace a policy's log-probability of one transition, without computing anything.

    Raises:
        ConfigError: it fails, or returns something else than a number.
    """
    obs, action = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x)[2:], jnp.result_type(x)),  # nothing is moved
        (transitions.obs, transitions.action),
    )
    try:
        told = jax.eval_shape(log_prob, params, obs, action)
    except Exception as error:
        shapes = jax.tree.map(lambda x: x.shape, (obs, action))
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"log_prob(params, obs, action) fails where it is called with one transition, of the shapes "
            f"{shapes[0]} and {shapes[1]} ({type(error).__name__}: {reason})"
        ) from error
    if getattr(told, "shape", None) != () or not jnp.issubdtype(told.dtype, jnp.floating):
        raise ConfigError(f"log_prob must return one number for one transition, and it returns {told}")


def check_params(params: PyTree) -> None:
    """Refuse parameters that have no gradient.

    Raises:
        DataError: naming the first leaf that is no array of floating-point numbers.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise DataError("params has no leaves; give the policy's parameters, a pytree of arrays")
    for path, leaf in leaves:
        if not jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating):
            name = jax.tree_util.keystr(path)
            kind = f"{type(leaf).__name__} of {leaf.dtype}" if hasattr(leaf, "dtype") else type(leaf).__name__
            raise DataError(
                f"params{name} is no array of floating-point numbers but a {kind}; give the "
                f"parameters alone, and let log_prob put them together with the rest (of an Equinox module "
                f"`equinox.partition(module, equinox.is_inexact_array)`, of a Flax NNX one `nnx.split`)"
            )
