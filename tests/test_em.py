"""Clustering on returns: every task to the policy that does best there, at the total of all methods."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax import make_family
from pgx_jax.compare import em
from pgx_jax.compare.budget import make_budget
from pgx_jax.compare.results import OURS
from pgx_jax.learn import Metrics


@given(total=st.integers(0, 100_000), evaluation=st.integers(1, 9000), update=st.integers(1, 9000))
@settings(derandomize=True, deadline=None)
def test_rounds_fit_and_are_mostly_training(total, evaluation, update):
    rounds = em.rounds_of(total, evaluation, update)
    assert 0 <= rounds <= em.ROUNDS and rounds * (evaluation + update) <= total
    assert (rounds == 0) == (total < evaluation + update)
    assert rounds <= 1 or rounds * evaluation <= em.EVALUATING * total
    more = rounds + 1
    fits = more * (evaluation + update) <= total and more * evaluation <= em.EVALUATING * total
    assert rounds in (0, em.ROUNDS) or not fits


def test_tasks_find_their_groups_within_the_total(small_run):
    """Two planted groups of three tasks: found with the planted k, at no more than the total."""
    found, run = small_run.clustered, small_run
    assert set(found) == {"em"} and run.grouping.k == 2  # the planted number
    groups = found["em"]
    assert groups.rounds.shape[1] == 6 and sorted(np.bincount(groups.rounds[0])) == [3, 3]
    assert (groups.labels == np.asarray(run.family.true_groups)).all()
    entry = run.results.methods["em"]
    assert run.results.methods["em_true_k"].same_as == "em"
    assert run.results.methods["em_true_k"].mean == entry.mean
    assert entry.equal_steps and 0.8 * run.budget.total < entry.env_steps <= run.budget.total
    assert entry.mean > run.results.methods["random"].mean + 1
    trained = sum(row.steps for row in groups.pool.rows)
    assert entry.env_steps == trained + int(groups.spent) and groups.spent > 0
    for row, curve in zip(groups.pool.rows, groups.pool.returns, strict=True):
        assert len(curve) == row.steps // run.learner.steps_per_update
    assert not set(groups.pool.rows) & set(
        run.policies.rows
    )  # trained otherwise, though the tasks are the same
    assert run.results.methods[OURS].groups == entry.groups


def test_policies_are_told_by_their_number_after_the_steps_of_earlier_rounds():
    heard, told = [], Metrics(1, ("a",), np.array([5, 10]), np.ones((2, 1)), {})
    em._tell_on(heard.append, [0, 2], np.array([20, 0, 10]), told)
    (each,) = heard
    assert each.name == "policy 3 of 3" and each.steps.tolist() == [15, 20]


def test_a_total_without_a_round_leaves_it_out(small_settings):
    settings_, config = small_settings
    family = make_family("points", **settings_)
    policy = config.policy.make(family)
    config = dataclasses.replace(config, steps_per_task=3000)
    budget = dataclasses.replace(make_budget(config, family, config.ppo), total=400)
    assert em.cluster(policy, config.ppo, family, config, budget, 2) is None


def test_one_policy_serves_all(small_settings):
    settings_, config = small_settings
    family = make_family("points", **settings_)
    config = dataclasses.replace(config, steps_per_task=2400)
    budget = make_budget(config, family, config.ppo)
    found = em.cluster(config.policy.make(family), config.ppo, family, config, budget, 1)
    assert found.labels.tolist() == [0] * 6 and len(found.pool.rows) == 1
    (row,) = found.pool.rows
    assert row.steps + found.spent <= budget.total == 2400 * 6
    assert row.steps == pytest.approx(
        budget.total - found.spent, abs=2 * em.ROUNDS * config.ppo.steps_per_update
    )


def test_policies_without_a_task_train_on_all():
    own, rows = em._rows(np.array([0, 0, 2, 0]), 3, 900, 10, {"w": np.arange(3.0)}, np.zeros(2, np.uint32))
    assert own == [0, 1, 2] and rows.member.tolist() == [[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]]
    assert rows.steps.sum() <= 900 and rows.steps.tolist() == [500, 220, 160]  # by 3, 4/3 and 1 of 16/3
