"""Trained policies as files that others can use without the run, or without pgx_jax; one format a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from pgx_jax.errors import ConfigError, checked, pick
from pgx_jax.runs.exporting import numpy_format, safetensors_format, stablehlo
from pgx_jax.runs.exporting.subject import Subject
from pgx_jax.runs.run import Run
from pgx_jax.runs.saved import load_trained
from pgx_jax.runs.serial import write_atomically
from pgx_jax.show import task_number

__all__ = ["FORMATS", "Exported", "Format", "Subject", "export_policy"]

FOLDER = "exported"
"""Of a run, where policies are exported to by default."""


class Format(NamedTuple):
    """A way to write a policy down."""

    check: Callable[[Subject], None]
    """Refuses, before any work, what the format cannot hold or lacks."""
    files: Callable[[Subject], dict[str, bytes]]
    """Ending -> content of a file."""
    use: str
    """How the files are used, in a line of Python with their NAME."""


FORMATS = {
    "numpy": Format(numpy_format.check, numpy_format.files, "from NAME import Policy; Policy().act(obs)"),
    "stablehlo": Format(
        stablehlo.check, stablehlo.files,
        'jax.export.deserialize(bytearray(open("NAME.stablehlo", "rb").read())).call(obs)',
    ),
    "safetensors": Format(
        safetensors_format.check, safetensors_format.files,
        'safetensors.numpy.load_file("NAME.safetensors")',
    ),
}  # fmt: skip
"""Formats by name. "numpy": parameters of a perceptron, and a file of Python that acts by them with NumPy
alone; "stablehlo": any network as a program for JAX; "safetensors": the parameters of any network."""


class Exported(NamedTuple):
    """A policy that was written down."""

    group: list[str]
    """The tasks that it serves."""
    paths: list[Path]
    use: str
    """How the files are used, in a line of Python."""


@checked
def export_policy(
    run: Run | str | Path,
    *,
    group: int | None = None,
    task: str | int | None = None,
    format: str = "numpy",
    out: str | Path | None = None,
) -> Exported:
    """Write the trained policy of a group, or of a task's group, to files.

    Of a learner that adapts it is the policy before it has adapted to its task.

    Args:
        run: a run whose policies are trained, or its folder.
        group: its number, from 1 as in the report; not needed where there is one group.
        task: instead of it, a task's name or number: the policy that serves it (a policy that is told its
            task is told this one where nothing else is said).
        format: a name of `FORMATS`.
        out: folder for the files, group-2.npz and the like; ``exported`` in the run's folder by default.

    Raises:
        ConfigError: no such group, task or format, a format that the policy cannot have, a run without
            policies, or a folder that cannot be written to.
    """
    chosen = pick(FORMATS, format, "format")
    run = run if isinstance(run, Run) else load_trained(run)
    number, name, known = _which(run, group, task)
    found = policy_of(run, number, known)
    chosen.check(found)
    if out is None and run.store is None:
        raise ConfigError("the run has no folder: give one for the files, out=")
    folder = Path(out) if out is not None else run.store.path / FOLDER  # type: ignore[union-attr]
    _check_folder(folder)
    contents = chosen.files(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending, content in contents.items():
            write_atomically(folder / f"{name}{ending}", content)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written to ({error.strerror}); choose another folder"
        ) from error
    paths = [folder / f"{name}{ending}" for ending in contents]
    return Exported(list(found.tasks), paths, chosen.use.replace("NAME", name))


def policy_of(run: Run, group: int, task: str | None = None) -> Subject:
    """The policy of a group, int from 0, with all that a format may ask."""
    family = run.family
    served = [name for name, label in zip(family.task_names, run.labels, strict=True) if label == group]
    contexts = dict(zip(family.task_names, family.context.tolist(), strict=True))
    agent = jax.tree.map(np.asarray, run.agent_for(served[0]))
    return Subject(
        family.name, {name: contexts[name] for name in served}, task, run.group_policy, agent,
        family.observation_space.shape,
    )  # fmt: skip


def _which(run: Run, group: int | None, task: str | int | None) -> tuple[int, str, str | None]:
    """The group from 0, the name of the files, and the task's full name if one was given."""
    if group is not None and task is not None:
        raise ConfigError(f"group = {group} and task = {task!r}: give one of them")
    if task is not None:
        number = task_number(run.family, task)
        return int(run.labels[number]), f"task_{number}", run.family.task_names[number]
    if group is None and run.k == 1:
        group = 1
    if group is None or not 1 <= group <= run.k:
        names = run.family.task_names
        told = "; ".join(
            f"{g + 1}: {', '.join(name for name, x in zip(names, run.labels, strict=True) if x == g)}"
            for g in range(run.k)
        )
        asked = "give a group or a task" if group is None else f"there is no group {group}"
        raise ConfigError(f"{asked}; the run's groups are {told}")
    return group - 1, f"group_{group}", None


def _check_folder(folder: Path) -> None:
    """Refuse a folder for files that is none, or closed to writing."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"{there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"the folder {there} is closed to writing; choose another one")
