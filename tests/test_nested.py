"""The nested choice: what proposes, chooses and judges are different data."""

import jax
import numpy as np
import pytest

from pgx_jax import estimate, pipeline
from pgx_jax.compare.joining import worth_asking
from pgx_jax.config import Config, override
from pgx_jax.grouping import Nested, threshold
from pgx_jax.held_out import HeldOut, given_gain, nested_gain
from pgx_jax.types import FIT, SCORE, SELECT, Affinity, Features, Transitions

KEY = jax.random.PRNGKey(0)
CONFIG = Config()


def tasks(directions, seed=0, signal=0.3, count=60, length=20, visible=None):
    """Transitions and features of tasks [n, d] whose advantages point along a direction of their own."""
    rng, (n, d) = np.random.default_rng(seed), np.shape(directions)
    values = rng.normal(size=(n, count * length, d)) * (1 if visible is None else visible[:, None])
    advantage = signal * np.einsum("ntd,nd->nt", values, directions) + rng.normal(size=values.shape[:2])
    trajectory = np.repeat(np.arange(count)[None], n, 0).repeat(length, 1)
    parts = np.stack([rng.permutation(np.resize([FIT, FIT, SCORE, SELECT], count)) for _ in range(n)])
    split = np.take_along_axis(parts, trajectory, 1).astype(np.int8)
    nothing = np.zeros((*split.shape, 1), np.float32)
    data = Transitions(nothing, split, advantage.astype(np.float32), trajectory, split, np.arange(n))
    return Features(values.astype(np.float32), np.asarray(KEY)), data


def choose(feats, transitions, config=CONFIG, **kw):
    held_out = HeldOut(feats, transitions, config.estimate, KEY)
    whole, *folds = (held_out.similarity("closed_form", p) for p in ((FIT, SCORE), (FIT,), (SCORE,)))
    return pipeline.choose_groups(Affinity(whole, None, np.stack(folds)), held_out, config, **kw)


SAME = np.eye(10)[[0] * 6]
OPPOSED = np.eye(10)[[0] * 6] * np.array([1, 1, -1, 1, -1, -1])[:, None]


def test_a_conflict_is_split_and_said_to_be_one():
    found = choose(*tasks(OPPOSED))
    nested = Nested.of(found.path)
    assert found.labels.tolist() == [0, 0, 1, 0, 1, 1]
    assert (nested.labels == found.labels).all() and nested.kind(2.0) == "conflict"
    assert nested.z > 5 and nested.gain > 3 * abs(nested.null)
    low, high = pipeline.predicted_gain(found)["ci95"]
    assert 0 < low < nested.gain < high
    np.testing.assert_allclose([low, high], nested.gain + nested.stderr * np.array([-1.96, 1.96]))


def test_identical_tasks_stay_together():
    ks, zs = zip(
        *((f.k, Nested.of(f.path).z) for f in (choose(*tasks(SAME, seed)) for seed in range(6))), strict=True
    )
    assert ks == (1,) * 6 and np.mean(zs) < 0
    found = choose(*tasks(SAME))
    assert Nested.of(found.path).kind(2.0) == "company"
    assert pipeline.predicted_gain(found) == {"mean": 0.0, "ci95": (0.0, 0.0)}


def test_only_groups_that_gain_nothing_by_being_apart_are_asked_to_join():
    """Tasks 0 to 2 want one thing and 3 to 5 another; the policy of task 2 is of its own, not split off."""
    feats, data = tasks(np.eye(10)[[0, 0, 0, 1, 1, 1]] - np.eye(10)[[1, 1, 1, 0, 0, 0]])
    held_out, labels = HeldOut(feats, data, CONFIG.estimate, KEY), np.array([0, 0, 1, 2, 2, 2])
    assert worth_asking(held_out, labels, (0, 1, 2)) == [(0, 1)]
    assert worth_asking(held_out, labels, (0, 0, 1)) == []  # these were split on evidence just now
    assert worth_asking(held_out, np.array([0, 0, 0, 1, 1, 1]), (0, 1)) == []


def test_groups_join_where_their_steps_help_one_another():
    found = []
    for directions in (SAME, OPPOSED):
        held_out = HeldOut(*tasks(directions), CONFIG.estimate, KEY)
        found.append(given_gain(held_out, np.array([0, 0, 1, 0, 1, 1])))
    same, opposed = found
    assert same.z < 0 and same.kind(2.0) == "company"
    assert opposed.z > 5 and opposed.kind(2.0) == "conflict"


def test_tasks_that_share_nothing_gain_by_the_ridge_on_a_mean_alone():
    directions, visible = np.eye(12)[:6], np.kron(np.eye(6), np.ones((1, 2)))
    directions = np.kron(np.eye(6), [[1, 0]])
    data = tasks(directions, visible=visible)
    found = {
        ridge: choose(*data, override(CONFIG, {"estimate.ridge": ridge, "grouping.min_ratio": 0.0}))
        for ridge in ("mean", "sum")
    }
    nested = {ridge: Nested.of(f.path) for ridge, f in found.items()}
    assert found["mean"].k > 1 and found["sum"].k == 1
    assert nested["mean"].z > 5 and nested["mean"].null > 0.5 * nested["mean"].gain
    assert abs(nested["sum"].gain) < 1e-5 and nested["sum"].kind(2.0) == "apart"


@pytest.mark.parametrize("judge", estimate.PARTS)
def test_what_judges_neither_proposes_nor_chooses(judge):
    """The split that is judged by a part is the same whatever that part says."""
    feats, data = tasks(OPPOSED, signal=0.05)
    other = np.where(
        data.split == judge, np.random.default_rng(9).normal(size=data.split.shape), data.advantage
    )
    # Standardised as before, which is done over all parts.
    keep = data.split == judge
    for row, new, own in zip(data.advantage, other, keep, strict=True):
        new[own] = (new[own] - new[own].mean()) / new[own].std() * row[own].std() + row[own].mean()
    splits = []
    for advantage in (data.advantage, other.astype(np.float32)):
        changed = data._replace(advantage=advantage)
        held_out = HeldOut(feats, changed, CONFIG.estimate, KEY)
        splits.append(nested_gain(held_out, CONFIG).labels)
    at = estimate.PARTS.index(judge)
    np.testing.assert_array_equal(splits[0][at], splits[1][at])
    assert (splits[0] != splits[1]).any()


def test_more_looks_ask_for_more():
    data = tasks(OPPOSED, signal=0.05)
    needed = [float(choose(*data, looks=looks).path["nested_needed"]) for looks in (1, 3)]
    assert needed == [threshold(0.05), threshold(0.05 / 3)] == pytest.approx([1.645, 2.128], abs=1e-3)
    nested = Nested(
        np.zeros((3, 6), int), gain=2.0, stderr=1.0, null=0.0, together=1.0, opposition=-1.9,
        opposition_stderr=1.0,
    )  # fmt: skip
    assert nested.pays(needed[0]) and not nested._replace(gain=1.9).pays(needed[1])
    assert (
        nested._replace(together=3.0).pays(1.6)
        and nested.pays(1.6, min_ratio=1.9)
        and not nested.pays(1.6, min_ratio=2.1)
    )
    assert nested._replace(together=-1.0).pays(1.6, min_ratio=2.1)
    assert nested.pays(1.6, 2.1, agreed_ratio=1.9) and not nested.pays(1.6, 2.1, agreed_ratio=2.05)
    assert nested.pays(1.6, 1.9, agreed_ratio=2.1)  # it asks for less, never for more
    differ = nested._replace(labels=np.eye(6, dtype=int)[[0, 0, 1]])
    assert nested.agreed and not differ.agreed and not differ.pays(1.6, 2.1, agreed_ratio=1.9)
    assert not nested._replace(labels=np.zeros((3, 4), int)).agreed  # of four tasks that is luck


def test_a_given_k_is_not_tested_but_its_gain_is_told():
    found = choose(*tasks(SAME), k=2)
    assert found.k == 2 and pipeline.predicted_gain(found)["mean"] < 0
    assert (Nested.of(found.path).labels.max(1) == 1).all()
    alone = choose(*tasks(SAME), k=1)
    assert alone.k == 1 and Nested.of(alone.path) is None
    at_most = override(CONFIG, {"grouping.max_groups": 1})
    assert Nested.of(choose(*tasks(SAME), at_most).path) is None
