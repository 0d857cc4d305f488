"""Tables for other programs: comma-separated values, and those of a run's results."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import UNSET

from pgx_jax.compare.results import Interval, Results
from pgx_jax.report import wording

HEAD = (
    "method", "label", "task", "group", "metric", "mean", "low", "high", "env_steps", "equal_steps", "at_end",
)  # fmt: skip


def as_csv(results: Results) -> str:
    """A line for every method over all tasks (its task is empty), and one for each of its tasks; intervals
    are of 95%, groups are ours, from 1. The last column is success in the last step of an episode, where that
    was measured."""
    group = {name: i for i, names in enumerate(results.groups, 1) for name in names}
    lines = []
    for name in wording.ordered_methods(results.methods, every=True):
        entry = results.methods[name]
        label = wording.method_label(results.methods, name, alone=True)
        means, bounds = results.per_task(name) or [], entry.per_task_ci95
        told = [None] * len(means) if bounds is UNSET else bounds
        ends = entry.at_end or [None] * len(means)
        rows = [("", "", entry.interval, wording.mean_if_known(ends))]
        rows += [
            (task, str(group[task]), Interval(mean, own), end)
            for task, mean, own, end in zip(results.task_names, means, told, ends, strict=False)
        ]
        for task, number, value, end in rows:
            shown = (value.mean, value.lo, value.hi, entry.env_steps, entry.equal_steps, end)
            lines.append((name, label, task, number, entry.metric, *shown))
    return as_text(HEAD, lines)


def as_text(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table as comma-separated values."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows((head, *lines))
    return file.getvalue()
