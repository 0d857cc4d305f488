"""What the estimate costs, what training would, and how operations are counted."""

import dataclasses
import json
import math
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from msgspec import structs
from small import analysed, slow_but

from pgx_jax import estimate, learn
from pgx_jax.analysis import CostConfig, CostResult, by_default, estimation_cost
from pgx_jax.analysis.cost import (
    ONE_AFTER_ANOTHER,
    SIDE_BY_SIDE,
    CostTimings,
    EstimateCount,
    TimedEstimate,
    TimedTraining,
    TrainingCount,
    clock_of,
    estimated_subsets,
    of_parts,
    training_of,
)
from pgx_jax.analysis.counts import count_features, count_surrogates, count_update
from pgx_jax.analysis.operations import operations
from pgx_jax.cli import main as cli
from pgx_jax.compare.results import schema, to_plain
from pgx_jax.config import override
from pgx_jax.errors import ConfigError
from pgx_jax.report import analyses, cost
from pgx_jax.types import FIT, SCORE, SELECT

QUICK = CostConfig(updates=(1, 3), repeats=1, rows=2, alone=1)


# Counting


def test_operations_of_single_primitives():
    a, b = jnp.zeros((5, 7)), jnp.zeros((7, 3))
    assert operations(jnp.dot, a, b) == 2 * 5 * 7 * 3
    assert operations(jax.vmap(jnp.dot, (0, None)), jnp.zeros((4, 5, 7)), b) == 4 * 2 * 5 * 7 * 3
    assert operations(jax.jit(lambda x: x + x), a) == 35
    assert operations(jnp.linalg.cholesky, jnp.eye(30)) >= 30**3 / 3
    assert operations(lambda x: x.T.reshape(5, 7), jax.ShapeDtypeStruct((5, 7), jnp.float32)) == 0


def test_loops_count_as_often_as_they_run():
    looped = operations(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=6)[0], jnp.eye(4))
    assert looped == 6 * 2 * 4**3

    def unknown(x, n):
        return jax.lax.fori_loop(0, n, lambda _, c: c @ c, x)

    each = 2 * 4**3 + 2  # a turn compares and counts, too
    assert [operations(unknown, jnp.eye(4), n) for n in (0, 1, 9)] == [0, each, 9 * each]
    assert operations(unknown, jnp.eye(4), 9, once=True) == each


def collatz(x, n):
    """A loop of unknown length in each turn of a loop, behind a branch, in a compiled function."""

    def halve(x, i):
        return jax.lax.while_loop(lambda s: s[1] % 2 == 0, lambda s: (s[0] @ s[0], s[1] // 2), (x, i))

    @jax.jit
    def step(x, i):
        x, i = jax.lax.cond(i % 2 == 0, lambda: halve(x, i), lambda: (x, 3 * i + 1))
        return jax.lax.scan(lambda x, k: (halve(x, k)[0], None), x, jnp.stack([i, i + 4]))[0], i

    return jax.lax.while_loop(lambda s: s[1] > 1, lambda s: step(*s), (x, n))


def turns_of(n):
    """How often the loops of `halve` turn."""

    def halves(i):
        count = 0
        while i % 2 == 0:
            i, count = i // 2, count + 1
        return count, i

    turns = 0
    while n > 1:
        if n % 2 == 0:
            count, n = halves(n)
            turns += count
        else:
            n = 3 * n + 1
        turns += halves(n)[0] + halves(n + 4)[0]
    return turns


@pytest.mark.parametrize("n", [6, 27])
def test_loops_within_loops_count_as_plain_python_counts_them(n):
    one, more = (operations(collatz, jnp.zeros((k, k)), jnp.int32(n)) for k in (1, 2))
    assert more - one == turns_of(n) * (2 * 2**3 - 2)  # all that differs are products of matrices


def test_loops_of_a_batch_turn_until_all_are_done():
    def halve(x):
        return jax.lax.while_loop(lambda x: x > 1, lambda x: x / 2, x)

    alone = operations(halve, 2.0)
    assert operations(halve, 8.0) == 3 * alone > 0
    together = [operations(jax.vmap(halve), jnp.array(xs)) for xs in ([2.0, 2.0], [2.0, 8.0])]
    assert together[1] == 3 * together[0]


# Of a run


@pytest.fixture(scope="module")
def found(small_run):
    return estimation_cost(small_run, QUICK)


def test_a_run_is_told_what_estimate_and_training_cost(found, small_run):
    n = small_run.family.n
    assert found.subsets == 20 == len(estimated_subsets(small_run)) and found.sizes == (3, 3)
    (own,) = found.estimates
    assert own.name == "gaussian, 48"
    features = own.features + own.features_to_select
    assert features >= 2 * found.transitions * found.parameters * own.dim
    assert min(own.statistics, own.solve, own.scores) > 0
    learner = training_of(small_run, estimated_subsets(small_run)).learner
    assert found.training.policies == 20
    assert found.training.updates == small_run.budget.rest() * 3 // n // learner.steps_per_update
    assert found.meta.updates == small_run.budget.meta // found.meta.steps_per_update
    timed = found.timings
    assert timed.clock == "processor" and found.uncounted == []
    assert {name: way.policies for name, way in timed.training.items()} == {
        SIDE_BY_SIDE: 2, ONE_AFTER_ANOTHER: 1, "meta": 1,
    }  # fmt: skip
    assert len(timed.training["meta"].long) == len(timed.collecting) == 1
    ratio = found.train_all().operations / found.estimate().operations
    assert found.speed_ups()["operations"].alone == pytest.approx(ratio)
    assert 0 < found.speed_ups()["operations"].with_meta < ratio


def test_what_is_found_is_written_drawn_and_told(capsys, found, small_run, tmp_path, monkeypatch):
    told = analyses.shown("cost").sentence(found)
    assert "Estimating all 20 subsets of 3 tasks takes" in told and "1 and for 3 updates" in told
    assert "of policies 2 side by side, 1 one after another, and theta*" in told and "processor" in told
    analysed("cost", found, small_run, tmp_path, monkeypatch)
    out = capsys.readouterr().out
    assert told in out and "one after another" in out and "cost.json" in out
    assert schema(CostResult)["$defs"]["CostResult"]
    plain = to_plain(found)
    timings = plain.pop("timings")
    assert "seconds" not in json.dumps(plain) and timings["clock"]


def by_hand(operations_per_update=7.0):
    """Two of 120 policies were trained for 10 and 20 updates; each has 100."""
    way = TimedTraining(policies=2, short=[1.5, 1.0, 1.4], long=[2.0, 1.9, 2.4])  # medians 1.4 and 2.0
    each = TimedEstimate(features=[3.0], features_to_select=[1.0], surrogates_and_scores=[0.5, 0.75, 9.0])
    meta = None if operations_per_update is None else 8.0
    training, meta = (
        TrainingCount(policies=k, updates=updates, operations_per_update=count, steps_per_update=64)
        for k, updates, count in ((120, 100, operations_per_update), (1, 40, meta))
    )
    return CostResult(
        family="points", platform="cpu", parameters=5, subsets=120, sizes=(2, 3), transitions=9,
        updates=(10, 20), looks=2, collecting_updates=5, uncounted=[],
        estimates=[EstimateCount(projection="gaussian", dim=8, features=30.0, features_to_select=10.0,
                                 statistics=1.0, solve=2.0, scores=3.0)],
        training=training, meta=meta,
        timings=CostTimings(
            clock="wall", estimates=[each], affinity=[0.25], grouping=[2.0], collecting=[0.5],
            training={SIDE_BY_SIDE: way, ONE_AFTER_ANOTHER: structs.replace(way, policies=1),
                      "meta": structs.replace(way, policies=1)},
        ),
    )  # fmt: skip


def test_the_cost_of_training_is_scaled_from_what_an_update_takes():
    known = by_hand()
    assert known.train_all() == pytest.approx((120 * 100 * 7.0, 120 * 100 * 0.03))
    assert known.train_all(ONE_AFTER_ANOTHER).seconds == pytest.approx(120 * 100 * 0.06)
    assert known.estimate() == pytest.approx((36.0, 4.0))
    assert known.estimate(selecting=True) == pytest.approx((46.0, 7.0))
    assert known.before() == pytest.approx((45 * 8.0 + 46, 40 * 0.06 + 2 * 0.5 + 7))
    ups = known.speed_ups()
    assert ups["operations"] == pytest.approx((84_000 / 36, 84_000 / 442))
    assert ups[SIDE_BY_SIDE] == pytest.approx((360 / 4, 360 / 14.4))
    assert ups[ONE_AFTER_ANOTHER] == pytest.approx((720 / 4, 720 / 14.4))
    told = cost.sentence(known)
    assert "all 120 subsets of 2 to 3 tasks takes 4.0 s by the clock" in told
    assert (
        "90× and 180× as long, or 25× and 50× with meta-training, collecting and 1 earlier look" in told
        and "10 and for 20 updates (20 take 1.43 to 1.43" in told
    )
    timings = structs.replace(known.timings, estimates=known.timings.estimates * 2)
    both = structs.replace(known, estimates=known.estimates * 2, timings=timings)
    assert [str(cell) for cell in cost.table(both).columns[-2].cells] == ["2333×", "90×", "180×"] * 2
    assert "rough" not in told and [cost.times(x) for x in (0.041, 0.97, 9.97)] == ["0.041×", "1.0×", "10×"]
    slow = dict.fromkeys(known.timings.training, TimedTraining(policies=1, short=[1.0], long=[1.1]))
    rough = structs.replace(known, timings=structs.replace(known.timings, training=slow))
    assert "these times are rough: raise cost.updates" in cost.sentence(rough)
    given_ = structs.replace(known, meta=structs.replace(known.meta, updates=0.0))
    assert given_.before().seconds == pytest.approx(8.0)


def test_what_cannot_be_counted_is_left_out_and_said():
    known = structs.replace(by_hand(None), uncounted=["the environments are on the host"])
    assert math.isnan(known.speed_ups()["operations"].alone) and known.speed_ups()[SIDE_BY_SIDE].alone > 89
    told = cost.sentence(known)
    assert "In operations" not in told and "not known: the environments are on the host." in told
    assert analyses.render("cost", known).startswith(b"\x89PNG")
    flat = TimedTraining(policies=1, short=[1.0], long=[1.0])
    training = dict.fromkeys(known.timings.training, flat)
    short = structs.replace(known, timings=structs.replace(known.timings, training=training))
    assert math.isnan(short.train_all().seconds) and "raise cost.updates" in cost.sentence(short)
    assert analyses.render("cost", short).startswith(b"\x89PNG")
    assert msgspec.convert(to_plain(short), CostResult) == short


def like(run, **changes):
    """A run with something else of its own."""
    names = ("family", "config", "policy", "learner", "meta", "transitions", "features", "budget")
    return SimpleNamespace(**({name: getattr(run, name) for name in names} | changes))


def test_parameters_that_are_left_out_are_looked_at_all_the_same(small_run):
    some = of_parts(small_run.transitions, (FIT, SCORE))
    rest = of_parts(small_run.transitions, (SELECT,))
    assert len(some.action[0]) + len(rest.action[0]) == small_run.transitions.split.size
    assert {len(x[0]) for x in jax.tree.leaves(rest.obs)} == {len(rest.action[0])}
    leaves = jax.tree.leaves(learn.policy_params(small_run.meta))
    private = np.zeros(sum(x.size for x in leaves), bool)
    private[0] = True
    told = like(small_run, features=small_run.features._replace(private=private))
    for name in ("gaussian", "hadamard"):
        more, less = (count_features(run, some, name, 8) for run in (told, small_run))
        assert more == less + len(some.action[0]) * leaves[0].size
    assert count_features(told, some, "factored", 8) > count_features(small_run, some, "factored", 8)


def test_every_projection_is_counted_and_a_cheap_one_costs_less(small_run):
    some = of_parts(small_run.transitions, (FIT, SCORE))
    count = {name: count_features(small_run, some, name, 40) for name in estimate.PROJECTIONS}
    assert count["factored"] < count["gaussian"] and min(count.values()) > 0


@pytest.mark.parametrize("name", slow_but(["ppo", "maml"], "ppo"))
def test_updates_of_any_learner_are_counted(small_run, name):
    learner = learn.learners_by_name(small_run.learner)[name]
    kernels = [x.size for x in jax.tree.leaves(learn.policy_params(small_run.meta)) if x.ndim == 2]
    assert count_update(small_run, learner, np.ones(6, bool)) > 2 * sum(kernels) * learner.steps_per_update


def test_operations_of_what_is_not_traced_are_not_known(small_run, monkeypatch):
    host = like(small_run, family=SimpleNamespace(engine="host"))
    assert count_update(host, small_run.learner, np.ones(6, bool)) is None
    assert clock_of(host, QUICK) == "wall" and clock_of(small_run, QUICK) == "processor"
    rolled = like(small_run, config=override(small_run.config, {"estimate.score": "rollouts"}))
    assert count_surrogates(rolled, small_run.features, estimated_subsets(small_run)) is None
    newton = estimate.SOLVERS["newton"]

    def looks(data, stats, *args):
        return newton.solve(data, jax.tree.map(np.asarray, stats), *args)

    monkeypatch.setitem(estimate.SOLVERS, "newton", dataclasses.replace(newton, solve=looks))
    assert count_surrogates(small_run, small_run.features, estimated_subsets(small_run)) is None


def test_runs_whose_affinity_reads_no_subsets_are_told_those_it_would(small_run):
    closed = override(small_run.config, {"estimate.affinity": "closed_form"})
    np.testing.assert_array_equal(
        estimated_subsets(like(small_run, config=closed)), estimated_subsets(small_run)
    )


def test_subsets_of_uneven_sizes_count_in_updates_of_the_commonest(small_run):
    member = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]], bool)
    rest, whole = small_run.budget.rest(), training_of(small_run, member)
    learner = whole.learner
    assert whole.policies == 3 and (whole.member == member[:2]).all()
    assert whole.updates * 3 * learner.steps_per_update == pytest.approx(9 * rest / 6, rel=0.2)
    poor = like(small_run, budget=SimpleNamespace(rest=lambda: 6))
    with pytest.raises(ConfigError, match=r"2 task\(s\) 2 steps, less than an update of"):
        training_of(poor, member)


def test_bad_settings_are_refused_before_the_run_is_read(capsys, tmp_path):
    assert "cost" in by_default()
    for wrong, told in (
        (["--cost.updates", "4", "4"], r"cost.updates = \(4, 4\) must be two numbers, the smaller one first"),
        (["--cost.updates", "0", "4"], "cost.updates"),
        (["--cost.repeats", "0"], "cost.repeats = 0 must be at least 1"),
        (["--cost.rows", "0"], "cost.rows = 0 must be at least 1"),
        (["--cost.alone", "0"], "cost.alone = 0 must be at least 1"),
        (["--cost.also", "hadamard", "0"], "cost.also = hadamard 0"),
        (["--cost.also", "hadamard", "2000"], "cost.also = hadamard 2000: .* at most 1024 dimensions"),
        (["--cost.also", "gaussian", "99999"], "cost.also = gaussian 99999: .* at most 65536"),
    ):
        assert cli.main(["analyse", str(tmp_path), "cost", *wrong]) == 2
        err = capsys.readouterr().err
        assert re.search(told, err), err


def test_a_single_task_has_no_subsets(small_run, no_training):
    family = SimpleNamespace(n=1, name="alone", engine="device")
    with pytest.raises(ConfigError, match="'alone' has 1 task: there are no subsets"):
        estimation_cost(like(small_run, family=family), QUICK)
