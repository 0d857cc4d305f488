"""A little of all that is spread over devices, for test_mesh.py.

``python spread.py FOLDER [ADDRESS PROCESSES NUMBER]``
"""

import sys
import time
from pathlib import Path

import numpy as np


def grouped(run):
    """What a run has found up to its groups: names -> arrays."""
    import jax

    records = run.meta, run.features.values, run.scored.scores, run.affinity, run.grouping.labels
    arrays = {f"run {i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(records))}
    return arrays | {"gain": run.grouping.path["nested_gain"]}


def found_in(run):
    """What a whole run has found, but for how long it took: names -> arrays."""
    import jax

    numbers = [x for x in jax.tree.leaves(run.policies) if not isinstance(x, str)]
    arrays = {f"policies {i}": np.asarray(x) for i, x in enumerate(numbers)}
    ours = run.results.methods["policygradex"]
    return grouped(run) | arrays | {"evaluation": np.array(ours.per_task)}


def computed(family, policy, ppo, features, transitions):
    """Rows of several budgets, features of all projections, surrogates and scores of several solvers, adapted
    agents: names -> arrays."""
    import jax

    from pgx_jax import estimate, learn
    from pgx_jax.types import Rows

    member = np.arange(1, 12)[:, None] >> np.arange(family.n) & 1 > 0
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(1), len(member)))
    steps = ppo.steps_per_update * (1 + np.arange(len(member)) % 3)
    trained = learn.train(policy, ppo, family, Rows(member, steps, keys))
    found = {"rows": trained.agents, "curves": trained.returns}

    pairs = np.arange(len(member)), np.arange(len(member)) % family.n
    maml = learn.MAML(num_envs=12, num_steps=15)
    agents = learn.init_agents(policy, family, keys)
    found["adapted"] = learn.evaluate(
        policy, family, agents, *pairs, keys[0], episodes=3, learner=maml
    ).returns

    for solver, iterations in (("newton", 1), ("newton", 3), ("lbfgs", None)):
        fitted = estimate.fit(features, transitions, member, solver=solver, iterations=iterations, l2=3.0)
        found[f"{solver} {iterations}"] = fitted.delta
    params = learn.policy_params(learn.take(trained.agents, 0))
    for name in estimate.PROJECTIONS:
        known = policy.log_prob, params, transitions, keys[0], 12
        found[f"features {name}"] = estimate.gradient_features(*known, projection=name).values
    for name in ("heldout", "importance"):
        found[name] = getattr(estimate, name)(features, transitions, fitted).values
    return {
        f"{name} {i}": np.asarray(x)
        for name, tree in found.items()
        for i, x in enumerate(jax.tree.leaves(tree))
    }


def spread_programs():
    """What is divided among devices, by name."""
    from importlib import import_module

    from pgx_jax.steady import Compiled

    estimate = [f"estimate.{name}" for name in ("features", "surrogates", "solvers", "crossfit", "scores")]
    known = {}
    for place in ["learn.device", *estimate]:
        known |= vars(import_module(f"pgx_jax.{place}"))
    return {name: x for name, x in known.items() if isinstance(x, Compiled) and x.spread is not None}


def is_spread(program):
    """Whether it has been compiled for the mesh, and for nothing else."""
    from pgx_jax import mesh

    return {kind[-1] for kind in program._programs} == {mesh.mesh()}


def lose(store):
    """What a run that was stopped has not come to yet."""
    for stage in ("grouping", "policies"):
        store.remove(stage)
    store.remove_file("results.json")


def is_refused(path):
    """Whether nobody resumes a run that the first process has claimed elsewhere."""
    from pgx_jax import resume
    from pgx_jax.errors import BusyError
    from pgx_jax.runs.store import RunStore

    other = RunStore(path)
    other.claim()
    try:
        resume(path)
    except BusyError:
        return True
    finally:
        other.release()
    return False


def write_slowly():
    """Reports take longer than JAX waits at the end for processes that have not left."""
    import jax

    from pgx_jax import report

    render, meet = report.render, jax.distributed.initialize
    report.render = lambda *args: time.sleep(4) or render(*args)
    jax.distributed.initialize = lambda *args, **known: meet(*args, shutdown_timeout_seconds=1, **known)


def main(folder, *meeting):
    """What one of the processes does."""
    from conftest import small_settings

    from pgx_jax import Run, make_family, mesh, resume, run

    if meeting:
        write_slowly()
        mesh.join(meeting[0], *map(int, meeting[1:]))
    settings, config = small_settings.__wrapped__()
    family = make_family("points", **settings)
    config = type(config)(**{**vars(config), "compare": "none"})
    if not meeting:
        done = Run(family, config).compute("grouping")
        found = grouped(done) | computed(family, done.policy, config.ppo, done.features, done.transitions)
    else:
        done = run(family, config, out=Path(folder, "run" if mesh.leads() else "nothing"))
        mesh.in_first(lambda: lose(done.store))
        refused = is_refused(Path(folder, "run"))
        again = found_in(resume(Path(folder, "run")))
        found = found_in(done) | {f"again {name}": x for name, x in again.items()}
        found["refused"] = np.array(refused)
    missed = [name for name, program in spread_programs().items() if not is_spread(program)]
    found["missed"] = np.array(missed if not meeting else [])
    found["devices"] = np.array([mesh.mesh_size(), len(list(Path(folder).iterdir()))])
    np.savez(Path(folder, "found" if mesh.leads() else "others"), **found)
    print(mesh.in_use())


if __name__ == "__main__":
    main(*sys.argv[1:])
