"""The named records that flow through the pipeline, and the legend of their axes.

| letter | axis                                                                |
|--------|---------------------------------------------------------------------|
| n      | tasks                                                               |
| m      | subsets of tasks whose joint training is estimated                  |
| k      | groups of a partition                                               |
| R      | rows: policies trained side by side                                 |
| U      | data sources (= n; 1 where tasks are weightings of a vector reward) |
| K      | objectives, the components of a vector reward                       |
| N      | transitions of one source                                           |
| T, E   | time steps, parallel environments                                   |
| p      | parameters of the policy (the actor alone)                          |
| d      | projected dimension                                                 |
| J      | trajectories, each once for every task that reads it                |

Three numbers that are all written lambda in the literature have names of their own:
``trace_penalty`` (of the SDP), ``l2`` (ridge of the surrogates) and ``gae_lambda``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int8, Num, UInt32

Array = jax.Array | np.ndarray
PyTree = Any
REAL = ("bool", "integral", "real floating")
"""Kinds of arrays that hold numbers, for `jax.numpy.isdtype`."""
Key = UInt32[Array, "2"]
"""A raw PRNG key."""

if TYPE_CHECKING:
    from typing import Annotated as Named  # noqa: F401  (others take it from here)
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

    member: Bool[Array, "R n"]
    """bool [R, n]: the tasks that each policy trains on."""
    steps: Int[Array, "R"]
    """int [R]: budget of environment steps of each policy."""
    key: UInt32[Array, "R 2"]
    """uint32 [R, 2]: raw PRNG key of each row; equal keys give equal training."""
    init: Agent | None = None
    """Agents to continue, every leaf with a leading axis R; None starts afresh."""


class Moments(NamedTuple):
    """Running mean and variance of a stream of values."""

    mean: Float[Array, "*shape"]
    var: Float[Array, "*shape"]
    count: Float[Array, "*shape"]  # type: ignore[assignment]  # hides the method of tuples, which nobody calls here


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
    value: Moments | None = None
    """Moments [n] of the critic's targets, by which it gives values, per task; None if it gives them as they
    are (`Policy.normalise_values`)."""
    memory: Memory | None = None
    """What it begins a trial with, if its networks have memory; None of others."""


class Last(NamedTuple):
    """What a policy with memory is told of the step before, beside the observation that it led to."""

    action: Float[Array, "*lead A"]
    """float [..., A]: see `Distribution.features`; zeros before the first step of a trial."""
    reward: Float[Array, "*lead"]
    """float [...]."""
    begins: Bool[Array, "*lead"]
    """bool [...]: whether an episode begins here."""


class Memory(NamedTuple):
    """What a policy with memory knows of its trial so far."""

    state: PyTree
    """What its network has made of all steps but the last one."""
    last: Last


class Seen(NamedTuple):
    """What a network that is told its task gets: a normalised observation and the task's context."""

    obs: Float[Array, "..."]
    """float [..., *observation shape]."""
    context: Float[Array, "*batch C"]
    """float [..., C]."""


class Transitions(NamedTuple):
    """What the meta-policy experienced. Logged data of one's own enters the pipeline here."""

    obs: PyTree
    """float [U, N, ...], or a pytree of such arrays (`Seen`, say): the policy's input, as it saw it."""
    action: Num[Array, "U N ..."]
    """[U, N, ...]: the action it took."""
    advantage: Float[Array, "n N"]
    """float [n, N]: estimated advantage of every transition for every task, unstandardised."""
    trajectory: Int[Array, "U N"]
    """int [U, N]: number of the trajectory within its source; trajectories are never split."""
    split: Int8[Array, "U N"]
    """int8 [U, N]: FIT, SCORE or SELECT, constant within a trajectory."""
    source: Int[Array, "n"]
    """int [n]: the source whose transitions a task reads (arange(n) when U = n)."""


class Features(NamedTuple):
    """Projected gradient features g~ = P^T grad log pi(a|s) (paper, stage 1)."""

    values: Float[Array, "U N d"]
    """float [U, N, d]."""
    key: Key
    """uint32 [2]: the key from which the map P [p, d] is drawn again where needed."""
    private: Bool[Array, "p"] | None = None
    """bool [p]: parameters that were left out, as one task's context alone can reach them; None if none."""
    projection: str = "gaussian"
    """How P is drawn: a name in `estimate.PROJECTIONS`."""


class Surrogates(NamedTuple):
    """Solutions of the m weighted logistic regressions (paper, stage 2)."""

    member: Bool[Array, "m n"]
    """bool [m, n]: the subset of each problem."""
    delta: Float[Array, "m d"]
    """float [m, d]: the solution of each problem."""
    l2: Float[Array, ""]
    """float []: ridge that was added, in absolute units."""
    iterations: Int[Array, ""]
    """int []: Newton iterations; 1 is the quadratic step, after which the duals are linear."""


class Scores(NamedTuple):
    """Estimated performance of every task after adapting to every subset."""

    member: Bool[Array, "m n"]
    """bool [m, n]."""
    values: Float[Array, "m n"]
    """float [m, n]: f_i(S); larger is better."""
    folds: Float[Array, "F m n"] | None = None
    """float [F, m, n]: the scores of each of F ways of dividing the data, of which ``values`` is the
    mean; None if there is one way."""


class Affinity(NamedTuple):
    """How well tasks go together, estimated from the scores of subsets or from the tasks' gradients."""

    matrix: Float[np.ndarray, "n n"]
    """float [n, n], symmetric."""
    coverage: Int[np.ndarray, "n n"] | None
    """int [n, n]: number of subsets that contain both tasks; None if no subsets are behind the matrix."""
    folds: Float[np.ndarray, "F n n"] | None = None
    """float [F, n, n]: the matrices of the folds of scores or data; None if there are none."""
    beside: Float[np.ndarray, "B n n"] | None = None
    """float [B, n, n]: others whose partitions are to compete with its own; None if there are none."""


class Gains(NamedTuple):
    """Held-out gains of a partition, trajectory by trajectory; what a score of partitions returns."""

    gain: Float[Array, "*c J"]
    """float [J]: gain of the trajectory for the task."""
    task: Int[Array, "J"]
    """int [J]."""
    trajectory: Int[Array, "J"] | None = None
    """int [J]: number of the trajectory, the same where several tasks read it; None if none is shared."""


class Grouping(NamedTuple):
    """A partition of the tasks, with the evidence for it."""

    labels: Int[np.ndarray, "n"]
    """int [n]: group of each task, numbered by first appearance."""
    path: dict[str, Any] | None = None
    """Candidates that were compared, as plain arrays (see grouping.selection)."""

    @property
    def k(self) -> int:
        """Number of groups."""
        return int(self.labels.max()) + 1

    @property
    def member(self) -> Bool[np.ndarray, "k n"]:
        """bool [k, n]: the membership matrix, one row a group."""
        return self.labels[None, :] == np.arange(self.k)[:, None]
