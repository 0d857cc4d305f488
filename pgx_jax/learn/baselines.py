"""What advantages are measured against, beside the critic's values: a linear function of features.

That is the baseline of rllab (Duan et al., 2016, "Benchmarking Deep Reinforcement Learning for Continuous
Control"), with which garage and Meta-World train policies for several tasks. There trajectories are whole
episodes. Here they may be cut, and what would have come is told by the critic, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from pgx_jax.errors import ConfigError
from pgx_jax.learn.advantages import gae
from pgx_jax.learn.systems import solve
from pgx_jax.types import Array

RIDGE = 1e-4
"""Added to the variance of every feature, where 1 is its own. (garage adds 1e-5 to sums of squares.)"""

Baseline = Callable[
    [Int[Array, "E"], int, Float[Array, "T E *shape"], Float[Array, "T E *shape"], Array, Array],
    tuple[Array, Array],
]


def features(obs: Float[Array, "T E o"], age: Int[Array, "T E"]) -> Float[Array, "T E F"]:
    """Observations within [-10, 10], their squares, and t, t^2, t^3 in hundreds of steps; F = 2 o + 3.

    Raises:
        ConfigError: observations are no vectors.
    """
    if jnp.ndim(obs) != 3:
        shape = list(jnp.shape(obs)[2:])
        raise ConfigError(
            f"baseline = 'linear' is one of vectors, and observations have shape {shape}; use 'critic'"
        )
    obs, t = jnp.clip(obs, -10.0, 10.0), jnp.asarray(age)[..., None] / 100.0
    return jnp.concatenate([obs, obs**2, t, t**2, t**3], -1)


def linear(
    slot_task: Int[Array, "E"],
    n: int,
    obs: Float[Array, "T E o"],
    next_obs: Float[Array, "T E o"],
    age: Int[Array, "T E"],
    returns: Float[Array, "T E"],
) -> tuple[Float[Array, "T E"], Float[Array, "T E"]]:
    """Ridge regression of each task's returns on `features`, which are standardised, and a constant.

    Args:
        slot_task: int [E], the task of every slot.
        n: tasks of the family.
        obs, next_obs: [T, E, o], normalised, of step t and what it led to.
        age: int [T, E], steps of the episode before step t.
        returns: [T, E], discounted, from step t on.

    Returns:
        What it predicts of ``obs`` and of ``next_obs``, [T, E] each.

    Raises:
        ConfigError: observations are no vectors.
    """
    one_hot = jax.nn.one_hot(slot_task, n)
    share = one_hot / jnp.maximum(one_hot.sum(0) * len(returns), 1.0)

    def of_tasks(sums: Array) -> Array:  # over time, [E, ...] -> means [n, ...]
        return jnp.tensordot(share, sums, (0, 0), precision="highest")

    x, next_x = features(obs, age), features(next_obs, age + 1)
    level, mean = of_tasks(returns.sum(0))[slot_task], of_tasks(x.sum(0))[slot_task]
    spread = jnp.sqrt(of_tasks(((x - mean) ** 2).sum(0)) + 1e-8)[slot_task]
    x, next_x = (x - mean) / spread, (next_x - mean) / spread
    gram = of_tasks(jnp.einsum("tef,teg->efg", x, x, precision="highest"))
    pull = of_tasks(jnp.einsum("tef,te->ef", x, returns - level, precision="highest"))
    weights = solve(gram + RIDGE * jnp.eye(gram.shape[-1]), pull[..., None])[slot_task, :, 0]
    return level + jnp.sum(x * weights, -1), level + jnp.sum(next_x * weights, -1)


BASELINES: dict[str, Baseline | None] = {"critic": None, "linear": linear}
"""Baselines by name, each with what fits it to a batch; the critic needs nothing but its training."""


def expected(
    name: str,
    values: tuple[Array, Array],
    slot_task: Int[Array, "E"],
    n: int,
    obs: tuple[Array, Array],
    age: Int[Array, "T E"] | None,
    reward: Float[Array, "T E"],
    ends: tuple[Array, Array],
    gamma: float,
) -> tuple[Float[Array, "T E"], Float[Array, "T E"]]:
    """What a baseline of `BASELINES` expects from every step on, and from the one after it.

    Args:
        name: of the baseline.
        values: what the critic says of both, [T, E] each; zeros without one.
        slot_task, n, age: see `linear`.
        obs: [T, E, o], normalised, of every step and what it led to.
        reward, ends, gamma: see `gae`; ``ends`` are ``terminated`` and ``done``.

    Raises:
        ConfigError: observations that it is none of.
    """
    if (fit := BASELINES[name]) is None:
        return values
    assert age is not None, "the engines tell it"
    to_go = gae(reward, *values, *ends, gamma, 1.0) + values[0]
    return fit(slot_task, n, *obs, age, to_go)
