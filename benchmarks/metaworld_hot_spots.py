"""What the replaced hot spots of Meta-World's environments cost: the library's and ours in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from metaworld import env_dict

from envs.metaworld_copies import MetaworldEnv, MetaworldTask, goals, show_goal
from envs.metaworld_faster import faster
from pgx_jax.tasks.registry import make_family


def hot_spots(cell: Mapping, work: Path) -> dict:
    """CPU seconds that the same actions of experts take in both, [rounds][tasks]; of all tasks or the first
    ones."""
    tasks, steps = make_family("metaworld-mt10").task_names[: cell.get("tasks")], cell["steps"]
    pairs = {name: _pair(name) for name in tasks}
    shown = {name: _expert_actions(name, ours, steps) for name, (_, ours) in pairs.items()}
    found: dict[str, list[list[float]]] = {"library": [], "ours": []}
    for _ in range(cell["rounds"]):
        taken = [[_seconds(env, shown[name]) for env in pair] for name, pair in pairs.items()]
        for own, seconds in zip(found.values(), zip(*taken, strict=True), strict=True):
            own.append(list(seconds))
    return {"tasks": tasks, "timings": found}


def _pair(name: str) -> tuple[Any, Any]:
    """The library's environment of a task and ours, of the same goal."""
    cls, (goal,) = env_dict.ALL_V3_ENVIRONMENTS[name], goals(name, 1, 0)
    pair = cls(), faster(cls)()
    for env in pair:
        show_goal(env, goal)
    return pair


def _expert_actions(name: str, env: Any, steps: int) -> list[np.ndarray]:
    """What Meta-World's expert does on the way."""
    act, actions = MetaworldEnv().expert(MetaworldTask(name, 1, 0)), []
    obs = env.reset()[0]
    for _ in range(steps):
        actions.append(np.clip(act(obs), -1, 1).astype(np.float32))
        obs = env.step(actions[-1])[0]
    return actions


def _seconds(env: Any, actions: list[np.ndarray]) -> float:
    """CPU seconds of the steps of an episode."""
    env.reset()
    began = time.process_time()
    for action in actions:
        env.step(action)
    return time.process_time() - began
