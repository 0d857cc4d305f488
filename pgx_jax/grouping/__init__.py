"""From an affinity to a partition of the tasks (host; knows nothing of reinforcement learning)."""

from pgx_jax.grouping.agreement import ari, exact, nmi
from pgx_jax.grouping.alternatives import (
    committees,
    group_sizes,
    random_groupings,
)
from pgx_jax.grouping.config import GroupingConfig
from pgx_jax.grouping.nested import Nested, interval, threshold
from pgx_jax.grouping.paired import paired_difference, paired_differences
from pgx_jax.grouping.rounding import (
    all_partitions,
    canonical,
    objective,
    partition_matrix,
    refine,
    round_sdp,
)
from pgx_jax.grouping.sdp import (
    SDP_SOLVERS,
    PartitionSDP,
    SDPSolver,
    infeasibility,
    solve_sdp,
    standardise,
)
from pgx_jax.grouping.selection import (
    Candidates,
    distinct_groups,
    group,
    propose,
    select,
)
from pgx_jax.grouping.stability import (
    ELSEWHERE,
    Cohesion,
    Undecided,
    best_of_each,
    chosen_of_each,
    co_membership,
    cohesion,
    nearby,
    undecided,
)

__all__ = [
    "ELSEWHERE",
    "SDP_SOLVERS",
    "Candidates",
    "Cohesion",
    "GroupingConfig",
    "Nested",
    "PartitionSDP",
    "SDPSolver",
    "Undecided",
    "all_partitions",
    "ari",
    "best_of_each",
    "canonical",
    "chosen_of_each",
    "co_membership",
    "cohesion",
    "committees",
    "distinct_groups",
    "exact",
    "group",
    "group_sizes",
    "infeasibility",
    "interval",
    "nearby",
    "nmi",
    "objective",
    "paired_difference",
    "paired_differences",
    "partition_matrix",
    "propose",
    "random_groupings",
    "refine",
    "round_sdp",
    "select",
    "solve_sdp",
    "standardise",
    "threshold",
    "undecided",
]
