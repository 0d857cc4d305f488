"""Flax policies and critics, one architecture a file."""

from pgx_jax.learn.networks.mlp import MLP, CategoricalActor, Critic, GaussianActor

__all__ = ["MLP", "CategoricalActor", "Critic", "GaussianActor"]
