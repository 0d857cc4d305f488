"""Saved runs beside each other: in words, and as a table over methods and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgx_jax.compare.results import OURS
from pgx_jax.compare.runs import RunsResult, Side
from pgx_jax.compare.seeds import SeedsMethod
from pgx_jax.report import wording
from pgx_jax.report.tables import as_text

if TYPE_CHECKING:
    from rich.table import Table


def methods(found: RunsResult) -> dict[str, SeedsMethod]:
    """Every method that any side has, as the first one has it; ours first, those that came to the groups of
    another one on every side left out."""
    known: dict[str, SeedsMethod] = {}
    for side in found.sides:
        for name, entry in side.methods.items():
            if name not in known or known[name].same_as:
                known[name] = entry
    return {name: known[name] for name in wording.ordered_methods(known)}


def label(entries: wording.Methods, name: str) -> str:
    """What a method is called, marked outside the rule of the same total."""
    return wording.method_label(entries, name, alone=True) + ("" if entries[name].equal_steps else " *")


def over(side: Side) -> str:
    """What the intervals of a side are over: "5 seeds", "seed 3"."""
    return f"{len(side.seeds)} seeds" if len(side.seeds) > 1 else f"seed {side.seeds[0]}"


def advice(found: RunsResult) -> str:
    """What our groups earned on every side against the first."""
    first, *others = found.sides
    return " ".join((*(_against(side, first) for side in others), left_out(found)))


def _against(side: Side, first: Side) -> str:
    own = side.paired.get(OURS)
    if own is None:
        other = side.family_settings != first.family_settings
        why = "the tasks are others" if other else "no seed is the same"
        return f"{side.name} and {first.name} have no pairs: {why}."
    told = wording.with_interval(own.difference, signed=True)
    who = wording.method_label(side.methods, OURS)
    if own.difference.ci95 is None:
        return f"{side.name}: {who} earns {told} against {first.name}, in one pair, which has no interval."
    signs = own.difference.above_zero, own.difference.below_zero
    word = {(True, False): "more", (False, True): "less"}.get(signs, "not shown to differ")
    return f"{side.name}: {who} earns {told} against {first.name} over {own.pairs} pairs of seeds: {word}."


def left_out(found: RunsResult) -> str:
    """What intervals are over, and what they leave out."""
    single = [side.name for side in found.sides if len(side.seeds) == 1]
    if not single:
        return "Intervals are over training seeds."
    own = f" over training seeds, those of {', '.join(single)}" if len(single) < len(found.sides) else ""
    return f"Intervals are{own} of one evaluation alone; another seed may move these further."


def cells(found: RunsResult) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The table: its head, and (name, its cells) of every method."""
    first, *others = found.sides
    paired = [side for side in others if side.paired]
    head = ["method", *(f"{side.name} ({over(side)})" for side in found.sides)]
    head += [f"{side.name} minus {first.name}" for side in paired]
    entries, rows = methods(found), []
    for name in entries:
        means = [
            wording.with_interval(s.methods[name].interval) if name in s.methods else "–" for s in found.sides
        ]
        differences = [
            wording.with_interval(s.paired[name].difference, signed=True) if name in s.paired else "–"
            for s in paired
        ]
        rows.append((name, [label(entries, name), *means, *differences]))
    return head, rows


def setting_cells(found: RunsResult) -> tuple[list[str], list[list[str]]]:
    """Settings that are not the same everywhere: head and rows."""
    rows = [[name, *own] for name, own in found.settings.items()]
    return ["setting", *(side.name for side in found.sides)], rows


def terminal_tables(found: RunsResult) -> list[Table]:
    """The methods, and the settings that differ, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    head, rows = cells(found)
    table = Table(title=Text(f"{found.family}: {wording.metric_name(methods(found))}, 95% intervals"))
    for i, column in enumerate(head):
        table.add_column(Text(column), justify="right" if i else "left")
    for name, own in rows:
        table.add_row(*map(Text, own), style="bold" if name == OURS else None)
    if not all(entry.equal_steps for entry in methods(found).values()):
        table.caption = "* outside the rule of the same total of environment steps"
    head, values = setting_cells(found)
    if not values:
        return [table]
    settings = Table(title="what else differs")
    for column in head:
        settings.add_column(Text(column))
    for row in values:
        settings.add_row(*map(Text, row))
    return [table, settings]


CSV_HEAD = (
    "run", "seeds", "method", "label", "metric", "mean", "low", "high", "difference", "difference_low",
    "difference_high", "pairs", "env_steps", "equal_steps",
)  # fmt: skip


def as_csv(found: RunsResult) -> str:
    """The same numbers in full, a line a side and method; seeds with spaces between."""
    lines = []
    for side in found.sides:
        for name in wording.ordered_methods(side.methods):
            entry, pair = side.methods[name], side.paired.get(name)
            gap = [None] * 4 if pair is None else [*_numbers(pair.difference), pair.pairs]
            lines.append([
                side.name, " ".join(map(str, side.seeds)), name, wording.method_label(side.methods, name),
                entry.metric, *_numbers(entry.interval), *gap, entry.env_steps, entry.equal_steps,
            ])  # fmt: skip
    return as_text(CSV_HEAD, lines)


def _numbers(value: wording.Interval) -> list[float | None]:
    return [value.mean, value.lo, value.hi]
