"""The README's tables of how PPO learns, as Markdown made from result files alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats
from tables import over_runs, plural, table

from pgx_jax.compare.results import Interval
from pgx_jax.report.wording import steps, with_interval


def ppo_options(data: Mapping) -> str:
    """What every option does, and its mean return on every family beside the default's."""
    from ppo_options import OPTIONS

    found: dict[str, dict[str, np.ndarray]] = {}
    for c in data["cells"]:
        family, option = c["cell"]["family"], c["cell"]["option"]
        known = found.setdefault(family, {}).get(option, np.zeros(0))
        found[family][option] = np.append(known, np.mean(c["returns"], 1))

    def gain(family: str, name: str) -> Interval | None:
        own, other = (found[family].get(option) for option in (name, OPTIONS[name].against))
        return None if own is None or other is None else over_runs(own - other)

    def value(family: str, name: str) -> str:
        if (more := gain(family, name)) is None:
            return "–"
        if name == OPTIONS[name].against:
            return with_interval(over_runs(found[family][name]))
        return f"{found[family][name].mean():.1f} ({with_interval(more, signed=True)})"

    body = [
        [name, option.does, *(value(family, name) for family in found)] for name, option in OPTIONS.items()
    ]
    gains = {name: list(filter(None, (gain(family, name) for family in found))) for name in OPTIONS}
    better = [name for name, each in gains.items() if each and all(more.above_zero for more in each)]
    first = {c["cell"]["family"]: c for c in reversed(data["cells"])}
    sizes = [
        f"{family} {steps(first[family]['cell']['steps_per_task'])} steps a task and "
        f"{plural(len(of_family['default']), 'pair')} of equal seeds"
        for family, of_family in found.items()
    ]
    facts = (
        "Mean return over all tasks, and in brackets the difference from the default (of frozen moments: "
        f"from those that are not) with its 95% interval, paired by seed (training seeds of one family seed "
        f"count as pairs of their own: the intervals leave out other families): {'; '.join(sizes)}. "
        f"Better with the whole interval wherever it was tried: {', '.join(better) or 'none'}."
    )
    return table(["option", "", *found], body) + "\n\n" + facts


def curves(data: Mapping) -> str:
    """The end of ours and of the peer's learning curves, and what ours has more along the way."""
    from curves import CUT, OURS, PEER

    body, notes = [], []
    for env, pair in by_environment(data).items():
        if len(pair) < 2:
            continue
        ours, peer = (np.array(pair[name]["returns"]) for name in (OURS, PEER))
        ends = [with_interval(over_runs(x[:, -1])) for x in (ours, peer)]
        more = [
            with_interval(difference(f(ours), f(peer)), signed=True)
            for f in (lambda x: x[:, -1], lambda x: x.mean(1))
        ]
        cell = pair[OURS]["cell"]
        body.append([env, steps(cell["steps"]), len(ours), *ends, *more])
        changed = {**cell["policy"], **cell["ppo"]}
        notes.append(f"{env} {', '.join(f'`{k}={v}`' for k, v in sorted(changed.items())) or 'defaults'}")
    head = ["environment", "steps", "seeds", "ours, end", "peer, end", "difference at the end"]
    versions = next((c["versions"] for c in data["cells"] if "versions" in c), {})
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    facts = (
        f"Returns of episodes by drawn actions, after equal steps; 95% intervals over seeds, of differences "
        f"Welch's. The peer is {PEER} ({told}) with its authors' settings for each environment, which stand "
        f"in the result file (those of halfcheetah for more steps and other physics); ours were chosen for "
        f"each environment on other seeds: {'; '.join(notes)}. {CUT}"
    )
    return table([*head, "difference, mean of the curve"], body) + "\n\n" + facts


def by_environment(data: Mapping) -> dict[str, dict[str, Mapping]]:
    """The cells of each environment by library."""
    found: dict[str, dict[str, Mapping]] = {}
    for c in data["cells"]:
        found.setdefault(c["cell"]["env"], {})[c["cell"]["library"]] = c
    return found


def difference(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Of two means over other runs, with Welch's 95% interval (runs that are all alike are no trouble)."""
    mean = float(np.mean(ours) - np.mean(theirs))
    each = [(np.var(x, ddof=1) / len(x), len(x) - 1) for x in (ours, theirs)]
    if (squared := sum(v for v, _ in each)) == 0:
        return Interval(mean, (mean, mean))
    freedom = squared**2 / sum(v**2 / count for v, count in each)
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(squared))
    return Interval(mean, (mean - half, mean + half))
