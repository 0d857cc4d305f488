"""The settings that serve every way of adapting best: `python benchmarks/meta_search.py`.

Every learner that adapts in its own way is trained with several settings on family seeds that no table uses,
and policies that are fine-tuned are with several step sizes; all are judged on unseen tasks after the paper's
adaptation steps and five times of them. `meta_rl.py` takes, for each learner and family, what earned most
here, if that is clearly more than with its first settings; what was not searched on a family is as on
cartpole-goals. Started again it goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from common import ResultFile, check_known, committed, merge, result_path, says_errors, tuples
from main_table import BUDGETS as STEPS
from method_search import clearly_best
from study import SMALL_CONFIG, SMALL_FAMILY

from pgx_jax import learn
from pgx_jax.compare.adapting import Entrant, Tuning, adapt_all
from pgx_jax.compare.budget import make_budget
from pgx_jax.compare.methods import Contest
from pgx_jax.compare.methods import method as contested
from pgx_jax.compare.pool import train_pool
from pgx_jax.compare.results import OURS
from pgx_jax.compare.unknown import Arena, Start, joined, sampled, widened
from pgx_jax.config import Config, config_for, override
from pgx_jax.errors import DataError
from pgx_jax.learn import Learner
from pgx_jax.runs.adapting import TEST_TASKS, arena_of, entrants_of, starts_of
from pgx_jax.runs.run import run
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import PyTree

FAMILIES = ("cartpole-goals", "points-hard")
SEEDS = (100, 101)
"""Of the families; no table of methods has them."""
BUDGETS = (200, 1000)
"""Adaptation steps by which settings are judged."""

ADAPTS = {"adaptation_steps": 208, "adaptation_envs": 4}
"""What inner steps take of a task in the run itself; on the unseen ones it is what a budget allows."""
BLIND = {"baseline": "linear", "limits_end": True}
"""Advantages against a baseline that isn't told the task, as in MAML's own experiments."""


class Adapting(NamedTuple):
    """A method that trains by a learner which adapts in its own way."""

    policy: str
    learner: str
    given: Mapping[str, Any]
    """Settings that are not searched."""
    tried: tuple[Mapping[str, Any], ...]
    """What is; the first are taken where others are not clearly better. Those of `FACTORS` are factors."""
    grouped: bool = False
    """Whether it has a policy for each of the true groups instead of one for all."""

    def made(self, known: Mapping[str, Learner], tried: Mapping[str, Any], horizon: int) -> Learner:
        """Its learner, from those of a family with so long episodes, with what is tried."""
        own = known[self.learner]
        settings = {**self.given, **tried}
        settings |= {name: tried.get(name, 1.0) * getattr(own, name) for name in FACTORS}
        if settings.get("baseline") == "linear" and horizon <= WHOLE:
            settings["num_steps"] = horizon
        if own.remembers:
            settings["num_steps"] = max(own.num_steps, TRIAL * horizon)
        return learn.with_options(own, self.learner, settings)


FACTORS = ("learning_rate", "entropy")
"""Of these a learner has the family's settings of PPO times something."""
WHOLE = 256
"""Longest episodes that a linear baseline is given whole: longer ones leave too few updates."""
TRIAL = 2
"""Episodes that a trial of a policy with memory has at least."""


def tried(values: Mapping[str, Sequence[Any]], more: Sequence[Mapping[str, Any]] = ()) -> tuple[Mapping, ...]:
    """All combinations of values of settings, and some more."""
    return (*(dict(zip(values, x, strict=True)) for x in itertools.product(*values.values())), *more)


INNER = tried(
    {"inner_rate": (0.1, 0.3), "learning_rate": (1.0, 3.0)},
    more=[{"inner_rate": 0.03}, {"inner_rate": 0.1, "entropy": 5.0}],
)
MAML = tuple(BLIND | x for x in INNER) + ({"inner_rate": 0.1}, {"inner_rate": 0.3})
"""The last two have the critic's advantages, which is told the mean of all tasks on an unseen one."""
REPTILE = INNER + tuple(BLIND | x for x in INNER[:2])
GROUPED = tried(
    {"inner_rate": (0.1, 0.3, 0.03), "learning_rate": (1.0, 3.0)}, more=[BLIND | x for x in INNER[:2]]
)
"""A run has an entropy bonus of its own for groups (`Config.group_entropy`)."""
LEARNERS = {
    "maml": Adapting("base", "maml", ADAPTS, MAML),
    "fomaml": Adapting("base", "fomaml", ADAPTS, MAML),
    "reptile": Adapting("base", "reptile", ADAPTS, REPTILE),
    "rl2": Adapting(
        "gru", "rl2", {},
        tried(
            {"minibatches": (2, 8), "learning_rate": (1.0, 3.0, 10.0)},
            more=[{"minibatches": 4, "learning_rate": 3.0}, {"minibatches": 2, "learning_rate": 30.0}],
        ),
    ),
    "group_maml": Adapting("base", "maml", ADAPTS, GROUPED, grouped=True),
}  # fmt: skip
"""Learners that adapt in their own way, eight settings each."""
FINE_TUNING = "fine-tuning"
FINE_TUNED = ("fresh", "meta", "multitask", "multitask_continued")
"""Policies for all tasks that are."""
GROUPINGS = (
    OURS, "true_groups", "random", "em", "committees",
    "gradient_similarity_dot", "gradient_similarity_cosine", "gradient_similarity_whitened",
)  # fmt: skip
"""Methods whose policies of groups are."""
RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Factors on the step size of training with which policies are fine-tuned; `Tuning` has that which is taken
where others are not clearly better."""
FURTHER: dict[str, tuple[Mapping[str, Any], ...]] = {
    "maml": tuple(BLIND | {"inner_rate": rate, "inner_steps": 1} for rate in (0.1, 0.3)),
    FINE_TUNING: tuple({"rate": rate, "baseline": "linear"} for rate in (0.1, 1.0)),
}
"""What is tried beside these, in cells of its own (they were done when it was added)."""


@dataclass(frozen=True)
class Settings:
    """Try settings of every way of adapting."""

    preset: Literal["full", "quick"] = "full"
    """full: what the table takes; quick: seconds, for tests."""
    families: tuple[str, ...] = FAMILIES
    """Families to adapt in."""
    methods: tuple[str, ...] = (*LEARNERS, FINE_TUNING)
    """Learners, and fine-tuning, to search."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of the families."""
    out: Path | None = None
    """File of the results."""


def cells(settings: Settings) -> list[dict]:
    """One cell a family, seed and method."""
    check_known(settings.families, STEPS)
    if settings.preset == "quick":
        small = {"family": "points", "settings": {"seed": 0, **SMALL_FAMILY}, "steps_per_task": 1024}
        small |= {"config": merge(SMALL_CONFIG, {"k": 2, "similarities": []}), "tasks": 2, "budgets": [32]}
        some = {"group_maml": [dict(x) for x in LEARNERS["group_maml"].tried[:2]], FINE_TUNING: [*RATES]}
        return [small | {"method": name, "tried": some[name]} for name in settings.methods if name in some]
    return [
        {
            "family": family, "settings": {"seed": seed}, "config": {"seed": seed},
            "steps_per_task": STEPS[family][0], "tasks": TEST_TASKS, "budgets": list(BUDGETS),
            "method": method, "tried": list(some),
        }
        for family in settings.families
        for seed in settings.seeds
        for method in settings.methods
        for some in (first_tried(method), FURTHER.get(method, ()))
        if some
    ]  # fmt: skip


def first_tried(method: str) -> Sequence[Any]:
    """Settings of a learner, or factors of fine-tuning."""
    return RATES if method == FINE_TUNING else [*map(dict, LEARNERS[method].tried)]


def all_tried(method: str) -> list[Any]:
    """The same with what is tried beside them."""
    return [*first_tried(method), *FURTHER.get(method, ())]


def compute(cell: Mapping) -> dict:
    """Mean returns on unseen tasks, by method, of all that is tried [settings, budgets]."""
    family = make_family(cell["family"], **tuples(cell["settings"]))
    config = override(config_for(family), merge({"steps_per_task": cell["steps_per_task"]}, cell["config"]))
    tasks = sampled(family, config.stream("test_tasks"), cell["tasks"])
    names = [f"unseen {i + 1}" for i in range(cell["tasks"])]
    if cell["method"] == FINE_TUNING:
        arena, entrants = fine_tuned(family, config, tasks, names, cell["tried"])
    else:
        arena, entrants = by_learner(family, config, tasks, names, cell["method"], cell["tried"])
    found = adapt_all(arena, {f"{name}*{i}": x for name, i, x in entrants}, cell["budgets"])
    returns: dict[str, list] = {}
    for (name, i, _), by_budget in zip(entrants, found.values(), strict=True):
        returns.setdefault(name, []).append((i, [x.judged.mean() for x in by_budget.values()]))
    tried = range(len(cell["tried"]))
    lost = [None] * len(cell["budgets"])  # of settings by which training failed
    known = {(name, i): means for name, some in returns.items() for i, means in some}
    return {"returns": {name: [known.get((name, i), lost) for i in tried] for name in returns}}


Entrants = list[tuple[str, int, Entrant]]
"""Methods with what is tried, by its number."""


def tuned(entrant: Entrant, how: float | Mapping[str, Any]) -> Entrant:
    """A method with another way of fine-tuning: a factor on the step size, or fields of `Entrant`."""
    return entrant._replace(**(how if isinstance(how, Mapping) else {"rate": how}))


def fine_tuned(
    family: TaskFamily, config: Config, tasks: PyTree, names: Sequence[str], ways: Sequence[Any]
) -> tuple[Arena, Entrants]:
    """Policies of a run, each fine-tuned in all ways."""
    own = {"compare": "fast", "random_draws": 1, "test_tasks": 0}
    trained = run(family, dataclasses.replace(config, **own))
    arena = arena_of(trained, tasks, names)
    known = entrants_of(trained, arena, finders=("rewards",))
    found = {name.removesuffix("/rewards"): entrant for name, entrant in known.items()}
    some = [name for name in (*FINE_TUNED, *GROUPINGS) if name in found]
    return arena, [(name, i, tuned(found[name], x)) for name in some for i, x in enumerate(ways)]


def by_learner(
    family: TaskFamily,
    config: Config,
    tasks: PyTree,
    names: Sequence[str],
    name: str,
    settings: Sequence[Mapping],
) -> tuple[Arena, Entrants]:
    """Policies of a learner with all settings with which training succeeds; there is no theta*, in its place
    stands a policy at random."""
    method, known = LEARNERS[name], learn.learners_by_name(config.ppo)
    learners = {f"{name}-{i}": method.made(known, x, family.horizon) for i, x in enumerate(settings)}
    learners |= known
    policies = learn.policies_by_name(family, config.policy.make(family), config.policy)
    n, count = family.n, len(names)
    labels = np.asarray(family.true_groups if method.grouped else np.zeros(n, int))
    contest = Contest(config, make_budget(config, family, known[config.learner]), learners, labels)
    fresh = learn.take(learn.init_agents(policies["base"], family, config.stream("rows")[None]), 0)
    finder, found = "rewards" if method.grouped else None, []
    for i in range(len(settings)):
        total = config.steps_per_task * n
        made = contested(contest, labels, total, policy=method.policy, learner=f"{name}-{i}")
        try:
            pool = train_pool(made.rows, policies, learners, family, config, fresh)
        except DataError as error:
            print(f"{name} {settings[i]}: {error}", file=sys.stderr)
            continue
        found.append((name, i, Entrant(starts_of(made, pool, count, policies), finder)))
    everything = np.ones(n, bool)
    start = Start("fresh", widened(fresh, everything, count), everything, learner=config.learner)
    arena = Arena(joined(family, tasks, names), n, policies, learners, config, start, None, None)
    return arena, found


def chosen(data: Mapping | None, family: str, method: str) -> Mapping[str, Any]:
    """The settings of a learner with most mean return over seeds and budgets, if they gain more than `NOISE`
    over the first; the first otherwise, and where it was searched nowhere."""
    return _best(data, family, method, method, 0)


def rate(data: Mapping | None, family: str, name: str) -> float | Mapping[str, Any]:
    """The way of fine-tuning a method's policies (`tuned`) by which they earn most, by the same rule; the
    factor of `Tuning` is the first."""
    return _best(data, family, FINE_TUNING, name, RATES.index(Tuning().rate))


def _best(data: Mapping | None, family: str, method: str, name: str, first: int) -> Any:
    """What serves a name in results best, of all that was tried of a method on a family; if that was not
    searched, on the first one."""
    known = all_tried(method)
    for place in (family, FAMILIES[0]):
        cells = [c for c in (data or {"cells": []})["cells"] if c["cell"]["family"] == place]
        means = means_of([c for c in cells if c["cell"]["method"] == method], name, known)
        if means[first] is not None:
            found = np.array([np.nan if x is None else np.mean(x) for x in means])
            return known[clearly_best(np.where(np.isnan(found), -np.inf, found), first)]
    return known[first]


def means_of(cells: Sequence[Mapping], name: str, known: Sequence[Any]) -> list[np.ndarray | None]:
    """Returns by budget, over family seeds, of a name in results with all known settings; NaN where training
    or adapting failed, None of what was not tried with as many seeds as others."""
    returns: list[dict[int, Any]] = [{} for _ in known]
    for done in cells:
        for setting, means in zip(done["cell"]["tried"], done["returns"].get(name, ()), strict=False):
            if setting in known:
                returns[known.index(setting)][done["cell"]["settings"]["seed"]] = means
    seeds = set().union(*returns)
    return [
        np.array([*by.values()], float).mean(0) if seeds and by.keys() == seeds else None for by in returns
    ]


def is_searched(data: Mapping | None, family: str) -> bool:
    """Whether every way of adapting was searched on a family itself."""
    cells = [c["cell"] for c in (data or {"cells": []})["cells"]]
    return {*LEARNERS, FINE_TUNING} <= {c["method"] for c in cells if c["family"] == family}


results = partial(committed, "meta_search")
"""() -> the result file of the search, if there is one."""


@says_errors
def main(args: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("meta_search", settings.preset, settings.out)
    given = {name: {"given": method.given} for name, method in LEARNERS.items()}
    defaults = {"given": given, "defaults": dataclasses.replace(Config(), seed=0)}
    command = "python benchmarks/meta_search.py"
    found = ResultFile(path, name="meta_search", command=command, settings=defaults)
    found.run(cells(settings), compute)
    for done in found.cells:
        for name, means in done["returns"].items():
            for setting, mean in zip(done["cell"]["tried"], means, strict=True):
                shown = ", ".join("failed" if x is None else f"{x:.1f}" for x in mean)
                where = f"{done['cell']['family']}, seed {done['cell']['settings']['seed']}"
                print(f"{where} {name} {setting}: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
