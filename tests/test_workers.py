"""Slots that processes step: as in one process, whatever goes wrong in one of them."""

import dataclasses
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hosts import ScriptEnv, script_family
from test_host_engine import CHOOSER, close, raising

from pgx_jax.cli import main as cli
from pgx_jax.errors import ConfigError, DataError
from pgx_jax.learn import PPO, evaluate, init_agents, take, train
from pgx_jax.learn.host import acting, experience, on_ray, workers
from pgx_jax.learn.host.acting import open_slots
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.learn.host.workers import RemoteCopies
from pgx_jax.types import Rows

KEY = jax.random.PRNGKey(2)
ALONE, SHARED = script_family(), script_family(processes=2)


@pytest.fixture(scope="module")
def agents():
    return init_agents(CHOOSER, ALONE, np.asarray(KEY)[None])


def test_two_processes_are_one(agents):
    """Rows that train in two lanes at a time, steps, and evaluation, which opens slots of its own."""
    learner = PPO(num_envs=3, num_steps=6, epochs=1, minibatches=1)
    member = np.array([[1, 1], [1, 0], [0, 1]], bool)
    rows = Rows(member, np.full(3, 3 * learner.steps_per_update), np.asarray(jax.random.split(KEY, 3)))
    close(*(train(CHOOSER, learner, family, rows, rows_per_call=1) for family in (ALONE, SHARED)))
    index = np.array([0, 1, 1, 0, 1])
    close(*(experience(CHOOSER, f, take(agents, 0), index, KEY, 20) for f in (ALONE, SHARED)))
    pairs = (np.zeros(2, int), np.arange(2), KEY)
    close(*(evaluate(CHOOSER, f, agents, *pairs, episodes=3) for f in (ALONE, SHARED)))


def test_fewer_slots_than_processes(agents):
    few = [experience(CHOOSER, f, take(agents, 0), np.array([1]), KEY, 9) for f in (ALONE, SHARED)]
    close(*few)


def test_an_error_comes_back_and_nothing_hangs(agents):
    family = script_family(trouble=raising, processes=2)
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"'long' \(seed \d+\) of 'script' raised RuntimeError in step .*: the mo"
        ):
            experience(CHOOSER, family, take(agents, 0), np.array([0, 1, 1, 0]), KEY, 40)
    assert experience(CHOOSER, family, take(agents, 0), np.array([0]), KEY, 5).done.shape == (5, 1)


def test_a_process_that_dies_is_named_and_the_others_end(agents):
    slots = open_slots(SHARED, 4)
    assert isinstance(slots, RemoteCopies)
    slots.place(np.arange(4), Tasks.of(SHARED), np.array([0, 1, 0, 1]))
    slots.restart(np.arange(4), [5, 6, 7, 8], np.zeros((4, 3), np.float32))
    victim, other = (member.process for member in slots.crew.members)
    names = [f"{slots.names[slot]} (seed {5 + slot})" for slot in slots.shares[0].tolist()]
    victim.kill()
    with pytest.raises(DataError, match=r"'script' died \(exit code -9\)") as raised:
        slots.step(np.zeros(4, int), np.ones(4, bool))
    assert ", ".join(names) in str(raised.value) and other.wait(10) is not None
    slots.close()
    assert slots.crew not in workers._CREWS.values()
    assert experience(CHOOSER, SHARED, take(agents, 0), np.array([0, 1]), KEY, 5).done.shape == (5, 2)


def test_all_slots_of_a_crew_name_the_process_that_died_first():
    """Not the one that was ended because of it."""
    both = [open_slots(SHARED, 4) for _ in range(2)]
    for slots, seeds in zip(both, ([5, 6, 7, 8], [15, 16, 17, 18]), strict=True):
        slots.place(np.arange(4), Tasks.of(SHARED), np.array([0, 1, 0, 1]))
        slots.restart(np.arange(4), seeds, np.zeros((4, 3), np.float32))
    assert both[0].crew is both[1].crew
    both[0].crew.members[1].process.kill()
    for slots, offset in zip(both, (5, 15), strict=True):
        own = [f"{slots.names[slot]} (seed {offset + slot})" for slot in slots.shares[1].tolist()]
        with pytest.raises(DataError, match=r"died \(exit code -9\)") as raised:
            slots.step(np.zeros(4, int), np.ones(4, bool))
        assert f"with episodes of {', '.join(own)};" in str(raised.value)
        slots.close()


def test_an_interrupt_leaves_no_answers_behind(agents, monkeypatch):
    slots = open_slots(SHARED, 2)
    slots.place(np.arange(2), Tasks.of(SHARED), np.arange(2))
    slots.restart(np.arange(2), [5, 6], np.zeros((2, 3), np.float32))

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(slots.crew.members[0], "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        slots.step(np.zeros(2, int), np.ones(2, bool))
    assert [member.process.wait(10) for member in slots.crew.members]
    assert slots.crew not in workers._CREWS.values()


def test_a_script_without_a_guard_may_ask_for_processes(tmp_path):
    """What multiprocessing's own start again would run twice; classes of the script itself are known."""
    script = tmp_path / "script.py"
    script.write_text(
        """
import dataclasses, numpy as np
from hosts import ScriptEnv, Script, script_family
from pgx_jax.learn.host.acting import open_slots
from pgx_jax.learn.host.slots import Tasks
print("begins")
@dataclasses.dataclass(frozen=True)
class Own(ScriptEnv):
    def make(self):
        return Script()
class Task(dict):
    pass
family = dataclasses.replace(script_family(), env=Own(processes=2))
named = Tasks.of(family)
named = named._replace(params=tuple(map(Task, named.params)))
slots = open_slots(family, 2)
slots.place(np.arange(2), named, np.arange(2))
slots.restart(np.arange(2), [1, 2], np.zeros((2, 3), np.float32))
print(slots.step(np.zeros(2, int), np.ones(2, bool)).reward)
"""
    )
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **paths})
    assert done.stdout.split("\n")[:2] == ["begins", "[1. 1.]"], done.stderr


def test_processes_that_nobody_uses_end_when_others_start(agents):
    first, second = (script_family(processes=2, trouble=trouble) for trouble in (None, raising))
    slots = open_slots(first, 2)
    open_slots(second, 2).close()
    process = slots.crew.members[0].process
    assert slots.crew in workers._CREWS.values() and process.poll() is None
    slots.close()
    other = open_slots(script_family(processes=3), 2)
    assert process.wait(10) is not None and len(other.crew.members) == 3
    other.close()


def leaving(script, step):
    os._exit(3)


def test_a_process_that_leaves_has_an_exit_code_of_its_own(agents):
    family = script_family(trouble=leaving, processes=2)
    with pytest.raises(DataError, match=r"died \(exit code 3\)"):
        experience(CHOOSER, family, take(agents, 0), np.array([0, 1]), KEY, 5)


def test_errors_say_where_they_come_from(agents):
    with pytest.raises(DataError) as raised:
        experience(
            CHOOSER, script_family(trouble=raising, processes=2), take(agents, 0), np.ones(2, int), KEY, 40
        )
    assert "in raising" in raised.value.__notes__[0]


class Lost:
    """What cannot be found again where it is sent."""

    def __reduce__(self):
        return open, ("/there/is/no/such/file",)


def test_what_cannot_be_opened_elsewhere_is_an_error_and_no_death(agents):
    family = script_family(trouble=Lost(), processes=2)
    with pytest.raises(DataError, match="FileNotFoundError in a process of its own"):
        experience(CHOOSER, family, take(agents, 0), np.array([0, 1]), KEY, 5)


def test_an_environment_that_cannot_be_hashed(agents):
    @dataclasses.dataclass(frozen=True)
    class Plain(ScriptEnv):
        __hash__ = None

    env = Plain(processes=2)
    family = dataclasses.replace(ALONE, env=env)
    close(*(experience(CHOOSER, f, take(agents, 0), np.array([0, 1]), KEY, 9) for f in (ALONE, family)))


# On a cluster


class Called:
    """An actor in this process; once it is gone, Ray has only errors for it."""

    def __init__(self, served):
        self.served, self.gone = served, False
        self.answer = SimpleNamespace(remote=lambda asked: (self, asked))


@pytest.fixture
def ray_of_two_cores(monkeypatch):
    """Ray as this code calls it, with actors in this process."""
    made, full = [], []

    def get(ref, timeout):
        actor, asked = ref
        if full:
            raise TimeoutError
        if actor.gone:
            raise ConnectionError("The actor died unexpectedly.\nmore")
        return actor.served.answer(asked)

    def remote(**asked):
        assert asked == {"num_cpus": 1}
        return lambda cls: SimpleNamespace(remote=lambda path: made.append(Called(cls(path))) or made[-1])

    ray = SimpleNamespace(
        is_initialized=lambda: True, remote=remote, get=get, cluster_resources=lambda: {"CPU": 2.0},
        kill=lambda actor: setattr(actor, "gone", True), available_resources=dict,
        exceptions=SimpleNamespace(RayError=ConnectionError, GetTimeoutError=TimeoutError), full=full,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", ray)
    return made


def test_actors_of_a_cluster_are_one(agents, ray_of_two_cores):
    """As many as the cluster has cores, where the environment leaves it open; they go at the end."""
    anyhow = script_family(processes=0)
    index = np.array([0, 1, 1, 0, 1])
    with on_ray("auto"):
        close(*(experience(CHOOSER, f, take(agents, 0), index, KEY, 20) for f in (ALONE, anyhow)))
        assert len(ray_of_two_cores) == 2 and not any(actor.gone for actor in ray_of_two_cores)
        assert acting.processes_of(anyhow) == 2
    assert all(actor.gone for actor in ray_of_two_cores)
    assert workers.kind_of_crews().start is workers.Process


def test_an_actor_that_dies_is_named(agents, ray_of_two_cores):
    with on_ray("auto"):
        slots = open_slots(SHARED, 4)
        slots.place(np.arange(4), Tasks.of(SHARED), np.array([0, 1, 0, 1]))
        slots.restart(np.arange(4), [5, 6, 7, 8], np.zeros((4, 3), np.float32))
        ray_of_two_cores[0].gone = True
        with pytest.raises(DataError, match=r"died \(The actor died unexpectedly\.\), with episodes of"):
            slots.step(np.zeros(4, int), np.ones(4, bool))
        slots.close()


def test_a_cluster_without_room_is_named(agents, ray_of_two_cores):
    sys.modules["ray"].full.append(True)
    with (
        on_ray("auto"),
        pytest.raises(ConfigError, match="it has 2 cores, and 0 are free; lower `processes`"),
    ):
        open_slots(SHARED, 4)


def test_a_cluster_is_for_environments_in_processes(capsys):
    for name in ("points", "lunarlander"):
        assert cli.main(["run", name, "--ray", "auto"]) == 2
        assert f"--ray auto: no processes step the environments of '{name}'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:os.fork")
def test_on_two_nodes_of_a_cluster(agents):
    """Training, in actors on both nodes; when one of the nodes goes, its tasks are named."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        learner = PPO(num_envs=3, num_steps=6, epochs=1, minibatches=1)
        rows = Rows(np.ones((1, 2), bool), np.full(1, 3 * learner.steps_per_update), np.asarray(KEY)[None])
        with on_ray(cluster.address):
            close(*(train(CHOOSER, learner, family, rows) for family in (ALONE, script_family(processes=0))))
            slots = open_slots(SHARED, 4)
            slots.place(np.arange(4), Tasks.of(SHARED), np.array([0, 1, 0, 1]))
            cluster.remove_node(second, allow_graceful=False)
            with pytest.raises(DataError, match="a process that stepped environments of 'script' died"):
                for seed in range(100):
                    slots.restart(np.arange(4), [seed] * 4, np.zeros((4, 3), np.float32))
            slots.close()
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()
