"""Changing the physics of a Brax System, in the terms of each of its backends at once.

Brax's own backends read ``link``, ``dof``, ``actuator`` and ``gravity``; MJX reads fields of other
names in the same System. A change here reaches both. No library is imported: a System is handed in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.types import Array

System = Any

QUANTITIES = {
    "mass": (
        {"link.inertia.mass": 1, "link.inertia.i": 1, "body_mass": 1, "body_inertia": 1}
        | {"body_subtreemass": 1, "link.invweight": -1, "dof.invweight": -1}
        | {"body_invweight0": -1, "dof_invweight0": -1}
    ),
    "gear": {"actuator.gear": 1, "actuator_gear": 1},
    "gravity": {"gravity": 1, "opt.gravity": 1},
    "friction": {"geom_friction": 1, "pair_friction": 1},
    "damping": {"dof.damping": 1, "dof_damping": 1},
    "stiffness": {"dof.stiffness": 1, "jnt_stiffness": 1},
    "armature": {"dof.armature": 1, "dof_armature": 1},
}
"""What can be scaled: quantity -> the fields of brax's System that hold it, in the terms of brax's
own backends and of MJX, with the power of the factor that each takes."""

TWINS: dict[str, tuple[str, Callable[[Array, Array], Array]]] = {
    "gravity": ("opt.gravity", lambda old, new: new),
    "actuator.gear": ("actuator_gear", lambda old, new: jnp.asarray(old).at[:, 0].set(new)),
    "link.inertia.mass": ("body_mass", lambda old, new: jnp.asarray(old).at[1:].set(new)),
    "dof.damping": ("dof_damping", lambda old, new: new),
    "dof.armature": ("dof_armature", lambda old, new: new),
}
"""Fields that MJX keeps under another name: field -> (that name, its value from its old one)."""


def fields(sys: System) -> dict[str, tuple[int, ...]]:
    """Shapes of the System's fields that can vary, by dotted name."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(sys):
        names = [getattr(entry, "name", "_") for entry in path]
        if np.asarray(leaf).dtype.kind == "f" and not any(name.startswith("_") for name in names):
            found[".".join(names)] = np.shape(leaf)
    return found


def changed(sys: System, scale: Mapping[str, Array], system: Mapping[str, Array], backend: str) -> System:
    """Return the System with other values in place, then factors on its quantities.

    Args:
        sys: brax's System.
        scale: factors [] on quantities or fields.
        system: values of fields, of their shapes.
        backend: on "spring" and "positional" a factor on masses is one on the effective masses.
    """
    for key, value in system.items():
        sys = sys.tree_replace({key: value})
        if key in TWINS:
            twin, convert = TWINS[key]
            sys = sys.tree_replace({twin: convert(get(sys, twin), value)})
    for key, factor in scale.items():
        powers = next((p for q, p in QUANTITIES.items() if key == q or key in p), {key: 1})
        if "link.inertia.mass" in powers and backend in ("spring", "positional"):
            sys = _with_effective_mass(sys)
        sys = sys.tree_replace({field: get(sys, field) * factor**power for field, power in powers.items()})
    return sys


def _with_effective_mass(sys):
    """Return a System whose masses and inertias are those that the spring and positional backends
    compute with: m^(1 - spring_mass_scale) and, of the diagonal, I^(1 - spring_inertia_scale). At a
    scale of 1, as of the ant, they would not see any change of the masses otherwise."""
    inertia = sys.link.inertia
    diagonal = jnp.diagonal(inertia.i, axis1=-2, axis2=-1) ** (1 - sys.spring_inertia_scale)
    return sys.tree_replace(
        {
            "link.inertia.mass": inertia.mass ** (1 - sys.spring_mass_scale),
            "link.inertia.i": diagonal[..., None] * jnp.eye(3),
            "spring_mass_scale": 0.0,
            "spring_inertia_scale": 0.0,
        }
    )


def get(sys: System, field: str) -> Array:
    """Value of a field of the System by its dotted name."""
    return functools.reduce(getattr, field.split("."), sys)
