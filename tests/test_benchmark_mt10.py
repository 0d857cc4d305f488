"""The benchmark of Meta-World's MT10: its small preset, which is the whole path, resuming, and its tables."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import metaworld_tables  # noqa: E402
import mt10  # noqa: E402


def test_the_small_preset(tmp_path, capsys):
    out = ["--preset", "small", "--out", str(tmp_path / "mt10.json"), "--work", str(tmp_path / "work")]
    assert mt10.main(out) == 0
    found = json.loads((tmp_path / "mt10.json").read_text())
    parts = {cell["cell"]["part"]: cell for cell in found["cells"]}
    assert set(parts) == set(mt10.PARTS)
    assert parts["experts"]["demonstrated"] == 2 * 10 * 20 and len(parts["scratch"]["curve"]) == 2
    assert parts["groups"]["results"]["k"] == 2
    told = metaworld_tables.mt10(found)
    assert "Meta-World, ours" in told and "400 demonstrated" in told and "PolicyGradEx" in told
    capsys.readouterr()
    assert mt10.main(out) == 0 and not capsys.readouterr().out  # all is there


def test_presets_and_cells():
    cells = {preset: mt10.cells(preset) for preset in ("quick", "standard", "paper")}
    assert {cell["network"] for cell in cells["standard"] if cell["part"] == "groups"} == {
        "mlp", "soft_modularization",
    }  # fmt: skip
    assert len(cells["paper"]) == 30
