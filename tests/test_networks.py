"""Networks of one observation and its task's context: any shape, by name, and what of them explores."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from envs.points import points
from pgx_jax.errors import ConfigError
from pgx_jax.learn import NETWORKS, Policy, PolicyConfig, check_networks, explore_afresh, make_policy
from pgx_jax.learn.distributions import Categorical, MultiCategorical, for_space
from pgx_jax.learn.networks import CategoricalActor, Critic, GaussianActor
from pgx_jax.types import Seen

KEY = jax.random.PRNGKey(0)
FAMILY = points(n_tasks=3, n_groups=3)


@pytest.mark.parametrize("shape", [(), (4,), (5, 5), (10, 10, 4), (40, 36, 3)], ids=str)
@pytest.mark.parametrize("told", [False, True])
def test_observations_of_any_shape(shape, told):
    policy = Policy(CategoricalActor(3, (8,)), Critic((8,)), Categorical(3), conditioned_actor=told)
    agent = policy.init(KEY, shape, jnp.eye(2))
    obs, context = jax.random.normal(KEY, shape), jnp.eye(2)
    logits = [policy.params(agent.actor, policy.actor_input(obs, c)) for c in context]
    values = [policy.value(agent.critic, policy.critic_input(obs, c)) for c in context]
    assert logits[0].shape == (3,) and values[0].shape == ()
    assert np.allclose(*logits) != told and not np.allclose(*values)  # critics are told
    gradient = jax.grad(policy.log_prob)(agent.actor, policy.actor_input(obs, context[0]), jnp.array(1))
    sizes = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)]
    assert np.isfinite(sizes).all() and max(sizes) > 0


def test_bytes_are_scaled_and_nothing_else():
    policy = Policy(CategoricalActor(3, (8,)), Critic((8,)), Categorical(3), scale=1 / 255)
    agent = policy.init(KEY, (4,), jnp.eye(2))
    np.testing.assert_allclose(policy.normalise(agent, jnp.array([0.0, 51, 102, 255])), [0, 0.2, 0.4, 1])
    assert make_policy(FAMILY).scale == 1.0


@pytest.mark.parametrize("sizes", [(3,), (2, 4), (5, 1, 3)])
def test_several_choices_are_independent_categoricals(sizes):
    dist, rng = MultiCategorical(sizes), np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(6, sum(sizes))), jnp.float32)
    action = jax.vmap(dist.sample)(jax.random.split(KEY, 6), logits)
    assert action.shape == (6, len(sizes)) and (action >= 0).all() and (action < np.array(sizes)).all()
    parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    each = [(Categorical(n), logits[:, part]) for n, part in zip(sizes, parts, strict=True)]
    expected = sum(one.log_prob(x, action[:, i]) for i, (one, x) in enumerate(each))
    np.testing.assert_allclose(dist.log_prob(logits, action), expected, rtol=1e-5)
    np.testing.assert_allclose(dist.entropy(logits), sum(one.entropy(x) for one, x in each), rtol=1e-5)
    np.testing.assert_array_equal(dist.mode(logits), np.stack([one.mode(x) for one, x in each], 1))
    assert for_space(spaces.MultiDiscrete(sizes)) == dist
    with pytest.raises(ValueError, match="no distribution"):
        for_space(spaces.MultiDiscrete(sizes, start=[1] * len(sizes)))


class Loud(nn.Module):
    """A Gaussian actor whose exploration has a name of its own."""

    @nn.compact
    def __call__(self, obs, context=None):
        return nn.Dense(2)(obs), self.param("noise", nn.initializers.zeros, (2,))

    def explores(self, path):
        return path == ("noise",)


def test_an_actor_says_what_of_it_is_exploration():
    def leaves_renewed(actor):
        policy = make_policy(FAMILY, actor=actor)
        old, new = (policy.init(KEY, (4,), jnp.eye(3)) for _ in range(2))
        new = new._replace(actor=jax.tree.map(lambda x: x + 1, old.actor))
        found = explore_afresh(policy, old, new).actor
        same = jax.tree.map(lambda a, b: bool((a == b).all()), found, old.actor)
        return {jax.tree_util.keystr(p) for p, kept in jax.tree_util.tree_leaves_with_path(same) if not kept}

    assert leaves_renewed(Loud()) == {"['params']['noise']"}
    assert leaves_renewed(GaussianActor(2, (4,))) == {"['params']['log_std']"}
    assert check_networks(make_policy(FAMILY, actor=Loud()), FAMILY).actor["params"]["noise"].shape == (2,)


def test_architectures_by_name():
    policy = make_policy(FAMILY, network="mlp", options={"hidden": (5,)})
    assert policy.actor == GaussianActor(2, (5,)) and policy.critic == Critic((5,))
    config = PolicyConfig(options=("hidden=(7, 7)",))
    assert config.make(FAMILY).actor == GaussianActor(2, (7, 7))
    for change, words in (
        ({"network": "mpl"}, "policy.network = 'mpl'; choose one of 'mlp'"),
        ({"options": ("width=3",)}, "network 'mlp' has no setting 'width'; its settings are hidden"),
        ({"options": ("width",)}, "'width' is not of the form KEY=VALUE"),
        ({"hidden": ()}, r"policy.hidden = \(\): give at least one width"),
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
