"""Small systems of equations inside training programs."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.points import points
from pgx_jax.learn import LEARNERS, NETWORKS, device, init_agents, make_policy
from pgx_jax.learn.lane import fill
from pgx_jax.learn.systems import solve

solved = jax.jit(solve)


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 7, 30]), st.sampled_from([1, 3]), st.floats(1e-3, 10))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_solutions_solve(seed, size, sides, ridge):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(2, size, size + 2))
    matrix = (factor @ factor.swapaxes(1, 2) / size + ridge * np.eye(size)).astype(np.float32)
    right = rng.normal(size=(2, size, sides)).astype(np.float32)
    found, wanted = solved(matrix, right), np.linalg.solve(matrix.astype(float), right)
    condition = np.linalg.cond(matrix).max()
    np.testing.assert_allclose(found, wanted, atol=2e-6 * condition * np.abs(wanted).max() + 1e-6)


@pytest.mark.parametrize(("name", "changes"), [("ppo", {"baseline": "linear"}), ("cagrad", {})])
def test_training_programs_call_no_lapack(name, changes):
    """Which may wait for ever where two programs run at the same time."""
    family = points(n_tasks=3, n_groups=3)
    policy = make_policy(family, hidden=(4,))
    learner = LEARNERS[name]().replace(num_envs=3, num_steps=4, epochs=1, minibatches=1, **changes)
    lane = device.DeviceLane(policy, learner, family, 2)
    agent = jax.tree.map(lambda x: np.asarray(x)[0], init_agents(policy, family, np.zeros((1, 2), np.uint32)))
    member = np.ones((2, 3), bool)
    lane.enter(0, member[0], agent, np.zeros(2, np.uint32))
    lane.state = fill(jax.tree.map(lambda x: x[0], lane.rows), 2)
    known = (policy, family.env, family.horizon, "return", learner, lane.problem)
    program = jax.jit(device._segment.function, static_argnums=(0, 1, 2, 3))
    text = program.lower(*known, member, np.array([1, 1]), lane.rows, 1).as_text()
    assert "dot_general" in text and "lapack" not in text


@pytest.mark.parametrize("network", NETWORKS)
def test_policies_begin_without_lapack(network):
    """Whoever compiles it."""
    hidden = None if network == "linear" else (4, 4)
    policy = make_policy(points(n_tasks=3, n_groups=3), network=network, hidden=hidden)
    lowered = jax.jit(policy.init, static_argnums=1).lower(jax.random.PRNGKey(0), (4,), np.zeros((3, 3)))
    jax.jit(lambda: policy.init(jax.random.PRNGKey(0), (4,), np.zeros((3, 3))))()
    assert "threefry" in lowered.as_text() and "lapack" not in lowered.as_text()
