"""``pgx-jax group``: groups of tasks whose gradients were computed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

import numpy as np
import tyro
from rich.console import Console

from pgx_jax import pipeline
from pgx_jax.cli.saved import HELD_OUT, check_writable, show_regrouped
from pgx_jax.config import Config, EstimateConfig, check_method
from pgx_jax.errors import DataError, FolderError
from pgx_jax.estimate import SIMILARITIES
from pgx_jax.estimate.projections import rows
from pgx_jax.grouping import GroupingConfig
from pgx_jax.learn.logged import parts_of
from pgx_jax.runs.saved import regrouped
from pgx_jax.runs.store import DAMAGED
from pgx_jax.types import Features, Named, Transitions

ELSEWHERE = (
    "steps", "num_envs", "whole_episodes", "thin", "source_multiple", "gae_lambda", "precision", "lift",
    "distance", "rollout_episodes",
)  # fmt: skip
"""Settings of the estimation for collecting and for roll-outs, of which there are none here."""
BESIDE = tuple(name for name, kind in SIMILARITIES.items() if not kind.steps)
"""Similarities that need no policy."""
LATER = ("group_ratio",)
"""Settings of the grouping for groups that are looked at again."""


def without(settings: type, names: Sequence[str], **kinds: Any) -> Any:
    """A class of settings of which the command line does not offer some, and fewer choices of others."""
    hints = get_type_hints(settings, include_extras=True) | kinds
    hidden = (tyro.conf.Fixed, tyro.conf.Suppress)
    changed = [
        (own.name, Annotated[hints[own.name], *hidden] if own.name in names else hints[own.name], own)
        for own in fields(settings)
        if own.name in names or own.name in kinds
    ]
    about = {"__doc__": settings.__doc__, "__module__": __name__}
    return make_dataclass(settings.__name__, changed, bases=(settings,), frozen=True, namespace=about)


if TYPE_CHECKING:
    Estimate: TypeAlias = EstimateConfig
    Grouping: TypeAlias = GroupingConfig
else:
    Estimate = without(
        EstimateConfig, ELSEWHERE, score=Named[str, HELD_OUT], beside=tuple[Named[str, BESIDE], ...]
    )
    Grouping = without(GroupingConfig, LATER)

NEEDED = ("advantage", "trajectory")
"""Arrays that a file must have, beside features or gradients."""


@dataclass(frozen=True)
class GroupCommand:
    """Group tasks by gradients of log pi that were computed elsewhere, and advantages."""

    data: tyro.conf.Positional[Path]
    """A file of NumPy arrays (.npz). advantage: float [n, N], of N transitions of each of n tasks.
    trajectory: int [n, N], the number of each one's trajectory; those of a trajectory stand together.
    gradients: float [n, N, p], of log pi of each transition; or features: float [n, N, d], projected already.
    names: n task names, if there are any."""
    k: int | None = None
    """Number of groups; chosen by held-out data if not given."""
    seed: int = 0
    """Of the projection, and of how trajectories are dealt to the parts that fit, score and select."""
    estimate: Estimate = field(default_factory=Estimate)
    grouping: Grouping = field(default_factory=Grouping)
    out: Path | None = None
    """JSON file to write; beside the data by default (DATA.groups.json)."""

    def __call__(self, console: Console) -> None:
        """Group them."""
        arrays = read(self.data)
        path = self.out or self.data.with_suffix(".groups.json")
        check_writable(path)
        config = Config(seed=self.seed, k=self.k, estimate=self.estimate, grouping=self.grouping)
        n, count = np.shape(arrays["advantage"])
        check_method(config, n)
        names = [str(name) for name in arrays.get("names", [f"task{i}" for i in range(n)])]
        transitions = Transitions(
            np.zeros((n, count, 0), np.float32), np.zeros((n, count)), arrays["advantage"],
            arrays["trajectory"], parts_of(arrays["trajectory"], self.seed, names), np.arange(n),
        )  # fmt: skip
        found = pipeline.group_features(features(arrays, config), transitions, config, names=names)
        record = regrouped(found.affinity, found.grouping, found.stability, names, config)
        show_regrouped(console, record, path)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, once they fit each other.

    Raises:
        FolderError: there is no such file.
        DataError: it is damaged, or lacks something; or shapes that do not fit, numbers that are not finite.
    """
    if not path.is_file():
        raise FolderError(f"{path} is no file; give one of arrays, as numpy.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except DAMAGED as error:
        raise DataError(
            f"{path} is no file of NumPy arrays ({error}); write it by numpy.savez, with as many transitions "
            f"of each task, and names as text"
        ) from error
    given = [name for name in ("features", "gradients") if name in arrays]
    missing = [name for name in NEEDED if name not in arrays]
    if missing or len(given) != 1:
        raise DataError(
            f"{path} has {', '.join(arrays) or 'nothing'}; it needs advantage, trajectory, and either "
            f"features or gradients"
        )
    trajectory = arrays["trajectory"]
    if trajectory.dtype.kind == "f" and (trajectory == np.round(trajectory)).all():
        arrays["trajectory"] = trajectory.astype(np.int64)
    shape = arrays["advantage"].shape
    for name, dimensions in (("advantage", 2), ("trajectory", 2), (given[0], 3)):
        if arrays[name].ndim != dimensions or arrays[name].shape[:2] != shape:
            axes = "[n, N, …]" if dimensions == 3 else "[n, N]"
            raise DataError(
                f"{name} of {path} has the shape {arrays[name].shape}; it must be {axes}, as advantage's "
                f"{shape} is"
            )
        kinds = "iu" if name == "trajectory" else "biuf"
        if arrays[name].dtype.kind not in kinds or not arrays[name].size:
            raise DataError(
                f"{name} of {path} is of type {arrays[name].dtype}, and of {arrays[name].size} entries; it "
                f"must be {'whole ' if kinds == 'iu' else ''}numbers"
            )
        if not np.isfinite(arrays[name]).all():
            raise DataError(f"{name} of {path} has numbers that are not finite")
    names = arrays.get("names")
    if names is not None and (names.dtype.kind != "U" or len(set(names.flat)) != shape[0]):
        raise DataError(f"names of {path} must be text, a name of its own for each of the {shape[0]} tasks")
    return arrays


def features(arrays: dict[str, np.ndarray], config: Config) -> Features:
    """Features as they are, or of gradients by the map that the settings name."""
    e, key = config.estimate, np.asarray(config.stream("project"))
    if "features" in arrays:
        return Features(np.asarray(arrays["features"], np.float32), key)
    gradients = np.asarray(arrays["gradients"], np.float32)
    drawn = rows(key, (gradients.shape[2:],), e.dim, projection=e.projection)
    return Features(gradients @ np.asarray(drawn), key, projection=e.projection)
