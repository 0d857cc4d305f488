"""What a run leaves for people to read: the advice, a table, the figures and ``report.html``.

Pure functions of the results (`compare.results.Results`); who calls them writes the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pgx_jax.compare.results import Results
from pgx_jax.report.conclusion import advice, verdict
from pgx_jax.report.terminal import terminal_table
from pgx_jax.report.wording import CAPTIONS, SEEDS_CAPTIONS

if TYPE_CHECKING:
    from pgx_jax.compare.runs import RunsResult
    from pgx_jax.compare.seeds import SeedsResult
    from pgx_jax.compare.sweeps import SweepResult
    from pgx_jax.report.budgets import Point

__all__ = [
    "FILES",
    "SEEDS_FILES",
    "advice",
    "render",
    "render_budgets",
    "render_runs",
    "render_seeds",
    "render_sweep",
    "terminal_table",
    "verdict",
]

FILES = ("report.html", "results.csv", *(f"figures/{name}.png" for name in CAPTIONS))
"""All files that a report may consist of, relative to the run's folder."""

SEEDS_FILES = ("report.html", *(f"figures/{name}.png" for name in SEEDS_CAPTIONS))
"""The same of a report of several seeds."""


def render(
    results: Results, config: Mapping[str, Any], pictures: Mapping[int, bytes] | None = None
) -> dict[str, bytes]:
    """The files of a report, by their names in the run's folder: the page, which needs no other file, its
    numbers as a table, and every figure that the results have the numbers for, as PNG.

    Args:
        results: of a run.
        config: what ``config.json`` holds.
        pictures: number of a group, from 1 -> its policy at work, PNG.
    """
    from pgx_jax.report import figures, page, tables  # matplotlib and Jinja take a second to import

    drawn = figures.draw_all(results)
    svgs = {name: figures.svg(figure, name) for name, figure in drawn.items()}
    html = page.render(results, config, svgs, pictures or {})
    images = {f"figures/{name}.png": figures.png(figure) for name, figure in drawn.items()}
    return images | {"report.html": html.encode(), "results.csv": tables.as_csv(results).encode()}


def render_seeds(found: SeedsResult, config: Mapping[str, Any], links: Mapping[int, str]) -> dict[str, bytes]:
    """The same of several training seeds.

    Args:
        found: what they come to.
        config: what ``config.json`` of the first holds.
        links: where the report of every seed is, relative to this one.
    """
    from pgx_jax.report import figures, page

    drawn = figures.draw_all(found, figures.OF_SEEDS)
    svgs = {name: figures.svg(figure, name) for name, figure in drawn.items()}
    html = page.render_seeds(found, config, svgs, links)
    images = {f"figures/{name}.png": figures.png(figure) for name, figure in drawn.items()}
    return images | {"report.html": html.encode()}


def render_budgets(
    points: Sequence[Point], family: str, links: Mapping[tuple[int, int], str]
) -> dict[str, bytes]:
    """The files of a study of budgets: the page, and its figure as PNG.

    Args:
        points: the runs.
        family: their family's name.
        links: (steps a task, seed) -> where a run's report is, relative to this one.
    """
    from pgx_jax.report import figures, page

    drawn = figures.by_budget(points)
    html = page.render_budgets(points, family, {"by_budget": figures.svg(drawn, "by_budget")}, links)
    return {"budget.png": figures.png(drawn), "report.html": html.encode()}


def render_sweep(found: SweepResult, links: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a sweep: the page, and its table.

    Args:
        found: what it comes to.
        links: where the report of every part is, relative to this one, by the part's folder.
    """
    from pgx_jax.report import page, sweeps

    return {
        "report.html": page.render_sweep(found, links).encode(),
        "sweep.csv": sweeps.as_csv(found).encode(),
    }


def render_runs(found: RunsResult, links: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a comparison of runs: the page, its figure as PNG, and its table.

    Args:
        found: what they come to.
        links: where the report of every side is, relative to this one, by its name.
    """
    from pgx_jax.report import figures, page, runs

    drawn = figures.draw_all(found, figures.OF_RUNS)
    html = page.render_runs(found, {name: figures.svg(figure, name) for name, figure in drawn.items()}, links)
    images = {f"figures/{name}.png": figures.png(figure) for name, figure in drawn.items()}
    return images | {"report.html": html.encode(), "compare.csv": runs.as_csv(found).encode()}
