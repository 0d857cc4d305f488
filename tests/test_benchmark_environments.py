"""The small preset of benchmarks/environments.py."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import environments  # noqa: E402


def test_overhead_of_the_host_engine(tmp_path):
    pytest.importorskip("Box2D")
    path = tmp_path / "environments.json"
    assert environments.main(["--preset", "small", "--parts", "host", "--out", str(path)]) == 0
    (cell,) = common.read(path)["cells"]
    rounds = cell["timings"]["rounds"]
    assert cell["steps"] == 240 and len(rounds) == 3 and min(min(pair) for pair in rounds) > 0
    assert -0.9 < cell["timings"]["overhead"] < 50
