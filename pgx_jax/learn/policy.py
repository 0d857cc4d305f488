"""A policy: actor, critic and normalisation, as static structure over an `Agent` of arrays."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num

from pgx_jax.errors import ConfigError, check_argument, key_values, pick
from pgx_jax.learn.distributions import FRESH_LOG_STD, DiagonalGaussian, Distribution, for_space
from pgx_jax.learn.moments import initial_moments, normalise
from pgx_jax.learn.networks import NETWORKS, Networks
from pgx_jax.steady import compiled, without_lapack
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import REAL, Agent, Array, Key, Last, Memory, Moments, Named, PyTree, Seen


def _arguments(inputs: Array | Seen) -> tuple[Array, Array | None]:
    """(obs, context) of a network; the context is None where it is not told its task."""
    return (inputs.obs, inputs.context) if isinstance(inputs, Seen) else (inputs, None)


def apply(
    network: nn.Module, params: PyTree, inputs: Float[Array, "..."] | Seen, memory: Memory | None = None
) -> PyTree:
    """What a network returns for one observation: ``network(obs, context)``, or ``network(obs, context,
    memory)`` of one that has memory.

    Raises:
        ConfigError: its parameters are of observations or contexts of other lengths.
    """
    obs, context = _arguments(inputs)
    try:
        return network.apply(params, obs, context, *_if_any(memory))
    except flax.errors.ScopeParamShapeError as error:
        raise ConfigError(
            f"the network {type(network).__name__} has parameters for other inputs than an observation of "
            f"shape {list(obs.shape)} and the context {_told(context)}: {_reason(error)}"
        ) from error


def _if_any(memory: Memory | None) -> tuple[Memory, ...]:
    """The further argument of networks with memory."""
    return () if memory is None else (memory,)


def has_memory(network: nn.Module) -> bool:
    """Whether a network has memory (see `learn.networks`)."""
    return hasattr(network, "begin")


def _check_call(network: nn.Module) -> None:
    """Refuse a network that cannot be called with an observation and a context (and a memory, if it has
    any)."""
    signature, remembers = inspect.signature(type(network).__call__), has_memory(network)
    also, name = (" and its memory", ", memory") if remembers else ("", "")
    try:
        signature.bind(network, *[None] * (3 if remembers else 2))
    except TypeError:
        raise ConfigError(
            f"the network {type(network).__name__} is called as {signature}; it must take one observation "
            f"and its task's context (None where it is not told){also}: "
            f"def __call__(self, obs, context{name})"
        ) from None


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
    normalise_values: bool = False
    """The critic gives values standardised by the agent's moments of its task's (see `PolicyConfig`)."""
    scale: float = 1.0
    """Observations are multiplied by it: 1 / 255 where they are bytes."""

    def __post_init__(self) -> None:
        for network in (self.actor, self.critic):
            _check_call(network)
            try:
                hash(network)
            except TypeError:
                raise ConfigError(
                    f"a policy's networks must be hashable, and this {type(network).__name__} is not: give "
                    f"what is a list or a dict among its fields as a tuple"
                ) from None
        if has_memory(self.actor) != has_memory(self.critic):
            raise ConfigError(
                f"of the networks {type(self.actor).__name__} and {type(self.critic).__name__} one alone has "
                f"memory; take actor and critic of one kind"
            )

    @property
    def remembers(self) -> bool:
        """Whether its networks have memory."""
        return has_memory(self.actor)

    def init(self, key: Key, observation_shape: tuple[int, ...], context: Float[Array, "n C"]) -> Agent:
        """A fresh agent for one row.

        Args:
            key: PRNG key.
            observation_shape: shape of one observation.
            context: float [n, C], the family's context vectors.

        One program, which finds orthogonal kernels without LAPACK within others', too (see `pgx_jax.steady`).
        """
        key = jnp.copy(key)  # within others it is traced then, even if it is no argument of theirs
        return _init(self, tuple(observation_shape), key, context)

    def _fresh(self, key: Key, observation_shape: tuple[int, ...], context: Float[Array, "n C"]) -> Agent:
        actor_key, critic_key = jax.random.split(key)
        obs = jnp.zeros(observation_shape)
        own, others = (self.fresh_memory(network) for network in (self.actor, self.critic))
        told, seen = self.actor_input(obs, context[0]), self.critic_input(obs, context[0])
        actor = self.actor.init(actor_key, *_arguments(told), *_if_any(own))
        critic = self.critic.init(critic_key, *_arguments(seen), *_if_any(others))
        reward = initial_moments((len(context),))
        value = reward if self.normalise_values else None
        return Agent(actor, critic, initial_moments(observation_shape), reward, value, own)

    def fresh_memory(self, network: nn.Module) -> Memory | None:
        """What a network knows before anything has happened; None of one without memory."""
        if not has_memory(network):
            return None
        nothing = Last(jnp.zeros(self.distribution.outputs), jnp.zeros(()), jnp.ones((), bool))
        return Memory(network.begin(), nothing)

    def normalise(self, agent: Agent, obs: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Observations as both networks see them."""
        return self.normalise_by(agent.observation, obs)

    def normalise_by(self, moments: Moments, obs: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Observations as both networks see them, by moments of observations."""
        if self.normalise_observations:
            return normalise(moments, obs)
        return obs if self.scale == 1.0 else obs * self.scale

    def actor_input(
        self, obs: Float[Array, "..."], context: Float[Array, "*batch C"] | None
    ) -> Float[Array, "..."] | Seen:
        """What the actor sees of normalised observations and their tasks' contexts (None will do where it is
        not told its task)."""
        if not self.conditioned_actor:
            return obs
        if context is None:
            raise ConfigError("this policy is conditioned on the task: pass the task's context vector")
        return Seen(obs, context)

    def critic_input(
        self, obs: Float[Array, "..."], context: Float[Array, "*batch C"]
    ) -> Float[Array, "..."] | Seen:
        """What the critic sees of normalised observations and their tasks' contexts."""
        return Seen(obs, context) if self.conditioned_critic else obs

    def params(self, actor: PyTree, inputs: Float[Array, "..."] | Seen) -> PyTree:
        """Parameters of the action distribution, for one observation (`actor_input`).

        Raises:
            ConfigError: the policy has memory (see `choose`).
        """
        self._check_forgets()
        return apply(self.actor, actor, inputs)

    def value(self, critic: PyTree, inputs: Float[Array, "..."] | Seen) -> Float[Array, ""]:
        """V(s) in units of scaled reward, for one observation (`critic_input`); standardised, with
        ``normalise_values``.

        Raises:
            ConfigError: the policy has memory.
        """
        self._check_forgets()
        return apply(self.critic, critic, inputs)

    def _check_forgets(self) -> None:
        if self.remembers:
            raise ConfigError(
                f"the policy of {type(self.actor).__name__} has memory: what it does and expects depends on "
                f"all of its trial, and not on one observation; take a network without memory"
            )

    def begin(self, agent: Agent, age: Int[Array, "E"]) -> PyTree:
        """What the actor knows as a trial begins in E slots, whose episodes had ``age`` int [E] steps
        before: a `Memory`, leaves [E, ...]; () of a policy without memory."""
        if agent.memory is None:
            return ()
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (*jnp.shape(age), *jnp.shape(x))), agent.memory)
        return many._replace(last=many.last._replace(begins=age == 0))

    def choose(
        self, actor: PyTree, inputs: Float[Array, "..."] | Seen, memory: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Parameters of the action distribution for one observation, and the network's state after it;
        ``memory`` and state are () of a policy without memory."""
        if not self.remembers:
            return self.params(actor, inputs), ()
        return apply(self.actor, actor, inputs, memory)

    def remember(self, state: PyTree, action: Array, reward: Array, done: Array) -> PyTree:
        """What the actor knows after a step that came of a `choose` and its state; () without memory."""
        return Memory(state, self.told(action, reward, done)) if self.remembers else ()

    def told(self, action: Array, reward: Array, done: Array) -> Last:
        """What a policy with memory is told of steps, leaves [...]."""
        return Last(self.distribution.features(action), reward, done)

    def log_prob(
        self, actor: PyTree, inputs: Float[Array, "..."] | Seen, action: Num[Array, "..."]
    ) -> Float[Array, ""]:
        """log pi(action | inputs): the one function that estimation needs of a policy."""
        return self.distribution.log_prob(self.params(actor, inputs), action)

    def act(
        self,
        agent: Agent,
        obs: Num[Array, "..."],
        context: Float[Array, "C"] | None = None,
        key: Key | None = None,
    ) -> Num[np.ndarray, "..."]:
        """`action`, outside of JAX's transformations.

        Raises:
            ConfigError: there is no agent, an observation of another shape, or something else than a key.
        """
        check_argument(agent, Agent, "agent")
        if key is not None and not hasattr(key, "dtype"):
            raise ConfigError(f"key must be a key of jax.random, not {key!r}")
        return np.asarray(self.action(agent, _observed(obs, np.shape(agent.observation.mean)), context, key))

    def action(
        self,
        agent: Agent,
        obs: Num[Array, "..."],
        context: Float[Array, "C"] | None = None,
        key: Key | None = None,
    ) -> Num[Array, "..."]:
        """A legal action for one raw observation: the mode, or a draw if a key is given."""
        inputs = self.actor_input(self.normalise(agent, obs), context)
        params, dist = self.params(agent.actor, inputs), self.distribution
        return dist.to_env(dist.mode(params) if key is None else dist.sample(key, params))


def _observed(obs: Num[Array, "..."], shape: tuple[int, ...]) -> Num[Array, "..."]:
    """One observation as an array; ConfigError for what is none of this shape."""
    try:
        found = obs if isinstance(obs, jax.Array) else np.asarray(obs)
    except ValueError:  # rows of several lengths
        found = np.asarray(None)
    if found.shape != shape or not jnp.isdtype(found.dtype, REAL):
        raise ConfigError(f"obs must be one observation, numbers of shape {list(shape)}, not {obs!r}")
    return jnp.asarray(found)


@partial(compiled, quick=True, static_argnames=("policy", "shape"))
def _init(policy: Policy, shape: tuple[int, ...], key: Key, context: Float[Array, "n C"]) -> Agent:
    return without_lapack(Policy._fresh)(policy, key, shape, context)


def make_policy(
    family: TaskFamily,
    *,
    network: str = "mlp",
    options: Mapping[str, Any] | None = None,
    hidden: tuple[int, ...] | None = None,
    actor: nn.Module | None = None,
    critic: nn.Module | None = None,
    squash: bool = False,
    initial_log_std: float = FRESH_LOG_STD,
    bonus_up_to: float = FRESH_LOG_STD,
    **settings: Any,
) -> Policy:
    """A policy for a family's spaces, by default of two-layer tanh networks.

    It is told its task where the architecture needs that (`Networks`).

    Args:
        family: supplies the spaces.
        network: name of an architecture (`NETWORKS`).
        options: its settings.
        hidden: one of them, for architectures that have it.
        actor: a Flax module of one's own: (obs, context) -> logits, or (mean, log_std).
        critic: a Flax module of one's own: (obs, context) -> value.
        squash: pass continuous actions through tanh.
        initial_log_std, bonus_up_to: of continuous actions, see `PolicyConfig`.
        **settings: further fields of `Policy`.

    Raises:
        ConfigError: actions or settings that no policy is made for.
    """
    try:
        distribution = for_space(family.action_space, squash)
    except ValueError as error:
        raise ConfigError(f"family {family.name!r}: {error}") from None
    if isinstance(distribution, DiagonalGaussian):
        distribution = dataclasses.replace(distribution, fresh=initial_log_std, bonus_up_to=bonus_up_to)
    made = make_networks(network, dict(options or {}) | ({} if hidden is None else {"hidden": tuple(hidden)}))
    if getattr(made, "needs_task", False):
        settings |= {} if actor else {"conditioned_actor": True}
        if not (critic or settings.get("conditioned_critic", True)):
            raise ConfigError(
                f"policy.conditioned_critic = False, but the critic of network {network!r} needs the task; "
                f"leave it True, or take another network"
            )
    if settings.get("conditioned_actor") and not np.shape(family.context)[1]:
        asks = f"network {network!r}" if getattr(made, "needs_task", False) else "conditioned_actor"
        raise ConfigError(
            f"{asks} needs the task, but contexts of family {family.name!r} have no entries: leave its "
            f"context out (one-hot vectors then), or take policies that are not told"
        )
    bytes_seen = family.observation_space.dtype == np.uint8
    policy = Policy(
        actor or made.actor(distribution),
        critic or made.critic(),
        distribution,
        **{"scale": 1 / 255 if bytes_seen else 1.0} | settings,
    )
    return _first_of_equals(policy)


@lru_cache(maxsize=128)
def _first_of_equals(policy: Policy) -> Policy:
    """Programs that know a policy by a method, ``policy.log_prob``, are found again by that object alone."""
    return policy


def make_networks(name: str, options: Mapping[str, Any]) -> Networks:
    """The architecture of a name with its settings.

    Raises:
        ConfigError: there is no such architecture, or it has no such setting.
    """
    made = pick(NETWORKS, name, "policy.network")
    known = inspect.signature(made).parameters
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "none"
            raise ConfigError(f"policy.network {name!r} has no setting {option!r}; its settings are {listed}")
    return made(**options)


MOST_LOG_STD = 20.0
"""Of a fresh policy: with more in size, deviations are nothing or all in float32."""


@dataclass(frozen=True)
class PolicyConfig:
    """Settings of the policy."""

    network: Named[str, NETWORKS] = "mlp"
    """Architecture of actor and critic."""
    options: tuple[str, ...] = ()
    """Settings of the architecture, as KEY=VALUE (an unknown KEY is answered with those that it has)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and critic, in architectures that have them (for which it counts
    instead of their own default)."""
    conditioned_actor: bool = False
    """Tell the actor which task it is on; architectures that need the task are told in any case."""
    conditioned_critic: bool = True
    """Tell the critic which task it is on."""
    normalise_observations: bool = False
    """Normalise observations by running moments."""
    normalise_values: bool = False
    """Let the critic give values standardised by running moments of its targets, a mean and a deviation a
    task. (`ppo.scale_rewards` divides by the deviation of sums of past rewards, and leaves the tasks' means
    as they are.)"""
    squash: bool = False
    """Pass continuous actions through tanh instead of clipping them."""
    initial_log_std: float = FRESH_LOG_STD
    """Logarithm of a Gaussian's deviation before training, where 0 is half of the environment's box."""
    bonus_up_to: float = FRESH_LOG_STD
    """Logarithm of a Gaussian's deviation up to which an entropy bonus is paid."""

    def make(self, family: TaskFamily, **changes: Any) -> Policy:
        """The policy that the settings describe, with changes of fields of `Policy`.

        Raises:
            ConfigError: settings that cannot work.
        """
        if not abs(self.initial_log_std) <= MOST_LOG_STD or math.isnan(self.bonus_up_to):
            raise ConfigError(
                f"policy.initial_log_std = {self.initial_log_std} must lie within {MOST_LOG_STD} of 0, and "
                f"policy.bonus_up_to = {self.bonus_up_to} must be a number"
            )
        options = key_values(self.options, "policy.options:")
        if "hidden" in inspect.signature(pick(NETWORKS, self.network, "policy.network")).parameters:
            options = {"hidden": tuple(self.hidden)} | options
        settings = {
            "squash": self.squash, "conditioned_actor": self.conditioned_actor,
            "conditioned_critic": self.conditioned_critic,
            "normalise_observations": self.normalise_observations,
            "normalise_values": self.normalise_values, "initial_log_std": self.initial_log_std,
            "bonus_up_to": self.bonus_up_to,
        }  # fmt: skip
        return make_policy(family, network=self.network, options=options, **(settings | changes))


def policies_by_name(
    family: TaskFamily, base: Policy, config: PolicyConfig, more: Mapping[str, Policy] | None = None
) -> Mapping[str, Policy]:
    """All policies that rows may name.

    "base" is the run's own, "told" the same with an actor that is told its task, and every architecture of
    `NETWORKS` is told as well, but for those with memory, which find out; ``more`` are one's own.
    """
    told = dataclasses.replace(base, conditioned_actor=True)
    return _ByName(family, config, {"base": base, "told": told} | dict(more or {}))


@dataclass(eq=False)
class _ByName(Mapping[str, Policy]):
    """Policies that were given, and those of the table, which are made as they are asked for: an architecture
    that refuses the family harms nobody who does not name it."""

    family: TaskFamily
    config: PolicyConfig
    made: dict[str, Policy]

    def __getitem__(self, name: str) -> Policy:
        if name not in self.made:
            options = self.config.options if name == self.config.network else ()
            blind = getattr(NETWORKS[name], "has_memory", False) and not self.config.conditioned_actor
            changes: dict[str, Any] = {"network": name, "options": options, "conditioned_actor": not blind}
            self.made[name] = dataclasses.replace(self.config, **changes).make(self.family)
        return self.made[name]

    def __contains__(self, name: object) -> bool:
        return name in self.made or name in NETWORKS

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.made, *NETWORKS]))

    def __len__(self) -> int:
        return len(list(iter(self)))


def check_networks(policy: Policy, family: TaskFamily) -> Agent:
    """Refuse networks that do not fit the family, by tracing them; nothing is computed.

    Returns:
        the shapes and types of an agent of this policy (`jax.ShapeDtypeStruct` for every leaf).

    Raises:
        ConfigError: which network returns what, and what it should return.
    """
    shape = family.observation_space.shape
    context = jnp.zeros(np.shape(family.context))
    obs, told = jnp.zeros(shape), context[0]
    actor, critic = (
        _traced(role, network, inputs, policy.fresh_memory(network))
        for role, network, inputs in (
            ("actor", policy.actor, policy.actor_input(obs, told)),
            ("critic", policy.critic, policy.critic_input(obs, told)),
        )
    )
    agent = jax.eval_shape(lambda key: policy.init(key, shape, context), jax.random.PRNGKey(0))
    size, one = policy.distribution.outputs, not isinstance(policy.distribution, DiagonalGaussian)
    wanted = "logits" if one else "a pair (mean, log_std)"
    leaves = [actor] if one else actor if isinstance(actor, tuple) and len(actor) == 2 else [None]
    if any(getattr(leaf, "shape", None) != (size,) for leaf in leaves):
        found = jax.tree.map(lambda x: list(x.shape), actor)
        raise ConfigError(
            f"for one observation the actor returns arrays of shapes {found}; it must return {wanted} "
            f"of shape {[size]}"
        )
    if not one and not hasattr(policy.actor, "explores"):
        raise ConfigError(
            f"the actor {type(policy.actor).__name__} does not say which of its parameters are exploration: "
            f"give it a method explores(path) -> bool of a parameter's path, a tuple of names, for instance "
            f"path[-1] == 'log_std'; always False if none is"
        )
    if getattr(critic, "shape", None) != ():
        raise ConfigError(
            f"for one observation the critic returns {jax.tree.map(lambda x: list(x.shape), critic)}; "
            f"it must return one value, a scalar"
        )
    return agent


def _traced(role: str, network: nn.Module, inputs: Array | Seen, memory: Memory | None) -> PyTree:
    """Shapes and types of what a network returns, but for its state; ConfigError if it cannot be applied."""
    obs, context = _arguments(inputs)
    also = _if_any(memory)

    def applied(key: jax.Array) -> PyTree:
        found = network.apply(network.init(key, obs, context, *also), obs, context, *also)
        return found[0] if also else found

    try:
        return jax.eval_shape(applied, jax.random.PRNGKey(0))
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        raise ConfigError(
            f"the {role} {type(network).__name__} cannot be called with (obs, context), an observation of "
            f"shape {list(obs.shape)} and the context {_told(context)}: {_reason(error)}"
        ) from error


def _told(context: Array | None) -> str:
    """A context in words."""
    return "None" if context is None else f"float {list(context.shape)}"


def _reason(error: Exception) -> str:
    """An error in one line."""
    return str(error).strip().split("\n")[0]


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


def explore_afresh(policy: Policy, agent: Agent, fresh: Agent, *, alone: bool = False) -> Agent:
    """The agent with the exploration of a fresh one, all else as it was.

    Where tasks pull apart, a Gaussian policy for all of them settles on a compromise and stops
    exploring; what continues it must explore again to leave that. Replaced are the actor's parameters
    that it says are exploration, and for a task that is ``alone`` from now on also those that settle its
    mean (see `learn.networks`).
    """
    known = (getattr(policy.actor, name, None) for name in ("explores", "settles")[: 1 + alone])
    asked = [question for question in known if question is not None]

    def choose(path: tuple[Any, ...], settled: Array, new: Array) -> Array:
        return new if any(question(_names(path)) for question in asked) else settled

    return with_policy_params(agent, jax.tree_util.tree_map_with_path(choose, agent.actor, fresh.actor))


def tell(agent: Agent, fresh: Agent) -> Agent:
    """The agent of a blind actor, told its task: weights of the context are zero, so that it acts as it did.

    Args:
        agent: what it knows.
        fresh: an agent of the same networks that is told its task; where its parameters have more rows, they
            are those of the context, which comes last (`networks.torso`).

    Raises:
        ConfigError: its parameters differ by more than rows.
    """
    own, wide = (jax.tree.structure(x.actor) for x in (agent, fresh))
    if own != wide:  # type: ignore[operator]  # of a type that has no stubs
        raise ConfigError(
            "an actor that is told its task has not the blind one's parameters, and cannot go on from it; "
            "give both one architecture"
        )

    def widened(path: tuple[Any, ...], own: Array, wide: Array) -> Array:
        more = np.shape(wide)[0] - np.shape(own)[0] if np.ndim(wide) else 0
        if np.ndim(own) != np.ndim(wide) or np.shape(own)[1:] != np.shape(wide)[1:] or more < 0:
            where = "/".join(_names(path))
            raise ConfigError(
                f"an actor that is told its task has {where} of shape {np.shape(wide)}, and a blind one of "
                f"{np.shape(own)}: it cannot go on from it"
            )
        return jnp.concatenate([jnp.asarray(own), jnp.zeros((more, *np.shape(own)[1:]))]) if more else own

    return with_policy_params(agent, jax.tree_util.tree_map_with_path(widened, agent.actor, fresh.actor))


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along a parameter's path, without the collection that Flax puts first."""
    names = tuple(str(getattr(part, "key", part)) for part in path)
    return names[1:] if names[:1] == ("params",) else names
