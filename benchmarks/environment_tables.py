"""The README's tables of environments, as Markdown made from result files alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tables import over_runs, table

from pgx_jax.report.wording import steps, with_interval


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


def highway(data: Mapping) -> str:
    """Our Highway beside highway-env and EnvPool: speed, parity, and a policy in both."""
    parts = {cell["cell"]["part"]: cell for cell in data["cells"]}
    renderers = {"speed": _speed, "parity": _parity, "transfer": _transfer}
    return "\n\n".join(render(parts[part]) for part, render in renderers.items() if part in parts)


def _speed(cell: Mapping) -> str:
    rates = cell["timings"]["rates"]
    core = {name: np.asarray(rates[name]["core"]) for name in cell["engines"]}
    slowest = np.median(core["highway-env"])
    rows = [
        [
            name,
            f"{np.median(values):,.0f}",
            f"{values.min():,.0f}–{values.max():,.0f}",
            f"{np.median(values) / slowest:,.0f}×",
            f"{np.median(rates[name]['wall']):,.0f}",
        ]
        for name, values in core.items()
    ]
    head = ["steps a second", "of one core's time", "rounds", "× highway-env", "by the clock, all cores"]
    note = f"Medians of {cell['cell']['rounds']} rounds in turns, random actions, resets included."
    return table(head, rows) + "\n\n" + note


def _parity(cell: Mapping) -> str:
    worst, single = cell["float64"], cell["float32"]
    apart = max(worst.get("x", 0), worst.get("y", 0)), max(single["x"], single["y"])
    return (
        f"Parity: {cell['episodes']} episodes of {len(cell['traffics'])} traffics ({cell['steps']:,} steps, "
        f"{cell['aborted']} aborted lane changes, {cell['crashes']} crashes). Replayed whole in float64, "
        f"vehicles part by at most {apart[0]:.0e} m and {worst.get('speed', 0):.0e} m/s, rewards by "
        f"{worst['reward']:.0e}; {worst['terminated']:.0f} endings differ. Step by step in float32, "
        f"{single['same lanes']:.2%} of the steps choose the same lanes for all vehicles; in these, "
        f"vehicles part by at most {apart[1]:.0e} m. ({cell['mirrored']} crashes exactly in line push to "
        f"either side.)"
    )


def _transfer(cell: Mapping) -> str:
    rows = [
        [name, *(with_interval(over_runs(found[place])) for place in ("home", "highway-env"))]
        for name, found in cell["returns"].items()
    ]
    head = [f"mean return of {cell['cell']['episodes']} episodes", "our Highway", "highway-env"]
    note = f"The policy was trained in ours alone, for {steps(float(np.ravel(cell['env_steps'])[0]))} steps."
    return table(head, rows) + "\n\n" + note
