"""Whether an environment keeps what its family promises, before anything is trained on it."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from pgx_jax.errors import ConfigError, named
from pgx_jax.tasks.family import Step, TaskFamily
from pgx_jax.types import PyTree


def check_family(family: TaskFamily) -> None:
    """Trace a device environment's ``reset`` and ``step`` once, for shapes and types; nothing is computed.

    Tasks are checked by their values, too: NaN is refused. Host environments are checked as they step.

    Raises:
        ConfigError: which part of what the environment returned does not fit, and what it should be.
    """
    _check_tasks(family)
    if family.engine != "device":
        return
    key = jax.random.PRNGKey(0)
    task = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf)[1:], _dtype(leaf)), family.tasks)
    started = _traced(family, "reset", key, task)
    if not isinstance(started, tuple) or len(started) != 2:
        raise _mismatch(family, "reset", f"returns {type(started).__name__}", "a pair (state, obs)")
    state, obs = started
    _check_obs(family, "reset", obs)
    step = _traced(family, "step", key, state, _action(family.action_space), task)
    if not isinstance(step, Step):
        raise _mismatch(family, "step", f"returns {type(step).__name__}", "a pgx_jax.tasks.Step")
    _check_obs(family, "step", step.obs)
    _check_state(family, state, step.state)
    _check_scalars(family, step)


def _check_tasks(family: TaskFamily) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(family.tasks):
        values = np.asarray(leaf)
        if values.dtype.kind != "f":
            continue
        bad = np.isnan(values.reshape(family.n, -1)).any(axis=1)
        if bad.any():
            raise ConfigError(
                f"family {family.name!r}: task {family.task_names[int(np.argmax(bad))]!r} has NaN as its "
                f"parameter {jax.tree_util.keystr(path)}; give it a number"
            )


def _traced(family: TaskFamily, name: str, *args: PyTree) -> Any:
    """Shapes and types of what a method of the environment returns."""
    try:
        return jax.eval_shape(getattr(family.env, name), *args)
    except ConfigError:
        raise
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        raise ConfigError(
            f"family {family.name!r}: its environment's {name} cannot be traced by JAX "
            f"({type(error).__name__}: {_line(error)}); it must be a pure function of arrays"
        ) from error
    except Exception as error:
        tasks = named([*map(repr, family.task_names)])
        raise ConfigError(
            f"family {family.name!r}: its environment {raised(name, error)}; all of its tasks ({tasks}) go "
            f"through this code, and nothing was trained: mend the environment, or take another version of "
            f"the library that it comes from"
        ) from error


def raised(what: str, error: Exception) -> str:
    """What an environment's own error was and where, in words: raised TypeError in step (fluid.py, line 73):
    …"""
    own = str(Path(jax.__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(own)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__} in {what}{where}: {_line(error)}"


def _line(error: Exception) -> str:
    """An error in one line."""
    return (str(error).strip() or "no message").splitlines()[0]


def _check_obs(family: TaskFamily, name: str, obs: Any) -> None:
    space = family.observation_space
    if getattr(obs, "shape", None) != space.shape:
        what = f"returns observations of shape {getattr(obs, 'shape', None)}"
        raise _mismatch(family, name, what, f"the shape {space.shape} of its observation space")
    if not jnp.issubdtype(obs.dtype, jnp.floating):
        raise _mismatch(family, name, f"returns observations of type {obs.dtype}", "float32")


def _check_state(family: TaskFamily, before: PyTree, after: PyTree) -> None:
    ours, theirs = jax.tree.structure(before), jax.tree.structure(after)
    if ours != theirs:  # type: ignore[operator]  # of a type that has no stubs
        raise _mismatch(family, "step", f"returns a state of structure {theirs}", f"that of reset, {ours}")
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            where = jax.tree_util.keystr(path) or "state"
            raise _mismatch(
                family, "step", f"turns {where} into {new.dtype}{list(new.shape)}",
                f"{old.dtype}{list(old.shape)}, as reset returned it",
            )  # fmt: skip


def _check_scalars(family: TaskFamily, step: Step) -> None:
    expected: dict[str, tuple[tuple[int, ...], Any, str]] = {
        "reward": ((), jnp.floating, "a float of shape ()")
    }
    expected["terminated"] = expected["success"] = ((), jnp.bool_, "a bool of shape ()")
    if family.objectives is not None:
        kinds = family.objectives.shape[1]
        expected["objectives"] = ((kinds,), jnp.floating, f"floats of shape ({kinds},), one an objective")
    for name, (shape, kind, words) in expected.items():
        value = getattr(step, name)
        if isinstance(value, bool):
            continue
        if value is None or value.shape != shape or not jnp.issubdtype(value.dtype, kind):
            found = "None" if value is None else f"{value.dtype}{list(value.shape)}"
            raise _mismatch(family, "step", f"returns {found} as {name}", words)


def _action(space: spaces.Space[Any]) -> jax.ShapeDtypeStruct:
    """An action as policies give it."""
    discrete = isinstance(space, (spaces.Discrete, spaces.MultiDiscrete))
    return jax.ShapeDtypeStruct(space.shape, jnp.int32 if discrete else jnp.float32)


def _dtype(leaf: Any) -> Any:
    """The type that a leaf has inside of a program."""
    return jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype)


def _mismatch(family: TaskFamily, name: str, found: str, expected: str) -> ConfigError:
    return ConfigError(f"family {family.name!r}: its environment's {name} {found}; it must be {expected}")
