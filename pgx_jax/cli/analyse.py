"""``pgx-jax analyse``: what the paper measures of the method, of a saved run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from pgx_jax.analysis import (
    ANALYSES,
    AblationsConfig,
    ApproximationConfig,
    CostConfig,
    GeneralisationConfig,
    TruthConfig,
    analysis_of,
    by_default,
)
from pgx_jax.errors import ConfigError
from pgx_jax.report import analyses
from pgx_jax.runs.analysing import FOLDER, analyse
from pgx_jax.runs.saved import load
from pgx_jax.runs.watching.console import ConsoleListener
from pgx_jax.types import Named


@dataclass(frozen=True)
class AnalyseCommand:
    """Measure what the method rests on: first order, other settings, generalisation, cost, true training."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    names: tyro.conf.Positional[tuple[Named[str, ANALYSES], ...]] = ()
    """Which analyses; by default all but "truth", if their libraries are installed. "approximation": the
    relative error of the log-ratio's first order, by distance from theta*. "ablations": what other settings
    would have done to the groups, one at a time. "generalisation": curvature, a bound from it, and what
    policies that are fitted to transitions lose on fresh ones (needs the extra `analysis`). "cost": how many
    times as much a policy trained for every subset takes as the estimate of all, in operations and in time;
    a few policies are trained for a few updates, and the rest is scaled up. "truth": subsets of the tasks
    are trained, with many times the steps of the run, and every estimate is compared with what came of it."""
    ablations: AblationsConfig = field(default_factory=AblationsConfig)
    approximation: ApproximationConfig = field(default_factory=ApproximationConfig)
    generalisation: GeneralisationConfig = field(default_factory=GeneralisationConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    truth: TruthConfig = field(default_factory=TruthConfig)

    def __call__(self, console: Console) -> None:
        """Make them, one after the other."""
        names = dict.fromkeys(self.names or by_default())
        for name in names:
            analysis_of(name)
            try:
                getattr(self, name).check()
            except ConfigError as error:
                raise ConfigError(f"{name}.{error}") from None
        run = load(self.run)
        for name in names:
            with ConsoleListener(console) as listener:
                listener.metric = run.family.metric
                listener.start(name)
                found = analyse(run, name, getattr(self, name), progress=listener.progress)
            shown = analyses.shown(name)
            console.print(shown.table(found))
            for line in (shown.sentence(found), f"saved: {self.run / FOLDER / name}.json, {name}.png"):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
