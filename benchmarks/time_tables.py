"""What the studies of the estimate take, as Markdown made from their result files alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tables import table

from pgx_jax.report.wording import duration

COMMANDS = {
    name: f"python benchmarks/{name}.py"
    for name in ("approximation", "truth", "estimation", "ablations", "stability", "generalisation")
    + ("projections", "language")
}
"""Result files of the studies -> their commands."""
MEASURED = ("cpu_seconds", "cpu")
"""Names under which cells have the processor's time."""


class Spent(NamedTuple):
    """What cells took, in seconds."""

    processor: float
    """Where it was measured."""
    at_most: float
    """The clock's time on every core that there was, where the processor's was not measured."""
    clock: float


def spent(data: Mapping) -> Spent:
    """What all cells of a result file took."""
    processor = at_most = clock = 0.0
    for cell in data["cells"]:
        times = cell["timings"]
        known = next((times[name] for name in MEASURED if isinstance(times.get(name), float)), None)
        cores = data["environments"][cell["environment"]]["cores"]
        processor += known or 0.0
        at_most += times["seconds"] * cores if known is None else 0.0
        clock += times["seconds"]
    return Spent(processor, at_most, clock)


def times(found: Mapping[str, Mapping | None]) -> str:
    """Every study's cells and time, and what all of them come to."""
    known = {name: spent(data) for name, data in found.items() if data}
    rows = [
        [
            f"`{COMMANDS[name]}`",
            count := len(found[name]["cells"]),
            _processor(x),
            duration(x.clock),
            ("≤ " if x.at_most else "") + duration((x.processor + x.at_most) / count),
        ]  # fmt: skip
        for name, x in known.items()
    ]
    every = sum(x.processor + x.at_most for x in known.values())
    return table(["command", "cells", "CPU time", "by the clock", "CPU time of a cell"], rows) + (
        f"\n\nOf the cells that are in the result files. The clock went on while other work had the cores; "
        f"where the processor's own time was not measured, the clock's on every core that the process had "
        f"is an upper bound (≤). In all {_at_most(known)}{duration(every)} of one core: "
        f"{duration(every / 2)} on two cores that are both kept busy, with two of the commands side by side. "
        f"Every command goes on where it was stopped."
    )


def _processor(x: Spent) -> str:
    return ("≤ " if x.at_most else "") + duration(x.processor + x.at_most)


def _at_most(known: Mapping[str, Spent]) -> str:
    return "at most " if any(x.at_most for x in known.values()) else ""
