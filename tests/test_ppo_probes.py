"""PPO on probes: environments so small that their values and best actions are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import reach_family, table, tabular_family

from pgx_jax.learn import PPO, make_policy, train
from pgx_jax.learn.work import take
from pgx_jax.types import Rows

KEY = jax.random.PRNGKey(0)

# Probes: tables whose values and best actions are known; one row each, all in one program

GAMMA = 0.5
BOTH = {0: np.log(0.5), 1: np.log(0.5)}
PROBES = {
    "value": table(reward={(0, None): 1.0}, terminal={(0, None): True}),
    "reward": table(reward={(0, None): 1.0, (1, None): -3.0}, terminal={(None, None): True}, start=BOTH),
    "discounting": table(
        following={(0, None): 1}, reward={(1, None): 1.0}, terminal={(1, None): True},
    ),
    "truncation": table(following={(0, None): 1}, reward={(1, None): 1.0}, start=BOTH),
    "action": table(
        reward={(0, 0): 1.0, (1, 1): 1.0}, terminal={(None, None): True}, start=BOTH,
    ),
    "delayed action": table(
        following={(0, 0): 1, (0, 1): 2}, reward={(0, 0): 0.1, (2, None): 1.0},
        terminal={(1, None): True, (2, None): True},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def probed():
    """(policy, agent, family) of every probe, each trained alone."""
    family = tabular_family(PROBES.values(), names=PROBES, horizon=2)
    policy = make_policy(family, hidden=(16,))
    config = PPO(
        learning_rate=0.02, final_learning_rate=0.05, gamma=GAMMA, gae_lambda=0.9, entropy=0.0, value=1.0,
        max_grad_norm=10.0, num_envs=16, num_steps=8, epochs=4, minibatches=2, scale_rewards=False,
    )  # fmt: skip
    n = family.n
    rows = Rows(np.eye(n, dtype=bool), np.full(n, 120 * 128), np.asarray(jax.random.split(KEY, n)))
    trained = train(policy, config, family, rows)
    return {name: (policy, take(trained.agents, i), family.context[i]) for i, name in enumerate(PROBES)}


def values(probed, name):
    policy, agent, context = probed[name]
    return np.array([policy.value(agent.critic, policy.critic_input(obs, context)) for obs in jnp.eye(3)])


def choices(probed, name):
    policy, agent, _ = probed[name]
    return np.array([jax.nn.softmax(policy.params(agent.actor, obs)) for obs in jnp.eye(3)])


def test_probe_value(probed):
    assert values(probed, "value")[0] == pytest.approx(1.0, abs=0.05)


def test_probe_reward(probed):
    np.testing.assert_allclose(values(probed, "reward")[:2], [1.0, -3.0], atol=0.1)


def test_probe_discounting(probed):
    np.testing.assert_allclose(values(probed, "discounting")[:2], [GAMMA, 1.0], atol=0.07)


def test_probe_truncation(probed):
    # State 1 pays 1 for ever, state 0 leads there. The time limit of 2 steps must not show, and the
    # value after the last step is state 1's, not that of the state drawn at the reset.
    np.testing.assert_allclose(values(probed, "truncation")[:2], [1.0, 2.0], atol=0.12)


def test_probe_action(probed):
    probability = choices(probed, "action")
    assert probability[0, 0] > 0.9 and probability[1, 1] > 0.9


def test_probe_delayed_action(probed):
    assert choices(probed, "delayed action")[0, 1] > 0.9  # .5 later is more than .1 now


def test_probe_continuous_action():
    family = reach_family([0.6, -0.6])
    policy = make_policy(family, hidden=(16,), squash=True)
    config = PPO(
        learning_rate=0.02, final_learning_rate=0.05, gamma=0.9, gae_lambda=0.9, entropy=0.0,
        max_grad_norm=0.5, num_envs=16, num_steps=8, epochs=4, minibatches=2,
    )  # fmt: skip
    rows = Rows(np.eye(2, dtype=bool), np.full(2, 80 * 128), np.asarray(jax.random.split(KEY, 2)))
    trained = train(policy, config, family, rows)
    obs = np.linspace(-0.9, 0.9, 7, dtype=np.float32)[:, None]
    for i, slope in enumerate((0.6, -0.6)):
        action = [policy.act(take(trained.agents, i), one, family.context[i]) for one in obs]
        np.testing.assert_allclose(action, slope * obs, atol=0.15)
