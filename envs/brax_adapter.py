"""Any Brax environment as a device environment, and families that vary its physics or reward weights.

Brax is imported when the first environment is made: it takes seconds, and needs the extra ``brax``.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from envs import brax_drawing, brax_physics, common
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import Step, TaskFamily
from pgx_jax.tasks.checks import raised
from pgx_jax.types import Array, PyTree

BACKENDS = ("generalized", "positional", "spring", "mjx")


class BraxTask(NamedTuple):
    """What a task changes of a Brax environment. All may be empty; float32 arrays."""

    scale: dict[str, Array]
    """Factors [] on quantities (see ``brax_physics.QUANTITIES``) or on fields of the System."""
    system: dict[str, Array]
    """Fields of the System by dotted name, in brax's own units, of the fields' shapes."""
    attributes: dict[str, Array]
    """Numbers that the environment's constructor takes, such as reward weights."""


@contextlib.contextmanager
def _quiet():
    """Keep back what brax and MuJoCo say while they are imported and load a model: that they lack
    optional packages, that brax is in maintenance, that its models use deprecated attributes."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import mujoco  # here: it takes seconds, and comes with the extra "brax" alone

        heard = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(lambda message: None)  # it would write to a file MUJOCO_LOG.TXT
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(heard)


@functools.cache
def _brax() -> ModuleType:
    """Return brax.envs; ConfigError if it is not installed."""
    try:
        with _quiet():
            import brax.envs  # here, as mujoco
    except ImportError as error:
        raise ConfigError(f'Brax environments need Brax ({error}): pip install "pgx-jax[brax]"') from error
    return brax.envs


@functools.cache
def _make(env_name: str, backend: str, options: tuple[tuple[str, Any], ...]):
    """Return the raw brax environment; ConfigError for unknown names, backends and options."""
    known = getattr(_brax(), "_envs", {})
    if env_name not in known:
        listed = ", ".join(sorted(known))
        raise ConfigError(
            f"brax has no environment {env_name!r}{common.nearest(env_name, known)}; it has: {listed}"
        )
    if backend not in BACKENDS:
        near = common.nearest(backend, BACKENDS)
        raise ConfigError(f"brax has no backend {backend!r}{near}; it has: {', '.join(BACKENDS)}")
    try:
        with _quiet(), jax.ensure_compile_time_eval():
            return _brax().get_environment(env_name, backend=backend, **dict(options))
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise ConfigError(
            f"brax cannot make {env_name!r} with backend {backend!r} and {dict(options)}: {error}"
        ) from error


@dataclass(frozen=True)
class BraxEnv:
    """A Brax environment without brax's wrappers: no time limit, no reset, no repeated actions.

    The state is brax's own State, so that its metrics can be read. Actions are clipped to [-1, 1].

    Attributes:
        env_name: brax's name of the environment.
        backend: one of BACKENDS; "spring" is the fastest, "generalized" the most faithful.
        options: keyword arguments of the environment's constructor, as sorted pairs.
    """

    env_name: str
    backend: str = "spring"
    options: tuple[tuple[str, Any], ...] = ()

    def raw(self, task: BraxTask | None = None):
        """Return the brax environment with the task's changes; its arrays may be traced."""
        env = _make(self.env_name, self.backend, self.options)
        if task is None or not any(task):
            return env
        env = copy.copy(env)
        if task.scale or task.system:
            env.sys = brax_physics.changed(env.sys, task.scale, task.system, self.backend)
        for name, value in task.attributes.items():
            setattr(env, _attribute(env, name), value)
        return env

    def reset(self, key: Array, task: BraxTask) -> tuple[PyTree, Array]:
        """Return brax's initial (state, obs), obs float32."""
        return self.first(self.raw(task), key)

    def first(self, env, key: Array) -> tuple[PyTree, Array]:
        """The same for an environment from ``raw``."""
        state = common.strong(env.reset(key))
        return state, jnp.asarray(state.obs, jnp.float32)

    def step(self, key: Array, state: PyTree, action: Array, task: BraxTask) -> Step:
        """Advance by one action; the state keeps the types that it had at the reset."""
        del key
        before = jax.tree.map(lambda leaf: leaf, state)  # brax writes into the dicts that it is given
        after = self.raw(task).step(before, jnp.clip(action, -1.0, 1.0))
        after = common.typed_like(after, state)
        obs, reward = jnp.asarray(after.obs, jnp.float32), jnp.asarray(after.reward, jnp.float32)
        return Step(after, obs, reward, after.done > 0.5)


def brax_family(
    env_name: str,
    *,
    scale: Mapping[str, Sequence[float]] | None = None,
    system: Mapping[str, Sequence] | None = None,
    attributes: Mapping[str, Sequence] | None = None,
    options: Mapping[str, Any] | None = None,
    backend: str = "spring",
    n_tasks: int | None = None,
    horizon: int = 1000,
    name: str | None = None,
    task_names: Sequence[str] | None = None,
    true_groups: Sequence[int] | None = None,
    sample_test_tasks: Callable[[Array, int], BraxTask] | None = None,
) -> TaskFamily:
    """Build a family of tasks that differ by the physics or the reward weights of a Brax environment.

    Args:
        env_name: Brax's name of the environment, for example "hopper".
        scale: n positive factors for each varied quantity ("mass", "gear", "gravity", "friction", "damping",
            "stiffness", "armature"), or for a field of brax's System by its dotted name. Every
            backend sees them; the factors of a mass are those of the mass that the backend uses.
        system: n values for each varied field of the System, [n, *shape of the field].
        attributes: n values for each varied number that the environment's constructor takes,
            such as "ctrl_cost_weight".
        options: Keyword arguments of the constructor, the same for all tasks.
        backend: Physics: "spring" (fast), "generalized" (reference), "positional" or "mjx".
        n_tasks: Number of tasks; needed only where nothing varies. Tasks may be equal.
        horizon: Time limit of an episode, in steps of the environment.
        name: The family's name; the environment's by default.
        task_names: n distinct names; made from the varied numbers by default.
        true_groups: int [n] planted labels, where known.
        sample_test_tasks: (key, count) -> tasks with a leading axis ``count``.

    Raises:
        ConfigError: if Brax is missing, for an unknown environment, backend, field or attribute,
            values of a wrong shape or that don't agree on n, or observations that are not a vector.
    """
    pairs = tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in (options or {}).items()))
    env = BraxEnv(env_name, backend, pairs)
    given, n = _tasks(env, (scale or {}, system or {}, attributes or {}), n_tasks)
    if task_names is None:
        plain = [(k.split(".")[-1], v.ravel()) for part in given for k, v in part.items() if v.size == n]
        labels = [[f"{k}{v[i]:.3g}" for k, v in plain] for i in range(n)]
        task_names = ["_".join([f"task{i}", *label]) for i, label in enumerate(labels)]
    observation_space, action_space = env_spaces(env)
    varied = {k: {f: a.tolist() for f, a in part.items()} for k, part in given._asdict().items()}
    return TaskFamily(
        name=name or env_name,
        task_names=tuple(task_names),
        env=env,
        tasks=given,
        observation_space=observation_space,
        action_space=action_space,
        horizon=common.integer("horizon", horizon, 1),
        sample_test_tasks=sample_test_tasks,
        true_groups=None if true_groups is None else common.canonical(np.asarray(true_groups)),
        settings={"env_name": env_name, "backend": backend, "horizon": horizon}
        | {"options": dict(pairs), **varied},
        draw=functools.partial(brax_drawing.body, env) if hasattr(env.raw(), "sys") else None,
    )


def env_spaces(env: BraxEnv) -> tuple[spaces.Box, spaces.Box]:
    """Return the observation space, unbounded, and the action space [-1, 1].

    Raises:
        ConfigError: if the environment does not observe one vector, or its reset fails.
    """
    raw = env.raw()
    try:
        obs = jax.eval_shape(raw.reset, jax.ShapeDtypeStruct((2,), jnp.uint32)).obs
    except Exception as error:
        told = f"brax's environment {env.env_name!r} {raised('reset', error)}"
        raise ConfigError(f"{told}; choose other options, or another version of brax") from error
    if not hasattr(obs, "shape") or len(obs.shape) != 1:
        raise ConfigError(
            f"brax's {env.env_name!r} does not observe one vector but {obs}; choose other options"
        )
    return (
        spaces.Box(-np.inf, np.inf, obs.shape, np.float32),
        spaces.Box(-1.0, 1.0, (raw.action_size,), np.float32),
    )


def _tasks(
    env: BraxEnv, given: Sequence[Mapping[str, Sequence]], n_tasks: int | None
) -> tuple[BraxTask, int]:
    """Return the tasks as arrays [n, ...], and n, having checked names and shapes."""
    raw = env.raw()
    fields = brax_physics.fields(getattr(raw, "sys", ()))
    counts = {} if n_tasks is None else {"n_tasks": common.integer("n_tasks", n_tasks, 2)}
    parts = []
    for kind, part in zip(BraxTask._fields, given, strict=True):
        parts.append({})
        for key, values in part.items():
            try:
                value = np.asarray(values, np.float32)
            except (TypeError, ValueError):
                raise ConfigError(f"{kind} {key!r} must be numbers, got {values!r}") from None
            shape = _shape(env, raw, fields, kind, key)
            if value.ndim != len(shape) + 1 or value.shape[1:] != shape or not np.isfinite(value).all():
                raise ConfigError(
                    f"{kind} {key!r} of {env.env_name!r} must be finite numbers of the shape "
                    f"({', '.join(['n', *map(str, shape)])}), got {value.shape}"
                )
            if kind == "scale" and (value <= 0).any():
                raise ConfigError(f"scale {key!r} of {env.env_name!r} must be positive, got {value.tolist()}")
            parts[-1][key], counts[key] = value, len(value)
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{key}: {count}" for key, count in counts.items()) or "nothing tells it"
        raise ConfigError(
            f"the number of tasks of {env.env_name} is unclear: {told}; set n_tasks or mend them"
        )
    return BraxTask(*parts), common.integer("n_tasks", next(iter(counts.values())), 2)


def _shape(env: BraxEnv, raw, fields: Mapping[str, tuple], kind: str, key: str) -> tuple[int, ...]:
    """Shape of one task's value of ``key``; ConfigError, with near matches, if it cannot vary."""
    if kind == "attributes":
        return np.shape(getattr(raw, _attribute(raw, key)))
    known = [*brax_physics.QUANTITIES, *fields] if kind == "scale" else list(fields)
    if key not in known:
        hint = common.nearest(key, known)
        more = (
            f"quantities that can be scaled: {', '.join(brax_physics.QUANTITIES)}" if kind == "scale" else ""
        )
        raise ConfigError(f"brax's {env.env_name!r} has no {kind} {key!r}{hint}" + (more and f"; {more}"))
    for field, (twin, _) in brax_physics.TWINS.items():
        if kind == "system" and key == twin:
            raise ConfigError(f"system {key!r} is read by one backend alone; set {field!r}, which all see")
    return () if kind == "scale" else fields[key]


def _attribute(raw, key: str) -> str:
    """Name of the attribute in which a brax environment keeps a number of its constructor."""
    numbers = {}
    for name, value in vars(raw).items():
        items = value if isinstance(value, (tuple, list)) else [value]
        if items and all(isinstance(item, (float, jax.Array, np.floating)) for item in items):
            numbers[name.removeprefix("_")] = name
    if key not in numbers:
        hint = common.nearest(key, numbers)
        listed = ", ".join(numbers) or "none"
        raise ConfigError(
            f"{type(raw).__name__} of brax has no attribute {key!r} to vary{hint}; there are: {listed}"
        )
    return numbers[key]
