"""The README's tables of many tasks, as Markdown made from the result file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tables import Cells, over_runs, plural, table

from pgx_jax.report.wording import duration, with_interval


def scale(data: Mapping) -> str:
    """All five parts, of those that are measured."""
    parts = {
        "groups": groups, "affinity": affinities, "relaxation": relaxations, "run": runs, "devices": devices,
    }  # fmt: skip
    cells = {name: [c for c in data["cells"] if c["cell"]["part"] == name] for name in parts}
    return "\n\n".join(parts[name](some) for name, some in cells.items() if some)


def groups(cells: Cells) -> str:
    """From given transitions to groups."""
    rows = []
    for c in cells:
        cell, sizes, times = c["cell"], c["sizes"], c["timings"]
        rows.append(
            [
                cell["n"], f"{c['k']} ({cell['k']})", f"{c['nmi']:.3f}", cell["own"],
                f"{sizes['parameters']:,}",
                sizes["subsets"] or "–", sizes["candidates"], duration(times["grouping"]),
                duration(times["cpu"]), f"{times['peak_bytes'] / 2**30:.2f} GiB",
            ]
        )  # fmt: skip
    head = [
        "tasks n", "k (planted)", "NMI", "own", "parameters p", "subsets m", "candidates", "time", "CPU time",
        "memory",
    ]  # fmt: skip
    first = cells[0]["cell"]
    return (
        f"From given transitions ({first['transitions']} a task, planted groups in conflict, signal to noise "
        f"1 : {first['noise']:g}) to a grouping whose k is chosen on held-out data, programs compiled anew; "
        f"memory is the most that the process ever held. *Own* is the length of what each task wants by "
        f"itself, where what its group wants is 1: groups smaller than those planted gain by it. Without "
        f"subsets the affinity is the closed form.\n\n"
        f"{table(head, rows)}"
    )


def affinities(cells: Cells) -> str:
    """Which affinity tells the planted groups."""
    first, rows = cells[0]["cell"], []
    for name in cells[0]["kinds"]:
        found = [c["kinds"][name] for c in cells]
        seconds = float(np.median([kind["timings"]["seconds"] for kind in found]))
        rows.append(
            [
                name.replace("_", " "), found[0]["subsets"] or "–", _over(found, "auc"), _over(found, "nmi"),
                f"{seconds:.3g} s",
            ]
        )  # fmt: skip
    head = ["affinity", "subsets m", "AUC over pairs", "NMI at the planted k", "time"]
    return (
        f"Which affinity tells {first['k']} planted groups of {first['n']} tasks where noise makes it hard "
        f"(1 : {first['noise']:g}; {len(cells)} draws, with t-intervals); times without what all share "
        f"(features and each task's quadratic model).\n\n{table(head, rows)}"
    )


def _over(found: Sequence[Mapping], name: str) -> str:
    return with_interval(over_runs([kind[name] for kind in found]))


def relaxations(cells: Cells) -> str:
    """One relaxation by every solver."""
    rows = []
    for c in cells:
        cell, planted = c["cell"], c["planted_objective"]
        rough = c["as_published"]
        rows.append(
            [
                cell["n"], cell["solver"], f"{c['timings']['solve']:.2g} s",
                f"{c['objective'] / planted:.4f}",
                f"{c['infeasibility']:.0e}", f"{c['rounded_objective'] / planted:.4f}", f"{c['nmi']:.3f}",
                f"{plural(rough['k'], 'group')}, NMI {rough['nmi']:.3f}" if rough else "",
            ]
        )  # fmt: skip
    head = [
        "tasks n", "solver", "time", "objective", "violation", "rounded", "NMI", "rounded as published",
    ]  # fmt: skip
    noise = cells[0]["cell"]["noise"]
    return (
        f"One relaxation with tr X = k of a planted affinity (deviation of the noise {noise:g}, where pairs "
        f"of one group have 1 more), compiled before up to 200 tasks. Objectives in units of the planted "
        f"partition's; the violation is the largest of any constraint, which SPECTRAL leaves out in part. "
        f"*As published*: the form of the paper's laboratory, which links tasks with X_ij > 1/n.\n\n"
        f"{table(head, rows)}"
    )


def runs(cells: Cells) -> str:
    """Whole runs."""
    lines = []
    for c in cells:
        times = c["timings"]
        shown = "`pgx-jax " + " ".join(c["cell"]["args"]) + "`"
        lines.append(
            f"{shown}: k = {c['k']}, NMI {c['nmi']:.3f}, {duration(times['command'])} "
            f"({duration(times['cpu'])} of CPU), {times['peak_bytes'] / 2**30:.2f} GiB."
        )
    return "\n\n".join(lines)


def devices(cells: Cells) -> str:
    """By number of devices."""
    rows = [
        [
            c["cell"]["devices"], duration(c["timings"]["grouping"]), duration(c["timings"]["training"]),
            f"{c['nmi']:.3f}", f"{c['numbers']['score']:.6f}", f"{c['numbers']['return']:.6f}",
        ]
        for c in cells
    ]  # fmt: skip
    head = ["devices", "grouping", "training", "NMI", "held-out score", "mean return"]
    first = cells[0]["cell"]
    return (
        f"The same work spread over several devices: groups of {first['n']} tasks from given transitions, "
        f"and {first['rows']} policies of `points` that train side by side for {first['updates']} updates, "
        f"programs compiled before. (The devices of a CPU share its cores: where all are parts of one, the "
        f"times show what spreading costs, not what it gains.)\n\n"
        f"{table(head, rows)}"
    )
