"""The command ``pgx-jax``."""

from __future__ import annotations

import dataclasses
import sys

import tyro
from rich.console import Console

from pgx_jax.commands import FamiliesCommand, RunCommand, ShowCommand, parse_settings
from pgx_jax.config import config_for
from pgx_jax.errors import PgxError
from pgx_jax.saved_commands import RegroupCommand, ReportCommand, ResumeCommand

__all__ = ["COMMANDS", "main", "parse_settings"]

COMMANDS = {
    "run": RunCommand,
    "families": FamiliesCommand,
    "show": ShowCommand,
    "resume": ResumeCommand,
    "regroup": RegroupCommand,
    "report": ReportCommand,
}


def with_family_defaults(command: RunCommand, args: list[str]) -> RunCommand:
    """Parse the arguments of ``run`` again if the family asks for defaults of its own."""
    family = command.make_family()
    if not family.defaults:
        return command
    default = dataclasses.replace(command, config=config_for(family))
    return tyro.cli(RunCommand, prog="pgx-jax run", args=args[args.index("run") + 1 :], default=default)


def main(args: list[str] | None = None) -> int:
    """Parse the command line and run the command; returns the exit status."""
    console = Console()
    args = sys.argv[1:] if args is None else args
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="pgx-jax", args=args, description="Find which tasks should share a policy."
    )
    try:
        if isinstance(command, RunCommand):
            command = with_family_defaults(command, args)
        command(console)
    except PgxError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {type(error).__name__}: ", end="")
        Console(stderr=True).print(str(error), markup=False, highlight=False)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; whole stages are saved, continue with `pgx-jax resume RUN`")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
