"""Regrouping by the command: where its result goes, and what is refused before the work."""

import json
import os
from types import SimpleNamespace

import pytest

from pgx_jax import Config
from pgx_jax.cli import main as cli
from pgx_jax.cli import saved as commands
from pgx_jax.cli.saved import RegroupCommand
from pgx_jax.compare.results import Gain, Interval
from pgx_jax.runs import saved


@pytest.fixture
def regrouped(monkeypatch):
    """The settings of every regrouping, none of which is computed."""
    seen = []

    def regroup(run, config):
        seen.append(config)
        return saved.Regrouped(
            k=config.k, groups=[["a"], ["b"]], labels=[0, 1], gain=Gain(Interval(0.02, (0.01, 0.03)), None),
            affinity=None, path=None, stability=None, agreement=None, evidence=None, settings=None,
        )  # fmt: skip

    monkeypatch.setattr(commands, "load", lambda path: SimpleNamespace(config=Config(seed=3)))
    monkeypatch.setattr(commands, "regroup", regroup)
    return seen


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "regroup.json"),
        ({"k": 4}, "regroup-k=4.json"),
        ({"score": "importance", "k": 3}, "regroup-k=3-score=importance.json"),
        ({"trace_penalty": 1.5}, "regroup-trace-penalty=1.5.json"),
        ({"l2": 1e-7, "affinity": "per_task"}, "regroup-affinity=per_task-l2=1e-07.json"),
    ],
)
def test_the_file_is_named_after_what_is_changed(options, name, tmp_path):
    assert RegroupCommand(tmp_path, **options).file_name() == name


def test_each_regrouping_has_its_own_file(tmp_path, capsys, regrouped):
    for args in (["--k", "4"], ["--k", "3", "--l2", "2"], ["--k", "5", "--out", str(tmp_path / "mine.json")]):
        assert cli.main(["regroup", str(tmp_path), *args]) == 0
    assert "in standardised advantage a step" in " ".join(capsys.readouterr().out.split())
    found = {file.name: json.loads(file.read_text())["k"] for file in tmp_path.iterdir()}
    assert found == {"regroup-k=4.json": 4, "regroup-k=3-l2=2.0.json": 3, "mine.json": 5}
    assert [config.estimate.l2 for config in regrouped] == [1.0, 2.0, 1.0]
    assert {config.seed for config in regrouped} == {3}


@pytest.mark.parametrize(
    ("out", "words"), [("missing/other.json", "there is no folder"), ("", "is a folder"), (None, "closed")]
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    tmp_path, capsys, monkeypatch, regrouped, out, words
):
    if out is None:
        monkeypatch.setattr(os, "access", lambda *args: False)
    args = [] if out is None else ["--out", str(tmp_path / out)]
    assert cli.main(["regroup", str(tmp_path), *args]) == 2
    assert words in " ".join(capsys.readouterr().err.split()) and not regrouped
