"""Our features of random transitions: SETTINGS as JSON. The map is drawn anew in every round, and
log-probabilities and features are checked to be finite."""

import json
import sys

from worker import pin, serve

pin()
import features  # noqa: E402
import jax  # noqa: E402

wanted = json.loads(sys.argv[1])
log_prob, params, transitions = features.setup(wanted | {"layers": len(wanted["layers"]) - 1, "seed": 0})


def one_round(number):
    """Features of all transitions."""
    key = jax.random.PRNGKey(number)
    found = features.gradient_features(log_prob, params, transitions, key, wanted["dim"])
    return found.values.block_until_ready()


first = one_round(0)
leaves = jax.tree.leaves(params)
settings = wanted | {
    "p": sum(leaf.size for leaf in leaves),
    "layers": [list(leaf.shape) for leaf in leaves if leaf.ndim == 2],
    "transitions": first.shape[1],
    "dim": first.shape[2],
}
serve(settings, first.shape[1], one_round, ["jax", "pgx-jax"], lambda _: None)
