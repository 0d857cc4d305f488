"""The command ``pgx-jax``."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any

import tyro
from rich.console import Console
from rich.text import Text

from pgx_jax.cli.commands import FamiliesCommand, RunCommand, ShowCommand, parse_settings
from pgx_jax.cli.saved import RegroupCommand, ReportCommand, ResumeCommand
from pgx_jax.config import Config, config_for
from pgx_jax.errors import ConfigError, PgxError
from pgx_jax.tasks.registry import families, make_family

__all__ = ["COMMANDS", "main", "parse_settings"]

COMMANDS = {
    "run": RunCommand,
    "families": FamiliesCommand,
    "show": ShowCommand,
    "resume": ResumeCommand,
    "regroup": RegroupCommand,
    "report": ReportCommand,
}


def read(args: list[str]) -> Any:
    """The command that the arguments name; the settings of a run are those of its family by default.

    Raises:
        ConfigError: an unknown family, or settings that cannot work.
        SystemExit: help was asked for, or the arguments are not those of a command.
    """
    if args[:1] == ["run"] and {"-h", "--help"} & set(args) and (default := default_for_help(args)):
        return read_run(args, default)
    command = parsed(
        lambda: tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="pgx-jax", args=args, description="Find which tasks should share a policy."
        )
    )
    if isinstance(command, RunCommand):
        family = command.make_family()
        if family.defaults:
            return read_run(args, RunCommand(command.family, config=config_for(family)))
    return command


def read_run(args: list[str], default: RunCommand) -> RunCommand:
    """The command ``run``, with what the arguments leave out taken from ``default``."""
    words = f"{RunCommand.__doc__}\n\nThe defaults are those for {default.family}."
    return parsed(
        lambda: tyro.cli(RunCommand, prog="pgx-jax run", args=args[1:], default=default, description=words)
    )


def default_for_help(args: list[str]) -> RunCommand | None:
    """The defaults for the first family that the arguments name; None without one that can be built."""
    known = families()
    for name in args:
        if name in known:
            try:
                return RunCommand(name, config=config_for(make_family(name)))
            except Exception:  # whatever is wrong with the family, there is help
                return None
    return None


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
    error, place = stop, ""
    while error is not None and not isinstance(error, ConfigError):
        error, place = error.__context__, getattr(error, "arg", place)
    group = str(place).rpartition(".")[2]
    settings = getattr(Config(), group, None)
    if error is None or not dataclasses.is_dataclass(settings):
        return error
    names_one = str(error).split(maxsplit=1)[0] in {field.name for field in dataclasses.fields(settings)}
    return type(error)(f"{group}.{error}" if names_one else f"{group}: {error}")


def main(args: list[str] | None = None) -> int:
    """Parse the command line and run the command; returns the exit status."""
    try:
        command = read(sys.argv[1:] if args is None else args)
        command(Console())
    except PgxError as error:
        told = Text.assemble(("error:", "bold red"), f" {type(error).__name__}: {error}")
        Console(stderr=True).print(told)
        return 2
    except KeyboardInterrupt as stop:
        Console(stderr=True).print(Text("; ".join(("stopped", *map(str, stop.args)))), soft_wrap=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
