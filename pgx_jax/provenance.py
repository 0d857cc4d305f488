"""Where results come from: device, versions and commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import jax


def environment() -> dict:
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


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
