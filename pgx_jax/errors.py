"""The errors that the project raises on purpose; each message names the culprit and the remedy."""

import ast
import functools
import inspect
import numbers
import re
import types
import typing
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, ParamSpec, TypeVar

import msgspec

Entry = TypeVar("Entry")
P = ParamSpec("P")
Returned = TypeVar("Returned")


class PgxError(Exception):
    """Base class: input or data that the method cannot work with."""


class ConfigError(PgxError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class FolderError(ConfigError):
    """A run's folder that is taken, cannot be written to, or lacks what is asked for."""


class BusyError(FolderError):
    """A run's folder on which another process works."""


class FullError(FolderError):
    """A run's folder that could be written to, and can't any more: its disk is full, say."""


class DataError(PgxError, ValueError):
    """Arrays that a stage cannot use (non-finite values, no signal, wrong shape)."""


class NewerError(DataError):
    """A file that a newer version has written."""


class NoSignalError(DataError):
    """A task of which nothing that was experienced tells good actions from bad ones."""


class SolverError(PgxError, RuntimeError):
    """A numerical solver that did not reach a solution."""


class SweepError(PgxError, RuntimeError):
    """Cells of a sweep that have come to no results; all others have."""


def pick(table: Mapping[str, Entry], name: str, setting: str) -> Entry:
    """The entry of a table by its name; ConfigError, with the names that there are, if it has none."""
    if not isinstance(name, str) or name not in table:
        raise ConfigError(f"{setting} = {name!r}; choose one of {', '.join(map(repr, table))}")
    return table[name]


def check_types(settings: Any, kind: type, name: str = "", *, unless: Container[str] = ()) -> None:
    """Refuse settings with a value that is not of the type that its annotation names, at any depth. Numbers
    may be NumPy's, or arrays of no axes.

    Args:
        settings: an instance of a dataclass.
        kind: this dataclass.
        name: of the settings in messages, if they have one.
        unless: settings that are not looked at.

    Raises:
        ConfigError: naming the setting, its value, and what it must be.
    """
    if not isinstance(settings, kind):
        raise ConfigError(
            f"{name or 'settings'} must be a pgx_jax.{kind.__name__}, not a {type(settings).__name__}"
        )
    known = typing.get_type_hints(type(settings))
    for field in fields(settings):  # type: ignore[arg-type]
        value, own = getattr(settings, field.name), f"{name}.{field.name}" if name else field.name
        if is_dataclass(known[field.name]):
            check_types(value, known[field.name], own, unless=unless)
        elif own not in unless:
            of_type(value, known[field.name], own)


def of_type(value: Any, kind: Any, name: str) -> Any:
    """A setting's value as its annotation wants it: lists may become tuples, and whole numbers floats.

    Raises:
        ConfigError: naming the setting, its value, and what it must be.
    """
    _check_size(value, name)
    if isinstance(value, (set, frozenset)):
        raise ConfigError(f"{name} = {value!r} has no order; give a tuple")
    try:
        return msgspec.convert(_plain(value), kind)
    except msgspec.ValidationError as error:
        said = str(error)
        if (culprit := said.removeprefix("Invalid enum value ")) != said:
            known = ", ".join(map(repr, _names(kind)))
            raise ConfigError(f"{name} = {culprit.split(' - at ')[0]}; choose one of {known}") from None
        said = said.split(" - at ")[0]
        for json, python in (("null", "None"), ("`array`", "`tuple`"), ("`object`", "`dict`")):
            said = said.replace(json, python)
        raise ConfigError(f"{name} = {value!r}: {said[0].lower()}{said[1:]}") from None


def _plain(value: Any) -> Any:
    """A value with Python's numbers in place of NumPy's, and of arrays of no axes."""
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.item() if getattr(value, "shape", None) == () else value


def _names(kind: Any) -> list[str]:
    """The names that an annotation lists, wherever in it."""
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    return [name for part in typing.get_args(kind) if part is not Ellipsis for name in _names(part)]


def checked(function: Callable[P, Returned]) -> Callable[P, Returned]:
    """A function that refuses arguments of another type than its annotations name, before it does anything:
    ConfigError, naming the argument and what it must be. What arrays hold is left to the function."""
    signature = inspect.signature(function)
    rest = {p.name for p in signature.parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Returned:
        kinds = typing.get_type_hints(function)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # too many, or of other names: Python tells it better
            return function(*args, **kwargs)
        for name, value in given.items():
            if name in kinds and name not in rest:
                check_argument(value, kinds[name], name)
        return function(*args, **kwargs)

    return call


def check_argument(value: Any, kind: Any, name: str) -> None:
    """Refuse an argument of another type than its annotation names.

    Raises:
        ConfigError: naming the argument, and what it must be.
    """
    _check_size(value, name)
    if not _fits(value, kind):
        wanted = kind.__name__ if isinstance(kind, type) else re.sub(r"\b[a-z_]\w*\.", "", str(kind))
        shown = repr(value)
        shown = f"{shown[:60]}…" if len(shown) > 60 else shown
        raise ConfigError(f"{name} must be {wanted}, not a {type(value).__name__}: {shown}")


def _check_size(value: Any, name: str) -> None:
    """Refuse a whole number that no array holds."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{name} = {value} must fit 64 bits")


_NUMBERS = {int: numbers.Integral, float: numbers.Real}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, as far as that is told by itself and not by what is in it."""
    own = typing.get_origin(kind) or kind
    if own in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(kind))
    if own is typing.Literal:
        return any(value is part or value == part for part in typing.get_args(kind))
    if own is Any or not isinstance(own, type):
        return True
    if getattr(own, "_is_protocol", False) or own.__module__ == "jaxtyping":
        return True
    parts = typing.get_args(kind)
    if own is Sequence:  # an array is one
        listed = value if isinstance(value, (list, tuple, str)) else ()
        whole = hasattr(value, "__len__") and not isinstance(value, (Mapping, set, frozenset))
        return whole and all(_fits(part, parts[0]) for part in listed if parts)
    value = value.item() if own in _NUMBERS and getattr(value, "shape", None) == () else value
    return isinstance(value, _NUMBERS.get(own, own))


MOST_NAMED = 3
"""Names that stand in a sentence, of more the first."""


def named(names: Sequence[str]) -> str:
    """Names in a sentence: a, b, c and 4 more."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def called(names: Sequence[str] | None, n: int) -> list[str]:
    """What messages call n tasks: by their names, or else by their numbers.

    Raises:
        ConfigError: they are no list.
        DataError: there are more or fewer names.
    """
    if names is None:
        return list(map(str, range(n)))
    check_argument(names, Sequence, "names")
    if len(names) != n:
        raise DataError(f"there are {len(names)} names of {n} tasks")
    return [repr(name) for name in names]


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
