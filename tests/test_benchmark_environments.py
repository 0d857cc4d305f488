"""The small preset of benchmarks/environments.py."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import environment_tables  # noqa: E402
import environments  # noqa: E402


def test_overhead_of_the_host_engine(tmp_path):
    pytest.importorskip("Box2D")
    path = tmp_path / "environments.json"
    assert environments.main(["--preset", "small", "--parts", "host", "--out", str(path)]) == 0
    (cell,) = common.read(path)["cells"]
    rounds = cell["timings"]["rounds"]
    assert cell["episodes"][0] == cell["episodes"][1]
    assert cell["steps"] == 240 and len(rounds) == 3 and min(min(pair) for pair in rounds) > 0
    assert -0.9 < cell["timings"]["overhead"] < 50


def test_overhead_of_the_device_engine(tmp_path):
    pytest.importorskip("brax")
    path = tmp_path / "environments.json"
    args = ["--preset", "small", "--parts", "device", "--out", str(path)]
    assert environments.main(args) == 0
    (cell,) = common.read(path)["cells"]
    times, rounds = cell["timings"], np.array(cell["timings"]["rounds"])
    assert rounds.shape == (2, 2) and (rounds > 0).all()
    assert times["overhead"] == pytest.approx(np.median(rounds[:, 1] / rounds[:, 0]) - 1)
    assert times["raw_steps_per_second"] == pytest.approx(4 * 8 / np.median(rounds[:, 0]))
    row = environment_tables.environments(common.read(path)).splitlines()[-1]
    assert row.startswith("| gymnax Pendulum-v1 | device | 4 |")
    environments.main(args)  # everything is done
    assert len(common.read(path)["cells"]) == 1
