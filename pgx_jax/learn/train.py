"""Training many policies at once: the rows of a membership matrix, in one compiled program."""

from __future__ import annotations

import os
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import ConfigError
from pgx_jax.learn import ppo
from pgx_jax.learn.host import HostLane
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.ppo import PPO, Problem, RowState
from pgx_jax.learn.rollout import check_first_actions
from pgx_jax.learn.work import Checkpoint, Progress, Work, fingerprint, stack, take
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, Rows

SEGMENT = 10
"""Updates between two looks of the host at the rows (progress, rows that are done)."""

ROWS_PER_CALL = {"cpu": 1, "gpu": 256, "tpu": 256}
"""Rows of one vmapped program, by platform. On the CPU some more are faster once compiled, but with
one the meta-policy, the groups and all comparisons share a single compilation, and the whole default
command is faster (benchmarks/rows.py measures both). On a GPU the rate still grew up to as many as were
tried. That of a TPU is a guess."""


class Trained(NamedTuple):
    """The trained rows."""

    agents: Agent
    """Every leaf with a leading axis R."""
    returns: np.ndarray
    """float [R, updates, n]: mean return of the episodes that ended in each update, per task;
    NaN where none ended and beyond a row's budget."""
    steps: np.ndarray
    """int [R]: environment steps that were taken."""


def init_agents(policy: Policy, family: TaskFamily, keys: Array) -> Agent:
    """Fresh agents, one for each key [R, 2]; every leaf (of NumPy) gets a leading axis R.

    One after the other and not compiled as a whole: initialisers are many small programs of equal
    shapes, which then are compiled once for all rows and networks.
    """
    shape, context = family.observation_space.shape, jnp.asarray(family.context)
    return stack([policy.init(jax.random.fold_in(key, 1), shape, context) for key in np.asarray(keys)])


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


class DeviceLane:
    """Rows that train side by side on device environments, in one compiled program.

    A lane of another engine (`host.HostLane`) has the same methods."""

    segment = SEGMENT

    @staticmethod
    def rows_per_call() -> int:
        """Rows of one lane on this platform."""
        return ROWS_PER_CALL.get(jax.default_backend(), 256)

    def __init__(self, policy: Policy, config: PPO, family: TaskFamily, width: int):
        """Make room for ``width`` rows; nothing is started."""
        self.policy, self.config, self.family, self.width = policy, config, family, width
        self.problem = Problem(jax.tree.map(jnp.asarray, family.tasks), jnp.asarray(family.context))
        self.state: RowState | None = None

    def enter(self, slot: int, member: np.ndarray, agent: Agent, key: Array) -> None:
        """Put a row at the start of its training into a slot; the first one fills all slots."""
        fresh = _start(self.family.env, self.config, self.problem, member, agent, key)
        first = self.state is None
        self.state = _fill(fresh, self.width) if first else _put(self.state, fresh, slot)

    def advance(self, member: np.ndarray, total: np.ndarray, count: int, active: np.ndarray) -> np.ndarray:
        """``count`` updates of all slots [C]; returns the curves [C, count, n]."""
        del active  # idle slots cost nothing but what the program computes anyway
        self.state, curve = _segment(
            self.policy, self.family.env, self.family.horizon, self.config, self.problem,
            member, total, self.state, count,
        )  # fmt: skip
        return np.asarray(curve)[:, :count]

    @property
    def agent(self) -> Agent:
        """The agents [C, ...] as NumPy arrays."""
        return jax.tree.map(np.asarray, self.state.agent)

    def close(self) -> None:
        """Nothing to free."""


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
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train all rows side by side.

    Rows wait in one queue, longest first. Every lane (a device, or a core of the CPU) trains
    ``rows_per_call`` of them in one compiled program; a row that has spent its budget leaves and
    the next takes its place, so budgets may differ without padding. (Where a program holds several
    rows, those that are done when the queue is empty stand idle beside the others.) A row's result
    depends on its own key, members, budget and initial agent alone.

    Args:
        policy, config, family, rows: what to train.
        rows_per_call: rows of a lane; what suits engine and platform by default.
        progress: hears after every segment.
        checkpoint: keeps the state of rows on host environments every now and then, and from where
            they go on if it has any: each row from the update that was saved, its environments reset.

    Raises:
        ConfigError: rows that cannot be trained.
        DataError: the policy cannot act, parameters or rewards became non-finite (which row, which
            tasks), or a host environment raised or returned nonsense (which task).
    """
    check_rows(config, family, rows)
    total = np.asarray(rows.steps) // config.steps_per_update
    agents = rows.init if rows.init is not None else init_agents(policy, family, rows.key)
    agents = jax.tree.map(np.asarray, agents)
    if family.engine == "device":
        check_first_actions(policy, family, take(agents, 0))
    make_lane = HostLane if family.engine == "host" else DeviceLane
    lanes = _lanes()
    width = min(rows_per_call or make_lane.rows_per_call(), -(-len(total) // len(lanes)))
    open_lane = partial(make_lane, policy, config, family, width)
    work = Work(open_lane, family, np.asarray(rows.member, bool), total, agents, np.asarray(rows.key))
    work.unit, work.progress = config.steps_per_update, progress
    if checkpoint is not None and family.engine == "host":
        work.keep(checkpoint, fingerprint(policy, config, family, rows, agents))
    work.run_all(lanes, width)
    return Trained(stack(work.finished), work.returns, total * config.steps_per_update)


def _lanes() -> list[jax.Device]:
    """Where rows run at the same time: all local devices; a lone CPU device once per core."""
    devices = jax.local_devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return devices * cores if len(devices) == 1 and devices[0].platform == "cpu" else devices
