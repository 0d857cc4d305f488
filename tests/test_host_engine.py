"""The host engine against the device engine and plain loops; endings, errors, checkpoints."""

import dataclasses

import jax
import numpy as np
import pytest
from hosts import ScriptEnv, ScriptVector, host_points, script_family

from envs.points import points
from pgx_jax.errors import ConfigError, DataError
from pgx_jax.learn import PPO, collect, evaluate, init_agents, make_policy, take, train
from pgx_jax.learn.host import acting, experience, memory
from pgx_jax.learn.host.acting import Acting, open_slots
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.learn.rollout import reset_slots, unroll
from pgx_jax.types import Rows

KEY = jax.random.PRNGKey(2)
FAMILY = host_points(n_tasks=4, n_groups=2, horizon=6)
POLICY = make_policy(FAMILY, hidden=(8,))
CONFIG = PPO(learning_rate=2e-2, entropy=0.0, num_envs=6, num_steps=5, epochs=2, minibatches=2)
UNIT = CONFIG.steps_per_update
MEMBER = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0]], bool)
ROWS = Rows(MEMBER, np.array([4, 3, 6]) * UNIT, np.asarray(jax.random.split(KEY, 3)))

SCRIPT = script_family()
CHOOSER = make_policy(SCRIPT, hidden=(4,))


def close(ours, theirs, **tolerance):
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


@pytest.fixture(scope="module")
def trained():
    return train(POLICY, CONFIG, FAMILY, ROWS, rows_per_call=2)


@pytest.fixture(scope="module")
def chooser():
    return take(init_agents(CHOOSER, SCRIPT, np.asarray(KEY)[None]), 0)


def test_engines():
    assert FAMILY.engine == SCRIPT.engine == "host" and points().engine == "device"


def test_both_engines_experience_the_same():
    """Without chance in the start or the actions, all steps are equal, resets and returns included."""
    host = host_points(start=0.0, n_tasks=4, n_groups=2, horizon=6)
    device = points(start=0.0, n_tasks=4, n_groups=2, horizon=6)
    agents = init_agents(POLICY, host, ROWS.key[:2])
    index = np.array([0, 1, 2, 3, 3, 1])
    acting = Acting(POLICY, host, 2, len(index))
    for place in range(2):
        acting.enter(place, Tasks.of(host), index, host.context[index], KEY)
    ours = acting.unroll(agents, ROWS.key[:2], 15, gamma=0.9, deterministic=True)
    tasks = jax.tree.map(lambda x: np.asarray(x)[index], device.tasks)

    @jax.jit
    def unrolled(agent):
        slots = reset_slots(device.env, tasks, jax.random.split(KEY, len(index)))
        return unroll(POLICY, device.env, 6, agent, tasks, device.context[index], slots, KEY, 15, 0.9, True)

    for place in range(2):
        _, theirs = unrolled(take(agents, place))
        close(take(ours, place), theirs, rtol=1e-4, atol=1e-5)
    assert ours.done.sum() == 2 * 6 * 2 and not ours.terminated.any()


def reference(lengths, actions, horizon, episode):
    """(age before, reward, age after, terminated, done, return so far, success) of every step."""
    out, age, total = [], 0, 0.0
    for action in actions:
        before, age = age, age + 1
        total += age + action
        over = age >= lengths[episode % len(lengths)]
        done = over or age >= horizon
        out.append((before, age + action, age, over and episode % 2 == 0, done, total, age == 2))
        if done:
            age, total, episode = 0, 0.0, episode + 1
    return np.array(out, float).T


@pytest.mark.parametrize("autoreset", [None, "disabled", "same_step", "next_step"])
@pytest.mark.parametrize("horizon", [6, 4])
def test_endings_in_every_convention(chooser, autoreset, horizon):
    family = script_family(autoreset, horizon=horizon)
    index = np.array([0, 1, 0, 1, 1])
    if horizon == 4 and autoreset in ("same_step", "next_step"):  # cannot be cut from outside
        with pytest.raises(DataError, match="task 'long'.*went on past the family's horizon"):
            experience(CHOOSER, family, chooser, index, KEY, 30)
        return
    steps = experience(CHOOSER, family, chooser, index, KEY, 30)
    lengths = SCRIPT.tasks["lengths"]
    for slot, task in enumerate(index):
        names = ("reward", "terminated", "done", "episode_return", "success")
        found = {name: np.asarray(getattr(steps, name)[:, slot], float) for name in names}
        first = int((index[:slot] == task).sum()) if autoreset else 0
        before, reward, after, *expected = reference(lengths[task], steps.action[:, slot], horizon, first)
        np.testing.assert_array_equal(steps.obs[:, slot, 2], before)
        np.testing.assert_array_equal(steps.next_obs[:, slot, 2], after)
        np.testing.assert_array_equal(steps.obs[:, slot, 0], task)
        np.testing.assert_array_equal(steps.next_obs[:, slot, :2], steps.obs[:, slot, :2])
        close(found, dict(zip(names, (reward, *expected), strict=True)))
    assert 0 < steps.terminated.sum() < steps.done.sum() and steps.reward.max() < 10


def test_vectors_that_need_not_be_waited_for_step_at_the_same_time(chooser):
    heard = []

    class Split(ScriptVector):
        def send(self, actions):
            heard.append("send")
            self.sent = actions

        def receive(self):
            heard.append("receive")
            return self.step(self.sent)

    class Env(ScriptEnv):
        def make_vector(self, task, count):
            return Split("disabled", task, count)

    index = np.array([0, 1, 0])
    found, wanted = (
        experience(CHOOSER, dataclasses.replace(SCRIPT, env=env), chooser, index, KEY, 12)
        for env in (Env(), ScriptEnv("disabled"))
    )
    close(found, wanted)
    assert heard == ["send", "send", "receive", "receive"] * 12


def test_vectors_that_are_left_serve_again_or_close():
    """However often rows change, no more copies are open than there are slots."""
    made = []

    class Counted(ScriptVector):
        def __init__(self, task, count):
            super().__init__("disabled", task, count)
            made.append(self)
            self.open = True
            assert sum(len(vector.copies) for vector in made if vector.open) <= 6

        def close(self):
            assert self.open
            self.open = False

    class Env(ScriptEnv):
        def make_vector(self, task, count):
            return Counted(task, count)

    family = dataclasses.replace(SCRIPT, env=Env())
    slots, tasks = open_slots(family, 6), Tasks.of(family)
    for row, index in enumerate([[0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 0], [1, 0, 1]] * 2):
        own = np.arange(3) + 3 * (row % 2)
        slots.place(own, tasks, np.array(index))
        slots.restart(own, [1, 2, 3], np.zeros((6, 3), np.float32))
    assert sum(len(vector.copies) for vector in made if vector.open) == 6
    again = len(made)
    slots.place(own, tasks, np.array([0, 1, 0]))  # both vectors are of another size than before
    slots.place(own, tasks, np.array([1, 0, 0]))  # and neither is now
    assert len(made) == again + 2
    slots.close()
    assert not any(vector.open for vector in made)


def test_success_of_an_episode_is_that_of_any_step_so_far(chooser):
    steps = experience(CHOOSER, SCRIPT, chooser, np.array([0, 1, 1]), KEY, 40)
    for slot in range(3):
        solved = False
        for t in range(40):
            solved = bool(solved or steps.success[t, slot])
            assert steps.solved[t, slot] == solved
            solved = solved and not steps.done[t, slot]
    assert 0 < steps.success.sum() < steps.solved.sum() < steps.solved.size


class Large(ScriptEnv):
    """Copies of a megabyte each."""

    def memory(self, count, n, processes):
        return count * 2**20 + n


LARGE = dataclasses.replace(script_family(lengths=((2,), (5,))), env=Large())


def test_more_environments_than_fit_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(Large, "make", None)
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    with pytest.raises(
        ConfigError,
        match=r"^1024 environments of 'script' take about 1.0 GiB, and 1.0 GiB are free; lower ppo",
    ):
        open_slots(LARGE, 1024)
    monkeypatch.setattr(memory, "available", lambda: None)
    with pytest.raises(DataError, match="in make"):
        open_slots(LARGE, 1024)
    assert memory.GRANTS.granted == 0


def test_what_was_granted_is_kept_until_it_is_closed(monkeypatch):
    """Several lanes open before any has taken its memory."""
    free = [10 * 2**20]
    monkeypatch.setattr(memory, "available", lambda: free[0])
    one = open_slots(LARGE, 5)
    with pytest.raises(ConfigError, match=r"and 0.0 GiB are free beside those that are open \(0.0 GiB\)"):
        open_slots(LARGE, 5)
    free[0] -= 6 * 2**20  # it has taken it: that does not count twice
    two = open_slots(LARGE, 3)
    one.close(), one.close()
    free[0] += 6 * 2**20
    three = open_slots(LARGE, 5)
    two.close(), three.close()
    open_slots(LARGE, 9).close()
    assert memory.GRANTS.granted == 0


def test_memory_is_the_least_that_machine_and_control_groups_leave(tmp_path):
    def put(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert memory.available(tmp_path) is None
    put("proc/meminfo", "MemTotal:       16 kB\nMemAvailable:   2048 kB\n")
    assert memory.available(tmp_path) == 2 * 2**20
    put("proc/self/cgroup", "5:cpu,memory:/own/one\n3:cpuset:/\n0::/job/step\n")
    put("sys/fs/cgroup/job/step/memory.max", "max\n")
    put("sys/fs/cgroup/job/step/memory.current", "500000\n")
    assert memory.available(tmp_path) == 2 * 2**20
    put("sys/fs/cgroup/job/memory.max", "1000000\n")
    put("sys/fs/cgroup/job/memory.current", "600000\n")
    put("sys/fs/cgroup/job/memory.stat", "anon 7\ninactive_file 100000\n")
    assert memory.available(tmp_path) == 500_000
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "900000\n")  # of all: its own is not to be seen
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "800000\n")
    put("sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 50000\n")
    assert memory.available(tmp_path) == 150_000
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "960000\n")
    assert memory.available(tmp_path) == 0


def test_short_of_memory_acting_names_the_settings_of_the_caller(chooser, monkeypatch):
    """Evaluation makes do with fewer slots before it gives up."""
    agents = init_agents(CHOOSER, SCRIPT, np.asarray(KEY)[None])
    asked = (agents, np.zeros(2, int), np.arange(2), KEY)
    opened, reserve = [], memory.reserve
    monkeypatch.setattr(acting, "reserve", lambda *args: opened.append(args[1]) or reserve(*args))
    wanted = evaluate(CHOOSER, LARGE, *asked, episodes=3)
    monkeypatch.setattr(memory, "available", lambda: 4 * 2**20)
    close(evaluate(CHOOSER, LARGE, *asked, episodes=3), wanted)
    assert opened == [6, 3]
    with pytest.raises(ConfigError, match="are free; lower episodes, or free"):
        evaluate(CHOOSER, LARGE, *asked, episodes=5)
    with pytest.raises(ConfigError, match=r"lower the num_envs .*estimate\.num_envs"):
        experience(CHOOSER, LARGE, chooser, np.zeros(5, int), KEY, 3)


def test_episodes_are_seeded_by_key_and_slot(chooser):
    index = np.array([0, 1, 0, 1])
    one, two, other = (experience(CHOOSER, SCRIPT, chooser, index, k, 20) for k in (KEY, KEY, KEY + 1))
    close(one, two)
    assert not np.array_equal(one.obs[:, :, 1], other.obs[:, :, 1])
    assert len(np.unique(one.obs[:, :, 1])) >= 16  # another start for nearly every episode


def test_a_row_trains_the_same_in_any_company(trained):
    order = np.array([2, 0, 1])
    rows = Rows(MEMBER[order], ROWS.steps[order], ROWS.key[order])
    again = train(POLICY, CONFIG, FAMILY, rows, rows_per_call=2)
    close(again.agents, take(trained.agents, order))
    close(again.returns, trained.returns[order])
    np.testing.assert_array_equal(trained.steps, ROWS.steps)
    assert np.isnan(trained.returns[0, :, MEMBER[0]][:, 4:]).all()


def test_host_training_learns_what_device_training_learns():
    rows = Rows(np.eye(4, dtype=bool)[:1], np.array([120 * UNIT]), ROWS.key[:1])
    device = points(n_tasks=4, n_groups=2, horizon=6)
    curves = [train(POLICY, CONFIG, f, rows).returns[0, :, 0] for f in (FAMILY, device)]
    first, last = ([np.nanmean(c[part]) for c in curves] for part in (slice(0, 10), slice(-20, None)))
    assert min(last) > max(first) + 0.6
    assert abs(last[0] - last[1]) < 0.3 * (last[0] - first[0])


def test_collected_data_and_evaluation(trained):
    agent = take(trained.agents, 0)
    data = collect(POLICY, FAMILY, agent, KEY, steps=24, num_envs=4)
    assert data.obs.shape == (4, 24, 4) and data.trajectory.max() == 3
    pairs = np.array([0, 0, 1, 1]), np.array([0, 3, 0, 3])
    same = jax.tree.map(lambda x: np.stack([x[0], x[0]]), trained.agents)
    played = evaluate(POLICY, FAMILY, same, *pairs, KEY, episodes=5)
    np.testing.assert_array_equal(played.returns[:2], played.returns[2:])
    assert (played.steps == 6).all() and len(np.unique(played.returns)) == 10
    alone = evaluate(POLICY, FAMILY, same, pairs[0][1:2], pairs[1][1:2], KEY, episodes=5)
    close(alone.returns[0], played.returns[1], rtol=1e-5, atol=1e-5)
    unseen = FAMILY.sample_test_tasks(KEY, 3)
    found = evaluate(POLICY, FAMILY, same, np.zeros(3, int), np.arange(3), KEY, episodes=5, tasks=unseen)
    assert np.isfinite(found.returns).all()


def test_a_told_policy_on_unseen_tasks():
    told = make_policy(FAMILY, hidden=(8,), conditioned_actor=True)
    agents = init_agents(told, FAMILY, ROWS.key[:1])
    pairs = told, FAMILY, agents, np.zeros(3, int), np.array([3, 0, 1]), KEY
    own = evaluate(*pairs, episodes=5)
    context = np.asarray(FAMILY.context)[pairs[4]]
    same = evaluate(*pairs, episodes=5, tasks=FAMILY.tasks, context=context)
    np.testing.assert_array_equal(own.returns, same.returns)


def test_evaluation_plays_first_episodes_to_their_end(chooser):
    agents = jax.tree.map(lambda x: x[None], chooser)
    found = evaluate(CHOOSER, SCRIPT, agents, np.zeros(2, int), np.arange(2), KEY, episodes=3)
    np.testing.assert_array_equal(found.steps, [[2] * 3, [5] * 3])
    np.testing.assert_array_equal(found.success_at_end, [[True] * 3, [False] * 3])
    assert found.success.all() and (found.returns >= [[3.0], [15.0]]).all()


def raising(script, step):
    if script.steps > 25 and script.task["number"] == 1:
        raise RuntimeError("the motor burnt out")
    return step


def spoilt(**fields):
    def trouble(script, step):
        return step._replace(**fields) if script.task["number"] == 1 else step

    return trouble


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (
            raising,
            r"'long' \(seed \d+\) of 'script' raised RuntimeError in step \(test_host_.*, line \d+\): the mo",
        ),
        (
            spoilt(obs=np.zeros(2)),
            r"task 'long' \(seed \d+\) of .* shape \(2,\); its observation space promises \(3,\)",
        ),
        (spoilt(obs=np.array([0, np.nan, 0])), r"task 'long' \(seed \d+\) of .* non-finite observation"),
        (spoilt(reward=np.nan), "task 'long' .* non-finite reward"),
        (spoilt(reward="much"), r"task 'long' \(seed \d+\) of .* raised ValueError in step"),
    ],
)
def test_errors_name_the_task_and_the_seed(chooser, trouble, message):
    with pytest.raises(DataError, match=message):
        experience(CHOOSER, script_family(trouble=trouble), chooser, np.array([0, 1]), KEY, 40)


def test_the_seed_that_an_error_names_is_that_of_its_episode():
    slots = open_slots(script_family(trouble=spoilt(reward=np.nan)), 2)
    slots.place(np.arange(2), Tasks.of(SCRIPT), np.arange(2))
    slots.restart(np.arange(2), [5, 6], np.zeros((2, 3), np.float32))
    slots.restart(np.array([1]), [7], np.zeros((2, 3), np.float32))
    with pytest.raises(DataError, match=r"'long' \(seed 7\) of"):
        slots.step(np.zeros(2, int), np.ones(2, bool))
