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
from pgx_jax.learn import Learner, Policy, described
from pgx_jax.mesh import mesh_size
from pgx_jax.tasks import TaskFamily


def environment() -> dict[str, Any]:
    """Device, versions and commit of this run, for the record."""
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "devices": mesh_size(),
        "processes": jax.process_count(),
        "python": platform.python_version(),
        "versions": versions(),
        "commit": _commit(),
    }


def versions() -> dict[str, str]:
    """Of the packages that results depend on, as far as they are installed."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "cvxpy", "gymnax", "gymnasium", "pgx-jax")
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def identity(
    family: TaskFamily,
    policy: Policy | None = None,
    policies: Mapping[str, Policy] | None = None,
    learners: Mapping[str, Learner] | None = None,
) -> dict[str, Any]:
    """What tells a family, and policies and learners of one's own, from others of the same names."""
    return {
        "environment": type(family.env).__qualname__,
        "tasks": list(family.task_names),
        "horizon": family.horizon,
        "observations": str(family.observation_space),
        "actions": str(family.action_space),
        "policy": None if policy is None else described(policy),
        "policies": {name: described(x) for name, x in (policies or {}).items()},
        "learners": {name: described(x) for name, x in (learners or {}).items()},
    }


def check_identity(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path | str) -> None:
    """Refuse to continue a run with another family, policy or learner than it was made with.

    Args:
        saved: the run's `identity`; what an older run did not record is not looked at.
        now: that of what it is to be continued with.
        path: the run's folder, for messages.

    Raises:
        ConfigError: naming what differs.
    """
    for name, own in now.items():
        was = saved.get(name, own)
        by_name = isinstance(own, Mapping)
        was, own = (was, own) if by_name else ({name: was}, {name: own})
        for entry in {**was, **own}:
            if was.get(entry) != own.get(entry):
                what = f"{_ONE[name]} {entry!r}" if by_name else name
                before, after = _differing(was.get(entry, "none"), own.get(entry, "none"))
                remedy = _REMEDIES.get(name, "pass the family that it was made with as family=")
                raise ConfigError(
                    f"the run {path} was made with another {what}: {before}, not {after}; {remedy}"
                )


_ONE = {"policies": "policy", "learners": "learner"}
"""A word for one of those that an identity holds by name."""
_REMEDIES = {
    "policy": "pass the run's own networks as policy=",
    "policies": "pass the run's own as policies=",
    "learners": "pass the run's own as learners=",
}


def _differing(was: Any, now: Any) -> tuple[str, str]:
    """Two descriptions in a line each; of long ones, the parts that the other has not."""
    parts = [re.split(r",?\s+", str(x)) for x in (was, now)]
    whole = [" ".join(str(x).split()) for x in (was, now)]
    if max(map(len, whole)) >= 200:
        whole = [", ".join(x for x in own if x not in other) for own, other in (parts, parts[::-1])]
    before, after = (text if 0 < len(text) < 200 else "others" for text in whole)
    return before, after


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
