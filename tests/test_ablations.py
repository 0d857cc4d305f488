"""Other settings asked of a run's theta*: against the run itself, slow loops, and what is told of them."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from msgspec import structs
from small import analysed

from pgx_jax import learn
from pgx_jax.analysis import AblationsConfig, other_settings
from pgx_jax.analysis.ablations import pair_auc
from pgx_jax.analysis.axes import AXES, KS
from pgx_jax.analysis.inner_products import (
    gradient_products,
    inner_products,
    relative_difference,
    sample_size,
)
from pgx_jax.analysis.variants import FITTINGS, Theta, Variant
from pgx_jax.cli import main as cli
from pgx_jax.config import override
from pgx_jax.errors import ConfigError
from pgx_jax.report import ablations as told
from pgx_jax.report import analyses

ALSO = ("estimate.dim=24", "estimate.projection=hadamard,factored", "grouping.max_groups=1")


@pytest.fixture(scope="module")
def theta(small_run):
    return Theta(small_run)


@pytest.fixture(scope="module")
def found(small_run):
    return other_settings(small_run, AblationsConfig(also=ALSO, sample=20))


def of(found, axis, value):
    return next(x for a in found.axes if a.name == axis for x in a.values if x.value == value)


def test_a_runs_own_settings_give_its_own_groups_and_features(found, theta, small_run):
    assert found.labels == small_run.grouping.labels.tolist() and found.planted is not None
    answer = theta.ask(Variant(theta.own))
    np.testing.assert_array_equal(answer.affinity.matrix, small_run.affinity.matrix)
    own = small_run.grouping.path
    assert answer.gain["mean"] == pytest.approx(float(own["nested_gain"]), rel=1e-6) and answer.steps == 0
    assert theta.data(Variant(theta.own))[1] is small_run.features
    made = theta.project(small_run.transitions, theta.own)
    np.testing.assert_allclose(made.values, small_run.features.values, rtol=1e-5, atol=1e-6)
    for axis in found.axes:
        assert [x.own for x in axis.values].count(True) == 1
        assert axis.own.labels == found.labels and axis.own.nmi == axis.own.ari == 1


def test_the_error_of_inner_products_is_that_of_loops_over_transitions(found, small_run):
    params, given = learn.policy_params(small_run.meta), small_run.transitions
    kept = small_run.features.private is None or ~np.asarray(small_run.features.private)
    grad, exact = jax.jit(jax.grad(small_run.policy.log_prob)), []
    for u in range(len(given.action)):
        rows = []
        for t in range(20):
            obs = jax.tree.map(lambda x, u=u, t=t: x[u, t], given.obs)
            row = ravel_pytree(grad(params, obs, given.action[u, t]))[0]
            rows.append(np.asarray(row, float) * kept)
        exact.append([[x @ y for y in rows] for x in rows])
    np.testing.assert_allclose(gradient_products(small_run, 20), exact, rtol=1e-4, atol=1e-4)
    products = [[[x @ y for y in f] for x in f] for f in np.asarray(small_run.features.values, float)[:, :20]]
    np.testing.assert_allclose(inner_products(small_run.features.values, 20), products, rtol=1e-6, atol=1e-9)
    error = np.sqrt(np.sum((np.array(products) - exact) ** 2) / np.sum(np.square(exact)))
    assert relative_difference(np.array(products), np.array(exact)) == pytest.approx(error)
    for name, own in (("estimate.dim", "48"), ("estimate.projection", "gaussian")):
        assert of(found, name, own).error == pytest.approx(error, rel=1e-3)
    assert of(found, "estimate.dim", "24").error > of(found, "estimate.dim", "48").error
    assert found.sample == sample_size(small_run, 20) == 20


def test_other_values_are_asked_and_what_cannot_be_used_is_refused_with_its_reason(small_run):
    axes = AblationsConfig(also=("estimate.subset_size=3,7", "k=1,2,6"))
    found = other_settings(small_run, axes)
    bad = of(found, "estimate.subset_size", "7")
    assert "7 exceeds the number of tasks" in bad.refused and bad.labels == [] and bad.nmi is None
    assert of(found, "estimate.subset_size", "3").labels == found.labels
    assert [of(found, "k", str(k)).k for k in (1, 2, 6)] == [1, 2, 6]
    assert of(found, "k", "1").gain == 0 and of(found, "k", "2").gain > 0
    assert "7 (refused)" in [told.value_of(x) for x in found.axes[0].values]
    text = told.sentence(found)
    assert (
        "1 could not be asked: a subset size of 7 exceeds" in text and "Of the k that were tried, 2" in text
    )
    assert analyses.render("ablations", found).startswith(b"\x89PNG")


def test_transitions_are_collected_again_where_they_are_others(theta, small_run):
    config = theta.own
    less = override(config, {"estimate.gae_lambda": 0.5})
    transitions, feats = theta.data(Variant(less))
    assert feats is small_run.features
    assert not np.allclose(transitions.advantage, small_run.transitions.advantage)
    np.testing.assert_array_equal(transitions.action, small_run.transitions.action)
    more = AXES["transitions"].variants(config, 6)
    steps = config.estimate.steps
    assert list(more) == [str(int(part * steps)) for part in (0.25, 0.5, 1, 2)]
    transitions = theta.transitions(more[str(steps // 2)].config)
    assert transitions.action.shape[1] == steps // 2
    assert theta.transitions(more[str(steps)].config) is small_run.transitions


@pytest.mark.parametrize("name", FITTINGS)
def test_without_the_test_the_best_candidate_is_chosen(name, theta):
    answer = theta.ask(Variant(theta.own, FITTINGS[name]))
    path = answer.grouping.path
    gains = path["score"] - path["score"][path["k"] == 1]
    assert answer.gain["mean"] == pytest.approx(gains[path["chosen"]])
    assert answer.at_k(3).k == 3


def test_every_axis_has_the_own_settings_once(theta):
    for axis in AXES.values():
        values = list(axis.variants(theta.own, 6).values())
        assert values.count(Variant(theta.own)) == 1 and len(set(values)) == len(values) > 1
    for own in (theta.own, override(theta.own, {"k": 6})):
        assert set(AXES["k"].variants(own, 6)) == {"chosen", str(own.k or 1), *map(str, KS[:5])}


def test_pairs_are_told_apart_as_by_counting():
    rng, labels = np.random.default_rng(0), np.array([0, 0, 1, 1, 2])
    matrix = rng.normal(size=(5, 5)) + (labels[:, None] == labels)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    same = [matrix[i, j] for i, j in pairs if labels[i] == labels[j]]
    other = [matrix[i, j] for i, j in pairs if labels[i] != labels[j]]
    assert pair_auc(matrix, labels) == pytest.approx(np.mean([x > y for x in same for y in other]))
    assert pair_auc(matrix, np.zeros(5, int)) is pair_auc(matrix, np.arange(5)) is None


def test_what_is_found_is_written_drawn_and_told(capsys, found, small_run, tmp_path, monkeypatch):
    text = told.sentence(found)
    assert f"k = {found.k}" in text and text.endswith("another seed may change as much.")
    assert "these change the groups: grouping.max_groups 1 (k = 1" in text
    assert "Of 4 other values" in text and "later looks" not in text
    later = structs.replace(found, final=list(range(len(found.labels))))
    assert f"k = {found.k} (later looks made other groups of these, k = 6)" in told.sentence(later)
    alone = structs.replace(found, given=1, labels=[0] * 6, final=[0] * 6)
    assert told.sentence(alone).startswith(
        "Given is k = 1, of which there is one partition. This is one theta*"
    )
    analysed("ablations", found, small_run, tmp_path, monkeypatch)
    out = capsys.readouterr().out
    assert text in out and "NMI planted" in out and "ablations.json" in out


def test_what_changes_nothing_may_be_taken_cheaper(found):
    axis = next(axis for axis in found.axes if axis.name == "estimate.dim")
    low, own = axis.values
    times = {low.value: 1.0, own.value: 4.0}
    same = structs.replace(axis, values=[structs.replace(low, labels=found.labels), own])
    other = structs.replace(axis, values=[structs.replace(low, labels=[0] * 6), own])
    for given, best in ((same, (same.values[0], 4.0)), (other, None)):
        made = structs.replace(found, axes=[given], timings={axis.name: times})
        assert told.cheaper(made, given) == best
        advice = told.sentence(made)
        assert ("estimate.dim 24 (4.0 times as fast" in advice) == (best is not None)
        assert ("Nothing that was tried is cheaper" in advice) == (best is None)
    slow = structs.replace(found, axes=[same], timings={axis.name: times | {low.value: 3.9}})
    assert told.cheaper(slow, same) is None


def test_what_cannot_be_varied_is_refused_before_any_work(capsys, small_run, tmp_path, monkeypatch):
    assert cli.main(["analyse", str(tmp_path), "ablations", "--ablations.draws", "0"]) == 2
    assert "ablations.draws = 0 must be at least 1" in capsys.readouterr().err
    monkeypatch.setattr(Theta, "ask", None)
    with pytest.raises(ConfigError, match="axes = 'entropy'; choose one of 'k', 'dim'"):
        AblationsConfig(axes=("entropy",)).check()
    for text, message in (
        ("meta_fraction=0.5", "would have to be trained"),
        ("estimate.dim", "KEY=VALUE"),
        ("estimate.dim=-1", "estimate.dim = -1"),
        ("estimate.dims=3", "did you mean estimate.dim"),
        ("grouping.level=high", "grouping.level"),
        ("k=1 k=2", "varies 'k' twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            other_settings(small_run, AblationsConfig(also=tuple(text.split())))
    own = override(small_run.config, {"estimate.affinity": "closed_form"})
    monkeypatch.setattr(small_run, "config", own)
    with pytest.raises(ConfigError, match="'score' would tell nothing: the affinity 'closed_form'"):
        other_settings(small_run, AblationsConfig(axes=("score",)))
