"""Generalised advantage estimation against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.learn import advantages

gae = jax.jit(advantages.gae)


def slow_gae(reward, value, next_value, terminated, done, gamma, lam):
    """Weighted n-step returns minus the value, O(T^2), from the definition of the lambda-return."""
    length = len(reward)
    out = np.zeros(length)
    for t in range(length):
        last = next((s for s in range(t, length) if done[s]), length - 1)
        returns, total = [], 0.0
        for s in range(t, last + 1):
            total += gamma ** (s - t) * reward[s]
            bootstrap = 0.0 if terminated[s] else next_value[s]
            returns.append(total + gamma ** (s - t + 1) * bootstrap)
        weights = [(1 - lam) * lam**i for i in range(len(returns) - 1)] + [lam ** (len(returns) - 1)]
        out[t] = np.dot(weights, returns) - value[t]
    return out


def rollouts(seed, length, ends, cut):
    """Random steps; where no episode ends, the next value is the value of the next step."""
    rng = np.random.default_rng(seed)
    reward, value, other = rng.normal(size=(3, length, 2))
    terminated = rng.random((length, 2)) < ends
    done = terminated | (rng.random((length, 2)) < cut)
    next_value = np.where(done, other, np.vstack([value[1:], other[-1:]]))
    return reward, value, next_value, terminated, done


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    length=st.sampled_from([1, 2, 13]),
    ends=st.sampled_from([0.0, 0.2, 1.0]),
    cut=st.sampled_from([0.0, 0.3]),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    lam=st.sampled_from([0.0, 0.95, 1.0]),
)
def test_gae_is_the_lambda_return_minus_the_value(seed, length, ends, cut, gamma, lam):
    data = rollouts(seed, length, ends, cut)
    fast = gae(*map(jnp.asarray, data), gamma, lam)
    slow = np.stack([slow_gae(*(x[:, e] for x in data), gamma, lam) for e in range(2)], 1)
    np.testing.assert_allclose(fast, slow, atol=2e-5)


def test_terminated_has_no_future_and_truncated_has_the_value_before_the_reset():
    reward, value, next_value = jnp.array([1.0]), jnp.array([0.5]), jnp.array([10.0])
    yes, no = jnp.array([True]), jnp.array([False])
    assert gae(reward, value, next_value, yes, yes, 0.9, 0.95) == 0.5
    assert gae(reward, value, next_value, no, yes, 0.9, 0.95) == 9.5
    assert gae(reward, value, next_value, no, no, 0.9, 0.95) == 9.5  # the window ends here


def test_nothing_flows_back_across_the_end_of_an_episode():
    reward, value, next_value, _, _ = (jnp.asarray(x[:, 0]) for x in rollouts(0, 9, 0.0, 0.0))
    no = jnp.zeros(9, bool)
    for terminated in (no, no.at[4].set(True)):
        influence = jax.jacobian(
            lambda r, ends=terminated: gae(r, value, next_value, ends, no.at[4].set(True), 0.9, 0.8)
        )(reward)
        np.testing.assert_array_equal(influence[:5, 5:], 0.0)
        np.testing.assert_allclose(influence[0, :5], 0.72 ** np.arange(5), rtol=1e-5)
