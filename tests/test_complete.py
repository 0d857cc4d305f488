"""What is told of data that nothing can be estimated from, before anything is."""

import jax.numpy as jnp
import numpy as np
import pytest

from pgx_jax.errors import ConfigError, DataError
from pgx_jax.estimate.checks import check_features, check_log_prob, check_params, check_transitions
from pgx_jax.types import FIT, SCORE, SELECT


@pytest.fixture
def logged(make_logged):
    return make_logged(n=4, count=150, d=2, sources=3)


def test_sound_data_pass(logged):
    transitions, features = logged
    check_transitions(transitions)
    check_features(features, transitions)
    parts = {"see": transitions.obs, "hear": transitions.obs[..., 0] > 0}
    check_transitions(transitions._replace(obs=parts, action=jnp.asarray(transitions.action)), list("abcd"))
    check_transitions(transitions._replace(source=np.uint8(transitions.source)), None)
    check_log_prob(lambda params, obs, action: params @ obs * action, np.ones(3, np.float32), transitions)
    check_params({"a": np.ones(3, np.float16), "b": [jnp.ones(())], "c": 1.0})


def changed(name, change):
    """A field [U, N, ...] or [n, ...] of which a copy is changed in place."""

    def make(transitions):
        value = np.array(getattr(transitions, name))
        change(value)
        return {name: value}

    return make


BROKEN = {
    "a source of a fraction": (
        lambda t: {"source": t.source + 0.5},
        "source must be a whole number for each",
    ),
    "sources in a table": (lambda t: {"source": t.source[None]}, "source must be a whole number for each"),
    "one source too few": (lambda t: {"source": t.source - 1}, r"source = \[-1, .* sources 0 to 2"),
    "one source too many": (lambda t: {"source": t.source + 1}, r"source = \[1, .* sources 0 to 2"),
    "a split without sources": (
        lambda t: {"split": t.split[0]},
        r"split has shape \(150,\); it must be \[U, N",
    ),
    "other observations": (
        lambda t: {"obs": t.obs[:, 1:]},
        r"obs has shape \(3, 149, 3\).*split's \(3, 150\)",
    ),
    "a part of them": (lambda t: {"obs": {"a": t.obs, "b": t.obs[1:]}}, r"transitions\.obs\.b has shape"),
    "actions in words": (lambda t: {"action": t.action.astype(str)}, r"transitions\.action is of type <U"),
    "complex ones": (lambda t: {"obs": t.obs.astype(complex)}, r"transitions\.obs is of type complex"),
    "trajectories before the first": (
        changed("trajectory", lambda x: x.__setitem__((1, 7), -1)),
        "trajectory must be whole numbers from 0 on; its type is int64, the least is -1",
    ),
    "trajectories of fractions": (lambda t: {"trajectory": 1.0 * t.trajectory}, "trajectory must be whole"),
    "advantages of one task less": (
        lambda t: {"advantage": t.advantage[1:]},
        r"advantage has shape \(3, 150\); it must be \(4, 150\)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_transitions_that_are_no_data_are_refused(logged, name):
    change, told = BROKEN[name]
    with pytest.raises(DataError, match=told):
        check_transitions(logged[0]._replace(**change(logged[0])))


@pytest.mark.parametrize(("part", "purpose"), [(FIT, "fit"), (SCORE, "score"), (SELECT, "select")])
def test_the_first_task_without_a_part_of_the_data_is_named(logged, part, purpose):
    transitions = logged[0]
    split, there = transitions.split.copy(), len(np.unique(transitions.trajectory[1]))
    split[1][split[1] == part] = (part + 1) % 3
    with pytest.raises(DataError, match=rf"task 'b' has no trajectory to {purpose} by, of {there} in all"):
        check_transitions(transitions._replace(split=split), list("abcd"))


def test_features_of_something_else_are_refused(logged):
    transitions, features = logged
    values, spoilt = np.asarray(features.values), np.array(features.values)
    spoilt[2, 5, 1] = np.inf
    with pytest.raises(DataError, match="must be a pgx_jax.types.Features, not a ndarray"):
        check_features(values, transitions)
    for other, told in (
        (values[0], r"shape \(150, 2\)"), (values[1:], r"shape \(2, 150, 2\)"),
        (values[:, 1:], r"shape \(3, 149, 2\)"),
        (spoilt, "numbers that are not finite"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=told):
            check_features(features._replace(values=other), transitions)


def test_a_policy_that_cannot_be_differentiated_is_refused(logged):
    params, transitions = np.ones(3, np.float32), logged[0]
    for log_prob in (lambda *x: x[0], lambda *x: 1, lambda *x: jnp.int32(1), lambda *x: None):
        with pytest.raises(ConfigError, match="must return one number for one transition, and it returns"):
            check_log_prob(log_prob, params, transitions)
    with pytest.raises(ConfigError, match=r"of the shapes \(3,\) and \(\) \(TypeError: "):
        check_log_prob(lambda params, obs, action: obs @ params[:2], params, transitions)
    for params, told in (
        ([], "no leaves"), ({"a": 1.0, "b": 2}, r"params\['b'\] is no array of .* but a int; give"),
        ([np.ones(1), np.arange(3)], r"params\[1\] is no array .* but a ndarray of int64; give"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=told):
            check_params(params)
