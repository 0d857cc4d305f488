"""Runs that are killed, damaged and attacked: they go on to the same results, or say what is wrong with which
file. All of it is slow."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import plain

from pgx_jax.cli import main as cli
from pgx_jax.compare.results import from_plain
from pgx_jax.errors import DataError, FolderError, PgxError
from pgx_jax.runs.run import Run
from pgx_jax.runs.saved import saved_settings
from pgx_jax.runs.stages import stage_of
from pgx_jax.runs.store import RunStore

pytestmark = pytest.mark.slow

KILLS = 25
"""Of the runs on each engine."""
EACH = 5
"""Of one run, after which it may end."""
NEVER = 1e6


def computed(path):
    """All that a run has come to, to the bit: its results, and every file of its stages."""
    stages = {str(x.relative_to(path)): x.read_bytes() for x in (path / "stages").rglob("*") if x.is_file()}
    return plain(path), stages


@pytest.fixture(scope="module")
def zygote():
    """Asks for an attempt to make, or to go on with, the run of a folder; returns what came of it."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def attempt(engine, folder, seconds):
        process.stdin.write(f"{engine} {folder} {seconds}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    yield attempt
    process.stdin.close()
    process.wait()


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("engine", ["device", "host"])
def test_runs_that_are_killed_at_any_time_come_to_the_same(zygote, engine, tmp_path, capsys):
    assert zygote(engine, tmp_path / "whole", NEVER) == "done"
    wanted, rng, kills, runs = computed(tmp_path / "whole"), random.Random(engine), 0, 0
    while kills < KILLS:
        folder, killed, ended = tmp_path / f"run{runs}", 0, ""
        while ended != "done":
            seconds = rng.uniform(0, 1.5) if killed < min(EACH, KILLS - kills) else NEVER
            ended = zygote(engine, folder, seconds)
            assert ended in ("done", "killed")
            killed += ended == "killed"
        assert computed(folder) == wanted, f"after {killed} kills of {folder}"
        kills, runs = kills + killed, runs + 1
        with capsys.disabled():
            print(f"\n{engine}: {kills} kills, {runs} runs that came to the same", flush=True)


# Damaged files


@pytest.fixture(scope="module")
def whole(small_run, tmp_path_factory):
    """A finished run, with a snapshot of a stage that is under way besides."""
    path = shutil.copytree(small_run.store.path, tmp_path_factory.mktemp("survival") / "whole")
    shutil.copytree(path / "stages" / "meta", path / "stages" / "meta.00ff")
    return path


def flip(rng, path):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def replace(path, make):
    path.unlink()
    make()


ATTACKS = {
    "cut": lambda rng, path: path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)]),
    "flipped": flip,
    "flipped elsewhere": flip,
    "flipped again": flip,
    "emptied": lambda rng, path: path.write_bytes(b""),
    "a folder": lambda rng, path: replace(path, path.mkdir),
    "a link": lambda rng, path: replace(path, lambda: path.symlink_to("/etc/hostname")),
}
READ = ("config.json", "checksums.json", "results.json", "structure.json", ".npz")
"""Files that are read to go on; times alone come from metrics.jsonl, and nothing from the report."""


def read_all(path):
    """Read all that is in a run's folder; returns its results."""
    store = RunStore.open(path)
    saved_settings(store)
    for stage in store.stages():
        store.load(stage, stage_of(stage.partition(".")[0]).record)
    return from_plain(store.read_json("results.json"))


@pytest.mark.timeout(1800)
def test_every_corruption_is_found_and_the_file_named(whole, tmp_path, capsys):
    wanted, found, harmless, missed = read_all(whole), 0, 0, []
    for file in sorted(x.relative_to(whole) for x in whole.rglob("*") if x.is_file()):
        for name, attack in ATTACKS.items():
            folder = shutil.copytree(whole, tmp_path / "attacked")
            attack(random.Random(f"{file} {name}"), folder / file)
            try:
                same = read_all(folder) == wanted
                told = "" if same else "other results"
                if not file.name.endswith(READ) and same:
                    harmless += 1
                    told = None
            except (DataError, FolderError) as error:
                told = str(error)
            if told is not None:
                named = file.name in told and (file.parent.name in told or len(file.parts) == 1)
                found += named
                missed += [] if named else [(str(file), name, told)]
            shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{found} corruptions found, {harmless} of files that are not read, {len(missed)} missed")
    assert not missed


# Anything at all in the place of its files

MINUTES = 10
PIECES = st.binary(max_size=12) | st.sampled_from(
    [b"null", b"{}", b"[]", b"-1", b"1e999", b"99999999", b'"', b"\x00", b"true", b"PK\x03\x04", b"../../x"]
)
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), PIECES), min_size=1, max_size=4
)  # fmt: skip
"""Where, how many bytes go, and what comes in their place."""


def unsigned(path):
    """Take away what the files tell of themselves, as in folders of older code."""
    (path / "checksums.json").unlink(missing_ok=True)
    for structure in (path / "stages").glob("*/structure.json"):
        header = json.loads(structure.read_text())
        del header["sha256"]
        structure.write_text(json.dumps(header))


@pytest.mark.timeout(3600)
def test_whatever_is_in_a_folder_is_read_or_refused(whole, tmp_path_factory, monkeypatch, capsys):
    files = sorted(str(x.relative_to(whole)) for x in whole.rglob("*") if x.is_file())
    place = tmp_path_factory.mktemp("fuzzed")
    count = dict.fromkeys(("read", "refused"), 0)

    def refuse(*args, **kw):
        raise DataError("computed anew")

    def run_code(*args, **kw):
        raise AssertionError("code of a file was run")

    monkeypatch.setattr(Run, "_compute", refuse)
    for name in ("load", "loads"):
        monkeypatch.setattr(f"pickle.{name}", run_code)

    end = time.monotonic() + 60 * MINUTES

    @settings(
        max_examples=3000, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(files), CHANGES, st.booleans(), st.sampled_from(["load", "report", "resume"]))
    def attack(name, changes, signed, what):
        if time.monotonic() > end:
            return
        folder = place / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        if not signed:
            unsigned(folder)
        if (folder / name).exists():
            content = (folder / name).read_bytes()
            for where, gone, piece in changes:
                at = int(where * len(content))
                content = content[:at] + piece + content[at + gone :]
            (folder / name).write_bytes(content)
        if what == "load":
            try:
                read_all(folder)
                count["read"] += 1
            except PgxError:
                count["refused"] += 1
        else:
            ended = cli.main([what, str(folder)])
            assert ended in (0, 2)
            count["refused" if ended else "read"] += 1
        capsys.readouterr()

    attack()
    with capsys.disabled():
        print(f"\nfuzzed: {count}")
    assert min(count.values()) > 0
    assert RunStore.open(whole).stages()
