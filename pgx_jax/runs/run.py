"""A run: the stages of the pipeline in order, saved as they finish, resumed where they stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import jax
import msgspec
import numpy as np

from pgx_jax import learn, report
from pgx_jax.compare import methods, results
from pgx_jax.compare.oracle import searches
from pgx_jax.compare.results import Results, Timings
from pgx_jax.config import Config, config_for
from pgx_jax.errors import ConfigError, DataError, NewerError, NoSignalError, PgxError, checked
from pgx_jax.learn import Learner, Policy, described
from pgx_jax.mesh import agreed, check_equal, in_first
from pgx_jax.runs.ahead import compiling_ahead
from pgx_jax.runs.checkpoint import StageCheckpoint
from pgx_jax.runs.drawing import draw_groups, drawn
from pgx_jax.runs.planning import expected_steps
from pgx_jax.runs.programs import keep_programs, make_room
from pgx_jax.runs.provenance import environment, identity, versions
from pgx_jax.runs.records import ASKED, Records, numbered
from pgx_jax.runs.reproducing import command
from pgx_jax.runs.stages import STAGES, needed, stage_of
from pgx_jax.runs.store import CONFIG_FORMAT, RunStore
from pgx_jax.runs.watching import hearing
from pgx_jax.runs.watching.listener import Listener
from pgx_jax.steady import one_blas_thread
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Agent, Grouping


class Run(Records):
    """One run: `compute` does the work, stage by stage (`runs.stages.STAGES`); its attributes read what is
    computed, or saved in the run's folder, and compute nothing."""

    rehearses = True
    """Whether it compiles ahead, as one of several runs of equal programs needs to alone."""

    def compute(self, stage: str = "evaluation") -> Run:
        """Compute what is missing of a stage and of all that it needs; returns the run.

        Raises:
            ConfigError: no such stage, or another process works on the run.
            DataError, SolverError: what a stage could not use; earlier stages stay on disk.
        """
        if not isinstance(stage, str) or stage not in STAGES:
            raise ConfigError(f"there is no stage {stage!r}; the stages are {', '.join(STAGES)}")
        compares = bool(methods.BASELINES[self.config.compare])
        names = needed(stage, compares=compares, left_out=self._left_out())
        with (
            self._claimed(),
            compiling_ahead(self) if self._is_whole(names) else nullcontext(),
        ):
            self.look = 1
            for name in names:
                if name in YOUNGER and EVALUATION in names and self._is_older(name):
                    continue
                self._reach(name)
                while name == "grouping" and self.grouping.k == 1 and self.look < len(self.spends.ends):
                    if not self._look_again():
                        break
        self.look = self._last_look()
        return self

    def _left_out(self) -> set[str]:
        """Stages that there is no need of; none of the oracle where older code has trained the baselines."""
        older = self._is_known("comparisons") and not self._is_known("oracle")
        oracle = searches(self.config, self.family.n) and not older
        shown = self.config.demonstrations > 0
        needs = {"demonstrations": shown, "meta": self.own_meta is None, "oracle": oracle}
        needs |= {"clustering": methods.clusters(self.config)}
        return {stage for stage, need in needs.items() if not need}

    def _is_known(self, stage: str) -> bool:
        """Whether a stage is computed or saved."""
        return stage in self.records or self._has(stage)

    def _look_again(self) -> bool:
        """Train the meta-policy on and look at it once more; False where a task has no signal any more, and
        the last look has the last word (what this one took is paid for all the same)."""
        self.look += 1
        try:
            for stage in ASKED:
                self._reach(stage)
        except NoSignalError as error:
            self.listener.finish(numbered("grouping", self.look), 0.0, f"not looked at: {error}")
            self.look -= 1
            return False
        except BaseException:
            self.look = self._last_look()
            raise
        return True

    def _reach(self, stage: str) -> None:
        """Have a stage's record, at the present look."""
        learn.give_way()
        name = numbered(stage, self.look)
        if name not in self.records and not self._load(name, remade=True):
            self._compute(name)
        elif self.store is not None:
            StageCheckpoint(self.store, name).clear()  # of a process that was killed before it did

    def _is_older(self, stage: str) -> bool:
        """Whether the run was finished when there was no such stage yet."""
        finished = self.store is not None and self.store.has_file("results.json")
        return not self._is_known(stage) and (EVALUATION in self.records or finished)

    def _is_whole(self, names: Sequence[str]) -> bool:
        """Whether all is to be computed, from the meta-policy to the results."""
        begun = "meta" in self.records or (self.store is not None and self.store.has("meta"))
        return self.rehearses and EVALUATION in names and "meta" in names and not begun

    def finish(self) -> Run:
        """Compute all that is missing, and write results and report, while no other process may; returns the
        run (see `compute`)."""
        with nullcontext() if self.store is None else self.store.claimed():
            self.compute()
            learn.give_way()
            self.write()
        return self

    def _claimed(self) -> AbstractContextManager[None]:
        """No other process may work on the run's folder, unless it is finished."""
        store = self.store
        if store is None or agreed(store.has_file("results.json")):
            return nullcontext()
        return store.claimed()

    def write(self) -> Path | None:
        """Write results.json and the report; returns the report's path, None without a folder."""
        store = self.store
        if store is None:
            return None
        found = self.results
        store.write_json("results.json", results.to_plain(found))
        self.listener.doing("drawing the report")
        draw_groups(self, store)
        in_first(lambda: write_report(store, found))
        return store.path / "report.html"

    # How stages are kept

    def _load(self, stage: str, remade: bool = False) -> bool:
        """Read a stage that is saved; False if it is not (or is another version's results, to be remade)."""
        if self.store is None:
            return False
        if stage == EVALUATION:
            if not self.store.has_file("results.json"):
                return False
            try:
                record = results.from_plain(self.store.read_json("results.json"))
            except NewerError:
                raise
            except DataError:
                if remade:
                    return False
                raise
        elif self.store.has(stage):
            record = self.store.load(stage, stage_of(stage).record)
        else:
            return False
        self.records[stage] = record
        self.listener.loaded(stage, stage_of(stage).text(self, record))
        return True

    def _compute(self, stage: str) -> None:
        """Compute a stage from the records of earlier ones, time it, and save it.

        An error of ours is raised again, with the name of the stage before it.
        """
        self.listener.start(stage)
        if stage == "meta":
            self.listener.expect(expected_steps(self))
        began = time.perf_counter()
        try:
            record = one_blas_thread(lambda: jax.block_until_ready(stage_of(stage).compute(self)))()
        except PgxError as error:
            raise type(error)(f"{stage}: {error}") from error
        if isinstance(record, Grouping):  # found by each process alone
            check_equal("groups", lambda: np.asarray(record.labels).tolist())
        self.seconds[stage] = seconds = time.perf_counter() - began
        text = stage_of(stage).text(self, record)
        if stage == EVALUATION:
            record = msgspec.structs.replace(record, advice=report.advice(record), timings=self._timings())
        self.records[stage] = record  # first, so that it isn't lost where the disk is full
        if self.store is not None:
            if stage != EVALUATION:
                self.store.save(stage, record)
                StageCheckpoint(self.store, stage).clear()
            self.store.append_metrics({"stage": stage, "seconds": seconds, "result": text})
        self.listener.finish(stage, seconds, text)

    def _timings(self) -> Timings:
        """Seconds of all stages, those of earlier sittings too, and today's date."""
        saved = {m["stage"]: m["seconds"] for m in self.store.metrics() if "stage" in m} if self.store else {}
        stages = saved | self.seconds
        date = time.strftime("%Y-%m-%d %H:%M:%S")
        return Timings(list(stages.items()), sum(stages.values()), date)


EVALUATION = "evaluation"
"""The last stage, whose record is results.json."""

YOUNGER = ("looks", "clustering", "stability")
"""Stages that older runs were finished without."""


def write_report(store: RunStore, found: Results) -> Path:
    """Write the report of a run's results into its folder, in place of an older one; returns its path."""
    pictures = drawn(store, len(found.groups))
    return write_files(store, report.FILES, report.render(found, store.config, pictures))


def write_files(store: RunStore, names: Sequence[str], files: Mapping[str, bytes]) -> Path:
    """Write the files of a report, and remove those that it lacks of all that it may have; returns the path
    of its page."""
    for name in names:
        if name in files:
            store.write_file(name, files[name])
        else:
            store.remove_file(name)
    return store.path / "report.html"


@checked
def run(
    family: TaskFamily | str,
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    policy: Policy | None = None,
    meta: Agent | None = None,
    policies: Mapping[str, Policy] | None = None,
    learners: Mapping[str, Learner] | None = None,
    listener: Listener | None = None,
    log: Sequence[str] = (),
    progress: bool = True,
    overwrite: bool = False,
) -> Run:
    """Run the whole method, and return its records.

    Args:
        family: a task family, or the name of a registered one.
        config: settings; those of `config_for(family)` by default.
        out: run folder to be made; None keeps everything in memory.
        policy: networks of one's own.
        meta: a meta-policy of one's own.
        policies, learners: further ones by name, for ``config.learner`` and ``config.baselines``.
        listener: hears about progress, instead of what shows it.
        log: names of `runs.watching.LOGS` ("tensorboard", "wandb"), which write what is measured of every
            update into a folder of that name in ``out``.
        progress: show it, on standard error: a bar in a terminal or notebook, elsewhere a line now and then.
        overwrite: replace an earlier run in ``out``.

    Raises:
        ConfigError: settings or a folder that cannot work, or a log whose library is missing, before any long
            work.
        DataError, SolverError: what a stage could not use; earlier stages stay on disk.
    """
    with hearing(listener, log, None if out is None else Path(out), progress) as hears:
        this = begin(
            make_family(family) if isinstance(family, str) else family, config,
            out=out, policy=policy, meta=meta, policies=policies, learners=learners, listener=hears,
            overwrite=overwrite,
        )  # fmt: skip
        this.finish()
        this.listener = listener or Listener()
    return this


def begin(
    family: TaskFamily,
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    policy: Policy | None = None,
    meta: Agent | None = None,
    policies: Mapping[str, Policy] | None = None,
    learners: Mapping[str, Learner] | None = None,
    listener: Listener | None = None,
    overwrite: bool = False,
) -> Run:
    """A new run, of which nothing is computed yet, with its folder if there is ``out`` (see `run`), which is
    claimed until the run is finished."""
    make_room()
    if config is None or config.keep_programs:
        keep_programs()
    config = config_for(family) if config is None else config
    this = Run(
        family, config, policy=policy, meta=meta, policies=policies, learners=learners, listener=listener
    )
    own = identity(family, policy, policies, learners)
    check_equal("settings or versions", lambda: described((config, family.settings, own, versions())))
    if out is not None:
        own_parts = any(part is not None for part in (policy, meta, policies, learners))
        record = {
            "format": CONFIG_FORMAT, "command": None if own_parts else command(family, config),
            "family": family.name, "family_settings": family.settings, "config": config,
            "identity": own, "environment": environment(),
            "own_policy": policy is not None, "own_meta": meta is not None,
        }  # fmt: skip
        this.store = store = RunStore(out)
        try:
            in_first(lambda: store.begin(record, overwrite=overwrite))
            if meta is not None:
                store.save("given_meta", meta)
        except BaseException:  # whose traceback holds the folder
            store.release()
            raise
    return this
