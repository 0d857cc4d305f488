"""The tables of the paper beside ours: the page docs/paper.md, made from result files alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import ablation_tables
import approximation_tables
import cost_tables
import generalisation_tables
import main_parts
import meta_tables
import numpy as np
import tables
import truth_tables
from metaworld_drawings import by_part
from tables import over_runs, plural, table

from pgx_jax.compare.results import OURS, SIMILAR
from pgx_jax.report.analyses import percent
from pgx_jax.report.wording import steps, with_interval

PUBLISHED = {
    "Multi-task training": (71.3, 145.9, 140.0, 53.8),
    "Soft Modularization": (82.0, 139.3, 141.3, 66.1),
    "PaCo": (73.1, 144.5, 136.6, 62.6),
    "CARE": (84.0, None, None, None),
    "Random grouping": (58.2, 144.1, 143.4, 73.1),
    "Gradient-similarity grouping": (69.6, 142.0, 135.6, 80.8),
    "PolicyGradEx": (94.0, 159.2, 153.5, 82.8),
}
"""The paper's main table, by the columns of `COLUMNS` (arXiv 2511.12779)."""
BASE, METHOD = "Multi-task training", "PolicyGradEx"
IN_GROUPS = f"{METHOD}, MAML in its groups"
"""The paper's own way of training groups for meta-RL."""
ADAPTING = 200
"""Its steps of adaptation."""


class Measured(NamedTuple):
    """Ours beside a column of the paper."""

    title: str
    scores: Mapping[str, np.ndarray]
    """Method, by the paper's name -> mean of every unit (a family seed, or a run): float [units]."""

    def shown(self, name: str) -> str:
        """A method's mean, and what it earns more than one policy for all, in per cent."""
        if name not in self.scores:
            return "–"
        mean = with_interval(over_runs(self.scores[name].tolist()))
        return mean if name == BASE else f"{mean}, {_percent(self.scores[name], self.scores[BASE])}"


def _percent(own: np.ndarray, base: np.ndarray) -> str:
    """Paired differences, in per cent of the base's mean."""
    if base.mean() <= 0:
        return "–"
    ahead = 100 * (own - base) / base.mean()
    return with_interval(over_runs(ahead.tolist()), signed=True) + " %"


def of_meta(data: Mapping, family: str) -> list[Measured]:
    """Unseen tasks of a family after the paper's number of adaptation steps."""
    names = {
        BASE: ["multitask"],
        "Random grouping": ["random"],
        "Gradient-similarity grouping": [x for x in meta_tables.LABELS if x.startswith(SIMILAR)],
        METHOD: [OURS],
        IN_GROUPS: [f"{OURS}_base_group_maml"],
    }
    found = []
    for part in (part for part in meta_tables.parts(data) if part.family == family):
        best = {label: meta_tables.best(part, own, ADAPTING) for label, own in names.items()}
        scores = {
            label: np.nanmean(part.returns(name, ADAPTING), axis=1)
            for label, name in best.items()
            if name is not None
        }
        title = f"{family}: unseen tasks after {ADAPTING} steps ({plural(len(part.cells), 'family seed')})"
        found.append(Measured(title, scores))
    return found


def of_main(data: Mapping, family: str) -> list[Measured]:
    """The family's tasks, told to the policy, at every budget of the main table."""
    found = []
    for part in main_parts.parts(data):
        if (part.family, part.block) != (family, "told"):
            continue
        by_label = {label.partition(" (")[0]: name for name, label in part.names().items()}
        ours = {
            BASE: "One policy for all",
            "Random grouping": "Random groups of our sizes",
            "Gradient-similarity grouping": "Gradient similarity at its best",
            METHOD: "PolicyGradEx",
        } | {name: name for name in ("Soft Modularization", "PaCo", "CARE")}
        scores = {
            name: part.scores(by_label[label])[0].mean(1)
            for name, label in ours.items()
            if label in by_label and part.whole(by_label[label])
        }
        units = len({run.family_seed for run in part.runs})
        title = f"{family}, told its task, {steps(part.budget)} steps a task ({plural(units, 'family seed')})"
        found.append(Measured(title, scores))
    return found


def of_study(data: Mapping, family: str) -> list[Measured]:
    """The family's tasks, hidden from the policy, in its own study."""
    title = f"{family}, not told its task ({tables.seeds(data['cells'])})"
    return [Measured(title, _scores(data["cells"]))]


def of_mt10(data: Mapping, family: str) -> list[Measured]:
    """Success in any step, in per cent, of the runs with groups."""
    found: dict[int, list[Mapping]] = {}
    for cell in by_part(data)["groups"]:
        found.setdefault(cell["cell"]["steps_per_task"], []).append(cell["results"])
    return [
        Measured(f"{family}, {steps(budget)} steps a task ({plural(len(cells), 'run')})", _scores(cells, 100))
        for budget, cells in found.items()
    ]


def _scores(cells: Sequence[Mapping], factor: float = 1.0) -> dict[str, np.ndarray]:
    """Means of the methods that all runs have, by the paper's names: float [runs]."""
    names = {BASE: "multitask", "Random grouping": "random", METHOD: OURS}
    if similar := tables.best_similarity(cells):
        names["Gradient-similarity grouping"] = similar[0]
    return {
        label: factor * tables.means(cells, name) for label, name in names.items() if tables.has(cells, name)
    }


class Column(NamedTuple):
    """A column of the paper's main table, and what we have beside it."""

    title: str
    beside: Sequence[tuple[str, str, Callable[[Mapping, str], list[Measured]]]]
    """(result file, family, what is read of it)"""
    why: str
    """Why they differ."""


COLUMNS = (
    Column(
        "Meta-World MT10 (success, %)",
        [("mt10", "metaworld-mt10", of_mt10)],
        "The paper trains with 20 million steps and Soft Modularization; groups were trained here with the "
        "steps that stand above, by a perceptron, where little has been learnt that could be divided. What "
        "one policy for all comes to with more: [MT10](metaworld.md).",
    ),
    Column(
        "CartPole (return)",
        [
            ("meta_rl", "cartpole-goals", of_meta),
            ("meta_rl", "cartpole-physics", of_meta),
            ("main_table", "cartpole-goals", of_main),
            ("main_table", "cartpole-physics", of_main),
        ],
        "Returns are of other tasks: compare what is gained over one policy for all. Our goals are in "
        "conflict by construction, which one policy that is not told its goal cannot resolve, and one that "
        "is told can; of poles with other physics one policy can learn all.",
    ),
    Column(
        "Highway (return)",
        [
            ("study_highway_objectives", "highway-objectives", of_study),
            ("study_highway_traffic", "highway-traffic", of_study),
        ],
        "Our road is a JAX environment of our own, tasks are weightings of its rewards, or other traffic; "
        "policies are judged on the tasks that they were trained on, and not after adaptation.",
    ),
    Column(
        "LunarLander (return)",
        [("study_lunarlander", "lunarlander", of_study)],
        "Policies are judged on the tasks that they were trained on, and not after adaptation.",
    ),
)


def _published(value: float | None, base: float) -> str:
    """A number of the paper, and what it is more than multi-task training, in per cent."""
    if value is None:
        return "–"
    return f"{value:.1f}" if value == base else f"{value:.1f}, {100 * (value / base - 1):+.1f} %"


def returns(found: Mapping[str, Mapping]) -> str:
    """Every column of the paper's main table with ours beside it."""
    pieces = []
    for place, column in enumerate(COLUMNS):
        beside = [x for name, family, of in column.beside if name in found for x in of(found[name], family)]
        beside = [x for x in beside if BASE in x.scores]
        head = [column.title, "the paper", *(x.title for x in beside)]
        rows = []
        for name in [*PUBLISHED, IN_GROUPS]:
            theirs = PUBLISHED.get(name, (None,) * len(COLUMNS))[place]
            if theirs is None and not any(name in x.scores for x in beside):
                continue
            rows.append([name, _published(theirs, PUBLISHED[BASE][place]), *(x.shown(name) for x in beside)])
        adapted = any(name == "meta_rl" for name, *_ in column.beside) and "meta_rl" in found
        old = meta_tables.earlier(meta_tables.parts(found["meta_rl"])) if adapted else ""
        pieces += filter(None, [table(head, rows), column.why, old])
    return "\n\n".join(pieces)


def first_order(data: Mapping) -> str:
    """Errors at the paper's distances."""
    found = approximation_tables.by_network(data)
    distances = approximation_tables.SHOWN[: len(next(iter(approximation_tables.PUBLISHED.values())))]
    rows = [
        [f"the paper: {name}", *["–"] * len(distances), *map(percent, values)]
        for name, values in approximation_tables.PUBLISHED.items()
    ]
    for (family, layers), records in found.items():
        errors = [
            error
            for measure in approximation_tables.MEASURES
            for error in approximation_tables.shown_errors(records, measure, distances)
        ]
        rows.append([f"{family}, {layers} hidden layers", *errors])
    head = [f"{name}, {percent(x)}" for name in approximation_tables.MEASURES.values() for x in distances]
    return (
        table(["relative distance from θ*", *head], rows)
        + "\n\nOurs are along fine-tuning directions, in brackets the least and the largest of single ones. "
        f"{approximation_tables.as_published(found)} Along the directions of the surrogates, which the "
        f"estimate itself takes, the ratio is {approximation_tables.along_surrogates(found)} off at 1%; "
        "that, other directions, and larger distances: [all measures](results_estimate.md#first-order)."
    )


def agreement(data: Mapping) -> str:
    """Groups from estimates and from full training."""
    return (
        f"{truth_tables.groups(truth_tables.by_family(data))}\n\nThe paper: {truth_tables.PUBLISHED}. How "
        "this was measured, and why it is where it is: "
        "[Estimated against true](results_estimate.md#estimated-against-true)."
    )


def speed_up(data: Mapping) -> str:
    """The estimate's costs and those of training, by depth."""
    return (
        f"{cost_tables.speed_ups(data)}\n\nThe paper does not say what is counted; how ours are measured: "
        "[Cost of the estimate](results_estimate.md#cost-of-the-estimate)."
    )


def generalisation(data: Mapping) -> str:
    """Gaps and bounds, in a sentence."""
    found = generalisation_tables.by_network(data)
    gaps, promised, vacuous, noise = (
        np.array([getattr(x, name) for m in found.values() for several in m.policies for x in several])
        for name in ("gap", "promised", "vacuous", "noise")
    )
    return (
        "The paper reports a PAC-Bayes bound by the trace of the Hessian that is not vacuous and of the size "
        f"of the generalisation error that is observed. Ours is not vacuous for {np.sum(~vacuous)} of "
        f"{len(vacuous)} policies, but far above what is observed: in the median it allows a gap of "
        f"{np.median(promised):.2f}, and {np.median(gaps):.3f} is measured. It counts every trajectory, not "
        "every transition, as one observation, and pays for the choice of groups and of its noise, which is "
        f"{np.median(noise):.0%} as long as θ* in the median{generalisation_tables.speaks_of(noise)} "
        "([by depth and groups](results_estimate.md#generalisation))."
    )


PUBLISHED_K = {"1": 71.0, "2": 89.5, "3": 94.0, "4": 95.1}
"""Success on MT10, in per cent, by the number of groups; the paper takes 3 (arXiv 2511.12779)."""


def numbers_of_groups(data: Mapping) -> str:
    """What every number of groups earns, and what the projected dimension does."""
    runs = ablation_tables.runs_of(data, "k")
    values = list(dict.fromkeys(value for r in runs.values() for value in r.values))
    numbers = sorted({*PUBLISHED_K, *(x for x in values if x.isdigit())}, key=int)
    rows = [
        [value if value.isdigit() else f"{value} by the method"]
        + [f"{PUBLISHED_K[value]:.1f}" if value in PUBLISHED_K else "–"]
        + [
            with_interval(over_runs(r.measured(value, "return").tolist())) if value in r.values else "–"
            for r in runs.values()
        ]
        for value in [*numbers, *(x for x in values if not x.isdigit())]
    ]
    head = [f"{name} (return, {plural(len(r.truths), 'family seed')})" for name, r in runs.items()]
    pieces = [table(["k", "the paper: Meta-World MT10 (success, %)", *head], rows)]
    pieces.append(
        "All at the same total of environment steps. As in the paper, the first few groups gain most where "
        "tasks conflict; with more the return goes on growing, or stays. Where tasks don't conflict, one "
        "policy is enough. [More of it](results_ablations.md#number-of-groups-k)."
    )
    if dims := ablation_tables.runs_of(data, "dim"):
        tried = [value for r in dims.values() for value in r.values]
        pieces.append(
            f"Projected dimension: the paper tried 200 to 1000, and takes 400, beyond which it gains hardly "
            f"anything. We tried {min(tried, key=int)} to {max(tried, key=int)}. "
            f"{ablation_tables.comparison(dims, 'dim')} "
            "[By family](results_ablations.md#projected-dimension-d)."
        )
    return "\n\n".join(pieces)


SECTIONS: dict[str, tuple[str, Callable[..., str]]] = {
    "First-order approximation": ("approximation", first_order),
    "Number of groups and projected dimension": ("ablations", numbers_of_groups),
    "Agreement with full training": ("truth", agreement),
    "Speed-up over full training": ("estimation", speed_up),
    "Generalisation": ("generalisation", generalisation),
}
"""Of the page, behind the returns: the result file, and what is told of it."""
SOURCES = (
    *dict.fromkeys(name for column in COLUMNS for name, *_ in column.beside),
    *(name for name, _ in SECTIONS.values()),
)
"""Result files of the page."""


def whole(found: Mapping[str, Mapping]) -> str:
    """The page, of those result files that there are."""
    pieces = [
        "# The paper's tables beside ours",
        "Generated by `python benchmarks/figures.py` from the files in `benchmarks/results/`; the paper is "
        "[arXiv 2511.12779](https://arxiv.org/abs/2511.12779). Brackets are 95% t-intervals over family "
        "seeds (over runs, where a family has one seed); the paper reports none. In per cent: what is earned "
        "more than by multi-task training or, in ours, one policy for all, paired by seed.",
        "## Returns",
        returns(found),
    ]
    for title, (name, tell) in SECTIONS.items():
        if name in found:
            pieces += [f"## {title}", tell(found[name])]
    return "\n\n".join(pieces) + "\n"
