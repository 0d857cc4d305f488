"""Meta-World: the same numbers as the library's own, shared models, goals, processes and pools."""

import ctypes.util
import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import metaworld
import numpy as np
import pytest
from metaworld import env_dict
from metaworld.policies import ENV_POLICY_MAP
from metaworld.utils.reward_utils import tolerance
from scipy.spatial.transform import Rotation

import pgx_jax
from envs import metaworld_copies, metaworld_faster
from envs.metaworld_copies import Copy, MetaworldEnv, MetaworldTask, goals
from envs.metaworld_drawing import drawn, is_of_drawing
from envs.metaworld_families import MT10
from envs.metaworld_faster import _Rotation, _tolerance
from pgx_jax.errors import ConfigError

STEPS = 500
KINDS = {"random": 0.0, "expert": 1.0, "noisy expert": 0.6}
"""Part of an action that is the scripted expert's; the rest is drawn."""


def own(name, seed):
    """Meta-World's environments of the goals of a seed, as `metaworld.MT1` makes them."""
    benchmark = metaworld.MT1(name, seed=seed)
    envs = []
    for task in benchmark.train_tasks:
        env = benchmark.train_classes[name]()
        env.set_task(task)
        envs.append(env)
        yield env


def compare(name, count, kinds, seed=3):
    """Play episodes of a task in Meta-World itself and in copies that share a model, in turns; everything
    must be equal, bit for bit."""
    task = MetaworldTask(name, 50, seed)
    plain, rng = list(zip(range(count), own(name, seed), strict=False)), np.random.default_rng(0)
    copies = [Copy() for _ in plain]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experts ask for more than actions can be
        for kind in kinds:
            expert = ENV_POLICY_MAP[name]()
            obs = [env.reset()[0] for _, env in plain]
            for copy, (i, _), first in zip(copies, plain, obs, strict=True):
                assert np.array_equal(copy.reset(50 * 7 + i, task), first)
            for _ in range(STEPS):
                for place, (copy, (_, env)) in enumerate(zip(copies, plain, strict=True)):
                    drawn = rng.uniform(-1, 1, 4)
                    action = KINDS[kind] * expert.get_action(obs[place]) + (1 - KINDS[kind]) * drawn
                    action = np.clip(action, -1, 1).astype(np.float32)
                    obs[place], reward, _, truncated, info = env.step(action)
                    step = copy.step(action)
                    assert np.array_equal(step.obs, obs[place]) and step.reward == reward, (name, kind)
                    assert (step.success, step.truncated) == (info["success"] > 0, truncated)


@pytest.mark.parametrize("name", MT10)
def test_copies_are_meta_world_bit_for_bit(name):
    """Two copies in turns on some."""
    compare(name, 2 if name in ("push-v3", "drawer-open-v3") else 1, ["noisy expert"])


@pytest.mark.slow
@pytest.mark.parametrize("name", env_dict.ALL_V3_ENVIRONMENTS)
def test_copies_are_meta_world_bit_for_bit_everywhere(name):
    compare(name, 4, KINDS)


@pytest.mark.parametrize("name", ["push-v3", "door-open-v3"])
def test_goals_are_those_of_the_library(name):
    drawn = [pickle.loads(task.data)["rand_vec"] for task in metaworld.MT1(name, seed=5).train_tasks]
    assert np.array_equal(drawn, goals(name, 50, 5))
    assert not np.array_equal(drawn, goals(name, 50, 6))


@pytest.mark.parametrize("count", [50, 0])
def test_an_episode_depends_on_its_seed_alone(count):
    task, rng = MetaworldTask("push-v3", count, 0), np.random.default_rng(0)
    fresh, used = Copy(), Copy()
    used.reset(1, MetaworldTask("reach-v3", 50, 0))
    used.reset(8, task)
    for action in rng.uniform(-1, 1, (40, 4)).astype(np.float32):
        used.step(action)
    other = used.reset(9, task)
    first = [copy.reset(7, task) for copy in (fresh, used)]
    assert np.array_equal(*first) and not np.array_equal(first[0], other)
    for action in rng.uniform(-1, 1, (40, 4)).astype(np.float32):
        one, two = fresh.step(action), used.step(action)
        assert np.array_equal(one.obs, two.obs) and one.reward == two.reward


def test_threads_share_a_model():
    task, actions = MetaworldTask("door-open-v3", 50, 0), np.random.default_rng(0).uniform(-1, 1, (60, 4))

    def played(seed):
        copy = Copy()
        return [copy.reset(seed, task), *(copy.step(a.astype(np.float32)).obs for a in actions)]

    alone = [played(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(played, range(4)))
    np.testing.assert_array_equal(together, alone)


def test_rotations_are_scipys_bit_for_bit():
    rng = np.random.default_rng(0)
    for matrix in Rotation.random(2000, rng=rng).as_matrix():
        assert np.array_equal(_Rotation.from_matrix(matrix).as_quat(), Rotation.from_matrix(matrix).as_quat())
    for axis in np.eye(3):
        for angle in (0, np.pi / 2, np.pi, 3.0):
            matrix = Rotation.from_rotvec(angle * axis).as_matrix()
            assert np.array_equal(
                _Rotation.from_matrix(matrix).as_quat(), Rotation.from_matrix(matrix).as_quat()
            )
    crooked = matrix + 1e-3 * rng.normal(size=(3, 3))
    assert np.array_equal(_Rotation.from_matrix(crooked).as_quat(), Rotation.from_matrix(crooked).as_quat())


def test_tolerances_are_the_librarys_bit_for_bit():
    rng = np.random.default_rng(0)
    for x, low, width, margin in rng.uniform(0, 0.3, (3000, 4)):
        given = {"bounds": (low, low + width), "margin": margin, "sigmoid": "long_tail"}
        assert _tolerance(tolerance, x, **given) == tolerance(x, **given)
        assert _tolerance(tolerance, x, **given | {"margin": 0}) == tolerance(x, **given | {"margin": 0})
    with pytest.raises(ValueError, match="margin"):
        _tolerance(tolerance, 0.1, margin=-1.0, sigmoid="long_tail")


def test_other_versions_are_left_alone(monkeypatch):
    monkeypatch.setitem(metaworld_faster.CHECKED, "mujoco", "1.0")
    cls = env_dict.ALL_V3_ENVIRONMENTS["sweep-v3"]
    with pytest.warns(UserWarning, match=r"mujoco .* \(not 1\.0\)"):
        assert metaworld_faster.faster.__wrapped__(cls) is cls


@pytest.fixture
def other_versions(monkeypatch):
    """As if what is installed had not been checked."""
    cached = (metaworld_copies._model, metaworld_copies._sharing, goals, metaworld_faster.faster)
    monkeypatch.setitem(metaworld_faster.CHECKED, "mujoco", "1.0")
    for one in cached:
        one.cache_clear()
    yield
    for one in cached:
        one.cache_clear()


@pytest.mark.filterwarnings("ignore:Meta-World runs at its own speed")
def test_copies_of_other_versions_have_models_of_their_own(other_versions):
    """The library's own code, and its numbers all the same."""
    task, (plain,) = MetaworldTask("push-v3", 1, 3), [next(own("push-v3", 3))]
    one, two = Copy(), Copy()
    first = [copy.reset(0, task) for copy in (one, two)]
    np.testing.assert_array_equal(first, [plain.reset()[0]] * 2)
    assert type(one.env) is type(plain) and one.env.model is not two.env.model
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32):
        two.step(-action)
        np.testing.assert_array_equal(one.step(action).obs, plain.step(action)[0])
    one.reset(0, MetaworldTask("reach-v3", 1, 3))
    assert len(one.known) == 1
    env = MetaworldEnv()
    assert env.memory(40, 10, 2) == 40 * (metaworld_copies.MODEL + metaworld_copies.DATA)


def test_copies_of_the_checked_versions_share_a_model():
    one, two = Copy(), Copy()
    for copy in (one, two):
        copy.reset(0, MetaworldTask("reach-v3", 1, 3))
    assert one.env.model is two.env.model
    env = MetaworldEnv()
    assert env.memory(40, 10, 2) == 20 * metaworld_copies.MODEL + 40 * metaworld_copies.DATA


def test_families_of_meta_world():
    family = pgx_jax.make_family("metaworld-mt10")
    assert family.task_names == MT10 == tuple(env_dict.MT10_V3)
    assert family.metric == "success" and family.horizon == 500 and family.true_groups is None
    several = pgx_jax.make_family("metaworld", tasks=("sweep-v3", "mt10"))
    assert several.task_names == ("sweep-v3", *MT10)
    assert pgx_jax.make_family("metaworld", tasks="sweep-v3, mt10").task_names == several.task_names
    one = pgx_jax.make_family("metaworld-mt1", task="reach-v3", n_tasks=3)
    seeds = [*one.tasks.seed, *one.sample_test_tasks(np.array([0, 1]), 2).seed]
    assert len(set(seeds)) == 5


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("metaworld", {"tasks": ("push", "reach-v3")}, "no task 'push' .*push-v3"),
        ("metaworld", {"tasks": 5}, "tasks = 5 must be names"),
        ("metaworld", {"tasks": ("reach-v3", 5)}, "must be names"),
        ("metaworld-mt1", {"task": 5}, "task = 5 must be the name"),
        ("metaworld-mt10", {"horizon": 501}, "after 500 steps"),
        ("metaworld-mt10", {"goals": -1}, "goals"),
        ("metaworld-mt10", {"engine": "envpol"}, "envpool"),
    ],
)
def test_bad_settings(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        pgx_jax.make_family(name, **settings)


def test_a_missing_library_to_draw_with_says_what_to_do(monkeypatch):
    class Blind:
        def render(self):
            raise RuntimeError("no context")

    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)  # which MuJoCo itself may have set
    with pytest.raises(ConfigError, match=r"MUJOCO_GL=osmesa \(RuntimeError: no context\).*libosmesa6"):
        drawn(Blind())


def test_a_platform_of_pyopengl_that_is_in_the_way_is_told():
    """Before anything of MuJoCo is imported; a package that is missing is left to the registry."""
    command = [sys.executable, "-c", "import pgx_jax; pgx_jax.make_family('metaworld-mt10')"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env |= {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "osmesa"}
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env).stderr
    assert "MUJOCO_GL=egl and PYOPENGL_PLATFORM=osmesa" in told and "in the way" not in told
    assert not is_of_drawing(ImportError("cannot import name", name="metaworld"))
    assert not is_of_drawing(ModuleNotFoundError("no OpenGL", name="OpenGL"))


@pytest.mark.skipif(not ctypes.util.find_library("EGL"), reason="no library to draw with")
def test_pictures(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    copy = pgx_jax.make_family("metaworld-mt10").env.make_drawn()
    copy.reset(0, MetaworldTask("push-v3", 50, 0))
    first = copy.render()
    for _ in range(20):
        copy.step(np.ones(4, np.float32))
    assert first.dtype == np.uint8 and first.ndim == 3 and (first != copy.render()).any()
    copy.close()
