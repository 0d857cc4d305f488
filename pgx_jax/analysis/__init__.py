"""What the paper measures of the method itself, of a run that is saved or in memory.

Every analysis is a function of a run and its settings that returns a record; `ANALYSES` has them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pgx_jax.analysis.ablations import AblationsConfig, AblationsResult, other_settings
from pgx_jax.analysis.approximation import ApproximationConfig, ApproximationResult, first_order_error
from pgx_jax.analysis.cost import CostConfig, CostResult, estimation_cost
from pgx_jax.analysis.curvature import TRACES, extreme_eigenvalues, hessian_trace, matfree
from pgx_jax.analysis.generalisation import (
    GeneralisationConfig,
    GeneralisationResult,
    generalisation_bound,
)
from pgx_jax.analysis.truth import TruthConfig, TruthResult, estimated_against_true
from pgx_jax.errors import ConfigError, pick

__all__ = [
    "ANALYSES",
    "TRACES",
    "AblationsConfig",
    "AblationsResult",
    "Analysis",
    "ApproximationConfig",
    "ApproximationResult",
    "CostConfig",
    "CostResult",
    "GeneralisationConfig",
    "GeneralisationResult",
    "TruthConfig",
    "TruthResult",
    "analysis_of",
    "by_default",
    "estimated_against_true",
    "estimation_cost",
    "extreme_eigenvalues",
    "first_order_error",
    "generalisation_bound",
    "hessian_trace",
    "is_installed",
    "other_settings",
]


class Analysis(NamedTuple):
    """One kind of analysis."""

    function: Callable[..., Any]
    """(run, settings, progress=…) -> a record, see `compare.results.Record`."""
    settings: type
    """Dataclass of its settings, with a method ``check()``."""
    record: type
    """Class of what it returns."""
    needs: Callable[[], object] | None = None
    """Raises ConfigError where a library that it needs is not installed."""
    trains_much: bool = False
    """Whether it takes many times the steps of the run: it is made where it is named, and not by default."""


ANALYSES: dict[str, Analysis] = {
    "approximation": Analysis(first_order_error, ApproximationConfig, ApproximationResult),
    "ablations": Analysis(other_settings, AblationsConfig, AblationsResult),
    "generalisation": Analysis(generalisation_bound, GeneralisationConfig, GeneralisationResult, matfree),
    "cost": Analysis(estimation_cost, CostConfig, CostResult),
    "truth": Analysis(estimated_against_true, TruthConfig, TruthResult, trains_much=True),
}
"""Analyses by name."""


def analysis_of(name: str) -> Analysis:
    """The analysis of a name, if what it needs is installed.

    Raises:
        ConfigError: there is none, or its library is missing.
    """
    found = pick(ANALYSES, name, "the analysis")
    if found.needs is not None:
        found.needs()
    return found


def by_default() -> list[str]:
    """Names of the analyses that are made where none is named: whose libraries are installed, and that don't
    train much."""
    return [name for name, found in ANALYSES.items() if not found.trains_much and is_installed(name)]


def is_installed(name: str) -> bool:
    """Whether what an analysis needs is installed."""
    try:
        analysis_of(name)
    except ConfigError:
        return False
    return True
