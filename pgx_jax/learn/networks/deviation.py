"""The deviation of Gaussian actors: one for all states, and for all tasks or of each task's own."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from pgx_jax.errors import ConfigError
from pgx_jax.learn.distributions import FRESH_LOG_STD
from pgx_jax.types import Array

NAME = "log_std"
"""Name of the parameter: [size], or [C, size] where it is a task's own."""
BOUNDS = (-5.0, 2.0)
"""Within which it stays where settings say nothing else."""


def log_std(
    module: nn.Module,
    size: int,
    context: Array | None,
    own: bool,
    bounds: tuple[float, float] = BOUNDS,
    initial: float = FRESH_LOG_STD,
) -> Array:
    """Log standard deviation [size], a parameter of the calling module.

    Args:
        module: the actor, within its compact method.
        size: of an action.
        context: float [C]; None if it is not told.
        own: whether every task has its own: linear in the context, a row of [C, size] if that is one-hot.
        bounds: the least and the largest that it can be. There it stays: beyond them nothing pulls it back
            (as in garage and metaworld-algorithms, which clip it as well).
        initial: where it begins, or at the nearest bound.

    Raises:
        ConfigError: a task's own, of an actor that is not told its task.
    """
    init = nn.initializers.constant(min(max(initial, bounds[0]), bounds[1]))
    if not own:
        return jnp.clip(module.param(NAME, init, (size,)), *bounds)
    if context is None:
        raise ConfigError(
            "own_deviation: an actor that is not told its task has no deviation of the task's own; set "
            "policy.conditioned_actor"
        )
    return jnp.clip(context @ module.param(NAME, init, (len(context), size)), *bounds)


def is_deviation(path: tuple[str, ...]) -> bool:
    """Whether a parameter's path leads to the deviation, which is what of a Gaussian actor is exploration."""
    return path[-1] == NAME
