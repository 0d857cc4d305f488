"""A policy: actor, critic and normalisation, as static structure over an `Agent` of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import ConfigError
from pgx_jax.learn.distributions import Distribution, for_space
from pgx_jax.learn.moments import initial_moments, normalise
from pgx_jax.learn.networks import CategoricalActor, Critic, GaussianActor
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree


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
        actor = self.actor.init(actor_key, self.actor_input(obs, context[0]))
        critic = self.critic.init(critic_key, self.critic_input(obs, context[0]))
        return Agent(actor, critic, initial_moments(observation_shape), initial_moments((len(context),)))

    def normalise(self, agent: Agent, obs: Array) -> Array:
        """Observations as both networks see them."""
        return normalise(agent.observation, obs) if self.normalise_observations else obs

    def actor_input(self, obs: Array, context: Array) -> Array:
        """What the actor sees of a normalised observation and the task's context."""
        return jnp.concatenate([obs, context], axis=-1) if self.conditioned_actor else obs

    def critic_input(self, obs: Array, context: Array) -> Array:
        """What the critic sees of a normalised observation and the task's context."""
        return jnp.concatenate([obs, context], axis=-1) if self.conditioned_critic else obs

    def value(self, agent: Agent, obs: Array, context: Array) -> Array:
        """V(s) in units of scaled reward, for normalised observations."""
        return self.critic.apply(agent.critic, self.critic_input(obs, context))

    def log_prob(self, actor: PyTree, inputs: Array, action: Array) -> Array:
        """log pi(action | inputs): the one function that estimation needs of a policy."""
        return self.distribution.log_prob(self.actor.apply(actor, inputs), action)

    def act(self, agent: Agent, obs, context=None, key: Array | None = None) -> np.ndarray:
        """A legal action for one raw observation: the mode, or a draw if a key is given."""
        if self.conditioned_actor and context is None:
            raise ConfigError("this policy is conditioned on the task: pass the task's context vector")
        inputs = self.actor_input(self.normalise(agent, jnp.asarray(obs)), context)
        params = self.actor.apply(agent.actor, inputs)
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
