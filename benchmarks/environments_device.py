"""What the device engine adds to a library's own stepping, policies left out (part of environments.py).

Ours is the collector that training uses, with time limits, resets and the record of every step, under
an actor that says the same for ever; theirs is a bare compiled loop over the library's step with the
library's own reset at the end of an episode, under the same actions. Rounds alternate, and the
median of the rounds' ratios counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from envs.brax_adapter import brax_family
from envs.gymnax_adapter import gymnax_family
from pgx_jax.learn import make_policy
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import reset_slots, unroll
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent

FULL = (
    {"library": "gymnax", "environment": "Pendulum-v1", "slots": 1024, "steps": 2000},
    {"library": "gymnax", "environment": "Acrobot-v1", "slots": 1024, "steps": 1000},
    {"library": "brax", "environment": "reacher", "slots": 256, "steps": 500},
)
SMALL = (FULL[0] | {"slots": 4, "steps": 8},)
BRAX_HORIZON = 50
"""Time limit of Brax's episodes, in steps; it is the reacher's in our family."""

Advance = Callable[[], Any]
"""Runs the environments for the steps of a round, from where they stand."""


def cells(small: bool) -> list[dict]:
    """One cell an environment."""
    rounds = 2 if small else 15
    return [{"part": "device overhead", **cell, "rounds": rounds} for cell in (SMALL if small else FULL)]


class Still(nn.Module):
    """An actor without parameters: the first action, or the middle of the box."""

    size: int
    discrete: bool

    @nn.compact
    def __call__(self, obs, context=None):
        """Logits [size], or mean and log standard deviation."""
        zeros = jnp.zeros(self.size)
        return zeros if self.discrete else (zeros, zeros)


def still(family: TaskFamily) -> tuple[Policy, Agent]:
    """A policy that costs nothing, and its agent."""
    discrete = isinstance(family.action_space, spaces.Discrete)
    size = int(family.action_space.n) if discrete else family.action_space.shape[0]
    policy = make_policy(family, actor=Still(size, discrete), hidden=(1,))
    context = jnp.asarray(family.context)
    return policy, policy.init(jax.random.PRNGKey(0), family.observation_space.shape, context)


def engine_loop(family: TaskFamily, slots: int, length: int) -> Advance:
    """Our collector, without a draw from the policy."""
    policy, agent = still(family)
    tasks = jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[:1], slots, 0), family.tasks)
    context = jnp.zeros((slots, family.n))

    @jax.jit
    def start(key):
        return reset_slots(family.env, tasks, jax.random.split(key, slots))

    @jax.jit
    def run(state, key):
        return unroll(
            policy, family.env, family.horizon, agent, tasks, context, state, key, length, deterministic=True
        )

    return repeated(run, start(jax.random.PRNGKey(0)))


def repeated(run: Callable, state: Any) -> Advance:
    """Calls of run(state, key) -> (state, record), each going on where the last one stopped."""
    keys = iter(range(1, 10**9))

    def advance():
        nonlocal state
        state, record = run(state, jax.random.PRNGKey(next(keys)))
        return jax.block_until_ready(record)

    return advance


def gymnax_loop(env_id: str, slots: int, length: int) -> Advance:
    """gymnax's own step, which resets when an episode ends; kept are observation, reward and end."""
    import gymnax

    env, params = gymnax.make(env_id)
    action = jax.tree.map(jnp.zeros_like, env.action_space(params).sample(jax.random.PRNGKey(0)))
    actions = jnp.broadcast_to(action, (slots, *action.shape))

    def step(state, key):
        keys = jax.random.split(key, slots)
        obs, state, reward, done, *_ = jax.vmap(env.step, (0, 0, 0, None))(keys, state, actions, params)
        return state, (obs, reward, done)

    keys = jax.random.split(jax.random.PRNGKey(0), slots)
    _, state = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)
    return repeated(
        jax.jit(lambda state, key: jax.lax.scan(step, state, jax.random.split(key, length))), state
    )


def brax_loop(env_name: str, horizon: int, slots: int, length: int) -> Advance:
    """brax's own wrappers: their automatic reset goes back to each environment's first state."""
    from brax import envs

    env = envs.create(env_name, episode_length=horizon, batch_size=slots, backend="spring")
    actions = jnp.zeros((slots, env.action_size))

    def step(state, _):
        state = env.step(state, actions)
        return state, (state.obs, state.reward, state.done)

    state = jax.jit(env.reset)(jax.random.PRNGKey(0))
    return repeated(jax.jit(lambda state, _: jax.lax.scan(step, state, None, length)), state)


def compute(cell: Mapping) -> dict:
    """Time both loops in turns, after a round each that compiles."""
    name, slots, steps = cell["environment"], cell["slots"], cell["steps"]
    if cell["library"] == "brax":
        family = brax_family(name, n_tasks=2, horizon=BRAX_HORIZON)
        raw = brax_loop(name, family.horizon, slots, steps)
    else:
        family = gymnax_family(name, n_tasks=2)
        raw = gymnax_loop(name, slots, steps)
    loops, rounds = (raw, engine_loop(family, slots, steps)), []
    for number in range(-1, cell["rounds"]):
        pair = [0.0, 0.0]
        for which in (number % 2, 1 - number % 2):
            began = time.perf_counter()
            loops[which]()
            pair[which] = time.perf_counter() - began
        rounds.append(pair)
    times = np.array(rounds[1:])
    raw_rate, engine_rate = slots * steps / np.median(times, axis=0)
    return {
        "timings": {
            "rounds": rounds[1:],
            "raw_steps_per_second": float(raw_rate),
            "engine_steps_per_second": float(engine_rate),
            "overhead": float(np.median(times[:, 1] / times[:, 0]) - 1.0),
        },
    }
