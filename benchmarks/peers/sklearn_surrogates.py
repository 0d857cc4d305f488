"""scikit-learn's loop over the surrogates: SETTINGS as JSON.

Every solver and precision is tried on a few surrogates, at the loosest tolerance that reaches the gap, and
the fastest one solves all (as in benchmarks/surrogates.py). The rows are arranged before; `fit` is timed.
"""

import json
import sys

from worker import pin, serve

pin()
from problems import Problems  # noqa: E402
from regressions import choose  # noqa: E402

TRIED = 8
wanted = json.loads(sys.argv[1])
problems = Problems.read()
chosen, _ = choose(problems.single[:TRIED], problems.optima[:TRIED], wanted["gap"])
solvers = [one.prepared(*chosen) for one in problems.single]


def one_round(_):
    """All surrogates, one after the other."""
    return [solve() for solve in solvers]


serve(wanted | problems.told(), len(solvers), one_round, ["scikit-learn", "numpy"], problems.gap)
