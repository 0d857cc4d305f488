"""The README's tables of Meta-World, as Markdown made from the result file of `mt10.py` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tables import plural, table

from pgx_jax.compare.results import from_plain
from pgx_jax.report import wording
from pgx_jax.report.wording import duration, steps, with_interval

WAYS = {
    "library": "Meta-World's own vectors, ten processes",
    "metaworld": "Meta-World, ours",
    "envpool": "EnvPool",
}


def mt10(data: Mapping) -> str:
    """All parts that have cells."""
    by_part: dict[str, list[Mapping]] = {}
    for cell in data["cells"]:
        by_part.setdefault(cell["cell"]["part"], []).append(cell)
    return "\n\n".join(table_of(by_part[part]) for part, table_of in PARTS.items() if part in by_part)


def speeds(cells: Sequence[Mapping]) -> str:
    """Steps a second, and how many times those of the library."""
    times, cell = cells[-1]["timings"], cells[-1]["cell"]
    rows = []
    for way, label in ((way, label) for way, label in WAYS.items() if way in times["raw"]):
        own, ratio = [label], lambda kind, way=way: times[kind][way] / times[kind]["library"]
        for kind in ("raw", "with_policy"):
            own += [f"{times[kind][way]:,.0f}", f"{ratio(kind):.1f}×"]
        rows.append(own)
    head = ["steps a second, all cores", "random actions", "", "with the policy", ""]
    return (
        f"{table(head, rows)}\n\nMedians of {plural(cell['rounds'], 'round')} in turns, an episode and a "
        f"reset of every environment in each: {cell['slots']} in ours and EnvPool's, ten in the library's. "
        "Our copies return the library's numbers, bit for bit; EnvPool's are of another MuJoCo."
    )


def success(cell: Mapping, kind: str = "any_step") -> list[str]:
    """Mean success, and each task's."""
    found = cell[kind]
    return [f"{found['mean']:.2f}", " ".join(f"{x:.2f}".removeprefix("0") for x in found["per_task"])]


def learning(cells: Sequence[Mapping]) -> str:
    """One policy for all, from scratch and from experts."""
    rows = []
    for cell in cells:
        (mean, each), (last, _) = success(cell), success(cell, "last_step")
        seed, took = str(cell["cell"]["seed"]), duration(cell["timings"]["seconds"])
        rows.append([f"{steps(cell['cell']['steps'])} steps from scratch", seed, mean, last, each, took])
    head = ["one policy for all", "seed", "any step", "last step", "any step, by task", "time"]
    judged = cells[0]["cell"]["judged"]
    return (
        f"{table(head, rows)}\n\nSuccess on {judged} episodes of every task, with goals of another seed; "
        "times by the clock."
    )


def shown(cells: Sequence[Mapping]) -> str:
    """What experts show, what is learnt of it, and what training on brings."""
    rows = []
    for cell in cells:
        given, trained = f"{steps(cell['demonstrated'])} demonstrated", steps(cell["cell"]["steps"])
        experts = " ".join(f"{x:.2f}".removeprefix("0") for x in cell["experts"])
        rows.append(["experts", given, f"{np.mean(cell['experts']):.2f}", "", experts, ""])
        for label, found, total, took in (
            ("cloned (demonstration-initialised)", cell["cloned"], given, cell["timings"]["cloned"]),
            ("and PPO", cell, f"{given} + {trained}", cell["timings"]["seconds"]),
        ):
            (mean, each), (last, _) = success(found), success(found, "last_step")
            rows.append([label, total, mean, last, each, duration(took)])
    head = ["from experts", "steps", "any step", "last step", "any step, by task", "time"]
    return table(head, rows)


def grouped(cells: Sequence[Mapping]) -> str:
    """All methods of the runs."""
    rows = []
    for cell in cells:
        own, found = cell["cell"], from_plain(cell["results"])
        where = f"{own['network']}, {steps(own['steps_per_task'])} a task, seed {own['seed']}"
        for name in wording.ordered_methods(found.methods):
            entry, label = found.methods[name], wording.method_label(found.methods, name)
            last = f"{np.mean(entry.at_end):.2f}" if entry.at_end else ""
            rows.append([where, label, str(len(entry.groups or ())), with_interval(entry.interval), last])
    return table(["run", "method", "policies", "any step", "last step"], rows)


PARTS: dict[str, Callable[[Sequence[Mapping]], str]] = {
    "speed": speeds, "scratch": learning, "experts": shown, "groups": grouped,
}  # fmt: skip
"""What is said of each part of the benchmark."""
