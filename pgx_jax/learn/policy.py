"""A policy: actor, critic and normalisation, as static structure over an `Agent` of arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import ConfigError
from pgx_jax.learn.distributions import Categorical, Distribution, for_space
from pgx_jax.learn.moments import initial_moments, normalise
from pgx_jax.learn.networks import CategoricalActor, Critic, GaussianActor
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree, Seen


def _arguments(inputs: Array | Seen) -> tuple[Array, Array | None]:
    """(obs, context) of a network; the context is None where it is not told its task."""
    return tuple(inputs) if isinstance(inputs, Seen) else (inputs, None)


def apply(network: nn.Module, params: PyTree, inputs: Array | Seen) -> PyTree:
    """What a network returns for one observation: ``network(obs, context)``."""
    return network.apply(params, *_arguments(inputs))


@dataclass(frozen=True)
class Policy:
    """Static description of a policy (hashable: equal policies share compiled programs).

    The actor is blind to the task unless ``conditioned_actor``; the critic is told it unless
    ``conditioned_critic`` is False.
    """

    actor: nn.Module
    critic: nn.Module
    distribution: Distribution
    conditioned_actor: bool = False
    conditioned_critic: bool = True
    normalise_observations: bool = False

    def __post_init__(self):
        for network in (self.actor, self.critic):
            try:
                hash(network)
            except TypeError:
                raise ConfigError(
                    f"a policy's networks must be hashable, and this {type(network).__name__} is not: give "
                    f"what is a list or a dict among its fields as a tuple"
                ) from None

    def init(self, key: Array, observation_shape: tuple[int, ...], context: Array) -> Agent:
        """A fresh agent for one row.

        Args:
            key: PRNG key.
            observation_shape: shape of one observation.
            context: float [n, C], the family's context vectors.
        """
        actor_key, critic_key = jax.random.split(key)
        obs = jnp.zeros(observation_shape)
        actor = self.actor.init(actor_key, *_arguments(self.actor_input(obs, context[0])))
        critic = self.critic.init(critic_key, *_arguments(self.critic_input(obs, context[0])))
        return Agent(actor, critic, initial_moments(observation_shape), initial_moments((len(context),)))

    def normalise(self, agent: Agent, obs: Array) -> Array:
        """Observations as both networks see them."""
        return normalise(agent.observation, obs) if self.normalise_observations else obs

    def actor_input(self, obs: Array, context: Array) -> Array | Seen:
        """What the actor sees of normalised observations and their tasks' contexts."""
        return Seen(obs, context) if self.conditioned_actor else obs

    def critic_input(self, obs: Array, context: Array) -> Array | Seen:
        """What the critic sees of normalised observations and their tasks' contexts."""
        return Seen(obs, context) if self.conditioned_critic else obs

    def params(self, actor: PyTree, inputs: Array | Seen) -> PyTree:
        """Parameters of the action distribution, for one observation (`actor_input`)."""
        return apply(self.actor, actor, inputs)

    def value(self, critic: PyTree, inputs: Array | Seen) -> Array:
        """V(s) in units of scaled reward, for one observation (`critic_input`)."""
        return apply(self.critic, critic, inputs)

    def log_prob(self, actor: PyTree, inputs: Array | Seen, action: Array) -> Array:
        """log pi(action | inputs): the one function that estimation needs of a policy."""
        return self.distribution.log_prob(self.params(actor, inputs), action)

    def act(self, agent: Agent, obs, context=None, key: Array | None = None) -> np.ndarray:
        """A legal action for one raw observation: the mode, or a draw if a key is given."""
        if self.conditioned_actor and context is None:
            raise ConfigError("this policy is conditioned on the task: pass the task's context vector")
        inputs = self.actor_input(self.normalise(agent, jnp.asarray(obs)), context)
        params = self.params(agent.actor, inputs)
        dist = self.distribution
        action = dist.mode(params) if key is None else dist.sample(key, params)
        return np.asarray(dist.to_env(action))


def make_policy(
    family: TaskFamily,
    *,
    hidden: tuple[int, ...] = (64, 64),
    actor: nn.Module | None = None,
    critic: nn.Module | None = None,
    squash: bool = False,
    **settings,
) -> Policy:
    """The default policy for a family's spaces: two-layer tanh networks.

    Args:
        family: supplies the action space.
        hidden: widths of the hidden layers of actor and critic.
        actor: a Flax module of one's own: [..., in] -> logits, or (mean, log_std).
        critic: a Flax module of one's own: [..., in] -> [...].
        squash: pass continuous actions through tanh.
        **settings: further fields of `Policy`.
    """
    try:
        distribution = for_space(family.action_space, squash)
    except ValueError as error:
        raise ConfigError(f"family {family.name!r}: {error}") from None
    if actor is None:
        kind = CategoricalActor if distribution.__class__.__name__ == "Categorical" else GaussianActor
        actor = kind(distribution.size, tuple(hidden))
    return Policy(actor, critic or Critic(tuple(hidden)), distribution, **settings)


def policies_by_name(
    family: TaskFamily, base: Policy, more: Mapping[str, Policy] | None = None
) -> dict[str, Policy]:
    """All policies that rows may name: the base, the same told its task, and one's own."""
    return {"base": base, "told": dataclasses.replace(base, conditioned_actor=True)} | dict(more or {})


def check_networks(policy: Policy, family: TaskFamily) -> Agent:
    """Refuse networks that do not fit the family, by tracing them; nothing is computed.

    Returns:
        the shapes and types of an agent of this policy (`jax.ShapeDtypeStruct` for every leaf).

    Raises:
        ConfigError: which network returns what, and what it should return.
    """
    shape = family.observation_space.shape
    context = jnp.zeros(np.shape(family.context))
    try:
        agent = jax.eval_shape(lambda key: policy.init(key, shape, context), jax.random.PRNGKey(0))
        obs, told = jnp.zeros(shape), context[0]
        actor = jax.eval_shape(policy.params, agent.actor, policy.actor_input(obs, told))
        critic = jax.eval_shape(policy.value, agent.critic, policy.critic_input(obs, told))
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"the policy's networks cannot be applied to observations of shape {list(shape)}: {reason}"
        ) from error
    size, one = policy.distribution.size, isinstance(policy.distribution, Categorical)
    wanted = "logits" if one else "a pair (mean, log_std)"
    leaves = [actor] if one else actor if isinstance(actor, tuple) and len(actor) == 2 else [None]
    if any(getattr(leaf, "shape", None) != (size,) for leaf in leaves):
        found = jax.tree.map(lambda x: list(x.shape), actor)
        raise ConfigError(
            f"for one observation the actor returns arrays of shapes {found}; it must return {wanted} "
            f"of shape {[size]}"
        )
    if getattr(critic, "shape", None) != ():
        raise ConfigError(
            f"for one observation the critic returns {jax.tree.map(lambda x: list(x.shape), critic)}; "
            f"it must return one value, a scalar"
        )
    return agent


def check_agent(agent: Agent, expected: Agent) -> None:
    """Refuse an agent of another policy.

    Args:
        agent: arrays, for instance a meta-policy of one's own.
        expected: from `check_networks`.

    Raises:
        ConfigError: which part differs, and how to make one that fits.
    """
    remedy = "begin with policy.init(key, observation_shape, context), and put own actor parameters into it "
    remedy += "by learn.with_policy_params(agent, params)"
    if not isinstance(agent, Agent):
        raise ConfigError(f"the meta-policy must be a pgx_jax Agent, not {type(agent).__name__}: {remedy}")
    for name in Agent._fields:
        own, wanted = (
            {jax.tree_util.keystr(path): np.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}
            for tree in (getattr(agent, name), getattr(expected, name))
        )
        if own != wanted:
            where = next(iter(sorted({*own.items()} ^ {*wanted.items()})))[0]
            raise ConfigError(
                f"the meta-policy's {name} does not fit the policy: {name}{where} has shape "
                f"{own.get(where, 'none')}, expected {wanted.get(where, 'none')}; {remedy}"
            )


def policy_params(agent: Agent) -> PyTree:
    """The parameters theta of the method: the actor's, and nothing else of the agent."""
    return agent.actor


def with_policy_params(agent: Agent, actor: PyTree) -> Agent:
    """The same agent with other policy parameters."""
    return agent._replace(actor=actor)


def explore_afresh(agent: Agent, fresh: Agent) -> Agent:
    """The agent with the exploration of a fresh one, all else as it was.

    Where tasks pull apart, a Gaussian policy for all of them settles on a compromise and stops
    exploring; what continues it must explore again to leave that. Replaced are an actor's parameters
    of the name ``log_std``, such as those of `GaussianActor`; other actors stay as they are.
    """

    def choose(path, settled, new):
        return new if getattr(path[-1], "key", None) == "log_std" else settled

    return with_policy_params(agent, jax.tree_util.tree_map_with_path(choose, agent.actor, fresh.actor))
