"""All settings of a run, with general defaults; a family may ask for others (a larger budget, say)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pgx_jax.errors import ConfigError
from pgx_jax.estimate import SCORES, EstimateConfig, make_subsets
from pgx_jax.grouping import SIMILARITIES, GroupingConfig
from pgx_jax.learn import PPO, relabels
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Named


@dataclass(frozen=True)
class PolicyConfig:
    """Settings of the networks."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and critic."""
    conditioned_actor: bool = False
    """Tell the actor which task it is on."""
    conditioned_critic: bool = True
    """Tell the critic which task it is on."""
    normalise_observations: bool = False
    """Normalise observations by running moments."""
    squash: bool = False
    """Pass continuous actions through tanh instead of clipping them."""


@dataclass(frozen=True)
class Config:
    """Settings of a run."""

    seed: int = 0
    """Seed of everything random but the family."""
    k: int | None = None
    """Number of groups; chosen by held-out data if not given."""
    steps_per_task: int = 122_880
    """Environment steps of every method, per task of the family."""
    meta_fraction: float = 0.25
    """Part of all steps that the meta-policy trains for."""
    meta_entropy: float | None = 0.15
    """Weight of the entropy bonus of the meta-policy, that of PPO if None. It must not settle: where it
    has given a task up, so that nothing that it does changes the reward, no gradient tells what that
    task wants."""
    continue_meta: bool = True
    """Train the groups from the meta-policy and its critic, exploring afresh, instead of from scratch."""
    compare: Literal["none", "fast", "full"] = "fast"
    """Baselines to train at the same total: none, those of the report, or also some outside the rule."""
    random_draws: int = 3
    """Random groupings to average over."""
    similarities: tuple[Named[str, SIMILARITIES], ...] = ("dot", "cosine", "whitened")
    """Gradient similarities to group by as well."""
    episodes: int = 64
    """Evaluation episodes of every policy and task."""
    test_tasks: int = 10
    """Unseen tasks that the final policies are tried on."""
    trial_episodes: int = 8
    """Episodes of each group's policy on an unseen task, by which the task finds its group."""
    rows_per_call: int | None = None
    """Policies that one compiled program trains at a time; what is fastest on the platform by default."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    ppo: PPO = field(default_factory=PPO)
    estimate: EstimateConfig = field(default_factory=EstimateConfig)
    grouping: GroupingConfig = field(default_factory=GroupingConfig)


def config_for(family: TaskFamily) -> Config:
    """The default settings, with those in their place that the family asks for.

    Raises:
        ConfigError: if the family asks for a setting that there is not.
    """
    config = Config()
    for name, value in family.defaults.items():
        try:
            config = override(config, {name: value})
        except AttributeError:
            raise ConfigError(
                f"family {family.name!r} has a default for {name!r}, which is not a setting of a run"
            ) from None
    return config


def override(settings: Any, changes: Mapping[str, Any]) -> Any:
    """A settings dataclass with changes by dotted or nested names.

    ``{"k": 3, "ppo.gamma": 0.9, "estimate": {"score": "importance"}}``; lists become tuples.
    AttributeError for a setting that there is not.
    """
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        current = getattr(settings, first)
        if rest:
            value = override(current, {rest: value})
        elif isinstance(value, Mapping):
            value = override(current, value)
        settings = replace(settings, **{first: tuple(value) if isinstance(value, list) else value})
    return settings


def collects(e: EstimateConfig, family: TaskFamily, conditioned_actor: bool) -> tuple[int, int, int]:
    """Sources U that are collected, and each one's transitions N and environments."""
    if not relabels(family, conditioned_actor):
        return family.n, e.steps, e.num_envs
    multiple = min(e.source_multiple, family.n)
    return 1, multiple * e.steps, multiple * e.num_envs


class Budget:
    """The rule of comparison: every method has the same total of environment steps.

    What a method needs before its policies exist comes out of the total, and its policies share
    the rest by their numbers of tasks. All numbers are environment steps.
    """

    def __init__(self, config: Config, family: TaskFamily, conditioned_actor: bool | None = None):
        """Work out the budget.

        Args:
            config, family: what is to be done.
            conditioned_actor: whether the actor is told the task, where it is not that of ``config.policy``.

        Raises:
            ConfigError: if the total leaves nothing for the groups, or subsets cannot be drawn.
        """
        self.unit = config.ppo.steps_per_update
        """Environment steps of one update."""
        self.n = family.n
        self.total = config.steps_per_task * family.n
        """T of every method."""
        self.meta = max(1, round(config.meta_fraction * self.total / self.unit)) * self.unit
        told = config.policy.conditioned_actor if conditioned_actor is None else conditioned_actor
        sources, steps, _ = collects(config.estimate, family, told)
        self.collect = sources * steps
        if self.rest(0) < self.n * self.unit:
            raise ConfigError(
                f"{self.total} steps in all leave {self.rest(0)} for the groups after meta-training "
                f"({self.meta}) and collecting ({self.collect}); one update a task takes "
                f"{self.n * self.unit}: raise steps_per_task or lower meta_fraction"
            )
        e = config.estimate
        self.subsets = make_subsets(config.seed, family.n, e.subset_size, e.subsets, e.min_cover)
        self._check_rollouts(e, family.horizon)

    def _check_rollouts(self, e: EstimateConfig, horizon: int) -> None:
        """Scoring by roll-outs must leave something for the groups even if no episode ends early."""
        worst = int(self.subsets.sum()) * e.rollout_episodes * horizon
        if SCORES[e.score].rolls_out and self.rest(worst) < self.n * self.unit:
            raise ConfigError(
                f"scoring by roll-outs takes up to {worst} steps ({self.subsets.sum()} pairs of subset and "
                f"task, {e.rollout_episodes} episodes of {horizon} steps) of {self.total} in all; raise "
                f"steps_per_task, or lower estimate.rollout_episodes or estimate.subsets"
            )

    def rest(self, scoring: int) -> int:
        """What is left for group policies after meta-training, collecting and scoring."""
        return self.total - self.meta - self.collect - scoring

    def share(self, member, total: int):
        """Steps int [R] of policies with the tasks ``member`` [R, n] that share ``total``."""
        updates = member.sum(1) * total // (member.sum() * self.unit)
        return updates.clip(1) * self.unit
