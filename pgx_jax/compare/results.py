"""The results of a run as named records: what ``results.json`` holds.

They are built once (`runs.assemble`) and read by the report, the command line and the benchmarks.
Numbers that are not finite stand as None. ``UNSET`` fields are left out of the file. The JSON schema
of the file is `schema()`, published as ``results.schema.json`` beside this file.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pgx_jax.errors import DataError, NewerError

SCHEMA_VERSION = 2
"""Raised when a field changes its meaning or disappears."""

OURS = "policygradex"
"""Name of our method."""
SIMILAR = "gradient_similarity"
"""How the names of the methods by gradient similarity begin."""
BY_TASK = (OURS, "multitask", "single_task")
"""Methods that are shown task by task."""

Start = Literal["demonstration-initialised"]
"""How policies begin that go on from a theta* which began with what experts showed."""

Number = float | None
Groups = list[list[str]]
"""Groups as lists of task names."""


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of ``results.json``. A field that it does not have is another version's: it is not dropped
    silently, since files are written again from what was read."""


class Interval(Record, frozen=True):
    """A mean and its 95% interval."""

    mean: Number = None
    """None where it was not measured."""
    ci95: tuple[Number, Number] | None = None
    """None where there is no interval (one episode, one draw)."""

    @property
    def lo(self) -> Number:
        """Lower bound; None where there is no interval."""
        return self._bound(0)

    @property
    def hi(self) -> Number:
        """Upper bound; None where there is no interval."""
        return self._bound(1)

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above zero; False where there is none."""
        return self.lo is not None and self.lo > 0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval is below zero; False where there is none."""
        return self.hi is not None and self.hi < 0

    def __neg__(self) -> Interval:
        """The same difference, seen from the other side."""
        mean = None if self.mean is None else -self.mean
        return Interval(mean, None if self.lo is None or self.hi is None else (-self.hi, -self.lo))

    def _bound(self, side: int) -> Number:
        return None if self.ci95 is None or None in self.ci95 else self.ci95[side]


class Draw(Record, frozen=True):
    """One of several random draws of a method."""

    groups: Groups
    mean: Number


class MethodResult(Record, frozen=True, kw_only=True):
    """One method: a set of policies that serve all tasks, judged."""

    mean: Number
    """Mean over tasks (and draws)."""
    ci95: tuple[Number, Number] | None = None
    groups: Groups | None = None
    """Of the first draw; None if unknown."""
    metric: Literal["return", "success"]
    per_task: list[Number] | None = None
    """[n], mean over episodes (and draws)."""
    per_task_ci95: list[tuple[Number, Number]] | UnsetType = UNSET
    """[n], intervals of these over episodes; unset for several draws, one episode, and in results of older
    code."""
    at_end: list[Number] | UnsetType = UNSET
    """[n], success in the last step of an episode, where the metric is success in any."""
    env_steps: int | None = None
    """All environment steps of the method, everything that it needed included (mean over draws)."""
    equal_steps: bool = True
    """Whether the method keeps the rule of the same total."""
    draws: list[Draw] | UnsetType = UNSET
    label: str | UnsetType = UNSET
    """What the method is called, where that does not follow from its name."""
    note: str | UnsetType = UNSET
    start: Start | UnsetType = UNSET
    """How its policies begin, where neither they nor their theta* do from scratch; the demonstrations are
    among ``env_steps``."""
    same_as: str | UnsetType = UNSET
    """Name of the method that came to the same groups, of several of a kind."""
    difference: Interval | UnsetType = UNSET
    """Ours minus this method, paired by tasks and episodes; unset for ours."""

    @property
    def interval(self) -> Interval:
        """Mean and interval."""
        return Interval(self.mean, self.ci95)


class Gain(Record, frozen=True):
    """What grouping is said to gain over one policy for all."""

    predicted: Interval | None
    """Held-out surrogate gain, in standardised advantage a step, told by data that neither proposed nor chose
    the groups; of one group, 0."""
    realised: Interval | None
    """Measured, in the unit of the metric, over one policy for all that continues the meta-policy as our
    groups do (or over one from scratch, where they do not); None if none was trained."""


class Evidence(Record, frozen=True, kw_only=True):
    """What a split gains over one group, told by data that neither proposed nor chose it, whether or not it
    was made; in standardised advantage a step."""

    gain: Interval
    z: Number
    """The gain in standard errors; None if these are 0."""
    needed: Number
    """The least z that splits, where k was not given."""
    null: Number
    """Mean gain of random groups of the same sizes."""
    together: Number = None
    """What one policy for all still has to gain."""
    opposition: Interval
    """Gain of the tasks, to first order, from the step of all other groups' tasks."""
    kind: Literal["conflict", "company", "apart"]
    """Whether that step harms them, helps them, or can't be told from nothing."""


class AffinityResult(Record, frozen=True):
    """The affinity of pairs of tasks."""

    matrix: list[list[Number]]
    coverage: list[list[int]] | None
    """Number of subsets behind each value; None where it comes from gradients, without subsets."""


class PathResult(Record, frozen=True, kw_only=True):
    """Candidate partitions and how they scored, one entry a candidate."""

    k: list[int]
    labels: list[list[int]]
    chosen: int
    """The candidate that was chosen."""
    score: list[Number]
    stderr: list[Number]
    """Standard error of the paired difference to the best."""
    difference: list[Number]
    """Best minus candidate."""
    penalty: list[Number] | None = None
    """Trace penalty that led to it; None where a fixed k or a list did."""
    solver: list[str] | None = None
    """Solver of the relaxation that led to it ("SPECTRAL" is the one without X >= 0); empty where a list did,
    None in results of older code."""
    equal: list[bool] | None = None
    """Whether it counts as being as good as the best."""


class Bounds(Record, frozen=True):
    """Bounds of an interval of a matrix."""

    low: list[list[Number]]
    high: list[list[Number]]


class GroupCertainty(Record, frozen=True, kw_only=True):
    """How often the tasks of one group are together where trajectories are drawn again."""

    tasks: list[str]
    within: Number
    """Mean over its pairs; None of a single task."""
    least: Number
    """The least of its pairs; None of a single task."""
    across: Number
    """The largest of its tasks with one of another group; None where there is none."""


class UndecidedTask(Record, frozen=True, kw_only=True):
    """A task that may as well belong elsewhere."""

    task: str
    mates: list[str]
    """The other tasks of its group; none of a single task."""
    own: Number
    """How often it is with one of them, on average; None of a single task."""
    others: list[str]
    """The tasks of the other group that it is with most often."""
    elsewhere: Number
    """How often it is with one of these, on average."""


class StabilityResult(Record, frozen=True, kw_only=True):
    """How certain the affinity and the groups are, from trajectories that were drawn again. Intervals and
    frequencies are of the trajectories that one theta* has collected: what another meta-training run would
    change is not in them, nor what later looks at the groups have changed."""

    resamples: int
    groups: Groups
    """Those that were found at the last look at theta*."""
    affinity_ci95: Bounds
    """Basic bootstrap intervals, by the quadratic model with the curvature of all data."""
    together: list[list[Number]]
    """[n, n], part of the draws that have both tasks in one group, where all have as many groups."""
    by_group: list[GroupCertainty]
    undecided: list[UndecidedTask]
    """The least decided first."""
    same_groups: Number
    """Part of the draws with these very groups, where all have as many."""
    same_k: Number
    """Part of the draws in which there would be as many groups; None if their number was given."""


class LookResult(Record, frozen=True, kw_only=True):
    """What one look at one policy has found: whether its tasks should be split, or stay with those of another
    group."""

    look: int
    """Which of the looks, from 1 on."""
    tasks: list[str]
    """The tasks that were asked: the policy's, and those that might join them."""
    joining: list[str] = []
    """Tasks of another group that might join; empty where a split was asked."""
    groups: Groups
    """What they were left in; one group is no split, or a joined pair."""
    gain: Interval
    """Predicted gain of being apart, in standardised advantage a step."""
    collected: int
    """Environment steps that were collected for it."""
    env_steps: int
    """All environment steps of the method up to it, its own included."""


class Curve(Record, frozen=True):
    """Mean return (success rate, of a family that is judged by it) over tasks while training, along a
    method's total of environment steps."""

    steps: list[Number]
    returns: list[Number] = msgspec.field(name="return")
    per_task: list[list[Number]] | UnsetType = UNSET
    """[n, points]: the same of every task; of the methods `BY_TASK` of a family that is judged by success."""
    at_end: list[Number] | UnsetType = UNSET
    """Success in the last step of an episode, where ``return`` is success in any; unset in results of older
    code."""
    per_task_at_end: list[list[Number]] | UnsetType = UNSET
    """[n, points]: the same of every task, where there is ``per_task``."""


class UnseenMethod(Record, frozen=True, kw_only=True):
    """The policies of one method on unseen tasks."""

    mean: Number
    ci95: tuple[Number, Number] | None
    env_steps: int
    """All steps before the episodes that are judged."""
    failed: list[str] | UnsetType = UNSET
    """Names of the tasks on which adapting failed: there is no mean then."""

    @property
    def interval(self) -> Interval:
        """Mean and interval."""
        return Interval(self.mean, self.ci95)


class UnseenResult(Record, frozen=True, kw_only=True):
    """The groups' policies on tasks that none of them has seen."""

    mean: Number
    ci95: tuple[Number, Number] | None
    names: list[str]
    method: str
    """How an unseen task finds its policy."""
    assigned: list[int]
    """The group of each unseen task."""
    told: list[str] = []
    """The known task that each of them is said to be, where policies are told their task."""
    env_steps: int = 0
    """All steps before the episodes that are judged: the trial's, and those of adapting to the tasks (by
    every group's policy before the trial, and again by the one that was found)."""
    failed: list[str] | UnsetType = UNSET
    """Names of the tasks on which adapting failed: there is no mean then."""
    methods: dict[str, UnseenMethod] = {}
    """The other methods on the same tasks; each task finds its policy among the method's in the same way."""

    @property
    def interval(self) -> Interval:
        """Mean and interval."""
        return Interval(self.mean, self.ci95)


class Agreement(Record, frozen=True):
    """Of the groups found with the planted ones."""

    nmi: Number
    ari: Number
    exact: bool


class Diagnostics(Record, frozen=True, kw_only=True):
    """Numbers by which to judge the estimate itself."""

    parameters: int
    private_parameters: int = 0
    """Of these, how many one task's context alone can reach, which the gradient features leave out."""
    subsets: int
    l2: Number
    relative_distance: list[Number]
    """Of the groups' lifted solutions from theta*."""
    affinity_ci95: Bounds | None
    """Over the choice of subsets; None where the affinity comes from none."""
    scoring_steps: int
    demonstration_steps: int = 0
    meta_steps: int
    collect_steps: int
    measured: dict[str, list[Number]] = {}
    """What theta*'s learner measured of each update before the last look, by its names (PPO: "kl",
    "explained_variance", "learning_rate")."""


class Timings(Record, frozen=True):
    """All that may differ between two equal runs."""

    stages: list[tuple[str, Number]] = []
    """(stage, seconds) in the order in which they ran."""
    total: Number = None
    date: str = ""


class Results(Record, frozen=True, kw_only=True):
    """Everything that ``results.json`` holds."""

    family: str
    family_settings: dict[str, Any] = {}
    n_tasks: int
    task_names: list[str]
    told: bool = False
    """Whether the meta-policy is told its task."""
    seed: int
    k: int
    groups: Groups
    methods: dict[str, MethodResult]
    gain: Gain
    evidence: Evidence | None = None
    """None in results of older versions, and where there was nothing to split."""
    affinity: AffinityResult | None = None
    path: PathResult | None = None
    stability: StabilityResult | None = None
    """None in results of older code, and where trajectories were not drawn again."""
    looks: list[LookResult] = []
    """All looks in their order; empty in results of older code, which looked once."""
    curves: dict[str, Curve] = {}
    test_tasks: UnseenResult | None = None
    diagnostics: Diagnostics | None = None
    """None in results that were put together elsewhere."""
    true_groups: Groups | None = None
    """Planted groups; read by nothing before the report."""
    agreement: Agreement | None = None
    advice: str = ""
    timings: Timings = Timings()
    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    """Has no default, so that a file must say it."""

    def per_task(self, name: str) -> list[Number] | None:
        """Means [n] of a method on every task; None where it or they are missing."""
        found = self.methods[name].per_task if name in self.methods else None
        return found if found is not None and len(found) == self.n_tasks else None


Kind = TypeVar("Kind", bound=Struct)


def read_record(values: Any, kind: type[Kind], file: str, remedy: str) -> Kind:
    """Read what a file of one record held.

    Raises:
        DataError: it is of another version, or something is missing, unknown or of another kind; with the
            file's name and the remedy.
    """
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{file} cannot be read ({error}); {remedy}") from None


def schema(kind: type[Struct] = Results) -> dict[str, Any]:
    """The JSON schema of ``results.json``, or of another record's file."""
    found = msgspec.json.schema(kind)
    for record in found["$defs"].values():
        if "description" in record:  # which Python 3.13 has without its indentation
            record["description"] = inspect.cleandoc(record["description"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | found


def publish(kind: type[Struct], name: str) -> None:
    """Write the published schema of a record's file anew, beside this module."""
    Path(__file__).with_name(name).write_text(f"{json.dumps(schema(kind), indent=1)}\n")


def finite(found: Results) -> Results:
    """The same results with None in place of numbers that are not finite, as the file has them."""
    return msgspec.json.decode(msgspec.json.encode(found), type=Results)


def to_plain(record: Struct) -> dict[str, Any]:
    """A record of this module (or one that is made of them) as dicts and lists, for JSON."""
    return msgspec.to_builtins(record)


def from_plain(values: Any) -> Results:
    """Read what ``results.json`` held.

    Raises:
        DataError: it is of another version or does not say of which, or something is missing, unknown or
            of another kind.
    """
    remedy = "resume the run to write it anew"
    version = values.get("schema_version") if isinstance(values, dict) else SCHEMA_VERSION
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerError(
            f"results.json was written in schema_version {version}, and this version knows {SCHEMA_VERSION}: "
            f"install a newer pgx-jax"
        )
    if version != SCHEMA_VERSION:
        told = "no schema_version" if version is None else f"schema_version {version}"
        raise DataError(f"results.json cannot be read ({told}, not {SCHEMA_VERSION}); {remedy}")
    found = read_record(values, Results, "results.json", remedy)
    if unknown := _named(found) - {*found.task_names}:
        raise DataError(f"results.json cannot be read ({min(unknown)!r} is none of its task_names); {remedy}")
    return found


def _named(found: Results) -> set[str]:
    """All tasks that results name in their groups."""
    several = [found.groups, found.true_groups or [], *(own.groups or [] for own in found.methods.values())]
    several += [[*look.groups, look.tasks, look.joining] for look in found.looks]
    several += [found.stability.groups] if found.stability is not None else []
    return {name for groups in several for group in groups for name in group}


if __name__ == "__main__":  # writes the published schema anew
    publish(Results, "results.schema.json")
