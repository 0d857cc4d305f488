"""Stable-Baselines3's PPO on LunarLander-v3: SETTINGS as JSON. Every round trains a fresh policy.

It is given Gymnasium's environment without what it is wrapped in by default to find mistakes and to keep
a record of episodes (ours has none of it, either), and steps copies in one process, the fastest for so
light an environment. What differs from ours: rewards are not scaled.
"""

import json
import sys

from worker import pin, serve

pin()
import gymnasium  # noqa: E402
import torch  # noqa: E402
from gymnasium.wrappers import TimeLimit  # noqa: E402
from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

wanted = json.loads(sys.argv[1])
torch.set_num_threads(1)


def make():
    """One copy."""
    env = gymnasium.make("LunarLander-v3", max_episode_steps=-1, disable_env_checker=True)
    return TimeLimit(env.unwrapped, wanted["horizon"])


environments = DummyVecEnv([make] * wanted["num_envs"])
batch = wanted["num_envs"] * wanted["num_steps"]
steps = wanted["updates"] * batch


def fresh(number):
    """What is to be trained."""
    return PPO(
        "MlpPolicy",
        environments,
        n_steps=wanted["num_steps"],
        batch_size=batch // wanted["minibatches"],
        n_epochs=wanted["epochs"],
        learning_rate=wanted["learning_rate"],
        gamma=wanted["gamma"],
        gae_lambda=wanted["gae_lambda"],
        clip_range=wanted["clip"],
        ent_coef=wanted["entropy"],
        vf_coef=wanted["value"],
        max_grad_norm=wanted["max_grad_norm"],
        policy_kwargs={"net_arch": wanted["hidden"], "activation_fn": torch.nn.Tanh},
        seed=number,
        device="cpu",
    )


def one_round(number):
    """Train."""
    model = fresh(number).learn(steps)
    assert model.num_timesteps == steps
    buffer = model.rollout_buffer
    return float(buffer.rewards.sum() / max(buffer.episode_starts.sum(), 1))


model = fresh(0)
layers = [
    [part.out_features for part in net if hasattr(part, "out_features")]
    for net in (model.policy.mlp_extractor.policy_net, model.policy.mlp_extractor.value_net)
]
same = ("gamma", "gae_lambda", "max_grad_norm", "learning_rate")
settings = {name: getattr(model, name) for name in same} | {
    "num_envs": model.n_envs,
    "num_steps": model.n_steps,
    "minibatches": model.n_envs * model.n_steps // model.batch_size,
    "epochs": model.n_epochs,
    "clip": model.clip_range(1.0),
    "entropy": model.ent_coef,
    "value": model.vf_coef,
    "hidden": layers[0] if layers[0] == layers[1] else layers,
    "horizon": environments.envs[0]._max_episode_steps,
    "updates": steps // (model.n_envs * model.n_steps),
    "seeds": 1,
}
serve(settings, steps, one_round, ["torch", "stable-baselines3", "gymnasium"])
