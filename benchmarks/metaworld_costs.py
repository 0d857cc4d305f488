"""What the presets of `mt10.py` train, and how long that takes at the rates at which it was done."""

from __future__ import annotations

from collections.abc import Mapping

from metaworld_drawings import by_part

from pgx_jax.report.wording import steps

PLANNED = {"quick": 1_112_000, "standard": 48_340_000, "by_k": 4_967_500}
"""Environment steps that all cells of a preset train and collect (`mt10.planned`)."""
HOURS = 3
"""What `standard` was meant to take on two cores."""


def rates(data: Mapping) -> tuple[float, float] | None:
    """Steps a second of the slowest and the quickest training of one policy from scratch, its evaluation
    included; None where there was none."""
    found = [cell["cell"]["steps"] / cell["timings"]["seconds"] for cell in by_part(data)["scratch"]]
    return (min(found), max(found)) if found else None


def told(data: Mapping) -> str:
    """What the presets take, in a sentence; "" where no rate is known."""
    known = rates(data)
    if known is None:
        return ""
    parts = [f"`{name}` {steps(total)} ({_span(total, *known)})" for name, total in PLANNED.items()]
    return (
        f"Steps that the presets train and collect, and how long at the {known[0]:,.0f} to {known[1]:,.0f} "
        f"steps a second of one policy from scratch here: {', '.join(parts)}.{_late(known[1])}"
    )


def _late(quick: float) -> str:
    """What is said where `standard` takes longer than it was meant to."""
    if PLANNED["standard"] / quick <= HOURS * 3600:
        return ""
    return f" With 5M steps a method and two networks `standard` cannot be had in {HOURS} hours on two cores."


def _span(total: int, slow: float, quick: float) -> str:
    """The least and the largest time of so many steps."""
    low, high = total / quick / 60, total / slow / 60
    return f"{low:.0f} to {high:.0f} minutes" if high < 120 else f"{low / 60:.0f} to {high / 60:.0f} hours"
