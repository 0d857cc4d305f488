"""Refusing settings that architectures share, by the names that they have in a run's settings."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from pgx_jax.errors import ConfigError


def check_widths(hidden: Any) -> None:
    """Refuse what are not widths of layers.

    Raises:
        ConfigError: there is none, or one that is no whole number of at least 1.
    """
    widths = hidden if isinstance(hidden, tuple) else ()
    if not widths or not all(map(_is_count, widths)):
        raise ConfigError(f"policy.hidden = {hidden}: give at least one width, 1 or more each")


def check_count(name: str, value: Any) -> None:
    """Refuse an option that is no whole number of at least 1.

    Raises:
        ConfigError: naming it.
    """
    if not _is_count(value):
        raise ConfigError(f"policy.options: {name} = {value!r} must be a whole number of at least 1")


def check_flag(name: str, value: Any) -> None:
    """Refuse an option that is neither True nor False.

    Raises:
        ConfigError: naming it.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"policy.options: {name} = {value!r} must be True or False")


def check_bounds(low: Any, high: Any) -> None:
    """Refuse what are no bounds of a logarithm of a deviation.

    Raises:
        ConfigError: they are no numbers, or the least is not less than the largest.
    """
    numbers = all(isinstance(x, Real) and math.isfinite(x) for x in (low, high))
    if not numbers or low >= high:
        raise ConfigError(
            f"policy.options: min_log_std = {low!r} must be a number below max_log_std = {high!r}"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
