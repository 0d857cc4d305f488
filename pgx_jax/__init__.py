"""PolicyGradEx in JAX: find which reinforcement-learning tasks should share a policy.

The main job is `run`; `pipeline` has the method on one page, and `estimate`, `grouping` and
`learn` have its parts, each usable alone.
"""

from pgx_jax.config import Config, EstimateConfig, PolicyConfig, config_for
from pgx_jax.errors import ConfigError, DataError, PgxError, SolverError
from pgx_jax.grouping import GroupingConfig
from pgx_jax.learn import PPO
from pgx_jax.pipeline import group_transitions
from pgx_jax.runs.run import Listener, Run, run
from pgx_jax.runs.saved import load, regroup, resume
from pgx_jax.tasks import DeviceEnv, Step, TaskFamily
from pgx_jax.tasks.registry import families, make_family
from pgx_jax.types import Grouping, Rows, Transitions

__all__ = [
    "PPO", "Config", "ConfigError", "DataError", "DeviceEnv", "EstimateConfig", "Grouping", "GroupingConfig",
    "Listener", "PgxError", "PolicyConfig", "Rows", "Run", "SolverError", "Step", "TaskFamily",
    "Transitions", "config_for", "families", "group_transitions", "load", "make_family",
    "regroup", "resume", "run",
]  # fmt: skip
