"""The first moments on unseen tasks, of every method: `python benchmarks/meta_rl.py`.

A cell is a family of one seed: a run trains all methods at equal totals of steps, then every method adapts to
the same unseen tasks with every budget, and is judged on the same fresh episodes. Settings of what adapts in
its own way, and step sizes of fine-tuning, are those that `meta_search.py` found for the family. Started
again it goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from common import (
    ResultFile,
    check_known,
    check_searched,
    describe,
    merge,
    plain,
    result_path,
    says_errors,
    tuples,
)  # fmt: skip
from meta_search import FINE_TUNED, GROUPINGS, LEARNERS, STEPS, chosen, rate, results, tuned
from meta_tables import method_of
from study import SMALL_CONFIG, SMALL_FAMILY

from pgx_jax import learn
from pgx_jax.compare.adapting import (
    BUDGETS,
    Adapted,
    Entrant,
    Tuning,
    adapt_all,
    check_budgets,
    check_finders,
    start_values,
)
from pgx_jax.compare.finding import FINDERS
from pgx_jax.compare.methods import split_name
from pgx_jax.compare.results import OURS, to_plain
from pgx_jax.compare.unknown import Arena, sampled
from pgx_jax.config import Config, config_for, override
from pgx_jax.runs.adapting import TEST_TASKS, arena_of, entrants_of
from pgx_jax.runs.run import Run, run
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family

FIRST = ("cartpole-goals", "points-hard", "cartpole-physics")
FAMILIES = (*FIRST, *(name for name in STEPS if name not in FIRST))
FIRST_SEED = 6
"""Of the families, as in the table of all methods."""
FAMILY_SEEDS = {"lunarlander": 5}
"""Largest number of a family's seeds, where it is not that of the settings."""

METHODS = (*GROUPINGS, "multitask", "multitask_continued")
"""Methods of every run that adapt, beside theta* and a policy at random."""
STUDIED = (OURS, "true_groups")
"""Methods with all finders; the others have that which is the default."""
FINDING = "episodes"
"""Of cells: by what a policy that a task tries is judged, the return of an episode. (Those without it are of
code with which it was the mean reward of a step; see `meta_tables.earlier`.)"""
ADAPTING = (
    "base/maml", "base/fomaml", "base/reptile", "gru/rl2", f"base/group_maml/{OURS}",
    "base/group_maml/true_groups",
)  # fmt: skip
"""Baselines by learners that adapt in their own way (`meta_search.LEARNERS`)."""


@dataclass(frozen=True)
class Settings:
    """Run what is missing of the table of unseen tasks."""

    preset: Literal["full", "quick"] = "full"
    """full: what the docs show; quick: a minute, for tests."""
    families: tuple[str, ...] = FAMILIES
    """Families to adapt in."""
    seeds: int = 10
    """Seeds of each family (of LunarLander 5 at most)."""
    tasks: int = TEST_TASKS
    """Unseen tasks of each."""
    steps_per_task: int | None = None
    """Training steps of every method, per known task; those of the table of all methods by default."""
    budgets: tuple[int, ...] = BUDGETS
    """Adaptation steps."""
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Only cells whose one-line description contains this text (may be repeated)."""
    limit: int | None = None
    """Stop after this many new cells."""
    out: Path | None = None
    """File of the results."""


def cells(settings: Settings) -> list[dict]:
    """One cell a family and seed, one seed of all families after the other."""
    check_known(settings.families, STEPS)
    if settings.preset == "quick":
        small = {"family": "points", "settings": {"seed": 0, **SMALL_FAMILY}, "steps_per_task": 1024}
        small |= {"config": merge(SMALL_CONFIG, {"k": 2, "similarities": []}), "tasks": 2, "budgets": [0, 32]}
        small["finding"] = FINDING
        return [small | {"adapting": ["base/fomaml"]}]
    return [
        {
            "family": family, "settings": {"seed": FIRST_SEED + seed}, "config": {"seed": FIRST_SEED + seed},
            "steps_per_task": settings.steps_per_task or STEPS[family][0],
            "tasks": settings.tasks, "budgets": list(settings.budgets), "adapting": list(ADAPTING),
            "finding": FINDING,
        }
        for seed in range(settings.seeds)
        for family in settings.families
        if seed < FAMILY_SEEDS.get(family, settings.seeds)
    ]  # fmt: skip


def compute(cell: Mapping) -> dict:
    """Train all methods of a cell, and adapt them to its unseen tasks."""
    family = make_family(cell["family"], **tuples(cell["settings"]))
    config = override(config_for(family), merge({"steps_per_task": cell["steps_per_task"]}, cell["config"]))
    named, known = [split_name(name) for name in cell["adapting"]], learn.learners_by_name(config.ppo)
    taken = taken_of(cell, results())
    learners = {
        name: LEARNERS[name].made(known, tried, family.horizon) for name, tried in taken["learners"].items()
    }
    config = dataclasses.replace(config, test_tasks=0, random_draws=1, baselines=tuple(cell["adapting"]))
    sampled(family, config.stream("test_tasks"), cell["tasks"])  # before any work
    check_finding(family, config, cell["budgets"], [x.learner for x in named])
    began = time.process_time()
    trained = run(family, config, learners=learners)
    middle = time.process_time()
    count = cell["tasks"]
    tasks = sampled(family, config.stream("test_tasks"), count)
    arena = arena_of(trained, tasks, [f"unseen {i + 1}" for i in range(count)])
    entrants = all_entrants(trained, arena, [x.key for x in named], taken["rates"])
    found = adapt_all(arena, entrants, cell["budgets"])
    return {
        "taken": taken,
        "k": trained.k,
        "agreement": to_plain(trained.results)["agreement"],
        "env_steps": {name: entry.env_steps for name, entry in trained.results.methods.items()},
        "methods": {name: record(entrants[name], adapted) for name, adapted in found.items()},
        "starts": unadapted(arena, entrants),
        "timings": {"training": middle - began, "adapting": time.process_time() - middle},
    }


def check_finding(
    family: TaskFamily, config: Config, budgets: Sequence[int], learners: Sequence[str]
) -> None:
    """Refuse budgets that are too few for as many groups as there may be, before these are trained.

    Raises:
        ConfigError: naming finder and remedy.
    """
    true = 0 if family.true_groups is None else len({*np.asarray(family.true_groups).tolist()})
    k = max(config.k or family.n, true)
    check_finders(tuple(FINDERS), k, budgets, family.horizon)
    if any(LEARNERS[name].grouped for name in learners):
        check_finders(("rewards",), k, budgets, 0)


def taken_of(cell: Mapping, data: Mapping | None) -> dict[str, dict]:
    """What a search tells for a cell: ways of fine-tuning (`meta_search.tuned`), by method, and settings of
    the learners."""
    family, learners = cell["family"], [split_name(name).learner for name in cell["adapting"]]
    return {
        "rates": {name: rate(data, family, name) for name in (*FINE_TUNED, *GROUPINGS)},
        "learners": {name: dict(chosen(data, family, name)) for name in learners},
    }


def check_taken(done: Sequence[Mapping]) -> None:
    """Refuse to go on with cells that had other settings than the search tells now.

    Raises:
        ConfigError: naming the cell.
    """
    data = results()
    for cell in done:
        check_searched(cell["cell"], cell["taken"], plain(taken_of(cell["cell"], data)))


def all_entrants(
    trained: Run, arena: Arena, adapting: Sequence[str], known: Mapping[str, Any]
) -> dict[str, Entrant]:
    """All methods of a run, fine-tuned in the way that the search found for each, if it had it; "/gently": by
    the step size of `Tuning`, where it is another; "/again": adapting again and again; "/found": not at all,
    all steps find the policy; "/trial": remembering what comes before a trial's last episode. A grouping of
    one policy stands there under all finders."""
    others = [name for name in (*METHODS, *adapting) if name not in STUDIED]
    found = _by_finder(entrants_of(trained, arena, STUDIED), tuple(FINDERS))
    found |= _by_finder(entrants_of(trained, arena, others, ("rewards",)), ("rewards",))
    usual = Tuning().rate
    gently = {f"{x}/gently": found[x] for x in FINE_TUNED if x in found and known[x] != usual}
    for name, entrant in list(found.items()):
        method, learner = method_of(name), arena.learners[entrant.starts[0].learner]
        if known.get(method, usual) != usual:
            found[name] = tuned(entrant, known[method])
        if learner.remembers:
            found[f"{name}/trial"] = entrant._replace(most_steps=learner.num_steps - arena.family.horizon)
        elif method in adapting and not name.endswith("/told"):
            found[f"{method}/again"] = entrant._replace(again=True)
            if LEARNERS[entrant.starts[0].learner].grouped:
                found[f"{method}/found"] = entrant._replace(finding=1.0, most_steps=0)
    return found | gently


def _by_finder(found: Mapping[str, Entrant], finders: Sequence[str]) -> dict[str, Entrant]:
    """A grouping of one policy, which need not be found, as if it had been by every finder."""
    every: dict[str, Entrant] = {}
    for name, entrant in found.items():
        lone = "/" not in name and not name.startswith(ONE_POLICY)
        every |= {f"{name}/{finder}": entrant for finder in finders} if lone else {name: entrant}
    return every


ONE_POLICY = ("multitask", "meta", "fresh")
"""Beginnings of the names of methods with one policy for all tasks."""


def record(entrant: Entrant, adapted: Mapping[int, Adapted]) -> dict:
    """What the table needs of a method, by budget: the mean of every task (None where adapting failed), the
    policy of each if there are several, and the mean steps."""
    several = len(entrant.starts) > 1
    return {
        str(budget): {
            "per_task": rounded(x.judged.mean(1)), "choice": x.choice if several else None,
            "steps": x.steps.mean(), "finding": x.finding_steps.mean(), "failed": x.failed,
        }
        for budget, x in adapted.items()
    }  # fmt: skip


def unadapted(arena: Arena, entrants: Mapping[str, Entrant]) -> dict[str, np.ndarray]:
    """float [U, k + 1] by method that has several policies: what each of them earns on every unseen task
    without adapting, and theta* (last)."""
    several = {method_of(name): x.starts for name, x in entrants.items() if len(x.starts) > 1}
    distinct = {start.key: start for starts in several.values() for start in starts}
    values, place = start_values(arena, list(distinct.values())), {key: i for i, key in enumerate(distinct)}
    return {name: values[:, [*(place[x.key] for x in starts), -1]] for name, starts in several.items()}


def rounded(values: np.ndarray) -> np.ndarray:
    """The same numbers with four significant digits."""
    return np.vectorize(lambda x: float(f"{x:.4g}"))(values)


def said(per_task: Sequence[float | None]) -> str:
    """The mean over the tasks that did not fail, and how many did."""
    known = [x for x in per_task if x is not None]
    pieces = [f"{np.mean(known):.1f}"] if known else []
    if lost := len(per_task) - len(known):
        pieces.append(f"({lost} of {len(per_task)} tasks failed)")
    return " ".join(pieces)


@says_errors
def main(args: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    check_budgets(settings.budgets)
    wanted = [c for c in cells(settings) if all(text in describe(c) for text in settings.only)]
    defaults = {
        "preset": settings.preset, "tuning": Tuning(), "defaults": dataclasses.replace(Config(), seed=0),
        "given": {name: x.given for name, x in LEARNERS.items()},
    }  # fmt: skip
    path = result_path("meta_rl", settings.preset, settings.out)
    found = ResultFile(path, name="meta_rl", command="python benchmarks/meta_rl.py", settings=defaults)
    todo = [c for c in wanted if found.find(c) is None][: settings.limit]
    check_taken(found.cells)
    found.run(todo, compute)
    for cell in found.cells:
        for name, entry in cell["methods"].items():
            shown = ", ".join(f"{budget}: {said(x['per_task'])}" for budget, x in entry.items())
            print(f"{describe(cell['cell'])} {name}: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
