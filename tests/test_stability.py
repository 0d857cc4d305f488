"""How certain affinity and groups are: draws against loops, and against everything anew."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pgx_jax import Config, grouping, pipeline, regroup
from pgx_jax.config import override
from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate import (
    CrossFit,
    EstimateConfig,
    basic_interval,
    bootstrap,
    can_draw,
    draw_trajectories,
    resampled_affinity,
    signed_weights,
    similarity,
)
from pgx_jax.grouping.rounding import refine, spectral
from pgx_jax.grouping.sdp import standardise
from pgx_jax.held_out import HeldOut
from pgx_jax.runs.stages import STAGES
from pgx_jax.runs.store import RunStore
from pgx_jax.stability import stability
from pgx_jax.types import FIT, SCORE

KEY = np.array([0, 3], np.uint32)
MEMBER = np.array([list(map(int, f"{i:04b}")) for i in range(1, 16)], bool)
MEMBER = MEMBER[MEMBER.sum(1) == 3]
CONFIG = EstimateConfig(l2=3.0)


@pytest.fixture(scope="module", params=[None, 2], ids=["own sources", "shared sources"])
def arranged(request, make_logged):
    transitions, features = make_logged(count=500, sources=request.param)
    return CrossFit(features, transitions, CONFIG, KEY)


def times_of(data, drawn, task):
    """How often each transition of a task's source is drawn: [N]."""
    t = data.transitions
    source = int(t.source[task])
    each, mine = int(t.trajectory.max()) + 1, data.task == task
    count = dict(zip(data.trajectory[mine] - source * each, drawn[mine], strict=True))
    return np.array([count[number] for number in t.trajectory[source]], float)


def test_as_many_trajectories_are_drawn_of_every_source_and_part(arranged):
    drawn = draw_trajectories(arranged, KEY, 40)
    np.testing.assert_array_equal(drawn, draw_trajectories(arranged, KEY, 40))
    assert drawn.shape == (40, len(arranged.task)) and drawn.max() > 2 and can_draw(arranged)
    for task, part in itertools.product(range(4), range(3)):
        own = drawn[:, arranged.rows_of(task, part)]
        assert (own.sum(1) == own.shape[1]).all()
    sources = arranged.transitions.source
    for i, j in itertools.combinations(range(4), 2):
        mine, others = (drawn[:, arranged.task == task] for task in (i, j))
        same = mine.shape == others.shape and np.array_equal(mine, others)
        assert same == (sources[i] == sources[j])


def test_too_few_trajectories_are_not_drawn_from(make_logged):
    transitions, features = make_logged(count=120)
    transitions = transitions._replace(
        trajectory=np.tile(np.arange(120) // 30, (4, 1)),
        split=np.tile((np.arange(120) // 30 % 3).astype(np.int8), (4, 1)),
    )
    data = CrossFit(features, transitions, CONFIG, KEY)
    assert not can_draw(data)
    with pytest.raises(DataError, match="source 0 has 2 trajectories .* too few to draw from: .*resamples"):
        draw_trajectories(data, KEY, 3)


def gradients(data, drawn, part, dealt):
    """b [n, d] of one draw of a part, by a loop over tasks."""
    t, g = data.transitions, np.asarray(data.features.values, float)
    a, found = signed_weights(t).astype(float), []
    for i, source in enumerate(t.source):
        times = times_of(data, drawn, i)
        scale = np.sqrt(np.average((a[i] - np.average(a[i], weights=times)) ** 2, weights=times))
        weight = times * (t.split[source] == part)
        if dealt and data.share is not None:
            weight = weight * data.share[i]
        found.append((weight * a[i] / scale) @ g[source] / 2 / weight.sum())
    return np.array(found)


def test_the_affinity_of_a_draw_is_that_of_loops_over_subsets(arranged):
    """Curvatures held at those of all data."""
    drawn = draw_trajectories(arranged, KEY, 3)
    got = resampled_affinity(arranged, drawn, CONFIG, MEMBER)
    for matrix, row in zip(got, drawn, strict=True):
        total, count = np.zeros((4, 4)), np.zeros((4, 4))
        for fitted, judge in ((FIT, SCORE), (SCORE, FIT)):
            b = {part: gradients(arranged, row, part, dealt=False) for part in (FIT, SCORE)}
            h = {p: np.asarray(arranged.statistics([p]).h, float).mean(0) for p in (FIT, SCORE)}
            ridge = CONFIG.l2 * np.trace(h[fitted]) / 40 * np.eye(12)
            for subset in MEMBER:
                step = np.linalg.solve(h[fitted] + ridge, b[fitted][subset].mean(0))
                f = b[judge] @ step - step @ h[judge] @ step / 2
                for i, j in itertools.product(np.flatnonzero(subset), repeat=2):
                    total[i, j] += (f[i] + f[j]) / 2
                    count[i, j] += 1
        np.testing.assert_allclose(matrix, total / count, rtol=2e-3, atol=1e-5)


def test_the_closed_form_of_a_draw_is_the_similarity_of_its_gradients(arranged):
    config = replace(CONFIG, affinity="closed_form")
    drawn = np.concatenate([np.ones((1, len(arranged.task))), draw_trajectories(arranged, KEY, 2)])
    got, both, off = resampled_affinity(arranged, drawn, config), (FIT, SCORE), ~np.eye(4, dtype=bool)
    stats = arranged.statistics(both)
    read = np.stack([arranged.parts[part].read for part in both])
    for matrix, row in zip(got, drawn, strict=True):
        parts = [gradients(arranged, row, part, dealt=True) for part in both]
        b = sum(share[:, None] * part for share, part in zip(read / read.sum(0), parts, strict=True))
        expected = similarity(b, stats.h, "closed_form", config.l2)
        np.testing.assert_allclose(matrix[off], expected[off], rtol=2e-3, atol=1e-5)


def anew(data, drawn):
    """The affinity of one draw with everything anew: advantages standardised, curvatures of each task, ridge,
    logistic losses. [4, 4]."""
    t, g = data.transitions, np.asarray(data.features.values, float)
    total, count = np.zeros((4, 4)), np.zeros((4, 4))
    times = np.stack([times_of(data, drawn, i) for i in range(4)])
    mean = (times * t.advantage).sum(1, keepdims=True) / times.sum(1, keepdims=True)
    variance = (times * (t.advantage - mean) ** 2).sum(1, keepdims=True) / times.sum(1, keepdims=True)
    a = (t.advantage - mean) / np.sqrt(variance)
    inside = {part: times * (t.split == part) for part in (FIT, SCORE)}
    w = {part: x / x.sum(1, keepdims=True) for part, x in inside.items()}
    for fitted, judge in ((FIT, SCORE), (SCORE, FIT)):
        b = np.einsum("nt,ntd->nd", w[fitted] * a, g) / 2
        h = np.einsum("nt,ntd,nte->nde", w[fitted] * np.abs(a), g, g) / 4
        ridge = CONFIG.l2 * np.trace(h.mean(0)) / 40 * np.eye(12)
        for subset in MEMBER:
            step = np.linalg.solve(h[subset].mean(0) + ridge, b[subset].mean(0))
            loss = np.abs(a) * (np.log(2) - np.logaddexp(0, -np.sign(a) * (g @ step)))
            f = (w[judge] * loss).sum(1)
            for i, j in itertools.product(np.flatnonzero(subset), repeat=2):
                total[i, j] += (f[i] + f[j]) / 2
                count[i, j] += 1
    return total / count


def test_held_curvatures_matter_little(make_logged):
    """The spread of the affinity, against everything anew for transitions that are drawn again; where a few
    hundredths of the advantages' variance are signal, as they are of a policy that trains on."""
    transitions, features = make_logged(count=500)
    noise = np.random.default_rng(0).normal(size=transitions.advantage.shape)
    scale = transitions.advantage.std(1, keepdims=True)
    transitions = transitions._replace(advantage=transitions.advantage / scale + 3 * noise)
    data = CrossFit(features, transitions, CONFIG, KEY)
    drawn = draw_trajectories(data, KEY, 120)
    quick, upper = resampled_affinity(data, drawn, CONFIG, MEMBER), np.triu_indices(4, 1)
    slow = np.stack([anew(data, row) for row in drawn])
    quick, slow = (each[:, upper[0], upper[1]] for each in (quick, slow))
    for ours, theirs in zip(quick.T, slow.T, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.9
        assert 0.8 < ours.std() / theirs.std() < 1.25


def test_basic_intervals_turn_the_draws_around():
    draws = np.array([0.0, 1.0, 2.0, 3.0, 10.0])[:, None, None]
    low, high = basic_interval(np.array([[5.0]]), np.array([[2.0]]), draws, level=0.5)
    assert (low.item(), high.item()) == (5 - (3 - 2), 5 - (1 - 2))
    apart = basic_interval(
        np.eye(2), np.zeros((2, 2)), draws * np.array([[1.0, 10.0], [0.0, 1.0]]), level=0.5
    )
    np.testing.assert_allclose(apart, [[[-2, -30], [0, -2]], [[0, -10], [0, 0]]])


def test_who_reads_nothing_of_a_draw_is_as_it_was(arranged):
    whole = np.ones((1, len(arranged.task)))
    drawn, scale = whole.copy(), np.full((1, 4), 2.0)
    drawn[:, arranged.rows_of(1, FIT)] = 0
    for dealt in (True, False):
        found, expected = (bootstrap._sums(arranged, FIT, x, scale, dealt=dealt) for x in (drawn, whole))
        np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-6)


LABELS = hnp.arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(2, 7)), elements=st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(LABELS, st.randoms(use_true_random=False))
def test_co_membership_is_a_frequency_of_pairs(labels, random):
    together, n = grouping.co_membership(labels), labels.shape[1]
    assert (together == together.T).all() and (np.diag(together) == 1).all()
    assert together.min() >= 0 and together.max() <= 1
    i, j = random.randrange(n), random.randrange(n)
    assert together[i, j] == pytest.approx(np.mean([row[i] == row[j] for row in labels]))
    order = random.sample(range(n), n)
    np.testing.assert_array_equal(grouping.co_membership(labels[:, order]), together[np.ix_(order, order)])
    np.testing.assert_array_equal(grouping.co_membership(3 - labels), together)
    first = grouping.canonical(labels[0])
    found = grouping.cohesion(together, first)
    for group, (within, least, across) in enumerate(zip(*found, strict=True)):
        mine = np.flatnonzero(first == group)
        pairs = [together[a, b] for a, b in itertools.combinations(mine, 2)]
        outer = [together[a, b] for a in mine for b in np.flatnonzero(first != group)]
        assert (within, least) == ((pytest.approx(np.mean(pairs)), min(pairs)) if pairs else (within, least))
        assert np.isnan(within) == (not pairs) and np.isnan(across) == (not outer)
        assert not outer or across == max(outer)
    names = [one.task for one in grouping.undecided(together, first)]
    moved = [order[one.task] for one in grouping.undecided(together[np.ix_(order, order)], first[order])]
    assert set(names) == set(moved)


def test_tasks_are_undecided_that_may_as_well_be_elsewhere():
    labels = np.array([0, 0, 0, 1, 1, 2])
    draws = np.tile(labels, (10, 1))
    assert grouping.undecided(grouping.co_membership(draws), labels) == []
    draws[:3, 2] = 1  # and with that its companions are without it, but nowhere else
    (found,) = grouping.undecided(grouping.co_membership(draws), labels)
    assert found == grouping.Undecided(2, pytest.approx(0.7), 1, pytest.approx(0.3))
    draws[:4, 5] = 1
    first, second = grouping.undecided(grouping.co_membership(draws), labels)
    assert (first.task, first.other) == (5, 1) and np.isnan(first.own) and second.task == 2
    assert grouping.undecided(np.ones((3, 3)), np.zeros(3, int)) == []


def test_partitions_nearby_are_reached_from_eigenvectors_and_from_the_labels():
    truth, start = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 0, 1])
    noise = np.random.default_rng(0).normal(size=(6, 6))
    matrices = [(truth[:, None] == truth) + 0.1 * noise, noise]
    found = grouping.nearby(matrices, start)
    assert len(np.unique(found, axis=0)) == len(found) and (found.max(1) == 1).all()
    for U in map(standardise, matrices):
        for one in (refine(U, start), refine(U, spectral(U, 2))):
            assert (found == one).all(1).any()
    assert (found == truth).all(1).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(2, 8), st.integers(0, 99), st.sampled_from([(1.0, 0.1), (0.1, 0.6)]))
def test_the_rule_of_a_draw_is_that_of_the_choice(count, candidates, seed, rule):
    """Against `select` on trajectories whose differences have the same standard error."""
    rng = np.random.default_rng(seed)
    values, k = rng.normal(size=(count, candidates)), rng.integers(1, 4, candidates)
    chosen = grouping.chosen_of_each(values, k, standard_errors=rule[0], min_share=rule[1])
    spread = np.cov(values.T).reshape(candidates, candidates)
    for row, index in zip(values, chosen, strict=True):
        best, allowed = int(row.argmax()), []
        for c in range(candidates):
            error = np.sqrt(max(spread[c, c] + spread[best, best] - 2 * spread[c, best], 0))
            whole = max([row[best] - row[one] for one in range(candidates) if k[one] == 1], default=0)
            if row[best] - row[c] <= max(rule[0] * error, rule[1] * whole) + 1e-12 * np.abs(values).max():
                allowed.append(c)
        least = min(k[c] for c in allowed)
        assert index == max((c for c in allowed if k[c] == least), key=lambda c: row[c])


@pytest.fixture(scope="module")
def group(make_logged):
    """(groups, order of the tasks) -> a grouping into two, and how certain it is."""

    def grouped(groups, order):
        transitions, features = make_logged(n=6, count=500, groups=groups, seed=2)
        transitions = transitions._replace(
            **{name: getattr(transitions, name)[order] for name in ("advantage", "trajectory", "split")}
        )
        features = features._replace(values=features.values[order])
        config = override(Config(k=2), {"grouping.resamples": 60, "estimate.affinity": "closed_form"})
        held_out = HeldOut(features, transitions, config.estimate, KEY)
        affinity = pipeline.affinity(None, held_out, config.estimate)
        found = pipeline.choose_groups(affinity, held_out, config, k=2, kind=None)
        return found, affinity, stability(affinity, held_out, found, config)

    return grouped


def test_planted_groups_are_certain_in_any_order_and_made_up_ones_are_not(group):
    order = np.array([3, 0, 5, 1, 2, 4])
    for tasks in (np.arange(6), order):
        found, affinity, certain = group(2, tasks)
        same = tasks[:, None] % 2 == tasks % 2
        np.testing.assert_array_equal(certain.together, same)
        assert certain.same_k is None and len(certain.labels) == 60
        off = ~np.eye(6, dtype=bool)
        assert ((certain.low <= certain.high) & (certain.low < affinity.matrix + 1))[off].all()
        assert (certain.low[same & off].min()) > certain.high[~same].max()
    found, _, unclear = group(1, np.arange(6))
    cohesion = grouping.cohesion(unclear.together, found.labels)
    assert np.nanmin(cohesion.least) < 0.9 and grouping.undecided(unclear.together, found.labels)


def test_a_run_tells_how_certain_it_is(small_run, no_training):
    run, found = small_run, small_run.stability
    told = run.results.stability
    assert told.resamples == len(found.labels) == run.config.grouping.resamples
    assert told.groups == run.results.groups and told.undecided == []
    np.testing.assert_allclose(told.together, found.together)
    assert 0 <= told.same_k <= 1 and told.same_groups == 1 == told.by_group[0].least
    low, high = (np.array(x, float) for x in (told.affinity_ci95.low, told.affinity_ci95.high))
    assert ((low < run.affinity.matrix) & (run.affinity.matrix < high)).all()
    again = regroup(run, replace(run.config, k=3)).stability
    assert len(again.groups) == 3 and again.same_k is None
    assert np.mean([group.within for group in again.by_group if group.within is not None]) < 1
    off = override(run.config, {"grouping.resamples": 0})
    assert regroup(run, off).stability is None


def test_a_run_keeps_that_nothing_was_drawn(tmp_path):
    store, kind = RunStore.create(tmp_path / "run", {}), STAGES["stability"].record
    store.save("stability", None)
    assert store.has("stability") and store.load("stability", kind) is None


def test_draws_that_tell_nothing_are_refused():
    with pytest.raises(ConfigError, match="resamples = 1: at least 2"):
        override(Config(), {"grouping.resamples": 1})
