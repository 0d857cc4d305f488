"""Our PPO on CartPole-v1."""

from ours_ppo import serve_training

from envs.gymnax_adapter import gymnax_family

serve_training(gymnax_family("CartPole-v1", n_tasks=2), ["gymnax"])
