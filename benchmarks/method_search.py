"""The settings that serve every method best: `python benchmarks/method_search.py`.

Every method of the main table is trained with several entropy bonuses and step sizes (and one that falls
while it trains), on family seeds that no table uses. `main_table.py` takes, for each method and family, what earned most here. Every policy has the
batch that suits its budget (`Config.min_updates`).
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from common import RESULTS, Preset, ResultFile, read, result_path, says_errors, tuples
from study import SMALL_CONFIG, SMALL_FAMILY

from pgx_jax import learn
from pgx_jax.compare.budget import share
from pgx_jax.compare.pool import row_keys
from pgx_jax.config import Config, config_for, override
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Grouping, Rows

FAMILIES = ("cartpole-goals", "points-hard")
SEEDS = (100, 101)
"""Of the families; no other table has them."""


class Factors(NamedTuple):
    """What a family's settings are multiplied by."""

    entropy: float = 1.0
    learning_rate: float = 1.0
    final_learning_rate: float = 1.0


TRIED = (
    *itertools.starmap(Factors, itertools.product((1.0, 5.0), (0.5, 1.0, 2.0))),
    Factors(final_learning_rate=0.1),
)
"""What every method is trained with."""


class OnePolicy(NamedTuple):
    """A method that trains one policy for all tasks."""

    label: str
    policy: str
    """Name of its networks; "base" is not told its task."""
    learner: str = "ppo"


HIDDEN = {
    "pcgrad": OnePolicy("One policy for all, PCGrad", "base", "pcgrad"),
    "cagrad": OnePolicy("One policy for all, CAGrad", "base", "cagrad"),
    "famo": OnePolicy("One policy for all, FAMO", "base", "famo"),
    "gradnorm": OnePolicy("One policy for all, GradNorm", "base", "gradnorm"),
}
"""One policy for all that is not told its task, beside that of every run."""

TOLD = {
    "told_pcgrad": OnePolicy("Told, PCGrad", "told", "pcgrad"),
    "told_cagrad": OnePolicy("Told, CAGrad", "told", "cagrad"),
    "told_famo": OnePolicy("Told, FAMO", "told", "famo"),
    "told_gradnorm": OnePolicy("Told, GradNorm", "told", "gradnorm"),
    "multi_head": OnePolicy("Multi-head", "multi_head"),
    "soft_modularization": OnePolicy("Soft Modularization", "soft_modularization"),
    "paco": OnePolicy("PaCo", "paco"),
    "care": OnePolicy("CARE", "care"),
    "moore": OnePolicy("MOORE", "moore"),
}
"""One policy for all that is told its task, beside that of every run."""

OF_RUNS = {
    "one_for_all": OnePolicy("One policy for all", "base"),
    "told": OnePolicy("One policy for all, told the task", "told"),
    "groups": OnePolicy("Planted groups", "base"),
    "one_a_task": OnePolicy("One policy per task", "base"),
}
"""Kinds of policies that every run has; their settings are the run's."""

METHODS = OF_RUNS | HIDDEN | TOLD


@dataclass(frozen=True)
class Settings:
    """Train every method with several entropy bonuses and step sizes."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    families: tuple[str, ...] = FAMILIES
    """Families to train on."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to train."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of the families."""
    out: Path | None = None
    """File of the results."""


def labels(family: TaskFamily, method: str) -> np.ndarray:
    """int [n]: which policy of a method serves each task."""
    if method == "one_a_task":
        return np.arange(family.n)
    if method == "groups" and family.true_groups is not None:
        return np.asarray(family.true_groups)
    return np.zeros(family.n, int)


def scaled(learner: Any, factors: Factors) -> Any:
    """A learner with its settings times factors; an entropy bonus of 0 is taken for .01."""
    return dataclasses.replace(
        learner,
        entropy=factors.entropy * (learner.entropy or 0.01),
        learning_rate=factors.learning_rate * learner.learning_rate,
        final_learning_rate=factors.final_learning_rate * learner.final_learning_rate,
    )


def compute(cell: Mapping) -> dict:
    """Mean return of one method with all factors, all trained at the same time."""
    family = make_family(cell["family"], **tuples(cell["settings"]))
    config = override(config_for(family), cell["config"])
    method = METHODS[cell["method"]]
    base = config.policy.make(family)
    policy = learn.policies_by_name(family, base, config.policy)[method.policy]
    learner = learn.learners_by_name(config.ppo)[method.learner]
    member = Grouping(labels(family, cell["method"])).member
    steps, num_envs = share(member, config.steps_per_task * family.n, learner, config.min_updates)
    key = row_keys(config.stream("rows"), member)
    calls = []
    for tried in cell["factors"]:
        own = scaled(dataclasses.replace(learner, num_envs=int(num_envs.min())), Factors(*tried))
        unit = own.steps_per_update
        rows = Rows(member, steps // unit * unit, key, learn.init_agents(policy, family, key))
        calls.append((policy, own, rows))
    row, task = np.nonzero(member)
    returns = [
        learn.evaluate(
            policy, family, done.agents, row, task, config.stream("evaluate"), episodes=config.episodes
        ).judged_by(family.metric).mean()
        for done in learn.train_all(calls, family)
    ]  # fmt: skip
    return {"returns": [float(value) for value in returns]}


def cells(settings: Settings) -> list[dict]:
    """One cell a family, seed and method."""
    found = [
        {
            "family": family, "settings": {"seed": seed}, "method": method, "config": {},
            "factors": [list(factors) for factors in TRIED],
        }
        for family in settings.families
        for method in settings.methods
        for seed in settings.seeds
    ]  # fmt: skip
    if settings.preset == "full":
        return found
    small = {
        "settings": {"seed": 0, **SMALL_FAMILY},
        "config": SMALL_CONFIG,
        "factors": [[1, 1, 1], [1, 2, 1]],
    }
    return [cell | {"family": "points"} | small for cell in found if cell["method"] in ("told", "paco")][:1]


def chosen(data: Mapping | None, family: str, method: str) -> Factors:
    """The factors of most mean return over the family seeds; 1 where they were not searched."""
    known = [c for c in (data or {"cells": []})["cells"] if c["cell"]["family"] == family]
    known = [c for c in known if c["cell"]["method"] == method]
    if not known:
        return Factors()
    mean = np.mean([c["returns"] for c in known], axis=0)
    return Factors(*known[0]["cell"]["factors"][int(mean.argmax())])


def results(path: Path = RESULTS / "method_search.json") -> Mapping | None:
    """The result file of the search, if there is one."""
    return read(path) if path.exists() else None


@says_errors
def main(args: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("method_search", settings.preset, settings.out)
    defaults = {"defaults": dataclasses.replace(Config(), seed=0)}
    found = ResultFile(
        path, name="method_search", command="python benchmarks/method_search.py", settings=defaults
    )
    found.run(cells(settings), compute)
    for done in found.cells:
        print(done["cell"]["family"], done["cell"]["method"], done["cell"]["settings"], done["returns"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
