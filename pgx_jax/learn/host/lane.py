"""Rows that train on environments in plain Python.

The lane acts (see `acting`); all that follows (advantages, batches, updates) is the code of the device
engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.learn import updating
from pgx_jax.learn.host.acting import Acting
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.learn.updating import RowState
from pgx_jax.learn.work import Saved
from pgx_jax.steady import compiled
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array

ROWS_PER_CALL = {"cpu": 4, "gpu": 16, "tpu": 16}
"""Rows of one lane, by platform: one lane's environments run while another one learns."""

LEARN_ROWS = {"cpu": 1, "gpu": 256, "tpu": 256}
"""Rows that learn in one vmapped program, by platform; acting is vmapped over all rows of a chunk."""


@partial(compiled, static_argnames=("policy",))
def _begin(policy: Policy, learner: Learner, agent: Agent, key: Array) -> tuple[RowState, Array]:
    return updating.begin(policy, learner, agent, key)


@partial(compiled, static_argnames=("phases",))
def _act_keys(keys: Array, phases: int) -> list[Array]:
    """Of every phase the keys [C, 2] of acting."""
    return jax.vmap(lambda key: updating.update_keys(key, phases)[1])(keys)


@partial(compiled, static_argnames=("policy",))
def _acting(
    policy: Policy,
    learner: Learner,
    context: Array,
    member: Array,
    total: Array,
    state: RowState,
    steps: tuple[Steps, ...],
) -> Agent:
    """The agents of a phase in which slots have parameters of their own; actors [C, E, ...]."""

    def one(member: Array, total: Array, state: RowState, steps: tuple[Steps, ...]) -> Agent:
        row = updating.row_tasks(learner, context, member, total)
        return updating.acting_agent(policy, learner, row, state.learning, steps)

    return jax.vmap(one)(member, total, state, steps)


@partial(compiled, static_argnames=("policy",))
def _learn(
    policy: Policy,
    learner: Learner,
    context: Array,
    member: Array,
    total: Array,
    state: RowState,
    steps: tuple[Steps, ...],
) -> tuple[RowState, Array]:
    """The second half of a phase of some rows, from what they did; the states, and mean returns [C, n]."""

    def one(member: Array, total: Array, state: RowState, steps: tuple[Steps, ...]) -> tuple[RowState, Array]:
        row = updating.row_tasks(learner, context, member, total)
        return updating.learn_from(policy, learner, row, state, steps)

    return jax.vmap(one)(member, total, state, steps)


class HostLane:
    """Rows that train side by side on host environments (see `work.Lane`)."""

    segment = 1
    """Updates between two looks at the rows."""

    @staticmethod
    def rows_per_call() -> int:
        """Rows of one lane on this platform."""
        return ROWS_PER_CALL.get(jax.default_backend(), 16)

    def __init__(self, policy: Policy, learner: Learner, family: TaskFamily, width: int):
        """Open slots for ``width`` rows; nothing is started."""
        self.policy, self.learner, self.family, self.width = policy, learner, family, width
        self.tasks = Tasks.of(family)
        self.acting = Acting(policy, family, width, learner.num_envs)
        self.state: RowState | None = None

    @property
    def rows(self) -> RowState:
        """The states of all slots."""
        assert self.state is not None, "no row has entered"
        return self.state

    def enter(self, slot: int, member: np.ndarray, agent: Agent, key: Array) -> None:
        """Put a row at the start of its training into a slot; the first one fills all slots."""
        fresh, reset_key = _begin(self.policy, self.learner, agent, key)
        self._put(slot, fresh)
        index = np.asarray(updating.slot_tasks(jnp.asarray(member), self.learner.num_envs))
        context = np.asarray(self.family.context, np.float32)[index]
        self.acting.enter(slot, self.tasks, index, context, reset_key)

    def _put(self, slot: int, row: RowState) -> None:
        row = jax.tree.map(np.asarray, row)
        if self.state is None:
            self.state = jax.tree.map(lambda x: np.broadcast_to(x, (self.width, *x.shape)), row)
        self.state = jax.tree.map(lambda x, y: _with(x, slot, y), self.state, row)

    def save(self, slots: Sequence[int]) -> list[Saved]:
        """The whole states of some rows but for their environments."""
        leaves, update = jax.tree.leaves(self.rows), self.rows.learning.update
        return [Saved(int(update[slot]), [np.array(x[slot]) for x in leaves]) for slot in slots]

    def restore(self, slot: int, saved: Saved) -> None:
        """Put a saved state into the slot of a row that has just entered; its environments are reset, with
        seeds of the update that it goes on from."""
        row = jax.tree.unflatten(jax.tree.structure(self.state), saved.leaves)
        self._put(slot, row)
        self.acting.reset(slot, row.key)

    def advance(self, member: np.ndarray, total: np.ndarray, count: int, active: np.ndarray) -> np.ndarray:
        """``count`` updates of the active rows [C]; returns the curves [C, count, n]."""
        curves = []
        for _ in range(count):
            state = self.rows
            steps: tuple[Steps, ...] = ()
            for phase, keys in enumerate(_act_keys(state.key, self.learner.phases)):
                new = self._act(state, member, total, active, steps, phase, keys)
                steps = (*steps, new)
                state, curve = self._learn(state, member, total, active, steps)
            self.state = state
            curves.append(curve)
        return np.stack(curves, 1)

    def _act(
        self,
        state: RowState,
        member: np.ndarray,
        total: np.ndarray,
        active: np.ndarray,
        steps: tuple[Steps, ...],
        phase: int,
        keys: Array,
    ) -> Steps:
        """A phase of the active rows, leaves [C, T, E, ...]; ``steps`` are those of the phases before."""
        agents, per_slot = state.learning.agent, self.learner.per_slot(phase)
        if per_slot:
            context = self.family.context
            agents = _acting(self.policy, self.learner, context, member, total, state, steps)
        return self.acting.unroll(
            agents, np.asarray(keys), self.learner.num_steps,
            gamma=self.learner.gamma, active=active, per_slot=per_slot,
        )  # fmt: skip

    def _learn(
        self,
        state: RowState,
        member: np.ndarray,
        total: np.ndarray,
        active: np.ndarray,
        steps: tuple[Steps, ...],
    ) -> tuple[RowState, np.ndarray]:
        """What the active rows make of it, some rows at a time; the states and mean returns [C, n]."""
        learnt: list[tuple[RowState, Array]] = []
        width = LEARN_ROWS.get(jax.default_backend(), 256)
        for start in range(0, self.width, width):
            part = slice(start, start + width)
            some = jax.tree.map(lambda x, part=part: x[part], (state, steps))
            if not active[part].any():
                learnt.append((some[0], np.full(member[part].shape, np.nan)))
                continue
            known = (self.policy, self.learner, self.family.context, member[part], total[part])
            learnt.append(_learn(*known, *some))
        return jax.tree.map(lambda *xs: np.concatenate([np.asarray(x) for x in xs]), *learnt)

    @property
    def agent(self) -> Agent:
        """The agents [C, ...] as NumPy arrays."""
        return self.rows.learning.agent

    def close(self) -> None:
        """Close the environments."""
        self.acting.close()


def _with(x: np.ndarray, slot: int, value: np.ndarray) -> np.ndarray:
    x = np.array(x)
    x[slot] = value
    return x
