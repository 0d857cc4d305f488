"""The methods as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgx_jax.compare.results import OURS, Results
from pgx_jax.report import wording

if TYPE_CHECKING:
    from rich.table import Table


def terminal_table(results: Results) -> Table:
    """Ours first; those outside the rule of the same total are marked."""
    from rich.table import Table  # a report that is written to files has no terminal
    from rich.text import Text

    methods = results.methods
    what = f"{wording.metric_name(methods)}, 95% intervals of one seed's evaluation"
    table = Table(title=Text(f"{results.family}: {what}"))
    table.add_column("method")
    ends = any(entry.at_end for entry in methods.values())
    for column in ("policies", "mean", *(["in the last step"] if ends else []), "environment steps"):
        table.add_column(column, justify="right")
    for name in wording.ordered_methods(methods):
        entry = methods[name]
        table.add_row(
            Text(wording.method_label(methods, name) + ("" if entry.equal_steps else " *")),
            str(len(entry.groups)) if entry.groups else "–",
            Text(wording.with_interval(entry.interval)),
            *([wording.mean_at_end(entry)] if ends else []),
            wording.steps(entry.env_steps),
            style="bold" if name == OURS else None,
        )
    if not all(methods[name].equal_steps for name in wording.ordered_methods(methods)):
        table.caption = "* outside the rule of the same total of environment steps"
    return table
