"""Whether what is to be opened fits into memory: asked before it is, and kept for it until it is closed."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

from pgx_jax.errors import ConfigError
from pgx_jax.tasks import TaskFamily

ROOT = Path("/")
"""Where the system's own files are."""


def available(root: Path = ROOT) -> int | None:
    """Bytes that can be taken without swapping, or more than the process's control groups may have; None
    where the system does not say."""
    found = [*_of_machine(root), *_of_groups(root)]
    return max(0, min(found)) if found else None


def _of_machine(root: Path) -> list[int]:
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    return [int(found[1]) * 1024] if found else []


def _of_groups(root: Path) -> Iterator[int]:
    """What is left of the limits of the control groups (of both versions) that the process is in. What they
    keep of files alone does not count: it is let go where memory is short."""
    known = re.findall(r"^(\d+):(.*?):(.*)$", _read(root / "proc/self/cgroup"), re.MULTILINE)
    for number, kinds, path in known:
        if number == "0":
            base, (limit, taken), files = "sys/fs/cgroup", ("memory.max", "memory.current"), "inactive_file"
        elif "memory" in kinds.split(","):
            base, files = "sys/fs/cgroup/memory", "total_inactive_file"
            limit, taken = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = root / base / path.strip("/")
        for group in (own, *(above for above in own.parents if above.is_relative_to(root / base))):
            most, now = _read(group / limit).strip(), _read(group / taken).strip()
            if most.isdigit() and now.isdigit():
                kept = re.search(rf"^{files} (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
                yield int(most) - int(now) + (int(kept[1]) if kept else 0)


def _read(path: Path) -> str:
    """A file; "" where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


class Grants:
    """What was granted and is not closed yet.

    Much of it is taken later than it is granted (vectors are made as they are reset), so that what is free
    now says too much: what was free before anything was granted, less all that is, counts as well.
    """

    def __init__(self) -> None:
        """Nothing is granted."""
        self.lock = threading.Lock()
        self.granted, self.free = 0, 0

    def left(self) -> int | None:
        """Bytes that can still be granted; None where the system does not say."""
        now = available()
        if now is None:
            return None
        self.free = max(self.free, now) if self.granted else now
        return min(now, self.free - self.granted)


GRANTS = Grants()
"""Of this process."""


class Grant:
    """Memory that is kept for some slots."""

    def __init__(self, needed: int = 0):
        """So many bytes."""
        self.needed = needed

    def release(self) -> None:
        """The slots are closed."""
        with GRANTS.lock:
            GRANTS.granted -= self.needed
        self.needed = 0


def needed(family: TaskFamily, count: int, processes: int) -> int:
    """Bytes of so many copies, of environments that say how large they are (`HostEnv.memory`), in so many
    processes (0: in vectors); 0 of others."""
    asked = getattr(family.host_env, "memory", None)
    return asked(count, family.n, processes) if asked is not None else 0


def fits(family: TaskFamily, count: int, processes: int) -> bool:
    """Whether `reserve` would grant it now."""
    with GRANTS.lock:
        left = GRANTS.left()
    return left is None or needed(family, count, processes) <= left


def reserve(family: TaskFamily, count: int, processes: int, remedy: str) -> Grant:
    """Keep the memory of so many copies, or refuse to open them.

    Args:
        family, count, processes: see `needed`.
        remedy: settings of the caller by which there would be fewer.

    Raises:
        ConfigError: with what they would take, and the remedies.
    """
    asked = needed(family, count, processes)
    with GRANTS.lock:
        left, others = GRANTS.left(), GRANTS.granted
        if left is None or asked <= left:
            GRANTS.granted += asked
            return Grant(asked)
    kept = f" beside those that are open ({others / 2**30:.1f} GiB)" if others else ""
    raise ConfigError(
        f"{count} environments of {family.name!r} take about {asked / 2**30:.1f} GiB, and "
        f"{max(0, left) / 2**30:.1f} GiB are free{kept}; {remedy}, or free some memory"
    )
