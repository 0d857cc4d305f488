"""What every setting of the method does to the groups: `python benchmarks/ablations.py`.

One axis of the settings is varied at a time, on families of which the groups are planted and on one without
conflict. Most axes need no training of their own: the meta-policy of the default settings is trained up to
its first look, and asked again with other settings (and, where these change them, other transitions). A cell
is an axis of a family with one seed, with all of its values; started again it goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from common import Preset, ResultFile, merge, plain, result_path, tuples
from study import SMALL_CONFIG, SMALL_FAMILY

from pgx_jax import pipeline
from pgx_jax.analysis.ablations import pair_auc
from pgx_jax.analysis.variants import FITTINGS, Answer, Theta, Variant
from pgx_jax.compare.results import OURS
from pgx_jax.config import Config, config_for, override
from pgx_jax.errors import PgxError
from pgx_jax.runs.programs import keep_programs
from pgx_jax.runs.run import Run
from pgx_jax.runs.run import run as run_whole
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family


class Family(NamedTuple):
    """A family as it is studied here."""

    name: str
    settings: Mapping = {}
    config: Mapping = {}
    """Changes to its defaults."""


FAMILIES = {
    "cartpole-goals, 5 groups": Family("cartpole-goals", {"n_groups": 5}),
    "points-hard": Family("points-hard"),
    "points-objectives, own weight .5 to .7": Family(
        "points-objectives", {"share": [0.5, 0.7]}, {"estimate": {"source_multiple": 1}}
    ),
    "cartpole-physics": Family("cartpole-physics"),
}
"""With the settings that make the planted groups hard enough to find that an axis shows; the last is without
conflict. (The objectives share one source, which here is no longer than that of a task elsewhere.)"""
SEEDS = (7, 8, 9, 10, 11)
"""Of the families: nothing was tuned on these. Training seeds are 0."""

WHOLE = {"compare": "none", "test_tasks": 0}
BASE = {**WHOLE, "estimate": {"steps": 2304}}
"""The defaults' first look: as many transitions as they collect with their two looks."""
LOOKS = pipeline.look_count(Config())
"""That share the level of the test, on all axes but those of whole runs."""


class Axis(NamedTuple):
    """Values of a setting, with changes to the settings for each."""

    default: str
    """The value that the defaults have."""
    values: Mapping[str, Mapping]
    trains: bool = False
    """Whether every value has a meta-policy of its own."""
    whole: bool = False
    """Whether it is judged by the return of whole runs."""
    without: tuple[str, ...] = ()
    """Families without this setting."""


def of(name: str, *values: float | str) -> dict[str, Mapping]:
    """Values of one setting by its dotted name, labelled by themselves."""
    labels = [value if isinstance(value, str) else f"{value:g}" for value in values]
    return {label: {name: value} for label, value in zip(labels, values, strict=True)}


def subsets(size: int, count: int) -> dict[str, int]:
    """So many subsets of one size."""
    return {"estimate.subset_size": size, "estimate.subsets": count}


SCALED, UNSCALED = {"family": {"reward_scales": [1.0, 0.01, 100.0]}}, {"ppo.scale_rewards": False}
EQUAL = {"family": {"reward_scales": [1.0]}}

AXES = {
    "cross_fitting": Axis(
        "cross-fitted, nested test",
        {name: {"cross_fitting": name}
         for name in ("cross-fitted, nested test", "cross-fitted, no test", "one way, no test",
                      "in sample, no test")},
    ),
    "ridge": Axis(
        "1", of("estimate.l2", 0.01, 0.1, 1.0, 10.0, 100.0) | {"1, of the mean": {"estimate.ridge": "mean"}}
    ),
    "lambda": Axis("0.95", of("estimate.gae_lambda", 0.0, 0.5, 0.8, 0.95, 1.0)),
    "affinity": Axis(
        "per task",
        {
            "per task": {}, "per task, alone": {"estimate.beside": []},
            "aggregate (the paper's)": {"estimate.affinity": "aggregate"},
            "datamodel": {"estimate.affinity": "datamodel"},
            "closed form": {"estimate.affinity": "closed_form"},
        },
    ),
    "subsets": Axis(
        "120 of 3",
        {f"{m} of {size}": subsets(size, m)
         for m, size in ((45, 2), (24, 3), (60, 3), (120, 3), (252, 5), (120, 7))},
    ),
    "score": Axis("surrogate", of("estimate.score", "surrogate", "importance", "rollouts")),
    "length": Axis(
        "25%",
        {f"{100 * part:.3g}%": {"meta_fraction": part} for part in (0.03125, 0.0625, 0.125, 0.25, 0.5, 0.75)},
        trains=True,
    ),
    "entropy": Axis("0.15", of("meta_entropy", 0.0, 0.01, 0.05, 0.15, 0.5), trains=True),
    "scales": Axis(
        "equal",
        {"equal": EQUAL, "1 : .01 : 100": SCALED, "equal, not scaled": EQUAL | UNSCALED,
         "1 : .01 : 100, not scaled": SCALED | UNSCALED},
        trains=True, without=("points-objectives, own weight .5 to .7",),
    ),
    "k": Axis("chosen", {"chosen": {}} | of("k", 1, 2, 3, 5, 10), whole=True),
    "looks": Axis(
        "two, from 25%",
        {
            "one, at 25%": {"looks": 1}, "one, at 50%": {"looks": 1, "meta_fraction": 0.5},
            "two, from 25%": {},
            "three, from 12.5%": {"looks": 3, "meta_fraction": 0.125},
        }, whole=True,
    ),
    "transitions": Axis(
        "2304",
        {str(steps): {"estimate.steps": steps, "collect_fraction": 0.9}
         for steps in (256, 1024, 2304, 4096, 8192)},
    ),
    "dim": Axis("400", of("estimate.dim", 50, 100, 200, 400, 1000)),
}  # fmt: skip
"""By their names in the result file, in the order in which they are run: the last compile most."""


@dataclass(frozen=True)
class Settings:
    """Vary the settings of the method one at a time."""

    preset: Preset = "full"
    """full: what the docs show; small: seconds, for tests."""
    only: str = ""
    """Only cells whose description contains this."""
    out: Path | None = None
    """File of the results."""


def trained(family: TaskFamily, config: Config) -> Theta:
    """A meta-policy at its first look, and what it experiences."""
    return Theta(Run(family, config).compute("features"), looks=LOOKS)


def asked(theta: Theta, config: Config, cross_fitting: str | None = None) -> dict:
    """The groups of a meta-policy's tasks with these settings: as chosen, and at the planted k."""
    answer = theta.ask(Variant(config, FITTINGS.get(cross_fitting or "")))
    return record(answer, theta.run.family.true_groups)


def record(answer: Answer, truth: np.ndarray | None) -> dict:
    """What is saved of a value: groups, how far the affinity tells the planted pairs, predicted gain."""
    out = {"labels": answer.grouping.labels.tolist(), "gain": answer.gain["mean"]}
    if truth is None:
        return out
    return out | {
        "at_k": answer.at_k(len(np.unique(truth))).labels.tolist(),
        "auc": pair_auc(answer.affinity.matrix, truth),
    }


def mean_return(theta: Theta) -> float:
    """Of its training over the last five updates, exploring."""
    return float(np.nanmean(theta.run.meta_training.returns[0, -5:]))


def earned(family: TaskFamily, config: Config) -> dict:
    """What a whole run finds and earns."""
    run = run_whole(family, config)
    return {"labels": run.labels.tolist(), "return": float(run.results.methods[OURS].mean)}


class Study:
    """Computes cells; meta-policies of the base are trained once a family and seed."""

    def __init__(self, preset: Preset):
        """Of a preset."""
        self.small = preset == "small"
        self.base = functools.lru_cache(maxsize=len(FAMILIES))(lambda *which: trained(*self.made(*which)))

    def made(
        self, name: str, seed: int, changes: Mapping = {}, base: Mapping = BASE
    ) -> tuple[TaskFamily, Config]:
        """The family and the settings of a value."""
        known = SMALL_FAMILIES[name] if self.small else FAMILIES[name]
        others = {key: value for key, value in changes.items() if key not in ("family", "cross_fitting")}
        given = tuples({**known.settings, **changes.get("family", {})})
        family = make_family(known.name, seed=seed, **given)
        smaller = merge(base, SMALL_CONFIG) if self.small else merge(base, known.config)
        return family, override(override(config_for(family), smaller), others)

    def compute(self, cell: Mapping) -> dict:
        """All values of an axis on one family and seed."""
        axis, which = AXES[cell["axis"]], (cell["family"], cell["family_seed"])
        names = [*axis.values]
        if self.small and cell["axis"] != "cross_fitting":  # the default, and one other
            names = sorted(names, key=lambda name: name != axis.default)[:2]
        truth = self.made(*which)[0].true_groups
        values = {name: self.value(axis, which, axis.values[name]) for name in names}
        return {"truth": None if truth is None else np.asarray(truth).tolist(), "values": values}

    def value(self, axis: Axis, which: tuple[str, int], changes: Mapping) -> dict:
        """What one value finds, or how it is refused."""
        try:
            if axis.whole:
                return earned(*self.made(*which, changes, WHOLE))
            theta = trained(*self.made(*which, changes)) if axis.trains else self.base(*which)
            found = asked(theta, self.made(*which, changes)[1], changes.get("cross_fitting"))
            return found | ({"theta": mean_return(theta)} if axis.trains else {})
        except PgxError as error:
            return {"refused": str(error)}


SMALL_FAMILIES = {"cartpole-goals": Family("cartpole-goals", SMALL_FAMILY)}


def cells(preset: Preset) -> list[dict]:
    """What is computed: a seed of all axes and families first."""
    small = preset == "small"
    families, seeds = (SMALL_FAMILIES, SEEDS[:1]) if small else (FAMILIES, SEEDS)
    axes = ("lambda", "cross_fitting", "length", "looks") if small else AXES
    return [
        {"axis": axis, "family": family, "family_seed": seed}
        for seed, axis, family in itertools.product(seeds, axes, families)
        if family not in AXES[axis].without
    ]


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    keep_programs()
    path = result_path("ablations", settings.preset, settings.out)
    about = {"defaults": dataclasses.replace(Config(), seed=0), "base": plain(BASE)}
    results = ResultFile(path, name="ablations", command="python benchmarks/ablations.py", settings=about)
    study = Study(settings.preset)
    results.run([c for c in cells(settings.preset) if settings.only in str(c)], study.compute)
    return 0


if __name__ == "__main__":
    sys.exit(main())
