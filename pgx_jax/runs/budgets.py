"""The same family at several budgets: one run each, in folders of their own beside each other, those of
different seeds at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from pgx_jax.compare.results import Results
from pgx_jax.config import Config
from pgx_jax.errors import ConfigError
from pgx_jax.runs.run import Run, begin
from pgx_jax.runs.saved import load
from pgx_jax.runs.seeds import Listeners, finish, given_back, told
from pgx_jax.runs.watching.listener import Listener
from pgx_jax.tasks import TaskFamily

PARTS = (1 / 6, 1 / 3, 2 / 3, 4 / 3, 8 / 3, 16 / 3)
"""Budgets that are tried by default, as multiples of the steps a task of the settings."""


def run_budgets(
    family: TaskFamily,
    config: Config,
    steps_per_task: Sequence[int],
    seeds: Sequence[int],
    out: Path,
    listener: Listeners | None = None,
) -> Iterator[tuple[int, Results]]:
    """Run all pairs of budget and seed; those that are done are read, and those that have begun go on.

    Args:
        family: the tasks.
        config: settings of all runs, but for budget and seed.
        steps_per_task: environment steps of every method, per task.
        seeds: of training.
        out: folder of the run folders.
        listener: makes what hears about the progress of the runs of a seed.

    Yields:
        (budget, results) of every run, as soon as all seeds of the budget are done.

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
    for steps, some in groupby(wanted, key=lambda one: one.steps_per_task):
        with given_back() as runs:
            for one in some:
                place = out / run_folder(steps, one.seed)
                runs.append(opened(family, one, place, listener and listener(one.seed)))
            if errors := finish(runs):
                raise told(errors)
        for done in runs:
            yield steps, done.results


def run_folder(steps_per_task: int, seed: int) -> str:
    """Name of the folder of a run."""
    return f"steps={steps_per_task}-seed={seed}"


def opened(family: TaskFamily, config: Config, folder: Path, listener: Listener | None = None) -> Run:
    """The run of a folder, new or as far as it has come.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    if not (folder / "config.json").is_file():
        return begin(family, config, out=folder, listener=listener)
    found = load(folder, family, listener=listener)
    if found.config != config:
        raise ConfigError(f"{folder} holds a run with other settings; choose another folder")
    return found
