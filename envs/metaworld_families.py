"""Meta-World's benchmarks for one policy on many tasks (Yu et al., 2019; version 3; the extra ``metaworld``).

An arm with a gripper has four actions (three move the hand, one the gripper) and sees the same 39 numbers
in every task: hand, gripper and objects, of this step and of the last, and the goal. An episode takes 500
steps, and succeeds if any of them does. Tasks have Meta-World's names, in its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from envs import common
from envs.metaworld_copies import KNOWN, SETS, MetaworldEnv, MetaworldTask
from envs.metaworld_pools import PoolEnv, check_installed
from pgx_jax.errors import ConfigError, pick
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Array

HORIZON = 500
"""Steps after which Meta-World refuses to go on."""

MT10 = (
    "reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3",
    "button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "window-close-v3",
)  # fmt: skip
"""The tasks of MT10, in Meta-World's order."""

ENGINES = {"metaworld": MetaworldEnv, "envpool": PoolEnv}
"""What steps the environments while policies train: Meta-World itself, or EnvPool's, which are quicker and
not quite the same. Policies are always judged on Meta-World itself."""

EPISODES = 10
"""Of every task between two updates; they are whole ones, since what matters comes late in them."""


def mt10(
    goals: int = 50,
    seed: int = 0,
    horizon: int = HORIZON,
    engine: Literal["metaworld", "envpool"] = "metaworld",
    processes: int = 0,
) -> TaskFamily:
    """Meta-World's MT10: ten things to do with an arm, their goals in sight.

    Listed: host; 10 tasks; float [39]; float [4]; not planted; needs metaworld.

    Args:
        goals: Goals of every task, one of which an episode has; 0 for a new one in every episode.
        seed: Draws the goals.
        horizon: Time limit of an episode, in steps of 1/80 s; at most 500.
        engine: What steps the environments in training: "metaworld", or the quicker "envpool", which
            draws a new goal in every episode.
        processes: Processes that step Meta-World's own; as many as there are cores if 0.

    Raises:
        ConfigError: for settings out of range, an engine that is not installed, or another MT10.
    """
    settings = dict(locals())
    if SETS["mt10"] != MT10:
        raise ConfigError(f"the installed metaworld has other tasks in MT10: {', '.join(SETS['mt10'])}")
    return _family("metaworld-mt10", _named(MT10, goals, seed), settings)


def custom(
    tasks: tuple[str, ...] = ("mt50",),
    goals: int = 50,
    seed: int = 0,
    horizon: int = HORIZON,
    engine: Literal["metaworld", "envpool"] = "metaworld",
    processes: int = 0,
) -> TaskFamily:
    """Any of Meta-World's tasks, their goals in sight.

    Listed: host; 50 tasks; float [39]; float [4]; not planted; needs metaworld.

    Args:
        tasks: Meta-World's names of the tasks, or of a set of them: mt10, mt25 or mt50; may be one string
            with commas between them.
        goals: Goals of every task, one of which an episode has; 0 for a new one in every episode.
        seed: Draws the goals.
        horizon: Time limit of an episode, in steps of 1/80 s; at most 500.
        engine: What steps the environments in training: "metaworld", or the quicker "envpool", which
            draws a new goal in every episode.
        processes: Processes that step Meta-World's own; as many as there are cores if 0.

    Raises:
        ConfigError: for settings out of range, an engine that is not installed, or names that Meta-World
            doesn't have.
    """
    settings = dict(locals())
    asked = tasks.split(",") if isinstance(tasks, str) else tasks  # of a command line
    if not isinstance(asked, (list, tuple)) or not all(isinstance(task, str) for task in asked):
        raise ConfigError(
            f"tasks = {tasks!r} must be names of tasks or sets, or a string of them with commas"
        )
    names = tuple(name for task in map(str.strip, asked) for name in SETS.get(task, (task,)))
    return _family("metaworld", _named(names, goals, seed), settings)


def mt1(
    task: str = "push-v3",
    n_tasks: int = 10,
    seed: int = 0,
    horizon: int = HORIZON,
    processes: int = 0,
) -> TaskFamily:
    """Meta-World's MT1: one thing to do with an arm, and every goal a task.

    Listed: host; 10 tasks; float [39]; float [4]; not planted; needs metaworld.

    Args:
        task: Meta-World's name of what is to be done.
        n_tasks: Number of goals.
        seed: Draws the goals.
        horizon: Time limit of an episode, in steps of 1/80 s; at most 500.
        processes: Processes that step the environments; as many as there are cores if 0.

    Raises:
        ConfigError: for settings out of range, or a name that Meta-World doesn't have.
    """
    settings = dict(locals())
    if not isinstance(task, str):
        raise ConfigError(f"task = {task!r} must be the name of a task")
    n = common.integer("n_tasks", n_tasks, 2)

    def drawn(rng: np.random.Generator, count: int) -> MetaworldTask:
        return MetaworldTask(np.repeat(task, count), np.ones(count, int), rng.integers(0, 2**32, count))

    def sample_test_tasks(key: Array, count: int) -> MetaworldTask:
        return drawn(np.random.default_rng([common.TEST, *np.asarray(key).tolist()]), count)

    tasks = drawn(np.random.default_rng([common.TRAIN, common.check_seed(seed)]), n)
    names = [f"{task} goal {i}" for i in range(n)]
    return _family("metaworld-mt1", tasks, settings, names, sample_test_tasks=sample_test_tasks)


def _named(names: Sequence[str], goals: int, seed: int) -> MetaworldTask:
    """Tasks of these names, all with goals of one seed."""
    count, seed = common.integer("goals", goals, 0), common.check_seed(seed)
    return MetaworldTask(np.array(names), np.full(len(names), count), np.full(len(names), seed))


def _defaults(n: int, horizon: int) -> dict[str, Any]:
    """Settings of a run that suit n tasks: PPO as it is trained on Meta-World (a linear baseline, whole
    episodes, many passes, deviations of the tasks' own), and an estimate of single steps' advantages, from
    whole episodes as well."""
    return {
        "steps_per_task": 50_000,
        "min_updates": 20,
        "meta_entropy": None,
        "group_entropy": None,
        "episodes": 20,
        "random_draws": 1,
        "test_tasks": 0,
        "policy.hidden": (256, 256, 256),
        "policy.options": ("own_deviation=True", "min_log_std=-2.3", "max_log_std=0.4"),
        "policy.conditioned_actor": True,
        "policy.normalise_observations": True,
        "policy.initial_log_std": -0.36,
        "ppo.num_envs": EPISODES * n,
        "ppo.num_steps": horizon,
        "ppo.epochs": 10,
        "ppo.minibatches": 32,
        "ppo.learning_rate": 5e-4,
        "ppo.final_learning_rate": 0.1,
        "ppo.gae_lambda": 0.97,
        "ppo.entropy": 1e-3,
        "ppo.freeze_observations": 0.3,
        "ppo.baseline": "linear",
        "ppo.limits_end": True,
        "estimate.steps": 14 * horizon,
        "estimate.num_envs": 14,
        "estimate.whole_episodes": True,
        "estimate.thin": 5 if horizon >= 20 else 1,
        "estimate.gae_lambda": 0.8,
    }


def _family(
    name: str, tasks: MetaworldTask, settings: dict[str, Any], names: Sequence[str] = (), **more: Any
) -> TaskFamily:
    """The family of some tasks, which have Meta-World's names if they are given none."""
    horizon = common.integer("horizon", settings["horizon"], 1)
    if horizon > HORIZON:
        raise ConfigError(f"Meta-World ends every episode after {HORIZON} steps; got horizon = {horizon}")
    for task in tasks.name.tolist():
        if task not in KNOWN:
            near = common.nearest(task, [*SETS, *KNOWN])
            raise ConfigError(f"Meta-World has no task {task!r}{near}")
    engine = settings.get("engine", "metaworld")
    made = pick(ENGINES, engine, "engine")
    if engine == "envpool":
        check_installed()
        if horizon != HORIZON:
            raise ConfigError(f"EnvPool ends its episodes after {HORIZON} steps; got horizon = {horizon}")
    return TaskFamily(
        name,
        tuple(names or tasks.name.tolist()),
        made(common.integer("processes", settings["processes"], 0)),
        tasks,
        spaces.Box(-np.inf, np.inf, (39,), np.float32),
        spaces.Box(-1.0, 1.0, (4,), np.float32),
        horizon,
        metric="success",
        settings=common.record(settings),
        defaults=_defaults(len(tasks.name), horizon),
        **more,
    )
