"""Orders of a batch: permutations, that mix as independent ones would."""

import jax
import numpy as np
import pytest

from pgx_jax.learn.shuffling import multipliers, orders


@pytest.mark.parametrize(
    ("size", "epochs"), [(1, 1), (2, 4), (3, 2), (97, 3), (240, 4), (1024, 1), (2999, 2)]
)
def test_every_epoch_sees_everything_once(size, epochs):
    keys = jax.random.split(jax.random.PRNGKey(size), 50)
    found = np.asarray(jax.jit(jax.vmap(lambda key: orders(key, size, epochs)))(keys))
    assert found.shape == (50, epochs, size)
    assert (np.sort(found, axis=-1) == np.arange(size)).all()


@pytest.mark.parametrize("size", [1, 2, 97, 5120, 65_536, 131_072, 2**20 + 7, 2**27])
def test_multipliers_have_no_common_divisor_and_do_not_overflow(size):
    found = multipliers(size).astype(object)
    assert len(found) and all(np.gcd(int(a), size) == 1 for a in found[:1000])
    assert max(found) * (size - 1) + size - 1 < 2**32


def test_large_batches_are_permuted_too():
    found = np.asarray(jax.jit(lambda key: orders(key, 200_003, 2))(jax.random.PRNGKey(0)))
    assert (np.sort(found, axis=1) == np.arange(200_003)).all() and (found[0] != found[1]).mean() > 0.99


def test_places_are_uniform_and_epochs_share_minibatches_by_chance():
    """Over keys, against a sort an epoch: where a transition stands, and who is in its minibatch."""
    size, parts, draws = 240, 4, 1500
    keys = jax.random.split(jax.random.PRNGKey(1), draws)
    found = np.asarray(jax.jit(jax.vmap(lambda key: orders(key, size, 2)))(keys))
    part = np.argsort(found, axis=-1) // (size // parts)  # [draws, epochs, size]: minibatch of each
    share = np.stack([(part == i).mean(0) for i in range(parts)])
    assert abs(share - 1 / parts).max() < 5 * np.sqrt(0.25 * 0.75 / draws)
    together = part[:, :, :20, None] == part[:, :, None, 20:40]  # pairs of different transitions
    wanted = (size / parts - 1) / (size - 1)
    error = np.sqrt(wanted / draws)
    assert abs(together.mean((0, 1)) - wanted).max() < 5 * error
    both = (together[:, 0] & together[:, 1]).mean()
    assert both == pytest.approx(wanted**2, rel=0.1)
