"""The settings that serve every method best: `python benchmarks/method_search.py`.

Every method of the main table is trained with several entropy bonuses and step sizes (and some that fall
while it trains; ours then also with less and with more meta-training), on family seeds that no table of
methods uses. `main_table.py` takes, for each method and family, what earned most here, if that is clearly
more than with the family's settings. Where what earned most lies at an end of what was tried, more is tried
beyond it. Every policy has the batch that suits its budget (`Config.min_updates`). Started again it goes on
where it stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from common import Preset, ResultFile, committed, result_path, says_errors, tuples
from study import SMALL_CONFIG, SMALL_FAMILY

from pgx_jax import learn
from pgx_jax.compare.budget import share
from pgx_jax.compare.methods import Named
from pgx_jax.compare.pool import row_keys
from pgx_jax.compare.results import OURS
from pgx_jax.config import Config, config_for, override
from pgx_jax.runs.run import run
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Grouping, Rows

FAMILIES = (
    "cartpole-goals",
    "points-hard",
    "reacher-targets",
    "highway-objectives",
    "highway-traffic",
    "lunarlander",
)
"""Those of the table on which not every method reaches the largest return."""
SEEDS = (100, 101)
"""Of the families; no table of methods has them."""


class Factors(NamedTuple):
    """What a family's settings are multiplied by."""

    entropy: float = 1.0
    learning_rate: float = 1.0
    final_learning_rate: float = 1.0
    final_entropy: float = 1.0
    meta_fraction: float = 1.0
    """Of ours alone."""


TRIED = (
    (
        *itertools.starmap(Factors, itertools.product((1.0, 5.0), (0.5, 1.0, 2.0))),
        Factors(final_learning_rate=0.1),
    ),
    (Factors(entropy=5.0, final_entropy=0.0),),
)
"""What every method is trained with; the settings of a row at the same time."""

BEYOND = {"entropy": 5.0, "learning_rate": 2.0, "meta_fraction": 2.0}
"""Beyond an end: by how much more (or less) the next is."""
AROUND = ("meta_fraction",)
"""Of ours: tried on both sides of the family's setting, with the best of the others."""
FURTHEST = 1024.0
"""No factor is larger, or smaller than one divided by it."""

NOISE = 0.02
"""Part of the return that other settings must add: so few runs can't tell less from luck, nor always more."""


class Baseline(NamedTuple):
    """A method that trains one policy for all tasks, or for each."""

    label: str
    policy: str
    """Name of its networks; "base" is not told its task in runs that do not tell it."""
    learner: str = "ppo"
    each: bool = False
    """Whether it has a policy for each task."""

    def named(self, learner: str) -> Named:
        """The method by a learner of another name."""
        return Named(self.policy, learner, "single_task" if self.each else "multitask")


HIDDEN = {
    "one_for_all": Baseline("One policy for all", "base"),
    "one_a_task": Baseline("One policy per task", "base", each=True),
    "pcgrad": Baseline("One policy for all, PCGrad", "base", "pcgrad"),
    "cagrad": Baseline("One policy for all, CAGrad", "base", "cagrad"),
    "famo": Baseline("One policy for all, FAMO", "base", "famo"),
    "gradnorm": Baseline("One policy for all, GradNorm", "base", "gradnorm"),
}
"""Not told their task."""

TOLD = {
    "told": Baseline("One policy for all", "told"),
    "told_pcgrad": Baseline("One policy for all, PCGrad", "told", "pcgrad"),
    "told_cagrad": Baseline("One policy for all, CAGrad", "told", "cagrad"),
    "told_famo": Baseline("One policy for all, FAMO", "told", "famo"),
    "told_gradnorm": Baseline("One policy for all, GradNorm", "told", "gradnorm"),
    "multi_head": Baseline("Multi-head", "multi_head"),
    "soft_modularization": Baseline("Soft Modularization", "soft_modularization"),
    "paco": Baseline("PaCo", "paco"),
    "care": Baseline("CARE", "care"),
    "moore": Baseline("MOORE", "moore"),
}
"""Told their task."""

METHODS = HIDDEN | TOLD
TOLD_OURS = f"told_{OURS}"
"""Ours where policies are told their task."""


@dataclass(frozen=True)
class Settings:
    """Train every method with several entropy bonuses and step sizes."""

    preset: Preset = "full"
    """full: what the docs show; small: seconds, for tests."""
    families: tuple[str, ...] = FAMILIES
    """Families to train on."""
    methods: tuple[str, ...] = (*METHODS, OURS, TOLD_OURS)
    """Methods to train."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of the families."""
    out: Path | None = None
    """File of the results."""


def cells(settings: Settings) -> list[dict]:
    """One cell a family, method, seed and row of settings."""
    if settings.preset == "small":
        small = {"family": "points", "settings": {"seed": 0, **SMALL_FAMILY}, "config": SMALL_CONFIG}
        return [small | {"method": "told", "factors": [list(Factors()), list(Factors(entropy=5.0))]}]
    return [
        {
            "family": family, "settings": {"seed": seed}, "config": {}, "method": method,
            "factors": [list(tried) for tried in row],
        }
        for family in settings.families
        for method in settings.methods
        for row in TRIED
        for seed in settings.seeds
    ]  # fmt: skip


def beyond(settings: Settings, data: Mapping) -> Iterator[dict]:
    """Cells of what lies beyond the ends of what was tried, for as long as that is best."""
    if settings.preset == "small":
        return
    for family in settings.families:
        for method in settings.methods:
            while more := further(searched(data, family, method), method not in METHODS):
                for seed in settings.seeds:
                    yield {
                        "family": family, "settings": {"seed": seed}, "config": {}, "method": method,
                        "factors": [list(tried) for tried in more],
                    }  # fmt: skip


def further(means: Mapping[Factors, float], ours: bool = False) -> list[Factors]:
    """What to try next: where the best of ``means`` is other than the family's settings in what `BEYOND` has,
    the next of it; of ours also what lies around it (`AROUND`). What was tried is left out."""
    best = max(means, key=lambda tried: np.nan_to_num(means[tried], nan=-np.inf))
    found = []
    for name, times in BEYOND.items():
        value = getattr(best, name)
        both = ours and name in AROUND and value == 1
        sides = [value / times] * (both or value < 1) + [value * times] * (both or value > 1)
        found += [best._replace(**{name: side}) for side in sides if 1 / FURTHEST <= side <= FURTHEST]
    return [other for other in found if other not in means]


def compute(cell: Mapping) -> dict:
    """Mean return of one method with all factors."""
    family = make_family(cell["family"], **tuples(cell["settings"]))
    config = override(config_for(family), cell["config"])
    factors = [Factors(*tried) for tried in cell["factors"]]
    if cell["method"] in METHODS:
        return {"returns": trained(family, config, METHODS[cell["method"]], factors)}
    config = override(config, {"compare": "none", "policy.conditioned_actor": cell["method"] == TOLD_OURS})
    return {"returns": [_earned(family, config, tried) for tried in factors]}


def _earned(family: TaskFamily, config: Config, factors: Factors) -> float:
    """Mean return of ours; NaN where meta-training would leave none of the steps."""
    config = override(config, ours_scaled(config, factors))
    return run(family, config).results.methods[OURS].mean if config.meta_fraction < 1 else float("nan")


def ours_scaled(config: Config, factors: Factors) -> dict[str, Any]:
    """Changes to the settings of a run of ours."""
    return {"ppo": scaled(config.ppo, factors), "meta_fraction": factors.meta_fraction * config.meta_fraction}


def scaled(learner: Any, factors: Factors) -> Any:
    """A learner with its settings times factors; where an entropy bonus of 0 is raised, .01 is."""
    raised = factors.entropy != 1.0 and not learner.entropy
    return dataclasses.replace(
        learner,
        entropy=factors.entropy * (0.01 if raised else learner.entropy),
        learning_rate=factors.learning_rate * learner.learning_rate,
        final_learning_rate=factors.final_learning_rate * learner.final_learning_rate,
        final_entropy=factors.final_entropy * learner.final_entropy,
    )


def trained(family: TaskFamily, config: Config, method: Baseline, factors: Sequence[Factors]) -> list[float]:
    """Mean returns of a baseline with all factors, trained at the same time."""
    policy = learn.policies_by_name(family, config.policy.make(family), config.policy)[method.policy]
    learner = learn.learners_by_name(config.ppo)[method.learner]
    member = Grouping(method.named(method.learner).labels(family.n)).member
    steps, num_envs = share(member, config.steps_per_task * family.n, learner, config.min_updates)
    key = row_keys(config.stream("rows"), member)
    rows = Rows(member, steps, key, learn.init_agents(policy, family, key))
    learner = dataclasses.replace(learner, num_envs=int(num_envs[0]))  # all of one size
    calls = [(policy, scaled(learner, tried), rows) for tried in factors]
    row, task = np.nonzero(member)
    played = [
        learn.evaluate(
            policy, family, done.agents, row, task, config.stream("evaluate"), episodes=config.episodes
        )
        for done in learn.train_all(calls, family)
    ]
    return [float(found.judged_by(family.metric).mean()) for found in played]


def chosen(data: Mapping | None, family: str, method: str) -> Factors:
    """The factors of most mean return over the family seeds, if they gain more than `NOISE` over the family's
    settings; 1 otherwise, and where they were not searched."""
    means = searched(data, family, method)
    if Factors() not in means:
        return Factors()
    return [*means][clearly_best(np.array([*means.values()]), [*means].index(Factors()))]


def searched(data: Mapping | None, family: str, method: str) -> dict[Factors, float]:
    """Mean returns by factors, over the family seeds; of those that all of these were trained with."""
    returns: dict[Factors, dict[int, float]] = {}
    for done in (data or {"cells": []})["cells"]:
        cell = done["cell"]
        if (cell["family"], cell["method"]) == (family, method):
            for tried, value in zip(cell["factors"], done["returns"], strict=True):
                returns.setdefault(Factors(*tried), {})[cell["settings"]["seed"]] = value
    seeds = set().union(*returns.values())
    return {tried: np.mean([*by.values()]) for tried, by in returns.items() if by.keys() == seeds}


def clearly_best(mean: np.ndarray, first: int) -> int:
    """The place of the largest mean (NaN, of training that failed, is the least), if it is above that of the
    ``first`` by more than `NOISE` (or that is not finite); the first's otherwise."""
    best, own = int(np.nan_to_num(mean, nan=-np.inf).argmax()), mean[first]
    return best if not np.isfinite(own) or mean[best] > own + NOISE * abs(own) else first


results = partial(committed, "method_search")
"""() -> the result file of the search, if there is one."""


@says_errors
def main(args: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("method_search", settings.preset, settings.out)
    defaults = {"defaults": dataclasses.replace(Config(), seed=0)}
    command = "python benchmarks/method_search.py"
    found = ResultFile(path, name="method_search", command=command, settings=defaults)
    found.run(itertools.chain(cells(settings), beyond(settings, found.data)), compute)
    for done in found.cells:
        print(done["cell"]["family"], done["cell"]["method"], done["cell"]["settings"], done["returns"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
