"""What environments of any Gymnasium kind are given: n values of each argument, weights of rewards."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from envs import common
from pgx_jax.errors import ConfigError
from pgx_jax.tasks.checks import raised


def values(key: str, value) -> np.ndarray:
    """The n values of an argument; ConfigError for a single one."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        raise ConfigError(f"argument {key!r} must be a sequence of n values, got {value!r}; put it in fixed")
    try:
        return np.asarray(value)
    except ValueError:  # lists of several lengths
        found = np.empty(len(value), object)
        found[:] = list(value)
        return found


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


LONGEST = 48
"""Letters of a task's name, of which longer ones are cut."""


def names(given: Mapping[str, np.ndarray], n: int) -> tuple[str, ...]:
    """A short name for every task: its number, and the arguments that are single numbers or words; of dicts,
    the entries in which the tasks differ."""
    shown = {key: value.tolist() for key, value in given.items() if value.ndim == 1}
    parts = [(key, value) for key, value in shown.items() if not any(isinstance(x, Mapping) for x in value)]
    for value in (value for value in shown.values() if any(isinstance(x, Mapping) for x in value)):
        parts += _differing([_entries(x) for x in value])
    told = ["_".join([f"task{i}", *(f"{key}{_label(value[i])}" for key, value in parts)]) for i in range(n)]
    return tuple(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in told)


def _differing(configs: list[dict[tuple[str, ...], Any]]) -> list[tuple[str, list[Any]]]:
    """(a name, n values) of the entries in which n dicts differ; named by as little of their path as tells
    them apart."""
    paths = list(dict.fromkeys(path for config in configs for path in config))
    columns = {path: [config.get(path, "") for config in configs] for path in paths}
    columns = {path: column for path, column in columns.items() if len(set(map(str, column))) > 1}
    last = [path[-1] for path in columns]
    return [
        (path[-1] if last.count(path[-1]) == 1 else ".".join(path), column)
        for path, column in columns.items()
    ]


def _entries(config: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The entries of a nested dict by their paths."""
    if not isinstance(config, Mapping):
        return {path or ("",): config}
    return {
        where: x for key, part in config.items() for where, x in _entries(part, (*path, str(key))).items()
    }


def _label(value: Any) -> str:
    """A value in a name."""
    if isinstance(value, (list, tuple)):
        return "-".join(map(_label, value))
    return f"{value:.3g}" if isinstance(value, float) else getattr(value, "__name__", str(value))


def near(name: str, known: Iterable[str]) -> str:
    """The question whether one of the nearest known names was meant; empty if none is near."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def check_reward(where: str, env: Any, weights: np.ndarray | None) -> None:
    """Try one step of an environment; ConfigError, naming ``where``, unless it succeeds and the reward is a
    number, or a vector as long as the ``weights`` [K]."""
    what = "reset"
    try:
        env.reset(seed=0)
        env.action_space.seed(0)
        what = "step"
        shape = np.shape(env.step(env.action_space.sample())[1])
    except Exception as error:
        raise ConfigError(f"{where} {raised(what, error)}; mend the environment") from error
    wanted = () if weights is None else weights.shape
    if shape != wanted:
        remedy = "give objectives, the weights [n, K] of each task" if len(shape) == 1 else "wrap it"
        raise ConfigError(f"{where}: the reward has shape {shape}, expected {wanted}: {remedy}")
