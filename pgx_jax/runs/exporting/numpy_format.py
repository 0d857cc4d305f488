"""Policies of perceptrons as an ``.npz`` and a file of Python that needs NumPy alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from pgx_jax.errors import ConfigError
from pgx_jax.learn.networks import CategoricalActor, GaussianActor
from pgx_jax.runs.exporting import standalone
from pgx_jax.runs.exporting.subject import Subject


def check(subject: Subject) -> None:
    """Refuse a network that is no perceptron, and one that sees images.

    Raises:
        ConfigError: naming it, and the formats that it can have.
    """
    own = subject.policy.actor
    if type(own) not in (CategoricalActor, GaussianActor) or len(subject.shape) == 3:
        seen, actor = " of images" if len(subject.shape) == 3 else "", type(getattr(own, "body", own))
        raise ConfigError(
            f"the format 'numpy' is for perceptrons of numbers, and this policy is a {actor.__name__}{seen}; "
            f"take 'stablehlo', or 'safetensors' for the parameters alone"
        )


def files(subject: Subject) -> dict[str, bytes]:
    """``.npz``: the layers in their order, the deviation, the moments of observations; ``.py``: what acts by
    them."""
    params, about = subject.params["params"], subject.about()
    layers = params["MLP_0"]
    arrays: dict[str, Any] = {
        f"{part}_{i}": np.asarray(layers[f"Dense_{i}"][part])
        for i in range(len(layers))
        for part in ("kernel", "bias")
    }
    if "log_std" in params:
        arrays["log_std"] = np.asarray(params["log_std"])
        about["log_std_bounds"] = list(subject.policy.actor.bounds)
    buffer = io.BytesIO()
    arrays |= {"about": np.array(json.dumps(about)), **subject.moments()}
    np.savez(buffer, **arrays)
    return {".npz": buffer.getvalue(), ".py": Path(standalone.__file__).read_bytes()}
