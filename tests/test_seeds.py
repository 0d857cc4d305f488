"""Several training seeds side by side: each run is what it would be alone, what they come to together,
folders that go on after a stop, and the report."""

import dataclasses
import itertools
import json
import re
import shutil
from html import unescape
from importlib import resources

import jsonschema
import numpy as np
import pytest
from conftest import example_results
from msgspec import structs
from scipy import stats
from small import Ears, plain, small, told, with_methods
from test_cli import call, flags
from test_report import check

from pgx_jax import (
    ConfigError,
    DataError,
    Listener,
    compare_runs,
    load,
    make_family,
    report,
    resume_seeds,
    run_seeds,
)  # fmt: skip
from pgx_jax.compare.results import Gain, Interval, MethodResult, schema, to_plain
from pgx_jax.compare.seeds import SeedsResult, from_plain, over_seeds
from pgx_jax.errors import BusyError, FolderError
from pgx_jax.report import seeds as words
from pgx_jax.report.figures import OF_SEEDS
from pgx_jax.report.figures.seeds import together
from pgx_jax.runs import seeds
from pgx_jax.runs.budgets import run_budgets, run_folder
from pgx_jax.runs.serial import dumps
from pgx_jax.runs.store import RunStore


@pytest.fixture(scope="module")
def made(small_settings, drawn, tmp_path_factory):
    """Seeds 5 and 6 of the small run, in a folder."""
    family, config = small_settings
    out = tmp_path_factory.mktemp("seeds") / "runs"
    with drawn():
        return run_seeds(make_family("points", **family), config, 2, out=out), out


# The runs


def test_each_is_what_it_would_be_alone(made, small_run):
    done, out = made
    assert plain(out / "seed-5") == plain(small_run.store.path)
    assert [one.config.seed for one in done.runs] == [5, 6] and not done.errors
    assert {type(one.listener) for one in done.runs} == {Listener}
    assert plain(out / "seed-6") != plain(out / "seed-5")
    alone = load(out / "seed-6")
    assert told(alone)["seed"] == 6 and alone.agent_for(alone.family.task_names[0])


def test_they_are_compared_with_a_run_of_one_of_them(made, small_run, tmp_path):
    """Whose methods earned what those of its equal among the seeds did."""
    done, out = made
    found = compare_runs(small_run.store.path, out, out=tmp_path / "compared")
    single, several = found.sides
    assert (single.seeds, several.seeds) == ([5], [5, 6]) and single.methods.keys() == several.methods.keys()
    assert {own.pairs for own in several.paired.values()} == {1}
    assert all(own.difference.mean == 0 for own in several.paired.values())
    for name, entry in small_run.results.methods.items():
        assert single.methods[name].interval == entry.interval
        assert several.methods[name].interval == done.results.methods[name].interval
    assert set(found.settings) <= {"commit"} and (tmp_path / "compared/report.html").is_file()


def test_runs_without_settings_are_not_compared(made, tmp_path):
    out = shutil.copytree(made[1], tmp_path / "runs")
    RunStore(out / "seed-5").write_json("config.json", {})
    with pytest.raises(DataError, match="config.json is damaged, .*no config, family"):
        compare_runs(out / "seed-5", out / "seed-6")


def test_a_second_seed_trained_alone_is_the_same(made, small_settings):
    """Its meta-policy, to the bit."""
    done, _ = made
    family, config = small_settings
    config = dataclasses.replace(config, seed=6)
    other = seeds.begin(make_family("points", **family), config).compute("meta")
    np.testing.assert_array_equal(other.meta_training.returns, done.runs[1].at_look(1, "meta").returns)


def test_what_several_seeds_come_to(made):
    done, out = made
    found, runs = done.results, [one.results for one in done.runs]
    assert found == from_plain(json.loads((out / "seeds.json").read_text()))
    assert found.seeds == [5, 6] and found.k == [run.k for run in runs]
    ours = [run.methods["policygradex"].mean for run in runs]
    for name, entry in found.methods.items():
        means = [run.methods[name].mean if name in run.methods else None for run in runs]
        assert entry.by_seed == means
        if None in means:
            continue
        low, high = stats.t.interval(0.95, 1, np.mean(means), stats.sem(means)) if np.ptp(means) else means
        assert entry.ci95 == pytest.approx((low, high))
        if name != "policygradex":
            gaps = np.subtract(ours, means)
            half = 12.706204736 * stats.sem(gaps)
            assert entry.difference.mean == pytest.approx(gaps.mean(), abs=1e-9)
            assert entry.difference.hi - gaps.mean() == pytest.approx(half, abs=1e-6)
    assert found.realised == [run.gain.realised.mean for run in runs]
    assert found.gain.realised.mean == pytest.approx(np.mean(found.realised))
    n = found.n_tasks
    for i, j in itertools.product(range(n), range(n)):
        a, b = found.task_names[i], found.task_names[j]
        both = np.mean([any({a, b} <= set(group) for group in run.groups) for run in runs])
        assert found.together[i][j] == both


def test_seeds_of_which_some_lack_a_method():
    runs = [example_results(seed) for seed in range(3)]
    extra = MethodResult(mean=140.0, metric="return", groups=[], env_steps=9)
    runs[1] = structs.replace(runs[1], methods=runs[1].methods | {"em": extra})
    found = over_seeds(runs, {7: "it broke"})
    em = found.methods["em"]
    assert em.mean is None and em.by_seed == [None, 140.0, None] and em.note == "with 1 of 3 seeds"
    assert em.difference.mean == pytest.approx(9.6) and em.difference.ci95 is None
    assert found.unfinished == {"7": "it broke"} and found.between.equal == 1
    assert found.methods["gradient_similarity_whitened"].same_as == "gradient_similarity_dot"
    fair = found.methods["true_groups_same_steps_per_policy"]
    assert not fair.equal_steps and fair.policies == [3, 3, 3]
    alone = over_seeds(runs[:1])
    assert alone.between is None and alone.gain.realised == Interval(87.7)
    with pytest.raises(DataError, match="different seeds"):
        over_seeds([runs[0], runs[0]])
    with pytest.raises(DataError, match="one family"):
        over_seeds([runs[0], structs.replace(runs[1], task_names=runs[1].task_names[::-1])])
    with pytest.raises(DataError, match="no seed has results"):
        over_seeds([])


class Stopping(Listener):
    """Raises an error when a stage begins, or (below) while it trains."""

    def __init__(self, stage, error, training=False):
        self.stage, self.error, self.training, self.now = stage, error, training, None

    def start(self, stage):
        self.now = stage
        if stage == self.stage and not self.training:
            raise self.error

    def progress(self, done, total, recent):
        if self.now == self.stage:
            raise self.error


def test_an_error_ends_its_own_seed(small_settings, tmp_path):
    family, config = small(small_settings, steps_per_task=2700)
    out = tmp_path / "runs"
    broken = {6: Stopping("features", DataError("broken features"))}
    done = run_seeds(family, config, 3, out=out, listener=lambda seed: broken.get(seed, Listener()))
    assert [one.config.seed for one in done.runs] == [5, 7] and done.results.seeds == [5, 7]
    assert done.results.unfinished == {"6": "broken features"}
    assert "2 of 3 training seeds" in done.results.advice
    with pytest.raises(DataError, match="seed 6: broken features"):
        done.check()
    assert "Seed 6 is not among them" in (out / "report.html").read_text()
    again = resume_seeds(out)
    assert again.results.seeds == [5, 6, 7] and not again.errors and not again.results.unfinished
    with pytest.raises(DataError, match=r"seed 5: no .and an error with seed 6.$"):
        run_seeds(family, config, 2, listener=lambda _: Stopping("meta", DataError("no")))


def test_stopped_runs_go_on(small_settings, tmp_path):
    family, config = small(small_settings, steps_per_task=2700)
    whole = run_seeds(family, config, 2)
    out, ears = tmp_path / "runs", Ears()
    stops = {5: ears, 6: Stopping("policies", KeyboardInterrupt(), training=True)}
    with pytest.raises(KeyboardInterrupt):
        run_seeds(family, config, 2, out=out, listener=stops.get)
    kept = [sorted(x.name.partition(".")[0] for x in (out / f"seed-{s}/stages").iterdir()) for s in (5, 6)]
    assert all({"meta", "features", "grouping"} <= set(names) for names in kept)
    assert not (out / "seeds.json").exists() and not (out / "seed-6/results.json").exists()
    heard = {}

    def hears(seed):
        assert seed not in heard  # made once alone
        return heard.setdefault(seed, Ears())

    done = resume_seeds(out, listener=hears)
    assert [one.listener for one in done.runs] == [heard[5], heard[6]]
    assert ("start", "meta") not in heard[6].events and ("finish", "policies") in heard[6].events
    for ours, theirs in zip(done.runs, whole.runs, strict=True):
        ours, theirs = told(ours), told(theirs)
        assert ours.pop("timings") and theirs.pop("timings") and ours == theirs
    assert to_plain(done.results) == to_plain(whole.results)


def test_folders_and_numbers_that_cannot_be(small_settings, made, tmp_path, no_training):
    family, config = small(small_settings)
    with pytest.raises(ConfigError, match="seeds = 0"):
        run_seeds(family, config, 0)
    with pytest.raises(ConfigError, match="steps_per_task"):
        run_seeds(family, dataclasses.replace(config, steps_per_task=100), 2, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for overwrite in (False, True):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ConfigError, match="contents"):
            run_seeds(family, config, 2, out=tmp_path, overwrite=overwrite)
        with pytest.raises(ConfigError, match="is a file"):
            run_seeds(family, config, 2, out=tmp_path / "notes.txt", overwrite=overwrite)
    with pytest.raises(ConfigError, match="no runs of several seeds"):
        resume_seeds(tmp_path)
    with pytest.raises(ConfigError, match="no runs of several seeds"):
        resume_seeds(tmp_path / "nothing")


def test_overwriting_removes_runs_and_nothing_else(made, tmp_path):
    out = shutil.copytree(made[1], tmp_path / "runs")
    (out / "seed-6" / "mine.txt").write_text("mine")
    (out / "mine.txt").write_text("mine")
    seeds._prepare(out, overwrite=True)
    assert sorted(str(x.relative_to(out)) for x in out.rglob("*.*")) == ["mine.txt", "seed-6/mine.txt"]
    assert not (out / "seed-5").exists() and not seeds.holds_seeds(out)


def test_of_runs_that_are_overwritten_all_are_free_or_none_is_removed(made, tmp_path):
    out = shutil.copytree(made[1], tmp_path / "runs")
    before = sorted(out.rglob("*"))
    with RunStore(out / "seed-6").claimed(), pytest.raises(BusyError, match="seed-6"):
        seeds._prepare(out, overwrite=True)
    assert sorted(out.rglob("*")) == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", denied)
        with pytest.raises(FolderError, match=r"runs can't be written to .Permission denied.; choose"):
            seeds._prepare(out, overwrite=True)
    seeds._prepare(out, overwrite=True)  # nothing is claimed any more


def denied(*_):
    raise PermissionError(13, "Permission denied")


def test_runs_that_have_begun_are_given_back_where_a_later_one_cannot(small_settings, tmp_path, no_training):
    family, config = small(small_settings)
    out = tmp_path / "runs"
    with pytest.raises(KeyboardInterrupt) as first:
        run_seeds(family, config, 2, out=out, listener=stopped_at_6)
    with pytest.raises(KeyboardInterrupt) as second:
        list(run_budgets(family, config, [config.steps_per_task], [5, 6], tmp_path, stopped_at_6))
    assert first.traceback and second.traceback  # they hold whatever was there
    for place in (out / "seed-5", tmp_path / run_folder(config.steps_per_task, 5)):
        with RunStore(place).claimed():
            assert RunStore.open(place).config["config"]["seed"] == 5


def stopped_at_6(seed):
    if seed == 6:
        raise KeyboardInterrupt
    return Listener()


# In words and pictures


def several(*gains, k=3, **changes):
    """What seeds come to with these realised gains."""
    runs = []
    for seed, gain in enumerate(gains):
        run = example_results(seed)
        ours = run.methods["policygradex"].mean + gain
        run = with_methods(run, {"policygradex": {"mean": ours}})
        groups = run.groups if k > 1 else [run.task_names]
        realised = structs.replace(run.gain, realised=Interval(gain, (gain - 0.1, gain + 0.1)))
        runs.append(structs.replace(run, gain=realised, k=k, groups=groups, **changes))
    return over_seeds(runs)


@pytest.mark.parametrize(
    ("found", "kind", "said"),
    [
        (
            several(5.0, 6.0, 7.0),
            "gain",
            "Group: the realised gain over one policy for all is +6.0 [3.5, 8.",
        ),
        (several(-5.0, -6.0, -7.0), "loss", "Don't group: train one policy for all 10 tasks; the realised"),
        (several(-5.0, 6.0, 2.0), "not_shown", "No gain is shown: the realised gain"),
        (
            several(0.0, 0.0, k=1),
            "no_gain",
            "Don't group: train one policy for all 10 tasks, which 2 train",
        ),
        (several(4.0), "not_shown", "over 1 training seed; one has no interval."),
        (several(1.0, 2.0, k=1), "not_shown", "Don't group"),
    ],
)
def test_advice(found, kind, said):
    assert words.verdict(found) == kind and said in (text := words.advice(found))
    assert ("one draw of the tasks" in text) and ("No interval" in text) == (len(found.seeds) == 1)


def test_advice_says_who_earned_most_and_where_groups_differ():
    text = words.advice(several(5.0, 6.0, 7.0))
    assert "Earned most at the same total: PolicyGradEx (ours), beyond the interval over seeds." in text
    assert "All seeds find the same 3 groups." in text
    tied = words.advice(several(-18.0, -18.5, -19.5))
    assert "Earned most at the same total: Gradient similarity (dot, whitened), beyond" in tied
    runs = [example_results(0), example_results(1)]
    runs[1] = structs.replace(runs[1], k=1, groups=[runs[1].task_names], family_settings={"seed": 4})
    found = over_seeds([structs.replace(runs[0], family_settings={"seed": 4}), runs[1]])
    text = words.advice(found)
    assert "Groups: k = 1 (1×) or 3 (1×); pairs of seeds agree with a mean NMI of 0.00." in text
    assert "(family seed 4)" in text and words.policies(found, "policygradex") == "3"
    unmeasured = [structs.replace(run, gain=Gain(None, None)) for run in map(example_results, range(2))]
    assert words.advice(over_seeds(unmeasured)).startswith("No gain was measured over 2 training seeds.")


def test_the_report_of_several_seeds(made):
    done, out = made
    html = (out / "report.html").read_text("utf-8")
    found = check(html)
    assert {"seed-5/report.html", "seed-6/report.html"} <= set(found.links)
    assert all((out / link).is_file() for link in found.links if not link.startswith(("#", "data:")))
    assert not {"script", "link", "iframe", "object", "img"} & set(found.tags)
    shown = " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).replace("−", "-").split())
    assert words.advice(done.results) in shown and "2 training seeds" in shown
    for name, cells in words.rows(done.results):
        assert name in shown and " ".join(cells[:1]) in shown
    assert "seed" not in [row.split()[0] for row in shown.split("Settings")[1].split("config.") if row]
    drawn = {path.name for path in (out / "figures").iterdir()}
    assert drawn == {"over_seeds.png", "together.png"} == {f"{name}.png" for name in OF_SEEDS}
    assert set(report.SEEDS_FILES) == {"report.html", *(f"figures/{name}" for name in drawn)}


def test_figures_of_several_seeds():
    found = several(5.0, 6.0, 7.0)
    figure = OF_SEEDS["over_seeds"](found)
    ticks = [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "|"]
    assert len(ticks) == len([x for x in found.methods.values() if not x.same_as])
    assert ticks[0] == pytest.approx(found.methods["policygradex"].by_seed)
    image = together(found).axes[0].images[0]
    assert image.get_clim() == (0, 1) and set(np.unique(image.get_array().compressed())) == {0, 1}
    assert together(several(1.0, 2.0, k=1)) is None


# The commands


def test_commands(capsys, made, small_settings, tmp_path, monkeypatch):
    out, (family, config) = tmp_path / "runs", small_settings
    shorter = flags(family, dataclasses.replace(config, steps_per_task=2700))
    args = ["run", "points", *shorter, "--seeds", "2", "--compare", "none", "--out", out]
    status, shown, err = call(capsys, *args)
    assert status == 0, err
    texts = ("seed 5: training the meta-policy", "seed 6: evaluating all policies", "over 2 training seeds")
    assert all(text in shown for text in texts)
    assert json.loads((out / "seeds.json").read_text())["seeds"] == [5, 6]
    status, _, err = call(capsys, *args)
    assert status == 2 and "pgx-jax resume" in err and "--overwrite" in err
    status, _, err = call(capsys, "regroup", out, "--k", "2")
    assert status == 2 and "holds no run" in err

    before = (out / "seeds.json").read_bytes()
    (out / "seeds.json").unlink()
    (out / "seed-6" / "results.json").unlink()
    status, shown, err = call(capsys, "report", out)
    assert status == 0 and "seed 6 is not among them: its run is not finished" in shown, err
    assert json.loads((out / "seeds.json").read_text())["seeds"] == [5]
    monkeypatch.setattr("pgx_jax.learn.train_all", None)
    status, shown, err = call(capsys, "resume", out)
    assert status == 0 and "seed 6: training the meta-policy saved earlier" in shown, err
    assert (out / "seeds.json").read_bytes() == before

    for extra, text in ((["--seeds", "0"], "seeds = 0"), (["--seeds", "2", "--k", "7"], "k = 7")):
        status, _, err = call(capsys, "run", "points", "--n-tasks", "6", *extra, "--out", tmp_path / "other")
        assert status == 2 and text in err and not (tmp_path / "other").exists()


def test_commands_tell_errors_and_stops(capsys, small_settings, made, tmp_path, monkeypatch):
    done, _ = made
    failed = done._replace(errors={9: DataError("broken")})
    monkeypatch.setattr("pgx_jax.cli.run.run_seeds", lambda *_, **__: failed)
    status, shown, err = call(capsys, "run", "points", "--seeds", "3", "--out", tmp_path / "x")
    assert status == 2 and "seed 9: broken" in err and "over 2 training seeds" in shown
    out = shutil.copytree(made[1], tmp_path / "runs")

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pgx_jax.cli.saved.resume_seeds", stopped)
    status, _, err = call(capsys, "resume", out)
    assert status == 130 and f"pgx-jax resume {out}" in err


def test_the_summary_keeps_its_published_schema(made):
    found = json.loads((made[1] / "seeds.json").read_text())
    assert json.loads(dumps(to_plain(made[0].results))) == found
    published = json.loads((resources.files("pgx_jax.compare") / "seeds.schema.json").read_text())
    assert published == schema(SeedsResult), "write it anew: python -m pgx_jax.compare.seeds"
    jsonschema.validate(found, published)
    found["schema_version"] = 2
    with pytest.raises(DataError, match="seeds.json cannot be read"):
        from_plain(found)
