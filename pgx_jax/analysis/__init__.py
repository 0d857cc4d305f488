"""What the paper measures of the method itself, of a run that is saved or in memory.

Every analysis is a function of a run and its settings that returns a record; `ANALYSES` has them by name.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

from pgx_jax.analysis.approximation import ApproximationConfig, ApproximationResult, first_order_error
from pgx_jax.errors import ConfigError, pick

__all__ = [
    "ANALYSES",
    "Analysis",
    "ApproximationConfig",
    "ApproximationResult",
    "analysis_of",
    "first_order_error",
]


class Analysis(NamedTuple):
    """One kind of analysis."""

    function: Callable[..., Any]
    """(run, settings, progress=…) -> a record, see `compare.results.Record`."""
    settings: type
    """Dataclass of its settings, with a method ``check()``."""
    record: type
    """Class of what it returns."""
    library: str | None = None
    """A module of the extra ``analysis`` that it needs."""

    def check(self, name: str) -> None:
        """Raise ConfigError where its library is not installed."""
        if self.library is not None and importlib.util.find_spec(self.library) is None:
            raise ConfigError(
                f"the analysis {name!r} needs {self.library}, which is not installed: "
                f'pip install "pgx-jax[analysis]"'
            )


ANALYSES: dict[str, Analysis] = {
    "approximation": Analysis(first_order_error, ApproximationConfig, ApproximationResult),
}
"""Analyses by name."""


def analysis_of(name: str) -> Analysis:
    """The analysis of a name, if what it needs is installed.

    Raises:
        ConfigError: there is none, or its library is missing.
    """
    found = pick(ANALYSES, name, "the analysis")
    found.check(name)
    return found
