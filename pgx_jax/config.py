"""All settings of a run, with general defaults; a family may ask for others (a larger budget, say)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax

from pgx_jax.errors import ConfigError
from pgx_jax.grouping import GroupingConfig
from pgx_jax.learn import PPO, PolicyConfig
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Array

STREAMS = ("meta", "collect", "project", "rollouts", "rows", "evaluate", "test_tasks", "trial", "random")
"""Uses of random numbers in a run, each with a stream of its own, so that none disturbs another. New ones
come last: their places make the keys."""


@dataclass(frozen=True)
class EstimateConfig:
    """Settings of the estimation, from the meta-policy to the affinity."""

    steps: int = 4096
    """Transitions collected from each task with the meta-policy."""
    num_envs: int = 32
    """Environments of each task while collecting."""
    source_multiple: int = 4
    """Where the tasks are weightings of one vector reward, they share one source of so many times
    ``steps`` transitions and ``num_envs`` environments (at most n times, the cost of one a task)."""
    gae_lambda: float | None = None
    """Lambda of the collected transitions' advantages, that of PPO by default. Groups show more clearly
    with a smaller one, which has less noise and leans on the critic, where single steps matter little."""
    dim: int = 400
    """Projected dimension d of the gradient features."""
    subset_size: int | None = None
    """Tasks in a subset; 3 by default (2 when there are only two or three tasks)."""
    subsets: int | None = None
    """Number m of subsets; by default all for n <= 16, else a design that covers every pair."""
    min_cover: int = 12
    """Least number of subsets in which every pair of tasks meets, where they are drawn."""
    l2: float = 1.0
    """Ridge of the surrogates, in multiples of a fortieth of the trace of the mean curvature."""
    solver: Literal["newton", "lbfgs"] = "newton"
    """Solver of the m logistic regressions."""
    iterations: int | None = None
    """Newton iterations (1 is the quadratic step), or the most that L-BFGS may take."""
    score: Literal["surrogate", "importance", "rollouts"] = "surrogate"
    """How the performance on a task after adapting to a subset is estimated."""
    lift: Literal["dual", "projection"] = "dual"
    """How solutions are lifted to policies, for roll-outs."""
    distance: float = 0.02
    """Relative distance |theta - theta*| / |theta*| of the policies that are rolled out (for
    the lift by projection: of a step that is mostly noise, see `estimate.lifting`)."""
    rollout_episodes: int = 8
    """Episodes of every subset and member task, for roll-outs; their steps are paid for."""
    affinity: Literal["per_task", "aggregate", "datamodel"] = "per_task"
    """Mean of a pair's own scores, of the whole subset's (the paper's), or a regression."""


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
    learner: str = "ppo"
    """Name of the learner that trains the meta-policy, the groups and the baselines."""
    compare: Literal["none", "fast", "full"] = "fast"
    """Baselines to train at the same total: none, those of the report, or also some outside the rule."""
    baselines: tuple[str, ...] = ()
    """Further baselines, each one policy for all: POLICY/LEARNER, for instance told/ppo (names of networks,
    or "told" for the run's own networks, and of learners)."""
    random_draws: int = 3
    """Random groupings to average over."""
    similarities: tuple[Literal["dot", "cosine", "whitened"], ...] = ("dot", "cosine", "whitened")
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

    def stream(self, name: str) -> Array:
        """Raw PRNG key of one of the run's independent random streams, by what it is used for.

        Raises:
            ValueError: there is no such use.
        """
        return jax.random.fold_in(jax.random.PRNGKey(self.seed), STREAMS.index(name))


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
