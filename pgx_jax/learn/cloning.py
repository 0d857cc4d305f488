"""Policies that begin with what experts show: behaviour cloning (Pomerleau, 1989).

A policy that has learnt so is initialised by demonstrations, whose steps count as any others, and is no
stationary point of the objective of reinforcement learning: train it on before its gradients are read.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int, Num

from pgx_jax.errors import ConfigError
from pgx_jax.learn.distributions import DiagonalGaussian
from pgx_jax.learn.host.acting import Acting
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.shuffling import orders
from pgx_jax.steady import compiled
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, Key, Moments, PyTree


class Demonstrations(NamedTuple):
    """What experts did on the tasks of a family, N steps in all."""

    obs: Num[np.ndarray, "N *shape"]
    """float32 [N, *observation shape]."""
    action: Float[np.ndarray, "N size"]
    """float32 [N, size]: the experts' actions, where [-1, 1] is the environment's box."""
    task: Int[np.ndarray, "N"]
    """int [N]."""
    success: Float[np.ndarray, "n"]
    """float [n]: part of each task's episodes that succeeded in any step."""

    def also(self, other: Demonstrations) -> Demonstrations:
        """These and others; ``success`` is of these alone."""
        obs, action, task = (np.concatenate(pair) for pair in zip(self[:3], other[:3], strict=True))
        return Demonstrations(obs, action, task, self.success)


class Cloned(NamedTuple):
    """An agent that begins with what experts have shown."""

    agent: Agent
    """Parameters without a leading axis."""
    steps: Int[np.ndarray, ""]
    """int []: environment steps that were shown."""
    success: Float[np.ndarray, "n"]
    """float [n], as `Demonstrations.success`."""


def demonstrate(
    policy: Policy,
    family: TaskFamily,
    key: Key,
    *,
    episodes: int = 50,
    noise: float = 0.0,
    agent: Agent | None = None,
) -> Demonstrations:
    """What the experts of a host family do (``expert(task)`` of its environment: obs -> action).

    To states to which their actions alone do not lead, noise does (Laskey et al., 2017), or an agent that
    acts in their stead and is told what they would have done (DAgger: Ross et al., 2011).

    Args:
        policy, family: of continuous actions, and of the host engine.
        key: PRNG key of starts and noise.
        episodes: of each task, whole ones.
        noise: deviation of what is added to the experts' actions, where 1 is half of the box.
        agent: acts instead of the experts; parameters without a leading axis.

    Raises:
        ConfigError: the family has no experts, or no continuous actions.
        DataError: an environment raised or returned nonsense.
    """
    dist = check_demonstrable(policy, family)
    tasks, index = Tasks.of(family), np.repeat(np.arange(family.n), episodes)
    experts = [family.env.expert(params) for params in tasks.params]  # type: ignore[union-attr]
    half = np.subtract(dist.high, dist.low) / 2
    rng, (reset_key, act_key) = np.random.default_rng(np.asarray(key)), jax.random.split(key)
    acting = Acting(policy, family, 1, len(index), vectors=False, remedy="lower episodes")
    records: list[tuple[np.ndarray, ...]] = []
    try:
        acting.enter(0, tasks, index, np.asarray(family.context, np.float32)[index], reset_key)
        own = None if agent is None else jax.tree.map(lambda x: jnp.asarray(x)[None], agent)
        choose = None if own is None else acting.chooser(own, act_key[None])

        def show(t: int, running: np.ndarray) -> np.ndarray:
            wanted = np.stack([experts[i](o) for i, o in zip(index, acting.obs, strict=True)])
            shown = np.clip((wanted - dist.low) / half - 1, -1, 1).astype(np.float32)
            records.append((acting.obs[running], shown[running], index[running]))
            noisy = dist.to_env(shown + noise * rng.normal(size=shown.shape))
            return np.asarray(noisy, np.float32) if choose is None else choose(t)[1]

        acting.play_out(np.ones(len(index), bool), show)
    finally:
        acting.close()
    obs, action, task = (np.concatenate(parts) for parts in zip(*records, strict=True))
    return Demonstrations(obs, action, task, acting.solved.reshape(family.n, episodes).mean(1))


def clone(
    policy: Policy,
    family: TaskFamily,
    agent: Agent,
    shown: Demonstrations,
    key: Key,
    *,
    epochs: int = 20,
    batch: int = 1024,
    learning_rate: float = 1e-3,
) -> Agent:
    """Fit an agent's actor to demonstrations by maximum likelihood, with Adam at a rate that falls to 0 (a
    half cosine). Its observations are normalised by the moments of those that were shown; the critic is left
    as it is.

    Args:
        policy, family, agent: the networks and their parameters, without a leading axis.
        shown: of the same family.
        key: PRNG key of the order.
        epochs: passes over all that was shown.
        batch: steps of a minibatch, at most all.
        learning_rate: at the start.

    Raises:
        ConfigError: a policy of discrete actions, or no minibatch.
    """
    _continuous(policy)
    size = len(shown.task)
    width = min(batch, size)
    if width < 1 or epochs < 1:
        raise ConfigError(f"nothing to learn from {size} steps with batch = {batch} and epochs = {epochs}")
    count = np.full(shown.obs.shape[1:], size, np.float32)
    moments = Moments(shown.obs.mean(0), shown.obs.var(0), count)
    agent = agent._replace(observation=jax.tree.map(jnp.asarray, moments))
    per_epoch = size // width
    data = (shown.obs, shown.action, np.asarray(family.context, np.float32)[shown.task])
    rate = optax.cosine_decay_schedule(learning_rate, epochs * per_epoch)
    fitted = (agent.actor, optax.scale_by_adam().init(agent.actor))
    order = np.asarray(orders(key, size, epochs))[:, : width * per_epoch].reshape(epochs, per_epoch, width)
    for epoch, index in enumerate(order):
        rates = rate(np.arange(epoch * per_epoch, (epoch + 1) * per_epoch))
        fitted = _epoch(policy, agent, fitted, data, index, rates)
    return agent._replace(actor=fitted[0])


def check_demonstrable(policy: Policy, family: TaskFamily) -> DiagonalGaussian:
    """The policy's distribution, if the family has experts whose actions it can learn; ConfigError else."""
    if family.engine != "host" or not hasattr(family.env, "expert"):
        raise ConfigError(f"family {family.name!r} has no experts: its environment lacks expert(task)")
    return _continuous(policy)


def _continuous(policy: Policy) -> DiagonalGaussian:
    """The policy's distribution, if its actions are what is shown; ConfigError else."""
    dist = policy.distribution
    if not isinstance(dist, DiagonalGaussian) or dist.squash:
        raise ConfigError(
            "demonstrations are of continuous actions that are clipped to their box; take such a policy "
            "(policy.squash = False)"
        )
    return dist


@partial(compiled, static_argnames=("policy",))
def _epoch(
    policy: Policy,
    agent: Agent,
    fitted: tuple[PyTree, PyTree],
    data: tuple[Array, Array, Array],
    index: Array,
    rates: Array,
) -> tuple[PyTree, PyTree]:
    """Gradient steps on minibatches ``index`` int [B, width]; ``fitted`` are parameters and Adam's state."""

    def loss(actor: PyTree, part: tuple[Array, Array, Array]) -> Array:
        obs, action, context = part
        inputs = policy.actor_input(policy.normalise(agent, obs), context)
        return -jnp.mean(jax.vmap(policy.log_prob, (None, 0, 0))(actor, inputs, action))

    def step(fitted: tuple[PyTree, PyTree], at: tuple[Array, Array]) -> tuple[tuple[PyTree, PyTree], None]:
        (actor, memory), (chosen, rate) = fitted, at
        gradient = jax.grad(loss)(actor, jax.tree.map(lambda x: x[chosen], data))
        direction, memory = optax.scale_by_adam().update(gradient, memory)
        return (jax.tree.map(lambda p, d: p - rate * d, actor, direction), memory), None

    return jax.lax.scan(step, fitted, (index, rates))[0]
