"""What a run has found so far: its records by the names of their stages, and what follows from them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from shlex import quote
from typing import Any

import numpy as np

from pgx_jax import learn
from pgx_jax.compare import methods, oracle
from pgx_jax.compare.budget import Budget, check_scoring, make_budget
from pgx_jax.compare.em import Clustered
from pgx_jax.compare.looks import Looked
from pgx_jax.compare.methods import Contest, Method, Methods
from pgx_jax.compare.oracle import Oracle
from pgx_jax.compare.pool import Pool
from pgx_jax.compare.results import Results
from pgx_jax.config import Config, check, config_for
from pgx_jax.errors import ConfigError, check_argument, checked, key_values, pick
from pgx_jax.held_out import HeldOut
from pgx_jax.learn import PPO, Cloned, Learner, Policy, Trained
from pgx_jax.pipeline import Scored
from pgx_jax.runs.checkpoint import StageCheckpoint
from pgx_jax.runs.store import RunStore
from pgx_jax.runs.watching.listener import Listener
from pgx_jax.show import Player
from pgx_jax.stability import Stability
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.checks import check_family
from pgx_jax.types import Affinity, Agent, Features, Grouping, Transitions

ASKED = ("meta", "transitions", "features", "scores", "affinity", "grouping")
"""Stages that are gone through at every look at the meta-policy."""


def numbered(stage: str, look: int) -> str:
    """The name of a stage at one of several looks: "meta", "meta-2", and so on."""
    return stage if look == 1 or stage not in ASKED else f"{stage}-{look}"


class Records:
    """All records of one run, in memory or in its folder; reading them computes nothing."""

    @checked
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
        self.listener.metric = family.metric
        self.records: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self._judges: dict[int, HeldOut] = {}
        check_family(family)
        check(self.config, family)
        self.learners = learn.learners_by_name(self.config.ppo, learners)
        name, options = self.config.learner, key_values(self.config.learner_options, "learner_options:")
        self.learner = learn.with_options(self._learner(name, "learner"), name, options)
        self.learners[name] = self.learner
        self.policy = policy or self.config.policy.make(family)
        for each, own in (policies or {}).items():
            check_argument(own, Policy, f"policies[{each!r}]")
        self.policies_by_name = learn.policies_by_name(family, self.policy, self.config.policy, policies)
        self._check_agents()
        self._check_telling()
        self._check_demonstrations()
        told = self.policy.conditioned_actor
        self.spends = make_budget(self.config, family, self.learner, told=told, own_meta=meta is not None)
        self.look = self._last_look()
        check_scoring(self.budget, self.config, family, self.learner)
        methods.check_baselines(self.config, self.budget, self.learners)

    def _check_agents(self) -> None:
        """Refuse networks that do not fit the family, learners that do not work with them, a meta-policy of
        others, and unknown baselines."""
        if self.policy.remembers:
            raise ConfigError(
                f"the run's own policy ({type(self.policy.actor).__name__}) has memory: groups are found by "
                f"log pi(a|s) of single steps, which it does not have. Take a network without memory "
                f"(policy.network), and compare by --baselines gru/rl2"
            )
        expected = self._check_agent(self.policy, self.learner, self.config.learner)
        if self.own_meta is not None:
            learn.check_agent(self.own_meta, expected)
        for name in self.config.baselines:
            policy, learner, _ = methods.split_name(name)
            self._check_agent(
                pick(self.policies_by_name, policy, f"baselines: the policy of {name!r}"),
                self._learner(learner, f"baselines: the learner of {name!r}"),
                learner,
            )

    def _check_telling(self) -> None:
        """Refuse to tell the groups' policies their task where they cannot go on from a blind one."""
        if not self.config.tell_groups:
            return
        if self.policy.conditioned_actor:
            raise ConfigError(
                "tell_groups: the meta-policy is told its task already (policy.conditioned_actor, or a "
                "network that needs the task)"
            )
        if not self.config.continue_meta:
            raise ConfigError("tell_groups: the groups must go on from the meta-policy; set continue_meta")
        if not learn.can_be_told(self.policy, self.family):
            raise ConfigError("tell_groups: these networks cannot go on told their task; see learn.tell")

    def _check_demonstrations(self) -> None:
        """Refuse demonstrations where nobody can show, or where no theta* is trained that could begin so."""
        if not self.config.demonstrations:
            return
        if self.own_meta is not None:
            raise ConfigError("demonstrations: the meta-policy is given, and begins with none; set them to 0")
        learn.check_demonstrable(self.policy, self.family)

    def _learner(self, name: str, setting: str) -> Learner:
        """The learner of a name that a setting gives."""
        found = pick(self.learners, name, setting)
        learn.check_form(found, name)
        return found

    def _check_agent(self, policy: Policy, learner: Learner, name: str) -> Agent:
        """Refuse a policy and its learner if they cannot work; shapes and types of the policy's agents."""
        learner.check(self.family.n, name)
        learn.check_memory(learner, policy, name)
        agent = learn.check_networks(policy, self.family)
        if type(learner) is not PPO:  # which works, wherever the networks do
            learn.check_learner(learner, policy, self.family, agent, name)
        return agent

    def most_steps(self, contest: Contest | None = None) -> int:
        """Environment steps that all training takes, at most (`methods.most_steps`), where the groups are any
        or those of ``contest``: the search for the best of all partitions included, and its policies."""
        contest = self.assumed(np.arange(self.family.n) % 2) if contest is None else contest
        if not (most := methods.most_steps(contest)):
            return 0
        searched = oracle.planned(contest)
        return most + sum(row.steps for row in searched) + (contest.budget.total if searched else 0)

    def assumed(self, labels: np.ndarray) -> Contest:
        """What methods are made from, were these int [n] the groups that the first look and all similarities
        find."""
        return Contest(
            self.config, self.spends, self.learners, labels, true_groups=self.family.true_groups,
            similar={f"{kind}{own}": labels for kind in self.config.similarities for own in ("", "_our_k")},
            parameters=self.family.parameters(), told=self.policy.conditioned_actor,
            can_be_told=learn.can_be_told(self.policy, self.family),
        )  # fmt: skip

    def _last_look(self) -> int:
        """The last look at the meta-policy that is computed or saved whole; 1 if there is none."""
        looks = range(len(self.spends.ends), 1, -1)
        names = {look: numbered("grouping", look) for look in looks}
        known = (look for look, name in names.items() if name in self.records or self._has(name))
        return next(known, 1)

    @property
    def budget(self) -> Budget:
        """What the total is spent on, up to the present look, or to a later one that found no signal."""
        looks = range(self.look, len(self.spends.ends) + 1)
        names = {look: numbered("meta", look) for look in looks}
        begun = [look for look, name in names.items() if name in self.records or self._has(name)]
        return self.spends.at(max(begun, default=self.look))

    def record(self, stage: str) -> Any:
        """The record of a stage that is computed or saved; of the last look, where there are several.

        Raises:
            ConfigError: it is neither; how to compute it.
            DataError: what is saved is damaged.
        """
        name = numbered(stage, self.look)
        if name not in self.records and not self._load(name):
            saved = "" if self.store is None else f", or `pgx-jax resume {quote(str(self.store.path))}`,"
            raise ConfigError(
                f"the stage {name!r} is not computed yet; call run.compute({stage!r}){saved} first"
            )
        return self.records[name]

    def at_look(self, look: int, stage: str) -> Any:
        """The record of a stage of ``ASKED`` at one of the looks at the meta-policy."""
        now, self.look = self.look, look
        try:
            return self.record(stage)
        finally:
            self.look = now

    @property
    def meta(self) -> Agent:
        """theta*, its critic and normalisation."""
        return self.own_meta if self.own_meta is not None else learn.take(self.meta_training.agents, 0)

    @property
    def cloned(self) -> Cloned:
        """Where theta* begins, if it begins with demonstrations."""
        return self.record("demonstrations")

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
    def stability(self) -> Stability | None:
        """How certain affinity and groups are at the last look at theta*; None where that was not told, and
        in runs that were finished without it."""
        return self.record("stability") if "stability" in self.records or self._has("stability") else None

    @property
    def looked(self) -> Looked | None:
        """What came of looking at the groups again; None in runs that were finished without it."""
        return self.record("looks") if "looks" in self.records or self._has("looks") else None

    @property
    def labels(self) -> np.ndarray:
        """int [n]: the groups after all looks."""
        looked = self.looked
        return self.grouping.labels if looked is None else looked.labels

    @property
    def k(self) -> int:
        """Number of groups after all looks."""
        return int(self.labels.max()) + 1

    @property
    def similar(self) -> dict[str, Grouping]:
        """Groupings by every gradient similarity: at their own k ("dot"), and at ours ("dot_our_k")."""
        return self.record("similarity")

    @property
    def clustered(self) -> dict[str, Clustered]:
        """Groupings by clustering on returns, and their policies; none in runs that do, or were finished,
        without."""
        if not methods.clusters(self.config):
            return {}
        older = "clustering" not in self.records and not self._has("clustering") and self._has("comparisons")
        return {} if older else self.record("clustering")

    @property
    def oracle(self) -> Oracle | None:
        """The best of all partitions, by training every subset; None where it was not searched for."""
        return self.record("oracle") if "oracle" in self.records or self._has("oracle") else None

    @property
    def policies(self) -> Pool:
        """One trained policy a group."""
        return self.record("policies")

    def trained(self) -> Pool:
        """Our policies and those of clustering and of all subsets, which the comparisons need not train."""
        pools = [found.pool for found in self.clustered.values()]
        pools += [] if self.oracle is None else [self.oracle.pool]
        return functools.reduce(Pool.joined, pools, self.policies)

    @property
    def comparisons(self) -> Pool:
        """The policies of all baselines that are not among ours."""
        return self.record("comparisons")

    @property
    def results(self) -> Results:
        """What results.json holds."""
        return self.record("evaluation")

    # What follows from records without any training

    @property
    def held_out(self) -> HeldOut:
        """Judges partitions on held-out trajectories of the last look at the meta-policy."""
        if self.look not in self._judges:
            self._judges = {self.look: self._judge()}
        return self._judges[self.look]

    def _judge(self) -> HeldOut:
        return HeldOut(
            self.features, self.transitions, self.config.estimate, self.config.stream("deal"),
            self.family.task_names, log_prob=self.policy.log_prob, params=learn.policy_params(self.meta),
        )  # fmt: skip

    def ours(self) -> Method:
        """Our groups under the rule of comparison."""
        return methods.ours(self.contest())

    def baselines(self) -> Methods:
        """The methods beside ours."""
        if not methods.BASELINES[self.config.compare]:
            return {}
        similar = {name: found.labels for name, found in self.similar.items()}
        told = learn.can_be_told(self.policy, self.family)
        best = self.oracle
        contest = self.contest()._replace(
            similar=similar,
            clustered=self.clustered,
            best=None if best is None else best.labels,
            searching=0 if best is None else best.steps,
            can_be_told=told,
            parameters=self.family.parameters(),
        )
        return methods.baselines(contest)

    def contest(self) -> Contest:
        """What methods are made from, without what only the baselines need."""
        return Contest(
            config=self.config,
            budget=self.budget,
            learners=self.learners,
            labels=self.labels,
            true_groups=self.family.true_groups,
            scoring=int(self.scored.steps),
            looked=self.looked,
            told=self.policy.conditioned_actor,
        )

    @property
    def group_policy(self) -> Policy:
        """The networks of the groups' policies: those of the meta-policy, told their task or not."""
        return self.policies_by_name[self.ours().rows[0].policy]

    def agent_for(self, task: str) -> Agent:
        """The trained group policy that serves a task, by the task's name; its networks are `group_policy`.

        Of a learner that adapts (``adaptation_steps``) it is the policy before it has adapted to the task;
        evaluation has adapted it, from experience there, and thrown the result away.

        Raises:
            ConfigError: no such task, or the policies are not trained yet.
        """
        names = self.family.task_names
        if task not in names:
            raise ConfigError(f"no task {task!r} in this run; its tasks are {', '.join(names)}")
        mine = self.ours()
        return self.policies.agent(mine.rows[mine.labels[names.index(task)]])

    @property
    def player(self) -> Player:
        """Its groups' policies, to be drawn (`pgx_jax.show.roll_out`); see `agent_for`."""
        names = self.family.task_names
        return Player(
            self.group_policy.action, lambda task: (self.agent_for(names[task]), self.family.context[task])
        )

    def reporting(self, stage: str) -> dict[str, Any]:
        """What the training of a stage is given besides: who hears of it, and its checkpoint."""
        checkpoint = self._checkpoint(numbered(stage, self.look))
        heard = {"progress": self.listener.progress, "metrics": self.listener.metrics}
        return heard | {"checkpoint": checkpoint}

    def _checkpoint(self, stage: str) -> StageCheckpoint | None:
        """Where the training of a stage keeps what it has reached; None without a folder."""
        return StageCheckpoint(self.store, stage) if self.store is not None else None

    def _has(self, stage: str) -> bool:
        """Whether a stage is saved."""
        return self.store is not None and self.store.has(stage)

    def _load(self, stage: str) -> bool:
        """Read a stage that is saved; False if it is not."""
        raise NotImplementedError
