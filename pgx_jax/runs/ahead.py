"""Programs of later stages are compiled while theta* trains, which keeps one core busy.

A thread goes through what later stages will do, with their own code, in a rehearsal (`steady.rehearsal`):
programs are compiled, and none is run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import jax
import numpy as np

from pgx_jax import learn, pipeline
from pgx_jax.compare import methods
from pgx_jax.compare.pool import BASE, Row
from pgx_jax.runs.records import Records
from pgx_jax.steady import rehearsal
from pgx_jax.types import Agent


@contextmanager
def compiling_ahead(run: Records) -> Iterator[None]:
    """Compile, while the body runs and after it, what later stages need; after an error nothing more.

    Does nothing where shapes are not known beforehand (accelerators train many rows at once, the host
    engine acts outside of programs), or where there is no second core.
    """
    stopped = threading.Event()
    thread = threading.Thread(target=_rehearse, args=(run, stopped), name="rehearsal")
    if learn.rehearsable(run.family, run.config.rows_per_call):
        thread.start()
    try:
        yield
    except BaseException:
        stopped.set()
        raise


def _rehearse(run: Records, stopped: threading.Event) -> None:
    """All parts in the order in which they will be needed. An error ends a part in silence: what it is a
    rehearsal of will meet it again, and tell it."""
    for part in _parts(run):
        if stopped.is_set():
            return
        with rehearsal(), suppress(Exception):
            part()


def _parts(run: Records) -> Iterator[Callable[[], object]]:
    family, config = run.family, run.config
    key = np.asarray(config.stream("rows"))

    def fresh(policy: learn.Policy) -> Agent:
        return learn.take(learn.init_agents(policy, family, key[None]), 0)

    def collect() -> None:
        pipeline.collect(run.policy, run.learner, family, config, fresh(run.policy))

    def train(policy: learn.Policy, learner: learn.Learner) -> None:
        learn.rehearse_training(policy, learner, family, fresh(policy))

    def play(policy: learn.Policy, learner: learn.Learner, episodes: int, tasks: object = None) -> None:
        agents = jax.tree.map(lambda x: np.asarray(x)[None], fresh(policy))
        task = np.arange(family.n if tasks is None else config.test_tasks)
        told = None if tasks is None else np.zeros((len(task), family.context.shape[1]), np.float32)
        learn.evaluate(
            policy, family, agents, np.zeros_like(task), task, key,
            learner=learner, episodes=episodes, tasks=tasks, context=told,
        )  # fmt: skip

    def trial(policy: learn.Policy, learner: learn.Learner) -> None:
        tasks = family.unseen(config.stream("test_tasks"), config.test_tasks)
        play(policy, learner, config.trial_episodes, tasks)

    yield collect
    meta = Row((), 0, False, BASE, config.learner, run.budget.meta_envs)
    kinds = methods.kinds(config, run.budget, run.learners, run.policy.conditioned_actor)
    for kind in kinds:
        if kind != meta:
            yield partial(train, run.policies_by_name[kind.policy], kind.trained_by(run.learners))
    judged = [
        (run.policies_by_name[policy], run.learners[learner])
        for policy, learner in dict.fromkeys((kind.policy, kind.learner) for kind in kinds)
    ]
    for known in judged:
        yield partial(play, *known, config.episodes)
    if family.sample_test_tasks is not None and config.test_tasks:
        for known in judged:
            yield partial(trial, *known)
