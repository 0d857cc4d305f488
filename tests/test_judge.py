"""The numbers of the comparison, from episodes and learning curves that are made by hand."""

import dataclasses

import numpy as np
import pytest
from msgspec import UNSET
from toys import Reinforce

from envs.points import points
from pgx_jax import Config
from pgx_jax.compare import groups, judging, summaries, unseen
from pgx_jax.compare.budget import make_budget
from pgx_jax.compare.judging import Played
from pgx_jax.compare.methods import Method
from pgx_jax.compare.pool import EMPTY, Pool, Row
from pgx_jax.compare.results import OURS, Interval
from pgx_jax.learn import Evaluation, make_policy
from pgx_jax.learn.updating import Earned


def partition(*labels: int, steps: int = 100) -> Method:
    """A partition whose policies train for ``steps`` a task."""
    labels = np.array(labels)
    members = labels[None] == np.arange(labels.max() + 1)[:, None]
    return Method(labels, tuple(Row(tuple(m), int(steps * sum(m)), False) for m in members.tolist()), 0)


ONE, PAIRS, CROSSED = partition(0, 0, 0, 0), partition(0, 0, 1, 1), partition(0, 1, 0, 1)


@pytest.fixture
def played() -> Played:
    """50 episodes a task with much noise in common; pairs earn 3 more than one group, crossed ones 1."""
    rng = np.random.default_rng(0)
    common, values = 100 * rng.normal(size=(4, 50)), {}
    for gain, m in ((0.0, ONE), (3.0, PAIRS), (1.0, CROSSED)):
        for task, g in enumerate(m.labels):
            values[m.rows[g], task] = common[task] + gain + rng.normal(size=50)
    return Played(values)


def test_intervals_over_draws_and_over_episodes():
    rng = np.random.default_rng(0)
    episodes = rng.normal(size=(3, 50)) + [[0.0], [5.0], [9.0]]
    entry = summaries.stratified(episodes)
    half = 1.96 * np.sqrt((episodes.var(1, ddof=1) / 50).sum()) / 3
    assert entry.ci95 == pytest.approx((entry.mean - half, entry.mean + half))
    assert summaries.stratified(episodes[:, :1]).ci95 is None
    draws = summaries.over_draws([1.0, 2.0, 6.0])
    assert draws.mean == 3.0 and draws.ci95 == pytest.approx((3 - 6.5724, 3 + 6.5724), abs=1e-3)


def test_differences_are_paired_so_that_common_noise_cancels(played):
    found = judging.difference(PAIRS, [ONE], played)
    values = played.of(PAIRS) - played.of(ONE)
    assert found == summaries.stratified(values) and found.mean == pytest.approx(3, abs=0.5)
    low, high = found.ci95
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(2 / 200), rel=0.2)
    low, high = summaries.stratified(played.of(PAIRS)).ci95
    assert high - low > 20  # the noise that both have in common
    assert judging.difference(PAIRS, [PAIRS], played) == Interval(0.0, (0.0, 0.0))


def test_the_difference_to_several_draws_is_over_draws(played):
    found = judging.difference(PAIRS, [ONE, CROSSED], played)
    each = [judging.difference(PAIRS, [m], played).mean for m in (ONE, CROSSED)]
    assert found == summaries.over_draws(each) and found.ci95[0] < min(each)
    assert judging.difference(PAIRS, [ONE, ONE], played) == judging.difference(PAIRS, [ONE], played)


def test_success_at_the_end_is_told_beside_success_in_any_step():
    family = dataclasses.replace(points(n_tasks=2, n_groups=2), metric="success")
    one, two = Row((True, False), 8, False), Row((False, True), 8, False)
    ends = {(one, 0): 0.25, (two, 1): 0.5}
    values = {pair: np.array([1.0, 0.0]) for pair in ends}
    method = Method(np.array([0, 1]), (one, two), 0)
    found = judging.method_result([method], Played(values, 0, ends), family)
    assert found.per_task == [0.5, 0.5] and found.at_end == [0.25, 0.5] and found.metric == "success"
    assert judging.method_result([method], Played(values), family).at_end is UNSET


def test_a_task_where_adapting_failed_is_named():
    family, row = points(n_tasks=2, n_groups=2), Row((True, True), 8, False)
    values = {(row, 0): np.full(2, np.nan), (row, 1): np.array([1.0, 2.0])}
    method = Method(np.array([0, 0]), (row,), 0, note="told")
    found = judging.method_result([method], Played(values), family)
    assert found.note == f"told; adapting failed on {family.task_names[0]}" and found.per_task[1] == 1.5
    assert not np.isfinite([found.mean, found.per_task[0]]).any()


def test_learning_curves_are_averaged_over_tasks_and_draws():
    def pool_of(*methods):
        rows = [row for m in methods for row in m.rows]
        rise = [np.outer(np.arange(1.0, 9.0), np.arange(4) + 10 * i) for i in range(len(rows))]
        return Pool(tuple(rows), (None,) * len(rows), tuple(rise))

    pool = pool_of(PAIRS, CROSSED)  # at update u, row i returns u (task + 10 i)
    first, second = (summaries.learning_curve([m], pool, points=8) for m in (PAIRS, CROSSED))
    assert first.returns == pytest.approx([u * (1.5 + 5) for u in range(1, 9)])
    assert second.returns == pytest.approx([u * (1.5 + 25) for u in range(1, 9)])
    both = summaries.learning_curve([PAIRS, CROSSED], pool, points=8, by_task=True)
    rows = {0: PAIRS.labels, 2: CROSSED.labels}
    for task, known in enumerate(both.per_task):
        at = [task + 10 * (first_row + labels[task]) for first_row, labels in rows.items()]
        assert known == pytest.approx([u * np.mean(at) for u in range(1, 9)])
    assert first.per_task is UNSET
    assert both.returns == pytest.approx([u * (1.5 + 15) for u in range(1, 9)])
    assert both.steps == first.steps == [50.0 * u for u in range(1, 9)]
    other = partition(0, 1, 0, 1, steps=50)  # draws may differ in their steps
    pool = pool_of(PAIRS, other)
    assert summaries.learning_curve([PAIRS, other], pool, points=8).steps[-1] == 300.0


def test_learning_curves_begin_with_the_meta_policy_where_all_rows_go_on_from_it():
    """Which earned twice the steps taken until then, and they the steps themselves."""
    labels, total, spent = np.array([0, 1]), 400, 200
    rows = tuple(Row(tuple(labels == i), 100, True) for i in labels)
    method = Method(labels, rows, spent)
    own = spent + 50.0 * np.arange(1, 5)
    pool = Pool(rows, (None,) * 2, tuple(np.stack([own, own], 1) for _ in rows))
    steps = 10.0 * np.arange(1, 11)  # to 100; what is collected takes another 100
    before = summaries.Before(steps, np.stack([2 * steps, np.where(steps > 50, 2 * steps, np.nan)], 1))
    found = summaries.learning_curve([method], pool, points=8, by_task=True, before=before)
    assert found.steps == pytest.approx(total * np.arange(1, 9) / 8)
    assert found.returns[-4:] == pytest.approx([250, 300, 350, 400])
    assert found.per_task[0][1] == pytest.approx(200) and 90 < found.per_task[0][0] < 110
    judged = pool._replace(at_end=tuple(x / 2 for x in pool.returns))
    older = summaries.learning_curve([method], judged, points=8, by_task=True, before=before)
    assert older == found  # success in the last step of theta*'s training is not known
    both = before._replace(at_end=before.returns / 2)
    ends = summaries.learning_curve([method], judged, points=8, by_task=True, before=both)
    assert (ends.steps, ends.returns, ends.per_task) == (found.steps, found.returns, found.per_task)
    assert ends.at_end == pytest.approx(np.array(found.returns) / 2)
    assert np.array(ends.per_task_at_end) == pytest.approx(np.array(found.per_task) / 2)
    fresh = Method(labels, tuple(row._replace(continues=False) for row in rows), spent)
    pool = pool._replace(rows=fresh.rows)
    without = summaries.learning_curve([fresh], pool, points=4)
    assert without.at_end is found.at_end is found.per_task_at_end is UNSET
    assert summaries.learning_curve([fresh], pool, points=4, before=before) == without
    assert without.steps == pytest.approx([250, 300, 350, 400])


def test_success_in_the_last_step_is_known_of_pools_whose_rows_all_have_it():
    rows, returns = PAIRS.rows, np.zeros((3, 4))
    plain, judged = (Pool.of(rows, (None, None), [Earned(returns, x)] * 2) for x in (None, returns + 1))
    assert plain.at_end is None and np.shape(judged.at_end) == (2, 3, 4)
    assert EMPTY.joined(plain).at_end is plain.joined(judged).at_end is None
    both = EMPTY.joined(judged).joined(judged)
    assert len(both.at_end) == len(both.rows) == 4


def test_groups_alone_pay_for_what_was_needed_before(monkeypatch):
    monkeypatch.setattr(groups, "train_pool", lambda rows, *_: sum(row.steps for row in rows))
    family, config = points(n_tasks=4, n_groups=2), Config()
    budget, policy = make_budget(config, family, config.ppo), make_policy(family)
    learner, labels = config.ppo, np.array([0, 0, 1, 1])

    def spent(**kw):
        return budget.total - groups.train_groups(policy, learner, family, config, labels, None, **kw)

    paid, slack = budget.meta + budget.collect, 2 * learner.steps_per_update  # whole updates alone
    assert paid <= spent() < paid + slack
    assert paid + 50_000 <= spent(scoring=50_000) < paid + 50_000 + slack
    assert budget.collect <= spent(own_meta=True) < budget.collect + slack


def test_what_adapting_to_unseen_tasks_takes_is_counted(monkeypatch):
    """Two groups, three unseen tasks, two trial episodes of 10 steps, and 7 steps to adapt each time."""

    def evaluate(policy, family, agents, row, task, key, *, episodes, learner, **kw):
        returns = np.tile(row[:, None] * 1.0, episodes)  # the second group is better
        adapted = np.full(len(row), learner.adaptation_steps)
        return Evaluation(returns, returns > 0, returns > 0, np.full(returns.shape, 10), adapted)

    monkeypatch.setattr(unseen.learn, "evaluate", evaluate)
    family, config = points(n_tasks=4, n_groups=2), Config(test_tasks=3, trial_episodes=2)
    pool = Pool(PAIRS.rows, ({}, {}), ())

    def tried(**settings):
        learner = Reinforce(**settings)
        return unseen.unseen_tasks(
            {OURS: PAIRS}, pool, {"base": make_policy(family)}, {"ppo": learner}, family, config
        )

    assert tried().env_steps == 2 * 3 * 2 * 10
    found = tried(adaptation_steps=7, adaptation_envs=7)
    assert found.assigned == [1, 1, 1] and found.env_steps == 2 * 3 * (2 * 10 + 7) + 3 * 7
    assert found.told == []


def test_where_adapting_fails_an_unseen_task_finds_another_policy(monkeypatch):
    """The second group would be better, but diverges on the first two tasks."""

    def evaluate(policy, family, agents, row, task, key, *, episodes, **kw):
        returns = np.tile(np.where((row == 1) & (task < 2), np.nan, row)[:, None], episodes)
        zero = np.zeros(len(row), int)
        return Evaluation(returns, returns > 0, returns > 0, np.full(returns.shape, 10), zero)

    monkeypatch.setattr(unseen.learn, "evaluate", evaluate)
    family, config = points(n_tasks=4, n_groups=2), Config(test_tasks=3, trial_episodes=2)
    known = {"base": make_policy(family)}, {"ppo": Reinforce()}, family, config
    found = unseen.unseen_tasks({OURS: PAIRS}, Pool(PAIRS.rows, ({}, {}), ()), *known)
    assert found.assigned == [0, 0, 1] and not found.failed
    one = PAIRS._replace(rows=PAIRS.rows[1:])  # has nothing else
    found = unseen.unseen_tasks({OURS: PAIRS, "one": one}, Pool(PAIRS.rows, ({}, {}), ()), *known)
    assert found.methods["one"].failed == ["unseen 1", "unseen 2"] and np.isnan(found.methods["one"].mean)


def test_an_unseen_task_finds_what_a_policy_is_told_and_every_method_its_own(monkeypatch):
    """Told to be on task 2, a policy earns most; one that is told nothing earns 1."""
    calls = []

    def evaluate(policy, family, agents, row, task, key, *, episodes, context, **kw):
        calls.append((policy.conditioned_actor, len(row)))
        told = np.full(len(row), 1.0) if context is None else np.argmax(context, 1) % 3
        returns = np.tile(told[:, None] + task[:, None] % 2, episodes)
        return Evaluation(
            returns, returns > 0, returns > 0, np.full(returns.shape, 10), np.zeros(len(row), int)
        )

    monkeypatch.setattr(unseen.learn, "evaluate", evaluate)
    family, config = points(n_tasks=4, n_groups=2), Config(test_tasks=3, trial_episodes=2)
    pairs = PAIRS._replace(rows=tuple(row._replace(policy="told") for row in PAIRS.rows))
    one = Method(np.zeros(4, int), (Row((True,) * 4, 8, False),), 0)
    rows = (*pairs.rows, *one.rows)
    policies = {"base": make_policy(family), "told": make_policy(family, conditioned_actor=True)}
    found = unseen.unseen_tasks(
        {OURS: pairs, "one": one, "same": pairs}, Pool(rows, ({}, {}, {}), ()), policies,
        {"ppo": Reinforce()}, family, config,
    )  # fmt: skip
    assert found.told == [family.task_names[2]] * 3 and found.assigned == [1] * 3
    assert found.mean == pytest.approx(2 + 1 / 3) and found.methods["one"].mean == pytest.approx(1 + 1 / 3)
    assert found.methods["same"] == unseen.UnseenMethod(
        mean=found.mean, ci95=found.ci95, env_steps=found.env_steps
    )
    assert found.env_steps == 4 * 3 * 2 * 10 and found.methods["one"].env_steps == 3 * 2 * 10
    assert calls == [(True, 12), (False, 3), (True, 3), (False, 3)]  # what two methods have is tried once
