"""The README's tables of environments, as Markdown made from result files alone."""

from __future__ import annotations

from collections.abc import Mapping

from tables import table


def environments(data: Mapping) -> str:
    """What the engines add to the libraries' own stepping."""
    rows = []
    for c in data["cells"]:
        cell, times = c["cell"], c["timings"]
        engine, _, what = cell["part"].partition(" ")
        if what != "overhead":
            continue
        name = f"{cell['library']} {cell['environment']}" if "library" in cell else cell["family"]
        rates = [f"{times[key]:,.0f}" for key in ("raw_steps_per_second", "engine_steps_per_second")]
        rows.append([name, engine, f"{cell['slots']:,}", *rates, f"{times['overhead']:+.0%}"])
    head = [
        "environment",
        "engine",
        "copies",
        "the library alone, steps/s",
        "our engine, steps/s",
        "overhead",
    ]
    return table(head, rows)
