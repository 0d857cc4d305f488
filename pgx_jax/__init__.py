"""PolicyGradEx in JAX: find which reinforcement-learning tasks should share a policy.

The main job is `run`; `pipeline` has the method on one page, and `estimate`, `grouping` and
`learn` have its parts, each usable alone. Everything is imported when it is first asked for.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # `typing` itself takes a while to import
if TYPE_CHECKING:
    from typing import Any

    from pgx_jax import (
        analysis,
        compare,
        config,
        errors,
        estimate,
        grouping,
        learn,
        pipeline,
        report,
        runs,
        show,
        tasks,
        types,
    )
    from pgx_jax.config import Config, EstimateConfig, PolicyConfig, config_for
    from pgx_jax.errors import ConfigError, DataError, PgxError, SolverError
    from pgx_jax.grouping import GroupingConfig
    from pgx_jax.learn import PPO
    from pgx_jax.learn.logged import transitions_from
    from pgx_jax.pipeline import group_transitions
    from pgx_jax.runs.adapting import adapt
    from pgx_jax.runs.analysing import analyse
    from pgx_jax.runs.comparing import compare_runs
    from pgx_jax.runs.exporting import export_policy
    from pgx_jax.runs.planning import plan
    from pgx_jax.runs.run import Listener, Run, run
    from pgx_jax.runs.saved import load, regroup, resume
    from pgx_jax.runs.seeds import resume_seeds, run_seeds
    from pgx_jax.tasks import DeviceEnv, Step, TaskFamily
    from pgx_jax.tasks.registry import brax_family, families, gymnasium_family, gymnax_family, make_family
    from pgx_jax.types import Grouping, Rows, Transitions

_NAMES = {
    "config": ("Config", "EstimateConfig", "PolicyConfig", "config_for"),
    "errors": ("ConfigError", "DataError", "PgxError", "SolverError"),
    "grouping": ("GroupingConfig",),
    "learn": ("PPO",),
    "learn.logged": ("transitions_from",),
    "pipeline": ("group_transitions",),
    "runs.adapting": ("adapt",),
    "runs.analysing": ("analyse",),
    "runs.exporting": ("export_policy",),
    "runs.comparing": ("compare_runs",),
    "runs.planning": ("plan",),
    "runs.run": ("Listener", "Run", "run"),
    "runs.saved": ("load", "regroup", "resume"),
    "runs.seeds": ("resume_seeds", "run_seeds"),
    "tasks": ("DeviceEnv", "Step", "TaskFamily"),
    "tasks.registry": ("brax_family", "families", "gymnasium_family", "gymnax_family", "make_family"),
    "types": ("Grouping", "Rows", "Transitions"),
}
"""Public names by the module that has them."""

_ROOMS = (
    "analysis", "compare", "config", "errors", "estimate", "grouping", "learn", "pipeline", "report", "runs",
    "show", "tasks", "types",
)  # fmt: skip
"""Public modules."""

_PLACE = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}

__all__ = [
    "PPO", "Config", "ConfigError", "DataError", "DeviceEnv", "EstimateConfig", "Grouping",
    "GroupingConfig", "Listener", "PgxError", "PolicyConfig", "Rows", "Run", "SolverError", "Step",
    "TaskFamily", "Transitions", "adapt", "analyse", "analysis", "brax_family", "compare", "compare_runs",
    "config", "config_for", "errors", "estimate", "export_policy", "families", "group_transitions",
    "grouping", "gymnasium_family", "gymnax_family", "learn", "load", "make_family", "pipeline", "plan",
    "regroup", "report", "resume", "resume_seeds", "run", "run_seeds", "runs", "show", "tasks",
    "transitions_from", "types",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PLACE:
        value = globals()[name] = getattr(importlib.import_module(_PLACE[name]), name)
        return value
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("pgx-jax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
