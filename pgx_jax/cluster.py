"""A Ray cluster: the library, if it is installed, and a connection."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pgx_jax.errors import ConfigError, is_address

PATIENCE = 20.0
"""Seconds in which a cluster must answer at all."""


def library() -> Any:
    """The module; it takes a second to import, and few need it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError('Ray is not installed: pip install "pgx-jax[cluster]"') from error
    return ray


@contextmanager
def connected(address: str, cores: int) -> Iterator[None]:
    """Within it Ray is there: as it was, where it is initialised already, and else connected to a cluster.

    Args:
        address: HOST:PORT, "auto" for the one that this machine belongs to, or "local" to start one here.
        cores: of one that is started.

    Raises:
        ConfigError: Ray is not installed, or no such cluster can be reached.
    """
    ray = library()
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = {"num_cpus": cores, "include_dashboard": False} if address == "local" else {}
    try:
        if is_address(address):  # Ray itself would try for minutes
            host, port = address.split(":")
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # JAX: Ray starts programs alone
            ray.init(address, logging_level="ERROR", log_to_driver=False, **here)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"no Ray cluster can be reached at {address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()
