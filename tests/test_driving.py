"""Lanes at work: what is read when, who leaves with what, and what is kept of rows that break."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.points import points
from pgx_jax.errors import DataError
from pgx_jax.learn import PPO, make_policy, take, train
from pgx_jax.learn.driving import Job, run_all
from pgx_jax.learn.lane import Outcome, Saved, pick
from pgx_jax.learn.updating import Earned, soundness
from pgx_jax.learn.work import Part, Work
from pgx_jax.types import Agent, Moments, Rows

device = importlib.import_module("pgx_jax.learn.device")
training = importlib.import_module("pgx_jax.learn.training")

FAMILY = points(n_tasks=4, n_groups=2, horizon=6)
MEMBER = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0]], bool)


class Watched:
    """An array that tells when it is read."""

    def __init__(self, array, tell):
        self.array, self.tell = array, tell

    def __array__(self, dtype=None, copy=None):
        self.tell()
        return np.asarray(self.array)


class Counting:
    """A lane whose rows count: update u of row r gives the return 100 r + u, and adds 1 to its agent.

    The agent of a row is (its number, its updates); ``breaks`` maps rows to the update at which they break.
    """

    segment = 2

    def __init__(self, width, ahead, events, breaks):
        self.ahead, self.events, self.breaks = ahead, events, breaks
        self.row, self.update = np.zeros((2, width), int)
        self.begun = 0

    def enter(self, slot, member, agent, key):
        self.row[slot], self.update[slot] = agent["row"], 0

    def restore(self, slot, saved):
        self.update[slot] = saved.update

    def advance(self, member, total, count, active):
        self.begun = number = self.begun + 1
        self.events.append(("begun", number))
        done = self.update[:, None] + np.arange(1, count + 1)
        curve = np.broadcast_to((100 * self.row[:, None] + done)[..., None], (*done.shape, FAMILY.n))
        self.update = np.where(active, done[:, -1], self.update)
        at = np.array([self.breaks.get(row, np.inf) for row in self.row])
        finite = self.update < at
        spoilt = ~finite[:, None] & (np.arange(FAMILY.n) == 3)
        watched = Watched(curve * 1.0, lambda: self.events.append(("read", number)))
        return Outcome(Earned(watched), np.zeros((*done.shape, 0)), finite, spoilt)

    def agents(self, slots):
        self.events.append(("left", *self.row[slots].tolist()))
        return {"row": self.row[slots], "update": self.update[slots]}

    def save(self, slots):
        return [Saved(int(self.update[slot]), [self.row[slot], self.update[slot]]) for slot in slots]

    def close(self):
        self.events.append(("closed", self.begun))


class Memory:
    """A checkpoint of one record."""

    def __init__(self, every):
        self.every, self.record = every, None

    def load(self, name):
        return self.record

    def save(self, name, record):
        self.record = jax.tree.map(np.copy, record)


def drive(total, width, ahead, breaks=None, checkpoint=None):
    """The work after training, and the events (reading takes two looks at the same curve; one is told)."""
    events, total = [], np.array(total)
    agents = {"row": np.arange(len(total)), "update": np.zeros(len(total), int)}
    work = Work(FAMILY, MEMBER[: len(total)], total, agents, np.zeros((len(total), 2)))
    if checkpoint is not None:
        work.add(Part(range(len(total)), checkpoint=checkpoint, name="counting"))
    job = Job(work, lambda: Counting(width, ahead, events, breaks or {}), width)
    run_all([job], jax.devices()[:1])
    return work, list(dict.fromkeys(events))


def counting_job(total, row, breaks=None):
    """A job of rows numbered from ``row`` on, its lanes of one row each, and their events."""
    count = len(total)
    agents = {"row": row + np.arange(count), "update": np.zeros(count, int)}
    work, events = Work(FAMILY, MEMBER[:count], np.array(total), agents, np.zeros((count, 2))), []
    return Job(work, lambda: Counting(1, 0, events, breaks or {}), 1), events


def test_lanes_go_on_to_the_next_job():
    """One lane trains the row of the first job, meanwhile the other has begun with the second."""
    (first, _), (second, _) = counting_job([40], 0), counting_job([2, 3, 4], 10)
    run_all([first, second], jax.devices()[:1] * 2)
    for job, row in ((first, 0), (second, 10)):
        ended = [(int(agent["row"]), int(agent["update"])) for agent in job.work.finished]
        assert ended == [(row + i, total) for i, total in enumerate(job.work.total)]
        assert not job.work.running


def test_a_broken_row_stops_all_jobs():
    (first, _), (second, events) = counting_job([2], 0, {0: 1}), counting_job([2, 2], 10)
    with pytest.raises(DataError, match="non-finite"):
        run_all([first, second], jax.devices()[:1])
    assert first.work.failed and second.work.failed and not events


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_all_rows_are_trained_to_their_budgets(width, ahead):
    work, events = drive([3, 7, 4], width, ahead)
    for row, total in enumerate([3, 7, 4]):
        np.testing.assert_array_equal(work.earned.returns[row, :total, 0], 100 * row + 1 + np.arange(total))
        assert np.isnan(work.earned.returns[row, total:]).all()
        assert work.finished[row] == {"row": row, "update": total}
    left = [row for kind, *rows in events if kind == "left" for row in rows]
    assert sorted(left) == [0, 1, 2] and events[-1][0] == "closed"


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_a_segment_begins_before_the_last_ones_are_read(ahead):
    _, events = drive([3, 7, 4], 2, ahead)
    order = [event for event in events if event[0] in ("begun", "read")]
    last = max(number for _, number in order)
    for number in range(1, last + 1):
        begun = sum(kind == "begun" for kind, _ in order[: order.index(("read", number))])
        assert begun == min(number + ahead, last)


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_a_row_that_breaks_is_named_and_the_others_are_kept(ahead):
    memory = Memory(np.inf)
    with pytest.raises(DataError, match=r"row 1 .*non-finite rewards or observations") as error:
        drive([8, 8, 8], 3, ahead, {1: 3}, memory)
    told = str(error.value).split("met")[1]
    assert [name in told for name in FAMILY.task_names] == [False, False, False, True]
    assert [x in str(error.value).split("met")[0] for x in FAMILY.task_names] == MEMBER[1].tolist()
    rows, updates = (memory.record[x].tolist() for x in ("rows", "updates"))
    assert rows == [0, 2] and updates == [4 + 2 * ahead] * 2  # all that had begun when row 1 was read
    for row, end in zip(rows, updates, strict=True):
        np.testing.assert_array_equal(memory.record["returns"][row, :end, 0], 100 * row + 1 + np.arange(end))
        assert np.isnan(memory.record["returns"][row, end:]).all()
    assert np.isnan(memory.record["returns"][1]).all()
    work, _ = drive([8, 8, 8], 3, ahead, checkpoint=memory)
    np.testing.assert_array_equal(
        work.earned.returns[:, :, 0], 100 * np.arange(3)[:, None] + 1 + np.arange(8)
    )


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_what_is_kept_is_of_one_moment(ahead):
    """States and curves of every record, a checkpoint being due after each segment."""

    class Checking(Memory):
        def save(self, name, record):
            super().save(name, record)
            for row, update, (number, state) in zip(
                record["rows"], record["updates"], record["states"], strict=True
            ):
                assert (number, state) == (row, update)
                assert np.isfinite(record["returns"][row]).all(-1).sum() == update
            updates.append(record["updates"].sum())

    updates = []
    drive([3, 7, 4], 2, ahead, checkpoint=Checking(0.0))
    assert updates == sorted(updates) and len(updates) >= 4


POLICY = make_policy(FAMILY, hidden=(8,))
CONFIG = PPO(learning_rate=3e-3, num_envs=6, num_steps=5, epochs=2, minibatches=2)
KEYS = np.asarray(jax.random.split(jax.random.PRNGKey(5), 3))


def test_agents_leave_the_device_lane_when_their_rows_do_alone(monkeypatch):
    """And what they are is not changed by the segment that begins after, to which the states are given."""
    monkeypatch.setattr(training, "_lanes", lambda engine: jax.devices()[:1])
    rows = Rows(MEMBER, np.array([35, 12, 35]) * CONFIG.steps_per_update, KEYS)
    left, agents = [], device.DeviceLane.agents
    monkeypatch.setattr(
        device.DeviceLane, "agents", lambda lane, slots: left.append(list(slots)) or agents(lane, slots)
    )
    found = {}
    for ahead in (0, 1):
        monkeypatch.setattr(device, "AHEAD", {jax.default_backend(): ahead})
        found[ahead] = train(POLICY, CONFIG, FAMILY, rows, rows_per_call=2)
    assert left == 2 * [[0, 1], [0]]  # after 35 updates rows 0 and 2, then row 1
    jax.tree.map(np.testing.assert_array_equal, found[0], found[1])


@pytest.mark.parametrize("slots", [[0], [4, 1], [3, 0, 2], [4, 3, 2, 1, 0]])
def test_picked_rows(slots):
    rows = {"x": jnp.arange(10.0).reshape(5, 2), "y": jnp.arange(5)}
    found = take(pick(rows, slots), slice(len(slots)))
    jax.tree.map(np.testing.assert_array_equal, found, take(rows, np.array(slots)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["actor", "observation", "reward", None])
def test_soundness(part, bad):
    moments = Moments(np.zeros(4), np.ones(4), np.ones(4))
    agent = Agent({"w": np.ones((2, 3)), "steps": np.arange(2)}, (), moments, moments)
    if part == "actor":
        agent.actor["w"][1, 2] = bad
    elif part:
        agent = agent._replace(**{part: moments._replace(var=np.array([1, 1, bad, 1]))})
    finite, spoilt = soundness(agent)
    assert bool(finite) == (part is None)
    assert spoilt.tolist() == [False, False, part == "reward", False]
