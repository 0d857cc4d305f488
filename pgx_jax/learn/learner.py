"""What a learner is: how a policy gets better by what it does, as pure functions of one row.

A learner is a frozen dataclass of settings (`flax.struct.dataclass`; fields that shape programs are
static, numbers are traced leaves) with the methods of `Learner`. Its file puts it into `LEARNERS`, under
the name that rows and settings call it by; nothing else knows which learners there are. The core does
the rest, the same for all of them: acting, the moments that normalise observations and rewards, keys,
the count of updates, learning curves, and the guard that stops a row whose numbers are not finite.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, NamedTuple, Protocol

from jaxtyping import Bool, Float, Int

from pgx_jax.errors import ConfigError
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.types import Agent, Array, Key, PyTree


class RowTasks(NamedTuple):
    """What one row trains on, the same in all its updates."""

    context: Float[Array, "n C"]
    """float [n, C]: context vectors of the family's tasks."""
    member: Bool[Array, "n"]
    """bool [n]: the row's tasks."""
    slot_task: Int[Array, "E"]
    """int [E]: the task of every slot; slots go round the row's tasks in turn."""
    total: Int[Array, ""]
    """int []: updates of the row's whole budget."""


class Learning(NamedTuple):
    """How far one row has come."""

    agent: Agent
    memory: PyTree
    """What the learner keeps between updates (`Learner.begin`), such as the state of an optimiser."""
    update: Int[Array, ""]
    """int []: updates done."""
    measured: Float[Array, "M"] = ()  # type: ignore[assignment]
    """float [M]: of the last update, what the learner measures (`Learner.measures`); NaN before the first."""


class Learner(Protocol):
    """A way of learning; derive from it for the defaults.

    An update is one or more phases: all slots act for T steps, then the row learns. PPO and REINFORCE have
    one phase; PCGrad is PPO with another `PPO.direction`. MAML with one inner step has two phases:
    nothing is learnt from the first; in the second every slot acts with parameters that were adapted to
    its task by the first one's steps (``per_slot`` and `acting`), and `learn` differentiates through
    that adaptation, as it sees the steps of both.
    """

    num_envs: int
    """E: slots (environments) of a row, shared evenly by its tasks. Static."""
    num_steps: int
    """T: steps of every slot in a phase. Static."""
    gamma: float
    """Discount, also of ``Steps.discounted``, by which rewards are scaled."""
    gae_lambda: float = 0.95
    """Trace decay of the advantages, for collecting with what it trained."""
    scale_rewards: bool = True
    """Whether its critic's values are of rewards divided by their running deviation. Static."""
    freeze_observations: float | None = None
    """Fraction of a row's budget after which the moments of its observations stay; None: they never do."""
    critic: bool = True
    """Whether it trains the critic; collecting does without its values otherwise. Static."""
    baseline: str = "critic"
    """What advantages are measured against, of `BASELINES`; in collecting as well. Static."""
    limits_end: bool = False
    """Whether nothing is to come after a time limit; in collecting as well. Static."""
    measures: tuple[str, ...] = ()
    """Names of the numbers that it measures of an update, as `Trained` has them. Static."""
    phases: int = 1
    """Times that an update acts and learns. Static."""
    remembers: bool = False
    """Whether it trains policies with memory, and no others; a slot's phase is a trial of theirs, and begins
    with a fresh episode. Static."""
    adaptation_steps: int = 0
    """Environment steps that an agent takes on a task to adapt to it before it is evaluated there; a
    multiple of ``adaptation_envs`` times ``adaptation_rounds``; 0 if it does not. Static."""
    adaptation_envs: int = 1
    """Slots in which it takes them. Static."""
    adaptation_rounds: int = 1
    """Times that it acts, from fresh starts, and adapts. Static."""

    @property
    def adaptation_length(self) -> int:
        """T of a round of adapting."""
        return self.adaptation_steps // (self.adaptation_envs * self.adaptation_rounds)

    @property
    def steps_per_update(self) -> int:
        """Environment steps of an update, all phases."""
        return self.num_envs * self.num_steps * self.phases

    def check(self, n: int = 1, name: str | None = None) -> None:
        """Refuse settings that cannot work for rows of up to n tasks.

        Args:
            n: tasks of the largest row.
            name: of the settings, for messages ("ppo", say, for ``ppo.num_envs``).

        Raises:
            ConfigError: naming setting and remedy.
        """
        check_slots(self, n, name or type(self).__name__.lower())

    def begin(self, policy: Policy, agent: Agent) -> PyTree:
        """What to remember of a fresh row: arrays whose shapes stay (PPO: the optimiser's state)."""
        return ()

    def per_slot(self, phase: int) -> bool:
        """Whether every slot acts with parameters of its own in this phase (MAML: all later ones). Static."""
        return False

    def acting(self, policy: Policy, row: RowTasks, learning: Learning, steps: tuple[Steps, ...]) -> PyTree:
        """Actor parameters, leaves [E, ...], of a phase that is ``per_slot``; elsewhere the agent acts as
        it is. ``steps`` are those of the phases before it. Used by MAML."""
        raise NotImplementedError

    def learn(
        self, policy: Policy, row: RowTasks, learning: Learning, steps: tuple[Steps, ...], key: Key
    ) -> Learning:
        """Learn from the phase that was just acted out; changes actor, critic and memory.

        Args:
            policy: static description.
            row: its tasks.
            learning: the row, as it acted, but for the moments of its rewards, which know these steps.
            steps: leaves [T, E, ...], one record a phase up to this one.
            key: PRNG key.
        """
        ...

    def adapt(
        self, policy: Policy, agent: Agent, context: Float[Array, "C"], steps: Steps, key: Key
    ) -> Agent:
        """The agent as it is after a round of adapting to one task, if ``adaptation_steps`` are taken for
        that (MAML: an inner step). A task where it comes to numbers that are not finite, or too far from
        the agent before (`evaluation.MOST_NATS`), has failed (`evaluation.Evaluation`).

        Args:
            policy, agent: what acted.
            context: float [C], the task's (zeros for an unseen task).
            steps: what it did there, leaves [adaptation_length, adaptation_envs, ...].
            key: PRNG key.
        """
        raise NotImplementedError


LEARNERS: dict[str, Callable[[], Learner]] = {}
"""Learners by name, each with what makes it at its defaults (its class); its file adds its entry."""


def learners_by_name(ppo: Learner, more: Mapping[str, Learner] | None = None) -> dict[str, Learner]:
    """All learners that rows may name: PPO as it is set, those of `LEARNERS` at their defaults (derived from
    PPO, they have its settings but where their own defaults are others), and one's own.

    Raises:
        ConfigError: the table has what makes none.
    """
    for name, made in LEARNERS.items():
        if not callable(made):
            raise ConfigError(f"LEARNERS[{name!r}] must be what makes the learner: {type(made).__name__}")
    known = {name: _as_set(made(), ppo) for name, made in LEARNERS.items()}
    return known | {"ppo": ppo} | dict(more or {})


def _as_set(learner: Learner, ppo: Learner) -> Learner:
    """With the settings of ``ppo``, if it is a kind of it, in the place of what are PPO's defaults."""
    if not isinstance(learner, type(ppo)):
        return learner
    default, fields = type(ppo)(), dataclasses.fields(ppo)  # type: ignore[arg-type]
    names = (field.name for field in fields if getattr(learner, field.name) == getattr(default, field.name))
    return dataclasses.replace(learner, **{name: getattr(ppo, name) for name in names})  # type: ignore[type-var]


def with_options(learner: Learner, name: str, options: Mapping[str, Any]) -> Learner:
    """A learner with other settings.

    Args:
        learner: at its defaults, say.
        name: that it goes by, for messages.
        options: settings by their names.

    Raises:
        ConfigError: it has no such setting, or one of another kind.
    """
    known = _settings_of(learner)
    for option, value in options.items():
        if name == "ppo" and option in known:
            raise ConfigError(f"learner_options: PPO has settings of its own; give ppo.{option} instead")
        if option not in known:
            others = [other for other, made in LEARNERS.items() if option in _settings_of(made())]
            also = f"; {option!r} is a setting of {', '.join(others)} (--learner)" if others else ""
            listed = ", ".join(known)
            raise ConfigError(f"learner {name!r} has no setting {option!r}; its settings are {listed}{also}")
        default = getattr(learner, option)
        if isinstance(default, bool | int | float) and _kind(value) != _kind(default):
            raise ConfigError(f"learner_options: {name}.{option} = {value!r} must be {_kind(default)}")
    return dataclasses.replace(learner, **options)  # type: ignore[type-var]


def _settings_of(learner: Learner) -> list[str]:
    return [field.name for field in dataclasses.fields(learner) if field.init]  # type: ignore[arg-type]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "True or False"
    return "a number" if isinstance(value, int | float) else "something else"


def check_slots(learner: Learner, n: int, name: str) -> None:
    """Refuse numbers of slots, steps and discounts with which no learner can work for n tasks."""
    check_ranges(
        learner, name, {"between 0 and 1": ("gamma",), COUNT: ("num_envs", "num_steps", "adaptation_envs")}
    )
    if learner.num_envs < n:
        raise ConfigError(
            f"{name}.num_envs = {learner.num_envs} environments for {n} tasks; use at least {n}"
        )
    steps, envs, rounds = learner.adaptation_steps, learner.adaptation_envs, learner.adaptation_rounds
    if not isinstance(steps, Integral) or steps < 0 or steps % (envs * rounds):
        times = f" times {rounds} rounds" if rounds > 1 else ""
        raise ConfigError(
            f"{name}.adaptation_steps = {steps} must be a multiple of {name}.adaptation_envs = {envs}{times}"
        )


COUNT = "a whole number of at least 1"

RANGES: dict[str, Callable[[float], bool]] = {
    "between 0 and 1": lambda value: 0 <= value <= 1,
    "positive": lambda value: 0 < value < math.inf,
    "0 or more": lambda value: 0 <= value < math.inf,
    "None or positive": lambda value: value is None or 0 < value < math.inf,
    "None, or above 0 and at most 1": lambda value: value is None or 0 < value <= 1,
    "True or False": lambda value: isinstance(value, bool),
    COUNT: lambda value: isinstance(value, Integral) and value >= 1,
}
"""Ranges of settings, by the words that messages have for them."""


def check_ranges(learner: Learner, name: str, ranges: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse numbers out of range: a name of `RANGES` -> names of settings.

    Raises:
        ConfigError: naming the setting.
    """
    for words, settings in ranges.items():
        for setting in settings:
            value = getattr(learner, setting)
            try:
                good = RANGES[words](value)
            except TypeError:  # no number
                good = False
            if not good:
                raise ConfigError(f"{name}.{setting} = {value!r} must be {words}")
