"""The results of a run: everything that results.json holds."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from pgx_jax import estimate, grouping, learn, pipeline, report
from pgx_jax.compare import methods as judge
from pgx_jax.streams import stream
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Affinity, Grouping
from pgx_jax.compare.unseen import unseen_tasks


def assemble(run: Any) -> dict:
    """What results.json holds of a `Run`, all but the timings.

    A method's entry (see `judge.method_entry`) has its mean over tasks with an interval, and, beside
    ours, ``difference``: ours minus it, paired, as ``gain.realised`` is for one policy for all.
    """
    methods = {"policygradex": [run.ours], **run.baselines}
    pool = run.policies + run.comparisons if run.baselines else run.policies
    family, found = run.family, run.grouping
    played = judge.play(pool, run.policy_of, family, run.config)
    mine, multitask = methods["policygradex"][0], methods.get("multitask", [None])[0]
    entries = {name: judge.method_entry(m, played, family) for name, m in methods.items()}
    for name, others in run.baselines.items():
        entries[name]["difference"] = judge.difference(mine, others, played)
    gain = {"predicted": pipeline.predicted_gain(found.labels, run.held_out), "realised": None}
    if multitask:
        gain["realised"] = entries["multitask"]["difference"]
    results = {
        "family": family.name, "family_settings": family.settings, "n_tasks": family.n,
        "task_names": family.task_names, "seed": run.config.seed, "k": found.k,
        "groups": judge.named_groups(found.labels, family.task_names),
        "methods": entries,
        "gain": gain,
        "affinity": affinity_entry(run.affinity),
        "path": path_entry(found),
        "curves": {name: judge.learning_curve(m, pool) for name, m in methods.items()},
        "test_tasks": unseen_tasks(mine, multitask, pool, run.policy, family, run.config),
        "diagnostics": diagnostics(run),
        "true_groups": None, "agreement": agreement(family, found),
    }  # fmt: skip
    if family.true_groups is not None:
        truth = grouping.canonical(np.asarray(family.true_groups))
        results["true_groups"] = judge.named_groups(truth, family.task_names)
    results["advice"] = report.advice(results)
    return results


def affinity_entry(affinity: Affinity) -> dict:
    """The affinity of results.json."""
    return {"matrix": affinity.matrix, "coverage": affinity.coverage}


def agreement(family: TaskFamily, found: Grouping) -> dict | None:
    """How well a grouping agrees with the planted one; None if there is none."""
    if family.true_groups is None:
        return None
    truth = np.asarray(family.true_groups)
    return {
        "nmi": grouping.nmi(truth, found.labels), "ari": grouping.ari(truth, found.labels),
        "exact": bool(grouping.exact(truth, found.labels)),
    }  # fmt: skip


def diagnostics(run: Any) -> dict:
    """Numbers by which to judge the estimate itself."""
    feats, transitions = run.features, run.transitions
    params, member = learn.policy_params(run.meta), run.grouping.member
    solved = pipeline.fit_subsets(feats, transitions, member, run.config.estimate)
    a = estimate.signed_weights(transitions)
    moved = estimate.lift_dual(run.policy.log_prob, params, transitions, a, solved, feats)
    key, kind = stream(run.config.seed, "interval"), run.config.estimate.affinity
    low, high = estimate.affinity_interval(run.scored["scores"], key, kind)
    return {
        "parameters": int(sum(np.size(x) for x in jax.tree.leaves(params))),
        "subsets": len(run.budget.subsets),
        "l2": float(solved.l2),
        "relative_distance": np.asarray(estimate.relative_distance(moved, params)).tolist(),
        "affinity_ci95": {"low": low, "high": high},
        "scoring_steps": int(run.scored["steps"]),
        "meta_steps": run.budget.meta,
        "collect_steps": run.budget.collect,
    }


def path_entry(found: Grouping) -> dict:
    """The path of results.json: all candidates, how they scored, and which was chosen."""
    path = found.path
    return {
        "k": path["k"], "score": path["score"], "stderr": path["stderr_to_best"],
        "difference": path["difference"], "chosen": int(path["chosen"]), "labels": path["candidates"],
        "penalty": path["penalty"], "equal": path["equal"],
    }  # fmt: skip
