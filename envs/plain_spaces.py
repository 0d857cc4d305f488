"""Spaces of any kind as those that families have: one Box that is observed, actions that policies know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from pgx_jax.errors import ConfigError
from pgx_jax.types import Array, PyTree


class Actions(NamedTuple):
    """A plain space, and how its actions become the environment's own (None: they are)."""

    space: spaces.Space
    to_env: Callable[[Any], Any] | None = None


def _discrete(space: spaces.Discrete) -> Actions:
    """Numbers from 0."""
    start = int(space.start)
    return Actions(spaces.Discrete(int(space.n)), (lambda action: int(action) + start) if start else None)


def _multi_discrete(space: spaces.MultiDiscrete) -> Actions:
    """Numbers from 0, in one dimension."""
    start, shape = space.start, space.shape
    if len(shape) == 1 and not start.any():
        return Actions(space)
    return Actions(
        spaces.MultiDiscrete(space.nvec.ravel()),
        lambda action: np.reshape(action, shape).astype(space.dtype) + start,
    )


def _multi_binary(space: spaces.MultiBinary) -> Actions:
    """Choices between 0 and 1."""
    shape, dtype = space.shape, space.dtype
    return Actions(
        spaces.MultiDiscrete([2] * math.prod(shape)), lambda action: np.reshape(action, shape).astype(dtype)
    )


def _box(space: spaces.Box) -> Actions:
    """Numbers in one dimension."""
    shape = space.shape
    if len(shape) == 1:
        return Actions(space)
    return Actions(
        spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype.type),
        lambda action: np.reshape(action, shape),
    )


ACTIONS = {
    spaces.Discrete: _discrete,
    spaces.MultiDiscrete: _multi_discrete,
    spaces.MultiBinary: _multi_binary,
    spaces.Box: _box,
}
"""Kinds of actions that policies can take, and what makes them plain."""


def actions(space: spaces.Space) -> Actions:
    """A space of actions as a plain one: Discrete or MultiDiscrete from 0, or a Box, of one dimension.

    Raises:
        ConfigError: for any other kind.
    """
    make = next((make for kind, make in ACTIONS.items() if isinstance(space, kind)), None)
    if make is None:
        raise ConfigError(
            f"the action space is {space}, but actions must be of one kind, "
            f"{', '.join(kind.__name__ for kind in ACTIONS)}; wrap the environment in a "
            "gymnasium.ActionWrapper that has such a space"
        )
    return make(space)


def observed(space: spaces.Space) -> spaces.Box:
    """A space of observations as one Box: what is none is flattened (`gymnasium.spaces.flatten_space`).

    Raises:
        ConfigError: for a space without a fixed size.
    """
    try:
        found = space if isinstance(space, spaces.Box) else spaces.flatten_space(space)
    except NotImplementedError:
        found = space
    if isinstance(found, spaces.Box):
        return found
    raise ConfigError(
        f"the observation space is {space}, which has no fixed size; wrap the environment in a "
        "gymnasium.ObservationWrapper that gives arrays of one shape"
    )


def flat(space: spaces.Space, obs: PyTree) -> Array:
    """`gymnasium.spaces.flatten` of traced arrays: float32 [size of the flattened space]. Numbers of a
    Discrete are one-hot, parts of a Dict (also as attributes) or Tuple stand one after the other."""
    if isinstance(space, spaces.Dict):
        own = obs.__getitem__ if isinstance(obs, Mapping) else partial(getattr, obs)
        return jnp.concatenate([flat(part, own(name)) for name, part in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        return jnp.concatenate([flat(part, one) for part, one in zip(space.spaces, obs, strict=True)])
    if isinstance(space, spaces.Discrete):
        return jax.nn.one_hot(jnp.asarray(obs) - space.start, int(space.n))
    return jnp.ravel(jnp.asarray(obs, jnp.float32))
