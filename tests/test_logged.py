"""Grouping from logged data alone."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgx_jax import ConfigError, DataError, group_transitions, pipeline, transitions_from
from pgx_jax.cli.main import main
from pgx_jax.config import override


def test_logged_data_is_grouped_without_an_environment(small_run, no_training):
    run = small_run
    data = run.transitions
    found = group_transitions(
        run.policy.log_prob, run.meta.actor, data, run.config, names=run.family.task_names
    )
    np.testing.assert_array_equal(found.grouping.labels, run.grouping.labels)
    names = run.family.task_names
    assert f"k = 2: {{{names[0]}, {names[3]}, {names[5]}}}, {{{names[1]}, " in str(found)
    assert "; predicted gain +0." in str(found) and "of 200 draws of the trajectories" in str(found)
    np.testing.assert_allclose(found.affinity.matrix, run.affinity.matrix, atol=1e-5)
    similar = pipeline.similar_groups(found.held_out, run.config, found.grouping.k)
    np.testing.assert_array_equal(similar["dot_our_k"].labels, run.grouping.labels)
    settings = override(run.config, {"estimate": {"affinity": "closed_form"}})
    closed = group_transitions(
        run.policy.log_prob, run.meta.actor, data, settings, names=run.family.task_names
    )
    np.testing.assert_array_equal(closed.grouping.labels, run.grouping.labels)
    assert found.scores.values.shape == (20, 6) and closed.scores.values.shape == (0, 6)
    expected = pipeline.similarity(run.held_out, "closed_form")
    np.testing.assert_allclose(closed.affinity.matrix, expected.matrix, rtol=1e-4, atol=1e-6)
    assert closed.affinity.coverage is None and closed.affinity.folds.shape == (2, 6, 6)
    constant = data._replace(advantage=np.where(np.arange(6)[:, None] == 2, 1.0, data.advantage))
    with pytest.raises(DataError, match="task2_.*of pairs, let the chosen one come first as often"):
        group_transitions(
            run.policy.log_prob, run.meta.actor, constant, run.config, names=run.family.task_names
        )


@pytest.mark.parametrize(
    ("settings", "fields", "error", "message"),
    [
        ({"k": 7}, {}, ConfigError, "k = 7, but there are 6 tasks"),
        ({"estimate": {"subset_size": 7}}, {}, ConfigError, "7 exceeds the number of tasks, 6"),
        ({"estimate": {"l2": 1e-9}}, {}, ConfigError, "l2 = 1e-09"),
        ({"estimate": {"score": "surogate"}}, {}, ConfigError, "estimate.score = 'surogate'"),
        ({"estimate": {"score": "rollouts"}}, {}, ConfigError, "roll-outs need an environment"),
        ({}, {"advantage": np.zeros((5, 3))}, DataError, r"advantage has shape \(5, 3\)"),
        ({}, {"obs": np.zeros((2, 3))}, DataError, r"obs has shape \(2, 3\)"),
        ({}, {"source": np.arange(6) + 1}, DataError, "there are sources 0 to 5"),
        ({}, {"split": 0}, DataError, "task 'task0_.*no trajectory to score by"),
    ],
)
def test_logged_data_that_cannot_work_are_refused_first(
    small_run, monkeypatch, settings, fields, error, message
):
    monkeypatch.setattr(pipeline.estimate, "gradient_features", None)
    run, t = small_run, small_run.transitions
    fields = {name: np.full_like(t.split, x) if name == "split" else x for name, x in fields.items()}
    with pytest.raises(error, match=message):
        group_transitions(
            run.policy.log_prob, run.meta.actor, t._replace(**fields), override(run.config, settings),
            names=run.family.task_names,
        )  # fmt: skip


def test_a_group_is_split_for_less_than_all_tasks(small_run, monkeypatch):
    """The same data; ``grouping.group_ratio`` takes the place of ``min_ratio``."""
    run, wide = small_run, {"grouping.min_ratio": np.inf, "grouping.group_ratio": 0.0}
    asked = []
    monkeypatch.setattr(pipeline, "features", lambda *args: run.features)
    for changes in (wide, {"grouping.min_ratio": 0.0, "grouping.group_ratio": 1e9}):
        config = override(run.config, changes)
        names = run.family.task_names
        found = pipeline.split_group(
            run.policy.log_prob, run.meta.actor, run.transitions, config, looks=1, names=names
        )
        asked.append(found.k)
    assert asked == [run.grouping.k, 1] and run.grouping.k > 1


def test_what_is_no_data_or_has_no_gradient_is_named(small_run, no_training):
    run, log_prob = small_run, small_run.policy.log_prob
    for transitions, message in (
        (run.transitions._asdict(), "must be a pgx_jax.Transitions, not a dict; pgx_jax.transitions_from"),
        (run.transitions._replace(source=None), r"source is None; give it: np.arange\(n\) if each task"),
        (run.transitions._replace(advantage=None), "advantage is None; give it$"),
    ):
        with pytest.raises(DataError, match=message):
            group_transitions(log_prob, run.meta.actor, transitions)
    for params, message in (
        ({"w": np.zeros(2), "activation": np.tanh}, r"params\['activation'\] is no array .* a ufunc; give"),
        (
            {"w": np.zeros(2, int)},
            r"params\['w'\] is no array of floating-point numbers but a ndarray of int64",
        ),
        ({}, "params has no leaves"),
    ):
        with pytest.raises(DataError, match=message):
            group_transitions(log_prob, params, run.transitions)
    for broken in (lambda params, obs: obs, lambda params, obs, action: params["nothing"]):
        with pytest.raises(ConfigError, match=r"fails where .* one transition, .*\(4,\) and \(2,"):
            group_transitions(broken, run.meta.actor, run.transitions)


def slow_advantages(reward, value, terminated, cut, gamma, gae_lambda):
    """Of one task, step by step backwards: {step that is learnt from: advantage}."""
    found, later = {}, 0.0
    for t in reversed(range(len(reward))):
        if cut[t]:
            later = 0.0
            continue
        after = 0.0 if terminated[t] else value[t + 1]
        later = 0.0 if terminated[t] or cut[t + 1] else later
        later = reward[t] + gamma * after - value[t] + gamma * gae_lambda * later
        found[t] = later
    return found


def some_log(rng, lengths=(40, 47, 52), every=9):
    """Of three tasks, with episodes of every length."""
    of = {"obs": [], "action": [], "reward": [], "terminated": [], "truncated": [], "value": []}
    for count in lengths:
        ends, cuts = rng.random(count) < 1 / every, rng.random(count) < 1 / every
        ends[5:24:6] = cuts[8:24:6] = True  # at least three trajectories
        columns = rng.normal(size=(count, 2)), rng.integers(2, size=count), rng.normal(size=count)
        for name, x in zip(of, (*columns, ends, cuts, rng.normal(size=count)), strict=True):
            of[name].append(x)
    return of


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.9, 1.0]))
def test_advantages_of_logged_steps(seed, gae_lambda):
    log = some_log(np.random.default_rng(seed))
    found = transitions_from(**log, gamma=0.95, gae_lambda=gae_lambda, seed=seed)
    kept = []
    for i in range(3):
        reward, value, ends, cuts = (log[x][i][:40] for x in ("reward", "value", "terminated", "truncated"))
        cut = cuts & ~ends
        cut[-1] = not ends[-1]
        kept.append(slow_advantages(reward, value, ends, cut, 0.95, gae_lambda))
    count = min(map(len, kept))
    assert found.advantage.shape == found.split.shape == found.trajectory.shape == (3, count)
    for i, wanted in enumerate(kept):
        steps = sorted(wanted)[:count]
        np.testing.assert_allclose(found.advantage[i], [wanted[t] for t in steps], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found.obs[i], log["obs"][i][steps])
        ended = np.cumsum(np.concatenate([[0], (log["terminated"][i] | log["truncated"][i])[:39]]))
        np.testing.assert_array_equal(found.trajectory[i], ended[steps])
        for number in np.unique(found.trajectory[i]):
            assert len(np.unique(found.split[i][found.trajectory[i] == number])) == 1
        assert set(found.split[i]) == {0, 1, 2}


def test_without_values_a_linear_function_expects_what_goes_with_observations():
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (2, 300, 3)).astype(np.float32)
    ends = np.tile(np.arange(300) % 10 == 9, (2, 1))
    action = np.zeros((2, 300), int)
    surprise = rng.normal(size=(2, 300))
    found = transitions_from(obs, action, 3 * obs[..., 0] + 1 + surprise, ends, gamma=0.0)
    np.testing.assert_allclose(found.advantage, surprise, atol=0.5)
    assert np.corrcoef(found.advantage.ravel(), surprise.ravel())[0, 1] > 0.98
    late = transitions_from(obs, action, np.tile(np.arange(300) % 10, (2, 1)), ends, gamma=0.0)
    np.testing.assert_allclose(late.advantage, 0, atol=0.01)  # time within an episode is known, too
    moved = transitions_from(50 + 100 * obs, action, 3 * obs[..., 0] + 1 + surprise, ends, gamma=0.0)
    np.testing.assert_allclose(moved.advantage, found.advantage, atol=0.01)
    nested = [{"camera": x} for x in obs]
    with pytest.raises(ConfigError, match="observations are none; give value"):
        transitions_from(nested, action, surprise, ends)
    assert transitions_from(nested, action, surprise, ends, value=surprise).obs["camera"].shape == (2, 300, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": [np.zeros(9)] * 2}, "action is of 2 tasks, and reward of 3"),
        ({"obs": [np.zeros((9, 2))] * 3}, r"obs of task 'a' has the shape \(9, 2\); it must be of 40 steps"),
        ({"value": [np.full(x, np.nan) for x in (40, 47, 52)]}, "value of task 'a' has numbers that are not"),
        (
            {"terminated": [np.zeros(x) for x in (40, 47, 52)], "truncated": None},
            "no episode of task 'a' ends",
        ),
        ({"obs": [np.zeros((40, 2)), np.zeros((47, 3)), np.zeros((52, 2))]}, "obs of task 'b' .* like those"),
        ({"obs": [np.zeros((40, 2)), {}, np.zeros((52, 2))]}, "obs of task 'b' has other parts"),
        (
            {
                "truncated": [np.ones(x) for x in (40, 47, 52)],
                "terminated": [np.zeros(x) for x in (40, 47, 52)],
            },
            "all steps of task 'a' are the last of an episode that was cut",
        ),
        ({"reward": {}}, "reward is a dict; give a list, of one array a task"),
        (
            {"obs": [[np.zeros((9, 2)), np.zeros((8, 2))]] * 3},
            "obs of task 'a' is no array .* one after",
        ),
        ({name: [] for name in some_log(np.random.default_rng(0))}, "there are no tasks"),
    ],
)
def test_logged_steps_that_do_not_fit_are_named(changes, message):
    log = some_log(np.random.default_rng(0)) | changes
    with pytest.raises(DataError, match=message):
        transitions_from(**log, names=["a", "b", "c"])


def test_features_and_gradients_of_ones_own_are_grouped_from_a_file(small_run, no_training, tmp_path, capsys):
    run, path = small_run, tmp_path / "data.npz"
    data = {"advantage": run.transitions.advantage, "trajectory": run.transitions.trajectory}
    data["names"] = run.family.task_names
    for name in ("features", "gradients"):
        np.savez_compressed(path, **data, **{name: run.features.values})
        assert main(["group", str(path), "--k", str(run.grouping.k)]) == 0
        found = json.loads((tmp_path / "data.groups.json").read_text())
        np.testing.assert_array_equal(found["labels"], run.grouping.labels)
        assert found["agreement"] is None and found["stability"]["resamples"] > 0
    assert run.family.task_names[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": None}, "it needs advantage, trajectory, and either features or gradients"),
        ({"gradients": np.zeros((3, 40, 2))}, "and either features or gradients"),
        ({"features": np.zeros((3, 39, 2))}, r"features of .* must be \[n, N, …\], as advantage's"),
        ({"advantage": np.full((3, 40), np.nan)}, "advantage of .* not finite"),
        ({"names": np.array(["a", "b", "b"])}, "names of .* a name of its own for each of the 3 tasks"),
        ({"trajectory": np.full((3, 40), 0.5)}, "trajectory of .* float64, .* must be whole numbers"),
        ({"advantage": np.full((3, 40), "x")}, "advantage of .* must be numbers"),
        ({"trajectory": np.tile(np.arange(40) % 4, (3, 1))}, "task 'task0' do not stand together; sort them"),
    ],
)
def test_files_that_cannot_be_grouped_are_named(tmp_path, capsys, changes, message):
    data = {"advantage": np.ones((3, 40)), "trajectory": np.tile(np.arange(40) // 4, (3, 1))}
    data = {k: v for k, v in ({"features": np.zeros((3, 40, 2))} | data | changes).items() if v is not None}
    np.savez(tmp_path / "data.npz", **data)
    assert main(["group", str(tmp_path / "data.npz")]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_what_is_no_file_of_arrays_is_named(tmp_path, capsys):
    assert main(["group", str(tmp_path / "none.npz")]) == 2 and "is no file;" in capsys.readouterr().err
    assert main(["group", "."]) == 2 and ". is no file;" in capsys.readouterr().err
    np.savez(tmp_path / "whole.npz", x=np.zeros(99))
    np.save(tmp_path / "one.npy", np.zeros(99))
    whole = (tmp_path / "whole.npz").read_bytes()
    for content in (b"text", whole[:-30], (tmp_path / "one.npy").read_bytes()):
        (tmp_path / "bad.npz").write_bytes(content)
        assert main(["group", str(tmp_path / "bad.npz")]) == 2
        assert "no file of NumPy arrays" in " ".join(capsys.readouterr().err.split())


def test_features_must_be_those_of_the_transitions_whatever_trajectories_are_called(small_run, no_training):
    run, config = small_run, override(small_run.config, {"k": small_run.grouping.k})
    called = run.transitions._replace(trajectory=np.asarray(run.transitions.trajectory, np.int64) * 10**9)
    found = pipeline.group_features(run.features, called, config)
    np.testing.assert_array_equal(found.grouping.labels, run.grouping.labels)
    assert found.stability.labels.shape == (200, 6)
    values = np.asarray(run.features.values)
    for feats, message in (
        (run.features._replace(values=values[:, :9]), r"features have the shape \(6, 9, .*with split's"),
        (run.features._replace(values=np.full_like(values, np.nan)), "features have numbers that are not"),
        (values, "must be a pgx_jax.types.Features, not a ndarray"),
    ):
        with pytest.raises(DataError, match=message):
            pipeline.group_features(feats, run.transitions, config)
    with pytest.raises(DataError, match="trajectory must be whole numbers from 0 on; its type is float64"):
        named = run.transitions._replace(trajectory=run.transitions.trajectory * 1.0)
        pipeline.group_features(run.features, named, config)
