"""All settings of a run, with general defaults; a family may ask for others (a larger budget, say)."""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import jax

from pgx_jax.errors import ConfigError, check_types, checked, of_type, pick
from pgx_jax.estimate import SIMILARITIES, EstimateConfig
from pgx_jax.grouping import GroupingConfig
from pgx_jax.learn import LEARNERS, PPO, PolicyConfig
from pgx_jax.mesh import is_joined
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Key, Named

COMPARE = ("none", "few", "fast", "full")
"""What may be compared with ours, in growing order; `compare.methods.BASELINES` has the methods of each."""

MAY_BE_LEFT_OUT = (
    "multitask", "multitask_conditioned", "multitask_continued", "single_task", "random", "em", "em_true_k",
    "committees", "true_groups", "true_groups_continued", "policygradex_told", "policygradex_blind",
)  # fmt: skip
"""Baselines by their names in results."""

STREAMS = (
    "meta",
    "collect",
    "project",
    "rollouts",
    "rows",
    "evaluate",
    "test_tasks",
    "trial",
    "random",
    "interval",
    "deal",
    "subsets",
    "oracle",
    "adapting",
    "demonstrations",
    "stability",
    "analysis",
)
"""Uses of random numbers in a run, each with a stream of its own, so that none disturbs another. New ones
come last: their places make the keys."""


@dataclass(frozen=True)
class Config:
    """Settings of a run."""

    seed: int = 0
    """Seed of everything random but the family."""
    k: int | None = None
    """Number of groups; chosen by held-out data if not given."""
    steps_per_task: int = 30_720
    """Environment steps of every method, per task of the family. With many more, tasks need no company; with
    far fewer, the meta-policy has not learnt enough to be asked (`pgx-jax study budget` shows where)."""
    meta_fraction: float = 0.25
    """Part of all steps that the meta-policy trains for until it is asked for the first time whether a split
    pays."""
    demonstrations: int = 0
    """Episodes of every task that the family's experts show, if it has any: theta* begins with what it learns
    of them (behaviour cloning), and is then trained as ever. Their steps come out of the total of every
    method that goes on from theta*, which all results call demonstration-initialised; methods from scratch
    neither see them nor pay for them. 0: theta* begins from scratch."""
    looks: int = 2
    """Times that it may be asked, each after twice as many steps as the last: where no split pays, the
    meta-policy trains on and is asked again; a group that was split off is a meta-policy of its own tasks,
    and is asked again as well. Once alone where the number of groups or their price is given, or roll-outs
    score."""
    collect_fraction: float = 0.15
    """Largest part of all steps that may be spent on transitions to estimate from, in all looks together;
    ``estimate.steps`` are collected at each where they are fewer. What pairs of groups collect that are asked
    to become one again comes on top, and out of the same total."""
    meta_entropy: float | None = 0.15
    """Weight of the entropy bonus of the meta-policy, if its learner has one; the learner's own if None. It
    must not settle: where it has given a task up, so that nothing that it does changes the reward, no
    gradient tells what that task wants."""
    group_entropy: float | None = 0.05
    """Weight of the entropy bonus of policies from scratch that several but not all tasks share, if their
    learner has one; the learner's own if None. (Those that continue the meta-policy have their learner's.)"""
    min_updates: int = 64
    """Updates that every policy should have at least: its environments (``ppo.num_envs``) are halved while
    its steps give fewer and every task keeps one. 1 leaves them as they are wherever they allow an update."""
    continue_meta: bool = True
    """Train the groups from the meta-policy and its critic, exploring afresh, instead of from scratch."""
    tell_groups: bool = False
    """Tell the groups' policies their task once the groups are found, by a meta-policy that is not told: they
    go on from it with weights of zero for the context. (The report shows both.)"""
    learner: Named[str, LEARNERS] = "ppo"
    """Name of the learner that trains the meta-policy, the groups and the baselines."""
    learner_options: tuple[str, ...] = ()
    """Settings of this learner, as KEY=VALUE; those of PPO are in ``ppo``."""
    compare: Named[str, COMPARE] = "fast"
    """Baselines to train at the same total: none; the few that groups cannot do without (one policy for all,
    one a task, random groups and groups of similar gradients), of which no gain over the meta-policy's own
    continuation is measured; those of the report; or also some outside the rule (of up to five tasks the best
    of all partitions, too, by training a policy for every subset)."""
    leave_out: tuple[Named[str, MAY_BE_LEFT_OUT], ...] = ()
    """Of these, baselines that are not trained, by their names in results: single_task, em and so on."""
    baselines: tuple[str, ...] = ()
    """Further baselines, each one policy for all: POLICY/LEARNER, for instance told/ppo (names of networks,
    or "told" or "base" for the run's own networks, and of learners); with /each behind it one policy for
    each task, and with the name of a method (/policygradex, /true_groups) one for each of its groups."""
    random_draws: int = 3
    """Random groupings to average over."""
    similarities: tuple[Named[str, SIMILARITIES], ...] = ("dot", "cosine", "whitened")
    """Similarities of gradients, or of steps along them ("lookahead"), to group by as well."""
    episodes: int = 64
    """Evaluation episodes of every policy and task."""
    test_tasks: int = 10
    """Unseen tasks that the final policies are tried on."""
    trial_episodes: int = 8
    """Episodes of each group's policy on an unseen task, by which the task finds its group."""
    rows_per_call: int | None = None
    """Policies that one compiled program trains at a time on each device; what is fastest on the platform by
    default."""
    keep_programs: bool = True
    """Keep compiled programs in the user's cache folder, so that the next run starts sooner; the
    environment variable PGX_JAX_CACHE names another folder, or turns it "off"."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    ppo: PPO = field(default_factory=PPO)
    estimate: EstimateConfig = field(default_factory=EstimateConfig)
    grouping: GroupingConfig = field(default_factory=GroupingConfig)

    def stream(self, name: str) -> Key:
        """Raw PRNG key of one of the run's independent random streams, by what it is used for.

        Raises:
            ValueError: there is no such use.
        """
        return jax.random.fold_in(jax.random.PRNGKey(self.seed), STREAMS.index(name))


@checked
def config_for(family: TaskFamily, preset: str | None = None) -> Config:
    """The default settings, with those in their place that the family asks for, and an environment of PPO's
    for each task; as a preset changes them, by its name in `PRESETS`.

    Raises:
        ConfigError: if the family asks for a setting that there is not, or there is no such preset.
    """
    config = Config()
    for name, value in family.defaults.items():
        try:
            config = override(config, {name: value})
        except AttributeError:
            raise ConfigError(
                f"family {family.name!r} has a default for {name!r}, which is not a setting of a run"
            ) from None
    config = override(config, {"ppo.num_envs": max(config.ppo.num_envs, family.n)})
    return config if preset is None else pick(PRESETS, preset, "preset")(config)


def _quick(config: Config) -> Config:
    """A first look at a family, in about a third of the time: less of everything."""
    return override(config, {
        "steps_per_task": config.steps_per_task // 3, "episodes": min(config.episodes, 16),
        "random_draws": 1, "test_tasks": min(config.test_tasks, 4), "grouping.resamples": 50,
    })  # fmt: skip


def _thorough(config: Config) -> Config:
    """The same training, judged with narrower intervals and beside more baselines."""
    return override(config, {
        "episodes": 4 * config.episodes, "random_draws": 10, "trial_episodes": 2 * config.trial_episodes,
        "similarities": tuple(dict.fromkeys((*config.similarities, "lookahead"))),
        "grouping.resamples": 1000,
    })  # fmt: skip


PRESETS: dict[str, Callable[[Config], Config]] = {"quick": _quick, "thorough": _thorough}
"""Sets of settings by name, made of those of a family."""


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


def changed(config: Config, name: str, value: Any) -> Config:
    """The settings with another value of one, by its dotted name: `override` for what a user has written.

    Raises:
        ConfigError: there is no such setting, its value is of another type, or it cannot work.
    """
    group, _, last = name.rpartition(".")
    owners = {"": config, **{f.name: getattr(config, f.name) for f in fields(config)}}
    known = typing.get_type_hints(type(owners[group])) if is_dataclass(owners.get(group)) else {}
    if last not in known or (not group and is_dataclass(owners[last])):
        names = [f"{group}.{last}" if group else last for group, last in _setting_names(config)]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"there is no setting {name!r} of a run{hint}; `pgx-jax run --help` lists them")
    return override(config, {name: of_type(value, known[last], name)})


def _setting_names(config: Config) -> Iterator[tuple[str, str]]:
    """(group or nothing, name) of every setting."""
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            yield from ((each.name, own.name) for own in fields(value))
        else:
            yield "", each.name


def check(config: Config, family: TaskFamily) -> None:
    """Refuse settings that cannot work, before any long work.

    Raises:
        ConfigError: naming setting and remedy.
    """
    check_method(config, family.n)
    if family.engine == "host" and is_joined():
        raise ConfigError(
            f"environments of {family.name!r} act on their host, which several processes cannot share: leave "
            f"`join` out (`--ray` steps them on a cluster)"
        )
    for name in ("meta_fraction", "collect_fraction"):
        if not 0 < getattr(config, name) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)} must lie between 0 and 1")
    for name in ("meta_entropy", "group_entropy"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"{name} = {value} must not be negative")
    if config.learner == "ppo" or any(name.endswith("/ppo") for name in config.baselines):
        config.ppo.check(family.n, "ppo")
    for name in ("test_tasks", "demonstrations"):
        if getattr(config, name) < 0:
            raise ConfigError(f"{name} = {getattr(config, name)} must be 0 or more")
    for name in (
        "steps_per_task",
        "looks",
        "min_updates",
        "episodes",
        "random_draws",
        "trial_episodes",
        "rows_per_call",
    ):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)} must be at least 1")
    config.estimate.check_collecting(family.horizon)
    if config.test_tasks and family.sample_test_tasks is not None:
        family.unseen(config.stream("test_tasks"), config.test_tasks)


def check_method(config: Config, n: int) -> None:
    """Refuse settings with which n tasks cannot be estimated and grouped, wherever the data are from.

    Raises:
        ConfigError: naming setting and remedy.
    """
    check_types(config, Config, unless=("learner",))  # which may be one's own
    if not -(2**63) <= config.seed < 2**63:
        raise ConfigError(f"seed = {config.seed} must fit 64 bits")
    config.estimate.check()
    config.grouping.check(n, config.k)
