"""Training that is stopped in the middle goes on, to the bit of what it would have come to."""

import dataclasses
import importlib
import itertools
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from flax import struct
from gymnasium.envs.classic_control import CartPoleEnv
from hosts import HostPoints, host_points

from envs.gymnasium_adapter import gymnasium_family
from envs.points import PointState, points
from pgx_jax import Config, EstimateConfig, PolicyConfig, run
from pgx_jax.compare.results import to_plain
from pgx_jax.errors import DataError
from pgx_jax.learn import PPO, init_agents, make_policy, train
from pgx_jax.learn.host.acting import open_slots
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.learn.work import described, fingerprint
from pgx_jax.runs.checkpoint import StageCheckpoint
from pgx_jax.runs.saved import resume
from pgx_jax.runs.store import RunStore
from pgx_jax.types import Rows

device = importlib.import_module("pgx_jax.learn.device")
training = importlib.import_module("pgx_jax.learn.training")

KEY = jax.random.PRNGKey(2)
CONFIG = PPO(learning_rate=2e-2, entropy=0.0, num_envs=6, num_steps=5, epochs=2, minibatches=2)
UNIT = CONFIG.steps_per_update
MEMBER = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0]], bool)


class Memory:
    """A checkpoint in memory; keeps all that it was ever given."""

    def __init__(self, every=0.0):
        self.every, self.records, self.history = every, {}, []

    def load(self, name):
        return self.records.get(name)

    def save(self, name, record):
        self.records[name] = jax.tree.map(np.copy, record)
        self.history.append((name, self.records[name]))

    @classmethod
    def of(cls, name, record):
        """One that holds this record."""
        memory = cls()
        memory.records[name] = record
        return memory


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# The device engine: whatever the moment of the stop, the bits are those of a training without one


class Drifting(NamedTuple):
    """A state with a typed key of its own."""

    point: PointState
    key: jax.Array


@dataclasses.dataclass(frozen=True)
class Drift(type(points().env)):
    """The point mass, blown about by draws from a key in its state."""

    def reset(self, key, task):
        state, obs = super().reset(key, task)
        return Drifting(state, jax.random.wrap_key_data(key)), obs

    def step(self, key, state, action, task):
        now, later = jax.random.split(state.key)
        out = super().step(key, state.point, action + jax.random.normal(now, (2,)), task)
        return out._replace(state=Drifting(out.state, later), success=out.obs[0] > 0.1)


DEVICE = dataclasses.replace(points(n_tasks=4, n_groups=2, horizon=7), env=Drift(), metric="success")
POLICY = make_policy(DEVICE, hidden=(8,), normalise_observations=True)
ROWS = Rows(MEMBER, np.array([26, 13, 37]) * UNIT, np.asarray(jax.random.split(KEY, 3)))


@pytest.fixture(
    params=[(1, 1, 0), (1, 2, 0), (1, 2, 1), (2, 1, 1)],
    ids=["one by one", "side by side", "unread", "two lanes"],
)
def how(request, monkeypatch):
    """Settings of `train`: lanes, rows of each, and segments that are under way when another one begins."""
    lanes, width, ahead = request.param
    monkeypatch.setattr(device, "AHEAD", {jax.default_backend(): ahead})
    monkeypatch.setattr(training, "_lanes", lambda engine: jax.devices()[:1] * lanes)
    return {"rows_per_call": width}


def stopping(after, error=KeyboardInterrupt):
    """A progress that stops training at its n-th report."""
    heard = itertools.count(1)

    def progress(*_):
        if next(heard) >= after:
            raise error

    return progress


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_stopped_training_ends_as_if_it_had_not_been(how, after):
    whole = train(POLICY, CONFIG, DEVICE, ROWS, **how)
    assert 0 < np.nanmean(whole.at_end) < np.nanmean(whole.returns) < 1
    memory, heard = Memory(every=np.inf), []
    with pytest.raises(KeyboardInterrupt):
        train(POLICY, CONFIG, DEVICE, ROWS, checkpoint=memory, progress=stopping(after), **how)
    ((_, record),) = memory.history  # nothing was due; what was reached is saved at the stop
    updates = record["updates"].sum()
    assert 10 <= updates < 26 + 13 + 37
    again = train(
        POLICY, CONFIG, DEVICE, ROWS, checkpoint=memory, progress=lambda *x: heard.append(x), **how
    )  # fmt: skip
    same(again, whole)
    assert heard[0][0] > updates * UNIT and heard[-1][0] == ROWS.steps.sum()


def test_every_record_is_of_one_moment(how):
    """Had the process been killed after any of the savings, going on would give the same."""
    memory = Memory()
    whole = train(POLICY, CONFIG, DEVICE, ROWS, checkpoint=memory, **how)
    assert len(memory.history) >= 2  # how many depends on how the lanes' segments fall
    for name, record in memory.history[:: max(1, len(memory.history) // 4)]:
        for row, updates in zip(record["rows"], record["updates"], strict=True):
            for name in ("returns", "at_end"):
                assert np.isnan(record[name][row, updates:]).all()
                same(record[name][row, :updates], getattr(whole, name)[row, :updates])
        same(train(POLICY, CONFIG, DEVICE, ROWS, checkpoint=Memory.of(name, record), **how), whole)


def test_states_are_copied_when_they_are_due_alone(monkeypatch):
    saved, save = [], device.DeviceLane.save
    monkeypatch.setattr(device.DeviceLane, "save", lambda *args: saved.append(1) or save(*args))
    train(POLICY, CONFIG, DEVICE, ROWS, checkpoint=Memory(every=np.inf))
    assert not saved
    train(POLICY, CONFIG, DEVICE, ROWS, checkpoint=Memory())
    assert saved


def test_a_program_that_breaks_leaves_what_was_saved_before(monkeypatch):
    """The state was given away to the program; that of the last saving stands."""
    monkeypatch.setattr(training, "_lanes", lambda engine: jax.devices()[:1])
    memory, calls, segment = Memory(), itertools.count(1), device._segment

    def breaking(*args):
        out = segment(*args)
        if next(calls) == 3:
            raise RuntimeError("out of memory")
        return out

    monkeypatch.setattr(device, "_segment", breaking)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(POLICY, CONFIG, DEVICE, ROWS, checkpoint=memory)
    (record,) = memory.records.values()
    assert record["updates"].tolist() == [20]
    same(train(POLICY, CONFIG, DEVICE, ROWS, checkpoint=memory), train(POLICY, CONFIG, DEVICE, ROWS))


def test_savings_take_a_twentieth_of_the_time(tmp_path, monkeypatch):
    """Each of them takes three seconds."""
    clock = SimpleNamespace(monotonic=itertools.count(0.0, 3.0).__next__)
    monkeypatch.setattr("pgx_jax.runs.checkpoint.time", clock)
    store = RunStore.create(tmp_path / "run", {})
    checkpoint, given = StageCheckpoint(store, "meta"), StageCheckpoint(store, "meta", every=3.0)
    assert checkpoint.every == 1.0
    for each in (checkpoint, given):
        each.save("a", {"x": np.zeros(9)})
    assert checkpoint.every == pytest.approx(20 * 3.0) and given.every == 3.0
    store.save("meta-2.a", {})
    checkpoint.clear()
    assert store.stages() == ["meta-2.a"]


def test_fewer_rows_train_where_memory_does_not_suffice(monkeypatch):
    segment = device._segment

    def scarce(*args):
        if len(args[6]) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")
        return segment(*args)

    monkeypatch.setattr(training, "_lanes", lambda engine: jax.devices()[:1])
    monkeypatch.setattr(device, "_segment", scarce)
    with pytest.warns(UserWarning, match="does not suffice for 2 rows at a time: going on with 1"):
        found = train(POLICY, CONFIG, DEVICE, ROWS, rows_per_call=2)
    same(found, train(POLICY, CONFIG, DEVICE, ROWS, rows_per_call=1))


def test_a_stage_goes_on_from_its_folder(tmp_path):
    """Through the files of a run, and of no other training than the same."""
    checkpoint = StageCheckpoint(RunStore.create(tmp_path / "run", {}), "meta", every=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(POLICY, CONFIG, DEVICE, ROWS, checkpoint=checkpoint, progress=stopping(3))
    whole = train(POLICY, CONFIG, DEVICE, ROWS)
    other = CONFIG.replace(gamma=0.9)
    same(train(POLICY, other, DEVICE, ROWS, checkpoint=checkpoint), train(POLICY, other, DEVICE, ROWS))
    same(train(POLICY, CONFIG, DEVICE, ROWS, checkpoint=checkpoint), whole)


@struct.dataclass
class Scheduled(PPO):
    """With a setting that is a function."""

    schedule: Callable = struct.field(pytree_node=False, default=None)


def test_equal_trainings_have_one_name_in_every_process():
    """And others another one, though it be a property of the environment that differs."""
    agents = init_agents(POLICY, DEVICE, ROWS.key)

    def name(family=DEVICE, schedule=max):
        learner = Scheduled(schedule=schedule)
        return fingerprint(POLICY, learner, family, ROWS, agents)

    kept = [lambda x: x for _ in range(3)]
    assert len({repr(f) for f in kept}) == 3 and len({name(schedule=f) for f in kept}) == 1
    others = [dataclasses.replace(DEVICE, horizon=8), dataclasses.replace(DEVICE, env=points().env)]
    assert len({name(family) for family in (DEVICE, *others)}) == 3


# The host engine: environments come to their states again by the same seeds and actions


class Frail(HostPoints):
    """Breaks down once, when all copies together have taken ``limit`` steps. Some of these succeed."""

    def __init__(self, limit):
        super().__init__()
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "steps", itertools.count(1))

    def make(self):
        copy = super().make()
        step = copy.step

        def frail(action):
            if next(self.steps) == self.limit:
                raise RuntimeError("broken")
            out = step(action)
            return out._replace(success=bool(abs(out.obs[0]) < 0.1))

        copy.step = frail
        return copy


HOST = host_points(n_tasks=4, n_groups=2, horizon=6)
HOST_POLICY = make_policy(HOST, hidden=(8,))
HOST_ROWS = ROWS._replace(steps=np.array([4, 3, 6]) * UNIT)


def test_training_goes_on_from_a_checkpoint():
    trained = train(HOST_POLICY, CONFIG, HOST, HOST_ROWS, rows_per_call=2)
    family = dataclasses.replace(HOST, env=Frail(8 * UNIT))
    memory, heard = Memory(), []
    with pytest.raises(DataError, match="broken"):
        train(HOST_POLICY, CONFIG, family, HOST_ROWS, rows_per_call=2, checkpoint=memory)
    (record,) = memory.records.values()
    done, total = np.zeros(3, int), HOST_ROWS.steps // UNIT
    done[record["rows"]] = record["updates"]
    assert 4 <= done.sum() < total.sum() and (done <= total).all()
    again = train(
        HOST_POLICY, CONFIG, family, HOST_ROWS, rows_per_call=2, checkpoint=memory,
        progress=lambda *x: heard.append(x),
    )  # fmt: skip
    assert heard[0][0] > done.sum() * UNIT and heard[-1][0] == total.sum() * UNIT
    same(again, trained)
    other = train(
        HOST_POLICY, CONFIG.replace(gamma=0.9), family, HOST_ROWS, rows_per_call=2, checkpoint=memory
    )
    assert len(memory.records) == 2 and np.isfinite(other.returns[2, 1]).any()  # its own record, from 0


def test_every_record_of_host_rows_is_of_one_moment():
    """Those of trainings that had been stopped before, too; episodes last for several updates."""
    memory, known = Memory(), (HOST_POLICY, CONFIG, dataclasses.replace(HOST, horizon=13), HOST_ROWS)
    whole = train(*known, rows_per_call=2, checkpoint=memory)
    assert len(memory.history) >= 4
    for name, record in memory.history[::2]:
        again = Memory.of(name, record)
        same(train(*known, rows_per_call=2, checkpoint=again), whole)
        for name, later in again.history[:2]:
            same(train(*known, rows_per_call=2, checkpoint=Memory.of(name, later)), whole)


class Forgetful(HostPoints):
    """Starts elsewhere every time, whatever the seed."""

    def make(self):
        copy, drawn = super().make(), itertools.count()
        reset = copy.reset
        copy.reset = lambda seed, task: reset(seed + next(drawn), task)
        return copy


def test_environments_that_do_not_do_the_same_again_start_anew_and_it_is_told():
    family, memory = dataclasses.replace(HOST, env=Forgetful()), Memory()
    train(HOST_POLICY, CONFIG, family, HOST_ROWS, rows_per_call=2, checkpoint=memory)
    checkpoint = Memory.of(*memory.history[len(memory.history) // 2])
    with pytest.warns(UserWarning, match="environments of 'points' did not do the same again"):
        again = train(HOST_POLICY, CONFIG, family, HOST_ROWS, rows_per_call=2, checkpoint=checkpoint)
    assert np.isfinite(again.returns[2, 1:]).any()


@pytest.mark.parametrize("vector", [None, "sync"])
def test_slots_come_to_their_states_again(vector):
    """Those of one loop, and those of vectors, which step them all at once."""
    tasks = {"sutton_barto_reward": [False, True]}
    family = gymnasium_family("CartPole-v1", tasks, task_names=["plain", "other"], vector=vector)
    index, rng = np.array([0, 1, 1, 0, 1]), np.random.default_rng(0)
    slots, ages = np.arange(5), np.array([4, 7, 0, 2, 7])
    actions, seeds = rng.integers(2, size=(7, 5)), rng.integers(1000, size=5).tolist()

    def opened():
        found = open_slots(family, 5)
        found.place(slots, Tasks.of(family), index)
        return found

    wanted = np.zeros((5, 4), np.float32)
    for slot, age in enumerate(ages):  # one after the other
        env = CartPoleEnv()
        wanted[slot] = env.reset(seed=seeds[slot])[0]
        for action in actions[:age, slot]:
            wanted[slot] = env.step(action)[0]
    found, obs = opened(), np.zeros((5, 4), np.float32)
    found.repeat(slots, seeds, ages, actions, obs)
    np.testing.assert_array_equal(obs, wanted)
    found.close()


def test_a_stopped_run_keeps_what_it_has_and_resumes(tmp_path):
    family = host_points(n_tasks=4, n_groups=2, horizon=6, seed=1)
    family = dataclasses.replace(family, env=Frail(12 * UNIT), metric="success")
    config = Config(
        steps_per_task=30 * UNIT, meta_fraction=0.2, compare="none", episodes=4, test_tasks=2, ppo=CONFIG,
        estimate=EstimateConfig(steps=96, num_envs=8, dim=8), policy=PolicyConfig(hidden=(8,)),
    )  # fmt: skip
    with pytest.raises(
        DataError, match=r"task '.*' \(seed \d+\) of 'points' raised RuntimeError in step .*: broken"
    ):
        run(family, config, out=tmp_path / "run")
    stages = [path.name for path in (tmp_path / "run" / "stages").iterdir()]
    assert len(stages) == 1 and stages[0].startswith("meta.")
    found = resume(tmp_path / "run", family=family)
    meta, curve = found.meta_training, found.results.curves["policygradex"]
    assert meta.steps[0] == 24 * UNIT and 0 < np.nanmean(meta.at_end) < np.nanmean(meta.returns) < 1
    assert len(curve.at_end) == len(curve.returns) and np.shape(curve.per_task_at_end) == (4, 40)
    told = [line["result"] for line in found.store.metrics() if line.get("stage") == "meta"]
    assert re.fullmatch(r"success [01]\.\d\d \([01]\.\d\d at the end\) in the last updates, .*", told[-1])
    assert not [path for path in (tmp_path / "run" / "stages").iterdir() if path.name.startswith("meta.")]
    stopped, whole, same = (to_plain(done.results) for done in (found, *(run(family, config) for _ in "ab")))
    assert stopped.pop("timings") and whole.pop("timings") and same.pop("timings")
    assert str(stopped) == str(whole) == str(same)


def test_long_arrays_are_described_whole():
    one, other = np.zeros(2000), np.zeros(2000)
    other[1000] = 1
    assert described((1, one)) != described((1, other)) and described(one) == described(one.copy())
