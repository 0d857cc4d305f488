"""A run: the stages of the pipeline in order, saved as they finish, resumed where they stopped."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

from pgx_jax import estimate, learn, pipeline, report
from pgx_jax.compare import methods as judge
from pgx_jax.tasks.checks import check_family
from pgx_jax.config import Budget, Config, config_for
from pgx_jax.compare.methods import Method
from pgx_jax.learn import Policy, Trained
from pgx_jax.compare.pool import EMPTY, Pool, Row, train_pool
from pgx_jax.runs.provenance import environment, identity
from pgx_jax.runs.assemble import assemble
from pgx_jax.runs.stages import Listener, Stages
from pgx_jax.runs.store import RunStore
from pgx_jax.streams import stream
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Affinity, Agent, Features, Grouping, Scores, Surrogates, Transitions
from pgx_jax.validation import check
from pgx_jax.report.wording import SIMILAR


class Run(Stages):
    """All records of one run. Every property is a stage: computed when first asked for, saved if
    the run has a folder, and loaded from there if it is done already."""

    def __init__(
        self,
        family: TaskFamily,
        config: Config | None = None,
        *,
        store: RunStore | None = None,
        policy: Policy | None = None,
        meta: Agent | None = None,
        listener: Listener | None = None,
    ):
        """Prepare a run; nothing is computed yet.

        Args:
            family: the tasks.
            config: settings; those of `config_for(family)` by default.
            store: where the stages are saved; None keeps them in memory.
            policy: networks of one's own, instead of ``config.policy``.
            meta: a meta-policy of one's own, whose training is not counted.
            listener: hears about progress.

        Raises:
            ConfigError: settings that cannot work, or an environment that breaks what its family says.
        """
        super().__init__(store, listener)
        self.family, self.config = family, config_for(family) if config is None else config
        check_family(family)
        conditioned = (policy or self.config.policy).conditioned_actor
        self.budget: Budget = check(self.config, family, conditioned)
        self.policy = policy or pipeline.make_policy(family, self.config)
        expected = learn.check_networks(self.policy, family)
        self.own_meta = meta
        if meta is not None:
            learn.check_agent(meta, expected)
            self.budget.meta = 0

    @property
    def meta(self) -> Agent:
        """theta*, its critic and normalisation."""
        return self.own_meta if self.own_meta is not None else learn.take(self.meta_training.agents, 0)

    @property
    def meta_training(self) -> Trained:
        """The training of theta*."""

        def compute():
            return pipeline.meta_train(self.policy, self.family, self.config, **self.training("meta"))

        def text(record):
            recent = np.nanmean(record.returns[0, -5:])
            return f"mean return {recent:.1f} after {int(record.steps[0]):,} steps"

        return self.stage("meta", Trained, compute, text)

    @property
    def transitions(self) -> Transitions:
        """What theta* experienced."""
        meta = self.meta
        return self.stage(
            "transitions",
            Transitions,
            lambda: pipeline.collect(self.policy, self.family, self.config, meta),
            lambda t: (
                f"{t.action.shape[1]:,} transitions of {'each of' if len(t.split) > 1 else 'one source for'} "
                f"{len(t.advantage)} tasks"
            ),
        )

    @property
    def features(self) -> Features:
        """Their projected gradients."""
        transitions, names = self.transitions, self.family.task_names
        params = learn.policy_params(self.meta)
        size = sum(np.size(x) for x in jax.tree.leaves(params))
        return self.stage(
            "features",
            Features,
            lambda: pipeline.features(self.policy.log_prob, params, transitions, self.config, names),
            lambda f: f"gradients of {size:,} parameters projected to {f.values.shape[-1]} dimensions",
        )

    @property
    def scored(self) -> dict:
        """{"surrogates", "scores", "steps"}: all subsets, and the steps that scoring took."""
        feats, transitions = self.features, self.transitions

        def compute():
            roll_out, spent = pipeline.make_roll_out(self.policy, self.family, self.meta, self.config)
            surrogates, scores = pipeline.score_subsets(
                feats, transitions, self.budget.subsets, self.config.estimate, names=self.family.task_names,
                log_prob=self.policy.log_prob, params=learn.policy_params(self.meta), roll_out=roll_out,
            )  # fmt: skip
            return {"surrogates": surrogates, "scores": scores, "steps": np.array(sum(spent))}

        return self.stage(
            "scores", (Surrogates, Scores), compute,
            lambda r: f"{len(r['scores'].member)} subsets solved and scored by {self.config.estimate.score}",
        )  # fmt: skip

    @property
    def affinity(self) -> Affinity:
        """How well pairs of tasks go together."""
        scores = self.scored["scores"]
        return self.stage(
            "affinity", Affinity, lambda: estimate.affinity(scores, self.config.estimate.affinity),
            lambda a: f"every pair met in at least {int(a.coverage.min())} subsets",
        )  # fmt: skip

    @functools.cached_property
    def held_out(self) -> pipeline.HeldOut:
        """Judges partitions on held-out trajectories."""
        key, names = stream(self.config.seed, "deal"), self.family.task_names
        return pipeline.HeldOut(self.features, self.transitions, self.config.estimate, key, names)

    @property
    def grouping(self) -> Grouping:
        """The partition."""
        affinity, config, names = self.affinity, self.config, self.family.task_names

        def text(record):
            return f"k = {record.k}: " + " | ".join(
                ", ".join(group) for group in judge.named_groups(record.labels, names)
            )

        return self.stage(
            "grouping", Grouping,
            lambda: pipeline.choose_groups(affinity, self.held_out, config, k=config.k, names=names),
            text,
        )  # fmt: skip

    @property
    def similar(self) -> dict[str, Grouping]:
        """Groupings by every gradient similarity: at their own k ("dot"), and at ours ("dot_our_k")."""
        k = self.grouping.k

        def compute():
            return pipeline.similar_groups(self.held_out, self.config, k)

        return self.stage(
            "similarity", (), compute,
            lambda found: ", ".join(f"{name}: k = {found[name].k}" for name in self.config.similarities),
        )  # fmt: skip

    @property
    def ours(self) -> Method:
        """Our groups under the rule of comparison."""
        return judge.ours(self.budget, self.config, self.grouping.labels, int(self.scored["steps"]))

    @property
    def policies(self) -> Pool:
        """One trained policy a group."""
        return self._pool("policies", self.ours.rows, EMPTY)

    @property
    def baselines(self) -> dict[str, list[Method]]:
        """The methods beside ours."""
        if self.config.compare == "none":
            return {}
        similar = {f"{SIMILAR}_{name}": found.labels for name, found in self.similar.items()}
        true_groups = self.family.true_groups
        return judge.baselines(
            self.budget, self.config, self.grouping.labels, similar, true_groups,
            scoring=int(self.scored["steps"]), told=self.policy.conditioned_actor,
        )  # fmt: skip

    @property
    def comparisons(self) -> Pool:
        """The policies of all baselines."""
        rows = [row for methods in self.baselines.values() for m in methods for row in m.rows]
        return self._pool("comparisons", rows, self.policies)

    def policy_of(self, conditioned: bool) -> Policy:
        """The policy of blind or of conditioned rows."""
        return dataclasses.replace(
            self.policy, conditioned_actor=self.policy.conditioned_actor or conditioned
        )

    def _pool(self, name, rows, known: Pool) -> Pool:
        def compute():
            return train_pool(
                rows, self.policy_of, self.family, self.config, self.meta, known, **self.training(name)
            )

        def text(pool):
            return f"{len(pool.rows)} policies, {sum(row.steps for row in pool.rows):,} steps"

        pool = self.stage(name, (Pool, Row), compute, text)
        rows = tuple(Row(*row) for row in pool.rows)
        return Pool(rows, tuple(pool.agents), tuple(pool.returns))

    @property
    def results(self) -> dict:
        """What results.json holds."""
        if "results" not in self.records:
            if self.policies and self.baselines:  # stages of their own, so not timed as evaluation
                self.comparisons  # noqa: B018
            results = self.timed("evaluation", lambda: assemble(self))
            self.records["results"] = results | {"timings": self.timings()}
            self.listener.finish(
                "evaluation", self.seconds["evaluation"], f"{len(results['methods'])} method(s)"
            )
        return self.records["results"]

    def write(self) -> Path | None:
        """Write results.json and report.html; returns the path of the report."""
        results = self.results
        if self.store is None:
            return None
        self.store.write_json("results.json", results)
        return report.build(results, self.store.config, self.store.path)


def run(
    family: TaskFamily | str,
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    policy: Policy | None = None,
    meta: Agent | None = None,
    listener: Listener | None = None,
    overwrite: bool = False,
) -> Run:
    """Run the whole method, and return its records.

    Args:
        family: a task family, or the name of a registered one.
        config: settings; those of `config_for(family)` by default.
        out: run folder to be made; None keeps everything in memory.
        policy: networks of one's own.
        meta: a meta-policy of one's own.
        listener: hears about progress.
        overwrite: replace an earlier run in ``out``.

    Raises:
        ConfigError: settings or a folder that cannot work, before any long work.
        DataError, SolverError: what a stage could not use; earlier stages stay on disk.
    """
    if isinstance(family, str):
        from pgx_jax.tasks.registry import make_family

        family = make_family(family)
    config = config_for(family) if config is None else config
    this = Run(family, config, policy=policy, meta=meta, listener=listener)
    if out is not None:
        record = {
            "family": family.name, "family_settings": family.settings, "config": config,
            "identity": identity(family, policy), "environment": environment(),
            "own_policy": policy is not None, "own_meta": meta is not None,
        }  # fmt: skip
        this.store = RunStore.create(out, record, overwrite=overwrite)
        if meta is not None:
            this.store.save("given_meta", meta)
    this.write()
    this.results  # noqa: B018  (computes everything where there is no folder)
    return this
