"""Brax's PPO on its reacher: SETTINGS as JSON.

`train` compiles and trains in one go, and tells of every epoch, which is so many updates in one program:
a round is what it does from one telling to the next, without evaluations. It goes on where it was, which
costs the same: an episode of the reacher lasts as long whatever the policy.

What differs from ours: a minibatch holds whole stretches of an environment's steps, whose advantages are
computed anew in it; an episode's end goes back to the environment's first state, where ours draws a new
one; the deviation of the actions depends on the state, where ours is a parameter. The one function that
it misses in today's JAX is given to it; it runs before training alone.
"""

import functools
import json
import os
import queue
import sys
import threading
import traceback

from worker import pin, serve

pin()
import jax  # noqa: E402
from brax import envs  # noqa: E402
from brax.training.agents.ppo.networks import make_ppo_networks  # noqa: E402
from brax.training.agents.ppo.train import train  # noqa: E402

wanted = json.loads(sys.argv[1])
ROUNDS = 1000
"""More than anybody asks for."""
steps = wanted["updates"] * wanted["num_envs"] * wanted["num_steps"]
same = ("num_envs", "learning_rate", "gae_lambda", "max_grad_norm")
names = {name: name for name in same} | {
    "num_steps": "unroll_length",
    "epochs": "num_updates_per_batch",
    "minibatches": "num_minibatches",
    "gamma": "discounting",
    "clip": "clipping_epsilon",
    "entropy": "entropy_cost",
    "value": "vf_loss_coefficient",
    "normalise_observations": "normalize_observations",
    "horizon": "episode_length",
}
given = {theirs: wanted[ours] for ours, theirs in names.items()}
given["batch_size"] = wanted["num_envs"] // wanted["minibatches"]
network = functools.partial(
    make_ppo_networks,
    policy_hidden_layer_sizes=tuple(wanted["hidden"]),
    value_hidden_layer_sizes=tuple(wanted["hidden"]),
    activation=jax.numpy.tanh,
)
asked, told, layers = queue.Queue(), queue.Queue(), []


def tell(total, _):
    """An epoch is done: the round that waits is told, and the next one is waited for."""
    told.put(total)
    asked.get()


def put_on_all(tree, devices):
    """What Brax expects of a function that JAX has no more: a leading axis of the devices."""
    return jax.tree.map(lambda leaf: jax.numpy.stack([leaf] * len(devices)), tree)


def look(total, make_policy, params):
    """Layers of what is trained."""
    layers[:] = [[layer["kernel"].shape[1] for layer in part["params"].values()] for part in params[1:]]


def one_round(_):
    """Go on for an epoch."""
    asked.put(None)
    told.get()


def run():
    """Train; where that fails, end, so that nobody waits."""
    try:
        train(environment, **arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


jax.device_put_replicated = put_on_all
environment = envs.get_environment("reacher", backend=wanted["backend"])
arguments = given | {
    "num_timesteps": ROUNDS * steps,
    "num_evals": ROUNDS + 1,
    "run_evals": False,
    "network_factory": network,
    "progress_fn": tell,
    "policy_params_fn": look,
}
threading.Thread(target=run, daemon=True).start()
first = told.get()  # compiles
settings = (
    {ours: given[theirs] for ours, theirs in names.items()}
    | {
        "num_envs": given["batch_size"] * given["num_minibatches"],  # of whose stretches a batch is made
        "updates": first // (given["batch_size"] * given["num_minibatches"] * given["unroll_length"]),
        "hidden": layers[0][:-1] if layers[0][:-1] == layers[1][:-1] else layers,
        "backend": environment.backend,
        "squash": True,  # as Brax's distribution is
        "seeds": 1,
    }
)
serve(settings, steps, one_round, ["jax", "flax", "brax"])
