"""Networks that need the task: what defines each, beside a slow forward pass, and how a policy is told."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from small import small

from envs.points import points
from pgx_jax import PPO, Run, make_family
from pgx_jax.errors import ConfigError
from pgx_jax.learn import (
    NETWORKS,
    Policy,
    PolicyConfig,
    can_be_told,
    check_networks,
    explore_afresh,
    init_agents,
    make_policy,
    policies_by_name,
    take,
    tell,
    train,
)
from pgx_jax.learn.networks.moore import gram_schmidt
from pgx_jax.types import Rows, Seen

KEY = jax.random.PRNGKey(0)
FAMILY = points(n_tasks=3, n_groups=3, horizon=6)
DISCRETE = make_family("cartpole-goals", n_tasks=3)
OBS, ONE_HOT = jax.random.normal(KEY, (4,)), np.eye(3, dtype=np.float32)
SIZES = {
    "multi_head": {"hidden": (6, 5)},
    "soft_modularization": {"hidden": (6, 5), "layers": 3, "modules": 2, "width": 4},
    "paco": {"hidden": (6, 5), "sets": 2},
    "care": {"hidden": (6, 5), "encoders": 3, "encoding": 4},
    "moore": {"hidden": (6, 5), "experts": 3},
}


def body(name, **options):
    """The network [2 outputs] of small sizes, with parameters that are all drawn (biases too)."""
    network = NETWORKS[name](**(SIZES[name] | options)).body(2, 1.0)
    params = jax.jit(network.init)(KEY, OBS, ONE_HOT[0])["params"]
    rng = np.random.default_rng(0)
    return network, jax.tree.map(lambda x: np.float32(x + 0.5 * rng.normal(size=x.shape)), plain(params))


def plain(params):
    """Parameters as NumPy arrays in double precision."""
    return jax.tree.map(lambda x: np.asarray(x, float), params)


def linear(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def one_of(layer, k, x):
    """Layer k of several side by side."""
    return x @ layer["kernel"][k] + layer["bias"][k]


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def slow_multi_head(p, s, task):
    for i in range(2):
        s = np.tanh(linear(p[f"Dense_{i}"], s))
    return one_of(p["heads"], task, s)


def slow_paco(p, s, task):
    """theta = Phi w first, then a plain perceptron."""
    w = p["w"]["kernel"][task]
    for i in range(3):
        phi = p[f"phi_{i}"]
        theta = {name: sum(w[k] * phi[name][k] for k in range(len(w))) for name in ("kernel", "bias")}
        s = linear(theta, s)
        s = np.tanh(s) if i < 2 else s
    return s


def slow_care(p, s, task):
    encodings = [one_of(p["encoder_1"], k, np.tanh(one_of(p["encoder_0"], k, s))) for k in range(3)]
    z = np.tanh(p["embedding"]["kernel"][task])
    z = linear(p["context_1"], np.tanh(linear(p["context_0"], z)))
    alpha = softmax(linear(p["attention_1"], np.tanh(linear(p["attention_0"], z))))
    s = np.concatenate([sum(a * e for a, e in zip(alpha, encodings, strict=True)), z])
    for i in range(2):
        s = np.tanh(linear(p[f"Dense_{i}"], s))
    return linear(p["last"], s)


def slow_moore(p, s, task):
    basis = []
    for k in range(3):
        v = one_of(p["experts_1"], k, np.tanh(one_of(p["experts_0"], k, s)))
        for u in basis:
            v = v - (u @ v) * u
        basis.append(v / np.linalg.norm(v))
    w = p["w"]["kernel"][task]
    return one_of(p["heads"], task, np.tanh(sum(w[k] * basis[k] for k in range(3))))


def slow_soft_modularization(p, s, task):
    f = linear(p["f"], np.tanh(linear(p["Dense_0"], s)))
    embedding = f * p["h"]["kernel"][task]
    outputs, earlier = [np.tanh(f)] * 2, []
    for layer in (1, 2, 3):
        outputs = [one_of(p[f"modules_{layer}"], j, g) for j, g in enumerate(outputs)]
        routed = embedding if layer == 1 else embedding * linear(p[f"W_u_{layer}"], np.array(earlier))
        logits = linear(p[f"W_d_{layer}"], np.maximum(routed, 0)).reshape(-1, 2)
        following = []
        for into in logits:  # one of the next layer's modules, or the output
            shares = softmax(into)
            earlier += [*shares]
            following.append(np.tanh(shares[0] * outputs[0] + shares[1] * outputs[1]))
        outputs = following
    return linear(p["last"], outputs[0])


SLOW = {
    "multi_head": slow_multi_head, "soft_modularization": slow_soft_modularization, "paco": slow_paco,
    "care": slow_care, "moore": slow_moore,
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_forward_passes_as_they_are_written_down(name):
    network, params = body(name)
    run = jax.jit(lambda context: network.apply({"params": params}, OBS, context))
    found = [run(context) for context in ONE_HOT]
    slow = [SLOW[name](plain(params), np.asarray(OBS, float), task) for task in range(3)]
    np.testing.assert_allclose(found, slow, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[0], found[1]) and not np.allclose(found[1], found[2])
    assert np.isfinite(run(np.float32([0.2, -0.3, 1.1]))).all() and np.isfinite(run(np.zeros(3))).all()


PRIVATE = {
    "multi_head": ("heads",), "paco": ("w",), "care": ("embedding",), "moore": ("heads", "w"),
    "soft_modularization": ("h",),
}  # fmt: skip


@pytest.mark.parametrize("name", PRIVATE)
def test_what_is_a_tasks_own_learns_from_it_alone(name):
    network, params = body(name)
    loss = lambda params: jnp.sum(network.apply({"params": params}, OBS, ONE_HOT[1]) ** 2)  # noqa: E731
    gradient = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(params))
    for part in PRIVATE[name]:
        for leaf in jax.tree.leaves(gradient[part]):
            assert len(leaf) == 3 and (leaf[[0, 2]] == 0).all() and np.abs(leaf[1]).max() > 0
    shared = [x for part, x in gradient.items() if part not in PRIVATE[name]]
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(shared))


def sown(network, params, task, obs=OBS):
    """What a network shows of its inside, by name."""
    run = jax.jit(lambda *seen: network.apply({"params": params}, *seen, mutable="intermediates")[1])
    return {name: values[0] for name, values in run(obs, ONE_HOT[task])["intermediates"].items()}


def test_routes_into_every_module_are_probabilities_of_the_task():
    network, params = body("soft_modularization")
    first, second = (sown(network, params, task) for task in (0, 1))
    assert [p.shape for p in first.values()] == [(2, 2), (2, 2), (1, 2)]
    for name, p in first.items():
        np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-6)
        assert (p > 0).all() and not np.allclose(p, second[name])


def test_attention_is_the_tasks_and_not_the_observations():
    network, params = body("care")
    alpha = sown(network, params, 0)["alpha"]
    np.testing.assert_allclose(alpha.sum(), 1, rtol=1e-6)
    other = sown(network, params, 0, 2 * OBS)["alpha"]
    np.testing.assert_allclose(alpha, other, rtol=1e-5)
    assert not np.allclose(alpha, sown(network, params, 1)["alpha"])


def test_experts_are_orthonormal():
    network, params = body("moore")
    v = sown(network, params, 0)["v"]
    np.testing.assert_allclose(v @ v.T, np.eye(3), atol=1e-5)
    np.testing.assert_array_equal(v, sown(network, params, 1)["v"])


FLOATS = st.floats(-10, 10, width=32, allow_subnormal=False)
SPREAD = st.integers(1, 4).flatmap(lambda k: arrays.arrays(np.float32, (k, 5), elements=FLOATS))
fast = jax.jit(gram_schmidt)
slope = jax.jit(jax.grad(lambda vectors: jnp.sum(jnp.tanh(gram_schmidt(vectors)))))


@given(SPREAD)
@settings(max_examples=60, deadline=None)
def test_gram_schmidt_of_any_vectors(vectors):
    found = np.asarray(fast(vectors), float)
    assert np.isfinite(found).all() and np.isfinite(slope(vectors)).all()
    assert (np.linalg.norm(found, axis=1) < 1 + 1e-5).all()
    left, spans = [], np.zeros((0, 5))
    for vector in vectors.astype(float):  # by projection on all that came before
        rest = vector - spans.T @ np.linalg.lstsq(spans.T, vector, rcond=None)[0] if len(spans) else vector
        left.append(np.linalg.norm(rest))
        spans = np.vstack([spans, vector])
    if min(left) > 1e-2:
        np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-3)
        inside = found.T @ (found @ vectors.T)  # the same span
        np.testing.assert_allclose(inside, vectors.T, atol=2e-2)
        assert (np.einsum("kd,kd->k", found, vectors) > 0).all()


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("family", [FAMILY, DISCRETE], ids=["continuous", "discrete"])
def test_policies_are_told_without_being_asked_to(name, family):
    policy = PolicyConfig(network=name).make(family)
    assert policy.conditioned_actor and hash(policy) == hash(PolicyConfig(network=name).make(family))
    agent = check_networks(policy, family)
    outputs = jax.eval_shape(policy.params, agent.actor, Seen(OBS, ONE_HOT[0]))
    assert {x.shape for x in jax.tree.leaves(outputs)} == {(2,)} and not can_be_told(policy, family)
    value = jax.eval_shape(policy.value, agent.critic, Seen(OBS, ONE_HOT[0]))
    assert value.shape == ()
    image = jax.eval_shape(lambda: policy.init(KEY, (20, 18, 3), ONE_HOT))
    assert max(x.ndim for x in jax.tree.leaves(image.actor)) == 4
    assert policies_by_name(family, make_policy(family), PolicyConfig())[name].conditioned_actor


@pytest.mark.parametrize("settings", [{"network": "paco"}, {"conditioned_actor": True}])
def test_a_family_whose_contexts_are_empty(settings):
    family = dataclasses.replace(FAMILY, context=np.zeros((3, 0), np.float32))
    with pytest.raises(ConfigError, match="needs the task, but contexts of family 'points' have no entries"):
        make_policy(family, **settings)
    make_policy(family)  # a critic can do without


@pytest.mark.parametrize("name", SLOW)
def test_contexts_that_do_not_fit(name):
    with pytest.raises(ConfigError, match=f"conditioned_critic = False, but the critic of network '{name}'"):
        PolicyConfig(network=name, conditioned_critic=False).make(FAMILY)
    policy = make_policy(FAMILY, network=name, options=SIZES[name])
    for changes, role in (({"conditioned_actor": False}, "actor"), ({"conditioned_critic": False}, "critic")):
        blind = dataclasses.replace(policy, **changes)
        with pytest.raises(ConfigError, match=f"the {role} .*context None: .*needs its task's context; set"):
            check_networks(blind, FAMILY)
    agent = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), check_networks(policy, FAMILY))
    with pytest.raises(ConfigError, match="pass the task's context"):
        policy.act(agent, np.ones(4))
    with pytest.raises(ConfigError, match=r"parameters for other inputs .* the context float \[4\]"):
        policy.act(agent, np.ones(4), np.eye(4)[0])


def test_agents_of_a_family_with_more_tasks_are_refused_before_training():
    policy = make_policy(FAMILY, network="paco", options=SIZES["paco"])
    config, wider = PPO(num_envs=4, num_steps=4), points(n_tasks=4, n_groups=2, horizon=6)
    keys = np.asarray(KEY)[None]
    rows = Rows(np.ones((1, 4), bool), np.array([config.steps_per_update]), keys)
    with pytest.raises(ConfigError, match=r"context float \[4\]"):
        train(policy, config, wider, rows._replace(init=init_agents(policy, FAMILY, keys)))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("paco", {"sets": 0}, "policy.options: sets = 0 must be a whole number"),
        ("care", {"encoders": 1.5}, "policy.options: encoders = 1.5 must be a whole number"),
        ("soft_modularization", {"layers": True}, "layers = True must be a whole number"),
        (
            "moore",
            {"experts": 9, "hidden": (16, 8)},
            "experts = 9 vectors of length .* 8 cannot",
        ),
        ("multi_head", {"hidden": ()}, r"policy.hidden = \(\): give at least one width"),
        ("multi_head", {"activation": "gelu"}, "activation = 'gelu'; choose one of 'tanh', 'relu'"),
        ("multi_head", {"heads": 3}, "'multi_head' has no setting 'heads'; its settings are hidden, activ"),
        ("mlp", {"own_deviation": "yes"}, "own_deviation = 'yes' must be True or False"),
        ("care", {"own_deviation": 1}, "own_deviation = 1 must be True or False"),
        ("mlp", {"min_log_std": 2.0}, "min_log_std = 2.0 must be a number below max_log_std = 2.0"),
        ("paco", {"max_log_std": float("inf")}, "a number below max_log_std = inf"),
        ("mlp", {"min_log_std": "low"}, "min_log_std = 'low' must be a number below max_log_std = 2.0"),
    ],
)
def test_settings_that_cannot_be(name, options, words):
    with pytest.raises(ConfigError, match=words):
        make_policy(FAMILY, network=name, options=options)


@pytest.mark.parametrize("name", ["mlp", "multi_head"])
def test_a_deviation_of_each_tasks_own(name):
    options = {"hidden": (5,), "own_deviation": True}
    policy = make_policy(FAMILY, network=name, options=options, conditioned_actor=True)
    init, params = jax.jit(policy.init, static_argnums=1), jax.jit(policy.params)
    agent, fresh = (init(key, (4,), ONE_HOT) for key in (KEY, KEY + 1))
    agent.actor["params"]["log_std"] = np.float32([[-1.0, 0.5], [9.0, -0.2], [0.3, -9.0]])
    for task, wanted in enumerate([[-1.0, 0.5], [2.0, -0.2], [0.3, -5.0]]):  # within the bounds of all
        log_std = params(agent.actor, Seen(OBS, ONE_HOT[task]))[1]
        np.testing.assert_allclose(log_std, wanted, rtol=1e-6)
    slope = jax.jit(jax.grad(policy.log_prob))
    gradient = np.asarray(slope(agent.actor, Seen(OBS, ONE_HOT[0]), np.ones(2))["params"]["log_std"])
    assert (gradient[1:] == 0).all() and (gradient[0] != 0).all()
    again = explore_afresh(policy, agent, fresh).actor["params"]
    np.testing.assert_array_equal(again.pop("log_std"), np.full((3, 2), -0.5, np.float32))
    rest = {part: x for part, x in agent.actor["params"].items() if part != "log_std"}
    jax.tree.map(np.testing.assert_array_equal, again, rest)


@pytest.mark.parametrize("name", ["mlp", "multi_head"])
@pytest.mark.parametrize("own", [True, False])
def test_bounds_of_deviations(name, own):
    bounds = {"min_log_std": -1.0, "max_log_std": -0.75}
    options = {"hidden": (5,), "own_deviation": own} | bounds
    policy = make_policy(FAMILY, network=name, options=options, conditioned_actor=True)
    agent = jax.jit(policy.init, static_argnums=1)(KEY, (4,), ONE_HOT)
    log_std = jax.jit(lambda actor: policy.params(actor, Seen(OBS, ONE_HOT[1]))[1])
    np.testing.assert_array_equal(log_std(agent.actor), [-0.75, -0.75])  # the nearest to where others begin
    slope = jax.jit(jax.grad(lambda actor: log_std(actor).sum()))
    assert np.abs(slope(agent.actor)["params"]["log_std"]).max() > 0  # from where it can go
    agent.actor["params"]["log_std"] = np.broadcast_to(np.float32([-3.0, 0.5]), (3, 2) if own else (2,))
    np.testing.assert_array_equal(log_std(agent.actor), [-1.0, -0.75])
    assert policy != make_policy(
        FAMILY, network=name, options={"hidden": (5,), "own_deviation": own}, conditioned_actor=True
    )


def test_who_has_no_deviation_of_a_tasks_own():
    blind = make_policy(FAMILY, options={"own_deviation": True})
    with pytest.raises(ConfigError, match="own_deviation: an actor that is not told .* policy.cond"):
        check_networks(blind, FAMILY)
    discrete = make_policy(DISCRETE, network="care", options={"own_deviation": True})
    check_networks(discrete, DISCRETE)


def test_groups_that_are_told_already(small_settings):
    config = {"policy": PolicyConfig(network="moore", hidden=(8, 8)), "tell_groups": True}
    with pytest.raises(ConfigError, match="told its task already .* a network that needs the task"):
        Run(*small(small_settings, **config))


def test_who_cannot_be_told_later():
    """Blind perceptrons, as an architecture that needs the task, or as one with other deviations."""
    blind = make_policy(FAMILY, hidden=(5,))
    own = make_policy(FAMILY, options={"hidden": (5,), "own_deviation": True}, conditioned_actor=True)
    for policy in (own, make_policy(FAMILY, network="paco", options=SIZES["paco"])):
        agent, fresh = (init_agents(p, FAMILY, np.asarray(KEY)[None]) for p in (blind, policy))
        with pytest.raises(ConfigError, match="cannot go on from it"):
            tell(take(agent, 0), take(fresh, 0))
        assert not can_be_told(policy, FAMILY)


class Needy:
    """Settings from outside the package, of perceptrons that shall always be told."""

    needs_task = True

    def actor(self, distribution):
        return make_policy(FAMILY).actor

    def critic(self):
        return make_policy(FAMILY).critic


def test_any_architecture_may_say_that_it_needs_the_task(monkeypatch):
    monkeypatch.setitem(NETWORKS, "needy", Needy)
    assert make_policy(FAMILY, network="needy") == make_policy(FAMILY, conditioned_actor=True)


class Blind(nn.Module):
    """An actor of one's own that does without the task."""

    @nn.compact
    def __call__(self, obs, context=None):
        return nn.Dense(2)(obs) if context is None else jnp.full(2, jnp.nan)


def test_an_actor_of_ones_own_beside_a_critic_that_needs_the_task():
    policy = make_policy(DISCRETE, network="paco", actor=Blind())
    assert isinstance(policy, Policy) and not policy.conditioned_actor
    check_networks(policy, DISCRETE)
    blind = make_policy(
        DISCRETE, network="paco", actor=Blind(), critic=make_policy(DISCRETE).critic, conditioned_critic=False
    )
    check_networks(blind, DISCRETE)
