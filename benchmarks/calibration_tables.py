"""The README's table of what the choice of the partition promises, and keeps, in simulations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tables import Cells, plural, table

WANTED = {
    "same": "the same",
    "conflict": "in clusters, opposite things",
    "orthogonal": "something else each",
    "scale": "the same, on other scales",
}
"""What the simulated tasks want, by the kind of their world."""


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
    size = data["settings"]
    facts = (
        f"Simulated data of known truth (d = {size['dim']}, {size['trajectories']} trajectories of about "
        f"{size['length']} transitions a task). Signal: deviation of the part of the advantages that the "
        "tasks agree or disagree on, in units of their noise (0.1 where not given). Split: by the test of "
        "noise and of what there is to gain together, at one look, or at any of three that share the level. "
        "Covered: how often the 95% interval of the predicted gain holds the true gain of the splits as they "
        "were fitted, or "
        "fitted afresh on other draws. Ridge: of the sum of a group's losses, or of their mean (the default "
        "where nothing stands: sum). Older rule: the smallest k within two standard errors of the best."
    )
    return table(head, body) + "\n\n" + facts


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
