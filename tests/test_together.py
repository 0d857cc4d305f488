"""Threads side by side whose trainings are joined: who waits for whom, errors and interrupts, and that each
trains what it would alone."""

import importlib
import threading

import jax
import numpy as np
import pytest
from test_interrupted import MEMBER, UNIT, Memory, same, stopping

from envs.points import points
from pgx_jax.errors import DataError
from pgx_jax.learn import PPO, init_agents, make_policy, side_by_side, train, train_all
from pgx_jax.learn.together import Meeting, Stopped, give_way, place
from pgx_jax.types import Rows

training = importlib.import_module("pgx_jax.learn.training")


def meeting(batches, refused=()):
    """One that doubles numbers and remembers who asked together; of some numbers it will not hear."""

    def double(numbers):
        batches.append(sorted(numbers))
        if set(refused) & set(numbers):
            raise ValueError(f"no {numbers}")
        return [2 * number for number in numbers]

    return Meeting(double)


def asking(got, *numbers, then=None):
    """A body that asks for these, one after the other, and may raise an error in the end."""

    def body():
        here, place_there = place()
        got.append([here.ask(place_there, number) for number in numbers])
        if then is not None:
            raise then

    return body


def held(meeting, bodies):
    """What comes of a meeting, which must end; its threads, too."""
    found = []
    thread = threading.Thread(target=lambda: found.append(meeting.hold(bodies)), daemon=True)
    thread.start()
    thread.join(60)
    assert found, "the meeting does not end"
    return found[0]


@pytest.mark.parametrize(
    ("lists", "batches"),
    [
        ([[1], [2], [3]], [[1, 2, 3]]),
        ([[1, 4, 6], [2], [3, 5]], [[1, 2, 3], [4, 5], [6]]),
        ([[], [2], []], [[2]]),
        ([[], []], []),
        ([], []),
    ],
)
def test_all_who_are_left_meet(lists, batches):
    found, got = [], []
    assert held(meeting(found), [asking(got, *numbers) for numbers in lists]) == [None] * len(lists)
    assert found == batches and sorted(got) == sorted([2 * x for x in numbers] for numbers in lists)


def test_an_error_ends_one_thread_alone():
    found, got, early = [], [], ValueError("early")

    def failing():
        raise early

    late = ValueError("late")
    bodies = [asking(got, 1, 4), failing, asking(got, 2, then=late), asking(got, 3, 5)]
    assert held(meeting(found), bodies) == [None, early, late, None]
    assert found == [[1, 2, 3], [4, 5]] and sorted(got) == [[2, 8], [4], [6, 10]]


def test_an_error_of_several_is_traced_to_those_who_meet_it_alone():
    found, got = [], []
    errors = held(meeting(found, refused=[2]), [asking(got, 1, 4), asking(got, 2, 9), asking(got, 3, 5)])
    assert [str(error) for error in errors] == ["None", "no [2]", "None"]
    assert found == [[1, 2, 3], [1], [2], [3], [4, 5]] and sorted(got) == [[2, 8], [6, 10]]
    errors = held(meeting(found, refused=[7]), [asking(got, 7)])
    assert [str(error) for error in errors] == ["no [7]"]


def test_one_thread_is_awake_at_a_time():
    awake, most = [0], [0]

    def body():
        here, number = place()
        for _ in range(3):
            awake[0] += 1
            most[0] = max(most[0], awake[0])
            threading.Event().wait(0.01)
            awake[0] -= 1
            here.ask(number, 1)

    assert held(meeting([]), [body] * 4) == [None] * 4 and most == [1]


def test_an_interrupt_stops_all():
    """In the caller's thread, while it answers; and in a body."""
    ended = []

    def interrupted(numbers):
        raise KeyboardInterrupt

    def body():
        here, number = place()
        try:
            here.ask(number, 1)
        except Stopped:
            ended.append(number)
            with pytest.raises(Stopped):
                give_way()
            raise

    with pytest.raises(KeyboardInterrupt):
        Meeting(interrupted).hold([body] * 3)
    assert sorted(ended) == [0, 1, 2]

    def leaving():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        meeting([]).hold([body, leaving, body])
    assert len(ended) in (3, 4, 5) and place() is None  # those who had not begun never do
    give_way()


def test_answers_are_used_before_anything_else_begins():
    used = []

    def body():
        here, number = place()
        for turn in range(3):
            here.ask(number, 1)
            used.append(turn)
            give_way()
            used.append(turn)

    assert held(meeting([]), [body] * 3) == [None] * 3
    assert used == [turn for turn in range(3) for _ in range(6)]


def test_who_has_an_answer_may_use_it_before_the_stop():
    """The caller is interrupted as soon as all are answered; no answer is lost."""
    used, answered = [], threading.Event()

    def body():
        here, number = place()
        used.append(here.ask(number, number))
        answered.wait(60)
        give_way()
        used.append("went on")

    here = meeting([])
    wait = iter([here.met.wait])

    def interrupted():
        for first in wait:
            return first()
        answered.set()
        raise KeyboardInterrupt

    here.met.wait = interrupted
    with pytest.raises(KeyboardInterrupt):
        here.hold([body] * 3)
    assert sorted(used) == [0, 2, 4]


FAMILY = points(n_tasks=4, n_groups=2, horizon=6)
POLICY = make_policy(FAMILY, hidden=(8,))
TOLD = make_policy(FAMILY, hidden=(8,), conditioned_actor=True)
CONFIG = PPO(learning_rate=3e-3, num_envs=6, num_steps=5, epochs=2, minibatches=2)


def rows(seed, *updates, init=None):
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(seed), len(updates)))
    return Rows(MEMBER[: len(updates)], np.array(updates) * UNIT, keys, init)


def several():
    """What three threads train: their calls, one after the other, each a list for `train_all`."""
    other = CONFIG.replace(num_envs=4)
    return [
        [[(POLICY, CONFIG, rows(1, 12, 3))], [(POLICY, CONFIG, rows(2, 5)), (TOLD, CONFIG, rows(3, 4))]],
        [[(POLICY, CONFIG, rows(4, 7, 9, 2)), (POLICY, other, rows(5, 4))]],
        [[(POLICY, CONFIG, rows(6, 21))], [], [(TOLD, CONFIG, rows(7, 4, 6))]],
    ]


def trains(found, number, lists, **kw):
    """A body that trains what the lists say and remembers what comes of it."""

    def body():
        found[number] = [train_all(calls, FAMILY, **kw) for calls in lists]

    return body


def test_each_trains_what_it_would_alone(monkeypatch):
    found, jobs, run_all = {}, [], training.run_all

    def watched(these, devices):
        jobs.append(sorted(job.work.total.tolist() for job in these))
        run_all(these, devices)

    monkeypatch.setattr(training, "run_all", watched)
    heard = {i: [] for i in range(3)}
    bodies = [
        trains(found, i, lists, progress=lambda *told, i=i: heard[i].append(told))
        for i, lists in enumerate(several())
    ]
    assert side_by_side(bodies) == [None] * 3
    assert jobs == [[[6], [12, 3, 7, 9, 2, 21]], [[4, 4, 6], [5]]]  # equal programs share a queue
    monkeypatch.setattr(training, "run_all", run_all)
    for i, lists in enumerate(several()):
        alone = [train_all(calls, FAMILY) for calls in lists]
        same(found[i], alone)
        ends = [sum(int(x.rows.steps.sum()) for x in calls) for calls in map(_named, lists)]
        told = [total for _, total, _ in heard[i]]
        assert list(dict.fromkeys(told)) == list(dict.fromkeys(filter(None, ends)))
        assert heard[i][-1][0] == heard[i][-1][1]


def _named(calls):
    return [training.Call(None, *call, None) for call in calls]


@pytest.mark.parametrize("width", [1, 2])
def test_a_stopped_one_goes_on_alone(monkeypatch, width):
    """Of rows that had shared a program, each checkpoint has its own."""
    monkeypatch.setattr(training, "_lanes", lambda engine: jax.devices()[:1])
    mine, theirs = rows(1, 22, 13), rows(2, 31)
    memories, found = [Memory(every=np.inf), Memory()], {}
    bodies = [
        trains(
            found, 0, [[(POLICY, CONFIG, mine)]],
            checkpoint=memories[0], progress=stopping(2), rows_per_call=width,
        ),
        trains(found, 1, [[(POLICY, CONFIG, theirs)]], checkpoint=memories[1], rows_per_call=width),
    ]  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        side_by_side(bodies)
    assert not found
    for some, memory in zip((mine, theirs), memories, strict=True):
        ((name, record),) = memory.records.items()
        assert record["updates"].sum() >= 10 and record["rows"].max() < len(some.steps)
        assert record["returns"].shape == (len(some.steps), some.steps.max() // UNIT, 4)
        again = train(POLICY, CONFIG, FAMILY, some, checkpoint=memory)
        assert list(memory.records) == [name]
        jax.tree.map(np.testing.assert_allclose, again, train(POLICY, CONFIG, FAMILY, some))


def test_a_row_that_breaks_ends_its_own_training():
    """The others go on; those with a checkpoint from where it was, on their own."""
    agents = init_agents(POLICY, FAMILY, rows(3, 14, 14).key)
    broken = rows(3, 14, 14, init=agents._replace(critic=jax.tree.map(lambda x: x + 1e30, agents.critic)))
    good, found, memory = rows(1, 25, 12), {}, Memory(every=np.inf)
    bodies = [
        trains(found, 0, [[(POLICY, CONFIG, good)]], checkpoint=memory),
        trains(found, 1, [[(POLICY, CONFIG, broken)]]),
        trains(found, 2, [[(POLICY, CONFIG, good)]]),
    ]
    first, error, third = side_by_side(bodies)
    assert first is None and third is None and isinstance(error, DataError)
    assert "training of row 0" in str(error) or "training of row 1" in str(error)
    whole = train(POLICY, CONFIG, FAMILY, good)
    same(found, {0: [[whole]], 2: [[whole]]})
