"""Our surrogates, solved in one call: SETTINGS as JSON. The data are those of benchmarks/surrogates.py,
which the peers get by a file; standardising the advantages and arranging the rows counts as ours."""

import json
import sys

from worker import pin, serve, shared

pin()
import numpy as np  # noqa: E402
from problems import Problems  # noqa: E402
from surrogates import Data, Settings  # noqa: E402

from pgx_jax import estimate  # noqa: E402

wanted = json.loads(sys.argv[1])
data = Data(Settings(preset=wanted["preset"], subsets=wanted["subsets"], size=wanted["size"]))


def one_round(_):
    """All surrogates."""
    return data.fit(wanted["ridge"], solver="lbfgs")[0]


first = one_round(0)
np.savez(
    shared("surrogates.npz"),
    features=np.asarray(data.run.features.values),
    a=estimate.signed_weights(data.run.transitions),
    member=data.member,
    l2=float(first.l2),
)
problems = Problems.read()
serve(
    wanted | problems.told(),
    len(problems.single),
    one_round,
    ["jax", "pgx-jax"],
    lambda found: problems.gap(found.delta),
)
