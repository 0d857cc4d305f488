"""How a task that nobody has seen finds its policy among those of several groups, with few steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax import estimate, learn, pipeline
from pgx_jax.compare.unknown import Arena, Start
from pgx_jax.errors import ConfigError
from pgx_jax.learn import Tried
from pgx_jax.types import FIT, SCORE, SELECT, Key, Transitions

NONE = -1
"""The choice of a task that none of the groups suits: it goes on from theta*."""


Valued = tuple[Float[np.ndarray, "U"], Float[np.ndarray, "U"]]
"""Values of a policy on U tasks, and their standard errors (NaN where these are not known)."""


class Found(NamedTuple):
    """What U tasks have found among k policies."""

    choice: Int[np.ndarray, "U"]
    """int [U]: the policy, or `NONE`."""
    steps: Int[np.ndarray, "U"]
    """int [U]: environment steps that this took."""
    value: Float[np.ndarray, "U k+1"]
    """float [U, k + 1]: the evidence for each policy, and for theta* (last); NaN where it was not tried."""
    stderr: Float[np.ndarray, "U k+1"]
    """float [U, k + 1]: standard errors, as far as they are known."""


def halve(
    play: Callable[[int, int, int], Valued],
    arms: int,
    tasks: int,
    budget: int,
    rounds: int | None = None,
) -> tuple[
    Float[np.ndarray, "U arms"], Float[np.ndarray, "U arms"], Int[np.ndarray, "U"], Int[np.ndarray, "U"]
]:
    """Successive halving (Karnin et al., 2013; Jamieson, Talwalkar, 2016): rounds of equal steps, after each
    of which a task keeps the better half of the arms that it tried.

    Args:
        play: (arm, round, steps) -> the value of the arm on every task, from so many steps on each. One that
            is not a number is worse than all that are.
        arms, tasks: how many.
        budget: steps of a task in all rounds.
        rounds: as many as leave one arm by default; the best of those that are left is chosen.

    Returns:
        The mean value [U, arms] of all rounds by their steps, its standard error, the best arm [U], and the
        steps [U] of each task, of the arms that it still had.

    Raises:
        ConfigError: the budget is less than a step of every arm.
    """
    rounds = rounds or halvings(arms)
    alive, spent = np.ones((tasks, arms), bool), np.zeros(tasks, int)
    total, square, weight = np.zeros((3, tasks, arms))
    for turn in range(rounds):
        count = int(alive[0].sum())
        steps = budget // (rounds * count)
        if steps < 1:
            raise ConfigError(
                f"{budget} steps are too few to try {arms} policies; use at least {rounds * arms}"
            )
        for arm in np.flatnonzero(alive.any(0)).tolist():
            value, stderr = play(arm, turn, steps)
            total[:, arm] += np.where(alive[:, arm], steps * value, 0.0)
            square[:, arm] += np.where(alive[:, arm], (steps * stderr) ** 2, 0.0)
            weight[:, arm] += steps * alive[:, arm]
        spent += steps * count
        mean = np.nan_to_num(total / np.maximum(weight, 1), nan=-np.finfo(float).max)
        order = np.argsort(-np.where(alive, mean, -np.inf), axis=1, kind="stable")
        keep = max(1, math.ceil(count / 2))
        alive = np.zeros_like(alive)
        np.put_along_axis(alive, order[:, :keep], True, axis=1)
    by_steps = np.where(weight > 0, weight, np.nan)
    return total / by_steps, np.sqrt(square) / by_steps, order[:, 0], spent


def halvings(arms: int) -> int:
    """Rounds that leave one of so many arms."""
    return max(1, math.ceil(math.log2(arms)))


Score = Callable[[Arena, Start, Key, int], Valued]
"""(arena, policy, key, steps) -> the value of the policy on every unseen task, from so many steps on each."""


def compare(
    arena: Arena,
    starts: Sequence[Start],
    budget: int,
    key: Key,
    by: Score,
    *,
    with_meta: bool = True,
    rounds: int | None = None,
) -> Found:
    """Successive halving over the policies by what they do in their steps.

    A round's steps are one stretch, as long for all policies that are left: whole episodes, and one that is
    cut. (Policies that left earlier had shorter ones, and more was cut of theirs.)

    Args:
        arena, starts: the tasks and the policies.
        budget: environment steps of a task.
        key: PRNG key; all policies begin the same episodes.
        by: what they are compared by.
        with_meta: whether theta* is among them.
        rounds: see `halve`.
    """
    arms = (*starts, arena.meta) if with_meta else tuple(starts)

    def play(arm: int, turn: int, steps: int) -> Valued:
        return by(arena, arms[arm], jax.random.fold_in(key, turn), steps)

    *known, best, spent = halve(play, len(arms), len(arena.unseen), budget, rounds)
    untried = (0, 0), (0, len(starts) + 1 - len(arms))
    value, stderr = (np.pad(x, untried, constant_values=np.nan) for x in known)
    return Found(np.where(best == len(starts), NONE, best), spent, value, stderr)


def _tried(arena: Arena, start: Start, key: Key, steps: int, judged: bool = True) -> Tried:
    """Steps of a policy on all unseen tasks, which its critic judges as each of the tasks that it knows, or
    as the one that it is told to be on."""
    policy, learner = arena.policies[start.policy], arena.learners[start.learner]
    own = np.flatnonzero(start.member) if start.told is None else np.array([start.told])
    known, family = own if judged else None, arena.family_of(start)
    return learn.try_out(policy, learner, family, start.agent, arena.unseen, key, steps, known)


def rewards(arena: Arena, start: Start, key: Key, steps: int) -> Valued:
    """Undiscounted return of an episode, the last one as far as it came (`Tried.earned`)."""
    tried = _tried(arena, start, key, steps, judged=False)
    return tried.earned, tried.earned_stderr


def values(arena: Arena, start: Start, key: Key, steps: int) -> Valued:
    """Discounted return; an episode that is cut goes on with the critic's value, as if the task were that of
    the policy's own which it resembles most."""
    tried = _tried(arena, start, key, steps)
    value = np.take_along_axis(tried.returns, tried.surprise.argmin(0)[None], 0)[0]
    return value, np.full(len(value), np.nan)


def foresight(arena: Arena, start: Start, key: Key, steps: int) -> Valued:
    """Minus the mean squared error with which the policy's critic foretells its rewards, as if the task were
    that of its own which it resembles most: long before one policy earns more than others, it meets what it
    knows, or not."""
    value = -_tried(arena, start, key, steps).surprise.min(0)
    return value, np.full(len(value), np.nan)


def by_rewards(arena: Arena, starts: Sequence[Start], budget: int, key: Key) -> Found:
    """Halving by rewards where all rounds have whole episodes. Else one stretch of every policy, theta* among
    them, as long as it can be: what they earn at first tells little."""
    arms = len(starts) + 1
    whole = budget >= arms * halvings(arms) * arena.family.horizon
    return compare(arena, starts, budget, key, rewards, rounds=None if whole else 1)


BLOCKS = 10
"""Stretches of a task's transitions whose spread tells the standard error of their mean."""
CLEAR = 1.0
"""Standard errors by which a gain must lie below 0 to be none."""


def evidence(arena: Arena, starts: Sequence[Start], budget: int, key: Key) -> Found:
    """The surrogate's question, asked of a single task: how much does the step that a group's tasks want
    reduce the task's own loss, on what theta* experiences there?

    A task goes to the group of most gain. Where all of them are clearly (`CLEAR`) below 0, so that each of
    these steps would harm it, it goes on from theta*. Advantages are measured against a baseline that is
    fitted to the task's own steps: theta*'s critic is told which of the known tasks it judges, and of an
    unseen one it says nothing.

    Args:
        arena, starts: the tasks and the policies.
        budget: environment steps of theta* on each task.
        key: PRNG key.
    """
    member = np.stack([*(start.member for start in starts), np.ones(arena.n, bool)])
    policy, learner = arena.policies[arena.meta.policy], arena.learners[arena.meta.learner]
    tried = learn.try_out(
        policy, learner, arena.family, arena.meta.agent, arena.unseen, key, budget, baseline="linear"
    )
    value, stderr = mean_gains(gains(arena, member, tried))
    useless = (value + CLEAR * np.nan_to_num(stderr))[:, :-1] <= 0
    choice = np.where(useless.all(1), NONE, value[:, :-1].argmax(1))
    return Found(choice, np.full(len(value), budget), value, stderr)


def mean_gains(gain: Float[np.ndarray, "U m T"]) -> tuple[Float[np.ndarray, "U m"], Float[np.ndarray, "U m"]]:
    """Means [U, m] over transitions, and their standard errors by `BLOCKS` (NaN of one transition)."""
    count = min(BLOCKS, gain.shape[-1])
    means = np.stack([block.mean(-1) for block in np.array_split(gain, count, axis=-1)])
    noise = means.std(0, ddof=1) if count > 1 else np.full(gain.shape[:2], np.nan)
    return gain.mean(-1), noise / np.sqrt(count)


def gains(arena: Arena, member: Bool[np.ndarray, "m n"], tried: Tried) -> Float[np.ndarray, "U m T"]:
    """What the surrogates of m sets of known tasks, fitted on all that theta* has experienced there, reduce
    the loss of every transition by that it has ``tried`` on the unseen ones: float [U, m, T]; 0 for a task
    with an advantage that is not finite."""
    sound = np.isfinite(tried.advantage).all(1)
    obs, action, advantage = jax.tree.map(
        lambda x: np.where(sound.reshape(-1, *[1] * (x.ndim - 1)), x, 0),
        (tried.obs, tried.action, tried.advantage),
    )
    policy, config, known = arena.policies[arena.meta.policy], arena.config.estimate, arena.features
    fitted = pipeline.fit_subsets(known, arena.transitions, member, config, parts=(FIT, SCORE, SELECT))
    shape = advantage.shape
    whole = np.zeros(shape, int), np.zeros(shape, np.int8), np.arange(len(arena.unseen))
    own = estimate.gradient_features(
        policy.log_prob, learn.policy_params(arena.meta.agent),
        Transitions(obs, action, advantage, *whole), known.key, known.values.shape[-1],
        precision=config.precision, names=arena.names, private=known.private, projection=known.projection,
    )  # fmt: skip
    deviation = advantage.std(1, keepdims=True)
    a = (advantage - advantage.mean(1, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
    z = np.einsum("utd,md->umt", np.asarray(own.values), np.asarray(fitted.delta))
    return np.asarray(estimate.loss_change(z, a[:, None]))


class Finder(NamedTuple):
    """A way of finding a group."""

    find: Callable[[Arena, Sequence[Start], int, Key], Found]
    """(arena, starts, budget, key) -> what every task has found with at most so many steps."""
    least: Callable[[int], int] = lambda k: halvings(k + 1) * (k + 1)
    """Number of policies -> the smallest budget, in environment steps."""
    needs_critic: bool = False
    """Whether it asks the critics of the policies."""
    tries: bool = True
    """Whether it tries the policies themselves, and so what they may be told."""
    needs_vectors: bool = False
    """Whether it fits a linear baseline, which is one of vectors."""

    def check_steps(self, k: int, budget: int, name: str) -> None:
        """Refuse a ``budget`` in which a task cannot find one of k policies (see `check`)."""
        if 0 < budget < (least := self.least(k)):
            raise ConfigError(
                f"{budget} steps are too few to try {k} policies by {name!r}; use at least {least}"
            )

    def check(self, arena: Arena, starts: Sequence[Start], budget: int, name: str) -> None:
        """Refuse what cannot work.

        Args:
            arena, starts, budget: see ``find``; a budget of 0 finds nothing, and may.
            name: of the finder, for messages.

        Raises:
            ConfigError: naming finder and remedy.
        """
        self.check_steps(len(starts), budget, name)
        if not self.tries and any(start.told is not None for start in starts):
            raise ConfigError(
                f"the finder {name!r} tells groups apart, and not what policies are to be told that are told "
                f"their task, as these are; find by 'rewards'"
            )
        for learner in sorted({start.learner for start in starts}) if self.needs_critic else ():
            if not arena.learners[learner].critic:
                raise ConfigError(
                    f"the finder {name!r} asks critics, and the learner {learner!r} trains none (with "
                    f"its baseline); find by 'rewards'"
                )
        shape = arena.family.observation_space.shape
        if self.needs_vectors and len(shape) != 1:
            raise ConfigError(
                f"the finder {name!r} fits a linear baseline, which is one of vectors, and observations of "
                f"{arena.family.name!r} have shape {list(shape)}; find by 'rewards'"
            )


FINDERS: dict[str, Finder] = {
    "rewards": Finder(by_rewards, lambda k: k + 1),
    "halving": Finder(partial(compare, by=rewards)),
    "values": Finder(partial(compare, by=values), needs_critic=True),
    "foresight": Finder(
        partial(compare, by=foresight, with_meta=False, rounds=1), lambda k: k, needs_critic=True
    ),
    "evidence": Finder(evidence, lambda k: 1, needs_vectors=True, tries=False),
}
"""Ways of finding a group by name; all but foresight may say that none suits. A critic of all tasks foretells
none of them well, so that theta* has no chance by foresight, however it does."""
