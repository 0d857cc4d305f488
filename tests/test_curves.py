"""What updates tell of the episodes that end in them, on both engines, against a loop over the episodes."""

import dataclasses

import jax
import numpy as np
import pytest
from hosts import script_family
from probes import table, tabular_family

from pgx_jax.learn import PPO, device, init_agents, make_policy, take, train, updating
from pgx_jax.learn.host.acting import Acting
from pgx_jax.learn.rollout import unroll
from pgx_jax.types import Rows

LEARNER = PPO(num_envs=2, num_steps=30, epochs=1, minibatches=1)
MEMBER, KEY = np.ones((1, 2), bool), np.asarray(jax.random.PRNGKey(2))[None]
SCRIPT = script_family()
"""Episodes of the first task always come to their second step, which succeeds; of the other one, two of three
do."""
ON = {(0, None): 1, (1, 0): 2, (1, 1): 0, (2, None): 0}
TABLES = tabular_family(
    [
        table(following=ON, reward={(1, 0): 1.0}, solved={(1, 0): True}, terminal={(2, 1): True}),
        table(following=ON, reward={(1, 1): 2.0}, solved={(1, 1): True, (2, None): True}),
    ],
    horizon=5,
)


def slowly(parts):
    """Mean return, and parts of the episodes that succeed in any step and in the last one, [3, 2] of every
    update, from its steps [T, E] in a slot of each task."""
    running, curves = {task: (0.0, False) for task in range(2)}, []
    for steps in parts:
        found = {task: [] for task in running}
        for task in running:
            for t in range(len(steps.done)):
                total, solved = running[task]
                success = bool(steps.success[t, task])
                running[task] = (total + float(steps.reward[t, task]), solved or success)
                if steps.done[t, task]:
                    found[task].append((*running[task], success))
                    running[task] = (0.0, False)
        curves.append(np.array([np.mean(episodes, 0) for episodes in found.values()]).T)
    return curves


def trained(family, updates):
    """A row of both tasks, judged by return and by success."""
    policy, rows = make_policy(family, hidden=(4,)), Rows(MEMBER, np.array([60 * updates]), KEY)
    judged = [dataclasses.replace(family, metric=metric) for metric in ("return", "success")]
    return [train(policy, LEARNER, each, rows) for each in judged]


def same(by_return, by_success, wanted):
    """Curves, of the updates that a loop has gone through."""
    returns, solved, at_end = np.moveaxis(np.array(wanted), 1, 0)
    some = slice(len(wanted))
    np.testing.assert_allclose(by_return.returns[0, some], returns, rtol=1e-5)
    np.testing.assert_allclose(by_success.returns[0, some], solved, rtol=1e-5)
    np.testing.assert_allclose(by_success.at_end[0, some], at_end, rtol=1e-5, atol=1e-7)
    assert by_return.at_end is None
    jax.tree.map(np.testing.assert_array_equal, by_return.agents, by_success.agents)


def test_curves_of_the_host_engine(monkeypatch):
    played, play = [], Acting.unroll
    monkeypatch.setattr(Acting, "unroll", lambda *x, **kw: played.append(play(*x, **kw)) or played[-1])
    found = trained(SCRIPT, 2)
    parts = [take(steps, 0) for steps in played]  # of the only row
    wanted = slowly(parts[:2])
    same(*found, wanted)
    jax.tree.map(np.testing.assert_array_equal, wanted, slowly(parts[2:]))
    rates = found[1].returns[0]
    assert (
        (found[0].returns[0] > 1).all()
        and (rates[:, 0] == 1).all()
        and (abs(rates[:, 1] - 0.65) < 0.15).all()
    )
    assert (0 < found[1].at_end[0, :, 0]).all() and (found[1].at_end[0, :, 0] < 0.6).all()
    assert (found[1].at_end[0, :, 1] == 0).all()


def test_curves_of_the_device_engine():
    """Of a row's first update: its steps are had again by its keys."""
    policy = make_policy(TABLES, hidden=(4,))
    agent, problem = take(init_agents(policy, TABLES, KEY), 0), device.Problem(TABLES.tasks, TABLES.context)
    state = device.start(policy, TABLES.env, LEARNER, problem, MEMBER[0], agent, KEY[0])
    _, (key,), _ = updating.update_keys(state.key, LEARNER.phases)
    known = (policy, TABLES.env, TABLES.horizon, agent, TABLES.tasks, TABLES.context, state.slots, key)
    _, steps = unroll(*known, LEARNER.num_steps, gamma=LEARNER.gamma)
    wanted = slowly([steps])
    same(*trained(TABLES, 1), wanted)
    _, solved, at_end = wanted[0]
    assert (at_end < solved).all() and (at_end > 0).any() and (solved < 1).any()


@pytest.mark.parametrize("metric", ["return", "success"])
def test_nothing_is_known_at_first(metric):
    blank = updating.Earned.unknown(metric, (3, 2))
    assert len(jax.tree.leaves(blank)) == 1 + (metric == "success")
    assert all(
        x.shape == (3, 2) and x.dtype == np.float32 and np.isnan(x).all() for x in jax.tree.leaves(blank)
    )
