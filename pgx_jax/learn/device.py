"""The device engine: acting and learning in compiled programs, vmapped over rows or pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import DataError
from pgx_jax.learn import updating
from pgx_jax.learn.lane import Outcome, Saved, fill, pick, put, restored_row, saved_rows
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import ADAPTING, Pairs, Steps, reset_slots, unroll
from pgx_jax.learn.stopping import drift
from pgx_jax.learn.updating import Earned, RowState
from pgx_jax.learn.work import take
from pgx_jax.mesh import CUT, WHOLE, mesh_size, place, rounded, whole
from pgx_jax.shortage import in_parts_that_fit
from pgx_jax.steady import Spread, compiled
from pgx_jax.tasks import DeviceEnv, TaskFamily
from pgx_jax.types import Agent, Array, PyTree

SEGMENT = 10
"""Updates between two looks of the host at the rows (progress, rows that are done)."""

ROWS_PER_CALL = {"cpu": 1, "gpu": 256, "tpu": 256}
"""Rows of one vmapped program, by platform. On the CPU some more are faster once compiled, but with
one the meta-policy, the groups and all comparisons share a single compilation, and the whole default
command is faster (benchmarks/rows.py measures both). On an H200 all rows of usual runs at once were the
fastest; a TPU's number is a guess until it is measured there."""

AHEAD = {"cpu": 0, "gpu": 1, "tpu": 1}
"""Segments of a lane that are under way, unread, when another one begins, by platform. An accelerator would
idle while the host reads; on the CPU the cores have that to do anyway, and a lane that takes its next row
early may take it from another one that could begin at once."""

PAIRS_PER_CALL = {"cpu": 16, "gpu": 1024, "tpu": 1024}
"""(policy, task) pairs of one vmapped program, by platform."""


class Problem(NamedTuple):
    """The arrays of a family that training needs, shared by all rows."""

    tasks: PyTree
    context: Array
    """float [n, C]."""


def start(
    policy: Policy,
    env: DeviceEnv,
    learner: Learner,
    problem: Problem,
    member: Array,
    agent: Agent,
    key: Array,
) -> RowState:
    """Training state of a row before its first update, its environments reset."""
    state, reset_key = updating.begin(policy, learner, agent, key)
    slot_task = updating.slot_tasks(member, learner.num_envs)
    tasks = jax.tree.map(lambda x: x[slot_task], problem.tasks)
    return state._replace(slots=reset_slots(env, tasks, jax.random.split(reset_key, learner.num_envs)))


def update(
    policy: Policy,
    env: DeviceEnv,
    horizon: int,
    learner: Learner,
    problem: Problem,
    member: Array,
    total: Array,
    state: RowState,
    metric: str = "return",
) -> tuple[RowState, Earned]:
    """One update of one row, act and learn in each of its phases; returns its curve [n], too."""
    row = updating.row_tasks(learner, problem.context, member, total)
    tasks, context = jax.tree.map(lambda x: x[row.slot_task], problem)
    _, act_keys, _ = updating.update_keys(state.key, learner.phases)
    steps: tuple[Steps, ...] = ()
    for phase, key in enumerate(act_keys):
        if learner.remembers:
            reset_keys = jax.random.split(jax.random.fold_in(key, 1), learner.num_envs)
            state = state._replace(slots=reset_slots(env, tasks, reset_keys))
        slots, new = unroll(
            policy,
            env,
            horizon,
            updating.acting_agent(policy, learner, row, state, steps),
            tasks,
            context,
            state.slots,
            key,
            learner.num_steps,
            gamma=learner.gamma,
            per_slot=learner.per_slot(phase),
        )
        steps = (*steps, new)
        learn_from = updating.LEARN_FROM[metric]
        state, earned = learn_from(policy, learner, row, state._replace(slots=slots), steps)
    return state, earned


Told = tuple[Earned, Array]
"""Curves of some updates, and what was measured of each."""

ROWS = Spread({"member": CUT, "total": CUT, "state": CUT}, stays=True)
"""Rows stay on the devices where they train."""
PAIRS = Spread({"agents": CUT, "tasks": CUT, "context": CUT, "index": CUT})
"""(policy, task) pairs, each on one device."""


@partial(
    compiled,
    spread=ROWS,
    static_argnames=("policy", "env", "horizon", "metric"),
    donate_argnames=("state",),
)
def _segment(
    policy: Policy,
    env: DeviceEnv,
    horizon: int,
    metric: str,
    learner: Learner,
    problem: Problem,
    member: Array,
    total: Array,
    state: RowState,
    count: int,
) -> tuple[RowState, Outcome]:
    """``count`` (traced) updates of C rows; their curves are [C, SEGMENT, n], their measures
    [C, SEGMENT, M]."""

    def body(i: Array, carry: tuple[RowState, Told]) -> tuple[RowState, Told]:
        state, told = carry
        one = partial(update, policy, env, horizon, learner, problem, metric=metric)
        state, earned = jax.vmap(one)(member, total, state)
        new = earned, state.learning.measured
        return state, jax.tree.map(lambda x, own: x.at[:, i].set(own), told, new)

    rows, n = member.shape
    curves = Earned.unknown(metric, (rows, SEGMENT, n), jnp)
    told = curves, jnp.full((rows, SEGMENT, len(learner.measures)), jnp.nan)
    state, (curves, measured) = jax.lax.fori_loop(0, count, body, (state, told))
    return state, Outcome(curves, measured, *jax.vmap(updating.soundness)(state.learning.agent))


@partial(compiled, quick=True, static_argnames=("policy", "env"))
def _enter(
    policy: Policy,
    env: DeviceEnv,
    learner: Learner,
    problem: Problem,
    member: Array,
    agent: Agent,
    key: Array,
) -> tuple[RowState, Array]:
    """A row at the start of its training, and log-probabilities [E] of its most probable first actions."""
    state = start(policy, env, learner, problem, member, agent, key)
    context = problem.context[updating.slot_tasks(member, learner.num_envs)]

    def log_prob(obs: Array, context: Array, memory: PyTree) -> Array:
        inputs = policy.actor_input(policy.normalise(agent, obs), context)
        params, _ = policy.choose(agent.actor, inputs, memory)
        return policy.distribution.log_prob(params, policy.distribution.mode(params))

    return state, jax.vmap(log_prob)(state.slots.obs, context, policy.begin(agent, state.slots.age))


class DeviceLane:
    """Rows that train side by side on device environments, in one program (see `learn.lane.Lane`)."""

    segment = SEGMENT

    @property
    def ahead(self) -> int:
        """Segments that may be under way, unread, when another one begins, on this platform."""
        return AHEAD.get(jax.default_backend(), 1)

    @staticmethod
    def rows_per_call() -> int:
        """Rows of one lane on this platform."""
        return ROWS_PER_CALL.get(jax.default_backend(), 256)

    def __init__(self, policy: Policy, learner: Learner, family: TaskFamily, width: int):
        """Make room for ``width`` rows; nothing is started."""
        self.policy, self.learner, self.family, self.width = policy, learner, family, width
        self.problem = Problem(*jax.device_put((family.tasks, family.context)))
        self.state: RowState | None = None

    @property
    def rows(self) -> RowState:
        """The states of all slots."""
        assert self.state is not None, "no row has entered"
        return self.state

    def enter(self, slot: int, member: np.ndarray, agent: Agent, key: Array) -> None:
        """Put a row at the start of its training into a slot; the first one fills all slots.

        Raises:
            DataError: the first row's agent cannot act (later ones are not waited for here).
        """
        fresh, told = _enter(
            self.policy, self.family.device_env, self.learner, self.problem, member, agent, key
        )
        if self.state is None:
            self._check_first_actions(np.asarray(told), member)
        filled = self.state is None or self.width == 1
        self.state = place(fill(fresh, self.width), CUT) if filled else self._with(fresh, slot)

    def _with(self, row: RowState, slot: int) -> RowState:
        """The states of all slots with another one in one of them."""
        return put(self.rows, place(row, WHOLE), slot)

    def _check_first_actions(self, log_probs: np.ndarray, member: np.ndarray) -> None:
        """Refuse log-probabilities [E] of first actions that are not finite, naming the task."""
        bad = ~np.isfinite(log_probs)
        if bad.any():
            task = updating.slot_tasks(jnp.asarray(member), self.learner.num_envs)[int(np.argmax(bad))]
            raise DataError(
                f"the policy gives non-finite log-probabilities in the first step of task "
                f"{self.family.task_names[int(task)]!r}; check what its actor returns and its parameters"
            )

    def advance(self, member: np.ndarray, total: np.ndarray, count: int, active: np.ndarray) -> Outcome:
        """Begin ``count`` updates of all slots."""
        del active  # idle slots cost nothing but what the program computes anyway
        self.state, outcome = _segment(
            self.policy, self.family.device_env, self.family.horizon, self.family.metric,
            self.learner, self.problem, member, total, self.rows, count,
        )  # fmt: skip
        return whole(outcome)

    def agents(self, slots: Sequence[int]) -> Agent:
        """The agents of some slots as they will be, in arrays that the next segment leaves alone."""
        return pick(whole(self.rows.learning.agent), slots)

    def save(self, slots: Sequence[int]) -> list[Saved]:
        """The whole states of some rows, their environments included."""
        rows = whole(self.rows)
        return saved_rows(rows, rows.learning.update, slots)

    def restore(self, slot: int, saved: Saved) -> None:
        """Put a saved state into the slot of a row that has just entered; it goes on as if never stopped."""
        self.state = self._with(restored_row(saved, self.rows), slot)

    def close(self) -> None:
        """Nothing to free."""


@partial(compiled, quick=True, static_argnames=("policy", "env", "horizon", "length"))
def _play(
    policy: Policy,
    env: DeviceEnv,
    horizon: int,
    length: int,
    agent: Agent,
    tasks: PyTree,
    context: Array,
    key: Array,
) -> Steps:
    """``length`` steps of E fresh environments, each on a task of its own; leaves [T, E, ...]."""
    reset_key, key = jax.random.split(key)
    start = reset_slots(env, tasks, jax.random.split(reset_key, len(context)))
    return unroll(policy, env, horizon, agent, tasks, context, start, key, length)[1]


def experience(
    policy: Policy, family: TaskFamily, agent: Agent, index: np.ndarray, key: Array, length: int
) -> Steps:
    """Steps [T, E, ...] of one agent in E fresh slots on the tasks ``index`` int [E]."""
    own = jax.tree.map(lambda x: np.asarray(x)[index], family.tasks)
    context = np.asarray(family.context)[index]
    return _play(policy, family.device_env, family.horizon, length, agent, own, context, key)


def _copies(count: int, x: PyTree) -> PyTree:
    """The same task or context, leaves [...], for ``count`` slots."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), x)


@partial(compiled, spread=PAIRS, static_argnames=("policy", "env", "horizon", "episodes", "deterministic"))
def _evaluate(
    policy: Policy,
    env: DeviceEnv,
    horizon: int,
    episodes: int,
    deterministic: bool,
    agents: Agent,
    tasks: PyTree,
    context: Array,
    key: Array,
    index: Array,
) -> tuple[Array, ...]:
    def one(agent: Agent, task: PyTree, context: Array, i: Array) -> tuple[Array, ...]:
        reset_key, act_key = jax.random.split(jax.random.fold_in(key, i))
        tasks, contexts = _copies(episodes, task), _copies(episodes, context)
        slots = reset_slots(env, tasks, jax.random.split(reset_key, episodes))
        _, steps = unroll(
            policy,
            env,
            horizon,
            agent,
            tasks,
            contexts,
            slots,
            act_key,
            horizon,
            deterministic=deterministic,
            restart=False,
        )
        before = jnp.cumsum(steps.done, axis=0) - steps.done
        first = before == 0
        return (
            jnp.sum(jnp.where(first, steps.reward, 0.0), axis=0),
            jnp.any(first & steps.success, axis=0),
            jnp.any(first & steps.done & steps.success, axis=0),
            jnp.sum(first, axis=0),
        )

    return jax.vmap(one)(agents, tasks, context, index)


@partial(compiled, spread=PAIRS, static_argnames=("policy", "env", "horizon"))
def _adapt(
    policy: Policy,
    env: DeviceEnv,
    horizon: int,
    learner: Learner,
    agents: Agent,
    tasks: PyTree,
    context: Array,
    key: Array,
    index: Array,
) -> tuple[Agent, Array]:
    envs, length = learner.adaptation_envs, learner.adaptation_length

    def one(agent: Agent, task: PyTree, context: Array, i: Array) -> tuple[Agent, Array]:
        reset_key, act_key, key_of_pair = jax.random.split(jax.random.fold_in(key, i), 3)
        tasks, contexts = _copies(envs, task), _copies(envs, context)
        slots = reset_slots(env, tasks, jax.random.split(reset_key, envs))
        _, steps = unroll(
            policy, env, horizon, agent, tasks, contexts, slots, act_key, length, gamma=learner.gamma
        )
        after = learner.adapt(policy, agent, context, steps, key_of_pair)
        return after, drift(policy, agent, after, context, steps)

    return jax.vmap(one)(agents, tasks, context, index)


def play(
    policy: Policy, family: TaskFamily, agents: Agent, pairs: Pairs, episodes: int, deterministic: bool
) -> tuple[np.ndarray, ...]:
    """Returns, success in any step and in the last one, and length [P, episodes] of full episodes of every
    pair."""
    program = partial(_evaluate, policy, family.device_env, family.horizon, episodes, deterministic)
    return _over_pairs(program, family, agents, pairs)


def adapt(
    policy: Policy, learner: Learner, family: TaskFamily, agents: Agent, pairs: Pairs
) -> tuple[Agent, np.ndarray]:
    """An agent for every pair, leaves [P, ...], that has adapted to the pair's task by acting on it, and how
    far that has brought it, float [P] (`drift`)."""
    program = partial(_adapt, policy, family.device_env, family.horizon, learner)
    adapting = pairs._replace(key=jax.random.fold_in(pairs.key, ADAPTING))
    return _over_pairs(program, family, agents, adapting)


def _over_pairs(
    program: Callable[[Agent, PyTree, Array, Array, Array], PyTree],
    family: TaskFamily,
    agents: Agent,
    pairs: Pairs,
) -> PyTree:
    """``program(agents, tasks, context, key, index)`` on chunks of pairs; leaves [P, ...], of NumPy."""
    count = len(pairs.row)
    most = PAIRS_PER_CALL.get(jax.default_backend(), 1024) * mesh_size()
    tasks = family.tasks if pairs.tasks is None else pairs.tasks
    context = pairs.told(family.context)
    agents, tasks, key = jax.tree.map(np.asarray, (agents, tasks, pairs.key))

    def of_width(width: int) -> PyTree:
        width, parts = rounded(width), []
        padded = np.concatenate([np.arange(count), np.zeros(-count % width, int)])
        for start in range(0, len(padded), width):
            index = padded[start : start + width]
            r, t = pairs.row[index], pairs.task[index]
            parts.append(program(take(agents, r), take(tasks, t), context[index], key, t))
        return jax.tree.map(lambda *xs: np.concatenate([np.asarray(x) for x in xs])[:count], *parts)

    width = rounded(min(most, 1 << max(4, (count - 1).bit_length())))
    return in_parts_that_fit(of_width, width, "pairs of a policy and a task")
