"""Pictures of carts with poles, points in the plane, pendulums and mountain cars.

Each function takes an unbatched state and task of its environment, leaves as NumPy arrays, and
returns uint8 [H, W, 3]. They show what a policy does not see, too: hidden goals are green, and a
cart whose force is reversed is orange.
"""

from __future__ import annotations

import numpy as np

from envs.drawing import BLUE, GREEN, GREY, INK, ORANGE, PALE, Canvas

_TRACK = 2.4
"""Half the length of CartPole's track, in metres."""


def cartpole(state, task, goal_width: float | None = None) -> np.ndarray:
    """Draw a cart, its pole to scale, and where rewards depend on one the goal and its width.

    Args:
        state: fields ``x`` (metres) and ``theta`` (radians from upright, clockwise).
        task: fields ``length`` (half the pole's, metres), ``force_mag`` and, with a width, ``goal``.
        goal_width: distance from the goal, in metres, at which the reward falls to 1/e.
    """
    canvas = Canvas((-_TRACK - 0.4, _TRACK + 0.4), (-0.45, 1.75))
    if goal_width is not None:
        canvas.box((task.goal, 0.65), (2 * goal_width, 2.2), GREEN, opacity=0.12)
        canvas.line([(task.goal, -0.3), (task.goal, -0.1)], 0.07, GREEN)
    canvas.line([(-_TRACK, 0), (_TRACK, 0)], 0.03, GREY)
    for end in (-_TRACK, _TRACK):
        canvas.line([(end, -0.12), (end, 0.12)], 0.03, GREY)
    x, top = float(state.x), 0.12
    canvas.box((x, 0.0), (0.55, 0.26), ORANGE if task.force_mag < 0 else BLUE, corner=0.05)
    tip = (x + 2 * task.length * np.sin(state.theta), top + 2 * task.length * np.cos(state.theta))
    canvas.line([(x, top), tip], 0.08, INK)
    canvas.disc((x, top), 0.06, PALE)
    return canvas.image()


def point(state, task, arena: float = 2.0) -> np.ndarray:
    """Draw a point mass, where it is heading in half a second, its walls and its hidden goal.

    Args:
        state: fields ``position`` [2] (metres) and ``velocity`` [2] (m/s).
        task: field ``goal`` [2], metres.
        arena: half the width of the arena, in metres.
    """
    return _in_arena(state, [(task.goal, 0.17)], arena)


def weighed_point(state, task, arena: float = 2.0) -> np.ndarray:
    """Draw a point mass and several goals, in rings whose area is a goal's weight (of 1 in all).

    Args:
        state: as of `point`.
        task: fields ``goals`` [K, 2], metres, and ``weights`` [K].
        arena: half the width of the arena, in metres.
    """
    goals = [
        (goal, 0.06 + 0.2 * np.sqrt(weight)) for goal, weight in zip(task.goals, task.weights, strict=True)
    ]
    return _in_arena(state, goals, arena)


def _in_arena(state, goals, arena: float) -> np.ndarray:
    """A point mass among goals (place, radius of the ring)."""
    canvas = Canvas((-1.1 * arena, 1.1 * arena), (-1.1 * arena, 1.1 * arena), width=260, background=PALE)
    canvas.box((0, 0), (2 * arena, 2 * arena), (255, 255, 255))
    canvas.line([(-0.08, 0), (0.08, 0)], 0.02, GREY)
    canvas.line([(0, -0.08), (0, 0.08)], 0.02, GREY)
    for goal, radius in goals:
        canvas.ring(goal, radius, 0.05, GREEN)
        canvas.disc(goal, 0.05, GREEN)
    canvas.line([state.position, state.position + 0.5 * state.velocity], 0.04, GREY)
    canvas.disc(state.position, 0.1, BLUE)
    return canvas.image()


def pendulum(state, task) -> np.ndarray:
    """Draw gymnax's pendulum: ``state.theta`` in radians from upright, ``task.l`` its length."""
    reach = 1.25 * max(float(task.l), 0.1)
    canvas = Canvas((-reach, reach), (-reach, reach), width=240)
    tip = task.l * np.array([np.sin(state.theta), np.cos(state.theta)])
    canvas.line([(0, 0), tip], 0.12 * reach, BLUE)
    canvas.disc((0, 0), 0.05 * reach, INK)
    return canvas.image()


def acrobot(state, task) -> np.ndarray:
    """Draw gymnax's acrobot: two links, and the height that the tip must reach."""
    first, second = float(task.link_length_1), float(task.link_length_2)
    reach = 1.1 * max(first + second, 1.1)
    canvas = Canvas((-reach, reach), (-reach, reach), width=240)
    canvas.line([(-reach, 1.0), (reach, 1.0)], 0.02 * reach, GREEN)
    angle = state.joint_angle1
    elbow = first * np.array([np.sin(angle), -np.cos(angle)])
    angle = angle + state.joint_angle2
    tip = elbow + second * np.array([np.sin(angle), -np.cos(angle)])
    canvas.line([(0, 0), elbow], 0.08 * reach, BLUE)
    canvas.line([elbow, tip], 0.08 * reach, ORANGE)
    for joint in ((0, 0), elbow):
        canvas.disc(joint, 0.03 * reach, INK)
    return canvas.image()


def mountain_car(state, task) -> np.ndarray:
    """Draw gymnax's car in its valley: ``state.position``, and the flag at ``task.goal_position``."""

    def ground(x):
        return np.stack([np.asarray(x, float), 0.45 * np.sin(3 * np.asarray(x, float)) + 0.55], -1)

    canvas = Canvas((-1.25, 0.65), (-0.05, 1.25))
    canvas.line(ground(np.linspace(-1.25, 0.65, 40)), 0.015, GREY)
    flag = ground(task.goal_position)
    canvas.line([flag, flag + (0, 0.15)], 0.015, GREEN)
    canvas.box(flag + (0.04, 0.13), (0.08, 0.05), GREEN)
    slope = np.arctan(1.35 * np.cos(3 * state.position))
    centre = ground(state.position) + 0.05 * np.array([-np.sin(slope), np.cos(slope)])
    canvas.box(centre, (0.16, 0.07), BLUE, angle=float(slope), corner=0.02)
    return canvas.image()
