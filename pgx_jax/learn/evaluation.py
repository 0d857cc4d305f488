"""Returns and success of a set of policies on a set of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.errors import DataError, pick
from pgx_jax.learn.engine import engine_of
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Pairs
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Key, PyTree


class Evaluation(NamedTuple):
    """Episodes of P (policy, task) pairs."""

    returns: Float[np.ndarray, "P episodes"]
    """float [P, episodes]."""
    success: Bool[np.ndarray, "P episodes"]
    """bool [P, episodes]: success in any step of the episode."""
    success_at_end: Bool[np.ndarray, "P episodes"]
    """bool [P, episodes]: success in the last one."""
    steps: Int[np.ndarray, "P episodes"]
    """int [P, episodes]: length of the episodes."""
    adaptation_steps: Int[np.ndarray, "P"]
    """int [P]: environment steps that the policy took before, to adapt to the task."""

    def judged_by(self, metric: str) -> Float[np.ndarray, "P episodes"]:
        """float [P, episodes]: success or returns, as a family is judged (`TaskFamily.metric`)."""
        return np.asarray(pick({"return": self.returns, "success": self.success}, metric, "metric"), float)


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
        context: float [P, C], what a policy that is told its task is told of them; zeros by default.

    Raises:
        DataError: parameters after adapting, or a return, that are not finite, naming the task.
    """
    pairs = Pairs(np.asarray(row, int), np.asarray(task, int), key, tasks, context)
    engine, adaptation = engine_of(family), learner.adaptation_steps if learner else 0
    task_names = family.task_names if tasks is None else names

    def refuse(what: str, values: Sequence[np.ndarray], remedy: str) -> None:
        bad = ~np.all([np.isfinite(x).reshape(len(x), -1).all(1) for x in values], axis=0)
        if bad.any():
            culprit = int(pairs.task[np.argmax(bad)])
            name = repr(task_names[culprit]) if task_names else f"'number {culprit}'"
            raise DataError(f"{what.format(task=f'task {name}')}; {remedy}")

    if learner is not None and adaptation:
        agents = engine.adapt(policy, learner, family, agents, pairs)
        pairs = pairs._replace(row=np.arange(len(pairs.row)))
        remedy = "lower the step size of the adaptation, or check the task's rewards"
        refuse("adapting to {task} gave parameters that are not finite", jax.tree.leaves(agents), remedy)
    played = engine.play(policy, family, agents, pairs, episodes, deterministic)
    refuse("evaluating on {task} gave returns that are not finite", played[:1], "check its rewards")
    returns, success, at_end, steps = played
    return Evaluation(returns, success, at_end, steps, np.full(len(pairs.row), adaptation))
