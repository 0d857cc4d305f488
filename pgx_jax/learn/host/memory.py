"""Whether what is to be opened fits into memory; asked before it is."""

from __future__ import annotations

import re
from pathlib import Path

from pgx_jax.errors import ConfigError
from pgx_jax.tasks import TaskFamily

MEMINFO = Path("/proc/meminfo")
"""Where Linux says what is free."""


def available(meminfo: Path = MEMINFO) -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def check_memory(family: TaskFamily, count: int, processes: int) -> None:
    """Refuse to open more copies than fit, of environments that say how large they are (`HostEnv.memory`), in
    so many processes (0: in vectors).

    Raises:
        ConfigError: with what they would take, and the remedies.
    """
    asked, free = getattr(family.host_env, "memory", None), available()
    needed = asked(count, family.n, processes) if asked is not None else 0
    if free is not None and needed > free:
        raise ConfigError(
            f"{count} environments of {family.name!r} take about {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB are free; lower ppo.num_envs or rows_per_call, or free some memory"
        )
