"""What a look at a group's policy collects."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from pgx_jax import learn, pipeline
from pgx_jax.config import Config
from pgx_jax.errors import ConfigError
from pgx_jax.learn import Learner, Policy
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, PyTree, Transitions


class Asking(NamedTuple):
    """Whose policies are asked, and how."""

    policy: Policy
    learner: Learner
    family: TaskFamily
    config: Config

    def collecting(self, member: Bool[np.ndarray, "n"]) -> int:
        """Environment steps that a look at a policy and these tasks collects; 0 where there is nothing to
        look at, or too little could be collected."""
        if member.sum() < 2:
            return 0
        try:
            own = self.family.only(np.flatnonzero(member))
            sources, steps, _ = pipeline.collects(self.config, own, self.policy.conditioned_actor)
        except ConfigError:
            return 0
        return sources * steps

    def experience(self, agent: Agent, tasks: Int[np.ndarray, "m"], number: int) -> Experience:
        """What a policy experiences on some tasks; the random numbers are those of the ``number``-th look.

        Raises:
            NoSignalError: nothing tells good actions of one of the tasks from bad ones any more.
        """
        own = self.family.only(tasks)
        reward, value = learn.take((agent.reward, agent.value), tasks)
        agent = agent._replace(reward=reward, value=value)
        transitions = pipeline.collect(self.policy, self.learner, own, self.config, agent, number)
        return Experience(own, learn.policy_params(agent), transitions)


class Experience(NamedTuple):
    """What a policy experienced."""

    family: TaskFamily
    """Of the tasks that it was tried on."""
    params: PyTree
    """Of the policy."""
    transitions: Transitions
