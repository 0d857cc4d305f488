"""Running moments against NumPy in double precision."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax.learn.moments import initial_moments, normalise, update_moments
from pgx_jax.types import Moments

PRIOR = float(initial_moments(()).count)


def stream(moments, chunks):
    for x in chunks:
        moments = update_moments(moments, x.mean(0), x.var(0), jnp.float32(len(x)))
    return moments


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    offset=st.sampled_from([0.0, -3.0, 200.0]),
    scale=st.sampled_from([1e-2, 1.0, 50.0]),
)
def test_a_stream_in_chunks_has_the_moments_of_the_whole(seed, sizes, offset, scale):
    x = np.random.default_rng(seed).normal(offset, scale, (sum(sizes), 3)).astype(np.float32)
    found = stream(initial_moments((3,)), np.split(x, np.cumsum(sizes)[:-1]))
    x = x.astype(np.float64)
    total = len(x) + PRIOR  # the prior is a little of mean 0 and variance 1
    mean = x.sum(0) / total
    var = (PRIOR + (x**2).sum(0)) / total - mean**2
    np.testing.assert_allclose(found.count, total, rtol=1e-6)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(found.var, var, rtol=2e-3, atol=1e-6)


def test_the_prior_is_forgotten():
    x = np.random.default_rng(0).normal(5.0, 2.0, (500, 2))
    found = stream(initial_moments((2,)), [x])
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.var, x.var(0), rtol=1e-4)


def test_entries_without_values_stay_as_they_are():
    before = Moments(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]), jnp.array([10.0, 20.0]))
    count = jnp.array([0.0, 5.0])
    after = update_moments(before, jnp.array([99.0, 2.0]), jnp.array([99.0, 4.0]), count)
    np.testing.assert_allclose(after.mean, [1.0, 2.0])
    np.testing.assert_allclose(after.var, [3.0, 4.0])
    np.testing.assert_allclose(after.count, [10.0, 25.0])


def test_normalise():
    moments = Moments(jnp.array([2.0, 0.0]), jnp.array([4.0, 0.0]), jnp.array(1.0))
    found = normalise(moments, jnp.array([[6.0, 0.0], [-200.0, 1.0]]))
    np.testing.assert_allclose(found, [[2.0, 0.0], [-10.0, 10.0]], rtol=1e-6)
