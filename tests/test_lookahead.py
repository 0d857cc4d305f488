"""TAG's lookahead: steps along a task's gradient, judged by every task's loss, against plain loops."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from small import copy_of, small, told

import pgx_jax
from pgx_jax import Config, ConfigError, DataError, group_transitions, load, pipeline, regroup
from pgx_jax.config import override
from pgx_jax.estimate import SIMILARITIES, Similarity, deal, lookahead, signed_weights
from pgx_jax.held_out import HeldOut
from pgx_jax.runs.store import RunStore
from pgx_jax.types import FIT, SCORE, SELECT, Seen

KEY = np.array([0, 3], np.uint32)


@pytest.fixture(scope="module")
def params():
    keys = jax.random.split(jax.random.PRNGKey(0))
    kernels = jax.random.normal(keys[0], (3, 7)), jax.random.normal(keys[1], (7, 2))
    return {"in": kernels[0], "out": [kernels[1], jnp.ones(2)]}


def log_prob(params, obs, action):
    kernel, bias = params["out"]
    return jax.nn.log_softmax(jnp.tanh(obs @ params["in"]) @ kernel + bias)[action]


def told_log_prob(params, seen, action):
    """With a bias a task beside what all share."""
    return jax.nn.log_softmax(seen.obs @ params["all"] + seen.context @ params["own"])[action]


def gradients(log_prob, params, transitions, a, part, share=None):
    """[n, p]: of every task's mean of a log pi on one part, transition by transition."""
    flat, unravel = ravel_pytree(params)
    of_one = jax.jit(jax.grad(lambda x, obs, action: log_prob(unravel(x), obs, action)))
    found = []
    for task, source in enumerate(transitions.source):
        keep = transitions.split[source] == part
        keep = keep if share is None else keep & share[task]
        total = np.zeros(flat.size)
        for t in np.flatnonzero(keep):
            obs = jax.tree.map(lambda x, s=source, t=t: x[s, t], transitions.obs)
            total += a[task, t] * np.asarray(of_one(flat, obs, transitions.action[source, t]))
        found.append(total / keep.sum())
    return np.stack(found)


def steps_of(found, params, distance):
    """The steps [n, p] along gradients [n, p], and eta."""
    length = np.linalg.norm(ravel_pytree(params)[0])
    eta = distance * length / np.sqrt((found**2).sum(1).mean())
    return eta * found, eta


def reference(params, transitions, distance, share=None):
    """The same, one stepped policy, part and task after the other."""
    a, n = signed_weights(transitions), len(transitions.source)
    flat, unravel = ravel_pytree(params)
    gains = np.zeros((3, 3, n, n))
    ratios = jax.jit(
        lambda theta, obs, action: jnp.exp(log_prob(theta, obs, action) - log_prob(params, obs, action))
    )
    for p in (FIT, SCORE, SELECT):
        steps, _ = steps_of(gradients(log_prob, params, transitions, a, p, share), params, distance)
        for i, step in enumerate(steps):
            theta = unravel(flat + step.astype(np.float32))
            for q in (FIT, SCORE, SELECT):
                for j, source in enumerate(transitions.source):
                    judges = np.flatnonzero(transitions.split[source] == q)
                    loss = 0.0
                    for t in judges:
                        obs, action = transitions.obs[source, t], transitions.action[source, t]
                        loss -= a[j, t] * float(ratios(theta, obs, action)) / len(judges)
                    gains[p, q, i, j] = -a[j, judges].mean() - loss
    return gains


@pytest.mark.parametrize("sources", [None, 1], ids=["own sources", "a shared source"])
def test_it_is_what_plain_loops_give(make_logged, params, sources):
    transitions, _ = make_logged(n=3, count=120 if sources else 60, sources=sources)
    dealt = [deal(KEY, transitions, 2, (part,)) for part in (FIT, SCORE, SELECT)]
    share = None if sources is None else np.logical_or.reduce(dealt)
    assert (share is None) == (dealt[0] is None)
    found = lookahead(log_prob, params, transitions, distance=0.1, share=share)
    expected = reference(params, transitions, 0.1, share)
    assert found.shape == (3, 3, 3, 3) and np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert not np.allclose(found, found.swapaxes(2, 3), atol=1e-3)  # it has a direction


def test_a_small_step_gives_dot_products_of_gradients(make_logged, params):
    transitions, _ = make_logged(n=4, count=200)
    a = signed_weights(transitions)
    g = [gradients(log_prob, params, transitions, a, part) for part in (FIT, SCORE)]
    errors = {}
    for distance in (0.03, 0.003):
        found = lookahead(log_prob, params, transitions, distance=distance)
        errors[distance] = [
            np.abs(found[p, q] / steps_of(g[p], params, distance)[1] - g[p] @ g[q].T).max()
            / np.abs(g[p] @ g[q].T).max()
            for p, q in permutations((FIT, SCORE))
        ]
    assert max(errors[0.003]) < 0.05 and np.all(np.divide(errors[0.003], errors[0.03]) < 0.25)


def test_tasks_with_the_same_data_have_the_same_rows(make_logged, params):
    transitions, _ = make_logged(n=3, count=90)
    twice = np.array([0, 1, 2, 1])
    whole = transitions._replace(advantage=transitions.advantage[twice], source=twice)
    copied = jax.tree.map(lambda x: x[twice], whole._replace(advantage=None, source=None))
    copied = copied._replace(advantage=whole.advantage, source=np.arange(4))
    for data in (whole, copied):
        found = lookahead(log_prob, params, data)
        np.testing.assert_array_equal(found[:, :, 1], found[:, :, 3])
        np.testing.assert_array_equal(found[..., 1], found[..., 3])
        assert not np.allclose(found[:, :, 0], found[:, :, 1])


def test_parameters_of_single_tasks_are_not_moved(make_logged):
    transitions, _ = make_logged(n=3, count=90)
    context = np.broadcast_to(np.eye(3, dtype=np.float32)[:, None], (3, 90, 3))
    data = transitions._replace(obs=Seen(transitions.obs, context))
    params = {"all": np.eye(3, 2, dtype=np.float32), "own": np.ones((3, 2), np.float32)}
    private = np.repeat([False, True], 6)
    kept = lookahead(told_log_prob, params, data, private=private)
    moved = lookahead(told_log_prob, params, data)
    assert not np.allclose(kept, moved, atol=1e-4)
    # the same as where they are constants, at the same distance of all parameters
    flat = np.linalg.norm(ravel_pytree(params)[0])
    distance = 0.02 * flat / np.linalg.norm(params["all"])
    alone = lookahead(
        lambda shared, seen, action: told_log_prob({"all": shared, "own": params["own"]}, seen, action),
        params["all"], data, distance=float(distance),
    )  # fmt: skip
    np.testing.assert_allclose(kept, alone, atol=1e-5)


def test_the_similarity_is_cross_fitted_and_symmetric(make_logged, params):
    transitions, _ = make_logged(count=150)
    feats = pipeline.features(log_prob, params, transitions, Config())
    config = override(Config(), {"estimate.distance": 0.05}).estimate
    held_out = HeldOut(feats, transitions, config, KEY, log_prob=log_prob, params=params)
    gains = lookahead(log_prob, params, transitions, distance=0.05)
    both = gains[FIT, SCORE] + gains[SCORE, FIT]
    np.testing.assert_allclose(held_out.similarity("lookahead", (FIT, SCORE)), (both + both.T) / 4)
    found = pipeline.similarity(held_out, "lookahead")
    np.testing.assert_allclose(found.folds[1], (gains[SCORE, FIT] + gains[SCORE, FIT].T) / 2)
    np.testing.assert_allclose(found.folds.mean(0), found.matrix)
    assert held_out.folds("lookahead", (FIT, SCORE, SELECT)).shape == (6, 4, 4)
    with pytest.raises(ConfigError, match="steps on one part of the data and judges on another"):
        held_out.similarity("lookahead", (FIT,))
    with pytest.raises(ConfigError, match="give HeldOut its log_prob and params"):
        HeldOut(feats, transitions, config, KEY).similarity("lookahead", (FIT, SCORE))
    with pytest.raises(ConfigError, match="'lookahead' comes from steps .*use HeldOut.similarity"):
        pgx_jax.estimate.similarity(np.ones((3, 2)), kind="lookahead")


def test_a_similarity_of_ones_own_may_step(make_logged, params, monkeypatch):
    called = []

    def gains(log_prob, params, transitions, **settings):
        called.append(settings)
        return np.arange(9).reshape(3, 3, 1, 1) * np.triu(np.ones((3, 3)))

    monkeypatch.setitem(SIMILARITIES, "toy", Similarity(gains, steps=True))
    transitions, _ = make_logged(n=3, count=90, sources=1)
    config = override(Config(), {"similarities": ["toy"], "estimate.dim": 12})
    feats = pipeline.features(log_prob, params, transitions, config)
    known = transitions, config.estimate, KEY, "xyz"
    held_out = HeldOut(feats, *known, log_prob=log_prob, params=params)
    assert set(pipeline.similar_groups(held_out, config, 2)) == {"toy", "toy_our_k"}
    (settings,) = called  # once for all parts
    assert settings["distance"] == 0.02 and settings["names"] == "xyz" and settings["share"].shape == (3, 90)
    expected = (1 + 3) / 2 * np.array([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]])
    np.testing.assert_allclose(held_out.similarity("toy", (FIT, SCORE)), expected)


def test_steps_that_lead_nowhere(make_logged):
    transitions, _ = make_logged(n=3, count=60)
    params = np.full(3, 0.1, np.float32)
    with pytest.raises(ConfigError, match="distance = -1"):
        lookahead(log_prob, params, transitions, distance=-1)
    with pytest.raises(ConfigError, match="estimate.distance = 0 must be positive"):
        group_transitions(log_prob, params, transitions, override(Config(), {"estimate.distance": 0}))
    with pytest.raises(DataError, match="task 0 has no transitions in part 2 of the split"):
        lookahead(log_prob, params, transitions._replace(split=transitions.split % 2))
    with pytest.raises(DataError, match="the step of task 0 .* not finite: take a smaller distance than 9"):
        lookahead(lambda params, obs, action: obs @ jnp.log(params), params, transitions, distance=9)
    assert not lookahead(lambda params, obs, action: obs[0] + 0 * params.sum(), params, transitions).any()


def test_the_planted_conflict_is_found(small_run, small_settings, tmp_path):
    """In a run, when it is resumed, when it is grouped anew, and from logged data."""
    family, config = small(small_settings, compare="fast", similarities=("lookahead",))
    run = pgx_jax.Run(family, config, store=None)
    run.records = {name: small_run.record(name) for name in ("meta", "transitions", "features", "scores")}
    run.compute("similarity")
    assert set(run.similar) == {"lookahead", "lookahead_our_k"}
    for found in run.similar.values():
        np.testing.assert_array_equal(found.labels, family.true_groups)
    saved = load(small_run.store.path)
    beside = override(saved.config, {"estimate.beside": ["lookahead"]})
    assert regroup(saved, beside).groups == small_run.results.groups
    logged = group_transitions(
        run.policy.log_prob, run.meta.actor, run.transitions,
        override(beside, {"estimate.affinity": "closed_form"}), names=family.task_names,
    )  # fmt: skip
    np.testing.assert_array_equal(logged.grouping.labels, family.true_groups)
    mine = pipeline.similarity(run.held_out, "lookahead")
    np.testing.assert_allclose(logged.affinity.beside[0], mine.matrix, rtol=1e-5)


def test_a_run_compares_with_it(small_run, tmp_path, no_training):
    """One whose other methods are trained, and again when it is resumed."""
    store = RunStore.open(copy_of(small_run, tmp_path))
    known = store.config
    store.write_json("config.json", known | {"config": known["config"] | {"similarities": ["lookahead"]}})

    def compared():
        store.remove("similarity")
        store.remove_file("results.json")
        return load(store.path).compute()

    run = compared()
    assert {f"gradient_similarity_lookahead{k}" for k in ("", "_our_k")} <= set(run.results.methods)
    assert told(compared()) | {"timings": None} == told(run) | {"timings": None}
