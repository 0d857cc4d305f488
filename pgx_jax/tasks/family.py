"""Task families: what a set of related tasks must provide, and the environment protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard

import jax
import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, Num, UInt8

from pgx_jax.errors import ConfigError, PgxError, check_argument, of_type, pick
from pgx_jax.types import Array, Key, PyTree

MOST_ONE_HOT = 20_000
"""Tasks that may be told apart by one-hot vectors, of 1.6 GB then."""

METRICS = {
    "return": "the sum of an episode's rewards",
    "success": "whether any step of an episode solves the task",
}
"""What a family may be judged by, and what that is of one episode."""


class Step(NamedTuple):
    """What one step of a device environment returns.

    Time limits and resets belong to the core: an environment only says whether the episode
    *terminated*, and its ``obs`` is always the observation that the action led to.
    """

    state: PyTree
    obs: Float[Array, "..."]
    reward: Float[Array, "*lead"]
    terminated: Bool[Array, "*lead"]
    success: Bool[Array, "*lead"] | bool = False
    """bool []: whether the task is solved in this step; only families whose metric is
    "success" report it."""
    objectives: Float[Array, "*lead K"] | None = None
    """float [K]: the vector reward, where tasks are weightings of one; ``reward`` is its product with
    the task's own weights (which are in ``task``), and it must not depend on them itself."""


class DeviceEnv(Protocol):
    """A pure environment. Implementations are hashable by value (frozen dataclasses), so that
    equal environments share one compiled program; everything that varies between tasks is in
    ``task``, a pytree of arrays without a leading axis."""

    def reset(self, key: Key, task: PyTree) -> tuple[PyTree, Float[Array, "..."]]:
        """Return an initial (state, obs)."""

    def step(self, key: Key, state: PyTree, action: Num[Array, "..."], task: PyTree) -> Step:
        """Advance by one action; no time limit, no reset. Any action must be safe."""


class HostStep(NamedTuple):
    """What one step of a host environment returns: plain numbers and NumPy arrays, or arrays with
    a leading axis E from a `HostVector`."""

    obs: Num[np.ndarray, "..."]
    """The observation that the action led to, before any reset (but see `HostVector.autoreset`)."""
    reward: float
    terminated: bool
    truncated: bool = False
    """Cut by the environment's own time limit; the family's horizon cuts as well."""
    success: bool = False
    objectives: Float[np.ndarray, "*lead K"] | None = None
    """float [K]: the vector reward, as ``Step.objectives``."""
    final_obs: Num[np.ndarray, "E ..."] | None = None
    """Of vectors that reset in the same step: float [E, *observation shape], the last observation
    of the episodes that ended; other rows are not read."""


class HostCopy(Protocol):
    """One running copy of an environment in plain Python."""

    def reset(self, seed: int, task: PyTree) -> Num[np.ndarray, "..."]:
        """Start an episode of a task, which may be another one than before; returns obs."""

    def step(self, action: Num[np.ndarray, "..."] | int) -> HostStep:
        """Advance by one action; never resets. Any action of the space must be safe."""

    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """Draw the present state, uint8 [H, W, 3]."""

    def close(self) -> None:
        """Free what the copy holds."""


class HostVector(Protocol):
    """E running copies of one task that step together, in a library's own way (threads, processes,
    native code). `SplitVector` is one that others need not wait for."""

    autoreset: Literal["disabled", "same_step", "next_step"]
    """What follows the end of an episode.
    "disabled": ``reset`` is called for the slot.
    "same_step": ``obs`` is the first of the next episode already, ``final_obs`` the last one.
    "next_step": ``obs`` is the last one, and the next call of ``step`` ignores the slot's action and
    returns the first observation of the next episode.
    Vectors of the last two kinds must end episodes at the family's horizon themselves."""

    def reset(self, seeds: Int[np.ndarray, "E"], mask: Bool[np.ndarray, "E"]) -> Num[np.ndarray, "E ..."]:
        """Start episodes in the slots of ``mask`` [E] (all, but for "disabled") with ``seeds`` [E];
        returns obs [E, ...], of which the rows of the mask are read."""

    def step(self, actions: Num[np.ndarray, "E ..."]) -> HostStep:
        """Advance all slots; every leaf has a leading axis E."""

    def close(self) -> None:
        """Free what the vector holds."""


class SplitVector(HostVector, Protocol):
    """A vector whose step has two halves, so that those of all tasks step at the same time."""

    def send(self, actions: Num[np.ndarray, "E ..."]) -> None:
        """Let all slots advance, and do not wait."""

    def receive(self) -> HostStep:
        """What that led to."""


class HostEnv(Protocol):
    """An environment in plain Python, as a maker of running copies. It may offer, besides,
    ``make_vector(task, count) -> HostVector``, which training and collecting then prefer;
    ``make_drawn() -> HostCopy``, where copies that are to be rendered must be made as such; and
    ``processes``, the number of processes that step copies (as many as there are cores if 0), where a step
    takes longer than some 50 µs; ``memory(count, n, processes) -> int``, about how many bytes
    ``count`` copies of n tasks take in so many processes (0: in vectors); and ``expert(task)``, a function of
    an observation that returns what an expert would do (`learn.demonstrate`)."""

    def make(self) -> HostCopy:
        """A copy; the first call will be its ``reset``."""


def _on_host(env: DeviceEnv | HostEnv) -> TypeGuard[HostEnv]:
    """Whether an environment is one in plain Python."""
    return hasattr(env, "make")


@dataclass(frozen=True)
class TaskFamily:
    """n tasks that share one observation and one action space.

    Attributes:
        name: the family's registered name.
        task_names: n distinct names.
        env: the environment: a `DeviceEnv`, or a `HostEnv` in plain Python.
        tasks: pytree of task parameters, every leaf with a leading axis n.
        observation_space, action_space: gymnasium spaces, equal for all tasks. Observations may have any
            shape; those of three dimensions are images [H, W, C] (or [C, H, W] with 1, 3 or 4 channels before
            5 pixels a side or more), those of type uint8 are divided by 255.
        horizon: time limit of an episode, in steps.
        context: float [n, C], what a task-conditioned policy is told (one-hot by default).
        sample_test_tasks: (key, count) -> task pytree with a leading axis ``count``: unseen
            tasks of the same kind; None if the family has none.
        true_groups: int [n] planted labels, or None. Read by reports alone.
        metric: what the policies are judged by, a name of `METRICS`.
        settings: the settings that built the family, for the record.
        defaults: settings of a run that suit the family better than the general ones, by dotted
            name, as {"steps_per_task": 1_000_000, "ppo.gamma": 0.999}; the user's own go before.
        objectives: float [n, K], the weights of each task, of a family whose tasks differ by nothing
            but the weights of one vector reward (``Step.objectives``): what a policy experiences on
            one of them is then relabelled for all. None otherwise.
        draw: (state, task) -> uint8 [H, W, 3], a picture of one environment: its unbatched state and
            task, leaves as NumPy arrays; the size is the same for every state of a task. None if
            the family cannot be drawn.
    """

    name: str
    task_names: tuple[str, ...]
    env: DeviceEnv | HostEnv
    tasks: PyTree
    observation_space: spaces.Box
    action_space: spaces.Box | spaces.Discrete[Any] | spaces.MultiDiscrete
    horizon: int
    context: Float[np.ndarray, "n C"] = None  # type: ignore[assignment]  # one-hot if it is not given
    sample_test_tasks: Callable[[Key, int], PyTree] | None = None
    true_groups: Int[np.ndarray, "n"] | None = None
    metric: Literal["return", "success"] = "return"
    settings: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    objectives: Float[np.ndarray, "n K"] | None = None
    draw: Callable[[PyTree, PyTree], UInt8[np.ndarray, "H W 3"]] | None = None

    def __post_init__(self) -> None:
        check_argument(self.task_names, Sequence[str], f"family {self.name!r}: task_names")
        n = len(self.task_names)
        if n < 2:
            raise ConfigError(f"family {self.name!r} has {n} task(s); grouping needs at least 2 tasks")
        if len(set(self.task_names)) != n:
            raise ConfigError(f"family {self.name!r}: task names must be distinct, got {self.task_names}")
        if not isinstance(self.action_space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete)):
            raise ConfigError(
                f"family {self.name!r}: action space {self.action_space} is neither Discrete, MultiDiscrete "
                f"nor Box (give MultiDiscrete([2] * n) for MultiBinary(n))"
            )
        if not isinstance(self.observation_space, spaces.Box) or 0 in self.observation_space.shape:
            raise ConfigError(
                f"family {self.name!r}: observation space {self.observation_space} is not a Box that "
                f"holds anything; flatten it to one (gymnasium.spaces.flatten_space)"
            )
        pick(METRICS, self.metric, f"family {self.name!r}: metric")
        if of_type(self.horizon, int, f"family {self.name!r}: horizon") < 1:
            raise ConfigError(f"family {self.name!r}: horizon = {self.horizon} must be at least 1 step")
        of_type(self.defaults, dict, f"family {self.name!r}: defaults")
        groups = self.true_groups
        if isinstance(groups, (list, tuple, np.ndarray, jax.Array, str, int, float, dict, set)) and (
            np.shape(groups) != (n,) or np.asarray(groups).dtype.kind not in "iu"
        ):
            raise ConfigError(
                f"family {self.name!r}: true_groups must be a whole number for each of the n = {n} "
                f"tasks, got {groups!r}"
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.tasks):
            if np.shape(leaf)[:1] != (n,):
                raise ConfigError(
                    f"family {self.name!r}: task parameter {jax.tree_util.keystr(path)} has shape "
                    f"{np.shape(leaf)}; its leading axis must be n = {n}"
                )
        if self.context is None and n > MOST_ONE_HOT:
            raise ConfigError(
                f"family {self.name!r}: one-hot contexts of {n} tasks are {4 * n**2 / 2**30:.0f} GiB; give "
                f"contexts, or at most {MOST_ONE_HOT} tasks"
            )
        context = np.eye(n, dtype=np.float32) if self.context is None else self._of_each("context", "C")
        object.__setattr__(self, "context", context)
        if self.objectives is not None:
            weights = self._of_each("objectives", "K")
            self._refuse("no weight but 0, so that it has no reward", np.asarray(~weights.any(1)))
            object.__setattr__(self, "objectives", weights)

    def _of_each(self, field: str, width: str) -> np.ndarray:
        """A field as float32 [n, width]; ConfigError unless every task has finite numbers."""
        given = getattr(self, field)
        try:
            values = np.asarray(given, np.float32)
        except (TypeError, ValueError):
            raise ConfigError(
                f"family {self.name!r}: {field} must be numbers [n, {width}], a row of the same length for "
                f"each of the n = {self.n} tasks, got {given!r}"
            ) from None
        if values.ndim != 2 or len(values) != self.n:
            raise ConfigError(
                f"family {self.name!r}: {field} must have the shape [n, {width}], a row for each of the "
                f"n = {self.n} tasks, got {list(values.shape)}"
            )
        bad = np.asarray(~np.isfinite(values).all(1))
        self._refuse(f"numbers in its {field} that are not finite", bad)
        return values

    def _refuse(self, what: str, bad: Bool[np.ndarray, "n"]) -> None:
        if bad.any():
            raise ConfigError(
                f"family {self.name!r}: task {self.task_names[int(np.argmax(bad))]!r} has {what}"
            )

    def parameters(self) -> Float[np.ndarray, "n q"]:
        """float [n, q]: all numbers in which the tasks are described, as they are."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self.tasks)]
        numbers = [leaf.reshape(self.n, -1) for leaf in leaves if leaf.dtype.kind in "biuf"]
        return np.concatenate([np.zeros((self.n, 0)), *numbers], axis=1)

    def unseen(self, key: Key, count: int) -> PyTree:
        """So many tasks of ``sample_test_tasks``, with a leading axis ``count``.

        Raises:
            ConfigError: there is no sampler, or what it draws is not like ``tasks``.
        """
        if self.sample_test_tasks is None:
            raise ConfigError(
                f"the family {self.name!r} has no sampler of unseen tasks (TaskFamily.sample_test_tasks); "
                f"give it one, or tasks of your own"
            )
        try:
            drawn = self.sample_test_tasks(key, count)
        except PgxError:
            raise
        except Exception as error:
            raise ConfigError(
                f"family {self.name!r}: sample_test_tasks(key, {count}) fails ({type(error).__name__}: "
                f"{error}); it must return {count} tasks like those of the family"
            ) from error
        known, leaves = jax.tree.leaves(self.tasks), jax.tree.leaves(drawn)
        found, wanted = list(map(np.shape, leaves)), [(count, *np.shape(leaf)[1:]) for leaf in known]
        if jax.tree.structure(drawn) != jax.tree.structure(self.tasks) or found != wanted:  # type: ignore[operator]
            raise ConfigError(
                f"family {self.name!r}: sample_test_tasks(key, {count}) must return tasks like those of the "
                f"family, with a leading axis of {count}: shapes {wanted}, and not {found}"
            )
        return drawn

    def only(self, tasks: Int[np.ndarray, "m"]) -> TaskFamily:
        """The family of some of its tasks, int [m], with their context vectors and no planted groups."""
        return replace(
            self,
            task_names=tuple(self.task_names[i] for i in tasks),
            tasks=jax.tree.map(lambda x: np.asarray(x)[tasks], self.tasks),
            context=self.context[tasks],
            true_groups=None,
            objectives=None if self.objectives is None else self.objectives[tasks],
        )

    @property
    def engine(self) -> Literal["device", "host"]:
        """Where the environment runs: in compiled programs, or in plain Python beside them."""
        return "host" if _on_host(self.env) else "device"

    @property
    def device_env(self) -> DeviceEnv:
        """The environment of a family of the device engine."""
        assert not hasattr(self.env, "make"), "an environment of the host engine"
        return self.env

    @property
    def host_env(self) -> HostEnv:
        """The environment of a family of the host engine."""
        assert _on_host(self.env), "an environment of the device engine"
        return self.env

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.task_names)
