"""Work for which memory does not suffice is done in smaller parts, and comes to the same."""

import importlib

import jax
import numpy as np
import pytest

from envs.points import points
from pgx_jax.estimate import features
from pgx_jax.learn.rollout import Pairs
from pgx_jax.shortage import in_parts_that_fit
from pgx_jax.types import Transitions

device = importlib.import_module("pgx_jax.learn.device")
SHORT = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")


def scarce(function, size_of, most, error=SHORT):
    """The function, with memory for so many parts alone."""

    def limited(*args, **kw):
        if size_of(*args, **kw) > most:
            raise error
        return function(*args, **kw)

    return limited


def test_parts_are_halved_until_they_fit_and_it_is_told():
    tried = []

    def call(size):
        tried.append(size)
        return scarce(lambda size: size, int, 3)(size)

    with pytest.warns(UserWarning, match="does not suffice for 13 rows at a time: going on with 6"):
        assert in_parts_that_fit(call, 13, "rows") == 3 and tried == [13, 6, 3]


@pytest.mark.parametrize("error", [SHORT, jax.errors.JaxRuntimeError("INTERNAL: broken"), ValueError("bad")])
def test_what_smaller_parts_do_not_mend_is_raised(error):
    with pytest.raises(type(error), match=str(error)):
        in_parts_that_fit(scarce(lambda size: size, int, 0, error), 1, "rows")


def test_features(monkeypatch):
    """How many transitions are worked on at a time does not change them (`test_features.py`)."""
    data = Transitions(np.ones((2, 40, 3)), np.ones((2, 40), int), *[np.zeros((2, 40))] * 3, np.arange(2))
    used = []

    def made(log_prob, params, obs, action, key, dim, block, sizes, *others):
        used.append(sizes)
        return np.ones((len(action), dim))

    monkeypatch.setattr(features, "_features", scarce(made, lambda *args: args[7].chunk, 130))
    monkeypatch.setattr(features, "_log_probs", lambda *args: np.zeros(80))
    with pytest.warns(UserWarning, match="512 transitions' gradients at a time: going on with 256"):
        features.gradient_features(lambda p, s, a: s @ p, np.ones(3), data, jax.random.PRNGKey(0), 8)
    whole = features.default_sizes()
    wanted = [whole.chunk // 4, whole.piece, whole.memory // 4, whole.whole // 4]
    assert [list(sizes) for sizes in used] == [wanted]


def test_pairs_of_policies_and_tasks():
    family = points(n_tasks=4, n_groups=2, horizon=6)
    pairs = Pairs(np.arange(40) % 3, np.arange(40) % 4, jax.random.PRNGKey(0))

    def program(agents, tasks, context, key, index):
        return agents + 10 * index

    most = scarce(program, lambda *args: len(args[-1]), 8)
    with pytest.warns(UserWarning, match="16 pairs of a policy and a task at a time: going on with 8"):
        found = device._over_pairs(most, family, np.arange(3), pairs)
    np.testing.assert_array_equal(found, np.arange(40) % 3 + 10 * (np.arange(40) % 4))
