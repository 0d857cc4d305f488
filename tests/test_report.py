"""The report: the page is whole, shows the numbers, and leaves out cleanly what is missing."""

import csv
import io
import json
import re
from functools import partial
from html import unescape
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import in_outline
from matplotlib.image import imread
from msgspec import structs
from rich.console import Console
from small import with_methods

from pgx_jax import report
from pgx_jax.compare.results import (
    BY_TASK,
    Curve,
    Diagnostics,
    Results,
    UnseenMethod,
    finite,
    from_plain,
    to_plain,
)
from pgx_jax.errors import DataError
from pgx_jax.learn import PPO
from pgx_jax.report import figures, page, tables, wording
from pgx_jax.runs import serial
from pgx_jax.runs.run import write_report
from pgx_jax.runs.store import RunStore

CONFIG = {
    "family": "cartpole-goals",
    "seed": 0,
    "ppo": {"learning_rate": 0.001, "clip": 0.2, "hidden": [64, 64], "anneal": True, "target": None},
    "estimate": {"dim": 400, "l2": 1.0, "score": "heldout"},
    "versions": {"jax": "0.10.2", "numpy": "2.1.0", "python": "3.12.3"},
    "commit": "0123abc",
    "device": "cpu",
}


PICTURES = {1: b"\x89PNG of the first", 3: b"\x89PNG of the third"}


def render(results: Results) -> str:
    """The page of a report."""
    return report.render(results, CONFIG, PICTURES)["report.html"].decode()


def outlined(results: Results) -> dict[str, bytes]:
    """The files of a report whose figures are drawn, but not rendered."""
    return in_outline(report.render, results, CONFIG)


def without_figures(results: Results) -> str:
    """The page without its figures."""
    return page.render(results, CONFIG, {})


class Checker(HTMLParser):
    """Collects what a page refers to and checks that its tags close in order."""

    VOID = {"meta", "br", "hr", "img", "link", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.record(attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.record(attrs)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data):
        self.words.append(data)

    def record(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "srcset", "data", "action"):
                self.links.append(value)
            assert not name.startswith("on"), "a script"


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    for element in re.findall(r"<svg.*?</svg>", html, flags=re.S):
        ElementTree.fromstring(element)
    return checker


@pytest.fixture(scope="module")
def built(run_results, tmp_path_factory):
    """The folder of a report that is drawn once."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "figures").mkdir()
    for name, content in report.render(run_results, CONFIG, PICTURES).items():
        (folder / name).write_bytes(content)
    return folder


def test_the_page_needs_no_other_file(built):
    html = (built / "report.html").read_text("utf-8")
    found = check(html)
    assert not {"script", "link", "iframe", "object"} & set(found.tags) and found.tags.count("img") == 2
    assert found.links, "the figures refer to their own marks"
    beside = ("results.json", "results.csv", "config.json")  # to be read, and not needed by the page
    assert {*beside} <= {*found.links} and {*beside} - {"config.json"} <= {*report.FILES, "results.json"}
    for link in found.links:
        assert link.startswith("data:image/png") or link[1:] in found.ids or link in beside
    for target in re.findall(r"url\(([^)]*)\)", html):
        assert target.strip("\"'")[1:] in found.ids
    assert "@import" not in html and "nan" not in " ".join(found.words).lower().split()


def test_every_method_setting_task_and_figure_appears(run_results, built):
    results, html = run_results, (built / "report.html").read_text("utf-8")
    words = unescape(re.sub(r"<[^>]+>", " ", html)).replace("−", "-")
    assert words.index(report.advice(results)) < words.index("Comparison")
    shown = [name for name, entry in results.methods.items() if not entry.same_as]
    for name in [*shown, *results.task_names, *results.test_tasks.names]:
        assert name in words
    for text in (
        "Gradient similarity (dot, whitened)",
        "is told which task it is in",
        "149.6 [147.3, 151.9]",
    ):
        assert text in words
    for text in ("standardised advantage a step", "neither proposed nor chose the partition"):
        assert text in words
    for text in ("2.1M", "146.1 [141.0, 151.2]", "exactly the true ones", "0.0171, 0.0215", "2 min 13 s"):
        assert text in words
    for text in ("58.3 [51.0, 65.6]", "draw 2: 72.75", "0.034, 0.029, 0.041", "10 × 10 values from -0.0"):
        assert text in words
    for setting in (
        "ppo.learning_rate",
        "0.001",
        "64, 64",
        "estimate.score",
        "heldout",
        "versions.jax",
        "0.10.2",
    ):
        assert setting in words
    assert html.count("<svg ") == len(figures.DRAWERS) == html.count("<figcaption>") - len(PICTURES)


def test_figures_are_png_files_with_something_on_them(built):
    files = sorted((built / "figures").iterdir())
    assert [file.stem for file in files] == sorted(figures.DRAWERS)
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        pixels = imread(file)
        assert min(pixels.shape[:2]) > 300
        inked = (np.abs(pixels[..., :3] - 1).max(axis=-1) > 0.2).mean()
        assert 0.005 < inked < 0.8, file.name
        colours = np.unique((pixels[..., :3] * 15).astype(int) @ [256, 16, 1])
        assert len(colours) > 30, file.name


def test_one_group_and_no_planted_truth(ungrouped_results):
    html = outlined(ungrouped_results)["report.html"].decode()
    check(html)
    assert html.count("<svg ") == len(figures.DRAWERS) - 1  # one policy for all has no tree of looks
    assert "What every look found and cost" in html
    assert "no gain by splitting them is shown" in html and "No gain shown" in html
    assert "The predicted gain of the best split, −0.0001 [" in html and "neither proposed nor chose" in html
    assert "adjusted Rand" not in html and "Unseen test tasks" not in html and "True groups" not in html
    assert "<h3>Group 1<span>10 tasks" in html and "Group 2" not in html


def test_one_group_that_was_given(ungrouped_results):
    known = structs.asdict(ungrouped_results.path)
    first = {name: values[:1] for name, values in known.items() if isinstance(values, list)}
    results = structs.replace(ungrouped_results, path=structs.replace(ungrouped_results.path, **first))
    html = without_figures(results)
    check(html)
    assert "as k = 1 was given: splits were not judged" in html and "Splits not judged" in html
    assert "No gain" not in html and "nothing is gained" not in html and "The predicted gain" not in html
    assert "<dt>predicted gain</dt><dd>–</dd>" in html and "left a single candidate" in html
    assert "path" not in figures.draw_all(results)


def test_numbers_have_a_minus_sign_and_names_keep_their_hyphens(run_results):
    means = [-52.83, *run_results.methods["policygradex"].per_task[1:]]
    found = check(without_figures(with_methods(run_results, {"policygradex": {"per_task": means}})))
    assert "−52.83" in found.words and "-52.83" not in " ".join(found.words)
    assert run_results.task_names[1] == "goal+0-1" and "goal+0-1" in found.words


@pytest.fixture(scope="module")
def by_success(run_results):
    """The same run, had it been judged by success, in the last step half as often as in any."""

    def halves(values):
        return (np.array(values) / 2).tolist()

    ends = {name: {"metric": "success", "at_end": [0.25] * 5 + [0.5] * 5} for name in run_results.methods}
    curves = {
        name: structs.replace(curve, at_end=halves(curve.returns))
        for name, curve in run_results.curves.items()
    }
    curves |= {
        name: structs.replace(curves[name], per_task_at_end=halves(curves[name].per_task)) for name in BY_TASK
    }
    return structs.replace(with_methods(run_results, ends), curves=curves)


def test_success_in_the_last_step_stands_beside_success_in_any(run_results, by_success):
    known = outlined(run_results)["report.html"].decode()
    html = outlined(by_success)["report.html"].decode()
    assert "last step" not in known and check(html)
    assert "Success rate [95%], in the last step" in html and html.count(", 0.38</td>") > 1
    assert "Task (success in any step, in the last step)" in html and html.count(", 0.25</td>") > 5
    assert all(text in unescape(html) for text in wording.AT_END.values())
    for results, column in ((run_results, []), (by_success, ["in the last step"])):
        table = report.terminal_table(results)
        heads = [each.header for each in table.columns]
        assert heads == ["method", "policies", "mean", *column, "environment steps"]
    assert {*table.columns[3].cells} == {"0.38"}
    older = structs.replace(by_success.methods["policygradex"], at_end=[None, 0.5])
    assert wording.mean_at_end(older) == "–"


def test_curves_of_success_in_the_last_step(run_results, by_success):
    before, after = (
        [f(x) for f in (figures.curves, figures.curves_by_task)] for x in (run_results, by_success)
    )
    lines = [figure.axes[0].lines for figure in (before[0], after[0])]
    assert len(lines[1]) == 2 * len(lines[0]) and not before[0].legends
    names = [text.get_text() for text in after[0].legends[0].get_texts()]
    assert names == ["in any step", "in the last step"]
    ends = {tuple(np.round(2 * line.get_ydata(), 6)) for line in lines[1]}
    assert ends > {tuple(np.round(line.get_ydata(), 6)) for line in lines[0]}
    above, below = ([axes.images[0].get_array() for axes in after[1].axes[i : i + 3]] for i in (0, 3))
    np.testing.assert_allclose(np.array(below), np.array(above) / 2)
    np.testing.assert_array_equal(above, [axes.images[0].get_array() for axes in before[1].axes[:3]])
    marks = [line for line in figures.per_task(by_success).axes[0].lines if line.get_marker() == "D"]
    order = [name for group in by_success.groups for name in group]
    wanted = [by_success.methods["policygradex"].at_end[by_success.task_names.index(name)] for name in order]
    assert len(marks) == 3 and [*marks[0].get_ydata()] == wanted


def test_unseen_tasks_on_which_adapting_failed_are_named(run_results):
    assert "adapting failed" not in without_figures(run_results)
    lost = UnseenMethod(mean=float("nan"), ci95=None, env_steps=10, failed=["test-1", "test-4"])
    unseen = structs.replace(run_results.test_tasks, methods={"multitask": lost}, failed=["test-2"])
    found = check(without_figures(finite(structs.replace(run_results, test_tasks=unseen))))
    text = " ".join(found.words)
    assert "(adapting failed on test-2)" in text and "(adapting failed on test-1, test-4)" in text


def test_nothing_compared_and_no_path(run_results):
    ours = {"policygradex": run_results.methods["policygradex"]}
    gain = structs.replace(run_results.gain, realised=None)
    results = structs.replace(run_results, methods=ours, curves={}, path=None, test_tasks=None, gain=gain)
    files = outlined(results)
    html = files["report.html"].decode()
    check(html)
    assert "the realised gain was not measured" in html and "none is measured" in html
    assert "No path was recorded" in html
    drawn = {
        f"figures/{name}.png"
        for name in (
            "affinity",
            "stability",
            "looks",
            "per_task",
            "pipeline",
        )  # one method: nothing to compare
    }
    assert set(files) == drawn | {"report.html", "results.csv"} and set(files) < set(report.FILES)


def test_a_report_that_is_written_anew_leaves_no_older_figure(run_results, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "render", partial(in_outline, report.render))
    store = RunStore.create(tmp_path / "run", CONFIG)
    assert write_report(store, run_results) == store.path / "report.html"
    assert {name for name in report.FILES if (store.path / name).is_file()} == set(report.FILES)
    write_report(store, structs.replace(run_results, curves={}))
    left = {name for name in report.FILES if (store.path / name).is_file()}
    assert left == {*report.FILES} - {"figures/curves.png", "figures/curves_by_task.png"}


def test_the_files_of_a_report_are_its_page_and_all_figures():
    assert report.FILES == (
        "report.html",
        "results.csv",
        *(f"figures/{name}.png" for name in figures.DRAWERS),
    )


@pytest.mark.parametrize(
    "missing", ["affinity", "stability", "path", "curves", "timings", "diagnostics", "agreement"]
)
def test_any_missing_part_is_left_out(run_results, missing):
    plain = to_plain(run_results)
    plain.pop(missing)
    results = from_plain(plain)
    check(page.render(results, CONFIG, {}))
    own = {"timings": {"pipeline"}, "diagnostics": set(), "agreement": set()}
    lost = (own | {"curves": {"curves", "curves_by_task"}}).get(missing, {missing})
    drawn = {name for name, drawer in figures.DRAWERS.items() if drawer(results) is not None}
    assert set(figures.DRAWERS) - drawn == lost


def test_how_certain_groups_are_is_told_with_what_is_not_in_it(run_results):
    words = " ".join(check(without_figures(run_results)).words)
    assert ": k = 3 again in 98%, at k = 3 exactly these groups in 100% of 200 draws" in words
    assert (
        "reach 0.0050 to either side" in words
        and "What another meta-training run would change is in" in words
    )
    assert "Undecided" not in words and "another meta-training run" in wording.CAPTIONS["stability"]
    older = " ".join(check(without_figures(structs.replace(run_results, stability=None))).words)
    assert "drawn again" not in older and "of 200 draws" not in older


def test_values_are_written_of_few_tasks_alone(run_results):
    def texts(results):
        (axes, *_) = figures.stability(results).axes
        return [text.get_text() for text in axes.texts]

    assert texts(run_results).count("100") == 4 * 3 + 2 * 3 * 2 and texts(run_results).count("0") == 66
    n = 40
    names, together = [f"task{i}" for i in range(n)], np.kron(np.eye(2), np.ones((20, 20))).tolist()
    groups = [names[:20], names[20:]]
    many = structs.replace(run_results.stability, groups=groups, together=together)
    wide = structs.replace(run_results, n_tasks=n, task_names=names, true_groups=None, stability=many)
    assert texts(wide) == []
    for groups in ([names], [[name] for name in names]):  # there is no other partition
        one = structs.replace(many, groups=groups)
        assert figures.stability(structs.replace(wide, stability=one)) is None


def test_holes_in_the_numbers_do_not_break_the_page(run_results):
    single = run_results.methods["single_task"].per_task
    random, path, matrix = run_results.curves["random"], run_results.path, run_results.affinity.matrix
    nan, gone = float("nan"), float("-inf")
    results = with_methods(
        run_results,
        {
            "multitask": {"mean": nan, "ci95": None, "per_task": None, "env_steps": None},
            "single_task": {"per_task": [*single[:3], None, *single[4:]]},
            "random": {"ci95": (gone, 1.0)},
            "policygradex": {"groups": None},
        },
    )
    results = structs.replace(
        results,
        curves=results.curves | {"random": Curve(random.steps, [nan, *random.returns[1:]])},
        affinity=structs.replace(results.affinity, matrix=[[nan, nan, *matrix[0][2:]], *matrix[1:]]),
        path=structs.replace(path, stderr=[0.1, 0.1, None, *path.stderr[3:]], score=[*path.score[:5], None]),
    )
    found = check(render(finite(results)))
    assert "nan" not in " ".join(found.words).lower().split()


@pytest.mark.parametrize("n", [2, 50])
def test_success_while_training_is_shown_task_by_task(run_results, n):
    names, rng = [f"task {i}" for i in range(n)], np.random.default_rng(0)
    rates = rng.random((n, 30))
    rates[0, 3] = np.nan
    curve = Curve(list(range(1, 31)), rates.mean(0).tolist(), rates.tolist())
    groups = [names[::2], names[1::2]]
    results = structs.replace(
        run_results, n_tasks=n, task_names=names, groups=groups, curves={"policygradex": curve}
    )
    figure = figures.curves_by_task(finite(results))
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), np.concatenate([rates[::2], rates[1::2]]))
    assert image.get_extent()[:2] == [0, 30]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == sum(groups, [])


def test_names_are_shown_as_text_and_never_run(run_results):
    evil = '<script>alert("x")</script> & $x_1$ href="#" [bold]'
    text = json.dumps(to_plain(run_results))
    assert run_results.task_names[0] in text
    results = from_plain(json.loads(text.replace(run_results.task_names[0], json.dumps(evil)[1:-1])))
    results = with_methods(results, {"random": {"label": evil, "note": evil}})
    found = check(render(results))
    assert "script" not in found.tags
    assert sum(evil in words for words in found.words) > 3
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(report.terminal_table(results))
    assert "[bold]" in console.export_text()


def leaves(value, path=()):
    """(path, value) of all leaves of dicts and lists."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, key))
    else:
        yield path, value


def with_leaf(value, path, new):
    """The same with another leaf."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_leaf(copy[path[0]], path[1:], new)
    return copy


EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def test_what_a_crafted_file_has_in_the_place_of_a_number_is_refused(run_results):
    """One of each kind of field: the agreement, values of tasks, intervals, counts, flags, the version."""
    plain, tried = to_plain(run_results), {}
    for path, value in leaves(plain):
        if not isinstance(value, str):
            tried.setdefault(tuple("*" if isinstance(key, int) else key for key in path), path)
    assert len(tried) > 100 and {("agreement", "nmi"), ("methods", "multitask", "per_task", "*")} <= set(
        tried
    )
    for path in tried.values():
        with pytest.raises(DataError, match="cannot be read"):
            from_plain(with_leaf(plain, path, EVIL))


def test_what_a_crafted_file_has_in_the_place_of_words_is_shown_as_text(run_results):
    """Every text that is no name of a table, in the results and in config.json, and names of methods."""
    enumerated = ("metric", "start", "kind", "same_as", "solver")
    plain = to_plain(run_results) | {"family_settings": {EVIL: EVIL}, "advice": "advice"}
    spoilt = plain
    for path, value in leaves(plain):
        if isinstance(value, str) and path[-1] not in enumerated:
            spoilt = with_leaf(spoilt, path, EVIL + value)
    methods = {name if name in ("policygradex", "multitask") else EVIL + name: entry
               for name, entry in spoilt["methods"].items()}  # fmt: skip
    for entry in methods.values():
        entry |= {"label": EVIL, "note": EVIL}
        entry.pop("same_as", None)
    results = from_plain(spoilt | {"methods": methods, "curves": {}})
    config = {EVIL: EVIL, "command": EVIL, "environment": {"device": EVIL, EVIL: [EVIL]}, "seed": EVIL}
    html = page.render(results, config, {})
    found = check(html)
    assert not {"script", "img"} & set(found.tags) and "<script" not in html
    assert sum(EVIL in words for words in found.words) > 100
    svgs = {name: figures.svg(figure, name) for name, figure in figures.draw_all(results).items()}
    assert len(svgs) > 5 and not any("<script" in svg or "onerror=alert(1)>" in svg for svg in svgs.values())
    assert EVIL in tables.as_csv(results)


def test_every_diagnostic_is_explained(run_results):
    fields = [field.name for field in structs.fields(Diagnostics)]
    assert all(wording.explained(name) for name in fields)
    assert {f"measured.{name}" for name in PPO.measures} <= set(wording.DIAGNOSTICS)
    assert set(fields) == {name for name in wording.DIAGNOSTICS if "." not in name}
    found = check(without_figures(run_results))
    assert wording.DIAGNOSTICS["relative_distance"] in found.words
    unknown = structs.replace(run_results.diagnostics, measured={"mine": [0.5]})
    assert "measured.mine" in check(without_figures(structs.replace(run_results, diagnostics=unknown))).words


def test_the_command_can_be_copied(run_results):
    command = "pgx-jax run points --set shift=-0.5 --ppo.learning-rate 0.02"
    words = check(page.render(run_results, CONFIG | {"command": command}, {})).words
    assert command in words  # with hyphens
    assert any("no command makes it again" in text for text in check(without_figures(run_results)).words)


def test_settings_are_folded(run_results):
    html = without_figures(run_results)
    before, _, after = html.partition("<summary>All settings</summary>")
    assert "estimate.score" not in before and "estimate.score" in after.partition("</details>")[0]


def test_intervals_stand_on_the_bars_of_tasks(run_results):
    assert len(figures.per_task(run_results).axes[0].containers) == 3
    entry = run_results.methods["policygradex"]
    bounds = [(mean - 1 - i, mean + 2) for i, mean in enumerate(entry.per_task)]
    told = with_methods(run_results, {"policygradex": {"per_task_ci95": bounds}})
    *_, (_, _, (lines,)) = (bars for bars in figures.per_task(told).axes[0].containers if len(bars) == 3)
    order = [run_results.task_names.index(name) for name in sum(run_results.groups, [])]
    np.testing.assert_allclose([segment[:, 1] for segment in lines.get_segments()], np.array(bounds)[order])


def test_figures_that_would_say_nothing_are_not_drawn(run_results, ungrouped_results):
    one = {"policygradex": run_results.methods["policygradex"]}
    assert figures.methods(structs.replace(run_results, methods=one)) is None
    assert figures.looks(ungrouped_results) is None and figures.looks(run_results) is not None
    timings = structs.replace(run_results.timings, stages=[("meta", 1.0)])
    assert figures.pipeline(structs.replace(run_results, timings=timings)) is None
    assert figures.affinity(structs.replace(run_results, n_tasks=2)) is None


def test_the_table_of_all_numbers(run_results):
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(run_results))))
    assert len(rows) == len(run_results.methods) * (1 + run_results.n_tasks)
    ours = [row for row in rows if row["method"] == "policygradex"]
    assert (ours[0]["task"], float(ours[0]["mean"]), float(ours[0]["low"])) == ("", 149.6, 149.6 - 2.3)
    assert [row["task"] for row in ours[1:]] == run_results.task_names
    entry = run_results.methods["policygradex"]
    assert [float(row["mean"]) for row in ours[1:]] == pytest.approx(entry.per_task)
    assert [run_results.groups[int(row["group"]) - 1].count(row["task"]) for row in ours[1:]] == [1] * 10
    assert {row["at_end"] for row in rows} == {""}
    ends = structs.replace(
        run_results, methods={"policygradex": structs.replace(entry, at_end=[0.25] * 9 + [0.5])}
    )
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(ends))))
    assert [float(row["at_end"]) for row in rows] == [0.275] + [0.25] * 9 + [0.5]


def test_equal_results_give_an_equal_page(run_results, built):
    through_json = from_plain(json.loads(serial.dumps(to_plain(run_results))))
    assert render(through_json) == (built / "report.html").read_text("utf-8")


def test_the_axes_show_the_numbers(run_results):
    results = run_results
    drawn = figures.draw_all(results)
    bars = drawn["per_task"].axes[0].containers[0]
    order = [name for group in results.groups for name in group]
    ours = dict(zip(results.task_names, results.per_task("policygradex"), strict=True))
    assert [bar.get_height() for bar in bars] == pytest.approx([ours[name] for name in order])
    image = np.asarray(drawn["affinity"].axes[0].images[0].get_array())
    position = [results.task_names.index(name) for name in order]
    matrix = np.array(results.affinity.matrix)[np.ix_(position, position)]
    off = ~np.eye(10, dtype=bool)
    assert image[off] == pytest.approx(matrix[off])
    lengths = [bar.get_width() for bar in drawn["pipeline"].axes[0].patches[:11]]
    assert max(lengths) == pytest.approx(64.9) and sum(lengths) == pytest.approx(131.4, abs=2)
    curve = max(drawn["curves"].axes[0].lines, key=lambda line: line.get_linewidth())
    assert curve.get_ydata()[-1] == pytest.approx(results.curves["policygradex"].returns[-1])
    assert curve.get_xdata()[-1] == pytest.approx(1_228_800)
    rates = np.asarray(drawn["curves_by_task"].axes[0].images[0].get_array())
    assert rates == pytest.approx(np.array(results.curves["policygradex"].per_task)[position])
    more = results.curves | {"true_groups_same_steps_per_policy": Curve([9e9], [1.0])}
    with_other_total = figures.curves(structs.replace(results, curves=more)).axes[0]
    assert with_other_total.get_xlim()[1] < 2e6, "another total of steps is another axis"
