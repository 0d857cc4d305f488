"""Settings that cannot work are refused before any long work, naming the setting and the remedy."""

from __future__ import annotations

import math
import typing
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from pgx_jax.config import Budget, Config
from pgx_jax.errors import ConfigError
from pgx_jax.learn import PPO
from pgx_jax.tasks import TaskFamily


def check(config: Config, family: TaskFamily, conditioned_actor: bool | None = None) -> Budget:
    """Refuse settings that cannot work, before any long work; returns the budget (arguments as its).

    Raises:
        ConfigError: naming setting and remedy.
    """
    if not isinstance(config, Config):
        raise ConfigError(f"settings must be a pgx_jax.Config, not a {type(config).__name__}")
    n = family.n
    check_method(config, n)
    if not 0 < config.meta_fraction < 1:
        raise ConfigError(f"meta_fraction = {config.meta_fraction} must lie between 0 and 1")
    if config.meta_entropy is not None and not 0 <= config.meta_entropy < math.inf:
        raise ConfigError(f"meta_entropy = {config.meta_entropy} must not be negative")
    _check_ppo(config.ppo)
    if config.test_tasks < 0:
        raise ConfigError(f"test_tasks = {config.test_tasks} must be 0 or more")
    if not config.policy.hidden or min(config.policy.hidden) < 1:
        raise ConfigError(f"policy.hidden = {config.policy.hidden}: give at least one width, 1 or more each")
    for name in ("steps_per_task", "episodes", "random_draws", "trial_episodes", "rows_per_call"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)} must be at least 1")
    if config.ppo.num_envs < n:
        raise ConfigError(
            f"ppo.num_envs = {config.ppo.num_envs} environments for {n} tasks; use at least {n}"
        )
    batch = config.ppo.steps_per_update
    if batch < config.ppo.minibatches:
        raise ConfigError(
            f"ppo.minibatches = {config.ppo.minibatches} of a batch of {batch} steps; use fewer"
        )
    config.estimate.check_collecting(family.horizon)
    return Budget(config, family, conditioned_actor)


def check_method(config: Config, n: int) -> None:
    """Refuse settings with which n tasks cannot be estimated and grouped, wherever the data are from.

    Raises:
        ConfigError: naming setting and remedy.
    """
    _check_choices(config)
    config.estimate.check()
    config.grouping.check(n, config.k)


def _check_choices(settings: Any, prefix: str = "") -> None:
    """Refuse values that are not among the choices of a setting."""
    hints = typing.get_type_hints(type(settings))
    for f in fields(settings):
        value, name = getattr(settings, f.name), prefix + f.name
        if is_dataclass(value):
            _check_choices(value, f"{name}.")
        hint, several = hints[f.name], typing.get_origin(hints[f.name]) is tuple
        hint = typing.get_args(hint)[0] if several else hint
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else None
        for one in (value if several else [value]) if choices else ():
            if one not in choices:
                raise ConfigError(f"{name} = {one!r}; choose one of {', '.join(map(repr, choices))}")


_PPO_RANGES = {
    "between 0 and 1": ("gamma", "gae_lambda"),
    "positive": ("learning_rate", "clip", "max_grad_norm"),
    "0 or more": ("final_learning_rate", "entropy", "value"),
    "at least 1": ("num_envs", "num_steps", "epochs", "minibatches"),
}


def _check_ppo(ppo: PPO) -> None:
    """Refuse numbers with which nothing can be learned."""
    for words, names in _PPO_RANGES.items():
        for name in names:
            value = getattr(ppo, name)
            good = 0 <= value <= 1 if words == "between 0 and 1" else 0 <= value < math.inf
            if not good or (value == 0 and words == "positive") or (value < 1 and words == "at least 1"):
                raise ConfigError(f"ppo.{name} = {value} must be {words}")
