"""How well the log-ratio of policies is linear in the parameters (the paper's first table).

The method rests on log r(theta) = log pi_theta(a|s) - log pi_theta*(a|s) being nearly g.Delta, with
g = grad log pi(a|s) at theta* and Delta = theta - theta*. Here that is measured over transitions that theta*
experienced, at several relative distances |Delta| / |theta*| (Euclidean norms of all parameters of the
actor), along three kinds of directions:

- ``finetuning``: where the run's learner goes from theta* and its critic on a subset of the tasks. It is
  stopped after 1, 2, 4, ... updates; at each distance the first stop that lies as far is shortened to it (or
  the last one lengthened, where none does).
- ``surrogate``: the lifted solution of a subset's surrogate (dual lift), fitted as the run's surrogates are.
- ``random``: independent normal numbers for all parameters. Hardly any of it changes the policy: this kind
  flatters, and is shown to tell how much.

Three errors are told (``MEASURES``), each over all transitions of the direction's tasks (every source counts
the same number of them; random directions read all tasks). All is computed in float64, as far as the network
allows it: at a distance of a thousandth the errors are of the size of float32's rounding.

The paper calls its number the error of the log-ratio, and does not say over which norm.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from pgx_jax import estimate, learn, pipeline
from pgx_jax.analysis.subject import Subject, checked_members, finite, groups_of, parameter_count
from pgx_jax.compare.results import Number, Record
from pgx_jax.errors import ConfigError
from pgx_jax.estimate import LogProb
from pgx_jax.learn import Progress
from pgx_jax.steady import compiled
from pgx_jax.types import Array, PyTree, Rows

DISTANCES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Relative distances; the first, second, third and fifth are the paper's."""

KINDS = ("finetuning", "surrogate", "random")
"""Kinds of directions, the one that matters most first."""


@dataclass(frozen=True)
class ApproximationConfig:
    """Settings of the first-order error."""

    distances: tuple[float, ...] = DISTANCES
    """Relative distances |theta - theta*| / |theta*|, ascending."""
    transitions: int = 1024
    """Transitions of each source that are read, at most; evenly spaced among those that were collected."""
    updates: int = 8
    """Updates of the longest fine-tuning."""
    draws: int = 8
    """Random directions."""
    seed: int = 0
    """Of fine-tuning and random directions, beside the run's own."""

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: naming the setting.
        """
        distances = self.distances
        if not distances or not all(0 < x < math.inf for x in distances) or list(distances) != sorted(
            set(distances)
        ):  # fmt: skip
            raise ConfigError(
                f"distances = {distances} must be positive and ascending, for instance 0.01 0.05"
            )
        for name in ("transitions", "updates", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1")


def ratio_error(log_ratio: Float[np.ndarray, "N"], linear: Float[np.ndarray, "N"]) -> float:
    """Mean over transitions of |r - (1 + g.Delta)| / r."""
    return float(np.abs(1 - (1 + linear) * np.exp(-log_ratio)).mean())


def ratio_median_error(log_ratio: Float[np.ndarray, "N"], linear: Float[np.ndarray, "N"]) -> float:
    """The same, but their median: a few actions that become very unlikely have large relative errors."""
    return float(np.median(np.abs(1 - (1 + linear) * np.exp(-log_ratio))))


def log_ratio_error(log_ratio: Float[np.ndarray, "N"], linear: Float[np.ndarray, "N"]) -> float:
    """|log r - g.Delta| / |log r|, Euclidean norms over the transitions; NaN where the policy is the same."""
    size = np.linalg.norm(log_ratio)
    return float(np.linalg.norm(log_ratio - linear) / size) if size > 0 else math.nan


Measure = Callable[[Float[np.ndarray, "N"], Float[np.ndarray, "N"]], float]
"""(log r [N], g.Delta [N]) -> an error, as a fraction."""

MEASURES: dict[str, Measure] = {
    "ratio": ratio_error,
    "ratio_median": ratio_median_error,
    "log_ratio": log_ratio_error,
}
"""Errors by name."""


class Path(NamedTuple):
    """A way from theta*, to be shortened to a distance."""

    kind: str
    """One of ``KINDS``."""
    member: Bool[np.ndarray, "n"]
    """bool [n]: the tasks whose transitions are read."""
    stops: PyTree
    """Displacements along it, leaves [K, ...], each farther along than the one before."""
    own: bool = True
    """Whether its own length means something."""

    def lengths(self, params: PyTree) -> Float[np.ndarray, "K"]:
        """Relative distances of the stops."""
        return np.asarray(estimate.relative_distance(self.stops, params), np.float64)

    def at(self, distance: float, params: PyTree) -> PyTree:
        """The displacement at a relative distance; zeros where the path leads nowhere."""
        lengths = self.lengths(params)
        far = np.flatnonzero(lengths >= distance)
        stop = int(far[0]) if len(far) else len(lengths) - 1
        one = jax.tree.map(lambda x: x[stop : stop + 1], self.stops)
        return jax.tree.map(lambda x: x[0], estimate.rescale(one, params, distance))


@functools.partial(compiled, quick=True, static_argnames="log_prob")
def _first_order(
    log_prob: LogProb, params: PyTree, obs: PyTree, action: Array, moves: PyTree
) -> tuple[Float[Array, "S N"], Float[Array, "S N"]]:
    def of_all(theta: PyTree) -> Array:
        return jax.vmap(log_prob, (None, 0, 0))(theta, obs, action)

    def of_move(move: PyTree) -> tuple[Array, Array]:
        before, slope = jax.jvp(of_all, (params,), (move,))
        return of_all(jax.tree.map(jnp.add, params, move)) - before, slope

    return jax.lax.map(of_move, moves)


def first_order(
    log_prob: LogProb, params: PyTree, obs: PyTree, action: Array, moves: PyTree
) -> tuple[Float[np.ndarray, "S N"], Float[np.ndarray, "S N"]]:
    """log r and its first order g.Delta, of every transition and displacement, in float64.

    The derivative of all transitions along a displacement is one forward pass (`jax.jvp`): no gradient of a
    single transition is ever made.

    Args:
        log_prob: (params, obs, action) of one transition -> scalar.
        params: theta*.
        obs: leaves [N, ...].
        action: [N, ...].
        moves: displacements, leaves [S, ...].

    Returns:
        log r [S, N] and g.Delta [S, N].
    """

    def double(x: Array) -> np.ndarray:
        x = np.asarray(x)
        return x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x

    given = jax.tree.map(double, (params, obs, action, moves))
    with double_precision():
        found = _first_order(log_prob, *given)
    log_ratio, linear = (np.asarray(x, np.float64) for x in found)
    return log_ratio, linear


def double_precision() -> AbstractContextManager[None]:
    """A context in which JAX computes in float64."""
    home: Any = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    return home.enable_x64(True)


class DirectionErrors(Record, frozen=True, kw_only=True):
    """The errors along one direction."""

    kind: str
    """finetuning, surrogate or random."""
    tasks: list[str]
    """Of the subset; of all tasks where the direction is random."""
    errors: dict[str, list[Number]]
    """By measure, at every distance; fractions."""
    own: Number = None
    """Relative distance that it leads to by itself: after all updates, or at the surrogate's solution; None
    of random directions."""
    at_own: dict[str, Number] = {}
    """The errors there."""


class ApproximationResult(Record, frozen=True, kw_only=True):
    """The first-order error of a run's policy: what ``analysis/approximation.json`` holds."""

    schema_version: int = 1
    family: str
    parameters: int
    """Of the actor."""
    transitions: int
    """Read of each source."""
    updates: int
    """Of the longest fine-tuning."""
    distances: list[float]
    directions: list[DirectionErrors]

    def of_kind(self, kind: str, measure: str) -> Float[np.ndarray, "D S"]:
        """The errors along all directions of a kind, float [D, S]."""
        found = [x.errors[measure] for x in self.directions if x.kind == kind]
        return np.array(found, float).reshape(-1, len(self.distances))

    def own(self, kind: str, measure: str) -> tuple[float, float]:
        """Mean of the distances that directions of a kind lead to, and of their errors there."""
        of_kind = [x for x in self.directions if x.kind == kind and x.own]
        return (
            float(np.mean(np.array([x.own for x in of_kind], float))) if of_kind else math.nan,
            float(np.mean(np.array([x.at_own[measure] for x in of_kind], float))) if of_kind else math.nan,
        )


@dataclass(frozen=True)
class Thinned:
    """The transitions that are read, source by source."""

    obs: PyTree
    """Leaves [U, N, ...]."""
    action: Array
    """[U, N, ...]."""
    source: np.ndarray
    """int [n]."""

    @classmethod
    def of(cls, run: Subject, count: int) -> Thinned:
        """At most ``count`` of each source of a run, evenly spaced."""
        given = run.transitions
        total = np.shape(given.action)[1]
        chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
        obs, action = jax.tree.map(lambda x: np.asarray(x)[:, chosen], (given.obs, given.action))
        return cls(obs, action, np.asarray(given.source))

    def of_tasks(self, member: np.ndarray) -> Sequence[tuple[PyTree, Array]]:
        """(obs, action) of every source that some tasks read."""
        sources = np.unique(self.source[member]).tolist()
        return [jax.tree.map(lambda x, u=u: x[u], (self.obs, self.action)) for u in sources]


def groups_and_firsts(run: Subject) -> Bool[np.ndarray, "m n"]:
    """The groups that a run has found, and the first task of each alone: bool [m, n]."""
    groups = groups_of(run)
    first = np.eye(groups.shape[1], dtype=bool)[groups.argmax(1)]
    return np.unique(np.concatenate([groups, first]), axis=0)


def finetuning_paths(
    run: Subject,
    member: Bool[np.ndarray, "m n"],
    settings: ApproximationConfig,
    progress: Progress | None = None,
) -> list[Path]:
    """Where the run's learner goes from theta* on every subset, with stops after 1, 2, 4, ... updates.

    All rows of a subset have one key: a longer one passes the stops of the shorter ones (unless the learner
    anneals its step size, which then falls within each row's own budget).
    """
    stops = sorted({*(2**i for i in range(settings.updates.bit_length())), settings.updates})
    base = jax.random.fold_in(run.config.stream("analysis"), settings.seed)
    keys = np.stack([np.asarray(jax.random.fold_in(base, i)) for i in range(len(member))])
    count, steps = len(stops), np.array(stops) * run.learner.steps_per_update
    rows = Rows(
        np.repeat(member, count, axis=0), np.tile(steps, len(member)), np.repeat(keys, count, axis=0),
        learn.stack([run.meta] * (count * len(member))),
    )  # fmt: skip
    trained = learn.train(
        run.policy, run.learner, run.family, rows, rows_per_call=run.config.rows_per_call, progress=progress
    )
    moved = jax.tree.map(
        lambda after, before: np.asarray(after) - np.asarray(before)[None],
        learn.policy_params(trained.agents), learn.policy_params(run.meta),
    )  # fmt: skip
    return [
        Path("finetuning", row, jax.tree.map(lambda x, i=i: x[i * count : (i + 1) * count], moved))
        for i, row in enumerate(member)
    ]


def surrogate_paths(run: Subject, member: Bool[np.ndarray, "m n"]) -> list[Path]:
    """The dual lift of every subset's surrogate, fitted with the run's settings."""
    names = run.family.task_names
    solved = pipeline.fit_subsets(run.features, run.transitions, member, run.config.estimate, names=names)
    a = estimate.signed_weights(run.transitions, names)
    params = learn.policy_params(run.meta)
    lifted = estimate.lift_dual(run.policy.log_prob, params, run.transitions, a, solved, run.features)
    return [
        Path("surrogate", row, jax.tree.map(lambda x, i=i: np.asarray(x)[i : i + 1], lifted))
        for i, row in enumerate(member)
    ]


def random_paths(run: Subject, settings: ApproximationConfig) -> list[Path]:
    """Independent normal numbers for all parameters, which are read on all tasks."""
    params = learn.policy_params(run.meta)
    leaves, structure = jax.tree.flatten(params)
    key = jax.random.fold_in(run.config.stream("analysis"), settings.seed)
    rng = np.random.default_rng(np.asarray(key))
    everything = np.ones(run.family.n, bool)

    def draw() -> PyTree:
        drawn = [rng.normal(size=(1, *np.shape(x))).astype(np.asarray(x).dtype) for x in leaves]
        return jax.tree.unflatten(structure, drawn)

    return [Path("random", everything, draw(), own=False) for _ in range(settings.draws)]


def errors_along(
    log_prob: LogProb, params: PyTree, path: Path, distances: Sequence[float], thinned: Thinned
) -> dict[str, list[float]]:
    """The errors at every distance along a path, by measure."""
    moves = [path.at(distance, params) for distance in distances]
    stacked = jax.tree.map(lambda *xs: np.stack([np.asarray(x) for x in xs]), *moves)
    found = [first_order(log_prob, params, *of, stacked) for of in thinned.of_tasks(path.member)]
    log_ratio, linear = (np.concatenate(x, axis=1) for x in zip(*found, strict=True))
    pairs = list(zip(log_ratio, linear, strict=True))
    return {name: [measure(*pair) for pair in pairs] for name, measure in MEASURES.items()}


def _direction(run: Subject, path: Path, distances: Sequence[float], thinned: Thinned) -> DirectionErrors:
    """The record of a path."""
    params = learn.policy_params(run.meta)
    length = float(path.lengths(params)[-1]) if path.own else 0.0
    asked = [*distances, length] if length > 0 else list(distances)
    found = errors_along(run.policy.log_prob, params, path, asked, thinned)
    names = np.array(run.family.task_names)[path.member].tolist()
    return DirectionErrors(
        kind=path.kind,
        tasks=names,
        errors={name: [finite(x) for x in values[: len(distances)]] for name, values in found.items()},
        own=length or None,
        at_own={name: finite(values[-1]) for name, values in found.items()} if length > 0 else {},
    )


def first_order_error(
    run: Subject,
    settings: ApproximationConfig | None = None,
    *,
    member: Bool[np.ndarray, "m n"] | None = None,
    progress: Progress | None = None,
) -> ApproximationResult:
    """Errors of the first order along directions of all kinds (see the head of this module).

    Args:
        run: its theta*, transitions and features are read.
        settings: defaults if not given.
        member: bool [m, n], the subsets to fine-tune on and to solve surrogates of; by default the groups
            that were found, and the first task of each.
        progress: hears of the fine-tuning.

    Raises:
        ConfigError: settings that cannot work, or a policy with memory.
        DataError: fine-tuning was not finite, or a task has no signal.
    """
    settings = settings or ApproximationConfig()
    settings.check()
    member = groups_and_firsts(run) if member is None else member
    member = checked_members(member, run.family.task_names)
    thinned = Thinned.of(run, settings.transitions)
    paths = [
        *finetuning_paths(run, member, settings, progress),
        *surrogate_paths(run, member),
        *random_paths(run, settings),
    ]
    params = learn.policy_params(run.meta)
    return ApproximationResult(
        family=run.family.name,
        parameters=parameter_count(params),
        transitions=int(np.shape(thinned.action)[1]),
        updates=settings.updates,
        distances=list(settings.distances),
        directions=[_direction(run, path, settings.distances, thinned) for path in paths],
    )
