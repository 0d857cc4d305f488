"""The README's commands and its Python example."""

import re
from pathlib import Path

import pytest

import pgx_jax

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.is_file(), reason="no checkout around the tests")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


LOGGED = ("Logged data", "Preferences of a language model")


def examples() -> list:
    """The examples of the sections on one's own environment, networks and data."""
    section = README.read_text().partition("## Your own environment")[2].partition("## Results")[0]
    found = re.findall(r"\*\*([^*]+)\*\*:.*?```python\n(.*?)```", section, re.DOTALL)
    return [pytest.param(code, id=title) for title, code in found]


KINDS = ("gymnax", "Gymnasium", "Brax", "Vector rewards")


def execute(example: str, folder, monkeypatch) -> dict:
    lines = example.splitlines()
    assert sum(map(bool, lines)) <= 15 and max(map(len, lines)) <= 110
    monkeypatch.chdir(folder)
    names = {"__name__": "example"}
    exec(compile(example, str(README), "exec"), names)
    return names


def test_the_python_example_runs_and_recovers_the_groups(tmp_path, monkeypatch):
    names = execute(blocks("python")[0], tmp_path, monkeypatch)
    results = names["run"].results
    (split, *_) = [look for look in results.looks if len(look.groups) > 1]
    assert split.tasks == results.task_names and sorted(split.groups) == sorted(results.true_groups)
    planted = [set(group) for group in results.true_groups]  # which a further look may split on
    assert results.k > 1 and all(any(set(group) <= true for true in planted) for group in results.groups)
    assert (tmp_path / "runs" / "points" / "report.html").stat().st_size > 10_000
    assert names["action"].shape == (2,) and abs(names["action"]).max() <= 1


@pytest.fixture
def fewer_steps(monkeypatch):
    """Settings of runs are small where the examples don't give them, and a quarter of their steps is trained;
    nothing is compiled but what is needed."""
    small = {
        "min_updates": 1, "looks": 1, "policy": pgx_jax.PolicyConfig(hidden=(8, 8)),
        "estimate": pgx_jax.EstimateConfig(steps=960, num_envs=16, dim=48),
    }  # fmt: skip

    def settings(steps_per_task, **given):
        return pgx_jax.config.Config(steps_per_task=steps_per_task // 4, **(small | given))

    monkeypatch.setattr(pgx_jax, "Config", settings)
    monkeypatch.setattr(pgx_jax.Run, "rehearses", False)


EXAMPLES = examples() if README.is_file() else []
OF_ENVIRONMENTS = [example for example in EXAMPLES if example.id not in LOGGED]


@pytest.mark.parametrize("example", OF_ENVIRONMENTS)
def test_examples_of_ones_own_environment(example, tmp_path, monkeypatch, fewer_steps):
    names = execute(example, tmp_path, monkeypatch)
    family, results = names["family"], names["run"].results
    assert sorted(sum(results.groups, [])) == sorted(family.task_names)
    assert all(abs(mean) < 1e9 for mean in results.methods["policygradex"].per_task)


@pytest.mark.parametrize("example", [example for example in EXAMPLES if example.id in LOGGED])
def test_examples_of_ones_own_data_tell_the_tasks_apart(example, tmp_path, monkeypatch):
    names = execute(example, tmp_path, monkeypatch)
    assert names["found"].grouping.labels.tolist() == [0, 0, 1, 1]
    assert names["found"].predicted["ci95"][0] > 0


def test_every_name_works_as_written():
    """What the text calls pgx_jax.… is there."""
    names = set(re.findall(r"`(pgx_jax(?:\.\w+)+)", README.read_text())) - {"pgx_jax.families"}
    assert {"pgx_jax.show.roll_out", "pgx_jax.learn.NETWORKS", "pgx_jax.tasks.HostEnv"} <= names
    for name in names:
        found = pgx_jax
        for part in name.split(".")[1:]:
            found = getattr(found, part)


def test_every_python_block_is_executed():
    titles = [example.id for example in examples()]
    assert {*KINDS, *LOGGED} <= set(titles) and len(titles) == len(blocks("python")) - 1


def test_continuous_integration_runs_the_command_of_the_readme():
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    tests = [line for line in commands if line.endswith("&& pytest")]
    assert len(tests) == 1 and "pgx-jax run cartpole-goals" in commands[0]
    pattern = re.search(r"s/\^\\\((.*?)\\\)\$/", (ROOT / ".ci" / "run").read_text())[1]
    assert re.fullmatch(pattern, tests[0])


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
