"""The README's table and figure of the first-order error, made from the result file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import msgspec
import numpy as np
from tables import table

from pgx_jax.analysis import ApproximationResult
from pgx_jax.report.analyses import percent
from pgx_jax.report.figures.analyses import KIND_LABELS, KIND_STYLE, MEASURE_TITLES, logarithmic
from pgx_jax.report.figures.canvas import FAINT, INK, RC, canvas, png

SHOWN = (0.001, 0.005, 0.01, 0.05)
"""Distances of the table."""

PUBLISHED = {
    "Meta-World MT10": (0.0001, 0.0043, 0.0032),
    "CartPole": (0.0012, 0.0073, 0.0098),
    "Highway": (0.0002, 0.0011, 0.0204),
    "LunarLander": (0.0006, 0.0003, 0.0048),
}
"""The paper's errors at the first three of these, of networks that differ from ours (arXiv 2511.12779)."""

COUNTERPARTS = {
    "Meta-World MT10": "metaworld",
    "CartPole": "cartpole",
    "Highway": "highway",
    "LunarLander": "lunar",
}
"""How families of ours begin that are beside these."""

MEASURES = {"ratio": "ratio", "log_ratio": "log-ratio"}
"""What tables show, in words."""

LINES = {2: "-", 4: "--", 8: ":"}
"""Line of every number of hidden layers."""

ACROSS = 3
"""Families beside each other in the figure."""

Found = dict[tuple[str, int], list[ApproximationResult]]
"""(family, hidden layers) -> the records of all seeds."""


def by_network(data: Mapping) -> Found:
    """The records, in the order in which they were measured."""
    found: Found = {}
    for cell in data["cells"]:
        where = cell["cell"]["family"], cell["cell"]["layers"]
        found.setdefault(where, []).append(msgspec.convert(cell["found"], ApproximationResult))
    order = list(dict.fromkeys(family for family, _ in found))
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def mean_errors(records: list[ApproximationResult], kind: str, measure: str) -> np.ndarray:
    """Mean over directions and seeds at every distance: float [S]."""
    return np.mean([record.of_kind(kind, measure).mean(0) for record in records], axis=0)


def shown_errors(records: list[ApproximationResult], measure: str, distances: Sequence[float]) -> list[str]:
    """Mean error along fine-tuning at every distance, with the range over directions and seeds."""
    places = [records[0].distances.index(x) for x in distances]
    single = np.concatenate([record.of_kind("finetuning", measure)[:, places] for record in records])
    means = mean_errors(records, "finetuning", measure)[places].tolist()
    ends = zip(means, single.min(0).tolist(), single.max(0).tolist(), strict=True)
    return [f"{percent(x)} [{percent(low)}, {percent(high)}]" for x, low, high in ends]


def first_order(data: Mapping) -> str:
    """Errors of fine-tuning by distance, and where the surrogates' own steps lie."""
    rows, found = [], by_network(data)
    for (family, layers), records in found.items():
        distances = [x for x in SHOWN if x in records[0].distances]
        own, there = np.mean([record.own("surrogate", "ratio") for record in records], axis=0)
        rows.append(
            [f"{family}, {layers}", f"{records[0].parameters:,}"]
            + [x for measure in MEASURES for x in shown_errors(records, measure, distances)]
            + [f"{percent(there)} at {percent(own)}"]
        )
    shown = [x for x in SHOWN if x in next(iter(found.values()))[0].distances]
    blank = ["–"] * (len(shown) + 1)
    for name, values in PUBLISHED.items():
        rows.append([f"*the paper: {name}*", *blank, *map(percent, values), "–", "–"])
    head = ["family, hidden layers", "p"]
    head += [f"{name}, {percent(x)}" for name in MEASURES.values() for x in shown]
    return table([*head, "surrogates' own: ratio"], rows) + "\n\n" + _facts(found)


AT, TARGET = 0.01, 0.02
"""The distance at which the ratio's error along fine-tuning is to be less than this."""


def single_errors(found: Found, kind: str, at: float = AT) -> dict[tuple[str, int], np.ndarray]:
    """The ratio's errors along every direction of a kind, by network: float [directions of all seeds]."""
    return {
        where: np.concatenate([x.of_kind(kind, "ratio")[:, x.distances.index(at)] for x in records])
        for where, records in found.items()
    }


def along_surrogates(found: Found) -> str:
    """The least, the largest and the median network's mean error along surrogates, in words."""
    means = [x.mean() for x in single_errors(found, "surrogate").values()]
    return f"{percent(min(means))} to {percent(max(means))} (in the median {percent(np.median(means))})"


def as_published(found: Found) -> str:
    """What the paper's numbers may be compared with."""
    means = np.array([
        mean_errors(records, "finetuning", "log_ratio")[records[0].distances.index(AT)]
        for records in found.values()
        if AT in records[0].distances
    ])  # fmt: skip
    missing = [
        name for name, ours in COUNTERPARTS.items() if not any(family.startswith(ours) for family, _ in found)
    ]
    says = f"Of {' and '.join(missing)} there is no measurement of ours. " if missing else ""
    says += "The paper calls its error that of the log-ratio, and does not say along which directions it "
    says += "measures, nor in which norm."
    if not len(means):
        return says
    ends = [f"{percent(x.min())} to {percent(x.max())}" for x in (means, means**2)]
    return (
        f"{says} At {AT:.0%} our log-ratio is {ends[0]} off, by family and depth, which is more than the "
        f"paper has; of its numbers' size are the errors of our ratio, and the squares of those of the "
        f"log-ratio ({ends[1]})."
    )


def _directions(found: Found) -> str:
    """What means over directions hide: the worst of them, and those that lead elsewhere."""
    single = single_errors(found, "finetuning")
    (family, depth), worst = max(single.items(), key=lambda item: item[1].max())
    every = np.concatenate(list(single.values()))
    where = [f"{name}, {layers}" for (name, layers), x in single.items() if (x >= TARGET).any()]
    beyond = f": {'; '.join(where)}" if where else ""
    ends = np.array([
        x.own for records in found.values() for r in records for x in r.directions if x.kind == "finetuning"
    ])  # fmt: skip
    last = max(SHOWN)
    return (
        f"Of single directions {np.sum(every >= TARGET)} of {len(every)} have an error of {TARGET:.0%} or "
        f"more at {AT:.0%}{beyond} (the worst {percent(worst.max())}, {family} with {depth} hidden layers). "
        f"Fine-tuning that ends before {last:.0%} is lengthened to it ({np.sum(ends < last)} of "
        f"{len(ends)}). Along the surrogates' directions, which the estimate itself takes, the error at "
        f"{AT:.0%} is {along_surrogates(found)} by family and depth. Figure: means, with the "
        f"range of single fine-tuning directions shaded; the grey line is at 10%."
    )


def _facts(found: Found) -> str:
    """What was measured, in words."""
    first = next(iter(found.values()))[0]
    up_to = [i for i, x in enumerate(first.distances) if x <= 0.01]
    flattered = max(mean_errors(several, "random", "ratio")[up_to].max() for several in found.values())
    last = [i for i, x in enumerate(first.distances) if x in SHOWN][-1]
    middle = [mean_errors(several, "finetuning", "ratio_median")[last] for several in found.values()]
    seeds = sorted({len(several) for several in found.values()})
    return (
        f"Relative errors of first order by the distance |θ − θ*| / |θ*|, along fine-tuning directions (PPO "
        f"from θ* on all tasks and on single ones), over {first.transitions:,} transitions of each source "
        f"that θ* experienced; means over directions and {' or '.join(map(str, seeds))} seeds, in "
        f"brackets the least and the largest of single ones. Ratio: the mean of |r − (1 + g·Δ)| / r, which "
        f"a few actions that become unlikely may dominate (their median at "
        f"{percent(first.distances[last])}: {percent(min(middle))} to {percent(max(middle))}); log-ratio: "
        f"|log r − g·Δ| / |log r|, norms over the transitions. The last column is where the surrogates' "
        f"solutions lie (dual lift), and the ratio's error there. Along random directions the ratio is at "
        f"most {percent(flattered)} off up to 1%, which flatters: hardly any of such a step changes the "
        f"policy. {as_published(found)} Beyond 5% the paper's grows to about "
        f"10%. {_directions(found) if AT in first.distances else ''}".rstrip()
    )


def draw(data: Mapping) -> bytes:
    """Errors against distance: a column a family, at most three beside each other, two rows for the measures
    of these; colours are kinds, lines depths."""
    found = by_network(data)
    families = list(dict.fromkeys(family for family, _ in found))
    columns = min(len(families), ACROSS)
    blocks = -(-len(families) // columns)
    with matplotlib.rc_context(RC):
        figure, panels = canvas(2.9 * columns + 0.6, 4.9 * blocks + 0.6, columns=columns, rows=2 * blocks)
        for axes in panels:
            axes.set_visible(False)
        for number, family in enumerate(families):
            block, column = divmod(number, columns)
            of_family = {layers: x for (name, layers), x in found.items() if name == family}
            for i, (measure, title) in enumerate(MEASURE_TITLES.items()):
                axes = panels[(2 * block + i) * columns + column]
                axes.set_visible(True)
                _panel(axes, of_family, measure)
                axes.set_title(family if i == 0 else "")
                axes.set_xlabel("distance |θ − θ*| / |θ*| (%)" if i else "")
                axes.set_ylabel("" if column else f"{title} (%)", fontsize=8.5)
        figure.legend(handles=_handles(), loc="outside lower center", ncols=3, fontsize=8)
        return png(figure)


def _handles() -> list[matplotlib.lines.Line2D]:
    """Of the legend: kinds, then depths."""
    kinds = [
        matplotlib.lines.Line2D([], [], color=KIND_STYLE[k][0], marker=KIND_STYLE[k][2], ms=4, label=text)
        for k, text in KIND_LABELS.items()
    ]
    return kinds + [
        matplotlib.lines.Line2D([], [], color=INK, ls=ls, label=f"{depth} hidden layers")
        for depth, ls in LINES.items()
    ]


def _panel(axes, found: Mapping[int, list[ApproximationResult]], measure: str) -> None:
    for layers, records in found.items():
        x = 100 * np.array(records[0].distances)
        single = 100 * np.concatenate([record.of_kind("finetuning", measure) for record in records])
        colour = KIND_STYLE["finetuning"][0]
        axes.fill_between(x, single.min(0), single.max(0), color=colour, alpha=0.13, lw=0)
        for kind, (colour, _, marker) in KIND_STYLE.items():
            y = 100 * mean_errors(records, kind, measure)
            axes.plot(x, y, LINES.get(layers, "-."), marker=marker, ms=3, color=colour, lw=1.3)
    axes.axhline(10, color=FAINT, lw=0.8)
    logarithmic(axes, records[0].distances)
