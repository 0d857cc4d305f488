"""Saved runs: resume them, regroup them, and act with their policies."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from pgx_jax import estimate, learn, pipeline
from pgx_jax.compare.judging import named_groups
from pgx_jax.compare.results import (
    AffinityResult,
    Agreement,
    Evidence,
    Gain,
    Groups,
    Interval,
    PathResult,
    StabilityResult,
)
from pgx_jax.config import Config, check_method
from pgx_jax.errors import ConfigError, DataError, FolderError, PgxError, checked
from pgx_jax.estimate.config import COLLECTED
from pgx_jax.grouping import GroupingConfig
from pgx_jax.held_out import HeldOut
from pgx_jax.learn import Learner, Policy
from pgx_jax.mesh import check_equal
from pgx_jax.runs.assemble import affinity_result, agreement, evidence_result, path_result, stability_result
from pgx_jax.runs.programs import keep_programs, make_room
from pgx_jax.runs.provenance import check_identity, identity, versions
from pgx_jax.runs.run import Run
from pgx_jax.runs.store import DAMAGED, RunStore, written_by
from pgx_jax.runs.watching import hearing
from pgx_jax.runs.watching.listener import Listener
from pgx_jax.stability import Stability
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import families, make_family
from pgx_jax.types import Affinity, Agent, Grouping, Scores

LEGACY = {"looks": 1, "min_updates": 1, "collect_fraction": 0.99, "group_entropy": None}
"""What older runs, whose settings had no such names, did; others began with the defaults of today."""
RETIRED = {"min_gain"}
"""Settings that older runs have and nothing reads any more: a test in units of noise took its place."""


def from_dict(cls: type, values: Mapping[str, Any]) -> Any:
    """Build a settings dataclass from what JSON kept of it, without what is `RETIRED`; unknown fields are an
    error."""
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    values = {name: value for name, value in values.items() if name in known or name not in RETIRED}
    if unknown := set(values) - known:
        raise ConfigError(f"saved settings have unknown fields {sorted(unknown)} of {cls.__name__}")

    def build(name: str, value: Any) -> Any:
        kind = hints[name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            return from_dict(kind, value)
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: build(name, value) for name, value in values.items()})


def as_before(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved settings with what the run did where older code had no such settings."""
    grouping = saved.get("grouping", {})
    before = {"agreed_ratio": grouping.get("min_ratio", GroupingConfig.min_ratio)}
    return LEGACY | dict(saved) | {"grouping": before | dict(grouping)}


@checked
def load(
    path: str | Path,
    family: TaskFamily | None = None,
    *,
    policy: Policy | None = None,
    policies: Mapping[str, Policy] | None = None,
    learners: Mapping[str, Learner] | None = None,
    listener: Listener | None = None,
) -> Run:
    """Open a saved run; its stages load as they are asked for (`Run.compute` computes missing ones).

    Args:
        path: the run folder.
        family: the family, if it is not a registered one.
        policy: the networks, if they are not the default ones.
        policies, learners: further ones by name, if the run was given any.
        listener: hears about progress.

    Raises:
        ConfigError: no run there, a family, policy or learner of one's own that must be passed again, or
            others than those that the run was made with.
        DataError: a damaged file.
    """
    store = RunStore.open(path)
    saved, config = saved_settings(store)
    make_room()
    if config.keep_programs:
        keep_programs()
    if saved.get("own_policy") and policy is None:
        raise ConfigError(f"the run {path} was made with networks of its own; pass them as policy=")
    meta = store.load("given_meta", Agent) if saved.get("own_meta") else None
    with _readable(store):
        family = _family(saved, path) if family is None else family
        if "identity" in saved:
            own = policy if saved.get("own_policy") else None
            check_identity(saved["identity"], identity(family, own, policies, learners), path)
    found = Run(
        family, config, store=store, policy=policy, meta=meta, policies=policies, learners=learners,
        listener=listener,
    )  # fmt: skip
    check_equal(
        "settings, versions or folders",
        lambda: (saved["config"], versions(), store.stages(), store.has_file("results.json")),
    )
    return found


def load_trained(path: str | Path, *, of: str | None = None) -> Run:
    """Open a saved run whose policies are trained.

    Args:
        path: the run folder.
        of: the name of the family that it must be one of; any by default.

    Raises:
        ConfigError: as `load`, or for a run of another family, or one without trained policies.
    """
    store = RunStore.open(path)
    own = saved_settings(store)[0]["family"]
    if of is not None and own != of:
        raise ConfigError(f"the run {path} is one of {own!r}, not of {of!r}")
    if not store.has("policies"):
        raise FolderError(f"the run {path} has no policies yet; resume it first")
    return load(path)


@contextmanager
def _readable(store: RunStore) -> Iterator[None]:
    """Within it, whatever is wrong with what config.json holds is an error that names the file, and who
    wrote it."""
    place = store.path / "config.json"
    try:
        yield
    except PgxError:
        raise
    except DAMAGED as error:
        raise DataError(
            f"{place} is damaged, or of another version ({type(error).__name__}: {error}); put back what it "
            f"held, or run it anew (with overwrite)"
        ) from error


def saved_settings(store: RunStore) -> tuple[dict[str, Any], Config]:
    """What config.json of a run holds, and the settings among it.

    Raises:
        ConfigError: settings that this version doesn't know.
        DataError: they are damaged.
    """
    saved = store.config
    with _readable(store):
        kinds = {"config": dict, "family": str, "family_settings": dict}
        if wrong := [name for name, kind in kinds.items() if not isinstance(saved.get(name), kind)]:
            raise ValueError(f"no {', '.join(wrong)}")
        try:
            return saved, from_dict(Config, as_before(saved["config"]))
        except ConfigError as error:
            wrote = written_by(saved) or "another version"
            raise ConfigError(f"{store.path / 'config.json'}, written by pgx-jax {wrote}: {error}") from error


def _family(saved: Mapping[str, Any], path: str | Path) -> TaskFamily:
    """The registered family that a run was made with."""
    if saved["family"] not in families():
        where = repr(str(path))
        raise ConfigError(
            f"the run {path} was made with the family {saved['family']!r}, which is not registered, so no "
            f"command can make it: build it in Python as for the run, and call "
            f"pgx_jax.resume({where}, family=family), or run = pgx_jax.load({where}, family=family) and "
            f"pgx_jax.regroup(run, run.config)"
        )
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["family_settings"].items()}
    return make_family(saved["family"], **settings)


@checked
def resume(
    path: str | Path,
    family: TaskFamily | None = None,
    *,
    listener: Listener | None = None,
    log: Sequence[str] = (),
    progress: bool = True,
    **own: Any,
) -> Run:
    """Finish a run from its last whole stage and write its report.

    Args:
        path, family: as of `load`.
        listener, log, progress: who hears of it, as of `run`.
        own: ``policy``, ``policies``, ``learners``, as of `load`.
    """
    with hearing(listener, log, Path(path), progress) as hears:
        run = load(path, family, listener=hears, **own).finish()
        run.listener = listener or Listener()
    return run


class Regrouped(Struct, frozen=True, kw_only=True):
    """Tasks that are grouped from saved data, as it is written to a file."""

    k: int
    groups: Groups
    labels: list[int]
    gain: Gain
    """Predicted alone: nothing is trained."""
    evidence: Evidence | None
    affinity: AffinityResult
    path: PathResult
    stability: StabilityResult | None
    agreement: Agreement | None
    settings: Any


@checked
def regroup(run: Run, config: Config) -> Regrouped:
    """Group a saved run anew with other settings, from its saved stages: no training.

    Args:
        run: a run whose features are saved.
        config: its settings with other k, grouping or estimate settings.

    Raises:
        ConfigError: settings that need new data or new roll-outs.
        FolderError: a run without features.
    """
    if run.store is not None and not run.store.has("features"):
        raise FolderError(f"the run {run.store.path} has no features yet; resume it first")
    e = config.estimate
    for name in (*COLLECTED, "dim", "projection"):
        if getattr(e, name) != getattr(run.config.estimate, name):
            raise ConfigError(f"estimate.{name} is fixed by the saved features; start a new run to change it")
    check_method(config, run.family.n)
    names = run.family.task_names
    held_out = HeldOut(
        run.features, run.transitions, e, config.stream("deal"), names,
        log_prob=run.policy.log_prob, params=learn.policy_params(run.meta),
    )  # fmt: skip
    scores = _scores(run, config) if e.reads_scores(run.family.n) else None
    affinity = pipeline.affinity(scores, held_out, e)
    looks = pipeline.look_count(config)
    found = pipeline.choose_groups(affinity, held_out, config, k=config.k, looks=looks, names=names)
    certain = pipeline.stability(affinity, held_out, found, config, scores=scores)
    return regrouped(affinity, found, certain, names, config, agreement(run.family, found.labels))


def regrouped(
    affinity: Affinity,
    found: Grouping,
    certain: Stability | None,
    names: Sequence[str],
    config: Config,
    agrees: Agreement | None = None,
) -> Regrouped:
    """The record of what was found with some settings; ``agrees`` is how it agrees with planted groups."""
    return Regrouped(
        k=found.k,
        groups=named_groups(found.labels, names),
        labels=np.asarray(found.labels).tolist(),
        gain=Gain(Interval(**pipeline.predicted_gain(found)), None),
        evidence=evidence_result(found),
        affinity=affinity_result(affinity),
        path=path_result(found),
        stability=stability_result(certain, names),
        agreement=agrees,
        settings=config,
    )


def _scores(run: Run, config: Config) -> Scores:
    """The saved scores where the settings that they depend on are the same, or else new ones."""
    e, names = config.estimate, run.family.task_names
    own = run.config.estimate
    same = dataclasses.replace(e, affinity=own.affinity, beside=own.beside) == own
    saved = run.store is None or run.store.has("scores")
    if same and saved and config.seed == run.config.seed and len(run.scored.scores.member):
        return run.scored.scores  # there are none where its own affinity needed none
    estimate.require_held_out(e.score, "regrouping takes no environment steps")
    member = pipeline.subsets(config, run.family.n)
    return pipeline.score_subsets(run.features, run.transitions, member, e, names=names).scores
