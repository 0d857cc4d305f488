"""The README's tables of studies (groups and returns), as Markdown made from result files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from pgx_jax.compare.budget import suited
from pgx_jax.compare.results import OURS, SIMILAR, Interval, MethodResult
from pgx_jax.compare.summaries import over_draws
from pgx_jax.config import Config
from pgx_jax.report import budgets
from pgx_jax.report.wording import (
    duration,
    method_label,
    ordered_methods,
    steps,
    with_interval,
)

Cells = Sequence[Mapping]


class Section(NamedTuple):
    """A table of README or docs."""

    title: str
    sources: Mapping[str, str]
    """Names of the result files, without their ending -> the commands that make them."""
    render: Callable[..., str]
    """Contents of the result file -> Markdown; of several, {name: contents or None} -> Markdown."""
    waits: bool = False
    """Left out as long as nothing is measured."""
    figures: tuple[str, ...] | None = None
    """Names of its figures, where others of its sources stand in other sections; all of them by default."""
    sourced: bool = True
    """Whether it says where its numbers come from; other sections of the page do where it doesn't."""


def over_runs(values: Sequence[float]) -> Interval:
    """Mean and its 95% t-interval over runs; no interval for a single run."""
    return over_draws(values) if len(values) > 1 else Interval(float(np.mean(values)))


def methods_of(cell: Mapping) -> dict[str, MethodResult]:
    """The methods of one run."""
    return msgspec.convert(cell["methods"], dict[str, MethodResult])


def means(cells: Cells, name: str) -> np.ndarray:
    """Mean return of a method in every run."""
    return np.array([cell["methods"][name]["mean"] for cell in cells])


def has(cells: Cells, name: str) -> bool:
    """Whether every run has the method."""
    return bool(cells) and all(name in cell["methods"] for cell in cells)


def paired(cells: Cells, name: str) -> Interval:
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
    return f"{plural(len(cells), 'run')}, {plural(len(families), 'family seed')}, " + (
        plural(len(training), "training seed")
    )


def plural(count: int, noun: str) -> str:
    """A count and its noun."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def agreement(cells: Cells) -> tuple[str, str]:
    """Mean NMI and "right in x of y"; dashes where nothing is planted."""
    known = [c["agreement"] for c in cells if c.get("agreement")]
    if not known:
        return "–", "–"
    return f"{np.mean([a['nmi'] for a in known]):.3f}", f"{sum(a['exact'] for a in known)} of {len(known)}"


def found_k(cells: Cells) -> str:
    """The numbers of groups that were found, with their counts where they differ."""
    return counted(c["k"] for c in cells)


def plain_k(cell: Mapping) -> int:
    """The smallest k within two standard errors of the best candidate, whatever little it gains."""
    path = {key: np.array(cell["path"][key], float) for key in ("k", "difference", "stderr")}
    return int(path["k"][path["difference"] <= 2 * path["stderr"]].min())


def counted(numbers: Iterable[int]) -> str:
    """Distinct numbers, with their counts where there are several."""
    values, counts = np.unique(list(numbers), return_counts=True)
    if len(values) == 1:
        return str(values[0])
    return ", ".join(f"{v} (×{n})" for v, n in zip(values, counts, strict=True))


def planted_k(cells: Cells) -> str:
    """The planted number of groups."""
    return str(len(cells[0]["true_groups"])) if cells[0].get("true_groups") else "none"


def best_similarity(cells: Cells) -> list[str]:
    """The gradient similarity (of every kind, at its own k and at ours) that earned most over all runs;
    the first of several, none where there is none."""
    known = ordered_methods(methods_of(cells[0]), every=True)
    names = [name for name in known if name.startswith(SIMILAR) and has(cells, name)]
    return [max(names, key=lambda name: means(cells, name).mean())] if names else []


def goals(data: Mapping) -> str:
    """Every method on cartpole-goals, with intervals over runs."""
    cells, rows = data["cells"], []
    methods = methods_of(cells[0])
    for name in ordered_methods(methods, every=True):
        if not has(cells, name):
            continue
        difference = "" if name == OURS else with_interval(paired(cells, name), signed=True)
        total = steps(np.mean([c["methods"][name]["env_steps"] for c in cells]))
        label = method_label(methods, name, alone=True) + ("" if methods[name].equal_steps else " †")
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
    words = "On unseen tasks, which find their group in a few trial episodes, ours earns {:.1f} and one "
    text.append(unseen_tasks(cells, words + "policy for all {:.1f}."))
    if not all(entry.equal_steps for entry in methods.values()):
        text.append("† another total of environment steps.")
    return text[0] + "\n\n" + " ".join(filter(None, text[1:]))


def families(found: Mapping[str, Mapping | None]) -> str:
    """Several families side by side: name -> result file, or None where it is missing."""
    known = {name: data["cells"] for name, data in found.items() if data and data["cells"]}
    entries = {
        name: entry
        for cells in known.values()
        for name, entry in methods_of(cells[0]).items()
        if not name.startswith(SIMILAR)
    }
    one_of_a_kind = MethodResult(mean=None, metric="return")
    methods = ordered_methods(entries | {SIMILAR: one_of_a_kind})

    def row(label: str, value: Callable[[Cells], str]) -> list[str]:
        return [label, *(value(known[name]) if name in known else "not measured" for name in found)]

    def mean_return(name: str) -> Callable[[Cells], str]:
        return lambda cells: return_of(cells, name)

    body = [
        row("planted k", planted_k),
        row("k found", found_k),
        row("by two standard errors alone §", lambda cells: counted(map(plain_k, cells))),
        row("mean NMI", lambda cells: agreement(cells)[0]),
        row("exactly right", lambda cells: agreement(cells)[1]),
        row("predicted gain over one policy ‡", predicted_gain),
        row("realised gain over one policy", realised_gain),
        row("the same, in percent", realised_percent),
        row("one policy when its training begins", beginning),
        row("mean return of ours", mean_return(OURS)),
        *(row(method_label(entries, name), mean_return(name)) for name in methods if name != OURS),
    ]
    body.append(
        row("on unseen tasks (one policy)", lambda cells: unseen_tasks(cells, "{:.1f} ({:.1f})") or "–")
    )
    body.append(row("CPU time of a run with all of them", cpu_time))
    note = "Methods beside ours: mean return, in parentheses ours minus it, paired; of the gradient "
    note += "similarities (each at its own k and at ours) the one that earned most. "
    note += "‡ Reduction of the surrogate's loss on held-out trajectories, in standardised advantage a step. "
    note += "§ At the last look at the meta-policy, without `grouping.min_share` and the test of a split."
    parts = [table(["", *found], body), note, *(told_by_group(name, cells) for name, cells in known.items())]
    return "\n\n".join(part for part in parts if part)


def told_by_group(name: str, cells: Cells) -> str:
    """On which planted groups one policy that is told its task is better than ours, where it is better
    and the groups have names."""
    told, groups = "multitask_conditioned", cells[0].get("true_groups") or []
    titles = [group_name(group) for group in groups]
    same = all(cell.get("true_groups") == groups for cell in cells)
    if not (all(titles) and titles and same and has(cells, told)) or paired(cells, told).mean >= 0:
        return ""
    differences = [
        np.subtract(*(cell["methods"][method]["per_task"] for method in (told, OURS))) for cell in cells
    ]
    words = []
    for title, group in zip(titles, groups, strict=True):
        index = [cells[0]["task_names"].index(task) for task in group]
        gain = over_runs([d[index].mean() for d in differences])
        words.append(f"{with_interval(gain, signed=True)} on {title}")
    return f"`{name}`: one policy for all that is told its task earns, against ours, {'; '.join(words)}."


def group_name(tasks: Sequence[str]) -> str:
    """The words between underscores that the names of a group's tasks share."""
    words = [task.split("_") for task in tasks]
    return " ".join(word for word in words[0] if all(word in other for other in words))


def beginning(cells: Cells) -> str:
    """Mean return in the first fortieth of the training of one policy for all."""
    return f"{np.mean([c['beginning'] for c in cells]):.1f}" if "beginning" in cells[0] else "–"


def cpu_time(cells: Cells) -> str:
    """Mean CPU time of a run."""
    return duration(np.mean([c["timings"]["cpu_seconds"] for c in cells]))


def unseen_tasks(cells: Cells, words: str) -> str:
    """Mean returns on unseen tasks, of our groups' policies and of one policy for all, put into words."""
    found = [c["test_tasks"] for c in cells if c.get("test_tasks")]
    known = [{"multitask": t.get("multitask")} | t.get("methods", {}) for t in found]
    one = [methods.get("multitask_continued", methods["multitask"]) for methods in known]
    pairs = [(t["mean"], other["mean"]) for t, other in zip(found, one, strict=True) if other]
    return words.format(*np.mean(pairs, axis=0)) if pairs else ""


def return_of(cells: Cells, name: str) -> str:
    """Mean return of a method; for others than ours, with what ours is better by.

    Of gradient similarity the best kind counts, and is named.
    """
    if name == SIMILAR and (best := best_similarity(cells)) != [SIMILAR]:
        kind = f", {best[0].removeprefix(SIMILAR + '_').replace('_', ' ')}" if best else ""
        return return_of(cells, best[0]) + kind if best else "–"
    if not has(cells, name):
        return "–"
    found = over_runs(means(cells, name))
    if name == OURS:
        return with_interval(found)
    return f"{found.mean:.1f} ({with_interval(paired(cells, name), signed=True)})"


def predicted_gain(cells: Cells) -> str:
    """What the estimate promised, before any group was trained."""
    return with_interval(over_runs([c["gain"]["predicted"]["mean"] for c in cells]), signed=True)


def one_policy(cells: Cells) -> str | None:
    """The policy for all that gains are counted against: the one that continues the meta-policy, from scratch
    where runs (of older code) don't have it; None without any."""
    return next((name for name in ("multitask_continued", "multitask") if has(cells, name)), None)


def realised_gain(cells: Cells) -> str:
    """Return of ours minus that of one policy for all at the same total, paired by run."""
    base = one_policy(cells)
    return with_interval(paired(cells, base), signed=True) if base else "–"


def realised_percent(cells: Cells) -> str:
    """The realised gain in percent of one policy's return, where that is clearly above 0."""
    name = one_policy(cells)
    base = over_runs(means(cells, name)) if name else None
    if name is None or base is None or base.mean <= 0 or (base.lo or 0) < 0:
        return "–"
    return f"{paired(cells, name).mean / base.mean:+.1%}"


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
        [
            changes(cells[0]["command"]),
            *agreement(cells),
            found_k(cells),
            steps(cells[0]["diagnostics"]["scoring_steps"]),
        ]
        for cells in groups.values()
    ]
    return table(["option", "mean NMI", "exactly right", "k found", "steps for scoring"], rows)


def looks(data: Mapping) -> str:
    """Mean return of ours (and its NMI with the planted groups) by how often is looked."""
    groups: dict[tuple[str, int], dict[str, list]] = {}
    for c in data["cells"]:
        key = c["cell"]["family"], c["cell"]["config"]["steps_per_task"]
        groups.setdefault(key, {}).setdefault(c["cell"]["label"], []).append(c)
    labels = dict.fromkeys(label for some in groups.values() for label in some)
    rows = [
        [label]
        + [
            f"{means(some[label], OURS).mean():.1f} ({agreement(some[label])[0]})" if label in some else "–"
            for some in groups.values()
        ]
        for label in labels
    ]
    return table(["looks", *(f"{family}, {steps(size)}" for family, size in groups)], rows)


def changes(command: str) -> str:
    """What a command changes of the default run."""
    changed = command.partition("--compare none")[2].strip()
    return f"`{changed}`" if changed else "the defaults"


def by_budget(data: Mapping) -> str:
    """Every method by steps a task: the advice, and means with intervals over runs."""
    points = budget_points(data)
    return f"{budgets.advice(points)}\n\n{table(*budgets.cells(points))}"


def budget_points(data: Mapping) -> list[budgets.Point]:
    """The runs of a study of budgets; of seeds alone that have all budgets."""
    cells = data["cells"]
    size = [c["cell"]["config"]["steps_per_task"] for c in cells]
    seed = [(c["cell"]["settings"]["seed"], c["cell"]["seed"]) for c in cells]
    whole = {s for s in seed if seed.count(s) == len(set(size))}
    return [
        budgets.Point(steps, s[1], c["k"], (c.get("agreement") or {}).get("nmi"), methods_of(c))
        for c, steps, s in zip(cells, size, seed, strict=True)
        if s in whole
    ]


def search(data: Mapping) -> str:
    """Returns by number of environments and by entropy bonus, for every kind of policy and budget."""
    found: dict[tuple, dict[tuple, list[float]]] = {}
    for c in data["cells"]:
        where = c["cell"]
        for kind, by_entropy in c["returns"].items():
            row = found.setdefault((where["family"], kind, where["steps_per_task"]), {})
            for entropy, value in by_entropy.items():
                row.setdefault((where["num_envs"], float(entropy)), []).append(value)
    widths = sorted({width for row in found.values() for width, _ in row}, reverse=True)
    bonuses = sorted({bonus for row in found.values() for _, bonus in row})
    own, body = Config().ppo, []
    for (family, kind, size), row in sorted(found.items(), key=lambda item: item[0]):
        tasks = {"one a task": 1, "planted groups": 10 / 3}.get(kind, 10)
        chosen = suited(own, int(np.ceil(tasks)), tasks * size, Config().min_updates).num_envs
        by_width = [_shown(row.get((width, own.entropy)), width == chosen) for width in widths]
        taken = Config().group_entropy if kind == "planted groups" else own.entropy
        by_bonus = [_shown(row.get((chosen, bonus)), bonus == taken) for bonus in bonuses]
        body.append([f"{family}, {kind}, {steps(size)}", *by_width, *by_bonus])
    head = [
        "family, policies, steps a task",
        *(f"{width} environment{'s' if width > 1 else ''}" for width in widths),
        *(f"entropy {bonus:g}" for bonus in bonuses),
    ]
    facts = (
        f"Ten tasks; mean returns over family seeds that no other table uses (100 and 101; of some cells 100 "
        f"alone), by environments with an entropy bonus of {own.entropy:g}, and by entropy bonus with the "
        f"environments that the rule takes (`Config.min_updates`). Bold: what the defaults take."
    )
    return table(head, body) + "\n\n" + facts


def _shown(values: Sequence[float] | None, chosen: bool) -> str:
    if not values:
        return "–"
    return f"**{np.mean(values):.1f}**" if chosen else f"{np.mean(values):.1f}"
