"""The run folder: made, opened and overwritten with care; its JSON files and metrics."""

import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from pgx_jax import learn
from pgx_jax.cli.saved import ReportCommand
from pgx_jax.errors import (
    BusyError,
    ConfigError,
    DataError,
    FolderError,
    FullError,
    NewerError,
    PgxError,
)
from pgx_jax.runs import serial
from pgx_jax.runs.run import Run, begin
from pgx_jax.runs.saved import load
from pgx_jax.runs.store import RunStore
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Moments


@pytest.fixture
def store(tmp_path):
    return RunStore.create(tmp_path / "run", {"seed": 0})


def test_create_and_open(tmp_path):
    (tmp_path / "empty").mkdir()
    RunStore.create(tmp_path / "empty", {"seed": 1})
    store = RunStore.create(tmp_path / "deep/er/run", {"seed": 3, "path": tmp_path, "bad": float("nan")})
    assert RunStore.open(str(store.path)).config == {"seed": 3, "path": str(tmp_path), "bad": None}
    with pytest.raises(ConfigError, match="already has contents; choose another, resume .* overwrite it$"):
        RunStore.create(store.path, {})
    with pytest.raises(ConfigError, match="holds no run"):
        RunStore.open(tmp_path / "missing")
    (store.path / "config.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        RunStore.open(store.path)


def test_overwriting_removes_a_run_and_nothing_else(tmp_path):
    store = RunStore.create(tmp_path / "run", {"seed": 0})
    store.save("meta", {"a": np.zeros(1)})
    store.append_metrics({"x": 1})
    for name in ("results.json", "regroup.json"):
        store.write_json(name, {})
    (store.path / "regroup-k=4-score=importance.json").write_text("{}")
    (store.path / "notes.txt").write_text("mine")
    (store.path / "regroup-mine.json").write_text("{}")
    with pytest.raises(DataError):  # bad settings are refused before anything is removed
        RunStore.create(store.path, {"f": {1, 2}}, overwrite=True)
    assert store.stages() == ["meta"]
    again = RunStore.create(store.path, {"seed": 1}, overwrite=True)
    assert again.config == {"seed": 1} and again.stages() == [] and again.metrics() == []
    assert sorted(entry.name for entry in store.path.iterdir()) == [
        "checksums.json",
        "config.json",
        "notes.txt",
        "regroup-mine.json",
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="no run.*isn't overwritten"):
        RunStore.create(tmp_path / "other", {}, overwrite=True)
    assert (tmp_path / "other/thesis.tex").read_text() == "mine"


def test_folders_that_cannot_be_written_are_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        RunStore.create(tmp_path / "file", {})
    with pytest.raises(ConfigError, match="can't be written to.*choose another$"):
        RunStore.create(tmp_path / "file/run", {})

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ConfigError, match=r"locked can't be written to \(Permission denied\)"):
        RunStore.create(tmp_path / "locked", {})


def test_metrics_survive_a_killed_writer(store):
    assert store.metrics() == []
    store.append_metrics({"step": 1, "loss": float("nan"), "name": "\u2028"})
    with (store.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    store.append_metrics({"step": np.int64(3), "values": jnp.arange(2)})
    assert store.metrics() == [
        {"step": 1, "loss": None, "name": "\u2028"},
        {"step": 3, "values": [0, 1]},
    ]


def test_json_is_sorted_and_free_of_nan(store):
    value = {"b": np.array([[1.5, np.inf]]), "a": (np.float32(0.5), np.bool_(True), None)}
    value[3] = Moments(1, 2, 3)
    path = store.write_json("results.json", value)
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert list(json.loads(text)) == ["3", "a", "b"]
    assert store.read_json("results.json") == {
        "a": [0.5, True, None],
        "b": [[1.5, None]],
        "3": {"mean": 1, "var": 2, "count": 3},
    }
    with pytest.raises(DataError, match=r"a\.b\[1\] is a set"):
        store.write_json("results.json", {"a": {"b": [0, {1}]}})
    assert path.read_text() == text
    with pytest.raises(DataError, match="no config2.json"):
        store.read_json("config2.json")


def test_a_run_that_another_process_works_on_is_refused(store):
    """A lock belongs to an open file, so that one of this process is as another's."""
    store.save("meta", {"a": np.zeros(1)})
    busy = f"another process works on the run {store.path}; wait"
    with store.claimed():
        for attempt in (
            lambda: RunStore(store.path).claimed().__enter__(),
            lambda: RunStore.create(store.path, {}, overwrite=True),
        ):
            with pytest.raises(FolderError, match=re.escape(busy)):
                attempt()
        assert store.stages() == ["meta"]
        assert RunStore.open(store.path).stages() == ["meta"]  # to read it
    with RunStore(store.path).claimed():
        pass
    RunStore.create(store.path, {}, overwrite=True)
    assert store.stages() == []


def test_damaged_settings_are_not_to_be_deleted_and_resumed(store):
    (store.path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config.json is damaged .*; nothing else knows .* run it anew"):
        RunStore.open(store.path)


def test_a_run_is_claimed_from_its_first_moment_to_its_last(store, tmp_path):
    """Of two that overwrite a run at the same moment one alone gets it."""
    ours, theirs = RunStore(store.path), RunStore(store.path)
    ours.begin({"seed": 1}, overwrite=True)
    with pytest.raises(BusyError):
        theirs.begin({"seed": 2}, overwrite=True)
    with ours.claimed(), ours.claimed():
        pass
    assert RunStore.open(store.path).config == {"seed": 1}
    theirs.begin({"seed": 2}, overwrite=True)
    del theirs
    RunStore(store.path).begin({"seed": 3}, overwrite=True)
    with pytest.raises(FolderError, match="already has contents"):
        ours.begin({})
    with ours.claimed():  # what is refused keeps no claim
        pass


def test_what_a_killed_writer_has_left_is_in_nobodys_way(tmp_path):
    scratch = f"{'0' * 32}.tmp"
    for name in ("config.json", "checksums.json"):
        (tmp_path / f".{name}.{scratch}").write_text("{")
    sums = {"config.json": ["0" * 64]}
    (tmp_path / "checksums.json").write_text(json.dumps(sums))
    store = RunStore.create(tmp_path, {"seed": 1})
    whole = ["checksums.json", "config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == whole
    (tmp_path / "figures").mkdir()
    for name in (".results.csv", "figures/.methods.png", ".thesis.tex"):
        (tmp_path / f"{name}.{scratch}").write_text("")
    with store.claimed():
        pass
    kept = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert sorted(kept) == [f".thesis.tex.{scratch}", *whole, "figures"]


@pytest.mark.parametrize("content", [{"data.csv": "0" * 64}, {"config.json": ["0" * 64]}])
def test_what_is_in_a_folder_that_is_refused_stays_there(tmp_path, content):
    """Though it be called as a file of ours."""
    names = ["checksums.json", "data.csv", f"figures/.data.png.{'0' * 32}.tmp"]
    (tmp_path / "figures").mkdir()
    for name in names:
        (tmp_path / name).write_text(json.dumps(content))
    for overwrite in (False, True):
        with pytest.raises(FolderError, match="has contents"):
            RunStore.create(tmp_path, {}, overwrite=overwrite)
    assert [name for name in names if (tmp_path / name).is_file()] == names


def test_a_lone_file_of_somebody_else_stays(tmp_path):
    (tmp_path / "checksums.json").write_text('{"data.csv": 1}')
    with pytest.raises(FolderError, match="already has contents"):
        RunStore.create(tmp_path, {})
    assert (tmp_path / "checksums.json").is_file()


def test_a_full_disk_takes_nothing_that_was_saved(store):
    """A limit on the size of files is met as the end of a disk is."""
    resource = pytest.importorskip("resource")
    store.save("meta", {"a": np.arange(3)})
    store.write_json("results.json", {"a": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        for write in (
            lambda: store.save("meta", {"a": np.zeros(5000)}),
            lambda: store.save("features", {"a": np.zeros(5000)}),
            lambda: store.save("features", {str(i): i for i in range(500)}),
            lambda: store.write_json("results.json", {"a": list(range(5000))}),
            lambda: store.write_file("figures/methods.png", bytes(5000)),
            lambda: store.append_metrics({"a": list(range(5000))}),
        ):
            with pytest.raises(FullError, match=f"the run folder {store.path} can't be written to .*resume"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.stages() == ["meta"] and store.load("meta")["a"].tolist() == [0, 1, 2]
    assert store.read_json("results.json") == {"a": 1} and store.metrics() == []
    assert not [path for path in store.path.rglob("*") if path.name.endswith(".tmp")]
    assert not [*store.path.glob("stages/features/*")]


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_settings_and_results_that_were_changed_are_told_from_those_that_were_written(store, name):
    store.write_json("results.json", {"a": 10})
    assert store.read_json("results.json") == {"a": 10}
    path = store.path / name
    path.write_text(path.read_text().replace("0", "1"))
    with pytest.raises(DataError, match=f"{name} is damaged .it isn't what was written, by checksums.json"):
        store.read_json(name)
    (store.path / "checksums.json").write_text("{}")
    with pytest.raises(DataError, match="checksums.json is damaged .*; delete it"):
        store.read_json(name)
    (store.path / "checksums.json").unlink()  # as in folders of older code
    assert store.read_json(name)
    with pytest.MonkeyPatch.context() as patch:  # killed before the second writing
        store.write_json(name, {"b": 1})
        patch.setattr(serial, "write_atomically", only(serial.write_atomically, "checksums.json"))
        store.write_json(name, {"b": 2})
    assert store.read_json(name) == {"b": 1}


def test_settings_that_are_damaged_while_a_run_works_stay_damaged(store):
    """Whatever is written after that; results that are damaged are written anew."""
    for content in ({"a": 10}, {"a": 11}):
        store.write_json("results.json", content)
        (store.path / "results.json").write_text("{}")
    (store.path / "config.json").write_text('{"seed": 1}')
    store.write_json("results.json", {"a": 12})
    assert store.read_json("results.json") == {"a": 12}
    with pytest.raises(DataError, match="config.json is damaged .it isn't what was written"):
        RunStore.open(store.path)


def only(write, name):
    return lambda path, content: write(path, content) if path.name == name else None


def test_a_newer_run_is_not_read(store):
    known = {"family": "points", "family_settings": {"n_tasks": 4}, "config": {"seed": 3}}
    known["environment"] = {"versions": {"pgx-jax": "9.1"}}
    store.write_json("config.json", known | {"format": 7})
    words = r"config.json was written by pgx-jax 9.1 in format 7, .* knows 1: install a newer"
    with pytest.raises(NewerError, match=words):
        load(store.path)
    store.write_json("config.json", known | {"config": known["config"] | {"sparkle": 3}})
    with pytest.raises(ConfigError, match="config.json, written by pgx-jax 9.1: .*unknown fields .'sparkle'"):
        load(store.path)
    for damaged in ([], {}, known | {"config": 3}, known | {"family_settings": {"n_tasks": None}}):
        store.write_json("config.json", damaged)
        with pytest.raises(PgxError):
            load(store.path)


def test_what_works_on_a_run_claims_it(tmp_path, no_training):
    begun = begin(make_family("points", n_tasks=4), out=tmp_path / "run")
    other = load(tmp_path / "run")
    with begun.store.claimed():
        with pytest.raises(BusyError):
            other.compute()
        begun.store.write_text("results.json", "{}")  # which another version may have written
        with pytest.raises(BusyError):
            other.finish()
        with pytest.raises(BusyError):
            ReportCommand(tmp_path / "run")(Console())
        assert begun.store.read_json("results.json") == {}


def test_a_run_that_cannot_begin_is_not_claimed(tmp_path, monkeypatch):
    def full(*args):
        raise FullError("full")

    family = make_family("points", n_tasks=4)
    policy = Run(family).policy
    meta = learn.take(learn.init_agents(policy, family, jax.random.split(jax.random.PRNGKey(0), 1)), 0)
    monkeypatch.setattr(RunStore, "save", full)
    with pytest.raises(FullError) as raised:
        begin(family, out=tmp_path / "run", meta=meta)
    assert raised.traceback  # it holds whatever was there
    with RunStore(tmp_path / "run").claimed():
        pass


@pytest.mark.parametrize(
    "name", ["results.json", "metrics.jsonl", "report.html", "config.json", "stages/meta/structure.json"]
)
def test_a_folder_in_the_place_of_a_file_is_named(store, name):
    store.save("meta", {"a": np.zeros(1)})
    (store.path / name).unlink(missing_ok=True)
    (store.path / name).mkdir()
    with pytest.raises(FolderError, match=f"{name} is a folder, where a run has a file"):
        RunStore.open(store.path)


@pytest.mark.parametrize("name", ["stages", "stages/meta", "figures"])
def test_a_file_in_the_place_of_a_folder_is_named(store, name):
    (store.path / name).parent.mkdir(exist_ok=True)
    (store.path / name).write_text("")
    with pytest.raises(FolderError, match=f"{name} is a file, where a run has a folder"):
        RunStore.open(store.path)
