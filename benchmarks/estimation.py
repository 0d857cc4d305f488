"""Estimating all triples against training them: `taskset -c 1 python benchmarks/estimation.py`.

After collection on cartpole-goals, all 120 triples are estimated (features, surrogates, scores, affinity;
warm, median of several). In the same run, some of them are trained from theta* and its critic for a few
updates, and the time of an update is scaled to all triples and to the updates that a group of three gets in
a run: what is left after meta-training and collection is shared by numbers of tasks. Two lengths tell that
updates cost the same each. Operations of both are counted from the traced programs (see operations.py).

Meta-training and collection come before the estimate. They are timed and counted, too.

The estimates use two of the three parts of the data, to fit and to score. The features of the third, by which
the groups are selected, are timed and counted beside them, and so is the grouping.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from common import Preset, ResultFile, merge, result_path
from operations import operations
from study import SMALL_CONFIG, SMALL_FAMILY

from pgx_jax import estimate, learn, pipeline
from pgx_jax.compare.budget import suited
from pgx_jax.compare.pool import row_keys
from pgx_jax.config import config_for, override
from pgx_jax.estimate import scores as scores_module
from pgx_jax.estimate import solvers, surrogates
from pgx_jax.estimate.problems import make_problems
from pgx_jax.estimate.projections import TILE
from pgx_jax.estimate.projections.hadamard import columns, flips
from pgx_jax.learn import PPO, device
from pgx_jax.runs.programs import keep_programs
from pgx_jax.runs.run import Run
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import FIT, SCORE, SELECT, Array, Features, Key, Rows, Transitions

FAMILY = "cartpole-goals"
WIDTH = 64
PARTS = {"features": (FIT, SCORE), "features_to_select": (SELECT,)}
"""The features that the estimates use, and those that the selection of the groups needs besides."""
ROWS, ALONE = 8, 2
"""Triples that are trained side by side, and one after another."""


def _gaussian(flat: Array, key: Key, dim: int) -> Array:
    return flat @ estimate.gaussian(key, flat.shape[1], dim)


def _hadamard(flat: Array, key: Key, dim: int) -> Array:
    tiles = -(-flat.shape[1] // TILE)
    folded = jnp.pad(flat, ((0, 0), (0, tiles * TILE - flat.shape[1]))).reshape(len(flat), tiles, TILE)
    return (folded * flips(key, 0, tiles)).sum(1) @ columns(key, dim)


PROJECTIONS: dict[str, Callable[[Array, Key, int], Array]] = {"gaussian": _gaussian, "hadamard": _hadamard}
"""By their definitions, of gradients [N, p]: the default, and one that is as exact."""


class Projected(NamedTuple):
    """How gradients are projected."""

    projection: str
    dim: int

    @property
    def name(self) -> str:
        """In the results."""
        return f"{self.projection}, {self.dim}"


def projected(dim: int) -> tuple[Projected, ...]:
    """What is measured where the run has ``dim``: its own first, half of it (`ablations.py` tells what that
    does to the groups), and another projection."""
    return Projected("gaussian", dim), Projected("gaussian", dim // 2), Projected("hadamard", dim)


def dims(dim: int) -> list[int]:
    """Those that are measured, the run's own last."""
    return sorted({way.dim for way in projected(dim)})


@dataclass(frozen=True)
class Settings:
    """Time and count the estimation of all triples, and training them."""

    preset: Preset = "full"
    """full: what the docs show; small: seconds, for tests."""
    seed: int = 0
    """Seed of the run."""
    layers: tuple[int, ...] = (2, 4, 8)
    """Hidden layers of actor and critic."""
    steps_per_task: tuple[int, ...] = (30_720, 81_920)
    """Totals of a run: those of the main table's first families."""
    updates: tuple[int, int] = (10, 20)
    """The two lengths that are trained."""
    repeats: int = 3
    """Timings of everything; the medians count."""
    out: Path | None = None
    """File of the results."""


def make_run(cell: Mapping, seed: int, small: bool) -> Run:
    """The run whose triples are estimated, up to its first look."""
    family = make_family(FAMILY, **(SMALL_FAMILY if small else {}))
    size = {
        "estimate": {"subset_size": 3},
        "policy": {"hidden": [8 if small else WIDTH] * cell["layers"]},
        "steps_per_task": cell["steps_per_task"],
    }
    config = override(config_for(family), merge(SMALL_CONFIG if small else {}, {"seed": seed}, size))
    return Run(family, config).compute("scores")


def members(run: Run) -> np.ndarray:
    """bool [m, n]: the subsets that the run has estimated."""
    return np.asarray(run.scored.scores.member)


def now() -> float:
    """Seconds of a clock: of the processor's time on a CPU, which other work on the machine does not lengthen
    (on one core it is the time by the clock of a machine with nothing else to do)."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


class Timed(NamedTuple):
    """Seconds of repeated warm calls (by `now`), and what the last one returned."""

    seconds: list[float]
    out: object

    @classmethod
    def calls(cls, function: Callable[[], object], repeats: int, warm: bool = False) -> Timed:
        """Call a function; once more before, unless it is ``warm``."""
        out = None if warm else jax.block_until_ready(function())
        seconds = []
        for _ in range(repeats):
            began = now()
            out = jax.block_until_ready(function())
            seconds.append(now() - began)
        return cls(seconds, out)


def of_parts(transitions: Transitions, parts: Sequence[int]) -> Transitions:
    """Observations and actions of some parts of the data, as one source."""
    keep = np.isin(transitions.split, parts)
    return transitions._replace(obs=transitions.obs[keep][None], action=transitions.action[keep][None])


def features_of(run: Run, dim: int) -> Features:
    """The run's features, of any dimension."""
    if dim == run.config.estimate.dim:
        return run.features
    config = override(run.config, {"estimate.dim": dim})
    params = learn.policy_params(run.meta)
    return pipeline.features(run.policy.log_prob, params, run.transitions, config, run.family.task_names)


def time_estimation(run: Run, repeats: int) -> dict[str, list[float]]:
    """Seconds of every step from the meta-policy to the groups."""
    transitions, params, e = run.transitions, learn.policy_params(run.meta), run.config.estimate
    names, member, found = run.family.task_names, members(run), {}
    for way in projected(e.dim):
        for name, parts in PARTS.items():
            some = of_parts(transitions, parts)
            call = lambda some=some, way=way: estimate.gradient_features(  # noqa: E731
                run.policy.log_prob, params, some, run.features.key, way.dim, projection=way.projection
            )
            found[f"{name}, {way.name}"] = Timed.calls(call, repeats).seconds
    for dim in dims(e.dim):
        feats = features_of(run, dim)
        found[f"surrogates and scores, {dim}"], scored = Timed.calls(
            lambda feats=feats: pipeline.score_subsets(feats, transitions, member, e, names=names), repeats
        )
    found["affinity"], matrix = Timed.calls(
        lambda: estimate.affinity(scored.scores, e.affinity_of(run.family.n)), repeats
    )
    choose = lambda: pipeline.choose_groups(matrix, run.held_out.afresh(), run.config, names=names)  # noqa: E731
    found["grouping"] = Timed.calls(choose, 1).seconds
    found["collecting"] = Timed.calls(
        lambda: pipeline.collect(run.policy, run.learner, run.family, run.config, run.meta), repeats
    ).seconds
    return found


def count_estimation(run: Run) -> dict:
    """Operations of the features, and of the surrogates with their scores."""
    e = run.config.estimate
    found: dict = {str(dim): count_surrogates(run, dim) for dim in dims(e.dim)}
    for name, parts in PARTS.items():
        some = of_parts(run.transitions, parts)
        found[name] = {way.name: count_features(run, some, way) for way in projected(e.dim)}
    return found


def count_surrogates(run: Run, dim: int) -> dict:
    """Operations of the surrogates of features of some dimension, and of their scores."""
    transitions, e, feats, member = run.transitions, run.config.estimate, features_of(run, dim), members(run)
    a, problems = estimate.signed_weights(transitions), make_problems(member)
    delta = jnp.zeros((len(member), dim))
    found: dict = {"statistics": 0.0, "solve": 0.0, "scores": 0.0, "solver_iterations": []}
    for way in ((FIT, SCORE), (SCORE, FIT)):
        fitted, scored = (surrogates.select_rows(feats, transitions, a, (part,)) for part in way)
        stats = surrogates.statistics(fitted)
        ridge = jnp.float32(e.l2 * surrogates.ridge_unit(stats))

        def solve(stats, ridge):
            return solvers.newton(None, stats, problems, ridge, 1)

        trips = while_trips(lambda: solve(stats, ridge))  # noqa: B023
        found["solver_iterations"].append(trips)
        found["statistics"] += operations(surrogates.statistics, fitted)
        found["solve"] += operations(solve, stats, ridge, while_trips=trips)
        found["scores"] += operations(scores_module._heldout, scored, delta)
    return found


def count_features(run: Run, transitions: Transitions, way: Projected) -> float:
    """Operations of the features of one source, by their definition."""
    params = learn.policy_params(run.meta)

    def features(params, obs, action, key):
        gradients = jax.vmap(jax.grad(run.policy.log_prob), (None, 0, 0))(params, obs, action)
        flat = jnp.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(gradients)], 1)
        return PROJECTIONS[way.projection](flat, key, way.dim)

    return operations(features, params, transitions.obs[0], transitions.action[0], run.features.key)


def while_trips(function: Callable[[], object]) -> int:
    """How often the body of the while loops in ``function`` runs."""
    count = 0

    def loop(condition, body, value):
        nonlocal count
        while condition(value):
            value, count = body(value), count + 1
        return value

    with jax.disable_jit(), mock.patch.object(jax.lax, "while_loop", loop):
        function()
    return count


class Training(NamedTuple):
    """How policies of a kind are trained in a run."""

    learner: PPO
    member: np.ndarray
    """bool [R, n]: rows that are timed."""
    updates: int
    """Of each, in a run."""


def trainings(run: Run) -> dict[str, Training]:
    """Of the triples, each with a group's budget, and of the meta-policy up to the first look."""
    config, budget, member = run.config, run.budget, members(run)
    steps = budget.rest() * int(member[0].sum()) // run.family.n
    own = suited(config.ppo, int(member[0].sum()), steps, config.min_updates)
    meta = dataclasses.replace(config.ppo, num_envs=budget.meta_envs)
    every = np.ones((1, run.family.n), bool)
    return {
        "triples": Training(own, member, steps // own.steps_per_update),
        "meta": Training(meta, every, budget.meta // meta.steps_per_update),
    }


def train(run: Run, training: Training, updates: int) -> None:
    """Train rows from theta* and its critic for so many updates."""
    member = training.member
    keys = row_keys(run.config.stream("rows"), member)
    init = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], len(member), 0), run.meta)
    steps = np.full(len(member), updates * training.learner.steps_per_update)
    rows = Rows(member, steps, keys, init)
    learn.train(run.policy, training.learner, run.family, rows)


def time_training(run: Run, updates: tuple[int, int], repeats: int) -> dict[str, dict]:
    """Seconds of so many updates of a row: of rows side by side (on one core they take turns, as programs of
    several are slower there), in a call of their own each, and of the meta-policy."""
    known = trainings(run)
    triples = known["triples"]
    some = triples._replace(member=triples.member[:ROWS])
    alone = [triples._replace(member=row[None]) for row in triples.member[:ALONE]]
    ways: dict[str, tuple[int, Callable[[int], object]]] = {
        "side by side": (len(some.member), lambda count: train(run, some, count)),
        "one after another": (len(alone), lambda count: [train(run, one, count) for one in alone]),
        "meta": (1, lambda count: train(run, known["meta"], count)),
    }
    found = {}
    for name, (rows, call) in ways.items():
        call(1)  # compiles
        timed = [Timed.calls(partial(call, count), repeats, warm=True).seconds for count in updates]
        found[name] = {"rows": rows, "seconds": timed}
    return found


def count_update(run: Run, training: Training) -> float:
    """Operations of one update of one row."""
    family, config = run.family, training.learner
    problem = device.Problem(jax.tree.map(jnp.asarray, family.tasks), jnp.asarray(family.context))
    member, key = jnp.asarray(training.member[0]), jax.random.PRNGKey(0)
    state = device.start(run.policy, family.env, config, problem, member, run.meta, key)

    def update(problem, member, state):
        known = (run.policy, family.env, family.horizon, config, problem)
        return device.update(*known, member, 40, state)[0].learning.agent

    return operations(update, problem, member, state)


def compute(run: Run, updates: tuple[int, int], repeats: int) -> dict:
    """Everything of one network and total."""
    known, budget, e = trainings(run), run.budget, run.config.estimate
    meta = known["meta"].learner.steps_per_update
    return {
        "parameters": int(sum(np.size(x) for x in jax.tree.leaves(learn.policy_params(run.meta)))),
        "subsets": len(members(run)),
        "subset_size": int(members(run).sum(1).max()),
        "transitions": int(np.size(run.transitions.split)),
        "dim": e.dim,
        "operations": count_estimation(run),
        "training": {
            name: {
                "updates": training.updates,
                "steps_per_update": training.learner.steps_per_update,
                "operations_per_update": count_update(run, training),
            }
            for name, training in known.items()
        },
        "collecting_updates": budget.collect_once / meta,
        "timings": {
            "estimate": time_estimation(run, repeats), "training": time_training(run, updates, repeats),
        },
    }  # fmt: skip


class Cost(NamedTuple):
    """What the estimate of all triples costs, and training them."""

    operations: float
    seconds: float


def median(seconds: Sequence[float]) -> float:
    """Of repeated timings."""
    return float(np.median(seconds))


def estimate_cost(cell: Mapping, way: Projected, selecting: bool = False) -> Cost:
    """Of the estimate, with the features; and with the selection of the groups."""
    own, times = cell["operations"], cell["timings"]["estimate"]
    parts = list(PARTS) if selecting else ["features"]
    steps = [f"surrogates and scores, {way.dim}", "affinity", *(f"{name}, {way.name}" for name in parts)]
    steps += ["grouping"] if selecting else []
    count = sum(own[str(way.dim)][name] for name in ("statistics", "solve", "scores"))
    count += sum(own[name][way.name] for name in parts)
    return Cost(count, sum(median(times[step]) for step in steps))


def update_seconds(cell: Mapping, way: str, updates: Sequence[int]) -> float:
    """Seconds of one more update of one row: the difference of the two lengths."""
    timed = cell["timings"]["training"][way]
    short, long = (median(seconds) for seconds in timed["seconds"])
    return (long - short) / (updates[1] - updates[0]) / timed["rows"]


def meta_cost(cell: Mapping, updates: Sequence[int]) -> Cost:
    """Of meta-training and collection; a collected step counts as many operations as one that is trained."""
    meta, collecting = cell["training"]["meta"], median(cell["timings"]["estimate"]["collecting"])
    count = (meta["updates"] + cell["collecting_updates"]) * meta["operations_per_update"]
    return Cost(count, meta["updates"] * update_seconds(cell, "meta", updates) + collecting)


def training_cost(cell: Mapping, way: str, updates: Sequence[int]) -> Cost:
    """Of training all triples, each with the budget of a group."""
    triples = cell["training"]["triples"]
    total = cell["subsets"] * triples["updates"]
    return Cost(total * triples["operations_per_update"], total * update_seconds(cell, way, updates))


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    small = settings.preset == "small"
    layers, totals, updates, repeats = (
        settings.layers,
        settings.steps_per_task,
        settings.updates,
        settings.repeats,
    )
    if small:
        layers, totals, updates, repeats = (2,), (SMALL_CONFIG["steps_per_task"],), (1, 2), 1
    keep_programs()
    path = result_path("estimation", settings.preset, settings.out)
    about = {"family": FAMILY, "seed": settings.seed, "updates": updates, "repeats": repeats}
    results = ResultFile(path, name="estimation", command="python benchmarks/estimation.py", settings=about)
    here = {"platform": jax.default_backend()}
    todo = [here | {"layers": depth, "steps_per_task": total} for total in totals for depth in layers]
    results.run(todo, lambda cell: compute(make_run(cell, settings.seed, small), updates, repeats))
    return 0


if __name__ == "__main__":
    sys.exit(main())
