"""Rate and memory of gradient features: `python benchmarks/features.py`.

The policy is the main job's with wider layers, so that it has the wanted number p of parameters; the
transitions are drawn at random. The rate counts the useful operations, 2 N p d for N transitions,
and divides by the time of the whole call of `estimate.gradient_features`: differentiating, drawing
the map and checking included, compilation left out. Beside it stands this machine's own sustained
rate of float32 matrix products, measured in turns with the features: of the fastest of several
shapes. Medians over the turns are compared. Compiling, which does not depend on the number of
transitions or on d, is measured with few: processor time of the first call without that of the second.

Every cell runs in a process of its own, whose peak memory is recorded: of the accelerator, or resident
where there is none. Cells of another platform stand beside those that a file holds.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from common import Preset, ResultFile, result_path

from pgx_jax import learn
from pgx_jax.estimate import PRECISIONS, gradient_features
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Named, Transitions

FAMILY = "cartpole-goals"
SHAPES = ((4096, 4096, 4096), (2048, 8192, 400), (1024, 2048, 2048))
"""Matrix products (M, K, N) whose rates are measured; the fastest counts."""
FEW = 8
"""Transitions, and dimensions of the features, with which compiling is measured."""
SMALL_SHAPES = ((256, 256, 256),)


@dataclass(frozen=True)
class Settings:
    """Time gradient features against this machine's matrix products, and measure their memory."""

    preset: Preset = "full"
    """full: what the README shows; small: seconds, for tests."""
    parameters: tuple[int, ...] = (10_000, 100_000, 100_000, 1_000_000)
    """Numbers p of parameters of the policy (met within a few per cent)."""
    layers: tuple[int, ...] = (2, 2, 8, 2)
    """Its hidden layers, for each number of parameters."""
    transitions: int = 20_480
    """Transitions N."""
    dim: int = 400
    """Projected dimension d."""
    repeats: tuple[int, ...] = (3, 3, 1, 1)
    """Timings for each number of parameters; the median counts."""
    precision: Named[str, PRECISIONS] = "float32"
    """Of the products with the map (`estimate.precision`); another one acts on accelerators alone."""
    seed: int = 0
    """Seed of the policy, the transitions and the map."""
    out: Path | None = None
    """File of the results."""


def width_for(parameters: int, inputs: int, outputs: int, layers: int = 2) -> int:
    """Width w of equal hidden layers, (layers - 1) w^2 + (inputs + outputs + layers) w + outputs =
    parameters."""
    roots = np.roots([layers - 1, inputs + outputs + layers, outputs - parameters])
    return max(1, round(float(roots.max())))


def setup(cell: Mapping) -> tuple[Callable, object, Transitions]:
    """log_prob, parameters and random transitions of a cell."""
    family, layers = make_family(FAMILY), cell.get("layers", 2)
    inputs, outputs = family.observation_space.shape[0], int(family.action_space.n)
    width = width_for(cell["parameters"], inputs, outputs, layers)
    policy = learn.make_policy(family, hidden=(width,) * layers)
    key = jax.random.PRNGKey(cell["seed"])
    agent = policy.init(key, family.observation_space.shape, jnp.asarray(family.context))
    rng = np.random.default_rng(cell["seed"])
    shape = (1, cell["transitions"])
    zeros = np.zeros(shape, np.int32)
    transitions = Transitions(
        obs=rng.normal(size=(*shape, inputs)).astype(np.float32),
        action=rng.integers(0, outputs, shape),
        advantage=rng.normal(size=shape).astype(np.float32),
        trajectory=zeros,
        split=zeros.astype(np.int8),
        source=np.zeros(1, int),
    )
    return policy.log_prob, learn.policy_params(agent), transitions


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def sgemm_rates(shapes, seconds: float) -> dict[str, float]:
    """Operations a second of float32 matrix products, sustained for so many seconds by each shape."""
    rates = {}
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision="float32"))
    for m, k, n in shapes:
        a, b = (jax.random.normal(jax.random.PRNGKey(i), s) for i, s in enumerate([(m, k), (k, n)]))
        timed(lambda a=a, b=b: multiply(a, b))  # compiles
        spent, calls = 0.0, 0
        while spent < seconds:
            spent, calls = spent + timed(lambda a=a, b=b: multiply(a, b)), calls + 1
        rates[f"{m}x{k}x{n}"] = 2 * m * k * n * calls / spent
    return rates


def compile_seconds(features: Callable[..., object], transitions: Transitions) -> float:
    """Processor time of compiling the features: a first call without a second, both with little to do."""
    few = transitions._replace(obs=transitions.obs[:, :FEW], action=transitions.action[:, :FEW])
    times = [time.process_time()]
    for _ in range(2):
        jax.block_until_ready(features(few, dim=FEW, chunk=FEW // 2))
        times.append(time.process_time())
    first, second = np.diff(times)
    return float(first - second)


def peak_memory() -> int:
    """Peak memory of this process, in bytes: of its accelerator, or resident where it has none."""
    import resource

    if stats := jax.devices()[0].memory_stats():
        return stats["peak_bytes_in_use"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def compute(cell: Mapping) -> dict:
    """Time one number of parameters (in a fresh process)."""
    log_prob, params, transitions = setup(cell)
    p = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
    key = jax.random.PRNGKey(cell["seed"])

    def features(some=transitions, dim=cell["dim"], **settings):
        precision = cell.get("precision", "float32")
        return gradient_features(log_prob, params, some, key, dim, precision=precision, **settings).values

    compiling = compile_seconds(features, transitions)
    small = cell["transitions"] < 1000
    shapes, sustained = (SMALL_SHAPES, 0.01) if small else (SHAPES, 2.0)
    first = timed(features)  # compiles
    memory = peak_memory()
    seconds, sgemm = [], [sgemm_rates(shapes, sustained)]
    for _ in range(cell["repeats"]):
        seconds.append(timed(features))
        sgemm.append(sgemm_rates(shapes, sustained))
    useful = 2.0 * cell["transitions"] * p * cell["dim"]
    best = max(float(np.median([turn[shape] for turn in sgemm])) for shape in sgemm[0])
    rates = [useful / s for s in seconds]
    return {
        "p": p,
        "useful_operations": useful,
        "timings": {
            "compile": compiling, "first": first, "features": seconds,
            "rates": rates, "rate": float(np.median(rates)),
            "sgemm": sgemm, "sgemm_rate": best, "share": float(np.median(rates)) / best,
            "transitions_per_second": cell["transitions"] / float(np.median(seconds)),
            "peak_memory": memory,
        },
    }  # fmt: skip


def in_own_process(cell: Mapping) -> dict:
    """The same in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(compute, dict(cell)).result()


def cells(settings: Settings) -> list[dict]:
    """One cell a number of parameters."""
    here = {"platform": jax.default_backend(), "seed": settings.seed}
    if settings.precision != "float32":
        here["precision"] = settings.precision
    if settings.preset == "small":
        return [here | {"parameters": 2000, "transitions": 256, "dim": 20, "repeats": 1}]
    sizes = zip(settings.parameters, settings.layers, settings.repeats, strict=True)
    return [
        here
        | {"parameters": p, "transitions": settings.transitions, "dim": settings.dim, "repeats": count}
        | ({} if layers == 2 else {"layers": layers})
        for p, layers, count in sizes
    ]


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("features", settings.preset, settings.out)
    results = ResultFile(path, name="features", command="python benchmarks/features.py")
    results.run(cells(settings), in_own_process)
    for done in results.cells:
        t = done["timings"]
        print(
            f"{done['cell']['platform']}: p = {done['p']:,}: "
            f"{t['transitions_per_second']:,.0f} transitions/s, {t['rate'] / 1e9:.0f} of "
            f"{t['sgemm_rate'] / 1e9:.0f} GFLOP/s ({t['share']:.0%}), peak memory "
            f"{t['peak_memory'] / 2**30:.2f} GiB, compiling {t.get('compile', float('nan')):.1f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
