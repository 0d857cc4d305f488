"""The errors that the project raises on purpose; each message names the culprit and the remedy."""

from collections.abc import Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


class PgxError(Exception):
    """Base class: input or data that the method cannot work with."""


class ConfigError(PgxError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(PgxError, ValueError):
    """Arrays that a stage cannot use (non-finite values, no signal, wrong shape)."""


class SolverError(PgxError, RuntimeError):
    """A numerical solver that did not reach a solution."""


def pick(table: Mapping[str, Entry], name: str, setting: str) -> Entry:
    """The entry of a table by its name; ConfigError, with the names that there are, if it has none."""
    if name not in table:
        raise ConfigError(f"{setting} = {name!r}; choose one of {', '.join(map(repr, table))}")
    return table[name]
