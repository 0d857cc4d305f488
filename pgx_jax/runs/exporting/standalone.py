"""A policy that pgx_jax has trained, in NumPy alone: this file and the .npz of the same name beside it.

    policy = Policy()
    policy.distribution(obs)    # {"logits": …}, or {"mean": …, "log_std": …}
    policy.act(obs)             # the most probable action
    policy.act(obs, rng=np.random.default_rng(0))    # a draw

Observations are those of the environment, one or many ([..., *shape]). A policy that is told its task needs
the name of one of its tasks, or a context vector (``policy.about["tasks"]``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


class Policy:
    """The policy of one group of tasks."""

    def __init__(self, path: str | Path | None = None) -> None:
        """Read the parameters."""
        with np.load(path or Path(__file__).with_suffix(".npz"), allow_pickle=False) as file:
            self.arrays = dict(file)
        self.about = json.loads(str(self.arrays.pop("about")))

    def distribution(self, obs: Any, context: Any = None) -> dict[str, np.ndarray]:
        """Parameters of the distribution: logits [..., A], of several choices one after the other; or mean
        and log_std [..., A], where [-1, 1] is the range of actions."""
        x, told = self._seen(np.asarray(obs, np.float32)), self._context(context)
        if told is not None:
            x = np.concatenate([x, np.broadcast_to(told, (*x.shape[:-1], told.shape[-1]))], axis=-1)
        depth = sum(name.startswith("kernel") for name in self.arrays)
        for i in range(depth):
            x = x @ self.arrays[f"kernel_{i}"] + self.arrays[f"bias_{i}"]
            x = np.tanh(x) if i < depth - 1 else x
        if self.about["actions"]["kind"] == "categorical":
            return {"logits": x}
        log_std = self.arrays["log_std"]
        log_std = log_std if log_std.ndim == 1 else told @ log_std
        low, high = self.about["log_std_bounds"]
        return {"mean": x, "log_std": np.broadcast_to(np.clip(log_std, low, high), x.shape)}

    def act(self, obs: Any, context: Any = None, rng: np.random.Generator | None = None) -> np.ndarray:
        """An action that the environment takes: the most probable one, or a draw."""
        found, kind = self.distribution(obs, context), self.about["actions"]
        if kind["kind"] == "gaussian":
            u = found["mean"]
            u = u if rng is None else u + np.exp(found["log_std"]) * rng.standard_normal(u.shape)
            u = np.tanh(u) if kind["squash"] else np.clip(u, -1.0, 1.0)
            low, high = np.float32(kind["low"]), np.float32(kind["high"])
            return low + 0.5 * (u + 1.0) * (high - low)
        choices = np.split(found["logits"], np.cumsum(kind["sizes"])[:-1], axis=-1)
        noise = [0.0 if rng is None else rng.gumbel(size=x.shape) for x in choices]
        chosen = [(x + more).argmax(-1) for x, more in zip(choices, noise, strict=True)]
        return np.stack(chosen, -1) if kind["several"] else chosen[0]

    def _seen(self, obs: np.ndarray) -> np.ndarray:
        """Observations as the network sees them, [..., in]."""
        shape = tuple(self.about["observation"])
        lead = obs.shape[: obs.ndim - len(shape)]
        if obs.shape[len(lead) :] != shape:
            raise ValueError(f"observations have the shape {shape}, not {obs.shape}")
        if self.about["normalised"]:
            deviation = np.sqrt(self.arrays["var"] + 1e-8)
            obs = np.clip((obs - self.arrays["mean"]) / deviation, -10.0, 10.0)
        else:
            obs = obs * np.float32(self.about["scale"])
        return obs.reshape(*lead, -1)

    def _context(self, context: Any) -> np.ndarray | None:
        """The vector of a task; None for a policy that is not told."""
        if not self.about["told"]:
            return None
        tasks, context = self.about["tasks"], self.about["task"] if context is None else context
        if context is None or (isinstance(context, str) and context not in tasks):
            raise ValueError(f"this policy is told its task: give one of {', '.join(tasks)}, or a vector")
        return np.asarray(tasks[context] if isinstance(context, str) else context, np.float32)
