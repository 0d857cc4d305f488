"""Compiled programs are kept for the next process, unless one says otherwise."""

import os
import subprocess
import sys

import jax

from pgx_jax.runs.programs import VARIABLE, machine, make_room, prune

SCRIPT = """
import jax
jax.jit(lambda x: x + 1)(1.0)  # JAX has decided that there is no cache
from pgx_jax.runs.programs import keep_programs
print(keep_programs())
print(keep_programs())  # there is one already
jax.jit(lambda x: x * 2)(1.0)
"""


def process(**env):
    known = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", VARIABLE))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=known | env, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_what_is_compiled_is_kept_and_found_again(tmp_path):
    folder = tmp_path / machine()
    assert process(**{VARIABLE: str(tmp_path)}) == [str(folder), "None"]
    kept = {path.name for path in folder.iterdir()}
    assert len([name for name in kept if name.endswith("-cache")]) == 1
    process(**{VARIABLE: str(tmp_path)})
    assert {path.name for path in folder.iterdir()} == kept


def test_nothing_is_kept_where_one_says_so_or_cannot_write(tmp_path):
    assert process(**{VARIABLE: "off"}) == ["None", "None"]
    (tmp_path / "file").touch()
    assert process(**{VARIABLE: str(tmp_path / "file")}) == ["None", "None"]
    chosen = tmp_path / "chosen"
    assert process(JAX_COMPILATION_CACHE_DIR=str(chosen), **{VARIABLE: str(tmp_path)}) == ["None", "None"]


def test_the_longest_unused_go_first(tmp_path):
    for age, name in enumerate(("new", "older", "oldest")):
        path = tmp_path / "machine" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    prune(tmp_path, 300)
    assert len(list((tmp_path / "machine").iterdir())) == 3
    prune(tmp_path, 299)
    assert [path.name for path in (tmp_path / "machine").iterdir()] == ["new"]


def test_programs_are_forgotten_where_they_are_too_many():
    traced = []
    function = jax.jit(lambda x: traced.append(x) or x + 1)
    assert not make_room(2**31)
    function(1.0), function(2.0)
    assert len(traced) == 1
    assert make_room(1) == sys.platform.startswith("linux")
    function(3.0)
    assert len(traced) == 1 + sys.platform.startswith("linux")
