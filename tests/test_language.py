"""Objectives of a language model: texts, readers, the model, what it learns, and the small preset."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pgx_jax import estimate

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import drawings  # noqa: E402
import language  # noqa: E402
import language_model as lm  # noqa: E402
import language_tables  # noqa: E402
import language_text as lt  # noqa: E402

SIZES = language.SMALL  # one size, so that one program serves all


@pytest.fixture(scope="module")
def world():
    return language.make_world("readers", 0, SIZES)


@pytest.fixture(scope="module")
def moved(world):
    """A policy somewhere else than the reference."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda x: np.float32(x + 0.1 * rng.normal(size=x.shape)), world.reference)


def tokens(text):
    found = np.full(lt.LENGTH, lt.END)
    words = [lt.TOKEN[word] for word in text.split()]
    found[: len(words)] = words
    return found


@pytest.mark.parametrize(
    ("text", "kindness", "formality", "length", "rhyme", "again"),
    [
        ("merry cat sees hat and cruel cat meets bat", 0, -3, 9, 1, 0),
        ("gentle king observes moon moreover gentle king observes kite", 2, 3, 9, 0, 2),
        ("dog gets old mat so grim dog acquires light", -1, -1, 9, 0, 0),
    ],
)
def test_attributes_by_hand(text, kindness, formality, length, rhyme, again):
    found = lt.attributes(tokens(text))
    np.testing.assert_allclose(found, [kindness, formality, length, rhyme, again / length])


def test_texts_have_two_lines_about_their_topic_and_fit():
    rng = np.random.default_rng(0)
    topics = rng.choice(lt.TOPICS, (20, 10))
    shown = lt.texts(rng, topics)
    assert ((shown.tokens == topics[..., None]).sum(-1) == 2).all() and (shown.tokens[..., -1] == 0).all()
    found = lt.attributes(shown.tokens)
    assert found[..., 2].min() >= 7 and 0.3 < found[..., 3].mean() < 0.7
    between = np.corrcoef(found.reshape(-1, 5).T)
    assert np.abs(between[:3, :3] - np.eye(3)).max() < 0.25


@pytest.mark.parametrize("seed", [0, 1])
def test_objectives_conflict_where_they_should(seed):
    readers, opposites, agreeing = (lt.FAMILIES[name](seed) for name in ("readers", "opposites", "agreeing"))
    same, other = readers.labels[:, None] == readers.labels, ~np.eye(10, dtype=bool)
    rate = lt.agreement(readers, 1000)
    assert rate[same & other].min() > 0.6 and rate[~same].mean() < 0.45
    assert rate[same & other].min() > rate[~same].max()
    rate = lt.agreement(opposites, 1000)
    assert all(rate[i, j] == 0 for i, j in opposites.opposed) and len(opposites.opposed) == 5
    np.testing.assert_allclose(rate[0, 2:], 0.5, atol=0.08)
    assert all(opposites.labels[i] != opposites.labels[j] for i, j in opposites.opposed)
    assert lt.agreement(agreeing, 1000).min() > 0.6 and not agreeing.labels.any()


@pytest.mark.parametrize("family", lt.FAMILIES)
def test_what_is_chosen_is_what_the_reader_wants(family):
    objectives = lt.FAMILIES[family](3)
    pairs = lt.preferences(np.random.default_rng(1), objectives, 40)
    for i, (pair, sign) in enumerate(zip(pairs.pair, pairs.sign, strict=True)):
        score = np.array([objectives.scores(each)[:, i] for each in pair])
        assert (sign * (score[:, 0] - score[:, 1]) > 0).all() and sign.sum() == 0
    assert (np.diff(pairs.prompt[..., 1].reshape(10, 10, 4), axis=-1) == 0).all()
    noisy = lt.preferences(np.random.default_rng(1), objectives, 40, temperature=0.3)
    score = np.array([objectives.scores(pair)[..., i] for i, pair in enumerate(noisy.pair)])
    wrong = (noisy.sign * (score[..., 0] - score[..., 1]) < 0).mean()
    assert 0.02 < wrong < 0.25


def test_log_likelihoods_are_sums_of_logits_up_to_the_end(world):
    text, prompt = tokens("merry cat sees hat and cruel cat meets bat"), [lt.ANYONE, lt.TOKEN["cat"]]
    logits_of = jax.jit(lambda tokens: lm.MODEL.apply(world.reference, tokens))
    logits = np.asarray(logits_of(np.array([*prompt, *text])), np.float64)
    steps = [logits[1 + t] - np.log(np.exp(logits[1 + t]).sum()) for t in range(10)]
    expected = sum(step[text[t]] for t, step in enumerate(steps))  # nine words and the end
    behind = text.copy()
    behind[11:] = 5
    log_likelihood = jax.jit(lm.log_likelihood)
    for ending in (text, behind):
        assert log_likelihood(world.reference, np.array(prompt), ending) == pytest.approx(expected, rel=1e-4)
    after = np.asarray(logits_of(np.array([*prompt, *behind])))  # no position sees what comes after it
    np.testing.assert_allclose(after[:13], logits[:13], rtol=1e-4, atol=1e-5)
    assert not np.allclose(after[13], logits[13])


@jax.jit
@jax.grad
def dpo_slope(params, taught, i, beta):
    """Of the loss of all pairs of a reader, as Rafailov et al. write it: by what was chosen and rejected."""
    pairs = taught.pairs

    def gained(which):
        text = pairs.pair[i][np.arange(len(which)), which]
        return jax.vmap(lm.log_likelihood, (None, 0, 0))(params, pairs.prompt[i], text)

    chosen = jnp.where(pairs.sign[i] > 0, 0, 1)
    ahead = gained(chosen) - gained(1 - chosen) - pairs.sign[i] * taught.reference[i]
    return -jnp.log(jax.nn.sigmoid(beta * ahead)).mean()


@pytest.mark.parametrize("at", ["reference", "elsewhere"])
def test_the_gradient_of_dpo_is_the_direction_of_the_features(world, moved, at):
    """P^T grad loss = -beta/2 mean(a g~), and a is the label alone at the reference."""
    params, beta, taught = world.reference if at == "reference" else moved, 0.3, world.data[0]
    lead = lm.margins(lm.for_all(params, 10), taught.pairs.prompt, taught.pairs.pair) - taught.reference
    data = lm.as_transitions(taught.pairs, np.asarray(lead), beta)
    if at == "reference":
        np.testing.assert_allclose(data.advantage, taught.pairs.sign, atol=1e-5)
        np.testing.assert_allclose(estimate.signed_weights(data), taught.pairs.sign, atol=1e-5)
    feats = estimate.gradient_features(lm.margin, params, data, np.array([0, 5], np.uint32), dim=16)
    for i in (0, 4):
        slope = jax.flatten_util.ravel_pytree(dpo_slope(params, taught, i, beta))[0]
        projected = estimate.gaussian(feats.key, len(slope), 16).T @ slope
        expected = -beta / 2 * (data.advantage[i][:, None] * feats.values[i]).mean(0)
        np.testing.assert_allclose(projected, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())


def test_groups_that_take_turns_are_trained_as_each_alone(world):
    """Against a plain loop over the steps of one group."""
    labels, told = np.array([0, 1] * 5), np.array([False, True, False])
    share, dpo, rate = 2, lm.DPO(), np.array([1e-2, 1e-2, 1e-3])
    lanes = np.stack([np.zeros(10, int), labels, np.arange(10)])
    policies = lm.side_by_side(*world.data, lanes, told, rate, world.reference, world.key, share, dpo)
    policies, data = jax.tree.map(np.asarray, (policies, world.data[1]))
    params, members = world.reference, np.flatnonzero(labels == 1)
    state = ADAM.init(params)
    for i in range(5 * share, 10 * share):  # the second group's turns
        reader_key, pair_key = jax.random.split(jax.random.fold_in(world.key, i))
        odds = jnp.where(labels == 1, 0.0, -jnp.inf)
        reader = np.asarray(jax.random.categorical(reader_key, odds, shape=(dpo.batch,)))
        which = np.asarray(jax.random.randint(pair_key, (dpo.batch,), 0, SIZES.pairs))
        assert set(reader) <= set(members)
        batch = jax.tree.map(lambda x, r=reader, w=which: x[r, w], data)
        params, state = stepped(params, state, batch, dpo.beta)
    shown = world.held_out[1].pairs
    all_alike, by_group = (jax.tree.map(lambda x, i=i: x[i], policies) for i in range(2))
    mine, expected = (lm.margins(p, shown.prompt, shown.pair) for p in (by_group, lm.for_all(params, 10)))
    np.testing.assert_allclose(mine[members], expected[members], rtol=2e-3, atol=2e-3)
    assert np.abs(mine - expected)[labels == 0].mean() > 0.1
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[9]), all_alike)


ADAM = optax.adam(1e-2)


@jax.jit
def stepped(params, state, batch, beta):
    updates, state = ADAM.update(jax.grad(batch_loss)(params, batch, beta), state)
    return optax.apply_updates(params, updates), state


def batch_loss(params, taught, beta):
    pairs = taught.pairs
    ahead = jax.vmap(lm.margin, (None, 0, 0))(params, pairs.prompt, pairs.pair) - taught.reference
    return jnp.log1p(jnp.exp(-pairs.sign * beta * ahead)).mean()


def test_accuracy_is_the_part_of_pairs_that_moved_the_right_way(world, moved):
    method = language.Method(np.zeros(10, int))
    found = language.judge(world, method, lm.for_all(moved, 10), 0.5)
    pairs, one = world.held_out[0].pairs, jax.jit(lm.margin)
    right, gained = [], []
    for prompt, pair, sign in zip(pairs.prompt[3], pairs.pair[3], pairs.sign[3], strict=True):
        better, worse = (0, 1) if sign > 0 else (1, 0)
        now, before = (one(p, prompt, pair[[better, worse]]) for p in (moved, world.reference))
        right.append(now > before)
        gained.append(0.5 * (now - before))
    assert found["accuracy"][3] == pytest.approx(np.mean(right))
    assert found["margin"][3] == pytest.approx(np.mean(gained), rel=1e-3, abs=1e-4)


def test_kinds_of_methods_and_what_is_the_same():
    kinds = [language.Method(np.array(x), told, planted).kind for x, told, planted in (
        ([0, 0, 0], False, True), ([0, 0, 0], True, False), ([0, 1, 2], False, False),
        ([0, 1, 0], False, True), ([0, 1, 0], False, False),
    )]  # fmt: skip
    assert kinds == list(language.KINDS)
    one, other = (language.Lane(language.Method(np.array(x)), 1e-3) for x in ([0, 1, 0], [1, 0, 1]))
    assert one.same == other.same != one._replace(rate=1e-2).same


def test_step_sizes_are_those_that_did_best_on_average():
    def searched(best):
        scores = {str(rate): 0.6 if rate == best else 0.5 for rate in language.RATES}
        return {
            "cell": {"part": "search", "family": "readers"},
            "accuracy": dict.fromkeys(language.KINDS, scores),
        }

    cells = [searched(1e-3), searched(1e-3), searched(1e-2), {"cell": {"part": "table", "family": "readers"}}]
    cells.append(searched(1e-4) | {"cell": {"part": "search", "family": "agreeing"}})
    found = {family: language.best_rates(cells, family) for family in ("readers", "agreeing")}
    assert found["readers"] == dict.fromkeys(language.KINDS, 1e-3)
    assert found["agreeing"] == dict.fromkeys(language.KINDS, 1e-4)


@pytest.mark.slow  # the notebook's test holds it, too
def test_planted_groups_are_recovered_by_a_tiny_model(monkeypatch):
    """Of readers who choose without noise, and have little taste of their own."""
    monkeypatch.setattr(language, "TEMPERATURE", 0.0)
    monkeypatch.setattr(lt, "OWN", 0.2)
    world = language.make_world("readers", 0, SIZES)
    asked = language.ask(world, world.reference, SIZES, lm.DPO(), 0)
    assert asked.found.grouping.labels.tolist() == world.objectives.labels.tolist()
    assert asked.found.predicted["ci95"][0] > 0 and asked.steps == 38
    assert {"dot", "cosine", "whitened_our_k"} <= set(asked.similar)


def test_the_small_preset_and_what_is_shown_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(language, "RATES", (1e-3,))
    out = tmp_path / "language.json"
    args = ["--preset", "small", "--only", "readers", "--out", str(out)]
    assert language.main(args) == 0
    searched, cell = common.read(out)["cells"]
    assert set(searched["accuracy"]) == set(language.KINDS)
    assert cell["found"]["k"] == len(set(cell["found"]["labels"])) > 1
    totals = {name: method["steps"] for name, method in cell["methods"].items()}
    assert totals["one"] == totals["each"] == totals["true"] == totals["random"] == 60
    assert all(50 < steps <= 60 for steps in totals.values())
    accuracy = {name: np.mean(method["accuracy"]) for name, method in cell["methods"].items()}
    assert accuracy["true"] > accuracy["one"] and accuracy["ours"] > accuracy["one"]
    monkeypatch.setattr(language, "compute", None)
    assert language.main(args) == 0  # nothing is missing
    shown = language_tables.language(common.read(out))
    assert all(f"| {label} |" in shown for label in language_tables.LABELS.values())
    gain = accuracy["ours"] - accuracy["one"]
    assert f"({gain:+.3f})" in shown or f"({gain:+.4f})" in shown
    assert "60 gradient steps of 32 pairs" in shown and "- readers: not told apart from any" in shown
    assert len(drawings.language(common.read(out))) > 5000
    assert language.main(["--seeds", "0", "--out", str(out)]) == 2


def test_where_ours_stands_follows_from_the_paired_intervals():
    def seed(shift):
        level = {"ours": 0.7, "one": 0.5, "each": 0.8, "true": 0.7 + 10 * shift}
        names = [*language_tables.LABELS, "similarity_dot"]
        measures = {name: level.get(name, 0.7 + (-1) ** (shift > 0) * 0.1) + shift for name in names}
        return {"methods": {name: {"accuracy": [value]} for name, value in measures.items()}}

    told = language_tables.told_apart({"some": [seed(-0.01), seed(0.0), seed(0.01)]})
    assert told.endswith("- some: ahead of One policy for all, and behind One policy per reader")
