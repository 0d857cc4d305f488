"""How it is put into words and tables what other settings would have done to the groups of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgx_jax.analysis.ablations import AblatedAxis, AblatedValue, AblationsResult
from pgx_jax.report.wording import mean_if_known, number

if TYPE_CHECKING:
    from rich.table import Table

LABELS = {
    "k": "number of groups k",
    "dim": "projected dimension d",
    "projection": "projection",
    "ridge": "ridge of the surrogates",
    "affinity": "affinity",
    "subsets": "subsets: m of a size",
    "score": "score of a subset",
    "cross_fitting": "cross-fitting",
    "lambda": "λ of the advantages",
    "transitions": "transitions a task",
    "rollouts": "roll-outs",
}
"""Axes in words."""

FASTER = 1.1
"""How many times as fast features must be to be called cheaper."""


def label_of(axis: AblatedAxis) -> str:
    """An axis in words."""
    return LABELS.get(axis.name, axis.name)


def changed(found: AblationsResult, axis: AblatedAxis) -> list[AblatedValue]:
    """The values of an axis with which the groups are others."""
    return [x for x in axis.values if not x.refused and x.labels != found.labels]


def sentence(found: AblationsResult) -> str:
    """Which settings changed the groups, and which may therefore be taken cheaper."""
    varied = [axis for axis in found.axes if axis.name != "k"]
    others = {(axis.name, x.value) for axis in varied for x in axis.values if _is_other(axis, x)}
    alone = found.given in (1, len(found.labels))  # of which there is one partition
    parts = [_groups(found) + (", of which there is one partition" if alone else "")]
    if varied and not alone:
        moved = [text for axis in varied if (text := _moved(found, axis))]
        asked = [axis for axis in varied if any(_is_other(axis, x) for x in axis.values)]
        still = [label_of(axis) for axis in asked if not changed(found, axis)]
        parts += [f"of {len(others)} other value{'s' * (len(others) != 1)}, {_of_these(moved)}"]
        parts += [f"no other value of these does: {', '.join(still)}"] if still and moved else []
    parts += _best_k(found)
    refused = [x.refused for axis in found.axes for x in axis.values if x.refused]
    parts += [f"{len(refused)} could not be asked: {'; '.join(dict.fromkeys(refused))}"] if refused else []
    parts += [] if alone else _cheaper(found)
    told = ". ".join(part[0].upper() + part[1:] for part in parts)
    return f"{told}. This is one theta* and what it experienced once: another seed may change as much."


def _is_other(axis: AblatedAxis, x: AblatedValue) -> bool:
    """Whether it is another value than the run's own, and was asked."""
    return not x.refused and x.value != axis.own.value


def _groups(found: AblationsResult) -> str:
    """How many groups there are with the run's own settings, and what became of them in the end."""
    if found.given is not None:
        told = f"given is k = {found.given}"
    else:
        told = f"with its own settings theta* tells k = {found.k}"
    if found.final == found.labels:
        return told
    return f"{told} (later looks made other groups of these, k = {max(found.final) + 1})"


def _of_these(moved: list[str]) -> str:
    return f"these change the groups: {'; '.join(moved)}" if moved else "none changes the groups"


def _moved(found: AblationsResult, axis: AblatedAxis) -> str:
    """The values of an axis that change the groups, and how far; those of several draws with their number."""
    by_value: dict[str, list[AblatedValue]] = {}
    for x in changed(found, axis):
        by_value.setdefault(x.value, []).append(x)
    told = []
    for value, draws in by_value.items():
        every = sum(x.value == value for x in axis.values)
        some = f" in {len(draws)} of {every} draws" if every > 1 else ""
        told.append(
            f"{value}{some} (k = {_ks(draws)}, NMI {number(mean_if_known([x.nmi for x in draws]), 2)})"
        )
    return f"{label_of(axis)} {', '.join(told)}" if told else ""


def _ks(values: list[AblatedValue]) -> str:
    return " or ".join(map(str, dict.fromkeys(x.k for x in values)))


def _best_k(found: AblationsResult) -> list[str]:
    """The number of groups, of those that were tried, into which splitting is said to gain most."""
    axis = next((axis for axis in found.axes if axis.name == "k"), None)
    given = [] if axis is None else [x for x in axis.values if x.value == str(x.k)]
    known = [x for x in given if x.gain is not None]
    if not known:
        return []
    best = max(known, key=lambda x: x.gain or 0.0)
    return [f"of the k that were tried, {best.k} is predicted to gain most ({number(best.gain, 4)})"]


def cheaper(found: AblationsResult, axis: AblatedAxis) -> tuple[AblatedValue, float] | None:
    """The fastest value of an axis of features that leaves the groups as they are in all its draws, and how
    many times as fast its features are; of dimensions, none below one that changes them."""
    times, dims = found.timings.get(axis.name, {}), axis.setting == "estimate.dim"
    base = times.get(axis.own.value)
    other = {x.value for x in changed(found, axis)} | {x.value for x in axis.values if x.refused}
    best = None
    for value in sorted(times, key=lambda value: -(int(value) if dims else times[value] or 0.0)):
        spent = times[value]
        if not base or not spent or base / spent < FASTER:
            continue
        if value in other:
            if dims:
                break
            continue
        best = next(x for x in axis.values if x.value == value), base / spent
    return best


def _cheaper(found: AblationsResult) -> list[str]:
    """Which features may be taken cheaper, where others were tried."""
    known = [axis for axis in found.axes if axis.name in found.timings]
    told = [(axis, best) for axis in known if (best := cheaper(found, axis)) is not None]
    listed = [
        f"{axis.setting} {x.value} ({times:.1f} times as fast, inner products {number(x.error, 2)} off)"
        for axis, (x, times) in told
    ]
    if listed:
        return [f"in runs like this one features may be taken cheaper: {', or '.join(listed)}"]
    return ["nothing that was tried is cheaper and leaves the groups as they are"] if known else []


def table(found: AblationsResult) -> Table:
    """Every value of every axis."""
    from rich import box
    from rich.table import Table

    title = f"{found.family}: what other settings would have done (own ones: *)"
    shown = Table(title=title, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    shown.add_column("setting")
    shown.add_column("value", no_wrap=True)
    planted, projected = found.planted is not None, bool(found.timings)
    heads = ["k", "NMI own", *(("NMI planted", "AUC") if planted else ()), "gain"]
    for head in [*heads, *(("error", "seconds") if projected else ())]:
        shown.add_column(head, justify="right", no_wrap=True)
    for axis in found.axes:
        for i, x in enumerate(axis.values):
            cells = [str(x.k or "–"), number(x.nmi, 2)]
            cells += [number(x.planted_nmi, 2), number(x.auc, 3)] if planted else []
            cells += [number(x.gain, 4)]
            spent = found.timings.get(axis.name, {}).get(x.value)
            cells += [number(x.error, 3), number(spent, 2) if spent else ""] if projected else []
            shown.add_row("" if i else label_of(axis), value_of(x), *cells)
    return shown


def value_of(x: AblatedValue) -> str:
    """A value as tables have it."""
    drawn = f", draw {x.draw + 1}" if x.draw else ""
    return f"{x.value}{drawn}{' *' if x.own else ''}{' (refused)' if x.refused else ''}"
