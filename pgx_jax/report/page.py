"""What ``report.html`` shows, handed to its template: one self-contained page, without scripts."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import escape

from pgx_jax.compare.results import OURS, Groups, Interval, Number, Results
from pgx_jax.compare.runs import RunsResult
from pgx_jax.compare.seeds import SeedsResult
from pgx_jax.compare.sweeps import SweepResult
from pgx_jax.report import budgets, conclusion, runs, seeds, sweeps, wording
from pgx_jax.report.figures.canvas import group_colour

_VERDICTS = {
    "gain": ("A gain, measured", "good"),
    "predicted": ("A gain is predicted, none is measured", "hint"),
    "no_gain": ("No gain", "plain"),
    "not_shown": ("No gain shown", "plain"),
    "too_small": ("Too small a gain for a split", "plain"),
    "not_judged": ("Splits not judged", "plain"),
    "loss": ("A loss, measured", "bad"),
}
"""Verdict -> (what the page's badge says, its tone)."""

_HYPHEN = re.compile(r"(?<![\w\]\)-])-(?=\d)")


def render(
    results: Results,
    config: Mapping[str, Any],
    svgs: Mapping[str, str],
    pictures: Mapping[int, bytes] | None = None,
) -> str:
    """The whole page as HTML text.

    Args:
        results: of a run.
        config: what ``config.json`` holds.
        svgs: figure name -> ``<svg>`` element.
        pictures: number of a group, from 1 -> its policy at work, PNG.
    """
    badge, tone = _VERDICTS[conclusion.verdict(results)]
    return (
        _templates()
        .get_template("report.html.j2")
        .render(
            results=results,
            family=results.family,
            ours=OURS,
            badge=badge,
            tone=tone,
            advice=results.advice or conclusion.advice(results),
            facts=_facts(results),
            metric=wording.metric_name(results.methods).capitalize(),
            labels={
                name: wording.method_label(results.methods, name)
                for name in wording.ordered_methods(results.methods)
            },
            partitions=_partitions(results),
            per_task=_per_task(results),
            prediction=conclusion.predicted_gain(results),
            certainty=_certainty(results),
            candidates=_candidates(results),
            solvers=_solvers(results),
            diagnostics=_diagnostics(results),
            settings=wording.flatten({name: x for name, x in config.items() if name not in _MADE_BY}),
            made_by=_made_by(config),
            pictures={i: base64.b64encode(png).decode() for i, png in (pictures or {}).items()},
            figures=_figures(svgs, wording.captions(results)),
        )
    )


def render_seeds(
    found: SeedsResult, config: Mapping[str, Any], svgs: Mapping[str, str], links: Mapping[int, str]
) -> str:
    """The whole page of several training seeds as HTML text.

    Args:
        found: what they come to.
        config: what ``config.json`` of the first holds.
        svgs: figure name -> ``<svg>`` element.
        links: where the report of every seed is, relative to this one.
    """
    badge, tone = _VERDICTS[seeds.verdict(found)]
    gain = found.gain.realised or Interval()
    own = {**config, "config": {k: v for k, v in config.get("config", {}).items() if k != "seed"}}
    return (
        _templates()
        .get_template("seeds.html.j2")
        .render(
            found=found,
            family=found.family,
            ours=OURS,
            badge=badge,
            tone=tone,
            advice=found.advice or seeds.advice(found),
            facts=[
                ("tasks", str(found.n_tasks), ""),
                ("training seeds", str(len(found.seeds)), ""),
                ("groups", seeds.policies(found, OURS), ""),
                ("realised gain", *wording.mean_and_bounds(gain, signed=True)),
                ("total steps of a seed", wording.steps(found.methods[OURS].env_steps), ""),
            ],
            head=[word.capitalize() for word in seeds.HEAD],
            rows=seeds.rows(found),
            left_out=seeds.left_out(found),
            links=links,
            settings=wording.flatten(own),
            figures=_figures(svgs, wording.SEEDS_CAPTIONS),
        )
    )


def render_budgets(
    points: Sequence[budgets.Point],
    family: str,
    svgs: Mapping[str, str],
    links: Mapping[tuple[int, int], str],
) -> str:
    """The whole page of a study of budgets as HTML text.

    Args:
        points: the runs.
        family: their family's name.
        svgs: figure name -> ``<svg>`` element.
        links: (steps a task, seed) -> where a run's report is, relative to this one.
    """
    tried, (head, rows) = budgets.budgets(points), budgets.cells(points)
    return (
        _templates()
        .get_template("budgets.html.j2")
        .render(
            family=family,
            badge="Return against budget",
            tone="plain",
            advice=budgets.advice(points),
            facts=[
                ("budgets", str(len(tried)), ""),
                ("steps a task", f"{wording.steps(tried[0])} to {wording.steps(tried[-1])}", ""),
                ("training seeds", str(len({point.seed for point in points})), ""),
            ],
            metric=wording.metric_name(points[0].methods),
            head=[word.capitalize() for word in head],
            rows=rows,
            ours=wording.method_label(points[0].methods, OURS),
            runs=[(budget, budgets.at(points, budget)) for budget in tried],
            links=links,
            figures=_figures(svgs, wording.BUDGET_CAPTIONS),
        )
    )


def render_runs(found: RunsResult, svgs: Mapping[str, str], links: Mapping[str, str]) -> str:
    """The whole page of saved runs beside each other as HTML text.

    Args:
        found: what they come to.
        svgs: figure name -> ``<svg>`` element.
        links: where the report of every side is, relative to this one, by its name.
    """
    head, rows = runs.cells(found)
    settings_head, settings = runs.setting_cells(found)
    seeds_of = {seed for side in found.sides for seed in side.seeds}
    return (
        _templates()
        .get_template("runs.html.j2")
        .render(
            found=found,
            family=found.family,
            ours=OURS,
            badge="Runs compared",
            tone="plain",
            advice=runs.advice(found),
            facts=[
                ("sides", str(len(found.sides)), ""),
                ("runs", str(sum(len(side.seeds) for side in found.sides)), ""),
                ("training seeds", str(len(seeds_of)), ""),
                ("settings that differ", str(len(found.settings)), ""),
            ],
            head=[head[0].capitalize(), *head[1:]],
            rows=rows,
            left_out=runs.left_out(found),
            links=links,
            settings_head=[settings_head[0].capitalize(), *settings_head[1:]],
            settings=settings,
            figures=_figures(svgs, wording.RUNS_CAPTIONS),
        )
    )


def render_sweep(found: SweepResult, links: Mapping[str, str]) -> str:
    """The whole page of a sweep as HTML text.

    Args:
        found: what it comes to.
        links: where the report of every part is, relative to this one, by the part's folder.
    """
    head, rows = sweeps.cells(found)
    text = ("family", "method", *sweeps.setting_names(found))
    named = list(dict.fromkeys(part.seeds.family for part in found.parts))
    seeds_of = {seed for part in found.parts for seed in part.seeds.seeds}
    return (
        _templates()
        .get_template("sweep.html.j2")
        .render(
            found=found,
            family=", ".join(named),
            badge="Sweep",
            tone="plain",
            advice=sweeps.advice(found),
            facts=[
                ("families", str(len(named)), ""),
                ("with their settings", str(len(found.parts)), ""),
                ("training seeds", str(len(seeds_of)), ""),
                ("finished runs", str(len(found.timings)), ""),
            ],
            head=[word if "." in word else word[:1].upper() + word[1:] for word in head],
            numeric=[i for i, word in enumerate(head) if word not in text],
            rows=rows,
            links=links,
        )
    )


def _templates() -> Environment:
    """The templates beside this file, with the words and numbers that they may ask for."""
    templates = Environment(
        loader=PackageLoader("pgx_jax.report"),
        autoescape=True,
        finalize=_minus,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (wording.number, wording.steps, wording.with_interval, wording.mean_at_end)
    templates.filters |= {word.__name__: word for word in words}
    templates.globals["colour"] = group_colour
    return templates


def _minus(value: Any) -> Any:
    """Text with a proper minus sign before numbers; anything else, markup too, as it is."""
    return _HYPHEN.sub("−", value) if type(value) is str else value


_MADE_BY = ("command", "environment", "versions", "commit", "device")
"""What of ``config.json`` tells how a run was made, rather than what was set."""


def _made_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """The command that makes the run again, if there is one, and (name, value) of what it was made with."""
    known = {name: config[name] for name in _MADE_BY if name in config and name != "command"}
    known |= known.pop("environment", None) or {}
    told = config.get("command")
    told = told and escape(told)  # as it stands: its minus signs must be hyphens to be copied
    return {"command": told, "versions": wording.flatten(known)}


def _diagnostics(results: Results) -> list[tuple[str, str, str]]:
    """(name, value, what it says) of every diagnostic number."""
    rows = wording.flatten(msgspec.to_builtins(results.diagnostics) or {})
    return [(name, value, wording.explained(name)) for name, value in rows]


def _facts(results: Results) -> list[tuple[str, str, str]]:
    """(name, value, its interval or nothing) of the head of the page."""
    ours, timed = results.methods.get(OURS), wording.total_seconds(results.timings)
    predicted, realised = conclusion.predicted_gain(results), conclusion.realised_gain(results)
    return [
        ("tasks", str(results.n_tasks), ""),
        ("groups", str(results.k), ""),
        ("predicted gain", *wording.mean_and_bounds(predicted, signed=True)),
        ("realised gain", *wording.mean_and_bounds(realised, signed=True)),
        ("total steps", wording.steps(ours.env_steps if ours else None), ""),
        ("time", wording.duration(timed) if timed else "–", ""),
        ("seed", str(results.seed), ""),
    ]


def _partitions(results: Results) -> list[tuple[str, Groups]]:
    """(method, its groups), one for each draw of a method that has several."""
    found: list[tuple[str, Groups | None]] = []
    for name in wording.ordered_methods(results.methods):
        entry, label = results.methods[name], wording.method_label(results.methods, name)
        if entry.draws:
            found += [
                (f"{label}, draw {i}: {wording.number(draw.mean)}", draw.groups)
                for i, draw in enumerate(entry.draws, 1)
            ]
        else:
            found.append((label, entry.groups))
    return [(label, groups) for label, groups in found if groups]


def _per_task(results: Results) -> tuple[list[str], list[list[str]]] | None:
    """Head and rows of a table of all tasks and methods; None without numbers."""
    names = wording.ordered_methods(results.methods)
    columns = {name: means for name in names if (means := results.per_task(name)) is not None}
    if not columns:
        return None
    told = [_with_ends(means, results.methods[name].at_end or []) for name, means in columns.items()]
    rows = [list(row) for row in zip(results.task_names, *told, strict=True)]
    ends = any(results.methods[name].at_end for name in columns)
    first = "Task (success in any step, in the last step)" if ends else "Task"
    return [first, *(wording.method_label(results.methods, name) for name in columns)], rows


def _with_ends(means: Sequence[Number], ends: Sequence[Number]) -> list[str]:
    """Means of tasks, and success in the last step behind each where it is known."""
    told = [f", {wording.number(x, 2)}" for x in ends] or [""] * len(means)
    return [wording.number(mean) + end for mean, end in zip(means, told, strict=True)]


def _certainty(results: Results) -> str:
    """How certain affinity and groups are, in sentences; empty where that was not told."""
    found = results.stability
    if found is None:
        return ""
    told, width = wording.certainty(found), wording.number(wording.half_width(found), 4)
    return (
        f"Where the trajectories are drawn again: {told}. {wording.undecided(found)} Intervals of the "
        f"affinity (95%, basic bootstrap, in results.json) reach {width} to either side in the median pair. "
        f"What another meta-training run would change is in none of these numbers."
    )


def _candidates(results: Results) -> list[tuple[bool, list[str]]]:
    """(whether it was chosen, its row of the table) of the candidate partitions, by k."""
    path = results.path
    if path is None:
        return []
    numbers = zip(path.score, path.difference, path.stderr, strict=True)
    rows = [
        (
            i == path.chosen,
            [
                f"{k} (chosen)" if i == path.chosen else f"{k}",
                *map(wording.number, shown),
                " ".join(str(label + 1) for label in labels),
            ],
        )
        for i, (k, shown, labels) in enumerate(zip(path.k, numbers, path.labels, strict=True))
    ]
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: path.k[i])]


def _solvers(results: Results) -> list[str]:
    """Names of the solvers of the relaxation whose solutions led to candidates; none if that is not known."""
    path = results.path
    return sorted({name for name in path.solver or [] if name}) if path is not None else []


def _figures(svgs: Mapping[str, str], captions: Mapping[str, str]) -> dict[str, dict[str, Any] | None]:
    """Every figure that a page may have; None for those that are not drawn."""
    return {name: _figure(svgs[name], text) if name in svgs else None for name, text in captions.items()}


def _figure(svg: str, caption: str) -> dict[str, Any]:
    """A drawn figure with its caption and the widths between which it may shrink and grow."""
    width = float(svg.partition('viewBox="')[2].split()[2])
    least = 300 if width < 450 else 0.95 * width  # narrow figures shrink to a phone, wide ones scroll
    return {"svg": svg, "caption": caption, "least": round(least), "most": round(1.65 * width)}
