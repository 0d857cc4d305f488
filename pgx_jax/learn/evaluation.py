"""Returns and success of a set of policies on a set of tasks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.errors import ConfigError, DataError, pick
from pgx_jax.learn.engine import engine_of
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import ADAPTING, Pairs
from pgx_jax.learn.work import take
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Key, PyTree


class Evaluation(NamedTuple):
    """Episodes of P (policy, task) pairs."""

    returns: Float[np.ndarray, "P episodes"]
    """float [P, episodes]; NaN where adapting to the task failed."""
    success: Bool[np.ndarray, "P episodes"]
    """bool [P, episodes]: success in any step of the episode; False where adapting failed."""
    success_at_end: Bool[np.ndarray, "P episodes"]
    """bool [P, episodes]: success in the last one."""
    steps: Int[np.ndarray, "P episodes"]
    """int [P, episodes]: length of the episodes."""
    adaptation_steps: Int[np.ndarray, "P"]
    """int [P]: environment steps that the policy took before, to adapt to the task."""
    failed: Bool[np.ndarray, "P"] | None = None
    """bool [P]: whether adapting to the task diverged (`adapted`); None if nobody adapts."""

    def judged_by(self, metric: str) -> Float[np.ndarray, "P episodes"]:
        """float [P, episodes]: success or returns, as a family is judged (`TaskFamily.metric`); NaN where
        adapting to the task failed."""
        judged = pick({"return": self.returns, "success": self.success}, metric, "metric")
        return np.where(np.isnan(self.returns), np.nan, np.asarray(judged, float))


MOST_NATS = 100.0
"""How far a round of adapting may bring a policy from the one before it, in nats (`stopping.drift`). What
that one did has then become less probable by e^-100 in the mean, about the least that float32 can tell from
0: nothing is left of the policy that was trained to be adapted. Steps that serve move it by a few."""
DIVERGED = (
    f"diverged (to parameters or log-probabilities that are not finite, or by more than {MOST_NATS:g} nats "
    f"from the policy before it)"
)
"""What has failed, in words."""


def evaluate(
    policy: Policy,
    family: TaskFamily,
    agents: Agent,
    row: Int[np.ndarray, "P"],
    task: Int[np.ndarray, "P"],
    key: Key,
    *,
    learner: Learner | None = None,
    episodes: int = 64,
    deterministic: bool = False,
    tasks: PyTree = None,
    names: Sequence[str] | None = None,
    context: Float[np.ndarray, "P C"] | None = None,
) -> Evaluation:
    """Play full episodes of agent ``row[j]`` on task ``task[j]`` for every pair j.

    Initial states and noise depend on the key and the task alone, so different policies meet the
    same episodes: differences between them are paired.

    Args:
        policy, family: static description and environment.
        agents: leaves with a leading axis R.
        row, task: int [P].
        key: PRNG key.
        learner: trained them; if it adapts (``adaptation_steps``), every pair's agent first does so.
        episodes: episodes of each pair.
        deterministic: act by the mode.
        tasks: other task parameters than the family's own (unseen test tasks).
        names: their names, for error messages.
        context: float [P, C], what a policy that is told its task is told; the task's own by default. On
            other tasks a critic without it is told zeros, and an actor needs it.

    A pair whose agent diverges as it adapts is marked as failed, with a warning that names the task.

    Raises:
        ConfigError: an actor that is told its task is not told what unseen tasks are.
        DataError: a return that is not finite, naming the task.
    """
    if policy.conditioned_actor and tasks is not None and context is None:
        raise ConfigError(
            "this policy is told which task it is on, and the unseen tasks have no context: pass context "
            "[P, C], for instance that of the known task whose behaviour suits each best"
        )
    pairs = Pairs(np.asarray(row, int), np.asarray(task, int), key, tasks, context)
    engine, count = engine_of(family), len(pairs.row)
    adaptation, failed = (learner.adaptation_steps if learner else 0), None
    task_names = family.task_names if tasks is None else names

    def named(which: Bool[np.ndarray, "P"]) -> str:
        culprits = dict.fromkeys(pairs.task[which].tolist())
        return ", ".join(repr(task_names[i]) if task_names else f"'number {i}'" for i in culprits)

    if learner is not None and adaptation:
        agents, failed = adapted(policy, learner, family, agents, pairs)
        pairs = pairs._replace(row=np.arange(count))
        if failed.any():
            warnings.warn(
                f"adapting to task(s) {named(failed)} {DIVERGED}: they have failed, and count as NaN; lower "
                f"the step size of the adaptation, or check the task's rewards",
                stacklevel=2,
            )
    returns, success, at_end, steps = engine.play(policy, family, agents, pairs, episodes, deterministic)
    bad = ~np.isfinite(returns).all(1)
    if bad.any():
        first = np.arange(count) == np.argmax(bad)
        raise DataError(
            f"evaluating on task {named(first)} gave returns that are not finite; check its rewards"
        )
    if failed is not None:
        returns = np.where(failed[:, None], np.nan, returns)
        success, at_end = success & ~failed[:, None], at_end & ~failed[:, None]
    return Evaluation(returns, success, at_end, steps, np.full(count, adaptation), failed)


def adapted(
    policy: Policy, learner: Learner, family: TaskFamily, agents: Agent, pairs: Pairs
) -> tuple[Agent, Bool[np.ndarray, "P"]]:
    """The agents of all pairs, leaves [P, ...], after all rounds of adapting (`Learner.adapt`), and where one
    of these failed, bool [P]; there they are as they were before it. One fails that leads to parameters which
    are not finite, or to log-probabilities of what was done that are not, or further than `MOST_NATS`."""
    engine = engine_of(family)
    before = take(jax.tree.map(np.asarray, agents), pairs.row)
    pairs, failed = pairs._replace(row=np.arange(len(pairs.row))), np.zeros(len(pairs.row), bool)
    for _ in range(learner.adaptation_rounds):
        after, far = engine.adapt(policy, learner, family, before, pairs)
        sound = [np.isfinite(x).reshape(len(x), -1).all(1) for x in jax.tree.leaves(after)]
        sound.append(far <= MOST_NATS)  # which NaN is not
        diverged = ~np.all(sound, axis=0)

        def kept(new: np.ndarray, old: np.ndarray, diverged: np.ndarray = diverged) -> np.ndarray:
            return np.where(diverged.reshape(-1, *[1] * (new.ndim - 1)), old, new)

        before, failed = jax.tree.map(kept, after, before), failed | diverged
        pairs = pairs._replace(key=jax.random.fold_in(pairs.key, ADAPTING))
    return before, failed
