"""The README's table of a language model's objectives, as Markdown made from the result file alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tables import Cells, agreement, counted, over_runs, table

from pgx_jax.compare.results import Interval
from pgx_jax.report.wording import duration, with_interval

OURS = "ours"
LABELS = {
    OURS: "PolicyGradEx, the reference asked",
    "ours_later": "PolicyGradEx, asked after a quarter of the steps",
    "one": "One policy for all",
    "one_told": "One policy for all, told the reader",
    "each": "One policy per reader",
    "random": "Random groups of our sizes",
    "similarity": "Gradient similarity, the best of six",
    "true": "Planted groups",
}
"""Methods in words, in the table's order."""


def by_family(data: Mapping) -> dict[str, list[Mapping]]:
    """The table's cells by the names of their sets of objectives."""
    found: dict[str, list[Mapping]] = {}
    for cell in data["cells"]:
        if cell["cell"]["part"] == "table":
            found.setdefault(cell["cell"]["family"], []).append(cell)
    return found


def values(cells: Cells, name: str, measure: str = "accuracy") -> np.ndarray:
    """Mean over readers of a method's accuracy or margin, for every seed."""
    if name == "similarity":
        kinds = [name for name in cells[0]["methods"] if name.startswith("similarity_")]
        name = max(kinds, key=lambda kind: float(values(cells, kind).mean()))
    return np.array([np.mean(cell["methods"][name][measure]) for cell in cells])


def difference(cells: Cells, name: str) -> Interval:
    """Accuracy of ours less a method's, paired by seed."""
    return over_runs(values(cells, OURS) - values(cells, name))


def language(data: Mapping) -> str:
    """Which groups were found, and what every method earns on held-out pairs."""
    found = by_family(data)

    def row(label: str, fact) -> list[str]:
        return [label, *(fact(cells) for cells in found.values())]

    rows = [
        row("seeds", lambda cells: str(len(cells))),
        row("planted k", lambda cells: counted(len(set(cell["true"])) for cell in cells)),
        *(row(f"k found{late}", lambda c, key=key: counted(x[key]["k"] for x in c)) for key, late in ASKED),
        *(row(f"NMI, exactly right{late}", lambda c, key=key: _agreement(c, key)) for key, late in ASKED),
        row("opposites kept apart", _apart),
        row("split's predicted gain ‡", _predicted),
        *(row(label, lambda cells, name=name: _earned(cells, name)) for name, label in LABELS.items()),
        row("time of a seed", lambda c: duration(np.mean([x["timings"]["seconds"] for x in c]))),
    ]
    return table(["", *found], rows) + "\n\n" + _facts(data, found)


ASKED = (("found", ""), ("found_later", ", asked later"))
"""When groups were found, and what that is called."""


def _earned(cells: Cells, name: str) -> str:
    gain = "" if name == OURS else f" ({with_interval(difference(cells, name), signed=True)})"
    margin = values(cells, name, "margin").mean()
    return f"{with_interval(over_runs(values(cells, name)))}{gain}; {margin:.2f}"


def _agreement(cells: Cells, key: str) -> str:
    return ", ".join(dict.fromkeys(agreement([cell[key] for cell in cells])))


def _apart(cells: Cells) -> str:
    apart = [pair for cell in cells for pair in cell["found"]["apart"] or ()]
    return f"{sum(apart)} of {len(apart)}" if apart else "–"


def _predicted(cells: Cells) -> str:
    return with_interval(over_runs([cell["found"]["predicted"]["mean"] for cell in cells]), signed=True)


def told_apart(found: Mapping[str, Cells]) -> str:
    """Of which methods ours is ahead, and which are ahead of it, by the paired intervals; in words."""
    told = []
    for family, cells in found.items():
        gains = {LABELS[name]: difference(cells, name) for name in LABELS if name != OURS}
        known = {label: x for label, x in gains.items() if x.lo is not None and x.hi is not None}
        ahead = [label for label, x in known.items() if x.lo > 0]
        behind = [label for label, x in known.items() if x.hi < 0]
        parts = [f"{word} {'; '.join(x)}" for word, x in (("ahead of", ahead), ("behind", behind)) if x]
        told.append(f"- {family}: {', and '.join(parts) or 'not told apart from any'}")
    return "\n".join(["Where ours stands, by the paired intervals:", "", *told])


def _facts(data: Mapping, found: Mapping[str, Cells]) -> str:
    sizes, batch = data["settings"]["sizes"], data["settings"]["dpo"]["batch"]
    some = next(iter(found.values()))
    cell, n = some[0], len(some[0]["names"])
    same = {name: _same(cells) for name, cells in found.items()}
    rates = sorted({m["rate"] for cells in found.values() for c in cells for m in c["methods"].values()})
    search = next(c for c in data["cells"] if c["cell"]["part"] == "search")
    tried = sorted(search["accuracy"]["one"], key=float)
    paid = cell["methods"]["one"]["steps"]
    return (
        f"{told_apart(found)}\n\n"
        "Held-out preference accuracy, with its 95% interval over seeds (of readers, texts, reference and "
        "training alike; the grammar and the network are the same), in parentheses ours minus it, paired by "
        "seed, and after the semicolon the mean reward margin (beta times what the log-ratio of the better "
        f"text has gained on the reference's). The intervals leave out other sizes: {n} readers, "
        f"{sizes['pairs']} pairs of each to learn from, {sizes['judged']} to judge by. Every method makes "
        f"{paid} gradient steps of {batch} pairs in all, or fewer by what does not divide; the pairs whose "
        "gradients ours and the similarities take count among them. Step sizes "
        f"({', '.join(map(str, rates))}; tried: {', '.join(tried)}) come from other seeds, for each kind of "
        "method and set of objectives, and may lie at an end of what was tried; groups that are found or "
        "drawn have that which suits those that ours finds by the reference. ‡ Of the loss of the "
        "standardised labels; 0 of one group. Of two random texts, two readers prefer the same one: "
        + "; ".join(f"{name}: {text}" for name, text in same.items())
        + "."
    )


def _same(cells: Cells) -> str:
    """How often readers of one planted group agree, and those of different ones, in words."""
    within, across = [], []
    for cell in cells:
        labels, rate = np.array(cell["true"]), np.array(cell["prefer_the_same"])
        same, other = labels[:, None] == labels[None], ~np.eye(len(labels), dtype=bool)
        within.append(rate[same & other].mean())
        across.extend([rate[~same].mean()] if (~same).any() else [])
    beside = f", of different ones in {np.mean(across):.0%}" if across else ""
    return f"of one planted group in {np.mean(within):.0%}{beside}"
