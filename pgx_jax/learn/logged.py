"""Logged data of one's own, as the transitions that groups are found from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from pgx_jax.errors import ConfigError, DataError, called, of_type
from pgx_jax.learn.advantages import gae
from pgx_jax.learn.baselines import expected
from pgx_jax.learn.collecting import split_by_trajectory
from pgx_jax.types import REAL, Array, PyTree, Transitions


class _Logged(NamedTuple):
    """The first N steps of every task."""

    obs: PyTree
    """Leaves [n, N, ...]."""
    action: np.ndarray
    """[n, N, ...]."""
    reward: Float[np.ndarray, "n N"]
    terminated: Bool[np.ndarray, "n N"]
    cut: Bool[np.ndarray, "n N"]
    """The last steps of episodes that did not end."""
    value: Float[np.ndarray, "n N"] | None


def transitions_from(
    obs: Sequence[PyTree],
    action: Sequence[Array],
    reward: Sequence[Array],
    terminated: Sequence[Array],
    truncated: Sequence[Array] | None = None,
    *,
    value: Sequence[Array] | None = None,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> Transitions:
    """Advantages and parts of what a policy did on n tasks, for `group_transitions`.

    Of each task there are the steps of whole episodes, one after another; tasks may have different numbers of
    them, but as many are taken of all as the shortest has. What the last step of an episode that was cut has
    led to is not known: it is not learnt from, but tells what the step before it was worth.

    Args:
        obs: of every task [N_i, ...], or a pytree of such arrays: what the policy saw.
        action: of every task [N_i, ...]: what it did.
        reward: of every task float [N_i].
        terminated: of every task bool [N_i]: the episode ended with this step, and nothing was to come.
        truncated: of every task bool [N_i]: it was cut after this step, by a limit of time, say. The last
            step of a task counts as cut if its episode has not ended.
        value: of every task float [N_i], a critic's V(s_t). By default a linear function of observation and
            time, which is fitted to each task's returns (`learn.baselines.linear`, of observations that are
            standardised over the task).
        gamma, gae_lambda: discount and trace decay of the advantages.
        seed: of how trajectories are dealt to the parts that fit, score and select.
        names: of the n tasks, for messages.

    Returns:
        Transitions of n sources, obs with the leaves [n, N', ...].

    Raises:
        ConfigError: no value is given, and observations are no vectors; or a discount out of range.
        DataError: lengths or shapes that do not fit, numbers that are not finite, no episode that ends, or
            nothing that can be learnt from.
    """
    of_type(seed, int, "seed")
    for name, number in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0 <= of_type(number, float, name) <= 1:
            raise ConfigError(f"{name} = {number} must be between 0 and 1")
    given = {"obs": obs, "action": action, "reward": reward, "terminated": terminated}
    given |= {} if truncated is None else {"truncated": truncated}
    given |= {} if value is None else {"value": value}
    logged = _together(given, names)
    n, count = logged.reward.shape
    done = logged.terminated | logged.cut
    ends = done.copy()
    ends[:, :-1] |= logged.cut[:, 1:]  # of what is learnt from
    expects, leads_to = _expected(logged, gamma)
    advantage = gae(
        logged.reward.T, expects.T, leads_to.T, logged.terminated.T, ends.T, gamma, gae_lambda
    ).T  # fmt: skip
    dealt = split_by_trajectory(done[:, None], np.random.default_rng(seed % 2**64))
    kept = [np.flatnonzero(~row) for row in logged.cut]
    least = min(map(len, kept))
    if not least:
        name = called(names, n)[min(range(n), key=lambda task: len(kept[task]))]
        raise DataError(f"all steps of task {name} are the last of an episode that was cut; log longer ones")
    index = np.arange(n)[:, None], np.stack([own[:least] for own in kept])

    def learnt(x: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[index], x)

    trajectory, split = map(learnt, dealt)
    return Transitions(
        learnt(logged.obs), learnt(logged.action), learnt(advantage), trajectory, split, np.arange(n)
    )


def _together(given: dict[str, Sequence[PyTree]], names: Sequence[str] | None) -> _Logged:
    """The tasks side by side, once all fit.

    Raises:
        DataError: naming the task.
    """
    for name, of_tasks in given.items():
        if isinstance(of_tasks, Mapping) or not hasattr(of_tasks, "__len__"):
            raise DataError(f"{name} is a {type(of_tasks).__name__}; give a list, of one array a task")
    n = len(given["reward"])
    if not n:
        raise DataError("there are no tasks; give one entry a task")
    tasks = called(names, n)
    for name, of_tasks in given.items():
        if len(of_tasks) != n:
            raise DataError(f"{name} is of {len(of_tasks)} tasks, and reward of {n}; give one entry a task")
    arrays = {
        name: [_arrays(name, tasks[task], own) for task, own in enumerate(of_tasks)]
        for name, of_tasks in given.items()
    }
    lengths = [own.size for own in arrays["reward"]]
    for name, of_tasks in arrays.items():
        for task, own in enumerate(of_tasks):
            _check(name, tasks[task], own, of_tasks[0], lengths[task])
    count = min(lengths)
    found = {
        name: jax.tree.map(lambda *xs: np.stack([x[:count] for x in xs]), *of_tasks)
        for name, of_tasks in arrays.items()
    }
    terminated = found["terminated"].astype(bool)
    cut = found.get("truncated", np.zeros_like(terminated)).astype(bool) & ~terminated
    never = ~(terminated | cut).any(1)
    if never.any():
        raise DataError(
            f"no episode of task {tasks[int(np.argmax(never))]} ends within the {count} steps that are "
            f"taken of each task, as many as task {tasks[int(np.argmin(lengths))]} has; mark where episodes "
            f"end (terminated), or were cut (truncated)"
        )
    cut[:, -1] = ~terminated[:, -1]
    reward = found["reward"].astype(np.float32)
    return _Logged(found["obs"], found["action"], reward, terminated, cut, found.get("value"))


def _arrays(name: str, task: str, own: PyTree) -> PyTree:
    """What one task has as arrays: a pytree of them, or lists of numbers."""
    try:
        return np.asarray(own) if isinstance(own, list) else jax.tree.map(np.asarray, own)
    except ValueError as error:
        raise DataError(
            f"{name} of task {task} is no array ({error}); put a task's episodes one after another"
        ) from error


def _check(name: str, task: str, own: PyTree, first: PyTree, length: int) -> None:
    """Refuse what one task has if it is unlike what the first has, or not of so many steps."""
    if jax.tree.structure(own) != jax.tree.structure(first):  # type: ignore[operator]
        raise DataError(f"{name} of task {task} has other parts than that of the first task")
    for leaf, of_first in zip(jax.tree.leaves(own), jax.tree.leaves(first), strict=True):
        wanted = (length, *of_first.shape[1:])
        if leaf.shape != wanted or (name not in ("obs", "action") and leaf.ndim != 1):
            raise DataError(
                f"{name} of task {task} has the shape {leaf.shape}; it must be of {length} steps, as its "
                f"reward is, each like those of the first task"
            )
        if not jnp.isdtype(leaf.dtype, REAL):
            raise DataError(f"{name} of task {task} is of type {leaf.dtype}; give numbers")
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            raise DataError(f"{name} of task {task} has numbers that are not finite")


def _expected(logged: _Logged, gamma: float) -> tuple[Float[np.ndarray, "n N"], Float[np.ndarray, "n N"]]:
    """What is expected from every step on, and from the next one."""

    def after(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x[:, 1:], x[:, -1:]], 1)

    if logged.value is not None:
        value = logged.value.astype(np.float32)
        return value, after(value)
    if not isinstance(logged.obs, np.ndarray) or logged.obs.ndim != 3:
        raise ConfigError("a linear baseline is one of vectors, and observations are none; give value")
    n, count = logged.reward.shape
    done = logged.terminated | logged.cut
    began = np.zeros((n, count), int)
    began[:, 1:] = np.where(done[:, :-1], np.arange(1, count), 0)
    age = np.arange(count) - np.maximum.accumulate(began, 1)
    level, spread = logged.obs.mean(1, keepdims=True), logged.obs.std(1, keepdims=True)
    obs = ((logged.obs - level) / np.where(spread > 0, spread, 1)).astype(np.float32)
    zeros = np.zeros((count, n), np.float32)
    found = expected(
        "linear", (zeros, zeros), jnp.arange(n), n, (obs.swapaxes(0, 1), after(obs).swapaxes(0, 1)), age.T,
        logged.reward.T, (logged.terminated.T, done.T), gamma,
    )  # fmt: skip
    now, then = (np.asarray(x).T for x in found)
    return now, then


def parts_of(
    trajectory: Int[np.ndarray, "n N"], seed: int = 0, names: Sequence[str] | None = None
) -> Int8[np.ndarray, "n N"]:
    """Deal the trajectories of n tasks to the parts that fit, score and select.

    Args:
        trajectory: int [n, N], the number of each transition's trajectory.
        seed: of the order.
        names: of the n tasks, for messages.

    Returns:
        int8 [n, N]: FIT, SCORE or SELECT.

    Raises:
        DataError: transitions of one trajectory do not stand together.
    """
    trajectory = np.asarray(trajectory)
    if trajectory.ndim != 2 or not trajectory.size:
        raise DataError(f"trajectory has the shape {trajectory.shape}; it must be [n, N], and not empty")
    ends = np.ones(trajectory.shape, bool)
    ends[:, :-1] = trajectory[:, 1:] != trajectory[:, :-1]
    for task, row in enumerate(trajectory):
        if ends[task].sum() != len(np.unique(row)):
            name = called(names, len(trajectory))[task]
            raise DataError(f"transitions of one trajectory of task {name} do not stand together; sort them")
    return split_by_trajectory(ends[:, None], np.random.default_rng(seed % 2**64))[1]
