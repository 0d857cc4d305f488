"""Meta-World's MT10: speeds, learning from scratch and from experts, and the whole method:
`python benchmarks/mt10.py`.

Parts: "speed" (Meta-World's own vectors, our copies of it in processes, EnvPool), "scratch" (one policy for
all, told its task), "experts" (behaviour cloning, DAgger, then PPO) and "groups" (a run with its baselines).
Success is judged on Meta-World itself, on goals of another seed than in training: in any step of an episode,
as the benchmark has it, and in the last one. Started again it goes on where it stopped (demonstrations are
made anew).
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import jax
import numpy as np
import tyro
from common import ResultFile, describe, result_path, says_errors

from pgx_jax import learn
from pgx_jax.compare.results import to_plain
from pgx_jax.config import Config, config_for, override
from pgx_jax.learn import Policy
from pgx_jax.learn.cloning import clone, demonstrate
from pgx_jax.learn.host.acting import Acting, open_slots
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.runs.checkpoint import StageCheckpoint
from pgx_jax.runs.run import run
from pgx_jax.runs.saved import resume
from pgx_jax.runs.store import RunStore
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Agent, Rows

FAMILY = "metaworld-mt10"
UNSEEN = 1000
"""Added to the seed of the goals on which policies are judged."""
KEY = np.array([0, 7], np.uint32)


@dataclass(frozen=True)
class Settings:
    """Run what is missing of a preset."""

    preset: Literal["small", "quick", "standard", "paper"] = "quick"
    """small: seconds, for tests; quick: speeds, and the method with its baselines in 20 minutes on two cores;
    standard: three hours; paper: 20 million steps a method and five seeds, for many cores and an
    accelerator."""
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Only cells whose one-line description contains this text (may be repeated)."""
    work: Path = Path("runs/mt10")
    """Folder of what is under way."""
    out: Path | None = None
    """File of the results."""
    list: bool = False
    """Show the cells and stop."""


def cells(preset: str) -> list[dict]:
    """The cells of a preset."""
    speed = {"part": "speed", "slots": 100, "steps": 501, "rounds": 3}  # each slot is reset once
    shown = {"part": "experts", "episodes": 50, "noise": 0.1, "rounds": 1, "asked": 20, "epochs": 15}
    shown |= {"steps": 500_000, "judged": 50, "seed": 0, "config": {}}
    if preset == "small":
        few = {"episodes": 1, "rounds": 1, "asked": 1, "epochs": 1, "steps": 400, "judged": 1}
        return [
            speed | {"slots": 10, "steps": 5, "rounds": 1},
            shown | few | SMALL,
            _scratch(400, 0) | {"judged": 1} | SMALL,
            _groups(1_000, 0, k=2) | SMALL,
        ]
    if preset == "quick":
        return [speed, _groups(20_000, 0, k=3)]
    if preset == "standard":
        networks = ("mlp", "soft_modularization")
        return [speed, _scratch(1_000_000, 0), _scratch(6_000_000, 0), shown] + [
            _groups(500_000, 0, network=network) for network in networks
        ]
    networks = ("mlp", "multi_head", "soft_modularization", "paco", "care", "moore")
    return [_groups(2_000_000, seed, network=network) for seed in range(5) for network in networks]


def _scratch(steps: int, seed: int) -> dict:
    return {"part": "scratch", "steps": steps, "seed": seed, "judged": 50, "config": {}}


def _groups(steps: int, seed: int, network: str = "mlp", k: int | None = None) -> dict:
    return {
        "part": "groups", "steps_per_task": steps, "seed": seed, "network": network, "k": k, "config": {},
    }  # fmt: skip


SMALL = {
    "horizon": 20,
    "config": {
        "policy.hidden": (8,), "ppo.num_envs": 10, "ppo.epochs": 1, "ppo.minibatches": 2, "min_updates": 1,
        "episodes": 1, "compare": "none", "estimate.dim": 50, "estimate.thin": 1, "looks": 1,
    },
}  # fmt: skip
"""Changes of the cells of the small preset."""


def speed(cell: Mapping, work: Path) -> dict:
    """Steps a second of every way to step MT10, without and with a policy, in turns."""
    ways: dict[str, Callable[[Mapping], list[float]]] = {"library": _afresh}
    ways |= {engine: partial(_ours, engine) for engine in ("metaworld", "envpool") if _has(engine)}
    rounds = [{name: way(cell) for name, way in ways.items()} for _ in range(cell["rounds"])]
    middle = {name: np.median([each[name] for each in rounds], axis=0).tolist() for name in ways}
    return {"timings": {"rounds": rounds, "raw": {k: v[0] for k, v in middle.items()},
                        "with_policy": {k: v[1] for k, v in middle.items()}}}  # fmt: skip


def _has(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _afresh(cell: Mapping) -> list[float]:
    """`_library` in a process of its own: it forks, which threads forbid."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_library, cell).result()


def _library(cell: Mapping) -> list[float]:
    """Meta-World's own asynchronous vectors, ten processes."""
    envs = gymnasium.make_vec("metaworld:Meta-World/MT10", vector_strategy="async", seed=0)
    policy, agents = _policy_and_agents(make_family(FAMILY))
    act = jax.jit(lambda obs, context: _act(policy, agents, obs, context))
    context = np.eye(10, dtype=np.float32)
    obs, _ = envs.reset()
    count, found = cell["steps"], []
    drawn = np.random.default_rng(0).uniform(-1, 1, (count, 10, 4)).astype(np.float32)
    for chosen in (lambda t, obs: drawn[t], lambda t, obs: np.asarray(act(np.float32(obs), context))):
        chosen(0, obs)
        began = time.perf_counter()
        for t in range(count):
            obs = envs.step(chosen(t, obs))[0]
        found.append(10 * count / (time.perf_counter() - began))
    envs.close()
    return found


def _act(policy: Policy, agents: Agent, obs: jax.Array, context: jax.Array) -> jax.Array:
    agent = jax.tree.map(lambda x: x[0], agents)
    inputs = policy.actor_input(policy.normalise(agent, obs), context)
    params = jax.vmap(policy.params, (None, 0))(agent.actor, inputs)
    keys = jax.random.split(jax.random.PRNGKey(0), len(obs))
    return policy.distribution.to_env(jax.vmap(policy.distribution.sample)(keys, params))


def _ours(engine: str, cell: Mapping) -> list[float]:
    """Slots of the host engine."""
    family, count = make_family(FAMILY, engine=engine), cell["slots"]
    index, all_slots = np.arange(count) % family.n, np.arange(count)
    drawn = np.random.default_rng(0).uniform(-1, 1, (cell["steps"], count, 4)).astype(np.float32)
    slots, obs, acted = open_slots(family, count), np.zeros((count, 39), np.float32), 0
    slots.place(all_slots, Tasks.of(family), index)
    slots.restart(all_slots, list(range(count)), obs)
    began = time.perf_counter()
    for actions in drawn:
        arrival = slots.step(actions, np.ones(count, bool))
        acted += int(arrival.acted.sum())
        if (over := np.flatnonzero(arrival.truncated)).size:
            slots.restart(over, over.tolist(), obs)
    raw = acted / (time.perf_counter() - began)
    slots.close()
    policy, agents = _policy_and_agents(family)
    acting = Acting(policy, family, 1, count)
    acting.enter(0, Tasks.of(family), index, family.context[index].astype(np.float32), KEY)
    acting.unroll(agents, KEY[None], 1)
    began = time.perf_counter()
    acting.unroll(agents, KEY[None], cell["steps"])
    with_policy = count * cell["steps"] / (time.perf_counter() - began)
    acting.close()
    return [raw, with_policy]


def _family(cell: Mapping, more: int = 0) -> TaskFamily:
    """The family of a cell, its goals of so much larger a seed."""
    return make_family(FAMILY, seed=cell["seed"] + more, **{k: cell[k] for k in ("horizon",) if k in cell})


def _policy_and_agents(family: TaskFamily) -> tuple[Policy, Agent]:
    policy = config_for(family).policy.make(family)
    return policy, learn.init_agents(policy, family, KEY[None])


def _judged(policy: Policy, agents: Agent, cell: Mapping) -> dict:
    """Success on goals that no training has seen."""
    family = _family(cell, UNSEEN)
    row, task = np.zeros(family.n, int), np.arange(family.n)
    found = learn.evaluate(policy, family, agents, row, task, KEY, episodes=cell["judged"])
    at = {"any_step": found.success.mean(1), "last_step": found.success_at_end.mean(1)}
    return {name: {"mean": values.mean(), "per_task": values.tolist()} for name, values in at.items()}


def _train(
    cell: Mapping, work: Path, config: Config, family: TaskFamily, agents: Agent | None = None
) -> tuple[Policy, learn.Trained]:
    """One policy on all tasks, for ``cell["steps"]``."""
    policy, unit = config.policy.make(family), config.ppo.steps_per_update
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(cell["seed"]), 1))
    agents = learn.init_agents(policy, family, keys) if agents is None else agents
    rows = Rows(np.ones((1, family.n), bool), np.array([cell["steps"] // unit * unit]), keys, agents)
    folder = work / describe(cell).replace(" ", ",")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = StageCheckpoint(RunStore(folder), "train")
    return policy, learn.train(policy, config.ppo, family, rows, checkpoint=checkpoint)


def scratch(cell: Mapping, work: Path) -> dict:
    """One policy for all tasks, from scratch."""
    family = _family(cell)
    policy, trained = _train(cell, work, override(config_for(family), cell["config"]), family)
    curve = trained.returns[0].mean(1)
    return {**_judged(policy, trained.agents, cell), "steps": int(trained.steps[0]), "curve": curve.tolist()}


def experts(cell: Mapping, work: Path) -> dict:
    """One policy for all tasks that begins with what experts show."""
    family, key = _family(cell), jax.random.PRNGKey(cell["seed"])
    config = override(config_for(family), cell["config"])
    policy = config.policy.make(family)
    agents = learn.init_agents(policy, family, np.asarray(key)[None])
    fresh, asks, began = learn.take(agents, 0), partial(demonstrate, policy, family), time.perf_counter()
    shown = asks(key, episodes=cell["episodes"], noise=cell["noise"])
    successful, agent = shown.success, fresh
    for number in range(cell["rounds"] + 1):
        if number:
            own = jax.random.fold_in(key, number)
            shown = shown.also(asks(own, episodes=cell["asked"], agent=agent))
        agent = clone(policy, family, fresh, shown, key, epochs=cell["epochs"])
    cloned = jax.tree.map(lambda x: np.asarray(x)[None], agent)
    found = {
        "timings": {"cloned": time.perf_counter() - began},
        "experts": successful.tolist(),
        "demonstrated": len(shown.task),
        "cloned": _judged(policy, cloned, cell),
    }
    gentle = {"ppo.learning_rate": 1e-4, "ppo.freeze_observations": 1e-9}
    policy, trained = _train(cell, work, override(config, gentle), family, cloned)
    return {**found, **_judged(policy, trained.agents, cell), "curve": trained.returns[0].mean(1).tolist()}


def groups(cell: Mapping, work: Path) -> dict:
    """The whole method and its baselines at equal steps."""
    family, folder = _family(cell), work / describe(cell).replace(" ", ",")
    changes: dict[str, Any] = {"seed": cell["seed"], "k": cell["k"], "steps_per_task": cell["steps_per_task"]}
    changes |= {"policy.network": cell["network"], **cell["config"]}
    if folder.exists():
        done = resume(folder)
    else:
        done = run(family, override(config_for(family), changes), out=folder)
    return {"results": to_plain(done.results)}


PARTS: dict[str, Callable[[Mapping, Path], dict]] = {
    "speed": speed, "scratch": scratch, "experts": experts, "groups": groups,
}  # fmt: skip


@says_errors
def main(args: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    wanted = [c for c in cells(settings.preset) if all(text in describe(c) for text in settings.only)]
    if settings.list:
        print("\n".join(describe(c) for c in wanted))
        return 0
    path = result_path("mt10", "small" if settings.preset == "small" else "full", settings.out)
    found = ResultFile(path, name="mt10", command="python benchmarks/mt10.py --preset quick, then standard")
    found.run(wanted, lambda cell: PARTS[cell["part"]](cell, settings.work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
