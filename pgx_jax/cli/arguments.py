"""Arguments that several commands share: which family, with which settings."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console

from pgx_jax.cli.parsing import parse_settings
from pgx_jax.errors import ConfigError
from pgx_jax.learn.host import on_ray
from pgx_jax.mesh import described, is_joined, join, leads, use_devices
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family

_Settings = tyro.conf.arg(
    name="set",
    metavar="KEY=VALUE [KEY=VALUE ...]",
    help="Settings of the family; `pgx-jax families FAMILY` lists them.",
)


_Join = tyro.conf.arg(metavar="HOST:PORT PROCESSES NUMBER | auto")


@dataclass(frozen=True, kw_only=True)
class DeviceArguments:
    """On which devices a command computes."""

    devices: int | None = None
    """Devices that rows, subsets and transitions are spread over; all that JAX has by default. Of a CPU there
    are as many as are asked for, on cores that all share; of each process where several join."""
    join: Annotated[tuple[str, ...], _Join] = ()
    """Share the devices of several processes, on this machine or others, each started with this command and
    its own number: the address of process 0, how many there are, and which one this is, from 0 on. "auto"
    where the cluster's manager tells (Slurm, Open MPI, TPU pods). Process 0 alone writes and prints."""

    ray: str | None = None
    """Ray cluster (HOST:PORT, auto for this machine's, local to start one here; extra `cluster`) whose
    processes step the environments, where these are stepped by processes."""

    def stepping(self, family: TaskFamily | None = None) -> AbstractContextManager[None]:
        """Within it the processes that step environments are where they are to be.

        Raises:
            ConfigError: no cluster, or none that this family has use for.
        """
        if self.ray is None:
            return nullcontext()
        if family is not None and (family.engine == "device" or getattr(family.env, "processes", 1) == 1):
            raise ConfigError(
                f"--ray {self.ray}: no processes step the environments of {family.name!r}; leave it out, or "
                f"give the environment `processes` (`pgx-jax sweep --ray` runs whole runs on a cluster)"
            )
        return on_ray(self.ray)

    def settle(self) -> None:
        """Take the devices, before anything is computed.

        Raises:
            ConfigError: there are none such, or other processes that cannot be met.
        """
        if self.join and not is_joined():
            where = self._meeting()
            if self.devices:
                jax.config.update("jax_num_cpu_devices", self.devices)
            Console(stderr=True).print(f"meeting other processes ({' '.join(self.join)})", highlight=False)
            join(*where)
        use_devices(self.devices)

    def _meeting(self) -> tuple[str, int, int] | tuple[()]:
        if self.join == ("auto",):
            return ()
        address, *numbers = self.join
        if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
            told = " ".join(self.join)
            raise ConfigError(f"--join {told}: give HOST:PORT, how many processes, and which one; or auto")
        return address, int(numbers[0]), int(numbers[1])

    def told(self, console: Console) -> Console:
        """Where a command prints from here on: the devices first, and nothing from other processes than the
        first."""
        heard = console if leads() else Console(quiet=True)
        heard.print(f"on {described()}", highlight=False)
        return heard


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
