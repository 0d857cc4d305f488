"""``pgx-jax families``: which families there are, and what one is."""

from __future__ import annotations

from dataclasses import dataclass

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgx_jax.tasks.describing import describe_family, facts, listed
from pgx_jax.tasks.registry import families

WIDE = 120
"""Columns of a terminal from which on the list of families says what each one is."""


@dataclass(frozen=True)
class FamiliesCommand:
    """List the task families, or what one is and its settings."""

    family: tyro.conf.Positional[str | None] = None
    """A family to describe."""

    def __call__(self, console: Console) -> None:
        """Print them."""
        if self.family:
            self._describe(console, self.family)
            return
        wide = console.width >= WIDE
        found = [listed(name) for name in families()]
        table = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("family", no_wrap=True, min_width=max((len(f.name) for f in found), default=0))
        for short in ("engine", "n", "observed", "action"):
            table.add_column(short, no_wrap=True)
        for long in ("conflict", "what") if wide else ("conflict",):
            table.add_column(long)
        for f in found:
            cells = (f.name, f.engine, f.n, f.observation, f.action, f.conflict, f.summary)
            table.add_row(*map(escape, cells[: len(table.columns)]))
        console.print(table)
        problems = [f"{f.name}: {f.problem}" for f in found if f.problem]
        for line in (*problems, *dict.fromkeys(f.remedy for f in found if f.remedy)):
            console.print(line, markup=False, highlight=False)
        what = "a family's settings" if wide else "what a family is, and its settings"
        console.print(f"`pgx-jax families FAMILY` tells {what}.", highlight=False)

    def _describe(self, console: Console, name: str) -> None:
        info, f = describe_family(name), facts(name)
        defaults = ", ".join(f"{key} = {value!r}" for key, value in f.defaults.items())
        console.print(info.summary, markup=False, highlight=False)
        if f.problem:
            console.print(f"cannot be built as it stands: {f.problem}", markup=False, highlight=False)
        table = Table(show_header=False)
        for fact, words in (
            ("engine", f.engine),
            ("tasks", f.n),
            ("observation", f.observation),
            ("action", f.action),
            ("conflict", f.conflict),
            ("drawn by `pgx-jax show`", "yes" if f.drawn else "no"),
            ("its defaults of a run", defaults or "the general ones"),
            ("registered by", f.origin),
        ):
            table.add_row(fact, escape(words))
        if not f.problem:
            console.print(table)
        table = Table("setting", "type", "default", "meaning")
        for s in info.settings:
            table.add_row(s.name, *map(escape, (s.annotation, repr(s.default), s.help)))
        console.print(table)
