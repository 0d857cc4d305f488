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


def command(*args, **kw):
    done = subprocess.run([sys.executable, "-m", *map(str, args)], capture_output=True, text=True, **kw)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_tests_pass_against_the_installed_wheel(tmp_path):
    """pip fetches the build backend, so this needs a network."""
    source = shutil.copytree(
        ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "runs", "*.egg-info")
    )
    command("pip", "wheel", "--no-deps", "-q", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    command("pip", "install", "--no-deps", "-q", "--target", tmp_path / "site", wheel)
    shutil.copytree(ROOT / "tests", tmp_path / "elsewhere" / "tests")
    shutil.rmtree(source)
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}
    script = "import pgx_jax, envs; print(pgx_jax.__file__, envs.__file__)"
    shown = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(tmp_path / "site")) for path in shown.stdout.split()), shown.stdout
    told = command(
        "pytest", "-q", "-n", "2", "--dist", "loadfile", *TESTS, cwd=tmp_path / "elsewhere", env=env
    )
    assert " passed" in told and "failed" not in told
