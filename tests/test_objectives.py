"""Vector rewards: tasks that are weightings of one, relabelled from one source."""

import dataclasses

import numpy as np
import pytest
from probes import table, tabular_family

from pgx_jax.errors import ConfigError

FAMILY = tabular_family([table(), table()], names=("first", "second"))


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        ([[1.0, 0.0]], "weights \\[n, K\\].*shape \\(1, 2\\)"),
        ([1.0, 0.0], "shape \\(2,\\)"),
        (np.ones((2, 0)), "shape \\(2, 0\\)"),
        ([[1.0], [1.0, 2.0]], "n = 2"),
        ([[1.0, 0.0], [np.nan, 1.0]], "'second' has weights that are not finite"),
        ([[0.0, 0.0], [1.0, 1.0]], "'first' has no weight but 0"),
    ],
)
def test_weights_that_cannot_be(weights, what):
    with pytest.raises(ConfigError, match=what):
        dataclasses.replace(FAMILY, objectives=weights)


def test_weights_are_kept_as_numbers():
    family = dataclasses.replace(FAMILY, objectives=[[1, 0], [0, -1]])
    assert family.objectives.dtype == np.float32 and family.objectives.shape == (2, 2)
    assert FAMILY.objectives is None
