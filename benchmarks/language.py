"""Objectives of a language model, grouped and taught by DPO: `python benchmarks/language.py`.

Readers prefer one of two short texts, and some want the opposite of others (`language_text`). A small
transformer that has learnt the texts (`language_model`) is the policy and the reference; the gradients of its
margins are the features of `pgx_jax.group_transitions`, which is asked before anything is taught: theta* is
the reference. Every method then makes the same number of gradient steps of as many pairs in all; the pairs
whose gradients were taken count among them. A second row of ours is asked later, as in the paper: after a
quarter of all steps on all objectives together, from which its groups go on.

Judged by the part of held-out pairs, of other prompts, on which a reader's policy has moved towards the text
that the reader would choose (readers taught with noisy choices; held-out ones have none), and by how far.

Step sizes are those that did best on seeds that the table does not use, for each kind of method and set of
objectives.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from common import Preset, ResultFile, result_path, says_errors
from language_model import (
    DPO,
    Taught,
    as_transitions,
    for_all,
    margin,
    margins,
    reference,
    side_by_side,
    taught,
)
from language_text import FAMILIES, Objectives, agreement, preferences

import pgx_jax
from pgx_jax import grouping, pipeline
from pgx_jax.errors import ConfigError
from pgx_jax.types import PyTree

KINDS = ("one", "told", "each", "planted", "found")
"""Kinds of methods, each with a step size of its own; that of groups that are found suits those that ours
finds."""
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SEARCHED = (100, 101)
"""Seeds of the search, which the table has none of."""
TEMPERATURE = 0.3
"""Of the choices that are taught."""
LATER = 0.25
"""Part of all steps after which the second row of ours is asked."""
DRAWS = 2
"""Random groupings."""
LANES = 3
"""Partitions that one program trains side by side."""


@dataclass(frozen=True)
class Settings:
    """Teach groups of readers."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    seeds: int = 5
    """Seeds of readers, texts, reference and training."""
    only: Annotated[tuple[Literal[tuple(FAMILIES)], ...], tyro.conf.UseAppendAction] = ()
    """Only these sets of objectives (may be repeated)."""
    out: Path | None = None
    """File of the results."""


class Sizes(NamedTuple):
    """How much there is of everything."""

    pairs: int = 120
    """Pairs of a reader to learn from."""
    judged: int = 200
    """Held-out pairs of a reader."""
    share: int = 24
    """Gradient steps of a method, for each of its readers."""
    pretraining: int = 1500
    """Gradient steps of the reference."""
    dim: int = 200
    """Of the features."""


SMALL = Sizes(pairs=120, judged=40, share=6, pretraining=60, dim=96)


class World(NamedTuple):
    """What one seed has."""

    objectives: Objectives
    reference: PyTree
    data: tuple[Taught, Taught]
    """What is learnt from, and the same where prompts tell the reader."""
    held_out: tuple[Taught, Taught]
    key: np.ndarray
    """Raw key of the training."""


@functools.lru_cache(maxsize=2)
def known_reference(seed: int, steps: int) -> PyTree:
    """The reference of a seed, whatever the objectives."""
    return reference(seed, steps=steps)


def make_world(family: str, seed: int, sizes: Sizes) -> World:
    """Readers, what they prefer, and the reference's margins of it."""
    objectives, params = FAMILIES[family](seed), known_reference(seed, sizes.pretraining)
    rng = np.random.default_rng([seed, 4])
    learnt = preferences(rng, objectives, sizes.pairs, TEMPERATURE)
    judged = preferences(rng, objectives, sizes.judged)
    both = ((taught(params, x), taught(params, x, told=True)) for x in (learnt, judged))
    return World(objectives, params, *both, np.array(jax.random.PRNGKey(seed)))


class Method(NamedTuple):
    """A way to spend all steps."""

    labels: np.ndarray
    """int [n]."""
    told: bool = False
    """Whether prompts tell the reader."""
    planted: bool = False
    """Whether the groups are those that are planted."""

    @property
    def kind(self) -> str:
        """A name of `KINDS`."""
        k = len(np.unique(self.labels))
        if self.told or k in (1, len(self.labels)):
            return "told" if self.told else "one" if k == 1 else "each"
        return "planted" if self.planted else "found"


class Lane(NamedTuple):
    """A method with a step size: what is trained."""

    method: Method
    rate: float

    @property
    def same(self) -> tuple:
        """What tells it apart."""
        return (*grouping.canonical(self.method.labels).tolist(), self.method.told, self.rate)


def train(world: World, lanes: list[Lane], start: PyTree, share: int, settings: DPO) -> list[PyTree]:
    """Every lane's policies (leaves [n, ...]); what is the same is trained once."""
    distinct = {lane.same: lane for lane in lanes}
    found: dict[tuple, PyTree] = {}
    names = list(distinct)
    for begin in range(0, len(names), LANES):
        now = names[begin : begin + LANES]
        filled = [distinct[name] for name in (*now, *[now[-1]] * (LANES - len(now)))]
        labels = np.stack([grouping.canonical(lane.method.labels) for lane in filled])
        told, rate = np.array([(lane.method.told, lane.rate) for lane in filled]).T
        policies = side_by_side(
            *world.data, labels, told.astype(bool), rate, start, world.key, share, settings
        )
        found |= {name: jax.tree.map(lambda x, i=i: x[i], policies) for i, name in enumerate(now)}
    return [found[lane.same] for lane in lanes]


def judge(world: World, method: Method, policies: PyTree, beta: float) -> dict[str, list[float]]:
    """Every reader's "accuracy" and mean "margin", beta times how much more likely than under the reference
    the better text has become against the other, on held-out pairs."""
    held_out = world.held_out[method.told]
    lead = np.asarray(margins(policies, held_out.pairs.prompt, held_out.pairs.pair) - held_out.reference)
    towards = beta * lead * held_out.pairs.sign
    return {"accuracy": (towards > 0).mean(1).tolist(), "margin": towards.mean(1).tolist()}


class Asked(NamedTuple):
    """What the estimate said, and what it cost."""

    found: pipeline.Grouped
    similar: dict[str, np.ndarray]
    """Groups by similarity of gradients, by name: int [n]."""
    steps: int
    """Gradient steps that take as many pairs."""


def ask(world: World, params: PyTree, sizes: Sizes, settings: DPO, seed: int) -> Asked:
    """Group the readers by the gradients of a policy's margins."""
    pairs, offset = world.data[0]
    policies = for_all(params, len(pairs.sign))
    lead = np.asarray(margins(policies, pairs.prompt, pairs.pair) - offset)
    transitions = as_transitions(pairs, lead, settings.beta)
    config = pgx_jax.Config(seed=seed, estimate=pgx_jax.EstimateConfig(dim=sizes.dim))
    found = pgx_jax.group_transitions(margin, params, transitions, config, names=world.objectives.names)
    similar = pipeline.similar_groups(found.held_out, config, found.grouping.k)
    steps = -(-pairs.sign.size // settings.batch)
    return Asked(found, {name: x.labels for name, x in similar.items()}, steps)


def search(cell: Mapping, sizes: Sizes) -> dict:
    """Mean accuracy of every kind of method by step size."""
    world, settings = make_world(cell["family"], cell["seed"], sizes), DPO()
    asked = ask(world, world.reference, sizes, settings, cell["seed"])
    n = len(world.objectives.names)
    zeros = np.zeros(n, int)
    tried = (
        Method(zeros), Method(zeros, told=True), Method(np.arange(n)),
        Method(world.objectives.labels, planted=True), Method(asked.found.grouping.labels),
    )  # fmt: skip
    lanes = [Lane(method, rate) for method in tried for rate in RATES]
    policies = train(world, lanes, world.reference, sizes.share, settings)
    found: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for lane, own in zip(lanes, policies, strict=True):
        scores = judge(world, lane.method, own, settings.beta)
        found[lane.method.kind][str(lane.rate)] = float(np.mean(scores["accuracy"]))
    return {"accuracy": found}


def best_rates(cells: list[dict], family: str) -> dict[str, float]:
    """The step size of every kind of method that did best in the search on a set of objectives; of groups, if
    there none are planted (or found), that of one policy."""
    wanted = {"part": "search", "family": family}
    known = [cell["accuracy"] for cell in cells if wanted.items() <= cell["cell"].items()]

    def best(kind: str) -> float:
        tried = kind if all(found[kind] for found in known) else "one"
        return max(RATES, key=lambda rate: np.mean([found[tried][str(rate)] for found in known]))

    return {kind: best(kind) for kind in KINDS}


def compute(cell: Mapping, sizes: Sizes, rates: Mapping[str, float]) -> dict:
    """All methods of one seed."""
    world, settings, seed = make_world(cell["family"], cell["seed"], sizes), DPO(), cell["seed"]
    n, total = len(world.objectives.names), len(world.objectives.names) * sizes.share
    zeros, true, done = np.zeros(n, int), world.objectives.labels, {}

    def add(methods: Mapping[str, Method], start: PyTree, paid: int) -> None:
        share = (total - paid) // n
        lanes = [Lane(method, rates[method.kind]) for method in methods.values()]
        policies = train(world, lanes, start, share, settings)
        for (name, method), lane, own in zip(methods.items(), lanes, policies, strict=True):
            told = {"labels": method.labels.tolist(), "steps": paid + n * share, "rate": lane.rate}
            done[name] = judge(world, method, own, settings.beta) | told

    asked = ask(world, world.reference, sizes, settings, seed)
    labels = asked.found.grouping.labels
    drawn = grouping.random_groupings(world.key, grouping.group_sizes(labels), DRAWS)
    free = {
        "one": Method(zeros), "one_told": Method(zeros, told=True), "each": Method(np.arange(n)),
        "true": Method(true, planted=True), **{f"random_{i}": Method(x) for i, x in enumerate(drawn)},
    }  # fmt: skip
    add(free, world.reference, 0)
    similar = {f"similarity_{name}": Method(x) for name, x in asked.similar.items()}
    add({"ours": Method(labels)} | similar, world.reference, asked.steps)

    before = int(LATER * sizes.share)
    (together,) = train(world, [Lane(Method(zeros), rates["one"])], world.reference, before, settings)
    theta = jax.tree.map(lambda x: x[0], together)
    later = ask(world, theta, sizes, settings, seed)
    add({"ours_later": Method(later.found.grouping.labels)}, theta, n * before + later.steps)
    return facts(world, asked, later) | {"methods": averaged(done)}


def averaged(methods: Mapping[str, dict]) -> dict[str, dict]:
    """The methods with the mean over random groupings in place of each."""
    draws = [x for name, x in methods.items() if name.startswith("random_")]
    mean = {name: np.mean([x[name] for x in draws], 0).tolist() for name in ("accuracy", "margin")}
    others = {name: x for name, x in methods.items() if not name.startswith("random_")}
    shared = {name: draws[0][name] for name in ("steps", "rate")}
    return others | {"random": mean | shared | {"labels": [x["labels"] for x in draws]}}


def facts(world: World, asked: Asked, later: Asked) -> dict[str, Any]:
    """Which groups were found, beside those that are planted."""
    objectives = world.objectives

    def about(found: pipeline.Grouped) -> dict[str, Any]:
        labels = found.grouping.labels
        apart = [bool(labels[i] != labels[j]) for i, j in objectives.opposed]
        unique = not apart and len(np.unique(objectives.labels)) > 1
        agree = {name: getattr(grouping, name)(objectives.labels, labels) for name in ("nmi", "ari", "exact")}
        return {
            "labels": labels.tolist(), "k": found.grouping.k, "predicted": found.predicted,
            "agreement": agree if unique else None, "apart": apart or None,
        }  # fmt: skip

    return {
        "names": objectives.names, "true": objectives.labels.tolist(), "found": about(asked.found),
        "found_later": about(later.found), "affinity": asked.found.affinity.matrix.tolist(),
        "prefer_the_same": agreement(objectives).tolist(),
    }  # fmt: skip


def cells(settings: Settings) -> list[dict]:
    """The search, and every set of objectives with every seed."""
    families = settings.only or tuple(FAMILIES)
    searched, seeds = (SEARCHED[:1], 1) if settings.preset == "small" else (SEARCHED, settings.seeds)
    found = [{"part": "search", "family": family, "seed": seed} for seed in searched for family in families]
    return found + [
        {"part": "table", "family": family, "seed": seed} for seed in range(seeds) for family in families
    ]


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    if settings.seeds < 1:
        raise ConfigError(f"seeds = {settings.seeds} must be at least 1")
    sizes = SMALL if settings.preset == "small" else Sizes()
    path = result_path("language", settings.preset, settings.out)
    about = {"sizes": sizes._asdict(), "dpo": DPO()._asdict(), "temperature": TEMPERATURE, "later": LATER}
    results = ResultFile(path, name="language", command="python benchmarks/language.py", settings=about)

    def run(cell: Mapping) -> dict:
        if cell["part"] == "search":
            return search(cell, sizes)
        return compute(cell, sizes, best_rates(results.cells, cell["family"]))

    results.run(cells(settings), run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
