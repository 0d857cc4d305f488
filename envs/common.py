"""What the families of this package share: checks of settings, planted groups, drawn tasks."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import ConfigError
from pgx_jax.types import Array, PyTree

TRAIN, TEST = 0x7EA1, 0x7E57
"""Folded into the keys from which training and test tasks are drawn: equal seeds, other tasks."""


def integer(name: str, value, minimum: int) -> int:
    """Return ``value`` as an int; ConfigError unless it is a whole number >= ``minimum``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, bool) or number < minimum:
        raise ConfigError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
    return number


def number(name: str, value, minimum: float = 0.0, *, open_end: bool = False) -> float:
    """Return ``value`` as a float; ConfigError unless finite and >= (or >) ``minimum``."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(result) or result < minimum or (open_end and result == minimum):
        relation = ">" if open_end else ">="
        raise ConfigError(f"{name} must be a finite number {relation} {minimum:g}, got {value!r}")
    return result


def interval(name: str, value) -> tuple[float, float]:
    """Return ``value`` as (low, high); ConfigError unless 0 < low <= high, both finite."""
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a pair (low, high) of numbers, got {value!r}") from None
    if not (0 < low <= high < math.inf):
        raise ConfigError(f"{name} must be a pair with 0 < low <= high, got {value!r}")
    return low, high


def plant(n_tasks: int, n_groups: int, seed: int) -> np.ndarray:
    """Plant groups whose sizes differ by at most one, in an order shuffled by the seed.

    Returns:
        int [n]: the group of each task. Which groups are the larger ones is random too.

    Raises:
        ConfigError: for fewer than 2 tasks, no group, or more groups than tasks.
    """
    n_tasks, n_groups = integer("n_tasks", n_tasks, 2), integer("n_groups", n_groups, 1)
    seed = check_seed(seed)
    if n_groups > n_tasks:
        raise ConfigError(f"n_groups = {n_groups} is more than n_tasks = {n_tasks}: lower it or add tasks")
    rng = np.random.default_rng(seed)
    return rng.permutation(rng.permutation(n_groups)[np.arange(n_tasks) % n_groups])


def check_seed(seed) -> int:
    """Return the seed as an int; ConfigError unless it is a whole number in [0, 2^32)."""
    seed = integer("seed", seed, 0)
    if seed >= 2**32:
        raise ConfigError(f"seed must be below 2^32, got {seed}")
    return seed


def canonical(labels: np.ndarray) -> np.ndarray:
    """Number groups by first appearance. int [n] -> int [n]."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def scales(reward_scales: Sequence[float] | None, n_tasks: int) -> np.ndarray:
    """Expand the setting ``reward_scales`` to one factor a task, repeating a shorter one in turn.

    Returns:
        float32 [n]; ones for None.

    Raises:
        ConfigError: if it is empty, longer than n_tasks, or has a factor that is not positive.
    """
    if reward_scales is None:
        return np.ones(n_tasks, np.float32)
    try:
        values = np.asarray([float(v) for v in reward_scales])
    except (TypeError, ValueError):
        raise ConfigError(f"reward_scales must be a sequence of numbers, got {reward_scales!r}") from None
    if not 1 <= len(values) <= n_tasks:
        raise ConfigError(f"reward_scales has {len(values)} values; give between 1 and n_tasks = {n_tasks}")
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ConfigError(f"reward_scales must be positive and finite, got {tuple(reward_scales)!r}")
    return np.resize(values, n_tasks).astype(np.float32)


def drawn_tasks(
    settings: dict, draw: Callable[[Array, Array], PyTree], groups: np.ndarray | None
) -> dict[str, Any]:
    """Draw the tasks of a family, in planted groups or in none.

    Args:
        settings: of the family; n_tasks, horizon, seed and, where it has them, n_groups and
            reward_scales are read.
        draw: (key, group int [count]) -> tasks, leaves [count, ...].
        groups: int [n], as `plant` gives them; None plants none.

    Returns:
        the fields tasks (float32), horizon, sample_test_tasks, true_groups and settings of a TaskFamily.

    Raises:
        ConfigError: for settings out of range.
    """
    n, n_groups = integer("n_tasks", settings["n_tasks"], 2), settings.get("n_groups", 1)
    horizon = integer("horizon", settings["horizon"], 1)
    key = jax.random.fold_in(jax.random.PRNGKey(check_seed(settings["seed"])), TRAIN)
    tasks = draw(key, np.zeros(n, int) if groups is None else groups)
    if settings.get("reward_scales") is not None:
        tasks = tasks._replace(reward_scale=scales(settings["reward_scales"], n))

    def sample_test_tasks(key: Array, count: int) -> PyTree:
        key_group, key = jax.random.split(jax.random.fold_in(key, TEST))
        return draw(key, jax.random.randint(key_group, (count,), 0, n_groups))

    return {
        "tasks": jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tasks),
        "horizon": horizon,
        "sample_test_tasks": sample_test_tasks,
        "true_groups": None if groups is None else canonical(groups),
        "settings": record(settings),
    }


def names(tasks: PyTree, label: Callable[[PyTree], str]) -> tuple[str, ...]:
    """Name every task by its number and what ``label(task)`` tells of it."""
    each = (jax.tree.map(lambda leaf, i=i: leaf[i], tasks) for i in range(len(jax.tree.leaves(tasks)[0])))
    return tuple(f"task{i}_{label(task)}" for i, task in enumerate(each))


def record(settings: dict) -> dict:
    """Return settings as plain Python values (numbers, strings, tuples of numbers), for the record."""

    def plain(value):
        if isinstance(value, (np.generic, np.ndarray)):
            value = value.tolist()
        return tuple(plain(v) for v in value) if isinstance(value, (list, tuple)) else value

    return {key: plain(value) for key, value in settings.items()}


def uniform(key: Array, low: float, high: float, count: int) -> Array:
    """Draw float32 [count], uniform on [low, high]."""
    return jax.random.uniform(key, (count,), jnp.float32, low, high)


def log_uniform(key: Array, low: float, high: float, count: int) -> Array:
    """Draw float32 [count], log-uniform on [low, high]."""
    return jnp.exp(uniform(key, math.log(low), math.log(high), count))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean ...?)" with the known names nearest to ``name``; empty if none is near."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def strong(tree: PyTree) -> PyTree:
    """Give arrays and Python numbers types that arithmetic does not change."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), tree)


def typed_like(tree: PyTree, like: PyTree) -> PyTree:
    """Return ``tree`` with the types of ``like``'s leaves: a step keeps the types of the reset."""
    return jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), tree, like)
