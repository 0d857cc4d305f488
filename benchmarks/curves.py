"""Our PPO's learning curves against those of a public PPO in JAX, at equal steps:
`python benchmarks/curves.py`.

The peer is rejax, in an environment of its own (peers/peers.toml), with the settings that its authors
publish for the environment; ours has settings of its own, that were chosen on seeds from 10 on. After every
part of the steps, episodes of the environment are played by actions drawn from the policy.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from common import ROOT, Preset, ResultFile, check_known, merge, result_path, says_errors, tuples, uncached
from peers import HERE, OURS, installed, peers

from envs.brax_adapter import brax_family
from envs.gymnax_adapter import gymnax_family
from pgx_jax.config import override
from pgx_jax.errors import ConfigError, PgxError
from pgx_jax.learn import PPO, Policy, evaluate, init_agents, make_policy, stack, take
from pgx_jax.learn.device import DeviceLane
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent

PEER = "rejax"
SOURCE = "github.com/keraJLi/rejax, configs/ at v0.1.3, unchanged since v0.1.2"
"""Where the peer's settings are published."""
SMALL_STEPS = {
    "num_envs": 5, "num_steps": 100, "num_epochs": 5, "num_minibatches": 5, "learning_rate": 7.5e-4,
    "max_grad_norm": 0.5, "gamma": 0.99, "gae_lambda": 0.95, "clip_eps": 0.2, "ent_coef": 0.01,
    "vf_coef": 0.5, "agent_kwargs": {"activation": "tanh"}, "total_timesteps": 100_000,
}  # fmt: skip
CELLS: dict[str, dict] = {
    "CartPole-v1": {
        "points": 10, "episodes": 64, "peer": SMALL_STEPS,
        "policy": {},
        "ppo": {"num_envs": 5, "num_steps": 100, "epochs": 5, "minibatches": 5, "learning_rate": 2e-3},
    },
    "Acrobot-v1": {
        "points": 10, "episodes": 64, "peer": SMALL_STEPS | {"normalize_observations": True},
        "policy": {}, "ppo": {"num_envs": 5, "num_steps": 100, "epochs": 5, "minibatches": 5},
    },
    "Pendulum-v1": {
        "points": 15, "episodes": 64,
        "peer": {
            "num_envs": 100, "num_steps": 100, "num_epochs": 10, "num_minibatches": 10,
            "learning_rate": 1e-3, "max_grad_norm": 10, "gamma": 0.995, "gae_lambda": 0.95, "clip_eps": 0.2,
            "ent_coef": 0.0, "vf_coef": 0.5, "agent_kwargs": {"activation": "swish"},
            "normalize_observations": True, "total_timesteps": 150_000,
        },
        "policy": {"normalise_observations": True},
        "ppo": {
            "num_envs": 10, "num_steps": 100, "epochs": 10, "minibatches": 10, "gamma": 0.95, "entropy": 0.0,
        },
    },
    "halfcheetah": {
        "points": 5, "episodes": 8, "backend": "spring",
        "peer": {
            "num_envs": 32, "num_steps": 32, "num_epochs": 2, "num_minibatches": 2,
            "learning_rate": 0.0017203361125365498, "max_grad_norm": 5, "gamma": 0.99, "gae_lambda": 0.8,
            "clip_eps": 0.2, "ent_coef": 0.01, "vf_coef": 0.5, "agent_kwargs": {"activation": "tanh"},
            "normalize_observations": True, "total_timesteps": 204_800,
        },
        "policy": {"normalise_observations": True},
        "ppo": {
            "num_envs": 32, "num_steps": 32, "epochs": 4, "minibatches": 4, "gamma": 0.97, "entropy": 0.0,
        },
    },
}  # fmt: skip
"""By environment: how often and with how many episodes it is played, the peer's settings, and ours. The
peer's ``total_timesteps`` are the steps of both."""
CUT = (
    "The halfcheetah is cut to what a core manages: the peer's settings are for 5.24M steps and Brax's "
    "generalized physics; here both have 205k steps of spring physics. (Of Brax's own PPO, the published "
    "settings take 328k steps an update.)"
)
"""What differs from the published settings."""
SMALL = {"points": 2, "episodes": 2, "policy": {"hidden": [8]}, "peer": {"total_timesteps": 256}}
SMALL_PPO = {"num_envs": 4, "num_steps": 16, "epochs": 1, "minibatches": 2}
"""The small preset's; of ppo.py as well, so that both need the same programs."""


@dataclass(frozen=True)
class Settings:
    """Train our PPO and the peer's with several seeds each."""

    preset: Preset = "full"
    """full: what the README shows; small: ours alone in seconds, for tests."""
    only: tuple[str, ...] = tuple(CELLS)
    """Environments to train on."""
    first: int = 0
    """First seed of ours."""
    seeds: int = 5
    """Seeds of each."""
    libraries: tuple[str, ...] = (PEER, OURS)
    """Whose curves; more are added to the file by another call."""
    sources: Path | None = None
    """Folder with clones of the peers' repositories, where they cannot be cloned here."""
    environments: Path = ROOT / "runs" / "peers"
    """Folder of the peers' environments."""
    out: Path | None = None
    """File of the results."""


def cells(settings: Settings) -> list[dict]:
    """One cell an environment and library, all seeds.

    Raises:
        ConfigError: an environment without settings.
    """
    check_known(settings.only, CELLS)
    found = []
    for env in settings.only:
        known = CELLS[env]
        if small := settings.preset == "small":
            known = merge(known, SMALL, {"ppo": SMALL_PPO})
        shared = {
            "env": env, "backend": known.get("backend"), "points": known["points"],
            "episodes": known["episodes"], "steps": known["peer"]["total_timesteps"],
            "seeds": 2 if small else settings.seeds,
        }  # fmt: skip
        own = {"policy": known["policy"], "ppo": known["ppo"], "first": settings.first}
        both = {PEER: {"settings": known["peer"]}, OURS: own}
        names = (OURS,) if small else settings.libraries
        found += [shared | {"library": name} | both[name] for name in names]
    return found


def of_peer(cell: Mapping, settings: Settings) -> dict:
    """The peer's curves.

    Raises:
        PgxError: it cannot be installed here, or failed.
    """
    peer = peers("curves")[PEER]
    python, path = installed(PEER, peer, settings)
    brax = cell["backend"] is not None
    wanted = {
        "env": f"brax/{cell['env']}" if brax else cell["env"],
        "env_params": {"backend": cell["backend"]} if brax else {},
        **{name: cell[name] for name in ("settings", "points", "episodes", "seeds")},
    }
    env = uncached(PYTHONPATH=":".join(filter(None, (str(HERE), path))), JAX_PLATFORMS="cpu")
    args = [str(python), str(HERE / peer["script"]), json.dumps(wanted)]
    done = subprocess.run(args, capture_output=True, text=True, env=env)
    if done.returncode:
        raise PgxError(f"{peer['script']} failed: {done.stderr[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"source": SOURCE}


def family_of(cell: Mapping) -> TaskFamily:
    """The environment twice, as a family has two tasks; rows train on the first."""
    if cell["backend"] is None:
        return gymnax_family(cell["env"], n_tasks=2)
    return brax_family(cell["env"], n_tasks=2, horizon=1000, backend=cell["backend"])


def of_ours(cell: Mapping) -> dict:
    """Our curves.

    Raises:
        ConfigError: parts of the steps that are no whole updates.
    """
    family, learner = family_of(cell), override(PPO(), cell["ppo"])
    policy = make_policy(family, **tuples(cell["policy"]))
    updates, rest = divmod(cell["steps"], learner.steps_per_update * cell["points"])
    if rest:
        raise ConfigError(f"{cell['steps']} steps are not {cell['points']} times some whole updates")
    keys = [np.asarray(jax.random.PRNGKey(cell["first"] + i)) for i in range(cell["seeds"])]
    agents = stack([stack(on_the_way(policy, learner, family, key, updates, cell["points"])) for key in keys])
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), agents)
    count = cell["seeds"] * cell["points"]
    played = evaluate(
        policy, family, flat, np.arange(count), np.zeros(count, int), jax.random.PRNGKey(2**20),
        episodes=cell["episodes"],
    )  # fmt: skip
    returns = played.returns.mean(1).reshape(cell["seeds"], cell["points"])
    return {"returns": returns, "settings": {"ppo": learner, "hidden": policy.critic.hidden}}


def on_the_way(
    policy: Policy, learner: PPO, family: TaskFamily, key: np.ndarray, updates: int, points: int
) -> list[Agent]:
    """The agents of one training after every part of so many updates."""
    lane, member = DeviceLane(policy, learner, family, 1), np.array([[True, False]])
    lane.enter(0, member[0], take(init_agents(policy, family, key[None]), 0), key)
    found = []
    for _ in range(points):
        for start in range(0, updates, lane.segment):
            count = min(lane.segment, updates - start)
            lane.advance(member, np.array([updates * points]), count, np.ones(1, bool))
        found.append(jax.tree.map(np.asarray, take(lane.agents([0]), 0)))
    return found


def compute(cell: Mapping, settings: Settings) -> dict:
    """The curves of a cell."""
    began = time.perf_counter()
    found = of_ours(cell) if cell["library"] == OURS else of_peer(cell, settings)
    return found | {"timings": {"wall": time.perf_counter() - began}}


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("curves", settings.preset, settings.out)
    results = ResultFile(path, name="curves", command="python benchmarks/curves.py")
    results.run(cells(settings), lambda cell: compute(cell, settings))
    for done in results.cells:
        curve = " ".join(f"{x:.0f}" for x in np.mean(done["returns"], 0))
        print(f"{done['cell']['env']}, {done['cell']['library']}: {curve}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
