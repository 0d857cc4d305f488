"""PPO on stock gymnax environments: `python benchmarks/ppo.py`.

Five seeds are five rows of one `train` call. A family needs two tasks, so every environment stands
twice in it, and every row trains on both. Scores are means of 100 episodes of the stock
environment (its reward and its time limit), with sampled actions and with the policy's mode.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from common import Preset, ResultFile, check_known, merge, result_path, says_errors, tuples

from envs.gymnax_adapter import gymnax_family
from pgx_jax.config import override
from pgx_jax.learn import PPO, evaluate, make_policy, train
from pgx_jax.types import Rows

SOLVED = {"CartPole-v1": 475.0, "Acrobot-v1": -100.0, "Pendulum-v1": -200.0}
"""Usual solved scores: mean return of 100 episodes."""

CELLS = {
    "CartPole-v1": {"steps": 500_000, "policy": {}, "ppo": {"final_learning_rate": 0.0}},
    "Acrobot-v1": {"steps": 500_000, "policy": {}, "ppo": {"final_learning_rate": 0.0}},
    "Pendulum-v1": {
        "steps": 500_000,
        "policy": {"normalise_observations": True},
        "ppo": {"gamma": 0.95, "epochs": 10, "minibatches": 16, "final_learning_rate": 0.0},
    },
}
"""Per environment: steps of a seed, and what differs from the default settings."""


@dataclass(frozen=True)
class Settings:
    """Train CartPole, Acrobot and Pendulum with 5 seeds each, and compare with the solved scores."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    only: tuple[str, ...] = tuple(CELLS)
    """Environments to train."""
    seeds: int = 5
    """Seeds, as rows of one call."""
    out: Path | None = None
    """File of the results."""


def cells(settings: Settings) -> list[dict]:
    """The cells: one environment, all seeds.

    Raises:
        ConfigError: an environment without settings.
    """
    check_known(settings.only, CELLS)
    full = [{"env": name, "seeds": settings.seeds, **CELLS[name]} for name in settings.only]
    if settings.preset == "full":
        return full
    small = {"steps": 128, "policy": {"hidden": [8]}, "ppo": {"num_envs": 4, "num_steps": 16, "epochs": 1}}
    return [merge(cell, small, {"ppo": {"minibatches": 2}, "seeds": 2}) for cell in full]


def compute(cell: Mapping, episodes: int = 100) -> dict:
    """Train and score one environment."""
    family = gymnax_family(cell["env"], n_tasks=2)
    config = override(PPO(), cell["ppo"])
    wanted = tuples(cell["policy"])
    policy = make_policy(family, **wanted)
    count = cell["seeds"]
    keys = np.stack([np.asarray(jax.random.PRNGKey(seed)) for seed in range(count)])
    rows = Rows(np.ones((count, 2), bool), np.full(count, cell["steps"]), keys)
    began = time.perf_counter()
    trained = train(policy, config, family, rows)
    seconds = time.perf_counter() - began
    scores = {}
    for name, deterministic in (("sampled", False), ("mode", True)):
        played = evaluate(
            policy, family, trained.agents, np.arange(count), np.zeros(count, int),
            jax.random.PRNGKey(2**20), episodes=episodes, deterministic=deterministic,
        )  # fmt: skip
        scores[name] = played.returns.mean(1)
    curve = trained.returns[:, :, 0]
    thin = np.array_split(np.arange(curve.shape[1]), min(40, curve.shape[1]))
    return {
        "horizon": family.horizon,
        "settings": {"ppo": config, "policy": wanted, "distribution": type(policy.distribution).__name__},
        "env_steps": trained.steps,
        "episodes": episodes,
        "scores": scores,
        "solved_at": SOLVED[cell["env"]],
        "solved": scores["sampled"] >= SOLVED[cell["env"]],
        "curves": [[_mean(row[part]) for part in thin] for row in curve],
        "timings": {"train": seconds, "steps_per_second": float(trained.steps.sum() / seconds)},
    }


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("ppo", settings.preset, settings.out)
    results = ResultFile(path, name="ppo", command="python benchmarks/ppo.py")
    episodes = 100 if settings.preset == "full" else 4
    results.run(cells(settings), lambda cell: compute(cell, episodes))
    for done in results.cells:
        scores = " ".join(f"{score:.1f}" for score in done["scores"]["sampled"])
        print(f"{done['cell']['env']} (solved at {done['solved_at']:.0f}): {scores}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
