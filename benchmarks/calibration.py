"""Whether the choice of the partition means what it says: `python benchmarks/calibration.py`.

Simulated features and advantages of known truth, without an environment: features with a decaying spectrum
that are correlated along a trajectory, trajectories of uneven lengths, advantages whose noise is correlated
along a trajectory and as a whole, about a hundredth to a tenth of them signal. Of many draws, each a data
set of its own, it saves what `pipeline.choose_groups` finds, what an older rule would (``rule`` below), and
the true gain of the splits of the nested choice, by the quadratic model of a population of two million
transitions: as they were fitted, and fitted afresh on other draws of equal size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from common import Preset, ResultFile, result_path
from scipy.signal import lfilter

from pgx_jax import estimate, grouping, pipeline
from pgx_jax.config import Config, override
from pgx_jax.held_out import HeldOut, nested_gain
from pgx_jax.types import FIT, SCORE, SELECT, Features, Grouping, Transitions

DIM, TRAJECTORIES, LENGTH = 60, 48, 80
SPECTRUM = 10 * np.arange(1, DIM + 1) ** -0.5 / np.sqrt((1 / np.arange(1, DIM + 1)).sum())
KINDS = ("same", "conflict", "orthogonal", "scale")
"""What the tasks want: the same; in two or more clusters opposite things; each something of its own, in
features that no other sees; or the same, with features of other lengths (by up to 4 times)."""


@dataclass(frozen=True)
class Settings:
    """Simulate the choice of the partition."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    only: str = ""
    """Only cells whose description contains this."""
    out: Path | None = None
    """File of the results."""


@dataclass(frozen=True)
class World:
    """A population of tasks to draw data sets from."""

    kind: str
    n: int
    k: int = 2
    signal: float = 0.1
    """Deviation of the advantages' signal, in units of their noise."""

    @property
    def truth(self) -> np.ndarray:
        """int [n]: the clusters."""
        clusters = {"conflict": self.k, "orthogonal": self.n}.get(self.kind, 1)
        return np.sort(np.arange(self.n) % clusters)

    @property
    def directions(self) -> np.ndarray:
        """float [n, d]: what each task's advantages point along, of unit signal."""
        q = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0].T
        if self.kind == "orthogonal":
            q = q[0] * self.visible
        elif self.kind == "conflict":
            angle = 2 * np.pi * self.truth / self.k
            q = np.cos(angle)[:, None] * q[0] + np.sin(angle)[:, None] * q[1]
        else:
            q = np.repeat(q[:1], self.n, 0)
        return q / np.linalg.norm(q * SPECTRUM, axis=1, keepdims=True)

    @property
    def visible(self) -> np.ndarray:
        """float [n, d]: the factor of each task's features."""
        if self.kind == "orthogonal":
            return 1.0 * (np.arange(DIM) % self.n == np.arange(self.n)[:, None])
        scale = 2.0 ** np.linspace(-1, 1, self.n) if self.kind == "scale" else np.ones(self.n)
        return np.repeat(scale[:, None], DIM, 1)

    def rows(self, rng: np.random.Generator, task: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features [N, d], advantages [N] and trajectory numbers [N] of a task's trajectories."""
        lengths = rng.permutation(np.linspace(LENGTH / 2, 3 * LENGTH / 2, TRAJECTORIES).astype(int))
        number = np.repeat(np.arange(TRAJECTORIES), lengths)
        whole = rng.normal(size=(TRAJECTORIES, DIM + 1))[number]
        along = _autoregressive(rng, (len(number), DIM + 1))
        g = (0.3 * whole + along)[:, :DIM] * SPECTRUM
        noise = (0.3 * whole + 0.7 * along)[:, DIM] + 0.6 * rng.normal(size=len(number))
        advantage = self.signal * (g @ self.directions[task]) + noise
        return g * self.visible[task], advantage, number

    def draw(self, seed: int) -> tuple[Features, Transitions]:
        """A data set of all tasks, half of it FIT."""
        rng = np.random.default_rng([seed, self.n, KINDS.index(self.kind)])
        g, advantage, number = map(np.stack, zip(*(self.rows(rng, i) for i in range(self.n)), strict=True))
        parts = np.resize([FIT, FIT, SCORE, SELECT], TRAJECTORIES)
        split = np.stack([rng.permutation(parts)[row] for row in number]).astype(np.int8)
        nothing = np.zeros((*number.shape, 1), np.float32)
        data = Transitions(nothing, split, advantage.astype(np.float32), number, split, np.arange(self.n))
        return Features(g.astype(np.float32), np.zeros(2, np.uint32)), data

    def population(self, transitions: int) -> tuple[np.ndarray, np.ndarray]:
        """Gradient b [n, d] and curvature H [n, d, d] of every task's loss, nearly without noise."""
        rng, found = np.random.default_rng(1), {}
        for i, key in enumerate(zip(self.truth.tolist(), self.visible[:, 0].tolist(), strict=True)):
            if key not in found:
                rounds = -(-transitions // (TRAJECTORIES * LENGTH))
                found[key] = np.mean([_moments(*self.rows(rng, i)[:2]) for _ in range(rounds)], 0)
            found[i] = found[key]
        both = np.stack([found[i] for i in range(self.n)])
        return both[:, 0], both[:, 1:]


def _autoregressive(rng: np.random.Generator, shape: tuple[int, int], along: float = 0.5) -> np.ndarray:
    return lfilter([np.sqrt(1 - along**2)], [1, -along], rng.normal(size=shape), axis=0)


def _moments(g: np.ndarray, a: np.ndarray) -> np.ndarray:
    """b and H in the rows of one array [1 + d, d]."""
    a = (a - a.mean()) / a.std()
    return np.concatenate([a @ g[None] / 2, (g * np.abs(a)[:, None]).T @ g / 4])[:, :] / len(a)


def rule(labels: np.ndarray, held_out: HeldOut) -> np.ndarray:
    """The rule of version 0.1: the smallest k within two standard errors (of the judging alone) or 3% of the
    best candidate's gain over one group, which must be .003 at least."""
    data = held_out.afresh().data
    data.solve(grouping.distinct_groups(labels)[0], estimate.OUTER, noise=False)
    gains = np.stack([data.gains(row, estimate.OUTER).gain for row in labels])
    known = data.task, len(labels[0]), data.trajectory
    value = np.array([grouping.paired_difference(row, *known)[0] for row in gains])
    lack = np.array([grouping.paired_difference(gains[value.argmax()] - row, *known) for row in gains])
    k = labels.max(1) + 1
    whole = lack[k == 1, 0].max()
    equal = lack[:, 0] <= np.maximum(2 * lack[:, 1], whole if whole < 0.003 else 0.03 * whole)
    return labels[np.argmax(np.where(equal & (k == k[equal].min()), value, -np.inf))]


class Truth:
    """True gains of splits."""

    def __init__(self, world: World, transitions: int):
        """Know a world by so many transitions of each kind of task."""
        self.b, self.h = world.population(transitions)
        self.others: list[HeldOut] = []

    def gain(self, splits: np.ndarray, fitted_on: HeldOut) -> float:
        """Of the splits [F, n] of each judge over one group, fitted on what each of them leaves."""
        data, config, total = fitted_on.data, fitted_on.config, 0.0
        for labels, way in zip(splits, estimate.OUTER, strict=True):
            stats = estimate.TaskStatistics(*(np.asarray(x, float) for x in data.statistics(way.fitted)))
            ridge = config.l2 * estimate.ridge_unit(stats) * np.eye(DIM)
            for sign, partition in ((1, labels), (-1, np.zeros_like(labels))):
                for inside in Grouping(partition).member:
                    shrink = ridge / (inside.sum() if config.ridge == "sum" else 1)
                    step = np.linalg.solve(stats.h[inside].mean(0) + shrink, stats.b[inside].mean(0))
                    gains = self.b[inside] @ step - (self.h[inside] @ step) @ step / 2
                    total += sign * data.weight[way.judge] * gains.sum() / len(labels)
        return total


def draws(world: World, config: Config, seeds: range, choose: bool | None, truth: Truth) -> Iterator[dict]:
    """What is found in each of several data sets; ``choose`` the partition in all of them, in none, or (None)
    where the nested gain allows a split."""
    for seed in seeds:
        features, transitions = world.draw(seed)
        held_out = HeldOut(features, transitions, config.estimate, np.array([0, seed], np.uint32))
        nested = nested_gain(held_out, config)
        found = {
            "gain": nested.gain, "stderr": nested.stderr, "z": nested.z, "null": nested.null,
            "together": nested.together, "opposition": [nested.opposition, nested.opposition_stderr],
            "splits": [row.tolist() for row in nested.labels],
            "true": truth.gain(nested.labels, held_out),
        }  # fmt: skip
        if truth.others:
            found["true_afresh"] = float(np.mean([truth.gain(nested.labels, x) for x in truth.others]))
        truth.others = [*truth.others[-3:], held_out]
        g = config.grouping
        pays = nested.pays(grouping.threshold(g.level), g.min_ratio, g.agreed_ratio)
        if pays if choose is None else choose:
            member = pipeline.subsets(config, world.n)
            scored = pipeline.score_subsets(features, transitions, member, config.estimate)
            affinity = pipeline.affinity(scored.scores, held_out, config.estimate)
            chosen = pipeline.choose_groups(affinity, held_out.afresh(), config)
            found |= {"labels": chosen.labels.tolist()}
            if choose:
                found |= {"old": rule(chosen.path["candidates"], held_out).tolist()}
        yield found


def cells(preset: Preset) -> list[dict]:
    """What is simulated."""
    if preset == "small":
        tiny = {"n": 4, "count": 3, "choose": True}
        return [{"kind": "same", **tiny}, {"kind": "conflict", "signal": 0.3, **tiny, "ridge": "sum"}]
    sizes, signals = (5, 8, 12), (0.045, 0.06, 0.1)
    known: list[dict] = [
        {"kind": kind, "n": n, "count": 100, "block": block} | ({} if kind == "same" else {"choose": False})
        for block in range(3) for kind in KINDS[:2] for n in sizes
    ]  # fmt: skip
    known += [
        {"kind": "conflict", "n": 8, "k": k, "signal": signal, "count": 24, "choose": True}
        for k in (2, 3) for signal in signals
    ]  # fmt: skip
    studied = [{"kind": kind, "n": 8, "signal": 0.2, "count": 20, "choose": True} for kind in KINDS]
    return known + [cell | {"ridge": ridge} for cell in studied for ridge in ("mean", "sum")]


def compute(cell: Mapping, transitions: int) -> dict:
    """All draws of a cell, and what they come to."""
    known = {name: cell[name] for name in ("kind", "n", "k", "signal") if name in cell}
    world = World(**known)
    config = override(Config(), {"estimate.ridge": cell["ridge"]} if "ridge" in cell else {})
    truth = Truth(world, transitions)
    first = cell.get("block", 0) * cell["count"]
    seeds = range(first, first + cell["count"])
    found = list(draws(world, config, seeds, cell.get("choose"), truth))
    return {
        "truth": world.truth.tolist(),
        "summary": summary(world, config, found, cell.get("choose")),
        "draws": found,
    }


def summary(world: World, config: Config, found: list[dict], choice: bool | None, looks: int = 3) -> dict:
    """Rates of splits (without a choice: that the nested gain allows), coverage of the nested interval, and
    agreement with the clusters."""
    level, ratio = config.grouping.level, config.grouping.min_ratio
    z = np.array([draw["z"] if draw["gain"] > ratio * draw["together"] else -np.inf for draw in found])
    may = [max(draw.get("labels", [0 if choice is None else 1])) > 0 for draw in found]
    split, several = (np.array(may) & (z > grouping.threshold(x)) for x in (level, level / looks))
    whole = len(found) // looks * looks

    def covers(name: str) -> float:
        known = [draw for draw in found if name in draw]
        return float(np.mean([abs(d["gain"] - d[name]) <= 1.96 * d["stderr"] for d in known]))

    def agree(name: str) -> dict:
        labels = [draw[name] for draw in found if name in draw]
        return {
            "split": float(np.mean([max(row) > 0 for row in labels])),
            "nmi": float(np.mean([grouping.nmi(world.truth, row) for row in labels])),
            "exact": float(np.mean([grouping.exact(world.truth, row) for row in labels])),
        }

    out = {
        "split": float(split.mean()),
        "split_in_looks": float(several[:whole].reshape(-1, looks).any(1).mean()) if whole else None,
        "covers": covers("true"),
        "covers_afresh": covers("true_afresh"),
        "gains": float(np.mean([draw["z"] > grouping.threshold(level) for draw in found])),
    }
    chosen = all("old" in draw for draw in found)
    return out | ({"new": agree("labels"), "old": agree("old")} if chosen else {})


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    small = settings.preset == "small"
    path = result_path("calibration", settings.preset, settings.out)
    transitions = 20_000 if small else 2_000_000
    size = {"dim": DIM, "trajectories": TRAJECTORIES, "length": LENGTH, "population": transitions}
    results = ResultFile(
        path, name="calibration", command="python benchmarks/calibration.py",
        settings=size | {"estimate": Config().estimate, "grouping": Config().grouping},
    )  # fmt: skip
    todo = [cell for cell in cells(settings.preset) if settings.only in str(cell)]
    run: Callable[[Mapping], dict] = lambda cell: compute(cell, transitions)  # noqa: E731
    results.run(todo, run)
    for cell in results.cells:
        print(cell["cell"], cell["summary"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
