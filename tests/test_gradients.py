"""Gradients that wait: what is held, and that they are those of jax.grad when they are made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgx_jax.estimate.gradients import gradients, held_entries

WIDTH = 30
OBS = np.random.default_rng(0).normal(size=(6, WIDTH)).astype(np.float32)
ACTION = np.stack([np.zeros(6, int), np.arange(6) % 3], 1)
KERNEL = np.random.default_rng(1).normal(size=(WIDTH, WIDTH)).astype(np.float32) / 5


def dense(kernels, obs, action):
    for kernel in kernels:
        obs = jnp.tanh(obs @ kernel)
    return obs[action[1]]


def compiled_layers(kernels, obs, action):
    layer = jax.jit(lambda x, kernel: jnp.tanh(x @ kernel))
    for kernel in kernels:
        obs = layer(obs, kernel)
    return obs[action[1]]


def shared(kernel, obs, action):
    return jnp.tanh(jnp.tanh(obs @ kernel) @ kernel)[action[1]]


def mixed(kernels, obs, action):
    """Kernels that are weighed by what the layer is told: products of three factors."""
    return jnp.tanh(jnp.einsum("k,kio,i->o", jax.nn.softmax(obs[:4]), kernels, obs))[action[1]]


def masked(kernel, obs, action):
    return jnp.tanh(obs @ (kernel * np.tri(WIDTH, dtype=np.float32)))[action[1]]


def scanned(kernels, obs, action):
    return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), obs, kernels)[0][action[1]]


FACTORS = {
    "dense": (dense, [KERNEL, KERNEL], 4 * WIDTH),
    "compiled layers": (compiled_layers, [KERNEL, KERNEL], 4 * WIDTH),
    "shared": (shared, KERNEL, 4 * WIDTH),
    "mixed": (mixed, np.stack([KERNEL] * 4), 2 * WIDTH + 4),
    "masked": (masked, KERNEL, 2 * WIDTH),
    "scanned": (scanned, np.stack([KERNEL] * 2), 2 * WIDTH**2),
}
"""log_prob, parameters, and how many numbers a transition needs: a scan's are held as they are."""


@pytest.mark.parametrize("name", FACTORS)
def test_factors_of_outer_products_are_held_and_nothing_else(name):
    log_prob, params, factors = FACTORS[name]
    assert held_entries(log_prob, params, OBS, ACTION) == factors


@pytest.mark.parametrize("name", FACTORS)
def test_gradients_made_in_a_loop_are_those_of_each_transition(name):
    log_prob, params, _ = FACTORS[name]

    @jax.jit
    def made(params, obs, action):
        found = gradients(log_prob, params, obs, action)
        return jax.lax.map(lambda turn: [gradient.at(turn) for gradient in found], jnp.arange(2))

    one_by_one = [jax.grad(log_prob)(params, *each) for each in zip(OBS, ACTION, strict=True)]
    expected = jax.tree.leaves(jax.tree.map(lambda *x: jnp.stack(x), *one_by_one))
    for got, wanted in zip(made(params, OBS, ACTION), expected, strict=True):
        for turn in got:
            np.testing.assert_allclose(turn, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("dense", 1),
        ("compiled layers", 1),
        ("shared", 2),
        ("mixed", None),
        ("masked", None),
        ("scanned", None),
    ],
)
def test_pairs_of_outer_products_are_told(name, pairs):
    log_prob, params, _ = FACTORS[name]

    def of_pairs(*batch):
        found = gradients(log_prob, *batch)
        assert all(pairs == (gradient.factors and len(gradient.factors)) for gradient in found)
        return [sum(jnp.einsum("ca,cb->cab", *p) for p in gradient.factors or ()) for gradient in found]

    if pairs is None:
        assert all(isinstance(total, int) for total in of_pairs(params, OBS, ACTION))
        return
    expected = jax.vmap(jax.grad(log_prob), (None, 0, 0))(params, OBS, ACTION)
    for total, own in zip(jax.jit(of_pairs)(params, OBS, ACTION), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(total, own, rtol=1e-4, atol=1e-6)
