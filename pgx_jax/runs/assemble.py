"""The results of a run, put together from its records."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from pgx_jax import estimate, grouping, learn, pipeline
from pgx_jax.compare import judging, results, summaries
from pgx_jax.compare.looks import Found, gain
from pgx_jax.compare.methods import distinct
from pgx_jax.compare.results import OURS
from pgx_jax.compare.summaries import numbers
from pgx_jax.compare.unseen import unseen_tasks
from pgx_jax.learn import Trained
from pgx_jax.runs.records import Records
from pgx_jax.runs.serial import jsonable
from pgx_jax.stability import Stability
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Affinity, Grouping


def assemble(run: Records) -> results.Results:
    """What results.json holds of a finished run, all but advice and timings."""
    mine, others = run.ours(), run.baselines()
    pool = run.trained().joined(run.comparisons) if others else run.policies
    family, found = run.family, run.grouping
    multitask = others.get("multitask_continued", others.get("multitask"))
    tell = run.listener.doing
    tell(f"{run.config.episodes} episodes of every policy and task")
    played = judging.play(pool, run.policies_by_name, run.learners, family, run.config)
    entries = {OURS: judging.method_result([mine], played, family)}
    entries |= {name: judging.method_result(m, played, family, mine) for name, m in others.items()}
    predicted, labels = pipeline.predicted_gain(found), run.labels
    by_task, before = results.BY_TASK if family.metric == "success" else (), meta_curve(run)
    curves = {
        name: summaries.learning_curve(distinct(m), pool, by_task=name in by_task, before=before)
        for name, m in ({OURS: [mine]} | others).items()
    }
    tell("trials on unseen tasks, and what the estimate is to be judged by")
    truth = None if family.true_groups is None else grouping.canonical(np.asarray(family.true_groups))
    whole = results.Results(
        family=family.name,
        family_settings=jsonable(family.settings),
        n_tasks=family.n,
        task_names=list(family.task_names),
        told=run.policy.conditioned_actor,
        seed=run.config.seed,
        k=run.k,
        groups=judging.named_groups(labels, family.task_names),
        methods=entries,
        gain=results.Gain(
            results.Interval(**predicted),
            judging.difference(mine, multitask, played) if multitask else None,
        ),
        evidence=evidence_result(found),
        affinity=affinity_result(run.affinity),
        path=path_result(found),
        stability=stability_result(run.stability, family.task_names),
        looks=look_results(run),
        curves=curves,
        test_tasks=unseen_tasks(
            {OURS: mine} | {name: m[0] for name, m in others.items()}, pool, run.policies_by_name,
            run.learners, family, run.config,
        ),
        diagnostics=diagnostics(run),
        true_groups=None if truth is None else judging.named_groups(truth, family.task_names),
        agreement=agreement(family, labels),
        schema_version=results.SCHEMA_VERSION,
    )  # fmt: skip
    return results.finite(whole)


def meta_curve(run: Records) -> summaries.Before | None:
    """How theta* was trained, over all looks at it; None where it was given."""
    if run.own_meta is not None:
        return None
    parts = [run.at_look(look, "meta") for look in range(1, run.budget.look + 1)]
    returns = np.concatenate([part.returns[0] for part in parts])
    ends = [part.at_end[0] for part in parts if part.at_end is not None]
    steps = run.budget.demonstrated + np.linspace(0, run.budget.meta, len(returns) + 1)[1:]
    return summaries.Before(steps, returns, np.concatenate(ends) if len(ends) == len(parts) else None)


def evidence_result(found: Grouping) -> results.Evidence | None:
    """What the nested choice told of a grouping; None if it was not asked."""
    nested = grouping.Nested.of(found.path)
    if nested is None or found.path is None:
        return None
    needed = float(found.path["nested_needed"])
    return results.Evidence(
        gain=results.Interval(nested.gain, grouping.interval(nested.gain, nested.stderr)),
        z=nested.z,
        needed=needed,
        null=nested.null,
        together=nested.together,
        opposition=results.Interval(
            nested.opposition, grouping.interval(nested.opposition, nested.opposition_stderr)
        ),
        kind=nested.kind(needed),
    )


def look_results(run: Records) -> list[results.LookResult]:
    """What every look at the meta-policy, and then at the groups, has found."""
    looked, before = run.looked, run.budget.total - run.budget.rest(int(run.scored.steps))
    found = [_first_looks(run, look) for look in range(1, run.look + 1)]
    if looked is not None:
        found += [f._replace(steps=before + f.steps) for f in looked.found]
    return [_look_result(f, run.family) for f in found]


def _first_looks(run: Records, look: int) -> Found:
    """A look at the meta-policy."""
    grouping, budget = run.at_look(look, "grouping"), run.spends.at(look)
    scoring = int(run.at_look(look, "scores").steps)
    return Found(
        look, np.ones(run.family.n, bool), grouping.labels, gain(grouping), budget.collect_once,
        budget.total - budget.rest(scoring),
    )  # fmt: skip


def _look_result(found: Found, family: TaskFamily) -> results.LookResult:
    """The same with the tasks' names."""
    mean, low, high = numbers(found.gain)
    names = np.array(family.task_names)
    groups = [names[found.labels == group].tolist() for group in range(found.k)]
    return results.LookResult(
        look=int(found.look),
        tasks=names[found.member].tolist(),
        joining=[] if found.guest is None else names[found.guest].tolist(),
        groups=groups,
        gain=results.Interval(mean, None if low is None else (low, high)),
        collected=int(found.collected),
        env_steps=int(found.steps),
    )


def affinity_result(affinity: Affinity) -> results.AffinityResult:
    """The affinity of the results."""
    met = affinity.coverage
    return results.AffinityResult(numbers(affinity.matrix), None if met is None else np.asarray(met).tolist())


def stability_result(found: Stability | None, names: Sequence[str]) -> results.StabilityResult | None:
    """How certain affinity and groups are, with the tasks' names; None where that was not told."""
    if found is None:
        return None
    groups, together = judging.named_groups(found.found, names), found.together
    cohesion = grouping.cohesion(together, found.found)
    measures = (numbers(values) for values in cohesion)
    return results.StabilityResult(
        resamples=len(found.labels),
        groups=groups,
        affinity_ci95=results.Bounds(numbers(found.low), numbers(found.high)),
        together=numbers(together),
        by_group=[
            results.GroupCertainty(tasks=tasks, within=within, least=least, across=across)
            for tasks, within, least, across in zip(groups, *measures, strict=True)
        ],
        undecided=[
            results.UndecidedTask(
                task=names[one.task],
                mates=[name for name in groups[found.found[one.task]] if name != names[one.task]],
                own=None if np.isnan(one.own) else one.own,
                others=groups[one.other],
                elsewhere=one.elsewhere,
            )
            for one in grouping.undecided(together, found.found)
        ],
        same_groups=float(np.mean((found.labels == found.found).all(1))),
        same_k=found.same_k,
    )


def agreement(family: TaskFamily, labels: np.ndarray) -> results.Agreement | None:
    """How well groups int [n] agree with the planted ones; None if there are none."""
    if family.true_groups is None:
        return None
    truth = np.asarray(family.true_groups)
    return results.Agreement(
        grouping.nmi(truth, labels), grouping.ari(truth, labels), bool(grouping.exact(truth, labels))
    )


def diagnostics(run: Records) -> results.Diagnostics:
    """Numbers by which to judge the estimate itself."""
    feats, transitions, config = run.features, run.transitions, run.config.estimate
    params, scored = learn.policy_params(run.meta), run.scored
    solved = pipeline.fit_subsets(feats, transitions, run.grouping.member, config)
    a = estimate.signed_weights(transitions)
    moved = estimate.lift_dual(run.policy.log_prob, params, transitions, a, solved, feats)
    bounds = None
    if config.reads_scores(n := run.family.n):
        key, kind = run.config.stream("interval"), config.affinity_of(n)
        low, high = estimate.affinity_interval(scored.scores, key, kind)
        bounds = results.Bounds(numbers(low), numbers(high))
    return results.Diagnostics(
        parameters=int(sum(np.size(x) for x in jax.tree.leaves(params))),
        private_parameters=0 if feats.private is None else int(np.sum(feats.private)),
        subsets=len(scored.scores.member),
        l2=float(solved.l2),
        relative_distance=numbers(np.asarray(estimate.relative_distance(moved, params))),
        affinity_ci95=bounds,
        scoring_steps=int(scored.steps),
        demonstration_steps=run.budget.demonstrated,
        meta_steps=run.budget.meta,
        collect_steps=run.budget.collect,
        measured={} if run.own_meta is not None else measured(run.meta_training),
    )


def measured(trained: Trained) -> dict[str, list[float | None]]:
    """What was measured of the updates of a single row."""
    return {name: numbers(values[0]) for name, values in trained.measured.items()}


def path_result(found: Grouping) -> results.PathResult:
    """All candidates, how they scored, and which was chosen."""
    path = found.path
    assert path is not None, "of a grouping that was chosen"
    return results.PathResult(
        k=np.asarray(path["k"]).tolist(),
        labels=np.asarray(path["candidates"]).tolist(),
        chosen=int(path["chosen"]),
        score=numbers(path["score"]),
        stderr=numbers(path["stderr_to_best"]),
        difference=numbers(path["difference"]),
        penalty=numbers(path["penalty"]),
        solver=np.asarray(path["solver"]).tolist() if "solver" in path else None,
        equal=np.asarray(path["equal"]).tolist(),
    )
