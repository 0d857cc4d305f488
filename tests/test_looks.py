"""The tasks are looked at again: the meta-policy where no split pays, and the groups that were split off."""

import dataclasses
import importlib
from functools import partial

import jax
import numpy as np
import pytest
from msgspec import structs
from small import STAGES, Ears, plain, small

import pgx_jax
from pgx_jax import Run, load, pipeline, resume
from pgx_jax.compare import joining
from pgx_jax.compare.budget import make_budget
from pgx_jax.compare.looks import look_again
from pgx_jax.compare.pool import EMPTY
from pgx_jax.config import override
from pgx_jax.errors import NoSignalError
from pgx_jax.grouping import Nested
from pgx_jax.report.figures import looks as draw
from pgx_jax.runs.store import RunStore
from pgx_jax.types import Grouping

tree = importlib.import_module("pgx_jax.report.figures.tree")
AGAIN = ["meta-2", "transitions-2", "features-2", "scores-2", "affinity-2", "grouping-2"]


@pytest.mark.parametrize(
    ("changes", "times"),
    [
        ({}, (0.2, 0.4)),
        ({"looks": 1}, (0.2,)),
        ({"looks": 9}, (0.2, 0.4)),  # at .8 too little would be left
        ({"looks": 9, "meta_fraction": 0.05}, (0.05, 0.1, 0.2, 0.4)),
        ({"meta_fraction": 0.8}, (0.8,)),
        ({"k": 2}, (0.2,)),
        ({"grouping.trace_penalty": 1.0}, (0.2,)),
        ({"estimate.score": "rollouts"}, (0.2,)),
    ],
)
def test_looks_come_at_growing_times(small_settings, changes, times):
    config = override(small_settings[1], changes)
    assert pipeline.look_times(config) == pytest.approx(times)
    n = 6
    collected = pipeline.collects(config, small(small_settings)[0], False).steps * n * len(times)
    assert collected <= config.collect_fraction * config.steps_per_task * n


def test_whole_episodes_are_collected_in_fewer_environments(small_settings):
    """At most .3 of all steps, 300 a task: six episodes of 50 steps instead of eight, or eight cut short."""
    family, config = small(small_settings, steps_per_task=1_000, collect_fraction=0.3, looks=1)
    e = pgx_jax.EstimateConfig(steps=400, num_envs=8)
    for whole, wanted in ((False, (296, 8)), (True, (300, 6))):
        changed = dataclasses.replace(config, estimate=dataclasses.replace(e, whole_episodes=whole))
        assert pipeline.collects(changed, family, False)[1:] == wanted


def test_a_look_that_leaves_too_little_is_left_out(small_settings):
    family, config = small(small_settings, meta_fraction=0.3, collect_fraction=0.3)
    assert len(make_budget(config, family, config.ppo).ends) == 2
    e = pgx_jax.EstimateConfig(steps=64, num_envs=8)
    tight = dataclasses.replace(config, steps_per_task=280, estimate=e)
    budget = make_budget(tight, family, config.ppo)
    assert len(budget.times) == len(budget.ends) == 1 and budget.collect == budget.collect_once
    given = make_budget(config, family, config.ppo, own_meta=True)
    assert given.ends == (0,) and len(given.times) == 2  # a meta-policy that is given is asked once
    coarse = dataclasses.replace(config, ppo=config.ppo.replace(num_steps=450))
    assert len(make_budget(coarse, family, coarse.ppo).ends) == 1  # no update between the looks


@pytest.fixture
def once_undecided(monkeypatch):
    """No split is found when the meta-policy is asked for the first time, and the planted one from then on.

    (Which of them a policy of so few steps shows goes by the last bits of its training.)
    """
    asked, choose, planted = [], pipeline.choose_groups, np.array([0, 1, 1, 0, 1, 0])

    def chosen(*args, **kw):
        asked.append(kw.get("looks"))
        labels = np.zeros(6, int) if len(asked) == 1 else planted
        return choose(*args, **kw)._replace(labels=labels)

    monkeypatch.setattr(pipeline, "choose_groups", chosen)
    return asked


def test_the_meta_policy_trains_on_until_a_split_pays(small_settings, once_undecided, tmp_path):
    family, config = small(small_settings)
    ears = Ears()
    run = pgx_jax.run(family, config, out=tmp_path / "run", listener=ears)
    stages = [stage for what, stage in ears.events if what == "finish"]
    assert stages == [*STAGES[:6], *AGAIN, *STAGES[6:], "evaluation"]
    assert once_undecided[:2] == [2, 2]  # looks that share a level

    assert run.look == 2 and run.grouping.k == run.results.k == 2
    first = run.at_look(1, "grouping")
    assert first.k == 1 and [len(look.groups) for look in run.results.looks] == [1, 2]
    assert not np.array_equal(run.transitions.obs, run.at_look(1, "transitions").obs)
    assert run.budget.meta == run.spends.ends[1] == pytest.approx(0.4 * run.budget.total, rel=0.02)
    assert run.budget.collect == 2 * 6 * run.transitions.action.shape[1]
    assert run.ours().spent == run.budget.meta + run.budget.collect  # nothing is left to be looked at
    assert run.results.methods["policygradex"].env_steps <= run.budget.total
    assert [look.env_steps for look in run.results.looks][-1] == run.ours().spent

    again = load(tmp_path / "run")
    assert again.look == 2
    for name in ("meta", "features"):
        for x, y in zip(*(jax.tree.leaves(getattr(r, name)) for r in (run, again)), strict=True):
            np.testing.assert_array_equal(x, y)
    store, before = RunStore.open(tmp_path / "run"), plain(tmp_path / "run")
    for stage in ("features-2", "scores-2", "affinity-2", "grouping-2", "policies"):
        store.remove(stage)
    (tmp_path / "run" / "results.json").unlink()
    assert load(tmp_path / "run").look == 1  # the last whole one
    ears = Ears()
    resume(tmp_path / "run", listener=ears)
    assert [s for what, s in ears.events if what == "finish"] == [*AGAIN[2:], "policies", "evaluation"]
    assert plain(tmp_path / "run") == before


def test_a_later_look_without_a_signal_leaves_the_last_word_to_the_earlier_one(
    small_settings, once_undecided, monkeypatch, tmp_path
):
    family, config = small(small_settings)
    collect = pipeline.collect

    def silent(policy, learner, family, config, agent, look=1):
        if look > 1:
            raise NoSignalError("task 'a' gave no reward but 0")
        return collect(policy, learner, family, config, agent, look)

    monkeypatch.setattr(pipeline, "collect", silent)
    run = pgx_jax.run(family, config, out=tmp_path / "run")
    assert run.look == 1 and run.results.k == 1 and len(run.results.looks) == 1
    assert run.budget.meta == run.spends.ends[1] and run.budget.collect == 2 * run.spends.collect_once
    assert run.ours().spent == run.budget.meta + run.budget.collect  # the second look is paid for
    assert run.results.methods["policygradex"].env_steps <= run.budget.total
    again = load(tmp_path / "run")
    assert again.ours().rows == run.ours().rows and again.agent_for(family.task_names[0])


def test_later_training_goes_on_from_the_last_look(small_settings, once_undecided):
    """Without learning the policy stays what it was when it was first asked."""
    family, config = small(small_settings)
    still = dataclasses.replace(config, ppo=config.ppo.replace(learning_rate=1e-30))
    run = Run(family, still).compute("meta")
    run.records["grouping"] = Grouping(np.zeros(6, int))
    run.look = 2
    again = run._compute("meta-2") or run.record("meta")
    first = run.at_look(1, "meta")
    for x, y in zip(*(jax.tree.leaves(trained.agents.actor) for trained in (again, first)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-20)
    assert int(again.steps[0]) == run.spends.ends[1] - run.spends.ends[0]
    assert (again.agents.observation.count > first.agents.observation.count).all()


def test_groups_are_looked_at_again(small_run, small_settings, monkeypatch):
    """Each with its own policy on its own tasks; parts go on from the policy of the group."""
    family, config = small(small_settings, steps_per_task=10_800)
    still = dataclasses.replace(config, ppo=config.ppo.replace(learning_rate=1e-30))
    asked = []

    def split(log_prob, params, transitions, config, *, looks, names):
        asked.append((list(names), looks, params))
        labels = np.arange(len(names)) % 2 if "task0" in names[0] else np.zeros(len(names), int)
        return Grouping(labels, {})

    monkeypatch.setattr(pipeline, "split_group", split)
    labels = np.array([0, 0, 0, 1, 1, 2])
    budget, meta = make_budget(still, family, still.ppo), small_run.meta
    looked = look_again(small_run.policy, still.ppo, family, still, budget, labels, meta)
    names = np.array(family.task_names)
    assert [(own, count) for own, count, _ in asked] == [(list(names[:3]), 4), (list(names[3:5]), 4)]
    for _, _, params in asked:  # nothing was learnt: groups are asked as they began, exploring afresh
        assert params["params"].keys() == meta.actor["params"].keys()
        for name, layer in params["params"].items():
            if name != "log_std":
                close = partial(np.testing.assert_allclose, atol=1e-20)
                jax.tree.map(close, layer, meta.actor["params"][name])
    assert looked.labels.tolist() == [0, 1, 0, 2, 2, 3] and looked.origin == (0, 0, 1, 2)
    assert [found.k for found in looked.found] == [2, 1]
    assert looked.found[0].labels.tolist() == [0, 1, 0, -1, -1, -1]
    trained = sum(row.steps for row in looked.pool.rows)
    assert looked.spent == trained + sum(found.collected for found in looked.found)
    before = budget.meta + budget.collect + trained
    assert before <= 0.4 * budget.total < before + 3 * config.ppo.steps_per_update
    assert looked.found[-1].steps == looked.spent
    assert set(looked.ways) <= set(looked.starts()) and looked.ways[0] == looked.ways[1] == "of tasks 0 1 2"
    assert [row.entropy for row in looked.pool.rows] == [0.0, 0.0, None]  # a single task is not asked


@pytest.mark.parametrize("joins", [True, False])
def test_groups_become_one_again(small_run, small_settings, monkeypatch, joins):
    """The larger one's policy is asked, and goes on with the tasks of both; its steps are paid for."""
    family, config = small(small_settings, steps_per_task=10_800)
    monkeypatch.setattr(
        pipeline, "split_group",
        lambda *args, names, **kw: Grouping(np.minimum(np.arange(len(names)), 1) * (len(names) == 3), {}),
    )  # fmt: skip
    asked = []

    def join(log_prob, params, transitions, labels, config, *, looks, names):
        asked.append((params, labels.tolist(), looks, list(names)))
        return Nested(labels[None], -1.0, 0.5, 0.0, 0.0, 1.0, 0.1), joins

    monkeypatch.setattr(pipeline, "join_groups", join)
    monkeypatch.setattr(joining, "worth_asking", lambda held_out, labels, origin: [(2, 0)])
    labels = np.array([0, 0, 0, 1, 1, 2])
    known = small_run.policy, config.ppo, family, config
    budget = make_budget(config, family, config.ppo)
    looked = look_again(*known, budget, labels, small_run.meta, small_run.held_out)
    (_, sides, looks, names), *others = asked
    assert not others and sides == [1, 0, 0] and looks == 2
    assert names == [family.task_names[i] for i in (0, 3, 4)]
    found = looked.found[-1]
    assert found.guest.tolist() == [True] + [False] * 5 and found.k == 2 - joins
    assert found.collected > 0 and found.steps == looked.spent
    assert looked.labels.tolist() == ([0, 1, 1, 0, 0, 2] if joins else [0, 1, 1, 2, 2, 3])
    assert looked.origin == ((1, 0, 2) if joins else (0, 0, 1, 2))


def test_a_group_without_a_signal_stays_together(small_run, small_settings, monkeypatch):
    family, config = small(small_settings)

    def silent(*args, **kw):
        raise NoSignalError("nothing tells good actions from bad ones")

    monkeypatch.setattr(pipeline, "split_group", silent)
    labels = np.array([0, 0, 0, 1, 1, 1])
    known = small_run.policy, config.ppo, family, config
    heard = []
    looked = look_again(*known, small_run.spends.at(1), labels, small_run.meta, metrics=heard.append)
    assert looked.k == 2 and len(looked.found) == 2
    first = ", ".join(family.task_names[:3])
    assert len({each.name for each in heard}) == 2 and f"{first} (look 2)" in {each.name for each in heard}
    assert all(np.isnan(found.gain).all() for found in looked.found)


def test_further_looks_keep_to_the_largest_number_of_groups(small_run, small_settings, monkeypatch):
    family, config = small(small_settings, steps_per_task=10_800)
    few = dataclasses.replace(config, grouping=dataclasses.replace(config.grouping, max_groups=3))
    asked = []

    def split(log_prob, params, transitions, config, *, looks, names):
        asked.append(config.grouping.max_groups)
        return Grouping(np.minimum(np.arange(len(names)), config.grouping.max_groups - 1), {})

    monkeypatch.setattr(pipeline, "split_group", split)
    budget = make_budget(few, family, few.ppo)
    labels = np.array([0, 0, 0, 1, 1, 1])
    looked = look_again(small_run.policy, few.ppo, family, few, budget, labels, small_run.meta)
    assert asked == [2] and looked.k == 3 and len(looked.found) == 1


def test_nothing_is_looked_at_where_nothing_can_be_split(small_run, small_settings):
    family, config = small(small_settings)
    known = small_run.policy, config.ppo, family
    lone = look_again(*known, config, small_run.spends.at(1), np.arange(6), small_run.meta)
    late = look_again(*known, config, small_run.spends.at(2), np.arange(6) % 2, small_run.meta)
    fresh = dataclasses.replace(config, continue_meta=False)
    scratch = look_again(*known, fresh, small_run.spends.at(1), np.arange(6) % 2, small_run.meta)
    for looked in (lone, late, scratch):
        assert looked.pool == EMPTY and not looked.found and looked.spent == 0
        assert looked.ways == ("",) * looked.k and looked.starts() == {}


def test_what_every_look_found_is_told(small_run):
    results = small_run.results
    first, *groups = results.looks
    assert first.tasks == results.task_names and first.groups == results.groups and first.look == 1
    assert first.gain == results.gain.predicted
    assert [look.tasks for look in groups] == results.groups and all(look.look == 2 for look in groups)
    assert all(look.gain.lo < look.gain.mean < look.gain.hi for look in results.looks)
    assert groups[-1].env_steps == small_run.ours().spent
    figure = draw(results)
    (axes,) = figure.axes
    assert len(axes.lines) == 3 and len(axes.patches) >= 3
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        n for group in results.groups for n in group
    ]


def test_partitions_between_looks(small_run):
    results = small_run.results
    one, (left, right) = results.task_names, results.groups
    look = results.looks[1]
    split = structs.replace(look, groups=[left[:1], left[1:]])
    changed = structs.replace(results, looks=[results.looks[0], split], groups=[left[:1], left[1:], right])
    times, partitions = tree._segments(changed)
    assert times == [0, results.looks[0].env_steps, split.env_steps]
    assert partitions == [[one], [left, right], [left[:1], left[1:], right]]
    assert tree.ordered_tasks(partitions) == [*left, *right]
