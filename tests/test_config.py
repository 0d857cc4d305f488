"""The rule of comparison, and settings that are refused before any work."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Reinforce

import pgx_jax
from pgx_jax import PPO, ConfigError, EstimateConfig, Run, make_family
from pgx_jax.compare.budget import least, make_budget, share
from pgx_jax.compare.methods import BASELINES, Contest, baselines, ours
from pgx_jax.config import COMPARE, PolicyConfig, override

FAMILY = make_family("points", n_tasks=6, n_groups=2)


def test_what_may_be_compared_grows_from_nothing_to_what_is_outside_the_rule():
    assert list(BASELINES) == list(COMPARE) == ["none", "few", "fast", "full"]
    assert BASELINES["none"] == () and set(BASELINES["few"]) < set(BASELINES["fast"]) < set(BASELINES["full"])


def contest_of(config, labels, **kw):
    """What methods are made from, for our labels."""
    budget = make_budget(config, FAMILY, config.ppo)
    return Contest(config, budget, {"ppo": config.ppo}, np.asarray(labels), **kw)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    steps=st.integers(2500, 9000),
    fraction=st.floats(0.05, 0.6),
    envs=st.sampled_from([6, 12, 48]),
    min_updates=st.sampled_from([1, 40, 1000]),
)
def test_budgets_of_all_methods(labels, steps, fraction, envs, min_updates):
    config = pgx_jax.Config(
        steps_per_task=steps, meta_fraction=fraction, compare="full", min_updates=min_updates,
        ppo=PPO(num_envs=envs, num_steps=5, minibatches=1),
        estimate=pgx_jax.EstimateConfig(steps=40, num_envs=10),
    )  # fmt: skip
    contest = contest_of(config, labels, similar={"dot": np.arange(6) % 2}, true_groups=np.arange(6) % 3)
    mine, budget, most = ours(contest), contest.budget, config.ppo.steps_per_update
    found = {"policygradex": [mine]} | baselines(contest)
    for name, methods in found.items():
        assert len(methods) == (config.random_draws if name == "random" else 1)
        for m in methods:
            for row in m.rows:
                unit = row.trained_by(contest.learners).steps_per_update
                assert row.steps % unit == 0 and row.steps >= unit
                own = row.num_envs or envs
                assert own in [envs // 2**halvings for halvings in range(6)] and own >= sum(row.member)
                assert own == envs or row.steps < (2 * min_updates + 2) * unit
            covered = np.array([m.rows[g].member[task] for task, g in enumerate(m.labels)])
            assert covered.all() and sum(sum(row.member) for row in m.rows) == 6
            if m.equal_steps:
                assert m.env_steps <= budget.total < m.env_steps + (len(m.rows) + 1) * most
            else:
                assert m.env_steps > budget.total and m.label
    assert sorted(map(sum, (row.member for m in found["random"][:1] for row in m.rows))) == sorted(
        sum(row.member) for row in mine.rows
    )


def test_methods_that_need_not_be_compared_or_have_other_names():
    config = pgx_jax.Config(steps_per_task=40_960)
    labels = np.arange(6) % 2
    contest = contest_of(config, labels, true_groups=labels, scoring=30_720)
    found = baselines(contest)
    assert found["true_groups_continued"][0].rows == ours(contest).rows
    assert found["true_groups_continued"][0].rows != ours(contest._replace(scoring=0)).rows
    told = baselines(contest._replace(told=True))
    assert "multitask_conditioned" not in told and "told the task" in told["multitask"][0].note
    fresh = dataclasses.replace(config, continue_meta=False)
    assert "true_groups_continued" not in baselines(contest_of(fresh, labels, true_groups=labels))
    # a meta-policy of one's own: what it cost is not known, whatever continues it
    given_one = make_budget(fresh, FAMILY, fresh.ppo, own_meta=True)
    mine = ours(contest_of(fresh, labels)._replace(budget=given_one))
    assert not mine.equal_steps and "not counted" in mine.note


def test_what_adapting_takes_is_kept_back_before_anything_is_spent():
    learner = Reinforce(num_envs=6, num_steps=10, adaptation_steps=2400)
    config = pgx_jax.Config(
        learner="adapts",
        steps_per_task=6000,
        min_updates=1,
        estimate=EstimateConfig(score="rollouts", steps=960),
    )

    def run(**changes):
        return Run(FAMILY, dataclasses.replace(config, **changes), learners={"adapts": learner})

    e = dataclasses.replace(config.estimate, rollout_episodes=1)
    budget = run(estimate=e).budget  # 60 pairs of one episode of 60 steps
    worst, needed = 60 * FAMILY.horizon, least(6, learner, config)
    assert 0 < needed <= budget.rest(worst) and needed == 6 * (
        15 + 2400
    )  # the steepest share: 6 environments of 4 tasks
    mine = ours(Contest(config, budget, {"adapts": learner}, np.arange(6), scoring=worst))
    assert mine.equal_steps and mine.env_steps <= budget.total
    with pytest.raises(ConfigError, match=r"scoring by roll-outs .* adapting to it \(2400\) takes 14490"):
        run(estimate=dataclasses.replace(e, rollout_episodes=4))


def test_a_total_without_an_update_for_every_policy_is_refused():
    learner = Reinforce(num_envs=6, num_steps=10, adaptation_steps=160)
    pairs = np.eye(3, dtype=bool).repeat(2, axis=1)
    assert share(pairs, 960 + 180, learner, 1).steps.tolist() == [60, 60, 60]
    with pytest.raises(ConfigError, match=r"1049 steps are too few .* \(30\).* \(960\), take 1050; raise"):
        share(pairs, 960 + 89, learner, 1)
    assert share(pairs, 960 + 180, learner, 1).num_envs.tolist() == [6, 6, 6]
    smaller = share(pairs, 960 + 180, learner, 2)  # half of the environments: one for each of two tasks
    assert smaller.num_envs.tolist() == [3, 3, 3] and smaller.steps.tolist() == [60, 60, 60]
    hungry = Reinforce(num_envs=6, num_steps=10, adaptation_steps=200_000)
    config = pgx_jax.Config(baselines=("base/hungry",))
    with pytest.raises(ConfigError, match="baselines: 'base/hungry': .*too few for 1 policies of 6 tasks"):
        Run(FAMILY, config, learners={"hungry": hungry})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 7}, "k = 7.*6 tasks"),
        ({"k": 0}, "k = 0"),
        ({"meta_fraction": 1.0}, "meta_fraction"),
        ({"steps_per_task": 10}, "raise steps_per_task"),
        ({"episodes": 0}, "episodes"),
        ({"meta_entropy": -0.1}, "meta_entropy = -0.1"),
        ({"ppo": PPO(num_envs=5)}, "num_envs = 5"),
        ({"ppo": PPO(num_envs=6, num_steps=1, minibatches=7)}, "minibatches"),
        ({"estimate": {"l2": 1e-6}}, "l2 = 1e-06.*at least"),
        ({"estimate": {"l2": float("nan")}}, "l2 = nan"),
        ({"estimate": {"distance": 0.0}}, "estimate.distance = 0.0"),
        ({"estimate": {"rollout_episodes": 0}}, "estimate.rollout_episodes = 0"),
        ({"estimate": {"iterations": 0}}, "estimate.iterations = 0"),
        ({"similarities": ("dot", "angle")}, "similarities = 'angle'; choose one of 'dot'"),
        ({"estimate": {"subset_size": 7}}, "7 exceeds the number of tasks, 6"),
        ({"estimate": {"subsets": 3}}, "uncovered|contains both"),
        ({"estimate": {"steps": 1001}}, "1001.*multiple"),
        ({"estimate": {"thin": 10**6}}, "estimate.thin = 1000000 leaves fewer than 4 of the"),
        ({"estimate": {"score": "rollouts", "rollout_episodes": 10**6}}, "rollout_episodes"),
        ({"estimate": {"gae_lambda": 1.5}}, "estimate.gae_lambda = 1.5"),
        ({"k": 2, "grouping": {"trace_penalty": 1.0}}, "either k"),
        ({"estimate": {"num_envs": 2, "steps": 60}}, "num_envs = 2.*fewer than three"),
        ({"ppo": PPO(learning_rate=float("nan"))}, "ppo.learning_rate = nan must be positive"),
        ({"ppo": PPO(clip=0.0)}, "ppo.clip = 0.0 must be positive"),
        ({"ppo": PPO(gamma=1.1)}, "ppo.gamma = 1.1 must be between 0 and 1"),
        ({"ppo": PPO(entropy=-0.1)}, "ppo.entropy = -0.1 must be 0 or more"),
        ({"ppo": PPO(minibatches=0)}, "ppo.minibatches = 0 must be a whole number of at least 1"),
        ({"ppo": PPO(num_steps=0)}, "ppo.num_steps = 0 must be a whole number of at least 1"),
        ({"ppo": PPO(epochs=2.5)}, "ppo.epochs = 2.5: expected `int`, got `float`"),
        ({"ppo": PPO(learning_rate="x")}, "ppo.learning_rate = 'x': expected `float`, got `str`"),
        ({"seed": None}, "seed = None: expected `int`, got `None`"),
        ({"seed": 2**63}, "seed = 9223372036854775808 must fit 64 bits"),
        ({"k": "3"}, r"k = '3': expected `int \| None`, got `str`"),
        ({"continue_meta": 1}, "continue_meta = 1: expected `bool`, got `int`"),
        ({"similarities": "dot"}, "similarities = 'dot': expected `tuple`, got `str`"),
        ({"policy": {"hidden": (8, 8.5)}}, r"policy.hidden = \(8, 8.5\): expected `int`, got `float`"),
        ({"grouping": "careful"}, "grouping must be a pgx_jax.GroupingConfig, not a str"),
        ({"estimate": None}, "estimate must be a pgx_jax.EstimateConfig, not a NoneType"),
        ({"ppo": PPO}, "ppo must be a pgx_jax.PPO, not a"),
        ({"k": 10**30}, "must fit 64 bits"),
        ({"learner": ["ppo"]}, r"learner = \['ppo'\]; choose one of"),
        ({"similarities": {"dot"}}, "has no order; give a tuple"),
        ({"estimate": {"dim": 10**9}}, "estimate.dim = 1000000000 must be at least 1, and at most"),
        ({"policy": PolicyConfig(initial_log_std=float("nan"))}, "policy.initial_log_std = nan must lie"),
        ({"policy": PolicyConfig(bonus_up_to=float("nan"))}, "policy.bonus_up_to = nan must be a number"),
        ({"policy": PolicyConfig(hidden=(8, 0))}, r"policy.hidden = \(8, 0\)"),
        ({"test_tasks": -1}, "test_tasks = -1"),
        ({"k": 3, "grouping": {"max_groups": 2}}, "k = 3 is more than grouping.max_groups = 2"),
    ],
)
def test_settings_that_cannot_work(change, message):
    config = pgx_jax.Config()
    for name, value in change.items():
        if isinstance(value, dict):
            change = change | {name: dataclasses.replace(getattr(config, name), **value)}
    with pytest.raises(ConfigError, match=message):
        Run(FAMILY, dataclasses.replace(config, **change))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pgx_jax.run(FAMILY, {"k": 3}), "config must be Config | None, not a dict: {'k': 3}"),
        (lambda: pgx_jax.run(FAMILY.env), "family must be TaskFamily | str, not a PointMass"),
        (lambda: pgx_jax.run(FAMILY, log=3), "log must be Sequence[str], not a int: 3"),
        (lambda: pgx_jax.run(FAMILY, listener=pgx_jax.Listener), "listener must be Listener | None, not"),
        (lambda: Run(FAMILY, policy="mlp"), "policy must be Policy | None, not a str: 'mlp'"),
        (lambda: Run(FAMILY, policies={"mine": 3}), "policies['mine'] must be Policy, not a int: 3"),
        (lambda: Run(FAMILY).compute(["meta"]), "there is no stage ['meta']"),
        (lambda: pgx_jax.run_seeds(FAMILY, seeds=[1, 2]), "seeds must be int, not a list: [1, 2]"),
        (lambda: pgx_jax.plan(FAMILY, seeds=0), "seeds = 0 must be at least 1"),
        (lambda: pgx_jax.plan(FAMILY, labels=[0, 1]), "labels must be a whole number from 0 on"),
        (lambda: pgx_jax.config_for("points"), "family must be TaskFamily, not a str: 'points'"),
        (lambda: pgx_jax.config_for(FAMILY, ["quick"]), "preset must be str | None, not a list: ['quick']"),
        (lambda: make_family(None), "name must be str, not a NoneType: None"),
        (lambda: pgx_jax.load(3), "path must be str | Path, not a int: 3"),
        (lambda: pgx_jax.compare_runs(["a", "b"]), "a path must be str | PathLike, not a list: ['a', 'b']"),
        (lambda: pgx_jax.adapt(None, 0), "run must be Run | str | Path, not a NoneType: None"),
        (lambda: pgx_jax.gymnasium_family("CartPole-v1", ["a"]), "kwargs must be Mapping[str, Sequence]"),
        (lambda: make_family("points", n_tasks=100_000), "one-hot contexts of 100000 tasks are 37 GiB"),
        (lambda: dataclasses.replace(FAMILY, task_names=3), "task_names must be Sequence[str], not a int: 3"),
    ],
)  # fmt: skip
def test_arguments_of_another_type(call, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        call()


def test_numbers_of_numpy_are_numbers():
    assert pgx_jax.plan(FAMILY, seeds=np.int64(2), labels=np.arange(6) % 2, timed=False).k == 2


def test_a_sampler_that_fails_is_named():
    family = dataclasses.replace(FAMILY, sample_test_tasks=lambda key, count: 1 / 0)
    with pytest.raises(ConfigError, match=r"sample_test_tasks\(key, 10\) fails \(ZeroDivisionError"):
        Run(family)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compare": "most"}, "compare = 'most'; choose one of 'none', 'few', 'fast', 'full'"),
        (
            {"estimate": EstimateConfig(score="surogate")},
            "estimate.score = 'surogate'; choose one of 'surrogate'",
        ),
    ],
)
def test_a_choice_that_there_is_not(change, message):
    with pytest.raises(ConfigError, match=message):
        Run(FAMILY, pgx_jax.Config(**change))


def test_a_family_may_ask_for_settings():
    family = dataclasses.replace(FAMILY, defaults={"steps_per_task": 200_000, "ppo.gamma": 0.9})
    config = pgx_jax.config_for(family)
    assert (config.steps_per_task, config.ppo.gamma) == (200_000, 0.9)
    assert dataclasses.replace(config, steps_per_task=30_720, ppo=PPO()) == pgx_jax.config_for(FAMILY)
    assert Run(family).config == config
    assert Run(family, pgx_jax.Config()).config == pgx_jax.Config()
    with pytest.raises(ConfigError, match="'ppo.gama', which is not a setting"):
        pgx_jax.config_for(dataclasses.replace(FAMILY, defaults={"ppo.gama": 0.9}))


def test_overrides_by_dotted_and_nested_names():
    changed = override(pgx_jax.Config(), {"k": 3, "ppo.gamma": 0.9, "estimate": {"dim": 7, "steps": 64}})
    assert (changed.k, changed.ppo.gamma, changed.estimate.dim, changed.estimate.steps) == (3, 0.9, 7, 64)
    assert override(changed, {"policy.hidden": [8, 8]}).policy.hidden == (8, 8)
    assert changed.ppo.clip == pgx_jax.Config().ppo.clip and changed.estimate.num_envs == 32
    for wrong in ({"ppo.gama": 0.9}, {"estimate": {"dims": 7}}, {"kk": 1}):
        with pytest.raises(AttributeError):
            override(changed, wrong)
