"""Arguments that several commands share: which family, with which settings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import tyro

from pgx_jax.cli.parsing import parse_settings
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family

_Settings = tyro.conf.arg(
    name="set",
    metavar="KEY=VALUE [KEY=VALUE ...]",
    help="Settings of the family; `pgx-jax families FAMILY` lists them.",
)


@dataclass(frozen=True, kw_only=True)
class FamilySettings:
    """With which settings a family is built."""

    family_seed: int | None = None
    """Seed of the family: which task is in which group, and its variation (the family's own default)."""
    n_tasks: int | None = None
    """Number of tasks of the family."""
    settings: Annotated[tuple[tuple[str, ...], ...], _Settings, tyro.conf.UseAppendAction] = ()
    """What follows each --set."""

    def family_settings(self) -> dict[str, Any]:
        """The settings given for the family.

        Raises:
            ConfigError: two of them contradict.
        """
        settings = parse_settings(chain(*self.settings))
        for name, flag, value in (
            ("seed", "--family-seed", self.family_seed),
            ("n_tasks", "--n-tasks", self.n_tasks),
        ):
            if value is not None and settings.setdefault(name, value) != value:
                raise ConfigError(
                    f"{flag} {value} contradicts --set {name}={settings[name]}; give one of them"
                )
        return settings


@dataclass(frozen=True)
class FamilyArguments(FamilySettings):
    """Which family, with which settings."""

    family: tyro.conf.Positional[str]
    """Name of a task family; `pgx-jax families` lists them."""

    def make_family(self) -> TaskFamily:
        """Build the family.

        Raises:
            ConfigError: an unknown family, a setting that cannot work, or two that contradict.
        """
        return make_family(self.family, **self.family_settings())
