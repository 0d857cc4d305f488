"""The first-order error, against explicit gradients, closed forms, and on a whole run."""

import copy
import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from small import analysed

import pgx_jax
from pgx_jax.analysis import ApproximationConfig, ApproximationResult, first_order_error
from pgx_jax.analysis.approximation import (
    KINDS,
    MEASURES,
    Path,
    double_precision,
    finetuning_paths,
    first_order,
    log_ratio_error,
    ratio_error,
    ratio_median_error,
)
from pgx_jax.cli import main as cli
from pgx_jax.compare.results import schema, to_plain
from pgx_jax.errors import ConfigError
from pgx_jax.report import analyses

QUICK = ApproximationConfig(distances=(0.001, 0.01, 0.05), transitions=60, updates=2, draws=3)


def network(params, obs, action):
    hidden = jnp.tanh(obs @ params["weight"])
    return jax.nn.log_softmax(hidden @ params["out"])[action]


@pytest.fixture(scope="module")
def logged():
    """(params, obs [N, 3], action [N], displacements [S, ...])"""
    keys = jax.random.split(jax.random.PRNGKey(0), 5)
    params = {"weight": jax.random.normal(keys[0], (3, 5)), "out": jax.random.normal(keys[1], (5, 2))}
    obs = jax.random.normal(keys[2], (30, 3))
    action = jax.random.randint(keys[3], (30,), 0, 2)
    unit = jax.tree.map(lambda x: jax.random.normal(keys[4], x.shape), params)
    moves = jax.tree.map(lambda x: jnp.stack([x * scale for scale in (1e-4, 1e-3, 1e-2)]), unit)
    return params, obs, action, moves


def test_the_derivative_is_the_product_of_each_transitions_own_gradient(logged):
    params, obs, action, moves = logged
    log_ratio, linear = first_order(network, *logged)
    with double_precision():
        double = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), float), (params, obs, moves))
        theta, obs, moves = double
        for s in range(3):
            move = jax.tree.map(lambda x, s=s: x[s], moves)
            moved = jax.tree.map(jnp.add, theta, move)
            for t in range(0, 30, 7):
                own, _ = ravel_pytree(jax.grad(network)(theta, obs[t], action[t]))
                want = own @ ravel_pytree(move)[0]
                change = network(moved, obs[t], action[t]) - network(theta, obs[t], action[t])
                np.testing.assert_allclose(linear[s, t], want, rtol=1e-9, atol=1e-15)
                np.testing.assert_allclose(log_ratio[s, t], change, rtol=1e-7, atol=1e-13)


def test_the_error_of_the_log_ratio_falls_with_the_distance_and_that_of_the_ratio_with_its_square(logged):
    log_ratio, linear = first_order(network, *logged)
    own = [log_ratio_error(*pair) for pair in zip(log_ratio, linear, strict=True)]
    np.testing.assert_allclose(own[:2], [own[2] / 100, own[2] / 10], rtol=0.05)
    for measure in (ratio_error, ratio_median_error):
        own = [measure(*pair) for pair in zip(log_ratio, linear, strict=True)]
        np.testing.assert_allclose(own[:2], [own[2] / 1e4, own[2] / 100], rtol=0.1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-2, 2, width=16), min_size=1, max_size=9))
def test_of_a_log_linear_policy_the_log_ratio_has_no_error_and_the_ratio_that_of_the_exponential(values):
    linear = np.array(values)
    known = [abs(math.exp(x) - 1 - x) / math.exp(x) for x in values]
    assert ratio_error(linear, linear) == pytest.approx(np.mean(known), abs=1e-12)
    assert ratio_median_error(linear, linear) == pytest.approx(np.median(known), abs=1e-12)
    error = log_ratio_error(linear, linear)
    assert error == 0 if linear.any() else math.isnan(error)


def test_of_a_gaussian_policy_the_error_is_the_square_that_first_order_leaves_out():
    rng = np.random.default_rng(0)
    theta, move = rng.normal(size=3).astype(np.float32), rng.normal(size=(1, 3)).astype(np.float32)
    obs, action = rng.normal(size=(20, 3)).astype(np.float32), rng.normal(size=20).astype(np.float32)
    log_ratio, linear = first_order(lambda p, s, a: -((a - s @ p) ** 2) / 2, theta, obs, action, move)
    shift = obs.astype(float) @ move[0].astype(float)
    known = (action - obs.astype(float) @ theta.astype(float)) * shift
    np.testing.assert_allclose(linear[0], known, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(log_ratio[0], known - shift**2 / 2, rtol=1e-9, atol=1e-12)
    wanted = np.linalg.norm(shift**2 / 2) / np.linalg.norm(known - shift**2 / 2)
    assert log_ratio_error(log_ratio[0], linear[0]) == pytest.approx(wanted, rel=1e-9)


def test_a_path_is_shortened_from_the_first_stop_that_lies_as_far():
    params = {"x": np.array([3.0, 4.0])}
    stops = {"x": np.array([[0.05, 0.0], [0.0, 0.5], [1.0, 0.0]])}  # at 1%, 10% and 20%
    path = Path("finetuning", np.ones(1, bool), stops)
    np.testing.assert_allclose(path.lengths(params), [0.01, 0.1, 0.2], rtol=1e-6)
    for distance, wanted in ((0.005, [0.025, 0]), (0.05, [0, 0.25]), (0.15, [0.75, 0]), (0.4, [2, 0])):
        np.testing.assert_allclose(path.at(distance, params)["x"], wanted, rtol=1e-6)


@pytest.fixture(scope="module")
def found(small_run):
    return first_order_error(small_run, QUICK)


def test_a_run_has_errors_along_all_kinds_of_directions(found, small_run):
    assert found.distances == list(QUICK.distances) and found.transitions == 60
    kinds = [x.kind for x in found.directions]
    groups = [x.tasks for x in found.directions if x.kind == "surrogate"]
    assert kinds.count("random") == 3 and kinds.count("finetuning") == kinds.count("surrogate") == len(groups)
    names = np.array(small_run.family.task_names)
    for group in small_run.grouping.member:
        assert names[group].tolist() in groups and [names[group][0]] in groups
    for kind in KINDS:
        for measure in MEASURES:
            errors = found.of_kind(kind, measure)
            assert (errors > 0).all() and (errors[:, 0] < errors[:, 1]).all()
    assert (found.of_kind("finetuning", "ratio")[:, 0] < 1e-3).all()
    assert all(x.own and x.at_own["ratio"] > 0 for x in found.directions if x.kind != "random")


def test_longer_fine_tuning_passes_the_stops_of_the_shorter(small_run):
    member = np.eye(6, dtype=bool)[:1]
    short, long = (
        finetuning_paths(small_run, member, dataclasses.replace(QUICK, updates=u))[0] for u in (1, 2)
    )
    first = jax.tree.map(lambda x: x[:1], long.stops)
    jax.tree.map(np.testing.assert_array_equal, short.stops, first)
    assert len(jax.tree.leaves(long.stops)[0]) == 2


def test_what_is_found_is_written_drawn_and_told(capsys, found, small_run, tmp_path, monkeypatch):
    told = analyses.approximation_sentence(found)
    assert "fine-tuning" in told and "surrogates' own steps" in told and told.endswith("at most 10% off).")
    path = analysed("approximation", found, small_run, tmp_path, monkeypatch)
    out = capsys.readouterr().out
    assert told in out and "surrogate log r" in out and "approximation.json" in out
    assert schema(ApproximationResult)["$defs"]["ApproximationResult"]
    pgx_jax.runs.store.RunStore(path).clear(True)
    assert not (path / "analysis").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["--approximation.distances", "0.05", "0.01"], "approximation.distances = .* ascending"),
        (["--approximation.distances", "0"], "approximation.distances"),
        (["--approximation.updates", "0"], "approximation.updates = 0 must be at least 1"),
    ],
)
def test_bad_settings_are_refused_before_the_run_is_read(capsys, settings, told, tmp_path):
    assert cli.main(["analyse", str(tmp_path), "approximation", *settings]) == 2
    err = capsys.readouterr().err
    assert re.search(told, err), err


def test_unknown_analyses_and_subsets_are_refused(small_run):
    with pytest.raises(ConfigError, match="the analysis = 'trust'; choose one of 'approximation'"):
        pgx_jax.analyse(small_run, "trust")
    for member in (np.ones((1, 4), bool), np.zeros((1, 6), bool)):
        with pytest.raises(ConfigError, match="shape|empty"):
            first_order_error(small_run, QUICK, member=member)


def test_figures_of_runs_without_a_surrogate_step_are_drawn(found):
    without = [x for x in to_plain(found)["directions"] if x["kind"] != "surrogate"]
    less = msgspec.convert(copy.copy(to_plain(found)) | {"directions": without}, ApproximationResult)
    assert analyses.render("approximation", less).startswith(b"\x89PNG")
    assert "surrogates" not in analyses.approximation_sentence(less)
