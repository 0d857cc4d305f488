"""Our PPO on LunarLander-v3, on the host engine."""

import json
import sys

from ours_ppo import serve_training

from envs.gymnasium_adapter import gymnasium_family

wanted = json.loads(sys.argv[1])
family = gymnasium_family("LunarLander-v3", {"gravity": [-10.0] * 2}, horizon=wanted["horizon"])
serve_training(family, ["gymnasium"])
