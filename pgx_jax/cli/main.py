"""The command ``pgx-jax``: knows its commands by name, and imports the one that is called."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from importlib import metadata
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from pgx_jax.errors import ConfigError, PgxError


class Command(NamedTuple):
    """Where a command is, and what it does in a line (the first of its class's docstring)."""

    place: str
    """module:class"""
    summary: str

    def load(self) -> type:
        """The class of its arguments, which is called with a console."""
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(module), name)


COMMANDS = {
    "run": Command(
        "pgx_jax.cli.run:RunCommand",
        "Group the tasks of a family, train one policy a group, and compare at equal steps.",
    ),
    "study": Command(
        "pgx_jax.cli.study:StudyCommand",
        "Run a family at several budgets, and draw what every method earns (`study budget FAMILY`).",
    ),
    "sweep": Command(
        "pgx_jax.cli.sweep:SweepCommand",
        "Run families, settings and seeds crossed, in processes or on a Ray cluster, to one table.",
    ),
    "compare": Command(
        "pgx_jax.cli.compare:CompareCommand",
        "Compare saved runs of one family: what every method earned, and which settings differ.",
    ),
    "families": Command(
        "pgx_jax.cli.families:FamiliesCommand", "List the task families, or what one is and its settings."
    ),
    "show": Command(
        "pgx_jax.cli.show:ShowCommand",
        "Draw a short roll-out of one task as a moving GIF or MP4, or as a PNG of its first episode.",
    ),
    "resume": Command("pgx_jax.cli.saved:ResumeCommand", "Finish a run from its last whole stage."),
    "regroup": Command(
        "pgx_jax.cli.saved:RegroupCommand",
        "Group a saved run anew (another k, penalty, score or affinity), without training.",
    ),
    "group": Command(
        "pgx_jax.cli.group:GroupCommand",
        "Group tasks by gradients of log pi that were computed elsewhere, and advantages.",
    ),
    "adapt": Command(
        "pgx_jax.cli.adapt:AdaptCommand",
        "Adapt a run's policies to a task that it has not seen: find its group, and train on.",
    ),
    "analyse": Command(
        "pgx_jax.cli.analyse:AnalyseCommand",
        "Measure what the method rests on: first order, other settings, generalisation, cost, true training.",
    ),
    "policy": Command(
        "pgx_jax.cli.policy:PolicyCommand",
        "Export a trained policy of a saved run, to be used without the run.",
    ),
    "report": Command(
        "pgx_jax.cli.saved:ReportCommand", "Write results.json and report.html of a finished run again."
    ),
    "completion": Command(
        "pgx_jax.cli.completion:CompletionCommand",
        "Print the script by which a shell completes commands and their settings.",
    ),
}


def read(args: list[str]) -> Any:
    """The command that the arguments name.

    Raises:
        ConfigError: there is no such command, or settings that cannot work.
        SystemExit: help was asked for, or the arguments are not those of the command.
    """
    name = args[0] if args else "--help"
    if name == "--version":
        Console().print(f"pgx-jax {metadata.version('pgx-jax')}", highlight=False)
        raise SystemExit(0)
    if name in ("-h", "--help"):
        Console().print(overview(), soft_wrap=True)
        raise SystemExit(0 if args else 2)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"there is no command {name!r}{hint}; the commands are {', '.join(COMMANDS)}")
    command = COMMANDS[name].load()
    if hasattr(command, "read"):
        return command.read(args[1:])
    import tyro  # after the command is known: help of all commands needs no parser

    from pgx_jax.cli.parsing import parsed

    return parsed(lambda: tyro.cli(command, prog=f"pgx-jax {name}", args=args[1:]))


WIDE = 1000
"""Columns where output is no terminal's: lines and tables are as long as they are."""


def output() -> Console:
    """Where commands print; what is piped is not wrapped (but where COLUMNS says how wide it is to be)."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=WIDE)


def overview() -> Text:
    """What ``pgx-jax --help`` says."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return Text.assemble(
        ("usage", "bold"), ": pgx-jax COMMAND [-h] …\n\nFind which tasks should share a policy.\n\n",
        ("commands", "bold"), ":\n", "\n".join(lines),
        "\n\n`pgx-jax COMMAND --help` tells a command's arguments, `pgx-jax --version` the version.",
    )  # fmt: skip


def main(args: list[str] | None = None) -> int:
    """Parse the command line and run the command; returns the exit status."""
    status = 0
    try:
        command = read(sys.argv[1:] if args is None else args)
        command(output())
    except PgxError as error:
        _tell(error, type(error).__name__)
        status = 2
    except KeyboardInterrupt as stop:
        Console(stderr=True).print(Text("; ".join(("stopped", *map(str, stop.args)))), soft_wrap=True)
        status = 130
    except Exception as error:
        if not _is_joined():
            raise
        traceback.print_exc()
        _tell(error, "if another process has ended, start all of them again with `pgx-jax resume`")
        status = 1
    if status and _is_joined():  # without waiting for the others, who cannot go on either
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _tell(error: Exception, before: str) -> None:
    """Say what has ended a command, in lines from which commands can be copied."""
    told = Text.assemble(("error:", "bold red"), f" {before}: {error}")
    Console(stderr=True).print(told, soft_wrap=True)


def _is_joined() -> bool:
    """Whether this process shares its devices with others; without loading JAX to know."""
    known = sys.modules.get("pgx_jax.mesh")
    return known is not None and known.is_joined()


if __name__ == "__main__":
    sys.exit(main())
