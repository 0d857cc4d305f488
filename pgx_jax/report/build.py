"""What a run leaves for people to read: the advice, a table, the figures and ``report.html``.

Everything is made from the dictionaries that ``results.json`` and ``config.json`` hold, so a report
can be written again from a saved run alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from rich.table import Table
from rich.text import Text

from pgx_jax.errors import DataError
from pgx_jax.report import conclusion, figures, page, wording
from pgx_jax.runs import serial

__all__ = ["advice", "build", "terminal_table", "verdict"]

_REQUIRED = ("n_tasks", "task_names", "k", "groups", "methods")


def advice(results: Mapping) -> str:
    """One sentence: group or don't, the predicted gain and the realised gain, with their intervals.

    If nothing is gained, it says so; what was not measured or judged, it says too. A second sentence
    names the methods that do better than ours at the same total, where there are any.

    Args:
        results: what ``results.json`` holds; reads ``k``, ``n_tasks``, ``gain``, ``methods``, ``path``.
    """
    return conclusion.advice(serial.jsonable(results))


def verdict(results: Mapping) -> str:
    """One of "gain", "loss" (measured), "predicted", "no_gain", "not_shown", "too_small", "not_judged".

    What each means is said in `conclusion.verdict`.
    """
    return conclusion.verdict(serial.jsonable(results))


def build(results: Mapping, config: Mapping, out: str | PathLike) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a run folder.

    Args:
        results: what ``results.json`` holds (arrays and non-finite numbers are welcome).
        config: what ``config.json`` holds.
        out: the run folder; an older report in it is replaced.

    Returns:
        The path of the page, which needs no other file.

    Raises:
        DataError: the results lack something that no run is without.
    """
    results, config = serial.jsonable(results), serial.jsonable(config)
    missing = [key for key in _REQUIRED if key not in results]
    if missing:
        raise DataError(f"the results lack {', '.join(missing)}; resume the run first")
    folder = Path(out) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = figures.draw_all(results)
    for stale in {folder / f"{name}.png" for name in figures.DRAWERS} - {folder / f"{n}.png" for n in drawn}:
        stale.unlink(missing_ok=True)
    for name, figure in drawn.items():
        serial.write_atomically(folder / f"{name}.png", figures.png(figure))
    html = page.render(results, config, {name: figures.svg(figure, name) for name, figure in drawn.items()})
    target = Path(out) / "report.html"
    serial.write_atomically(target, html.encode())
    return target


def terminal_table(results: Mapping) -> Table:
    """The methods as a table for the terminal: ours first, those outside the rule marked."""
    results = serial.jsonable(results)
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
