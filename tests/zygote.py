"""Makes small runs in processes that it forks, and kills when they are told to die: it has imported all that
they need, and computed nothing.

    python zygote.py            reads lines "ENGINE FOLDER SECONDS", and answers each with "killed" or "done"

A run of the folder begins or goes on, and is killed after so many seconds of its processor's time, counted
from when it has something to lose.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from hosts import host_points

import pgx_jax
from pgx_jax import PPO, Config, EstimateConfig, GroupingConfig, PolicyConfig, make_family, resume, run

CONFIG = Config(
    seed=5, steps_per_task=9600, meta_fraction=0.5, meta_entropy=0.0, group_entropy=None, looks=1,
    min_updates=1, collect_fraction=0.5, episodes=2, test_tasks=0, compare="none", keep_programs=False,
    policy=PolicyConfig(hidden=(8,)),
    ppo=PPO(
        learning_rate=2e-2, final_learning_rate=1.0, gamma=0.99, gae_lambda=0.95, entropy=0.0, num_envs=6,
        num_steps=10, epochs=2, minibatches=2,
    ),
    estimate=EstimateConfig(steps=480, num_envs=8, dim=16), grouping=GroupingConfig(resamples=0),
)  # fmt: skip
SETTINGS = {"n_tasks": 3, "n_groups": 2, "horizon": 37, "seed": 5}
"""Episodes are longer than updates, so that they are under way wherever a run is killed."""
FAMILIES = {
    "device": lambda: make_family("points", **SETTINGS),
    "host": lambda: host_points(**SETTINGS),
}


class Fuse(pgx_jax.Listener):
    """Kills this process some time after it has trained for the first time, or finished a stage (before that
    it compiles, and has nothing to lose)."""

    def __init__(self, seconds):
        self.seconds, self.lit = seconds, False

    def progress(self, done, total, recent):
        self.light()

    def finish(self, stage, seconds, text):
        self.light()

    def light(self):
        if not self.lit:
            self.lit = True
            threading.Thread(target=self.burn, daemon=True).start()

    def burn(self):
        end = time.process_time() + self.seconds
        while time.process_time() < end:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGKILL)


def make(engine, folder, seconds):
    listener, family = Fuse(seconds), FAMILIES[engine]()
    if (Path(folder) / "config.json").is_file():
        resume(folder, family=family, listener=listener)
    else:
        run(family, CONFIG, out=folder, listener=listener)


def main():
    for line in sys.stdin:
        engine, folder, seconds = line.split()
        child = os.fork()
        if child == 0:
            try:
                make(engine, folder, float(seconds))
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print({0: "done", -signal.SIGKILL: "killed"}.get(status, f"failed: {status}"), flush=True)


if __name__ == "__main__":
    main()
