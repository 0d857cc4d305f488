"""A sweep: families, settings and training seeds crossed; what ``sweep.json`` holds of it. Its schema is
published as ``sweep.schema.json`` beside this file.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from pgx_jax.compare.results import Number, Record, publish, read_record
from pgx_jax.compare.seeds import SeedsResult

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or disappears."""


class Part(Record, frozen=True, kw_only=True):
    """A family with some settings, over its seeds."""

    folder: str
    """Of its runs, in that of the sweep."""
    settings: dict[str, Any]
    """Those by which it differs from other parts of its family."""
    seeds: SeedsResult

    @property
    def name(self) -> str:
        """The family, and its settings if there are any: "points, estimate.dim = 100"."""
        return ", ".join((self.seeds.family, *(f"{key} = {value}" for key, value in self.settings.items())))


class SweepResult(Record, frozen=True, kw_only=True):
    """Everything that ``sweep.json`` holds."""

    parts: list[Part]
    """Those of which a run is finished."""
    failed: dict[str, str] = {}
    """Folders of the runs that came to no results, and why."""
    timings: dict[str, Number] = {}
    """Seconds of every run, by its folder: all that may differ between two equal sweeps."""
    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]


def from_plain(values: Any) -> SweepResult:
    """Read what ``sweep.json`` held.

    Raises:
        DataError: it is of another version, or something is missing, unknown or of another kind.
    """
    return read_record(values, SweepResult, "sweep.json", "call the sweep again")


if __name__ == "__main__":  # writes the published schema anew
    publish(SweepResult, "sweep.schema.json")
