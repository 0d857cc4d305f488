"""The errors that the project raises on purpose; each message names the culprit and the remedy."""

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")


class PgxError(Exception):
    """Base class: input or data that the method cannot work with."""


class ConfigError(PgxError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class FolderError(ConfigError):
    """A run's folder that is taken, cannot be written to, or lacks what is asked for."""


class DataError(PgxError, ValueError):
    """Arrays that a stage cannot use (non-finite values, no signal, wrong shape)."""


class NoSignalError(DataError):
    """A task of which nothing that was experienced tells good actions from bad ones."""


class SolverError(PgxError, RuntimeError):
    """A numerical solver that did not reach a solution."""


class SweepError(PgxError, RuntimeError):
    """Cells of a sweep that have come to no results; all others have."""


def pick(table: Mapping[str, Entry], name: str, setting: str) -> Entry:
    """The entry of a table by its name; ConfigError, with the names that there are, if it has none."""
    if name not in table:
        raise ConfigError(f"{setting} = {name!r}; choose one of {', '.join(map(repr, table))}")
    return table[name]


def is_address(text: str) -> bool:
    """Whether a text is HOST:PORT."""
    return re.fullmatch(r"[^:/]+:\d+", text) is not None


def key_values(texts: Iterable[str], setting: str) -> dict[str, Any]:
    """Settings of what is chosen by name, from texts KEY=VALUE (`key_value`); lists become tuples, which can
    be hashed."""
    pairs = (key_value(text, setting) for text in texts)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in pairs}


def key_value(text: str, setting: str) -> tuple[str, Any]:
    """ "width=32" -> ("width", 32); values are Python literals, or else text.

    Raises:
        ConfigError: text without "=" or without a key; it names the setting.
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigError(f"{setting} {text!r} is not of the form KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
