"""Training rows side by side: what a row's result depends on, budgets, compilation, bad rows."""

import dataclasses
import importlib
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.points import points
from pgx_jax.errors import ConfigError, DataError
from pgx_jax.learn import PPO, lane, make_policy, stack, take, train, train_all
from pgx_jax.types import Rows

train_module = importlib.import_module("pgx_jax.learn.training")
device = importlib.import_module("pgx_jax.learn.device")

FAMILY = points(n_tasks=4, n_groups=2, horizon=6)
POLICY = make_policy(FAMILY, hidden=(8,))
CONFIG = PPO(learning_rate=3e-3, num_envs=6, num_steps=5, epochs=2, minibatches=2)
UNIT = CONFIG.steps_per_update
MEMBER = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]], bool)
UPDATES = np.array([12, 3, 11, 1, 11])
KEYS = np.asarray(jax.random.split(jax.random.PRNGKey(5), 5))
ROWS = Rows(MEMBER, UPDATES * UNIT + np.array([0, 7, 29, 1, 0]), KEYS)


@pytest.fixture(scope="module")
def together():
    return train(POLICY, CONFIG, FAMILY, ROWS)


def close(ours, theirs, **tolerance):
    tolerance = tolerance or {"rtol": 2e-3, "atol": 2e-4}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


def one_lane(monkeypatch):
    monkeypatch.setattr(train_module, "_lanes", lambda engine: jax.devices()[:1])


def test_steps_and_curves(together):
    np.testing.assert_array_equal(together.steps, UPDATES * UNIT)
    assert together.returns.shape == (5, 12, 4)
    for row, (member, updates) in enumerate(zip(MEMBER, UPDATES, strict=True)):
        curve = together.returns[row]
        assert np.isnan(curve[updates:]).all() and np.isnan(curve[:, ~member]).all()
        # horizon 6, 5 steps an update: no episode ends in the first update, all do in the others
        assert np.isnan(curve[0]).all()
        ends = np.isfinite(curve[1:updates][:, member])
        assert ends.all() if updates < 6 else ends.mean() > 0.75
    assert all(leaf.shape[0] == 5 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(together.agents))


def test_several_policies_train_as_each_alone(together):
    other, steps = make_policy(FAMILY, hidden=(4,)), []
    few = Rows(MEMBER[:1], UPDATES[:1] * UNIT, KEYS[:1])
    calls = [(POLICY, CONFIG, ROWS), (other, CONFIG, few)]
    first, second = train_all(calls, FAMILY, progress=lambda done, total, _: steps.append((done, total)))
    close(first.agents, together.agents, rtol=0, atol=0)
    close(second.agents, train(other, CONFIG, FAMILY, few).agents, rtol=0, atol=0)
    total = (UPDATES.sum() + UPDATES[0]) * UNIT
    assert steps[-1] == (total, total) and {t for _, t in steps} == {total}
    assert train_all([], FAMILY) == []


def test_a_row_trains_the_same_alone(together):
    for i in (1, 2):
        alone = train(POLICY, CONFIG, FAMILY, take(ROWS._replace(init=None), slice(i, i + 1)))
        close(take(alone.agents, 0), take(together.agents, i))
        close(alone.returns[0], together.returns[i, : UPDATES[i]])


@pytest.mark.parametrize("width", [2, 5])
def test_a_row_trains_the_same_in_any_company(together, monkeypatch, width):
    one_lane(monkeypatch)
    found = train(POLICY, CONFIG, FAMILY, ROWS, rows_per_call=width)
    close(found.agents, together.agents)
    close(found.returns, together.returns)
    np.testing.assert_array_equal(found.steps, together.steps)


def test_the_order_of_the_rows_does_not_matter(together):
    order = np.array([3, 1, 4, 0, 2])
    found = train(POLICY, CONFIG, FAMILY, Rows(MEMBER[order], ROWS.steps[order], KEYS[order]))
    close(found.agents, take(together.agents, order))


def test_equal_rows_with_equal_keys_train_alike_and_others_do_not(together):
    rows = Rows(MEMBER[[2, 2, 2]], np.full(3, 2 * UNIT), KEYS[[2, 2, 3]])
    found = train(POLICY, CONFIG, FAMILY, rows).agents
    close(take(found, 0), take(found, 1), rtol=0, atol=0)
    first, last = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(take(found.actor, i))]) for i in (0, 2)
    )
    assert not np.allclose(first, last)


def counted(monkeypatch):
    """[(rows of the call, updates), ...] of every segment from here on."""
    calls, segment = [], device._segment

    def spy(*args):
        calls.append((len(args[6]), int(args[9])))
        return segment(*args)

    monkeypatch.setattr(device, "_segment", spy)
    return calls


def test_no_update_is_wasted(monkeypatch):
    one_lane(monkeypatch)
    calls = counted(monkeypatch)
    train(POLICY, CONFIG, FAMILY, ROWS, rows_per_call=1)
    assert sum(updates for _, updates in calls) == UPDATES.sum()
    calls.clear()
    updates = np.array([6, 12, 6])  # one lane of 12, and one of 6 and 6
    rows = Rows(MEMBER[:3], updates * UNIT, KEYS[:3])
    train(POLICY, CONFIG, FAMILY, rows, rows_per_call=2)
    assert sum(width * updates for width, updates in calls) == 24


def test_new_contents_compile_nothing(together):
    programs = [device._segment, device._enter, lane.fill, lane._put, lane._pick]
    before = [f.programs for f in programs]
    config = CONFIG.replace(learning_rate=1e-4, gamma=0.9, gae_lambda=0.5, clip=0.1, entropy=0.02)
    family = points(n_tasks=4, n_groups=2, horizon=6, seed=8)
    rows = Rows(~MEMBER[1:4], np.array([2, 13, 1]) * UNIT, KEYS[:3])
    train(make_policy(family, hidden=(8,)), config, family, rows)
    train(POLICY, config, family, rows._replace(init=take(together.agents, slice(3))))
    train(POLICY, config, family, rows._replace(init=jax.tree.map(np.array, take(together.agents, slice(3)))))
    assert [f.programs for f in programs] == before


def test_training_continues_from_the_agents_given(together):
    agents = take(together.agents, slice(2))
    rows = Rows(MEMBER[:2], np.full(2, UNIT), KEYS[:2], agents)
    still = train(POLICY, CONFIG.replace(learning_rate=0.0), FAMILY, rows).agents
    close((still.actor, still.critic), (agents.actor, agents.critic), rtol=0, atol=0)
    assert (still.reward.count >= agents.reward.count).all()
    assert still.reward.count[0].sum() == pytest.approx(agents.reward.count[0].sum() + UNIT, rel=1e-5)


def test_progress_reaches_the_total():
    heard = []
    train(
        POLICY,
        CONFIG,
        FAMILY,
        take(ROWS._replace(init=None), slice(0, 2)),
        progress=lambda *x: heard.append(x),
    )
    done = [x[0] for x in heard]
    assert done == sorted(done) and done[-1] == heard[0][1] == UPDATES[:2].sum() * UNIT
    assert np.isfinite(heard[-1][2])


def test_reward_scales_do_not_change_the_training():
    scales = (1.0, 1000.0, 1.0, 1.0)
    family = points(n_tasks=4, n_groups=2, horizon=6, reward_scales=scales)
    plain, scaled = (
        train(POLICY, CONFIG, f, Rows(MEMBER[2:3], np.array([8 * UNIT]), KEYS[:1])) for f in (FAMILY, family)
    )
    deviation = [np.sqrt(t.agents.reward.var[0, 1]) for t in (plain, scaled)]
    assert deviation[1] / deviation[0] == pytest.approx(1000, rel=0.01)
    np.testing.assert_allclose(scaled.returns[0, :, 1], 1000 * plain.returns[0, :, 1], rtol=0.02, atol=20)
    close(plain.agents.actor, scaled.agents.actor, atol=5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"member": MEMBER[:, :3]}, "expected \\[R, 4\\]"),
        ({"member": MEMBER[0]}, "expected \\[R, 4\\]"),
        ({"member": MEMBER & (np.arange(5) != 3)[:, None]}, "row 3 has no member"),
        ({"steps": np.array([UNIT, UNIT, UNIT - 1, UNIT, UNIT])}, "row 2 has a budget of 29 steps"),
    ],
)
def test_bad_rows(change, message):
    with pytest.raises(ConfigError, match=message):
        train(POLICY, CONFIG, FAMILY, ROWS._replace(**change))


def test_more_tasks_than_environments():
    with pytest.raises(ConfigError, match="4 tasks but num_envs = 3"):
        train(POLICY, CONFIG.replace(num_envs=3), FAMILY, ROWS)


@pytest.mark.parametrize(("bad", "ahead"), [(np.nan, 0), (np.inf, 1)])
def test_non_finite_rewards_are_traced_to_their_task(monkeypatch, bad, ahead):
    monkeypatch.setattr(device, "AHEAD", {jax.default_backend(): ahead})
    scale = FAMILY.tasks.reward_scale.copy()
    scale[3] = bad
    family = dataclasses.replace(FAMILY, tasks=FAMILY.tasks._replace(reward_scale=scale))
    rows = Rows(MEMBER[[2, 1]], np.full(2, 3 * UNIT), KEYS[:2])
    with pytest.raises(DataError, match="row 1 .*non-finite rewards") as error:
        train(POLICY, CONFIG, family, rows)
    told = str(error.value).split("met")[1]
    assert [name in told for name in family.task_names] == [False, False, False, True]
    train(POLICY, CONFIG, family, take(rows._replace(init=None), slice(1)))  # the others can be trained


@dataclasses.dataclass(frozen=True)
class Blind(type(FAMILY.env)):
    """Observes NaN in heavy tasks; rewards are fine."""

    def step(self, key, state, action, task):
        out = super().step(key, state, action, task)
        return out._replace(obs=jnp.where(task.mass > 1.5, jnp.nan, out.obs))


@pytest.mark.parametrize("normalised", [False, True])
def test_non_finite_observations_are_traced_to_their_task(normalised):
    mass = FAMILY.tasks.mass.copy()
    mass[3] = 2.0
    family = dataclasses.replace(FAMILY, env=Blind(), tasks=FAMILY.tasks._replace(mass=mass))
    policy = dataclasses.replace(POLICY, normalise_observations=normalised)
    rows = Rows(MEMBER[[2, 1]], np.full(2, 3 * UNIT), KEYS[:2])
    with pytest.raises(DataError, match="row 1 .*non-finite rewards or observations") as error:
        train(policy, CONFIG, family, rows)
    told = str(error.value).split("met")[1]
    assert [name in told for name in family.task_names] == [False, False, False, True]


def test_non_finite_parameters_are_reported():
    agents = train_module.init_agents(POLICY, FAMILY, KEYS[:2])
    first, second = (take(agents, i) for i in range(2))
    broken = stack([first, second._replace(critic=jax.tree.map(lambda x: x * np.nan, second.critic))])
    with pytest.raises(DataError, match="row 1 .*non-finite parameters"):
        train(POLICY, CONFIG, FAMILY, Rows(MEMBER[:2], np.full(2, UNIT), KEYS[:2], broken))


def test_fresh_agents_are_the_same_where_jax_is_kept_from_the_cpu(monkeypatch):
    agents = train_module.init_agents(POLICY, FAMILY, KEYS[:2])

    def local_devices(backend=None):
        raise RuntimeError(f"Unknown backend: {backend!r} requested")

    monkeypatch.setattr(jax, "local_devices", local_devices)
    close(train_module.init_agents(POLICY, FAMILY, KEYS[:2]), agents, rtol=0, atol=0)


class Undecided(nn.Module):
    """Gives up where it starts on the right."""

    @nn.compact
    def __call__(self, obs, context):
        mean = nn.Dense(2)(obs)
        return jnp.where(obs[:1] > 0, jnp.nan, mean), jnp.zeros_like(mean)


def test_a_policy_that_cannot_act_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(device, "_segment", None)
    policy = dataclasses.replace(POLICY, actor=Undecided())
    with pytest.raises(DataError, match="non-finite log-probabilities in the first step of task"):
        train(policy, CONFIG, FAMILY, take(ROWS._replace(init=None), slice(1)))


def test_networks_that_cannot_be_compiled_for_are_refused():
    with pytest.raises(ConfigError, match="hashable, and this Sequential is not.*as a tuple"):
        make_policy(FAMILY, actor=nn.Sequential([nn.Dense(4), nn.Dense(4)]))
    make_policy(FAMILY, actor=nn.Sequential((nn.Dense(4), nn.Dense(4))))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs control over the processors")
def test_many_fresh_agents_on_two_threads():
    """Orthogonal kernels are made by QR factorisations, which can wait for each other for ever."""
    code = (
        "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:2])\n"
        "import jax; from pgx_jax import learn, make_family\n"
        "family = make_family('points', n_tasks=2, n_groups=2); policy = learn.make_policy(family)\n"
        "keys = jax.random.split(jax.random.PRNGKey(0), 12)\n"
        "for _ in range(20): learn.init_agents(policy, family, keys)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
