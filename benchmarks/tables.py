"""The README's result tables, as Markdown made from result files alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from pgx_jax.wording import OURS, Estimate, duration, method_label, ordered_methods, steps, with_interval

Cells = Sequence[Mapping]


class Section(NamedTuple):
    """A table of the README."""

    title: str
    sources: Mapping[str, str]
    """Names of the result files, without their ending -> the commands that make them."""
    render: Callable[..., str]
    """Contents of the result file -> Markdown; of several, {name: contents or None} -> Markdown."""


def over_runs(values: Sequence[float]) -> Estimate:
    """Mean and its 95% t-interval over runs; no interval for a single run."""
    values = np.asarray(values, float)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def means(cells: Cells, name: str) -> np.ndarray:
    """Mean return of a method in every run."""
    return np.array([cell["methods"][name]["mean"] for cell in cells])


def has(cells: Cells, name: str) -> bool:
    """Whether every run has the method."""
    return bool(cells) and all(name in cell["methods"] for cell in cells)


def paired(cells: Cells, name: str) -> Estimate:
    """Ours minus another method, paired by run."""
    return over_runs(means(cells, OURS) - means(cells, name))


def table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table, first column to the left."""
    rule = "|".join([" --- "] + [" ---: "] * (len(header) - 1))
    lines = ["| " + " | ".join(header) + " |", f"|{rule}|"]
    return "\n".join(lines + ["| " + " | ".join(str(x) for x in row) + " |" for row in rows])


def seeds(cells: Cells) -> str:
    """How many runs over which seeds, in words."""
    families = {c["cell"]["settings"].get("seed", 0) for c in cells}
    training = {c["cell"]["seed"] for c in cells}
    return f"{_plural(len(cells), 'run')}, {_plural(len(families), 'family seed')}, " + (
        _plural(len(training), "training seed")
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def agreement(cells: Cells) -> tuple[str, str]:
    """Mean NMI and "right in x of y"; dashes where nothing is planted."""
    known = [c["agreement"] for c in cells if c.get("agreement")]
    if not known:
        return "–", "–"
    return f"{np.mean([a['nmi'] for a in known]):.3f}", f"{sum(a['exact'] for a in known)} of {len(known)}"


def found_k(cells: Cells) -> str:
    """The numbers of groups that were found, with their counts where they differ."""
    values, counts = np.unique([c["k"] for c in cells], return_counts=True)
    if len(values) == 1:
        return str(values[0])
    return ", ".join(f"{v} (×{n})" for v, n in zip(values, counts, strict=True))


def planted_k(cells: Cells) -> str:
    """The planted number of groups."""
    return str(len(cells[0]["true_groups"])) if cells[0].get("true_groups") else "none"


def goals(data: Mapping) -> str:
    """Every method on cartpole-goals, with intervals over runs."""
    cells, rows = data["cells"], []
    for name in ordered_methods(cells[0]):
        if not has(cells, name):
            continue
        entry = cells[0]["methods"][name]
        difference = "" if name == OURS else with_interval(paired(cells, name), signed=True)
        total = steps(np.mean([c["methods"][name]["env_steps"] for c in cells]))
        label = method_label(cells[0], name) + ("" if entry["equal_steps"] else " †")
        rows.append([label, with_interval(over_runs(means(cells, name))), difference, total])
    nmi, exact = agreement(cells)
    text = [
        table(["method", "mean return", "ours minus it, paired", "environment steps"], rows),
        f"Groups: mean NMI with the planted ones {nmi}, exactly right in {exact} runs.",
    ]
    for name, words in (
        ("true_groups", "at the same total"), ("true_groups_continued", "at the same steps a policy")
    ):  # fmt: skip
        if has(cells, name):
            share = means(cells, OURS).mean() / means(cells, name).mean()
            text.append(f"Ours reaches {share:.1%} of the true groups' mean return {words}.")
    if any(not m["equal_steps"] for m in cells[0]["methods"].values()):
        text.append("† another total of environment steps.")
    return text[0] + "\n\n" + " ".join(text[1:])


def families(found: Mapping[str, Mapping | None]) -> str:
    """Several families side by side: name -> result file, or None where it is missing."""
    known = {name: data["cells"] for name, data in found.items() if data and data["cells"]}
    methods = dict.fromkeys(m for cells in known.values() for m in ordered_methods(cells[0]))
    methods = ordered_methods({"methods": methods})

    def row(label: str, value: Callable[[Cells], str]) -> list[str]:
        return [label, *(value(known[name]) if name in known else "not measured" for name in found)]

    def mean_return(name: str) -> Callable[[Cells], str]:
        return lambda cells: return_of(cells, name)

    some = next(iter(known.values()), [{}])[0]
    body = [
        row("planted k", planted_k),
        row("k found", found_k),
        row("mean NMI", lambda cells: agreement(cells)[0]),
        row("exactly right", lambda cells: agreement(cells)[1]),
        row("predicted gain over one policy ‡", predicted_gain),
        row("realised gain over one policy", realised_gain),
        row("the same, in percent", realised_percent),
        row("mean return of ours", mean_return(OURS)),
        *(row(method_label(some, name), mean_return(name)) for name in methods if name != OURS),
    ]
    note = "Methods beside ours: mean return, in parentheses ours minus it, paired. "
    note += "‡ Reduction of the surrogate's loss on held-out trajectories, in standardised advantage a step."
    return table(["", *found], body) + "\n\n" + note


def return_of(cells: Cells, name: str) -> str:
    """Mean return of a method; for others than ours, with what ours is better by."""
    if not has(cells, name):
        return "–"
    found = over_runs(means(cells, name))
    if name == OURS:
        return with_interval(found)
    return f"{found.mean:.1f} ({with_interval(paired(cells, name), signed=True)})"


def predicted_gain(cells: Cells) -> str:
    """What the estimate promised, before any group was trained."""
    return with_interval(over_runs([c["gain"]["predicted"]["mean"] for c in cells]), signed=True)


def realised_gain(cells: Cells) -> str:
    """Return of ours minus that of one policy for all at the same total, paired by run."""
    return with_interval(paired(cells, "multitask"), signed=True) if has(cells, "multitask") else "–"


def realised_percent(cells: Cells) -> str:
    """The realised gain in percent of one policy's return, where that is clearly above 0."""
    base = over_runs(means(cells, "multitask")) if has(cells, "multitask") else None
    if base is None or base.mean <= 0 or (base.lo or 0) < 0:
        return "–"
    return f"{paired(cells, 'multitask').mean / base.mean:+.1%}"


def sizes(data: Mapping) -> str:
    """Recovery over numbers of tasks and groups, or over scales of rewards."""
    groups: dict[tuple, list] = {}
    for c in data["cells"]:
        settings = {k: v for k, v in c["cell"]["settings"].items() if k != "seed"}
        scaled = settings.get("reward_scales")
        key = (c["cell"]["family"], len(c["task_names"]), planted_k([c]), tuple(scaled or ()))
        groups.setdefault(key, []).append(c)
    rows = []
    for (name, n, k, scaled), cells in groups.items():
        factors = ", ".join(f"{s:g}" for s in scaled) if scaled else "1"
        rows.append([name, n, k, factors, found_k(cells), *agreement(cells)])
    head = ["family", "n", "planted k", "rewards times", "k found", "mean NMI", "exactly right"]
    return table(head, rows)


def options(data: Mapping) -> str:
    """Recovery with every option of score, lift, solver and affinity."""
    groups: dict[str, list] = {}
    for c in data["cells"]:
        groups.setdefault(c["cell"]["label"], []).append(c)
    rows = [
        [f"`{label}`", *agreement(cells), found_k(cells), steps(cells[0]["diagnostics"]["scoring_steps"])]
        for label, cells in groups.items()
    ]
    return table(["option", "mean NMI", "exactly right", "k found", "steps for scoring"], rows)


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
        [f"{platform}, {_plural(lanes, 'lane')}"]
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
    return table(["steps/s by rows of one program", *map(str, widths)], body)
