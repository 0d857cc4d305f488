"""Rows that train on environments in plain Python.

The lane acts (see `acting`); all that follows (advantages, batches, updates) is the code of the device
engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.learn import updating
from pgx_jax.learn.host.acting import Acting, Episodes
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.learn.lane import Outcome, Saved, fill, pick, put, restored_row, saved_rows
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.learn.updating import Earned, RowState
from pgx_jax.steady import compiled
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree

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


@partial(compiled, static_argnames=("what", "policy"))
def _of_rows(
    what: Callable[..., PyTree],
    policy: Policy,
    learner: Learner,
    context: Array,
    member: Array,
    total: Array,
    state: RowState,
    steps: tuple[Steps, ...],
) -> PyTree:
    """``what(policy, learner, row, state, steps)`` of every row: `updating.acting_agent`, or one of
    `updating.LEARN_FROM`."""

    def one(member: Array, total: Array, state: RowState, steps: tuple[Steps, ...]) -> PyTree:
        return what(policy, learner, updating.row_tasks(learner, context, member, total), state, steps)

    return jax.vmap(one)(member, total, state, steps)


@compiled
def _soundness(agents: Agent) -> tuple[Array, Array]:
    """`updating.soundness` of agents [C, ...]."""
    return jax.vmap(updating.soundness)(agents)


class HostLane:
    """Rows that train side by side on host environments (see `learn.lane.Lane`)."""

    segment = 1
    """Updates between two looks at the rows."""
    ahead = 0
    """Segments that may be under way: the host acts in each, and needs what it has learnt."""

    @staticmethod
    def rows_per_call() -> int:
        """Rows of one lane on this platform."""
        return ROWS_PER_CALL.get(jax.default_backend(), 16)

    def __init__(self, policy: Policy, learner: Learner, family: TaskFamily, width: int):
        """Open slots for ``width`` rows; nothing is started."""
        self.policy, self.learner, self.family = policy, learner, family
        self.tasks = Tasks.of(family)
        self.acting = Acting(policy, family, width, learner.num_envs)
        together = LEARN_ROWS.get(jax.default_backend(), 256)
        self.parts = [slice(i, min(i + together, width)) for i in range(0, width, together)]
        """Slots whose rows learn in one program."""
        self.states: list[RowState] = []
        """Theirs, of every part; they stay on the device."""
        self.moment = self.acting.moment()
        """The environments after the last whole update, as ``states`` are."""

    def enter(self, slot: int, member: np.ndarray, agent: Agent, key: Array) -> None:
        """Put a row at the start of its training into a slot; the first one fills all slots."""
        fresh, reset_key = _begin(self.policy, self.learner, agent, key)
        self.states = self.states or [fill(fresh, part.stop - part.start) for part in self.parts]
        self._put(slot, fresh)
        index = np.asarray(updating.slot_tasks(jnp.asarray(member), self.learner.num_envs))
        context = np.asarray(self.family.context, np.float32)[index]
        self.acting.enter(slot, self.tasks, index, context, reset_key)
        self.moment = self.acting.moment()

    def _put(self, slot: int, row: RowState) -> None:
        i = next(i for i, part in enumerate(self.parts) if slot < part.stop)
        self.states[i] = put(self.states[i], row, slot - self.parts[i].start)

    def save(self, slots: Sequence[int]) -> list[Saved]:
        """The whole states of some rows, and what their environments' episodes were begun and led on by."""
        state = _joined(self.states)
        rows = saved_rows(state, state.learning.update, slots)
        episodes = [self.acting.episodes(slot, self.moment) for slot in slots]
        return [
            row._replace(leaves=[*row.leaves, *own]) for row, own in zip(rows, episodes, strict=True)
        ]  # fmt: skip

    def restore(self, slot: int, saved: Saved) -> None:
        """Put a saved state into the slot of a row that has just entered, and repeat its episodes: it goes on
        as if never stopped. Where they cannot be repeated, environments are reset, with seeds of the update
        that it goes on from."""
        count = len(jax.tree.leaves(self.states[0]))
        row = restored_row(saved._replace(leaves=saved.leaves[:count]), self.states[0])
        self._put(slot, row)
        if not self.acting.go_on(slot, Episodes(*saved.leaves[count:])):
            self.acting.reset(slot, row.key)
            warnings.warn(
                f"environments of {self.family.name!r} did not do the same again from equal seeds and "
                f"actions: a row that was stopped goes on with new episodes, to other results than without "
                f"the stop",
                stacklevel=2,
            )
        self.moment = self.acting.moment()

    def advance(self, member: np.ndarray, total: np.ndarray, count: int, active: np.ndarray) -> Outcome:
        """``count`` updates of the active rows."""
        updates = [self._update(member, total, active) for _ in range(count)]
        sound = _joined([_soundness(state.learning.agent) for state in self.states])
        return Outcome(*jax.tree.map(lambda *each: np.stack(each, 1), *updates), *sound)

    def _update(self, member: np.ndarray, total: np.ndarray, active: np.ndarray) -> tuple[Earned, np.ndarray]:
        """One update, whole or not at all; returns its curves [C, n], and what was measured [C, M]."""
        states, keys = list(self.states), _joined([state.key for state in self.states])
        curves = [Earned.unknown(self.family.metric, member[part].shape) for part in self.parts]
        known = (self.policy, self.learner, self.family.context)
        steps: tuple[Steps, ...] = ()
        for phase, act_keys in enumerate(_act_keys(keys, self.learner.phases)):
            if self.learner.remembers:
                for slot in np.flatnonzero(active).tolist():
                    self.acting.reset(slot, np.asarray(act_keys)[slot])
            per_slot = self.learner.per_slot(phase)
            agents = (
                _of_rows(updating.acting_agent, *known, member, total, _joined(states), steps)
                if per_slot
                else _joined([state.learning.agent for state in states])
            )
            new = self.acting.unroll(
                agents, np.asarray(act_keys), self.learner.num_steps,
                gamma=self.learner.gamma, active=active, per_slot=per_slot,
            )  # fmt: skip
            steps = (*steps, new)
            for i, part in enumerate(self.parts):
                if active[part].any():
                    own = jax.tree.map(lambda x, part=part: x[part], steps)
                    learn_from = updating.LEARN_FROM[self.family.metric]
                    learn = (learn_from, *known, member[part], total[part], states[i], own)
                    states[i], curves[i] = _of_rows(*learn)
        self.states, self.moment = states, self.acting.moment()
        return _joined(curves), np.asarray(_joined([state.learning.measured for state in states]))

    def agents(self, slots: Sequence[int]) -> Agent:
        """The agents of some slots."""
        return pick(_joined([state.learning.agent for state in self.states]), slots)

    def close(self) -> None:
        """Close the environments."""
        self.acting.close()


def _joined(parts: Sequence[PyTree]) -> PyTree:
    """The records of all slots: where they are, if there is one part, else on the host."""
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *xs: np.concatenate([np.asarray(x) for x in xs]), *parts)
