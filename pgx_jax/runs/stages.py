"""The stages of a run in order: what each needs, how it is computed, and what it says when it is done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from pgx_jax import learn, pipeline
from pgx_jax.compare.em import Clustered, cluster
from pgx_jax.compare.judging import named_groups
from pgx_jax.compare.looks import Found, Looked, look_again
from pgx_jax.compare.methods import clustered_at, planted
from pgx_jax.compare.oracle import Oracle, search
from pgx_jax.compare.pool import EMPTY, Pool, Row, train_pool
from pgx_jax.learn import Cloned, Trained
from pgx_jax.pipeline import Scored
from pgx_jax.report import wording
from pgx_jax.runs.assemble import assemble, stability_result
from pgx_jax.runs.records import Records
from pgx_jax.stability import Stability
from pgx_jax.types import Affinity, Features, Grouping, Scores, Surrogates, Transitions


class Stage(NamedTuple):
    """One arrow of the pipeline."""

    compute: Callable[[Records], Any]
    """The record, from those of earlier stages."""
    text: Callable[[Records, Any], str]
    """The record in one line."""
    needs: tuple[str, ...] = ()
    """Stages whose records it reads."""
    record: type[NamedTuple] | Sequence[type[NamedTuple]] = ()
    """Class of its record, or classes that occur in it."""


def _demonstrations(run: Records) -> Cloned:
    return pipeline.clone_experts(run.policy, run.family, run.config)


def _demonstrations_text(run: Records, cloned: Cloned) -> str:
    succeed = f", of which {np.mean(cloned.success):.0%} of the episodes succeed"
    told = succeed if run.family.metric == "success" else ""
    return f"{int(cloned.steps):,} steps of experts{told}: theta* is demonstration-initialised"


def _meta(run: Records) -> Trained:
    learner = replace(run.learner, num_envs=run.budget.meta_envs)  # type: ignore[type-var]
    ends, agents = (0, *run.budget.ends), None
    if run.look > 1:
        agents = run.at_look(run.look - 1, "meta").agents
    elif run.config.demonstrations:
        agents = learn.stack([run.cloned.agent])
    return pipeline.meta_train(
        run.policy, learner, run.family, run.config, ends[run.look] - ends[run.look - 1],
        look=run.look, agents=agents, **run.reporting("meta"),
    )  # fmt: skip


def _meta_text(run: Records, trained: Trained) -> str:
    recent = np.nanmean(trained.returns[0, -5:])
    if run.family.metric == "success":
        ends = "" if trained.at_end is None else f" ({np.nanmean(trained.at_end[0, -5:]):.2f} at the end)"
        return f"success {recent:.2f}{ends} in the last updates, after {run.budget.meta:,} steps"
    return f"mean return {recent:.1f} after {run.budget.meta:,} steps"


def _transitions(run: Records) -> Transitions:
    return pipeline.collect(run.policy, run.learner, run.family, run.config, run.meta, run.look)


def _transitions_text(run: Records, t: Transitions) -> str:
    sources, tasks = len(t.action), len(t.advantage)
    which = "each of" if sources > 1 else "one source for"
    return f"{t.action.shape[1]:,} transitions of {which} {tasks} tasks"


def _features(run: Records) -> Features:
    params, names = learn.policy_params(run.meta), run.family.task_names
    return pipeline.features(run.policy.log_prob, params, run.transitions, run.config, names)


def _features_text(run: Records, f: Features) -> str:
    size = sum(np.size(x) for x in jax.tree.leaves(learn.policy_params(run.meta)))
    left_out = "" if f.private is None else f" ({int(np.sum(f.private)):,} of single tasks left out)"
    return f"gradients of {size:,} parameters{left_out} projected to {f.values.shape[-1]} dimensions"


def _scores(run: Records) -> Scored:
    return pipeline.score_subsets(
        run.features, run.transitions, pipeline.subsets(run.config, run.family.n), run.config.estimate,
        names=run.family.task_names, log_prob=run.policy.log_prob,
        params=learn.policy_params(run.meta),
        roll_out=pipeline.make_roll_out(run.policy, run.family, run.meta, run.config),
    )  # fmt: skip


def _scores_text(run: Records, scored: Scored) -> str:
    if not len(scored.scores.member):
        return "no subsets: the affinity comes from the tasks' gradients"
    return f"{len(scored.scores.member)} subsets solved and scored by {run.config.estimate.score}"


def _affinity(run: Records) -> Affinity:
    return pipeline.affinity(run.scored.scores, run.held_out, run.config.estimate)


def _affinity_text(run: Records, affinity: Affinity) -> str:
    if affinity.coverage is None:
        return "from the tasks' gradients and curvature, without subsets"
    return f"every pair met in at least {int(affinity.coverage.min())} subsets"


def _grouping(run: Records) -> Grouping:
    return pipeline.choose_groups(
        run.affinity, run.held_out, run.config, k=run.config.k,
        looks=pipeline.look_count(run.config), names=run.family.task_names,
    )  # fmt: skip


def _grouping_text(run: Records, found: Grouping) -> str:
    groups = named_groups(found.labels, run.family.task_names)
    return f"k = {found.k}: " + " | ".join(", ".join(group) for group in groups)


def _stability(run: Records) -> Stability | None:
    return pipeline.stability(run.affinity, run.held_out, run.grouping, run.config, scores=run.scored.scores)


def _stability_text(run: Records, found: Stability | None) -> str:
    if found is None:
        return "trajectories were not drawn again: how certain the groups are is not told"
    told = stability_result(found, run.family.task_names)
    assert told is not None
    return wording.certainty(told)


def _looks(run: Records) -> Looked:
    return look_again(
        run.policy, run.learner, run.family, run.config, run.budget, run.grouping.labels, run.meta,
        run.held_out, scoring=int(run.scored.steps), **run.reporting("looks"),
    )  # fmt: skip


def _looks_text(run: Records, looked: Looked) -> str:
    if not looked.found:
        return "no group was looked at again"
    pairs = [found for found in looked.found if found.guest is not None]
    alone = len(looked.found) - len(pairs)
    split = sum(found.k > 1 for found in looked.found) - sum(found.k > 1 for found in pairs)
    joined = sum(found.k == 1 for found in pairs)
    return f"{alone} looked at again, {split} split, {joined} of {len(pairs)} pairs joined: k = {looked.k}"


def _similarity(run: Records) -> dict[str, Grouping]:
    return pipeline.similar_groups(run.held_out, run.config, run.k)


def _similarity_text(run: Records, found: dict[str, Grouping]) -> str:
    return ", ".join(f"{name}: k = {found[name].k}" for name in run.config.similarities)


def _clustering(run: Records) -> dict[str, Clustered]:
    """Clustering on returns, with our number of policies and the planted one where that is another."""
    wanted = clustered_at(run.config, run.k, planted(run.family.true_groups))
    known = (run.policy, run.learner, run.family, run.config, run.budget)
    heard = run.listener.progress, run.listener.metrics
    made = {name: cluster(*known, k, *heard) for k, name in wanted.items()}
    return {name: found for name, found in made.items() if found is not None}


def _clustering_text(run: Records, found: dict[str, Clustered]) -> str:
    parts = [f"{c.labels.max() + 1} groups in {len(c.rounds)} rounds" for c in found.values()]
    return ", ".join(parts) or "one policy, or too few steps for a round"


def _oracle(run: Records) -> Oracle:
    return search(run.contest(), run.policies_by_name, run.family, run.meta, **run.reporting("oracle"))


def _oracle_text(run: Records, found: Oracle) -> str:
    groups = " | ".join(map(", ".join, named_groups(found.labels, run.family.task_names)))
    return f"{groups}: best of {len(found.partitions)} partitions, by {_pool_text(run, found.pool)}"


def _pool(run: Records, stage: str, rows: Sequence[Row], known: Pool) -> Pool:
    starts = None if run.looked is None else run.looked.starts()
    return train_pool(
        rows, run.policies_by_name, run.learners, run.family, run.config, run.meta, known,
        starts=starts, **run.reporting(stage),
    )  # fmt: skip


def _policies(run: Records) -> Pool:
    return _pool(run, "policies", run.ours().rows, EMPTY)


def _comparisons(run: Records) -> Pool:
    rows = [row for methods in run.baselines().values() for m in methods for row in m.rows]
    return _pool(run, "comparisons", rows, run.trained())


def _pool_text(run: Records, pool: Pool) -> str:
    return f"{len(pool.rows)} policies, {sum(row.steps for row in pool.rows):,} steps"


STAGES: dict[str, Stage] = {
    "demonstrations": Stage(_demonstrations, _demonstrations_text, (), Cloned),
    "meta": Stage(_meta, _meta_text, ("demonstrations",), Trained),
    "transitions": Stage(_transitions, _transitions_text, ("meta",), Transitions),
    "features": Stage(_features, _features_text, ("transitions",), Features),
    "scores": Stage(_scores, _scores_text, ("features",), (Scored, Surrogates, Scores)),
    "affinity": Stage(_affinity, _affinity_text, ("scores",), Affinity),
    "grouping": Stage(_grouping, _grouping_text, ("affinity",), Grouping),
    "stability": Stage(_stability, _stability_text, ("grouping",), (Stability,)),
    "looks": Stage(_looks, _looks_text, ("grouping",), (Looked, Found, Pool, Row)),
    "policies": Stage(_policies, _pool_text, ("looks",), (Pool, Row)),
    "similarity": Stage(_similarity, _similarity_text, ("looks",)),
    "clustering": Stage(_clustering, _clustering_text, ("looks",), (Clustered, Pool, Row)),
    "oracle": Stage(_oracle, _oracle_text, ("looks",), (Oracle, Pool, Row)),
    "comparisons": Stage(
        _comparisons, _pool_text, ("policies", "similarity", "clustering", "oracle"), (Pool, Row)
    ),
    "evaluation": Stage(
        assemble, lambda run, results: f"{len(results.methods)} method(s)", ("comparisons", "stability")
    ),
}
"""Every stage by its name, in the order in which they run; those of ``records.ASKED`` run again, under
numbered names, where the meta-policy trains on and is looked at once more."""


def stage_of(name: str) -> Stage:
    """The stage of a name that may be numbered ("meta-2")."""
    return STAGES[name.partition("-")[0]]


WITHOUT_BASELINES = {"evaluation": ("policies", "stability")}
"""What stages need instead where nothing is compared with ours."""


def needed(stage: str, *, compares: bool, left_out: Collection[str] = ()) -> list[str]:
    """A stage and all that it is computed from, in order.

    Args:
        stage: its name.
        compares: whether baselines are trained.
        left_out: stages that there is no need of: "meta" where a meta-policy is given, say.
    """
    found, todo = set(), [stage]
    while todo:
        name = todo.pop()
        if name in left_out or name in found:
            continue
        found.add(name)
        other = None if compares else WITHOUT_BASELINES.get(name)
        todo += STAGES[name].needs if other is None else other
    return [name for name in STAGES if name in found]
