"""Steps a second of `train` by the number of rows of one vmapped program: `python benchmarks/rows.py`.

One row a program is the batched `lax.map` with batches of one: rows wait in a queue, and every lane
(a device, or a core of the CPU) takes the next. More rows a program is `vmap`. The default of each
platform is `ROWS_PER_CALL` in pgx_jax/learn/device.py. Compilation is left out of the first cells (each
shape is trained for one update before it is timed), and so is initialising the rows; but both count in
a run, where every other number of rows is another program: the last cells time the whole default
command, each in a fresh process. Some cells also train every row in a call of its own, in turns with the
call of them all.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import default_command
import jax
import numpy as np
import tyro
from common import Preset, ResultFile, result_path
from study import SMALL_CONFIG, SMALL_FAMILY

from pgx_jax.config import override
from pgx_jax.learn import PPO, make_policy, take, train
from pgx_jax.learn.device import ROWS_PER_CALL
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Rows

FAMILY = "cartpole-goals"


@dataclass(frozen=True)
class Settings:
    """Time `train` for several numbers of rows a program, and on the CPU several lanes."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    rows_per_call: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Rows of one vmapped program."""
    lanes: tuple[int, ...] = ()
    """Programs at the same time; on the CPU 1 and the number of cores by default."""
    rows: int = 32
    """Rows to train."""
    apart: int = 16
    """Rows to train in one call and, to compare, in as many calls of one row."""
    updates: int = 4
    """Updates of each row."""
    repeats: int = 3
    """Timings of each cell; the median counts."""
    whole: tuple[int, ...] = (1, 2, 4)
    """Rows of one program with which to time the whole default command, twice in turns; not when small."""
    out: Path | None = None
    """File of the results."""


def cells(settings: Settings) -> list[dict]:
    """The cells: lanes x rows a program."""
    own = len(lanes_module()._lanes("device"))
    lanes = settings.lanes or tuple(sorted({1, own}))
    small = settings.preset == "small"
    base = {
        "platform": jax.default_backend(),
        "rows": 4 if small else settings.rows,
        "updates": 1 if small else settings.updates,
        "repeats": 1 if small else settings.repeats,
        "ppo": SMALL_CONFIG["ppo"] if small else {},
        "initialising": False,
        "hidden": SMALL_CONFIG["policy"]["hidden"] if small else [64, 64],
        "settings": SMALL_FAMILY if small else {},
    }
    widths = settings.rows_per_call[:2] if small else settings.rows_per_call
    lanes = lanes[-1:] if small else lanes
    many = base | {"rows": base["rows"] if small else settings.apart, "apart": True}
    return [
        kind | {"lanes": count, "rows_per_call": width}
        for kind in (base, many)
        for count in lanes
        for width in widths
        if width * count <= kind["rows"]
    ]


def commands(settings: Settings) -> list[dict]:
    """The cells of the whole default command, the numbers of rows in turns."""
    if settings.preset == "small":
        return []
    return [
        {
            "platform": jax.default_backend(),
            "rows_per_call": width,
            "args": ["run", FAMILY, "--rows-per-call", str(width)],
            "repeat": i,
        }
        for i in range(2)
        for width in settings.whole
    ]


def lanes_module():
    """The module of `train` (its name in the package is taken by the function)."""
    return sys.modules["pgx_jax.learn.training"]


def compute(cell: Mapping) -> dict:
    """Time one cell."""
    family = make_family(FAMILY, **cell["settings"])
    policy, config = make_policy(family, hidden=tuple(cell["hidden"])), override(PPO(), cell["ppo"])
    rng = np.random.default_rng(0)
    member = np.zeros((cell["rows"], family.n), bool)
    for row in member:
        row[rng.choice(family.n, 3, replace=False)] = True
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(0), cell["rows"]))
    agent = take(lanes_module().init_agents(policy, family, keys[:1]), 0)
    agents = jax.tree.map(lambda x: np.repeat(x[None], len(member), 0), agent)

    whole, alone = slice(None), [slice(i, i + 1) for i in range(cell["rows"])]

    def go(updates: int, which: slice = whole) -> float:
        steps = np.full(len(member), updates * config.steps_per_update)
        rows = jax.tree.map(lambda x: x[which], Rows(member, steps, keys, agents))
        began = time.perf_counter()
        train(policy, config, family, rows, rows_per_call=cell["rows_per_call"] if which == whole else 1)
        return time.perf_counter() - began

    module = lanes_module()
    devices = jax.local_devices()
    lanes = (devices * cell["lanes"])[: cell["lanes"]]
    apart: dict[str, list[float]] = {"apart": []} if cell.get("apart") else {}
    with mock.patch.object(module, "_lanes", lambda engine: lanes):
        go(1)
        go(1, alone[0])
        one, seconds = go(1), []
        for _ in range(cell["repeats"]):
            seconds.append(go(cell["updates"]))
            for known in apart.values():
                known.append(sum(go(cell["updates"], row) for row in alone))
    steps = cell["rows"] * cell["updates"] * config.steps_per_update
    rates = [steps / s for s in seconds]
    timings = {"one_update": one, "train": seconds, "steps_per_second": float(np.median(rates))}
    return {"steps": steps, "timings": timings | apart}


def best(done: list[dict]) -> dict[str, int]:
    """The fastest number of rows a program of each platform, at most lanes, once compiled."""
    out, done = {}, [c for c in done if "lanes" in c["cell"] and "apart" not in c["cell"]]
    for platform in {c["cell"]["platform"] for c in done}:
        some = [c for c in done if c["cell"]["platform"] == platform]
        most = max(c["cell"]["lanes"] for c in some)
        some = [c for c in some if c["cell"]["lanes"] == most]
        out[platform] = max(some, key=lambda c: c["timings"]["steps_per_second"])["cell"]["rows_per_call"]
    return out


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("rows", settings.preset, settings.out)
    results = ResultFile(path, name="rows", command="python benchmarks/rows.py")
    results.run(cells(settings), compute)
    results.run(commands(settings), default_command.compute)
    for done in results.cells:
        c, t = done["cell"], done["timings"]
        how = f"lanes {c['lanes']}" if "lanes" in c else "whole command"
        what = f"{t['steps_per_second']:,.0f} steps/s" if "lanes" in c else f"{t['wall']:.1f} s"
        print(f"{c['platform']}: {how}, rows {c['rows_per_call']}: {what}")
    print(f"fastest: {best(results.cells)}, committed: {ROWS_PER_CALL}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
