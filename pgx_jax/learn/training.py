"""Training many policies at once: the rows of a membership matrix, by any learner on any engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt32

from pgx_jax.errors import ConfigError
from pgx_jax.learn import together
from pgx_jax.learn.checks import check_form, check_memory
from pgx_jax.learn.driving import Job, run_all
from pgx_jax.learn.engine import engine_of
from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy, tell
from pgx_jax.learn.updating import Earned
from pgx_jax.learn.work import Checkpoint, Hears, Part, Progress, Work, fingerprint, stack, take
from pgx_jax.mesh import is_joined, mesh, mesh_size
from pgx_jax.shortage import in_parts_that_fit
from pgx_jax.steady import usable_cores
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, Rows, Seen


class Trained(NamedTuple):
    """The trained rows."""

    agents: Agent
    """Every leaf with a leading axis R."""
    returns: Float[np.ndarray, "R updates n"]
    """float [R, updates, n]: mean return (success rate, of a family that is judged by it) of the episodes
    that ended in each update, per task; NaN where none ended and beyond a row's budget."""
    steps: Int[np.ndarray, "R"]
    """int [R]: environment steps that were taken."""
    measured: dict[str, Float[np.ndarray, "R updates"]] = {}
    """float [R, updates] each: what the learner measured of each update, by name (`Learner.measures`). PPO's
    are "kl", the divergence from the policy that acted, in nats, "explained_variance", the part of the
    returns' variance within tasks that was expected, "learning_rate", and, of the update's data after it,
    "loss" and "entropy" (in nats, as the bonus rewards it)."""
    at_end: Float[np.ndarray, "R updates n"] | None = None
    """float [R, updates, n]: of a family that is judged by success (in any step), that in the last step of
    these episodes; None of others, and in records of older code."""

    @property
    def earned(self) -> Earned:
        """``returns`` and ``at_end``."""
        return Earned(self.returns, self.at_end)


def init_agents(policy: Policy, family: TaskFamily, keys: UInt32[Array, "R 2"]) -> Agent:
    """Fresh agents, one for each key [R, 2]; every leaf (of NumPy) gets a leading axis R.

    One after the other, on the CPU where JAX has it: so they are the same on all platforms.
    """
    shape, keys = family.observation_space.shape, np.asarray(keys)
    with _on_the_cpu():
        return stack([policy.init(jax.random.fold_in(key, 1), shape, family.context) for key in keys])


def _on_the_cpu() -> AbstractContextManager[object]:
    """Within it arrays are made on the CPU, unless JAX was told to do without (``JAX_PLATFORMS``)."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return nullcontext()


def can_be_told(policy: Policy, family: TaskFamily) -> bool:
    """Whether a blind policy's agents can go on that are told their task (`tell`), and act as before."""
    if policy.conditioned_actor:
        return False
    wide, key = replace(policy, conditioned_actor=True), jax.random.PRNGKey(0)
    obs = jax.random.normal(key, family.observation_space.shape)
    try:
        blind, fresh = (take(init_agents(p, family, np.asarray(key)[None]), 0) for p in (policy, wide))
        before = policy.params(blind.actor, obs)
        after = wide.params(tell(blind, fresh).actor, Seen(obs, jnp.asarray(family.context)[-1]))
    except Exception:  # whatever a network of one's own does not like, it cannot
        return False
    equal = jax.tree.map(lambda x, y: bool(jnp.allclose(x, y, atol=1e-5)), before, after)
    return all(jax.tree.leaves(equal))


def check_rows(learner: Learner, family: TaskFamily, rows: Rows) -> None:
    """Refuse what is no learner, and rows that cannot be trained, before any work.

    Raises:
        ConfigError: naming the row (or what the learner lacks) and the remedy.
    """
    check_form(learner, type(learner).__name__)
    member, steps = np.asarray(rows.member), np.asarray(rows.steps)
    if member.ndim != 2 or member.shape[1] != family.n:
        raise ConfigError(
            f"rows.member has shape {member.shape}; expected [R, {family.n}] for {family.name!r}"
        )
    if not member.any(1).all():
        raise ConfigError(
            f"row {int(np.argmin(member.any(1)))} has no member task; give every row at least one"
        )
    if member.sum(1).max() > learner.num_envs:
        raise ConfigError(
            f"a row has {member.sum(1).max()} tasks but num_envs = {learner.num_envs}; "
            f"raise num_envs to at least the number of tasks of a row"
        )
    if steps.min() < learner.steps_per_update:
        raise ConfigError(
            f"row {int(np.argmin(steps))} has a budget of {steps.min()} steps, less than one update of "
            f"{learner.steps_per_update}; raise the budget or lower num_envs or num_steps"
        )


def train(
    policy: Policy,
    learner: Learner,
    family: TaskFamily,
    rows: Rows,
    *,
    rows_per_call: int | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    metrics: Hears | None = None,
) -> Trained:
    """Train all rows side by side.

    Rows wait in one queue, longest first. Every lane (all devices together, or a core of the CPU) trains
    ``rows_per_call`` of them in one compiled program; a row that has spent its budget leaves and
    the next takes its place, so budgets may differ without padding. (Where a program holds several
    rows, those that are done when the queue is empty stand idle beside the others.) A row's result
    depends on its own key, members, budget and initial agent alone.

    Args:
        policy, learner, family, rows: what to train, and how.
        rows_per_call: rows of a lane; what suits engine and platform by default.
        progress: hears after every segment.
        checkpoint: keeps the states of rows every now and then, and from where they go on if it has any:
            each row from the update that was saved. The result is the same as without a stop, if host
            environments do the same again from equal seeds and actions (there is a warning if not).
        metrics: hears after every segment what the updates of each row came to.

    Raises:
        ConfigError: rows that cannot be trained.
        DataError: the policy cannot act, parameters or rewards became non-finite (which row, which
            tasks), or a host environment raised or returned nonsense (which task).
    """
    (trained,) = train_all(
        [(policy, learner, rows)], family,
        rows_per_call=rows_per_call, progress=progress, checkpoint=checkpoint, metrics=metrics,
    )  # fmt: skip
    return trained


def train_all(
    calls: Sequence[tuple[Policy, Learner, Rows]],
    family: TaskFamily,
    *,
    rows_per_call: int | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    metrics: Hears | None = None,
) -> list[Trained]:
    """Train the rows of several policies and learners side by side, as `train` does for each; they are told
    with numbers that go on from call to call.

    Within `side_by_side` it is trained together with what the others train.
    """
    if not calls:
        return []
    order, here = Order(calls, family, rows_per_call, progress, checkpoint, metrics), together.place()
    if here is None:
        return train_orders([order])[0]
    meeting, number = here
    return meeting.ask(number, order)


def side_by_side(bodies: Sequence[Callable[[], object]]) -> list[Exception | None]:
    """Call several functions, each in a thread of its own, that take turns; whatever all of them train at
    the same time is trained in one go. What each trains is what it would be alone. After an error each trains
    alone, from its checkpoint if it has any, and those who meet the error again are ended by it. (Where
    several processes share their devices, one function follows the other, and an error ends all.)

    Returns:
        The error that ended each, or None; it does not end the others.

    Raises:
        BaseException: an interrupt, which stops all of them; their checkpoints have what they had reached.
    """
    if is_joined():  # threads would take their turns in another order in another process
        for body in bodies:
            body()
        return [None] * len(bodies)
    return together.Meeting(train_orders).hold(bodies)


class Order(NamedTuple):
    """What a call of `train_all` asks for."""

    calls: Sequence[tuple[Policy, Learner, Rows]]
    family: TaskFamily
    rows_per_call: int | None
    progress: Progress | None
    checkpoint: Checkpoint | None
    metrics: Hears | None = None

    def ask(self) -> list[Call]:
        """Its calls, that are checked, with their agents."""
        return [Call.of(self, *call) for call in self.calls]


class Call(NamedTuple):
    """Rows of one policy and learner that an order asks for."""

    order: Order
    policy: Policy
    learner: Learner
    rows: Rows
    agents: Agent

    @classmethod
    def of(cls, order: Order, policy: Policy, learner: Learner, rows: Rows) -> Call:
        """The call, its rows checked and with agents to start from."""
        check_rows(learner, order.family, rows)
        check_memory(learner, policy, type(learner).__name__)
        agents = rows.init if rows.init is not None else init_agents(policy, order.family, rows.key)
        return cls(order, policy, learner, rows, jax.tree.map(np.asarray, agents))

    @property
    def program(self) -> Hashable:
        """What calls have in common whose rows can be trained in one program."""
        numbers, structure = jax.tree.flatten(self.learner)
        told = tuple((np.asarray(x).dtype, np.asarray(x).tobytes()) for x in numbers)
        return id(self.order.family), self.order.rows_per_call, self.policy, structure, told

    @property
    def name(self) -> str:
        """Of its record in a checkpoint."""
        return fingerprint(self.policy, self.learner, self.order.family, self.rows, self.agents)


def train_orders(orders: Sequence[Order]) -> list[list[Trained]]:
    """Train what several calls of `train_all` ask for; rows of equal policy and learner share lanes.

    Those with the fewest rows come first, so that no long row is left alone at the end. Where memory does not
    suffice for all rows of a lane, fewer train side by side: those that are kept go on from there.
    """
    asked = [order.ask() for order in orders]
    shared: dict[Hashable, list[Call]] = {}
    for call in chain(*asked):
        shared.setdefault(call.program, []).append(call)
    widest = max(map(_width, shared.values()))
    return in_parts_that_fit(lambda most: _train(orders, asked, shared, most), widest, "rows")


def _train(
    orders: Sequence[Order],
    asked: Sequence[Sequence[Call]],
    shared: dict[Hashable, list[Call]],
    most: int,
) -> list[list[Trained]]:
    """Train the calls that orders have asked for, at most so many rows in a lane."""
    jobs = [_job(calls, most) for calls in shared.values()]
    places = {
        id(call): (job.work, rows)
        for job, calls in zip(jobs, shared.values(), strict=True)
        for call, rows in zip(calls, _ranges(calls), strict=True)
    }
    for order, calls in zip(orders, asked, strict=True):
        _tell(order, calls, [places[id(call)] for call in calls])
    engine = "device" if any(order.family.engine == "device" for order in orders) else "host"
    run_all(sorted(jobs, key=lambda job: len(job.work.total)), _lanes(engine))
    return [[_trained(*places[id(call)]) for call in calls] for calls in asked]


def _ranges(calls: Sequence[Call]) -> list[range]:
    """The places of every call's rows, one call after the other."""
    ends = np.cumsum([len(call.rows.steps) for call in calls]).tolist()
    return [range(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def _width(calls: Sequence[Call]) -> int:
    """Rows of a lane for calls of one program, of each of its devices."""
    order, rows = calls[0].order, sum(len(call.rows.steps) for call in calls)
    return lanes_of(order.family, rows, order.rows_per_call)[1] // _devices(order.family)


def _devices(family: TaskFamily) -> int:
    """Of a lane."""
    return mesh_size() if family.engine == "device" else 1


def _job(calls: Sequence[Call], most: int) -> Job:
    """The rows of calls of one program in a queue, and what trains them, at most so many at a time; see
    `train`."""
    order, policy, learner = calls[0].order, calls[0].policy, calls[0].learner
    member, steps, key = (
        np.concatenate([np.asarray(getattr(call.rows, name)) for call in calls])
        for name in ("member", "steps", "key")
    )
    agents = jax.tree.map(lambda *xs: np.concatenate(xs), *(call.agents for call in calls))
    unit = learner.steps_per_update
    lane, width = engine_of(order.family).lane, min(most, _width(calls)) * _devices(order.family)
    work = Work(order.family, member.astype(bool), steps // unit, agents, key, unit, learner.measures)
    return Job(work, partial(lane, policy, learner, order.family, width), width)


def lanes_of(family: TaskFamily, rows: int, rows_per_call: int | None = None) -> tuple[int, int]:
    """Lanes that train some rows of one program at the same time, and how many of them each holds."""
    most = rows_per_call or engine_of(family).lane.rows_per_call()
    devices, lanes = _devices(family), len(_lanes(family.engine))
    return lanes, devices * min(most, -(-rows // (lanes * devices)))


def time_update(policy: Policy, learner: Learner, family: TaskFamily, width: int) -> tuple[float, float]:
    """Seconds of the first update of fresh rows that fill a lane, which compiles their program, and of each
    of the next few."""
    some = np.arange(family.n) < learner.num_envs
    member, total, active = np.tile(some, (width, 1)), np.full(width, 1 + TIMED), np.ones(width, bool)
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(0), width))
    agent = take(init_agents(policy, family, keys[:1]), 0)

    def advance(count: int) -> float:
        began = time.perf_counter()
        jax.block_until_ready(lane.advance(member, total, count, active))
        return time.perf_counter() - began

    with jax.default_device(_lanes(family.engine)[0]):
        lane = engine_of(family).lane(policy, learner, family, width)
        try:
            for slot, key in enumerate(keys):
                lane.enter(slot, member[slot], agent, key)
            return advance(1), advance(TIMED) / TIMED
        finally:
            lane.close()


TIMED = 3
"""Updates that are timed after the first."""


def _tell(order: Order, calls: Sequence[Call], places: Sequence[tuple[Work, range]]) -> None:
    """Let the rows of an order's calls be told to its progress, and be kept by its checkpoint."""

    def hear(recent: Earned) -> None:
        if order.progress:
            done, total = np.sum([work.steps(rows) for work, rows in places], 0).tolist()
            order.progress(done, total, *jax.tree.leaves(recent))

    numbers = _ranges(calls)
    for call, (work, rows), own in zip(calls, places, numbers, strict=True):
        name = call.name if order.checkpoint is not None else ""
        work.add(Part(rows, hear, order.checkpoint, name, order.metrics, own.start))


def _trained(work: Work, rows: range) -> Trained:
    """What came of some rows."""
    total = work.total[rows]
    agents = stack([work.finished[row] for row in rows])
    earned, measured = take((work.earned, work.measured), (rows, slice(total.max())))
    named = dict(zip(work.measures, np.moveaxis(measured, -1, 0), strict=True))
    return Trained(agents, earned.returns, total * work.unit, named, earned.at_end)


def rehearsable(family: TaskFamily, rows_per_call: int | None = None) -> bool:
    """Whether it is known beforehand what programs train single rows, and there is a core to compile them."""
    width = rows_per_call or engine_of(family).lane.rows_per_call()
    return family.engine == "device" and width == 1 and len(_lanes("device")) > 1  # no mesh, then


def rehearse_training(policy: Policy, learner: Learner, family: TaskFamily, agent: Agent) -> None:
    """An update of a row that holds all tasks; for `steady.rehearsal`, since `train` has threads."""
    member = np.ones((1, family.n), bool)
    with jax.default_device(_lanes("device")[0]):
        lane = engine_of(family).lane(policy, learner, family, 1)
        lane.enter(0, member[0], agent, np.zeros(2, np.uint32))
        lane.advance(member, np.array([1]), 1, np.ones(1, bool))
        lane.agents([0])


def _lanes(engine: str) -> list[jax.Device]:
    """Where rows run at the same time, each with a thread: on a CPU once per core, and beside accelerators
    one each for rows whose environments act on the host; on the device engine all at once, if they are
    spread over a mesh."""
    devices = jax.local_devices()
    if engine == "device" and (mesh() is not None or devices[0].platform != "cpu"):
        return devices[:1]
    return devices[:1] * usable_cores() if devices[0].platform == "cpu" else devices[: mesh_size()]
