"""The README's table of what the choice of the partition promises, and keeps, in simulations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binomtest
from tables import Cells, plural, table

from pgx_jax import grouping

WANTED = {
    "same": "the same",
    "conflict": "in clusters, opposite things",
    "orthogonal": "something else each",
    "scale": "the same, on other scales",
}
"""What the simulated tasks want, by the kind of their world."""

COVERS = {"covers": "as they were fitted", "covers_afresh": "fitted afresh"}
"""What intervals are to cover the true gain of: splits."""
PROMISED = 0.95
"""How often intervals are to cover what is true."""

SOME = {
    "ridge": "Ridge: of the sum of a group's losses, or of their mean (the default where nothing stands: "
    "sum).",
    "exact, older rule": "Older rule: the smallest k within two standard errors of the best.",
}
"""What columns are that not all results have."""


def calibration(data: Mapping) -> str:
    """How often tasks are split, and how often the interval of the predicted gain covers the true one."""
    worlds: dict[tuple, list[Mapping]] = {}
    for c in data["cells"]:
        where = c["cell"]
        key = tuple(where.get(name) for name in ("kind", "n", "k", "signal", "ridge"))
        worlds.setdefault(key, []).append(c)
    order = sorted(worlds, key=lambda key: (list(WANTED).index(key[0]), key[1], *map(str, key[2:])))
    head = [
        "tasks want", "n", "signal", "ridge", "draws", "split", "split, 3 looks", "covered", "covered afresh",
        "exact", "exact, older rule",
    ]  # fmt: skip
    body = [_row(key, worlds[key]) for key in order]
    shown = [i for i in range(len(head)) if any(row[i] for row in body)]
    head, body = [head[i] for i in shown], [[row[i] for i in shown] for row in body]
    size = data["settings"]
    facts = (
        f"Simulated data of known truth (d = {size['dim']}, {size['trajectories']} trajectories of about "
        f"{size['length']} transitions a task). Signal: deviation of the part of the advantages that the "
        "tasks agree or disagree on, in units of their noise (0.1 where not given). Split: by the test of "
        "noise and of what there is to gain together, at one look, or at any of three that share the level. "
        "Covered: how often the 95% interval of the predicted gain holds the true gain of the splits as they "
        "were fitted, or "
        "fitted afresh on other draws."
    )
    facts += "".join(f" {text}" for name, text in SOME.items() if name in head)
    return table(head, body) + "\n\n" + facts + _broken(order, worlds)


def _broken(order: Sequence[tuple], worlds: Mapping[tuple, Cells]) -> str:
    """Where intervals cover less than they promise, by more than draws of so many may."""
    found = []
    for key, (name, of) in itertools.product(order, COVERS.items()):
        known = [c for c in worlds[key] if c["summary"].get(name) is not None]
        draws = sum(len(c["draws"]) for c in known)
        covered = round(sum(c["summary"][name] * len(c["draws"]) for c in known))
        if draws and binomtest(covered, draws, PROMISED, "less").pvalue < 0.025:
            tasks = f"{key[1]} tasks that want {WANTED[key[0]]}"
            found.append(f"of {tasks}, {of} ({_share(known, name)})")
    told = f" Intervals cover less than they promise: {'; '.join(found)}."
    return told if found else ""


def _row(key: tuple, cells: Cells) -> list[str]:
    kind, n, k, signal, ridge = key
    draws = sum(len(c["draws"]) for c in cells)
    wanted = WANTED[kind] if k in (None, 2) else f"{WANTED[kind]} ({plural(k, 'cluster')})"
    return [
        wanted, str(n), f"{signal or 0.1:g}", ridge or "", str(draws), _share(cells, "split"),
        _share(cells, "split_in_looks"), _share(cells, "covers"), _share(cells, "covers_afresh"),
        *(_exact(cells, rule) for rule in ("new", "old")),
    ]  # fmt: skip


def _share(cells: Cells, name: str) -> str:
    """A share of all draws, in percent."""
    return _percent([c["summary"].get(name) for c in cells], [len(c["draws"]) for c in cells])


def _exact(cells: Cells, rule: str) -> str:
    """How often a rule found exactly the clusters, in percent; nothing where it was not asked."""
    if not all(rule in c["summary"] for c in cells):
        return ""
    return _percent([c["summary"][rule]["exact"] for c in cells], [len(c["draws"]) for c in cells])


def _percent(shares: Sequence[float | None], draws: Sequence[int]) -> str:
    known = [(share, count) for share, count in zip(shares, draws, strict=True) if share is not None]
    if not known:
        return "–"
    rates, counts = np.array(known).T
    return f"{100 * np.average(rates, weights=counts):.1f}%"


def stability(data: Mapping) -> str:
    """How often what a run says is certain came again: from other trajectories, and with another seed."""
    runs: dict[str, list[Mapping]] = {}
    for c in data["cells"]:
        runs.setdefault(c["cell"]["family"], []).append(c)
    said = [row for family, cells in runs.items() for row in _groups_again(family, cells)]
    pairs = [row for family, cells in runs.items() for row in _pairs_again(family, cells)]
    groups_head = [
        "family", "runs", "k again: said", "collected again", "another seed", "these groups: said",
        "collected again", "another seed", "the planted groups",
    ]  # fmt: skip
    pairs_head = ["family", "pairs of tasks", "pairs", "together: said", "collected again", "another seed"]
    size = data["settings"]
    facts = (
        f"Said: mean of what runs say from {size['resamples']} draws of their trajectories (frequencies of "
        "these groups and of pairs at the run's k). Collected again: how often it came so where the same "
        f"theta* collected {plural(size['afresh'], 'more time')} (groups and pairs at the run's k, which is "
        "given; k where it is chosen). Another seed: how often the other training seeds of the same tasks "
        "came to it, at their own k. Groups are those of the last look at theta*."
    )
    certain = " ".join(filter(None, (_too_certain(family, cells) for family, cells in runs.items())))
    shown = [table(groups_head, said), table(pairs_head, pairs), certain, facts]
    return "\n\n".join(text for text in shown if text)


def _others(cells: Cells, one: Mapping) -> list[np.ndarray]:
    """Groups that other training seeds found for the same tasks."""
    return [
        np.array(c["labels"])
        for c in cells
        if c["cell"] != one["cell"] and c["cell"]["family_seed"] == one["cell"]["family_seed"]
    ]


MUCH = 0.1
"""By which a frequency that was said must differ from what came of it to be called too large."""


def _too_certain(family: str, cells: Cells) -> str:
    """A sentence where runs are more certain than what came of collecting again allows; or none."""
    rates = _again(cells)
    told = [
        f"{what} {_rate(said)}, and {which} in {_rate(afresh)} (with another seed in {_rate(seed)})"
        for what, which, (said, afresh, seed) in (
            ("their k comes again in", "it does", rates[:3]),
            ("their groups do in", "they do", rates[3:]),
        )
        if said - afresh > MUCH
    ]
    return f"**On {family} runs are too certain**: they say that {'; that '.join(told)}." if told else ""


def _again(cells: Cells) -> list[float]:
    """Means over runs: how often their k comes again, as they say, as it did where they collected again, and
    with another seed; and the same of their groups. NaN of what is not known."""
    again = []
    for c in cells:
        labels, others = np.array(c["labels"]), _others(cells, c)
        k = labels.max()
        again.append(
            [
                c["same_k"],
                _mean([max(one["free"]) == k for one in c["afresh"]]),
                _mean([one.max() == k for one in others]),
                c["same_groups"],
                _mean([grouping.exact(one["at_k"], labels) for one in c["afresh"]]),
                _mean([grouping.exact(one, labels) for one in others]),
            ]
        )
    return [_mean(column) for column in zip(*again, strict=True)]


def _groups_again(family: str, cells: Cells) -> list[list[str]]:
    exact = []
    for c in cells:
        planted = np.zeros_like(c["labels"]) if c["truth"] is None else c["truth"]
        exact.append(grouping.exact(planted, np.array(c["labels"])))
    return [[family, str(len(cells)), *map(_rate, _again(cells)), f"{sum(exact)} of {len(cells)}"]]


PAIRS = {
    "found together, planted together": (True, True),
    "found together, planted apart": (True, False),
    "found apart, planted together": (False, True),
    "found apart, planted apart": (False, False),
}
"""Pairs of tasks by (whether they were found together, whether they were planted so)."""


def _pairs_again(family: str, cells: Cells) -> list[list[str]]:
    """A row for every kind of pairs that there are, of the runs with several groups."""
    rows: dict[str, list[list[float]]] = {kind: [] for kind in PAIRS}
    for c in cells:
        labels = np.array(c["labels"])
        if c["truth"] is None or labels.max() == 0:
            continue
        upper = np.triu_indices(len(labels), 1)
        found, planted = (_same(x)[upper] for x in (labels, np.array(c["truth"])))
        values = [np.array(c["together"])[upper]]
        for several in ([np.array(one["at_k"]) for one in c["afresh"]], _others(cells, c)):
            missing = np.full(len(found), np.nan)
            values.append(np.mean([_same(x)[upper] for x in several], 0) if several else missing)
        for kind, key in PAIRS.items():
            inside = (found == key[0]) & (planted == key[1])
            rows[kind] += np.stack(values, 1)[inside].tolist()
    return [
        [family, kind, str(len(values)), *(_rate(_mean(column)) for column in zip(*values, strict=True))]
        for kind, values in rows.items()
        if values
    ]


def _same(labels: np.ndarray) -> np.ndarray:
    return labels[:, None] == labels


def _mean(values: Sequence[float | None]) -> float:
    """Of those that are known; NaN if none is."""
    known = [x for x in values if x is not None and not np.isnan(x)]
    return float(np.mean(known)) if known else float("nan")


def _rate(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.0f}%"
