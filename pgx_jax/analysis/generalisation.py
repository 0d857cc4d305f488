"""How well policies that were fitted to transitions do on fresh ones, and what curvature promises of it.

For every subset S of the tasks the policy is the one that the method estimates with: theta* displaced by the
dual lift of S's surrogate, which was fitted to the part FIT of what theta* experienced, scaled to the
run's ``estimate.distance``.

**The loss** of parameters theta on a task i is the policy-gradient objective with PPO's clipping, by which
theta beats theta* (whose own loss is 0)::

    L_i(theta) = - mean over trajectories, mean over their transitions, of  a (clip(r, 1 - c, 1 + c) - 1)

with r = pi_theta(a|s) / pi_theta*(a|s), c = PPO's ``clip``, and a the advantage, standardised by mean and
deviation of the task's part SELECT (so that what is fitted does not move the loss) and cut to [-A, A]. Every
value lies in [-cA, cA]. (PPO takes the minimum with the unclipped term, which has no lower bound. The
surrogate was fitted to a logistic loss in which all transitions of a task weigh the same: this one is not
its minimum.) L_S is the mean over the tasks of S. Here hats are means over the trajectories that were
fitted; without a hat, over those that theta* would have in all.

**The bound** (PAC-Bayes, in the form linear in lambda: Catoni 2007; Alquier, Ridgway and Chopin 2016). For
Gaussian noise of deviation sigma in all p parameters, prior N(theta*, sigma^2 I) and posterior
Q = N(theta, sigma^2 I): with a probability of at least 1 - delta over the trajectories, for all pairs of
sigma and lambda of a grid of G that was fixed beforehand, and all of M subsets::

    E_Q L  <=  E_Q L^ + lambda C^2 / (8 n) + (|theta - theta*|^2 / (2 sigma^2) + log(G M / delta)) / lambda

with C = 2cA the width of the loss's range, and n = 1 / sum of the squared weights of the trajectories (their
number, where all weigh the same). M is 1 of all tasks together, and else 2^n_tasks - 1: groups are chosen by
the same trajectories, so that a bound must hold for whatever subset they name.

To second order E_Q L^ is L^(theta) + sigma^2 / 2 tr H, H the Hessian of L^ at theta: so the trace
enters (Ju, Li and Zhang 2022). The bound takes E_Q L^ as measured with ``draws`` draws of the noise, and the
pair whose bound is the least; at the same pair it is told with the trace instead. Where the two differ, the
noise reaches beyond what second order describes, and the second is no bound.

**What it assumes.** Trajectories are independent: those of different environments are, those of one that
follow each other, or were cut by the end of collecting, nearly. theta* and its critic were trained on
other data, and are a prior that this data did not choose. With a linear baseline, which is fitted to the
transitions, or learners without a critic, the advantages depend a little on all of them. The bound is about
policies with noise, and about states that theta* visits: it says nothing of where the new policy would go.
The errors of the estimates of trace and E_Q L^ are told, and not added.

A bound above cA says nothing (``vacuous``: no loss is larger); one below 0 promises a gain over theta*. Of
few trajectories the least bound may be that of the most ``noise``: it then speaks of policies that are mostly
noise, and hardly of theta.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Int

from pgx_jax import learn, pipeline
from pgx_jax.analysis.approximation import surrogate_paths
from pgx_jax.analysis.curvature import TRACES, Estimate, extreme_eigenvalues, hessian_trace, matfree
from pgx_jax.analysis.subject import (
    Subject,
    as_float,
    checked_members,
    finite,
    groups_of,
    parameter_count,
)
from pgx_jax.compare.results import Number, Record
from pgx_jax.compare.unknown import joined, likeliest_group, sampled, widened
from pgx_jax.errors import ConfigError
from pgx_jax.estimate import LogProb, log_probs
from pgx_jax.learn import Progress
from pgx_jax.steady import compiled
from pgx_jax.types import FIT, SELECT, Array, Key, PyTree, Transitions

NOISES = tuple(1e-3 * 2.0**i for i in range(11))
"""Deviations of the noise that a bound may choose: sigma sqrt(p) / |theta*|, its relative length."""
LAMBDAS = tuple(2.0**i for i in range(17))
"""Values of lambda that it may choose."""
FRESH = 1_000
"""Number of the look under which fresh trajectories are collected: no run looks so often."""


@dataclass(frozen=True)
class GeneralisationConfig:
    """Settings of the generalisation error and its bound."""

    cut: float = 3.0
    """A: standardised advantages are cut to [-A, A]."""
    delta: float = 0.05
    """Chance with which a bound may fail."""
    transitions: int = 1024
    """Transitions of each source that are read, at most: one of so many, of those that were collected."""
    products: int = 48
    """Products of Hessian and vector by which a trace is estimated."""
    depth: int = 24
    """Such products by which the extreme eigenvalues are found."""
    draws: int = 16
    """Draws of noise, with which the loss is measured."""
    unseen: int = 10
    """Unseen tasks, where the family has a sampler of them; 0 leaves them out."""
    seed: int = 0
    """Of random vectors and noise, beside the run's own."""

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: naming the setting, or the library that is missing.
        """
        matfree()
        if not 0 < self.cut < math.inf:
            raise ConfigError(f"cut = {self.cut} must be positive")
        if not 0 < self.delta < 1:
            raise ConfigError(f"delta = {self.delta} must lie between 0 and 1")
        least = {"transitions": 1, "products": 6, "depth": 1, "draws": 2}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least {value}")
        if self.unseen < 0 or self.unseen == 1:
            raise ConfigError(f"unseen = {self.unseen}; take 0, or at least 2 tasks")


class Sample(NamedTuple):
    """Trajectories, and what each transition weighs in the losses of the tasks."""

    obs: PyTree
    """Leaves [U, N, ...]."""
    action: Array
    """[U, N, ...]."""
    advantage: Float[np.ndarray, "n N"]
    """float [n, N]: standardised and cut."""
    weight: Float[np.ndarray, "n N"]
    """float [n, N]: 1 / (trajectories of the task's source times transitions of its own); 0 of those that do
    not count."""
    source: Int[np.ndarray, "n"]
    trajectories: Int[np.ndarray, "n"]
    """int [n]: trajectories of each task's source that count."""
    number: Int[np.ndarray, "U N"]
    """int [U, N]: number of each transition's trajectory among all of its source."""

    def coefficient(self, member: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "U N"]:
        """What the clipped ratios less 1 are multiplied by in L_S, but for its sign: float32 [U, N]."""
        total = np.zeros(np.shape(self.action)[:2])
        share = self.advantage * self.weight / member.sum()
        for task in np.flatnonzero(member):
            total[self.source[task]] += share[task]
        return total.astype(np.float32)

    def counted(
        self, member: Bool[np.ndarray, "n"], room: int
    ) -> tuple[PyTree, Array, Float[np.ndarray, "1 M"]]:
        """Observations, actions and coefficients of the transitions that count in L_S, as one source of
        ``room`` transitions: leaves [1, M]. What it is filled up with counts nothing."""
        coefficient = self.coefficient(member).ravel()
        chosen = np.argsort(coefficient == 0, kind="stable")[:room]
        obs, action = jax.tree.map(
            lambda x: np.reshape(x, (-1, *x.shape[2:]))[chosen][None], (self.obs, self.action)
        )
        return obs, action, coefficient[chosen][None]

    def rooms(self, member: Bool[np.ndarray, "m n"]) -> list[int]:
        """Of each subset, the most transitions that count in one: of those of all tasks, or of the others
        (so that the losses of these are one program)."""
        counts = np.array([np.count_nonzero(self.coefficient(row)) for row in member])
        full = np.asarray(member.all(axis=1))
        return [int(counts[full == own].max()) for own in full]

    def effective(self, member: Bool[np.ndarray, "n"]) -> float:
        """1 / sum of the squared weights of the trajectories in L_S."""
        share, count = np.zeros(len(self.action)), np.ones(len(self.action))
        for task in np.flatnonzero(member):
            share[self.source[task]] += 1 / member.sum()
            count[self.source[task]] = self.trajectories[task]
        return float(1 / (share**2 / count).sum())


class Scale(NamedTuple):
    """By which advantages are standardised."""

    mean: Float[np.ndarray, "n"]
    deviation: Float[np.ndarray, "n"]

    @classmethod
    def of(cls, given: Transitions, parts: Sequence[int] | None) -> Scale:
        """Of some parts of the data, or of all."""
        keep = _kept(given, parts)[np.asarray(given.source)]
        advantage = np.where(keep, np.asarray(given.advantage, np.float64), np.nan)
        return cls(np.nanmean(advantage, 1), np.maximum(np.nanstd(advantage, 1), 1e-12))


def _kept(given: Transitions, parts: Sequence[int] | None) -> Bool[np.ndarray, "U N"]:
    split = np.asarray(given.split)
    return np.ones(split.shape, bool) if parts is None else np.isin(split, list(parts))


def sample_of(
    given: Transitions, scale: Scale, *, parts: Sequence[int] | None, cut: float, transitions: int
) -> Sample:
    """Every so-many-th transition, those of other parts without weight.

    Args:
        given: transitions.
        scale: of the advantages.
        parts: whose trajectories count; all if None.
        cut: A.
        transitions: of each source, at most.
    """
    total = np.shape(given.action)[1]
    chosen = np.arange(0, total, -(-total // transitions))
    obs, action = jax.tree.map(lambda x: np.asarray(x)[:, chosen], (given.obs, given.action))
    keep, trajectory = _kept(given, parts)[:, chosen], np.asarray(given.trajectory)[:, chosen]
    weight, count = np.zeros(keep.shape), np.zeros(len(keep), int)
    for u, (own, numbers) in enumerate(zip(keep, trajectory, strict=True)):
        _, place, length = np.unique(numbers[own], return_inverse=True, return_counts=True)
        count[u] = len(length)
        weight[u, own] = 1 / (len(length) * length[place])
    source = np.asarray(given.source)
    advantage = np.asarray(given.advantage, np.float64)[:, chosen]
    advantage = (advantage - scale.mean[:, None]) / scale.deviation[:, None]
    advantage = np.clip(advantage, -cut, cut)
    return Sample(obs, action, advantage, weight[source], source, count[source], trajectory)


def _clipped(
    log_prob: LogProb, params: PyTree, before: PyTree, obs: PyTree, action: Array, clip: Array
) -> Float[Array, "U N"]:
    """clip(r) - 1 of every transition."""
    log_ratio = log_probs(log_prob, params, obs, action) - log_probs(log_prob, before, obs, action)
    return jnp.clip(jnp.exp(log_ratio), 1 - clip, 1 + clip) - 1


_gains = functools.partial(compiled, quick=True, static_argnames="log_prob")(_clipped)


@functools.cache
def clipped_loss(log_prob: LogProb) -> Any:
    """L of parameters, as (params, before, obs, action, coefficient, clip) -> a scalar.

    ``before`` are the parameters theta* of the ratio's denominator, ``coefficient`` [U, N] is that of
    `Sample.coefficient`. One object for each policy: programs are found by it.
    """

    def loss(
        params: PyTree, before: PyTree, obs: PyTree, action: Array, coefficient: Array, clip: Array
    ) -> Array:
        return -jnp.sum(coefficient * _clipped(log_prob, params, before, obs, action, clip))

    return loss


@functools.partial(compiled, quick=True, static_argnames=("loss", "draws"))
def _noisy(
    loss: Any, params: PyTree, data: tuple[Any, ...], key: Key, sigmas: Array, draws: int
) -> Float[Array, "S draws"]:
    """The loss with noise of every deviation; the draws differ by their length alone."""
    leaves, structure = jax.tree.flatten(params)

    def drawn(key: Key) -> list[Array]:
        keys = jax.random.split(key, len(leaves))
        return [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]

    def once(sigma: Array, key: Key) -> Array:
        moved = [x + sigma * noise for x, noise in zip(leaves, drawn(key), strict=True)]
        return loss(jax.tree.unflatten(structure, moved), *data)

    keys = jax.random.split(key, draws)
    return jax.lax.map(lambda sigma: jax.lax.map(lambda k: once(sigma, k), keys), sigmas)


class Bound(NamedTuple):
    """What a bound comes to."""

    value: float
    """On E_Q L."""
    noise: int
    """Place of the noise that it takes."""
    kl: float
    """Divergence of posterior and prior there, in nats."""


def pac_bayes(
    expected: Float[np.ndarray, "S"],
    squared_distance: float,
    sigmas: Float[np.ndarray, "S"],
    lambdas: Float[np.ndarray, "G"],
    *,
    n: float,
    width: float,
    delta: float,
    choices: float = 1,
) -> Bound:
    """The least bound of a grid (see the head of this module).

    Args:
        expected: E_Q L^ with every noise.
        squared_distance: |theta - theta*|^2.
        sigmas: deviations of the noise.
        lambdas: the other side of the grid.
        n: trajectories, or what unequal weights leave of them.
        width: C.
        delta: chance with which it may fail.
        choices: M, the subsets for all of which it holds.
    """
    kl = squared_distance / (2 * np.asarray(sigmas) ** 2)
    pairs = len(sigmas) * len(lambdas)
    paid = payments(kl, lambdas, n=n, width=width, delta=delta, pairs=pairs, choices=choices)
    values = np.asarray(expected)[:, None] + paid
    noise, _ = np.unravel_index(int(values.argmin()), values.shape)
    return Bound(float(values.min()), int(noise), float(kl[noise]))


def payments(
    kl: Float[np.ndarray, "S"],
    lambdas: Float[np.ndarray, "G"],
    *,
    n: float,
    width: float,
    delta: float,
    pairs: int,
    choices: float,
) -> Float[np.ndarray, "S G"]:
    """What the bound adds to E_Q L^ at every divergence and lambda.

    Args:
        kl: |theta - theta*|^2 / (2 sigma^2).
        lambdas, n, width, delta, choices: see `pac_bayes`.
        pairs: G, those of sigma and lambda that the bound holds for.
    """
    lam, price = np.asarray(lambdas), np.log(pairs * choices / delta)
    return lam * width**2 / (8 * n) + (np.asarray(kl)[:, None] + price) / lam


class SubsetGeneralisation(Record, frozen=True, kw_only=True):
    """The policy of one subset of the tasks."""

    tasks: list[str]
    trajectories: Number
    """n: that were fitted, as far as they weigh the same."""
    distance: Number
    """|theta - theta*| / |theta*|."""
    fitted: Number
    """L^ of what was fitted."""
    fresh: Number
    """L of fresh trajectories on the same tasks."""
    gap_stderr: Number
    """Standard error of the difference of these two, over trajectories."""
    unseen: Number = None
    """L on the unseen tasks that are likeliest to belong there; None if there are none."""
    unseen_tasks: int = 0
    trace: dict[str, tuple[Number, Number]]
    """tr H by estimator, with its standard error."""
    eigenvalues: tuple[Number, Number]
    """Least and greatest of H."""
    bound: Number
    """On E_Q L, with E_Q L^ as measured."""
    bound_by_trace: Number
    """The same, at the same noise, with L^ + sigma^2 / 2 tr H."""
    expected: tuple[Number, Number]
    """E_Q L^ as measured at the noise of ``bound``, with its standard error over draws."""
    noise: Number
    """sigma sqrt(p) / |theta*| there."""
    kl: Number
    choices: Number = 1
    """M: the subsets for all of which the bound holds. (Records of before it paid for that have 1.)"""
    vacuous: bool
    """Whether the bound is above every value that the loss may have."""

    @property
    def gap(self) -> float:
        """L of fresh trajectories less L^ of those that were fitted."""
        return as_float(self.fresh) - as_float(self.fitted)

    @property
    def promised(self) -> float:
        """What the bound allows for the same gap."""
        return as_float(self.bound) - as_float(self.fitted)


class GeneralisationResult(Record, frozen=True, kw_only=True):
    """What ``analysis/generalisation.json`` holds."""

    schema_version: int = 1
    family: str
    parameters: int
    clip: Number
    """c."""
    cut: Number
    """A."""
    delta: Number
    subsets: list[SubsetGeneralisation]

    @property
    def largest(self) -> float:
        """The largest value that the loss may have."""
        return as_float(self.clip) * as_float(self.cut)


def choices_of(size: int, tasks: int) -> int:
    """M, the subsets that one of so many tasks, of all that there are, may have been chosen from."""
    return 1 if size == tasks else 2**tasks - 1


def all_and_groups(run: Subject) -> Bool[np.ndarray, "m n"]:
    """All tasks, and the groups that a run has found: bool [m, n]."""
    groups = groups_of(run)
    return groups if len(groups) == 1 else np.concatenate([np.ones((1, groups.shape[1]), bool), groups])


class Fresh(NamedTuple):
    """Trajectories that nothing was fitted to."""

    sample: Sample
    """On the known tasks, and the unseen ones behind them."""
    tasks: PyTree
    """Parameters of the unseen ones; None if there are none."""

    @property
    def unseen(self) -> int:
        """Number of unseen tasks."""
        return 0 if self.tasks is None else len(jax.tree.leaves(self.tasks)[0])


def collect_fresh(run: Subject, settings: GeneralisationConfig, scale: Scale) -> Fresh:
    """Roll theta* out again on all known tasks, and on unseen ones.

    An unseen task's advantages are standardised by its own mean and deviation.
    """
    family, agent, tasks = run.family, run.meta, None
    if settings.unseen and family.sample_test_tasks is not None:
        tasks = sampled(family, run.config.stream("test_tasks"), settings.unseen)
        family = joined(family, tasks, [f"unseen {i}" for i in range(settings.unseen)])
        agent = widened(agent, np.ones(run.family.n, bool), settings.unseen)
    given = pipeline.collect(run.policy, run.learner, family, run.config, agent, FRESH)
    own = Scale.of(given, None)
    known = Scale(*(np.concatenate([x, y[run.family.n :]]) for x, y in zip(scale, own, strict=True)))
    return Fresh(
        sample_of(given, known, parts=None, cut=settings.cut, transitions=settings.transitions), tasks
    )


def generalisation_bound(
    run: Subject,
    settings: GeneralisationConfig | None = None,
    *,
    member: Bool[np.ndarray, "m n"] | None = None,
    progress: Progress | None = None,
) -> GeneralisationResult:
    """The generalisation error of policies that are fitted to subsets, and a bound on it (see the head of
    this module).

    Args:
        run: its theta*, transitions and features are read, and its family is rolled out on.
        settings: defaults if not given.
        member: bool [m, n], the subsets; by default all tasks, and the groups that were found.
        progress: hears of nothing (nothing is trained).

    Raises:
        ConfigError: settings that cannot work, or matfree is missing.
        DataError: a task has no signal.
    """
    settings = settings or GeneralisationConfig()
    settings.check()
    member = all_and_groups(run) if member is None else member
    member = checked_members(member, run.family.task_names)
    scale = Scale.of(run.transitions, (SELECT,))
    fitted = sample_of(
        run.transitions, scale, parts=(FIT,), cut=settings.cut, transitions=settings.transitions
    )
    fresh = collect_fresh(run, settings, scale)
    clip = float(getattr(run.learner, "clip", 0.2))
    params = learn.policy_params(run.meta)
    moves = [path.at(run.config.estimate.distance, params) for path in surrogate_paths(run, member)]
    measured = [
        _subset(run, settings, row, move, fitted, room, fresh, clip)
        for row, move, room in zip(member, moves, fitted.rooms(member), strict=True)
    ]
    return GeneralisationResult(
        family=run.family.name,
        parameters=parameter_count(params),
        clip=clip,
        cut=settings.cut,
        delta=settings.delta,
        subsets=measured,
    )


def clipped_gains(
    log_prob: LogProb, params: PyTree, before: PyTree, sample: Sample, clip: float
) -> Float[np.ndarray, "U N"]:
    """clip(r, 1 - c, 1 + c) - 1 of every transition: float [U, N]."""
    found = _gains(log_prob, params, before, sample.obs, sample.action, np.asarray(clip, np.float32))
    return np.asarray(found, np.float64)


def task_losses(sample: Sample, gains: Float[np.ndarray, "U N"]) -> Float[np.ndarray, "n"]:
    """L_i of every task: float [n]."""
    return -(sample.weight * sample.advantage * gains[sample.source]).sum(1)


def standard_error(sample: Sample, gains: Float[np.ndarray, "U N"], member: Bool[np.ndarray, "n"]) -> float:
    """Of L_S, over trajectories; NaN where a source has a single one."""
    coefficient, variance = sample.coefficient(member), 0.0
    for u in np.unique(sample.source[member]).tolist():
        counts = sample.weight[sample.source == u][0] > 0
        _, place = np.unique(sample.number[u][counts], return_inverse=True)
        parts = np.bincount(place, (coefficient[u] * gains[u])[counts])  # which L_S is the sum of
        variance += len(parts) * parts.var(ddof=1) if len(parts) > 1 else math.nan
    return math.sqrt(variance)


def _subset(
    run: Subject,
    settings: GeneralisationConfig,
    member: Bool[np.ndarray, "n"],
    move: PyTree,
    fitted: Sample,
    room: int,
    fresh: Fresh,
    clip: float,
) -> SubsetGeneralisation:
    """The record of one subset, whose policy is theta* + ``move``."""
    before = learn.policy_params(run.meta)
    params = jax.tree.map(jnp.add, before, move)
    old, new = (clipped_gains(run.policy.log_prob, params, before, x, clip) for x in (fitted, fresh.sample))
    losses = task_losses(fitted, old), task_losses(fresh.sample, new)
    stderr = (
        standard_error(fitted, old, member),
        standard_error(fresh.sample, new, np.pad(member, (0, fresh.unseen))),
    )
    at_theta, known, further = losses[0][member].mean(), losses[1][: run.family.n], losses[1][run.family.n :]
    unseen = _likeliest(run, fresh, member)
    data = (before, *fitted.counted(member, room), np.float32(clip))
    curved = _curvature(run, settings, params, data)
    length, moved = (float(np.linalg.norm(ravel_pytree(x)[0])) for x in (before, move))
    sigmas = np.array(NOISES) * length / np.sqrt(ravel_pytree(before)[0].size)
    noisy, n = curved.noisy(sigmas), fitted.effective(member)
    choices = choices_of(int(member.sum()), run.family.n)
    bound = pac_bayes(
        noisy.mean(1), moved**2, sigmas, np.array(LAMBDAS),
        n=n, width=2 * clip * settings.cut, delta=settings.delta, choices=choices,
    )  # fmt: skip
    draws, sigma = noisy[bound.noise], sigmas[bound.noise]
    second = at_theta + sigma**2 / 2 * curved.traces["hutch++"].mean
    return SubsetGeneralisation(
        tasks=np.array(run.family.task_names)[member].tolist(),
        trajectories=n,
        distance=moved / length,
        fitted=float(at_theta),
        fresh=float(known[member].mean()),
        gap_stderr=finite(math.hypot(*stderr)),
        unseen=float(further[unseen].mean()) if unseen.any() else None,
        unseen_tasks=int(unseen.sum()),
        trace={name: (found.mean, found.stderr) for name, found in curved.traces.items()},
        eigenvalues=curved.eigenvalues,
        bound=bound.value,
        bound_by_trace=float(bound.value - draws.mean() + second),
        expected=(float(draws.mean()), float(draws.std(ddof=1) / np.sqrt(len(draws)))),
        noise=NOISES[bound.noise],
        kl=bound.kl,
        choices=choices,
        vacuous=bound.value >= clip * settings.cut,
    )


def _likeliest(run: Subject, fresh: Fresh, member: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "unseen"]:
    """The unseen tasks that are tried with a subset: all with all tasks, else those whose parameters are the
    nearest to those of its tasks."""
    if fresh.tasks is None or member.all():
        return np.ones(fresh.unseen, bool)
    return likeliest_group(run.family, member.astype(int), fresh.tasks) == 1


@dataclass(frozen=True)
class Curved:
    """What the loss looks like around the parameters."""

    traces: dict[str, Estimate]
    eigenvalues: tuple[float, float]
    noisy: Any
    """deviations [S] -> the loss with noise, float [S, draws]."""


def _curvature(
    run: Subject,
    settings: GeneralisationConfig,
    params: PyTree,
    data: tuple[Any, ...],
) -> Curved:
    """Of the loss of parameters on data."""
    loss, key = clipped_loss(run.policy.log_prob), run.config.stream("analysis")
    key = jax.random.fold_in(jax.random.fold_in(key, settings.seed), 1)
    methods = [name for name in TRACES if name != "xtrace"]  # whose vectors are all held at once
    given: dict[str, Any] = {"key": key, "products": settings.products}

    def noisy(sigmas: np.ndarray) -> np.ndarray:
        asked = sigmas.astype(np.float32)
        return np.asarray(_noisy(loss, params, data, key, asked, draws=settings.draws), np.float64)

    return Curved(
        {name: hessian_trace(loss, params, *data, method=name, **given) for name in methods},
        extreme_eigenvalues(loss, params, *data, key=key, depth=settings.depth),
        noisy,
    )
