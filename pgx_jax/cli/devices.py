"""Arguments of commands that train: on which devices, and where environments are stepped."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from pgx_jax.errors import ConfigError
from pgx_jax.learn.host import on_ray
from pgx_jax.mesh import in_use, is_joined, join, leads, use_devices
from pgx_jax.tasks import TaskFamily

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
            Console(stderr=True).print(f"meeting other processes ({' '.join(self.join)})", highlight=False)
            join(*where, devices=self.devices)
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
        heard.print(f"on {in_use()}", highlight=False)
        return heard
