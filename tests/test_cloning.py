"""Behaviour cloning: what is shown, and what is learnt of it."""

import dataclasses
import io
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hosts import HostPoints, host_points, script_family
from rich.console import Console
from small import Ears, plain

from pgx_jax import pipeline, report
from pgx_jax.compare.results import OURS, to_plain
from pgx_jax.config import Config, override
from pgx_jax.errors import ConfigError
from pgx_jax.learn import evaluate, init_agents, make_policy, take
from pgx_jax.learn.cloning import clone, demonstrate
from pgx_jax.runs.run import Run, run
from pgx_jax.runs.saved import resume
from pgx_jax.runs.store import RunStore

KEY = jax.random.PRNGKey(0)


class Guided(HostPoints):
    """Points whose experts steer for the goal, harder than actions can be."""

    def expert(self, task):
        return lambda obs: 8 * (task.goal - obs[:2]) - 4 * obs[2:]


FAMILY = dataclasses.replace(host_points(n_tasks=3, n_groups=3, horizon=30), env=Guided())
POLICY = make_policy(FAMILY, hidden=(32,), conditioned_actor=True)


@pytest.fixture(scope="module")
def agent():
    return take(init_agents(POLICY, FAMILY, np.asarray(KEY)[None]), 0)


@pytest.fixture(scope="module")
def shown():
    return demonstrate(POLICY, FAMILY, KEY, episodes=8, noise=0.3)


def wanted(shown):
    """What the experts would do in all states that were seen."""
    goals = np.asarray(FAMILY.tasks.goal)[shown.task]
    return np.clip(8 * (goals - shown.obs[:, :2]) - 4 * shown.obs[:, 2:], -1, 1)


def test_experts_are_shown_in_whole_episodes(shown):
    assert shown.obs.shape == (3 * 8 * 30, 4) and (np.bincount(shown.task) == 240).all()
    np.testing.assert_allclose(shown.action, wanted(shown), atol=1e-5)
    again, other = (demonstrate(POLICY, FAMILY, key, episodes=1) for key in (KEY, jax.random.PRNGKey(1)))
    first = demonstrate(POLICY, FAMILY, KEY, episodes=1)
    assert np.array_equal(again.obs, first.obs) and not np.array_equal(other.obs, first.obs)
    start, later = first.obs[0], first.obs[3]  # of the first of three tasks
    np.testing.assert_allclose(later[:2], start[:2] + 0.1 * later[2:], atol=1e-6)


def test_where_an_agent_acts_the_experts_still_tell(agent, shown):
    asked = demonstrate(POLICY, FAMILY, KEY, episodes=8, agent=agent)
    np.testing.assert_allclose(asked.action, wanted(asked), atol=1e-5)
    assert np.abs(asked.obs[:, :2]).mean() < np.abs(shown.obs[:, :2]).mean()  # a fresh agent stays near
    both = shown.also(asked)
    assert len(both.task) == len(both.obs) == 2 * len(shown.task)


def test_one_step_is_one_step_of_adam(agent, shown):
    size = len(shown.task)
    found = clone(POLICY, FAMILY, agent, shown, KEY, epochs=1, batch=size, learning_rate=1e-3)
    mean, std = shown.obs.mean(0), np.sqrt(shown.obs.var(0) + 1e-8)
    np.testing.assert_allclose(found.observation.mean, mean, rtol=1e-5)
    normal = make_policy(FAMILY, hidden=(32,), conditioned_actor=True, normalise_observations=True)
    for policy, obs in ((POLICY, shown.obs), (normal, np.clip((shown.obs - mean) / std, -10, 10))):
        found = clone(policy, FAMILY, agent, shown, KEY, epochs=1, batch=size, learning_rate=1e-3)

        def loss(actor, obs=obs, policy=policy):
            told = jnp.asarray(FAMILY.context, jnp.float32)[shown.task]
            of_all = jax.vmap(policy.log_prob, (None, 0, 0))
            return -of_all(actor, policy.actor_input(jnp.asarray(obs), told), shown.action).mean()

        gradient = jax.grad(loss)(agent.actor)
        step = jax.tree.map(lambda g: g / (jnp.abs(g) + 1e-8), gradient)
        expected = jax.tree.map(lambda p, s: p - 1e-3 * s, agent.actor, step)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found.actor, expected)


def test_a_clone_does_what_it_was_shown(agent, shown):
    found = clone(POLICY, FAMILY, agent, shown, KEY, epochs=60, batch=64, learning_rate=5e-3)

    def earned(one):
        agents = jax.tree.map(lambda x: np.asarray(x)[None], one)
        pairs = np.zeros(3, int), np.arange(3), KEY
        return evaluate(POLICY, FAMILY, agents, *pairs, episodes=8, deterministic=True).returns.mean()

    before, after = earned(agent), earned(found)
    best = earned_by_experts()
    assert before < best - 5 and after > best - 1, (before, after, best)


def earned_by_experts():
    """Mean return of episodes in which the experts act."""
    total = []
    for number in range(3):
        copy, task = FAMILY.env.make(), jax.tree.map(lambda x, i=number: np.asarray(x)[i], FAMILY.tasks)
        obs = copy.reset(0, task)
        total.append(0.0)
        for _ in range(30):
            step = copy.step(np.clip(FAMILY.env.expert(task)(obs), -1, 1))
            obs, total[-1] = step.obs, total[-1] + step.reward
    return np.mean(total)


def test_who_cannot_show_or_learn(agent, shown):
    with pytest.raises(ConfigError, match="no experts"):
        demonstrate(POLICY, host_points(n_tasks=3, n_groups=3), KEY)
    script = script_family()
    with pytest.raises(ConfigError, match="continuous"):
        clone(make_policy(script, hidden=(4,)), script, agent, shown, KEY)
    squashed = make_policy(FAMILY, hidden=(4,), squash=True)
    for call in (
        lambda: demonstrate(squashed, FAMILY, KEY),
        lambda: clone(squashed, FAMILY, agent, shown, KEY),
    ):
        with pytest.raises(ConfigError, match="squash"):
            call()
    with pytest.raises(ConfigError, match="epochs = 0"):
        clone(POLICY, FAMILY, agent, shown, KEY, epochs=0)


SETTINGS = override(
    Config(steps_per_task=1200, demonstrations=2, k=2, episodes=2, random_draws=1, test_tasks=0),
    {
        "min_updates": 1,
        "policy.hidden": (8,), "ppo.num_envs": 6, "ppo.num_steps": 10, "ppo.epochs": 1, "ppo.minibatches": 1,
        "estimate.steps": 100, "estimate.num_envs": 2, "estimate.dim": 20, "similarities": ("dot",),
    },
)  # fmt: skip
SHOWN = 2 * 3 * 30
"""Steps of demonstrations: episodes, tasks, horizon."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that begins with demonstrations."""
    return run(FAMILY, SETTINGS, out=tmp_path_factory.mktemp("shown") / "run")


@pytest.mark.parametrize("conditioned", [True, False])
def test_the_meta_policy_begins_with_demonstrations(conditioned):
    still = {"ppo.learning_rate": 1e-12, "policy.conditioned_actor": conditioned}
    found = Run(FAMILY, override(SETTINGS, still)).compute("meta")
    key, order = jax.random.split(SETTINGS.stream("demonstrations"))
    shown = demonstrate(found.policy, FAMILY, key, episodes=2, noise=pipeline.DEMONSTRATED_NOISE)
    fresh = init_agents(found.policy, FAMILY, np.asarray(SETTINGS.stream("meta"))[None])
    expected = clone(found.policy, FAMILY, take(fresh, 0), shown, order)
    assert found.cloned.steps == len(shown.task) == SHOWN
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), found.meta.actor, expected.actor)
    assert (found.meta.observation.count > SHOWN).all()  # and what it saw since


def test_demonstrations_are_paid_by_what_goes_on_from_them(begun):
    without = Run(FAMILY, dataclasses.replace(SETTINGS, demonstrations=0))
    assert begun.budget.rest() == without.budget.rest() - SHOWN
    assert begun.budget.meta == without.budget.meta
    mine, others = begun.ours(), begun.baselines()
    spent = SHOWN + begun.budget.meta + begun.budget.collect
    assert mine.env_steps == spent + sum(row.steps for row in mine.rows) <= begun.budget.total
    for name, (first, *_) in others.items():
        continues = {row.continues for row in first.rows} == {True}
        assert first.demonstrated == continues, name
        assert first.spent == spent or not continues
        assert first.env_steps <= begun.budget.total
    assert begun.results.diagnostics.demonstration_steps == SHOWN


def test_what_begins_with_demonstrations_is_labelled(begun):
    methods, label = plain(begun.store.path)["methods"], "demonstration-initialised"
    labelled = {name for name, entry in methods.items() if entry.get("start") == label}
    assert {OURS, "multitask_continued"} <= labelled
    assert not {"multitask", "single_task", "random"} & labelled
    console = Console(file=io.StringIO(), width=200)
    console.print(report.terminal_table(begun.results))
    for shown in (console.file.getvalue(), (begun.store.path / "report.html").read_text()):
        assert f"PolicyGradEx (ours), {label}" in shown
        assert "One policy per task" in shown and f"One policy per task, {label}" not in shown
    assert label in begun.results.advice
    told = [line["result"] for line in begun.store.metrics() if line.get("stage") == "demonstrations"]
    assert len(told) == 1 and told[0] == f"{SHOWN} steps of experts: theta* is {label}"
    without = Run(FAMILY, dataclasses.replace(SETTINGS, demonstrations=0, compare="none")).compute()
    assert label not in str(to_plain(without.results)) and "demonstrations" not in without.records


def test_a_run_that_was_stopped_needs_no_new_demonstrations(begun, tmp_path, monkeypatch):
    folder, ears = shutil.copytree(begun.store.path, tmp_path / "copy"), Ears()
    store = RunStore.open(folder)
    for stage in store.stages()[1:]:
        store.remove(stage)
    store.remove_file("results.json")
    monkeypatch.setattr(pipeline, "clone_experts", None)
    again = resume(folder, family=FAMILY, listener=ears)
    assert store.stages()[:2] == ["demonstrations", "meta"] and ("start", "meta") in ears.events
    assert plain(folder) == plain(begun.store.path) and again.results.k == 2


def test_where_no_run_can_begin_with_demonstrations(agent):
    with pytest.raises(ConfigError, match="no experts"):
        Run(host_points(n_tasks=3, n_groups=3, horizon=30), SETTINGS)
    with pytest.raises(ConfigError, match="demonstrations = -1"):
        Run(FAMILY, dataclasses.replace(SETTINGS, demonstrations=-1))
    with pytest.raises(ConfigError, match=r"demonstrations \(3600\).*lower demonstrations"):
        Run(FAMILY, dataclasses.replace(SETTINGS, demonstrations=40))
    with pytest.raises(ConfigError, match="the meta-policy is given"):
        Run(FAMILY, SETTINGS, policy=POLICY, meta=agent)
