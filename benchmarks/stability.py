"""Whether groups are as certain as runs say: `python benchmarks/stability.py`.

Of several families, family seeds and training seeds it saves what a run says of its groups (how often every
pair is together where the trajectories are drawn again), and what came of asking anew: the same theta*
collects other trajectories, several times, and its tasks are grouped from these, at the run's own k and at
one that is chosen again. Another training seed is another cell of the same tasks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from common import Preset, ResultFile, result_path

from pgx_jax import Config, Run, config_for, learn, make_family, pipeline
from pgx_jax.config import override
from pgx_jax.held_out import HeldOut

FAMILIES = ("cartpole-goals", "points-hard", "cartpole-physics")
FAMILY_SEEDS, SEEDS, AFRESH = (0, 1, 2), (0, 1), 3
SMALL = {
    "steps_per_task": 5400, "min_updates": 1, "collect_fraction": 0.5, "meta_fraction": 0.2,
    "meta_entropy": 0.0, "looks": 1, "policy": {"hidden": (8, 8)},
    "ppo": {"learning_rate": 2e-2, "final_learning_rate": 1.0, "num_envs": 12, "num_steps": 15},
    "estimate": {"steps": 960, "num_envs": 16, "dim": 48}, "grouping": {"resamples": 20},
}  # fmt: skip
"""Settings of the small preset."""


@dataclass(frozen=True)
class Settings:
    """Ask for the groups again, with other trajectories and other training."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    only: str = ""
    """Only cells whose description contains this."""
    out: Path | None = None
    """File of the results."""


def cells(preset: Preset) -> list[dict]:
    """What is run, the first of each family first."""
    if preset == "small":
        size = {"n_tasks": 6, "n_groups": 2, "horizon": 15}
        return [{"family": "points", **size, "family_seed": 5, "seed": seed} for seed in (5, 6)]
    return [
        {"family": family, "family_seed": own, "seed": seed}
        for own in FAMILY_SEEDS for seed in SEEDS for family in FAMILIES
    ]  # fmt: skip


def compute(cell: Mapping, changes: Mapping, afresh: int) -> dict:
    """What a run says of its groups, and the groups that the same theta* gives with other trajectories."""
    given = {name: cell[name] for name in ("n_tasks", "n_groups", "horizon") if name in cell}
    family = make_family(cell["family"], **given, seed=cell["family_seed"])
    config = override(config_for(family), {"compare": "none", "seed": cell["seed"], **changes})
    run = Run(family, config).compute("stability")
    found = run.stability
    assert found is not None, "these settings allow it"
    truth = family.true_groups
    return {
        "truth": None if truth is None else list(map(int, truth)),
        "look": run.look,
        "labels": found.found.tolist(),
        "together": found.together.tolist(),
        "same_groups": float((found.labels == found.found).all(1).mean()),
        "same_k": found.same_k,
        "afresh": list(asked_afresh(run, afresh)),
        "timings": {"stability": run.seconds["stability"]},
    }


def asked_afresh(run: Run, count: int) -> Iterator[dict]:
    """Groups of so many further collections by the same theta*: at the run's own k, and at one chosen."""
    names, params = run.family.task_names, learn.policy_params(run.meta)
    policy = {"log_prob": run.policy.log_prob, "params": params}
    for draw in range(count):
        own = replace(run.config, seed=10_000 + 100 * run.config.seed + draw)  # of what is collected alone
        transitions = pipeline.collect(run.policy, run.learner, run.family, own, run.meta, run.look)
        config, e = run.config, run.config.estimate
        feats = pipeline.features(run.policy.log_prob, params, transitions, config, names)
        member = pipeline.subsets(config, run.family.n)
        scores = pipeline.score_subsets(feats, transitions, member, e, names=names).scores
        held_out = HeldOut(feats, transitions, e, config.stream("deal"), names, **policy)
        affinity = pipeline.affinity(scores, held_out, e)
        looks = pipeline.look_count(config)
        free = pipeline.choose_groups(affinity, held_out, config, looks=looks, names=names)
        same_k = pipeline.choose_groups(affinity, held_out, config, k=run.grouping.k, kind=None, names=names)
        yield {"at_k": same_k.labels.tolist(), "free": free.labels.tolist()}


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    small = settings.preset == "small"
    path, afresh = result_path("stability", settings.preset, settings.out), 1 if small else AFRESH
    defaults = Config().grouping
    results = ResultFile(
        path, name="stability", command="python benchmarks/stability.py",
        settings={"resamples": 20 if small else defaults.resamples, "afresh": afresh},
    )  # fmt: skip
    todo = [cell for cell in cells(settings.preset) if settings.only in str(cell)]
    results.run(todo, lambda cell: compute(cell, SMALL if small else {}, afresh))
    return 0


if __name__ == "__main__":
    sys.exit(main())
