"""The default command as a whole process, compilation included: `python benchmarks/default_command.py`.

Runs `pgx-jax run cartpole-goals` in processes of their own, and takes wall and CPU time: some that
compile all their programs, and one that finds those of an earlier run. With the same seed, their
results.json must be the same apart from "timings".

What the command tells at its end stands in the README.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro
from common import Preset, ResultFile, merge, result_path, timed
from study import SMALL_CONFIG, SMALL_FAMILY, cell, command_line, record

from pgx_jax.compare.results import from_plain

TARGET_SECONDS = 180
"""On 2 CPU cores, installation apart."""
COLUMNS = "96"
"""Width of what the command tells."""
SMALL_CELL = cell("cartpole-goals", SMALL_FAMILY, config=merge(SMALL_CONFIG, {"compare": "none"}))


@dataclass(frozen=True)
class Settings:
    """Time the default command."""

    preset: Preset = "full"
    """full: what the README shows; small: a short run, for tests."""
    repeats: int = 2
    """Processes that compile their programs, all with the same seed."""
    args: tuple[str, ...] = ()
    """Further arguments of the command."""
    out: Path | None = None
    """File of the results."""


def compute(c: Mapping) -> dict:
    """Run the command once.

    Raises:
        PgxError: it failed.
    """
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        args = ["-m", "pgx_jax", *c["args"], "--overwrite", "--out", f"{folder}/run"]
        kept = {"PGX_JAX_CACHE": f"{folder}/programs"} if c.get("programs") == "kept" else {}
        if kept:
            timed(args, **kept)
        spent, process = timed(args, COLUMNS=COLUMNS, **kept)
        told = process.stdout.partition("\n\n")[2].strip().replace(f"{folder}/run/", "runs/…/")
        results = json.loads(Path(folder, "run", "results.json").read_text())
    timings = spent | {
        "load_before": load,
        "max_rss_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }
    values = record(from_plain(results))
    timings |= values["timings"]
    del results["timings"]
    made = {"results": fingerprint(results), "told": told}
    return values | made | {"timings": timings, "limit_seconds": TARGET_SECONDS}


def fingerprint(results: Mapping) -> str:
    """A hash of everything but the timings."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    small = settings.preset == "small"
    command = [*(command_line(SMALL_CELL) if small else ("run", "cartpole-goals")), *settings.args]
    path = result_path("default_command", settings.preset, settings.out)
    results = ResultFile(path, name="default_command", command="python benchmarks/default_command.py")
    here = {"platform": jax.default_backend(), "args": command}
    ways = [*({"repeat": i} for i in range(settings.repeats)), {"repeat": 0, "programs": "kept"}]
    results.run([here | way for way in ways], compute)
    done = [c for c in results.cells if here.items() <= c["cell"].items()]
    for c in done:
        print(f"wall {c['timings']['wall']:.1f} s, cpu {c['timings']['cpu']:.1f} s")
    same = len({c["results"] for c in done}) == 1
    print("equal results apart from timings" if same else "THE RESULTS DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
