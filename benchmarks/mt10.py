"""Meta-World's MT10: speeds, learning from scratch and from experts, and the whole method:
`python benchmarks/mt10.py`.

Parts: "speed" (Meta-World's own vectors, our copies of it in processes, EnvPool), "hot_spots" (the library's
environments and ours on experts' actions), "scratch" (one policy for all, told its task), "experts"
(behaviour cloning, DAgger, then PPO), "groups" (a run with its baselines), "engines" (a policy that was
trained in EnvPool, judged there as well) and "episodes" (pictures of what a trained policy does).
Success is judged on Meta-World itself: in any step of an episode, as the benchmark has it, and in the last
one; of one policy for all on goals of another seed than in training, of the runs with groups (and of the
experts, as they are asked) on the goals of training. Started again it goes on where it stopped
(demonstrations are made anew). Policies stay in the folder of what is under way, for the parts that need
them.
"""

from __future__ import annotations

import dataclasses
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
from metaworld_episodes import missing_library, picture, sheet, strips
from metaworld_hot_spots import hot_spots

from pgx_jax import learn
from pgx_jax.compare.results import to_plain
from pgx_jax.config import Config, config_for, override
from pgx_jax.learn import Policy, stack
from pgx_jax.learn.cloning import clone, demonstrate
from pgx_jax.learn.host import experience
from pgx_jax.learn.host.acting import Acting, open_slots
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.runs.checkpoint import StageCheckpoint
from pgx_jax.runs.planning import plan
from pgx_jax.runs.run import Run, run
from pgx_jax.runs.saved import regroup, resume
from pgx_jax.runs.serial import write_atomically
from pgx_jax.runs.store import RunStore
from pgx_jax.tasks import TaskFamily
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Agent, Rows

FAMILY = "metaworld-mt10"
UNSEEN = 1000
"""Added to the seed of the goals on which policies are judged."""
KEY = np.array([0, 7], np.uint32)
POOL = 10
"""Episodes of a task that EnvPool plays side by side."""


@dataclass(frozen=True)
class Settings:
    """Run what is missing of a preset."""

    preset: Literal["small", "quick", "standard", "by_k", "paper"] = "quick"
    """small: seconds, for tests; quick: speeds, and the method with its baselines in 20 minutes on two cores
    (1.1 million steps); standard: 48 million steps, 5 million of every method with each of two networks,
    which take 11 to 15 hours on two cores at the rates of one policy from scratch, and not three; by_k: the
    method alone at k = 1 to 4 and at its own, 65 to 95 minutes (5.0 million steps); paper: 20 million steps a
    method and five seeds, for many cores and an accelerator."""
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
    spots = {"part": "hot_spots", "steps": 500, "rounds": 3}
    shown = {"part": "experts", "episodes": 50, "noise": 0.1, "rounds": 1, "asked": 20, "epochs": 15}
    shown |= {"steps": 500_000, "judged": 50, "seed": 0, "config": {}}
    if preset == "small":
        few = {"episodes": 1, "rounds": 1, "asked": 1, "epochs": 1, "steps": 400, "judged": 1}
        learnt = [
            shown | few | SMALL, _scratch(400, 0) | {"judged": 1} | SMALL, _groups(500, 0, k=2) | SMALL,
        ]  # fmt: skip
        return [
            speed | {"slots": 10, "steps": 5, "rounds": 1, "goals": 2, "config": SMALL["config"]},
            spots | {"steps": 5, "rounds": 1, "tasks": 2},
            *learnt,
            *([_engines(400, 0) | {"judged": 1, "config": SMALL["config"]}] if _has("envpool") else []),
            *(_episodes(cell) | {"tasks": 1} for cell in learnt[1:]),
        ]
    if preset == "quick":
        return [speed, spots, _groups(20_000, 0, k=3)]
    if preset == "standard":
        networks = ("mlp", "soft_modularization")
        learnt = [_scratch(1_000_000, 0), _scratch(6_000_000, 0), shown]
        learnt += [_groups(500_000, 0, network=network) | {"config": FEW} for network in networks]
        return [speed, spots, *learnt, _engines(1_000_000, 0), *map(_episodes, learnt)]
    if preset == "by_k":
        return [_groups(100_000, 0, k=k) | {"config": {"compare": "none"}} for k in (*BY_K, None)]
    networks = ("mlp", "multi_head", "soft_modularization", "paco", "care", "moore")
    return [_groups(2_000_000, seed, network=network) for seed in range(5) for network in networks]


def planned(cell: Mapping) -> int:
    """Environment steps that a cell trains and collects, if its groups are those that `pgx_jax.plan`
    assumes; demonstrations and evaluations are left out."""
    if cell["part"] == "groups":
        return sum(stage.steps for stage in plan(_family(cell), _run_config(cell), timed=False).stages)
    return cell["steps"] if cell["part"] in ("scratch", "experts", "engines") else 0


def _scratch(steps: int, seed: int) -> dict:
    return {"part": "scratch", "steps": steps, "seed": seed, "judged": 50, "config": {}}


def _engines(steps: int, seed: int) -> dict:
    return _scratch(steps, seed) | {"part": "engines", "engine": "envpool"}


def _episodes(cell: Mapping) -> dict:
    """Pictures of the first tasks (of all by default) by what another cell has trained."""
    return {**cell, "part": "episodes", "of": cell["part"]}


def _groups(steps: int, seed: int, network: str = "mlp", k: int | None = None) -> dict:
    return {
        "part": "groups", "steps_per_task": steps, "seed": seed, "network": network, "k": k, "config": {},
    }  # fmt: skip


SMALL = {
    "horizon": 20,
    "config": {
        "policy.hidden": (8,), "ppo.num_envs": 10, "ppo.epochs": 1, "ppo.minibatches": 2, "min_updates": 1,
        "ppo.num_steps": 20, "episodes": 1, "compare": "none", "estimate.dim": 50, "estimate.thin": 1,
        "looks": 1,
    },
}  # fmt: skip
"""Changes of the cells of the small preset."""
FEW = {"compare": "few", "similarities": ("cosine",)}
"""What groups are compared with where steps are many: one policy, one a task, random and similar groups."""
BY_K = (1, 2, 3, 4)
"""Numbers of groups of which the gain is predicted, beside the one that is chosen."""


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
    """Meta-World's own asynchronous vectors, ten processes; of fewer goals a task (50) they begin sooner."""
    fewer = {"num_goals": cell["goals"]} if "goals" in cell else {}
    envs = gymnasium.make_vec("metaworld:Meta-World/MT10", vector_strategy="async", seed=0, **fewer)
    policy, agents = _policy_and_agents(make_family(FAMILY), cell)
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
    policy, agents = _policy_and_agents(family, cell)
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
    own = {name: cell[name] for name in ("horizon", "engine") if name in cell}
    return make_family(FAMILY, seed=cell["seed"] + more, **own)


def _config(cell: Mapping) -> Config:
    return override(config_for(_family(cell)), cell["config"])


def _policy_and_agents(family: TaskFamily, cell: Mapping) -> tuple[Policy, Agent]:
    policy = override(config_for(family), cell.get("config", {})).policy.make(family)
    return policy, learn.init_agents(policy, family, KEY[None])


def _judged(policy: Policy, agents: Agent, cell: Mapping) -> dict:
    """Success on goals that no training has seen."""
    family = _family(cell, UNSEEN)
    row, task = np.zeros(family.n, int), np.arange(family.n)
    found = learn.evaluate(policy, family, agents, row, task, KEY, episodes=cell["judged"])
    return _rates(found.success, found.success_at_end)


def _rates(success: np.ndarray, at_end: np.ndarray) -> dict:
    """Rates of success of episodes [n, E]."""
    at = {"any_step": success.mean(1), "last_step": at_end.mean(1)}
    return {name: {"mean": values.mean(), "per_task": values.tolist()} for name, values in at.items()}


def _judged_in_pools(policy: Policy, agents: Agent, cell: Mapping) -> dict:
    """The same of whole episodes in the pools in which a policy was trained."""
    family, agent, left = _family(cell, UNSEEN), learn.take(agents, 0), cell["judged"]
    any_step, last_step = [], []
    while left:
        count, key = min(left, POOL), jax.random.fold_in(KEY, left)
        task = np.repeat(np.arange(family.n), count)
        steps = experience(policy, family, agent, task, key, family.horizon)
        any_step.append(steps.solved[-1].reshape(family.n, count))
        last_step.append(steps.success[-1].reshape(family.n, count))
        left -= count
    return _rates(np.concatenate(any_step, 1), np.concatenate(last_step, 1))


def _folder(cell: Mapping, work: Path) -> Path:
    """Where a cell keeps what it has reached."""
    return work / describe(cell).replace(" ", ",")


def _train(
    cell: Mapping, work: Path, config: Config, family: TaskFamily, agents: Agent | None = None
) -> tuple[Policy, learn.Trained]:
    """One policy on all tasks, for ``cell["steps"]``; it stays in the cell's folder."""
    policy, unit = config.policy.make(family), config.ppo.steps_per_update
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(cell["seed"]), 1))
    agents = learn.init_agents(policy, family, keys) if agents is None else agents
    rows = Rows(np.ones((1, family.n), bool), np.array([cell["steps"] // unit * unit]), keys, agents)
    store = RunStore(_folder(cell, work))
    trained = learn.train(policy, config.ppo, family, rows, checkpoint=StageCheckpoint(store, "train"))
    store.save("trained", trained)
    return policy, trained


def _curves(trained: learn.Trained) -> dict:
    """Success in any step while training: the mean over tasks [updates], and each task's [updates, n]."""
    rates = trained.returns[0]
    return {"steps": int(trained.steps[0]), "curve": rates.mean(1).tolist(), "curves": rates.tolist()}


def scratch(cell: Mapping, work: Path) -> dict:
    """One policy for all tasks, from scratch."""
    family = _family(cell)
    policy, trained = _train(cell, work, _config(cell), family)
    return {**_judged(policy, trained.agents, cell), **_curves(trained)}


def engines(cell: Mapping, work: Path) -> dict:
    """A policy that was trained in EnvPool's pools, judged in them, too."""
    family = _family(cell)
    policy, trained = _train(cell, work, _config(cell), family)
    inside = _judged_in_pools(policy, trained.agents, cell)
    return {**_judged(policy, trained.agents, cell), "in_pools": inside, **_curves(trained)}


def experts(cell: Mapping, work: Path) -> dict:
    """One policy for all tasks that begins with what experts show."""
    family, key = _family(cell), jax.random.PRNGKey(cell["seed"])
    config = _config(cell)
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
    # The moments of observations, which cloning has set, stay as they are from the second update on.
    gentle = {"ppo.learning_rate": 1e-4, "ppo.freeze_observations": 1e-9}
    policy, trained = _train(cell, work, override(config, gentle), family, cloned)
    return {**found, **_judged(policy, trained.agents, cell), **_curves(trained)}


def groups(cell: Mapping, work: Path) -> dict:
    """The whole method and its baselines at equal steps; and what would be predicted of other k."""
    done = _run(cell, work)
    asked = [regroup(done, dataclasses.replace(done.config, k=k)) for k in (*BY_K, None)]
    kept = ("k", "groups", "gain", "evidence")
    by_k = [{name: value for name, value in to_plain(found).items() if name in kept} for found in asked]
    timings = {"seconds": done.results.timings.total} if done.results.timings else {}  # of all sittings
    return {"results": to_plain(done.results), "by_k": by_k, "timings": timings}


def _run(cell: Mapping, work: Path) -> Run:
    """The run of a cell, begun or finished."""
    folder = _folder(cell, work)
    if folder.exists():
        return resume(folder)
    return run(_family(cell), _run_config(cell), out=folder)


def _run_config(cell: Mapping) -> Config:
    """The settings of a cell's run."""
    changes: dict[str, Any] = {"seed": cell["seed"], "k": cell["k"], "steps_per_task": cell["steps_per_task"]}
    changes |= {"policy.network": cell["network"], **cell["config"]}
    return override(config_for(_family(cell)), changes)


def episodes(cell: Mapping, work: Path) -> dict:
    """Pictures of what another cell has trained."""
    of = {**cell, "part": cell["of"]}
    family, policy, agents = _trained({name: of[name] for name in of if name not in ("of", "tasks")}, work)
    found = strips(family, policy, agents, cell.get("tasks", family.n), cell["seed"])
    return {
        "shown": [strip.steps for strip in found],
        "solved": [strip.solved for strip in found],
        "pictures": {picture(cell): sheet(family.task_names, found)},
    }


def _trained(cell: Mapping, work: Path) -> tuple[TaskFamily, Policy, Agent]:
    """What a cell has trained, from its folder (or trained now, where it isn't there): the family, with goals
    that no training has seen, the networks, and an agent a task, leaves [n, ...]."""
    family, store = _family(cell, UNSEEN), RunStore(_folder(cell, work))
    if cell["part"] == "groups":
        done = _run(cell, work)
        return family, done.group_policy, stack([done.agent_for(name) for name in family.task_names])
    if not store.has("trained"):
        PARTS[cell["part"]](cell, work)
    agents = jax.tree.map(lambda x: np.repeat(x, family.n, 0), store.load("trained", learn.Trained).agents)
    return family, _config(cell).policy.make(family), agents


PARTS: dict[str, Callable[[Mapping, Path], dict]] = {
    "speed": speed, "hot_spots": hot_spots, "scratch": scratch, "experts": experts, "groups": groups,
    "engines": engines, "episodes": episodes,
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

    def compute(cell: Mapping) -> dict:
        result = PARTS[cell["part"]](cell, settings.work)
        for name, content in result.pop("pictures", {}).items():
            (path.parent / "figures").mkdir(parents=True, exist_ok=True)
            write_atomically(path.parent / "figures" / f"{name}.png", content)
        return result

    drawn = [c for c in wanted if c["part"] == "episodes" and found.find(c) is None]
    if drawn and (why := missing_library(make_family(FAMILY))):
        print(f"episodes are left out: {why}", file=sys.stderr)
        wanted = [c for c in wanted if c not in drawn]
    found.run(wanted, compute)
    return 0


if __name__ == "__main__":
    sys.exit(main())
