"""Estimating all triples against fine-tuning them: `python benchmarks/estimation.py`.

After collection on cartpole-goals, all 120 triples are estimated (features, surrogates, scores,
affinity; warm, median of several) and, in the same run, fine-tuned side by side from theta* and its
critic for 40 updates each, as rows of `train`. Operations of both are counted from the traced
programs (see operations.py). Fine-tuning is saved after every few triples.

The estimates use two of the three parts of the data, to fit and to score. The features of the third,
by which the groups are selected, are timed and counted beside them, and so is the grouping.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from common import Preset, ResultFile, merge, plain, result_path
from operations import operations
from study import SMALL_CONFIG, SMALL_FAMILY

from pgx_jax import estimate, learn, pipeline
from pgx_jax.compare.pool import row_keys
from pgx_jax.config import Config, override
from pgx_jax.estimate import scores as scores_module
from pgx_jax.estimate import solvers, surrogates
from pgx_jax.estimate.problems import make_problems
from pgx_jax.learn import device
from pgx_jax.runs.run import Run
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import FIT, SCORE, SELECT, Rows, Transitions

FAMILY = "cartpole-goals"
PARTS = {"features": (FIT, SCORE), "features_to_select": (SELECT,)}
"""The features that the estimates use, and those that the selection of the groups needs besides."""


@dataclass(frozen=True)
class Settings:
    """Time and count the estimation of all triples, and fine-tuning them."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    seed: int = 0
    """Seed of the run."""
    transitions: int | None = None
    """Transitions of each task; as in the default settings if not given."""
    updates: int = 40
    """Updates of each triple's fine-tuning."""
    chunk: int = 12
    """Triples trained between two savings."""
    repeats: int = 5
    """Timings of the estimation; the median counts."""
    out: Path | None = None
    """File of the results."""


def make_run(settings: Settings) -> Run:
    """The run whose triples are estimated."""
    small = settings.preset == "small"
    family = make_family(FAMILY, **(SMALL_FAMILY if small else {}))
    size = {"estimate": {"subset_size": 3}}
    if settings.transitions is not None:
        size["estimate"]["steps"] = settings.transitions
    config = override(Config(seed=settings.seed), merge(SMALL_CONFIG, size) if small else size)
    return Run(family, config).compute("grouping")


def members(run: Run) -> np.ndarray:
    """bool [m, n]: the subsets that the run has estimated."""
    return np.asarray(run.scored.scores.member)


def median_seconds(function: Callable[[], object], repeats: int) -> tuple[list[float], object]:
    """Seconds of each of ``repeats`` warm calls, and what the last one returned."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        out = jax.block_until_ready(function())
        seconds.append(time.perf_counter() - began)
    return seconds, out


def of_parts(transitions: Transitions, parts: Sequence[int]) -> Transitions:
    """Observations and actions of some parts of the data, as one source."""
    keep = np.isin(transitions.split, parts)
    return transitions._replace(obs=transitions.obs[keep][None], action=transitions.action[keep][None])


def estimation(run: Run, repeats: int) -> dict:
    """Time the estimation of all subsets, and count its operations."""
    transitions, params, e = run.transitions, learn.policy_params(run.meta), run.config.estimate
    names, member = run.family.task_names, members(run)
    seconds, feats = {}, run.features
    for name, parts in PARTS.items():
        some = of_parts(transitions, parts)
        seconds[name], _ = median_seconds(
            lambda some=some: estimate.gradient_features(run.policy.log_prob, params, some, feats.key, e.dim),
            repeats,
        )
    seconds["surrogates_and_scores"], scored = median_seconds(
        lambda: pipeline.score_subsets(feats, transitions, member, e, names=names), repeats
    )
    seconds["affinity"], matrix = median_seconds(
        lambda: estimate.affinity(scored.scores, e.affinity_of(run.family.n)), repeats
    )
    seconds["grouping"], _ = median_seconds(
        lambda: pipeline.choose_groups(matrix, run.held_out, run.config, names=names), 1
    )
    middle = {name: float(np.median(s)) for name, s in seconds.items()}
    without = middle["surrogates_and_scores"] + middle["affinity"]
    count = count_estimation(run, feats)
    return {
        "parameters": int(sum(np.size(x) for x in jax.tree.leaves(params))),
        "subsets": len(member),
        "subset_size": int(member.sum(1).max()),
        "transitions": int(np.size(transitions.split)),
        "dim": e.dim,
        "operations": count,
        "timings": {
            "each": seconds, "median": middle,
            "without_features": without, "with_features": without + middle["features"],
            "with_selection": without + sum(middle[name] for name in (*PARTS, "grouping")),
        },
    }  # fmt: skip


def count_estimation(run: Run, feats) -> dict:
    """Operations of the features, and of the surrogates with their scores."""
    transitions, e = run.transitions, run.config.estimate
    features = {name: count_features(run, of_parts(transitions, parts)) for name, parts in PARTS.items()}
    member = members(run)
    a, problems = estimate.signed_weights(transitions), make_problems(member)
    delta = jnp.zeros((len(member), e.dim))
    parts, trips = {"features": features["features"], "statistics": 0.0, "solve": 0.0, "scores": 0.0}, []
    for way in ((FIT, SCORE), (SCORE, FIT)):
        fitted, scored = (surrogates.select_rows(feats, transitions, a, (part,)) for part in way)
        stats = surrogates.statistics(fitted)
        ridge = jnp.float32(e.l2 * surrogates.ridge_unit(stats))

        def solve(stats, ridge):
            return solvers.newton(None, stats, problems, ridge, 1)

        trips.append(while_trips(lambda: solve(stats, ridge)))  # noqa: B023
        parts["statistics"] += operations(surrogates.statistics, fitted)
        parts["solve"] += operations(solve, stats, ridge, while_trips=trips[-1])
        parts["scores"] += operations(scores_module._heldout, scored, delta)
    return features | parts | {"total": sum(parts.values()), "solver_iterations": trips}


def count_features(run: Run, transitions: Transitions) -> float:
    """Operations of the features of one source, by their definition."""
    params, dim = learn.policy_params(run.meta), run.config.estimate.dim

    def features(params, obs, action, key):
        gradients = jax.vmap(jax.grad(run.policy.log_prob), (None, 0, 0))(params, obs, action)
        flat = jnp.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(gradients)], 1)
        return flat @ estimate.gaussian(key, flat.shape[1], dim)

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


def fine_tune(run: Run, triples: tuple[int, int], updates: int) -> dict:
    """Train some subsets from theta* and its critic, warm."""
    member = members(run)[slice(*triples)]
    keys = row_keys(run.config.stream("rows"), member)
    init = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], len(member), 0), run.meta)

    def go(count):
        rows = Rows(member, np.full(len(member), count * run.config.ppo.steps_per_update), keys, init)
        began = time.perf_counter()
        learn.train(run.policy, run.config.ppo, run.family, rows)
        return time.perf_counter() - began

    go(1)
    return {"rows": len(member), "updates": updates, "timings": {"train": go(updates)}}


def count_update(run: Run) -> float:
    """Operations of one update of one row."""
    family, config = run.family, run.config.ppo
    problem = device.Problem(jax.tree.map(jnp.asarray, family.tasks), jnp.asarray(family.context))
    member, key = jnp.asarray(members(run)[0]), jax.random.PRNGKey(0)
    state = device.start(run.policy, family.env, config, problem, member, run.meta, key)

    def update(problem, member, state):
        known = (run.policy, family.env, family.horizon, config, problem)
        return device.update(*known, member, 40, state)[0].learning.agent

    return operations(update, problem, member, state)


def ratios(cells: list[dict]) -> dict | None:
    """Fine-tuning over estimation on one platform, in operations and in time; None before both are
    complete."""
    first = next((c for c in cells if c["cell"]["part"] == "estimate"), None)
    tuned = [c for c in cells if c["cell"]["part"] == "fine_tune"]
    if first is None or sum(c["rows"] for c in tuned) < first["subsets"]:
        return None
    work = sum(c["rows"] * c["updates"] for c in tuned) * first["operations_per_update"]
    seconds = sum(c["timings"]["train"] for c in tuned)
    own = first["operations"]
    return {
        "fine_tune_operations": work,
        "operations": work / own["total"],
        "operations_with_selection": work / (own["total"] + own["features_to_select"]),
        "operations_without_features": work / (own["total"] - own["features"]),
        "timings": {
            "fine_tune_seconds": seconds,
            "time": seconds / first["timings"]["with_features"],
            "time_with_selection": seconds / first["timings"]["with_selection"],
            "time_without_features": seconds / first["timings"]["without_features"],
        },
    }


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    small = settings.preset == "small"
    updates, repeats = (1, 1) if small else (settings.updates, settings.repeats)
    run = make_run(settings)
    path = result_path("estimation", settings.preset, settings.out)
    about = {"seed": settings.seed, "updates": updates, "config": run.config, "family": run.family.settings}
    results = ResultFile(path, name="estimation", command="python benchmarks/estimation.py", settings=about)
    count = len(members(run))
    ranges = [[a, min(a + settings.chunk, count)] for a in range(0, count, settings.chunk)]

    def compute(cell: Mapping) -> dict:
        if cell["part"] == "estimate":
            return estimation(run, repeats) | {"operations_per_update": count_update(run)}
        return fine_tune(run, tuple(cell["triples"]), updates)

    todo = [{"part": "estimate"}, *({"part": "fine_tune", "triples": r} for r in ranges)]
    here = {"platform": jax.default_backend()}
    results.run([here | cell for cell in todo], compute)
    print(plain(ratios([c for c in results.cells if here.items() <= c["cell"].items()])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
