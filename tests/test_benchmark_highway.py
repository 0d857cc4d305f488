"""The small preset of benchmarks/highway.py, and its table."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import environment_tables  # noqa: E402
import highway  # noqa: E402


def check_speed(cell):
    rates = cell["timings"]["rates"]
    assert set(rates) == set(cell["engines"]) >= {"ours, 2 at once", "highway-env"}
    for rate in rates.values():
        assert len(rate["core"]) == len(rate["wall"]) == 2 and min(rate["core"] + rate["wall"]) > 0


def measure(path, *parts):
    assert highway.main(["--preset", "small", "--out", str(path), "--parts", *parts]) == 0
    return common.read(path)


def test_speeds_in_turns(tmp_path, monkeypatch):
    data = measure(tmp_path / "highway.json", "speed")
    check_speed(data["cells"][0])
    monkeypatch.setattr(highway, "PARTS", {})  # all is done: nothing is measured again
    assert measure(tmp_path / "highway.json", "speed") == data


def test_the_table_shows_what_was_measured():
    rates = {
        "ours, 8 at once": {"core": [9000.0, 8000.0, 8500.0], "wall": [15000.0, 16000.0, 17000.0]},
        "highway-env": {"core": [50.0, 51.0, 49.0], "wall": [50.0, 50.0, 50.0]},
    }
    speed = {"cell": {"part": "speed", "rounds": 3}, "engines": list(rates), "timings": {"rates": rates}}
    returns = {"trained": {"home": [20.0, 22.0, 21.0], "highway-env": [19.0, 21.0, 23.0]}}
    cell = {"part": "transfer", "episodes": 3}
    transfer = {"cell": cell, "env_steps": [400_000], "returns": returns}
    text = environment_tables.highway({"cells": [speed, transfer]})
    assert "| ours, 8 at once | 8,500 | 8,000–9,000 | 170× | 16,000 |" in text
    assert "| highway-env | 50 | 49–51 | 1× | 50 |" in text
    assert "| trained | 21.0 [18.5, 23.5] | 21.0 [16.0, 26.0] |" in text and "400" in text


@pytest.mark.slow
def test_every_part(tmp_path):
    data = measure(tmp_path / "highway.json", "speed", "parity", "transfer")
    speed, parity, transfer = data["cells"]
    check_speed(speed)
    assert parity["episodes"] == len(parity["traffics"]) == 5 and parity["steps"] >= 5
    assert max(parity["float64"].values()) < 1e-6 and parity["float32"]["same lanes"] > 0.9
    assert 0 < parity["float32"]["x"] < 2e-3  # it is float32 that was compared
    for found in transfer["returns"].values():
        for place in ("home", "highway-env"):
            assert len(found[place]) == 2 and 0 <= min(found[place]) <= max(found[place]) <= highway.HORIZON
    text = environment_tables.highway(data)
    assert "| untrained |" in text and "5 episodes of 5 traffics" in text
