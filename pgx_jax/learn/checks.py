"""A learner is tried out before anything is trained: its methods are traced, and nothing is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.errors import ConfigError
from pgx_jax.learn.learner import COUNT, Learner, Learning, RowTasks
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Steps
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree

STATIC = (
    "num_envs", "num_steps", "scale_rewards", "critic", "baseline", "limits_end", "measures",
    "phases", "remembers", "adaptation_steps", "adaptation_envs",
)  # fmt: skip
"""Settings of every learner that shape programs, or decide between two."""

_METHODS = ("check", "steps_per_update", "begin", "per_slot", "acting", "learn", "adapt")
_HOW = "declare it as a static field, NAME: TYPE = flax.struct.field(pytree_node=False, default=...)"


def check_form(learner: Learner, name: str) -> None:
    """Refuse what is no learner: a class, settings that cannot be passed to programs, missing methods.

    Raises:
        ConfigError: naming the learner, what it lacks and the remedy.
    """
    who = f"the learner {name!r}"
    if isinstance(learner, type):
        raise ConfigError(f"{who} is a class; give one of its kind, {learner.__name__}()")
    who = f"{who} ({type(learner).__name__})"
    lacking = [x for x in (*Learner.__annotations__, *_METHODS) if not hasattr(learner, x)]
    if lacking:
        raise ConfigError(f"{who} has no {', '.join(lacking)}; derive it from pgx_jax.learn.Learner")
    if not dataclasses.is_dataclass(learner) or jax.tree_util.all_leaves([learner]):
        raise ConfigError(f"{who} must be a flax.struct.dataclass; decorate its class")
    if not isinstance(learner.phases, Integral) or learner.phases < 1:
        raise ConfigError(f"{who}: its phases = {learner.phases!r} must be {COUNT}")
    for field in dataclasses.fields(learner):
        setting, value = field.name, getattr(learner, field.name)
        traced = field.metadata.get("pytree_node", True)
        if traced and (setting in STATIC or not all(map(_is_number, jax.tree.leaves(value)))):
            raise ConfigError(f"{who}: its {setting} cannot be traced; {_HOW}")
        if not traced and not _is_hashable(value):
            raise ConfigError(f"{who}: its {setting} must be hashable, as it is static; give lists as tuples")
    needed = {
        "learn": "nothing trains without it",
        "acting": "a phase is per_slot" if any(map(learner.per_slot, range(learner.phases))) else "",
        "adapt": f"adaptation_steps is {learner.adaptation_steps}" if learner.adaptation_steps else "",
    }
    for method, reason in needed.items():
        if reason and getattr(type(learner), method) is getattr(Learner, method):
            raise ConfigError(f"{who} has no method {method} of its own, but {reason}; write one")


def check_memory(learner: Learner, policy: Policy, name: str) -> None:
    """Refuse a policy with memory where the learner knows none, and one without where it needs it.

    Raises:
        ConfigError: naming the learner, the network and the remedy.
    """
    if policy.remembers == learner.remembers:
        return
    network = type(policy.actor).__name__
    if policy.remembers:
        raise ConfigError(
            f"the learner {name!r} knows no memory, and the network {network} has one; take one without, "
            f"or the learner 'rl2', for instance by --baselines gru/rl2"
        )
    raise ConfigError(
        f"the learner {name!r} trains networks with memory, and {network} has none; take another learner, or "
        f"the network 'gru', for instance by --baselines gru/rl2"
    )


def check_learner(learner: Learner, policy: Policy, family: TaskFamily, agent: Agent, name: str) -> None:
    """Refuse a learner whose methods fail, or return what cannot be gone on with.

    Args:
        learner: of the right form (`check_form`).
        policy, family: with which it will be used.
        agent: shapes and types of the policy's agents (`policy.check_networks`).
        name: of the learner, for messages.

    Raises:
        ConfigError: naming the learner, the method and the remedy.
    """
    envs, key = learner.num_envs, _array((2,), jnp.uint32)
    context = _array(np.shape(family.context))
    row = RowTasks(context, _array((family.n,), bool), _array((envs,), int), _array((), int))

    def traced(method: str, *args: PyTree) -> PyTree:
        call: Callable[..., PyTree] = lambda learner, *args: getattr(learner, method)(policy, *args)  # noqa: E731
        try:
            return jax.eval_shape(call, learner, *args)
        except Exception as error:
            raise ConfigError(f"the learner {name!r}: {method} raised {_told(error)}") from error

    def check_same(method: str, found: PyTree, wanted: PyTree) -> None:
        own, other = _shapes(found), _shapes(wanted)
        where = next((x for x in {**other, **own} if own.get(x) != other.get(x)), None)
        if where is not None:
            differs = f"{where} is {own.get(where, 'missing')}, not {other.get(where, 'missing')}"
        elif str(jax.tree.structure(found)) != str(jax.tree.structure(wanted)):
            differs = "its arrays are held by tuples, lists or records of another kind"
        else:
            return
        raise ConfigError(f"the learner {name!r}: {method} returns another record than it must: {differs}")

    known = _array((len(learner.measures),))
    learning = Learning(agent, traced("begin", agent), _array((), int), known)
    steps: tuple[Steps, ...] = ()
    for phase in range(learner.phases):
        if learner.per_slot(phase):
            actors = jax.tree.map(lambda x: _array((envs, *x.shape), x.dtype), agent.actor)
            check_same("acting", traced("acting", row, learning, steps), actors)
        steps += (_steps(policy, family, agent, learner.num_steps, envs),)
        check_same("learn", traced("learn", row, learning, steps, key), learning)
    if learner.adaptation_steps:
        envs = learner.adaptation_envs
        done = _steps(policy, family, agent, learner.adaptation_length, envs)
        check_same("adapt", traced("adapt", agent, _array(context.shape[1:]), done, key), agent)


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float | np.ndarray | np.generic | jax.Array)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _array(shape: tuple[int, ...], dtype: Any = float) -> Any:
    """What stands for an array where a function is traced."""
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))


def _shapes(tree: PyTree) -> dict[str, str]:
    """Shape and type of every leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def _steps(policy: Policy, family: TaskFamily, agent: Agent, length: int, envs: int) -> Steps:
    """Shapes and types of what ``envs`` slots do in ``length`` steps."""
    space, lead = family.observation_space, (length, envs)

    def act(agent: Agent, obs: Array, context: Array, key: Array) -> Array:
        inputs = policy.actor_input(policy.normalise(agent, obs), context)
        params, _ = policy.choose(agent.actor, inputs, policy.begin(agent, jnp.zeros((), int)))
        return policy.distribution.sample(key, params)

    one, told = _array(space.shape, space.dtype), _array(np.shape(family.context)[1:])
    action = jax.eval_shape(act, agent, one, told, _array((2,), jnp.uint32))
    obs, number, flag = (_array((*lead, *x.shape), x.dtype) for x in (one, _array(()), _array((), bool)))
    rewards = None if family.objectives is None else _array((*lead, family.objectives.shape[1]))
    action = _array((*lead, *action.shape), action.dtype)
    age = _array(lead, jnp.int32)
    return Steps(obs, action, number, obs, flag, flag, number, number, flag, rewards, age)


def _told(error: Exception) -> str:
    """An error in one line, and the remedy where a setting should have been static."""
    words = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    traced = isinstance(error, jax.errors.ConcretizationTypeError) or "oncrete" in str(error)
    return (
        f"{words}; if it is a setting that shapes programs or decides a branch, {_HOW}" if traced else words
    )
