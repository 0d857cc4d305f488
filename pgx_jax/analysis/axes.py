"""What is varied of the settings with which theta* is asked, one axis at a time.

An axis of one's own is a function in `AXES`; for values of a single setting there is `AblationsConfig.also`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pgx_jax import estimate, pipeline
from pgx_jax.analysis.subject import Subject, unlimited
from pgx_jax.analysis.variants import FITTINGS, Variant
from pgx_jax.config import Config, changed, check_method, override
from pgx_jax.errors import ConfigError, key_value
from pgx_jax.estimate.config import COLLECTED, PROJECTED
from pgx_jax.estimate.surrogates import RIDGES

Variants = dict[str, Variant]
"""Of an axis, by what its values are called; the run's own settings are among them."""


class Axis(NamedTuple):
    """A setting, or several of one subject."""

    setting: str
    """What a user sets: dotted names; empty where there is nothing to set."""
    variants: Callable[[Config, int], Variants]
    """(settings as they came to, number of tasks n) -> its values."""
    usual: bool = True
    """Whether it is varied by default: not what acts in the environment again, nor what can't be set."""
    projects: bool = False
    """Whether the features are others: their errors and seconds are told."""
    draws: bool = False
    """Whether every value is drawn several times."""
    scores: bool = False
    """Whether it is about scores of subsets, which not every affinity reads."""
    critic: bool = False
    """Whether it is about values of the critic."""

    def lacks(self, run: Subject) -> str:
        """Why it tells nothing of a run; empty if it does."""
        e, n = run.config.estimate, run.family.n
        if self.scores and not e.reads_scores(n):
            return f"the affinity {e.affinity_of(n)!r} of these {n} tasks reads no scores of subsets"
        if self.critic and not run.learner.critic and run.learner.baseline == "critic":
            return "the learner trains no critic, and lambda is 1 without one"
        return ""


def setting_of(config: Config, name: str) -> Any:
    """The value of a setting by its dotted name."""
    return functools.reduce(getattr, name.split("."), config)


def told(value: Any) -> str:
    """A value as it is called."""
    if value is None:
        return "open"
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def values_of(name: str, values: Iterable[Any], config: Config) -> Variants:
    """Values of one setting, and its own: in order, if they are numbers."""
    every = list(dict.fromkeys([*values, setting_of(config, name)]))
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in every):
        every.sort()
    return {told(value): Variant(override(config, {name: value})) for value in every}


def _numbers(name: str, *values: float) -> Callable[[Config, int], Variants]:
    return lambda config, n: values_of(name, values, config)


def _changes(config: Config, own: str, others: Mapping[str, Mapping[str, Any]]) -> Variants:
    """The run's own settings under a name, and changes to them under others."""
    return {own: Variant(config)} | {
        name: Variant(override(config, changes)) for name, changes in others.items() if name != own
    }


KS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30)


def _k(config: Config, n: int) -> Variants:
    own = "chosen" if config.k is None else str(config.k)
    others: dict[str, dict[str, Any]] = {"chosen": {"k": None}}
    others |= {str(k): {"k": k, "grouping.trace_penalty": None} for k in KS if k <= n}
    return _changes(config, own, others)


def _projections(config: Config, n: int) -> Variants:
    return values_of("estimate.projection", estimate.PROJECTIONS, config)


def _ridges(config: Config, n: int) -> Variants:
    found = values_of("estimate.l2", (0.01, 0.1, 1.0, 10.0, 100.0), config)
    l2, own = config.estimate.l2, config.estimate.ridge
    others = [name for name in RIDGES if name != own]
    return found | {
        f"{told(l2)}, of the {name}": Variant(override(config, {"estimate.ridge": name})) for name in others
    }


def _affinities(config: Config, n: int) -> Variants:
    found = values_of("estimate.affinity", estimate.AFFINITIES, config)
    if not config.estimate.beside:
        return found
    alone = Variant(override(config, {"estimate.beside": ()}))
    return found | {f"{config.estimate.affinity}, alone": alone}


MOST_SUBSETS = 560
"""Of one size, but where the run had more itself."""


def _subsets(config: Config, n: int) -> Variants:
    """All pairs; a fifth, a half and all of the triples; all subsets of half and of 70% of the tasks; not
    those in which pairs hardly meet."""
    member = pipeline.subsets(config, n)
    sizes, most = member.sum(1), max(MOST_SUBSETS, len(member))
    own = f"{len(member)} of {sizes[0] if (sizes == sizes[0]).all() else f'about {sizes.mean():.0f}'}"
    parts = [(2, 1.0), (3, 0.2), (3, 0.5), (3, 1.0), (n // 2, 1.0), (7 * n // 10, 1.0)]
    found = {}
    for size, part in parts:
        count = min(int(part * math.comb(n, size)), most)
        meet = count * math.comb(size, 2) / math.comb(n, 2)
        if 2 <= size < max(n, 3) and (meet >= 1.5 or part == 1.0):
            found[f"{count} of {size}"] = {"estimate.subset_size": size, "estimate.subsets": count}
    return _changes(config, own, found)


def _scores(config: Config, n: int) -> Variants:
    names = [name for name, score in estimate.SCORES.items() if not score.rolls_out]
    return values_of("estimate.score", names, config)


def _fittings(config: Config, n: int) -> Variants:
    own = {"cross-fitted, nested test": Variant(config)}
    return own | {name: Variant(config, fitting) for name, fitting in FITTINGS.items()}


def _transitions(config: Config, n: int) -> Variants:
    e = config.estimate
    steps = (max(4, round(part * e.steps / e.num_envs)) * e.num_envs for part in (0.25, 0.5, 2.0))
    return _collecting(values_of("estimate.steps", steps, config), config, n)


def _collecting(found: Variants, config: Config, n: int) -> Variants:
    """The same, each collecting what it says, whatever part of the total that is."""
    return {
        name: each if each.config == config else Variant(unlimited(each.config, n))
        for name, each in found.items()
    }


def _rollouts(config: Config, n: int) -> Variants:
    others = {
        f"roll-outs, {count} episodes": {"estimate.score": "rollouts", "estimate.rollout_episodes": count}
        for count in (8, 32)
    }
    e = config.estimate
    rolls = estimate.SCORES[e.score].rolls_out
    own = f"roll-outs, {e.rollout_episodes} episodes" if rolls else e.score
    return _changes(config, own, others)


AXES: dict[str, Axis] = {
    "k": Axis("k", _k),
    "dim": Axis("estimate.dim", _numbers("estimate.dim", 50, 100, 200, 400), projects=True),
    "projection": Axis("estimate.projection", _projections, projects=True, draws=True),
    "ridge": Axis("estimate.l2, estimate.ridge", _ridges),
    "affinity": Axis("estimate.affinity, estimate.beside", _affinities),
    "subsets": Axis("estimate.subsets, estimate.subset_size", _subsets, scores=True),
    "score": Axis("estimate.score", _scores, scores=True),
    "cross_fitting": Axis("", _fittings, usual=False),
    "lambda": Axis(
        "estimate.gae_lambda",
        _numbers("estimate.gae_lambda", 0.0, 0.5, 0.8, 0.95, 1.0),
        usual=False,
        critic=True,
    ),
    "transitions": Axis("estimate.steps, collect_fraction", _transitions, usual=False),
    "rollouts": Axis("estimate.score, estimate.rollout_episodes", _rollouts, usual=False, scores=True),
}
"""By name."""


def axis_of_setting(text: str, config: Config, n: int) -> tuple[str, Axis]:
    """An axis from "SETTING=VALUE,VALUE,…", and its name.

    Raises:
        ConfigError: another form, a setting that theta* must be trained anew for, or a value that can't work.
    """
    name, given = key_value(text, "ablations.also")
    if name != "k" and not name.startswith(("estimate.", "grouping.")):
        raise ConfigError(
            f"ablations.also {text!r}: theta* would have to be trained with another {name!r}; what it can be "
            f"asked again with are k, and settings that begin with estimate. or grouping."
        )
    values = given if isinstance(given, tuple) else given.split(",") if isinstance(given, str) else (given,)
    settings = [changed(config, name, value) for value in values]
    for each in settings:
        check_method(each, n)
    kept = [setting_of(each, name) for each in settings]
    last = name.rpartition(".")[2]
    collects, projects = last in COLLECTED, last in PROJECTED

    def variants(config: Config, n: int) -> Variants:
        found = values_of(name, kept, config)
        return _collecting(found, config, n) if collects else found

    return name, Axis(name, variants, projects=projects)
