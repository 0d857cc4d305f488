"""What a run would train, and how long, beside what it trains."""

import dataclasses
import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import test_cloning
from small import small
from test_cli import call

from pgx_jax import ConfigError, Run, config_for, learn, make_family, plan, run
from pgx_jax.cli.run import RunCommand
from pgx_jax.config import PRESETS, check
from pgx_jax.learn import Metrics
from pgx_jax.learn.device import DeviceLane
from pgx_jax.report.wording import duration
from pgx_jax.runs import planning

training = importlib.import_module("pgx_jax.learn.training")
TIMED = training.TIMED


def by_stage(found):
    return {stage.stage: stage for stage in found.stages}


def test_a_run_without_further_looks_trains_exactly_that(small_settings):
    family, config = small(
        small_settings, compare="fast", steps_per_task=2700, k=2, random_draws=1, test_tasks=0
    )
    done = run(family, config, progress=False)
    stages = by_stage(plan(family, config, labels=done.labels, timed=False))
    pools = {"policies": done.policies, "comparisons": done.comparisons}
    for stage, pool in pools.items():
        assert stages[stage].policies == len(pool.rows)
        assert stages[stage].steps == sum(row.steps for row in pool.rows)
    assert stages["meta"].steps == done.results.diagnostics.meta_steps
    assert stages["transitions"].steps == done.results.diagnostics.collect_steps
    clustered = sum(row.steps for found in done.clustered.values() for row in found.pool.rows)
    assert 0 < clustered <= stages["clustering"].steps


def test_few_baselines_are_planned_and_trained_without_the_others(small_settings):
    family, config = small(
        small_settings, compare="few", steps_per_task=2700, k=2, random_draws=1, test_tasks=0,
        similarities=("dot",),
    )  # fmt: skip
    done = run(family, config, progress=False)
    assert {name.removesuffix("_our_k") for name in done.results.methods} == {
        "policygradex", "multitask", "multitask_conditioned", "single_task", "random",
        "gradient_similarity_dot",
    }  # fmt: skip
    one, ours = (done.results.methods[name].mean for name in ("multitask", "policygradex"))
    assert done.clustered == {} and done.results.gain.realised.mean == pytest.approx(
        ours - one
    )  # from scratch
    found = plan(family, config, labels=done.labels, timed=False)
    trained = {stage: by_stage(found)[stage].steps for stage in ("policies", "comparisons")}
    assert trained["policies"] == sum(row.steps for row in done.policies.rows)
    assert "clustering" not in by_stage(found) and found.most < plan(family, dataclasses.replace(
        config, compare="fast"), timed=False).most - found.total  # fmt: skip


def test_the_time_is_that_of_updates(small_settings, monkeypatch):
    """A quarter of a second an update: policies share the lanes, and none is faster than it is alone."""
    asked = []

    def time_update(policy, learner, family, width):
        asked.append((learner.num_envs, policy.conditioned_actor, width))
        return 2.0, 0.25

    monkeypatch.setattr(learn, "time_update", time_update)
    monkeypatch.setattr(learn, "lanes_of", lambda family, rows, per_call=None: (2, 1))
    family, config = small(small_settings, compare="fast", k=2, rows_per_call=1)
    found = plan(family, config, seeds=3)
    assert len(asked) == len(set(asked)) and found.compiling == 2.0 * len(asked)
    stages = by_stage(found)
    (meta,) = stages["meta"].rows
    assert len(meta.updates) == 3 and meta.seconds == 0.25 * 1.5 * meta.updates[0]
    (own,) = stages["policies"].rows
    assert len(own.updates) == 6 and own.seconds == 0.25 * max(*own.updates, sum(own.updates) / 2)
    assert found.seconds == sum(rows.seconds for stage in found.stages for rows in stage.rows)
    steps = sum(stage.steps for stage in found.stages if stage.stage != "transitions")
    assert found.evaluating == pytest.approx(found.seconds * found.evaluation / steps)
    assert f"evaluation: {duration(found.evaluating)}, were its steps as slow" in str(found)
    alone = plan(family, config)
    assert [3 * stage.steps for stage in alone.stages] == [stage.steps for stage in found.stages]
    assert by_stage(alone)["meta"].rows[0].seconds == 0.25 * meta.updates[0]


def test_what_is_said_beforehand_is_what_is_planned(small_settings):
    family, config = small(small_settings, compare="fast", k=2)
    found, ran = plan(family, config, timed=False), Run(family, config)
    planned = sum(stage.steps for stage in found.stages) + found.evaluation
    assert planning.expected_steps(ran) == planned != found.most


def test_updates_are_timed(small_settings, monkeypatch):
    """The first one, then some more, of one row of the small run, whose program there is."""
    family, config = small(small_settings)
    policy, ran, advance = config.policy.make(family), [], DeviceLane.advance

    def counted(lane, member, total, count, active):
        ran.append((lane.policy, lane.learner, lane.family, len(member), count))
        return advance(lane, member, total, count, active)

    monkeypatch.setattr(DeviceLane, "advance", counted)
    clock = iter([10.0, 17.0, 20.0, 20.0 + 2.5 * TIMED])
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert learn.time_update(policy, config.ppo, family, 1) == (7.0, 2.5)
    assert ran == [(policy, config.ppo, family, 1, count) for count in (1, TIMED)]


def test_what_is_trained_before_and_beside_the_methods(small_settings):
    """Demonstrations, and a policy for every subset of few tasks."""
    family, config = small(small_settings, compare="full", similarities=(), k=2)
    few = make_family("points", **(small_settings[0] | {"n_tasks": 4}))
    found, more = (plan(few, dataclasses.replace(config, compare=x), timed=False) for x in ("fast", "full"))
    oracle = by_stage(more)["oracle"]
    assert "oracle" not in by_stage(found) and "oracle" not in by_stage(plan(family, config, timed=False))
    assert oracle.policies == 15 and 7.5 * more.total < oracle.steps <= 8 * more.total
    run_ = Run(few, dataclasses.replace(config, compare="full"))
    assert more.most == run_.most_steps() > found.most + oracle.steps
    assert sum(stage.steps for stage in more.stages) <= more.most
    shown = by_stage(plan(test_cloning.FAMILY, test_cloning.SETTINGS, timed=False))["demonstrations"]
    assert (shown.policies, shown.steps) == (0, test_cloning.SHOWN)


def test_timing_keeps_its_programs_and_may_not_know_the_memory(small_settings, monkeypatch):
    kept = []
    monkeypatch.setattr(planning, "keep_programs", lambda: kept.append(1))
    monkeypatch.setattr(planning, "resource", None)
    monkeypatch.setattr(learn, "time_update", lambda *known: (1.0, 0.5))
    family, config = small(small_settings)
    plan(family, config, timed=False)
    assert not kept
    found = plan(family, config)
    assert kept == [1] and found.memory is None and "up to here" not in str(found)
    plan(family, dataclasses.replace(config, keep_programs=False))
    assert kept == [1]


def test_the_command_says_it_and_does_nothing(capsys, tmp_path, monkeypatch, no_training):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(learn, "time_update", lambda *known: (1.0, 0.5))
    status, out, _ = call(capsys, "run", "points", "--dry-run", "--set", "n_tasks=4", "--compare", "none")
    assert not status and not any(tmp_path.iterdir())
    for text in ("training the meta-policy", "30,720", "collecting", "memory:", "about", "2 groups"):
        assert text in out, text


def test_settings_that_cannot_work_are_refused(small_settings):
    family, config = small(small_settings, steps_per_task=100)
    with pytest.raises(ConfigError, match="steps_per_task"):
        plan(family, config, timed=False)


def test_presets(small_settings):
    family, _ = small(small_settings)
    own = config_for(family)
    for name in PRESETS:
        check(config_for(family, name), family)
    quick, thorough = (config_for(family, name) for name in ("quick", "thorough"))
    assert quick.steps_per_task == own.steps_per_task // 3 and quick.episodes < own.episodes
    assert thorough.steps_per_task == own.steps_per_task and thorough.episodes == 4 * own.episodes
    assert quick.ppo == thorough.ppo == own.ppo
    with pytest.raises(ConfigError, match="preset = 'quik'; choose one of 'quick', 'thorough'"):
        config_for(family, "quik")
    command = RunCommand.read(["points", "--preset", "quick", "--episodes", "7"])
    assert (command.config.episodes, command.config.random_draws) == (7, 1)


def test_the_page_about_watching(capsys, no_training):
    page = (Path(__file__).parents[1] / "docs/guides/watching.md").read_text()
    for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        names = {}
        exec(compile(text, "docs/guides/watching.md", "exec"), names)
        told = Metrics(0, ("a",), np.array([1]), np.ones((1, 1)), {"kl": np.array([0.5])}, "meta-policy")
        heard = names["Divergences"]()
        heard.metrics(told)
        assert heard.largest == {"meta-policy": 0.5}
    assert "meta: 1 policy" in capsys.readouterr().out
