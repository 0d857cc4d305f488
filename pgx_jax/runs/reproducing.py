"""The command that makes a run again."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from collections.abc import Iterator
from typing import Any

from pgx_jax.config import Config, config_for
from pgx_jax.errors import key_value
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import families, load_factory


def command(family: TaskFamily, config: Config) -> str | None:
    """``pgx-jax run …`` with all that differs from the defaults of the family and of its runs; None of a
    family that is not registered under its name."""
    if family.name not in families():
        return None
    own = inspect.signature(load_factory(family.name)).parameters
    if not set(family.settings) <= set(own):
        return None
    changed = {name: x for name, x in family.settings.items() if not _same(x, own[name].default)}
    settings = [f"{name}={_literal(value)}" for name, value in changed.items()]
    words = ["pgx-jax", "run", family.name, *(["--set", *settings] if settings else [])]
    for name, value in _differing(config, config_for(family)):
        words += _option(name, value)
    return shlex.join(words)


def _same(value: Any, default: Any) -> bool:
    """Whether a setting has its default; lists and tuples are the same."""
    pair = [list(x) if isinstance(x, (list, tuple)) else x for x in (value, default)]
    return bool(pair[0] == pair[1])


def _literal(value: Any) -> str:
    """A setting of a family, as ``--set`` reads it."""
    if isinstance(value, str):
        return value if key_value(f"x={value}", "") == ("x", value) else repr(value)
    return repr(value)


def _differing(config: Any, default: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of the settings that are not the default's."""
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            yield from _differing(value, usual, f"{place}{field.name}.")
        elif value != usual:
            yield f"{place}{field.name}", value


def _option(name: str, value: Any) -> list[str]:
    """A setting as the command line has it."""
    place, _, last = name.replace("_", "-").rpartition(".")
    place = f"--{place}." if place else "--"
    if isinstance(value, bool):
        return [f"{place}{last}" if value else f"{place}no-{last}"]
    values = value if isinstance(value, tuple) else (value,)
    return [f"{place}{last}", *map(str, values)]
