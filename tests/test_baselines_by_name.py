"""Any network with any learner is a baseline by its name, and any score estimates, on both engines; nothing
else is touched."""

import dataclasses
import json

import numpy as np
import pytest
import toys_network  # noqa: F401  (adds its network to the table)
from hosts import host_points
from small import small
from toys import Reinforce
from toys_score import leaning

import pgx_jax
from pgx_jax import PPO, Config, ConfigError, Run, make_family
from pgx_jax.learn import PolicyConfig
from pgx_jax.runs.saved import from_dict
from pgx_jax.runs.serial import dumps


@pytest.mark.parametrize("engine", ["device", "host"])
def test_any_network_and_any_learner_by_name(small_settings, engine):
    settings, config = small_settings
    family = (make_family if engine == "device" else lambda _, **kw: host_points(**kw))("points", **settings)
    config = dataclasses.replace(
        config, steps_per_task=1800, similarities=("dot",), random_draws=1, test_tasks=0, episodes=4,
        baselines=("linear/reinforce", "told/reinforce", "linear/ppo"),
        estimate=dataclasses.replace(config.estimate, score="toy"),
    )  # fmt: skip
    run = pgx_jax.run(family, config)
    found, total = run.results.methods, family.n * config.steps_per_task
    for name in ("linear_reinforce", "told_reinforce", "linear_ppo"):
        entry = found[f"multitask_{name}"]
        assert entry.label == "One policy for all, {} by {}".format(*name.split("_"))
        assert (
            entry.equal_steps and 0.9 * total < entry.env_steps <= total and entry.difference.mean is not None
        )
    by_hand = leaning(run.features, run.transitions, run.scored.surrogates).values
    np.testing.assert_array_equal(run.scored.scores.folds[0], by_hand)
    agents = dict(zip(run.comparisons.rows, run.comparisons.agents, strict=True))
    kinds = {(row.policy, row.learner): agent.actor["params"] for row, agent in agents.items()}
    assert "spread" in kinds["linear", "reinforce"] and "spread" in kinds["linear", "ppo"]
    assert "log_std" in kinds["told", "reinforce"] and "log_std" in kinds["base", "ppo"]


def test_a_whole_run_with_a_network_and_a_learner_of_ones_own(small_settings):
    family, config = small(small_settings, k=2, steps_per_task=2400, learner="reinforce")
    config = dataclasses.replace(config, policy=PolicyConfig(network="linear"))
    run = pgx_jax.run(family, config)
    assert {(row.policy, row.learner) for row in run.policies.rows} == {("base", "reinforce")}
    assert all("spread" in agent.actor["params"] for agent in run.policies.agents)
    assert run.results.methods["policygradex"].env_steps <= 6 * 2400


def test_settings_of_any_learner(small_settings):
    options = ("learning_rate=0.1", "num_steps=20")
    changes = {"learner": "reinforce", "learner_options": options, "ppo": PPO(num_envs=2)}  # PPO is not used
    run = Run(*small(small_settings, **changes))
    assert run.learner == run.learners["reinforce"] == Reinforce(learning_rate=0.1, num_steps=20)
    assert from_dict(Config, json.loads(dumps(run.config))) == run.config
    changes |= {"learner": "mine", "learner_options": ("gamma=0.5",)}
    run = Run(*small(small_settings, **changes), learners={"mine": Reinforce(learning_rate=0.2)})
    assert run.learner == Reinforce(learning_rate=0.2, gamma=0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"learner": "reinforce", "ppo": PPO(num_envs=2), "baselines": ("told/ppo",)},
            "ppo.num_envs = 2 environments for 6 tasks",
        ),
        ({"learner_options": ("clip=0.1",)}, "PPO has settings of its own; give ppo.clip instead"),
        (
            {"learner": "reinforce", "learner_options": ("clip=0.1",)},
            "'reinforce' has no setting 'clip'; its settings are .*learning_rate, ",
        ),
        (
            {"learner": "reinforce", "learner_options": ("gamma=most",)},
            "reinforce.gamma = 'most' must be a number",
        ),
        ({"learner": "reinforce", "learner_options": ("gamma",)}, "'gamma' is not of the form KEY=VALUE"),
        ({"learner": "reinforce", "learner_options": ("gamma=2",)}, "reinforce.gamma = 2 must be between"),
        ({"baselines": ("told",)}, "'told' is not of the form POLICY/LEARNER"),
        ({"baselines": ("tolt/ppo",)}, "the policy of 'tolt/ppo' = 'tolt'; choose one of .*'told'"),
        ({"baselines": ("told/pro",)}, "the learner of 'told/pro' = 'pro'; choose one of .*'ppo'"),
        ({"learner": "pro"}, "learner = 'pro'; choose one of"),
        (
            {"learners": {"ppo": PPO(), "mine": PPO(num_envs=2)}, "baselines": ("base/mine",)},
            "mine.num_envs = 2",
        ),
    ],
)
def test_names_that_there_are_not(small_settings, change, words):
    change = dict(change)
    learners = change.pop("learners", None)
    with pytest.raises(ConfigError, match=words):
        Run(*small(small_settings, **change), learners=learners)
