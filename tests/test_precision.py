"""The projection's precision: its names, what the platform lacks, and that it reaches the products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgx_jax import Config, ConfigError, EstimateConfig
from pgx_jax.config import check_method
from pgx_jax.estimate import PRECISIONS, gradient_features
from pgx_jax.estimate.precision import check_precision, product
from pgx_jax.types import Transitions

on_a_processor = pytest.mark.skipif(jax.default_backend() != "cpu", reason="about processors")


def test_unknown_precisions_are_refused_before_any_work():
    with pytest.raises(
        ConfigError, match="estimate.precision = 'half'; choose one of 'float32', 'bf16x3', 't"
    ):
        check_method(Config(estimate=EstimateConfig(precision="half")), 10)
    obs, action = np.ones((1, 4, 2), np.float32), np.zeros((1, 4), int)
    logged = Transitions(obs, action, obs[..., 0], action, action.astype(np.int8), np.arange(1))
    with pytest.raises(ConfigError, match="estimate.precision"):
        gradient_features(None, np.ones(2), logged, jax.random.PRNGKey(0), precision="half")


@on_a_processor
@pytest.mark.parametrize("name", PRECISIONS)
def test_a_processor_multiplies_in_float32(name):
    a, b = (jax.random.normal(jax.random.PRNGKey(i), shape) for i, shape in enumerate([(8, 500), (500, 3)]))
    check_precision(name)
    np.testing.assert_array_equal(product(a, b, name), product(a, b, "float32"))
    np.testing.assert_allclose(product(a, b, name), np.float64(a) @ np.float64(b), rtol=1e-4, atol=1e-4)


@on_a_processor
def test_elsewhere_the_products_have_the_precision_or_it_is_refused(monkeypatch):
    """On a platform that is a processor underneath, which has no tf32."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    one = jnp.ones((2, 2))
    for name in ("float32", "bf16x3"):
        check_precision(name)
        (equation,) = [
            e for e in jax.make_jaxpr(lambda x, name=name: product(x, x, name))(one).eqns
            if e.primitive.name == "dot_general"
        ]  # fmt: skip
        wanted = PRECISIONS[name]
        assert equation.params["precision"] in (wanted, (wanted, wanted))
    with pytest.raises(ConfigError, match="'tf32' is none of tpu's .*use 'float32'"):
        check_precision("tf32")
