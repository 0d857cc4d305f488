"""Predicting how well every subset of the tasks would do, without training it."""

from pgx_jax.estimate.bootstrap import (
    LEAST_TRAJECTORIES,
    basic_interval,
    can_draw,
    can_resample,
    draw_trajectories,
    resampled_affinity,
)
from pgx_jax.estimate.checks import check_features, check_log_prob, check_params, check_transitions
from pgx_jax.estimate.config import EstimateConfig
from pgx_jax.estimate.crossfit import OUTER, PARTS, CrossFit, Way, inner, other_parts
from pgx_jax.estimate.features import gradient_features
from pgx_jax.estimate.gradients import LogProb, log_probs
from pgx_jax.estimate.kernels import kernel_surrogate
from pgx_jax.estimate.lifting import (
    LIFTS,
    Lift,
    displace,
    duals,
    lift_dual,
    lift_projection,
    relative_distance,
    rescale,
)
from pgx_jax.estimate.offline import offline_scores
from pgx_jax.estimate.pairs import AFFINITIES, AffinityKind, affinity, affinity_interval
from pgx_jax.estimate.precision import PRECISIONS
from pgx_jax.estimate.private import private_parameters
from pgx_jax.estimate.problems import TaskStatistics
from pgx_jax.estimate.projections import PROJECTIONS, Projection, by_tiles, gaussian, lift, rows, shapes_of
from pgx_jax.estimate.scores import (
    SCORES,
    Score,
    cross_fitted,
    heldout,
    importance,
    loss_change,
    require_held_out,
    rollouts,
)
from pgx_jax.estimate.sharing import deal
from pgx_jax.estimate.similarities import SIMILARITIES, Similarity, similarity
from pgx_jax.estimate.solvers import SOLVERS, Solver
from pgx_jax.estimate.subsets import MANY_TASKS, all_subsets, check_coverage, coverage, make_subsets
from pgx_jax.estimate.surrogates import fit, ridge_unit, signed_weights, task_statistics
from pgx_jax.estimate.tag import lookahead

__all__ = [
    "AFFINITIES",
    "LEAST_TRAJECTORIES",
    "LIFTS",
    "OUTER",
    "PARTS",
    "PRECISIONS",
    "PROJECTIONS",
    "SCORES",
    "SIMILARITIES",
    "SOLVERS",
    "AffinityKind",
    "CrossFit",
    "EstimateConfig",
    "Lift",
    "LogProb",
    "Projection",
    "Score",
    "Similarity",
    "Solver",
    "TaskStatistics",
    "Way",
    "affinity",
    "affinity_interval",
    "MANY_TASKS",
    "all_subsets",
    "basic_interval",
    "can_draw",
    "can_resample",
    "by_tiles",
    "check_coverage",
    "check_features",
    "check_log_prob",
    "check_params",
    "check_transitions",
    "coverage",
    "cross_fitted",
    "deal",
    "displace",
    "draw_trajectories",
    "duals",
    "fit",
    "gaussian",
    "gradient_features",
    "heldout",
    "importance",
    "inner",
    "kernel_surrogate",
    "lift",
    "lift_dual",
    "lift_projection",
    "log_probs",
    "lookahead",
    "loss_change",
    "make_subsets",
    "offline_scores",
    "other_parts",
    "private_parameters",
    "relative_distance",
    "require_held_out",
    "resampled_affinity",
    "rescale",
    "ridge_unit",
    "rollouts",
    "rows",
    "shapes_of",
    "signed_weights",
    "similarity",
    "task_statistics",
]
