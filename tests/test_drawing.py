"""Pictures of environments: shapes where they belong, and a picture of every family that has one."""

import jax
import numpy as np
import pytest

from envs.cartpole import CartPoleState, flip, goals, standard_task
from envs.classic_drawing import cartpole
from envs.drawing import BLUE, GREEN, ORANGE, RED, Canvas
from envs.gymnax_adapter import gymnax_family
from envs.points import PointState, points
from envs.points_objectives import points_objectives

GYMNAX = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0")


def where(image, colour, tolerance=6):
    """Mean (row, column) of the pixels of a colour, and their number."""
    found = np.argwhere(np.abs(image.astype(int) - colour).max(-1) <= tolerance)
    return (*found.mean(0), len(found)) if len(found) else (np.nan, np.nan, 0)


def first_state(family, task=0, seed=0):
    """(state, task) at a reset, as NumPy arrays."""
    params = jax.tree.map(lambda leaf: leaf[task], family.tasks)
    state, _ = family.env.reset(jax.random.PRNGKey(seed), params)
    return jax.tree.map(np.asarray, (state, params))


def test_shapes_have_their_place_and_area():
    canvas = Canvas((-2, 2), (-1, 1), width=400)
    canvas.disc((1, 0.5), 0.3, RED)
    image = canvas.image()
    assert image.shape == (200, 400, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(where(image, RED)[:2], [49.5, 299.5], atol=0.5)
    cover = (255.0 - image[..., 1]) / (255 - RED[1])  # smooth edges count in part
    np.testing.assert_allclose(cover.sum(), np.pi * 30**2, rtol=0.003)

    canvas = Canvas((-2, 2), (-1, 1), width=400)
    canvas.box((-1, 0), (1.0, 0.2), BLUE, angle=np.pi / 2)  # stands upright
    seen = np.argwhere(np.abs(canvas.image().astype(int) - BLUE).max(-1) < 6)
    np.testing.assert_allclose(seen.max(0) - seen.min(0), [99, 19], atol=1)

    canvas = Canvas((-2, 2), (-1, 1), width=400)
    canvas.line([(0, 0), (1, 0), (1, 1)], 0.1, GREEN)
    image = canvas.image()
    assert (image[100, 220] == GREEN).all() and (image[40, 300] == GREEN).all()
    assert (image[60, 250] == 255).all()


def test_edges_are_smooth_and_nothing_breaks_the_canvas():
    canvas = Canvas((0, 1), (0, 1), width=50)
    canvas.disc((0.47, 0.52), 0.21, (0, 0, 0))
    shades = np.unique(canvas.image())
    assert len(shades) > 10
    canvas.disc((np.nan, 0), 0.2, RED)
    canvas.line([(5, 5), (5, 5)], 0.1, RED)
    canvas.box((1e30, 0), (1, 1), RED)
    np.testing.assert_array_equal(np.unique(canvas.image()), shades)


@pytest.mark.parametrize("x", [-1.5, 0.0, 2.0])
def test_a_cart_stands_where_it_is_and_its_pole_leans(x):
    task = standard_task()
    image = cartpole(CartPoleState(*np.float32([x, 0, 0.5, 0])), task)
    _, column, _ = where(image, BLUE)
    width, dark = image.shape[1], image.sum(-1) < 200
    assert abs(column / width * 5.6 - 2.8 - x) < 0.05
    assert np.argwhere(dark)[:, 1].max() / width * 5.6 - 2.8 > x + 0.4  # to the right, clockwise


def test_hidden_goals_and_reversed_forces_are_seen():
    family = goals(n_tasks=3, seed=1)
    for i, goal in enumerate(family.tasks.goal):
        _, column, count = where(family.draw(*first_state(family, i)), GREEN)
        assert count > 10 and abs(column / 360 * 5.6 - 2.8 - goal) < 0.05
    family = flip(n_tasks=4)
    for i, force in enumerate(family.tasks.force_mag):
        image = family.draw(*first_state(family, i))
        assert (where(image, ORANGE)[2] > 100) == (force < 0) and where(image, GREEN)[2] == 0


def test_a_point_and_its_goal():
    family = points(n_tasks=4)
    _, task = first_state(family)
    image = family.draw(PointState(np.array([-1.0, 1.5]), np.zeros(2)), task)
    for colour, (x, y) in ((BLUE, (-1.0, 1.5)), (GREEN, task.goal)):
        row, column, _ = where(image, colour)
        np.testing.assert_allclose([column / 260 * 4.4 - 2.2, 2.2 - row / 260 * 4.4], [x, y], atol=0.06)


def test_a_point_among_goals_of_different_weight():
    family = points_objectives(n_tasks=4, n_groups=3)
    _, task = first_state(family)
    image = family.draw(PointState(np.array([-1.0, 1.5]), np.zeros(2)), task)
    near = np.argwhere(np.abs(image.astype(int) - GREEN).max(-1) <= 6)[:, ::-1] / 260 * 4.4 - 2.2
    nearest = np.linalg.norm(near[:, None] * [1, -1] - task.goals, axis=-1).argmin(1)
    area = np.bincount(nearest, minlength=3)
    assert area.min() > 10 and area.argmax() == task.weights.argmax()


@pytest.mark.parametrize("env_id", GYMNAX)
def test_gymnax_environments_that_are_drawn(env_id):
    family = gymnax_family(env_id, n_tasks=2)
    images = [family.draw(*first_state(family, seed=seed)) for seed in (0, 1)]
    for image in images:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape == images[0].shape
    assert not np.array_equal(*images)


def test_the_others_are_not():
    assert gymnax_family("Breakout-MinAtar", n_tasks=2).draw is None
