"""Compiled programs are kept for the next process, in the user's cache folder, and are forgotten by this one
where they become too many.

Half of a short run's time goes into compiling. JAX's persistent cache keeps what was compiled; here it is
turned on for runs, small programs too, in a folder for each kind of machine: programs that were compiled
for another processor may not run on this one.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import os
import platform
from pathlib import Path

import jax
import platformdirs
from jax.experimental.compilation_cache import compilation_cache

from pgx_jax.steady import usable_cores

VARIABLE = "PGX_JAX_CACHE"
"""Environment variable: another folder for the programs, or "off"."""

LIMIT = 2**30
"""Bytes that are kept; above, half of them go, those first that were not used for longest."""


def keep_programs() -> Path | None:
    """Let JAX keep what it compiles from here on, and use what it kept.

    Does nothing where a cache has been chosen already (``jax_compilation_cache_dir``,
    ``JAX_COMPILATION_CACHE_DIR``), where `VARIABLE` says "off", or where the folder cannot be written to.

    Returns:
        The folder that it has turned on, or None.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen == "off" or jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return None
    parent = Path(chosen or platformdirs.user_cache_path("pgx_jax") / "programs")
    folder = parent / machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        prune(parent, LIMIT)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # JAX decides with its first program whether there is a cache
    return folder


def make_room(most: float | None = None) -> bool:
    """Forget the programs that this process has compiled, where it has more than ``most`` maps of memory (by
    default half of what Linux lets it have: beyond all of them, LLVM ends the process). Each program takes
    some, a run hundreds. Does nothing where the system does not tell.

    Returns:
        Whether it did.
    """
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text()) / 2 if most is None else most
        maps = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return False
    if maps > limit:
        jax.clear_caches()
        gc.collect()
    return maps > limit


@functools.cache
def machine() -> str:
    """A name for machines that can run each other's programs: processor with its features, and cores."""
    told = [platform.machine(), platform.processor(), str(usable_cores())]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told += sorted({x for x in lines if x.startswith(("model name", "flags", "Features", "CPU part"))})
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def prune(folder: Path, limit: int) -> None:
    """Where a folder's files take more than ``limit`` bytes, remove the longest unused until half is left."""
    files = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    total = sum(found.st_size for _, found in files)
    if total <= limit:
        return
    for path, found in sorted(files, key=lambda file: max(file[1].st_atime, file[1].st_mtime)):
        if total <= limit // 2:
            return
        path.unlink(missing_ok=True)
        total -= found.st_size
