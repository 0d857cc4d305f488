"""The small run of conftest.py: its stages, other settings for it, and what it tells."""

import dataclasses
import json
import shutil

import msgspec
import pytest
from msgspec import structs

import pgx_jax
from pgx_jax import make_family
from pgx_jax.analysis import ANALYSES
from pgx_jax.cli import main as cli
from pgx_jax.compare.results import to_plain
from pgx_jax.runs.serial import dumps

STAGES = [
    "meta", "transitions", "features", "scores", "affinity", "grouping", "stability", "looks", "policies",
]  # fmt: skip


def plain(path):
    """results.json of a run folder, without its timings."""
    results = json.loads((path / "results.json").read_text())
    assert results.pop("timings")
    return results


def told(run):
    """What results.json holds of a run."""
    return json.loads(dumps(to_plain(run.results)))


def with_methods(results, changes):
    """Results with other fields of some methods: name -> {field: value}."""
    changed = {name: structs.replace(results.methods[name], **fields) for name, fields in changes.items()}
    return structs.replace(results, methods=results.methods | changed)


def slow_but(names, *quick):
    """Names as parameters of a test that by default runs with a few of them alone."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def small(small_settings, **changes):
    """(family, config) with other settings of the config; no baselines unless asked for."""
    family, config = small_settings
    return make_family("points", **family), dataclasses.replace(config, **({"compare": "none"} | changes))


def copy_of(run, tmp_path):
    return shutil.copytree(run.store.path, tmp_path / "copy")


def analysed(name, found, run, tmp_path, monkeypatch, *args):
    """The folder of a copy of a run of which `pgx-jax analyse` has been told what an analysis finds."""
    path = copy_of(run, tmp_path)
    chosen = ANALYSES[name]._replace(function=lambda run, settings, progress: found)
    monkeypatch.setitem(ANALYSES, name, chosen)
    assert cli.main(["analyse", str(path), name, *args]) == 0
    written = json.loads((path / "analysis" / f"{name}.json").read_text())
    assert msgspec.convert(written, type(found)) == found
    assert (path / "analysis" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return path


class Ears(pgx_jax.Listener):
    """Remembers what it hears."""

    def __init__(self):
        self.events, self.steps = [], []

    def start(self, stage):
        self.events.append(("start", stage))

    def expect(self, steps):
        self.expected = steps

    def progress(self, done, total, recent):
        self.steps.append((self.events[-1][1], done, total))

    def finish(self, stage, seconds, text):
        self.events.append(("finish", stage))
