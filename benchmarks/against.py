"""This code against another checkout of it: `python benchmarks/against.py CHECKOUT`.

Whole processes in turns, without a compilation cache: two runs of the command line (compilations counted,
their results.json compared), the estimation of `estimation.py`, and PPO's learning curves over seeds, each
with its own checkout's code.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import ROOT, Preset, ResultFile, merge, result_path, says_errors, timed
from study import SMALL_CONFIG, SMALL_FAMILY, cell, command_line

from pgx_jax.errors import ConfigError

SIDES = ("before", "now")
RUNS = {
    "the default command": ("run", "cartpole-goals"),
    "a short run of lunarlander": (
        *("run", "lunarlander", "--steps-per-task", "10240"), *("--ppo.num-envs", "16", "--episodes", "8"),
    ),
}  # fmt: skip
"""What is run -> arguments of the command line."""
COMPILED = "Finished XLA compilation"
"""What JAX logs of each program that it compiles."""
ESTIMATION = "estimation, warm"
ESTIMATE = """
import json, statistics, time
from pgx_jax import make_family
from pgx_jax.config import config_for
from pgx_jax.runs.run import Run
family = make_family("cartpole-goals")
run = Run(family, config_for(family)).compute("scores")
def once():
    for stage in ("features", "scores"):
        del run.records[stage]
    began = time.perf_counter()
    run.compute("scores")
    return time.perf_counter() - began
once()
print(json.dumps({"with_features": statistics.median(once() for _ in range(5))}))
"""
LEARN = """
import json, sys
import jax, numpy as np
from pgx_jax import make_family
from pgx_jax.config import config_for
from pgx_jax.learn import make_policy, train
from pgx_jax.types import Rows
name, seeds, updates, parts = sys.argv[2], *map(int, sys.argv[3:])
family = make_family(name)
config = config_for(family)
policy = make_policy(family, hidden=config.policy.hidden)
member = np.eye(family.n, dtype=bool)[np.arange(seeds) % family.n]
keys = np.asarray(jax.random.split(jax.random.PRNGKey(1), seeds))
steps = np.full(seeds, updates * config.ppo.num_envs * config.ppo.num_steps)
returns = np.nanmax(train(policy, config.ppo, family, Rows(member, steps, keys)).returns, 2)  # one task each
means = [np.nanmean(part, 1).tolist() for part in np.array_split(returns, parts, 1)]
print(json.dumps({"returns": means}))
"""
SEEDS, UPDATES, PARTS = 20, 40, 4
"""Of learning curves: policies of a task each, their updates, and the parts over which returns are means."""
SCRIPTS = {ESTIMATION: (ESTIMATE,)} | {
    f"PPO on single tasks of {name}": (LEARN, name, str(SEEDS), str(UPDATES), str(PARTS))
    for name in ("cartpole-goals", "points-hard", "reacher-targets")
}
"""What is measured -> the script, which gets the folder of its benchmarks first, and its arguments."""
SMALL_CELL = cell("cartpole-goals", SMALL_FAMILY, config=merge(SMALL_CONFIG, {"compare": "none"}))


@dataclass(frozen=True)
class Settings:
    """Time this code and another checkout's, in turns."""

    checkout: tyro.conf.Positional[Path]
    """Folder of the other checkout."""
    preset: Preset = "full"
    """full: what the README shows; small: one short run each, for tests."""
    rounds: int = 2
    """Processes of each checkout."""
    out: Path | None = None
    """File of the results."""


def one(checkout: Path, subject: str, args: Sequence[str]) -> tuple[dict, dict]:
    """One process, a script or a run of the command line: times, and results."""
    env = {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1", "JAX_LOG_COMPILES": "1"}
    if subject in SCRIPTS:
        script, *more = args
        timings, process = timed(("-c", script, str(checkout / "benchmarks"), *more), **env)
        told = json.loads(process.stdout.splitlines()[-1])
        return (timings, told) if "returns" in told else (timings | told, {})
    with tempfile.TemporaryDirectory() as folder:
        timings, process = timed(("-m", "pgx_jax", *args, "--out", f"{folder}/run"), **env)
        results = json.loads(Path(folder, "run", "results.json").read_text())  # of any version
    del results["timings"]
    return timings | {"compilations": process.stderr.count(COMPILED)}, results


def compute(c: Mapping, checkouts: Mapping[str, Path], args: Sequence[str]) -> dict:
    """One process of each side, in every second round the other one first."""
    order = list(checkouts)[:: -1 if c["round"] % 2 else 1]
    found = {side: one(checkouts[side], c["subject"], args) for side in order}
    before, now = (found[side][1] for side in SIDES)
    compared = {"returns": {side: found[side][1]["returns"] for side in SIDES}} if "returns" in now else {}
    return compared | {
        "differences": differences({}, {}) if compared else differences(before, now),
        "timings": {side: found[side][0] for side in SIDES},
    }


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The path and the value of every leaf of plain JSON."""
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def differences(before: Mapping, now: Mapping) -> dict:
    """Between two results: fields that one alone has, and how many of the values of both differ."""
    old, new = dict(leaves(before)), dict(leaves(now))
    return {
        "gone": sorted(fields(old) - fields(new)),
        "added": sorted(fields(new) - fields(old)),
        "values": len(old.keys() & new.keys()),
        "differ": sum(old[key] != new[key] for key in old.keys() & new.keys()),
    }


def fields(paths: Iterable[str]) -> set[str]:
    """Paths without the places in lists, whose lengths differ with the groups."""
    return {re.sub(r"\.\d+", "", path) for path in paths}


def summary(cells: Sequence[Mapping]) -> list[dict]:
    """For every subject: medians of both sides over the rounds, and of the ratios."""
    found = []
    for name in dict.fromkeys(c["cell"]["subject"] for c in cells):
        rounds = [c["timings"] for c in cells if c["cell"]["subject"] == name]
        for key in ("with_features",) if name == ESTIMATION else ("wall", "cpu"):
            before, now = (np.array([r[side][key] for r in rounds]) for side in SIDES)
            counts = [rounds[0][side].get("compilations") for side in SIDES]
            medians = (float(np.median(x)) for x in (before, now, now / before))
            numbers = dict(zip(("before", "now", "ratio"), medians, strict=True))
            found.append({"subject": name, "time": key, **numbers, "compilations": counts})
    return found


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    if not (settings.checkout / "pgx_jax" / "__init__.py").exists():
        raise ConfigError(f"{settings.checkout} is no checkout: it has no pgx_jax/__init__.py")
    other = settings.checkout.resolve()
    git = subprocess.run(["git", "-C", other, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    small = settings.preset == "small"
    subjects = {"a short run": command_line(SMALL_CELL)} if small else RUNS | SCRIPTS
    results = ResultFile(
        result_path("against", settings.preset, settings.out),
        name="against", command="python benchmarks/against.py CHECKOUT",
        settings={"before": git.stdout.strip() or "unknown"},
    )  # fmt: skip
    checkouts = dict(zip(SIDES, (other, ROOT), strict=True))
    rounds = 1 if small else settings.rounds
    once = set(SCRIPTS) - {ESTIMATION}  # other rounds would be the same
    cells = [{"subject": name, "round": i} for name in subjects for i in range(1 if name in once else rounds)]
    results.run(cells, lambda c: compute(c, checkouts, subjects[c["subject"]]))
    for row in summary(results.cells):
        seconds = f"{row['before']:.2f} s, now {row['now']:.2f} s"
        print(f"{row['subject']}, {row['time']}: {seconds} ({row['ratio']:.2f} of it)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
