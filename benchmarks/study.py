"""Whole runs over families, seeds and settings: `python benchmarks/study.py goals`.

Every cell is one run of the method in this process (those of `options` go through the command
line). A study saves its file after every cell; started again it continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import tyro
from common import Preset, ResultFile, describe, merge, result_path, says_errors, tuples
from msgspec import Struct

from pgx_jax.cli import main as cli
from pgx_jax.compare.results import Results, from_plain, to_plain
from pgx_jax.config import Config, config_for, override
from pgx_jax.errors import ConfigError
from pgx_jax.runs.run import run
from pgx_jax.tasks.describing import describe_family
from pgx_jax.tasks.registry import make_family

Cell = dict
"""{"family", "settings" (of the family), "seed", "config" (changes to the default), "label"}."""


def cell(
    family: str, settings: Mapping, seed: int = 0, config: Mapping | None = None, label: str = "default"
):
    """The identity of one run."""
    return {
        "family": family, "settings": dict(settings), "seed": seed,
        "config": dict(config or {}), "label": label,
    }  # fmt: skip


def per_seed(family: str, family_seeds: int, seeds: int = 1, first: int = 0, **settings) -> list[Cell]:
    """All pairs of a family's seed and a training seed, with every comparison of the report."""
    return [
        cell(family, {"seed": f, **settings}, seed, {"compare": "fast"})
        for f in range(first, first + family_seeds)
        for seed in range(seeds)
    ]


def oracle(family: str) -> list[Cell]:
    """Few enough tasks that all partitions can be searched by true training."""
    config = {"compare": "full"}
    return [cell(family, {"seed": seed, "n_tasks": 5}, 0, config) for seed in range(6, 9)]


def sizes() -> list[Cell]:
    """Numbers of tasks and of planted groups."""
    pairs = ((5, 2), (8, 2), (10, 3), (10, 5), (13, 4), (16, 5))
    return [
        cell(family, {"n_tasks": n, "n_groups": k, "seed": seed}, config={"compare": "none"})
        for seed in range(1)
        for family in ("cartpole-goals", "points")
        for n, k in pairs
    ]


def scales() -> list[Cell]:
    """A third of the tasks with rewards of a hundredth, a third with a hundredfold."""
    settings = {"reward_scales": [1.0, 0.01, 100.0]}
    return [
        cell(family, settings | {"seed": seed}, config={"compare": "none"})
        for family in ("cartpole-goals", "points")
        for seed in range(3)
    ]


ROLLOUTS = {
    "steps_per_task": 600_000,
    "meta_fraction": 0.05,
    "estimate": {"score": "rollouts", "rollout_episodes": 64},
}
"""Roll-outs of 120 triples with 64 episodes take up to 4.6 M steps: the total is raised to pay for
them, and the meta-policy keeps about the steps that it has by default."""

OPTIONS = {
    "default": {},
    "score=importance": {"estimate": {"score": "importance"}},
    "score=rollouts lift=dual": ROLLOUTS,
    "score=rollouts lift=projection": merge(ROLLOUTS, {"estimate": {"lift": "projection"}}),
    "solver=lbfgs": {"estimate": {"solver": "lbfgs"}},
    "affinity=aggregate": {"estimate": {"affinity": "aggregate"}},
    "affinity=datamodel": {"estimate": {"affinity": "datamodel"}},
    "affinity=closed_form": {"estimate": {"affinity": "closed_form"}},
}


def options() -> list[Cell]:
    """Every option of score, lift, solver and affinity, one at a time."""
    return [
        cell("cartpole-goals", {"seed": seed}, config=merge({"compare": "none"}, changes), label=label)
        for seed in range(1)
        for label, changes in OPTIONS.items()
    ]


BUDGETS = (5_120, 10_240, 20_480, 40_960, 81_920, 163_840)


def budgets(
    family: str, family_seeds: int = 3, seeds: int = 5, first: int = 6, steps=BUDGETS, **settings
) -> list[Cell]:
    """Several totals of steps, one seed after the other, so that what is done so far can be shown."""
    return [
        cell(family, {"seed": f, **settings}, seed, {"compare": "fast", "steps_per_task": budget})
        for seed in range(seeds)
        for f in range(first, first + family_seeds)
        for budget in steps
    ]


def many(n: int, k: int) -> list[Cell]:
    """Many planted groups, with the budget that they need, on family seeds that nothing was tuned on."""
    settings = {"n_tasks": n, "n_groups": k}
    config = {"compare": "fast", "steps_per_task": 122_880}
    return [cell("cartpole-goals", settings | {"seed": seed}, 0, config) for seed in range(6, 9)]


LOOKS = {
    "once, at half": {"looks": 1, "meta_fraction": 0.5},
    "once, at a quarter": {"looks": 1},
    "twice, from a quarter": {},
    "three times, from an eighth": {"looks": 3, "meta_fraction": 0.125},
    "four times, from a sixteenth": {"looks": 4, "meta_fraction": 0.0625},
    "once, groups from scratch": {"looks": 1, "continue_meta": False},
}


def looks() -> list[Cell]:
    """How often to look, and what groups start from, on the seeds of the families on which settings are
    chosen."""
    return [
        cell(family, {"seed": f}, seed, {"compare": "none", "steps_per_task": steps} | changes, label)
        for family, tried in (("cartpole-goals", BUDGETS[1:4]), ("points-hard", BUDGETS[2:3]))
        for f in (100, 101)
        for seed in range(2)
        for steps in tried
        for label, changes in LOOKS.items()
    ]


STUDIES: dict[str, Callable[[], list[Cell]]] = {
    "goals": lambda: per_seed("cartpole-goals", 3, seeds=5),
    "goals_fresh": lambda: per_seed("cartpole-goals", 3, seeds=5, first=6),
    "physics": lambda: per_seed("cartpole-physics", 3),
    "flip": lambda: per_seed("cartpole-flip", 3),
    "points": lambda: per_seed("points", 3),
    "points_hard": lambda: per_seed("points-hard", 3),
    "highway_objectives": lambda: per_seed("highway-objectives", 1, seeds=5),
    "reacher": lambda: per_seed("reacher-targets", 1, seeds=5),
    "highway_traffic": lambda: per_seed("highway-traffic", 1),
    "lunarlander": lambda: per_seed("lunarlander", 1),
    "halfcheetah": lambda: per_seed("halfcheetah-velocities", 1),
    "budget_goals": lambda: budgets("cartpole-goals"),
    "budget_goals_5": lambda: budgets("cartpole-goals", n_groups=5),
    "budget_goals_30": lambda: budgets("cartpole-goals", n_tasks=30, n_groups=3),
    "budget_points_hard": lambda: budgets("points-hard"),
    "budget_physics": lambda: budgets("cartpole-physics"),
    "budget_reacher": lambda: budgets("reacher-targets", family_seeds=1, seeds=3, first=7),
    "budget_highway_objectives": lambda: budgets("highway-objectives", family_seeds=1, seeds=3),
    "many_10_5": lambda: many(10, 5),
    "many_13_4": lambda: many(13, 4),
    "many_16_5": lambda: many(16, 5),
    "oracle_goals": lambda: oracle("cartpole-goals"),
    "oracle_points_hard": lambda: oracle("points-hard"),
    "sizes": sizes,
    "scales": scales,
    "options": options,
    "looks": looks,
}

SMALL_CONFIG = {
    "steps_per_task": 1024, "collect_fraction": 0.5, "min_updates": 1,
    "random_draws": 1, "episodes": 4, "test_tasks": 0, "trial_episodes": 2,
    "policy": {"hidden": [8]},
    "ppo": {"num_envs": 8, "num_steps": 32, "epochs": 1, "minibatches": 2},
    "estimate": {"steps": 256, "num_envs": 8, "dim": 40, "rollout_episodes": 1},
}  # fmt: skip
"""Seconds instead of minutes, and no sensible groups."""


SMALL_FAMILY = {"n_tasks": 4, "n_groups": 2, "horizon": 20}


def small(full: Cell) -> Cell:
    """The same cell, shrunk to four tasks of the family."""
    known = settings_of(full["family"])
    settings = full["settings"] | {name: v for name, v in SMALL_FAMILY.items() if name in known}
    return full | {"settings": settings, "config": merge(full["config"], SMALL_CONFIG)}


@functools.cache
def settings_of(family: str) -> frozenset[str]:
    """Names of a family's settings."""
    return frozenset(setting.name for setting in describe_family(family).settings)


def study_cells(name: str, preset: Preset) -> list[Cell]:
    """All cells of a study.

    Raises:
        ConfigError: there is no such study.
    """
    if name not in STUDIES:
        raise ConfigError(f"there is no study {name!r}; the studies are: {', '.join(STUDIES)}")
    cells = STUDIES[name]()
    if preset == "small":
        shrunk = [small(c) for c in cells]
        cells = [c for i, c in enumerate(shrunk) if c not in shrunk[:i]]
    return cells


def run_here(c: Cell) -> Results:
    """Run a cell in this process."""
    family = make_family(c["family"], **tuples(c["settings"]))
    config = override(dataclasses.replace(config_for(family), seed=c["seed"]), c["config"])
    return run(family, config).results


def command_line(c: Cell) -> list[str]:
    """The arguments of `pgx-jax` that run a cell."""
    args = ["run", c["family"], "--seed", str(c["seed"])]
    settings = dict(c["settings"])
    for setting, flag in (("seed", "--family-seed"), ("n_tasks", "--n-tasks")):
        if setting in settings:
            args += [flag, str(settings.pop(setting))]
    if settings:
        args += ["--set", *(f"{key}={value}" for key, value in settings.items())]
    return args + flags(c["config"])


def flags(changes: Mapping, prefix: str = "") -> list[str]:
    """Changes to the settings as flags, --estimate.score rollouts."""
    out = []
    for key, value in changes.items():
        name = prefix + key.replace("_", "-")
        if isinstance(value, Mapping):
            out += flags(value, f"{name}.")
        else:
            out += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return out


def run_by_command(c: Cell) -> Results:
    """Run a cell through the command line.

    Raises:
        ConfigError: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        args = [*command_line(c), "--out", str(Path(folder) / "run")]
        status = cli.main(args)
        if status:
            raise ConfigError(f"`pgx-jax {' '.join(args)}` ended with status {status}")
        return from_plain(json.loads((Path(folder) / "run" / "results.json").read_text()))


KEPT = ("k", "groups", "true_groups", "task_names", "agreement", "methods", "gain", "advice", "affinity")
"""What a cell keeps of results.json as it is."""


def record(found: Results) -> dict:
    """The raw values of a run: everything but curves and candidates."""
    out = {name: value for name, value in to_plain(found).items() if name in KEPT}
    out["diagnostics"] = _without(found.diagnostics, "affinity_ci95")
    out["path"] = _without(found.path, "labels")
    if found.test_tasks:
        out["test_tasks"] = _without(found.test_tasks, "names", "assigned", "method")
    if "multitask" in found.curves:
        out["beginning"] = found.curves["multitask"].returns[0]
    return out | {"timings": {"run": to_plain(found.timings)}}


def _without(found: Struct, *names: str) -> dict:
    return {name: value for name, value in to_plain(found).items() if name not in names}


def summary(result: Mapping) -> str:
    """A cell's result in a line."""
    agreement = result.get("agreement")
    parts = [f"k={result['k']}", f"NMI={agreement['nmi']:.2f}" if agreement else "no planted groups"]
    return " ".join(parts + [f"{name} {m['mean']:.1f}" for name, m in result["methods"].items()])


@dataclasses.dataclass(frozen=True)
class Settings:
    """Run the named studies; cells that are done are skipped."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Names of studies; an unknown one is answered with all of them."""
    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Only cells whose one-line description contains this text (may be repeated)."""
    limit: int | None = None
    """Stop after this many new cells."""
    out: Path | None = None
    """Folder of the results; benchmarks/results (full) or runs/benchmarks (small) by default."""
    list: bool = False
    """Show the cells and stop."""


def run_study(name: str, settings: Settings) -> int:
    """Run the missing cells of a study; returns how many ran."""
    cells = [
        c for c in study_cells(name, settings.preset) if all(text in describe(c) for text in settings.only)
    ]
    if settings.list:
        print("\n".join(describe(c) for c in cells))
        return 0
    file = f"study_{name}"
    path = result_path(file, settings.preset, settings.out and settings.out / f"{file}.json")
    defaults = {"preset": settings.preset, "defaults": dataclasses.replace(Config(), seed=0)}
    results = ResultFile(path, name=file, command=f"python benchmarks/study.py {name}", settings=defaults)
    by_command = name == "options"

    def compute(c: Cell) -> dict:
        began = time.process_time()
        result = record(run_by_command(c) if by_command else run_here(c))
        result["timings"]["cpu_seconds"] = time.process_time() - began
        if by_command:
            result["command"] = " ".join(["pgx-jax", *command_line(c)])
        print(summary(result), flush=True)
        return result

    todo = [c for c in cells if results.find(c) is None][: settings.limit]
    return results.run(todo, compute)


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    for name in settings.names:
        run_study(name, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
