"""What is chosen by name: an entry of one's own works wherever the name is given."""

import dataclasses
import math
import typing
from typing import Literal

import jax
import numpy as np
import pytest
from toys_score import leaning

from pgx_jax import (
    Config,
    ConfigError,
    DataError,
    EstimateConfig,
    GroupingConfig,
    group_transitions,
    pipeline,
)
from pgx_jax.config import check_method, override
from pgx_jax.estimate import (
    AFFINITIES,
    LIFTS,
    SCORES,
    SIMILARITIES,
    SOLVERS,
    AffinityKind,
    Lift,
    Score,
    Similarity,
    Solver,
    checks,
)
from pgx_jax.estimate.solvers import Solved
from pgx_jax.estimate.surrogates import MIN_L2
from pgx_jax.held_out import HeldOut
from pgx_jax.types import Scores, Seen


def log_prob(params, obs, action):
    return jax.nn.log_softmax(obs @ params)[action]


PARAMS = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


@pytest.fixture
def toys(monkeypatch):
    """An entry named "toy" in every table (scores have that of `toys_score`); the names of those called."""
    called = []

    def entry(name, function):
        def toy(*args, **kw):
            called.append(name)
            return function(*args, **kw)

        return toy

    monkeypatch.setitem(SOLVERS, "toy", Solver(
        entry("solver", lambda data, stats, problems, *_: Solved(
            problems.collect(problems.spread(np.ones((len(problems.size), data.g.shape[-1])))),
            np.zeros(len(problems.size)), 3,
        )), iterations=3, failure="",
    ))  # fmt: skip
    monkeypatch.setitem(SCORES, "played", Score(entry("played", SCORES["rollouts"].function), rolls_out=True))
    monkeypatch.setitem(LIFTS, "toy", Lift(entry("lift", lambda _, surrogates, params: np.zeros(
        (len(surrogates.member), *params.shape)
    ))))  # fmt: skip
    monkeypatch.setitem(AFFINITIES, "toy", AffinityKind(entry("affinity", AFFINITIES["aggregate"].matrices)))
    monkeypatch.setitem(SIMILARITIES, "toy", Similarity(entry("similarity", lambda b, name: b @ b.T)))
    return called


@pytest.mark.parametrize(
    ("name", "table"),
    [("score", SCORES), ("lift", LIFTS), ("solver", SOLVERS), ("affinity", AFFINITIES)],
)
def test_choices_of_the_help_are_the_names_of_the_table(monkeypatch, name, table):
    def hint():
        return typing.get_type_hints(EstimateConfig)[name]

    names = Literal[tuple(table)]
    assert hint() in (names, names | None)
    monkeypatch.setitem(table, "toy", None)
    names = Literal[tuple(table)]
    assert "toy" in typing.get_args(names) and hint() in (names, names | None)
    EstimateConfig(**{name: "toy"}).check()
    with pytest.raises(ConfigError, match=f"estimate.{name} = 'tin'; choose one of .*, 'toy'"):
        EstimateConfig(**{name: "tin"}).check()


def test_entries_of_ones_own_group_logged_data(toys, make_logged):
    transitions, _ = make_logged()
    config = override(Config(), {
        "estimate": {"solver": "toy", "score": "toy", "affinity": "toy", "dim": 12, "subset_size": 2},
        "similarities": ["toy"],
    })  # fmt: skip
    found = group_transitions(log_prob, PARAMS, transitions, config)
    assert {"solver", "affinity"} == set(toys)
    np.testing.assert_allclose(found.surrogates.delta, 1, rtol=1e-6)
    assert int(found.surrogates.iterations) == 3
    feats = pipeline.features(log_prob, PARAMS, transitions, config)
    np.testing.assert_array_equal(found.scores.folds[0], leaning(feats, transitions, found.surrogates).values)
    held_out = HeldOut(feats, transitions, config.estimate, np.zeros(2, np.uint32))
    assert set(pipeline.similar_groups(held_out, config, 2)) == {"toy", "toy_our_k"}
    assert toys.count("similarity") == 6  # three to propose from, and without each part


def test_entries_of_ones_own_roll_out(toys, make_logged):
    transitions, features = make_logged()
    config = EstimateConfig(score="played", lift="toy")
    member = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1]], bool)

    def roll_out(thetas, member):
        np.testing.assert_array_equal(thetas, np.broadcast_to(PARAMS, (3, *PARAMS.shape)))
        return np.where(member, 7.0, 0.0), 35

    _, scores, steps = pipeline.score_subsets(
        features, transitions, member, config, log_prob=log_prob, params=PARAMS, roll_out=roll_out
    )
    assert isinstance(scores, Scores) and toys == ["lift", "played"] and steps == 35
    np.testing.assert_array_equal(scores.values, 7.0 * member)
    with pytest.raises(ConfigError, match="environment: choose .*'surrogate' or 'importance' or 'toy'$"):
        group_transitions(log_prob, PARAMS, transitions, Config(estimate=config))


def test_similarities_are_checked_against_their_table(toys):
    check_method(Config(similarities=("toy", "dot")), 4)
    with pytest.raises(ConfigError, match="similarities = 'tin'; choose one of .*'toy'"):
        check_method(Config(similarities=("toy", "tin")), 4)


def test_settings_of_the_grouping_check_themselves():
    GroupingConfig(max_groups=3).check(4, 3)
    GroupingConfig(trace_penalty=1.0).check(4)
    for config, k, message in (
        (GroupingConfig(), 5, "k = 5, but there are 4 tasks"),
        (GroupingConfig(max_groups=2), 3, "grouping.max_groups = 2"),
        (GroupingConfig(trace_penalty=1.0), 3, "not both"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.check(4, k)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("penalties", [(0.0,)], [(-0.1,), (math.inf,), (math.nan,)]),
        ("max_groups", [1], [0]),
        ("resamples", [0, 2], [-1, 1]),
        *((name, [0.0], [-0.1, math.nan]) for name in ("standard_errors", "min_share", "min_ratio")),
        *((name, [0.0], [-0.1, math.nan]) for name in ("agreed_ratio", "group_ratio")),
        ("level", [1e-9, 0.5], [0.0, 0.51]),
        ("exhaustive_up_to", [0, 8], [9]),
    ],
)
def test_settings_of_the_grouping_may_go_to_their_edges(name, good, bad):
    for value in good:
        GroupingConfig(**{name: value})
    for value in bad:
        with pytest.raises(ConfigError, match=name):
            GroupingConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("l2", [MIN_L2], [0.9 * MIN_L2, math.inf]),
        ("distance", [1e-9], [0.0, math.inf]),
        ("dim", [1], [0]),
        ("iterations", [1], [0]),
        ("steps", [24], [0, 18, 25]),
        ("num_envs", [3], [0]),
        ("thin", [1, 3], [0, 4]),
        ("source_multiple", [1], [0]),
        ("rollout_episodes", [1], [0]),
        ("gae_lambda", [0.0, 1.0], [-0.01, 1.01]),
    ],
)
def test_settings_of_the_estimate_may_go_to_their_edges(name, good, bad):
    config = EstimateConfig(steps=72, num_envs=6, thin=1)
    for value in good:
        changed = dataclasses.replace(config, **{name: value})
        changed.check(), changed.check_collecting(24)
    for value in bad:
        changed = dataclasses.replace(config, **{name: value})
        with pytest.raises(ConfigError, match=name):
            changed.check(), changed.check_collecting(24)


def test_three_trajectories_are_enough_to_collect():
    """Two environments make two trajectories each, or one each if episodes are that long."""
    config = EstimateConfig(steps=24, num_envs=2, thin=1)
    config.check_collecting(11)
    with pytest.raises(ConfigError, match="fewer than three trajectories"):
        config.check_collecting(12)
    EstimateConfig(steps=24, num_envs=1, thin=1).check_collecting(11)


def test_every_part_of_an_observation_is_checked(make_logged):
    transitions, _ = make_logged(count=90)
    whole = transitions._replace(obs=Seen(transitions.obs, transitions.obs[..., 0]))
    checks.check_transitions(whole)
    cut = whole._replace(obs=whole.obs._replace(context=whole.obs.context[:, :80]))
    with pytest.raises(DataError, match=r"transitions.obs.context has shape \(4, 80\).*\(4, 90\)"):
        checks.check_transitions(cut)
