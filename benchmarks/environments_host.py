"""What the host engine adds to a library's own stepping, policies left out (part of environments.py).

One loop steps the library's environments and resets those that ended; the other steps the slots of
the engine with everything that acting does around a step (observations, ages, returns, records,
resets), but with actions drawn beforehand in place of the policy's. Both take the same actions and
seeds. Rounds alternate, and the median of the rounds' ratios counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import gymnasium
import jax
import numpy as np

from pgx_jax.learn import init_agents, make_policy
from pgx_jax.learn.host.acting import Acting
from pgx_jax.learn.host.slots import Seeds, Tasks
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family

KEY = np.zeros(2, np.uint32)
"""From which both loops seed their episodes, so that these are the same."""


def cells(small: bool) -> list[dict]:
    """One cell: LunarLander, 24 environments as in its runs."""
    size = {"slots": 4, "steps": 60, "rounds": 3} if small else {"slots": 24, "steps": 2_000, "rounds": 7}
    return [{"part": "host overhead", "family": "lunarlander", "id": "LunarLander-v3", **size}]


def raw(cell: Mapping, family: TaskFamily, actions: np.ndarray) -> tuple[float, int]:
    """Seconds of CPU time of the library's own loop, and the episodes that ended."""
    keys = family.tasks.arguments
    given = [{k: v[i % family.n].item() for k, v in keys.items()} for i in range(cell["slots"])]
    limit = family.horizon
    envs = [gymnasium.make(cell["id"], max_episode_steps=limit, disable_env_checker=True, **g) for g in given]
    seeds = [Seeds(KEY, i) for i in range(cell["slots"])]
    for env, seed in zip(envs, seeds, strict=True):
        env.reset(seed=seed())
    ended, began = 0, time.process_time()
    for row in actions.tolist():
        for env, action, seed in zip(envs, row, seeds, strict=True):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset(seed=seed())
                ended += 1
    seconds = time.process_time() - began
    for env in envs:
        env.close()
    return seconds, ended


def engine(family: TaskFamily, actions: np.ndarray) -> tuple[float, int]:
    """The same of the host engine's own loop, in which a table of actions stands for the policy."""
    steps, slots = actions.shape
    index = np.arange(slots) % family.n
    policy = make_policy(family)
    acting = Acting(policy, family, 1, slots)
    acting.enter(0, Tasks.of(family), index, family.context[index], KEY)
    acting.chooser = lambda *_: lambda t: (actions[t], actions[t])
    agents = init_agents(policy, family, KEY[None])
    began = time.process_time()
    done = acting.unroll(agents, KEY[None], steps, gamma=0.99).done
    seconds = time.process_time() - began
    acting.close()
    return seconds, int(done.sum())


def compute(cell: Mapping) -> dict:
    """Time both loops in turns."""
    family = make_family(cell["family"])
    rng = np.random.default_rng(0)
    actions = rng.integers(0, family.action_space.n, (cell["steps"], cell["slots"])).astype(np.int32)
    jax.block_until_ready(jax.numpy.zeros(1))  # starts the backend
    count, rounds, episodes = actions.size, [], []
    for number in range(cell["rounds"]):
        order = (lambda: raw(cell, family, actions), lambda: engine(family, actions))
        first = number % 2
        found = {place: order[place]() for place in (first, 1 - first)}
        rounds.append([found[0][0], found[1][0]])
        episodes.append([found[0][1], found[1][1]])
    times = np.array(rounds)
    return {
        "steps": count,
        "episodes": episodes[0],
        "timings": {
            "rounds": rounds,
            "raw_steps_per_second": count / float(np.median(times[:, 0])),
            "engine_steps_per_second": count / float(np.median(times[:, 1])),
            "overhead": float(np.median(times[:, 1] / times[:, 0]) - 1.0),
        },
    }
