"""The words and the shape of ``report.html``: one self-contained page, without scripts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pgx_jax.report import conclusion, wording
from pgx_jax.report.elements import cards, chips, details, dot, table, text
from pgx_jax.report.stylesheet import CSS

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


def render(results: Mapping, config: Mapping, svgs: Mapping[str, str]) -> str:
    """The whole page as HTML text.

    Args:
        results: what ``results.json`` holds, as plain data.
        config: what ``config.json`` holds.
        svgs: figure name -> ``<svg>`` element.
    """
    badge, tone = _VERDICTS[conclusion.verdict(results)]
    family = str(results.get("family", "run"))
    sections = [
        _section("Comparison", _figure("methods", svgs), _methods_table(results)),
        _section("Groups", _groups(results)),
        _section("Task by task", _figure("per_task", svgs), _per_task_table(results)),
        _section("Unseen test tasks", _test_tasks(results)),
        _section("Affinity", _figure("affinity", svgs)),
        _section(
            "Choice of the partition", _figure("path", svgs), _prediction(results), _path_table(results)
        ),
        _section("Learning curves", _figure("curves", svgs)),
        _section("Pipeline", _flow(results), _figure("pipeline", svgs)),
        _section("Diagnostics", _settings(results.get("diagnostics"))),
        _section("Settings", _settings(config)),
    ]
    title = f"{family}: {badge.lower()}"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>",
            f'<header>\n<p class="eyebrow">PolicyGradEx report</p>\n<h1>{text(family)}</h1>',
            f'<div class="advice {tone}"><span class="badge">{badge}</span>'
            f"<p>{text(results.get('advice') or conclusion.advice(results))}</p></div>",
            _facts(results),
            "</header>",
            *filter(None, sections),
            "<footer>Written by pgx_jax. The same numbers stand in results.json, all settings in config.json."
            "</footer>\n</main>\n</body>\n</html>\n",
        ]
    )


def _facts(results: Mapping) -> str:
    gain = results.get("gain") or {}
    ours = (results.get("methods") or {}).get(wording.OURS) or {}
    timed = wording.total_seconds(results)
    facts = [
        ("tasks", str(results.get("n_tasks", "–"))),
        ("groups", str(results.get("k", "–"))),
        ("predicted gain", wording.with_interval(conclusion.predicted_gain(results), signed=True)),
        ("realised gain", wording.with_interval(wording.estimate(gain.get("realised")), signed=True)),
        ("total steps", wording.steps(ours.get("env_steps"))),
        ("time", wording.duration(timed) if timed else "–"),
        ("seed", str(results.get("seed", "–"))),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{_split_interval(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{items}</dl>'


def _methods_table(results: Mapping) -> str:
    rows = []
    for name in wording.ordered_methods(results):
        entry = results["methods"][name]
        groups = entry.get("groups")
        rule = "yes" if entry.get("equal_steps", True) else '<span class="tag">no</span>'
        label = text(wording.method_label(results, name))
        note = f" · {text(entry['note'])}" if entry.get("note") else ""
        rows.append(
            [
                f"{label}<small><code>{text(name)}</code>{note}</small>",
                text(wording.with_interval(wording.estimate(entry))),
                str(len(groups)) if groups else "–",
                wording.steps(entry.get("env_steps")),
                rule,
            ]
        )
    if not rows:
        return "<p>No method was compared.</p>"
    metric = f"{wording.metric_name(results).capitalize()} [95%]"
    head = ["Method", metric, "Policies", "Total steps", "Same total"]
    mark = [name == wording.OURS for name in wording.ordered_methods(results)]
    listed = table(head, rows, numeric=(1, 2, 3), mark=mark)
    return listed + details("Who trains with whom", _partitions(results))


def _partitions(results: Mapping) -> str:
    rows = []
    for name in wording.ordered_methods(results):
        entry, label = results["methods"][name], wording.method_label(results, name)
        draws = entry.get("draws") or [entry]
        for i, draw in enumerate(draws):
            which = f"{label}, draw {i + 1}: {wording.number(draw.get('mean'))}" if len(draws) > 1 else label
            if draw.get("groups"):
                rows.append([text(which), chips(draw["groups"])])
    return table(["Method", "Groups"], rows) if rows else ""


def _groups(results: Mapping) -> str:
    parts = [cards(results.get("groups") or [])]
    if results.get("true_groups"):
        parts.append("<h3>True groups</h3>" + chips(results["true_groups"]))
    agreement = results.get("agreement")
    if agreement:
        exact = (
            "the groups found are exactly the true ones" if agreement.get("exact") else "not the same groups"
        )
        nmi, ari = (wording.number(agreement.get(key), digits=2) for key in ("nmi", "ari"))
        parts.append(
            f"<p>Agreement with the true groups, which the method never sees: {exact}; normalised "
            f"mutual information {nmi}, adjusted Rand index {ari}.</p>"
        )
    return "".join(parts)


def _per_task_table(results: Mapping) -> str:
    names = [n for n in wording.ordered_methods(results) if results["methods"][n].get("per_task")]
    if not names:
        return ""
    rows = [
        [text(task), *(wording.number(_at(results["methods"][name]["per_task"], i)) for name in names)]
        for i, task in enumerate(results["task_names"])
    ]
    head = ["Task", *(text(wording.method_label(results, name)) for name in names)]
    return details("All methods, task by task", table(head, rows, numeric=range(1, len(head))))


def _test_tasks(results: Mapping) -> str:
    entry = results.get("test_tasks")
    if not entry:
        return ""
    names, assigned = entry.get("names") or [], entry.get("assigned") or []
    how = f"<p>How a test task finds its policy: {text(entry['method'])}.</p>" if entry.get("method") else ""
    value = wording.with_interval(wording.estimate(entry))
    base = wording.with_interval(wording.estimate(entry.get("multitask")))
    against = f", against {text(base)} with one policy for all" if entry.get("multitask") else ""
    lead = f"<p>{wording.metric_name(results).capitalize()} over {len(names)} unseen tasks: "
    lead += f"<strong>{text(value)}</strong>{against}.</p>"
    rows = []
    for i, name in enumerate(names):
        group = _at(assigned, i)
        rows.append([text(name), "–" if group is None else dot(int(group))])
    listed = table(["Test task", "Group"], rows)
    return how + lead + (details("Which policy each test task was given", listed) if rows else "")


def _prediction(results: Mapping) -> str:
    """What the predicted gain is, and how far it can be trusted."""
    value = conclusion.predicted_gain(results)
    if value.mean is None:
        return ""
    of = " of the best split" if int(results["k"]) == 1 else ""
    gain = text(wording.with_interval(value, signed=True))
    return (
        f"<p>The predicted gain{of}, {gain}, is a difference of two held-out surrogate scores (by how much "
        "surrogates reduce the loss on trajectories that they have not seen), in standardised advantage a "
        "step: not in the unit in which policies are compared. It and its interval are from the trajectories "
        "on which the partition was chosen, and so a little hopeful.</p>"
    )


def _path_table(results: Mapping) -> str:
    entry = results.get("path") or {}
    k = entry.get("k") or []
    if not k:
        return "<p>No path was recorded.</p>"
    if len(k) == 1:
        return "<p>The settings left a single candidate, so that nothing was chosen by its score.</p>"
    head, rows = ["k", "Score", "Below the best", "Standard error", "Group of each task"], []
    for i in range(len(k)):
        labels = _at(entry.get("labels") or [], i)
        rows.append(
            [
                f"{int(k[i])}{' (chosen)' if i == entry.get('chosen') else ''}",
                *(wording.number(_at(entry.get(key) or [], i)) for key in ("score", "difference", "stderr")),
                " ".join(str(int(label) + 1) for label in labels) if labels else "–",
            ]
        )
    order = sorted(range(len(k)), key=lambda i: (k[i], i))
    mark = [i == entry.get("chosen") for i in order]
    listed = table(head, [rows[i] for i in order], numeric=(1, 2, 3), mark=mark)
    return details(f"All {len(k)} candidates", listed)


def _flow(results: Mapping) -> str:
    n, k = results.get("n_tasks", "n"), results.get("k", "k")
    steps = [f"{n} tasks", "meta-policy θ*", "transitions", "gradient features", "surrogates Δ", "scores"]
    steps += [
        f"affinity {n}×{n}",
        f"{k} group{'s' if k != 1 else ''}",
        f"{k} polic{'ies' if k != 1 else 'y'}",
    ]
    return f'<ol class="flow">{"".join(f"<li>{text(step)}</li>" for step in steps)}</ol>'


def _settings(values: Mapping | None) -> str:
    rows = [[f"<code>{text(name)}</code>", text(value)] for name, value in wording.flatten(values or {})]
    return table(["Name", "Value"], rows, css="settings") if rows else ""


def _figure(name: str, svgs: Mapping[str, str]) -> str:
    if name not in svgs:
        return ""
    width = float(re.search(r'viewBox="\S+ \S+ (\S+)', svgs[name]).group(1))
    least = 300 if width < 450 else 0.95 * width  # narrow figures shrink to a phone, wide ones scroll
    return (
        f'<figure><div class="plot" tabindex="0" role="img" aria-label="{escape(_CAPTIONS[name])}">'
        f'<div style="min-width:{least:.0f}px;max-width:{1.65 * width:.0f}px">{svgs[name]}</div></div>'
        f"<figcaption>{text(_CAPTIONS[name])}</figcaption></figure>"
    )


def _section(title: str, *parts: str) -> str:
    body = "".join(parts)
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>" if body else ""


def _split_interval(value: str) -> str:
    mean, bracket, rest = text(value).partition(" [")
    return f"{mean}<small>[{rest}</small>" if bracket else mean


def _at(values: Sequence, i: int) -> Any:
    return values[i] if i < len(values) else None
