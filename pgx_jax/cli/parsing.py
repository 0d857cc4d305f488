"""From arguments to a command, and from what cannot be parsed to an error of ours."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from typing import Any

from pgx_jax.errors import ConfigError, key_value


def parsed(parse: Callable[[], Any]) -> Any:
    """What ``parse`` returns; settings that our classes refuse are told in our words, not the parser's."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return parse()
    except SystemExit as stop:
        error = refusal(stop)
        if error is None:
            raise
        told = io.StringIO()
        raise error from None
    finally:
        sys.stderr.write(told.getvalue())


def refusal(stop: SystemExit) -> ConfigError | None:
    """The error of ours for which the parser has stopped, with the name of its group of settings, if any.

    The parser handles an error of a class of settings by raising one of its own, whose ``arg`` ends in the
    name of the group: "...config.grouping".
    """
    error: BaseException | None = stop
    place = ""
    while error is not None and not isinstance(error, ConfigError):
        error, place = error.__context__, getattr(error, "arg", place)
    if error is None:
        return None
    from pgx_jax.config import Config  # which imports JAX: only where something was refused

    group = str(place).rpartition(".")[2]
    settings = getattr(Config(), group, None)
    if not dataclasses.is_dataclass(settings):
        return error
    names_one = str(error).split(maxsplit=1)[0] in {field.name for field in dataclasses.fields(settings)}
    return type(error)(f"{group}.{error}" if names_one else f"{group}: {error}")


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """("horizon=300", ...) -> {"horizon": 300, ...}; values are Python literals, or else text.

    Raises:
        ConfigError: a pair without "=".
    """
    typed = (key_value(pair, "--set") for pair in pairs)
    return {key.replace("-", "_"): value for key, value in typed}
