"""Reading the command line: repeated settings, a family's defaults in its help, refusals, interrupts."""

import dataclasses
import shlex
import shutil
import subprocess
import sys

import pytest

from pgx_jax.cli import main as cli
from pgx_jax.cli import run as command
from pgx_jax.cli import saved
from pgx_jax.cli.families import FamiliesCommand
from pgx_jax.cli.parsing import parsed, refusal
from pgx_jax.cli.run import RunCommand
from pgx_jax.config import Config, PolicyConfig
from pgx_jax.errors import ConfigError, DataError, SolverError
from pgx_jax.learn.host.guard import Guard
from pgx_jax.runs import reproducing
from pgx_jax.runs.run import Run
from pgx_jax.runs.store import RunStore
from pgx_jax.tasks.registry import families, make_family


@pytest.fixture
def stop(capsys):
    """Calls the command: (exit status, standard output, standard error), each on one line."""

    def call(*args):
        try:
            status = cli.main([str(arg) for arg in args])
        except SystemExit as stopped:
            status = stopped.code
        return status, *(" ".join(text.split()) for text in capsys.readouterr())

    return call


@pytest.mark.parametrize(
    "args",
    [
        ["points", "--set", "n_groups=2", "horizon=20"],
        ["points", "--set", "n_groups=2", "--set", "horizon=20"],
        ["--set=n_groups=2", "--set=horizon=20", "points"],
    ],
)
@pytest.mark.parametrize("command", ("run", "show"))
def test_settings_add_up(command, args):
    assert cli.read([command, *args]).family_settings() == {"n_groups": 2, "horizon": 20}


def test_settings_are_read_once_where_the_family_has_defaults():
    args = ["lunarlander", "--set", "n_groups=2", "--set", "x=1", "--k", "2"]
    default = RunCommand("lunarlander", config=Config(steps_per_task=7))
    found = RunCommand.read_with(args, default)
    assert found.settings == (("n_groups=2",), ("x=1",))
    assert (found.config.steps_per_task, found.config.k) == (7, 2)


@pytest.fixture
def points_of_its_own(monkeypatch):
    """The family points asks for a gamma of 0.97."""
    family = dataclasses.replace(command.make_family("points"), defaults={"ppo.gamma": 0.97})
    monkeypatch.setattr(command, "make_family", lambda name: family)


@pytest.mark.parametrize("flag", ("-h", "--help"))
@pytest.mark.parametrize("rest", ([], ["--set", "n_groups=99"], ["--set", "nonsense"]))
def test_help_has_the_familys_defaults(stop, points_of_its_own, flag, rest):
    status, out, err = stop("run", "points", *rest, flag)
    assert status == 0 and not err
    assert "Discount. (default: 0.97)" in out and "The defaults are those for points" in out


@pytest.mark.parametrize("family", ([], ["no-such-family"], ["points"]))
def test_there_is_help_without_a_family_that_works(stop, monkeypatch, family):
    def fails(name):
        raise ImportError("no engine")

    monkeypatch.setattr(command, "make_family", fails)
    status, out, err = stop("run", *family, "--help")
    assert status == 0 and not err
    assert "Discount. (default: 0.99)" in out and "The defaults are those" not in out


def test_help_of_other_commands_names_no_defaults_of_a_family(stop, points_of_its_own):
    assert "points" in families()
    status, out, _ = stop("show", "points", "--help")
    assert status == 0 and "The defaults are those" not in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--grouping.max-groups", "0"], "error: ConfigError: grouping.max_groups = 0: at least 1"),
        (["--grouping.level", "-1"], "error: ConfigError: grouping.level = -1.0 must lie"),
        (["--grouping.trace-penalty", "-1"], "error: ConfigError: grouping: trace penalties must"),
    ],
)
def test_refused_settings_are_named_as_the_user_knows_them(stop, args, message):
    status, out, err = stop("run", "points", *args)
    assert (status, out) == (2, "") and err.startswith(message) and "dummy" not in err


def test_wrong_arguments_are_still_told_by_the_parser(stop):
    status, _, err = stop("run", "points", "--k", "two")
    assert status == 2 and "--k" in err and "two" in err


def test_what_is_said_while_parsing_is_not_lost(capsys):
    assert parsed(lambda: print("a warning", file=sys.stderr)) is None
    assert capsys.readouterr().err == "a warning\n"


def interrupted(*args, **kw):
    raise KeyboardInterrupt


def test_an_interrupted_run_names_its_folder(stop, monkeypatch, tmp_path):
    def begun(family, config, out, **kw):
        out.mkdir()
        (out / "config.json").write_text("{}")
        raise KeyboardInterrupt

    out = tmp_path / "a run with quite a long name, so that the message is wider than a narrow terminal"
    monkeypatch.setattr(command, "run", begun)
    status, _, err = stop("run", "points", "--out", out)
    assert status == 130 and err.endswith(f"continue with `pgx-jax resume '{out}'`")
    monkeypatch.setattr(saved, "resume", interrupted)
    status, _, err = stop("resume", out)
    assert status == 130 and err.endswith(f"continue with `pgx-jax resume '{out}'`")


@pytest.mark.parametrize("kind", [DataError, SolverError])
def test_an_error_in_a_run_names_the_command_that_continues_it(stop, monkeypatch, tmp_path, kind):
    """The library says what to mend, and the command line how to go on once something is saved."""
    broken = Guard(command.make_family("points")).failed("step", "left", ValueError("no wind"))
    assert str(broken).endswith("raised ValueError in step: no wind; mend the environment")

    def fails(*args, out=None, **kw):
        raise kind(str(broken))

    monkeypatch.setattr(command, "run", fails)
    monkeypatch.setattr(saved, "resume", fails)
    assert stop("run", "points", "--out", tmp_path)[2].endswith("mend the environment")
    (tmp_path / "config.json").write_text("{}")
    for args in (["run", "points", "--out", tmp_path], ["resume", tmp_path]):
        status, _, err = stop(*args)
        assert status == 2 and err.startswith(f"error: {kind.__name__}")
        assert f"mend the environment (whole stages are saved: `pgx-jax resume {tmp_path}` goes on)" in err


def test_a_folder_that_is_taken_is_told_with_the_options_that_help(stop, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    args = ("run", "points", "--out", tmp_path)
    assert stop(*args)[2].endswith("resume the run in it, or overwrite it (--out FOLDER)")
    (tmp_path / "config.json").write_text("{}")
    assert stop(*args)[2].endswith(f"it (--out FOLDER, `pgx-jax resume {tmp_path}`, --overwrite)")


def test_regrouping_an_unfinished_run_names_the_command_that_finishes_it(stop, monkeypatch, tmp_path):
    store = RunStore.create(tmp_path / "run", {})
    run = Run(make_family("points", n_tasks=4), Config())
    run.store = store
    monkeypatch.setattr(saved, "load", lambda path: run)
    status, _, err = stop("regroup", store.path)
    assert status == 2 and err.endswith(f"no features yet; resume it first (`pgx-jax resume {store.path}`)")


def test_a_run_that_is_interrupted_before_anything_is_saved(stop, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "run", interrupted)
    status, _, err = stop("run", "points", "--out", tmp_path / "run")
    assert (status, err) == (130, "stopped; nothing is saved yet")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (FamiliesCommand, "__call__"),
        (cli.Command, "load"),
        (RunCommand, "make_family"),
    ],
)
def test_other_interrupts_stop_quietly(stop, monkeypatch, place, name):
    monkeypatch.setattr(place, name, interrupted)
    args = ["run", "points"] if name == "make_family" else ["families"]
    assert stop(*args) == (130, "", "stopped")


def test_an_error_of_ours_that_the_parser_has_not_wrapped_is_told_as_it_is():
    try:
        try:
            raise ConfigError("plain")
        except ConfigError:
            raise SystemExit(2)  # noqa: B904
    except SystemExit as stopped:
        assert str(refusal(stopped)) == "plain"
    assert refusal(SystemExit(2)) is None


def test_every_command_says_in_the_overview_what_its_class_says():
    for name, entry in cli.COMMANDS.items():
        assert entry.load().__doc__.splitlines()[0] == entry.summary, name


ASKED = """
complete_() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${{#COMP_LINE}}
  $(complete -p pgx-jax | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo "${{COMPREPLY[@]}}"; }}
. {script}; complete_ pgx-jax re; complete_ pgx-jax run --grouping.lev
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_shell_completes_commands_and_settings(tmp_path, capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    asked = subprocess.run(["bash", "-c", ASKED.format(script=script)], capture_output=True, text=True)
    commands, settings = asked.stdout.splitlines()[:2]
    assert commands.split() == ["regroup", "report", "resume"] and settings.startswith("--grouping.level ")


def test_an_unknown_command_is_told(stop):
    status, _, err = stop("reprot")
    assert status == 2 and "no command 'reprot' (did you mean report?)" in err
    status, out, _ = stop()
    assert status == 2 and "families" in out


def test_the_command_of_a_run_makes_the_same_settings():
    """What the report says can be pasted: parsed again, it is the same family with the same settings."""
    given = {"n_tasks": 5, "n_groups": 2, "reward_scales": (1.0, 2.0)}
    config = Config(
        k=2, continue_meta=False, similarities=("dot",), meta_entropy=None,
        baselines=("told/ppo", "told/maml"),
        policy=PolicyConfig(hidden=(7,), initial_log_std=-1.0, squash=True), episodes=3,
    )  # fmt: skip
    words = shlex.split(reproducing.command(make_family("points", **given), config))
    assert words[:3] == ["pgx-jax", "run", "points"] and "--no-continue-meta" in words
    again = RunCommand.read(words[2:])
    assert again.config == config and again.make_family().settings == make_family("points", **given).settings
    stranger = dataclasses.replace(make_family("points"), name="mine")
    assert reproducing.command(stranger, config) is None
