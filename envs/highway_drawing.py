"""Pictures of the highway from above; the road runs to the right and the camera follows the ego vehicle."""

from __future__ import annotations

import numpy as np

from envs.drawing import BLUE, GREEN, GREY, INK, PALE, RED, Canvas
from envs.highway_road import LANE_WIDTH, LENGTH, WIDTH, HighwayState, HighwayTask

_BEHIND, _AHEAD = 25.0, 75.0
"""What is seen of the road, in metres from the ego vehicle."""
_DASH = 6.0


def highway(state: HighwayState, task: HighwayTask) -> np.ndarray:
    """Draw the road, the ego vehicle in green and the others in blue; crashed ones are red.

    Args:
        state: an unbatched state, leaves as NumPy arrays.
        task: its task; the picture has the height of its lanes.
    """
    lanes, start = int(task.lanes_count), float(state.x[0]) - _BEHIND
    edges = LANE_WIDTH * (np.arange(lanes + 1) - 0.5)
    canvas = Canvas((0, _BEHIND + _AHEAD), (-edges[-1] - 2, -edges[0] + 2), width=480, background=GREY)
    canvas.box(
        ((_BEHIND + _AHEAD) / 2, -edges.mean()), (_BEHIND + _AHEAD, edges[-1] - edges[0]), (255, 255, 255)
    )
    for edge in edges[1:-1]:
        dashes = np.arange(-(start % (2 * _DASH)), _BEHIND + _AHEAD, 2 * _DASH)
        for dash in dashes:
            canvas.line([(dash, -edge), (dash + _DASH, -edge)], 0.25, PALE)
    for edge in edges[[0, -1]]:
        canvas.line([(0, -edge), (_BEHIND + _AHEAD, -edge)], 0.3, INK)
    for number in range(int(task.vehicles_count), -1, -1):  # the ego vehicle lies on top
        centre = (float(state.x[number]) - start, -float(state.y[number]))
        if not -LENGTH < centre[0] < _BEHIND + _AHEAD + LENGTH:
            continue
        colour = RED if state.crashed[number] else GREEN if number == 0 else BLUE
        canvas.box(centre, (LENGTH, WIDTH), colour, angle=-float(state.heading[number]), corner=0.5)
    return canvas.image()
