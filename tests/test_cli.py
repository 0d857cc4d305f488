"""The command line: help, errors and their exit status, and a run from start to end."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
from small import told

import pgx_jax
from pgx_jax import Config, make_family
from pgx_jax.cli import main as cli
from pgx_jax.cli.parsing import parse_settings
from pgx_jax.cli.run import RunCommand
from pgx_jax.errors import ConfigError
from pgx_jax.tasks.registry import families

COMMANDS = (
    "run", "sweep", "compare", "families", "show", "resume", "regroup", "adapt", "analyse", "policy",
    "report",
)  # fmt: skip


def call(capsys, *args):
    """(exit status, standard output, standard error on one line) of a command."""
    try:
        status = cli.main([str(arg) for arg in args])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), " ".join(err.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help(capsys, command):
    status, out, _ = call(capsys, command, "--help")
    assert not status and command in out
    if command == "run":
        for option in ("--seed", "--family-seed", "--n-tasks", "--k", "--out", "--compare", "--set"):
            assert option in out
        assert "{none,few,fast,full}" in out


def test_help_of_a_light_command_imports_nothing_of_runs():
    code = "import sys\nfrom pgx_jax.cli.main import main\ntry:\n    main(['families', '--help'])\nfinally:\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}    print(*sys.modules)"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "pgx_jax.cli.families" in done.stdout
    assert not {"pgx_jax.config", "pgx_jax.runs", "cvxpy", "flax"} & set(done.stdout.split())


def test_help_of_group_lists_what_logged_data_can_use(capsys):
    status, out, _ = call(capsys, "group", "--help")
    assert not status and "--estimate.dim" in out and "--grouping.level" in out
    assert "Projected dimension d" in out  # the words of the settings themselves
    for text in ("--estimate.steps", "--estimate.num-envs", "rollout", "lookahead", "--grouping.group-ratio"):
        assert text not in out, text
    assert call(capsys, "group", "data.npz", "--estimate.steps", "8")[0] == 2


def test_help_lists_the_commands(capsys):
    status, out, _ = call(capsys, "--help")
    assert not status and all(command in out for command in COMMANDS)


def test_the_module_is_the_command():
    """`python -m pgx_jax` from another folder, in a process of its own."""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "100"}
    found = subprocess.run(
        [sys.executable, "-m", "pgx_jax", "run", "cartpol-goals"],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
    )
    assert found.returncode == 2
    assert "cartpole-goals" in found.stderr and "Traceback" not in found.stderr


def test_families(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = call(capsys, "families")
    assert all(words in out for words in ("choice of 2", "3 groups", "not planted", "device"))
    assert status == 0 and all(name in out for name in ("cartpole-goals", "cartpole-flip", "points-hard"))
    status, out, _ = call(capsys, "families", "points")
    assert status == 0 and "n_groups" in out and "horizon" in out and "float [4]" in out
    assert "envs.points:points" in out and "3 groups" in out and "device" in out
    status, _, err = call(capsys, "families", "point")
    assert status == 2 and "points" in err


@pytest.mark.parametrize("width", (80, 120))
def test_the_list_of_families_keeps_their_names(capsys, monkeypatch, width):
    """One line starts with the whole name of each family, and nothing is cut."""
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(["families"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert set(families()) <= {line.split()[0] for line in lines if line}
    assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
    assert ("hidden goal" in " ".join(lines)) == (width >= 120)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["cartpole-gaols"], ["cartpole-gaols", "did you mean cartpole-goals"]),
        (["points", "--k", "11"], ["k = 11", "10 tasks"]),
        (["points", "--k", "0"], ["k = 0"]),
        (["points", "--n-tasks", "5", "--estimate.subset-size", "6"], ["subset size of 6", "5"]),
        (["points", "--estimate.l2", "1e-7"], ["l2 = 1e-07", "at least"]),
        (["points", "--n-tasks", "1"], ["n_tasks", "at least 2"]),
        (["points", "--n-tasks", "13", "--estimate.subsets", "4"], ["subsets"]),
        (["points", "--set", "horizon"], ["--set 'horizon'", "KEY=VALUE"]),
        (["points", "--set", "horizont=3"], ["no setting 'horizont'", "did you mean horizon"]),
        (["points", "--set", "horizon=soon"], ["horizon", "soon"]),
        (["points", "--set", "n_groups=11"], ["n_groups = 11"]),
        (["points", "--steps-per-task", "100"], ["steps_per_task"]),
    ],
)  # fmt: skip
def test_bad_settings(capsys, tmp_path, no_training, args, words):
    status, _, err = call(capsys, "run", *args, "--out", tmp_path / "out")
    assert status == 2
    assert err.startswith("error: ConfigError") and "Traceback" not in err
    assert all(word in err for word in words), err
    assert not (tmp_path / "out").exists()


def test_bad_flags(capsys):
    for args in (["run"], ["run", "points", "--compare", "most"], ["run", "points", "--k", "two"], ["walk"]):
        status, _, _ = call(capsys, *args)
        assert status == 2


def test_output_folders(capsys, tmp_path, no_training):
    (tmp_path / "notes.txt").write_text("mine")
    for extra in ([], ["--overwrite"]):
        status, _, err = call(capsys, "run", "points", "--out", tmp_path, *extra)
        assert status == 2 and "contents" in err
    status, _, err = call(capsys, "run", "points", "--out", tmp_path / "notes.txt")
    assert status == 2 and "is a file" in err
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for command in ("resume", "regroup", "report"):
        status, _, err = call(capsys, command, tmp_path / "nothing")
        assert status == 2 and "holds no run" in err


def test_the_users_settings_go_before_the_familys(capsys, monkeypatch):
    asked = {"steps_per_task": 300_000, "ppo.gamma": 0.9}
    family = dataclasses.replace(make_family("points"), defaults=asked)
    monkeypatch.setattr(RunCommand, "make_family", lambda self: family)
    seen = []
    monkeypatch.setattr(RunCommand, "__call__", lambda self, console: seen.append(self.config))
    status, _, err = call(capsys, "run", "points", "--ppo.gamma", "0.99", "--seed", "3")
    assert status == 0, err
    assert seen == [dataclasses.replace(Config(), seed=3, steps_per_task=300_000)]


def test_settings_are_literals_or_text():
    found = parse_settings(("a=1", "b-c=(1, 2.5)", "d=None", "e=text", "f=x=y", "g=True"))
    assert found == {"a": 1, "b_c": (1, 2.5), "d": None, "e": "text", "f": "x=y", "g": True}
    for bad in ("a", "=1", ""):
        with pytest.raises(ConfigError, match="KEY=VALUE"):
            parse_settings((bad,))


def flags(family, config):
    """The small run as arguments of the command."""
    ppo, estimate = config.ppo, config.estimate
    args = ["--family-seed", family["seed"], "--n-tasks", family["n_tasks"]]
    args += ["--set", f"n_groups={family['n_groups']}", f"horizon={family['horizon']}"]
    for name in (
        "seed",
        "steps_per_task",
        "meta_fraction",
        "meta_entropy",
        "episodes",
        "test_tasks",
        "trial_episodes",
        "random_draws",
        "group_entropy",
        "min_updates",
        "collect_fraction",
    ):
        args += [f"--{name.replace('_', '-')}", getattr(config, name)]
    names = (
        "learning_rate",
        "final_learning_rate",
        "gamma",
        "gae_lambda",
        "entropy",
        "num_envs",
        "num_steps",
        "epochs",
        "minibatches",
    )
    for name in names:
        args += [f"--ppo.{name.replace('_', '-')}", getattr(ppo, name)]
    for name in ("steps", "num_envs", "dim"):
        args += [f"--estimate.{name.replace('_', '-')}", getattr(estimate, name)]
    return [*args, "--policy.hidden", *config.policy.hidden]


def test_the_command_is_the_function(capsys, small_run, small_settings, tmp_path):
    """`pgx-jax run` from start to end: the same results.json as `pgx_jax.run`, in another folder."""
    out = tmp_path / "run"
    status, shown, err = call(capsys, "run", "points", *flags(*small_settings), "--out", out)
    assert status == 0, err
    ours, theirs = (json.loads((path / "results.json").read_text()) for path in (out, small_run.store.path))
    assert ours.pop("timings") and theirs.pop("timings")
    assert ours == theirs
    words = ["meta-policy", "choosing the groups", "k = 2", "report.html", "one policy"]
    assert all(word.lower() in shown.lower() for word in words), shown
    assert " ".join(ours["advice"].split()[:8]) in shown
    page = (out / "report.html").read_text()
    assert "<svg" in page or "data:image" in page
    assert 'src="http' not in page

    status, _, err = call(capsys, "run", "points", *flags(*small_settings), "--out", out)
    assert status == 2 and "resume" in err  # it is there already


def test_resume_regroup_and_report(capsys, small_run, tmp_path, no_training):
    path = shutil.copytree(small_run.store.path, tmp_path / "run")
    (path / "results.json").unlink()
    status, shown, err = call(capsys, "resume", path)
    assert status == 0 and "report.html" in shown, err
    before = json.loads((path / "results.json").read_text())
    assert before["groups"] == told(small_run)["groups"]

    status, shown, err = call(capsys, "regroup", path, "--k", "4")
    assert status == 0 and "k = 4" in shown and "in standardised advantage a step" in shown, err
    found = json.loads((path / "regroup-k=4.json").read_text())
    assert found["k"] == 4 and sorted(sum(found["groups"], [])) == sorted(small_run.family.task_names)
    extra = ["--affinity", "datamodel", "--score", "importance", "--solver", "lbfgs"]
    status, shown, err = call(capsys, "regroup", path, *extra, "--out", tmp_path / "other.json")
    assert status == 0 and "k = 2" in shown, err
    extra = ["--affinity", "closed_form", "--l2", "2"]
    status, shown, err = call(capsys, "regroup", path, *extra, "--out", tmp_path / "other.json")
    assert status == 0 and "k = 2" in shown, err
    assert json.loads((tmp_path / "other.json").read_text())["affinity"]["coverage"] is None
    for extra in (
        ["--k", "7"],
        ["--l2", "1e-9"],
        ["--k", "2", "--trace-penalty", "1"],
        ["--score", "rollouts"],
    ):
        status, _, err = call(capsys, "regroup", path, *extra)
        assert status == 2 and "Traceback" not in err, extra
    assert json.loads((path / "regroup-k=4.json").read_text()) == found
    assert [file.name for file in path.glob("regroup*")] == ["regroup-k=4.json"]

    kept = (path / "config.json").read_text()
    (path / "config.json").write_text(kept[:99])
    status, _, err = call(capsys, "resume", path)
    assert status == 2 and "put back what it held" in err and "goes on" not in err
    (path / "config.json").write_text(kept)

    (path / "report.html").unlink()
    status, shown, err = call(capsys, "report", path)
    assert status == 0 and (path / "report.html").exists(), err
    assert json.loads((path / "results.json").read_text()) == before

    (path / "stages" / "features" / "structure.json").write_text("{")
    status, _, err = call(capsys, "regroup", path, "--k", "2")
    assert status == 2 and "features" in err and "damaged" in err


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"pgx-jax {metadata.version('pgx-jax')}\n"
    assert pgx_jax.__version__ == metadata.version("pgx-jax")
