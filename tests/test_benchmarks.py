"""The benchmark scripts: their small presets, resuming, and the README that is made from results."""

import contextlib
import json
import os
import subprocess
import sys
import typing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from pgx_jax.analysis.generalisation import (
    LAMBDAS,
    NOISES,
    GeneralisationResult,
    SubsetGeneralisation,
    pac_bayes,
)
from pgx_jax.cli import main as cli
from pgx_jax.config import Config, check, override
from pgx_jax.errors import ConfigError, PgxError
from pgx_jax.estimate import PROJECTIONS
from pgx_jax.learn import PPO, make_policy, take, train
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import Rows

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import ablation_tables  # noqa: E402
import ablations  # noqa: E402
import against  # noqa: E402
import approximation  # noqa: E402
import approximation_tables  # noqa: E402
import calibration  # noqa: E402
import calibration_tables  # noqa: E402
import common  # noqa: E402
import cost_tables  # noqa: E402
import curves  # noqa: E402
import default_command  # noqa: E402
import drawings  # noqa: E402
import estimation  # noqa: E402
import features  # noqa: E402
import generalisation  # noqa: E402
import generalisation_tables  # noqa: E402
import learning_tables  # noqa: E402
import paper_tables  # noqa: E402
import peers  # noqa: E402
import ppo  # noqa: E402
import ppo_options  # noqa: E402
import precision  # noqa: E402
import projections  # noqa: E402
import regressions  # noqa: E402
import rows  # noqa: E402
import search  # noqa: E402
import stability  # noqa: E402
import startup  # noqa: E402
import study  # noqa: E402
import surrogates  # noqa: E402
import truth  # noqa: E402
import truth_tables  # noqa: E402


@pytest.fixture(scope="module")
def small_study(tmp_path_factory):
    """A folder with the first cell of the small `goals`."""
    out = tmp_path_factory.mktemp("study")
    assert study.main(["goals", "--preset", "small", "--limit", "1", "--out", str(out)]) == 0
    return out


def test_study_saves_raw_values_of_a_cell(small_study):
    data = common.read(small_study / "study_goals.json")
    (cell,) = data["cells"]
    assert data["environments"][cell["environment"]]["versions"]["jax"] == jax.__version__
    assert cell["cell"] == common.plain(study.study_cells("goals", "small")[0])
    assert set(cell["agreement"]) == {"nmi", "ari", "exact"}
    assert {"policygradex", "multitask", "random", "gradient_similarity_dot", "true_groups"} <= set(
        cell["methods"]
    )
    for method in cell["methods"].values():
        assert len(method["per_task"]) == 4 and len(method["ci95"]) == 2 and method["env_steps"] > 0
        assert method["mean"] == pytest.approx(np.mean(method["per_task"]))
    assert cell["gain"]["predicted"]["ci95"] and cell["gain"]["realised"]["ci95"]
    assert len(cell["diagnostics"]["relative_distance"]) == cell["k"] == len(cell["groups"])
    assert cell["timings"]["run"]["total"] > 0


def test_study_resumes_behind_the_last_saved_cell(small_study, run_results, monkeypatch, tmp_path):
    out = tmp_path / "study_goals.json"
    out.write_text((small_study / "study_goals.json").read_text())
    first = common.read(out)["cells"][0]
    ran = []

    def interrupted(cell):
        ran.append(cell["seed"])
        if len(ran) == 2:
            raise KeyboardInterrupt
        return run_results

    monkeypatch.setattr(study, "run_here", interrupted)
    args = ["goals", "--preset", "small", "--only", "'seed': 0", "--out", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        study.main(args)
    assert ran == [1, 2]  # seed 0 was done
    assert [c["cell"]["seed"] for c in common.read(out)["cells"]] == [0, 1]
    study.main(args)
    assert ran == [1, 2, 2, 3, 4]
    assert common.read(out)["cells"][0] == first
    study.main(args)
    assert len(ran) == 5


def test_cells_tell_their_time_on_the_processor(tmp_path):
    results = common.ResultFile(tmp_path / "x.json", name="x", command="")
    assert results.run([{"i": 0}], lambda _: {"v": sum(range(10**6)), "timings": {"own": 1.0}}) == 1
    (cell,) = common.read(results.path)["cells"]
    assert set(cell["timings"]) == {"own", "seconds", "cpu_seconds"} and cell["timings"]["cpu_seconds"] > 0


def test_results_of_other_settings_are_not_mixed(tmp_path):
    path = tmp_path / "x.json"
    common.ResultFile(path, name="x", command="", settings={"a": 1}).add({"i": 0}, {"v": 1.0})
    with pytest.raises(ConfigError, match=r"other settings \(a\);.*--out"):
        common.ResultFile(path, name="x", command="", settings={"a": 2})


def test_settings_that_change_nothing_let_results_go_on():
    before = {"defaults": {"k": None, "estimate": {"affinity": "per_task", "dim": 400}}}
    now = {"defaults": {"k": None, "estimate": {"affinity": None, "dim": 400, "projection": "gaussian"}}}
    assert common.changed(before, now) == []
    assert common.changed(now, before) == ["defaults.estimate.projection"]  # nobody knows what there was
    now["defaults"]["estimate"] |= {"dim": 100, "ridge": 1}
    assert common.changed(before, now) == ["defaults.estimate.dim", "defaults.estimate.ridge"]


@pytest.mark.parametrize("name", ["main_table", "method_search", "meta_rl", "meta_search", "ablations"])
def test_long_studies_go_on_with_the_settings_of_today(name):
    now = common.plain({"defaults": Config()})
    found = common.changed(common.committed(name)["settings"], now)
    assert not [setting for setting in found if setting.startswith("defaults.")]


@pytest.fixture(scope="module")
def family_of():
    """The family of a study's cell, made once for all seeds."""
    made = {}

    def of(cell):
        others = {name: value for name, value in cell["settings"].items() if name != "seed"}
        key = json.dumps([cell["family"], others], sort_keys=True)
        if key not in made:
            made[key] = make_family(cell["family"], **common.tuples(cell["settings"]))
        return made[key]

    return of


@pytest.mark.parametrize("preset", ["full", "small"])
@pytest.mark.parametrize("name", study.STUDIES)
def test_the_cells_of_every_study_can_run(name, preset, family_of):
    cells = study.study_cells(name, preset)
    assert len({json.dumps(c, sort_keys=True) for c in cells}) == len(cells) > 0
    for c in cells:
        check(override(Config(seed=c["seed"]), c["config"]), family_of(c))


def test_the_studies_cover_what_they_promise():
    goals = study.study_cells("goals", "full")
    assert {(c["settings"]["seed"], c["seed"]) for c in goals} == {(f, s) for f in range(3) for s in range(5)}
    sizes = study.study_cells("sizes", "full")
    found = {(c["family"], c["settings"]["n_tasks"], c["settings"]["n_groups"]) for c in sizes}
    assert {n for _, n, _ in found} == {5, 8, 10, 13, 16} and {k for *_, k in found} == {2, 3, 4, 5}
    default = Config().estimate
    for setting in ("score", "lift", "solver", "affinity"):
        options = choices(typing.get_type_hints(type(default))[setting])
        tried = {c["config"].get("estimate", {}).get(setting) for c in study.study_cells("options", "full")}
        toys = {"toy"}  # of other tests in the same process
        usual = default.affinity_of(10) if setting == "affinity" else getattr(default, setting)
        assert len(options) > 1 and set(options) - {usual} - toys <= tried


def choices(hint):
    """The names of a Literal, which may be optional."""
    parts = typing.get_args(hint)
    return choices(parts[0]) if type(None) in parts else parts


@pytest.mark.parametrize("preset", ["full", "small"])
def test_command_lines_mean_the_same_as_the_cells(preset):
    for c in [*study.study_cells("options", preset), study.study_cells("scales", preset)[0]]:
        command = cli.read(list(study.command_line(c)))
        assert command.config == override(Config(seed=c["seed"]), c["config"])
        assert common.plain(command.family_settings()) == common.plain(c["settings"])


def test_an_option_runs_from_the_command_line(tmp_path):
    args = ["options", "--preset", "small", "--only", "score=importance", "--limit", "1"]
    assert study.main([*args, "--out", str(tmp_path)]) == 0
    (cell,) = common.read(tmp_path / "study_options.json")["cells"]
    assert cell["command"].startswith("pgx-jax run cartpole-goals") and "importance" in cell["command"]
    assert list(cell["methods"]) == ["policygradex"] and 0 <= cell["agreement"]["nmi"] <= 1


def test_the_cost_of_starting(tmp_path, monkeypatch):
    out, started = tmp_path / "startup.json", []
    monkeypatch.setattr(startup, "timed", lambda args: started.append(args) or ({"cpu": 1.5}, None))
    assert startup.main(["--preset", "small", "--out", str(out)]) == 0
    assert started == [args for args in startup.COMMANDS.values() for _ in range(2)]  # one warms the files
    shown = cost_tables.startup(common.read(out))
    assert all(f"`{name}`" in shown for name in startup.COMMANDS)


def test_unknown_studies_are_refused(capsys):
    assert study.main(["gaols"]) == 2
    assert "the studies are: goals" in capsys.readouterr().err


def test_ppo_small_preset(tmp_path):
    out = tmp_path / "ppo.json"
    ppo.main(["--preset", "small", "--only", "Pendulum-v1", "--out", str(out)])
    (cell,) = common.read(out)["cells"]
    assert cell["env_steps"] == [128, 128] and cell["solved_at"] == -200 and cell["horizon"] == 200
    for kind in ("sampled", "mode"):
        assert len(cell["scores"][kind]) == 2 and -200 * 17 < min(cell["scores"][kind]) < 0
    assert cell["solved"] == [score >= -200 for score in cell["scores"]["sampled"]]
    assert cell["settings"]["ppo"]["num_envs"] == 4


def test_ppo_options_small_preset(tmp_path):
    out, tried = tmp_path / "ppo_options.json", ("default", "target KL")
    args = ["--preset", "small", "--families", "points-hard", "--options", *tried, "--out", str(out)]
    assert ppo_options.main(args) == 0
    data = common.read(out)
    assert [(c["cell"]["option"], c["cell"]["settings"]["seed"]) for c in data["cells"]] == [
        (option, seed) for option in tried for seed in (100, 101)
    ]
    for cell in data["cells"]:
        assert np.shape(cell["returns"]) == (2, 4) and cell["env_steps"] == [512, 512]
        assert cell["ppo"]["target_kl"] == (0.02 if cell["cell"]["option"] == "target KL" else None)
    shown = learning_tables.ppo_options(data)
    assert all(f"| {option} | {ppo_options.OPTIONS[option].does} |" in shown for option in tried)
    assert "4 pairs of equal seeds" in shown and "| – |" in shown  # what was not tried


def test_every_option_of_ppo_can_be_tried():
    for cell in ppo_options.cells(ppo_options.Settings(family_seeds=(100,))):
        family = make_family("points") if cell["settings"] else ppo_options.family_of(cell)
        config = override(Config(), cell["config"])
        config.ppo.check(family.n)
        assert config.policy.make(family, conditioned_actor=True).conditioned_actor
    with pytest.raises(ConfigError, match="there is no .'magic'.; there are: default, "):
        ppo_options.cells(ppo_options.Settings(options=("magic",)))


def test_learning_curves_small_preset(tmp_path):
    out = tmp_path / "curves.json"
    assert curves.main(["--preset", "small", "--only", "Pendulum-v1", "--out", str(out)]) == 0
    data = common.read(out)
    (cell,) = data["cells"]
    assert np.shape(cell["returns"]) == (2, 2) and cell["settings"]["ppo"]["num_envs"] == 4
    assert "| Pendulum-v1 |" not in learning_tables.curves(data)  # there is nothing to compare with
    data["cells"].append(cell | {"cell": cell["cell"] | {"library": "rejax"}, "versions": {"rejax": "0"}})
    assert "| Pendulum-v1 | 256 | 2 |" in learning_tables.curves(data)
    assert drawings.of_source("curves", data) == ["peer_curves"] and drawings.peer_curves(data)


def test_agents_on_the_way_are_those_of_one_training():
    cell = curves.cells(curves.Settings(preset="small", only=("Pendulum-v1",)))[0]
    family, learner = curves.family_of(cell), override(PPO(), cell["ppo"])
    policy = make_policy(family, **common.tuples(cell["policy"]))
    key = np.asarray(jax.random.PRNGKey(4))
    agents = curves.on_the_way(policy, learner, family, key, 12, 2)
    for updates, agent in ((12, agents[0]), (24, agents[1])):
        steps = np.array([updates * learner.steps_per_update])
        rows = Rows(np.array([[True, False]]), steps, key[None])
        whole = take(train(policy, learner, family, rows).agents, 0)
        jax.tree.map(np.testing.assert_array_equal, agent, whole)


def test_the_peers_settings_are_whole_updates_of_both():
    for cell in curves.cells(curves.Settings()):
        known = cell["settings"] if cell["library"] == curves.PEER else cell["ppo"]
        assert cell["steps"] % (cell["points"] * known["num_envs"] * known["num_steps"]) == 0


def test_rows_small_preset(tmp_path):
    out = tmp_path / "rows.json"
    args = ["--preset", "small", "--rows-per-call", "1", "--lanes", "2", "--out", str(out)]
    rows.main(args)
    before = out.read_text()
    cell, apart = common.read(out)["cells"]
    seconds = cell["timings"]["train"]
    assert cell["timings"]["steps_per_second"] == pytest.approx(cell["steps"] / seconds[0])
    assert cell["steps"] == apart["steps"] == 4 * 1 * 8 * 32
    rows.main(args)
    assert out.read_text() == before
    ratio = apart["timings"]["train"][0] / apart["timings"]["apart"][0]
    title = "cpu, 2 lanes: time of 4 rows in one call over that of as many warm calls"
    assert f"| {title} | {ratio:.2f} |" in cost_tables.rows(common.read(out))


def test_estimation_small_preset(tmp_path):
    out = tmp_path / "estimation.json"
    assert estimation.main(["--preset", "small", "--out", str(out)]) == 0
    data = common.read(out)
    (cell,) = data["cells"]
    found = estimation.found_of(cell)
    assert [way.name for way in found.estimates] == ["gaussian, 40", "gaussian, 20", "hadamard, 40"]
    first, half, _ = found.estimates
    assert found.subsets == 4 and found.estimate(1).operations < found.estimate(0).operations
    assert found.estimate(0).operations == first.features + first.statistics + first.solve + first.scores
    assert half.statistics < first.statistics
    assert found.train_all().operations == pytest.approx(
        4 * found.training.updates * found.training.operations_per_update
    )
    assert "Speed-ups of estimating all 4 subsets of 3" in cost_tables.estimation(data)
    for way in cell["timings"]["training"].values():  # too short to be timed
        way["long"] = way["short"]
    assert "nan" not in cost_tables.estimation(data)


def test_ablations_small_preset(tmp_path):
    out = tmp_path / "ablations.json"
    for _ in range(2):  # the second time there is nothing to do
        assert ablations.main(["--preset", "small", "--out", str(out)]) == 0
    data = common.read(out)
    found = {cell["cell"]["axis"]: cell for cell in data["cells"]}
    assert len(found) == len(data["cells"]) == 4
    for axis, cell in found.items():
        for value in cell["values"].values():
            assert len(value["labels"]) == len(cell["truth"]) == 4
            assert np.isfinite(value["return"]) if axis == "looks" else 0 <= value["auc"] <= 1
        assert ablation_tables.draw(data, axis).startswith(b"\x89PNG")
        assert "paired over 1 run with conflict" in ablation_tables.ablation(data, axis)
    assert all("theta" in value for value in found["length"]["values"].values())
    assert set(found["cross_fitting"]["values"]) == set(ablations.AXES["cross_fitting"].values)


def test_every_value_of_an_ablation_can_run():
    made = ablations.Study("full")
    for name, axis in ablations.AXES.items():
        assert axis.default in axis.values and name in ablation_tables.WORDS
        for changes in axis.values.values():
            family, config = made.made("cartpole-goals, 5 groups", 7, changes)
            check(config, family)


def ablated(labels, family="points-hard", truth=(0, 0, 1, 1)):
    values = {name: {"labels": of, "gain": 0.1, "at_k": of, "auc": 0.5} for name, of in labels.items()}
    if truth is None:
        values = {name: {"labels": v["labels"], "gain": 0.0} for name, v in values.items()}
    truth = None if truth is None else list(truth)
    return {"cell": {"axis": "ridge", "family": family, "family_seed": 7}, "truth": truth, "values": values}


def test_what_a_user_should_set_follows_from_the_runs():
    right, whole, wrong = [0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]
    cells = [ablated({"1": whole, "10": right, "100": wrong, "0.1": whole}) for _ in range(5)]
    assert "**Too few runs yet" in ablation_tables.ablation({"cells": cells[:4]}, "ridge")
    physics = {"family": "cartpole-physics", "truth": None}
    text = ablation_tables.ablation({"cells": cells}, "ridge")
    assert "better than the default is" not in text and "`estimate.l2` or `estimate.ridge`, “10”.**" in text
    assert "better “10” by +1" in text and "worse “100” by -0.5" in text
    assert "| **1** | 0.00, 0.00 (0.00); k 1 |" in text and "| 10 | 1.00, 1.00 (1.00); k 2 |" in text
    calm = [ablated({"1": whole, "10": right, "100": whole, "0.1": whole}, **physics) for _ in range(3)]
    text = ablation_tables.ablation({"cells": cells + calm}, "ridge")
    assert "**Leave `estimate.l2` at 1: what is better with conflict splits tasks without it" in text
    assert "in 0 of 3 runs by the default, by “10” in 3." in text


def test_a_value_that_is_better_on_one_family_alone_is_told():
    right, whole, wrong = [0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]
    other = {"family": "points-objectives, own weight .5 to .7"}
    cells = [ablated({"1": whole, "10": right}) for _ in range(5)]
    text = ablation_tables.ablation({"cells": cells}, "ridge")
    assert "On a single family" not in text  # there is no other
    cells += [ablated({"1": right, "10": wrong}, **other) for _ in range(5)]
    text = ablation_tables.ablation({"cells": cells}, "ridge")
    assert "**Leave `estimate.l2` at 1.**" in text and "chosen groups better none" in text
    told = text.partition("On a single family, ")[2]
    assert told.startswith(f"{ablation_tables.COMPARED['ari']}, better on points-hard “10” by +1")


def test_numbers_of_groups_stand_beside_the_papers():
    def cell(axis, values):
        return {"cell": {"axis": axis, "family": "points-hard", "family_seed": 7}, "truth": [0, 0, 1]} | {
            "values": values
        }

    earned = {"chosen": 9.0, "1": 2.0, "2": 8.0, "5": 9.5}
    k = [cell("k", {name: {"labels": [0, 0, 1], "return": x} for name, x in earned.items()})]
    text = paper_tables.numbers_of_groups({"cells": k})
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        ["1", "71.0", "2.00"], ["2", "89.5", "8.00"], ["3", "94.0", "–"], ["4", "95.1", "–"],
        ["5", "–", "9.50"], ["chosen by the method", "–", "9.00"],
    ]  # fmt: skip
    dims = {name: {"labels": [0, 0, 1], "at_k": [0, 0, 1], "auc": 1.0} for name in ("50", "400")}
    text = paper_tables.numbers_of_groups({"cells": [*k, cell("dim", dims)]})
    assert "We tried 50 to 400. Against the default (“400”)" in text


def test_estimates_are_compared_with_what_read_as_much():
    names = {"dot": "surrogate", "dot_8192": "surrogate_8192", "rollouts_8": "surrogate"}
    names["kernel_10"] = names["training"] = "surrogate"
    assert {name: truth_tables.same_data(name) for name in names} == names


def test_a_value_that_was_refused_finds_no_groups():
    cell = ablated({"1": [0, 0, 1, 1]})
    cell["values"]["10"] = {"refused": "no reward but 0"}
    text = ablation_tables.ablation({"cells": [cell, cell]}, "ridge")
    assert "| 10 | 0.00, 0.00 (0.00); k 1; refused 2 |" in text


def test_surrogates_small_preset(tmp_path):
    out = tmp_path / "surrogates.json"
    assert surrogates.main(["--preset", "small", "--out", str(out)]) == 0
    (cell,) = common.read(out)["cells"]
    assert cell["subsets"] == 6 and cell["gap"] <= 1e-4 and len(cell["timings"]["sklearn_each"][0]) == 6
    tried = {(t["solver"], t["dtype"]): t for t in cell["sklearn_trials"]}
    assert list(tried) == list(regressions.SOLVERS)
    chosen = tried[cell["sklearn"]["solver"], cell["sklearn"]["dtype"]]
    assert chosen["reached"] and chosen["gap"] <= 1e-4
    assert chosen["timings"]["sum"] == min(t["timings"]["sum"] for t in tried.values() if t["reached"])


def test_rounded_numbers_are_those_of_the_formats():
    x = jax.random.normal(jax.random.PRNGKey(0), (1000,)) * 10.0 ** np.arange(-20, 20).repeat(25)
    np.testing.assert_array_equal(precision.rounded(x, 8), x.astype(jnp.bfloat16).astype(jnp.float32))
    bits = np.asarray(x).view(np.uint32)
    nearest = (bits + 0xFFF + ((bits >> 13) & 1)) & ~np.uint32(0x1FFF)  # 13 of 23 bits are lost
    np.testing.assert_array_equal(precision.rounded(x, 11), nearest.view(np.float32))


def test_search_small_preset(tmp_path):
    out = tmp_path / "search.json"
    assert search.main(["--preset", "small", "--out", str(out)]) == 0
    (cell,) = common.read(out)["cells"]
    assert set(cell["returns"]) == {"one a task", "planted groups", "one for all", "one for all, told"}
    assert cell["updates"]["one a task"] == [1] * 4 and cell["updates"]["one for all"] == [4]
    assert all(np.isfinite(mean) for kind in cell["returns"].values() for mean in kind.values())
    every = search.cells(search.Settings())
    assert {cell["num_envs"] for cell in every} == {1, 2, 5, 10, 20, 40}
    assert len(every) == 2 * len(search.SEEDS) * 4 * 6


def test_precision_small_preset(tmp_path):
    out = tmp_path / "precision.json"
    assert precision.main(["--preset", "small", "--out", str(out)]) == 0
    (cell,) = common.read(out)["cells"]
    found = cell["precisions"]
    for what in ("features", "inner_products", "affinity"):
        assert 0 < found["float32"][what] < found["bf16x3"][what] < found["tf32"][what] < 1e-2
    assert found["bf16x3"]["features"] < 2**-15 < found["tf32"]["features"] < 2**-10
    assert "| cpu, `bf16x3` |" in cost_tables.precision(common.read(out))


def test_projections_small_preset(tmp_path):
    out = tmp_path / "projections.json"
    assert projections.main(["--preset", "small", "--out", str(out)]) == 0
    groups, speed = common.read(out)["cells"]
    assert set(speed["timings"]["rounds"]) == set(groups["projections"]) == set(PROJECTIONS)
    for draws in groups["projections"].values():
        assert len({draw["error"] for draw in draws}) == projections.DRAWS
        assert all(0.05 < draw["error"] < 1.5 for draw in draws)  # some sqrt(1 / 40)
    text = cost_tables.projections(common.read(out))
    assert "| `factored` |" in text and "cartpole-goals, 1 run: k (planted 2)" in text


def test_approximation_small_preset(tmp_path):
    out = tmp_path / "approximation.json"
    for _ in range(2):  # the second time there is nothing to do
        assert approximation.main(["--preset", "small", "--out", str(out)]) == 0
    (cell,) = common.read(out)["cells"]
    kinds = [x["kind"] for x in cell["found"]["directions"]]
    assert kinds == ["finetuning"] * 4 + ["surrogate"] * 4 + ["random"] * 2
    shown = approximation_tables.first_order(common.read(out))
    assert "| cartpole-goals, 2 |" in shown and "| – | 0.02% | 0.11% | 2.0% | – | – |" in shown
    assert approximation_tables.draw(common.read(out)).startswith(b"\x89PNG")


def test_generalisation_small_preset(tmp_path):
    out = tmp_path / "generalisation.json"
    assert generalisation.main(["--preset", "small", "--out", str(out)]) == 0
    (cell,) = common.read(out)["cells"]
    assert cell["parts"] == {"all": 1, "ours": 2, "random": 2}
    sizes = [len(subset["tasks"]) for subset in cell["found"]["subsets"]]
    assert sizes[0] == 4 and sorted(sizes[1:3]) == sorted(sizes[3:])
    measured = generalisation_tables.by_network(common.read(out))[("cartpole-goals", 2, "ours")]
    fitted = [subset["fitted"] for subset in cell["found"]["subsets"][1:3]]
    assert measured.over_tasks("fitted") == pytest.approx(np.average(fitted, weights=sizes[1:3]))
    shown = generalisation_tables.generalisation(common.read(out))
    assert shown.count("| cartpole-goals, 2 |") == 3 and "Read them with care" in shown
    record = measured.found[0]
    for policy in measured.policies[0]:  # at its own noise only the harm that this does is missing
        least = generalisation_tables.at_noise(policy, record, policy.noise)
        assert least == pytest.approx(policy.bound - policy.expected[0] + policy.fitted)
        assert generalisation_tables.at_noise(policy, record, policy.noise / 2) > least
    assert generalisation_tables.draw(common.read(out)).startswith(b"\x89PNG")
    assert "older code" not in shown


def test_bounds_of_older_code_are_paid_for_the_choice_of_their_subset():
    """As the code of today would have it, where one deviation of the noise is all that there is."""
    expected, kl, n = 0.01, 0.3, 40.0
    price = {"n": n, "width": 1.2, "delta": 0.05}
    sigmas = np.full(len(NOISES), 0.5)
    given = np.full(len(NOISES), expected), kl / 2, sigmas, np.array(LAMBDAS)
    old, now = (pac_bayes(*given, **price, choices=count).value for count in (1, 7))
    subset = SubsetGeneralisation(
        tasks=["a"], trajectories=n, distance=0.1, fitted=0.0, fresh=0.0, gap_stderr=0.1, kl=kl,
        trace={"hutch++": (0.0, 0.0)}, eigenvalues=(0.0, 1.0), bound=old, bound_by_trace=old - 0.1,
        expected=(expected, 0.0), noise=0.1, vacuous=False,
    )  # fmt: skip
    whole = msgspec.structs.replace(subset, tasks=["a", "b", "c"])
    record = GeneralisationResult(
        family="x", parameters=9, clip=0.2, cut=3.0, delta=0.05, subsets=[whole, subset]
    )
    paid = generalisation_tables.paid_for_choice(record)
    assert paid.subsets[0] == whole and paid.subsets[1].bound == pytest.approx(now) and now > old
    assert paid.subsets[1].bound_by_trace == pytest.approx(now - 0.1)
    assert generalisation_tables.paid_for_choice(paid) == paid


def test_truth_small_preset(tmp_path):
    out = tmp_path / "truth.json"
    for _ in range(2):  # the second time there is nothing to do
        assert truth.main(["--preset", "small", "--out", str(out)]) == 0
    data = common.read(out)
    (cell,) = data["cells"]
    assert len(cell["found"]["subsets"]) == 9 and cell["planted"]
    shown = truth_tables.truth(data)
    assert "| points | **surrogates (f-hat)** |" in shown and "| kernel surrogate, 4 trainings |" in shown
    assert "| points | of a default look |" in shown and "random groups" in shown
    for name in drawings.of_source("truth", data):
        assert drawings.DRAWERS[name](data).startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="no settings for"):
        truth.check_known(["ponts"], truth.FAMILIES)
    met, missed = truth_tables._met(0.9, 0.85), truth_tables._met(0.8, 0.85)
    assert met == "0.90" and "not reached" in missed


def test_features_small_preset(tmp_path, monkeypatch):
    def pool(workers, mp_context):  # a process of its own would compile the same once more
        assert mp_context.get_start_method() == "spawn"
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(features, "ProcessPoolExecutor", pool)
    out = tmp_path / "features.json"
    assert features.main(["--preset", "small", "--out", str(out)]) == 0
    (cell,) = common.read(out)["cells"]
    assert cell["useful_operations"] == 2.0 * cell["cell"]["transitions"] * cell["p"] * cell["cell"]["dim"]
    times = cell["timings"]
    assert times["rate"] == pytest.approx(cell["useful_operations"] / np.median(times["features"]))
    assert times["share"] == pytest.approx(times["rate"] / times["sgemm_rate"])
    assert times["peak_memory"] > 2**20 and np.isfinite(times["compile"])


def test_hidden_layers_have_the_wanted_number_of_parameters(monkeypatch):
    family = make_family(features.FAMILY)  # whose tasks are not to be traced
    monkeypatch.setattr(features, "make_family", lambda name: family)
    for layers, parameters in ((2, 30_000), (8, 20_000), (1, 5_000)):
        cell = {"parameters": parameters, "layers": layers, "transitions": 2, "seed": 0}
        params = jax.eval_shape(lambda cell=cell: features.setup(cell)[1])
        kernels = [x for x in jax.tree.leaves(params) if x.ndim == 2]
        assert len(kernels) == layers + 1
        assert sum(x.size for x in jax.tree.leaves(params)) == pytest.approx(parameters, rel=0.03)


@pytest.fixture
def programs_kept(monkeypatch):
    """The processes of peers share what the tests have compiled."""
    monkeypatch.setattr(peers, "uncached", lambda **env: os.environ | env)


def test_ours_answers_as_peers_do_and_what_is_missing_is_said(tmp_path, monkeypatch, programs_kept):
    known = peers.workers

    @contextlib.contextmanager
    def without_one(*args):
        with known(*args) as (running, missing):
            yield running, missing | {"other": "no such package"}

    monkeypatch.setattr(peers, "workers", without_one)
    out = tmp_path / "peers.json"
    assert peers.main(["--preset", "small", "--only", "minibatches of 64", "--out", str(out)]) == 0
    data = common.read(out)
    (cell,) = data["cells"]
    assert cell["versions"]["pgx_jax"]["jax"] == jax.__version__ and len(cell["timings"]["pgx_jax"]) == 1
    left_out = "other is left out of PPO on LunarLander-v3, minibatches of 64: no such package."
    assert left_out in cost_tables.peers(data)
    cell["versions"]["other"], cell["timings"] = {"jax": "1"}, {"pgx_jax": [3.0, 8.0], "other": [2.0, 2.0]}
    assert peers.ratios(cell)["other"].tolist() == [1.5, 4.0]
    assert "2.75× [1.50, 4.00]" in cost_tables.peers(data)


@pytest.mark.parametrize(
    "subject", ["Gradient features", pytest.param("CartPole-v1, 1 seed", marks=pytest.mark.slow)]
)
def test_ours_answers_in_other_subjects(tmp_path, subject, programs_kept):
    out = tmp_path / "peers.json"
    assert peers.main(["--preset", "small", "--only", subject, "--out", str(out)]) == 0
    (cell,) = common.read(out)["cells"]
    assert subject in cell["cell"]["subject"] and cell["timings"]["pgx_jax"][0] > 0


def test_all_solve_the_same_surrogates_to_the_same_gap(tmp_path, programs_kept):
    part, _, wanted = peers.SUBJECTS["60 surrogates, ridge u"]
    wanted = wanted | peers.SMALL[part]
    for name in ("ours", "sklearn", "optax"):  # ours hands the data on
        worker = peers.Worker(sys.executable, f"{name}_{part}.py", str(common.ROOT), wanted, tmp_path)
        assert worker.told["count"] == wanted["subsets"]
        assert 0 <= worker.round()["came_to"] <= wanted["gap"]
        worker.close()


def test_peers_are_known_with_their_versions():
    for part in {subject.part for subject in peers.SUBJECTS.values()}:
        for name, peer in peers.peers(part).items():
            assert (peers.HERE / peer["script"]).is_file() and peer["requirements"], name
    with pytest.raises(PgxError, match="failed: .*gone"):
        peers.command(["git", "clone", "gone", "nowhere"])


@pytest.fixture
def in_this_process(monkeypatch):
    """Scripts that start processes run the command line in this one."""
    started = subprocess.run

    def run(command, **kw):
        if command[0] != sys.executable:
            return started(command, **kw)
        assert command[1:3] == ["-m", "pgx_jax"] and "JAX_COMPILATION_CACHE_DIR" not in kw["env"]
        return subprocess.CompletedProcess(command, cli.main(command[3:]), "", "")

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    monkeypatch.setattr(subprocess, "run", run)


def test_default_command_small_preset(tmp_path, in_this_process):
    out = tmp_path / "default.json"
    assert default_command.main(["--preset", "small", "--repeats", "1", "--out", str(out)]) == 0
    cell, kept = common.read(out)["cells"]
    assert cell["results"] == kept["results"] and kept["cell"]["programs"] == "kept"
    assert cell["timings"]["wall"] > 0 and cell["timings"]["cpu"] > 0 and len(cell["results"]) == 64
    assert cell["methods"]["policygradex"]["env_steps"] > 0


def test_a_checkout_against_itself(tmp_path, in_this_process):
    out = tmp_path / "against.json"
    assert against.main([str(common.ROOT), "--preset", "small", "--out", str(out)]) == 0
    (cell,) = common.read(out)["cells"]
    assert cell["differences"]["values"] > 100 and not cell["differences"]["differ"]
    shown = cost_tables.against(common.read(out))
    assert "a short run: CPU time" in shown and "A short run: 0 of" in shown
    assert against.main([str(tmp_path), "--preset", "small"]) == 2  # no checkout


def test_differences_of_results():
    old = {"a": [1.0, 2.0, {"b": "x"}, 3], "gone": 1}
    found = against.differences(old, {"a": [1.0, 2.5, {"b": "y"}, None, 4], "added": {"c": 1}})
    assert found == {"differ": 3, "values": 4, "gone": ["gone"], "added": ["added.c"]}


def test_processes_are_timed_and_what_they_compile_is_counted():
    timings, process = common.timed(
        ["-c", "import jax; jax.jit(lambda x: x + 1)(1.0)"], JAX_LOG_COMPILES="1", JAX_PLATFORMS="cpu"
    )
    assert process.stderr.count(against.COMPILED) == 1
    assert 0 < timings["cpu"] and 0 < timings["wall"]
    with pytest.raises(PgxError, match="raise KeyError"):
        common.timed(["-c", "raise KeyError"])


def test_fingerprints_tell_results_apart():
    assert default_command.fingerprint({"a": 1, "b": 2}) == default_command.fingerprint({"b": 2, "a": 1})
    assert default_command.fingerprint({"a": 1}) != default_command.fingerprint({"a": 1.5})


def test_intervals_that_cover_less_than_they_promise_are_named():
    size = {"dim": 60, "trajectories": 48, "length": 80}

    def shown(covers, afresh):
        summary = {"split": 0.0, "covers": covers, "covers_afresh": afresh}
        cell = {"cell": {"kind": "same", "n": 12}, "draws": [{}] * 200, "summary": summary}
        return calibration_tables.calibration({"cells": [cell, cell], "settings": size})

    assert "less than they promise: of 12 tasks that want the same, fitted afresh (88.0%)." in shown(
        0.95, 0.88
    )
    assert "promise" not in shown(0.94, None)  # 376 of 400 may be luck
    assert "as they were fitted (90.0%)" in shown(0.9, 1.0)


def test_calibration_simulates_what_it_promises(tmp_path):
    out = tmp_path / "calibration.json"
    assert calibration.main(["--preset", "small", "--out", str(out)]) == 0
    same, conflict = common.read(out)["cells"]
    assert same["summary"]["split"] == 0 and len(same["draws"]) == same["cell"]["count"]
    assert conflict["summary"]["new"]["exact"] == conflict["summary"]["split_in_looks"] == 1
    for cell in (same, conflict):
        assert 0 <= cell["summary"]["covers"] <= 1
        assert set(cell["summary"]["old"]) == {"split", "nmi", "exact"}
    draws = Counter()
    for c in calibration.cells("full"):
        draws[c["kind"], c["n"]] += c["count"] * ("block" in c)
    assert all(draws[kind, n] == 300 for kind in ("same", "conflict") for n in (5, 8, 12))


def test_groups_are_asked_again(tmp_path):
    """By the same theta* and by another seed."""
    out = tmp_path / "stability.json"
    assert stability.main(["--preset", "small", "--out", str(out)]) == 0
    found = common.read(out)
    one, other = found["cells"]
    assert one["truth"] == other["truth"] and len(one["afresh"]) == found["settings"]["afresh"] == 1
    assert np.shape(one["together"]) == (6, 6) and 0 <= one["same_k"] <= 1
    for cell in (one, other):
        assert max(cell["afresh"][0]["at_k"]) == max(cell["labels"])
    assert "| points | 2 |" in calibration_tables.stability(found)


def test_what_came_again_is_counted_by_pairs_and_runs():
    planted, wrong = [0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 1, 1]

    def cell(seed, labels, again):
        where = {"family": "points", "family_seed": 0, "seed": seed}
        afresh = [{"at_k": again, "free": [0, 1, 2, 0, 1, 0]}]
        together = (np.equal.outer(labels, labels) * 0.75).tolist()
        told = {"truth": planted, "together": together, "same_k": 0.5, "same_groups": 0.25}
        return {"cell": where, "labels": labels, "afresh": afresh, **told}

    cells = [cell(0, planted, planted), cell(1, wrong, planted)]
    text = calibration_tables.stability({"cells": cells, "settings": {"resamples": 20, "afresh": 1}})
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| points")]
    assert rows[0] == ["points", "2", "50%", "0%", "100%", "25%", "50%", "0%", "1 of 2"]
    assert [row[1] for row in rows[1:]] == [*calibration_tables.PAIRS]
    assert rows[1][2:] == ["10", "75%", "100%", "80%"]  # two of the other seed's six are apart
    assert rows[2][2:] == ["3", "75%", "0%", "0%"] and rows[3][2:] == ["2", "0%", "100%", "100%"]
    certain = "their k comes again in 50%, and it does in 0% (with another seed in 100%)."
    assert f"**On points runs are too certain**: they say that {certain}\n" in text


def test_the_true_gain_is_that_of_a_large_data_set():
    """The quadratic model of a population against the gains on one that is drawn."""
    world = calibration.World("conflict", 4, signal=0.3)
    truth = calibration.Truth(world, 200_000)
    drawn = [world.rows(np.random.default_rng(5), i)[:2] for i in (0, 3)]
    for (g, a), i in zip(drawn, (0, 3), strict=True):
        a = (a - a.mean()) / a.std()
        b = (a[:, None] * g).mean(0) / 2
        assert b @ truth.b[i] / np.linalg.norm(b) / np.linalg.norm(truth.b[i]) > 0.8
        np.testing.assert_allclose(np.trace(truth.h[i]), (np.abs(a) @ (g * g).sum(1)) / len(a) / 4, rtol=0.1)
    assert truth.b[0] @ truth.b[3] < 0
