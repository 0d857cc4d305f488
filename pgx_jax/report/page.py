"""What ``report.html`` shows, handed to its template: one self-contained page, without scripts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pgx_jax.compare.results import OURS, MethodResult, Results
from pgx_jax.report import conclusion, wording
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
_CAPTIONS = {
    "methods": "Mean over all tasks with its 95% interval over evaluation episodes (another training "
    "seed may differ by more), or over the draws of random groups. Filled circles had the same total of "
    "environment steps, everything that a method costs included; hollow squares did not. "
    "The band is our interval.",
    "per_task": "Mean of every task, ordered by group.",
    "curves": "Return while training, averaged over a method's policies and tasks, over all the steps that "
    "the method has used. Methods with another total of steps are left out.",
    "affinity": "How much every pair of tasks gains from being trained together (larger is better), ordered "
    "by group, and the number of subsets behind each value. Outlines mark the groups found.",
    "path": "Every candidate partition with its score on trajectories that its surrogates have not seen, "
    "though the affinity that proposed it may have. Where k is not given, the smallest one is chosen whose "
    "distance to the best is within two standard errors (if not set otherwise), or negligible. Bars are two "
    "standard errors of the paired difference to the best.",
    "pipeline": "Every stage of the run and how long it took, compilation included.",
}


def render(results: Results, config: Mapping, svgs: Mapping[str, str]) -> str:
    """The whole page as HTML text.

    Args:
        results: of a run.
        config: what ``config.json`` holds.
        svgs: figure name -> ``<svg>`` element.
    """
    pages = Environment(
        loader=PackageLoader("pgx_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"minus": minus, "number": wording.number}
    pages.globals["colour"] = group_colour
    css = pages.loader.get_source(pages, "report.css")[0]
    badge, tone = _VERDICTS[conclusion.verdict(results)]
    unseen, predicted = results.test_tasks, conclusion.predicted_gain(results)
    return pages.get_template("report.html.j2").render(
        _methods(results) | _candidates(results),
        results=results,
        css=css,
        badge=badge,
        tone=tone,
        advice=results.advice or conclusion.advice(results),
        facts=_facts(results),
        metric=wording.metric_name(results.methods).capitalize(),
        per_task=_per_task(results),
        unseen=wording.with_interval(unseen.interval) if unseen else "",
        unseen_base=wording.with_interval(unseen.multitask) if unseen and unseen.multitask else "",
        prediction="" if predicted.mean is None else wording.with_interval(predicted, signed=True),
        flow=_flow(results),
        diagnostics=wording.flatten(msgspec.to_builtins(results.diagnostics) or {}),
        settings=wording.flatten(config),
        figures={name: _figure(name, svgs.get(name)) for name in _CAPTIONS},
    )


def minus(value: Any) -> Markup:
    """Escaped text, with a proper minus sign before numbers; markup stays as it is."""
    if isinstance(value, Markup):
        return value
    return Markup(re.sub(r"(?<![\w\]\)-])-(?=\d)", "−", escape(str(value))))


def _facts(results: Results) -> list[tuple[str, str, str]]:
    """(name, value, its interval or nothing) of the head of the page."""
    ours, timed = results.methods.get(OURS), wording.total_seconds(results.timings)
    facts = [
        ("tasks", str(results.n_tasks)),
        ("groups", str(results.k)),
        ("predicted gain", wording.with_interval(conclusion.predicted_gain(results), signed=True)),
        ("realised gain", wording.with_interval(conclusion.realised_gain(results), signed=True)),
        ("total steps", wording.steps(ours.env_steps if ours else None)),
        ("time", wording.duration(timed) if timed else "–"),
        ("seed", str(results.seed)),
    ]
    split = [(name, *value.partition(" [")) for name, value in facts]
    return [(name, mean, f"[{rest}" if bracket else "") for name, mean, bracket, rest in split]


def _methods(results: Results) -> dict[str, Any]:
    """The table of the methods, and their partitions."""
    names = wording.ordered_methods(results.methods)
    labels = {name: wording.method_label(results.methods, name) for name in names}
    partitions = []
    for name in names:
        entry = results.methods[name]
        for i, draw in enumerate(entry.draws or [entry]):
            which = (
                f"{labels[name]}, draw {i + 1}: {wording.number(draw.mean)}" if entry.draws else labels[name]
            )
            if draw.groups:
                partitions.append((which, draw.groups))
    return {
        "methods": names,
        "method_rows": [_method_row(labels[name], name, results.methods[name]) for name in names],
        "ours": [name == OURS for name in names],
        "partitions": partitions,
    }


def _method_row(label: str, name: str, entry: MethodResult) -> list[str | Markup]:
    note = Markup(" · {}").format(minus(entry.note)) if entry.note else ""
    rule = "yes" if entry.equal_steps else Markup('<span class="tag">no</span>')
    return [
        Markup("{}<small><code>{}</code>{}</small>").format(minus(label), minus(name), note),
        wording.with_interval(entry.interval),
        str(len(entry.groups)) if entry.groups else "–",
        wording.steps(entry.env_steps),
        rule,
    ]


def _per_task(results: Results) -> dict[str, Any] | None:
    """A table of all tasks and methods; None without numbers."""
    methods = results.methods
    names = [name for name in wording.ordered_methods(methods) if methods[name].per_task]
    if not names:
        return None
    rows = [
        [task, *(wording.number(_at(methods[name].per_task, i)) for name in names)]
        for i, task in enumerate(results.task_names)
    ]
    head = ["Task", *(wording.method_label(methods, name) for name in names)]
    return {"head": head, "rows": rows, "numeric": range(1, len(head))}


def _candidates(results: Results) -> dict[str, Any]:
    """The table of the candidate partitions, by k."""
    path = results.path
    if path is None:
        return {"candidates": [], "chosen": []}
    order = sorted(range(len(path.k)), key=lambda i: (path.k[i], i))
    rows = [
        [
            f"{path.k[i]}{' (chosen)' if i == path.chosen else ''}",
            *(wording.number(_at(values, i)) for values in (path.score, path.difference, path.stderr)),
            " ".join(str(label + 1) for label in _at(path.labels, i) or []) or "–",
        ]
        for i in order
    ]
    return {"candidates": rows, "chosen": [i == path.chosen for i in order]}


def _flow(results: Results) -> list[str]:
    n, k = results.n_tasks, results.k
    return [
        f"{n} tasks", "meta-policy θ*", "transitions", "gradient features", "surrogates Δ", "scores",
        f"affinity {n}×{n}", f"{k} group{'s' if k != 1 else ''}", f"{k} polic{'ies' if k != 1 else 'y'}",
    ]  # fmt: skip


def _figure(name: str, svg: str | None) -> dict[str, Any] | None:
    """A drawn figure with its caption and the widths between which it may shrink and grow."""
    if svg is None:
        return None
    width = float(re.search(r'viewBox="\S+ \S+ (\S+)', svg).group(1))
    least = 300 if width < 450 else 0.95 * width  # narrow figures shrink to a phone, wide ones scroll
    return {"svg": svg, "caption": _CAPTIONS[name], "least": round(least), "most": round(1.65 * width)}


def _at(values: Sequence, i: int) -> Any:
    return values[i] if i < len(values) else None
