"""Cross-fitted gains against loops over trajectories, and their noise against leaving each out."""

import jax
import numpy as np
import pytest

from pgx_jax.errors import DataError
from pgx_jax.estimate import (
    OUTER,
    PARTS,
    CrossFit,
    EstimateConfig,
    Way,
    crossfit,
    fit,
    heldout,
    inner,
    signed_weights,
)
from pgx_jax.grouping import paired_difference
from pgx_jax.types import FIT, SCORE, SELECT

KEY = jax.random.PRNGKey(3)
CONFIG = EstimateConfig(l2=0.1, ridge="mean")
MEMBER = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]], bool)
LABELS = np.array([0, 1, 0, 1])


@pytest.fixture(scope="module", params=[None, 2, 1], ids=["own sources", "shared sources", "one source"])
def logged(request, make_logged):
    return make_logged(count=500, sources=request.param)


def one(part):
    """A way that fits the two parts other than ``part``."""
    return OUTER[PARTS.index(part)]


@pytest.mark.parametrize("ridge", ["mean", "sum"])
@pytest.mark.parametrize("way", [one(SELECT), inner(SCORE)[0]], ids=["two", "one"])
def test_rows_average_to_the_heldout_score(logged, way, ridge):
    features, transitions = logged[1], logged[0]
    config = EstimateConfig(l2=0.1, ridge=ridge)
    data = CrossFit(features, transitions, config, KEY)
    share = None if data.share is None else data.share
    found = fit(features, transitions, MEMBER, l2=0.1, ridge=ridge, parts=way.fitted, share=share, names=None)
    expected = np.asarray(heldout(features, transitions, found, way.judge).values)
    for noise in (True, False):
        rows = data.rows(way, MEMBER, noise=noise)
        means = np.stack([rows[:, data.task == i].mean(1) for i in range(4)], 1)
        np.testing.assert_allclose(means, np.where(MEMBER, expected, 0), atol=2e-5)
    assert np.abs(expected).max() > 0.01


def test_solvers_that_read_the_transitions_read_those_that_are_dealt(make_logged):
    transitions, features = make_logged(count=200, sources=2)
    config, way = EstimateConfig(l2=5.0, iterations=3), one(SELECT)
    data = CrossFit(features, transitions, config, KEY)
    settings = {"l2": 5.0, "ridge": config.ridge, "iterations": 3, "parts": way.fitted}
    found = fit(features, transitions, MEMBER, share=data.share, **settings)
    expected = np.asarray(heldout(features, transitions, found, way.judge).values)
    rows = data.rows(way, MEMBER, noise=False)
    means = np.stack([rows[:, data.task == i].mean(1) for i in range(4)], 1)
    np.testing.assert_allclose(means, np.where(MEMBER, expected, 0), atol=2e-5)


def test_without_the_fits_noise_rows_are_sums_within_trajectories(logged):
    transitions, features = logged
    data, way = CrossFit(features, transitions, CONFIG, KEY), one(SCORE)
    rows = data.rows(way, MEMBER, noise=False)
    found = fit(features, transitions, MEMBER, l2=0.1, parts=way.fitted, share=data.share)
    weights = signed_weights(transitions).astype(float)
    for i in range(4):
        source = transitions.source[i]
        number, keep = transitions.trajectory[source], transitions.split[source] == SCORE
        z = np.asarray(features.values, float)[source] @ np.asarray(found.delta, float)[4]
        a = weights[i]
        gain = np.abs(a) * (np.log(2) - np.logaddexp(0, -np.sign(a) * z)) / keep.sum()
        total = len(np.unique(number))
        at = {t: row for t, row in zip(data.trajectory[data.task == i], rows[4, data.task == i], strict=True)}
        for t in np.unique(number):
            inside = keep & (number == t)
            code = source * (transitions.trajectory.max() + 1) + t
            assert at[code] == pytest.approx(gain[inside].sum() * total, abs=1e-3)


def test_the_noise_of_the_fit_is_what_its_trajectories_move(make_logged, monkeypatch):
    """Against fitting with a little more and a little less of each trajectory (small steps, where the loss is
    its quadratic model)."""
    monkeypatch.setattr(crossfit, "ADJOINT_TOLERANCE", 1e-5)
    transitions, features = make_logged(count=600, d=6)
    data, way = CrossFit(features, transitions, EstimateConfig(l2=100.0, ridge="mean"), KEY), one(SELECT)
    rows = data.rows(way, MEMBER[:1])[0]
    judge, a = data.statistics([SELECT]), signed_weights(transitions).astype(float)
    g, keep = np.asarray(features.values, float), np.isin(transitions.split, way.fitted)
    ridge = 100 * np.trace(np.asarray(data.statistics(way.fitted).h, float).mean(0)) / 40

    def gain(weight):
        """Sum of f_0 and f_1 with weights [4, N] of the transitions."""
        w = weight * keep / keep.sum(1, keepdims=True)
        b = np.einsum("nt,ntd->nd", w * a, g)[:2].mean(0) / 2
        h = np.einsum("nt,ntd,nte->nde", w * np.abs(a), g, g)[:2].mean(0) / 4
        step = np.linalg.solve(h + ridge * np.eye(6), b)
        return sum(judge.b[i] @ step - step @ np.asarray(judge.h[i], float) @ step / 2 for i in (0, 1))

    each = transitions.trajectory.max() + 1
    for i in (0, 1):
        mine = (data.task == i) & (data.part != SELECT)
        moved = []
        for code in data.trajectory[mine]:
            change = 1e-3 * (transitions.trajectory == code - i * each) * (np.arange(4) == i)[:, None]
            moved.append((gain(1 + change) - gain(1 - change)) / 2e-3)
        told = rows[mine] / (data.task == i).sum()
        np.testing.assert_allclose(told, np.array(moved) - np.mean(moved), atol=0.02 * np.abs(told).max())


def test_tasks_outside_a_group_are_judged_to_first_order(make_logged):
    transitions, features = make_logged(count=500)
    data, way = CrossFit(features, transitions, CONFIG, KEY), one(FIT)
    data.solve(MEMBER[:0], [way], MEMBER[2:4])
    rows = data.opposition(LABELS, way)
    found = fit(features, transitions, MEMBER, l2=0.1, parts=way.fitted)
    b = np.asarray(data.statistics([FIT]).b)
    for i in range(4):
        other = found.delta[3 - LABELS[i]]
        assert rows[data.task == i].mean() == pytest.approx(float(b[i] @ other), abs=1e-5)


def test_ways_add_up_by_the_sizes_of_their_judges(logged):
    transitions, features = logged
    data = CrossFit(features, transitions, CONFIG, KEY)
    for ways in (OUTER, inner(SELECT)):
        data.solve(MEMBER[2:4], ways)
        got = data.gains(LABELS, ways)
        each = [data.rows(way, MEMBER[2:4]).sum(0) for way in ways]
        means = np.array([[row[data.task == i].mean() for row in each] for i in range(4)])
        sizes = [(transitions.split == way.judge).mean() for way in ways]
        for i in range(4):
            expected = np.average(means[i], weights=sizes)
            assert got.gain[got.task == i].mean() == pytest.approx(expected, abs=1e-6)
    assert set(got.trajectory) < set(data.trajectory)  # those of SELECT aren't read


def test_the_standard_error_is_the_spread_over_data_sets(make_logged):
    """Of the gain of a planted split; the noise of the judging alone is too little."""
    transitions, features = make_logged(count=400)
    direction, found = np.array([1.0, -1.0, 1.0, -1.0]), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=features.values.shape).astype(np.float32)
        advantage = 0.1 * values.sum(-1) * direction[:, None] + rng.normal(size=values.shape[:2])
        fresh = features._replace(values=values), transitions._replace(advantage=advantage)
        data, row = CrossFit(*fresh, CONFIG, KEY), []
        for noise in (True, False):
            data.forget()
            data.solve(MEMBER[2:], OUTER, noise=noise)
            ours, base = data.gains(LABELS, OUTER), data.gains(np.zeros(4, int), OUTER)
            row.append(paired_difference(ours.gain - base.gain, ours.task, 4, ours.trajectory))
        found.append(row)
    mean, error = np.array(found)[..., 0], np.sqrt((np.array(found)[..., 1] ** 2).mean(0))
    spread = mean[:, 0].std()
    np.testing.assert_allclose(mean[:, 0], mean[:, 1], atol=1e-6)
    assert 0.85 * spread < error[0] < 1.4 * spread and error[1] < 0.85 * error[0]


def test_what_was_solved_is_remembered(logged, monkeypatch):
    data = CrossFit(logged[1], logged[0], CONFIG, KEY)
    data.solve(MEMBER, OUTER[:1])
    data.solve(MEMBER, OUTER)
    monkeypatch.setattr(data, "_chunks", None)
    data.solve(MEMBER[1:3], [Way((SCORE, SELECT), FIT)])


def test_a_task_without_trajectories_to_judge_by_is_named(logged):
    transitions, features = logged
    split = transitions.split.copy()
    split[-1] = FIT
    with pytest.raises(DataError, match=rf"source {len(split) - 1} has no transitions in parts \(1,\)"):
        CrossFit(features, transitions._replace(split=split), CONFIG, KEY)
