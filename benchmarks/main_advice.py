"""What a user should take from the main table, in sentences made from its result file alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from main_parts import (
    FROM_HIDDEN,
    SHARED,
    SIMPLEST,
    UNATTAINABLE,
    Part,
    as_good,
    first,
    over_units,
    parts,
    short,
)
from main_table import ADDED
from method_search import Factors
from tables import plural

from pgx_jax.compare.results import OURS, SIMILAR
from pgx_jax.report.wording import steps, with_interval

MOST_NAMED = 3
"""Methods that a sentence names."""


def sentences(data: Mapping) -> Iterator[str]:
    """What a user should do, one sentence a family and block."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for part in parts(data):
        said = found.setdefault((part.family, part.block), {})
        said.setdefault(_advice(part), []).append(steps(part.budget))
    for (family, block), said in found.items():
        words = (f"at {' and '.join(sizes)} steps a task {advice}" for advice, sizes in said.items())
        yield f"`{family}`, {block}: {'; '.join(words)}."


def _advice(part: Part) -> str:
    """What a user should do with a part's tasks: the simplest of what is as good as the first.

    Which gradient similarity is the best is told by these very runs: it may be as good, and is never what to
    take.
    """
    said = _said(part)
    best = max((name for name in said if not name.startswith(SIMILAR)), key=part.mean)
    gaps = {name: over_units(part.ahead(name, best)) for name in said if name.startswith(SIMILAR)}
    above = [name for name, gap in gaps.items() if gap.above_zero]
    ties = [name for name in as_good(part, best, list(said)) if name not in above]
    simple = next((name for name in SIMPLEST[part.block] if name in ties), None)
    taken = simple or best
    others = sorted(
        (name for name in ties if name != taken), key=lambda name: (name != OURS, -part.mean(name))
    )
    words = [f"take {said[taken]}" + ", the simplest" * (simple is not None and len(ties) > 1)]
    if others:
        words.append(
            f"as good {'is' if len(others) == 1 else 'are'} {_listed([said[name] for name in others])}"
        )
    if OURS not in ties:
        gap = over_units(part.ahead(best, OURS))
        words.append(f"PolicyGradEx falls short of the first by {with_interval(gap)}")
    words += [
        f"{said[name]}, picked on these very runs, earns {with_interval(gaps[name])} more" for name in above
    ]
    return "; ".join(words)


def _listed(names: Sequence[str]) -> str:
    """The first of some methods, and how many there are besides."""
    shown, more = list(names[: MOST_NAMED - 1]), len(names[MOST_NAMED - 1 :])
    last = plural(more, "other") if more else shown.pop()
    return " and ".join(filter(None, (", ".join(shown), last)))


def _said(part: Part) -> dict[str, str]:
    """What sentences call the methods that all runs have and that are given no more than others."""
    ks = sorted({run.entry["k"] for run in part.runs})
    found = {
        name: label if name.startswith(SIMILAR) else short(label)
        for name, label in part.names().items()
        if not name.startswith(UNATTAINABLE) and part.whole(name)
    }
    if ks == [1]:
        for name in [name for name in found if name.startswith(("multitask_continued", SIMILAR))]:
            if not part.ahead(OURS, name).any():  # the same policy
                del found[name]
        found[OURS] = f"{short(SHARED[OURS])} (k = 1: one policy for all, going on from the meta-policy)"
    else:
        found[OURS] = f"{short(SHARED[OURS])} (k = {', '.join(map(str, ks))})"
    return found


def halves(data: Mapping) -> str:
    """Family seeds that were added once others had been looked at, apart from these."""
    pieces = []
    for family, seed in ADDED.items():
        words = list(filter(None, (_halved(part, seed) for part in parts(data) if part.family == family)))
        if words:
            pieces.append(
                f"Family seeds {seed} and up of {family} were added because those before had shown ours, "
                "with hidden tasks, behind a gradient similarity, mostly with equal groups. So the numbers "
                "over all of them were not planned. Each half by itself, ours minus what was the best other "
                f"method in the first: {'; '.join(words)}."
            )
    return "\n\n".join(pieces)


def _halved(part: Part, seed: int) -> str:
    """Ours minus the first of the family seeds below some, on these and on the others; nothing where there
    are no others."""
    early, late = (
        part._replace(runs=[run for run in part.runs if (run.family_seed >= seed) == added])
        for added in (False, True)
    )
    if not early.runs or not late.runs:
        return ""
    names = early.names()
    best, _ = first(early, [name for name in names if name != OURS])
    gaps = (
        f"{with_interval(over_units(half.ahead(OURS, best)), signed=True)} on family seeds "
        f"{half.runs[0].family_seed} to {half.runs[-1].family_seed}"
        for half in (early, late)
    )
    where = f"{part.block}, {steps(part.budget)} steps a task, against {names[best]}"
    return f"{where}, {' and '.join(gaps)}"


def alone(data: Mapping) -> str:
    """What other settings mean for one policy per task, which the other tables train with the family's."""
    words = [
        f"{part.mean('single_task'):.1f} on {part.family} at {steps(part.budget)} steps a task, in place of "
        f"{part.mean(FROM_HIDDEN[1]):.1f}"
        for part in parts(data)
        if part.block == "hidden"
        and part.factors.get("one_a_task", Factors()) != Factors()
        and part.whole("single_task")
    ]
    if not words:
        return ""
    return (
        "One policy per task has settings here that serve it best; with the family's, as in all other "
        f"tables, it earns {'; '.join(words)}."
    )
