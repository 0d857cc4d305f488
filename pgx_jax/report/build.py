"""What a run leaves for people to read: the advice, a table, the figures and ``report.html``.

Everything is made from the dictionaries that ``results.json`` and ``config.json`` hold, so a report
can be written again from a saved run alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from pgx_jax.compare.results import to_plain
from pgx_jax.report import conclusion, figures, page, wording
from pgx_jax.runs import serial

__all__ = ["FILES", "advice", "render", "terminal_table", "verdict"]

_REQUIRED = ("n_tasks", "task_names", "k", "groups", "methods")


def advice(results: Mapping) -> str:
    """One sentence: group or don't, the predicted gain and the realised gain, with their intervals.

    If nothing is gained, it says so; what was not measured or judged, it says too. A second sentence
    names the methods that do better than ours at the same total, where there are any.

    Args:
        results: what ``results.json`` holds; reads ``k``, ``n_tasks``, ``gain``, ``methods``, ``path``.
    """
    return conclusion.advice(plain(results))


def verdict(results: Mapping) -> str:
    """One of "gain", "loss" (measured), "predicted", "no_gain", "not_shown", "too_small", "not_judged".

    What each means is said in `conclusion.verdict`.
    """
    return conclusion.verdict(plain(results))


FILES = ("report.html", *(f"figures/{name}.png" for name in figures.DRAWERS))
"""All files that a report may consist of."""


def plain(results) -> dict:
    """The results as dicts."""
    return serial.jsonable(to_plain(results))


def render(results, config: Mapping) -> dict[str, bytes]:
    """The files of a report: the page, which needs no other file, and its figures as PNG."""
    results, config = plain(results), serial.jsonable(config)
    drawn = figures.draw_all(results)
    html = page.render(results, config, {name: figures.svg(figure, name) for name, figure in drawn.items()})
    files = {f"figures/{name}.png": figures.png(figure) for name, figure in drawn.items()}
    return files | {"report.html": html.encode()}


def terminal_table(results: Mapping) -> Table:
    """The methods as a table for the terminal: ours first, those outside the rule marked."""
    results = plain(results)
    family = results.get("family", "run")
    table = Table(title=Text(f"{family}: {wording.metric_name(results)}, 95% intervals"))
    table.add_column("method")
    for column in ("policies", "mean", "environment steps"):
        table.add_column(column, justify="right")
    outside = False
    for name in wording.ordered_methods(results):
        entry = results["methods"][name]
        fair = entry.get("equal_steps", True)
        outside |= not fair
        table.add_row(
            Text(wording.method_label(results, name) + ("" if fair else " *")),
            str(len(entry["groups"])) if entry.get("groups") else "–",
            Text(wording.with_interval(wording.estimate(entry))),
            wording.steps(entry.get("env_steps")),
            style="bold" if name == wording.OURS else None,
        )
    if outside:
        table.caption = "* outside the rule of the same total of environment steps"
    return table
