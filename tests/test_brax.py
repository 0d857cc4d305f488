"""Brax environments behind the device protocol: against brax itself, changes of the physics, errors."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("brax")

from envs import brax_adapter, brax_physics
from envs.brax_adapter import BraxEnv, BraxTask, brax_family
from pgx_jax.errors import ConfigError

CHANGES = {
    "scale": {"mass": [1, 3, 1, 1, 1], "gear": [1, 1, 0.3, 1, 1]},
    "system": {"gravity": [[0, 0, -9.81]] * 3 + [[0, 0, -2.0], [0, 0, -9.81]]},
}
"""Five tasks of the inverted pendulum: as it is, heavier, weaker, on a lighter planet, as it is."""

LENGTH = 30


@partial(jax.jit, static_argnums=0)
def roll(env, tasks, actions, key):
    """Run all tasks from the same start, without resets -> first obs [n, ...], Steps [n, T, ...]."""

    def one(task, actions):
        state, obs = env.reset(key, task)

        def advance(state, action):
            step = env.step(key, state, action, task)
            return step.state, step._replace(state=step.state.pipeline_state.q)

        return obs, jax.lax.scan(advance, state, actions)[1]

    return jax.vmap(one)(tasks, actions)


def pushes(n):
    """The same actions for n tasks, some beyond the bounds, float32 [n, T, 1]."""
    actions = np.random.default_rng(0).normal(0.2, 0.7, (LENGTH, 1)).astype(np.float32)
    return jnp.asarray(np.broadcast_to(actions, (n, LENGTH, 1)))


@pytest.fixture(scope="module", params=["spring", "generalized"])
def rolled(request):
    """(family, first obs, Steps) of the five tasks on a backend."""
    family = brax_family("inverted_pendulum", **CHANGES, backend=request.param, horizon=50)
    return family, *roll(family.env, family.tasks, pushes(5), jax.random.PRNGKey(3))


def raw_brax(backend):
    """What brax itself does: (first obs, obs [T, ...], reward [T], done [T])."""
    from brax import envs

    env = envs.get_environment("inverted_pendulum", backend=backend)

    @jax.jit
    def run(key, actions):
        state = env.reset(key)

        def advance(state, action):
            state = env.step(state, action)
            return state, (state.obs, state.reward, state.done)

        return state.obs, *jax.lax.scan(advance, state, actions)[1]

    return run(jax.random.PRNGKey(3), jnp.clip(pushes(1)[0], -1, 1))


def test_agrees_with_brax(rolled):
    family, first, steps = rolled
    if family.env.backend != "spring":
        return  # the wrapper knows no backend
    obs, *after = raw_brax("spring")
    np.testing.assert_allclose(first[0], obs, rtol=1e-6)
    np.testing.assert_allclose(steps.obs[0], after[0], rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(steps.reward[0], after[1])
    np.testing.assert_array_equal(steps.terminated[0], after[2] > 0.5)
    assert steps.terminated[0].any() and not steps.terminated[0, :3].any()


def test_changes_reach_the_physics(rolled):
    _, first, steps = rolled
    np.testing.assert_array_equal(first, first[:1].repeat(5, 0))
    np.testing.assert_allclose(steps.obs[4], steps.obs[0], rtol=1e-4, atol=1e-5)  # nothing changed
    position, pole, _, _ = np.abs(np.asarray(steps.obs[:, 4])).T
    assert position[1] < 0.6 * position[0] and position[2] < 0.6 * position[0]  # heavier, weaker
    falls = np.abs(np.asarray(steps.obs[:, LENGTH // 2, 1] - steps.obs[0, LENGTH // 2, 1]))
    assert falls[3] > 1e-3  # lighter planet


def test_tasks_side_by_side_are_tasks_one_by_one():
    family = brax_family("inverted_pendulum", **CHANGES)
    together = roll(family.env, family.tasks, pushes(5), jax.random.PRNGKey(3))
    for i in (1, 3):
        # The compiled program is that of five tasks; the others are copies of task i.
        copies = jax.tree.map(lambda leaf, i=i: np.repeat(leaf[i : i + 1], 5, 0), family.tasks)
        alone = roll(family.env, copies, pushes(5), jax.random.PRNGKey(3))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b[0]), together, alone)


@pytest.mark.parametrize("backend", ["spring", "mjx"])
def test_every_backend_sees_every_quantity(backend):
    raw = BraxEnv("inverted_pendulum", backend).raw()
    for quantity, powers in brax_physics.QUANTITIES.items():
        changed = BraxEnv("inverted_pendulum", backend).raw(BraxTask({quantity: jnp.float32(2.0)}, {}, {}))
        for field, power in powers.items():
            if quantity == "mass" and backend == "spring" and field.startswith("link.inertia"):
                continue
            new, old = (np.asarray(brax_physics.get(env.sys, field)) for env in (changed, raw))
            np.testing.assert_allclose(new, old * 2.0**power, rtol=1e-6, err_msg=field)
    gears = BraxTask({}, {"actuator.gear": jnp.array([7.0])}, {})
    assert BraxEnv("inverted_pendulum", backend).raw(gears).sys.actuator_gear[0, 0] == 7.0


def test_a_factor_on_masses_is_one_on_those_that_the_backend_uses():
    """Brax raises masses to 1 - spring_mass_scale: those of the ant to 0."""
    env = BraxEnv("ant")
    one, two = (env.raw(BraxTask({"mass": jnp.float32(f)}, {}, {})).sys for f in (1.0, 2.0))
    plain = env.raw().sys
    assert plain.spring_mass_scale == 1.0

    def masses(sys):
        return sys.link.inertia.mass ** (1 - sys.spring_mass_scale)

    def inertias(sys):
        return jnp.diagonal(sys.link.inertia.i, axis1=1, axis2=2) ** (1 - sys.spring_inertia_scale)

    for used in (masses, inertias):
        np.testing.assert_allclose(used(one), used(plain), rtol=1e-6)
        np.testing.assert_allclose(used(two), 2 * used(plain), rtol=1e-6)


def test_reward_weights_vary():
    family = brax_family("halfcheetah", attributes={"ctrl_cost_weight": [0.0, 0.5]})
    assert family.task_names == ("task0_ctrl_cost_weight0", "task1_ctrl_cost_weight0.5")
    weights = [family.env.raw(jax.tree.map(lambda x, i=i: x[i], family.tasks)) for i in (0, 1)]
    assert [w._ctrl_cost_weight for w in weights] == [0.0, 0.5]
    assert family.env.raw()._ctrl_cost_weight == pytest.approx(0.1)
    assert family.observation_space.shape == (17,) and family.action_space.shape == (6,)


@pytest.mark.parametrize(
    "name,settings,word",
    [
        ("half_cheetah", {"n_tasks": 2}, "halfcheetah"),
        ("reacher", {"n_tasks": 2, "backend": "springs"}, "spring"),
        ("reacher", {"n_tasks": 2, "options": {"gravity": 3}}, "gravity"),
        ("reacher", {"scale": {"masss": [1, 2]}}, "mass"),
        ("reacher", {"scale": {"mass": [1, -2]}}, "positive"),
        ("reacher", {"scale": {"mass": [1, float("nan")]}}, "finite"),
        ("reacher", {"scale": {"mass": ["a", "b"]}}, "numbers"),
        ("reacher", {"system": {"actuator.geer": [[1, 1], [2, 2]]}}, "actuator.gear"),
        ("reacher", {"system": {"actuator.gear": [1, 2]}}, r"\(n, 2\)"),
        ("reacher", {"system": {"dof_damping": np.ones((2, 4))}}, "dof.damping"),
        ("reacher", {"scale": {"mass": [1, 2], "gear": [1, 2, 3]}}, "gear: 3"),
        ("reacher", {}, "n_tasks"),
        ("reacher", {"attributes": {"ctrl_cost_weight": [1.0, 2.0]}}, "there are: none"),
        ("halfcheetah", {"attributes": {"control_cost_weight": [1.0, 2.0]}}, "ctrl_cost_weight"),
        ("reacher", {"n_tasks": 2, "horizon": 0}, "horizon"),
    ],
)
def test_errors_name_the_culprit(name, settings, word):
    with pytest.raises(ConfigError, match=word):
        brax_family(name, **settings)


def test_observations_must_be_one_vector():
    with pytest.raises(ConfigError, match="one vector"):
        brax_family("fast", n_tasks=2, options={"obs_mode": "dict_state"})


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax", None)
    monkeypatch.setitem(sys.modules, "brax.envs", None)
    brax_adapter._brax.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install \"pgx-jax\[brax\]\""):
        brax_adapter._brax()


def test_names_tell_single_numbers():
    family = brax_family(
        "inverted_pendulum", system={"actuator.gear": [[100.0], [-80.0]]}, scale={"mass": [1, 2.5]}
    )
    assert family.task_names == ("task0_mass1_gear100", "task1_mass2.5_gear-80")


def test_environments_are_equal_by_value():
    options = {"ctrl_cost_weight": 0.2}
    one, two = (brax_family("halfcheetah", n_tasks=2, options=options).env for _ in range(2))
    assert one == two != BraxEnv("halfcheetah") and hash(one) == hash(two)


def test_brax_is_imported_late_and_says_nothing(tmp_path):
    program = (
        "import sys, envs.brax_adapter as a; assert 'brax' not in sys.modules; a.BraxEnv('halfcheetah').raw()"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == done.stderr == "" and not list(tmp_path.iterdir())
