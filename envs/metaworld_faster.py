"""Meta-World's environments without their hot spots: the same numbers, bit for bit, sooner.

Half of a step goes into Python around MuJoCo: an object is made of every contact, SciPy turns one rotation
matrix at a time, rewards treat numbers as arrays. `faster` replaces these in a subclass, and leaves the
library itself as it is. Other versions than those that this was checked with are left alone, and a warning
says so.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

CHECKED = {"metaworld": "3.1.1", "mujoco": "3.3.0"}
"""Versions with which every observation and reward was found equal, bit for bit."""

_ORTHOGONAL = 1e-13
"""How far the rows of a rotation may be from orthonormal (SciPy asks for 1e-12)."""


@functools.cache
def _disagreement() -> str:
    """What our rotation does not agree with, on a few; "" if all are equal."""
    from scipy.spatial.transform import Rotation

    for matrix in Rotation.random(50, rng=np.random.default_rng(0)).as_matrix():
        if not np.array_equal(
            _Rotation.from_matrix(matrix).as_quat(), Rotation.from_matrix(matrix).as_quat()
        ):
            return f"a scipy of other rotations ({importlib.metadata.version('scipy')})"
    return ""


def unchecked() -> str:
    """What is installed in other versions than was `CHECKED`, in words; "" if nothing is."""
    installed = {name: importlib.metadata.version(name) for name in CHECKED}
    other = [
        f"{name} {installed[name]} (not {CHECKED[name]})"
        for name in CHECKED
        if installed[name] != CHECKED[name]
    ]
    return " and ".join(other)


@functools.lru_cache(None)
def faster(cls: type) -> type:
    """A subclass of a Meta-World environment that returns the same numbers sooner; the class itself where the
    versions are others than `CHECKED`, with a warning."""
    if other := unchecked() or _disagreement():
        warnings.warn(f"Meta-World runs at its own speed, since {other} is installed", stacklevel=2)
        return cls
    own: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("metaworld."):
            methods = {name: x for name, x in vars(base).items() if isinstance(x, types.FunctionType)}
            own |= {name: _with_parts(method) for name, method in methods.items() if _uses(method)}
    own |= {"touching_object": _touching_object, "_get_curr_obs_combined_no_goal": _current}
    return type(cls.__name__, (cls,), own)


def _uses(method: types.FunctionType) -> bool:
    """Whether a method uses one of the parts."""
    return any(name in method.__code__.co_names for name in PARTS)


def _with_parts(method: types.FunctionType) -> types.FunctionType:
    """The same code, which finds our parts by the names of the library's."""
    found = method.__globals__
    names = found | {name: make(found[name]) for name, make in PARTS.items() if name in found}
    copy = types.FunctionType(
        method.__code__, names, method.__name__, method.__defaults__, method.__closure__
    )
    copy.__kwdefaults__ = method.__kwdefaults__
    return copy


def _with_our_tolerance(reward_utils: Any) -> Any:
    """A module of rewards with our tolerance."""
    ours = types.SimpleNamespace(**vars(reward_utils))
    ours.tolerance = functools.partial(_tolerance, reward_utils.tolerance)
    return ours


class _Rotation:
    """What Meta-World uses of SciPy's class: one matrix, as a quaternion."""

    def __init__(self, quaternion: np.ndarray):
        self.quaternion = quaternion

    def as_quat(self) -> np.ndarray:
        """float64 [4]: x, y, z, w."""
        return self.quaternion

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> Any:
        """Of float64 [3, 3], as SciPy has it (Markley, 2008); by SciPy itself if that is no rotation yet."""
        rows = matrix.tolist()
        if not _is_rotation(*rows):
            from scipy.spatial.transform import Rotation

            return Rotation.from_matrix(matrix)
        diagonal = [rows[0][0], rows[1][1], rows[2][2]]
        trace = diagonal[0] + diagonal[1] + diagonal[2]
        decision = [*diagonal, trace]
        i = decision.index(max(decision))
        if i < 3:
            j, k = (i + 1) % 3, (i + 2) % 3
            q = [0.0, 0.0, 0.0, rows[k][j] - rows[j][k]]
            q[i] = 1 - trace + 2 * rows[i][i]
            q[j] = rows[j][i] + rows[i][j]
            q[k] = rows[k][i] + rows[i][k]
        else:
            q = [rows[2][1] - rows[1][2], rows[0][2] - rows[2][0], rows[1][0] - rows[0][1], 1 + trace]
        norm = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
        return cls(np.array([x / norm for x in q]))


def _is_rotation(a: list[float], b: list[float], c: list[float]) -> bool:
    """Whether three rows are orthonormal and right-handed."""
    (p, q, r), (s, t, u), (v, w, x) = a, b, c
    return (
        abs(p * p + q * q + r * r - 1) < _ORTHOGONAL
        and abs(s * s + t * t + u * u - 1) < _ORTHOGONAL
        and abs(v * v + w * w + x * x - 1) < _ORTHOGONAL
        and abs(p * s + q * t + r * u) < _ORTHOGONAL
        and abs(p * v + q * w + r * x) < _ORTHOGONAL
        and abs(s * v + t * w + u * x) < _ORTHOGONAL
        and p * (t * x - u * w) - q * (s * x - u * v) + r * (s * w - t * v) > 0
    )


def _tolerance(
    general: Callable[..., Any],
    x: Any,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """`metaworld.utils.reward_utils.tolerance` of a scalar with a long tail; ``general`` for all else."""
    lower, upper = bounds
    if sigmoid != "long_tail" or not isinstance(x, float) or lower > upper or not margin >= 0:
        return general(x, bounds, margin, sigmoid, value_at_margin)
    if lower <= x <= upper:
        return 1.0
    if margin == 0:
        return 0.0
    distance = float(lower - x if x < lower else x - upper) / float(margin)
    scale = math.sqrt(1 / value_at_margin - 1)
    return 1 / ((distance * scale) ** 2 + 1)


PARTS: dict[str, Callable[[Any], Any]] = {
    "Rotation": lambda own: _Rotation,
    "reward_utils": _with_our_tolerance,
}
"""What takes the place of what the environments' modules import, by the name under which they do; each is
made of the library's own."""


def _touching_object(self: Any, object_geom_id: int) -> bool:
    """Whether both pads press upon a geom: as the library's, without an object for every contact."""
    data = self.data
    pairs = data.contact.geom.tolist()
    touched = [i for i, pair in enumerate(pairs) if object_geom_id in pair]
    if not touched:
        return False
    address, force = data.contact.efc_address, data.efc_force
    left, right = data.geom("leftpad_geom").id, data.geom("rightpad_geom").id
    pressed = [sum(force[address[i]] for i in touched if pad in pairs[i]) for pad in (left, right)]
    return 0 < pressed[0] and 0 < pressed[1]


def _current(self: Any) -> np.ndarray:
    """float64 [18]: hand, opening of the gripper, and up to two objects, each with its rotation."""
    data = self.data
    apart = data.body("rightclaw").xpos - data.body("leftclaw").xpos
    found = np.zeros(4 + self._obs_obj_max_len)
    found[:3] = self.get_endeff_pos()
    found[3] = min(max(math.sqrt(apart.dot(apart)) / 0.1, 0.0), 1.0)
    position, rotation = self._get_pos_objects(), self._get_quat_objects()
    for i in range(len(position) // 3):
        found[4 + 7 * i : 7 + 7 * i] = position[3 * i : 3 * i + 3]
        found[7 + 7 * i : 11 + 7 * i] = rotation[4 * i : 4 * i + 4]
    return found
