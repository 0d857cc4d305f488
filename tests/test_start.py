"""An interrupt of the command is told in a word, from the first moment on."""

import os
import subprocess
import sys

import pytest

INTERRUPT = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
INSIDE = """
import sys, types
main = types.ModuleType("pgx_jax.cli.main")
sys.modules["pgx_jax.cli.main"] = main
{body}
from pgx_jax.cli.start import start
start()
"""
CASES = {
    "running": "def run():\n    {interrupt}main.main = run",
    "taken for a failure": "def run():\n    try:\n        {interrupt}    except KeyboardInterrupt:\n"
    "        raise ImportError('numpy is broken')\nmain.main = run",
    "where nothing can be raised": "class Ended:\n    def __del__(self):\n        {interrupt}\n"
    "def run():\n    Ended()\n    import time; time.sleep(9)\nmain.main = run",
}


HEARD = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""Even where the tests run in the background, which shells let no interrupt through to."""


def ended(code, path):
    return subprocess.run(
        [sys.executable, "-c", HEARD + code], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(path), *sys.path])},
    )  # fmt: skip


def test_while_a_module_is_imported(tmp_path):
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text(INTERRUPT)
    done = ended("from pgx_jax.cli.start import start; start()", tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (130, "stopped\n", "")


@pytest.mark.parametrize("case", CASES)
def test_wherever_it_falls(case, tmp_path):
    done = ended(INSIDE.format(body=CASES[case].format(interrupt=INTERRUPT)), tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (130, "stopped\n", "")
