"""Learning curves of rejax's PPO: {"env", "env_params", "settings", "points", "episodes", "seeds"} as JSON.

``settings`` are those of rejax by its own names. After every part of the steps its own evaluation plays
episodes of the environment, by actions drawn from the policy.
"""

import importlib.metadata
import json
import sys

from worker import pin, say

pin()
import jax  # noqa: E402
import numpy as np  # noqa: E402
from rejax import get_algo  # noqa: E402
from rejax.evaluate import evaluate  # noqa: E402

wanted = json.loads(sys.argv[1])
total = wanted["settings"]["total_timesteps"]
algorithm = get_algo("ppo").create(
    env=wanted["env"],
    env_params=wanted["env_params"],
    eval_freq=total // wanted["points"],
    skip_initial_evaluation=True,
    **wanted["settings"],
)


def play(algo, state, rng):
    """Mean return of episodes."""
    horizon = algo.env_params.max_steps_in_episode
    return evaluate(algo.make_act(state), rng, algo.env, algo.env_params, wanted["episodes"], horizon)[
        1
    ].mean()


def one_seed(key):
    """A curve."""
    return algorithm.train(key)[1]


algorithm = algorithm.replace(eval_callback=play)
train = jax.jit(one_seed)
keys = [jax.random.PRNGKey(seed) for seed in range(wanted["seeds"])]
returns = [np.asarray(train(key)).tolist() for key in keys]
packages = ("jax", "flax", "gymnax", "brax", "rejax")
say({"returns": returns, "versions": {name: importlib.metadata.version(name) for name in packages}})
