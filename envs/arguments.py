"""What environments of any Gymnasium kind are given: n values of each argument, weights of rewards."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from envs import common
from pgx_jax.errors import ConfigError


def values(key: str, value) -> np.ndarray:
    """The n values of an argument; ConfigError for a single one."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        raise ConfigError(f"argument {key!r} must be a sequence of n values, got {value!r}; put it in fixed")
    return np.asarray(value)


def plain(value):
    """A NumPy scalar as the Python value that a constructor expects."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0 else value


def count(title: str, given: Mapping[str, np.ndarray], weights: np.ndarray | None) -> int:
    """n, as all arguments and the weights of objectives tell; ConfigError unless they agree."""
    counts = {key: len(value) for key, value in given.items()}
    if weights is not None:
        counts["objectives"] = len(weights)
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{key}: {count}" for key, count in counts.items()) or "no argument differs"
        raise ConfigError(f"the number of tasks of {title} is unclear ({told}); give n values of each")
    return common.integer("the number of tasks", next(iter(counts.values())), 2)


def names(given: Mapping[str, np.ndarray], n: int) -> tuple[str, ...]:
    """A name for every task, from the arguments that are single numbers or words."""

    def label(value):
        return f"{value:.3g}" if isinstance(value, (float, np.floating)) else str(value)

    shown = {key: value for key, value in given.items() if value.ndim == 1}
    return tuple("_".join([f"task{i}", *(f"{k}{label(v[i])}" for k, v in shown.items())]) for i in range(n))


def near(name: str, known: Iterable[str]) -> str:
    """The question whether one of the nearest known names was meant; empty if none is near."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def check_reward(title: str, env: Any, weights: np.ndarray | None) -> None:
    """Try one step of an environment; ConfigError unless the reward is a number, or a vector as long as
    the ``weights`` [K]."""
    try:
        env.reset(seed=0)
        env.action_space.seed(0)
        shape = np.shape(env.step(env.action_space.sample())[1])
    except Exception as error:
        raise ConfigError(f"{title} fails in its first step ({type(error).__name__}: {error})") from error
    wanted = () if weights is None else weights.shape
    if shape != wanted:
        remedy = "give objectives, the weights [n, K] of each task" if len(shape) == 1 else "wrap it"
        raise ConfigError(f"the reward of {title} has shape {shape}, expected {wanted}: {remedy}")
