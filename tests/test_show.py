"""Drawn roll-outs: what is in them, in files that others can read, by the function and the command."""

import dataclasses
import io
import shutil
import subprocess
import sys
from html import escape

import jax
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image
from small import copy_of

from pgx_jax import make_family, show
from pgx_jax.cli import main as cli
from pgx_jax.errors import ConfigError
from pgx_jax.runs import drawing
from pgx_jax.runs.run import write_report
from pgx_jax.runs.saved import load_trained
from pgx_jax.runs.store import RunStore
from pgx_jax.tasks import HostStep, TaskFamily


class Walk:
    """A host environment on a line: the action moves, episodes last 5 steps, drawn as its position."""

    def make(self):
        return WalkCopy()


@dataclasses.dataclass
class WalkCopy:
    x: float = 0.0

    def reset(self, seed, task):
        self.x, self.age, self.by = float(task["start"]), 0, task["by"]
        return np.array([self.x], np.float32)

    def step(self, action):
        assert not isinstance(action, jax.Array)
        self.x, self.age = self.x + self.by * (2 * int(action) - 1), self.age + 1
        return HostStep(np.array([self.x], np.float32), 1.0, terminated=self.age == 5)

    def render(self):
        return np.full((10, 20, 3), round(self.x), np.uint8)

    def close(self):
        closed.append(self)


closed = []


@pytest.fixture
def walk():
    closed.clear()
    return TaskFamily(
        "walk", ("slow", "fast"), Walk(), {"start": np.array([50, 150]), "by": np.array([1, 10])},
        spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Discrete(2), horizon=100,
    )  # fmt: skip


def test_device_roll_outs_follow_the_environment():
    family = make_family("cartpole-physics", n_tasks=2)
    picture = show.roll_out(family, 1, steps=60, seed=3)
    again = show.roll_out(family, 1, steps=60, seed=3)
    assert len(picture.frames) == len(picture.step) == 60 and family.task_names[1] in picture.title
    for a, b in zip(picture.frames, again.frames, strict=True):
        np.testing.assert_array_equal(a, b)
    starts = np.flatnonzero(picture.step == 0)
    assert 2 <= len(starts) <= 8  # a cart left to chance falls within 8 to 60 steps
    np.testing.assert_array_equal(picture.step, picture.total)  # 1 a step
    assert not np.array_equal(picture.frames[0], show.roll_out(family, 1, steps=1, seed=4).frames[0])


def test_the_time_limit_ends_episodes():
    picture = show.roll_out(make_family("points", n_tasks=3, horizon=7), 0, steps=15)
    np.testing.assert_array_equal(picture.step, np.arange(15) % 7)


@pytest.mark.parametrize("task", [0, 1])
def test_host_roll_outs_follow_the_environment(walk, task):
    picture = show.roll_out(walk, task, steps=12)
    np.testing.assert_array_equal(picture.step, np.arange(12) % 5)
    x = np.array([frame[0, 0, 0] for frame in picture.frames], int)
    start, by = walk.tasks["start"][task], walk.tasks["by"][task]
    assert (x[picture.step == 0] == start).all()
    assert (np.abs(np.diff(x))[picture.step[1:] > 0] == by).all() and len(set(x)) > 2
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("space", "low", "high"),
    [
        (spaces.Discrete(3), 0, 2),
        (spaces.MultiDiscrete([3, 3], start=[1, 1]), 1, 3),
        (spaces.Box(-2.0, 5.0, (2,)), -2, 5),
        (spaces.Box(-np.inf, np.inf, (1,)), -1, 1),
    ],
)
def test_random_actions_fill_the_space(space, low, high):
    keys = jax.random.split(jax.random.PRNGKey(0), 300)
    actions = np.asarray(jax.vmap(lambda key: show._random(space).act((), None, (), key))(keys))
    assert actions.shape == (300, *space.shape)
    assert low <= actions.min() < low + 0.1 * (high - low) and high >= actions.max() > 0.9 * high + 0.1 * low
    assert np.issubdtype(actions.dtype, np.integer) == (space.dtype == np.int64)


def test_files_are_read_by_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = show.roll_out(make_family("points", n_tasks=3, horizon=20), 0, steps=30)
    path = show.write(picture)
    assert path.name.startswith("points-task0_x") and path.suffix == ".gif"
    with Image.open(path) as gif:
        assert gif.format == "GIF" and gif.n_frames == 30 and gif.info["loop"] == 0
        assert gif.size == (260, 260 + 18)
        gif.seek(12)
        shown = np.asarray(gif.convert("RGB"), int)[18:]
    assert np.abs(shown - picture.frames[12]).mean() < 3  # a palette of 256 colours
    path = show.write(picture, tmp_path / "new" / "sheet.PNG")
    with Image.open(path) as png:
        assert png.format == "PNG"
        sheet = np.asarray(png.convert("RGB"))
    first, second, *_ = np.linspace(0, 19, show.MOMENTS).astype(int)  # of the first episode
    for i, t in enumerate((first, second)):
        left = 3 + i * 266
        np.testing.assert_array_equal(sheet[24 + 18 : 24 + 278, left : left + 260], picture.frames[t])


def test_an_mp4_is_played_as_it_was_drawn(walk, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    picture = show.roll_out(walk, 1, steps=7)
    path = show.write(picture, tmp_path / "walk.mp4")
    reader = ffmpeg.read_frames(path)
    meta = next(reader)
    assert meta["fps"] == 1000 / show.DURATION and meta["size"] == (20, 28)
    frames = [np.frombuffer(frame, np.uint8).reshape(28, 20, 3) for frame in reader]
    assert len(frames) == 7
    for frame, drawn in zip(frames, picture.frames, strict=True):  # below the line of words
        assert abs(int(frame[22:].mean()) - int(drawn.mean())) < 12


def test_an_mp4_without_what_makes_one(monkeypatch, tmp_path):
    monkeypatch.setattr(show.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "pgx-jax\[video\]"'):
        show.check_ending(tmp_path / "a.mp4")


def test_an_environment_that_fails_is_named(walk, monkeypatch):
    monkeypatch.setattr(WalkCopy, "step", lambda self, action: 1 / 0)
    with pytest.raises(ConfigError, match="task 'slow' of 'walk' raised ZeroDivisionError in step.*mend the"):
        show.roll_out(walk, 0)
    assert len(closed) == 1


def test_tasks_by_name_and_number(walk):
    assert [show.task_number(walk, task) for task in (None, "slow", "fast", "0", "1")] == [0, 0, 1, 0, 1]
    for wrong, words in (("2", "numbers 0 to 1"), ("fats", "did you mean fast"), ("-1", "slow, fast")):
        with pytest.raises(ConfigError, match=words):
            show.task_number(walk, wrong)
    with pytest.raises(ConfigError, match="there is no task 2 of 'walk'; their numbers are 0 to 1"):
        show.roll_out(walk, 2)


def call(capsys, *args):
    try:
        status = cli.main(["show", *map(str, args)])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), " ".join(err.split())


def test_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, "points", "--n-tasks", 3, "--steps", 5, "--task", 2)
    assert status == 0, err
    (path,) = tmp_path.glob("*.gif")
    assert path.name in out.replace(" ", "") and "random actions" in out and "task2" in path.name
    with Image.open(path) as gif:
        assert gif.n_frames == 5


def test_the_policy_of_a_run(capsys, small_run, tmp_path, no_training):
    folder, name = small_run.store.path, small_run.family.task_names[1]
    out = tmp_path / "shown.png"
    status, shown, err = call(capsys, "points", "--run", folder, "--task", name, "--steps", 15, "--out", out)
    assert status == 0 and "trained policy" in shown and out.is_file(), err
    run = load_trained(folder, of="points")
    ends = [show.roll_out(run.family, 1, steps=15, player=who).total[-1] for who in (run.player, None)]
    assert ends[0] > ends[1] + 1

    for args, words in (
        (["cartpole-flip", "--run", folder], "one of 'points', not of 'cartpole-flip'"),
        (["points", "--run", tmp_path], "holds no run"),
        (["points", "--run", folder, "--n-tasks", 6], "leave out n_tasks"),
    ):
        status, _, err = call(capsys, *args)
        assert status == 2 and words in err, err


def test_the_report_of_a_run_shows_every_group_at_work(small_run):
    store, k = small_run.store, small_run.k
    pictures = drawing.drawn(store, k)
    assert set(pictures) == set(range(1, k + 1))
    for content in pictures.values():
        with Image.open(io.BytesIO(content)) as png:
            assert png.format == "PNG" and 400 < png.width <= drawing.WIDTH
    html = (store.path / "report.html").read_text()
    assert html.count("<img ") == k and "results.csv" in html and (store.path / "results.csv").is_file()
    assert f"<code>{escape(store.config['command'])}</code>" in html


def test_a_report_is_written_without_pictures_where_drawing_fails(small_run, tmp_path, monkeypatch):
    store = RunStore.open(copy_of(small_run, tmp_path))
    shutil.rmtree(store.path / "pictures")
    monkeypatch.setattr(show, "roll_out", lambda *args, **kw: 1 / 0)
    drawing.draw_groups(small_run, store)
    assert drawing.drawn(store, small_run.k) == {} and "ZeroDivision" in store.metrics()[-1]["not_drawn"]
    assert "<img " not in write_report(store, small_run.results).read_text()


def test_an_unfinished_run_is_named(small_run, tmp_path):
    (tmp_path / "config.json").write_text((small_run.store.path / "config.json").read_text())
    with pytest.raises(ConfigError, match="no policies yet.*resume"):
        load_trained(tmp_path)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["point"], "did you mean points"),
        (["points", "--task", "tusk3"], "did you mean task"),
        (["points", "--out", "a.webm"], "must end in .gif, .png or .mp4"),
        (["points", "--out", "gif"], "must end in .gif, .png or .mp4"),
        (["points", "--steps", 0], "steps = 0: a roll-out has at least 1"),
        (["points", "--seed", -1], "seed = -1"),
        (["points", "--steps", 1, "--out", "/dev/null/a.gif"], "cannot be written"),
    ],
)
def test_bad_arguments(capsys, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = call(capsys, *args)
    assert status == 2 and words in err and "Traceback" not in err, err
    assert not list(tmp_path.iterdir())


def test_drawing_a_family_needs_nothing_of_what_groups_tasks():
    code = "import sys\nimport pgx_jax\npgx_jax.show.roll_out\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "jax" in loaded and not loaded & {"cvxpy", "flax", "matplotlib", "optax", "pandas", "sklearn"}


def test_families_that_cannot_be_drawn(walk):
    with pytest.raises(ConfigError, match="'points' cannot be drawn"):
        show.roll_out(dataclasses.replace(make_family("points"), draw=None), 0)
    blind = dataclasses.replace(walk, env=Blind())
    with pytest.raises(ConfigError, match="'walk' cannot be drawn: .*no `render`"):
        show.roll_out(blind, 0)
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("render", "words"),
    [
        (lambda self: 1 / 0, "ZeroDivisionError"),
        (lambda self: None, r"returned object\[\] instead of uint8 \[H, W, 3\]"),
        (lambda self: np.zeros((4, 4), np.uint8), r"uint8\[4, 4\]"),
    ],
)
def test_pictures_that_fail(walk, monkeypatch, render, words):
    monkeypatch.setattr(WalkCopy, "render", render)
    with pytest.raises(ConfigError, match=f"'walk' cannot be drawn.*{words}"):
        show.roll_out(walk, 0)
    assert len(closed) == 1


class Blind:
    def make(self):
        copy = WalkCopy()
        return type("BlindCopy", (), {"close": lambda self: copy.close()})()
