"""Settings that cannot work are refused before any long work, naming the setting and the remedy."""

from __future__ import annotations

import math
import typing
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from pgx_jax.config import Config, EstimateConfig
from pgx_jax.errors import ConfigError
from pgx_jax.estimate.surrogates import MIN_L2
from pgx_jax.learn import PPO
from pgx_jax.tasks import TaskFamily


def check(config: Config, family: TaskFamily) -> None:
    """Refuse settings that cannot work, before any long work.

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
    _check_data(config.estimate, family.horizon)


def check_method(config: Config, n: int) -> None:
    """Refuse settings with which n tasks cannot be estimated and grouped, wherever the data are from.

    Raises:
        ConfigError: naming setting and remedy.
    """
    _check_choices(config)
    e, k, penalty = config.estimate, config.k, config.grouping.trace_penalty
    if k is not None and not (1 <= k <= n and k == int(k)):
        raise ConfigError(f"k = {k}, but there are {n} tasks; choose a whole number from 1 to {n}")
    most = config.grouping.max_groups
    if k is not None and most is not None and k > most:
        raise ConfigError(f"k = {k} is more than grouping.max_groups = {most}; change one of them")
    if k is not None and penalty is not None:
        raise ConfigError(f"give either k (= {k}) or grouping.trace_penalty (= {penalty}), not both")
    if not MIN_L2 <= e.l2 < math.inf:
        raise ConfigError(f"estimate.l2 = {e.l2} cannot work in float32; use at least {MIN_L2}")
    if e.dim < 1:
        raise ConfigError(f"estimate.dim = {e.dim} must be at least 1")
    if e.iterations is not None and e.iterations < 1:
        raise ConfigError(f"estimate.iterations = {e.iterations} must be at least 1")


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


def _check_data(e: EstimateConfig, horizon: int) -> None:
    """Refuse what collecting would refuse, before the meta-policy is trained."""
    if e.num_envs < 1 or e.steps % e.num_envs or e.steps < 4 * e.num_envs:
        raise ConfigError(
            f"estimate.steps = {e.steps} must be a multiple (at least 4) of estimate.num_envs = {e.num_envs}"
        )
    if e.num_envs * -(-e.steps // (e.num_envs * horizon)) < 3:
        raise ConfigError(
            f"estimate.num_envs = {e.num_envs} environments may give a task fewer than three trajectories "
            f"(estimate.steps = {e.steps}, up to {horizon} a trajectory), one each to fit, to score and to "
            f"select by; use at least 3 environments"
        )
    for name in ("source_multiple", "rollout_episodes"):
        if getattr(e, name) < 1:
            raise ConfigError(f"estimate.{name} = {getattr(e, name)} must be at least 1")
    if not 0 < e.distance < math.inf:
        raise ConfigError(f"estimate.distance = {e.distance} must be positive")
    if e.gae_lambda is not None and not 0 <= e.gae_lambda <= 1:
        raise ConfigError(f"estimate.gae_lambda = {e.gae_lambda} must lie between 0 and 1")
