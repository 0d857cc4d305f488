"""Saved runs: resumed from every stage, regrouped, and put to use."""

import dataclasses
import json
import re
import shutil

import jax
import jsonschema
import numpy as np
import pytest
from small import STAGES, Ears, copy_of, plain, slow_but, small, told

import pgx_jax
from envs.points import PointMass
from pgx_jax import ConfigError, DataError, load, resume
from pgx_jax.compare import results
from pgx_jax.learn import make_policy
from pgx_jax.runs.provenance import identity
from pgx_jax.runs.saved import regroup
from pgx_jax.runs.store import RunStore
from pgx_jax.types import FIT, SCORE


def test_a_finished_run_resumes_without_training(small_run, tmp_path, no_training):
    path = copy_of(small_run, tmp_path)
    (path / "results.json").unlink()
    (path / "report.html").unlink()
    ears = Ears()
    resume(path, listener=ears)
    assert plain(path) == plain(small_run.store.path) and (path / "report.html").stat().st_size > 10_000
    assert {stage for _, stage in ears.events} <= {"evaluation"}


@pytest.mark.parametrize("last", slow_but(STAGES[:-1], "meta", "features", "grouping"))
def test_resuming_from_every_stage(small_run, tmp_path, last):
    """What is on disk is not computed again, the rest is, and comes out the same."""
    path = copy_of(small_run, tmp_path)
    store = RunStore.open(path)
    later = [stage for stage in store.stages() if stage not in STAGES[: STAGES.index(last) + 1]]
    for stage in later:
        store.remove(stage)
    ears = Ears()
    run = load(path, listener=ears).compute("policies")
    jax.tree.map(np.testing.assert_array_equal, run.policies.agents, small_run.policies.agents)
    np.testing.assert_array_equal(run.grouping.labels, small_run.grouping.labels)
    wanted = [
        stage for stage in STAGES[STAGES.index(last) + 1 :] if stage != "stability"
    ]  # no policy needs it
    assert [s for what, s in ears.events if what == "finish"] == wanted
    assert store.has("policies") and load(path).ours().rows == small_run.ours().rows


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
        with pytest.raises(DataError, match="^features: no luck$"):
            pgx_jax.run(family, config, out=tmp_path / "run")
    assert RunStore.open(tmp_path / "run").stages() == ["meta", "transitions"]
    known = re.escape(str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=f"'features' is not computed yet.*pgx-jax resume {known}"):
        load(tmp_path / "run").record("features")
    run = resume(tmp_path / "run")
    assert told(run)["k"] == 2 and (tmp_path / "run" / "report.html").exists()


def test_regrouping(small_run, no_training, tmp_path):
    run = load(small_run.store.path)
    same = regroup(run, run.config)
    found = small_run.results
    assert same.groups == found.groups and same.agreement.nmi == 1.0
    assert same.gain.predicted == found.gain.predicted and same.path == found.path
    assert regroup(run, dataclasses.replace(run.config, k=4)).k == 4
    for change in ({"affinity": "aggregate"}, {"affinity": "datamodel"}, {"affinity": "closed_form"}):
        estimate = dataclasses.replace(run.config.estimate, **change)
        found = regroup(run, dataclasses.replace(run.config, estimate=estimate))
        assert found.groups == small_run.results.groups, change
    assert found.affinity.coverage is None  # of the last
    grouping = dataclasses.replace(run.config.grouping, trace_penalty=1e6)
    assert regroup(run, dataclasses.replace(run.config, grouping=grouping)).k == 1
    refused = {"dim": 7}, {"projection": "sparse"}, {"steps": 64}, {"thin": 2}, {"score": "rollouts"}
    for change in refused:
        estimate = dataclasses.replace(run.config.estimate, **change)
        with pytest.raises(ConfigError):
            regroup(run, dataclasses.replace(run.config, estimate=estimate))


def test_regrouping_keeps_the_scores_of_roll_outs(small_run, small_settings, no_training):
    family, config = small(small_settings)
    rollouts = dataclasses.replace(config.estimate, score="rollouts", rollout_episodes=2)
    run = pgx_jax.Run(family, dataclasses.replace(config, estimate=rollouts))
    run.records = {
        name: small_run.records[name] for name in STAGES[:4]
    }  # as if rolled out: scores are scores
    for change in ({"k": 4}, {"estimate": dataclasses.replace(rollouts, affinity="aggregate")}):
        found = regroup(run, dataclasses.replace(run.config, **change))
        assert found.k == change.get("k", 2)
    changed = dataclasses.replace(rollouts, rollout_episodes=3)
    with pytest.raises(ConfigError, match="no environment steps"):
        regroup(run, dataclasses.replace(run.config, estimate=changed))
    unread = dataclasses.replace(changed, affinity="closed_form")
    assert regroup(run, dataclasses.replace(run.config, estimate=unread)).k == 2


def test_a_run_whose_affinity_needs_no_subsets(small_run, small_settings, tmp_path, monkeypatch):
    """The same groups, nothing said of subsets that were not read, and the same when it is resumed."""
    _, config = small_settings
    estimate = dataclasses.replace(config.estimate, affinity="closed_form")
    family, config = small(small_settings, estimate=estimate)
    texts = {}
    heard = pgx_jax.Listener()
    heard.finish = lambda stage, seconds, text: texts.update({stage: text})
    run = pgx_jax.run(family, config, out=tmp_path / "run", listener=heard)
    assert run.scored.scores.member.shape == (0, 6)
    expected = pgx_jax.pipeline.similarity(small_run.held_out, "closed_form")
    jax.tree.map(np.testing.assert_array_equal, run.affinity._replace(beside=None), expected)
    whitened = small_run.held_out.similarity("whitened", (FIT, SCORE))
    np.testing.assert_array_equal(run.affinity.beside[0], whitened)
    np.testing.assert_array_equal(run.grouping.labels, small_run.grouping.labels)
    assert texts["affinity"].endswith("without subsets") and texts["scores"].startswith("no subsets")
    found = plain(tmp_path / "run")
    assert found["affinity"]["coverage"] is None and found["diagnostics"]["affinity_ci95"] is None
    assert found["diagnostics"]["subsets"] == 0
    jsonschema.validate(json.loads((tmp_path / "run" / "results.json").read_text()), results.schema())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "subsets that contain both" not in page
    assert "subsets that contain both" in (small_run.store.path / "report.html").read_text()
    for stage in ("affinity", "grouping"):
        run.store.remove(stage)
    monkeypatch.setattr(pgx_jax.estimate, "affinity", None)  # not called
    assert told(resume(tmp_path / "run")) | {"timings": None} == told(run) | {"timings": None}
    regrouped = regroup(load(tmp_path / "run"), dataclasses.replace(config, k=3))
    assert regrouped.k == 3 and regrouped.affinity.coverage is None
    monkeypatch.undo()
    sampled = dataclasses.replace(estimate, affinity="per_task")
    regrouped = regroup(load(tmp_path / "run"), dataclasses.replace(config, k=3, estimate=sampled))
    np.testing.assert_allclose(regrouped.affinity.matrix, small_run.affinity.matrix, rtol=1e-5)


def test_a_meta_policy_of_ones_own_is_saved_with_its_run(small_run, small_settings, tmp_path):
    family, config = small(small_settings, k=2)
    made = pgx_jax.run(family, config, meta=small_run.meta, out=tmp_path / "run")
    RunStore.open(tmp_path / "run").remove("policies")
    again = resume(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, again.policies.agents, made.policies.agents)
    assert again.budget.meta == 0 and plain(tmp_path / "run")["groups"] == told(made)["groups"]


def test_a_saved_policy_loads_and_acts(small_run, no_training):
    run = load(small_run.store.path)
    family, name = run.family, run.family.task_names[4]
    agent = run.agent_for(name)
    state, obs = family.env.reset(jax.random.PRNGKey(0), jax.tree.map(lambda x: x[4], family.tasks))
    action = run.policy.act(agent, obs)
    assert family.action_space.contains(action.astype(np.float32))
    goal = np.asarray(family.tasks.goal[4])
    assert action @ goal / np.linalg.norm(action) / np.linalg.norm(goal) > 0.5  # it sets out for its goal
    drawn = [run.policy.act(run.meta, obs, key=jax.random.PRNGKey(i)) for i in range(8)]
    assert len(np.unique(drawn, axis=0)) > 1
    with pytest.raises(ConfigError, match="no task 'nobody'"):
        run.agent_for("nobody")


@dataclasses.dataclass(frozen=True)
class Elsewhere(PointMass):
    """Another environment with the same tasks and spaces."""


def test_a_run_goes_on_with_what_it_was_made_with_alone(small_run, small_settings, tmp_path, no_training):
    path = copy_of(small_run, tmp_path)
    family, config = small(small_settings)
    other = dataclasses.replace(family, env=Elsewhere())
    with pytest.raises(ConfigError, match="another environment: PointMass, not Elsewhere; pass the family"):
        load(path, family=other)
    record = RunStore.open(path).config
    mine = record | {"identity": identity(other)}  # as if the run had been made with it
    RunStore(path).write_json("config.json", mine)
    with pytest.raises(ConfigError, match="another environment: Elsewhere, not PointMass"):
        resume(path)
    assert load(path, family=other).family is other
    RunStore(path).write_json("config.json", record | {"family": "mine"})
    with pytest.raises(ConfigError, match="family 'mine', which is not registered.*resume.'.*', family=f"):
        resume(path)
    linear = make_policy(family, hidden=(4,))
    own = record | {"identity": identity(family, linear), "own_policy": True}
    RunStore(path).write_json("config.json", own)
    with pytest.raises(ConfigError, match="another policy.*pass the run's own networks"):
        load(path, policy=make_policy(family, hidden=(8,)))
    assert load(path, policy=make_policy(family, hidden=(4,))).policy == linear


def test_a_run_goes_on_with_its_own_policies_and_learners_alone(
    small_run, small_settings, tmp_path, no_training
):
    path = copy_of(small_run, tmp_path)
    family, config = small(small_settings)
    record = RunStore.open(path).config
    given = {
        "policies": {"wide": make_policy(family, hidden=(16,))},
        "learners": {"ppo": config.ppo.replace(clip=0.1)},
    }
    own = record | {"identity": identity(family, **given)}  # as if the run had been made with them
    RunStore(path).write_json("config.json", own)
    assert load(path, **given).learner.clip == 0.1
    for change, words in (
        (
            {"learners": {"ppo": config.ppo.replace(clip=0.3)}},
            "learner 'ppo': clip=0.1, not clip=0.3; .* as learners=",
        ),
        ({"learners": None}, "learner 'ppo': .*, not none; pass the run's own as learners="),
        ({"policies": {"wide": make_policy(family, hidden=(8,))}}, "policy 'wide': .*; .* as policies="),
        ({"learners": given["learners"] | {"mine": config.ppo}}, "learner 'mine': none, not"),
    ):
        with pytest.raises(ConfigError, match=f"was made with another {words}"):
            load(path, **(given | change))
    older = {name: x for name, x in own["identity"].items() if name not in given}
    RunStore(path).write_json("config.json", own | {"identity": older})
    assert load(path, learners={"ppo": config.ppo.replace(clip=0.3)}).learner.clip == 0.3


def test_a_run_of_older_code_goes_on_by_its_own_rule(small_run, tmp_path, no_training):
    """It had neither the rule of batches nor the stage of clustering, nor asked splits for less where parts
    of the data agree; its results are of another version."""
    folder = copy_of(small_run, tmp_path)
    saved = json.loads((folder / "config.json").read_text())
    for name in ("min_updates", "collect_fraction", "group_entropy"):
        del saved["config"][name]
    saved["config"]["grouping"] |= {"min_gain": 0.003, "min_ratio": 0.9}  # the first nothing reads any more
    del saved["config"]["grouping"]["agreed_ratio"]
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"schema_version": 1}))
    (folder / "config.json").write_text(json.dumps(saved))
    (folder / "checksums.json").unlink()
    shutil.rmtree(folder / "stages" / "clustering")
    run = resume(folder)
    assert run.results.groups == small_run.results.groups and not {*run.results.methods} & {"em"}
    assert run.config.grouping.agreed_ratio == run.config.grouping.min_ratio == 0.9
    task = run.family.task_names[0]
    for x, y in zip(*(jax.tree.leaves(r.agent_for(task)) for r in (run, small_run)), strict=True):
        np.testing.assert_array_equal(x, y)
    later = load(folder)
    later.config = dataclasses.replace(later.config, steps_per_task=5000)
    later.spends = dataclasses.replace(later.spends, total=30_000)
    with pytest.raises(DataError, match="run it anew"):
        later.agent_for(task)


def test_a_folder_with_contents_is_refused_before_any_work(small_settings, tmp_path, no_training):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="already has contents"):
        pgx_jax.run(*small(small_settings), out=tmp_path)
    with pytest.raises(ConfigError, match="holds no run"):
        load(tmp_path)
