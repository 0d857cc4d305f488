"""Fixtures that several test files share, and how the files are run."""

import gc
import os
import shutil
import tempfile
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version

import numpy as np
import pytest
from msgspec import structs

from pgx_jax.compare.results import (
    BY_TASK,
    SCHEMA_VERSION,
    AffinityResult,
    Agreement,
    Bounds,
    Curve,
    Diagnostics,
    Draw,
    Gain,
    GroupCertainty,
    Interval,
    LookResult,
    MethodResult,
    PathResult,
    Results,
    StabilityResult,
    Timings,
    UnseenMethod,
    UnseenResult,
)

QUICK_TO_COMPILE = "--xla_backend_optimization_level=1"
if version("jaxlib").startswith("0.10."):  # others may not know the flags, and then refuse to start
    QUICK_TO_COMPILE = (
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        " --xla_cpu_parallel_codegen_split_count=1"
    )


def pytest_configure(config):
    """Leave out the slow tests, compile quickly, and compile nothing twice.

    Most of the tests' time goes into compiling programs that then run for a moment: all workers, and
    the processes that tests start, share what one of them has compiled. Tracing makes many small objects
    that stay: garbage is looked for among them less often.
    """
    gc.set_threshold(20_000, 20, 20)
    config.addinivalue_line(
        "markers", "slow: long studies, not part of the default run (`-m slow` runs them)"
    )
    config.option.markexpr = config.option.markexpr or "not slow"
    if not hasattr(config, "workerinput"):  # workers have the environment of the process that started them
        _share_programs(config)


def _share_programs(config):
    """Flags of the compiler, and a folder for what it has compiled; one's own folder
    (`JAX_COMPILATION_CACHE_DIR`) is kept for the next time."""
    given = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" not in given:
        os.environ["XLA_FLAGS"] = f"{given} {QUICK_TO_COMPILE}"
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="pgx_jax-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


MAPS = 14_000
"""Of memory, from which on compiled programs are forgotten."""


@pytest.fixture(scope="module", autouse=True)
def programs_of_some_files():
    """Files share compiled programs, until there are many: those of all tests together take 9 GB, and some
    30,000 of the 65,530 maps of memory that a process may have on Linux."""
    yield
    from pgx_jax.runs.programs import make_room

    make_room(MAPS)


@pytest.fixture(scope="session")
def drawn():
    """A context in which reports are rendered whole, with a picture a group."""
    from pgx_jax import report
    from pgx_jax.runs import run

    own = {name: getattr(report, name) for name in ("render", "render_seeds")}
    draw_groups = run.draw_groups

    @contextmanager
    def drawing():
        with pytest.MonkeyPatch.context() as patch:
            for name, render in own.items():
                patch.setattr(report, name, render)
            patch.setattr(run, "draw_groups", draw_groups)
            yield

    return drawing


@pytest.fixture(scope="module", autouse=True)
def sketched(request, drawn):
    """The figures of reports are made and, in most files of tests, not rendered, and groups are not drawn:
    that takes a third of a small run's time. `small_run` has a whole report."""
    from pgx_jax import report
    from pgx_jax.runs import run

    if request.module.__name__ == "test_report":
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in ("render", "render_seeds"):
            patch.setattr(report, name, partial(in_outline, getattr(report, name)))
        patch.setattr(run, "draw_groups", lambda run, store: None)
        yield


def in_outline(render, *known):
    """The files of a report, with a mark in the place of every figure."""
    from pgx_jax.report import figures

    def draw_all(results, drawers=figures.DRAWERS):
        return {name: figure for name, draw in drawers.items() if (figure := draw(results)) is not None}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_all", draw_all)
        patch.setattr(figures, "svg", lambda figure, name: f'<svg id="{name}" viewBox="0 0 1 1"></svg>')
        patch.setattr(figures, "png", lambda figure: b"a figure")
        return render(*known)


LONGEST = (
    "test_readme",
    "test_benchmarks",
    "test_mesh",
    "test_pipeline",
    "test_adapting",
    "test_baselines_by_name",
    "test_maml",
    "test_sweep",
    "test_steady",
    "test_family_contract",
    "test_language",
    "test_benchmark_mt10",
    "test_notebooks",
    "test_objectives",
)


def pytest_collection_modifyitems(items):
    """Begin with the longest files, so that no worker is left alone with one of them at the end."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def look(number: int, tasks: list[str], groups: list[list[str]], gain: float, steps: int) -> LookResult:
    """A look that collected 4,096 transitions of each task."""
    interval = Interval(gain, (gain - 0.002, gain + 0.002))
    return LookResult(
        look=number, tasks=tasks, groups=groups, gain=interval, collected=4096 * len(tasks), env_steps=steps
    )


def example_results(seed: int = 0) -> Results:
    """What a run of cartpole-goals with every comparison leaves behind, made up."""
    rng = np.random.default_rng(seed)
    n, total = 10, 1_228_800
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    names = [f"goal{(-1, 0, 1)[label]:+d}-{i}" for i, label in enumerate(labels)]
    groups = [[name for name, label in zip(names, labels, strict=True) if label == g] for g in range(3)]
    same = labels[:, None] == labels[None, :]
    matrix = np.where(same, 0.021, -0.006) + rng.normal(0, 0.003, (n, n))
    matrix = (matrix + matrix.T) / 2

    def method(mean, width, partition, equal=True, steps=total, **more):
        per_task = (mean + rng.normal(0, 8, n)).tolist()
        return MethodResult(
            mean=mean, ci95=(mean - width, mean + width), groups=partition, metric="return",
            per_task=per_task, env_steps=steps, equal_steps=equal, **more,
        )  # fmt: skip

    single = [[name] for name in names]
    draws = [
        Draw([names[i::3] for i in range(3)], 68.25),
        Draw([names[:4], names[4:7], names[7:]], 72.75),
    ]
    methods = {
        "policygradex": method(149.6, 2.3, groups),
        "multitask": method(61.9, 4.1, [names]),
        "multitask_conditioned": method(138.2, 3.8, [names], note="is told which task it is in"),
        "single_task": method(86.4, 6.0, single),
        "random": method(70.5, 5.2, None, note="mean over 3 draws", draws=draws),
        "gradient_similarity_dot": method(141.0, 3.1, groups),
        "gradient_similarity_dot_our_k": method(141.0, 3.1, groups, same_as="gradient_similarity_dot"),
        "gradient_similarity_cosine": method(124.0, 7.5, groups[:2]),
        "gradient_similarity_whitened": method(141.0, 3.1, groups, same_as="gradient_similarity_dot"),
        "true_groups": method(151.2, 2.0, groups),
        "true_groups_same_steps_per_policy": method(153.3, 1.8, groups, equal=False, steps=2_100_000),
    }
    steps = np.linspace(0, total, 60)[1:]
    rise = 1 - np.exp(-5 * steps / total)
    curves = {
        name: Curve(steps.tolist(), (12 + (entry.mean - 12) * rise + rng.normal(0, 2, 59)).tolist())
        for name, entry in methods.items()
        if "same_steps" not in name
    }
    rates = np.clip(rise * np.linspace(0.2, 1.2, n)[:, None], 0, 1).tolist()
    curves |= {name: structs.replace(curves[name], per_task=rates) for name in BY_TASK}
    candidates = [np.zeros(n, int), labels % 2, labels // 2, labels, labels + (np.arange(n) == 6) * 3]
    candidates.append(np.arange(n))
    return Results(
        schema_version=SCHEMA_VERSION,
        family="cartpole-goals",
        n_tasks=n,
        task_names=names,
        seed=seed,
        k=3,
        groups=groups,
        true_groups=groups,
        methods=methods,
        gain=Gain(Interval(0.0193, (0.0171, 0.0215)), Interval(87.7, (83.0, 92.4))),
        affinity=AffinityResult(matrix.tolist(), np.where(np.eye(n), 36, 8).tolist()),
        agreement=Agreement(nmi=1.0, ari=1.0, exact=True),
        path=PathResult(
            k=[1, 2, 2, 3, 4, 10],
            score=[-0.0021, 0.0065, 0.0071, 0.0172, 0.0174, 0.0150],
            stderr=[0.0011, 0.0010, 0.0009, 0.0002, 0.0, 0.0006],
            difference=[-0.0195, -0.0109, -0.0103, -0.0002, 0.0, -0.0024],
            chosen=3,
            labels=[candidate.tolist() for candidate in candidates],
        ),
        stability=StabilityResult(
            resamples=200,
            groups=groups,
            affinity_ci95=Bounds((matrix - 0.004).tolist(), (matrix + 0.006).tolist()),
            together=np.where(same, 1.0, 0.0).tolist(),
            by_group=[GroupCertainty(tasks=tasks, within=1.0, least=1.0, across=0.0) for tasks in groups],
            undecided=[],
            same_groups=1.0,
            same_k=0.985,
        ),
        looks=[
            look(1, names, groups, 0.0193, 348_160),
            *(look(2, group, [group], -0.0008, 700_000 + 13_653 * i) for i, group in enumerate(groups)),
        ],
        test_tasks=UnseenResult(
            names=[f"test-{i}" for i in range(6)],
            method="the best of the groups' policies in 8 trial episodes each",
            mean=146.1,
            ci95=(141.0, 151.2),
            methods={"multitask": UnseenMethod(mean=58.3, ci95=(51.0, 65.6), env_steps=8000)},
            assigned=[0, 1, 2, 0, 1, 2],
        ),
        curves=curves,
        diagnostics=Diagnostics(
            relative_distance=[0.034, 0.029, 0.041],
            subsets=120,
            parameters=4610,
            l2=0.01,
            scoring_steps=0,
            meta_steps=307_200,
            collect_steps=40_960,
            affinity_ci95=Bounds((matrix - 0.004).tolist(), (matrix + 0.004).tolist()),
        ),
        timings=Timings(
            stages=[
                ("meta", 22.4),
                ("transitions", 3.1),
                ("features", 2.4),
                ("scores", 0.53),
                ("affinity", 0.01),
                ("grouping", 0.84),
                ("policies", 31.0),
                ("similarity", 1.2),
                ("comparisons", 64.9),
                ("evaluation", 4.0),
            ],
            total=133.0,
            date="2025-01-01T00:00:00",
        ),
    )


@pytest.fixture(scope="session")
def run_results() -> Results:
    """Results of a made-up run of cartpole-goals with three groups and every comparison; read it only."""
    return example_results()


@pytest.fixture(scope="session")
def ungrouped_results(run_results) -> Results:
    """The same run, had it found nothing to split and had no planted groups."""
    truth = ("true_groups", "true_groups_same_steps_per_policy")
    return structs.replace(
        run_results,
        methods={name: entry for name, entry in run_results.methods.items() if name not in truth},
        curves={name: curve for name, curve in run_results.curves.items() if name not in truth},
        k=1,
        groups=[run_results.task_names],
        true_groups=None,
        agreement=None,
        test_tasks=None,
        path=structs.replace(
            run_results.path,
            chosen=0,
            score=[0.0121, 0.0118, 0.0120, 0.0119, 0.0115, 0.0090],
            difference=[0.0, -0.0003, -0.0001, -0.0002, -0.0006, -0.0031],
        ),
        gain=Gain(Interval(0.0001, (-0.0007, 0.0009)), Interval(-0.8, (-2.5, 0.9))),
        looks=[structs.replace(run_results.looks[0], groups=[run_results.task_names])],
    )


@pytest.fixture(scope="session")
def make_logged():
    """Factory of random Transitions and Features with a planted direction per task, no environment needed."""
    from pgx_jax.types import Features, Transitions

    def make(n=4, count=300, d=12, sources=None, seed=0, groups=2):
        rng = np.random.default_rng(seed)
        u = n if sources is None else sources
        scales = 0.97 ** np.arange(d) * np.sqrt(d)
        values = (rng.normal(size=(u, count, d)) * scales / np.sqrt(d)).astype(np.float32)
        source = np.arange(n) % u
        directions = rng.normal(size=(groups, d)) / np.sqrt(d)
        signal = np.einsum("ntd,nd->nt", values[source], directions[np.arange(n) % groups])
        advantage = (signal + rng.normal(size=(n, count))) * 10.0 ** rng.integers(-2, 3, (n, 1)) + 0.3
        # Trajectories of uneven lengths, dealt to the three parts.
        trajectory = np.stack([np.cumsum(rng.random(count) < 0.08) for _ in range(u)])
        split = ((trajectory + np.arange(u)[:, None]) % 3).astype(np.int8)
        obs = rng.normal(size=(u, count, 3)).astype(np.float32)
        action = rng.integers(0, 2, (u, count))
        transitions = Transitions(obs, action, advantage.astype(np.float32), trajectory, split, source)
        return transitions, Features(values, np.array([0, seed], np.uint32))

    return make


@pytest.fixture(scope="session")
def small_settings():
    """(settings of the family `points`, Config) of a run of seconds that finds its two groups.

    The numbers are given one by one, so that other defaults leave this run as it is.
    """
    from pgx_jax import PPO, Config, EstimateConfig, PolicyConfig

    config = Config(
        seed=5, steps_per_task=5400, meta_fraction=0.2, meta_entropy=0.0, group_entropy=None,
        min_updates=1, collect_fraction=0.5, episodes=8, test_tasks=3, trial_episodes=2, random_draws=2,
        policy=PolicyConfig(hidden=(8, 8)),
        ppo=PPO(
            learning_rate=2e-2, final_learning_rate=1.0, gamma=0.99, gae_lambda=0.95, entropy=0.0,
            num_envs=12, num_steps=15, epochs=4, minibatches=2,
        ),
        estimate=EstimateConfig(steps=960, num_envs=16, dim=48),
    )  # fmt: skip
    return {"n_tasks": 6, "n_groups": 2, "horizon": 15, "seed": 5}, config


@pytest.fixture(scope="session")
def small_run(small_settings, drawn, tmp_path_factory):
    """That run with every comparison, saved in a folder (``small_run.store.path``); copy before changing."""
    from pgx_jax import make_family, run

    family, config = small_settings
    with drawn():
        return run(make_family("points", **family), config, out=tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def no_training(monkeypatch):
    """Any training fails."""
    import pgx_jax.learn

    def refuse(*args, **kw):
        raise AssertionError("something was trained")

    monkeypatch.setattr(pgx_jax.learn, "train", refuse)
    monkeypatch.setattr(pgx_jax.learn, "train_all", refuse)
