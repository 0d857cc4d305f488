"""What each option of PPO does to one policy for all tasks that is told its task:
`python benchmarks/ppo_options.py`.

Options are switched on one at a time. Seeds are rows of one call, the same with every option, so that
differences are paired. Families have seeds that no table but those of settings has.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tyro
from common import Preset, ResultFile, merge, result_path, says_errors
from study import SMALL_CONFIG, SMALL_FAMILY

from envs.gymnax_adapter import gymnax_family
from pgx_jax import learn
from pgx_jax.config import config_for, override
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Rows

DEFAULT = "default"


class Option(NamedTuple):
    """A change of the settings."""

    config: dict
    """Settings of a run that it changes."""
    does: str
    """What it does, in a sentence."""
    against: str = DEFAULT
    """The option that it is compared with."""
    gaussian: bool = False
    """Whether it is one of continuous actions alone."""


NORMALISED = {"policy": {"normalise_observations": True}}
OWN = "own_deviation=True"
OPTIONS = {
    DEFAULT: Option({}, "Advantages are standardised per task over the batch, rewards divided per task."),
    "unscaled rewards": Option(
        {"ppo": {"scale_rewards": False}}, "Rewards are as the environment gives them, of all tasks alike."
    ),
    "normalised values": Option(
        {"policy": {"normalise_values": True}},
        "The critic gives values standardised by running moments of its targets, per task.",
    ),
    "linear baseline": Option(
        {"ppo": {"baseline": "linear"}},
        "Advantages are against a ridge regression of each task's returns on observation and time.",
    ),
    "linear baseline, no critic": Option(
        {"ppo": {"baseline": "linear", "limits_end": True}},
        "Time limits are ends, too, so that nothing needs a critic.",
        against="linear baseline",
    ),
    "clipped values": Option(
        {"ppo": {"value_clip": 0.2}}, "The critic's error is clipped 0.2 from what it said before the update."
    ),
    "advantages by minibatch": Option(
        {"ppo": {"standardise_minibatches": True}},
        "Advantages are standardised over each minibatch, all tasks together.",
    ),
    "target KL": Option(
        {"ppo": {"target_kl": 0.02}}, "Gradient steps of an update end once the policy is 0.02 nats away."
    ),
    "step size by divergence": Option(
        {"ppo": {"desired_kl": 0.01}},
        "The step size falls and grows so that an update goes 0.01 nats.",
    ),
    "own deviation": Option(
        {"policy": {"options": [OWN]}}, "A Gaussian's deviation is each task's own.", gaussian=True
    ),
    "own deviation, bounded": Option(
        {"policy": {"options": [OWN, "min_log_std=-0.7", "max_log_std=0.4"]}},
        "And it stays between 0.5 and 1.5 halves of the box (bounds of garage's examples).",
        gaussian=True,
    ),
    "normalised observations": Option(NORMALISED, "Observations are standardised by running moments."),
    "normalised observations, frozen": Option(
        NORMALISED | {"ppo": {"freeze_observations": 0.25}},
        "And the moments stay after a quarter of the budget.",
        against="normalised observations",
    ),
    "annealed learning rate": Option(
        {"ppo": {"final_learning_rate": 0.0}}, "The step size falls to 0 by the end of the budget."
    ),
    "annealed entropy bonus": Option(
        {"ppo": {"final_entropy": 0.0}}, "The entropy bonus falls to 0 by the end of the budget."
    ),
}
"""Options by name."""

PENDULUM = "Pendulum-v1"
FAMILIES = {
    "cartpole-goals": {"steps_per_task": 20_480, "config": {}},
    "points-hard": {"steps_per_task": 20_480, "config": {}},
    PENDULUM: {
        "steps_per_task": 102_400,
        "config": {"ppo": {"gamma": 0.95, "epochs": 10, "minibatches": 16}},
    },
}
"""Environment steps a task, and settings of all options, by family. Pendulum's two tasks are equal."""


@dataclass(frozen=True)
class Settings:
    """Train one policy for all tasks with every option of PPO."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    families: tuple[str, ...] = tuple(FAMILIES)
    """Families to train on."""
    options: tuple[str, ...] = tuple(OPTIONS)
    """Options to try."""
    family_seeds: tuple[int, ...] = (100, 101)
    """Seeds of the families that have any."""
    seeds: int = 4
    """Seeds of training, as rows of one call."""
    out: Path | None = None
    """File of the results."""


def cells(settings: Settings) -> list[dict]:
    """One cell an option, family and seed of it.

    Raises:
        ConfigError: unknown options or families.
    """
    for known, named in ((OPTIONS, settings.options), (FAMILIES, settings.families)):
        if unknown := set(named) - set(known):
            raise ConfigError(f"there is no {sorted(unknown)}; there are: {', '.join(known)}")
    small = settings.preset == "small"
    smaller = {name: SMALL_CONFIG[name] for name in ("policy", "ppo")} if small else {}
    return [
        {
            "family": family,
            "settings": of_family | (SMALL_FAMILY if small and family != PENDULUM else {}),
            "option": option,
            "config": merge(FAMILIES[family]["config"], OPTIONS[option].config, smaller),
            "steps_per_task": 128 if small else FAMILIES[family]["steps_per_task"],
            "seeds": 2 if small else settings.seeds,
        }
        for family in settings.families
        for option in settings.options
        for of_family in ([{}] if family == PENDULUM else [{"seed": s} for s in settings.family_seeds])
        if not (OPTIONS[option].gaussian and family == "cartpole-goals")
    ]


def family_of(cell: Mapping) -> TaskFamily:
    """The tasks."""
    if cell["family"] == PENDULUM:
        return gymnax_family(PENDULUM, n_tasks=2)
    return make_family(cell["family"], **cell["settings"])


def compute(cell: Mapping, episodes: int = 64) -> dict:
    """Train all seeds, and play every task."""
    family = family_of(cell)
    config = override(config_for(family), cell["config"])
    config.ppo.check(family.n)
    policy = config.policy.make(family, conditioned_actor=True)
    count, unit = cell["seeds"], config.ppo.steps_per_update
    keys = np.stack([np.asarray(jax.random.PRNGKey(seed)) for seed in range(count)])
    steps = np.full(count, family.n * cell["steps_per_task"] // unit * unit)
    began = time.process_time()
    trained = learn.train(policy, config.ppo, family, Rows(np.ones((count, family.n), bool), steps, keys))
    spent = time.process_time() - began
    row, task = (x.ravel() for x in np.indices((count, family.n)))
    played = learn.evaluate(
        policy, family, trained.agents, row, task, jax.random.PRNGKey(2**20), episodes=episodes
    )
    return {
        "returns": played.judged_by(family.metric).mean(1).reshape(count, family.n),
        "while_training": np.nanmean(trained.returns, (1, 2)),
        "env_steps": trained.steps,
        "ppo": config.ppo,
        "policy": config.policy,
        "timings": {"train": spent},
    }


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("ppo_options", settings.preset, settings.out)
    results = ResultFile(path, name="ppo_options", command="python benchmarks/ppo_options.py")
    episodes = 64 if settings.preset == "full" else 2
    results.run(cells(settings), lambda cell: compute(cell, episodes))
    for done in results.cells:
        c = done["cell"]
        print(f"{c['family']} {c['settings']} {c['option']}: {np.mean(done['returns']):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
