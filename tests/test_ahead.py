"""Programs that are compiled before they are needed, and not run."""

import importlib
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgx_jax import learn
from pgx_jax.config import override
from pgx_jax.runs import ahead
from pgx_jax.runs.run import Run
from pgx_jax.runs.seeds import finish
from pgx_jax.steady import compiled, rehearsal
from pgx_jax.tasks.registry import make_family

run_module = importlib.import_module("pgx_jax.runs.run")


@pytest.fixture
def compilations(caplog):
    """Names of the programs that are compiled (or read) from here on."""

    def names():
        found = [r.message for r in caplog.records if r.message.startswith("Finished XLA compilation of ")]
        caplog.clear()
        return [message.split()[4] for message in found]

    jax.config.update("jax_log_compiles", True)  # in all threads
    yield names
    jax.config.update("jax_log_compiles", False)


def join():
    for thread in threading.enumerate():
        if thread.name.startswith("rehearsal"):
            thread.join()


def test_in_a_rehearsal_programs_are_compiled_and_not_run(compilations):
    @compiled
    def doubled(x):
        return {"sum": x.sum(), "twice": 2 * x}

    x = np.arange(3.0, dtype=np.float32)
    with rehearsal():
        found = doubled(x)
        assert "jit(doubled)" in compilations()
    assert found["sum"] == 0 and found["twice"].tolist() == [0, 0, 0]
    assert doubled(x)["twice"].tolist() == [0, 2, 4] and doubled(jnp.ones(3))["sum"] == 3
    assert "jit(doubled)" not in compilations()
    assert doubled(jnp.ones(4))["sum"] == 4 and "jit(doubled)" in compilations()


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(learn.training, "_lanes", lambda engine: jax.devices()[:1] * 2)


def test_what_later_stages_need_is_compiled_ahead(small_settings, compilations, two_cores):
    family, config = small_settings
    config = override(config, {"policy.hidden": (7, 5)})  # programs that no other test has
    run = Run(make_family("points", **family | {"horizon": 13}), config)
    with ahead.compiling_ahead(run):
        pass
    join()
    ours = ("jit(_play)", "jit(judge)", "jit(_init)", "jit(_enter)", "jit(_segment)", "jit(_evaluate)")
    found = [name for name in compilations() if name in ours]
    assert {*found} == {*ours} and found.count("jit(_evaluate)") == 4  # told, blind; fewer episodes
    run.compute("transitions")  # begins no rehearsal: it isn't the whole run
    told, row = run.policies_by_name["told"], np.zeros(6, int)
    agents = learn.init_agents(told, run.family, np.zeros((1, 2), np.uint32))
    learn.evaluate(told, run.family, agents, row, np.arange(6), config.stream("trial"), episodes=8)
    compiled_now = [name for name in compilations() if name in ours]
    assert sorted(compiled_now) == ["jit(_enter)", "jit(_segment)"]  # of the blind policy


def nothing(run, stage):
    """In the place of `Run._compute`: a record that says there are two groups."""
    run.records[stage] = SimpleNamespace(k=2)


def test_a_whole_run_rehearses_and_no_other(small_settings, monkeypatch):
    family, config = small_settings
    run, began = Run(make_family("points", **family), config), []
    monkeypatch.setattr(run_module, "compiling_ahead", lambda run: began.append(run) or nullcontext())
    monkeypatch.setattr(Run, "_compute", nothing)
    run.compute("transitions")
    assert not began
    run.compute()  # its meta-policy is trained already
    assert not began
    again = Run(make_family("points", **family), config)
    again.compute()
    assert began == [again]


def test_several_seeds_rehearse_once(small_settings, monkeypatch):
    family, config = small_settings
    family, began = make_family("points", **family), []
    monkeypatch.setattr(run_module, "compiling_ahead", lambda run: began.append(run) or nullcontext())
    monkeypatch.setattr(Run, "_compute", nothing)
    monkeypatch.setattr(Run, "write", lambda self: None)
    runs = [Run(family, override(config, {"seed": seed})) for seed in range(3)]
    assert not finish(runs) and began == runs[:1]


def test_a_rehearsal_fails_in_silence_and_stops_with_the_body(small_settings, monkeypatch, two_cores):
    family, config = small_settings
    run, done = Run(make_family("points", **family), config), []
    started, failed = threading.Event(), threading.Event()

    def parts(run):
        def broken():
            started.set()
            failed.wait(60)
            raise ValueError("of a rehearsal")

        yield broken
        yield lambda: done.append("another")

    monkeypatch.setattr(ahead, "_parts", parts)
    with pytest.raises(KeyboardInterrupt), ahead.compiling_ahead(run):
        assert started.wait(60)
        raise KeyboardInterrupt
    failed.set()
    join()
    assert not done
    with ahead.compiling_ahead(run):
        pass
    join()
    assert done == ["another"]


def test_nothing_is_rehearsed_where_shapes_are_not_known(small_settings, monkeypatch, two_cores):
    family = make_family("points", **small_settings[0])
    assert learn.rehearsable(family)
    assert not learn.rehearsable(family, rows_per_call=4)
    assert not learn.rehearsable(make_family("lunarlander"))
    monkeypatch.setattr(learn.training, "_lanes", lambda engine: jax.devices()[:1])
    assert not learn.rehearsable(family)
