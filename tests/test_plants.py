"""What our families plant, and the settings that they refuse."""

import numpy as np
import pytest

from envs import common
from envs.cartpole import flip, goals, physics
from envs.points import points, points_hard
from pgx_jax.errors import ConfigError


@pytest.mark.parametrize("family", [goals, points, points_hard])
@pytest.mark.parametrize("n,k", [(5, 2), (8, 3), (10, 4), (13, 5), (16, 5), (2, 2), (4, 1)])
def test_planted_sizes_differ_by_at_most_one(family, n, k):
    built = family(n_tasks=n, n_groups=k)
    sizes = np.bincount(built.true_groups, minlength=k)
    assert built.n == n and len(sizes) == k and sizes.max() - sizes.min() <= 1
    _, first = np.unique(built.true_groups, return_index=True)
    assert (np.diff(first) > 0).all()  # numbered by first appearance


def test_every_group_is_sometimes_a_large_one():
    large = [set(np.flatnonzero(np.bincount(common.plant(10, 3, seed)) == 4)) for seed in range(30)]
    assert set().union(*large) == {0, 1, 2}


def test_goals_are_where_they_were_planted():
    family = goals(n_tasks=13, n_groups=5, goal_range=0.8, goal_jitter=0.03, seed=2)
    centres, nearest = np.linspace(-0.8, 0.8, 5), np.rint((family.tasks.goal + 0.8) / 0.4).astype(int)
    assert np.abs(family.tasks.goal - centres[nearest]).max() <= 0.03 + 1e-6
    np.testing.assert_array_equal(common.canonical(nearest), family.true_groups)
    np.testing.assert_array_equal(goals(n_groups=1, goal_jitter=0).tasks.goal, np.zeros(10))
    assert set(goals(n_groups=2, goal_range=0.8, goal_jitter=0).tasks.goal.tolist()) == {
        np.float32(-0.4),
        np.float32(0.4),
    }


def test_flip_plants_the_sign_and_physics_plants_nothing():
    family = flip(seed=1)
    np.testing.assert_array_equal(common.canonical(family.tasks.force_mag > 0), family.true_groups)
    np.testing.assert_allclose(np.abs(family.tasks.force_mag), 10, rtol=0.051)
    family = physics(n_tasks=40, gravity=(5.0, 6.0))
    assert family.true_groups is None and 5 <= family.tasks.gravity.min() <= family.tasks.gravity.max() <= 6
    assert family.tasks.length.max() / family.tasks.length.min() > 1.5


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_points_cluster(k):
    family = points(n_tasks=16, n_groups=k, seed=5)
    centres = np.stack([family.tasks.goal[family.true_groups == g].mean(0) for g in range(k)])
    distance = np.linalg.norm(family.tasks.goal[:, None] - centres, axis=-1)
    np.testing.assert_array_equal(distance.argmin(1), family.true_groups)
    assert distance.min(1).max() < 0.3 * np.sort(distance, 1)[:, 1].min()


def test_points_hard_is_hard():
    family = points_hard(n_tasks=16)
    scale = family.tasks.reward_scale
    assert scale.max() / scale.min() > 20
    for leaf in (family.tasks.mass, family.tasks.drag, family.tasks.gain):
        assert leaf.max() / leaf.min() > 1.3
    hard = [points_hard(seed=seed) for seed in range(8)]
    assert np.mean([f.tasks.goal[f.true_groups == 0].std(0).mean() for f in hard]) > 3 * 0.06


@pytest.mark.parametrize(
    "build,word",
    [
        (lambda: goals(n_tasks=1), "n_tasks"),
        (lambda: goals(n_tasks=2.5), "n_tasks"),
        (lambda: points(n_tasks=4, n_groups=5), "n_groups"),
        (lambda: points(n_groups=0), "n_groups"),
        (lambda: flip(n_groups=3), "n_groups"),
        (lambda: goals(horizon=0), "horizon"),
        (lambda: goals(seed=-1), "seed"),
        (lambda: physics(seed=2**32), "seed"),
        (lambda: goals(goal_range=2.4), "track"),
        (lambda: goals(goal_width=0.0), "goal_width"),
        (lambda: goals(goal_jitter=float("nan")), "goal_jitter"),
        (lambda: flip(physics_jitter=1.0), "physics_jitter"),
        (lambda: physics(gravity=(13.0, 7.0)), "gravity"),
        (lambda: physics(length=0.5), "length"),
        (lambda: goals(reward_scales=(1, 0)), "reward_scales"),
        (lambda: goals(reward_scales=()), "reward_scales"),
        (lambda: points(reward_scales=[1] * 11), "reward_scales"),
        (lambda: points(reward_scales=("a",)), "reward_scales"),
        (lambda: points(radius=3.0), "radius"),
        (lambda: points(drag=(1.0, 20.0)), "unstable"),
    ],
)
def test_errors_name_the_culprit(build, word):
    with pytest.raises(ConfigError, match=word):
        build()
