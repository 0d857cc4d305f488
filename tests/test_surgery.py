"""Gradients of several tasks put together: each method against plain loops, what it promises, and that a row
of some of the tasks is a family of those alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pgx_jax.learn import surgery

N, P = 6, 15
examples = settings(derandomize=True, deadline=None, max_examples=30)
seeds = st.integers(0, 10_000)
subsets = st.lists(st.booleans(), min_size=N, max_size=N).filter(any).map(np.array)

METHODS = {
    "mean": surgery.mean(),
    "pcgrad": surgery.pcgrad(),
    "cagrad": surgery.cagrad(0.5),
    "famo": surgery.famo(),
    "gradnorm": surgery.gradnorm(0.5),
}


def drawn(seed, n=N, p=P):
    """Gradients [n, p] of different lengths that often conflict, and losses [n]."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-1, 1, (n, 1)) - rng.uniform() * rng.normal(
        size=p
    )
    return gradients.astype(np.float32), rng.uniform(0, 2, n).astype(np.float32)


def stepped(name, n):
    """One step of a method, compiled: (gradients, state, losses, again, member, key) -> (gradient, state)."""
    method = surgery.transform(METHODS[name], n)

    def step(gradients, state, losses, again, member, key):
        return method.update(gradients, state, losses=losses, again=again, member=member, key=key)

    return method.init(None), jax.jit(jax.vmap(step, (None, 0, None, None, 0, None)))


STEPS = {name: stepped(name, N) for name in METHODS}


def gone(name, member, steps=4, seed=0, among=None):
    """The gradients of some steps [S, R, p] and the last state of R rows, of the tasks in ``among`` alone."""
    among = np.ones(N, bool) if among is None else among
    first, step = STEPS[name] if among.all() else stepped(name, int(among.sum()))
    state = jax.tree.map(lambda x: np.stack([x] * len(member)), first)
    out = []
    for t in range(steps):
        gradients, losses = drawn(seed + t)
        again = losses * np.random.default_rng(t).uniform(0.5, 1.2, N).astype(np.float32)
        given = (gradients[among], state, losses[among], again[among], member, jax.random.PRNGKey(t))
        gradient, state = step(*given)
        out.append(gradient)
    return np.stack(out), state


@pytest.mark.parametrize("name", METHODS)
def test_a_row_of_some_tasks_is_a_family_of_those_alone(name):
    rows = np.array([[0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0]], bool)
    ours, _ = gone(name, rows)
    for r, member in enumerate(rows):
        theirs, _ = gone(name, np.ones((1, member.sum()), bool), among=member)
        np.testing.assert_allclose(ours[:, r], theirs[:, 0], rtol=2e-4, atol=1e-4)
    own = np.stack([drawn(t)[0][3] for t in range(4)])
    np.testing.assert_allclose(ours[:, 2], own, rtol=1e-5)  # of a single task it is its own


def test_a_transform_takes_any_leaves_and_chains():
    gradients, losses = drawn(1)
    tree = {"a": gradients[:, :6].reshape(N, 2, 3), "b": gradients[:, 6:]}
    method = optax.chain(surgery.transform(surgery.famo(), N), optax.scale(-2.0))
    found, _ = method.update(tree, method.init(None), losses=jnp.asarray(losses))
    weights = 1 / (losses + 0.01) / (1 / (losses + 0.01)).sum()
    np.testing.assert_allclose(found["b"], -2 * weights @ gradients[:, 6:], rtol=1e-4)
    np.testing.assert_allclose(found["a"].ravel(), -2 * weights @ gradients[:, :6], rtol=1e-4, atol=1e-5)


# PCGrad

projected = jax.jit(surgery.project)


def slow_pcgrad(gradients, orders):
    """Algorithm 1, with all gradients as they are: what is left of each."""
    left = gradients.astype(float)
    for i in range(len(gradients)):
        for j in orders[i]:
            inner = left[i] @ gradients[j]
            if j != i and inner < 0:
                left[i] = left[i] - inner / (gradients[j] @ gradients[j]) * gradients[j]
    return left


@examples
@given(seeds)
def test_pcgrad_is_the_loop_and_leaves_no_conflict_with_the_last(seed):
    gradients, _ = drawn(seed)
    orders = np.stack([np.random.default_rng([seed, i]).permutation(N) for i in range(N)])
    left = np.asarray(projected(surgery.products(gradients), orders)) @ gradients
    np.testing.assert_allclose(left, slow_pcgrad(gradients, orders), rtol=1e-3, atol=1e-3)
    for i, order in enumerate(orders):
        last = gradients[order[order != i][-1]]
        lengths = np.linalg.norm(gradients[i]) * np.linalg.norm(last)
        assert left[i] @ last >= -1e-4 * lengths


def test_pcgrad_never_holds_a_gradient_against_itself():
    """What is left of the first goes against the first itself once the second is taken from it."""
    gram = np.array([[1, -0.8, -0.8], [-0.8, 1, 0.32], [-0.8, 0.32, 1]])
    gradients = np.linalg.cholesky(gram)
    orders = np.array([[1, 2, 0]] * 3)
    left = np.asarray(projected(jnp.asarray(gram, jnp.float32), orders)) @ gradients
    assert left[0] @ gradients[0] < -0.05
    np.testing.assert_allclose(left, slow_pcgrad(gradients, orders), atol=1e-5)


def test_pcgrad_leaves_orthogonal_gradients_alone_and_depends_on_the_key():
    gradients = (
        np.linalg.qr(np.random.default_rng(0).normal(size=(P, N)))[0].T * np.arange(1.0, N + 1)[:, None]
    )
    method = surgery.transform(surgery.pcgrad(), N)
    start = method.init(None)
    found, _ = method.update(jnp.asarray(gradients, jnp.float32), start, losses=None)
    np.testing.assert_allclose(found, gradients.mean(0), atol=1e-5)
    gradients, _ = drawn(3)
    one, two, again = (
        method.update(gradients, start, losses=None, key=jax.random.PRNGKey(k))[0] for k in (0, 1, 0)
    )
    assert not np.allclose(one, two, rtol=1e-3)
    np.testing.assert_array_equal(one, again)


def test_a_transform_draws_other_orders_in_every_step():
    """With one key for all steps, or none."""
    gradients, _ = drawn(3)
    method = surgery.transform(surgery.pcgrad(), N)
    for more in ({}, {"key": jax.random.PRNGKey(1)}):
        state, found = method.init(None), []
        for _ in range(3):
            gradient, state = method.update(gradients, state, losses=None, **more)
            found.append(gradient)
        assert not np.allclose(found[0], found[1], rtol=1e-3)
        assert not np.allclose(found[1], found[2], rtol=1e-3)


def test_pcgrad_draws_every_order():
    orders = jax.jit(jax.vmap(surgery._orders, (0, None)))
    members = np.array([True, True, False, True, False, False])
    found = np.asarray(orders(jax.random.split(jax.random.PRNGKey(0), 300), members))[:, 1]
    among = [tuple(x for x in order if members[x]) for order in found.tolist()]
    assert len(set(among)) == 6 and min(map(among.count, set(among))) > 25


# CAGrad

weighed = jax.jit(jax.vmap(surgery.worst_case, (0, None, None)))


def improvement(gradients, direction):
    """Of the task that a direction improves least."""
    return (gradients @ direction).min()


def slow_cagrad(gradients, c):
    """The dual of algorithm 1, by SciPy, from three starts."""
    n, mean = len(gradients), gradients.mean(0)
    radius = c * np.linalg.norm(mean)

    def dual(w):
        return w @ gradients @ mean + radius * np.linalg.norm(w @ gradients)

    starts = [np.full(n, 1 / n), *np.random.default_rng(0).dirichlet(np.ones(n), 2)]
    whole = {"type": "eq", "fun": lambda w: w.sum() - 1}
    tried = [
        minimize(dual, w, bounds=[(0, 1)] * n, constraints=whole, options={"ftol": 1e-12}) for w in starts
    ]
    best = min(tried, key=lambda found: found.fun).x @ gradients
    return mean + radius * best / np.linalg.norm(best)


@examples
@given(seeds, st.sampled_from([0.1, 0.4, 0.9]))
def test_cagrad_is_the_best_direction_of_its_ball(seed, c):
    gradients, _ = drawn(seed)
    weights = np.asarray(weighed(surgery.products(gradients)[None], np.ones(N, bool), c))[0]
    gradients, mean = gradients.astype(float), gradients.mean(0).astype(float)
    direction, size = weights @ gradients, np.linalg.norm(mean)
    scale = size * np.sqrt((gradients**2).sum(1).mean())
    assert np.linalg.norm(direction - mean) <= c * size * (1 + 1e-4)
    assert improvement(gradients, direction) >= improvement(gradients, mean) - 1e-5 * scale
    slow = slow_cagrad(gradients, c)
    assert improvement(gradients, direction) >= improvement(gradients, slow) - 1e-3 * scale


def test_cagrad_of_many_tasks_and_of_none_to_go():
    """60 tasks; and 60 of which every direction harms one, so that nothing is better than the mean."""
    for p in (500, 10):
        gradients, _ = drawn(p, 60, p)
        for c in (0.4, 1.5):
            weights = np.asarray(weighed(surgery.products(gradients)[None], np.ones(60, bool), c))[0]
            direction, mean = weights @ gradients, gradients.mean(0)
            assert np.linalg.norm(direction - mean) <= c * np.linalg.norm(mean) * 1.001
            gained = improvement(gradients, direction) - improvement(gradients, mean)
            assert gained > 0 if p == 500 else gained >= -1e-4
    nothing = weighed(jnp.zeros((1, N, N)), np.ones(N, bool), 0.4)
    np.testing.assert_array_equal(nothing[0], np.float32(1 / N))
    opposed = np.stack([gradients[0], -gradients[0]])
    found = weighed(surgery.products(opposed)[None], np.ones(2, bool), 0.4)[0] @ opposed
    np.testing.assert_allclose(found, 0, atol=1e-4)


def test_cagrad_in_no_ball_is_the_mean():
    gradients, _ = drawn(5)
    found = weighed(surgery.products(gradients)[None], np.ones(N, bool), 0.0)[0]
    np.testing.assert_array_equal(found, np.float32(1 / N))


# FAMO and GradNorm


class SlowAdam:
    """Steps of Adam, in float64."""

    def __init__(self):
        self.m, self.v, self.t = 0.0, 0.0, 0

    def __call__(self, slope):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * slope, 0.999 * self.v + 0.001 * slope**2
        return self.m / (1 - 0.9**self.t) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8)


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def test_famo_is_the_loop():
    found, state = gone("famo", np.ones((1, N), bool), steps=6)
    logits, adam, before = np.zeros(N), SlowAdam(), None
    for t in range(6):
        gradients, losses = drawn(t)
        again = losses * np.random.default_rng(t).uniform(0.5, 1.2, N).astype(np.float32)
        if before is not None:
            change, z = np.log(before + 0.01) - np.log(again + 0.01), softmax(logits)
            slope = [sum(change[i] * z[i] * ((i == j) - z[j]) for i in range(N)) for j in range(N)]
            logits = logits - 0.025 * adam(np.array(slope) + 0.01 * logits)
        z = softmax(logits)
        c = 1 / sum(z[i] / (losses[i] + 0.01) for i in range(N))
        expected = sum(c * z[i] / (losses[i] + 0.01) * gradients[i] for i in range(N))
        np.testing.assert_allclose(found[t, 0], expected, rtol=1e-3, atol=1e-4)
        before = losses
    np.testing.assert_allclose(state.own.logits[0], logits, rtol=1e-3, atol=1e-5)
    assert np.abs(logits).max() > 0.03


def test_gradnorm_is_the_loop():
    found, state = gone("gradnorm", np.ones((1, N), bool), steps=6)
    weights, adam, first = np.ones(N), SlowAdam(), drawn(0)[1]
    for t in range(6):
        gradients, losses = drawn(t)
        expected = sum(weights[i] * gradients[i] for i in range(N)) / N
        np.testing.assert_allclose(found[t, 0], expected, rtol=1e-3, atol=1e-4)
        lengths = np.linalg.norm(gradients, axis=1)
        rates = losses / first
        target = (weights * lengths).mean() * (rates / rates.mean()) ** 0.5
        weights = weights - 0.025 * adam(np.sign(weights * lengths - target) * lengths)
        weights = weights * N / weights.sum()
    np.testing.assert_allclose(state.own.weights[0], weights, rtol=1e-3)


@examples
@given(seeds, subsets)
def test_weights_of_losses_keep_their_sum(seed, member):
    start, step = STEPS["gradnorm"]
    state = jax.tree.map(lambda x: x[None], start)
    for t in range(3):
        gradients, losses = drawn(seed + t)
        _, state = step(gradients, state, losses, losses, member[None], jax.random.PRNGKey(0))
    np.testing.assert_allclose(state.own.weights[0, member].sum(), member.sum(), rtol=1e-5)
    assert (state.own.weights[0] > 0).all() and (state.own.weights[0, ~member] == 1).all()
    _, famo = gone("famo", member[None], steps=3, seed=seed)
    seen = surgery.Tasks(member, losses, losses, None, None)
    weights, _ = METHODS["famo"].weigh(seen, jax.tree.map(lambda x: x[0], famo.own))
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-5)
    assert (weights[member] > 0).all() and (weights[~member] == 0).all()


def test_gradnorm_makes_gradients_equally_long_and_famo_follows_who_lags():
    gradients, _ = drawn(2)
    method, losses = surgery.gradnorm(0.0), jnp.ones(N)
    seen = surgery.Tasks(jnp.ones(N, bool), losses, losses, surgery.products(gradients), None)
    state, step = method.init(N), jax.jit(lambda state: method.weigh(seen, state)[1])
    for _ in range(600):
        state = step(state)
    lengths = np.linalg.norm(gradients, axis=1)
    balanced = state.weights * lengths
    assert lengths.max() > 5 * lengths.min() and balanced.max() < 1.5 * balanced.min()

    method, again = surgery.famo(), jnp.where(jnp.arange(N) == 2, 1.0, 0.9)  # all but one improve
    seen = surgery.Tasks(jnp.ones(N, bool), losses, again, None, None)
    state, step = method.init(N), jax.jit(lambda state: method.weigh(seen, state))
    for _ in range(50):
        weights, state = step(state)
    assert weights.argmax() == 2 and weights[2] > 2 * weights[0]
