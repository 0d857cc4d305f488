"""Settings of the estimation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pgx_jax.errors import ConfigError, check_types
from pgx_jax.estimate.lifting import LIFTS
from pgx_jax.estimate.pairs import AFFINITIES
from pgx_jax.estimate.precision import PRECISIONS, check_precision
from pgx_jax.estimate.projections import PROJECTIONS, check_projection
from pgx_jax.estimate.scores import SCORES
from pgx_jax.estimate.similarities import SIMILARITIES
from pgx_jax.estimate.solvers import SOLVERS
from pgx_jax.estimate.subsets import MANY_TASKS
from pgx_jax.estimate.surrogates import MIN_L2, RIDGES
from pgx_jax.estimate.tag import DISTANCE
from pgx_jax.types import Named

MOST_DIM = 2**16
"""Of the features: the curvature of each task then takes 80 GB."""

COLLECTED = ("steps", "num_envs", "whole_episodes", "thin", "source_multiple", "gae_lambda")
"""Settings of what is collected."""
PROJECTED = ("dim", "projection", "precision")
"""Settings of the features of what was collected."""


@dataclass(frozen=True)
class EstimateConfig:
    """Settings of the estimation, from the meta-policy to the affinity."""

    steps: int = 4096
    """Transitions collected from each task with the meta-policy, at most (`Config.collect_fraction`)."""
    num_envs: int = 32
    """Environments of each task while collecting."""
    whole_episodes: bool = False
    """Where fewer than ``steps`` may be collected (`Config.collect_fraction`), take fewer environments
    instead of ending sooner; for families whose episodes are of one length, and show late what matters."""
    thin: int = 1
    """Keep one of so many collected transitions of every environment; their advantages are of all. For long
    episodes whose steps are much alike: ``steps`` may then be whole episodes, and features remain few."""
    source_multiple: int = 4
    """Where the tasks are weightings of one vector reward, they share one source of so many times
    ``steps`` transitions and ``num_envs`` environments (at most n times, the cost of one a task)."""
    gae_lambda: float | None = None
    """Lambda of the collected transitions' advantages, that of the learner by default. Groups show more
    clearly with a smaller one, which has less noise and leans on the critic, where single steps matter
    little. Without a critic that the learner trains it is 1."""
    dim: int = 400
    """Projected dimension d of the gradient features. The estimate holds about 8 d times the transitions, and
    20 d^2, bytes of each task (16 MB by default)."""
    projection: Named[str, PROJECTIONS] = "gaussian"
    """Random map that projects the gradients, the paper's by default. For large policies "hadamard" is faster
    and as exact, "factored" much faster with up to twice the error; the others are to be compared with."""
    precision: Named[str, PRECISIONS] = "float32"
    """Of the products that project the gradients, on accelerators: in float32, or faster with factors of
    about 16 bits (bf16x3) or 11 (tf32), summed in float32. A processor multiplies in float32 regardless."""
    subset_size: int | None = None
    """Tasks in a subset; 3 by default (2 when there are only two or three tasks), and some sqrt(n) of more
    than 30 tasks."""
    subsets: int | None = None
    """Number m of subsets; by default all for n <= 16, else a design that covers every pair, of some 2 n^2
    triples, or of more than 30 tasks ``min_cover`` n subsets. Where the affinity is the closed form there are
    none."""
    min_cover: int = 12
    """Least number of subsets in which every pair of tasks meets, where they are drawn."""
    l2: float = 1.0
    """Ridge of the surrogates, in multiples of a fortieth of the trace of the mean curvature."""
    ridge: Named[str, RIDGES] = "sum"
    """What it is added to where partitions compete: the "mean" of a group's losses, or their "sum", so that a
    task that shares nothing with the others of its group gains nothing by being alone."""
    solver: Named[str, SOLVERS] = "newton"
    """Solver of the m logistic regressions."""
    iterations: int | None = None
    """Newton iterations (1 is the quadratic step), or the most that L-BFGS may take."""
    score: Named[str, SCORES] = "surrogate"
    """How the performance on a task after adapting to a subset is estimated."""
    lift: Named[str, LIFTS] = "dual"
    """How solutions are lifted to policies, for roll-outs."""
    distance: float = DISTANCE
    """Relative distance |theta - theta*| / |theta*| of the policies that are tried: those that are rolled out
    (for the lift by projection: of a step that is mostly noise, see `estimate.lifting`), and those of the
    similarity "lookahead", a step along each task's gradient (in the root mean square over the tasks)."""
    rollout_episodes: int = 8
    """Episodes of every subset and member task, for roll-outs; their steps are paid for."""
    affinity: Named[str, AFFINITIES] | None = None
    """Mean of a pair's own scores, of the whole subset's (the paper's), or a regression; or, from the tasks'
    gradients and mean curvature without any subset, the closed form of the first over all triples. By default
    the first, and of more than 30 tasks the closed form, which tells more there and takes a fraction of the
    time (`benchmarks/scale.py`)."""
    beside: tuple[Named[str, SIMILARITIES], ...] = ("whitened", "cosine")
    """Similarities of the gradients of at most 30 tasks whose partitions compete with the affinity's."""

    def affinity_of(self, n: int) -> str:
        """Name of the kind of affinity that n tasks get."""
        return self.affinity or ("per_task" if n <= MANY_TASKS else "closed_form")

    def reads_scores(self, n: int) -> bool:
        """Whether the affinity of n tasks comes from scores of subsets."""
        return AFFINITIES[self.affinity_of(n)].reads_scores

    def check(self) -> None:
        """Refuse settings with which nothing can be estimated, wherever the data are from.

        Raises:
            ConfigError: naming setting and remedy.
        """
        check_types(self, EstimateConfig, "estimate")
        check_precision(self.precision)
        check_projection(self.projection, self.dim)
        if not MIN_L2 <= self.l2 < math.inf:
            raise ConfigError(f"estimate.l2 = {self.l2} cannot work in float32; use at least {MIN_L2}")
        if not 0 < self.distance < math.inf:
            raise ConfigError(f"estimate.distance = {self.distance} must be positive")
        if not 1 <= self.dim <= MOST_DIM:
            raise ConfigError(f"estimate.dim = {self.dim} must be at least 1, and at most {MOST_DIM}")
        if self.iterations is not None and self.iterations < 1:
            raise ConfigError(f"estimate.iterations = {self.iterations} must be at least 1")

    def check_collecting(self, horizon: int) -> None:
        """Refuse what collecting, or rolling out, would refuse, before the meta-policy is trained.

        Args:
            horizon: steps of the longest episode.

        Raises:
            ConfigError: naming setting and remedy.
        """
        if self.num_envs < 1 or self.steps % self.num_envs or self.steps < 4 * self.num_envs:
            raise ConfigError(
                f"estimate.steps = {self.steps} must be a multiple (at least 4) of "
                f"estimate.num_envs = {self.num_envs}"
            )
        if self.num_envs * -(-self.steps // (self.num_envs * horizon)) < 3:
            raise ConfigError(
                f"estimate.num_envs = {self.num_envs} environments may give a task fewer than three "
                f"trajectories (estimate.steps = {self.steps}, up to {horizon} a trajectory), one each to "
                f"fit, to score and to select by; use at least 3 environments"
            )
        if not 1 <= self.thin <= self.steps // (4 * self.num_envs):
            raise ConfigError(
                f"estimate.thin = {self.thin} leaves fewer than 4 of the {self.steps // self.num_envs} steps "
                f"of an environment; use a smaller one, but at least 1"
            )
        for name in ("source_multiple", "rollout_episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"estimate.{name} = {getattr(self, name)} must be at least 1")
        if self.gae_lambda is not None and not 0 <= self.gae_lambda <= 1:
            raise ConfigError(f"estimate.gae_lambda = {self.gae_lambda} must lie between 0 and 1")
