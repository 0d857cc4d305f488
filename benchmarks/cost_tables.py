"""The README's tables of learning, time and operations, as Markdown made from result files alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tables import plural, table

from pgx_jax.learn.device import ROWS_PER_CALL
from pgx_jax.report.wording import duration, steps


def ppo(data: Mapping) -> str:
    """Scores of PPO on stock environments."""
    rows = []
    for c in data["cells"]:
        scores = c["scores"]["sampled"]
        changed = {**c["cell"]["policy"], **c["cell"]["ppo"]}
        settings = ", ".join(f"`{k}={v}`" for k, v in sorted(changed.items())) or "defaults"
        solved = f"{sum(c['solved'])} of {len(scores)}"
        listed = ", ".join(f"{s:.1f}" for s in scores)
        rows.append(
            [c["cell"]["env"], f"{c['solved_at']:.0f}", listed, solved, steps(c["env_steps"][0]), settings]
        )
    head = ["environment", "solved at", "mean of 100 episodes, by seed", "solved", "steps a seed", "settings"]
    return table(head, rows)


def estimation(data: Mapping) -> str:
    """Estimating all triples against fine-tuning them."""
    from estimation import ratios

    cells = data["cells"]
    found = ratios(cells)
    first = next(c for c in cells if c["cell"]["part"] == "estimate")
    if found is None:
        return "_Fine-tuning has not finished._"
    own, times = first["operations"], first["timings"]
    count, updates = first["subsets"], data["settings"]["updates"]
    rows = [
        ["estimation, features included", duration(times["with_features"]), f"{own['total']:.2e}"],
        ["estimation, features excluded", duration(times["without_features"]),
         f"{own['total'] - own['features']:.2e}"],
        ["features to select the groups by", duration(times["median"]["features_to_select"]),
         f"{own['features_to_select']:.2e}"],
        [f"fine-tuning, {updates} updates each", duration(found["timings"]["fine_tune_seconds"]),
         f"{found['fine_tune_operations']:.2e}"],
    ]  # fmt: skip
    facts = (
        f"Fine-tuning takes {found['operations']:.0f} times the operations and "
        f"{found['timings']['time']:.0f} times the time of estimation with its features "
        f"({found['operations_without_features']:.0f} and {found['timings']['time_without_features']:.0f} "
        f"times without; {found['operations_with_selection']:.0f} and "
        f"{found['timings']['time_with_selection']:.0f} times with the features and the selection of the "
        f"groups added). p = {first['parameters']:,}, d = {first['dim']}, "
        f"{first['transitions']:,} transitions; warm, operations counted from the traced programs."
    )
    return (
        table([f"all {count} subsets of {first['subset_size']}", "time", "operations"], rows) + "\n\n" + facts
    )


def surrogates(data: Mapping) -> str:
    """All surrogates in one call against scikit-learn's loop over them."""
    rows = []
    for c in data["cells"]:
        theirs, times = c["sklearn"], c["timings"]
        each = (duration(np.median(times["ours"])), f"{c['gap']:.1e}")
        other = (duration(np.median(times["sklearn"])), f"{theirs['gap']:.1e}")
        solver = f"{theirs['solver']}, {theirs['dtype']}"
        rows.append([f"{c['cell']['l2']:g} u", *each, *other, solver, f"{times['speedup']:.1f}×"])
    first = data["cells"][0]
    head = ["ridge", "one call", "gap", "scikit-learn", "gap", "its fastest solver", "speed-up"]
    facts = (
        f"m = {first['subsets']} surrogates, N = {first['rows']:,} transitions, d = {first['dim']}. "
        f"Gap: the largest (L − L*) / (L(0) − L*)."
    )
    return table(head, rows) + "\n\n" + facts


def features(data: Mapping) -> str:
    """Throughput and memory of the gradient features."""
    rows = []
    for c in data["cells"]:
        t = c["timings"]
        size = (f"{c['p']:,}", c["cell"]["dim"], f"{c['cell']['transitions']:,}")
        speed = (f"{t['transitions_per_second']:,.0f}", f"{t['rate'] / 1e9:.0f}", f"{t['share']:.0%}")
        rows.append([*size, *speed, f"{t['peak_memory'] / 2**30:.2f} GiB"])
    head = ["p", "d", "N", "transitions/s", "GFLOP/s (2 N p d)", "of this machine's sgemm", "peak memory"]
    return table(head, rows)


def default_command(data: Mapping) -> str:
    """Time of the default command."""
    cells = data["cells"]
    rows = [
        [c["cell"]["repeat"] + 1, duration(c["timings"]["wall"]), duration(c["timings"]["cpu"])]
        for c in cells
    ]
    same = len({c["results"] for c in cells}) == 1
    words = "are equal apart from `timings`" if same else "DIFFER"
    note = f"\n\nThe results.json of the {len(cells)} processes {words}." if len(cells) > 1 else ""
    return table(["process", "wall time", "CPU time"], rows) + note


def rows(data: Mapping) -> str:
    """Steps a second by lanes and rows of one program, and the time of the whole default command."""
    cells = [c for c in data["cells"] if "lanes" in c["cell"]]
    widths = sorted({c["cell"]["rows_per_call"] for c in cells})
    kinds = sorted({(c["cell"]["platform"], c["cell"]["lanes"]) for c in cells})
    keys = [(c["cell"]["platform"], c["cell"]["lanes"], c["cell"]["rows_per_call"]) for c in cells]
    rate = {key: c["timings"]["steps_per_second"] for key, c in zip(keys, cells, strict=True)}
    body = [
        [f"{platform}, {plural(lanes, 'lane')}"]
        + [f"{rate[platform, lanes, w]:,.0f}" if (platform, lanes, w) in rate else "–" for w in widths]
        for platform, lanes in kinds
    ]
    whole = {}
    for c in data["cells"]:
        if "lanes" not in c["cell"]:
            key = c["cell"]["platform"], c["cell"]["rows_per_call"]
            whole.setdefault(key, []).append(c["timings"]["wall"])
    for platform in sorted({platform for platform, _ in whole}):
        walls = [f"{np.median(whole[platform, w]):.0f} s" if (platform, w) in whole else "–" for w in widths]
        body.append([f"{platform}, the whole default command, cold", *walls])
    shown = table(["steps/s by rows of one program", *map(str, widths)], body)
    missing = [name for name in ("gpu", "tpu") if name not in {platform for platform, _ in kinds}]
    guesses = " and ".join(f"{ROWS_PER_CALL[name]} on a {name.upper()}" for name in missing)
    return f"{shown}\n\nThe default is {ROWS_PER_CALL['cpu']} on the CPU" + (
        f"; {guesses} are guesses: not measured." if missing else "."
    )
