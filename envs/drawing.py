"""A small canvas for pictures of environments: shapes with smooth edges, painted over each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

INK, GREY, PALE = (38, 42, 52), (150, 156, 166), (226, 229, 234)
BLUE, ORANGE, GREEN, RED = (52, 101, 164), (222, 122, 34), (63, 153, 90), (192, 57, 58)

Colour = tuple[int, int, int]
Point = Sequence[float]


class Canvas:
    """A picture of a rectangle of the plane: x to the right, y up, lengths in the world's units."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        width: int = 360,
        background: Colour = (255, 255, 255),
    ):
        """Show [x[0], x[1]] times [y[0], y[1]], ``width`` pixels wide, both axes to one scale."""
        self.scale = width / (x[1] - x[0])
        height = max(1, round((y[1] - y[0]) * self.scale))
        self._x = x[0] + (np.arange(width) + 0.5) / self.scale
        self._y = y[1] - (np.arange(height)[:, None] + 0.5) / self.scale
        self._pixels = np.empty((height, width, 3))
        self._pixels[:] = background

    def disc(self, centre: Point, radius: float, colour: Colour, opacity: float = 1.0) -> None:
        """Paint a full circle."""
        self._paint(np.hypot(self._x - centre[0], self._y - centre[1]) - radius, colour, opacity)

    def ring(self, centre: Point, radius: float, thickness: float, colour: Colour) -> None:
        """Paint a circle's line."""
        distance = np.hypot(self._x - centre[0], self._y - centre[1])
        self._paint(np.abs(distance - radius) - thickness / 2, colour)

    def line(self, points: Sequence[Point], thickness: float, colour: Colour) -> None:
        """Paint a line through points [P >= 2, 2], with round ends."""
        points, nearest = np.asarray(points, float), np.inf
        for start, end in zip(points[:-1], points[1:], strict=True):
            along = end - start
            x, y = self._x - start[0], self._y - start[1]
            part = np.clip((x * along[0] + y * along[1]) / max(along @ along, 1e-12), 0.0, 1.0)
            nearest = np.minimum(nearest, np.hypot(x - part * along[0], y - part * along[1]))
        self._paint(nearest - thickness / 2, colour)

    def box(
        self,
        centre: Point,
        size: tuple[float, float],
        colour: Colour,
        angle: float = 0.0,
        corner: float = 0.0,
        opacity: float = 1.0,
    ) -> None:
        """Paint a rectangle of ``size`` (along, across), turned anticlockwise, its corners rounded."""
        x, y = self._x - centre[0], self._y - centre[1]
        along = np.abs(x * np.cos(angle) + y * np.sin(angle)) - size[0] / 2 + corner
        across = np.abs(y * np.cos(angle) - x * np.sin(angle)) - size[1] / 2 + corner
        outside = np.hypot(np.maximum(along, 0), np.maximum(across, 0))
        self._paint(outside + np.minimum(np.maximum(along, across), 0) - corner, colour, opacity)

    def image(self) -> np.ndarray:
        """Return the picture, uint8 [H, W, 3]."""
        return np.clip(np.rint(self._pixels), 0, 255).astype(np.uint8)

    def _paint(self, distance: np.ndarray, colour: Colour, opacity: float = 1.0) -> None:
        """Blend ``colour`` where the signed distance [H, W] to a shape is negative."""
        cover = opacity * np.clip(0.5 - np.nan_to_num(distance, nan=np.inf) * self.scale, 0.0, 1.0)
        self._pixels += cover[..., None] * (np.asarray(colour) - self._pixels)
