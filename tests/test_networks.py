"""Networks of one observation and its task's context: any shape, by name, and what of them explores."""

import dataclasses
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.points import points
from pgx_jax.errors import ConfigError
from pgx_jax.learn import (
    NETWORKS,
    Policy,
    PolicyConfig,
    can_be_told,
    check_networks,
    explore_afresh,
    make_policy,
    policies_by_name,
    tell,
)
from pgx_jax.learn.distributions import Categorical
from pgx_jax.learn.networks import CategoricalActor, Critic, GaussianActor, Torso
from pgx_jax.types import Seen

KEY = jax.random.PRNGKey(0)
FAMILY = points(n_tasks=3, n_groups=3)


@pytest.mark.parametrize("shape", [(), (4,), (5, 5), (10, 10, 4), (40, 36, 3)], ids=str)
@pytest.mark.parametrize("told", [False, True])
def test_observations_of_any_shape(shape, told):
    policy = Policy(CategoricalActor(3, (8,)), Critic((8,)), Categorical(3), conditioned_actor=told)
    obs = np.asarray(np.random.default_rng(0).normal(size=shape), np.float32)

    @jax.jit
    def computed(obs, context):
        """Logits and values, told each of two tasks, and a gradient."""
        agent = policy.init(KEY, shape, context)
        logits = [policy.params(agent.actor, policy.actor_input(obs, c)) for c in context]
        values = [policy.value(agent.critic, policy.critic_input(obs, c)) for c in context]
        seen = policy.actor_input(obs, context[0])
        return logits, values, jax.grad(policy.log_prob)(agent.actor, seen, jnp.array(1))

    logits, values, gradient = computed(obs, np.eye(2, dtype=np.float32))
    assert logits[0].shape == (3,) and values[0].shape == ()
    assert np.allclose(*logits) != told and not np.allclose(*values)  # critics are told
    sizes = [float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)]
    assert np.isfinite(sizes).all() and max(sizes) > 0


@pytest.mark.parametrize(
    ("shape", "leads"),
    [((3, 24, 20), True), ((1, 8, 8), True), ((4, 84, 84), True), ((24, 20, 3), False), ((10, 10, 4), False)]
    + [((2, 9, 9), False), ((3, 4, 3), False), ((4, 4, 4), False), ((3, 20, 3), False)],
    ids=str,
)
def test_images_with_channels_in_front(shape, leads):
    obs = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    params = jax.eval_shape(Torso().init, KEY, obs)
    kernels = [x.shape[2] for x in jax.tree.leaves(params) if x.ndim == 4]
    assert kernels[0] == shape[0 if leads else -1]
    if leads:
        params, apply = jax.jit(Torso().init)(KEY, obs), jax.jit(Torso().apply)
        np.testing.assert_array_equal(apply(params, obs), apply(params, np.moveaxis(obs, 0, -1)))


def test_bytes_are_scaled_and_nothing_else():
    policy = Policy(CategoricalActor(3, (8,)), Critic((8,)), Categorical(3), scale=1 / 255)
    agent = policy.init(KEY, (4,), jnp.eye(2))
    np.testing.assert_allclose(policy.normalise(agent, jnp.array([0.0, 51, 102, 255])), [0, 0.2, 0.4, 1])
    assert make_policy(FAMILY).scale == 1.0


class Loud(nn.Module):
    """A Gaussian actor whose exploration has a name of its own."""

    @nn.compact
    def __call__(self, obs, context=None):
        return nn.Dense(2)(obs), self.param("noise", nn.initializers.zeros, (2,))

    def explores(self, path):
        return path == ("noise",)


class Set(Loud):
    """The same in Flax's other style."""

    def setup(self):
        self.mean = nn.Dense(2)
        self.noise = self.param("noise", nn.initializers.zeros, (2,))

    def __call__(self, obs, context=None):
        return self.mean(obs), self.noise


def test_an_actor_says_what_of_it_is_exploration():
    def leaves_renewed(actor, **kw):
        policy = make_policy(FAMILY, actor=actor)
        old, new = (policy.init(KEY, (4,), jnp.eye(3)) for _ in range(2))
        new = new._replace(actor=jax.tree.map(lambda x: x + 1, old.actor))
        found = explore_afresh(policy, old, new, **kw).actor
        same = jax.tree.map(lambda a, b: bool((a == b).all()), found, old.actor)
        return {jax.tree_util.keystr(p) for p, kept in jax.tree_util.tree_leaves_with_path(same) if not kept}

    assert leaves_renewed(Loud()) == {"['params']['noise']"}
    assert leaves_renewed(Set()) == {"['params']['noise']"}
    assert leaves_renewed(GaussianActor(2, (4,))) == {"['params']['log_std']"}
    last = {f"['params']['MLP_0']['Dense_1']['{name}']" for name in ("kernel", "bias")}
    assert leaves_renewed(GaussianActor(2, (4,)), alone=True) == last | {"['params']['log_std']"}
    assert leaves_renewed(Loud(), alone=True) == {"['params']['noise']"}
    assert check_networks(make_policy(FAMILY, actor=Loud()), FAMILY).actor["params"]["noise"].shape == (2,)


class Mixing(nn.Module):
    """Multiplies by the context instead of appending it."""

    @nn.compact
    def __call__(self, obs, context=None):
        return nn.Dense(3)(jnp.ravel(obs) * (2.0 if context is None else context.sum()))


@pytest.mark.parametrize("shape", [(4,), (10, 10, 4)], ids=str)
def test_a_blind_policy_goes_on_told_its_task(shape):
    blind = Policy(CategoricalActor(3, (8,)), Critic((8,)), Categorical(3))
    wide = dataclasses.replace(blind, conditioned_actor=True)
    agent, fresh = blind.init(KEY, shape, np.eye(2)), wide.init(jax.random.PRNGKey(1), shape, np.eye(2))
    told = tell(agent, fresh)
    obs, params = jax.random.normal(KEY, shape), jax.jit(wide.params)
    before = jax.jit(blind.params)(agent.actor, obs)
    for context in np.eye(2, dtype=np.float32):
        np.testing.assert_allclose(params(told.actor, Seen(obs, context)), before, rtol=1e-5)
    seen = Seen(obs, np.eye(2, dtype=np.float32)[1])
    gradient = jax.jit(jax.grad(wide.log_prob))(told.actor, seen, np.array(1))
    widened = [
        x for x, y in zip(*map(jax.tree.leaves, (gradient, agent.actor)), strict=True) if x.shape != y.shape
    ]
    assert len(widened) == 1 and jnp.abs(widened[0][-1]).max() > 0  # it can learn what the context tells
    again = tell(told, fresh)
    assert all((x == y).all() for x, y in zip(*map(jax.tree.leaves, (again, told)), strict=True))
    with pytest.raises(ConfigError, match="cannot go on from it"):
        tell(fresh, agent)


def test_which_policies_can_be_told():
    policy = make_policy(FAMILY)
    assert can_be_told(policy, FAMILY)
    assert not can_be_told(dataclasses.replace(policy, conditioned_actor=True), FAMILY)
    assert not can_be_told(Policy(Mixing(), Critic((8,)), Categorical(3)), FAMILY)


def test_architectures_by_name():
    policy = make_policy(FAMILY, network="mlp", options={"hidden": (5,)})
    assert policy.actor == GaussianActor(2, (5,)) and policy.critic == Critic((5,))
    for text in ("hidden=(7, 7)", "hidden=[7, 7]"):
        assert PolicyConfig(options=(text,)).make(FAMILY).actor == GaussianActor(2, (7, 7))
    for change, words in (
        ({"network": "mpl"}, "policy.network = 'mpl'; choose one of 'mlp'"),
        ({"options": ("width=3",)}, "network 'mlp' has no setting 'width'; its settings are hidden"),
        ({"options": ("width",)}, "'width' is not of the form KEY=VALUE"),
        ({"hidden": ()}, r"policy.hidden = \(\): give at least one width"),
        ({"options": ("hidden=32",)}, "policy.hidden = 32: give at least one width"),
        ({"options": ("hidden=wide",)}, "policy.hidden = wide: give at least one width"),
        ({"hidden": (8, "8")}, r"policy.hidden = \(8, '8'\): give at least one width"),
    ):
        with pytest.raises(ConfigError, match=words):
            PolicyConfig(**change).make(FAMILY)
    assert set(NETWORKS) >= {"mlp"}


def test_a_policy_is_told_by_what_it_gets():
    policy = make_policy(FAMILY, conditioned_actor=True)
    seen = policy.actor_input(jnp.ones(4), jnp.eye(3)[1])
    assert isinstance(seen, Seen)
    agent = policy.init(KEY, (4,), jnp.eye(3))
    with pytest.raises(ConfigError, match="pass the task's context"):
        policy.act(agent, np.ones(4))
    assert FAMILY.action_space.contains(policy.act(agent, np.ones(4), np.eye(3)[1]).astype(np.float32))


@dataclass(frozen=True)
class Choosy:
    """An architecture with a setting of its own, that refuses families of more than ``most`` outputs."""

    most: int = 1

    def actor(self, distribution):
        if distribution.outputs > self.most:
            raise ConfigError("too many")
        return GaussianActor(distribution.outputs, (self.most,))

    def critic(self):
        return Critic((self.most,))


def test_equal_policies_are_one_and_others_are_not():
    """Also of networks of one's own; so the programs of their gradients are found again."""
    family = points(n_tasks=2, n_groups=2)
    own = {"actor": CategoricalActor(4, (8,)), "hidden": (8,)}
    for settings in ({"hidden": (8,)}, own, {"network": "moore"}):
        one, same, other = (make_policy(family, **settings, normalise_values=x) for x in (True, True, False))
        assert one is same and one != other and one.log_prob == same.log_prob != other.log_prob


def test_policies_that_rows_may_name(monkeypatch):
    monkeypatch.setitem(NETWORKS, "choosy", Choosy)
    config = PolicyConfig(hidden=(6,), squash=True)
    base = config.make(FAMILY)
    named = policies_by_name(FAMILY, base, config, {"mine": make_policy(FAMILY, hidden=(3,))})
    assert set(named) == {"base", "told", "mine", *NETWORKS} and len(named) == len(set(named))
    assert named["base"] is base and named["told"] == dataclasses.replace(base, conditioned_actor=True)
    assert named["mlp"] == named["told"] and named["mine"].actor == GaussianActor(2, (3,))
    assert "choosy" in named and "choosey" not in named  # nobody asked it what it thinks of the family
    with pytest.raises(ConfigError, match="too many"):
        named["choosy"]


def test_a_run_s_own_network_keeps_its_settings_as_a_baseline(monkeypatch):
    monkeypatch.setitem(NETWORKS, "choosy", Choosy)
    config = PolicyConfig(network="choosy", options=("most=5",), hidden=(6,))
    named = policies_by_name(FAMILY, config.make(FAMILY), config)
    assert named["choosy"] == named["told"] and named["choosy"].actor == GaussianActor(2, (5,))
    assert named["mlp"].actor == GaussianActor(2, (6,)) and named["mlp"].conditioned_actor


class Old(nn.Module):
    """A network of one argument."""

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(2)(inputs)


def test_networks_of_another_signature_are_told_the_right_one():
    for own in ({"actor": Old()}, {"critic": Old()}):
        with pytest.raises(
            ConfigError, match=r"network Old is called as .*def __call__\(self, obs, context\)"
        ):
            make_policy(FAMILY, **own)
    layers = nn.Sequential((nn.Dense(4), nn.Dense(1)))  # which takes whatever it is given
    for role in ("actor", "critic"):
        with pytest.raises(
            ConfigError, match=rf"the {role} Sequential cannot be called with \(obs, context\).*shape \[4\]"
        ):
            check_networks(make_policy(FAMILY, **{role: layers}), FAMILY)
