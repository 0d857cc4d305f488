"""The whole method, end to end, on a small family of point masses."""

import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgx_jax
from pgx_jax import ConfigError, DataError, PPO, Run, group_transitions, load, make_family, resume
from pgx_jax.config import check
from pgx_jax.judge import baselines, ours
from pgx_jax.learn import make_policy
from pgx_jax.saved import agent_for, regroup
from pgx_jax.store import RunStore

STAGES = ["meta", "transitions", "features", "scores", "affinity", "grouping", "policies"]


def plain(path):
    """results.json of a run folder, without its timings."""
    results = json.loads((path / "results.json").read_text())
    assert results.pop("timings")
    return results


def small(small_settings, **changes):
    """(family, config) with other settings of the config; no baselines unless asked for."""
    family, config = small_settings
    return make_family("points", **family), dataclasses.replace(config, **({"compare": "none"} | changes))


def copy_of(run, tmp_path):
    return shutil.copytree(run.store.path, tmp_path / "copy")


@pytest.fixture
def no_training(monkeypatch):
    """Any training fails."""

    def refuse(*args, **kw):
        raise AssertionError("something was trained")

    monkeypatch.setattr(pgx_jax.learn, "train", refuse)


class Ears(pgx_jax.Listener):
    """Remembers what it hears."""

    def __init__(self):
        self.events, self.steps = [], []

    def start(self, stage):
        self.events.append(("start", stage))

    def progress(self, done, total, recent):
        self.steps.append((self.events[-1][1], done, total))

    def finish(self, stage, seconds, text):
        self.events.append(("finish", stage))


# What the small run finds, and leaves behind


def test_the_groups_are_recovered(small_run):
    results, family = small_run.results, small_run.family
    assert results["agreement"] == {"nmi": 1.0, "ari": 1.0, "exact": True}
    expected = [[n for n, g in zip(family.task_names, family.true_groups, strict=True) if g == i] for i in range(2)]
    assert results["groups"] == expected == results["true_groups"] and results["k"] == 2


def test_grouping_pays_where_tasks_conflict(small_run):
    mean = {name: entry["mean"] for name, entry in small_run.results["methods"].items()}
    assert mean["policygradex"] > mean["multitask"] + 4
    assert mean["policygradex"] > mean["random"] + 1
    assert mean["multitask_conditioned"] > mean["multitask"] + 4
    assert abs(mean["policygradex"] - mean["true_groups"]) < 2
    gain = small_run.results["gain"]
    assert gain["predicted"]["ci95"][0] > 0 and gain["realised"]["ci95"][0] > 4
    assert gain["realised"]["mean"] == pytest.approx(mean["policygradex"] - mean["multitask"], abs=1e-6)
    assert small_run.results["advice"].startswith("Group")


def test_the_schema_of_the_results(small_run):
    results = json.loads((small_run.store.path / "results.json").read_text())
    n, names = 6, list(small_run.family.task_names)
    assert results["family"] == "points" and results["n_tasks"] == n and results["seed"] == 5
    assert results["task_names"] == names
    assert set(results["methods"]) >= {
        "policygradex", "multitask", "multitask_conditioned", "single_task", "random", "gradient_similarity",
        "true_groups",
    }  # fmt: skip
    for name, entry in results["methods"].items():
        assert set(entry) >= {"groups", "metric", "mean", "ci95", "per_task", "env_steps", "equal_steps"}
        assert sorted(sum(entry["groups"], [])) == sorted(names)
        assert entry["metric"] == "return" and entry["equal_steps"] is True
        assert entry["mean"] == pytest.approx(np.mean(entry["per_task"]), abs=1e-6) and len(entry["per_task"]) == n
        assert entry["ci95"][0] < entry["mean"] < entry["ci95"][1]
        curve = results["curves"][name]
        assert len(curve["steps"]) == len(curve["return"]) and np.all(np.diff(curve["steps"]) > 0)
        assert curve["steps"][-1] == pytest.approx(entry["env_steps"], rel=0.02)
    assert len(results["methods"]["random"]["draws"]) == 2
    assert np.shape(results["affinity"]["matrix"]) == np.shape(results["affinity"]["coverage"]) == (n, n)
    assert (np.array(results["affinity"]["coverage"])[~np.eye(n, dtype=bool)] == 4).all()  # all triples of 6
    path = results["path"]
    count = len(path["k"])
    assert all(len(path[key]) == count for key in ("score", "stderr", "difference", "labels"))
    assert path["k"][path["chosen"]] == 2 and {1, 6} <= set(path["k"])
    tests = results["test_tasks"]
    assert len(tests["names"]) == len(tests["assigned"]) == 3 and set(tests["assigned"]) <= {0, 1}
    assert tests["mean"] > tests["multitask"]["mean"]
    stages = [name for name, _ in results["timings"]["stages"]]
    assert set(STAGES + ["similarity", "comparisons", "evaluation"]) <= set(stages)
    assert results["diagnostics"]["meta_steps"] + results["diagnostics"]["collect_steps"] < 5400 * n


def test_every_method_takes_the_same_steps(small_run):
    total = 6 * small_run.config.steps_per_task
    for entry in small_run.results["methods"].values():
        assert 0.95 * total <= entry["env_steps"] <= total
    spent = small_run.results["diagnostics"]
    mine = small_run.ours
    assert mine.spent == spent["meta_steps"] + spent["collect_steps"] + spent["scoring_steps"]
    assert sum(row.steps for row in mine.rows) == mine.env_steps - mine.spent
    assert int(small_run.meta_training.steps[0]) == spent["meta_steps"]
    assert small_run.transitions.action.shape[:2] == (6, spent["collect_steps"] // 6)


def test_the_folder(small_run):
    path = small_run.store.path
    assert {"config.json", "results.json", "report.html", "metrics.jsonl", "stages", "figures"} <= {
        p.name for p in path.iterdir()
    }
    assert small_run.store.stages()[:6] == STAGES[:6]
    assert not [p for p in path.rglob("*") if p.suffix in (".pkl", ".pickle")]


def test_the_same_seed_gives_the_same_results(small_run, small_settings, tmp_path):
    """The whole run again, but with some words of the truth changed: only what reports the truth differs."""
    family, config = small(small_settings, compare="fast")
    other = dataclasses.replace(family, true_groups=np.array([0, 0, 0, 1, 1, 1])[np.argsort(family.true_groups)])
    pgx_jax.run(other, config, out=tmp_path / "again")
    ours, theirs = plain(small_run.store.path), plain(tmp_path / "again")
    for results in (ours, theirs):
        assert results.pop("agreement") and results.pop("true_groups")
        for name in ("true_groups", "true_groups_continued"):
            results["methods"].pop(name), results["curves"].pop(name)
    assert ours == theirs


class Poison:
    """Stands for labels that nobody may read."""

    def _refuse(self, *args, **kwargs):
        raise AssertionError("the true groups were read")

    __getattr__ = __getitem__ = __iter__ = __len__ = __array__ = __eq__ = __hash__ = __bool__ = _refuse


def test_nothing_before_the_report_reads_the_true_groups(small_run, small_settings):
    family, config = small(small_settings)
    run = Run(dataclasses.replace(family, true_groups=Poison()), config)
    np.testing.assert_array_equal(run.grouping.labels, small_run.grouping.labels)
    np.testing.assert_array_equal(run.affinity.matrix, small_run.affinity.matrix)
    for name, found in run.similar.items():
        np.testing.assert_array_equal(found.labels, small_run.similar[name].labels)
    jax.tree.map(np.testing.assert_array_equal, run.policies.agents, small_run.policies.agents)


def test_other_seeds_differ(small_run, small_settings):
    family, config = small(small_settings, seed=6)
    run = Run(family, config)
    assert not np.array_equal(run.transitions.obs, small_run.transitions.obs)
    np.testing.assert_array_equal(np.sort(run.budget.subsets, 0), np.sort(small_run.budget.subsets, 0))


# Resuming


def test_a_finished_run_resumes_without_training(small_run, tmp_path, no_training):
    path = copy_of(small_run, tmp_path)
    (path / "results.json").unlink()
    (path / "report.html").unlink()
    ears = Ears()
    resume(path, listener=ears)
    assert plain(path) == plain(small_run.store.path) and (path / "report.html").stat().st_size > 10_000
    assert {stage for _, stage in ears.events} <= {"evaluation"}


@pytest.mark.parametrize("last", STAGES[:-1])
def test_resuming_from_every_stage(small_run, tmp_path, last):
    """What is on disk is not computed again, the rest is, and comes out the same."""
    path = copy_of(small_run, tmp_path)
    store = RunStore.open(path)
    later = [stage for stage in store.stages() if stage not in STAGES[: STAGES.index(last) + 1]]
    for stage in later:
        store.remove(stage)
    ears = Ears()
    run = load(path, listener=ears)
    jax.tree.map(np.testing.assert_array_equal, run.policies.agents, small_run.policies.agents)
    np.testing.assert_array_equal(run.grouping.labels, small_run.grouping.labels)
    assert [s for what, s in ears.events if what == "finish"] == STAGES[STAGES.index(last) + 1 :]
    assert store.has("policies") and load(path).ours.rows == small_run.ours.rows


def test_resuming_before_the_comparisons(small_run, tmp_path):
    path = copy_of(small_run, tmp_path)
    store = RunStore.open(path)
    for stage in ("similarity", "comparisons"):
        store.remove(stage)
    (path / "results.json").unlink()
    ears = Ears()
    resume(path, listener=ears)
    assert {s for what, s in ears.events if what == "finish"} == {"similarity", "comparisons", "evaluation"}
    assert plain(path) == plain(small_run.store.path)


def test_earlier_stages_stay_when_a_later_one_fails(small_settings, tmp_path, monkeypatch):
    family, config = small(small_settings)

    def fail(*args, **kw):
        raise DataError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(pgx_jax.pipeline, "features", fail)
        with pytest.raises(DataError, match="no luck"):
            pgx_jax.run(family, config, out=tmp_path / "run")
    assert RunStore.open(tmp_path / "run").stages() == ["meta", "transitions"]
    run = resume(tmp_path / "run")
    assert run.results["k"] == 2 and (tmp_path / "run" / "report.html").exists()


# Other ways to run


def test_without_comparisons(small_run, small_settings):
    family, config = small(small_settings)
    ears = Ears()
    run = pgx_jax.run(family, config, listener=ears)
    assert set(run.results["methods"]) == {"policygradex"}
    theirs = {k: v for k, v in small_run.results["methods"]["policygradex"].items()}
    assert run.results["methods"]["policygradex"] == theirs
    assert run.results["gain"]["realised"] is None and "not measured" in run.results["advice"]
    # stages come one after another: their times add up to the total
    assert [e for e in ears.events if e[1] != "evaluation"] == [
        (what, stage) for stage in STAGES for what in ("start", "finish")
    ]
    assert [e[1] for e in ears.events][-1] == "evaluation" and ears.events.count(("start", "evaluation")) == 1
    timings = run.results["timings"]
    assert timings["total"] == pytest.approx(sum(seconds for _, seconds in timings["stages"]))
    for stage in ("meta", "policies"):
        done = [d for s, d, _ in ears.steps if s == stage]
        assert done == sorted(done) and done[-1] == [t for s, _, t in ears.steps if s == stage][-1]


def test_k_can_be_given(small_run, tmp_path):
    run = Run(small_run.family, dataclasses.replace(small_run.config, k=3, compare="none"))
    run.records = {name: small_run.records[name] for name in STAGES[:5]}
    assert run.grouping.k == 3 and len(run.policies.rows) == 3
    assert len(np.unique(np.stack([run.grouping.labels, small_run.grouping.labels]), axis=1).T) == 3  # a refinement


def test_regrouping(small_run, no_training, tmp_path):
    run = load(small_run.store.path)
    same = regroup(run, run.config)
    assert same["groups"] == small_run.results["groups"] and same["agreement"]["nmi"] == 1.0
    assert same["gain"]["predicted"] == small_run.results["gain"]["predicted"]
    assert regroup(run, dataclasses.replace(run.config, k=4))["k"] == 4
    changes = [{"score": "importance"}, {"affinity": "aggregate"}, {"affinity": "datamodel"}, {"solver": "lbfgs"}]
    for change in changes:
        estimate = dataclasses.replace(run.config.estimate, **change)
        found = regroup(run, dataclasses.replace(run.config, estimate=estimate))
        assert found["groups"] == small_run.results["groups"], change
    grouping = dataclasses.replace(run.config.grouping, trace_penalty=1e6)
    assert regroup(run, dataclasses.replace(run.config, grouping=grouping))["k"] == 1
    for change in ({"dim": 7}, {"steps": 960}, {"score": "rollouts"}):
        estimate = dataclasses.replace(run.config.estimate, **change)
        with pytest.raises(ConfigError):
            regroup(run, dataclasses.replace(run.config, estimate=estimate))


def test_a_saved_policy_loads_and_acts(small_run, no_training):
    run = load(small_run.store.path)
    family, name = run.family, run.family.task_names[4]
    agent = agent_for(run, name)
    state, obs = family.env.reset(jax.random.PRNGKey(0), jax.tree.map(lambda x: x[4], family.tasks))
    action = run.policy.act(agent, obs)
    assert family.action_space.contains(action.astype(np.float32))
    goal = np.asarray(family.tasks.goal[4])
    assert action @ goal / np.linalg.norm(action) / np.linalg.norm(goal) > 0.5  # it sets out for its goal
    drawn = [run.policy.act(agent, obs, key=jax.random.PRNGKey(i)) for i in range(2)]
    assert not np.array_equal(*drawn)
    with pytest.raises(ConfigError, match="no task 'nobody'"):
        agent_for(run, "nobody")


def test_logged_data_is_grouped_without_an_environment(small_run, no_training):
    run = small_run
    data = run.transitions
    found = group_transitions(run.policy.log_prob, run.meta.actor, data, run.config, names=run.family.task_names)
    np.testing.assert_array_equal(found.grouping.labels, run.grouping.labels)
    np.testing.assert_allclose(found.affinity.matrix, run.affinity.matrix, atol=1e-5)
    constant = data._replace(advantage=np.where(np.arange(6)[:, None] == 2, 1.0, data.advantage))
    with pytest.raises(DataError, match="task2_"):
        group_transitions(run.policy.log_prob, run.meta.actor, constant, run.config, names=run.family.task_names)


class OwnActor(nn.Module):
    """A linear policy with a fixed deviation."""

    @nn.compact
    def __call__(self, x):
        mean = nn.Dense(2, name="only")(x)
        return mean, jnp.full_like(mean, -1.0)


def test_networks_and_meta_policy_of_ones_own(small_run, small_settings, tmp_path):
    family, config = small(small_settings, k=2)
    policy = make_policy(family, actor=OwnActor(), hidden=(8, 8))
    first = pgx_jax.run(family, config, policy=policy, out=tmp_path / "own")
    assert set(first.policies.agents[0].actor["params"]) == {"only"}
    with pytest.raises(ConfigError, match="networks of its own"):
        load(tmp_path / "own")
    again = load(tmp_path / "own", policy=policy)
    jax.tree.map(np.testing.assert_array_equal, again.policies.agents, first.policies.agents)

    run = Run(family, config, policy=policy, meta=first.meta)
    np.testing.assert_array_equal(run.transitions.obs, first.transitions.obs)
    assert run.budget.meta == 0 and "meta" not in run.records
    assert run.budget.rest(0) == first.budget.rest(0) + first.budget.meta


def test_scoring_by_roll_outs_is_paid_for(small_run, small_settings):
    family, config = small(small_settings)
    estimate = dataclasses.replace(config.estimate, score="rollouts", rollout_episodes=2, subsets=8)
    run = Run(family, dataclasses.replace(config, estimate=estimate))
    run.records = {name: small_run.records[name] for name in STAGES[:3]}
    scoring = int(run.scored["steps"])
    assert scoring == run.budget.subsets.sum() * 2 * 15  # points never end before the time limit
    assert run.ours.spent == small_run.ours.spent + scoring
    assert run.ours.env_steps <= run.budget.total


# The rule of comparison


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    steps=st.integers(2500, 9000),
    fraction=st.floats(0.05, 0.6),
    envs=st.sampled_from([6, 12]),
)
def test_budgets_of_all_methods(labels, steps, fraction, envs):
    family = FAMILY
    config = pgx_jax.Config(
        steps_per_task=steps, meta_fraction=fraction, ppo=PPO(num_envs=envs, num_steps=5, minibatches=1), compare="full",
        estimate=pgx_jax.EstimateConfig(steps=40, num_envs=10),
    )  # fmt: skip
    budget = check(config, family)
    mine = ours(budget, config, np.array(labels), 0)
    found = {"policygradex": [mine]} | baselines(
        budget, config, mine.labels, {"gradient_similarity": np.arange(6) % 2}, np.arange(6) % 3
    )
    unit = budget.unit
    for name, methods in found.items():
        assert len(methods) == (config.random_draws if name == "random" else 1)
        for m in methods:
            assert all(row.steps % unit == 0 and row.steps >= unit for row in m.rows)
            covered = np.array([m.rows[g].member[task] for task, g in enumerate(m.labels)])
            assert covered.all() and sum(sum(row.member) for row in m.rows) == 6
            if m.equal_steps:
                assert m.env_steps <= budget.total < m.env_steps + (len(m.rows) + 1) * unit
            else:
                assert m.env_steps > budget.total and m.label
    assert sorted(map(sum, (row.member for m in found["random"][:1] for row in m.rows))) == sorted(
        sum(row.member) for row in mine.rows
    )


FAMILY = make_family("points", n_tasks=6, n_groups=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 7}, "k = 7.*6 tasks"),
        ({"k": 0}, "k = 0"),
        ({"meta_fraction": 1.0}, "meta_fraction"),
        ({"steps_per_task": 10}, "raise steps_per_task"),
        ({"episodes": 0}, "episodes"),
        ({"ppo": PPO(num_envs=5)}, "num_envs = 5"),
        ({"ppo": PPO(num_envs=6, num_steps=1, minibatches=7)}, "minibatches"),
        ({"estimate": {"l2": 1e-6}}, "l2 = 1e-06.*at least"),
        ({"estimate": {"subset_size": 7}}, "7 exceeds the number of tasks, 6"),
        ({"estimate": {"subsets": 3}}, "uncovered|contains both"),
        ({"estimate": {"steps": 1001}}, "1001.*multiple"),
        ({"estimate": {"score": "rollouts", "rollout_episodes": 10**6}}, "rollout_episodes"),
        ({"k": 2, "grouping": {"trace_penalty": 1.0}}, "either k"),
    ],
)
def test_settings_that_cannot_work(change, message):
    config = pgx_jax.Config()
    for name, value in change.items():
        if isinstance(value, dict):
            change = change | {name: dataclasses.replace(getattr(config, name), **value)}
    with pytest.raises(ConfigError, match=message):
        Run(FAMILY, dataclasses.replace(config, **change))


def test_a_folder_with_contents_is_refused_before_any_work(small_settings, tmp_path, no_training):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="already has contents"):
        pgx_jax.run(*small(small_settings), out=tmp_path)
    with pytest.raises(ConfigError, match="holds no run"):
        load(tmp_path)
