"""What a sweep comes to: in words, and as one table over families, settings and methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pgx_jax.compare.results import OURS
from pgx_jax.compare.seeds import SeedsMethod
from pgx_jax.compare.sweeps import Part, SweepResult
from pgx_jax.report import seeds, wording
from pgx_jax.report.tables import as_text

if TYPE_CHECKING:
    from rich.table import Table

_VERDICTS = {
    "gain": "Groups gain",
    "loss": "Groups lose",
    "no_gain": "Nothing is gained",
    "not_shown": "No gain is shown",
}


class Row(NamedTuple):
    """A method in a part of the sweep."""

    part: Part
    name: str
    entry: SeedsMethod

    @property
    def first(self) -> bool:
        """Whether it is ours, which comes first in its part."""
        return self.name == OURS

    @property
    def nmi(self) -> float | None:
        """With the planted groups, the mean over seeds: of ours, where some are planted."""
        found = self.part.seeds.agreement if self.first else None
        return None if not found else float(np.mean([np.nan if x.nmi is None else x.nmi for x in found]))


def rows(found: SweepResult) -> Iterator[Row]:
    """All methods of all parts, ours first in each."""
    for part in found.parts:
        for name in wording.ordered_methods(part.seeds.methods):
            yield Row(part, name, part.seeds.methods[name])


def setting_names(found: SweepResult) -> list[str]:
    """Names of the settings by which parts differ."""
    return list(dict.fromkeys(name for part in found.parts for name in part.settings))


def advice(found: SweepResult) -> str:
    """Where grouping pays over one policy for all, beyond the interval over seeds, and where it does not."""
    said = {
        words: [part.name for part in found.parts if seeds.verdict(part.seeds) == verdict]
        for verdict, words in _VERDICTS.items()
    }
    told = [f"{words}: {'; '.join(names)}." for words, names in said.items() if names]
    return " ".join((*told, *([f"Unfinished: {', '.join(found.failed)}."] if found.failed else ())))


def cells(found: SweepResult) -> tuple[list[str], list[tuple[Row, list[str]]]]:
    """The table: its head, and (row, its cells) of every method; those outside the rule of the same total
    are marked."""
    names, planted = setting_names(found), any(part.seeds.agreement for part in found.parts)
    head = ["family", *names, "method", "seeds", "policies", *(["NMI"] if planted else []), "mean"]
    shown = []
    for row in rows(found):
        part, entry = row.part, row.entry
        settings = [str(part.settings.get(name, "–")) for name in names]
        label = wording.method_label(part.seeds.methods, row.name) + ("" if entry.equal_steps else " *")
        counted = str(sum(mean is not None for mean in entry.by_seed))
        nmi = ["–" if row.nmi is None else f"{row.nmi:.2f}"] if planted else []
        policies, mean = seeds.policies(part.seeds, row.name), wording.with_interval(entry.interval)
        own = [part.seeds.family, *settings, label, counted, policies, *nmi, mean]
        shown.append((row, [*own, wording.steps(entry.env_steps)]))
    return [*head, "environment steps"], shown


def terminal_table(found: SweepResult) -> Table:
    """The table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    head, shown = cells(found)
    text = {"family", "method", *setting_names(found)}
    table = Table(title=Text("means with 95% intervals over seeds"))
    longest = max((len(part.seeds.family) for part in found.parts), default=0)
    table.add_column("family", no_wrap=True, min_width=longest)
    for column in head[1:]:
        table.add_column(column, justify="left" if column in text else "right")
    for row, own in shown:
        if row.first and table.row_count:
            table.add_section()
        table.add_row(*map(Text, own), style="bold" if row.first else None)
    if not all(row.entry.equal_steps for row, _ in shown):
        table.caption = "* outside the rule of the same total of environment steps"
    return table


CSV_HEAD = (
    "method", "label", "metric", "seeds", "mean", "low", "high", "policies", "nmi", "env_steps",
    "equal_steps",
)  # fmt: skip


def as_csv(found: SweepResult) -> str:
    """The same numbers in full, a line a method; policies are those of every seed, with spaces between."""
    names, lines = setting_names(found), []
    for row in rows(found):
        entry, methods = row.entry, row.part.seeds.methods
        known = [k for k in entry.policies if k is not None]
        values: list[Any] = [row.part.seeds.family, *(row.part.settings.get(name, "") for name in names)]
        values += [row.name, wording.method_label(methods, row.name), entry.metric]
        values += [sum(mean is not None for mean in entry.by_seed), entry.mean]
        values += [entry.interval.lo, entry.interval.hi, " ".join(map(str, known)), row.nmi]
        lines.append([*values, entry.env_steps, entry.equal_steps])
    return as_text(["family", *names, *CSV_HEAD], lines)
