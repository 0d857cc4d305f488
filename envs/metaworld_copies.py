"""Running copies of Meta-World's environments: many of a task share one compiled model.

A copy of its own costs Meta-World 27 MB and a tenth of a second, nearly all of it for the model. What its
environments write into a model (where bodies and sites of the task stand) is put in before a copy moves, so
that copies share all the rest. This rests on what the library keeps to itself: in other versions than were
checked (`metaworld_faster.CHECKED`) every copy has a model of its own.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from envs.metaworld_drawing import CAMERA, choose_library, drawn, is_of_drawing, no_library
from envs.metaworld_faster import faster, unchecked
from pgx_jax.tasks import HostStep

try:
    from metaworld import env_dict
    from metaworld.policies import ENV_POLICY_MAP
    from metaworld.types import Task
except (AttributeError, RuntimeError, ImportError) as error:  # from MuJoCo, which loads what MUJOCO_GL says
    if isinstance(error, ImportError) and not is_of_drawing(error):
        raise
    raise no_library(error) from error

P = ParamSpec("P")
R = TypeVar("R")

KNOWN = tuple(env_dict.ALL_V3_ENVIRONMENTS)
"""All tasks by name."""
SETS = {
    "mt10": tuple(env_dict.MT10_V3),
    "mt25": tuple(env_dict.MT25_V3),
    "mt50": tuple(env_dict.MT50_V3),
}
"""Meta-World's sets of tasks, by name."""


class MetaworldTask(NamedTuple):
    """A task; with a leading axis n for a set of tasks."""

    name: Any
    """str: Meta-World's name of it."""
    goals: Any
    """int: number of its goals, those that `metaworld.MT1` draws; 0 for a fresh one at every reset."""
    seed: Any
    """int: of the goals."""


LOCK = threading.RLock()
"""Held while a copy moves: models, and the generator of which Meta-World draws, are shared by all threads."""
KEPT = 4
"""Tasks of which a copy keeps an environment."""
MODEL, DATA = 25 * 2**20, 400 * 2**10
"""Bytes of a compiled model, and of what a copy has of its own (measured)."""


class Positions(NamedTuple):
    """What a copy has written into the model."""

    bodies: np.ndarray
    """float64 [bodies, 3]."""
    sites: np.ndarray
    """float64 [sites, 3]."""


class Model:
    """The compiled model of a task, and whose positions are in it."""

    def __init__(self, name: str):
        """Compile it."""
        env = _class(name)()
        self.compiled, self.new_data = env.model, type(env.data)
        self.fresh = Positions(self.compiled.body_pos.copy(), self.compiled.site_pos.copy())
        self.last: Positions | None = None

    def put(self, placed: Positions) -> None:
        """Put a copy's positions in, unless they are."""
        if self.last is not placed:
            self.compiled.body_pos[:], self.compiled.site_pos[:] = placed
            self.last = placed

    def take(self) -> Positions:
        """The positions as they are, which a copy's reset has written."""
        self.last = Positions(self.compiled.body_pos.copy(), self.compiled.site_pos.copy())
        return self.last


class OwnModels:
    """In place of a shared model, where every environment has one of its own: nothing is put in or taken."""

    fresh = Positions(np.zeros((0, 3)), np.zeros((0, 3)))

    def put(self, placed: Positions) -> None:
        """Nothing."""

    def take(self) -> Positions:
        """Nothing."""
        return self.fresh


def _class(name: str) -> type:
    return faster(env_dict.ALL_V3_ENVIRONMENTS[name])


@functools.lru_cache(None)
def _model(name: str) -> Model | OwnModels:
    return OwnModels() if unchecked() else Model(name)


@functools.lru_cache(None)
def _sharing(name: str) -> type:
    """The environment of a task, with the shared model, if there is one, in place of one of its own."""
    model = _model(name)
    if isinstance(model, OwnModels):
        return _class(name)

    def _initialize_simulation(self: Any) -> tuple[Any, Any]:
        return model.compiled, model.new_data(model.compiled)

    return type(_class(name).__name__, (_class(name),), {"_initialize_simulation": _initialize_simulation})


def show_goal(env: Any, vector: np.ndarray | None = None) -> None:
    """Set an environment's goal, and show it; without a vector it is a new one at every reset."""
    told = {"env_cls": object, "partially_observable": False, "rand_vec": vector}  # any class will do
    env.set_task(Task(type(env).__name__, pickle.dumps(told)))
    env._freeze_rand_vec = vector is not None


@functools.lru_cache(None)
def goals(name: str, count: int, seed: int) -> tuple[np.ndarray, ...]:
    """``count`` vectors that set the goal (and where objects stand at first), as `metaworld.MT1` of the task
    and seed draws them."""
    env, model = _sharing(name)(), _model(name)
    model.put(model.fresh)
    show_goal(env)
    if isinstance(model, Model):
        env._reset_hand()  # it takes nearly all of a reset's time, and draws nothing
        env._reset_hand = lambda *args: None
    with _drawn_from(seed):
        drawn = tuple(_goal(env) for _ in range(count))
    model.take()
    return drawn


def _goal(env: Any) -> np.ndarray:
    env.reset()
    return env._last_rand_vec


@contextlib.contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, of which Meta-World draws, for a while."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _alone(method: Callable[P, R]) -> Callable[P, R]:
    """The method with `LOCK` held."""

    @functools.wraps(method)
    def held(*args: P.args, **kw: P.kwargs) -> R:
        with LOCK:
            return method(*args, **kw)

    return held


class Copy:
    """One running copy, of any task at each reset."""

    def __init__(self, render_mode: str | None = None):
        """Make nothing yet."""
        self.render_mode = render_mode
        self.known: dict[str, tuple[Any, Positions]] = {}

    @_alone
    def reset(self, seed: int, task: MetaworldTask) -> np.ndarray:
        """Start an episode; the seed tells which of the goals it has."""
        name, count = str(task.name), int(task.goals)
        self.model = _model(name)
        self.env, placed = self.known.pop(name, None) or self._made(name)
        goal = goals(name, count, int(task.seed))[seed % count] if count else None
        self.model.put(placed)
        show_goal(self.env, goal)
        with _drawn_from(seed % 2**32):
            obs = self.env.reset()[0]
        self.placed = self.model.take()
        self.known[name] = self.env, self.placed
        return obs

    def _made(self, name: str) -> tuple[Any, Positions]:
        """A new environment; the one that was used longest ago makes room for it."""
        if len(self.known) >= (1 if isinstance(self.model, OwnModels) else KEPT):
            self.known.pop(next(iter(self.known)))[0].close()
        self.model.put(self.model.fresh)
        return _sharing(name)(render_mode=self.render_mode, camera_name=CAMERA), self.model.fresh

    @_alone
    def step(self, action: np.ndarray) -> HostStep:
        """Advance; an episode may not go on after 500 steps."""
        self.model.put(self.placed)
        obs, reward, _, truncated, info = self.env.step(action)
        return HostStep(obs, reward, False, truncated, info["success"] > 0)

    @_alone
    def render(self) -> np.ndarray:
        """Draw the present state, uint8 [480, 480, 3].

        Raises:
            ConfigError: there is no GL library that draws.
        """
        self.model.put(self.placed)
        return drawn(self.env)

    def close(self) -> None:
        """Close all that was made."""
        for env, _ in self.known.values():
            env.close()


@dataclass(frozen=True)
class MetaworldEnv:
    """Meta-World's environments by the name in a task.

    Attributes:
        processes: that step them; as many as there are cores if 0.
    """

    processes: int = 1

    def make(self) -> Copy:
        """A copy."""
        return Copy()

    def memory(self, count: int, n: int, processes: int) -> int:
        """Bytes that ``count`` copies of n tasks take: a model a task and process (a copy, where versions
        were not checked), and data a copy."""
        models = count if unchecked() else min(count, n * processes)
        return models * MODEL + count * DATA

    def make_drawn(self) -> Copy:
        """A copy that can be rendered; without a display by EGL, unless MUJOCO_GL says something else."""
        choose_library()
        return Copy("rgb_array")

    def expert(self, task: MetaworldTask) -> Callable[[np.ndarray], np.ndarray]:
        """Meta-World's scripted expert of a task; it may ask for more than actions can be."""
        act = ENV_POLICY_MAP[str(task.name)]().get_action

        def expert(obs: np.ndarray) -> np.ndarray:
            with warnings.catch_warnings():  # that it does so is known
                warnings.simplefilter("ignore")
                return act(np.asarray(obs, np.float64))

        return expert
