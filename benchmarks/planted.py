"""Logged data with planted groups of any number of tasks, and affinities with such groups.

Observations and the noise of a small Gaussian policy are random; the advantage of a transition of task i is
the derivative of its log-probability along a direction in parameter space, standardised, plus noise. Tasks
of a group share a direction (those of all groups sum to zero, so that groups are in conflict), and each
task adds one of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.types import PyTree, Transitions

OBSERVATION, ACTION = 8, 2
TRAJECTORY = 16
"""Transitions of a trajectory."""


def mean(params: PyTree, obs: jax.Array) -> jax.Array:
    """Mean action [2] of an observation [8]."""
    for weights in params[:-1]:
        obs = jnp.tanh(obs @ weights)
    return obs @ params[-1]


def log_prob(params: PyTree, obs: jax.Array, action: jax.Array) -> jax.Array:
    """Log-probability of an action [2], but for a constant."""
    return -0.5 * jnp.sum((action - mean(params, obs)) ** 2)


class Planted(NamedTuple):
    """Logged data, the policy's parameters, and the true groups."""

    params: PyTree
    transitions: Transitions
    labels: np.ndarray


def planted(
    n: int, k: int, *, hidden: int, transitions: int, noise: float, own: float = 0.5, seed: int = 0
) -> Planted:
    """Data of n tasks in k groups.

    Args:
        n: tasks.
        k: groups.
        hidden: width of the two hidden layers.
        transitions: N of each task, a multiple of `TRAJECTORY`.
        noise: deviation of the advantages' noise, where their signal has 1.
        own: length of a task's own direction, where that of a group is 1.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    sizes = [(OBSERVATION, hidden), (hidden, hidden), (hidden, ACTION)]

    def draw(scale: float = 1.0) -> list[jax.Array]:
        return [jnp.asarray(scale * rng.normal(size=s) / np.sqrt(s[0]), jnp.float32) for s in sizes]

    params, drawn, labels = draw(), [draw() for _ in range(k)], np.arange(n) % k
    total = jax.tree.map(lambda *x: sum(x) / k, *drawn)
    shared = [jax.tree.map(jnp.subtract, direction, total) for direction in drawn]
    obs = rng.normal(size=(n, transitions, OBSERVATION)).astype(np.float32)
    action = np.asarray(jax.jit(jax.vmap(jax.vmap(lambda x: mean(params, x))))(obs))
    action = action + rng.normal(size=action.shape).astype(np.float32)

    @jax.jit
    def signal(direction: PyTree, obs: jax.Array, action: jax.Array) -> jax.Array:
        def along(obs: jax.Array, action: jax.Array) -> jax.Array:
            return jax.jvp(lambda p: log_prob(p, obs, action), (params,), (direction,))[1]

        return jax.vmap(along)(obs, action)

    def advantage(i: int) -> np.ndarray:
        direction = jax.tree.map(jnp.add, shared[labels[i]], draw(own))
        known = np.asarray(signal(direction, obs[i], action[i]))
        return known / known.std() + noise * rng.normal(size=transitions)

    trajectory = np.tile(np.arange(transitions) // TRAJECTORY, (n, 1))
    advantages = np.stack([advantage(i) for i in range(n)]).astype(np.float32)
    split = (trajectory % 3).astype(np.int8)
    return Planted(params, Transitions(obs, action, advantages, trajectory, split, np.arange(n)), labels)


def affinity(n: int, k: int, *, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix [n, n], 1 within k groups and 0 across them plus noise, and the groups [n]."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % k
    error = np.triu(noise * rng.normal(size=(n, n)), 1)
    return (labels[:, None] == labels[None, :]) + error + error.T, labels
