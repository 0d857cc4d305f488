"""Similarities of the tasks' own gradients, or of steps along them, which need no subsets.

A similarity matrix is used like an affinity: the same standardisation, relaxation, roundings and
selection, so that a comparison is about the matrix alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from pgx_jax.errors import ConfigError, DataError, pick
from pgx_jax.estimate.tag import lookahead

Name = Callable[[int], str]
"""How messages call a task."""


def _dot(b: Float[np.ndarray, "n d"], name: Name) -> Float[np.ndarray, "n n"]:
    return b @ b.T


def _cosine(b: Float[np.ndarray, "n d"], name: Name) -> Float[np.ndarray, "n n"]:
    norm = np.linalg.norm(b, axis=1, keepdims=True)
    if not norm.all():
        raise DataError(
            f"the gradient of task {name(int(np.argmin(norm)))} is zero and has no cosine: "
            'collect more transitions, or use "dot"'
        )
    return (b / norm) @ (b / norm).T


def _whitened(
    b: Float[np.ndarray, "n d"], name: Name, H: Float[np.ndarray, "d d"], ridge: float
) -> Float[np.ndarray, "n n"]:
    whitened = b @ np.linalg.solve(H + ridge * np.eye(len(H)), b.T)
    return (whitened + whitened.T) / 2


def _closed_form(
    b: Float[np.ndarray, "n d"], name: Name, H: Float[np.ndarray, "d d"], ridge: float
) -> Float[np.ndarray, "n n"]:
    steps = np.linalg.solve(H + ridge * np.eye(len(H)), b.T)
    gains = b @ steps
    return closed_form((gains + gains.T) / 2, steps.T @ H @ steps)


def closed_form(gains: Float[np.ndarray, "*B n n"], costs: Float[np.ndarray, "*B n n"]) -> np.ndarray:
    """The "closed_form" of `similarity`, [..., n, n]: of what every task's step gains another (symmetric),
    and of what the steps cost each other."""
    n = gains.shape[-1]
    return gains - costs / 3 * max(n - 4, 0) / max(n - 3, 1)


@dataclass(frozen=True)
class Similarity:
    """A similarity of the tasks' gradients, or of steps along them."""

    function: Callable[..., np.ndarray]
    """(b [n, d], how messages call a task) -> [n, n], symmetric; with the mean curvature [d, d] and its ridge
    as further arguments if it needs them. Or, if it steps, what `lookahead` is given and returns."""
    needs_curvature: bool = False
    steps: bool = False
    """Whether it steps the policy's own parameters on some parts of the data and judges on others; its matrix
    is the mean over both directions of a pair, and over the ways to step on one part and judge on another."""


SIMILARITIES: dict[str, Similarity] = {
    "dot": Similarity(_dot),
    "cosine": Similarity(_cosine),
    "whitened": Similarity(_whitened, needs_curvature=True),
    "closed_form": Similarity(_closed_form, needs_curvature=True),
    "lookahead": Similarity(lookahead, steps=True),
}
"""Gradient similarities by name, see `similarity` and `lookahead`."""


def similarity(
    b: ArrayLike,
    H: ArrayLike | None = None,
    kind: str = "dot",
    l2: float = 1.0,
    names: Sequence[str] | None = None,
) -> Float[np.ndarray, "n n"]:
    """Similarity of the tasks' gradients, for use as an affinity.

    "dot" is b_i·b_j, "cosine" divides it by the norms, and "whitened" is b_i·(H + l2 u)^-1 b_j with
    the mean curvature H of the tasks and u = tr(H)/40: the gain of j's quadratic step on task i.
    "closed_form" is whitened less (n - 4) / (n - 3) / 3 times what the two steps cost each other, s_i·H s_j
    with s = (H + l2 u)^-1 b: where all tasks share the curvature, in proportion to the per-task affinity
    of the quadratic surrogates of all triples (fitted and scored on the same data), but for terms
    a_i + a_j, which no grouping depends on.

    Args:
        b: float [n, d], gradient of each task's objective at the meta-policy.
        H: float [n, d, d] or their mean [d, d]; for similarities that need it ("whitened", "closed_form").
        kind: a name of `SIMILARITIES` that does not step.
        l2: ridge added to the curvature, in multiples of u.
        names: n task names for error messages.

    Returns:
        float64 [n, n], symmetric; its diagonal is inflated by noise and is not to be used.

    Raises:
        ConfigError: unknown kind, or one that steps; missing H, l2 not positive.
        DataError: gradients that are not finite, or zero under "cosine".
    """
    chosen = pick(SIMILARITIES, kind, "similarity")
    if chosen.steps:
        raise ConfigError(
            f"the similarity {kind!r} comes from steps of the policy, not from projected gradients: use "
            f"HeldOut.similarity"
        )
    gradients = np.asarray(b, dtype=np.float64)
    name: Name = (lambda i: repr(names[i])) if names is not None else str
    bad = np.flatnonzero(~np.isfinite(gradients).all(1))
    if len(bad):
        raise DataError(
            f"the gradient of task {name(bad[0])} is not finite: check its advantages and features"
        )
    if not chosen.needs_curvature:
        return chosen.function(gradients, name)
    if H is None:
        raise ConfigError(f"the similarity {kind!r} needs the curvature H of the tasks")
    return chosen.function(gradients, name, *_mean_and_ridge(H, l2))


def _mean_and_ridge(H: ArrayLike, l2: float) -> tuple[Float[np.ndarray, "d d"], float]:
    """The mean [d, d] of curvatures [n, d, d] (or [d, d]), and l2 tr(H)/40."""
    if not l2 > 0:
        raise ConfigError(f"l2 = {l2} must be positive (in multiples of tr(H)/40)")
    curvature = np.asarray(H, dtype=np.float64)
    curvature = curvature.mean(0) if curvature.ndim == 3 else curvature
    if not np.isfinite(curvature).all() or not np.trace(curvature) > 0:
        raise DataError(
            "the mean curvature of the tasks is zero or not finite: check features and advantages"
        )
    return curvature, float(l2 * np.trace(curvature) / 40)
