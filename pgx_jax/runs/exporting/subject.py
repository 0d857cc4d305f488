"""What is exported: one policy, and what somebody without its run must know of it."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import numpy as np

from pgx_jax.errors import ConfigError
from pgx_jax.learn import Policy
from pgx_jax.learn.distributions import Categorical, DiagonalGaussian, MultiCategorical
from pgx_jax.learn.policy import policy_params
from pgx_jax.types import Agent, PyTree


class Subject(NamedTuple):
    """A policy that serves some tasks of a family."""

    family: str
    tasks: dict[str, list[float]]
    """The tasks that it serves, with their context vectors [C]."""
    task: str | None
    """The task that it is on where nothing else is said; None for any of them."""
    policy: Policy
    agent: Agent
    shape: tuple[int, ...]
    """Of one observation."""

    @property
    def params(self) -> PyTree:
        """The actor's parameters, NumPy arrays."""
        return policy_params(self.agent)

    def about(self) -> dict[str, Any]:
        """What every format writes down beside the parameters, as JSON can hold it."""
        policy = self.policy
        return {
            "family": self.family, "tasks": self.tasks, "task": self.task, "told": policy.conditioned_actor,
            "observation": list(self.shape), "scale": policy.scale,
            "normalised": policy.normalise_observations, "network": " ".join(repr(policy.actor).split()),
            "actions": actions(policy.distribution),
        }  # fmt: skip

    def moments(self) -> dict[str, np.ndarray]:
        """Mean and variance by which observations are normalised; none where they are not."""
        found = self.agent.observation
        given = {"mean": np.asarray(found.mean), "var": np.asarray(found.var)}
        return given if self.policy.normalise_observations else {}


def require(format: str, package: str) -> None:
    """Refuse a format whose package is not installed.

    Raises:
        ConfigError: with the remedy.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"the format {format!r} needs the package {package}, which is not installed: "
            f'pip install "pgx-jax[export]"'
        )


def actions(of: Any) -> dict[str, Any]:
    """A distribution, as JSON can hold it."""
    if isinstance(of, DiagonalGaussian):
        return {"kind": "gaussian", "low": list(of.low), "high": list(of.high), "squash": of.squash}
    assert isinstance(of, Categorical | MultiCategorical)
    sizes = [of.size] if isinstance(of, Categorical) else list(of.sizes)
    return {"kind": "categorical", "sizes": sizes, "several": isinstance(of, MultiCategorical)}
