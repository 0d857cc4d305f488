"""Pictures of Brax's bodies: their capsules and spheres, from the side or from above."""

from __future__ import annotations

import numpy as np

from envs.drawing import BLUE, GREEN, GREY, INK, ORANGE, PALE, Canvas

_FROM_ABOVE = {"reacher": 0.26, "pusher": 1.2, "swimmer": 2.5, "ant": 2.5}
"""Environments that move in the plane, and half the width of what is shown, in metres."""

_SPHERE, _CAPSULE = 2, 3
"""MuJoCo's numbers of the shapes that are drawn."""


def body(env, state, task) -> np.ndarray:
    """Draw a Brax state, the camera following its first link; hidden targets are green.

    Args:
        env: the BraxEnv.
        state: brax's State, unbatched, leaves as NumPy arrays.
        task: its task; a ``goal`` [2] is a place, a ``goal`` [] of the ant a direction.
    """
    above = env.env_name in _FROM_ABOVE
    across = (0, 1) if above else (0, 2)
    positions = np.asarray(state.pipeline_state.x.pos)
    fixed = env.env_name in ("reacher", "pusher")
    focus = np.zeros(2) if fixed else positions[0, list(across)]
    half = _FROM_ABOVE.get(env.env_name, 2.0)
    if above:
        canvas = Canvas(*((f - half, f + half) for f in focus), width=260)
    else:
        canvas = Canvas((focus[0] - half, focus[0] + half), (-0.3, 0.9 * half), width=360)
    _ground(canvas, focus, half, above, spacing=0.1 if fixed else 1.0)
    goal = getattr(task, "goal", None)
    for link, start, end, radius in shapes(env.raw().sys, state.pipeline_state):
        if env.env_name == "reacher" and link == 2:
            canvas.disc(start[list(across)], max(radius, 0.012), GREEN)
        else:
            colour = INK if link < 0 else (BLUE, ORANGE)[link % 2]
            canvas.line([start[list(across)], end[list(across)]], 2 * radius, colour)
    if env.env_name == "ant" and goal is not None:
        arrow = focus + 0.8 * half * np.array([np.cos(goal), np.sin(goal)])
        canvas.line([focus, arrow], 0.03 * half, GREEN)
    if env.env_name == "halfcheetah" and goal is not None:
        canvas.line([(focus[0], 1.5), (focus[0] + 0.5 * float(goal), 1.5)], 0.06, GREEN)
        canvas.disc((focus[0] + 0.5 * float(goal), 1.5), 0.06, GREEN)
    return canvas.image()


def shapes(sys, pose) -> list[tuple[int, np.ndarray, np.ndarray, float]]:
    """The capsules and spheres of a System in the pose of a pipeline state.

    Returns:
        (link, start [3], end [3], radius) of each, in metres; the world is link -1.
    """
    kinds, links = np.asarray(sys.geom_type), np.asarray(sys.geom_bodyid) - 1
    sizes, places, turns = (np.asarray(v) for v in (sys.geom_size, sys.geom_pos, sys.geom_quat))
    found = []
    for kind, link, size, place, turn in zip(kinds, links, sizes, places, turns, strict=True):
        if kind not in (_SPHERE, _CAPSULE):
            continue
        half = _turned(np.array([0, 0, size[1] if kind == _CAPSULE else 0.0]), turn)
        ends = np.stack([place - half, place + half])
        if link >= 0:
            rotation, origin = np.asarray(pose.x.rot)[link], np.asarray(pose.x.pos)[link]
            ends = np.stack([origin + _turned(end, rotation) for end in ends])
        found.append((int(link), ends[0], ends[1], float(size[0])))
    return found


def _turned(vector: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """Rotate a vector [3] by a unit quaternion (w, x, y, z)."""
    w, axis = quaternion[0], quaternion[1:]
    return vector + 2 * np.cross(axis, np.cross(axis, vector) + w * vector)


def _ground(canvas: Canvas, focus: np.ndarray, half: float, above: bool, spacing: float) -> None:
    """Paint lines that stand still while the camera follows: a grid, or the floor with its metres."""

    def marks(centre: float) -> np.ndarray:
        return np.arange(np.floor((centre - half) / spacing), (centre + half) / spacing + 1) * spacing

    if not above:
        canvas.line([(focus[0] - half, 0), (focus[0] + half, 0)], 0.02, GREY)
        for x in marks(focus[0]):
            canvas.line([(x, 0), (x, -0.1)], 0.02, GREY)
        return
    for x in marks(focus[0]):
        canvas.line([(x, focus[1] - half), (x, focus[1] + half)], 0.006 * half, PALE)
    for y in marks(focus[1]):
        canvas.line([(focus[0] - half, y), (focus[0] + half, y)], 0.006 * half, PALE)
