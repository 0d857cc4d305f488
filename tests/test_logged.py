"""Grouping from logged data alone."""

import numpy as np
import pytest

from pgx_jax import ConfigError, DataError, group_transitions, pipeline
from pgx_jax.config import override


def test_logged_data_is_grouped_without_an_environment(small_run, no_training):
    run = small_run
    data = run.transitions
    found = group_transitions(
        run.policy.log_prob, run.meta.actor, data, run.config, names=run.family.task_names
    )
    np.testing.assert_array_equal(found.grouping.labels, run.grouping.labels)
    np.testing.assert_allclose(found.affinity.matrix, run.affinity.matrix, atol=1e-5)
    similar = pipeline.similar_groups(found.held_out, run.config, found.grouping.k)
    np.testing.assert_array_equal(similar["dot_our_k"].labels, run.grouping.labels)
    settings = override(run.config, {"estimate": {"affinity": "closed_form"}})
    closed = group_transitions(
        run.policy.log_prob, run.meta.actor, data, settings, names=run.family.task_names
    )
    np.testing.assert_array_equal(closed.grouping.labels, run.grouping.labels)
    assert found.scores.values.shape == (20, 6) and closed.scores.values.shape == (0, 6)
    expected = pipeline.similarity(run.held_out, "closed_form")
    np.testing.assert_allclose(closed.affinity.matrix, expected.matrix, rtol=1e-4, atol=1e-6)
    assert closed.affinity.coverage is None and closed.affinity.folds.shape == (2, 6, 6)
    constant = data._replace(advantage=np.where(np.arange(6)[:, None] == 2, 1.0, data.advantage))
    with pytest.raises(DataError, match="task2_.*of pairs, let the chosen one come first as often"):
        group_transitions(
            run.policy.log_prob, run.meta.actor, constant, run.config, names=run.family.task_names
        )


@pytest.mark.parametrize(
    ("settings", "fields", "error", "message"),
    [
        ({"k": 7}, {}, ConfigError, "k = 7, but there are 6 tasks"),
        ({"estimate": {"subset_size": 7}}, {}, ConfigError, "7 exceeds the number of tasks, 6"),
        ({"estimate": {"l2": 1e-9}}, {}, ConfigError, "l2 = 1e-09"),
        ({"estimate": {"score": "surogate"}}, {}, ConfigError, "estimate.score = 'surogate'"),
        ({"estimate": {"score": "rollouts"}}, {}, ConfigError, "roll-outs need an environment"),
        ({}, {"advantage": np.zeros((5, 3))}, DataError, r"advantage has shape \(5, 3\)"),
        ({}, {"obs": np.zeros((2, 3))}, DataError, r"obs has shape \(2, 3\)"),
        ({}, {"source": np.arange(6) + 1}, DataError, "there are sources 0 to 5"),
        ({}, {"split": 0}, DataError, "task 'task0_.*no trajectory to score by"),
    ],
)
def test_logged_data_that_cannot_work_are_refused_first(
    small_run, monkeypatch, settings, fields, error, message
):
    monkeypatch.setattr(pipeline.estimate, "gradient_features", None)
    run, t = small_run, small_run.transitions
    fields = {name: np.full_like(t.split, x) if name == "split" else x for name, x in fields.items()}
    with pytest.raises(error, match=message):
        group_transitions(
            run.policy.log_prob, run.meta.actor, t._replace(**fields), override(run.config, settings),
            names=run.family.task_names,
        )  # fmt: skip


def test_a_group_is_split_for_less_than_all_tasks(small_run, monkeypatch):
    """The same data; ``grouping.group_ratio`` takes the place of ``min_ratio``."""
    run, wide = small_run, {"grouping.min_ratio": np.inf, "grouping.group_ratio": 0.0}
    asked = []
    monkeypatch.setattr(pipeline, "features", lambda *args: run.features)
    for settings in (wide, {"grouping.min_ratio": 0.0, "grouping.group_ratio": 1e9}):
        config = override(run.config, settings)
        names = run.family.task_names
        found = pipeline.split_group(
            run.policy.log_prob, run.meta.actor, run.transitions, config, looks=1, names=names
        )
        asked.append(found.k)
    assert asked == [run.grouping.k, 1] and run.grouping.k > 1
