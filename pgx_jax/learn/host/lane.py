"""The host engine: training, collecting and evaluating on environments in plain Python.

It acts (see `acting`); all that follows (advantages, batches, updates, features) is the code of the
device engine.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.learn import ppo
from pgx_jax.learn.host.acting import Acting
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.ppo import PPO, RowState
from pgx_jax.learn.rollout import Steps
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree

ROWS_PER_CALL = {"cpu": 4, "gpu": 16, "tpu": 16}
"""Rows of one lane, by platform: one lane's environments run while another one learns."""

LEARN_ROWS = {"cpu": 1, "gpu": 256, "tpu": 256}
"""Rows that learn in one vmapped program, by platform; acting is vmapped over all rows of a chunk."""

SLOTS_PER_CALL = 256
"""Slots that evaluate side by side."""


@jax.jit
def _begin(config, agent, key):
    return ppo.begin(config, agent, key)


@jax.jit
def _act_keys(keys):
    return jax.vmap(lambda key: ppo.step_keys(key)[1])(keys)


@partial(jax.jit, static_argnames=("policy",))
def _learn(policy, config, context, member, total, state, steps):
    """One update of some rows from what they did; the states, and mean returns [C, n]."""
    one = partial(ppo.learn_from, policy, config, context)
    return jax.vmap(one)(member, total, state, steps)


class HostLane:
    """Rows that train side by side on host environments, as `train.DeviceLane`
    does on those of the device."""

    segment = 1
    """Updates between two looks at the rows."""

    @staticmethod
    def rows_per_call() -> int:
        """Rows of one lane on this platform."""
        return ROWS_PER_CALL.get(jax.default_backend(), 16)

    def __init__(self, policy: Policy, config: PPO, family: TaskFamily, width: int):
        """Open slots for ``width`` rows; nothing is started."""
        self.policy, self.config, self.family, self.width = policy, config, family, width
        self.tasks = Tasks.of(family)
        self.acting = Acting(policy, family, width, config.num_envs)
        self.state: RowState | None = None

    def enter(self, slot: int, member: np.ndarray, agent: Agent, key: Array) -> None:
        """Put a row at the start of its training into a slot; the first one fills all slots."""
        fresh, reset_key = _begin(self.config, agent, key)
        self._put(slot, fresh)
        index = np.asarray(ppo.slot_tasks(jnp.asarray(member), self.config.num_envs))
        context = np.asarray(self.family.context, np.float32)[index]
        self.acting.enter(slot, self.tasks, index, context, reset_key)

    def _put(self, slot: int, row: RowState) -> None:
        row = jax.tree.map(np.asarray, row)
        if self.state is None:
            self.state = jax.tree.map(lambda x: np.broadcast_to(x, (self.width, *x.shape)), row)
        self.state = jax.tree.map(lambda x, y: _with(x, slot, y), self.state, row)

    def leaves(self, slot: int) -> list[np.ndarray]:
        """The whole state of a row but its environments, to be restored later."""
        return [np.array(x[slot]) for x in jax.tree.leaves(self.state)]

    def restore(self, slot: int, leaves: list[np.ndarray]) -> None:
        """Put the state that `leaves` returned into the slot of a row that has just entered; its
        environments are reset, with seeds of the update that it goes on from."""
        row = jax.tree.unflatten(jax.tree.structure(self.state), leaves)
        self._put(slot, row)
        self.acting.reset(slot, row.key)

    def advance(self, member: np.ndarray, total: np.ndarray, count: int, active: np.ndarray) -> np.ndarray:
        """``count`` updates of the active rows [C]; returns the curves [C, count, n]."""
        curves = []
        for _ in range(count):
            steps = self.acting.unroll(
                self.state.agent, np.asarray(_act_keys(self.state.key)), self.config.num_steps,
                gamma=self.config.gamma, active=active,
            )  # fmt: skip
            learnt = []
            width = LEARN_ROWS[jax.default_backend()]
            for start in range(0, self.width, width):
                part = slice(start, start + width)
                some = jax.tree.map(lambda x, part=part: x[part], (self.state, steps))
                if not active[part].any():
                    learnt.append((some[0], np.full(member[part].shape, np.nan)))
                    continue
                known = (self.policy, self.config, self.family.context, member[part], total[part])
                learnt.append(_learn(*known, *some))
            self.state, curve = jax.tree.map(lambda *xs: np.concatenate([np.asarray(x) for x in xs]), *learnt)
            curves.append(curve)
        return np.stack(curves, 1)

    @property
    def agent(self) -> Agent:
        """The agents [C, ...] as NumPy arrays."""
        return self.state.agent

    def close(self) -> None:
        """Close the environments."""
        self.acting.close()


def _with(x: np.ndarray, slot: int, value: np.ndarray) -> np.ndarray:
    x = np.array(x)
    x[slot] = value
    return x


def experience(
    policy: Policy, family: TaskFamily, agent: Agent, index: np.ndarray, key: Array, length: int
) -> Steps:
    """Steps [T, E, ...] of one agent in E fresh slots on the tasks ``index`` int [E]."""
    reset_key, key = jax.random.split(key)
    acting = Acting(policy, family, 1, len(index))
    try:
        acting.enter(0, Tasks.of(family), index, np.asarray(family.context, np.float32)[index], reset_key)
        steps = acting.unroll(jax.tree.map(lambda x: jnp.asarray(x)[None], agent), key[None], length)
    finally:
        acting.close()
    return jax.tree.map(lambda x: x[0], steps)


def play(
    policy: Policy,
    family: TaskFamily,
    agents: Agent,
    row: np.ndarray,
    task: np.ndarray,
    key: Array,
    episodes: int,
    deterministic: bool,
    tasks: PyTree,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, success and length [P, episodes] of full episodes of every (row, task) pair.

    Chunks of pairs act in one call a step; a slot rests once its episode has ended.
    """
    named = Tasks.of(family, tasks)
    known = np.asarray(family.context, np.float32)
    contexts = known if tasks is None else np.zeros((len(named.names), known.shape[1]), np.float32)
    width = min(max(1, SLOTS_PER_CALL // episodes), 1 << (len(row) - 1).bit_length())
    acting = Acting(policy, family, width, episodes, vectors=False)
    agents, parts = jax.tree.map(np.asarray, agents), []
    try:
        for start in range(0, len(row), width):
            r, t = (np.resize(x[start : start + width], width) for x in (row, task))
            pair_keys = [jax.random.split(jax.random.fold_in(key, int(i))) for i in t]
            for place, i in enumerate(t):
                index = np.full(episodes, i)
                acting.enter(place, named, index, contexts[index], pair_keys[place][0])
            chosen, keys = jax.tree.map(lambda x, r=r: x[r], agents), np.stack([k[1] for k in pair_keys])
            count = min(width, len(row) - start)
            parts.append([x[:count] for x in _first_episodes(acting, chosen, keys, count, deterministic)])
    finally:
        acting.close()
    return tuple(np.concatenate(x) for x in zip(*parts, strict=True))


def _first_episodes(acting: Acting, agents: Agent, keys: Array, count: int, deterministic: bool):
    """Play every slot of the first ``count`` policies to its first ending; leaves [C, E]."""
    running = np.repeat(np.arange(acting.chunk) < count, acting.width)
    success, t = np.zeros(len(running), bool), 0
    choose = acting.chooser(agents, keys, deterministic)
    while running.any():
        _, legal = choose(t)
        _, done = acting.advance(legal, running, 1.0)
        success |= running & acting.slots.arrival.success
        running, t = running & ~done, t + 1
    shape = (acting.chunk, acting.width)
    return acting.total.reshape(shape).copy(), success.reshape(shape), acting.age.reshape(shape).copy()
