"""Grouping from logged data alone: a policy and its transitions, no environment, no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pgx_jax import estimate, pipeline
from pgx_jax.config import Config
from pgx_jax.estimate.checks import check_transitions
from pgx_jax.streams import stream
from pgx_jax.types import Affinity, Grouping, PyTree, Scores, Surrogates, Transitions
from pgx_jax.validation import check_method


class Grouped(NamedTuple):
    """What `group_transitions` returns."""

    surrogates: Surrogates
    scores: Scores
    affinity: Affinity
    grouping: Grouping
    predicted: dict


def group_transitions(
    log_prob: Callable,
    params: PyTree,
    transitions: Transitions,
    config: Config | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Grouped:
    """Group tasks from logged data alone: no environment, no training.

    Args:
        log_prob: (params, obs, action) of one transition -> log pi, a scalar.
        params: pytree of the policy's parameters.
        transitions: logged data with advantages (see `Transitions`).
        config: settings; roll-outs cannot score here.
        names: names of the n tasks.

    Raises:
        ConfigError: settings that cannot work with n tasks.
        DataError: transitions that are not complete (see `check_transitions`), or not finite.
        SolverError: the relaxation was not solved.
    """
    config = config or Config()
    e, n = config.estimate, len(transitions.source)
    check_method(config, n)
    estimate.require_held_out(e.score, "roll-outs need an environment")
    check_transitions(transitions, names)
    member = estimate.make_subsets(config.seed, n, e.subset_size, e.subsets, e.min_cover)
    feats = pipeline.features(log_prob, params, transitions, config, names)
    surrogates, scores = pipeline.score_subsets(feats, transitions, member, e, names=names)
    affinity = estimate.affinity(scores, e.affinity)
    held_out = pipeline.HeldOut(feats, transitions, e, stream(config.seed, "deal"), names)
    found = pipeline.choose_groups(affinity, held_out, config, k=config.k, names=names)
    return Grouped(surrogates, scores, affinity, found, pipeline.predicted_gain(found.labels, held_out))
