"""What a run would train, and how long, beside what it trains."""

import re
from pathlib import Path

import numpy as np
import pytest
from small import small
from test_cli import call

from pgx_jax import ConfigError, config_for, learn, plan, run
from pgx_jax.cli.run import RunCommand
from pgx_jax.config import PRESETS, check
from pgx_jax.learn import Metrics


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
    alone = plan(family, config)
    assert [3 * stage.steps for stage in alone.stages] == [stage.steps for stage in found.stages]
    assert by_stage(alone)["meta"].rows[0].seconds == 0.25 * meta.updates[0]


def test_updates_are_timed(small_settings):
    """One row of the small run, whose program there is."""
    family, config = small(small_settings)
    policy = config.policy.make(family)
    first, each = learn.time_update(policy, config.ppo, family, 1)
    assert first > 0 and each > 0


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
