"""The named records that flow through the pipeline, and the legend of their axes.

========  =====================================================================
letter    axis
========  =====================================================================
n         tasks
m         subsets of tasks whose joint training is estimated
k         groups of a partition
R         rows: policies trained side by side
U         data sources (= n; 1 where tasks are weightings of a vector reward)
K         objectives, the components of a vector reward
N         transitions of one source
T, E      time steps, parallel environments
p         parameters of the policy (the actor alone)
d         projected dimension
J         trajectories, each once for every task that reads it
========  =====================================================================

Three numbers that are all written lambda in the literature have names of their own:
``trace_penalty`` (of the SDP), ``l2`` (ridge of the surrogates) and ``gae_lambda``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
PyTree = Any

if TYPE_CHECKING:
    from typing import Annotated as Named
else:

    class Named:
        """Annotation of a setting that is a name of a table: ``Named[str, TABLE]``.

        It becomes the Literal of the names that the table has when the annotation is read, so that
        help and checks follow what has been added to it.
        """

        def __class_getitem__(cls, item):
            _, table = item
            return Literal[tuple(table)]


FIT, SCORE, SELECT = 0, 1, 2
"""The three parts of the collected data: surrogates are fitted on the first, the affinity is
scored on the second, and the partition is chosen on the third."""


class Rows(NamedTuple):
    """Policies to be trained side by side: every policy is a row of a membership matrix."""

    member: Array
    """bool [R, n]: the tasks that each policy trains on."""
    steps: Array
    """int [R]: budget of environment steps of each policy."""
    key: Array
    """uint32 [R, 2]: raw PRNG key of each row; equal keys give equal training."""
    init: Agent | None = None
    """Agents to continue, every leaf with a leading axis R; None starts afresh."""


class Moments(NamedTuple):
    """Running mean and variance of a stream of values."""

    mean: Array
    var: Array
    count: Array


class Agent(NamedTuple):
    """Everything a trained policy consists of. The policy of the method is ``actor`` alone."""

    actor: PyTree
    """Flax parameters of the actor: what is differentiated, projected and lifted."""
    critic: PyTree
    """Flax parameters of the critic."""
    observation: Moments
    """Moments [*observation shape] with which observations are normalised."""
    reward: Moments
    """Moments [n] of the discounted returns with which rewards are scaled, per task."""


class Seen(NamedTuple):
    """What a network that is told its task gets: a normalised observation and the task's context."""

    obs: Array
    """float [..., *observation shape]."""
    context: Array
    """float [..., C]."""


class Transitions(NamedTuple):
    """What the meta-policy experienced. Logged data of one's own enters the pipeline here."""

    obs: PyTree
    """float [U, N, ...], or a pytree of such arrays (`Seen`, say): the policy's input, as it saw it."""
    action: Array
    """[U, N, ...]: the action it took."""
    advantage: Array
    """float [n, N]: estimated advantage of every transition for every task, unstandardised."""
    trajectory: Array
    """int [U, N]: number of the trajectory within its source; trajectories are never split."""
    split: Array
    """int8 [U, N]: FIT, SCORE or SELECT, constant within a trajectory."""
    source: Array
    """int [n]: the source whose transitions a task reads (arange(n) when U = n)."""


class Features(NamedTuple):
    """Projected gradient features g~ = P^T grad log pi(a|s) (paper, stage 1)."""

    values: Array
    """float [U, N, d]."""
    key: Array
    """uint32 [2]: the key from which the Gaussian map P [p, d] is drawn again where needed."""


class Surrogates(NamedTuple):
    """Solutions of the m weighted logistic regressions (paper, stage 2)."""

    member: Array
    """bool [m, n]: the subset of each problem."""
    delta: Array
    """float [m, d]: the solution of each problem."""
    l2: Array
    """float []: ridge that was added, in absolute units."""
    iterations: Array
    """int []: Newton iterations; 1 is the quadratic step, after which the duals are linear."""


class Scores(NamedTuple):
    """Estimated performance of every task after adapting to every subset."""

    member: Array
    """bool [m, n]."""
    values: Array
    """float [m, n]: f_i(S); larger is better."""
    folds: Array | None = None
    """float [F, m, n]: the scores of each of F ways of dividing the data, of which ``values`` is the
    mean; None if there is one way."""


class Affinity(NamedTuple):
    """How well tasks go together, estimated from the scores."""

    matrix: np.ndarray
    """float [n, n], symmetric."""
    coverage: np.ndarray
    """int [n, n]: number of subsets that contain both tasks."""
    folds: np.ndarray | None = None
    """float [F, n, n]: the matrices of the scores' folds; None if there are none."""


class Gains(NamedTuple):
    """Held-out gains of a partition, trajectory by trajectory; what a score of partitions returns."""

    gain: Array
    """float [J]: gain of the trajectory for the task."""
    task: Array
    """int [J]."""
    trajectory: Array | None = None
    """int [J]: number of the trajectory, the same where several tasks read it; None if none is shared."""


class Grouping(NamedTuple):
    """A partition of the tasks, with the evidence for it."""

    labels: np.ndarray
    """int [n]: group of each task, numbered by first appearance."""
    path: dict[str, Any] | None = None
    """Candidates that were compared, as plain arrays (see grouping.selection)."""

    @property
    def k(self) -> int:
        """Number of groups."""
        return int(self.labels.max()) + 1

    @property
    def member(self) -> np.ndarray:
        """bool [k, n]: the membership matrix, one row a group."""
        return self.labels[None, :] == np.arange(self.k)[:, None]
