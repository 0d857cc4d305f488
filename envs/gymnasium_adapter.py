"""Any Gymnasium environment as a host environment, and families of tasks that vary its arguments."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import jax
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FlattenObservation, OrderEnforcing, TimeLimit, TransformAction

from envs import arguments, common, plain_spaces
from envs.gymnasium_copy import Copy, GymnasiumTask
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import HostStep, TaskFamily
from pgx_jax.types import Array, PyTree

EXTRAS = {"box2d": "box2d", "swig": "box2d"}
"""Words of gymnasium's complaint about a missing package -> the extra that brings it."""


@dataclass(frozen=True)
class GymnasiumEnv:
    """A Gymnasium environment without its time limit, made anew for every task.

    Attributes:
        source: an environment id, or a constructor.
        fixed: (name, value) of arguments that are the same for all tasks.
        success: key of ``info`` that tells whether a step solves the task; None if nothing does.
    """

    source: str | Callable[..., gymnasium.Env]
    fixed: tuple[tuple[str, Any], ...] = ()
    success: str | None = None

    def build(self, task: GymnasiumTask) -> gymnasium.Env:
        """The library's environment of a task; observations that are no Box are flattened to one, and
        actions are plain (`plain_spaces`)."""
        given = dict(self.fixed) | {key: arguments.plain(value) for key, value in task.arguments.items()}
        if isinstance(self.source, str):
            env = gymnasium.make(self.source, max_episode_steps=-1, disable_env_checker=True, **given)
            env = env.env if type(env) is OrderEnforcing else env  # the engine keeps the order itself
        else:
            env = self.source(**given)
        plain, to_env = plain_spaces.actions(env.action_space)
        env = env if to_env is None else TransformAction(env, to_env, plain)
        as_it_is = plain_spaces.observed(env.observation_space) is env.observation_space
        return env if as_it_is else FlattenObservation(env)

    def make(self) -> Copy:
        """A copy, whose environment is made when its task is known."""
        return Copy(self)

    def make_drawn(self) -> Copy:
        """The same with a render mode, which costs some environments (LunarLander) much time."""
        return Copy(dataclasses.replace(self, fixed=(*self.fixed, ("render_mode", "rgb_array"))))


@dataclass(frozen=True)
class GymnasiumVectorEnv(GymnasiumEnv):
    """The same, stepped in the library's own vectors.

    Attributes:
        processes: step every copy in a process of its own, instead of one after the other.
        autoreset: what a vector does after an ending (`pgx_jax.tasks.HostVector`).
        horizon: time limit of an episode, which the vectors keep themselves.
    """

    processes: bool = False
    autoreset: Literal["disabled", "same_step", "next_step"] = "disabled"
    horizon: int = 1000

    def make_vector(self, task: GymnasiumTask, count: int) -> GymnasiumVector:
        """A vector of ``count`` copies of a task."""

        def build():
            return TimeLimit(self.build(task), self.horizon)

        makers, mode = [build] * count, AutoresetMode[self.autoreset.upper()]
        if self.processes:  # spawned, since a process with running threads must not be forked
            return GymnasiumVector(AsyncVectorEnv(makers, context="spawn", autoreset_mode=mode), self)
        return GymnasiumVector(SyncVectorEnv(makers, autoreset_mode=mode), self)


class GymnasiumVector:
    """A vector of the library's as a `HostVector`, whatever its autoreset mode."""

    def __init__(self, env: VectorEnv, maker: GymnasiumEnv | None = None):
        """Wrap a vector that tells its mode in its metadata, as gymnasium asks."""
        self.env, self.success = env, maker.success if maker else None
        self.autoreset = AutoresetMode(env.metadata["autoreset_mode"]).name.lower()

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Start episodes in the slots of the mask."""
        options = None if mask.all() else {"reset_mask": mask}
        return self.env.reset(seed=seeds.tolist(), options=options)[0]

    def step(self, actions: np.ndarray) -> HostStep:
        """Advance all slots."""
        obs, reward, terminated, truncated, infos = self.env.step(actions)
        success = np.array(infos.get(self.success, np.zeros(len(reward))), bool)
        if self.success in infos.get("final_info", ()):
            ended = terminated | truncated
            success[ended] = np.asarray(infos["final_info"][self.success], bool)[ended]
        return HostStep(obs, reward, terminated, truncated, success, None, infos.get("final_obs"))

    def close(self) -> None:
        """Close all environments."""
        self.env.close()


def gymnasium_family(
    env: str | Callable[..., gymnasium.Env],
    kwargs: Mapping[str, Sequence] | None = None,
    *,
    fixed: Mapping[str, Any] | None = None,
    objectives: Sequence[Sequence[float]] | None = None,
    horizon: int | None = None,
    name: str | None = None,
    task_names: Sequence[str] | None = None,
    true_groups: Sequence[int] | None = None,
    sample_test_tasks: Callable[[Array, int], Mapping[str, Sequence]] | None = None,
    success: str | None = None,
    vector: Literal["sync", "async"] | None = None,
    autoreset: Literal["disabled", "same_step", "next_step"] = "disabled",
    defaults: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TaskFamily:
    """Build a family of tasks that differ by keyword arguments of a Gymnasium environment.

    Args:
        env: An environment id, for example "LunarLander-v3", or a constructor.
        kwargs: The keyword arguments that differ between tasks: a sequence of n values each.
        fixed: Keyword arguments that all tasks share.
        objectives: float [n, K], the weights of each task, for environments that return a vector
            reward: the reward is their product.
        horizon: Time limit of an episode, in steps; by default the id's own.
        name: The family's name; the environment's by default.
        task_names: n distinct names; made from the keyword arguments by default.
        true_groups: int [n] planted labels, where known.
        sample_test_tasks: (key, count) -> the arguments of unseen tasks, ``count`` values each; where
            there are objectives, also "objectives" [count, K].
        success: Key of the info that tells whether a step solves the task; it becomes the metric.
        vector: Step training environments in gymnasium's vectors, of one process or of many, instead
            of in one loop (which is faster for light environments).
        autoreset: What these vectors do after an ending.
        defaults: Settings of a run that suit the family (`TaskFamily.defaults`).
        settings: Settings for the record, instead of those that are seen here.

    Raises:
        ConfigError: for an unknown id or argument, a package that is missing, values that don't agree
            on n or that the environment refuses, spaces that differ between tasks or that cannot be
            used, or a reward that is no number (no vector of K numbers with objectives).
    """
    given = {key: arguments.values(key, value) for key, value in (kwargs or {}).items()}
    fixed, title = dict(fixed or {}), env if isinstance(env, str) else getattr(env, "__name__", str(env))
    _check_arguments(env, title, [*given, *fixed])
    weights = None if objectives is None else _weights(title, objectives)
    n = arguments.count(title, given, weights)
    names = tuple(task_names) if task_names is not None else arguments.names(given, n)
    if len(names) != n:
        raise ConfigError(f"{title} has {n} tasks, but {len(names)} task_names")
    tasks = GymnasiumTask(given, weights)
    each = [jax.tree.map(lambda x, i=i: x[i], tasks) for i in range(n)]
    horizon = common.integer("horizon", _horizon(env, title, horizon), 1)
    made = GymnasiumEnv(env, tuple(fixed.items()), success)
    if vector is not None:
        if weights is not None:
            raise ConfigError(f"{title}: vectors sum up no vector rewards; leave out vector = {vector!r}")
        made = GymnasiumVectorEnv(*made.__dict__.values(), vector == "async", autoreset, horizon)
    observed, acted = _spaces(title, made, names, each)
    alike = not any(np.ndim(v) and len(set(map(str, v.tolist()))) > 1 for v in given.values())
    return TaskFamily(
        name=name or title,
        task_names=names,
        env=made,
        tasks=tasks,
        observation_space=observed,
        action_space=acted,
        horizon=horizon,
        sample_test_tasks=_sampler(sample_test_tasks),
        true_groups=None if true_groups is None else common.canonical(np.asarray(true_groups)),
        metric="return" if success is None else "success",
        settings=dict(settings) if settings is not None else common.record({"env": title, **given}),
        defaults=dict(defaults or {}),
        objectives=weights if alike else None,
    )


def _weights(title: str, objectives: Sequence[Sequence[float]]) -> np.ndarray:
    """Weights of objectives as float32 [n, K]; ConfigError for rows of several lengths."""
    try:
        return np.asarray(objectives, np.float32)
    except ValueError:
        raise ConfigError(f"objectives of {title} must be numbers [n, K], got {objectives!r}") from None


def _sampler(draw: Callable | None) -> Callable | None:
    if draw is None:
        return None

    def sample_test_tasks(key: Array, count: int) -> PyTree:
        drawn = {name: np.asarray(value) for name, value in draw(key, count).items()}
        weights = drawn.pop("objectives", None)
        return GymnasiumTask(drawn, weights if weights is None else weights.astype(np.float32))

    return sample_test_tasks


def _spec(env_id: str):
    """Gymnasium's entry of an id; ConfigError for an unknown one."""
    try:
        return gymnasium.spec(env_id)
    except gymnasium.error.Error as error:
        hint = arguments.near(env_id, gymnasium.registry)
        raise ConfigError(
            f"gymnasium has no environment {env_id!r}{hint}: {error} An environment of another package is "
            "known once that package is imported"
        ) from error


def _creator(env: str | Callable) -> Callable:
    if not isinstance(env, str):
        return env
    entry = _spec(env).entry_point
    try:
        return gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise _missing(env, error) from error


def _missing(env_id: str, error: Exception) -> ConfigError:
    extra = next((extra for word, extra in EXTRAS.items() if word in str(error).lower()), None)
    remedy = f': pip install "pgx-jax[{extra}]"' if extra else f" ({error})"  # which has its own recipe
    return ConfigError(f"{env_id} needs a package that is not installed{remedy}")


def _check_arguments(env, title: str, given: Sequence[str]) -> None:
    """Refuse arguments that the constructor doesn't take."""
    try:
        parameters = inspect.signature(_creator(env)).parameters.values()
    except (TypeError, ValueError):  # built-in code without a signature
        return
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    for key in given:
        if key not in known:
            hint = arguments.near(key, known)
            raise ConfigError(f"{title} takes no argument {key!r}{hint}; it takes: {', '.join(known)}")


def _horizon(env, title: str, horizon: int | None):
    if horizon is None and isinstance(env, str):
        horizon = _spec(env).max_episode_steps
    if horizon is None:
        raise ConfigError(f"{title} states no time limit; give a horizon")
    return horizon


def _spaces(title: str, maker: GymnasiumEnv, names: Sequence[str], tasks: Sequence[GymnasiumTask]):
    """Try every task; returns the smallest Box that holds all observations, and the action space."""
    seen, acted = [], []
    for i, (name, task) in enumerate(zip(names, tasks, strict=True)):
        try:
            env = maker.build(task)
        except gymnasium.error.DependencyNotInstalled as error:
            raise _missing(title, error) from error
        except ConfigError as error:
            raise ConfigError(f"task {name!r} of {title}: {error}") from error
        except Exception as error:
            raise ConfigError(
                f"task {name!r}: {title} refuses its arguments ({type(error).__name__}: {error})"
            ) from error
        observed, action = env.observation_space, env.action_space
        if i and (observed.shape != seen[0].shape or action != acted[0]):
            what, mine, first = ("observation", observed, seen[0])
            if observed.shape == seen[0].shape:
                what, mine, first = ("action", action, acted[0])
            raise ConfigError(
                f"task {name!r} of {title} has the {what} space {mine}, task {names[0]!r} has {first}: all "
                "tasks must share one; leave alone the argument that changes it, or wrap the environment"
            )
        if i == 0:
            arguments.check_reward(f"task {name!r} of {title}", env, task.weights)
        env.close()
        seen.append(observed)
        acted.append(action)
    low = np.min([np.asarray(s.low, np.float32) for s in seen], axis=0)
    high = np.max([np.asarray(s.high, np.float32) for s in seen], axis=0)
    seen_as = np.uint8 if all(s.dtype == np.uint8 for s in seen) else np.float32
    return spaces.Box(low.astype(seen_as), high.astype(seen_as), seen[0].shape, seen_as), acted[0]
