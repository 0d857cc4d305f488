"""The benchmark of Meta-World's MT10: its small preset, which is the whole path, resuming, its tables and
figures."""

import ctypes.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgx_jax import Run, config_for, make_family
from pgx_jax.compare.results import Interval
from pgx_jax.runs.planning import expected_steps

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import figures  # noqa: E402
import metaworld_costs  # noqa: E402
import metaworld_drawings  # noqa: E402
import metaworld_episodes  # noqa: E402
import metaworld_tables  # noqa: E402
import mt10  # noqa: E402

DRAWS = ctypes.util.find_library("EGL") is not None


def test_the_small_preset(tmp_path, capsys):
    out = ["--preset", "small", "--out", str(tmp_path / "mt10.json"), "--work", str(tmp_path / "work")]
    assert mt10.main(out) == 0
    assert DRAWS or "episodes are left out: MuJoCo cannot draw" in capsys.readouterr().err
    found = json.loads((tmp_path / "mt10.json").read_text())
    parts = {cell["cell"]["part"]: cell for cell in found["cells"]}
    assert set(mt10.PARTS) - set(parts) <= {"engines", "episodes"}  # which need EnvPool and a GL library
    assert parts["experts"]["demonstrated"] == 2 * 10 * 20
    for part in ("experts", "scratch"):
        np.testing.assert_allclose(np.mean(parts[part]["curves"], 1), parts[part]["curve"])
        assert np.shape(parts[part]["curves"]) == (2, 10)
    assert np.shape(parts["hot_spots"]["timings"]["ours"]) == (1, 2)
    assert [entry["k"] for entry in parts["groups"]["by_k"]][:4] == [1, 2, 3, 4]
    assert parts["groups"]["results"]["k"] == 2
    assert parts["groups"]["timings"]["seconds"] == parts["groups"]["results"]["timings"]["total"]
    assert parts["groups"]["by_k"][1]["evidence"] == parts["groups"]["results"]["evidence"]
    _check_words(found)
    if DRAWS:
        assert parts["episodes"]["shown"] == [[0, 3, 6, 10, 13, 16, 20]]
        with Image.open(tmp_path / "figures" / "mt10_episodes_scratch_400_seed0.png") as picture:
            assert len(np.unique(np.asarray(picture))) > 50
    capsys.readouterr()
    assert mt10.main(out) == 0 and not capsys.readouterr().out  # all is there


def _check_words(found):
    short, long = metaworld_tables.mt10(found), metaworld_tables.whole(found)
    assert "demonstration-initialised" in short and "PolicyGradEx" in short and "docs/metaworld.md" in short
    assert "Meta-World, ours" in long and "400 demonstrated" in long and "times as fast as" in long
    assert "| mlp, 500 a task, seed 0 | 4 |" in long
    drawn = metaworld_drawings.draw(found)
    assert {*drawn} >= {"mt10_scratch_curves", "mt10_experts_curves", "mt10_policies", "mt10_groups_0"}
    for name, content in drawn.items():
        assert content.startswith(b"\x89PNG") and f"figures/{name}.png" in long


def test_without_a_library_to_draw_with_episodes_are_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mt10, "missing_library", lambda family: "no EGL")
    out = tmp_path / "mt10.json"
    assert mt10.main(["--preset", "small", "--only", "part=episodes", "--out", str(out)]) == 0
    assert "episodes are left out: no EGL" in capsys.readouterr().err and not out.exists()


def test_presets_and_cells():
    cells = {preset: mt10.cells(preset) for preset in ("quick", "standard", "by_k", "paper")}
    assert {cell["network"] for cell in cells["standard"] if cell["part"] == "groups"} == {
        "mlp", "soft_modularization",
    }  # fmt: skip
    assert len(cells["paper"]) == 30 and [cell["k"] for cell in cells["by_k"]] == [1, 2, 3, 4, None]
    drawn = [metaworld_episodes.picture(cell) for cell in cells["standard"] if cell["part"] == "episodes"]
    assert len(set(drawn)) == 5 and "mt10_episodes_scratch_1M_seed0" in drawn


@pytest.fixture(scope="module")
def committed():
    return json.loads((BENCHMARKS / "results/mt10.json").read_text())


def test_what_presets_train_is_what_is_stated(committed):
    """In the tables, and in the words of the command line, with the time at the committed rates."""
    planned = {preset: sum(map(mt10.planned, mt10.cells(preset))) for preset in metaworld_costs.PLANNED}
    assert planned == metaworld_costs.PLANNED
    words = " ".join(Path(mt10.__file__).read_text().partition("only: Annotated")[0].split())
    assert f"standard: {planned['standard'] / 1e6:.0f} million steps" in words
    assert f"({planned['quick'] / 1e6:.1f} million steps)" in words
    assert f"({planned['by_k'] / 1e6:.1f} million steps)" in words
    slow, quick = metaworld_costs.rates(committed)
    for preset, unit in (("standard", 3600), ("by_k", 60)):
        low, high = (planned[preset] / rate / unit for rate in (quick, slow))
        assert f"{low:.0f} to {high:.0f} {'hours' if unit == 3600 else 'minutes'}" in words, preset
        assert f"`{preset}` {metaworld_costs.steps(planned[preset])} ({low:.0f} to {high:.0f} " in (
            metaworld_costs.told(committed)
        )
    assert metaworld_costs.told({"cells": []}) == ""


def test_the_default_command_ends_within_an_hour(committed):
    """At the committed rate of the longest training, its evaluation at the same rate."""
    _, rate = metaworld_costs.rates(committed)
    found = Run(make_family(mt10.FAMILY), config_for(make_family(mt10.FAMILY)))
    assert 0 < expected_steps(found) / rate < 0.9 * 3600


def test_few_methods_are_compared_where_steps_are_many():
    cells = [cell for cell in mt10.cells("standard") if cell["part"] == "groups"]
    for cell in cells:
        found = mt10.plan(make_family(mt10.FAMILY), mt10._run_config(cell), timed=False)
        stages = {stage.stage for stage in found.stages}
        assert stages == {"meta", "transitions", "policies", "comparisons"}
        assert cell["steps_per_task"] == 500_000


def test_the_page_tells_its_source_and_its_goals(committed):
    page = figures.metaworld_page(committed)
    (line,) = (line for line in page.splitlines() if line.startswith("<sub>"))
    assert "](../benchmarks/results/mt10.json)" in line and "commit" in line and "cores" in line
    assert "experts (goals of training, noisy)" in page and "Success on the goals of training." in page
    labels = [row.label for row in metaworld_drawings.one_policy(metaworld_drawings.by_part(committed))]
    assert sum(label.startswith("demonstration-initialised") for label in labels) == 2


def test_a_cell_may_tell_the_seconds_of_all_sittings(tmp_path):
    found = common.ResultFile(tmp_path / "r.json", name="r", command="")
    found.run([{"a": 1}, {"a": 2}], lambda cell: {"timings": {"seconds": 9e9}} if cell["a"] == 1 else {})
    first, second = (cell["timings"] for cell in found.cells)
    assert first["seconds"] == 9e9 and second["seconds"] < 9e9 and "cpu_seconds" in first


def test_moments_of_an_episode():
    assert metaworld_episodes.moments([False] * 12) == [0, 2, 4, 6, 8, 10, 12]
    solved = [t >= 9 for t in range(500)]
    assert metaworld_episodes.moments(solved) == [0, 2, 4, 6, 8, 10, 500]
    assert metaworld_episodes.moments([True, False]) == [0, 1, 2]


def test_a_policy_judged_in_both_engines():
    rng = np.random.default_rng(0)
    played = rng.random((2, 10, 50)) < rng.random((10, 1))
    inside, outside = (mt10._rates(own, own) for own in played)
    cell = {"cell": {"part": "engines", "judged": 50, "steps": 1000, "seed": 0}, "in_pools": inside}
    text = metaworld_tables.engines([cell | outside])
    errors = [np.sqrt((own.var(1, ddof=1) / 50).sum()) / 10 for own in played]
    found = metaworld_tables.rate(inside["any_step"], 50)
    assert (found.mean, found.hi - found.mean) == pytest.approx((played[0].mean(), 1.96 * errors[0]))
    apart = metaworld_tables.apart(found, metaworld_tables.rate(outside["any_step"], 50))
    assert apart.hi - apart.mean == pytest.approx(1.96 * np.hypot(*errors))
    assert text.count("EnvPool's pools") == 1 and f"{apart.mean:+.3f} [" in text
    assert metaworld_tables.apart(Interval(0.5), found) == Interval(0.5 - found.mean)


def test_gains_by_k_are_those_that_were_measured():
    def cell(k, mean, realised=None):
        ours = {"mean": mean, "ci95": [mean - 0.03, mean + 0.03], "metric": "success", "groups": [["a"]]}
        gain = {"predicted": None, "realised": realised}
        evidence = {
            "gain": {"mean": 0.01, "ci95": [0.0, 0.02]}, "z": 2.0, "needed": 1.6, "null": 0.005,
            "opposition": {"mean": 0.0, "ci95": [-1.0, 1.0]}, "kind": "apart",
        }  # fmt: skip
        results = {
            "family": "f", "n_tasks": 1, "task_names": ["a"], "seed": 0, "k": k or 3, "groups": [["a"]],
            "methods": {"policygradex": ours}, "gain": gain, "evidence": evidence, "schema_version": 2,
        }  # fmt: skip
        where = {"part": "groups", "network": "mlp", "steps_per_task": 1000, "seed": 0, "k": k, "config": {}}
        asked = [{"k": number, "evidence": evidence if number > 1 else None} for number in (1, 2, 3, 4, 3)]
        return {"cell": where, "results": results, "by_k": asked}

    paired = {"mean": 0.2, "ci95": [0.1, 0.3]}
    text = metaworld_tables.by_k([cell(1, 0.5), cell(2, 0.54), cell(None, 0.6, paired)])
    lines = [[part.strip() for part in line.split("|")[2:-1]] for line in text.splitlines()[2:7]]
    assert [line[0] for line in lines] == ["1", "2", "3", "4", "3 (chosen)"]
    assert lines[1][1:] == ["+0.010 [0.000, 0.020]", "0.0050", "2.0", "+0.040 [-0.002, 0.082]"]
    assert (
        lines[0][1:] == ["0", "0", "", "–"] and lines[2][-1] == "–" and lines[4][-1] == "+0.20 [0.10, 0.30]"
    )
