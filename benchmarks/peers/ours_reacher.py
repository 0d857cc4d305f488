"""Our PPO on Brax's reacher, whose episodes begin anew each time (Brax's own go back to their first
state)."""

import json
import sys

from ours_ppo import serve_training

from envs.brax_adapter import brax_family

wanted = json.loads(sys.argv[1])
family = brax_family("reacher", n_tasks=2, horizon=wanted["horizon"], backend=wanted["backend"])
serve_training(family, ["brax"])
