"""Our Highway beside highway-env and EnvPool's port: `python benchmarks/highway.py`.

Three parts: steps a second of all three under random actions, measured in turns in one process
(steps by the second of one core's time, and by wall time on all cores); how far replays of
highway-env's episodes part from them; and what a policy that was trained in our Highway earns there
and in highway-env itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import highway_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from common import Preset, ResultFile, result_path, says_errors
from gymnasium import spaces

from envs.highway import HORIZON, OBSERVATION, Highway, HighwayTask, standard_task
from envs.highway_traffic import DEFAULTS
from pgx_jax.config import override
from pgx_jax.learn import PPO, evaluate, make_policy, train
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.rollout import reset_slots
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Rows


@dataclass(frozen=True)
class Settings:
    """Measure speed, parity and transfer of the Highway environment."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    parts: tuple[Literal["speed", "parity", "transfer"], ...] = ("speed", "parity", "transfer")
    """Parts to measure."""
    out: Path | None = None
    """File of the results."""


SIZES = {
    "full": {
        "rounds": 5, "device": {"64": 100, "1024": 20}, "reference": 60, "pool": 200, "pool_envs": 64,
        "parity": 12, "train": 400_000, "episodes": 200,
    },
    "small": {
        "rounds": 2, "device": {"2": 2}, "reference": 2, "pool": 2, "pool_envs": 2,
        "parity": 1, "train": 4096, "episodes": 2,
    },
}  # fmt: skip
"""Of a preset: rounds of the speeds, steps of a round (of every environment), episodes of each traffic
for parity, steps of training, and episodes of the trained policy in either place."""


def cells(sizes: Mapping) -> list[dict]:
    """The three parts."""
    return [
        {"part": "speed", **{k: sizes[k] for k in ("rounds", "device", "reference", "pool", "pool_envs")}},
        {"part": "parity", "episodes": sizes["parity"]},
        {"part": "transfer", "steps": sizes["train"], "episodes": sizes["episodes"], "seed": 0},
    ]


def family() -> TaskFamily:
    """highway-fast-v0 twice, as a family needs two tasks."""
    task = standard_task()
    return TaskFamily(
        "highway-fast", ("first", "second"), Highway(), HighwayTask(*(np.stack([v, v]) for v in task)),
        OBSERVATION, spaces.Discrete(5), HORIZON,
    )  # fmt: skip


def device_runner(envs: int, steps: int) -> Callable[[int], int]:
    """A function of a seed that plays ``steps`` steps of ``envs`` copies of ours; returns how many."""
    env, tasks = Highway(), jax.tree.map(lambda v: jnp.full(envs, v), standard_task())

    @jax.jit
    def play(key):
        def advance(carry, key):
            state, age = carry
            act, fresh = jax.random.split(key)
            action = jax.random.randint(act, (envs,), 0, 5)
            step = jax.vmap(env.step, (None, 0, 0, 0))(key, state, action, tasks)
            done = step.terminated | (age + 1 >= HORIZON)
            new, _ = jax.vmap(env.reset)(jax.random.split(fresh, envs), tasks)
            state = jax.tree.map(lambda a, b: jnp.where(done[:, None], a, b), new, step.state)
            return (state, jnp.where(done, 0, age + 1)), (step.obs.sum(), step.reward.sum())

        keys = jax.random.split(key, steps + 1)
        slots = reset_slots(env, tasks, jax.random.split(keys[0], envs))
        return jax.lax.scan(advance, (slots.state, slots.age), keys[1:])[1]

    def run(seed: int) -> int:
        jax.block_until_ready(play(jax.random.PRNGKey(seed)))
        return envs * steps

    return run


def reference_runner(steps: int) -> Callable[[int], int]:
    """The same in highway-env, one environment."""
    env = reference.make({})

    def run(seed: int) -> int:
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(int(rng.integers(5)))
            if terminated or truncated:
                env.reset()
        return steps

    return run


def pool_runner(envs: int, steps: int) -> Callable[[int], int] | None:
    """The same in EnvPool, which resets by itself; None where it isn't installed."""
    try:
        import envpool
    except ImportError:
        return None
    pool = envpool.make_gymnasium("highway-fast-v0", num_envs=envs)
    pool.reset()

    def run(seed: int) -> int:
        actions = np.random.default_rng(seed).integers(0, 5, (steps, envs)).astype(np.int32)
        for action in actions:
            pool.step(action)
        return envs * steps

    return run


def speed(cell: Mapping) -> dict:
    """Steps a second of all three, measured in turns after one round that nobody times."""
    runners = {f"ours, {envs} at once": device_runner(int(envs), n) for envs, n in cell["device"].items()}
    runners["highway-env"] = reference_runner(cell["reference"])
    pool = pool_runner(cell["pool_envs"], cell["pool"])
    if pool is not None:
        runners[f"EnvPool, {cell['pool_envs']} at once"] = pool
    rates = {name: {"core": [], "wall": []} for name in runners}
    for seed in range(cell["rounds"] + 1):
        for name, run in runners.items():
            began = time.process_time(), time.perf_counter()
            steps = run(seed)
            seconds = time.process_time() - began[0], time.perf_counter() - began[1]
            if seed:
                for kind, spent in zip(("core", "wall"), seconds, strict=True):
                    rates[name][kind].append(steps / spent)
    return {"engines": list(runners), "timings": {"rates": rates}}


def parity(cell: Mapping) -> dict:
    """Replays of highway-env's episodes: whole in float64, and step by step from its states in float32."""
    journeys = [
        (name, reference.play(name, seed, reference.CAREFUL if seed % 4 else reference.RECKLESS))
        for name in reference.CONFIGS
        for seed in range(1000, 1000 + cell["episodes"])
    ]
    worst: dict[str, float] = {}
    for name, journey, ours in reference.replayed(journeys):
        for field, value in reference.compare(name, journey, ours).items():
            worst[field] = max(worst.get(field, 0.0), value)
    single = reference.single_differences(reference.single_steps(journeys), journeys)
    return {
        "traffics": list(reference.CONFIGS), "episodes": len(journeys),
        "steps": sum(len(j.actions) for _, j in journeys), "aborted": sum(j.aborted for _, j in journeys),
        "crashes": sum(j.terminated[-1] for _, j in journeys),
        "mirrored": sum(reference.in_line(j) for _, j in journeys), "float64": worst, "float32": single,
    }  # fmt: skip


def transfer(cell: Mapping) -> dict:
    """Returns of a trained policy, with drawn actions, at home and in highway-env."""
    here = family()
    changes = {k.removeprefix("ppo."): v for k, v in DEFAULTS.items() if k.startswith("ppo.")}
    config, policy = override(PPO(), changes), make_policy(here)
    rows = Rows(np.ones((1, 2), bool), np.array([cell["steps"]]), np.asarray([[0, cell["seed"]]], np.uint32))
    began = time.perf_counter()
    trained = train(policy, config, here, rows)
    seconds = time.perf_counter() - began
    key = jax.random.PRNGKey(2**20)
    found = {}
    for name, skill in (("trained", trained.agents), ("untrained", None)):
        if skill is None:
            fresh = policy.init(jax.random.PRNGKey(1), OBSERVATION.shape, here.context)
            skill = jax.tree.map(lambda x: np.asarray(x)[None], fresh)
        played = evaluate(policy, here, skill, [0], [0], key, episodes=cell["episodes"])
        agent = jax.tree.map(lambda x: x[0], skill)
        found[name] = {
            "home": played.returns[0].tolist(),
            "highway-env": play_reference(policy, agent, cell["episodes"]),
        }
    return {"env_steps": trained.steps, "settings": {"ppo": config}, "returns": found,
            "timings": {"train": seconds}}  # fmt: skip


def play_reference(policy: Policy, agent: Agent, episodes: int) -> list[float]:
    """Returns of episodes in highway-env, actions drawn from the policy."""
    env, returns = reference.make({}), []
    act = jax.jit(lambda obs, key: policy.distribution.sample(key, policy.params(agent.actor, obs)))
    for seed in range(episodes):
        obs, _ = env.reset(seed=10_000 + seed)
        key, total, done = jax.random.PRNGKey(seed), 0.0, False
        while not done:
            key, now = jax.random.split(key)
            obs, reward, terminated, truncated, _ = env.step(int(act(jnp.asarray(obs).ravel(), now)))
            total, done = total + reward, terminated or truncated
        returns.append(total)
    return returns


PARTS = {"speed": speed, "parity": parity, "transfer": transfer}


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("highway", settings.preset, settings.out)
    sizes = SIZES[settings.preset]
    results = ResultFile(path, name="highway", command="python benchmarks/highway.py", settings=sizes)
    wanted = [cell for cell in cells(sizes) if cell["part"] in settings.parts]
    results.run(wanted, lambda cell: PARTS[cell["part"]](cell))
    return 0


if __name__ == "__main__":
    sys.exit(main())
