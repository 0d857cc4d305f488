"""Pictures of Meta-World's environments: which GL library draws them, and from where they are seen."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from pgx_jax.errors import ConfigError

CAMERA = "corner"
"""In front of the table, to a side: the arm hides nothing. Meta-World's cameras stand on their heads."""


def choose_library() -> None:
    """Without a display MuJoCo draws by EGL, unless MUJOCO_GL says something else."""
    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")


def drawn(env: Any) -> np.ndarray:
    """The present state of an environment that looks through `CAMERA`, upright: uint8 [480, 480, 3].

    Raises:
        ConfigError: there is no GL library that draws.
    """
    try:
        return np.asarray(env.render())[::-1, ::-1].copy()
    except Exception as error:
        raise no_library(error) from error


def is_of_drawing(error: ImportError) -> bool:
    """Whether PyOpenGL, or MuJoCo as it begins to use it, refuses to be imported; no package is missing then,
    and none but PyOpenGL is named."""
    return not isinstance(error, ModuleNotFoundError) and (error.name or "OpenGL").startswith("OpenGL")


def no_library(error: Exception) -> ConfigError:
    """What to do where MuJoCo can't load, or draw with, the GL library that it is told to take."""
    chosen, platform = os.environ.get("MUJOCO_GL") or "glfw", os.environ.get("PYOPENGL_PLATFORM")
    also = (
        f" and PYOPENGL_PLATFORM={platform}, which must be unset or the same"
        if platform not in (None, "", chosen)
        else ""
    )
    return ConfigError(
        f"MuJoCo cannot draw with MUJOCO_GL={chosen}{also} ({type(error).__name__}: {error}); set MUJOCO_GL "
        "to egl, osmesa or glfw (which needs a display), and install that library (on Debian libegl1 and "
        "libgl1-mesa-dri for egl, libosmesa6 for osmesa)"
    )
