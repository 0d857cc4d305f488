"""Evaluation against a loop in Python, and the pairing of episodes."""

import importlib

import jax
import numpy as np
import pytest
from probes import table, tabular_family

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.learn import evaluate, make_policy, take
from pgx_jax.learn.training import init_agents

KEY = jax.random.PRNGKey(4)
HORIZON = 5
RNG = np.random.default_rng(0)


def random_table():
    following = RNG.integers(0, 4, (4, 3)).astype(np.int32)
    terminal, solved = RNG.random((2, 4, 3)) < 0.15
    start = np.log(np.array([0.25, 0.25, 0.25, 0.25], np.float32))
    reward = RNG.normal(size=(4, 3)).astype(np.float32)
    return table(4, 3)._replace(
        following=following, reward=reward, terminal=terminal, solved=solved, start=start
    )


TABLES = [random_table() for _ in range(6)]
FAMILY = tabular_family(TABLES, horizon=HORIZON)
POLICY = make_policy(FAMILY, hidden=(8,))
ROW, TASK = (x.ravel() for x in np.meshgrid(np.arange(3), np.arange(6), indexing="ij"))


@pytest.fixture(scope="module")
def agents():
    """Three policies with preferences of their own."""
    agents = init_agents(POLICY, FAMILY, np.asarray(jax.random.split(KEY, 3)))
    return drawn(agents)


def drawn(agents):
    """The same with preferences of their own."""
    rng = np.random.default_rng(4)
    actor = jax.tree.map(lambda x: np.float32(x + rng.normal(size=x.shape)), agents.actor)
    return agents._replace(actor=actor)


logits = jax.jit(jax.vmap(POLICY.params, (None, 0)))


def slow_episode(choice, t, state):
    """One episode of a deterministic policy: (return, success, success at its end, length)."""
    total, success, length = 0.0, False, 0
    while True:
        at = (state, choice[state])
        total, success, state, length = (
            total + t.reward[at],
            success or t.solved[at],
            t.following[at],
            length + 1,
        )
        if t.terminal[at] or length == HORIZON:
            return total, success, t.solved[at], length


def test_episodes_equal_a_loop(agents):
    """From every starting state (forced in turn), the deterministic policy's episode is known."""
    seen = set()
    for state in range(4):
        start = np.full(4, -np.inf, np.float32)
        start[state] = 0.0
        family = tabular_family([t._replace(start=start) for t in TABLES], horizon=HORIZON)
        found = evaluate(POLICY, family, agents, ROW, TASK, KEY, episodes=3, deterministic=True)
        assert found.returns.shape == found.success.shape == found.steps.shape == (18, 3)
        for pair, (row, task) in enumerate(zip(ROW, TASK, strict=True)):
            choice = np.asarray(logits(take(agents.actor, row), np.eye(4))).argmax(-1)
            total, success, at_end, length = slow_episode(choice, TABLES[task], state)
            np.testing.assert_allclose(found.returns[pair], total, atol=1e-5)
            np.testing.assert_array_equal(found.success[pair], success)
            np.testing.assert_array_equal(found.success_at_end[pair], at_end)
            np.testing.assert_array_equal(found.steps[pair], length)
            seen.add((length < HORIZON, bool(success)))
    assert len(seen) == 4  # short and long, solved and not


def test_success_in_any_step_counts(agents):
    on = {(0, None): 1, (1, None): 2}
    early = table(4, 3, following=on, solved={(0, None): True})
    late = table(4, 3, following=on, solved={(1, None): True}, terminal={(1, None): True})
    after = table(4, 3, following=on, solved={(1, None): True}, terminal={(0, None): True})
    family = tabular_family([early, late, after] * 2, horizon=HORIZON)
    found = evaluate(POLICY, family, agents, np.zeros(6), np.arange(6), KEY, episodes=3, deterministic=True)
    np.testing.assert_array_equal(found.success[:, 0], [True, True, False] * 2)
    np.testing.assert_array_equal(found.success_at_end[:, 0], [False, True, False] * 2)
    np.testing.assert_array_equal(found.steps[:, 0], [5, 2, 1] * 2)


def play(agents, row, task, **kw):
    return evaluate(POLICY, FAMILY, agents, row, task, KEY, episodes=3, **kw)


def test_different_policies_meet_the_same_episodes(agents):
    same = jax.tree.map(lambda x: np.asarray(x)[[0, 0, 1]], agents)
    found = play(same, ROW, TASK)
    np.testing.assert_array_equal(found.returns[:6], found.returns[6:12])
    np.testing.assert_array_equal(found.steps[:6], found.steps[6:12])
    assert not np.array_equal(found.returns[:6], found.returns[12:])
    first = found.returns[:6]
    assert not np.array_equal(first[:, 0], first[:, 1])  # but not all episodes are alike


def test_a_pair_plays_the_same_in_any_company(agents, monkeypatch):
    whole = play(agents, ROW, TASK)
    order = np.random.default_rng(1).permutation(18)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[order], b, atol=1e-5),
        whole,
        play(agents, ROW[order], TASK[order]),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[4:6], b, atol=1e-5),
        whole,
        play(agents, ROW[4:6], TASK[4:6]),
    )
    module = importlib.import_module("pgx_jax.learn.device")
    monkeypatch.setattr(module, "PAIRS_PER_CALL", {jax.default_backend(): 5})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, play(agents, ROW, TASK))


def test_other_tasks_than_the_familys_own(agents):
    own = play(agents, np.array([1]), np.array([0]))
    others = jax.tree.map(lambda x: x[[0, 5]], FAMILY.tasks)
    found = play(agents, np.array([1, 1]), np.array([0, 1]), tasks=others)
    np.testing.assert_allclose(found.returns[0], own.returns[0], atol=1e-5)
    assert not np.array_equal(found.returns[0], found.returns[1])


def test_non_finite_returns_are_traced_to_their_task(agents):
    reward = np.array(FAMILY.tasks.reward)
    reward[4] = np.nan
    spoilt = FAMILY.tasks._replace(reward=reward)
    with pytest.raises(DataError, match="task 'unseen 5' gave returns that are not finite"):
        play(agents, ROW, TASK, tasks=spoilt, names=[f"unseen {i + 1}" for i in range(6)])


def test_what_a_policy_is_told_of_unseen_tasks():
    told = make_policy(FAMILY, hidden=(8,), conditioned_actor=True)
    agents = init_agents(told, FAMILY, np.asarray(jax.random.split(KEY, 1)))
    agents = drawn(agents)

    def played(**unseen):
        return evaluate(told, FAMILY, agents, np.zeros(6, int), np.arange(6), KEY, episodes=4, **unseen)

    own = played()
    same = played(tasks=FAMILY.tasks, context=np.asarray(FAMILY.context))
    np.testing.assert_array_equal(own.returns, same.returns)
    zeros = played(tasks=FAMILY.tasks, context=np.zeros_like(FAMILY.context))
    assert (zeros.returns != own.returns).any()
    with pytest.raises(ConfigError, match="unseen tasks have no context: pass context"):
        played(tasks=FAMILY.tasks)
