"""The whole method, end to end, on a small family of point masses."""

import dataclasses
import json
import pkgutil
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import STAGES, Ears, small, told

import pgx_jax
from pgx_jax import PPO, ConfigError, Run, estimate, learn, load, pipeline
from pgx_jax.compare.groups import train_groups
from pgx_jax.compare.pool import of_tasks, train_pool
from pgx_jax.held_out import HeldOut
from pgx_jax.learn import Policy, explore_afresh, make_policy
from pgx_jax.learn.distributions import Categorical
from pgx_jax.learn.networks import CategoricalActor, Critic, GaussianActor
from pgx_jax.runs.store import RunStore
from pgx_jax.types import SELECT, Features

KEY = jax.random.PRNGKey(0)


def test_every_arrow_of_the_page_is_a_function():
    arrows = re.findall(r"--([a-z_.]+)--> ", pipeline.__doc__)
    assert len(arrows) == 8
    for name in arrows:
        place = f"pgx_jax.{name}" if "." in name else f"pgx_jax.pipeline.{name}"
        assert callable(pkgutil.resolve_name(place)), name


def test_the_groups_are_recovered(small_run):
    results, family = told(small_run), small_run.family
    assert results["agreement"] == {"nmi": 1.0, "ari": 1.0, "exact": True}
    expected = [
        [n for n, g in zip(family.task_names, family.true_groups, strict=True) if g == i] for i in range(2)
    ]
    assert results["groups"] == expected == results["true_groups"] and results["k"] == 2


def test_grouping_pays_where_tasks_conflict(small_run):
    mean = {name: entry["mean"] for name, entry in told(small_run)["methods"].items()}
    assert mean["policygradex"] > mean["multitask"] + 4
    assert mean["policygradex"] > mean["random"] + 1
    assert mean["multitask_conditioned"] > mean["multitask"] + 4
    assert abs(mean["policygradex"] - mean["true_groups"]) < 2
    gain = told(small_run)["gain"]
    assert gain["realised"] == told(small_run)["methods"]["multitask_continued"]["difference"]
    assert gain["predicted"]["ci95"][0] > 0 and gain["realised"]["ci95"][0] > 4
    assert gain["realised"]["mean"] == pytest.approx(
        mean["policygradex"] - mean["multitask_continued"], abs=1e-6
    )
    assert told(small_run)["advice"].startswith("Group")


def test_the_schema_of_the_results(small_run):
    results = json.loads((small_run.store.path / "results.json").read_text())
    n, names = 6, list(small_run.family.task_names)
    assert results["family"] == "points" and results["n_tasks"] == n and results["seed"] == 5
    assert results["task_names"] == names
    assert set(results["methods"]) >= {
        "policygradex", "policygradex_told", "multitask", "multitask_continued", "multitask_conditioned",
        "single_task", "random",
        "true_groups",
        *(f"gradient_similarity_{kind}{k}" for kind in ("dot", "cosine", "whitened") for k in ("", "_our_k")),
    }  # fmt: skip
    ours = results["methods"]["policygradex"]
    for name, entry in results["methods"].items():
        if entry is not ours:
            assert entry["difference"]["mean"] == pytest.approx(ours["mean"] - entry["mean"], abs=1e-6)
        assert set(entry) >= {"groups", "metric", "mean", "ci95", "per_task", "env_steps", "equal_steps"}
        assert sorted(sum(entry["groups"], [])) == sorted(names)
        assert entry["metric"] == "return" and entry["equal_steps"] is True
        assert (
            entry["mean"] == pytest.approx(np.mean(entry["per_task"]), abs=1e-6)
            and len(entry["per_task"]) == n
        )
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
    assert set(tests["methods"]) == set(results["methods"]) - {"policygradex"}
    assert tests["mean"] > tests["methods"]["multitask_continued"]["mean"]
    stages = [name for name, _ in results["timings"]["stages"]]
    assert set(STAGES + ["similarity", "comparisons", "evaluation"]) <= set(stages)
    assert results["diagnostics"]["meta_steps"] + results["diagnostics"]["collect_steps"] < 5400 * n


def test_every_method_takes_the_same_steps(small_run):
    total = 6 * small_run.config.steps_per_task
    for entry in told(small_run)["methods"].values():
        assert 0.95 * total <= entry["env_steps"] <= total
    spent = told(small_run)["diagnostics"]
    mine = small_run.ours()
    before = spent["meta_steps"] + spent["collect_steps"] + spent["scoring_steps"]
    assert mine.spent == before + small_run.looked.spent
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


class Poison:
    """Stands for labels that nobody may read."""

    def _refuse(self, *args, **kwargs):
        raise AssertionError("the true groups were read")

    __getattr__ = __getitem__ = __iter__ = __len__ = __array__ = __eq__ = __hash__ = __bool__ = _refuse


def test_nothing_before_the_report_reads_the_true_groups(small_run, small_settings):
    family, config = small(small_settings)
    run = Run(dataclasses.replace(family, true_groups=Poison()), config).compute("policies")
    run.compute("similarity")
    np.testing.assert_array_equal(run.grouping.labels, small_run.grouping.labels)
    np.testing.assert_array_equal(run.affinity.matrix, small_run.affinity.matrix)
    for name, found in run.similar.items():
        np.testing.assert_array_equal(found.labels, small_run.similar[name].labels)
    jax.tree.map(np.testing.assert_array_equal, run.policies.agents, small_run.policies.agents)


def test_other_seeds_differ(small_run, small_settings):
    family, config = small(small_settings, seed=6)
    run = Run(family, config).compute("transitions")
    assert not np.array_equal(run.transitions.obs, small_run.transitions.obs)
    ours, theirs = (pipeline.subsets(c, 6) for c in (config, small_run.config))
    np.testing.assert_array_equal(np.sort(ours, 0), np.sort(theirs, 0))


def test_groups_continue_the_meta_policy_and_explore_afresh(small_run):
    """At a learning rate of zero, rows end where they start."""
    run, still = small_run, dataclasses.replace(small_run.config, ppo=PPO(learning_rate=0.0, num_envs=12))
    settled = jax.tree.map(lambda x: x - 1.0, run.meta)
    row = run.ours().rows[0]._replace(steps=still.ppo.steps_per_update, way="")
    learners = {"ppo": still.ppo}
    (agent,) = train_pool([row], run.policies_by_name, learners, run.family, still, settled).agents
    want = jax.tree.map(np.asarray, settled.actor)
    want["params"]["log_std"] = np.full(2, GaussianActor.initial_log_std, np.float32)
    jax.tree.map(np.testing.assert_array_equal, (agent.actor, agent.critic), (want, settled.critic))

    # A task that leaves the others begins with a mean of its own, once.
    lone = row._replace(member=tuple(i == 1 for i in range(run.family.n)))
    rows = [lone, lone._replace(way=of_tasks(row.member)), lone._replace(way=of_tasks(lone.member))]
    starts = {way: settled for way in (of_tasks(row.member), of_tasks(lone.member))}
    agents = train_pool(
        rows, run.policies_by_name, learners, run.family, still, settled, starts=starts
    ).agents
    last = [agent.actor["params"]["MLP_0"]["Dense_2"]["kernel"] for agent in agents]
    kept = [np.array_equal(kernel, settled.actor["params"]["MLP_0"]["Dense_2"]["kernel"]) for kernel in last]
    assert sum(row.member) > 1 and kept == [False, False, True]

    blind = Policy(CategoricalActor(3, (4,)), Critic((4,)), Categorical(3))
    one, other = (blind.init(jax.random.PRNGKey(i), (2,), np.zeros((1, 1))) for i in range(2))
    jax.tree.map(np.testing.assert_array_equal, explore_afresh(blind, one, other), one)


# Other ways to run


def test_without_comparisons(small_run, small_settings):
    """The same but for the baselines; and but for the truth, were another one told."""
    family, config = small(small_settings)
    family = dataclasses.replace(family, true_groups=np.arange(6) % 3)
    ears = Ears()
    run = pgx_jax.run(family, config, listener=ears)
    assert set(told(run)["methods"]) == {"policygradex"} and len(told(run)["true_groups"]) == 3
    assert told(run)["methods"]["policygradex"] == told(small_run)["methods"]["policygradex"]
    assert told(run)["gain"]["predicted"] == told(small_run)["gain"]["predicted"]
    assert told(run)["gain"]["realised"] is None and "not measured" in told(run)["advice"]
    # stages come one after another: their times add up to the total
    assert [e for e in ears.events if e[1] != "evaluation"] == [
        (what, stage) for stage in STAGES for what in ("start", "finish")
    ]
    assert [e[1] for e in ears.events][-1] == "evaluation" and ears.events.count(("start", "evaluation")) == 1
    timings = told(run)["timings"]
    assert timings["total"] == pytest.approx(sum(seconds for _, seconds in timings["stages"]))
    evaluation = family.n * config.episodes * family.horizon
    assert ears.expected == run.results.methods["policygradex"].env_steps + evaluation
    for stage in ("meta", "policies"):
        done = [d for s, d, _ in ears.steps if s == stage]
        assert done == sorted(done) and done[-1] == [t for s, _, t in ears.steps if s == stage][-1]


def test_groups_can_be_told_their_task(small_run):
    """Those that are found are found blind; they are then what the report shows beside ours."""
    told_too = dataclasses.replace(small_run.config, tell_groups=True)
    run = Run(small_run.family, told_too)
    run.records = {name: small_run.records[name] for name in STAGES[:8]}
    run.compute("policies")
    (same,) = small_run.baselines()["policygradex_told"]
    assert run.ours().rows == same.rows and run.group_policy.conditioned_actor
    for row in same.rows:
        agents = run.policies.agent(row), small_run.comparisons.agent(row)
        jax.tree.map(np.testing.assert_array_equal, *agents)
    task = run.family.task_names[1]
    action = run.group_policy.act(run.agent_for(task), np.zeros(4), run.family.context[1])
    assert np.shape(action) == (2,)
    for change, words in (
        ({"continue_meta": False}, "go on from the meta-policy"),
        ({"policy": dataclasses.replace(told_too.policy, conditioned_actor=True)}, "told its task already"),
    ):
        with pytest.raises(ConfigError, match=f"tell_groups: .*{words}"):
            Run(small_run.family, dataclasses.replace(told_too, **change))


def test_k_can_be_given(small_run, tmp_path):
    run = Run(small_run.family, dataclasses.replace(small_run.config, k=3, compare="none"))
    run.records = {name: small_run.records[name] for name in STAGES[:5]}
    run.compute("policies")
    assert run.grouping.k == 3 and len(run.policies.rows) == 3
    assert (
        len(np.unique(np.stack([run.grouping.labels, small_run.grouping.labels]), axis=1).T) == 3
    )  # a refinement


def test_partitions_are_scored_by_every_trajectory_and_none_is_fitted(small_run):
    """Against the three ways one by one: fitted on two parts, judged on the third."""
    run, labels = small_run, small_run.grouping.labels
    e, member, t = run.config.estimate, run.grouping.member, run.transitions
    found, expected = run.held_out(np.stack([labels, np.zeros(6, int)]))(labels), np.zeros(6)
    for way in estimate.OUTER:
        assert way.judge not in way.fitted
        solved = estimate.fit(run.features, t, member, l2=e.l2, ridge=e.ridge, parts=way.fitted)
        scores = estimate.heldout(run.features, t, solved, way.judge).values
        expected += (t.split == way.judge).mean() * np.asarray(scores)[labels, np.arange(6)]
    means = np.bincount(found.task, found.gain) / np.bincount(found.task)
    np.testing.assert_allclose(means, expected, atol=1e-5)
    trajectories = {(i, j) for i in range(6) for j in t.trajectory[i]}
    assert len(np.unique(found.trajectory)) == len(found.trajectory) == len(trajectories)


class OwnActor(nn.Module):
    """A linear policy with a fixed deviation."""

    @nn.compact
    def __call__(self, obs, context):
        mean = nn.Dense(2, name="only")(obs)
        return mean, jnp.full_like(mean, -1.0)

    def explores(self, path):
        return False


class Spread(nn.Module):
    """A natural mistake: one deviation for all actions, without their axis."""

    @nn.compact
    def __call__(self, obs, context=None):
        return nn.Dense(2)(obs), self.param("log_std", nn.initializers.zeros, ())


class Silent(nn.Module):
    """A Gaussian actor that does not say what of it is exploration."""

    @nn.compact
    def __call__(self, obs, context=None):
        return nn.Dense(2)(obs), self.param("spread", nn.initializers.zeros, (2,))


class Column(nn.Module):
    """Another one: a critic that returns an array of one value."""

    @nn.compact
    def __call__(self, obs, context):
        return nn.Dense(1)(obs)


def test_networks_that_do_not_fit_are_refused_at_once(small_settings):
    family, config = small(small_settings)
    with pytest.raises(ConfigError, match=r"actor returns arrays of shapes.*\[\].*pair \(mean, log_std\)"):
        Run(family, config, policy=make_policy(family, actor=Spread()))
    with pytest.raises(ConfigError, match=r"critic returns \[1\]; it must return one value"):
        Run(family, config, policy=make_policy(family, critic=Column()))
    with pytest.raises(ConfigError, match=r"Silent does not say which.*give it a method explores"):
        Run(family, config, policy=make_policy(family, actor=Silent()))
    with pytest.raises(ConfigError, match=r"Dense is called as .*must take one observation"):
        make_policy(family, actor=nn.Dense(2))


def test_a_meta_policy_of_another_network_is_refused_at_once(small_run, small_settings):
    family, config = small(small_settings)
    wide = make_policy(family, hidden=(32,)).init(KEY, (4,), jnp.asarray(family.context))
    with pytest.raises(ConfigError, match="meta-policy's actor does not fit the policy.*with_policy_params"):
        Run(family, config, meta=wide)
    with pytest.raises(ConfigError, match="meta must be Agent . None, not a dict"):
        Run(family, config, meta=small_run.meta.actor)
    Run(family, config, meta=small_run.meta)


def test_the_policies_of_groups_alone(small_run):
    run = small_run
    labels = np.asarray(run.family.true_groups)  # which were found
    pool = train_groups(run.policy, run.learner, run.family, run.config, labels, run.meta)
    (same,) = run.baselines()["true_groups_continued"]
    assert pool.rows == same.rows
    agents = tuple(run.comparisons.agent(row) for row in same.rows)
    jax.tree.map(np.testing.assert_array_equal, pool.agents, agents)


def test_gradient_similarity_reads_the_data_that_ours_reads(small_run):
    """The parts that fit and score propose, as for ours."""
    t = small_run.transitions
    features, other = np.array(small_run.features.values), [t.split != SELECT, t.split == SELECT]

    def matrices(keep):
        proposed = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "choose_groups", lambda affinity, *_, **kw: proposed.append(affinity))
            values = np.where(keep[..., None], features, 1.0)
            held_out = HeldOut(Features(values, None), t, small_run.config.estimate, None)
            pipeline.similar_groups(held_out, small_run.config, 2)
        return proposed[::2]

    whole, deciding_only = matrices(np.ones_like(t.split, bool)), matrices(other[0])
    for ours, theirs in zip(whole, deciding_only, strict=True):
        np.testing.assert_array_equal(ours.matrix, theirs.matrix)
        assert ours.folds.shape == (2, 6, 6) and not np.allclose(ours.folds[0], ours.folds[1])
    assert not np.allclose(whole[0].matrix, matrices(other[1])[0].matrix)


def test_networks_and_meta_policy_of_ones_own(small_run, small_settings, tmp_path):
    family, config = small(small_settings, k=2)
    policy = make_policy(family, actor=OwnActor(), hidden=(8, 8))
    record = {"family": "points", "family_settings": family.settings, "config": config, "own_policy": True}
    first = Run(family, config, policy=policy, store=RunStore.create(tmp_path / "own", record))
    first.compute("policies")
    assert set(first.policies.agents[0].actor["params"]) == {"only"}
    with pytest.raises(ConfigError, match="networks of its own"):
        load(tmp_path / "own")
    again = load(tmp_path / "own", policy=policy)
    jax.tree.map(np.testing.assert_array_equal, again.policies.agents, first.policies.agents)

    run = Run(family, config, policy=policy, meta=first.meta).compute("transitions")
    np.testing.assert_array_equal(run.transitions.obs, first.transitions.obs)
    assert run.budget.meta == 0 and "meta" not in run.records
    assert run.budget.rest(0) == first.budget.rest(0) + first.budget.meta


def test_scoring_by_roll_outs_is_paid_for(small_run, small_settings):
    family, config = small(small_settings)
    estimate = dataclasses.replace(config.estimate, score="rollouts", rollout_episodes=2, subsets=8)
    run = Run(family, dataclasses.replace(config, estimate=estimate))
    run.records = {name: small_run.records[name] for name in STAGES[:3]}
    run.compute("looks")
    scoring = int(run.scored.steps)
    assert scoring == pipeline.subsets(run.config, 6).sum() * 2 * 15  # points never end before the time limit
    assert run.ours().spent == run.budget.meta + run.budget.collect + scoring
    assert not run.looked.found  # roll-outs score once
    assert run.ours().env_steps <= run.budget.total


def test_rounding_otherwise_finds_the_same(small_run):
    """Another device adds in another order, which is here a policy and features that are off by ten times the
    rounding of float32 (docs/guides/determinism.md has these bounds)."""
    run, rng = small_run, np.random.default_rng(0)
    config, names, e = run.config, run.family.task_names, run.config.estimate

    def rounded(tree):
        return jax.tree.map(lambda x: x * (1 + 1e-6 * rng.normal(size=np.shape(x))).astype(x.dtype), tree)

    params = rounded(jax.tree.map(np.asarray, learn.policy_params(run.meta)))
    features = pipeline.features(run.policy.log_prob, params, run.transitions, config, names)
    size = np.sqrt((run.features.values**2).mean())
    assert 0 < np.abs(features.values - run.features.values).max() < 1e-4 * size
    features = features._replace(values=rounded(np.asarray(features.values)))
    member = pipeline.subsets(config, run.family.n)
    scored = pipeline.score_subsets(features, run.transitions, member, e, names=names)
    judge = HeldOut(
        features,
        run.transitions,
        e,
        config.stream("deal"),
        names,
        log_prob=run.policy.log_prob,
        params=params,
    )
    affinity = pipeline.affinity(scored.scores, judge, e)
    assert np.abs(affinity.matrix - run.affinity.matrix).max() < 1e-3 * np.std(run.affinity.matrix)
    found = pipeline.choose_groups(
        affinity, judge, config, k=None, looks=pipeline.look_count(config), names=names
    )
    np.testing.assert_array_equal(found.labels, run.grouping.labels)
