"""The parameters of any policy as a ``.safetensors`` file."""

from __future__ import annotations

import json

import jax
import numpy as np

from pgx_jax.runs.exporting.subject import Subject, require


def check(subject: Subject) -> None:
    """Refuse where the library is not installed.

    Raises:
        ConfigError: with the remedy.
    """
    require("safetensors", "safetensors")


def files(subject: Subject) -> dict[str, bytes]:
    """``.safetensors``: the actor's parameters by their paths ("params/MLP_0/Dense_0/kernel"), the moments of
    observations, and what else there is to know as JSON in the metadata ("about")."""
    from safetensors.numpy import save  # of the extra "export"

    leaves = jax.tree_util.tree_leaves_with_path(subject.params)
    arrays = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves}
    arrays |= {f"observation/{name}": x for name, x in subject.moments().items()}
    return {".safetensors": save(arrays, metadata={"about": json.dumps(subject.about())})}
