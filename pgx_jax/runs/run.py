"""A run: the stages of the pipeline in order, saved as they finish, resumed where they stopped."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import msgspec

from pgx_jax import learn, pipeline, report
from pgx_jax.compare import methods, results
from pgx_jax.compare.budget import check_scoring, make_budget
from pgx_jax.compare.methods import Contest, Method, Methods
from pgx_jax.compare.pool import Pool
from pgx_jax.compare.results import Results, Timings
from pgx_jax.config import Config, check, config_for
from pgx_jax.errors import ConfigError, DataError, PgxError, pick
from pgx_jax.learn import Learner, Policy, Trained
from pgx_jax.runs.checkpoint import StageCheckpoint
from pgx_jax.runs.provenance import environment, identity
from pgx_jax.runs.stages import STAGES, Scored, needed
from pgx_jax.runs.store import RunStore
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.checks import check_family
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Affinity, Agent, Features, Grouping, Transitions


class Listener:
    """Hears what a run is doing; this one keeps silent."""

    def start(self, stage: str) -> None:
        """A stage begins."""

    def progress(self, done: int, total: int, recent: float) -> None:
        """Training goes on: environment steps done and in all, recent mean return."""

    def finish(self, stage: str, seconds: float, text: str) -> None:
        """A stage has ended, with its result in one line."""

    def loaded(self, stage: str, text: str) -> None:
        """A stage was done in an earlier sitting and has been read from the run's folder."""


class Run:
    """All records of one run.

    `compute` does the work, stage by stage (`runs.stages.STAGES`). The attributes read what is
    computed, or saved in the run's folder, and compute nothing.
    """

    def __init__(
        self,
        family: TaskFamily,
        config: Config | None = None,
        *,
        store: RunStore | None = None,
        policy: Policy | None = None,
        meta: Agent | None = None,
        policies: Mapping[str, Policy] | None = None,
        learners: Mapping[str, Learner] | None = None,
        listener: Listener | None = None,
    ):
        """Prepare a run; nothing is computed yet.

        Args:
            family: the tasks.
            config: settings; those of `config_for(family)` by default.
            store: where the stages are saved; None keeps them in memory.
            policy: networks of one's own, instead of ``config.policy``.
            meta: a meta-policy of one's own, whose training is not counted.
            policies, learners: further ones by name, for ``config.learner`` and ``config.baselines``.
            listener: hears about progress.

        Raises:
            ConfigError: settings that cannot work, or an environment that breaks what its family says.
        """
        self.family, self.config = family, config_for(family) if config is None else config
        self.store, self.listener, self.own_meta = store, listener or Listener(), meta
        self.records: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        check_family(family)
        check(self.config, family)
        self.learners = learn.learners_by_name(self.config.ppo, learners)
        self.learner = pick(self.learners, self.config.learner, "learner")
        self.policy = policy or self.config.policy.make(family)
        self.policies_by_name = learn.policies_by_name(family, self.policy, self.config.policy, policies)
        self._check_agents()
        told = self.policy.conditioned_actor
        self.budget = make_budget(self.config, family, self.learner, told=told, own_meta=meta is not None)
        check_scoring(self.budget, self.config, family, self.learner)

    def _check_agents(self) -> None:
        """Refuse networks that do not fit the family, a meta-policy of others, and unknown baselines."""
        expected = learn.check_networks(self.policy, self.family)
        if self.own_meta is not None:
            learn.check_agent(self.own_meta, expected)
        for name in self.config.baselines:
            policy, learner = methods.split_name(name)
            learn.check_networks(
                pick(self.policies_by_name, policy, f"baselines: the policy of {name!r}"), self.family
            )
            pick(self.learners, learner, f"baselines: the learner of {name!r}")

    # What is computed, or saved

    def compute(self, stage: str = "evaluation") -> Run:
        """Compute what is missing of a stage and of all that it needs; returns the run.

        Raises:
            ConfigError: no such stage.
            DataError, SolverError: what a stage could not use; earlier stages stay on disk.
        """
        if stage not in STAGES:
            raise ConfigError(f"there is no stage {stage!r}; the stages are {', '.join(STAGES)}")
        compares = bool(methods.BASELINES[self.config.compare])
        for name in needed(stage, compares=compares, own_meta=self.own_meta is not None):
            if name not in self.records and not self._load(name, remade=True):
                self._compute(name)
        return self

    def record(self, stage: str) -> Any:
        """The record of a stage that is computed or saved.

        Raises:
            ConfigError: it is neither; how to compute it.
            DataError: what is saved is damaged.
        """
        if stage not in self.records and not self._load(stage):
            raise ConfigError(f"the stage {stage!r} is not computed yet; call run.compute({stage!r}) first")
        return self.records[stage]

    @property
    def meta(self) -> Agent:
        """theta*, its critic and normalisation."""
        return self.own_meta if self.own_meta is not None else learn.take(self.meta_training.agents, 0)

    @property
    def meta_training(self) -> Trained:
        """The training of theta*."""
        return self.record("meta")

    @property
    def transitions(self) -> Transitions:
        """What theta* experienced."""
        return self.record("transitions")

    @property
    def features(self) -> Features:
        """Their projected gradients."""
        return self.record("features")

    @property
    def scored(self) -> Scored:
        """All subsets, solved and scored."""
        return self.record("scores")

    @property
    def affinity(self) -> Affinity:
        """How well pairs of tasks go together."""
        return self.record("affinity")

    @property
    def grouping(self) -> Grouping:
        """The partition."""
        return self.record("grouping")

    @property
    def similar(self) -> dict[str, Grouping]:
        """Groupings by every gradient similarity: at their own k ("dot"), and at ours ("dot_our_k")."""
        return self.record("similarity")

    @property
    def policies(self) -> Pool:
        """One trained policy a group."""
        return self.record("policies")

    @property
    def comparisons(self) -> Pool:
        """The policies of all baselines that are not among ours."""
        return self.record("comparisons")

    @property
    def results(self) -> Results:
        """What results.json holds."""
        return self.record("evaluation")

    # What follows from records without any training

    @functools.cached_property
    def held_out(self) -> pipeline.HeldOut:
        """Judges partitions on held-out trajectories."""
        return pipeline.HeldOut(
            self.features, self.transitions, self.config.estimate, self.config.stream("deal"),
            self.family.task_names,
        )  # fmt: skip

    def ours(self) -> Method:
        """Our groups under the rule of comparison."""
        return methods.ours(self._contest())

    def baselines(self) -> Methods:
        """The methods beside ours."""
        if not methods.BASELINES[self.config.compare]:
            return {}
        similar = {name: found.labels for name, found in self.similar.items()}
        return methods.baselines(self._contest()._replace(similar=similar))

    def _contest(self) -> Contest:
        """What methods are made from, without the groups by similarity."""
        return Contest(
            config=self.config,
            budget=self.budget,
            learners=self.learners,
            labels=self.grouping.labels,
            true_groups=self.family.true_groups,
            scoring=int(self.scored.steps),
            told=self.policy.conditioned_actor,
        )

    def agent_for(self, task: str) -> Agent:
        """The trained group policy that serves a task, by the task's name.

        Raises:
            ConfigError: no such task, or the policies are not trained yet.
        """
        names = self.family.task_names
        if task not in names:
            raise ConfigError(f"no task {task!r} in this run; its tasks are {', '.join(names)}")
        mine = self.ours()
        return self.policies.agent(mine.rows[mine.labels[names.index(task)]])

    def write(self) -> Path | None:
        """Write results.json and the report; returns the report's path, None without a folder."""
        if self.store is None:
            return None
        self.store.write_json("results.json", results.to_plain(self.results))
        return write_report(self.store, self.results)

    # How stages are kept

    def reporting(self, stage: str) -> dict[str, Any]:
        """What the training of a stage is given besides: where it reports, and its checkpoint."""
        return {"progress": self.listener.progress, "checkpoint": self._checkpoint(stage)}

    def _checkpoint(self, stage: str) -> StageCheckpoint | None:
        """Where the training of a stage keeps what it has reached; None without a folder."""
        return StageCheckpoint(self.store, stage) if self.store is not None else None

    def _load(self, stage: str, remade: bool = False) -> bool:
        """Read a stage that is saved; False if it is not (or is another version's results, to be remade)."""
        if self.store is None or stage not in STAGES:
            return False
        if stage == EVALUATION:
            if not self.store.has_file("results.json"):
                return False
            try:
                record = results.from_plain(self.store.read_json("results.json"))
            except DataError:
                if remade:
                    return False
                raise
        elif self.store.has(stage):
            record = self.store.load(stage, STAGES[stage].record)
        else:
            return False
        self.records[stage] = record
        self.listener.loaded(stage, STAGES[stage].text(self, record))
        return True

    def _compute(self, stage: str) -> None:
        """Compute a stage from the records of earlier ones, time it, and save it.

        An error of ours is raised again, with the name of the stage before it.
        """
        self.listener.start(stage)
        began = time.perf_counter()
        try:
            record = jax.block_until_ready(STAGES[stage].compute(self))
        except PgxError as error:
            raise type(error)(f"{stage}: {error}") from error
        self.seconds[stage] = seconds = time.perf_counter() - began
        text = STAGES[stage].text(self, record)
        if self.store is not None:
            self.store.append_metrics({"stage": stage, "seconds": seconds, "result": text})
        if stage == EVALUATION:
            record = msgspec.structs.replace(record, advice=report.advice(record), timings=self._timings())
        elif self.store is not None:
            self.store.save(stage, record)
            StageCheckpoint(self.store, stage).clear()
        self.records[stage] = record
        self.listener.finish(stage, seconds, text)

    def _timings(self) -> Timings:
        """Seconds of all stages, those of earlier sittings too, and today's date."""
        saved = {m["stage"]: m["seconds"] for m in self.store.metrics() if "stage" in m} if self.store else {}
        stages = saved | self.seconds
        date = time.strftime("%Y-%m-%d %H:%M:%S")
        return Timings(list(stages.items()), sum(stages.values()), date)


EVALUATION = "evaluation"
"""The last stage, whose record is results.json."""


def write_report(store: RunStore, found: Results) -> Path:
    """Write the report of a run's results into its folder, in place of an older one; returns its path."""
    files = report.render(found, store.config)
    for name in report.FILES:
        if name in files:
            store.write_file(name, files[name])
        else:
            store.remove_file(name)
    return store.path / "report.html"


def run(
    family: TaskFamily | str,
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    policy: Policy | None = None,
    meta: Agent | None = None,
    policies: Mapping[str, Policy] | None = None,
    learners: Mapping[str, Learner] | None = None,
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
        policies, learners: further ones by name, for ``config.learner`` and ``config.baselines``.
        listener: hears about progress.
        overwrite: replace an earlier run in ``out``.

    Raises:
        ConfigError: settings or a folder that cannot work, before any long work.
        DataError, SolverError: what a stage could not use; earlier stages stay on disk.
    """
    family = make_family(family) if isinstance(family, str) else family
    config = config_for(family) if config is None else config
    this = Run(
        family, config, policy=policy, meta=meta, policies=policies, learners=learners, listener=listener
    )
    if out is not None:
        record = {
            "family": family.name, "family_settings": family.settings, "config": config,
            "identity": identity(family, policy), "environment": environment(),
            "own_policy": policy is not None, "own_meta": meta is not None,
        }  # fmt: skip
        this.store = RunStore.create(out, record, overwrite=overwrite)
        if meta is not None:
            this.store.save("given_meta", meta)
    this.compute()
    this.write()
    return this
