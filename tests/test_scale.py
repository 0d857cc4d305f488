"""Many tasks: what is done otherwise for them, and the benchmark of it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pgx_jax import group_transitions, grouping, pipeline
from pgx_jax.cli import main as cli
from pgx_jax.config import Config, config_for, override
from pgx_jax.errors import ConfigError
from pgx_jax.held_out import HeldOut
from pgx_jax.tasks.registry import make_family
from pgx_jax.types import FIT, SCORE

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no checkout around the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import planted  # noqa: E402
import scale  # noqa: E402
import scale_tables  # noqa: E402

CONFIG = override(Config(), scale.SMALL)


@pytest.fixture(scope="module")
def data():
    """Logged data of 34 tasks in two groups."""
    return planted.planted(34, 2, hidden=8, transitions=96, noise=0.5, own=0.0)


@pytest.fixture(scope="module")
def found(data):
    """What they are grouped to, with default settings but for the size."""
    return group_transitions(planted.log_prob, data.params, data.transitions, CONFIG)


def test_many_tasks_are_grouped_from_their_gradients_alone(data, found):
    """Without subsets, by partitions that the closed form alone proposes."""
    assert grouping.exact(data.labels, found.grouping.labels)
    assert len(found.scores.member) == len(found.surrogates.delta) == 0 and found.affinity.coverage is None
    candidates = grouping.propose(found.affinity.matrix, config=CONFIG.grouping)
    np.testing.assert_array_equal(found.grouping.path["candidates"], candidates.labels)
    assert set(found.grouping.path["solver"]) <= {"ADMM", ""}
    few = override(CONFIG, {"estimate.affinity": None})
    assert [few.estimate.affinity_of(n) for n in (30, 31)] == ["per_task", "closed_form"]


def test_lines_tell_what_the_closed_form_tells(data):
    """The affinity that is sampled on lines of the square, where it is asked for."""
    sampled = override(CONFIG, {"estimate": {"affinity": "per_task", "min_cover": 3}})
    member = pipeline.subsets(sampled, 34)
    feats = pipeline.features(planted.log_prob, data.params, data.transitions, sampled)
    scored = pipeline.score_subsets(feats, data.transitions, member, sampled.estimate)
    held_out = HeldOut(feats, data.transitions, sampled.estimate, sampled.stream("deal"))
    matrix = pipeline.affinity(scored.scores, held_out, sampled.estimate).matrix
    other = grouping.standardise(held_out.similarity("closed_form", (FIT, SCORE)))
    pairs = np.triu_indices(34, 1)
    assert np.corrcoef(grouping.standardise(matrix)[pairs], other[pairs])[0, 1] > 0.8
    assert grouping.exact(data.labels, grouping.group(matrix, k=2).labels)
    with pytest.raises(ConfigError, match="'per_task' needs the scores of subsets"):
        pipeline.affinity(scored.scores._replace(member=member[:0]), held_out, sampled.estimate)


def test_default_settings_give_every_task_an_environment():
    family = make_family("points", n_tasks=50)
    assert config_for(family).ppo.num_envs == 50
    assert config_for(make_family("points")).ppo.num_envs == Config().ppo.num_envs
    from pgx_jax.cli.run import RunCommand

    read = RunCommand.read(["points", "--n-tasks", "50", "--episodes", "3"])
    assert (read.config.ppo.num_envs, read.config.episodes) == (50, 3)
    assert cli.main(["run", "points", "--n-tasks", "50", "--ppo.num-envs", "40"]) == 2


def test_the_benchmark_of_many_tasks(tmp_path):
    """Its small preset, once more without work, and the table."""
    out = tmp_path / "scale.json"
    for _ in range(2):
        assert scale.main(["--preset", "small", "--out", str(out)]) == 0
    cells = common.read(out)["cells"]
    by_part = {name: [c for c in cells if c["cell"]["part"] == name] for name in scale.CELLS}
    assert [len(some) for some in by_part.values()] == [1, 1, 5, 0, 1]
    assert all(c["timings"]["peak_bytes"] > 2**27 for c in cells)
    kinds = by_part["affinity"][0]["kinds"]
    assert set(kinds) == {*scale.GRADIENTS, "lines, each pair three times"}
    exact = [c for c in by_part["relaxation"] if c["cell"]["solver"] != "SPECTRAL"]
    values = [c["objective"] for c in exact]
    np.testing.assert_allclose(values, values[0], rtol=5e-3)
    assert all(c["infeasibility"] < 1e-3 and c["exact"] for c in exact)
    text = scale_tables.scale(common.read(out))
    assert "| 34 | " in text and "| closed form | – |" in text and "| 8 | ADMM |" in text
    assert "| devices | grouping | training |" in text


def test_planted_data_are_what_they_are_said_to_be(data):
    """Advantages of one group's tasks go along one direction, and those of two groups against each other."""
    params, transitions, labels = data
    assert transitions.advantage.shape == (34, 96) and list(labels[:4]) == [0, 1, 0, 1]
    score = np.asarray(pipeline.features(planted.log_prob, params, transitions, CONFIG).values)
    b = np.einsum("ntd,nt->nd", score, transitions.advantage)
    cosine = (b @ b.T) / np.outer(*[np.linalg.norm(b, axis=1)] * 2)
    same = labels[:, None] == labels
    assert cosine[same & ~np.eye(34, dtype=bool)].mean() > 0.3 and cosine[~same].mean() < -0.3
