"""Task families: what they promise, how they are found, and whether their environments keep it."""

from pgx_jax.tasks.family import (
    DeviceEnv,
    HostCopy,
    HostEnv,
    HostStep,
    HostVector,
    SplitVector,
    Step,
    TaskFamily,
)

__all__ = [
    "DeviceEnv",
    "HostCopy",
    "HostEnv",
    "HostStep",
    "HostVector",
    "SplitVector",
    "Step",
    "TaskFamily",
]
