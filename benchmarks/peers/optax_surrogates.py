"""optax.lbfgs, vmapped over the surrogates: SETTINGS as JSON.

All share one matrix of features, and have weights of their own, zero where a row is none of theirs: the
compiler makes one matrix product of it. Both of optax's line searches are tried on a few, at the loosest
norm of the gradient that reaches the gap, and the fastest solves all.
"""

import functools
import json
import sys

import numpy as np
from worker import fastest, pin, serve

pin()
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from problems import Problems  # noqa: E402

TRIED = 8
TOLERANCES = (1e-1, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)
LIMIT = 1000
SEARCHES = {
    "zoom": lambda: optax.scale_by_zoom_linesearch(max_linesearch_steps=20),
    "backtracking": lambda: optax.scale_by_backtracking_linesearch(20, store_grad=True),
}
wanted = json.loads(sys.argv[1])
problems = Problems.read()
n, rows, dim = problems.features.shape
signed = jnp.asarray(problems.a.reshape(-1))
x = jnp.asarray(problems.features.reshape(-1, dim)) * jnp.sign(signed)[:, None]
share = np.repeat(problems.member, rows, axis=1)
weights = jnp.abs(signed) * share / share.sum(1, keepdims=True)


@functools.partial(jax.jit, static_argnames="search")
def solve_all(search, x, weights, tolerance):
    """Solutions [m, d]; the norm of the gradient falls to ``tolerance`` of that at 0, at most."""
    solver = optax.lbfgs(linesearch=SEARCHES[search]())

    def one(weight):
        def loss(delta):
            return weight @ jax.nn.softplus(-(x @ delta)) + problems.l2 / 2 * delta @ delta

        value_and_grad = optax.value_and_grad_from_state(loss)
        start = jnp.zeros(dim)
        enough = tolerance * jnp.linalg.norm(jax.grad(loss)(start))

        def step(carry):
            delta, state, _, count = carry
            value, grad = value_and_grad(delta, state=state)
            update, state = solver.update(grad, state, delta, value=value, grad=grad, value_fn=loss)
            norm = jnp.linalg.norm(optax.tree.get(state, "grad"))
            return optax.apply_updates(delta, update), state, norm, count + 1

        def unfinished(carry):
            return (carry[2] > enough) & (carry[3] < LIMIT)

        begin = (start, solver.init(start), jnp.inf, 0)
        return jax.lax.while_loop(unfinished, step, begin)[0]

    return jax.vmap(one)(weights)


def run(search, tolerance, count=None):
    """Solutions of all, or of the first ones."""
    return solve_all(search, x, weights[:count], tolerance).block_until_ready()


ways, few = {}, problems.first(TRIED)
for search in SEARCHES:
    for tolerance in TOLERANCES:
        if few.gap(run(search, tolerance, TRIED)) <= wanted["gap"]:
            ways[search, tolerance] = functools.partial(run, search, tolerance, TRIED)
            break
chosen = fastest(ways)
serve(wanted | problems.told(), len(weights), lambda _: run(*chosen), ["optax"], problems.gap)
