"""Training many policies at once: the rows of a membership matrix, in one compiled program."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.learn import ppo
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.ppo import PPO, Problem, RowState
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, Rows

SEGMENT = 10
"""Updates between two looks of the host at the rows (progress, rows that are done)."""

ROWS_PER_CALL = {"cpu": 1, "gpu": 256, "tpu": 256}
"""Rows of one vmapped program, by platform. On the CPU some more are faster once compiled, but with
one the meta-policy, the groups and all comparisons share a single compilation, and the whole default
command is faster (benchmarks/rows.py measures both). Those of accelerators are a guess (all rows of
usual runs at once) until they are measured there."""


class Trained(NamedTuple):
    """The trained rows."""

    agents: Agent
    """Every leaf with a leading axis R."""
    returns: np.ndarray
    """float [R, updates, n]: mean return of the episodes that ended in each update, per task;
    NaN where none ended and beyond a row's budget."""
    steps: np.ndarray
    """int [R]: environment steps that were taken."""


Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, mean recent return) after every segment."""


def init_agents(policy: Policy, family: TaskFamily, keys: Array) -> Agent:
    """Fresh agents, one for each key [R, 2]; every leaf gets a leading axis R."""
    return _init(policy, family.observation_space.shape, jnp.asarray(family.context), jnp.asarray(keys))


@partial(jax.jit, static_argnames=("policy", "shape"))
def _init(policy, shape, context, keys) -> Agent:
    # Not vmapped: two batched QR factorisations at a time (of orthogonal kernels) wait for each other
    # for ever on a CPU of two threads (jaxlib 0.10.2).
    return jax.lax.map(lambda key: policy.init(jax.random.fold_in(key, 1), shape, context), keys)


def concatenate(*trees):
    """Join records along their leading axis."""
    return jax.tree.map(lambda *xs: jnp.concatenate([jnp.asarray(x) for x in xs]), *trees)


def take(tree, index):
    """The rows ``index`` of a record."""
    return jax.tree.map(lambda x: x[index], tree)


@partial(jax.jit, static_argnames=("policy", "env", "horizon"), donate_argnames=("state",))
def _segment(policy, env, horizon, config, problem, member, total, state, count):
    """``count`` (traced) updates of C rows; returns the states and the curves [C, SEGMENT, n]."""

    def body(i, carry):
        state, curve = carry
        one = partial(ppo.update, policy, env, horizon, config, problem)
        state, returns = jax.vmap(one)(member, total, state)
        return state, curve.at[:, i].set(returns)

    curve = jnp.full((member.shape[0], SEGMENT, member.shape[1]), jnp.nan)
    return jax.lax.fori_loop(0, count, body, (state, curve))


@partial(jax.jit, static_argnames=("env",))
def _start(env, config, problem, member, agent, key) -> RowState:
    return ppo.start(config, env, problem, member, agent, key)


@partial(jax.jit, static_argnames=("width",))
def _fill(row: RowState, width: int) -> RowState:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape)), row)


@partial(jax.jit, donate_argnames=("state",))
def _put(state: RowState, row: RowState, slot: int) -> RowState:
    return jax.tree.map(lambda x, y: x.at[slot].set(y), state, row)


def check_rows(config: PPO, family: TaskFamily, rows: Rows) -> None:
    """Refuse rows that cannot be trained, before any work.

    Raises:
        ConfigError: naming the row and the remedy.
    """
    member, steps = np.asarray(rows.member), np.asarray(rows.steps)
    if member.ndim != 2 or member.shape[1] != family.n:
        raise ConfigError(
            f"rows.member has shape {member.shape}; expected [R, {family.n}] for {family.name!r}"
        )
    if not member.any(1).all():
        raise ConfigError(
            f"row {int(np.argmin(member.any(1)))} has no member task; give every row at least one"
        )
    if member.sum(1).max() > config.num_envs:
        raise ConfigError(
            f"a row has {member.sum(1).max()} tasks but num_envs = {config.num_envs}; "
            f"raise num_envs to at least the number of tasks of a row"
        )
    if steps.min() < config.steps_per_update:
        raise ConfigError(
            f"row {int(np.argmin(steps))} has a budget of {steps.min()} steps, less than one update of "
            f"{config.steps_per_update}; raise the budget or lower num_envs or num_steps"
        )


def train(
    policy: Policy,
    config: PPO,
    family: TaskFamily,
    rows: Rows,
    *,
    rows_per_call: int | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train all rows side by side.

    Rows wait in one queue, longest first. Every lane (a device, or a core of the CPU) trains
    ``rows_per_call`` of them in one compiled program; a row that has spent its budget leaves and
    the next takes its place, so budgets may differ without padding. A row's result depends on its
    own key, members, budget and initial agent alone.

    Raises:
        ConfigError: rows that cannot be trained.
        DataError: parameters or rewards became non-finite (which row, which tasks).
    """
    check_rows(config, family, rows)
    total = np.asarray(rows.steps) // config.steps_per_update
    agents = rows.init if rows.init is not None else init_agents(policy, family, rows.key)
    agents = jax.tree.map(np.asarray, agents)
    work = _Work(
        policy, config, family, np.asarray(rows.member, bool), total, agents, np.asarray(rows.key), progress
    )
    lanes = _lanes()
    width = min(rows_per_call or ROWS_PER_CALL[jax.default_backend()], -(-len(total) // len(lanes)))
    with ThreadPoolExecutor(len(lanes)) as pool:
        for lane in [pool.submit(work.run, device, width) for device in lanes]:
            lane.result()
    agents = jax.tree.map(lambda *xs: np.stack(xs), *work.finished)
    return Trained(agents, work.returns, total * config.steps_per_update)


def _lanes() -> list[jax.Device]:
    """Where rows run at the same time: all local devices; a lone CPU device once per core."""
    devices = jax.local_devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return devices * cores if len(devices) == 1 and devices[0].platform == "cpu" else devices


class _Work:
    """The queue of rows that the lanes share, and what has come of them."""

    def __init__(self, policy, config, family, member, total, agents, key, progress):
        self.policy, self.config, self.family = policy, config, family
        self.member, self.total, self.agents, self.key = member, total, agents, key
        self.problem = Problem(jax.tree.map(jnp.asarray, family.tasks), jnp.asarray(family.context))
        self.queue = deque(np.argsort(-total, kind="stable").tolist())
        self.done = np.zeros(len(total), int)
        self.finished: list[Agent | None] = [None] * len(total)
        self.returns = np.full((len(total), int(total.max()), family.n), np.nan, np.float32)
        self.progress, self.lock, self.failed = progress, Lock(), False

    def run(self, device: jax.Device, width: int) -> None:
        """One lane: train rows from the queue until none is left."""
        try:
            with jax.default_device(device):
                self._run(width)
        except BaseException:
            self.failed = True
            raise

    def _run(self, width: int) -> None:
        rows, state = [None] * width, None
        while not self.failed:
            for slot in [slot for slot, row in enumerate(rows) if row is None]:
                rows[slot] = self._next()
                if rows[slot] is not None:
                    state = self._enter(state, slot, rows[slot], width)
            active = [row for row in rows if row is not None]
            if not active:
                return
            state = self._advance(state, rows, active)

    def _next(self) -> int | None:
        with self.lock:
            return self.queue.popleft() if self.queue else None

    def _enter(self, state: RowState | None, slot: int, row: int, width: int) -> RowState:
        """Put a row at the start of its training into a slot; the first one fills all slots."""
        fresh = _start(
            self.family.env,
            self.config,
            self.problem,
            self.member[row],
            take(self.agents, row),
            self.key[row],
        )
        return _fill(fresh, width) if state is None else _put(state, fresh, slot)

    def _advance(self, state: RowState, rows: list[int | None], active: list[int]) -> RowState:
        """One segment of all slots (idle ones repeat an active row's membership, unused)."""
        index = np.array([active[0] if row is None else row for row in rows])
        length = int(min(SEGMENT, (self.total - self.done)[active].min()))
        state, curve = _segment(
            self.policy, self.family.env, self.family.horizon, self.config, self.problem,
            self.member[index], self.total[index], state, length,
        )  # fmt: skip
        curve = np.asarray(curve)[:, :length]
        agents = jax.tree.map(np.asarray, state.agent)
        for slot, row in enumerate(rows):
            if row is None:
                continue
            self.returns[row, self.done[row] : self.done[row] + length] = curve[slot]
            _check_finite(take(agents, slot), row, self.member, self.family)
            self.done[row] += length
            if self.done[row] == self.total[row]:
                self.finished[row] = jax.tree.map(np.copy, take(agents, slot))
                rows[slot] = None
        if self.progress:
            recent = float(np.nanmean(curve)) if np.isfinite(curve).any() else float("nan")
            unit = self.config.steps_per_update
            with self.lock:
                self.progress(int(self.done.sum()) * unit, int(self.total.sum()) * unit, recent)
        return state


def _check_finite(agent: Agent, row: int, member: np.ndarray, family: TaskFamily) -> None:
    if all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(agent)):
        return
    culprits = [family.task_names[i] for i in np.flatnonzero(~np.isfinite(np.asarray(agent.reward.var)))]
    tasks = [family.task_names[i] for i in np.flatnonzero(member[row])]
    what = f"non-finite rewards from task(s) {culprits}" if culprits else "non-finite parameters"
    raise DataError(
        f"training of row {row} (tasks {tasks}) met {what}; check the environment's rewards and "
        f"observations, or lower the learning rate"
    )
