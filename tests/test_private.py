"""Parameters that one task's context alone can reach: which they are, and that features and lifts leave them
out."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from small import slow_but, small, told

from envs.points import points
from pgx_jax import PolicyConfig, load, make_family, pipeline, run
from pgx_jax.errors import ConfigError
from pgx_jax.estimate import (
    fit,
    gaussian,
    gradient_features,
    lift_dual,
    lift_projection,
    private_parameters,
    signed_weights,
)
from pgx_jax.estimate.private import _known, _marks, _unknown
from pgx_jax.learn import make_policy
from pgx_jax.types import Seen, Transitions

KEY = jax.random.PRNGKey(3)
ONE_HOT = np.eye(3, dtype=np.float32)
FAMILIES = {
    "continuous": points(n_tasks=3, n_groups=3, horizon=6),
    "discrete": make_family("cartpole-goals", n_tasks=3),
}
OPTIONS = {
    "mlp": {},
    "multi_head": {},
    "soft_modularization": {"layers": 3, "width": 4},
    "paco": {"sets": 2},
    "care": {"encoders": 3, "encoding": 4},
    "moore": {"experts": 3},
}
OWN = {
    "mlp": {"MLP_0/Dense_0/kernel": [4, 5, 6]},
    "multi_head": {"body/heads/kernel": [0, 1, 2], "body/heads/bias": [0, 1, 2]},
    "soft_modularization": {"body/h/kernel": [0, 1, 2]},
    "paco": {"body/w/kernel": [0, 1, 2]},
    "care": {"body/embedding/kernel": [0, 1, 2]},
    "moore": {"body/heads/kernel": [0, 1, 2], "body/heads/bias": [0, 1, 2], "body/w/kernel": [0, 1, 2]},
}
"""Rows of the leaves that are a task's own if contexts are one-hot."""
DEVIATION = {"log_std": [0, 1, 2]}


def seen_on(contexts, action, *, size=4, source=None):
    """Transitions of random observations, with one context a source; actions [U, N, ...]."""
    sources, count = action.shape[:2]
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(sources, count, size)).astype(np.float32)
    contexts = np.broadcast_to(contexts[:, None], (sources, count, contexts.shape[-1]))
    source = np.arange(sources) if source is None else np.asarray(source)
    trajectory = np.broadcast_to(np.arange(count) // 3, (sources, count))
    advantage = rng.normal(size=(len(source), count)).astype(np.float32)
    return Transitions(
        Seen(obs, contexts), action, advantage, trajectory, (trajectory % 3).astype(np.int8), source
    )


def experienced(name, kind, contexts=ONE_HOT, count=18, **options):
    """A policy that is told its task, its actor's parameters (all drawn), and what it experienced."""
    own = {"own_deviation": kind == "continuous"}
    policy = make_policy(
        FAMILIES[kind], network=name, options=OPTIONS[name] | {"hidden": (6, 5)} | own | options,
        conditioned_actor=True,
    )  # fmt: skip
    rng, shape = np.random.default_rng(1), (len(contexts), count)
    drawn = lambda x: np.float32(x + 0.5 * rng.normal(size=x.shape))  # noqa: E731
    params = jax.tree.map(drawn, jax.jit(policy.init, static_argnums=1)(KEY, (4,), contexts).actor)
    action = rng.normal(size=(*shape, 2)) if kind == "continuous" else rng.integers(0, 2, shape)
    action = action.astype(np.float32 if kind == "continuous" else np.int32)
    return policy, params, seen_on(contexts, action)


def rows_of(private, params):
    """Of every leaf that has any, the rows that are private; no row is so in part."""
    found, start = {}, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["params"]):
        rows = private[start : start + leaf.size].reshape(len(leaf), -1)
        start += leaf.size
        assert (rows.all(1) == rows.any(1)).all()
        if rows.any():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found[name] = np.flatnonzero(rows.all(1)).tolist()
    assert start == len(private)
    return found


def per_sample(log_prob, params, data):
    """Gradients [U, N, p] by jax.grad, transition by transition."""
    of_one = lambda obs, action: ravel_pytree(jax.grad(log_prob)(params, obs, action))[0]  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(jax.vmap(of_one)))(data.obs, data.action))


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "continuous") for name in OWN), ("multi_head", "discrete")]
)
def test_what_is_private_of_every_architecture(name, kind):
    policy, params, data = experienced(name, kind)
    private = private_parameters(policy.log_prob, params, data)
    assert rows_of(private, params) == OWN[name] | (DEVIATION if kind == "continuous" else {})


@pytest.mark.parametrize("name", slow_but(OWN, "mlp", "multi_head", "paco"))
def test_other_contexts_leave_nothing_out(name):
    contexts = np.random.default_rng(2).normal(size=(3, 3)).astype(np.float32)
    policy, params, data = experienced(name, "continuous", contexts)
    assert private_parameters(policy.log_prob, params, data) is None


def test_an_entry_of_the_context_that_one_task_alone_has():
    contexts = np.float32([[0.5, 0, 1], [0.2, 0, 1], [0.1, 3, 1]])
    policy, params, data = experienced("mlp", "discrete", contexts)
    assert rows_of(private_parameters(policy.log_prob, params, data), params) == {"MLP_0/Dense_0/kernel": [5]}


def test_for_some_of_the_tasks_the_rows_of_the_others_are_left_out_too():
    policy, params, data = experienced("paco", "discrete", ONE_HOT[[2, 0]])
    assert rows_of(private_parameters(policy.log_prob, params, data), params) == OWN["paco"]


def test_what_two_tasks_share_is_not_private():
    policy, params, data = experienced("multi_head", "discrete", ONE_HOT[[0, 1, 1]])
    once = {"body/heads/kernel": [0, 2], "body/heads/bias": [0, 2]}
    assert rows_of(private_parameters(policy.log_prob, params, data), params) == once
    two_of_a_source = data._replace(
        obs=jax.tree.map(lambda x: x[:2], data.obs), action=data.action[:2], source=np.array([0, 1, 1])
    )
    assert rows_of(private_parameters(policy.log_prob, params, two_of_a_source), params) == once


@pytest.mark.parametrize("name", slow_but(["multi_head", "soft_modularization"], "multi_head"))
def test_units_that_are_off_are_not_private(name):
    """Layers of rectified units that are on for no task, and observations that are zero on all but one."""
    policy, params, data = experienced(name, "discrete", activation="relu")
    expected = private_parameters(policy.log_prob, params, data)
    biases = lambda x: -100 * np.ones_like(x) if x.ndim == 1 else x  # noqa: E731
    off = jax.tree.map(biases, params)
    first = data._replace(obs=data.obs._replace(obs=data.obs.obs * np.float32([1, 0, 0])[:, None, None]))
    for drawn, seen in ((off, data), (params, first)):
        gradients = per_sample(policy.log_prob, drawn, seen)
        assert ((gradients != 0).any(1).sum(0)[~expected] < 2).any()  # by chance
        np.testing.assert_array_equal(private_parameters(policy.log_prob, drawn, seen), expected)
    assert rows_of(expected, params) == OWN[name]


def test_blind_policies_and_single_tasks_have_nothing_private():
    policy, params, data = experienced("mlp", "discrete")
    one = jax.tree.map(lambda x: x[:1], data)
    assert private_parameters(policy.log_prob, params, one) is None
    other = np.array(data.obs.context)
    other[0, 3] = 1
    varying = data._replace(obs=data.obs._replace(context=other))
    assert private_parameters(policy.log_prob, params, varying) is None
    blind = make_policy(FAMILIES["discrete"], hidden=(6, 5))
    actor = jax.jit(blind.init, static_argnums=1)(KEY, (4,), ONE_HOT).actor
    plain = data._replace(obs=data.obs.obs)
    assert private_parameters(blind.log_prob, actor, plain) is None


class Own(nn.Module):
    """An actor of one's own: what it adds to a layer that all tasks share."""

    kind: str

    @nn.compact
    def __call__(self, obs, context):
        shared = nn.Dense(2, name="shared")(obs)
        return shared + getattr(self, self.kind)(obs, context)

    def table(self, obs, context):
        """By the number of the task."""
        return self.param("own", nn.initializers.normal(), (3, 2))[jnp.argmax(context)]

    def masked(self, obs, context):
        own = nn.gelu(nn.Dense(6, name="own", use_bias=False)(context)).reshape(3, 2)
        return jnp.where(context[:, None] > 0, own, 0).sum(0)

    def columns(self, obs, context):
        return self.param("own", nn.initializers.normal(), (2, 3)) @ context

    @nn.nowrap
    def _scanned(self, table, context):
        return jax.lax.scan(lambda total, x: (total + x[0] * x[1], None), jnp.zeros(2), (context, table))[0]

    def looped(self, obs, context):
        return self._scanned(self.param("own", nn.initializers.normal(), (3, 2)), context)

    def again(self, obs, context):
        layer = jax.checkpoint(lambda kernel, x: jax.nn.relu(x @ kernel))
        return layer(self.param("own", nn.initializers.normal(), (3, 2)), context)

    def planes(self, obs, context):
        """The context as channels of an image, between convolutions."""
        image = jnp.broadcast_to(jnp.concatenate([obs, context]), (5, 5, 7))
        return nn.Conv(2, (3, 3), name="own")(jnp.pad(image, ((1, 1), (1, 1), (0, 0)))).max((0, 1))


EVERY_ROW = np.ones((3, 2), bool)
OF_OWN = {
    "table": EVERY_ROW, "columns": EVERY_ROW.T, "again": EVERY_ROW, "looped": None, "masked": np.ones((3, 6)),
    "planes": np.broadcast_to((np.arange(7) > 3)[:, None], (3, 3, 7, 2)),
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_OWN)
def test_networks_of_ones_own(kind):
    policy = make_policy(FAMILIES["discrete"], actor=Own(kind), conditioned_actor=True)
    params = jax.jit(policy.init, static_argnums=1)(KEY, (4,), ONE_HOT).actor
    data = seen_on(ONE_HOT, np.random.default_rng(0).integers(0, 2, (3, 9)))
    private = private_parameters(policy.log_prob, params, data)
    expected = jax.tree.map(lambda x: np.zeros(x.shape, bool), params)
    own = expected["params"].get("own")
    if OF_OWN[kind] is None:
        assert private is None
        return
    if isinstance(own, dict):
        own["kernel"] = OF_OWN[kind]
    else:
        expected["params"]["own"] = OF_OWN[kind]
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(expected)])
    np.testing.assert_array_equal(private, flat)
    assert (per_sample(policy.log_prob, params, data) != 0).any(1)[:, flat > 0].sum(0).max() == 1


TOLD = {
    "product": lambda x, c: x * c,
    "sums": lambda x, c: x * c + (x * c)[::-1] - 2 * x * c,
    "quotient": lambda x, c: c * x / (x + 4),
    "powers": lambda x, c: (c * x) ** 2 + (c * x) ** 3,
    "functions": lambda x, c: jnp.tanh(c * x) + jnp.abs(jnp.expm1(c * x)),
    "outer": lambda x, c: jnp.outer(x, c),
    "layout": lambda x, c: jnp.pad(jnp.concatenate([x * c, x]).reshape(2, 4).T, 1),
    "running": lambda x, c: jnp.cumsum(c * x),
    "largest": lambda x, c: jnp.outer(c, x).max(1) + jnp.minimum(c * x, 0),
    "chosen": lambda x, c: jnp.where(c > 0, x, 0),
    "chosen by others": lambda x, c: jnp.where(x > 0, c * x, x * c * 2),
    "taken": lambda x, c: (x * c)[jnp.array([3, 1, 1])] * x[jnp.argmax(c)],
    "put": lambda x, c: jnp.zeros(4).at[jnp.argmax(c)].add(x[0]),
    "sliced": lambda x, c: jax.lax.dynamic_slice(c * x, (jnp.argmax(c),), (2,)),
}
"""Programs of which it is told what is zero, whatever x is."""
UNTOLD = {
    "others": lambda x, c: jnp.exp(c * x) - 1,
    "bounds": lambda x, c: jnp.clip(c * x, 0.5, 2),
    "ones": lambda x, c: jnp.where(x > 0, c * x, 1),
    "put by others": lambda x, c: jnp.zeros(4).at[jnp.argmax(x)].add(c[1]),
    "taken by others": lambda x, c: (c * x)[jnp.argmax(x)],
    "sorted": lambda x, c: jnp.sort(c * x),
    "loop": lambda x, c: jax.lax.fori_loop(0, 3, lambda i, y: y + x[::-1], c * x),
    "branch": lambda x, c: jax.lax.cond(x[0] > 0, lambda: c * x, lambda: x),
    "numbers": lambda x, c: jnp.round(c * x).astype(int).astype(float),
    "compared": lambda x, c: (c * x >= 0) * 1.0,
}
"""Others, of which it may be told of less."""


@pytest.mark.parametrize("name", TOLD | UNTOLD)
def test_what_is_zero_whatever_the_unknown_is(name):
    function, context = (TOLD | UNTOLD)[name], jnp.array([0.0, 2.0, 0.0, 0.0])
    program = jax.make_jaxpr(function)(jnp.ones(4), context)
    unknown, known = _unknown(program.jaxpr.invars[0].aval), _known(context)
    (found,) = _marks(program, [unknown, known])
    drawn = jax.jit(jax.vmap(function, (0, None)))(jax.random.normal(KEY, (200, 4)), context)
    assert not drawn[:, found.mark == 0].any()
    assert name != "numbers" or found.mark.all()  # whole numbers may be anything
    if name in TOLD:
        np.testing.assert_array_equal(found.mark, (drawn != 0).any(0))
        assert (found.mark == 0).any()


def test_nothing_is_told_where_no_parameter_is_shared():
    log_prob = lambda table, seen, action: jax.nn.log_softmax(seen.context @ table)[action]  # noqa: E731
    data = seen_on(ONE_HOT, np.zeros((3, 9), int))
    with pytest.raises(ConfigError, match="every parameter .* a single task's own"):
        private_parameters(log_prob, np.ones((3, 2), np.float32), data)


@pytest.mark.parametrize("name", slow_but(OWN, "mlp", "multi_head", "moore"))
def test_features_are_those_of_gradients_without_what_is_private(name):
    policy, params, data = experienced(name, "continuous")
    private = private_parameters(policy.log_prob, params, data)
    found = gradient_features(policy.log_prob, params, data, KEY, 20, private=private)
    gradients = per_sample(policy.log_prob, params, data)
    assert ((gradients != 0).any(1).sum(0)[private] == 1).all()
    expected = np.where(private, 0, gradients).astype(float) @ np.asarray(gaussian(KEY, len(private), 20))
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(found.private, private)


@pytest.mark.parametrize(("chunk", "block"), [(7, 1), (11, 3000), (10**9, 2048)])
def test_pieces_and_blocks_of_what_is_not_private(chunk, block):
    policy, params, data = experienced("multi_head", "continuous", hidden=(70, 70))
    private = private_parameters(policy.log_prob, params, data)
    rest = {"private": private, "chunk": chunk, "block": block}
    found = gradient_features(policy.log_prob, params, data, KEY, 10, **rest).values
    gradients = np.where(private, 0, per_sample(policy.log_prob, params, data)).astype(float)
    expected = gradients @ np.asarray(gaussian(KEY, len(private), 10))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_the_features_of_the_pipeline(small_settings):
    """Of a policy that is told its task without what is private, of a blind one as ever."""
    config = dataclasses.replace(small_settings[1], seed=1)
    policy, params, data = experienced("moore", "continuous")
    found = pipeline.features(policy.log_prob, params, data, config)
    np.testing.assert_array_equal(found.private, private_parameters(policy.log_prob, params, data))
    blind = make_policy(FAMILIES["continuous"], hidden=(6, 5))
    actor = jax.jit(blind.init, static_argnums=1)(KEY, (4,), ONE_HOT).actor
    plain = data._replace(obs=data.obs.obs)
    found = pipeline.features(blind.log_prob, actor, plain, config)
    expected = gradient_features(blind.log_prob, actor, plain, config.stream("project"), 48)
    assert found.private is None
    np.testing.assert_array_equal(found.values, expected.values)


def test_lifts_leave_what_is_private_where_it_was():
    policy, params, data = experienced("paco", "continuous", count=30)
    private = private_parameters(policy.log_prob, params, data)
    member = np.array([[1, 1, 0], [0, 1, 1]], bool)
    lifted = {}
    for left_out in (private, None):
        feats = gradient_features(policy.log_prob, params, data, KEY, 25, private=left_out)
        solved = fit(feats, data, member, l2=0.3)
        known = (data, signed_weights(data), solved, feats)
        lifts = lift_dual(policy.log_prob, params, *known), lift_projection(feats, solved.delta, params)
        lifted[left_out is None] = [np.asarray(jax.vmap(lambda x: ravel_pytree(x)[0])(x)) for x in lifts]
        if left_out is None:
            continue
        for moved in lifted[False]:
            assert moved.shape == (2, len(private)) and not moved[:, private].any()
            assert np.abs(moved[:, ~private]).min() > 0
        dense = gaussian(KEY, len(private), 25)
        back = lifted[False][0] @ np.asarray(dense)
        np.testing.assert_allclose(back, solved.delta, atol=3e-3 * np.abs(solved.delta).max())
    assert all((moved[:, private] != 0).any() for moved in lifted[True])


def test_a_run_that_is_told_its_task_says_what_it_left_out(small_settings, tmp_path):
    policy = PolicyConfig(network="multi_head", hidden=(8, 8))
    settings = small(small_settings, policy=policy, steps_per_task=2700, looks=1, test_tasks=0)
    found = run(*settings, out=tmp_path / "told")
    assert told(found)["diagnostics"]["private_parameters"] == 6 * (8 * 2 + 2)
    saved = load(found.store.path).features
    np.testing.assert_array_equal(saved.private, found.features.private)
    assert np.isfinite(saved.values).all() and saved.private.sum() == 6 * (8 * 2 + 2)
