"""All surrogates against scikit-learn: `python benchmarks/surrogates.py`.

The data are those of cartpole-goals: a meta-policy is trained and collects, and every transition
enters the fit (all parts of the split). All m surrogates are solved by one call of
`estimate.fit(solver="lbfgs")`, whose time includes standardising the advantages and arranging the
rows, and one after the other by scikit-learn, whose time is that of `LogisticRegression.fit` alone, on
rows that were arranged before.

Ours must bring every L - L* to at most 1e-4 of L(0) - L*, where L* is a float64 solution to machine
precision. scikit-learn is given its best: every solver and precision is tried on a few subsets with
the loosest tolerance that reaches this gap there (and given up as soon as it is slower than another),
and the fastest one then solves all subsets, in turns with ours. Where the gap of its other subsets
ends above 1e-4, that favours it. For the record, the fixed-curvature Newton method is timed as well.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
import tyro
from common import Preset, ResultFile, result_path
from regressions import Regression, choose
from study import SMALL_CONFIG

from pgx_jax import estimate
from pgx_jax.config import Config, override
from pgx_jax.runs.run import Run
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import FIT, SCORE, SELECT

FAMILY = "cartpole-goals"
ALL = (FIT, SCORE, SELECT)
COLLECTED = {"estimate": {"steps": 2048, "num_envs": 16}}
"""Ten tasks make N = 20,480 transitions."""


@dataclass(frozen=True)
class Settings:
    """Time all surrogates and scikit-learn's loop over them."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    l2: tuple[float, ...] = (1.0, 0.01, 0.001)
    """Ridges, in multiples of the unit u."""
    subsets: int = 200
    """Number m of surrogates."""
    size: int = 4
    """Tasks in a subset (of 10; there are 210 such subsets)."""
    trial: int = 8
    """Subsets on which scikit-learn's solvers and tolerances are chosen."""
    gap: float = 1e-4
    """Largest L - L* in units of L(0) - L*, for both."""
    repeats: int = 3
    """Timings of either side, in turns; the median counts."""
    seed: int = 0
    """Seed of the run that supplies the data, and of the choice of subsets."""
    out: Path | None = None
    """File of the results."""


class Data:
    """Transitions and features of a run."""

    def __init__(self, settings: Settings):
        """Collect them."""
        small = settings.preset == "small"
        self.family = make_family(FAMILY, **({"n_tasks": 4, "n_groups": 2, "horizon": 20} if small else {}))
        config = override(Config(seed=settings.seed), SMALL_CONFIG if small else COLLECTED)
        self.run = Run(self.family, config).compute("features")
        n = self.family.n
        size, count = (2, None) if small else (settings.size, settings.subsets)
        self.member = estimate.make_subsets(settings.seed, n, size, count)

    def regressions(self, l2: float) -> list[Regression]:
        """Every surrogate in float64; ``l2`` in absolute units."""
        values, a = np.asarray(self.run.features.values), estimate.signed_weights(self.run.transitions)
        return [Regression(values, a, row, l2) for row in self.member]

    def fit(self, l2: float, **settings):
        """All surrogates at once; returns them, which are on the host, and the seconds that it took."""
        transitions, features = self.run.transitions, self.run.features
        began = time.perf_counter()
        found = estimate.fit(features, transitions, self.member, l2=l2, parts=ALL, **settings)
        return found, time.perf_counter() - began


def compute(data: Data, cell: Mapping, settings: Settings) -> dict:
    """Solve all surrogates of one l2 with both."""
    found, _ = data.fit(cell["l2"], solver="lbfgs")  # compiles
    problems = data.regressions(float(found.l2))
    optima = [p.optimum() for p in problems]

    def gaps(deltas) -> list[float]:
        return [p.gap(d, best) for p, d, best in zip(problems, np.asarray(deltas), optima, strict=True)]

    chosen, tried = choose(problems[: cell["trial"]], optima[: cell["trial"]], settings.gap)
    ours, theirs = [], []
    for _ in range(cell["repeats"]):
        found, seconds = data.fit(cell["l2"], solver="lbfgs")
        ours.append(seconds)
        solved = [p.solve(*chosen) for p in problems]
        theirs.append([s for _, s in solved])
    newton = []
    for iterations in (1, 5):
        data.fit(cell["l2"], iterations=iterations)
        steps, seconds = data.fit(cell["l2"], iterations=iterations)
        newton.append(
            {"iterations": iterations, "gap": max(gaps(steps.delta)), "timings": {"seconds": seconds}}
        )
    speedups = [sum(t) / o for o, t in zip(ours, theirs, strict=True)]
    return {
        "rows": int(np.size(data.run.transitions.action)),
        "rows_of_each": [len(p.y) for p in problems[:1]][0],
        "dim": int(found.delta.shape[1]),
        "subsets": len(problems),
        "iterations": int(found.iterations),
        "gap": max(gaps(found.delta)),
        "sklearn": {"solver": chosen[0], "dtype": chosen[1], "tolerance": chosen[2],
                    "gap": max(gaps([d for d, _ in solved])), "version": metadata.version("scikit-learn")},
        "sklearn_trials": tried,
        "newton": newton,
        "timings": {
            "ours": ours, "sklearn_each": theirs, "sklearn": [float(sum(t)) for t in theirs],
            "speedups": speedups, "speedup": float(np.median(speedups)),
        },
    }  # fmt: skip


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    small = settings.preset == "small"
    data = Data(settings)
    path = result_path("surrogates", settings.preset, settings.out)
    about = {
        "seed": settings.seed, "gap": settings.gap, "size": int(data.member.sum(1).max()),
        "subsets": len(data.member), "family": data.family.settings, "config": data.run.config,
    }  # fmt: skip
    results = ResultFile(path, name="surrogates", command="python benchmarks/surrogates.py", settings=about)
    shared = {"trial": 2, "repeats": 1} if small else {"trial": settings.trial, "repeats": settings.repeats}
    shared["platform"] = jax.default_backend()
    cells = [{"l2": l2, **shared} for l2 in (settings.l2[:1] if small else settings.l2)]
    results.run(cells, lambda cell: compute(data, cell, settings))
    for done in results.cells:
        theirs, times = done["sklearn"], done["timings"]
        print(
            f"{done['cell']['platform']}: l2 = {done['cell']['l2']} u: "
            f"{done['subsets']} surrogates in {np.median(times['ours']):.2f} s, "
            f"gap {done['gap']:.1e}; scikit-learn ({theirs['solver']}, {theirs['dtype']}) "
            f"{np.median(times['sklearn']):.1f} s, gap {theirs['gap']:.1e}: "
            f"{times['speedup']:.1f} times as long"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
