"""What batch and entropy bonus suit which budget: `python benchmarks/search.py`.

Every kind of policy that is compared (one a task, one a planted group, one for all, one for all that is told
its task) is trained from scratch with several numbers of environments and weights of the entropy bonus, at
several budgets, on seeds of the families that no other table uses. What it found stands in the rule of
`compare.budget` and in the defaults of `Config`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tyro
from common import Preset, ResultFile, result_path
from study import SMALL_CONFIG, SMALL_FAMILY

from pgx_jax import learn
from pgx_jax.compare.pool import row_keys
from pgx_jax.config import Config, config_for, override
from pgx_jax.learn import Learner, Policy
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Grouping, Rows

FAMILIES = ("cartpole-goals", "points-hard")
SEEDS = (100, 101)
"""Of the families; no other table has them."""


@dataclass(frozen=True)
class Settings:
    """Train all kinds of policies with several batches and entropy bonuses."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    families: tuple[str, ...] = FAMILIES
    """Families to train on."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of the families."""
    steps_per_task: tuple[int, ...] = (10_240, 20_480, 40_960, 122_880)
    """Budgets: environment steps a task."""
    num_envs: tuple[int, ...] = (40, 20, 10, 5, 2, 1)
    """Environments of a row."""
    entropy: tuple[float, ...] = (0.01, 0.05, 0.15)
    """Weights of the entropy bonus."""
    out: Path | None = None
    """File of the results."""


class Kind(NamedTuple):
    """Rows of one kind with one weight of the entropy bonus."""

    name: str
    policy: Policy
    learner: Learner
    member: np.ndarray
    """bool [R, n]."""
    steps: np.ndarray
    """int [R]."""


def kinds(family: TaskFamily, config: Config, cell: Mapping) -> Iterator[Kind]:
    """All kinds of policies that a number of environments can train."""
    blind = config.policy.make(family)
    told = learn.policies_by_name(family, blind, config.policy)["told"]
    truth = np.zeros(family.n, int) if family.true_groups is None else np.asarray(family.true_groups)
    makers = {
        "one a task": (blind, np.arange(family.n)),
        "planted groups": (blind, truth),
        "one for all": (blind, np.zeros(family.n, int)),
        "one for all, told": (told, np.zeros(family.n, int)),
    }
    for name, (policy, labels) in makers.items():
        member = Grouping(labels).member
        for entropy in cell["entropy"]:
            learner = dataclasses.replace(config.ppo, num_envs=cell["num_envs"], entropy=entropy)
            steps = (
                member.sum(1) * cell["steps_per_task"] // learner.steps_per_update * learner.steps_per_update
            )
            if member.sum(1).max() <= cell["num_envs"] and steps.min() > 0:
                yield Kind(name, policy, learner, member, steps)


def compute(cell: Mapping) -> dict:
    """Mean returns of every kind by entropy bonus, with the same total of steps."""
    family = make_family(cell["family"], **cell["settings"])
    config = override(config_for(family), cell["config"])
    found = list(kinds(family, config, cell))
    key, calls = config.stream("rows"), []
    for kind in found:
        keys = row_keys(key, kind.member)
        rows = Rows(kind.member, kind.steps, keys, learn.init_agents(kind.policy, family, keys))
        calls.append((kind.policy, kind.learner, rows))
    trained = learn.train_all(calls, family)
    returns: dict[str, dict[str, float]] = {}
    for kind, done in zip(found, trained, strict=True):
        row, task = np.nonzero(kind.member)
        played = learn.evaluate(kind.policy, family, done.agents, row, task, config.stream("evaluate"))
        mean = float(played.judged_by(family.metric).mean())
        returns.setdefault(kind.name, {})[str(kind.learner.entropy)] = mean
    return {
        "returns": returns,
        "updates": {kind.name: (kind.steps // kind.learner.steps_per_update).tolist() for kind in found},
    }


def cells(settings: Settings) -> list[dict]:
    """One cell a family, seed, budget and number of environments."""
    small = settings.preset == "small"
    shared = {"platform": jax.default_backend(), "entropy": list(settings.entropy), "config": {}}
    if small:
        config = {name: SMALL_CONFIG[name] for name in ("policy", "ppo")}
        shared |= {"config": config, "entropy": [0.01], "family": "points-hard", "steps_per_task": 256}
        return [shared | {"settings": SMALL_FAMILY, "num_envs": 8}]
    return [
        shared | {"family": family, "settings": {"seed": seed}, "steps_per_task": steps, "num_envs": count}
        for seed in settings.seeds
        for family in settings.families
        for steps in settings.steps_per_task
        for count in settings.num_envs
    ]


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("search", settings.preset, settings.out)
    results = ResultFile(path, name="search", command="python benchmarks/search.py")
    results.run(cells(settings), compute)
    for done in results.cells:
        c = done["cell"]
        print(f"{c['family']} {c['settings']} S={c['steps_per_task']} E={c['num_envs']}: {done['returns']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
