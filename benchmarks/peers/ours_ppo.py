"""Our PPO: SETTINGS as JSON. A family needs two tasks, so an environment stands twice in one, and rows
train on one of the two. Every round trains fresh policies."""

import dataclasses
import json
import sys

from worker import pin, serve

pin()
import jax  # noqa: E402
import numpy as np  # noqa: E402

from pgx_jax.learn import PPO, make_policy, train  # noqa: E402
from pgx_jax.types import Rows  # noqa: E402


def serve_training(family, packages):
    """Answer with trainings on the first task of a family.

    Settings are those of `PPO` and `make_policy` by their names, "updates" and "seeds".
    """
    wanted = json.loads(sys.argv[1])
    own = {field.name for field in dataclasses.fields(PPO)} & set(wanted)
    learner = PPO(**{name: wanted[name] for name in own})
    kinds = {name: wanted[name] for name in ("squash", "normalise_observations") if name in wanted}
    policy = make_policy(family, hidden=tuple(wanted["hidden"]), **kinds)
    count, steps = wanted["seeds"], wanted["updates"] * learner.steps_per_update

    def one_round(number):
        keys = np.asarray(jax.random.split(jax.random.PRNGKey(number), count))
        rows = Rows(np.tile([True, False], (count, 1)), np.full(count, steps), keys)
        done = train(policy, learner, family, rows)
        last = done.returns[:, -1, 0]
        return float(np.nanmean(last)) if np.isfinite(last).any() else None

    built = {name: getattr(policy, name, getattr(policy.distribution, name, None)) for name in kinds}
    built |= {name: getattr(learner, name) for name in own}
    built |= {"hidden": list(policy.actor.hidden), "updates": steps // learner.steps_per_update}
    of_family = {"horizon": family.horizon, "backend": getattr(family.env, "backend", None)}
    built |= {name: of_family[name] for name in of_family if name in wanted}
    serve(built | {"seeds": count}, steps * count, one_round, ["jax", "flax", "pgx-jax", *packages])
