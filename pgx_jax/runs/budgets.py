"""The same family at several budgets: one run each, in folders of their own beside each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from pgx_jax.compare.results import Results
from pgx_jax.config import Config
from pgx_jax.errors import ConfigError
from pgx_jax.runs.records import Listener
from pgx_jax.runs.run import Run, run
from pgx_jax.runs.saved import load
from pgx_jax.tasks import TaskFamily

PARTS = (1 / 6, 1 / 3, 2 / 3, 4 / 3, 8 / 3, 16 / 3)
"""Budgets that are tried by default, as multiples of the steps a task of the settings."""


def run_budgets(
    family: TaskFamily,
    config: Config,
    steps_per_task: Sequence[int],
    seeds: Sequence[int],
    out: Path,
    listener: Listener | None = None,
) -> Iterator[tuple[int, Results]]:
    """Run all pairs of budget and seed; those that are done are read, and those that have begun go on.

    Args:
        family: the tasks.
        config: settings of all runs, but for budget and seed.
        steps_per_task: environment steps of every method, per task.
        seeds: of training.
        out: folder of the run folders.
        listener: hears about the progress of every run.

    Yields:
        (budget, results) of every run, as soon as it is done.

    Raises:
        ConfigError: no budget, no seed, or a budget that cannot work, before any work; or a folder with a run
            of other settings.
    """
    if not (steps_per_task and seeds):
        raise ConfigError("a study of budgets needs at least one budget and one seed")
    wanted = [
        dataclasses.replace(config, steps_per_task=steps, seed=seed)
        for steps in dict.fromkeys(steps_per_task)
        for seed in dict.fromkeys(seeds)
    ]
    for one in wanted:
        Run(family, one)
    for one in wanted:
        folder = out / f"steps={one.steps_per_task}-seed={one.seed}"
        yield one.steps_per_task, _results(family, one, folder, listener)


def _results(family: TaskFamily, config: Config, folder: Path, listener: Listener | None) -> Results:
    if not (folder / "config.json").is_file():
        return run(family, config, out=folder, listener=listener).results
    found = load(folder, family, listener=listener)
    if found.config != config:
        raise ConfigError(f"{folder} holds a run with other settings; choose another folder")
    found.compute().write()
    return found.results
