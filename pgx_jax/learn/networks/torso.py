"""One observation of any shape, and its task's context, as one vector."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp

from pgx_jax.types import Array

SMALL = 16
"""Images of so many pixels a side, or fewer, are not scaled down."""
COLOURS = (1, 3, 4)
"""Numbers of channels by which an image is known to be [C, H, W], if it has more pixels a side than these."""


class Torso(nn.Module):
    """Flattens an observation, an image [H, W, C] or [C, H, W] after some convolutions, and appends the
    context.

    What an image comes to is of about the length of a one-hot context: beside more and larger numbers the
    task would be learned late, or not at all.
    """

    features: int = 16
    """Channels of the convolutions."""
    width: int = 128
    """What an image comes to."""

    @nn.compact
    def __call__(self, obs: Array, context: Array | None = None) -> Array:
        """float [in]; a context of None (not told) appends nothing."""
        if jnp.ndim(obs) == 3:
            obs = jnp.moveaxis(obs, 0, -1) if channels_lead(obs.shape) else obs
            while min(obs.shape[:2]) > SMALL:
                obs = nn.relu(nn.Conv(self.features, (4, 4), 2)(obs))
            obs = nn.relu(nn.Conv(self.features, (3, 3))(obs))
            obs = nn.relu(nn.LayerNorm()(nn.Dense(self.width)(jnp.ravel(obs)))) / math.sqrt(self.width)
        flat = jnp.ravel(obs)
        return flat if context is None else jnp.concatenate([flat, context])


def channels_lead(shape: tuple[int, ...]) -> bool:
    """Whether an image of this shape is [C, H, W]; where that is not clear, images are [H, W, C]."""
    return shape[0] in COLOURS and min(shape[1:]) > max(COLOURS)
