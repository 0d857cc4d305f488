"""The first moments on unseen tasks: finding a policy, adapting it, and `pgx-jax adapt`."""

import copy
import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hosts import HostPoints
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.flatten_util import ravel_pytree
from probes import table, tabular_family
from toys import Reinforce

import pgx_jax
from pgx_jax import learn, pipeline
from pgx_jax.cli import main as cli
from pgx_jax.compare.adapting import (
    Entrant,
    Job,
    Tuning,
    adapt_all,
    adapt_and_judge,
    check_finders,
    choose,
    jobs_of,
    start_values,
    stream,
)
from pgx_jax.compare.finding import FINDERS, NONE, gains, halve, mean_gains
from pgx_jax.compare.pool import BASE
from pgx_jax.compare.unknown import Arena, Start, joined, likeliest_group, sampled, widened
from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate.projections import rows, shapes_of
from pgx_jax.learn.distributions import Categorical
from pgx_jax.learn.engine import engine_of
from pgx_jax.learn.moments import initial_moments
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import Pairs
from pgx_jax.learn.stopping import drift
from pgx_jax.runs.adapting import arena_of, entrants_of
from pgx_jax.types import FIT, SCORE, SELECT, Agent, Moments

TASKS = 6
KEY = jax.random.PRNGKey(3)
NUMBERS = st.floats(-9, 9, width=16)


@pytest.fixture(scope="module")
def arena(small_run):
    """The small run with six unseen tasks."""
    tasks = sampled(small_run.family, small_run.config.stream("test_tasks"), TASKS)
    return arena_of(small_run, tasks, [f"unseen {i}" for i in range(TASKS)])


@pytest.fixture(scope="module")
def entrants(small_run, arena):
    return entrants_of(small_run, arena, ("policygradex", "multitask", "true_groups"))


def halved_alone(values, budget):
    """The same for one task, arm by arm."""
    alive, rounds = list(range(len(values))), max(1, math.ceil(math.log2(len(values))))
    spent = 0
    for _ in range(rounds):
        spent += budget // (rounds * len(alive)) * len(alive)
        alive = sorted(alive, key=lambda arm: -values[arm])[: math.ceil(len(alive) / 2)]
    return alive[0], spent


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 7)), elements=NUMBERS), st.data())
def test_halving_finds_the_best_arm_and_spends_no_more_than_the_budget(values, data):
    tasks, arms = values.shape
    budget = data.draw(st.integers(arms * max(1, math.ceil(math.log2(arms))), 300))

    def play(arm, turn, steps):
        return values[:, arm], np.full(tasks, np.nan)

    mean, _, best, spent = halve(play, arms, tasks, budget)
    assert (spent <= budget).all()
    for task in range(tasks):
        assert (best[task], spent[task]) == halved_alone(values[task], budget)
        assert values[task, best[task]] == values[task].max()
    np.testing.assert_allclose(mean, values, atol=1e-9)


def test_halving_weighs_rounds_by_their_steps_and_refuses_too_few():
    played = []

    def play(arm, turn, steps):
        played.append((arm, turn, steps))
        value = {0: 1.0, 1: 3.0, 2: 2.0}[arm] if turn == 0 else -float(arm)
        return np.array([value]), np.array([0.5 + turn])

    mean, stderr, best, spent = halve(play, 3, 1, 25)
    assert played == [(0, 0, 4), (1, 0, 4), (2, 0, 4), (1, 1, 6), (2, 1, 6)] and spent.tolist() == [24]
    np.testing.assert_allclose(mean[0], [1.0, (4 * 3 - 6) / 10, (4 * 2 - 12) / 10])
    of_two = np.sqrt((4 * 0.5) ** 2 + (6 * 1.5) ** 2) / 10
    np.testing.assert_allclose(stderr[0], [0.5, of_two, of_two])
    assert best.tolist() == [1]
    with pytest.raises(ConfigError, match="5 steps are too few to try 3 policies; use at least 6"):
        halve(play, 3, 1, 5)


def test_halving_keeps_no_arm_that_has_left_before_one_without_a_value():
    """The second of two rounds tells nothing of either arm that is left."""

    def play(arm, turn, steps):
        return np.array([5.0 - arm if turn == 0 else np.nan]), np.array([0.0])

    mean, _, best, _ = halve(play, 4, 1, 40, rounds=2)
    assert best.tolist() == [0] and np.isnan(mean[0, :2]).all() and np.isfinite(mean[0, 2:]).all()


def test_critics_judge_a_few_steps_as_those_of_a_known_task(arena):
    """Against a loop over steps; episodes of the family end after 15, and the last one goes on."""
    agent, policy, learner = arena.meta.agent, arena.policies["base"], arena.learners["ppo"]
    key, length, known = jax.random.PRNGKey(3), 20, [4, 1]
    tried = learn.try_out(policy, learner, arena.family, agent, arena.unseen, key, length, np.array(known))
    steps = jax.tree.map(
        np.asarray,
        engine_of(arena.family).experience(policy, arena.family, agent, arena.unseen, key, length),
    )
    scale = np.sqrt(np.asarray(agent.reward.var) + 1e-8)
    for slot, (place, task) in itertools.product(range(TASKS), enumerate(known)):

        def value(obs, task=task):
            told = policy.critic_input(policy.normalise(agent, obs), arena.family.context[task])
            return float(policy.value(agent.critic, told)) * scale[task]

        of_episodes, errors, begin = [], [], 0
        for t in range(length):
            after = 0.0 if steps.terminated[t, slot] else value(steps.next_obs[t, slot])
            errors.append(steps.reward[t, slot] + learner.gamma * after - value(steps.obs[t, slot]))
            if steps.done[t, slot] or t == length - 1:
                rewards = steps.reward[begin : t + 1, slot]
                ended = learner.gamma ** len(rewards) * after
                of_episodes.append(rewards @ learner.gamma ** np.arange(len(rewards)) + ended)
                begin = t + 1
        assert tried.returns[place, slot] == pytest.approx(np.mean(of_episodes), rel=1e-4)
        assert tried.surprise[place, slot] == pytest.approx(np.mean(np.square(errors)), rel=1e-3)
        plain = [steps.reward[:15, slot].sum(), steps.reward[15:, slot].sum()]  # an episode, and a cut one
        assert tried.earned[slot] == pytest.approx(np.mean(plain), rel=1e-4)
        assert tried.earned_stderr[slot] == pytest.approx(np.std(plain, ddof=1) / 2**0.5, rel=1e-4)
    assert tried.advantage.shape == tried.action.shape[:2] == (TASKS, length)


class Logits(nn.Module):
    """An actor that says the two numbers it has learnt, whatever it sees."""

    @nn.compact
    def __call__(self, obs, context=None):
        return self.param("says", lambda key: jnp.zeros(2))


@pytest.mark.parametrize("pay", [1.0, -1.0])
@pytest.mark.parametrize(("finder", "budget"), [("rewards", 60), ("halving", 60), ("rewards", 16)])
def test_a_policy_whose_episodes_are_short_earns_less_of_constant_rewards(finder, budget, pay):
    """Every step pays the same, and the episodes of one policy end after a step. It comes first where it is
    the worse one, so that it is what a finder chooses that sees no difference."""
    cells = {"reward": {(0, None): pay}, "terminal": {(0, 1): True}}
    family = tabular_family([table(states=1, **cells)] * 3, horizon=5)
    policy = Policy(Logits(), Logits(), Categorical(2))
    moments, known = Moments(*np.ones((3, 3), np.float32)), np.ones(2, bool)
    falls, stays = (
        Start(name, Agent({"params": {"says": jnp.array(x)}}, {}, initial_moments((1,)), moments), known)
        for name, x in (("falls", [-50.0, 50.0]), ("stays", [50.0, -50.0]))
    )
    starts = (falls, stays) if pay > 0 else (stays, falls)
    config = pgx_jax.Config()
    arena = Arena(family, 2, {BASE: policy}, {"ppo": Reinforce()}, config, starts[0], None, None)
    found = FINDERS[finder].find(arena, starts, budget, jax.random.PRNGKey(0))
    assert found.choice.tolist() == [1]
    if budget == 60:  # whole episodes
        np.testing.assert_allclose(found.value[0, :2], [pay, 5 * pay] if pay > 0 else [5 * pay, pay])


def test_where_all_episodes_are_as_long_returns_order_policies_as_rewards_of_a_step_do(arena):
    """As many whole episodes of each, and one that is cut."""
    key, length = jax.random.PRNGKey(3), 40
    policy, family, agent = arena.policies["base"], arena.family, arena.meta.agent
    tried = learn.try_out(policy, arena.learners["ppo"], family, agent, arena.unseen, key, length)
    played = engine_of(family).experience(policy, family, agent, arena.unseen, key, length)
    np.testing.assert_allclose(tried.earned, np.asarray(played.reward).mean(0) * length / 3, rtol=1e-5)


def test_an_unseen_task_is_scaled_as_a_policys_own_tasks_are_on_average():
    moments = Moments(np.array([3.0, 0.0, -3.0]), np.array([1.0, 99.0, 4.0]), np.array([10.0, 50.0, 30.0]))
    member = np.array([True, False, True])
    agent = widened(Agent({}, {}, moments, moments, value=moments), member, 2)
    np.testing.assert_allclose(agent.reward.mean, [3, 0, -3, -1.5, -1.5])
    np.testing.assert_allclose(agent.reward.var, [1, 99, 4, 3.25, 3.25])
    np.testing.assert_allclose(agent.value.var, agent.reward.var)


@pytest.mark.parametrize("name", ["points", "points-hard", "cartpole-goals"])
def test_a_task_is_told_the_group_of_the_nearest_goals(name):
    family = pgx_jax.make_family(name, seed=6)
    tasks, labels = sampled(family, jax.random.PRNGKey(1), 20), np.asarray(family.true_groups)
    goals, known = (np.asarray(x.goal).reshape(len(x.goal), -1) for x in (tasks, family.tasks))
    centres = np.stack([known[labels == g].mean(0) for g in range(labels.max() + 1)])
    wanted = np.linalg.norm(goals[:, None] - centres, axis=-1).argmin(1)
    agree = (likeliest_group(family, labels, tasks) == wanted).mean()
    assert agree == 1 if name != "points-hard" else agree > 0.8  # whose groups overlap


@pytest.mark.parametrize("finder", FINDERS)
def test_finders_choose_by_what_they_found(small_run, arena, entrants, finder):
    starts = entrants[f"policygradex/{finder}"].starts
    found = FINDERS[finder].find(arena, starts, 120, jax.random.PRNGKey(0))
    assert found.value.shape == (TASKS, 3) and (found.steps <= 120).all()
    groups = found.choice != NONE
    assert (found.choice[groups] == found.value[groups, :2].argmax(1)).all()
    assert (found.value[~groups, 2] >= found.value[~groups, :2].max(1)).all() or finder == "evidence"
    tasks = sampled(small_run.family, small_run.config.stream("test_tasks"), TASKS)
    truth = likeliest_group(small_run.family, np.asarray(small_run.family.true_groups), tasks)
    right = (found.choice == truth).mean()
    if finder != "values":  # critics that have hardly learnt: nothing to hold them to
        assert right == 1 or (finder == "evidence" and right > 0.5), (found.choice, truth)


def test_gains_are_what_a_step_of_a_groups_surrogate_saves(arena, entrants):
    """Against a loop over transitions, with the dense map of the features."""
    groups = [start.member for start in entrants["policygradex/evidence"].starts]
    member, policy, agent = (
        np.stack([*groups, np.ones(arena.n, bool)]),
        arena.policies["base"],
        arena.meta.agent,
    )
    tried = learn.try_out(
        policy, arena.learners["ppo"], arena.family, agent, arena.unseen, KEY, 40, baseline="linear"
    )
    own = learn.try_out(policy, arena.learners["ppo"], arena.family, agent, arena.unseen, KEY, 40)
    assert not np.allclose(tried.advantage, own.advantage) and (tried.action == own.action).all()
    spoilt = tried.advantage.copy()
    spoilt[2, 5] = np.nan
    gain = gains(arena, member, tried._replace(advantage=spoilt))
    assert gain.shape == (TASKS, len(member), 40) and not gain[2].any()
    known, settings = arena.features, arena.config.estimate
    parts = (FIT, SCORE, SELECT)
    delta = pipeline.fit_subsets(known, arena.transitions, member, settings, parts=parts).delta
    dense = np.asarray(rows(known.key, shapes_of(agent.actor), settings.dim, projection=known.projection))
    for u, t in ((0, 0), (1, 7), (5, 39)):
        obs, action = tried.obs[u, t], tried.action[u, t]
        slope = jax.grad(lambda actor, x=obs, y=action: policy.log_prob(actor, x, y))(agent.actor)
        a, z = tried.advantage[u], ravel_pytree(slope)[0] @ dense @ np.asarray(delta).T
        a = (a[t] - a.mean()) / a.std()
        saved = abs(a) * (np.log(2) - np.log1p(np.exp(-np.sign(a) * z)))
        np.testing.assert_allclose(gain[u, :, t], saved, rtol=1e-3, atol=1e-5)


def test_the_spread_of_stretches_tells_how_sure_a_gain_is():
    gain = np.random.default_rng(0).normal(1.0, 1.0, (2, 3, 25))
    value, stderr = mean_gains(gain)
    ends = [0, 3, 6, 9, 12, *range(15, 26, 2)]
    stretches = [gain[1, 2, first:end].mean() for first, end in itertools.pairwise(ends)]
    assert value[1, 2] == pytest.approx(gain[1, 2].mean())
    assert stderr[1, 2] == pytest.approx(np.std(stretches, ddof=1) / 10**0.5)
    assert np.isnan(mean_gains(gain[..., :1])[1]).all()


def test_a_task_goes_on_from_the_meta_policy_where_every_gain_is_clearly_below_0(
    arena, entrants, monkeypatch
):
    """Most gain, though it is small; a loss that may be none; losses that are sure; nothing known of it."""
    spread = np.array([-1.0, 1.0] * 5)
    wanted = {(0.1, -3.0): 0, (-0.1, -3.0): 0, (-3.0, -2.0): NONE, (np.nan, np.nan): NONE}
    means = np.array([*wanted, (0.0, 0.0), (0.0, 0.0)])
    told = np.stack([means[:, [0, 1, 1]]] * 10, -1) + spread
    told[3] = 0.0  # as of a task with an advantage that is not finite
    monkeypatch.setattr("pgx_jax.compare.finding.gains", lambda *args: told)
    found = FINDERS["evidence"].find(arena, entrants["policygradex/evidence"].starts, 10, KEY)
    assert found.choice[:4].tolist() == [*wanted.values()]


def test_where_rounds_are_no_whole_episodes_each_policy_has_one_stretch(arena, entrants):
    """Two groups and theta*, two rounds, episodes of 15 steps."""
    starts = entrants["policygradex/rewards"].starts
    long, short = (
        FINDERS["rewards"].find(arena, starts, budget, jax.random.PRNGKey(0)) for budget in (90, 89)
    )
    assert (long.steps == 89).all() and np.isnan(long.stderr).all()  # of single episodes
    assert (short.steps == 87).all() and np.isfinite(short.value).all() and np.isfinite(short.stderr).all()
    best = np.where(short.value.argmax(1) == 2, NONE, short.value.argmax(1))
    np.testing.assert_array_equal(short.choice, best)
    none = FINDERS["rewards"].find(arena, starts[:1], 50, jax.random.PRNGKey(0))  # for half of the tasks
    assert {*none.choice.tolist()} == {0, NONE}


def test_the_critic_of_a_blind_policy_is_told_the_mean_of_what_it_knows(arena):
    member = np.isin(np.arange(arena.n), [1, 4])
    mean = arena.family.context[[1, 4]].mean(0)
    family = arena.family_of(arena.meta._replace(member=member))
    np.testing.assert_allclose(family.context[arena.n :], np.tile(mean, (TASKS, 1)), rtol=1e-6)
    np.testing.assert_array_equal(family.context[: arena.n], arena.family.context[: arena.n])
    own, asked = family.context, np.array([0, 7])
    np.testing.assert_array_equal(Pairs(asked, asked, None).told(own), own[asked])
    np.testing.assert_array_equal(Pairs(asked, asked, None, context=own[:2]).told(own), own[:2])
    assert not Pairs(asked, asked, None, tasks=family.tasks).told(own).any()


def test_a_policy_that_is_told_its_task_is_tried_as_each_that_it_knows(small_run, arena, no_training):
    name, n = "multitask_conditioned", arena.n
    found = entrants_of(small_run, arena, (name,), ("rewards", "evidence"))
    starts = found[f"{name}/rewards"].starts
    assert [start.told for start in starts] == [*range(n)] and arena.meta.told is None
    context = np.asarray(arena.family.context)
    for start in starts:
        np.testing.assert_array_equal(arena.told(start), context[start.told])
        np.testing.assert_array_equal(arena.family_of(start).context[n], context[start.told])
    agents, places = learn.stack([starts[0].agent]), np.arange(TASKS * n) // n
    played = learn.evaluate(
        arena.policies["told"], arena.family, agents, np.zeros(TASKS * n, int), n + places,
        arena.config.stream("evaluate"), episodes=arena.config.episodes,
        context=np.tile(context[:n], (TASKS, 1)),
    )  # fmt: skip
    value = start_values(arena, starts)[:, :n]
    np.testing.assert_allclose(value, played.returns.mean(1).reshape(TASKS, n), rtol=1e-5)
    assert (np.ptp(value, axis=1) > 0).all()
    told = adapt_all(arena, {"told": found[f"{name}/rewards"]._replace(finding=1.0, most_steps=0)}, (90,))
    (one,) = told["told"].values()
    np.testing.assert_allclose(one.judged.mean(1), value[np.arange(TASKS), one.choice], rtol=1e-5)
    with pytest.raises(ConfigError, match="'evidence' tells groups apart, .* find by 'rewards'"):
        adapt_all(arena, {"told": found[f"{name}/evidence"]}, (90,))


def test_all_methods_meet_the_same_and_equal_policies_adapt_once(arena, entrants, monkeypatch):
    calls, train_all = [], learn.train_all
    monkeypatch.setattr(
        learn, "train_all", lambda *args, **kw: calls.append(args[0]) or train_all(*args, **kw)
    )
    one, ours = entrants["multitask"], entrants["policygradex/halving"]
    several = {"one": one, "again": one, "ours": ours, "told": ours._replace(assigned=np.arange(TASKS) % 2)}
    several |= {"short": one._replace(most_steps=14), "found": ours._replace(finding=1.0, most_steps=0)}
    found = adapt_all(arena, several, (0, 14, 64))
    assert len(calls) == 3  # of all tasks, and of each group
    assert all(len(rows.steps) <= 3 * TASKS for _, _, rows in calls[0])
    for budget in (0, 14, 64):
        np.testing.assert_array_equal(found["one"][budget].judged, found["again"][budget].judged)
        for name in several:
            x = found[name][budget]
            half = budget == 64 and name != "found"  # of 14, 7 would be less than an episode
            share = budget / 2 if half else budget
            assert (x.steps <= budget).all() and (x.finding_steps <= share).all() and not x.failed
    assert (found["one"][64].steps == 60).all() and (found["one"][14].steps == 12).all()  # an episode has 15
    np.testing.assert_array_equal(found["short"][64].judged, found["one"][14].judged)
    assert (found["short"][64].steps == 12).all()
    assert (found["found"][64].steps == found["found"][64].finding_steps).all()
    assert (found["ours"][0].choice == NONE).all()
    value = start_values(arena, ours.starts)
    np.testing.assert_allclose(found["ours"][0].judged.mean(1), value[:, -1], rtol=1e-6)
    told = found["told"][0].judged.mean(1)
    np.testing.assert_allclose(told, value[np.arange(TASKS), np.arange(TASKS) % 2], rtol=1e-6)


def test_on_the_host_engine_tasks_find_the_same_groups(small_run, arena, entrants):
    family = dataclasses.replace(arena.family, env=HostPoints(small_run.family.env.start))
    host = arena._replace(family=family)
    truth = likeliest_group(
        small_run.family,
        np.asarray(small_run.labels),
        sampled(small_run.family, small_run.config.stream("test_tasks"), TASKS),
    )
    asked = {finder: entrants[f"policygradex/{finder}"] for finder in ("rewards", "foresight")}
    found = adapt_all(host, asked | {"one": entrants["multitask"]}, (0, 64))
    for finder in asked:
        np.testing.assert_array_equal(found[finder][64].choice, truth)
    assert (found["rewards"][64].steps <= 64).all() and (found["one"][64].steps == 60).all()
    assert np.isfinite([x[64].judged for x in found.values()]).all()
    there = adapt_all(arena, {"one": entrants["multitask"]}, (0,))["one"][0].mean()
    assert abs(found["one"][0].mean().mean - there.mean) < 3 * (there.hi - there.lo)


def test_an_adaptation_that_diverges_is_named_and_left_out(small_run):
    tasks = sampled(small_run.family, small_run.config.stream("test_tasks"), 3)
    tasks = tasks._replace(goal=np.asarray(tasks.goal).copy())
    tasks.goal[1] = np.nan
    arena = arena_of(small_run, tasks, ["good", "spoilt", "fine"])
    found = adapt_all(arena, {"meta": Entrant((arena.meta,))}, (32,))["meta"][32]
    assert list(found.failed) == ["spoilt"] and "non-finite" in found.failed["spoilt"]
    assert np.isnan(found.judged[1]).all() and np.isfinite(found.judged[[0, 2]]).all()
    assert found.steps[1] == 32 and found.mean().mean == pytest.approx(found.judged[[0, 2]].mean())
    others = jax.tree.map(lambda x: np.asarray(x)[[0, 2]], tasks)
    without = arena_of(small_run, others, ["good", "fine"])
    alone = adapt_all(without, {"meta": Entrant((without.meta,))}, (32,))["meta"][32]
    np.testing.assert_allclose(alone.judged[0], found.judged[0], rtol=1e-3)  # as if nobody had failed
    own = jax.tree.map(lambda x: np.asarray(x)[1], tasks)
    with pytest.raises(DataError, match="adapting to 'own-.*': .*non-finite|not finite"):
        pgx_jax.adapt(small_run, own, steps=32)


def test_fine_tuning_may_have_a_baseline_of_its_own(arena):
    learner = pgx_jax.PPO(num_envs=2, num_steps=8, minibatches=1)
    assert Tuning().learner(learner, 200).baseline == "critic"
    assert Tuning().learner(learner, 200, 1.0, "linear") == Tuning().learner(
        dataclasses.replace(learner, baseline="linear"), 200, 1.0
    )
    one, other = (Entrant((arena.meta,), baseline=x) for x in (None, "linear"))
    jobs = [jobs_of(arena, x, choose(arena, x, 60, Tuning()), 60)[0] for x in (one, other)]
    assert [job.baseline for job in jobs] == [None, "linear"] and jobs[0].key != jobs[1].key
    done = adapt_and_judge(arena, jobs, Tuning())
    assert not np.array_equal(done[jobs[0].key].judged, done[jobs[1].key].judged)


def test_a_learner_that_adapts_does_so_on_the_steps_there_are(arena):
    learner = Reinforce(adaptation_steps=64, adaptation_envs=4, adaptation_rate=0.5)
    arena = arena._replace(learners={**arena.learners, "adapts": learner})
    start = arena.meta._replace(key="adapts", learner="adapts")
    jobs = [Job(start, int(arena.unseen[0]), steps) for steps in (0, 3, 30)]
    done = [adapt_and_judge(arena, jobs, Tuning())[job.key] for job in jobs]
    assert [x.steps for x in done] == [0, 3, 28]
    kernels = [jax.tree.leaves(x.agent.actor)[0] for x in done]
    assert not np.allclose(kernels[0], kernels[1]) and not np.allclose(kernels[0], kernels[2])


def test_an_adaptation_that_goes_too_far_with_finite_numbers_has_failed(arena):
    """By all rounds of one step; a step of 0 goes nowhere."""
    start = arena.meta._replace(key="adapts", learner="adapts")
    job = Job(start, int(arena.unseen[0]), 30)
    for rate in (1e10, 0.0):
        learner = Reinforce(adaptation_steps=64, adaptation_envs=4, adaptation_rate=rate)
        there = arena._replace(learners={**arena.learners, "adapts": learner})
        done = adapt_and_judge(there, [job], Tuning())[job.key]
        if rate:
            assert isinstance(done, str) and "by adapts diverged" in done and "more than 100 nats" in done
            found = adapt_all(there, {"maml": Entrant((start,))}, (30,))["maml"][30]
            assert [*found.failed] == [*arena.names] and found.mean().mean is None
        else:
            assert np.isfinite(done.judged).all()


def test_how_far_a_policy_goes_is_the_mean_of_log_ratios(arena):
    """Against a loop over what it did; parameters that are not finite are infinitely far, or NaN."""
    policy, family, before = arena.policies["base"], arena.family, arena.meta.agent
    played = engine_of(family).experience(
        policy, family, before, arena.unseen, jax.random.PRNGKey(3), 40
    )  # a program that other tests have compiled
    steps, context = jax.tree.map(lambda x: np.asarray(x)[:9, :2], played), family.context[0]
    after = before._replace(actor=jax.tree.map(lambda x: 1.1 * np.asarray(x) + 0.02, before.actor))

    def log_prob(agent, t, e):
        inputs = policy.actor_input(policy.normalise(agent, steps.obs[t, e]), context)
        return float(policy.log_prob(agent.actor, inputs, steps.action[t, e]))

    ratios = [log_prob(before, t, e) - log_prob(after, t, e) for t in range(9) for e in range(2)]
    assert abs(np.mean(ratios)) > 1e-3
    found = float(drift(policy, before, after, context, steps))
    assert found == pytest.approx(np.mean(ratios), rel=1e-3, abs=1e-5)
    spoilt = before._replace(actor=jax.tree.map(lambda x: np.full_like(x, np.nan), before.actor))
    assert not np.isfinite(drift(policy, before, spoilt, context, steps))


def test_finding_training_and_a_fresh_policy_have_keys_of_their_own(arena, entrants, monkeypatch):
    """Two rounds of two groups and theta*, and fine-tuning."""
    met, try_out = [], learn.try_out

    def spied(*args, **kw):
        met.append(tuple(np.asarray(args[5]).tolist()))
        return try_out(*args, **kw)

    monkeypatch.setattr(learn, "try_out", spied)
    choose(arena, entrants["policygradex/halving"], 96, Tuning())
    of_others = {tuple(np.asarray(stream(arena.config, x)).tolist()) for x in ("training", "fresh")}
    assert len({*met}) == 2 and len(of_others) == 2 and not {*met} & of_others


def no_sampler(run):
    return dataclasses.replace(run.family, sample_test_tasks=None)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda run, arena: sampled(run.family, run.config.stream("trial"), 1), "ask for at least 2"),
        (lambda run, arena: sampled(no_sampler(run), run.config.stream("trial"), 5), "no sampler of unseen"),
        (lambda run, arena: adapt_all(arena, {}, (-1,)), "-1 adaptation steps"),
        (lambda run, arena: Tuning(finding=1.0).check(), "finding = 1.0 must lie"),
        (lambda run, arena: Tuning(updates=0).check(), "updates = 0 must be at least 1"),
        (lambda run, arena: Tuning(rate=0.0).check(), "rate = 0.0 must be above 0"),
        (lambda run, arena: pgx_jax.adapt(run, 50), "no unseen task 50; their numbers are 0 to 49"),
        (lambda run, arena: pgx_jax.adapt(run, 0, finder="magic"), "magic.*'rewards', 'halving', 'values'"),
        (lambda run, arena: pgx_jax.adapt(run, 0, name="../x"), "can't name a file"),
        (lambda run, arena: pgx_jax.adapt(run, None), "unseen tasks of 'points' have 0 parameters"),
        (lambda run, arena: pgx_jax.adapt(run, 0, seed=2**70), "seed = .* must fit 64 bits"),
        (lambda run, arena: pgx_jax.adapt(run, np.zeros(3)), "unseen tasks of 'points'"),
        (lambda run, arena: pgx_jax.adapt(run, 0, steps=1), "1 steps are too few.*'rewards'; use at least 3"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_any_training(small_run, arena, no_training, ask, words):
    with pytest.raises(ConfigError, match=words):
        ask(small_run, arena)


def test_parameters_of_another_form_are_refused(small_run):
    tasks = small_run.family.tasks
    with pytest.raises(ConfigError, match=r"goal has shape \(1, 3\); expected .goal of shape \(1, 2\)"):
        joined(small_run.family, tasks._replace(goal=np.zeros((1, 3))), ["mine"])


def test_batches_suit_the_steps():
    learner = pgx_jax.PPO(num_envs=40, num_steps=128, minibatches=4)
    shapes = {}
    for steps in (3, 100, 200, 1000, 5000):
        tuned = Tuning().learner(learner, steps)
        assert steps >= 3 * tuned.steps_per_update
        shapes[steps] = tuned.num_envs, tuned.num_steps, tuned.minibatches
    assert shapes == {3: (1, 1, 1), 100: (1, 16, 1), 200: (1, 32, 1), 1000: (1, 128, 4), 5000: (5, 128, 4)}


def test_adapt_saves_the_policy_and_what_it_went_by(small_run, tmp_path, capsys):
    path = shutil.copytree(small_run.store.path, tmp_path / "run")
    assert cli.main(["adapt", str(path), "--task", "2", "--steps", "60", "--finder", "halving"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "unseen-5-2: goes on from the policy of" in said and "chosen" in said and "saved:" in said
    written = json.loads((path / "adapted-unseen-5-2-60-halving.json").read_text())
    assert written["steps"] <= 60 and written["group"] in small_run.results.groups
    run = pgx_jax.load(path)
    agent = run.store.load(written["stage"], Agent)
    assert run.policy.act(agent, obs=[0.0] * 4).shape == (2,)
    for known, words in (
        ((agent, [0.0] * 3), r"obs must be one observation, numbers of shape \[4\], not"),
        ((agent, [[0.0], 0.0, 0.0, 0.0]), "obs must be one observation"),
        ((agent, ["a"] * 4), "obs must be one observation"),
        (("unseen-5-2", [0.0] * 4), "agent must be Agent, not a str"),
        ((agent, [0.0] * 4, None, 3), "key must be a key of jax.random, not 3"),
    ):
        with pytest.raises(ConfigError, match=words):
            run.policy.act(*known)
    assert cli.main(["adapt", str(path), "--task", "2", "--steps", "12", "--finder", "evidence"]) == 0
    assert "fewer steps than an episode has: they went into" in " ".join(capsys.readouterr().out.split())
    assert written["policy"] == "base" and len(written["context"]) == run.family.context.shape[1]
    again = pgx_jax.adapt(run, 2, steps=60, finder="halving")
    assert again.after.mean == written["after"]["mean"]
    own, other = (jax.tree.map(lambda x, i=i: x[i], run.family.tasks) for i in (0, 1))
    first, second, same = (pgx_jax.adapt(run, x, steps=0) for x in (own, other, own))
    assert first.group is None and first.stage == same.stage != second.stage
    assert run.store.has(first.stage) and run.store.has(second.stage)


def test_a_task_of_ones_own_from_the_command_line(small_run, tmp_path, capsys):
    path, goal = shutil.copytree(small_run.store.path, tmp_path / "run"), small_run.family.tasks.goal[1]
    given = ["--steps", "90", "--name", "mine", "--parameters", f"goal={np.asarray(goal).tolist()}"]
    assert cli.main(["adapt", str(path), *given]) == 0
    assert "mine: goes on from the policy of" in " ".join(capsys.readouterr().out.split())
    found = json.loads((path / "adapted-mine-90-rewards.json").read_text())
    assert small_run.family.task_names[1] in found["group"]
    for wrong, words in (
        (["--parameters", "gaol=1"], "no parameter gaol; they have goal, mass"),
        (["--parameters", "mass=1"], "give goal of the task, too"),
        (["--parameters", "goal=[1,2,3]"], "goal has shape (3,); expected (2,)"),
        (["--parameters", 'goal="x"'], "goal = 'x' is no number"),
        (["--parameters", "goal"], "--parameters goal: there is no '='"),
        (["--parameters", "goal=far"], "value 'far' is no number"),
        (["--parameters", "goal=null"], "goal has shape (); expected (2,)"),
        (["--parameters", "goal=[null,1]"], "goal = [None, 1] is not finite; give numbers"),
        (["--parameters", "goal=[NaN,1]"], "goal = [nan, 1] is not finite"),
        (["--parameters", "goal=[1,2]", "goal=[1,3]"], "goal is given twice"),
        (["--parameters", "goal=[1,2]", "--task", "0"], "--task: of a task of the family's sampler"),
        (["--parameters", "goal=[1,2]", "--task", "1", "--seed", "2"], "--task and --seed: of a task"),
    ):
        assert cli.main(["adapt", str(path), *wrong]) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_a_run_in_memory_saves_nothing(small_run):
    run = copy.copy(small_run)
    run.store = None
    found = pgx_jax.adapt(run, 2, steps=60, finder="halving")
    assert found.steps <= 60 and found.stage is None and found.before.ci95 and found.after.ci95


@pytest.mark.slow
def test_a_few_steps_on_cartpole():
    """From training to an adapted policy, in memory."""
    config = pgx_jax.Config(
        steps_per_task=2048, compare="none", k=2, episodes=4, test_tasks=0,
        policy=pgx_jax.PolicyConfig(hidden=(8,)),
        ppo=pgx_jax.PPO(num_envs=8, num_steps=32, epochs=1, minibatches=2),
        estimate=pgx_jax.EstimateConfig(steps=256, num_envs=8, dim=40),
    )  # fmt: skip
    run = pgx_jax.run(pgx_jax.make_family("cartpole-goals", n_tasks=4, n_groups=2, horizon=20), config)
    found = pgx_jax.adapt(run, 0, steps=200, finder="evidence")
    assert found.steps <= 200 and found.finding_steps == 100 and found.stage is None
    assert len(found.tried) == 3 and sum(entry.chosen for entry in found.tried) == 1
    assert found.before.ci95 and found.after.ci95 and not found.cut


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no checkout around the tests")
def test_the_table_of_unseen_tasks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import drawings
    import meta_rl
    import meta_search
    import meta_tables

    out = tmp_path / "meta_rl.json"
    assert meta_rl.main(["--preset", "quick", "--out", str(out)]) == 0
    before = out.read_text()
    assert meta_rl.main(["--preset", "quick", "--out", str(out)]) == 0 and out.read_text() == before
    data = json.loads(before)
    other = {**data["cells"][0], "taken": {**data["cells"][0]["taken"], "rates": {}}}
    with pytest.raises(ConfigError, match="other settings than the table's cell .*family=points .*--out"):
        meta_rl.check_taken([other])
    (part,) = meta_tables.parts(data)
    names = part.names()
    assert {"meta", "fresh", "multitask", "policygradex/halving", "true_groups/told"} <= {*names}
    text = meta_tables.whole(data)
    assert "| One policy for all |" in text and "best policy found (loss)" in text
    without = np.array(data["cells"][0]["starts"]["true_groups"])
    at_once = data["cells"][0]["methods"]["true_groups/told"]["0"]
    earned = without[np.arange(2), at_once["choice"]]
    np.testing.assert_allclose(at_once["per_task"], earned, rtol=1e-3)
    np.testing.assert_allclose(
        data["cells"][0]["methods"]["meta"]["0"]["per_task"], without[:, -1], rtol=1e-3
    )
    told, short = part.mean("true_groups/told", 32).mean, meta_tables.overview(data)
    assert f"| True groups | {told:.1f} |" in short and "| Gradient similarity | – |" in short
    hits, loss = part.right("policygradex/halving", 32)
    assert 0 <= hits <= 1 and loss >= 0
    ways = (*meta_search.LEARNERS, meta_search.FINE_TUNING)
    search = {"cells": [{"cell": {"family": "points", "method": method}} for method in ways]}
    some, elsewhere = {"cells": search["cells"][1:]}, copy.deepcopy(search)
    elsewhere["cells"][0]["cell"]["family"] = "cartpole-goals"
    assert "first (" in meta_tables.verdict(part, search) or " first," in meta_tables.verdict(part, search)
    for fewer in (None, some, elsewhere):  # others than ours have the settings of another family
        said = meta_tables.verdict(part, fewer)
        assert " first " not in said.replace("Which is first is not said", "") and "not searched" in said
    assert drawings.meta_rl(data).startswith(b"\x89PNG")
    entry = data["cells"][0]["methods"]["meta"]["32"]["per_task"]
    entry[0] = None
    assert meta_tables.shown(part._replace(cells=data["cells"]), "meta", 32).endswith("(1 failed)")
    lost = json.loads(before)
    for entry in lost["cells"][0]["methods"]["policygradex/rewards"].values():
        entry["per_task"] = [None] * len(entry["per_task"])
    (failed,) = meta_tables.parts(lost)
    assert meta_tables.verdict(failed, None).count("our groups have failed on all tasks of a seed") == 2
    cell = meta_rl.cells(meta_rl.Settings(preset="quick"))[0]
    with pytest.raises(ConfigError, match="5 steps are too few to try 2 policies by 'halving'"):
        meta_rl.compute(cell | {"budgets": [0, 5]})
    with pytest.raises(ConfigError, match="4 steps are too few to try 5 policies by 'rewards'"):
        check_finders(("rewards",), 5, (0, 8), 0)
    check_finders(("rewards",), 5, (0, 8), 15)  # all of them find it
    assert [meta_rl.said(x) for x in ([1.0, 2.0], [1.0, None], [None])] == [
        "1.5", "1.0 (1 of 2 tasks failed)", "(1 of 1 tasks failed)",
    ]  # fmt: skip
    assert len(meta_rl.cells(meta_rl.Settings(families=("lunarlander",), seeds=2))) == 2
    assert len(meta_rl.cells(meta_rl.Settings())) == 6 * 10 + 5


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no checkout around the tests")
def test_the_forms_in_which_a_method_stands_in_the_table(arena, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import meta_rl
    import meta_search
    import meta_tables

    def starts(learner, count):
        return tuple(arena.meta._replace(key=(learner, i), learner=learner) for i in range(count))

    kinds = {"ppo": "ppo", "maml": "maml", "rl2": "rl2", "group_maml": "maml"}
    made = {name: learn.LEARNERS[kind]() for name, kind in kinds.items()}
    mine, one, memory = "policygradex_base_group_maml", "multitask_base_maml", "multitask_gru_rl2"
    known = {
        "meta": Entrant(starts("ppo", 1)),
        "policygradex/rewards": Entrant(starts("ppo", 2), "rewards"),
        one: Entrant(starts("maml", 1)),
        memory: Entrant(starts("rl2", 1)),
    }
    rates = dict.fromkeys((*meta_search.FINE_TUNED, *meta_search.GROUPINGS), 0.1) | {"meta": 1.0}
    for groups in (1, 2):
        own = f"{mine}/rewards" if groups > 1 else mine
        grouped = {own: Entrant(starts("group_maml", groups), "rewards" if groups > 1 else None)}
        monkeypatch.setattr(meta_rl, "entrants_of", lambda *args, grouped=grouped: known | grouped)
        found = meta_rl.all_entrants(None, arena._replace(learners=made), [one, memory, mine], rates)
        assert found["meta"].rate == 1.0 and found["meta/gently"].rate is None
        assert found[f"{one}/again"].again and f"{one}/found" not in found
        assert found[f"{memory}/trial"].most_steps == made["rl2"].num_steps - arena.family.horizon
        assert found[f"{mine}/found"].most_steps == 0 and found[f"{mine}/again"].again
        forms = {f"{mine}/{x}" for x in ("rewards", "again", "found", *(FINDERS if groups == 1 else ()))}
        assert {*found} == {*known, "meta/gently", f"{one}/again", f"{memory}/trial"} | forms
        assert all(meta_tables.label(name) for name in found)
    assert meta_search.LEARNERS["group_maml"].grouped and not meta_search.LEARNERS["maml"].grouped


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no checkout around the tests")
def test_the_search_for_settings_of_what_adapts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import meta_search
    import meta_tables

    out = tmp_path / "meta_search.json"
    quick = ["--preset", "quick", "--methods", "group_maml", "--out", str(out)]
    assert meta_search.main(quick) == 0
    (done,) = json.loads(out.read_text())["cells"]
    assert (
        np.shape(done["returns"]["group_maml"]) == (2, 1) and np.isfinite(done["returns"]["group_maml"]).all()
    )
    for name, method in meta_search.LEARNERS.items():
        assert len(method.tried) == 8 and meta_search.chosen(None, "points", name) == method.tried[0]
        known = learn.learners_by_name(learn.PPO(entropy=0.5))
        made = [method.made(known, tried, 200) for tried in method.tried]
        assert len({str(learner) for learner in made}) == 8
        assert {x.num_steps for x in made if x.baseline == "linear"} <= {200}
        assert all(method.made(known, x, 1000).num_steps >= 2000 for x in method.tried if name == "rl2")
        data = searched(name, method.tried, {name: [[9, 9], [9, 9.3], *[[0, 0]] * 6]})
        assert meta_search.chosen(data, "points", name) == method.tried[0]  # the second is hardly better
        data = searched(name, method.tried, {name: [[9, 9], *[[None, None]] * 6, [0, 19]]})
        assert meta_search.chosen(data, "points", name) == method.tried[7]
        first = copy.deepcopy(data["cells"][0])
        first["cell"]["family"] = meta_search.FAMILIES[0]  # where the others look that were not searched
        first["returns"] = {name: [[9, 9], [99, 99], *[[0, 0]] * 6]}
        data["cells"].append(first)
        assert meta_search.chosen(data, "points", name) == method.tried[7]
        assert meta_search.chosen(data, "highway-traffic", name) == method.tried[1]
        data = searched(name, method.tried, {name: [[None, 20], [1, 1], *[[0, 0]] * 6]})
        assert meta_search.chosen(data, "points", name) == method.tried[1]  # with the first, something failed
    earned = {name: [[i, 7 - i * (name == "meta")] for i in range(6)] for name in meta_search.FINE_TUNED}
    data = searched(meta_search.FINE_TUNING, meta_search.RATES, earned)
    assert meta_search.rate(data, "points", "fresh") == 10.0
    assert meta_search.rate(None, "points", "fresh") == Tuning().rate
    linear, more = meta_search.FURTHER[meta_search.FINE_TUNING], copy.deepcopy(data["cells"][0])
    more["cell"]["tried"], more["returns"] = [*linear], {x: [[0, 0], [99, 99]] for x in earned}
    added = {"cells": [*data["cells"], more]}
    assert meta_search.rate(added, "points", "fresh") == linear[1]
    assert "| **step size ×1, linear baseline** | 99.0 | 99.0 |" in meta_tables.searched(added)
    second = copy.deepcopy(data["cells"][0])
    second["cell"]["settings"] = {"seed": 101}  # with which these are yet to be tried
    assert meta_search.rate({"cells": [*added["cells"], second]}, "points", "fresh") == 10.0
    one = meta_search.LEARNERS["maml"].made(known, meta_search.FURTHER["maml"][0], 200)
    assert (one.inner_steps, one.phases, one.baseline) == (1, 2, "linear")
    cells = meta_search.cells(meta_search.Settings(seeds=(100,), families=("points-hard",)))
    assert (
        len(cells) == 8 and [cells[i]["method"] for i in (0, 1, 6, 7)] == ["maml"] * 2 + ["fine-tuning"] * 2
    )
    text = meta_tables.searched(data)
    assert "| **step size ×10** | 5.0 | 7.0 |" in text and "seeds that no table of methods has (100)" in text


def searched(method, tried, returns):
    """A result file of one cell."""
    cell = {"method": method, "tried": list(tried), "budgets": [200, 1000], "settings": {"seed": 100}}
    cell["family"] = "points"
    return {"cells": [{"cell": cell, "returns": returns}]}
