"""``pgx-jax completion``: how a shell completes commands and their settings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import tyro
from rich.console import Console

from pgx_jax.cli.main import COMMANDS
from pgx_jax.cli.study import STUDIES


@dataclass(frozen=True)
class CompletionCommand:
    """Print the script by which a shell completes commands and their settings."""

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """The shell that is to read it."""

    def __call__(self, console: Console) -> None:
        """Print it, as it is, for a file or an evaluation."""
        commands: dict[str, Callable[..., object]] = {name: entry.load() for name, entry in COMMANDS.items()}
        commands["study"] = STUDIES["budget"]
        with suppress(SystemExit):  # by which the parser ends once it has printed
            tyro.extras.subcommand_cli_from_dict(
                commands, prog="pgx-jax", args=["--tyro-print-completion", self.shell]
            )
