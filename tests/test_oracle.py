"""The best of all partitions, by training every subset."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from small import Ears, copy_of, plain, small

import pgx_jax
from pgx_jax import Config, Run, grouping, learn, load, make_family, resume
from pgx_jax.compare import oracle
from pgx_jax.compare.budget import make_budget
from pgx_jax.compare.judging import play
from pgx_jax.compare.methods import Contest, baselines
from pgx_jax.config import COMPARE
from pgx_jax.runs.stages import needed
from pgx_jax.runs.store import RunStore

BELL = {1: 1, 2: 2, 3: 5, 4: 15, 5: 52}


@pytest.fixture(scope="module")
def found(small_settings, tmp_path_factory):
    """A run on four tasks in two planted groups, with all that may be compared; read it only."""
    settings, config = small_settings
    family = make_family("points", **(settings | {"n_tasks": 4}))
    config = dataclasses.replace(
        config, compare="full", similarities=("dot",), random_draws=1, test_tasks=0, looks=1, seed=5
    )
    return pgx_jax.run(family, config, out=tmp_path_factory.mktemp("runs") / "oracle")


@pytest.mark.parametrize("n", BELL)
def test_there_are_as_many_partitions_as_bell_numbers(n):
    partitions = grouping.all_partitions(n)
    assert len(partitions) == BELL[n] == len({tuple(grouping.canonical(row)) for row in partitions})


def test_every_subset_is_trained_once_with_its_share(found):
    pool, total = found.oracle.pool, found.budget.total
    assert len(pool.rows) == 15 == len({row.member for row in pool.rows}) and len(found.oracle.means) == 15
    for row in pool.rows:
        unit = row.trained_by(found.learners).steps_per_update
        assert row.steps == sum(row.member) * total // 4 // unit * unit and not row.continues
    of_all = {row for name in ("multitask", "single_task", "true_groups") for row in _rows(found, name)}
    assert of_all <= set(pool.rows) and not set(pool.rows) & set(found.comparisons.rows)


def _rows(run, name):
    return run.baselines()[name][0].rows


def test_a_partition_earns_what_its_policies_earn(found):
    """One policy and one task after the other, on episodes that the methods are not judged by."""
    best, key = found.oracle, found.config.stream("oracle")
    agents = {row.member: agent for row, agent in zip(best.pool.rows, best.pool.agents, strict=True)}
    for labels, mean in zip(best.partitions, best.means, strict=True):
        earned = []
        for task, group in enumerate(labels):
            agent = jax.tree.map(lambda x: np.asarray(x)[None], agents[tuple((labels == group).tolist())])
            known = agent, np.zeros(1, int), np.array([task]), key
            played = learn.evaluate(found.policy, found.family, *known, episodes=found.config.episodes)
            earned.append(played.returns.mean())
        assert mean == pytest.approx(np.mean(earned), abs=1e-3)
    assert best.means.max() == best.means[(best.partitions == best.labels).all(1)]
    judged = play(best.pool, found.policies_by_name, found.learners, found.family, found.config)
    assert best.spent == judged.steps == 32 * found.config.episodes * found.family.horizon
    first = best.pool.rows[0]
    assert sum(judged.values[first, task].mean() for task in range(4)) / 4 != pytest.approx(best.means[0])


def test_it_finds_the_planted_groups_and_pays_for_it(found):
    results, total = found.results, found.budget.total
    np.testing.assert_array_equal(found.oracle.labels, found.family.true_groups)
    again, search = results.methods["oracle"], results.methods["oracle_search"]
    assert again.groups == search.groups == results.true_groups
    assert again.equal_steps and 0.9 * total < again.env_steps <= total and "not counted" in again.note
    assert not search.equal_steps and search.label and "luck" in search.note
    assert (
        search.env_steps
        == found.oracle.steps
        == sum(r.steps for r in found.oracle.pool.rows) + int(found.oracle.spent)
    )
    assert search.env_steps > 7.5 * total  # 32 / 4 shares, but for whole updates
    assert search.mean == pytest.approx(results.methods["true_groups"].mean)
    assert again.mean == pytest.approx(results.methods["true_groups_continued"].mean)
    page = (found.store.path / "report.html").read_text()
    assert "Best of all partitions, with its search" in page


def test_it_is_resumed(found, tmp_path):
    path = copy_of(found, tmp_path)
    store = RunStore.open(path)
    for stage in ("oracle", "comparisons"):
        store.remove(stage)
    (path / "results.json").unlink()
    ears = Ears()
    resume(path, listener=ears)
    assert [s for what, s in ears.events if what == "finish"] == ["oracle", "comparisons", "evaluation"]
    assert plain(path) == plain(found.store.path)


def test_a_run_of_older_code_goes_on_without_it(found, tmp_path, no_training):
    path = copy_of(found, tmp_path)
    RunStore.open(path).remove("oracle")
    (path / "results.json").unlink()
    run = load(path)
    assert run.oracle is None and "oracle" not in run.baselines()


@pytest.mark.parametrize("compare", COMPARE)
def test_it_is_left_out_where_it_would_be_too_much(small_settings, compare):
    settings, config = small_settings[0], small(small_settings, compare=compare)[1]
    few, many = (Run(make_family("points", **(settings | {"n_tasks": n})), config) for n in (5, 6))
    assert oracle.searches(few.config, 5) == (compare == "full")
    assert not oracle.searches(many.config, 6) and not oracle.searches(few.config, 1)
    names = [needed("evaluation", compares=True, left_out=run._left_out()) for run in (few, many)]
    assert ("oracle" in names[0]) == (compare == "full") and "oracle" not in names[1]


FAMILY = make_family("points", n_tasks=4, n_groups=2, horizon=15)


@hypothesis(derandomize=True, deadline=None, max_examples=10)
@given(best=st.lists(st.integers(0, 3), min_size=4, max_size=4), searching=st.integers(400_000, 900_000))
def test_what_the_search_took_is_counted(best, searching):
    config = Config(compare="full", steps_per_task=20_480, similarities=())
    budget = make_budget(config, FAMILY, config.ppo)
    contest = Contest(
        config, budget, {"ppo": config.ppo}, np.zeros(4, int), best=np.array(best), searching=searching
    )
    made = baselines(contest)
    assert made["oracle_search"][0].env_steps == searching and not made["oracle_search"][0].equal_steps
    assert made["oracle"][0].env_steps <= budget.total and made["oracle"][0].equal_steps
    assert "oracle" not in baselines(contest._replace(best=None))
    given_one = contest._replace(budget=make_budget(config, FAMILY, config.ppo, own_meta=True))
    (again,) = baselines(given_one)["oracle"]
    assert not again.equal_steps and "search" in again.note and "given meta-policy" in again.note
