"""Saved runs: resume them, regroup them, and act with their policies."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pgx_jax import estimate, pipeline
from pgx_jax.compare import methods as judge
from pgx_jax.config import Config, EstimateConfig
from pgx_jax.errors import ConfigError
from pgx_jax.tasks.registry import families, make_family
from pgx_jax.learn import Policy
from pgx_jax.runs.provenance import check_identity
from pgx_jax.runs.assemble import affinity_entry, agreement, path_entry
from pgx_jax.runs.run import Listener, Run
from pgx_jax.runs.store import RunStore
from pgx_jax.streams import stream
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Scores
from pgx_jax.validation import check_method


def from_dict(cls: type, values: Mapping[str, Any]) -> Any:
    """Build a settings dataclass from what JSON kept of it; unknown fields are an error."""
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := set(values) - known:
        raise ConfigError(f"saved settings have unknown fields {sorted(unknown)} of {cls.__name__}")

    def build(name, value):
        kind = hints[name]
        if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            return from_dict(kind, value)
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: build(name, value) for name, value in values.items()})


def load(
    path: str | Path,
    family: TaskFamily | None = None,
    *,
    policy: Policy | None = None,
    listener: Listener | None = None,
) -> Run:
    """Open a saved run; its stages load as they are asked for, missing ones are computed.

    Args:
        path: the run folder.
        family: the family, if it is not a registered one.
        policy: the networks, if they are not the default ones.
        listener: hears about progress.

    Raises:
        ConfigError: no run there, a family or policy of one's own that must be passed again, or others
            than those that the run was made with.
        DataError: a damaged file.
    """
    store = RunStore.open(path)
    saved = store.config
    if saved.get("own_policy") and policy is None:
        raise ConfigError(f"the run {path} was made with networks of its own; pass them as policy=")
    meta = store.load("given_meta", Agent) if saved.get("own_meta") else None
    if family is None:
        family = _family(saved, path)
    if "identity" in saved:
        check_identity(saved["identity"], family, policy if saved.get("own_policy") else None, path)
    config = from_dict(Config, saved["config"])
    return Run(family, config, store=store, policy=policy, meta=meta, listener=listener)


def _family(saved: Mapping, path: str | Path) -> TaskFamily:
    """The registered family that a run was made with."""
    if saved["family"] not in families():
        raise ConfigError(
            f"the run {path} was made with the family {saved['family']!r}, which is not registered: "
            f"pass it as family= of pgx_jax.load or pgx_jax.resume"
        )
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["family_settings"].items()}
    return make_family(saved["family"], **settings)


def resume(path: str | Path, **kw) -> Run:
    """Finish a run from its last whole stage and write its report (arguments as of `load`)."""
    run = load(path, **kw)
    run.write()
    return run


def agent_for(run: Run, task: str) -> Agent:
    """The trained group policy that serves a task, by the task's name.

    Raises:
        ConfigError: no such task.
    """
    names = run.family.task_names
    if task not in names:
        raise ConfigError(f"no task {task!r} in this run; its tasks are {', '.join(names)}")
    row = run.ours.rows[run.ours.labels[names.index(task)]]
    pool = run.policies
    return pool.agents[pool.rows.index(row)]


def _scores(run: Run, e: EstimateConfig, seed: int) -> Scores:
    """The saved scores where the settings that they depend on are the same, or else new ones."""
    same = dataclasses.replace(e, affinity=run.config.estimate.affinity) == run.config.estimate
    if same and seed == run.config.seed and (run.store is None or run.store.has("scores")):
        return run.scored["scores"]
    estimate.require_held_out(e.score, "regrouping takes no environment steps")
    member = estimate.make_subsets(seed, run.family.n, e.subset_size, e.subsets, e.min_cover)
    return pipeline.score_subsets(run.features, run.transitions, member, e, names=run.family.task_names)[1]


def regroup(run: Run, config: Config) -> dict:
    """Group a saved run anew with other settings, from its saved stages: no training.

    Args:
        run: a run whose features are saved.
        config: its settings with other k, grouping or estimate settings.

    Returns:
        {"k", "groups", "labels", "gain": {"predicted"}, "affinity", "path", "agreement"}.

    Raises:
        ConfigError: settings that need new data or new roll-outs, or a run without features.
    """
    if run.store is not None and not run.store.has("features"):
        raise ConfigError(f"the run {run.store.path} has no features yet; finish it with `pgx-jax resume`")
    e = config.estimate
    for name in ("steps", "num_envs", "source_multiple", "gae_lambda", "dim"):
        if getattr(e, name) != getattr(run.config.estimate, name):
            raise ConfigError(f"estimate.{name} is fixed by the saved features; start a new run to change it")
    check_method(config, run.family.n)
    feats, transitions, names = run.features, run.transitions, run.family.task_names
    scores = _scores(run, e, config.seed)
    affinity = estimate.affinity(scores, e.affinity)
    held_out = pipeline.HeldOut(feats, transitions, e, stream(config.seed, "deal"), names)
    found = pipeline.choose_groups(affinity, held_out, config, k=config.k, names=names)
    return {
        "k": found.k,
        "groups": judge.named_groups(found.labels, names),
        "labels": np.asarray(found.labels).tolist(),
        "gain": {"predicted": pipeline.predicted_gain(found.labels, held_out), "realised": None},
        "affinity": affinity_entry(affinity),
        "path": path_entry(found),
        "agreement": agreement(run.family, found),
        "settings": config,
    }
