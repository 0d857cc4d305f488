"""Cross-fitted gains of groups of tasks, trajectory by trajectory, with the fit's own noise in them.

A way is to fit some parts of the data and to judge another. The gain of task i under group S in a way is
f_i(S) = L_i(0) - L_i(D_S) on the judging part, of a D_S fitted on the others. It is noisy because the
judging trajectories are drawn, and because the fitted ones are; the second noise is as large as the first
and shared by all tasks of a group. Both are told from one sample by the infinitesimal jackknife (Jaeckel
1972; Efron 1982): to first order, the mean gain moves with the weight of a trajectory j of task i by

    judged:  its own gain - f_i,
    fitted:  (psi_j - mean psi) . v_S,   v_S = A_S^-1 (1/|S|) sum_{l judged} grad f_l(D_S),

with A_S the curvature and ridge of the group's problem and psi_j the sum of a trajectory's residuals times
features at D_S. A trajectory that is judged in one way and fitted in others has the sum of these as its
row, and the spread of the rows is the error of their mean, covariances between ways and groups included.

The residuals and the curvature are those of the quadratic model at theta*: exact for the quadratic step,
the default; for the other solvers a linearisation of the noise (not of the gains).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.estimate.config import EstimateConfig
from pgx_jax.estimate.precision import full_precision
from pgx_jax.estimate.problems import CUT_PROBLEMS, Data, Problems, TaskStatistics, make_problems
from pgx_jax.estimate.scores import loss_change
from pgx_jax.estimate.sharing import deal
from pgx_jax.estimate.solvers import solve_quadratic
from pgx_jax.estimate.surrogates import CHUNK, RIDGES, fit, select_rows, signed_weights, statistics
from pgx_jax.mesh import CUT, CUT_BY_COLUMNS
from pgx_jax.steady import Spread, compiled
from pgx_jax.types import FIT, SCORE, SELECT, Array, Features, Gains, Key, Transitions

PARTS = (FIT, SCORE, SELECT)
ADJOINT_TOLERANCE = 1e-2
"""Relative residual at which the systems of the standard errors count as solved."""
TRAJECTORY_MULTIPLE = 64
"""Trajectories are padded to a multiple of this, so that similar data share one compiled program."""


class Way(NamedTuple):
    """Parts that are fitted, and one that judges."""

    fitted: tuple[int, ...]
    judge: int


def other_parts(judge: int) -> tuple[int, ...]:
    """All parts but one."""
    return tuple(part for part in PARTS if part != judge)


OUTER = tuple(Way(other_parts(judge), judge) for judge in PARTS)
"""Each part is judged by what is fitted on the two others."""


def inner(judge: int) -> tuple[Way, Way]:
    """The two ways that leave out the part ``judge``: one of the others is fitted, the other judges."""
    first, second = other_parts(judge)
    return Way((first,), second), Way((second,), first)


class _Part(NamedTuple):
    """One part of the data."""

    judged: Data
    """Weights are divided by the transitions of a task's source."""
    fitted: Data
    """The same transitions; weights are divided by those that the task reads (see `deal`)."""
    stats: TaskStatistics
    read: Int[np.ndarray, "n"]
    """int [n]: transitions that each task reads."""
    reads: list[Bool[np.ndarray, "T"]]
    """Of each task, which of its source's trajectories."""
    segment: Int[Array, "U M"]
    """int [U, M]: trajectory of each transition within the part; -1 beyond."""
    numbers: list[Int[np.ndarray, "T"]]
    """Of each source, its trajectories' numbers."""


class _Groups(NamedTuple):
    """Groups that are fitted and judged in one call."""

    member: Bool[np.ndarray, "m n"]
    judged: Bool[np.ndarray, "m n"]
    """The tasks that are judged under each group's solution."""
    delta: Float[Array, "m d"]
    linear: Bool[np.ndarray, "m"]
    """Whether they are judged to first order."""


class CrossFit:
    """Fits groups of tasks and judges them, in any way; remembers what it has met.

    ``task`` and ``trajectory`` [J] tell the rows of all gains: task by task, and of each task part by part.
    """

    def __init__(
        self,
        features: Features,
        transitions: Transitions,
        config: EstimateConfig,
        key: Key,
        names: Sequence[str] | None = None,
    ):
        """Arrange the data; nothing is fitted yet.

        Args:
            features: values [U, N, d].
            transitions: advantages, trajectories, split and sources.
            config: settings.
            key: raw PRNG key of how shared sources are dealt.
            names: n task names for error messages.

        Raises:
            DataError: a source without a transition in a part, or a task without a signal.
        """
        self.features, self.transitions, self.config, self.names = features, transitions, config, names
        a = signed_weights(transitions, names)
        shares = [deal(key, transitions, config.source_multiple, (part,)) for part in PARTS]
        dealt = [share for share in shares if share is not None]  # all of them, or none
        self.share = np.logical_or.reduce(dealt) if dealt else None
        self.parts = [_arrange(features, transitions, a, part, self.share) for part in PARTS]
        source = np.asarray(transitions.source)
        counts = np.array([[len(p.numbers[s]) for p in self.parts] for s in source])  # [n, parts]
        self.task = np.repeat(np.arange(len(source)), counts.sum(1))
        self.part = np.concatenate([np.repeat(PARTS, row) for row in counts])
        each = int(np.asarray(transitions.trajectory).max()) + 1
        self.trajectory = np.concatenate([s * each + p.numbers[s] for s in source for p in self.parts])
        self.weight = np.array([(np.asarray(transitions.split) == part).mean() for part in PARTS])
        self._first = np.pad(np.cumsum(counts), (1, 0))[:-1].reshape(counts.shape)
        self._met: dict[Way, dict[tuple[bytes, bool], np.ndarray]] = {}

    def forget(self) -> None:
        """Forget the groups that were met: last digits of a solution tell what was solved along with it, and
        what is worked out next must not depend on what was before."""
        self._met = {}

    def rows_of(self, task: int, part: int) -> slice:
        """Where the rows of a task's trajectories in a part are."""
        first = int(self._first[task, part])
        return slice(first, first + len(self.parts[part].reads[task]))

    def statistics(self, parts: Iterable[int]) -> TaskStatistics:
        """The quadratic models of all tasks, of these parts together."""
        some = [self.parts[part] for part in parts]
        read = np.stack([part.read for part in some])
        return _pooled([part.stats for part in some], (read / read.sum(0)).astype(np.float32))

    def solve(
        self,
        member: Bool[Array, "m n"],
        ways: Iterable[Way],
        opposed: Bool[Array, "q n"] | None = None,
        *,
        noise: bool = True,
    ) -> None:
        """Fit and judge groups that are new, in one call a way.

        Args:
            member: bool [m, n], the groups.
            ways: what is fitted and what judges.
            opposed: bool [q, n], groups to be judged under the solution of all other tasks, see `opposition`.
            noise: whether the rows are to hold the noise of the fit.
        """
        asked = [(group, False) for group in np.asarray(member, bool)]
        if opposed is not None:
            asked += [(group, True) for group in np.asarray(opposed, bool)]
        for way in ways:
            met = self._met.setdefault(way, {})
            new = [(group, other) for group, other in asked if (group.tobytes(), other) not in met]
            if not new:
                continue
            judged, against = (np.array(column) for column in zip(*new, strict=True))
            fitted = judged ^ against[:, None]
            rows = itertools.chain.from_iterable(self._chunks(way, fitted, judged, against, noise))
            for (group, other), row in zip(new, rows, strict=True):
                met[group.tobytes(), other] = row[group[self.task]]

    def opposition(self, labels: Int[np.ndarray, "n"], way: Way) -> Float[np.ndarray, "J"]:
        """Gain of every task, to first order, from the solution of all tasks that are not in its group: rows
        of a partition whose groups were solved as ``opposed``."""
        return self._collect(labels, way, True)

    def _collect(self, labels: np.ndarray, way: Way, against: bool) -> Float[np.ndarray, "J"]:
        gain = np.zeros(len(self.task))
        for group in np.unique(labels):
            inside = labels == group
            gain[inside[self.task]] = self._met[way][inside.tobytes(), against]
        return gain

    def gains(self, labels: Int[np.ndarray, "n"], ways: Sequence[Way]) -> Gains:
        """The gains of a partition whose groups have been solved, over several ways.

        Their mean over a task's rows is the mean of f_i over the ways, weighted by the judges' sizes. (Rows
        are those of the parts that any of the ways reads.)
        """
        weight = self.weight[[way.judge for way in ways]]
        shares = zip(ways, weight / weight.sum(), strict=True)
        gain = np.sum([share * self._collect(labels, way, False) for way, share in shares], 0)
        read = np.isin(self.part, [part for way in ways for part in (*way.fitted, way.judge)])
        if not read.all():  # rows are scaled for a mean over all of a task's rows
            total, kept = np.bincount(self.task), np.bincount(self.task[read])
            gain = gain * (kept / total)[self.task]
        return Gains(gain[read], self.task[read], self.trajectory[read])

    def rows(
        self,
        way: Way,
        member: Bool[np.ndarray, "m n"],
        judged: Bool[np.ndarray, "m n"] | None = None,
        *,
        linear: Bool[np.ndarray, "m"] | None = None,
        noise: bool = True,
    ) -> Float[np.ndarray, "m J"]:
        """Gains of every group, trajectory by trajectory, in one way.

        Args:
            way: what is fitted and what judges.
            member: bool [m, n], the groups.
            judged: bool [m, n], the tasks that are judged under each group's solution; its own by default.
            linear: bool [m], groups whose solution is judged to first order, by 1/2 a g . D.
            noise: whether the rows are to hold the noise of the fit.

        Returns:
            float [m, J]: of which the mean over task i's rows is f_i (0 for tasks that are not judged) and
            the spread tells its error. Sums over a trajectory's transitions, scaled accordingly.
        """
        judged = member if judged is None else judged
        linear = np.zeros(len(member), bool) if linear is None else linear
        return np.concatenate([*self._chunks(way, member, judged, linear, noise)])

    def _chunks(
        self, way: Way, member: np.ndarray, judged: np.ndarray, linear: np.ndarray, noise: bool
    ) -> Iterator[Float[np.ndarray, "m J"]]:
        """The rows of at most `CHUNK` groups after the other."""
        stats, c = self.statistics(way.fitted), self.config
        found = fit(
            self.features, self.transitions, member, l2=c.l2, ridge=c.ridge, iterations=c.iterations,
            solver=c.solver, stats=stats, parts=way.fitted, share=self.share, names=self.names,
        )  # fmt: skip
        for start in range(0, len(member), CHUNK):
            some = slice(start, start + CHUNK)
            groups = _Groups(member[some], judged[some], found.delta[some], linear[some])
            yield self._rows(way, stats, found.l2, groups, noise)

    @full_precision
    def _rows(
        self, way: Way, stats: TaskStatistics, l2: Array, groups: _Groups, noise: bool
    ) -> Float[np.ndarray, "m J"]:
        """Those of at most `CHUNK` groups."""
        fitted = make_problems(groups.member, summed=RIDGES[self.config.ridge])
        heard = make_problems(groups.judged)._replace(size=fitted.size)
        m, spare = len(groups.member), len(fitted.size) - len(groups.member)
        delta, linear = np.pad(groups.delta, ((0, spare), (0, 0))), np.pad(groups.linear, (0, spare))
        part, rows = self.parts[way.judge], np.zeros((m, len(self.task)))
        sums, slope = _judge(part.judged, part.segment, delta, heard, linear, noise, _width(part))
        self._add(rows, way.judge, heard, np.asarray(sums, np.float64))
        if noise:
            rows += self._influence(way, m, delta, _adjoint(stats.h, slope, fitted, l2), fitted)
        return rows * np.bincount(self.task)[self.task]

    def _influence(
        self, way: Way, m: int, delta: Array, moves: Array, problems: Problems
    ) -> Float[np.ndarray, "m J"]:
        """(psi_j - mean psi) . v of all fitted trajectories, divided by their number."""
        rows, read = np.zeros((m, len(self.task))), np.zeros(len(self.task), bool)
        transitions = np.sum([self.parts[p].read for p in way.fitted], 0)
        for p in way.fitted:
            part = self.parts[p]
            pulled = _pull(part.fitted, part.segment, delta, moves, problems, _width(part))
            share = (part.read / transitions)[:, None, None]
            self._add(rows, p, problems, np.asarray(pulled, np.float64) * share)
            read[self.part == p] = np.concatenate(part.reads)
        first = self._first[:, 0]
        mean = np.add.reduceat(rows, first, 1) / np.add.reduceat(read, first, dtype=int)
        return rows - read * mean[:, self.task]

    def _add(self, rows: np.ndarray, part: int, problems: Problems, values: np.ndarray) -> None:
        """Put values [n, c, T] of slots where they belong in rows [m, J]."""
        for i, slots in enumerate(problems.listed()):
            used = np.flatnonzero(slots < len(rows))
            mine = self.rows_of(i, part)
            rows[slots[used], mine] = values[i, used, : mine.stop - mine.start]


@full_precision
def _arrange(
    features: Features, transitions: Transitions, a: np.ndarray, part: int, share: np.ndarray | None
) -> _Part:
    judged = select_rows(features, transitions, a, (part,))
    fitted = judged
    keep, number = np.asarray(transitions.split) == part, np.asarray(transitions.trajectory)
    source = np.asarray(transitions.source)
    read = keep[source] if share is None else keep[source] & share
    if share is not None:
        fitted = select_rows(features, transitions, a, (part,), share)._replace(g=judged.g)
    found = [np.unique(row[kept], return_inverse=True) for row, kept in zip(number, keep, strict=True)]
    segment = np.full(judged.g.shape[:2], -1, np.int32)
    for row, (_, inverse) in zip(segment, found, strict=True):
        row[: len(inverse)] = inverse
    reads = [np.isin(found[s][0], number[s][mine]) for s, mine in zip(source, read, strict=True)]
    numbers = [row for row, _ in found]
    stats = statistics(fitted)
    return _Part(judged, fitted, stats, read.sum(1), reads, jax.device_put(segment), numbers)


def _width(part: _Part) -> int:
    """Columns for a part's trajectories."""
    most = max(map(len, part.numbers))
    return most + -most % TRAJECTORY_MULTIPLE


@partial(compiled, quick=True)
def _pooled(parts: list[TaskStatistics], shares: Float[Array, "F n"]) -> TaskStatistics:
    """The mean of the statistics of parts, by the share of each task's transitions that are in them."""
    pairs = [*zip(shares, parts, strict=True)]
    b = sum(share[:, None] * stats.b for share, stats in pairs)
    return TaskStatistics(b, sum(share[:, None, None] * stats.h for share, stats in pairs))


@partial(
    compiled,
    quick=True,
    spread=Spread({"delta": CUT, "problems": CUT_PROBLEMS, "linear": CUT}, out=(CUT_BY_COLUMNS, CUT)),
    static_argnames=("noise", "width"),
)
def _judge(
    data: Data,
    segment: Array,
    delta: Array,
    problems: Problems,
    linear: Bool[Array, "m"],
    noise: bool,
    width: int,
) -> tuple[Float[Array, "n c T"], Float[Array, "m d"]]:
    """The gains of every slot's trajectories, and (for ``noise``) their gradients by the solutions."""

    def of_task(batch: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        a, source, own, linear = batch
        g = data.g[source]
        z = own @ g.T
        gain = jnp.where(linear[:, None], a / 2 * z, loss_change(z, a))
        gain = gain @ jax.nn.one_hot(segment[source], width, dtype=z.dtype)
        if not noise:
            return gain, jnp.zeros_like(own)
        return gain, jnp.where(linear[:, None], a / 2, a * jax.nn.sigmoid(-jnp.sign(a) * z)) @ g

    spread = problems.spread(delta), problems.spread(linear)
    gain, slope = jax.lax.map(of_task, (data.a, data.source, *spread))
    return gain, problems.collect(slope)


@partial(compiled, quick=True, spread=Spread({"slope": CUT, "problems": CUT_PROBLEMS}))
def _adjoint(h: Array, slope: Array, problems: Problems, l2: Array) -> Float[Array, "m d"]:
    """v_S of all problems, as precisely as a standard error needs it."""
    return solve_quadratic(h, slope, problems, l2, ADJOINT_TOLERANCE)[0]


@partial(
    compiled,
    quick=True,
    spread=Spread({"delta": CUT, "moves": CUT, "problems": CUT_PROBLEMS}, out=CUT_BY_COLUMNS),
    static_argnames=("width",),
)
def _pull(
    data: Data, segment: Array, delta: Array, moves: Array, problems: Problems, width: int
) -> Float[Array, "n c T"]:
    """psi . v of every slot's trajectories."""

    def of_task(batch: tuple[Array, Array, Array, Array]) -> Array:
        a, source, own, move = batch
        g = data.g[source]
        pulled = (a / 2 - jnp.abs(a) / 4 * (own @ g.T)) * (move @ g.T)
        return pulled @ jax.nn.one_hot(segment[source], width, dtype=pulled.dtype)

    return jax.lax.map(of_task, (data.a, data.source, problems.spread(delta), problems.spread(moves)))
