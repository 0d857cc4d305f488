"""Scores against loops over tasks and transitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from pgx_jax.errors import DataError
from pgx_jax.estimate import fit, heldout, importance, rollouts, signed_weights
from pgx_jax.types import FIT, SCORE, SELECT

MEMBER = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]], bool)


@pytest.fixture(scope="module", params=[None, 2], ids=["own sources", "shared sources"])
def solved(request, make_logged):
    transitions, features = make_logged(count=500, sources=request.param)
    return transitions, features, fit(features, transitions, MEMBER, l2=0.1)


def held_out(transitions, features, task, part):
    source = transitions.source[task]
    keep = transitions.split[source] == part
    a = signed_weights(transitions)[task].astype(float)
    return np.asarray(features.values, float)[source][keep], a[keep], transitions.trajectory[source][keep]


@pytest.mark.parametrize("part", [SCORE, SELECT])
def test_heldout_is_the_loss_reduction_on_one_part(solved, part):
    transitions, features, surrogates = solved
    got = heldout(features, transitions, surrogates, part)
    assert got.values.shape == MEMBER.shape
    np.testing.assert_array_equal(got.member, MEMBER)
    for s, delta in enumerate(np.asarray(surrogates.delta, float)):
        for task in range(4):
            g, a, _ = held_out(transitions, features, task, part)
            loss = np.abs(a) * np.logaddexp(0, -np.sign(a) * (g @ delta))
            expected = (np.abs(a) * np.log(2)).mean() - loss.mean()
            assert float(got.values[s, task]) == pytest.approx(expected, abs=1e-5)


def test_importance_is_the_weighted_mean_of_advantages(solved):
    transitions, features, surrogates = solved
    # Four times the solution, so that some ratios are clipped.
    surrogates = surrogates._replace(delta=4 * surrogates.delta)
    got = importance(features, transitions, surrogates)
    clipped = 0
    for s, delta in enumerate(np.asarray(surrogates.delta, float)):
        for task in range(4):
            g, a, _ = held_out(transitions, features, task, SCORE)
            ratio = np.exp(np.clip(g @ delta, -5, 5))
            clipped += (np.abs(g @ delta) > 5).sum()
            assert float(got.values[s, task]) == pytest.approx(
                (ratio * a).sum() / ratio.sum() - a.mean(), abs=1e-4
            )
    assert clipped > 0


def test_staying_at_theta_scores_zero(solved):
    transitions, features, surrogates = solved
    still = surrogates._replace(delta=jnp.zeros_like(surrogates.delta))
    np.testing.assert_allclose(heldout(features, transitions, still).values, 0, atol=1e-6)
    np.testing.assert_allclose(importance(features, transitions, still).values, 0, atol=1e-6)


@pytest.mark.parametrize("score", [heldout, importance])
def test_scores_prefer_the_subset_of_like_tasks(make_logged, score):
    """Tasks 0, 2 and tasks 1, 3 share a planted direction."""
    transitions, features = make_logged(count=3000, seed=3)
    values = np.asarray(score(features, transitions, fit(features, transitions, MEMBER, l2=0.1)).values)
    assert values[2, 0] > values[0, 0]
    assert values[2, 2] > values[1, 2]
    assert values[3, 1] > values[0, 1]
    assert values[3, 3] > values[1, 3]


def test_rollouts_hand_the_policies_over_and_check_what_comes_back():
    thetas = {"w": np.arange(5.0)[:, None]}

    def evaluate(thetas, member):
        assert member is MEMBER
        return np.where(member, thetas["w"], 0), 80

    scores, steps = rollouts(evaluate, thetas, MEMBER)
    assert steps == 80
    np.testing.assert_array_equal(scores.values[4], [4, 4, 4, 4])
    with pytest.raises(DataError, match=r"shape \(5, 1\)"):
        rollouts(lambda thetas, member: (thetas["w"], 5), thetas, MEMBER)
    with pytest.raises(DataError, match="task 2 after adapting to subset 1 is not finite"):
        broken = np.where(MEMBER[0], 1.0, np.nan) + np.zeros((5, 1))
        rollouts(lambda thetas, member: (broken, 5), thetas, MEMBER)


def test_a_task_without_trajectories_to_score_is_named(solved):
    transitions, features, surrogates = solved
    split = transitions.split.copy()
    split[1] = FIT
    spoilt = transitions._replace(split=split)
    with pytest.raises(DataError, match=r"source 1 has no transitions in parts \(2,\)"):
        heldout(features, spoilt, surrogates, SELECT)
