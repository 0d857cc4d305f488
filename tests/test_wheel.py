"""The wheel: built from the checkout, installed elsewhere, and tested from there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="no checkout around the tests"),
]

TESTS = [f"tests/test_{name}.py" for name in ("families", "checks", "cli", "pipeline", "saved", "envs")]
"""What finds families, starts commands, and runs everything once."""


def python(*args, **kw):
    done = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, **kw)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_tests_pass_against_the_installed_wheel(tmp_path):
    """pip fetches the build backend, so this needs a network."""
    source = shutil.copytree(
        ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "runs", "*.egg-info")
    )
    python("-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    python("-m", "pip", "install", "--no-deps", "-q", "--target", tmp_path / "site", wheel)
    shutil.copytree(ROOT / "tests", tmp_path / "elsewhere" / "tests")
    shutil.rmtree(source)
    there = {
        "cwd": tmp_path / "elsewhere",
        "env": os.environ | {"PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"},
    }
    assert f"; {tmp_path / 'site' / 'pgx_jax'}\n" in python("tests/smoke.py", **there)
    told = python("-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *TESTS, **there)
    assert " passed" in told and "failed" not in told
