"""Any network with any learner is a baseline by its name, and any score estimates, on both engines; nothing
else is touched."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import toys_network  # noqa: F401  (adds its network to the table)
from flax import struct
from hosts import host_points
from small import small
from toys import Reinforce
from toys_score import leaning

import pgx_jax
from pgx_jax import PPO, Config, ConfigError, Run, make_family
from pgx_jax.compare.results import OURS, SIMILAR
from pgx_jax.config import MAY_BE_LEFT_OUT
from pgx_jax.learn import RL2, Learner, PolicyConfig
from pgx_jax.runs.saved import from_dict
from pgx_jax.runs.serial import dumps

KINDS = {
    "": ("multitask", "One policy for all"),
    "each": ("single_task", "One policy per task"),
    "policygradex": ("policygradex", "Our groups"),
    "true_groups": ("true_groups", "True groups"),
}


WORDS = {
    "told": "told the task", "gru": "network gru", "linear": "network linear", "reinforce": "Reinforce",
    "mine": "RL2 ('mine')",
}  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "names"),
    [
        (
            "device",
            (
                "told/reinforce/each",
                "gru/mine",
                "linear/reinforce/policygradex",
                "linear/reinforce/true_groups",
            ),
        ),
        ("host", ("linear/reinforce",)),
    ],
)
def test_any_network_and_any_learner_by_name(small_settings, engine, names):
    settings, config = small_settings
    family = (make_family if engine == "device" else lambda _, **kw: host_points(**kw))("points", **settings)
    config = dataclasses.replace(
        config, steps_per_task=1800, similarities=("dot",), random_draws=1, test_tasks=0, episodes=4,
        baselines=names, leave_out=("random", "em", "em_true_k"),
        estimate=dataclasses.replace(config.estimate, score="toy"),
    )  # fmt: skip
    run = pgx_jax.run(family, config, learners={"mine": RL2(num_steps=20, adaptation_steps=20)})
    found, total = run.results.methods, family.n * config.steps_per_task
    for name in names:
        policy, learner, *of = name.split("/")
        kind, text = KINDS["".join(of)]
        entry = found[f"{kind}_{policy}_{learner}"]
        assert entry.label == f"{text}, {WORDS[policy]}, trained by {WORDS[learner]}"
        assert entry.groups == found[kind].groups
        assert (
            entry.equal_steps and 0.9 * total < entry.env_steps <= total and entry.difference.mean is not None
        )
    assert not set(found) & set(config.leave_out)
    others = {name for name, entry in found.items() if not entry.label and not name.startswith(SIMILAR)}
    assert others - {OURS} <= set(MAY_BE_LEFT_OUT)
    by_hand = leaning(run.features, run.transitions, run.scored.surrogates).values
    np.testing.assert_array_equal(run.scored.scores.folds[0], by_hand)
    agents = dict(zip(run.comparisons.rows, run.comparisons.agents, strict=True))
    kinds = {(row.policy, row.learner): agent.actor["params"] for row, agent in agents.items()}
    assert set(kinds) >= {("base", "ppo"), *(tuple(name.split("/")[:2]) for name in names)}
    for (policy, _), params in kinds.items():
        assert ("spread" if policy == "linear" else "log_std") in params


def test_a_whole_run_with_a_named_network_and_a_learner_of_ones_own(small_settings):
    family, config = small(small_settings, k=2, steps_per_task=2400, learner="reinforce")
    config = dataclasses.replace(config, policy=PolicyConfig(network="multi_head", hidden=(8, 8)))
    run = pgx_jax.run(family, config)
    assert {(row.policy, row.learner) for row in run.policies.rows} == {("base", "reinforce")}
    assert all("body" in agent.actor["params"] for agent in run.policies.agents)
    assert run.group_policy.conditioned_actor
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


class Bare(Learner):
    """As short as can be, but for the decorator."""

    gamma = 0.9
    num_envs = num_steps = 8

    def learn(self, policy, row, learning, steps, key):
        return learning


class Plain:
    """No learner."""


@struct.dataclass
class Still(Bare):
    """Has no way to learn."""

    learn = Learner.learn


@struct.dataclass
class Unadapting(Bare):
    """Has no way to adapt."""

    adaptation_steps: int = struct.field(pytree_node=False, default=8)


@struct.dataclass
class Traced(Bare):
    """A shape that is a leaf."""

    num_envs: int = 8


@struct.dataclass
class Listed(Bare):
    """A list in what programs are known by."""

    sizes: list = struct.field(pytree_node=False, default_factory=list)


@struct.dataclass
class Rounds(Bare):
    """Loops over a setting that is not static, if there are any."""

    rounds: int = 2
    returns: str = struct.field(pytree_node=False, default="learning")

    def begin(self, policy, agent):
        return (jnp.zeros(2),)

    def learn(self, policy, row, learning, steps, key):
        if self.returns == "nothing":
            return None
        if self.returns == "a count":
            return learning._replace(memory=jnp.zeros(3))
        if self.returns == "a list":
            return learning._replace(memory=[*learning.memory])
        for _ in range(self.rounds):
            pass
        return learning


@struct.dataclass
class Adapting(Bare):
    """Breaks as it adapts."""

    adaptation_steps: int = struct.field(pytree_node=False, default=8)

    def adapt(self, policy, agent, context, steps, key):
        return agent.actors


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        (Reinforce, r"'mine' is a class; give one of its kind, Reinforce\(\)"),
        (Plain(), r"'mine' \(Plain\) has no num_envs, .*learn.*; derive it from pgx_jax.learn.Learner"),
        (Bare(), r"'mine' \(Bare\) must be a flax.struct.dataclass; decorate its class"),
        (Traced(), r"its num_envs cannot be traced; declare it as a static field"),
        (Listed(), r"its sizes must be hashable, as it is static; give lists as tuples"),
        (Still(), r"has no method learn of its own, but nothing trains without it"),
        (Reinforce().replace(num_envs=4), "mine.num_envs = 4 environments for 6 tasks"),
        (Rounds(), r"learn raised TracerIntegerConversionError: .*declare it as a static field"),
        (Rounds(returns="nothing"), r"learn returns another record than it must: .*actor.* is missing"),
        (Rounds(returns="a count"), r"learn returns another record .*memory\[0\] is missing, not float32"),
        (Rounds(returns="a list"), r"learn returns another record .*its arrays are held by .* another kind"),
        (Adapting(), r"adapt raised AttributeError: 'Agent' object has no attribute 'actors'"),
        (Unadapting(), r"has no method adapt of its own, but adaptation_steps is 8"),
    ],
)
def test_learners_that_cannot_work_are_told_before_any_work(small_settings, no_training, learner, words):
    for settings in ({"learner": "mine"}, {"baselines": ("told/mine",)}):
        with pytest.raises(ConfigError, match=words):
            Run(*small(small_settings, **settings), learners={"mine": learner})


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
        (
            {"baselines": ("told/ppo/all",)},
            "'told/ppo/all' is not of the form .*POLICY/LEARNER/each.*random, ",
        ),
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
