"""Learners by name."""

from __future__ import annotations

from collections.abc import Mapping

from pgx_jax.learn.ppo import PPO

Learner = PPO
LEARNERS = {"ppo": PPO}


def learners_by_name(ppo: PPO, more: Mapping[str, Learner] | None = None) -> dict[str, Learner]:
    """All learners that rows may name: those of the table at their defaults, and one's own."""
    return {name: made() for name, made in LEARNERS.items()} | {"ppo": ppo} | dict(more or {})
