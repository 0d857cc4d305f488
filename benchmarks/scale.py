"""Time, memory and recovery against the number of tasks: `python benchmarks/scale.py`.

Five parts. "groups": from given transitions with planted groups (see planted.py) to a grouping whose k is
chosen on held-out data, with the default settings, each in a fresh process: against the tasks n, the
parameters p, and the number m of subsets where they are sampled. "affinity": which affinity tells the
planted groups, where noise makes it hard: from subsets, by several designs, or from gradients alone.
"relaxation": one relaxation with tr X = k by each solver, and by the form in which the paper's laboratory
publishes it, on planted affinities. "run": a whole run with a hundred tasks. "devices": the same work spread
over one device and over several (of a CPU, so many parts of it as are asked for).
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from common import Preset, ResultFile, result_path
from planted import affinity, log_prob, planted
from sklearn.metrics import roc_auc_score

from pgx_jax import PPO, Config, estimate, group_transitions, grouping, make_family, mesh, pipeline
from pgx_jax.cli.main import main as command
from pgx_jax.config import override
from pgx_jax.held_out import HeldOut
from pgx_jax.learn import make_policy, train
from pgx_jax.runs.saved import load
from pgx_jax.types import FIT, SCORE, Rows

GROUPS = {10: 5, 100: 10, 200: 10, 500: 20, 1000: 20}
"""Planted groups of so many tasks."""
DATA = {"transitions": 512, "hidden": 32, "noise": 3.0, "own": 0.0}
"""Of each task; all groups of ten tasks are recovered at this noise."""
HARD = {"transitions": 512, "hidden": 32, "noise": 4.0, "own": 0.5}
"""At which no affinity recovers all."""
DESIGNS: dict[str, dict[str, Any]] = {
    "lines, each pair three times": {"min_cover": 3},
    "lines, each pair twelve times": {"min_cover": 12},
    "triples, each pair twelve times": {"size": 3, "min_cover": 12},
}
GRADIENTS = ("closed_form", "whitened", "cosine", "dot")
LABORATORY = "as published"
UP_TO = {"CLARABEL": 60, "SCS": 200, "ADMM": 1000, LABORATORY: 60}
"""Largest n that a solver of the relaxation is given; what takes more than minutes is left out."""
DEVICES = (1, 2, 8)
"""Over how many the same work is spread."""
Part = Literal["groups", "affinity", "relaxation", "run", "devices"]


@dataclass(frozen=True)
class Settings:
    """Measure what many tasks take."""

    preset: Preset = "full"
    """full: what the docs show; small: seconds, for tests."""
    only: Annotated[tuple[Part, ...], tyro.conf.UseAppendAction] = ()
    """Only these parts (may be repeated)."""
    out: Path | None = None
    """File of the results."""


def groups_cells(small: bool) -> list[dict]:
    """Against n; then, at a hundred tasks, against p and m."""
    if small:
        return [{"part": "groups", "n": 34, "k": 2, "seed": 0, "config": SMALL} | DATA | {"transitions": 96}]
    base: dict[str, Any] = {"part": "groups", "seed": 0, "config": {}} | DATA
    found = [base | {"n": 10, "k": 5, "seed": seed} for seed in range(3)]
    found += [base | {"n": n, "k": k} for n, k in GROUPS.items() if n > 10]
    hundred = base | {"n": 100, "k": 10}
    found += [hundred | {"hidden": hidden} for hidden in (128, 512)]
    found += [hundred | {"own": 0.5}]
    sampled = {"affinity": "per_task"}
    return found + [hundred | {"config": {"estimate": sampled | {"min_cover": c}}} for c in (3, 12)]


SMALL = {"estimate": {"dim": 16}, "grouping": {"penalties": (0.3, 1.0)}}


def affinity_cells(small: bool) -> list[dict]:
    """Sixty tasks in six groups, three times."""
    if small:
        hard = HARD | {"n": 34, "k": 2, "transitions": 96, "dim": 16}
        return [{"part": "affinity", "seed": 0, "designs": ["lines, each pair three times"]} | hard]
    hard = HARD | {"n": 60, "k": 6, "dim": 400}
    return [{"part": "affinity", "seed": seed, "designs": list(DESIGNS)} | hard for seed in range(3)]


def relaxation_cells(small: bool) -> list[dict]:
    """Every solver at growing n."""
    sizes = {8: 2} if small else {10: 3, 30: 5, 60: 6, 100: 10, 200: 10, 500: 20, 1000: 20}
    solvers = [*grouping.SDP_SOLVERS, LABORATORY]
    return [
        {"part": "relaxation", "n": n, "k": k, "noise": 0.7, "seed": 0, "solver": solver}
        for n, k in sizes.items()
        for solver in solvers
        if n <= UP_TO.get(solver, n)
    ]


def run_cells(small: bool) -> list[dict]:
    """A run of the family points."""
    if small:
        return []
    args = ["run", "points", "--n-tasks", "100", "--set", "n_groups=5", "--steps-per-task", "10240"]
    return [{"part": "run", "args": [*args, "--compare", "none"]}]


def devices_cells(small: bool) -> list[dict]:
    """By number of devices."""
    if small:
        return [groups_cells(True)[0] | {"part": "devices", "devices": 1, "rows": 3, "updates": 2}]
    base: dict[str, Any] = {"part": "devices", "seed": 0, "config": {}, "n": 60, "k": 6, "rows": 64} | DATA
    return [base | {"devices": count, "updates": 64} for count in DEVICES]


CELLS = {
    "groups": groups_cells, "affinity": affinity_cells, "relaxation": relaxation_cells, "run": run_cells,
    "devices": devices_cells,
}  # fmt: skip


def data(cell: Mapping):
    """The planted data of a cell."""
    known = {name: cell[name] for name in ("hidden", "transitions", "noise", "own", "seed")}
    return planted(cell["n"], cell["k"], **known)


def agreement(truth: np.ndarray, labels: np.ndarray) -> dict:
    """k, and how the groups agree with the planted ones."""
    return {
        "k": int(labels.max()) + 1,
        "nmi": grouping.nmi(truth, labels),
        "ari": grouping.ari(truth, labels),
        "exact": bool(grouping.exact(truth, labels)),
    }


def of_groups(cell: Mapping) -> dict:
    """From transitions to groups."""
    params, transitions, labels = data(cell)
    config = override(Config(), cell["config"])
    began, spent = time.perf_counter(), time.process_time()
    found = group_transitions(log_prob, params, transitions, config)
    seconds, cpu = time.perf_counter() - began, time.process_time() - spent
    sizes = {"parameters": sum(int(np.size(x)) for x in params), "subsets": len(found.scores.member)}
    candidates = len(found.grouping.path["candidates"])
    told = {"sizes": sizes | {"candidates": candidates}, "timings": {"grouping": seconds, "cpu": cpu}}
    return agreement(labels, found.grouping.labels) | told


def of_affinity(cell: Mapping) -> dict:
    """How every affinity tells the pairs of a group, and the groups at the planted k."""
    params, transitions, labels = data(cell)
    config = override(Config(), {"estimate": {"dim": cell["dim"]}})
    feats = pipeline.features(log_prob, params, transitions, config)
    pairs, kinds = np.triu_indices(cell["n"], 1), {}

    def add(name: str, matrix: np.ndarray, seconds: float, subsets: int) -> None:
        U = grouping.standardise(matrix)
        auc = roc_auc_score((labels[:, None] == labels)[pairs], U[pairs])
        found = grouping.group(matrix, k=cell["k"]).labels
        kinds[name] = {"auc": float(auc), "nmi": grouping.nmi(labels, found), "subsets": subsets}
        kinds[name]["timings"] = {"seconds": seconds}

    held_out = HeldOut(feats, transitions, config.estimate, config.stream("deal"))
    held_out.data.statistics((FIT, SCORE)).h.block_until_ready()  # compiles, and is shared by all
    for name in GRADIENTS:
        began = time.perf_counter()
        add(name, held_out.similarity(name, (FIT, SCORE)), time.perf_counter() - began, 0)
    for name in cell["designs"]:
        member = estimate.make_subsets(cell["seed"], cell["n"], **DESIGNS[name])
        began = time.perf_counter()
        scored = pipeline.score_subsets(feats, transitions, member, config.estimate)
        matrix = estimate.affinity(scored.scores).matrix
        add(name, matrix, time.perf_counter() - began, len(member))
    return {"kinds": kinds}


def of_relaxation(cell: Mapping) -> dict:
    """One relaxation, its violation of the constraints, and what it rounds to."""
    matrix, labels = affinity(cell["n"], cell["k"], noise=cell["noise"], seed=cell["seed"])
    U, k = grouping.standardise(matrix), cell["k"]
    solve = laboratory if cell["solver"] == LABORATORY else grouping.solve_sdp
    known = {} if cell["solver"] == LABORATORY else {"solver": cell["solver"]}
    if cell["n"] <= 200:
        solve(U, k=k, **known)  # compiles
    began = time.perf_counter()
    X = solve(U, k=k, **known)
    seconds = time.perf_counter() - began
    rounded = grouping.round_sdp(X, U, k=k)
    value, best = float(np.sum(U * X)), grouping.objective(U, labels)
    rough = agreement(labels, linked(X)) if cell["solver"] == LABORATORY else {}
    return agreement(labels, rounded) | {
        "infeasibility": grouping.infeasibility(X, k),
        "objective": value,
        "planted_objective": best,
        "rounded_objective": grouping.objective(U, rounded),
        "as_published": rough,
        "timings": {"solve": seconds, "round": time.perf_counter() - began - seconds},
    }


def laboratory(U: np.ndarray, k: int) -> np.ndarray:
    """The relaxation as the paper's laboratory publishes it: every row sum is the trace of a dense matrix
    times X, and CVXPY chooses the solver."""
    import cvxpy as cp

    n = len(U)
    X = cp.Variable((n, n), symmetric=True)
    rows = [np.outer(np.ones(n), row) for row in np.eye(n)]
    constraints = [X >> 0, X >= 0, cp.trace(X) == k, *(cp.trace(row @ X) == 1 for row in rows)]
    problem = cp.Problem(cp.Minimize(cp.trace((U.max() - U) @ X)), constraints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve()
    return (X.value + X.value.T) / 2


def linked(X: np.ndarray) -> np.ndarray:
    """And as it is rounded there: tasks with X_ij > 1/n belong together."""
    from scipy.sparse.csgraph import connected_components

    return connected_components(len(X) * X > 1, directed=False)[1]


def of_run(cell: Mapping) -> dict:
    """A whole run from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began, spent = time.perf_counter(), time.process_time()
        status = command([*cell["args"], "--out", str(out)])
        seconds, cpu = time.perf_counter() - began, time.process_time() - spent
        if status:
            raise RuntimeError(f"the command ended with status {status}")
        run = load(out)
        stages = dict(run.results.timings.stages)
        labels, truth = run.labels, np.asarray(run.family.true_groups)
    return agreement(truth, labels) | {"timings": {"command": seconds, "cpu": cpu, "stages": stages}}


def of_devices(cell: Mapping) -> dict:
    """Transitions to groups, and rows that train side by side; programs compiled before."""
    mesh.use_devices(cell["devices"])
    family, ppo = make_family("points", n_tasks=20, n_groups=4), PPO(num_envs=20, num_steps=32)
    policy, key = make_policy(family), jax.random.PRNGKey(cell["seed"])
    member = np.eye(20, dtype=bool)[np.arange(cell["rows"]) % 20]
    steps = np.full(len(member), cell["updates"] * ppo.steps_per_update)
    rows = Rows(member, steps, np.asarray(jax.random.split(key, len(member))))
    params, transitions, labels = data(cell)
    config, seconds = override(Config(), cell["config"]), {}
    for _ in range(2):
        began = time.perf_counter()
        found = group_transitions(log_prob, params, transitions, config)
        seconds["grouping"] = time.perf_counter() - began
        began = time.perf_counter()
        trained = train(policy, ppo, family, rows)
        seconds["training"] = time.perf_counter() - began
    numbers = {
        "score": float(np.max(found.grouping.path["score"])),
        "return": float(np.nanmean(trained.returns)),
    }
    return agreement(labels, found.grouping.labels) | {"numbers": numbers, "timings": seconds}


COMPUTE: dict[str, Callable[[Mapping], dict]] = {
    "groups": of_groups,
    "affinity": of_affinity,
    "relaxation": of_relaxation,
    "run": of_run,
    "devices": of_devices,
}


def measured(cell: Mapping) -> dict:
    """A cell, with the largest memory that the process has held."""
    result = COMPUTE[cell["part"]](cell)
    unit = 1 if sys.platform == "darwin" else 1024
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return result | {"timings": result.get("timings", {}) | {"peak_bytes": held}}


def afresh(cell: Mapping) -> dict:
    """The same in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measured, cell).result()


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    small = settings.preset == "small"
    path = result_path("scale", settings.preset, settings.out)
    results = ResultFile(path, name="scale", command="python benchmarks/scale.py")
    for part in settings.only or CELLS:
        results.run(CELLS[part](small), measured if small else afresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
