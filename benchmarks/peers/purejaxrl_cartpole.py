"""purejaxrl's PPO on CartPole-v1: SETTINGS as JSON."""

import json
import sys
import types

from worker import pin, serve

pin()
sys.modules["navix"] = types.ModuleType("navix")  # its wrappers import what MiniGrid alone needs
import jax  # noqa: E402
import numpy as np  # noqa: E402
import ppo  # noqa: E402

wanted = json.loads(sys.argv[1])
config = {
    "LR": wanted["learning_rate"],
    "NUM_ENVS": wanted["num_envs"],
    "NUM_STEPS": wanted["num_steps"],
    "TOTAL_TIMESTEPS": wanted["updates"] * wanted["num_envs"] * wanted["num_steps"],
    "UPDATE_EPOCHS": wanted["epochs"],
    "NUM_MINIBATCHES": wanted["minibatches"],
    "GAMMA": wanted["gamma"],
    "GAE_LAMBDA": wanted["gae_lambda"],
    "CLIP_EPS": wanted["clip"],
    "ENT_COEF": wanted["entropy"],
    "VF_COEF": wanted["value"],
    "MAX_GRAD_NORM": wanted["max_grad_norm"],
    "ACTIVATION": "tanh",
    "ENV_NAME": "CartPole-v1",
    "ANNEAL_LR": False,
    "DEBUG": False,
}
train = jax.jit(jax.vmap(ppo.make_train(config)))


def one_round(number):
    """Train all seeds."""
    out = train(jax.random.split(jax.random.PRNGKey(number), wanted["seeds"]))
    returns = np.asarray(out["metrics"]["returned_episode_returns"])
    return float(returns[:, -1].mean())


keys = jax.random.split(jax.random.PRNGKey(0), wanted["seeds"])
layers = jax.eval_shape(train, keys)["runner_state"][0].params["params"]
hidden = [layers[f"Dense_{i}"]["kernel"].shape[-1] for i in range(2)]  # which it does not let one set
serve(
    wanted | {"hidden": hidden, "updates": config["NUM_UPDATES"]},
    config["TOTAL_TIMESTEPS"] * wanted["seeds"],
    one_round,
    ["jax", "flax", "gymnax", "distrax"],
)
