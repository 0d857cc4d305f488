"""The host engine: environments in plain Python."""

from pgx_jax.learn.host.actors import on_ray
from pgx_jax.learn.host.lane import HostLane
from pgx_jax.learn.host.playing import adapt, experience, play

__all__ = ["HostLane", "adapt", "experience", "on_ray", "play"]
