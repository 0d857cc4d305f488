"""What the benchmark scripts share: a result file that grows cell by cell and can be resumed.

A result file holds {"name", "command", "settings", "environments", "cells": [...]}. A cell is a
dict with its identity under "cell", the index of the environment it ran in (device, versions,
commit) under "environment", raw values, perhaps a "note" for the reader on how it was measured, and
everything that may differ between equal runs under "timings". The full presets write to
benchmarks/results/, the small ones to runs/benchmarks/.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pgx_jax.errors import ConfigError, PgxError
from pgx_jax.runs.programs import make_room
from pgx_jax.runs.provenance import environment as run_environment
from pgx_jax.runs.serial import dumps, write_atomically

# Scripts that start others share an accelerator with them.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SMALL = ROOT / "runs" / "benchmarks"
Preset = Literal["full", "small"]
CHANGES_NOTHING = {
    "ppo.final_entropy": 1.0, "policy.initial_log_std": -0.5, "policy.bonus_up_to": -0.5, "estimate.thin": 1,
    "estimate.whole_episodes": False, "ppo.limits_end": False, "ppo.desired_kl": None, "demonstrations": 0,
    "grouping.resamples": 200, "estimate.projection": "gaussian",
    "leave_out": [],
}  # fmt: skip
"""Settings that came later -> the value with which all is as before."""
EQUAL = {"estimate.affinity": ("per_task", None)}
"""Values of settings that mean the same for the families of the benchmarks (up to 30 tasks)."""


def environment() -> dict:
    """Device, processor, cores, versions and commit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return run_environment() | {"processor": processor(), "cores": cores, "machine": platform.machine()}


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def result_path(name: str, preset: Preset, out: Path | None = None) -> Path:
    """Where a script's results go: ``out``, or a folder by preset."""
    return out or (RESULTS if preset == "full" else SMALL) / f"{name}.json"


def check_known(names: Iterable[str], known: Mapping[str, Any]) -> None:
    """Refuse names of environments without settings.

    Raises:
        ConfigError: naming them.
    """
    if unknown := set(names) - set(known):
        raise ConfigError(f"no settings for {sorted(unknown)}; there are: {', '.join(known)}")


def says_errors(main: Callable[..., int]) -> Callable[..., int]:
    """A script's ``main`` that answers settings that cannot work with a line and exit status 2."""

    @functools.wraps(main)
    def say(args: list[str] | None = None) -> int:
        try:
            return main(args)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return say


def read(path: Path) -> dict:
    """A result file."""
    return json.loads(path.read_text())


def committed(name: str) -> dict | None:
    """The committed result file of a script, if there is one."""
    path = RESULTS / f"{name}.json"
    return read(path) if path.exists() else None


def leaves(settings: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping) and value
        found |= leaves(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def changed(before: Mapping, now: Mapping) -> list[str]:
    """Names of the settings that make other results now than before, "defaults.k" for instance.

    Args:
        before: of a result file.
        now: of the script.
    """
    old, new, missing = leaves(before), leaves(now), object()
    found = []
    for name in sorted(old.keys() | new):
        values, known = [each.get(name, missing) for each in (old, new)], name.removeprefix("defaults.")
        came = values[0] is missing and known in CHANGES_NOTHING and values[1] == CHANGES_NOTHING[known]
        if values[0] != values[1] and not came and not all(v in EQUAL.get(known, ()) for v in values):
            found.append(name)
    return found


def plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    return json.loads(dumps(value))


def text(data: Mapping) -> str:
    """A result file as JSON with a line for every cell."""
    head = dumps({key: value for key, value in data.items() if key != "cells"}, indent=1)
    cells = ",\n".join("  " + dumps(cell, indent=None) for cell in data["cells"])
    return f'{head[:-2]},\n "cells": [\n{cells}\n ]\n}}\n'


def uncached(**env: str) -> dict[str, str]:
    """Environment of a process that finds no programs of an earlier one, with some more variables."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    return known | {"PGX_JAX_CACHE": "off"} | env


def cpu_seconds() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in own)


def timed(args: Sequence[str], **env: str) -> tuple[dict, subprocess.CompletedProcess]:
    """Run Python in a process of its own, without a compilation cache: "wall" and "cpu" seconds, and the
    process that ended.

    Raises:
        PgxError: it failed.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.run([sys.executable, *args], env=uncached(**env), capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        shown, end = " ".join(args), process.stderr[-2000:]
        raise PgxError(f"`{shown}` ended with status {process.returncode}: {end}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu}, process


class ResultFile:
    """A result file that is saved after every cell; cells that are in it are done."""

    def __init__(self, path: Path, *, name: str, command: str, settings: Mapping | None = None):
        """Open the file, or begin it.

        Raises:
            ConfigError: the file holds results of other settings.
        """
        self.path = path
        fresh = {"name": name, "command": command, "settings": dict(settings or {})}
        self.data = plain({**fresh, "environments": [], "cells": []})
        if path.exists():
            found = read(path)
            if names := changed(found.get("settings", {}), self.data["settings"]):
                raise ConfigError(
                    f"{path} holds results of other settings ({', '.join(names)}); "
                    f"remove it or choose another file with --out"
                )
            self.data = found

    @property
    def cells(self) -> list[dict]:
        """What is done."""
        return self.data["cells"]

    def find(self, cell: Mapping) -> dict | None:
        """The result of a cell, or None if it has not run."""
        key = plain(dict(cell))
        return next((done for done in self.cells if done["cell"] == key), None)

    def add(self, cell: Mapping, result: Mapping) -> None:
        """Add the result of a cell and save the file."""
        here = plain(environment())
        if here not in self.data["environments"]:
            self.data["environments"].append(here)
        index = self.data["environments"].index(here)
        self.cells.append(plain({"cell": dict(cell), "environment": index, **result}))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, text(self.data).encode())

    def run(self, cells: Iterable[Mapping], compute: Callable[[Mapping], Mapping]) -> int:
        """Compute and save the cells that are missing, each with its time by the clock ("seconds": its own,
        if it tells one, as where it goes on from an earlier sitting) and on the processor ("cpu_seconds");
        returns how many there were."""
        ran = 0
        for cell in cells:
            if self.find(cell) is None:
                make_room()
                began, before = time.perf_counter(), cpu_seconds()
                result = dict(compute(cell))
                seconds = time.perf_counter() - began
                spent = {"seconds": seconds, "cpu_seconds": cpu_seconds() - before}
                own = result.get("timings", {})
                timings = {**own, **spent, "seconds": own.get("seconds", seconds)}
                self.add(cell, result | {"timings": timings})
                ran += 1
                print(f"{self.data['name']} {describe(cell)}: {seconds:.1f} s", flush=True)
        return ran


def describe(cell: Mapping) -> str:
    """A cell in one line, without its changes to the settings."""
    plain_ones = ({}, None, "default")
    shown = {k: v for k, v in cell.items() if k != "config" and v not in plain_ones}
    return " ".join(f"{key}={value}" for key, value in shown.items())


def check_searched(cell: Mapping, had: Any, now: Any) -> None:
    """Refuse to go on beside a cell that had other settings than a search tells now.

    Raises:
        ConfigError: naming the cell.
    """
    if had != now:
        raise ConfigError(
            f"the search tells other settings than the table's cell {describe(cell)} had; remove the cells "
            f"of this family, or choose another file with --out"
        )


def tuples(values: Mapping) -> dict:
    """The same settings with tuples in place of JSON's lists."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def merge(*changes: Mapping) -> dict:
    """Nested changes joined; later ones win."""
    out: dict = {}
    for change in changes:
        for name, value in change.items():
            both = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
            out[name] = merge(out[name], value) if both else value
    return out
