"""Any gymnax environment as a device environment, and families of tasks that vary its parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnax.environments.classic_control import cartpole as gymnax_cartpole  # noqa: F401  (for cartpole)
from gymnax.environments.spaces import Box, gymnax_space_to_gym_space

from envs import classic_drawing, common, plain_spaces
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import Step, TaskFamily
from pgx_jax.types import Array, PyTree

_DERIVED = {
    "CartPole-v1": {
        "total_mass": lambda p: p.masscart + p.masspole,
        "polemass_length": lambda p: p.masspole * p.length,
    },
}
"""Parameters that gymnax stores beside those they follow from: env id -> name -> formula."""

_DRAW = {
    "CartPole-v1": classic_drawing.cartpole,
    "Pendulum-v1": classic_drawing.pendulum,
    "Acrobot-v1": classic_drawing.acrobot,
    "MountainCar-v0": classic_drawing.mountain_car,
    "MountainCarContinuous-v0": classic_drawing.mountain_car,
}
"""The environments that can be drawn."""


@functools.cache
def _make(env_id: str):
    """Return gymnax's (environment, default parameters); ConfigError for an unknown id."""
    try:
        return gymnax.make(env_id)
    except ValueError as error:
        near = common.nearest(env_id, gymnax.registered_envs)
        raise ConfigError(f"gymnax has no environment {env_id!r}{near}") from error


@functools.cache
def _seen(env_id: str) -> spaces.Space:
    """What gymnax's environment observes, at its default parameters."""
    env, default = _make(env_id)
    return gymnax_space_to_gym_space(env.observation_space(default))


@dataclass(frozen=True)
class GymnaxEnv:
    """A gymnax environment without its automatic reset and its time limit. Observations that are no Box are
    flattened to one (`plain_spaces.flat`).

    A task is the environment's own parameter record, its leaves arrays (see gymnax_family); its
    ``max_steps_in_episode`` ends nothing here. Actions outside of a Box are clipped into it.

    Attributes:
        env_id: gymnax's name of the environment.
    """

    env_id: str

    def reset(self, key: Array, task: PyTree) -> tuple[PyTree, Array]:
        """Return gymnax's initial (state, obs), obs as float32."""
        obs, state = _make(self.env_id)[0].reset_env(key, task)
        return common.strong(state), self.observed(obs)

    def observed(self, obs: PyTree) -> Array:
        """An observation as one array, float32."""
        with jax.ensure_compile_time_eval():
            space = _seen(self.env_id)
        return jnp.asarray(
            obs if isinstance(space, spaces.Box) else plain_spaces.flat(space, obs), jnp.float32
        )

    def step(self, key: Array, state: PyTree, action: Array, task: PyTree) -> Step:
        """Advance by one action; the state keeps the types that it had at the reset."""
        env, _ = _make(self.env_id)
        space = env.action_space(task)
        if isinstance(space, Box):
            action = jnp.clip(action, space.low, space.high)
        obs, after, reward, terminated, _ = env.step_env(key, state, action, task)
        after = common.typed_like(after, state)
        reward = jnp.asarray(reward, jnp.float32)
        return Step(after, self.observed(obs), reward, jnp.asarray(terminated, bool))


def gymnax_family(
    env_id: str,
    params: Mapping[str, Sequence] | None = None,
    *,
    n_tasks: int | None = None,
    horizon: int | None = None,
    name: str | None = None,
    task_names: Sequence[str] | None = None,
    true_groups: Sequence[int] | None = None,
    sample_test_tasks: Callable[[Array, int], PyTree] | None = None,
) -> TaskFamily:
    """Build a family of tasks that differ by parameters of a gymnax environment.

    Args:
        env_id: gymnax's name of the environment, for example "Pendulum-v1".
        params: The parameters that differ from the defaults: a sequence of n values each, or one
            value for all tasks. CartPole's total mass and mass-length follow unless given.
        n_tasks: Number of tasks; needed only where ``params`` doesn't tell. Tasks may be equal.
        horizon: Time limit of an episode, in steps; gymnax's own by default.
        name: The family's name; the environment's by default.
        task_names: n distinct names; made from the varied parameters by default.
        true_groups: int [n] planted labels, where known.
        sample_test_tasks: (key, count) -> parameters with a leading axis ``count``.

    Raises:
        ConfigError: for an unknown environment or parameter, values that don't agree on n, action
            spaces that differ between tasks, or that no policy has actions for.
    """
    env, default = _make(env_id)
    given = {key: np.asarray(value) for key, value in (params or {}).items()}
    n = _count(env_id, default, given, n_tasks)
    if horizon is None:
        horizon = int(default.max_steps_in_episode)
    horizon = common.integer("horizon", horizon, 1)
    tasks = _tasks(env_id, default, {**given, "max_steps_in_episode": np.asarray(horizon)}, n)
    observation_space, action_space = _spaces(env_id, env, tasks, n)
    if task_names is None:
        varied = {k: v for k, v in given.items() if v.ndim == 1 and np.ndim(getattr(default, k)) == 0}
        labels = [[f"{k}{v[i]:.3g}" for k, v in varied.items()] for i in range(n)]
        task_names = ["_".join([f"task{i}", *label]) for i, label in enumerate(labels)]
    return TaskFamily(
        name=name or env_id,
        task_names=tuple(task_names),
        env=GymnaxEnv(env_id),
        tasks=tasks,
        observation_space=observation_space,
        action_space=action_space,
        horizon=horizon,
        sample_test_tasks=sample_test_tasks,
        true_groups=None if true_groups is None else common.canonical(np.asarray(true_groups)),
        settings={"env_id": env_id, "horizon": horizon, **{k: v.tolist() for k, v in given.items()}},
        draw=_DRAW.get(env_id),
    )


def _count(env_id: str, default, given: Mapping[str, np.ndarray], n_tasks: int | None) -> int:
    """Return n, checking that the parameters exist and agree on it."""
    counts = {} if n_tasks is None else {"n_tasks": common.integer("n_tasks", n_tasks, 2)}
    for key, value in given.items():
        if not hasattr(default, key):
            known = list(vars(default))
            hint = common.nearest(key, known)
            raise ConfigError(f"{env_id} has no parameter {key!r}{hint}; it has: {', '.join(known)}")
        shape = np.shape(getattr(default, key))
        if value.shape[1:] == shape and value.ndim == len(shape) + 1:
            counts[key] = len(value)
        elif value.shape != shape:
            raise ConfigError(
                f"parameter {key!r} of {env_id} has shape {value.shape}; give shape {shape} for all tasks, "
                "or the same behind an axis n"
            )
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{key}: {count}" for key, count in counts.items()) or "nothing tells it"
        raise ConfigError(f"the number of tasks of {env_id} is unclear: {told}; set n_tasks or mend them")
    return common.integer("n_tasks", next(iter(counts.values())), 2)


def _tasks(env_id: str, default, given: Mapping[str, np.ndarray], n: int) -> PyTree:
    """Return the parameter record with arrays [n, ...] in place of its numbers."""

    def spread(old, new):
        kinds = np.asarray(old).dtype.kind + np.asarray(new).dtype.kind
        if not set(kinds) <= set("biuf"):
            raise ConfigError(f"parameters of {env_id} are numbers, got {new!r}")
        dtype = np.float32 if "f" in kinds else np.bool_ if kinds == "bb" else np.int32
        return np.broadcast_to(np.asarray(new, dtype), (n, *np.shape(old))).copy()

    fields = jax.tree.map(lambda leaf: spread(leaf, leaf), vars(default))
    for key, value in given.items():
        fields[key] = spread(getattr(default, key), value)
    tasks = default.replace(**fields)
    derived = {k: f(tasks).astype(np.float32) for k, f in _DERIVED.get(env_id, {}).items() if k not in given}
    return tasks.replace(**derived)


def _spaces(env_id: str, env, tasks: PyTree, n: int) -> tuple[spaces.Box, spaces.Space]:
    """Return the smallest Box that holds all tasks' observations, and their one action space."""
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], tasks) for i in range(n)]
    seen = [plain_spaces.observed(gymnax_space_to_gym_space(env.observation_space(task))) for task in each]
    acted = [gymnax_space_to_gym_space(env.action_space(task)) for task in each]
    for i, space in enumerate(acted):
        if space != acted[0]:
            raise ConfigError(
                f"task {i} of {env_id} has the action space {space}, task 0 has {acted[0]}: all tasks must "
                "share one; leave the parameter that bounds the actions alone"
            )
    low = np.min([np.asarray(s.low, np.float32) for s in seen], axis=0)
    high = np.max([np.asarray(s.high, np.float32) for s in seen], axis=0)
    return spaces.Box(low, high, seen[0].shape, np.float32), acted[0]
