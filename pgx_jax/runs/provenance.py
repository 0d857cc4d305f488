"""Where results come from: device, versions and commit; and what a run must be continued with."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from pgx_jax.errors import ConfigError
from pgx_jax.learn import Policy
from pgx_jax.tasks import TaskFamily


def environment() -> dict[str, Any]:
    """Device, versions and commit of this run, for the record."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "cvxpy", "gymnax", "gymnasium", "pgx-jax")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
    }


def identity(family: TaskFamily, policy: Policy | None = None) -> dict[str, Any]:
    """What tells a family, and a policy of one's own, from others of the same name."""
    return {
        "environment": type(family.env).__qualname__,
        "tasks": list(family.task_names),
        "horizon": family.horizon,
        "observations": str(family.observation_space),
        "actions": str(family.action_space),
        "policy": None if policy is None else re.sub(r" at 0x[0-9a-f]+", "", repr(policy)),
    }


def check_identity(
    saved: Mapping[str, Any], family: TaskFamily, policy: Policy | None, path: Path | str
) -> None:
    """Refuse to continue a run with another family or policy than it was made with.

    Args:
        saved: the run's `identity`.
        family, policy: what it is to be continued with.
        path: the run's folder, for messages.

    Raises:
        ConfigError: naming what differs.
    """
    remedy = {"policy": "pass the run's own networks as policy="}
    for name, now in identity(family, policy).items():
        if saved.get(name) != now:
            was, now = (str(x) if len(str(x)) < 200 else "others" for x in (saved.get(name), now))
            raise ConfigError(
                f"the run {path} was made with another {name}: {was}, not {now}; "
                f"{remedy.get(name, 'pass the family that it was made with as family=')}"
            )


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
