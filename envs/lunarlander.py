"""LunarLander under different gravity and winds, through Gymnasium's Box2D (the extra ``box2d``)."""

from __future__ import annotations

import numpy as np

from envs import common, gymnasium_adapter
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Array

_LIMITS = {"gravity": (-12.0, 0.0), "wind_power": (0.0, 20.0), "turbulence_power": (0.0, 2.0)}
"""What the simulator takes (gravity strictly inside), or recommends to take at most."""

_DEFAULTS = {
    "steps_per_task": 204_800,
    "meta_fraction": 0.2,
    "ppo.gamma": 0.999,
    "ppo.gae_lambda": 0.98,
    "ppo.entropy": 0.003,
    "ppo.num_envs": 24,
    "ppo.num_steps": 256,
    "ppo.minibatches": 32,
    "random_draws": 2,
}


def lunarlander(
    n_tasks: int = 6,
    horizon: int = 1000,
    seed: int = 0,
    gravity: tuple[float, float] = (-11.5, -3.0),
    windy: float = 0.5,
    wind_power: tuple[float, float] = (5.0, 20.0),
    turbulence_power: tuple[float, float] = (0.5, 2.0),
) -> TaskFamily:
    """Landers on worlds of their own gravity, half of them windy; no groups are planted.

    Listed: host; 6 tasks; float [8]; choice of 4; not planted; needs Box2D.

    Args:
        n_tasks: Number of tasks.
        horizon: Time limit of an episode, in steps of 1/50 s.
        seed: Draws the worlds.
        gravity: Range of the gravity, in the simulator's units; must lie between -12 and 0.
        windy: Fraction of the tasks with wind (rounded), and chance of wind in an unseen task.
        wind_power: Range of the largest sideways push of the wind, at most 20.
        turbulence_power: Range of the largest turning push of the wind, at most 2.

    Raises:
        ConfigError: for settings out of range, or if Box2D is not installed.
    """
    settings = dict(locals())
    n = common.integer("n_tasks", n_tasks, 2)
    windy = common.number("windy", windy)
    if windy > 1:
        raise ConfigError(f"windy is a fraction of the tasks, between 0 and 1; got {windy:g}")
    ranges = {name: _range(name, settings[name]) for name in _LIMITS}
    rng = np.random.default_rng([common.TRAIN, common.check_seed(seed)])
    wind = rng.permutation(np.arange(n) < round(windy * n))
    kwargs = _draw(rng, ranges, wind)
    return gymnasium_adapter.gymnasium_family(
        "LunarLander-v3",
        kwargs,
        horizon=horizon,
        name="lunarlander",
        task_names=tuple(
            f"task{i}_g{g:.1f}" + (f"_wind{w:.0f}" if windy_one else "")
            for i, (g, w, windy_one) in enumerate(
                zip(kwargs["gravity"], kwargs["wind_power"], wind, strict=True)
            )
        ),
        sample_test_tasks=lambda key, count: _test_tasks(key, count, ranges, windy),
        settings=common.record(settings),
        defaults=_DEFAULTS,
    )


def _range(name: str, value) -> tuple[float, float]:
    """Check a range [low, high] against the limits of the simulator."""
    least, most = _LIMITS[name]
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a pair (low, high) of numbers, got {value!r}") from None
    inside = least < low <= high < most if name == "gravity" else least <= low <= high <= most
    if not inside:
        raise ConfigError(f"{name} must be a pair low <= high between {least:g} and {most:g}, got {value!r}")
    return low, high


def _draw(rng: np.random.Generator, ranges: dict[str, tuple[float, float]], wind: np.ndarray) -> dict:
    """Keyword arguments of as many worlds as ``wind`` bool [count] has; calm ones have no powers."""
    drawn = {name: rng.uniform(*ranges[name], len(wind)) for name in _LIMITS}
    powers = {name: np.where(wind, drawn[name], 0.0) for name in ("wind_power", "turbulence_power")}
    return {"gravity": drawn["gravity"], "enable_wind": wind, **powers}


def _test_tasks(key: Array, count: int, ranges, windy: float) -> dict:
    rng = np.random.default_rng([common.TEST, *np.asarray(key).tolist()])
    return _draw(rng, ranges, rng.random(count) < windy)
