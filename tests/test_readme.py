"""The README's commands and its Python example."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.is_file(), reason="no checkout around the tests")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_python_example_runs_and_recovers_the_groups(tmp_path, monkeypatch):
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, str(README), "exec"), names)
    results = names["run"].results
    assert results["agreement"]["exact"]
    assert (tmp_path / "runs" / "points" / "report.html").stat().st_size > 10_000
    assert names["action"].shape == (2,) and abs(names["action"]).max() <= 1


def test_continuous_integration_runs_the_command_of_the_readme():
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    tests = [line for line in commands if line.endswith("&& pytest")]
    assert len(tests) == 1 and "pgx-jax run cartpole-goals" in commands[0]
    pattern = re.search(r"s/\^\\\((.*?)\\\)\$/", (ROOT / ".ci" / "run").read_text())[1]
    assert re.fullmatch(pattern, tests[0])
