"""Our PPO on CartPole-v1: SETTINGS as JSON. A family needs two tasks, so the environment stands twice in
it, and rows train on one of the two."""

import dataclasses
import json
import sys

from worker import pin, serve

pin()
import jax  # noqa: E402
import numpy as np  # noqa: E402

from envs.gymnax_adapter import gymnax_family  # noqa: E402
from pgx_jax.learn import PPO, make_policy, train  # noqa: E402
from pgx_jax.types import Rows  # noqa: E402

wanted = json.loads(sys.argv[1])
own = {field.name for field in dataclasses.fields(PPO)}
learner = PPO(**{name: value for name, value in wanted.items() if name in own})
family = gymnax_family("CartPole-v1", n_tasks=2)
policy = make_policy(family, hidden=tuple(wanted["hidden"]))
count, steps = wanted["seeds"], wanted["updates"] * learner.steps_per_update


def one_round(number):
    """Train all seeds."""
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(number), count))
    rows = Rows(np.tile([True, False], (count, 1)), np.full(count, steps), keys)
    done = train(policy, learner, family, rows)
    return {"return": float(np.nanmean(done.returns[:, -1]))}


settings = {name: getattr(learner, name) for name in own & set(wanted)}
settings |= {
    "hidden": list(policy.actor.hidden),
    "updates": steps // learner.steps_per_update,
    "seeds": count,
}
serve(settings, steps * count, one_round, ["jax", "flax", "gymnax", "pgx-jax"])
