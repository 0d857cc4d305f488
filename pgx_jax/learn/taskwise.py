"""PPO by gradients of single tasks (`learn.surgery`): PCGrad, CAGrad, FAMO and GradNorm."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Int

from pgx_jax.errors import ConfigError
from pgx_jax.learn.learner import LEARNERS, RowTasks, check_ranges
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.ppo import PPO, Batch, terms
from pgx_jax.learn.surgery import (
    Tasks,
    Weighting,
    cagrad,
    famo,
    gradnorm,
    matrix,
    mean,
    pcgrad,
    products,
    together,
)
from pgx_jax.types import Agent, Array, Key, PyTree


class Memory(NamedTuple):
    """What is remembered between gradient steps. A policy that continues another one begins afresh."""

    adam: PyTree
    states: tuple[PyTree, PyTree]
    """Of the actor's and the critic's `Weighting`."""
    again: Float[Array, "n"]
    """Losses of the last minibatch after its step, if they are asked for."""


@struct.dataclass
class Taskwise(PPO):
    """PPO whose gradients are put together from those of the row's tasks, by `weightings`.

    A task's loss is the mean over its transitions of a minibatch; tasks that a minibatch has none of are
    left out of its step. Actor and critic share no parameters, so each of them is put together by itself.
    A row of one task learns as by PPO, but for rounding.

    The losses by which a method tells how far a task is are the critic's squared errors, for actor and
    critic. The actor's would not do: of standardised advantages, they begin at zero and may be negative. So
    the critic is trained even where advantages do not need it.
    """

    critic = True

    def weightings(self) -> tuple[Weighting, Weighting]:
        """Of the actor's and of the critic's gradients."""
        raise NotImplementedError

    def check(self, n: int = 1, name: str | None = None) -> None:
        """Refuse settings that cannot work for rows of up to n tasks (see `Learner.check`)."""
        name = name or type(self).__name__.lower()
        if type(self).weightings is Taskwise.weightings:
            raise ConfigError(f"the learner {name!r} has no method weightings of its own; write one")
        super().check(n, name)

    def begin(self, policy: Policy, agent: Agent) -> PyTree:
        """The states of Adam and of the methods."""
        n = len(agent.reward.mean)
        actor, critic = self.weightings()
        return Memory(super().begin(policy, agent), (actor.init(n), critic.init(n)), jnp.zeros(n))

    def direction(
        self,
        policy: Policy,
        row: RowTasks,
        params: tuple[PyTree, PyTree],
        batch: Batch,
        memory: Memory,
        key: Key,
    ) -> tuple[Array, Memory]:
        """Clipped and scaled by Adam, from all tasks' losses on a minibatch."""
        methods, n = self.weightings(), len(row.member)
        if any(method.compares for method in methods):
            own, losses, present = self._apart(policy, params, batch, n)
            seen = [Tasks(present, losses, memory.again, products(gradients), key) for gradients in own]
            weights, states = _weigh(methods, seen, memory.states, key)
            gradient = jnp.concatenate([together(*pair) for pair in zip(weights, own, strict=True)])
        else:  # the gradient of one weighted loss, however many tasks there are
            share, present = shares(batch.task, n)
            _, pull, error = jax.vjp(lambda params: self._losses(policy, params, batch), params, has_aux=True)
            tasks = Tasks(present, share @ error, memory.again, None, key)
            weights, states = _weigh(methods, [tasks, tasks], memory.states, key)
            (parts,) = pull(tuple(w @ share for w in weights))
            gradient = ravel_pytree(parts)[0]
        step, adam = self.optimiser().update(gradient, memory.adam)
        return step, memory._replace(adam=adam, states=states)

    def _losses(
        self, policy: Policy, params: tuple[PyTree, PyTree], batch: Batch
    ) -> tuple[tuple[Array, Array], Array]:
        """The actor's and the critic's of each transition [B], and squared errors [B]."""
        error, objective, bonus = terms(params, policy, self, batch)
        return (-objective - self.entropy * bonus, self.value * error), error

    def _apart(
        self, policy: Policy, params: tuple[PyTree, PyTree], batch: Batch, n: int
    ) -> tuple[tuple[Array, Array], Array, Array]:
        """Gradients [n, p] of the actor's and of the critic's losses, of every task; squared errors [n]; and
        which tasks there are, bool [n]."""

        def loss(params: tuple[PyTree, PyTree], part: Batch, weight: Array) -> tuple[Array, Array]:
            (actor, critic), error = self._losses(policy, params, part)
            return weight @ (actor + critic), weight @ error

        index, weight, task = blocks(batch.task, n)
        parts = jax.tree.map(lambda x: x[index], batch)
        of_blocks = jax.vmap(jax.grad(loss, has_aux=True), (None, 0, 0))
        (actor, critic), errors = of_blocks(params, parts, weight)
        sums = (jnp.arange(n)[:, None] == task) * 1.0
        own = [jnp.matmul(sums, matrix(part), precision="highest") for part in (actor, critic)]
        return (own[0], own[1]), sums @ errors, (batch.task == jnp.arange(n)[:, None]).any(1)

    def look_back(
        self, policy: Policy, row: RowTasks, params: tuple[PyTree, PyTree], batch: Batch, memory: Memory
    ) -> Memory:
        """Remembers the losses of a minibatch as they are after its step, where a method asks for them."""
        if not any(w.looks_back for w in self.weightings()):
            return memory
        error, _, _ = terms(params, policy, self, batch)
        share, _ = shares(batch.task, len(row.member))
        return memory._replace(again=share @ error)


def shares(task: Int[Array, "B"], n: int) -> tuple[Float[Array, "n B"], Bool[Array, "n"]]:
    """Equal parts of 1 for the transitions of each task, and which tasks have any."""
    own = task == jnp.arange(n)[:, None]
    count = own.sum(1)
    return own / jnp.maximum(count, 1)[:, None], count > 0


def blocks(task: Int[Array, "B"], n: int) -> tuple[Int[Array, "M b"], Float[Array, "M b"], Int[Array, "M"]]:
    """Transitions in blocks of one task each, so that the gradients of all tasks cost about two of the whole
    batch, not n.

    A task fills blocks of b = B / n places; its last one may have free places. So M = 2 n blocks do,
    however many transitions each task has.

    Returns:
        The transition of each place, its weight (a task's sum is 1; 0 where the place is free), and the
        task of each block.
    """
    size = -(-len(task) // n)
    count = (task == jnp.arange(n)[:, None]).sum(1)
    end = jnp.cumsum(-(-count // size))
    order = jnp.argsort(task, stable=True)
    own = task[order]
    among = jnp.arange(len(task)) - (jnp.cumsum(count) - count)[own]
    number = len(task) // size + n
    place = (end - -(-count // size))[own] * size + among
    index = jnp.zeros(number * size, int).at[place].set(order).reshape(number, size)
    weight = jnp.zeros(number * size).at[place].set(1.0 / count[own]).reshape(number, size)
    return index, weight, jnp.searchsorted(end, jnp.arange(number), side="right")


def _weigh(
    methods: tuple[Weighting, Weighting], seen: list[Tasks], states: tuple[PyTree, PyTree], key: Key
) -> tuple[tuple[Array, Array], tuple[PyTree, PyTree]]:
    """Weights [n] of actor's and critic's gradients, and the states after."""
    keys = jax.random.split(key)
    actor, critic = (
        method.weigh(tasks._replace(key=key), state)
        for method, tasks, state, key in zip(methods, seen, states, keys, strict=True)
    )
    return (actor[0], critic[0]), (actor[1], critic[1])


@struct.dataclass
class PCGrad(Taskwise):
    """PPO by `surgery.pcgrad`."""

    def weightings(self) -> tuple[Weighting, Weighting]:
        """For both."""
        return pcgrad(), pcgrad()


@struct.dataclass
class CAGrad(Taskwise):
    """PPO by `surgery.cagrad`."""

    c: float = 0.4
    """How far from the mean gradient, relative to its length; 0 is the mean."""

    def weightings(self) -> tuple[Weighting, Weighting]:
        """For both."""
        return cagrad(self.c), cagrad(self.c)

    def check(self, n: int = 1, name: str | None = None) -> None:
        """Refuse settings that cannot work for rows of up to n tasks (see `Learner.check`)."""
        super().check(n, name)
        check_ranges(self, name or "cagrad", {"0 or more": ("c",)})


@struct.dataclass
class FAMO(Taskwise):
    """PPO by `surgery.famo`, of the critic's losses alone; the actor's gradient is the mean.

    FAMO takes logarithms of losses, and an actor's may be negative. In reinforcement learning its authors
    weigh the critic alone: in SAC on Meta-World (github.com/Cranial-XIX/FAMO, mtrl_files; rate and decay are
    of there) and in PPO (Joshi et al., 2025, arXiv:2507.23172, github.com/Viraj-Joshi/MTBench; epsilon is of
    there). The latter compares losses of one minibatch and the next; here it is the same one before and after
    its step, as in the paper: the noise between two is much more than what a step gains.
    """

    weight_rate: float = 0.025
    """Step size of Adam on the tasks' logits."""
    weight_decay: float = 0.01
    """Pulls the logits back to equal weights."""
    epsilon: float = 0.01
    """Added to squared errors before their logarithm."""

    def weightings(self) -> tuple[Weighting, Weighting]:
        """The mean, and FAMO."""
        return mean(), famo(self.weight_rate, self.weight_decay, self.epsilon)

    def check(self, n: int = 1, name: str | None = None) -> None:
        """Refuse settings that cannot work for rows of up to n tasks (see `Learner.check`)."""
        super().check(n, name)
        ranges = {"0 or more": ("weight_rate", "weight_decay"), "positive": ("epsilon",)}
        check_ranges(self, name or "famo", ranges)


@struct.dataclass
class GradNorm(Taskwise):
    """PPO by `surgery.gradnorm`."""

    alpha: float = 0.12
    """How much more tasks count whose critic learns slowly; 0 makes all gradients equally long."""
    weight_rate: float = 0.025
    """Step size of Adam on the tasks' weights."""

    def weightings(self) -> tuple[Weighting, Weighting]:
        """For both."""
        return gradnorm(self.alpha, self.weight_rate), gradnorm(self.alpha, self.weight_rate)

    def check(self, n: int = 1, name: str | None = None) -> None:
        """Refuse settings that cannot work for rows of up to n tasks (see `Learner.check`)."""
        super().check(n, name)
        check_ranges(self, name or "gradnorm", {"0 or more": ("alpha", "weight_rate")})


LEARNERS |= {"pcgrad": PCGrad, "cagrad": CAGrad, "famo": FAMO, "gradnorm": GradNorm}
