"""rejax's PPO on CartPole-v1: SETTINGS as JSON."""

import json
import sys

from worker import pin, serve

pin()
import jax  # noqa: E402
from rejax import get_algo  # noqa: E402

wanted = json.loads(sys.argv[1])
total = wanted["updates"] * wanted["num_envs"] * wanted["num_steps"]
algorithm = get_algo("ppo").create(
    env="CartPole-v1",
    agent_kwargs={"activation": "tanh", "hidden_layer_sizes": tuple(wanted["hidden"])},
    num_envs=wanted["num_envs"],
    num_steps=wanted["num_steps"],
    num_epochs=wanted["epochs"],
    num_minibatches=wanted["minibatches"],
    learning_rate=wanted["learning_rate"],
    gamma=wanted["gamma"],
    gae_lambda=wanted["gae_lambda"],
    clip_eps=wanted["clip"],
    ent_coef=wanted["entropy"],
    vf_coef=wanted["value"],
    max_grad_norm=wanted["max_grad_norm"],
    total_timesteps=total,
    eval_freq=total,
    skip_initial_evaluation=True,
)
algorithm = algorithm.replace(eval_callback=lambda *_: ())  # training alone is timed
train = jax.jit(jax.vmap(algorithm.train))


def one_round(number):
    """Train all seeds."""
    jax.block_until_ready(train(jax.random.split(jax.random.PRNGKey(number), wanted["seeds"])))


same = ("num_envs", "num_steps", "gamma", "gae_lambda", "learning_rate", "max_grad_norm")
other = {
    "epochs": "num_epochs",
    "minibatches": "num_minibatches",
    "clip": "clip_eps",
    "entropy": "ent_coef",
    "value": "vf_coef",
}
names = {name: name for name in same} | other
settings = {ours: getattr(algorithm, theirs) for ours, theirs in names.items()}
settings |= {
    "hidden": list(algorithm.actor.hidden_layer_sizes),
    "updates": algorithm.total_timesteps // algorithm.iteration_size,
    "seeds": wanted["seeds"],
}
serve(settings, total * wanted["seeds"], one_round, ["jax", "flax", "gymnax", "rejax"])
