"""The report: the advice is right, the page is whole, and missing parts are left out cleanly."""

import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from pgx_jax import figures, page, report, serial, wording
from pgx_jax.errors import DataError


def example_results(seed: int = 0) -> dict:
    """What a run of cartpole-goals with every comparison leaves behind, made up."""
    rng = np.random.default_rng(seed)
    n, total = 10, 1_228_800
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    names = [f"goal{(-1, 0, 1)[label]:+d}-{i}" for i, label in enumerate(labels)]
    groups = [[name for name, label in zip(names, labels, strict=True) if label == g] for g in range(3)]
    same = labels[:, None] == labels[None, :]
    matrix = np.where(same, 0.021, -0.006) + rng.normal(0, 0.003, (n, n))
    matrix = (matrix + matrix.T) / 2

    def method(mean, width, partition, equal=True, steps=total, **more):
        per_task = (mean + rng.normal(0, 8, n)).tolist()
        interval = [mean - width, mean + width]
        entry = {"groups": partition, "metric": "return", "mean": mean, "ci95": interval}
        return entry | {"per_task": per_task, "env_steps": steps, "equal_steps": equal, **more}

    single = [[name] for name in names]
    methods = {
        "policygradex": method(149.6, 2.3, groups),
        "multitask": method(61.9, 4.1, [names]),
        "multitask_conditioned": method(138.2, 3.8, [names], note="is told which task it is in"),
        "single_task": method(86.4, 6.0, single),
        "random": method(70.5, 5.2, None, note="mean over 3 draws"),
        "gradient_similarity": method(141.0, 3.1, groups, label="Gradient-similarity groups (dot product)"),
        "gradient_similarity_cosine": method(124.0, 7.5, groups[:2]),
        "true_groups": method(151.2, 2.0, groups),
        "true_groups_same_steps_per_policy": method(153.3, 1.8, groups, equal=False, steps=2_100_000),
    }
    steps = np.linspace(0, total, 60)[1:]
    rise = 1 - np.exp(-5 * steps / total)
    curves = {
        name: {
            "steps": steps.tolist(),
            "return": (12 + (entry["mean"] - 12) * rise + rng.normal(0, 2, 59)).tolist(),
        }
        for name, entry in methods.items()
        if "cosine" not in name and "same_steps" not in name
    }
    candidates = [np.zeros(n, int), labels % 2, labels // 2, labels, labels + (np.arange(n) == 6) * 3]
    candidates.append(np.arange(n))
    return {
        "advice": "",
        "family": "cartpole-goals",
        "n_tasks": n,
        "task_names": names,
        "seed": seed,
        "k": 3,
        "groups": groups,
        "true_groups": groups,
        "methods": methods,
        "gain": {
            "predicted": {"mean": 0.0193, "ci95": [0.0171, 0.0215]},
            "realised": {"mean": 87.7, "ci95": [83.0, 92.4]},
        },
        "affinity": {"matrix": matrix.tolist(), "coverage": np.where(np.eye(n), 36, 8).tolist()},
        "agreement": {"nmi": 1.0, "ari": 1.0, "exact": True},
        "path": {
            "k": [1, 2, 2, 3, 4, 10],
            "score": [-0.0021, 0.0065, 0.0071, 0.0172, 0.0174, 0.0150],
            "stderr": [0.0011, 0.0010, 0.0009, 0.0002, 0.0, 0.0006],
            "difference": [-0.0195, -0.0109, -0.0103, -0.0002, 0.0, -0.0024],
            "chosen": 3,
            "labels": [candidate.tolist() for candidate in candidates],
        },
        "test_tasks": {
            "names": [f"test-{i}" for i in range(6)],
            "method": "A test task joins the group whose policy does best in 8 episodes of its own.",
            "mean": 146.1,
            "ci95": [141.0, 151.2],
            "assigned": [0, 1, 2, 0, 1, 2],
        },
        "curves": curves,
        "diagnostics": {"relative_distance": 0.034, "subsets": 120, "ridge_unit": 0.00123, "clipped": False},
        "timings": {
            "stages": {
                "report": 2.2,
                "meta_policy": 22.4,
                "collect": 3.1,
                "features": 2.4,
                "surrogates": 0.31,
                "scores": 0.22,
                "affinity": 0.01,
                "grouping": 0.84,
                "policies": 31.0,
                "compare": 64.9,
                "test_tasks": 4.0,
            },
            "total": 133.0,
            "date": "2025-01-01T00:00:00",
        },
    }


CONFIG = {
    "family": "cartpole-goals",
    "seed": 0,
    "ppo": {"learning_rate": 0.001, "clip": 0.2, "hidden": [64, 64], "anneal": True, "target": None},
    "estimate": {"dim": 400, "l2": 1.0, "score": "heldout"},
    "versions": {"jax": "0.10.2", "numpy": "2.1.0", "python": "3.12.3"},
    "commit": "0123abc",
    "device": "cpu",
}


def render(results: dict, folder) -> str:
    results["advice"] = report.advice(results)
    return report.build(results, CONFIG, folder).read_text("utf-8")


def one_group(results: dict) -> dict:
    """The same run, had it found nothing to split and had no planted groups."""
    for name in ("true_groups", "true_groups_same_steps_per_policy"):
        results["methods"].pop(name)
        results["curves"].pop(name, None)
    results.update(k=1, groups=[results["task_names"]], true_groups=None, agreement=None, test_tasks=None)
    results["path"].update(chosen=0, score=[0.0121, 0.0118, 0.0120, 0.0119, 0.0115, 0.0090])
    results["path"].update(difference=[0.0, -0.0003, -0.0001, -0.0002, -0.0006, -0.0031])
    gain = {"mean": -0.8, "ci95": [-2.5, 0.9]}
    results["gain"] = {"predicted": {"mean": 0.0001, "ci95": [-0.0007, 0.0009]}, "realised": gain}
    return results


def with_gain(k: int, predicted, realised) -> dict:
    entry = {"groups": None, "metric": "return", "mean": 1.0, "ci95": None, "env_steps": 480_000}
    gains = {"predicted": predicted, "realised": realised}
    gains = {
        key: value and {"mean": value[0], "ci95": list(value[1:]) or None} for key, value in gains.items()
    }
    return {"k": k, "n_tasks": 10, "methods": {"policygradex": entry}, "gain": gains}


UP, FLAT, DOWN = (2.0, 1.0, 3.0), (0.5, -1.0, 2.0), (-2.0, -3.0, -1.0)


@pytest.mark.parametrize(
    ("k", "predicted", "realised", "kind", "start", "parts"),
    [
        (3, UP, UP, "gain", "Group: train these 10 tasks in 3 groups;", ["+2.0 [1.0, 3.0] in mean return"]),
        (10, UP, UP, "gain", "Group: train one policy for each of these 10 tasks;", ["total of 480k"]),
        (3, DOWN, UP, "gain", "Group:", ["predicted gain over one policy for all is -2.0 [-3.0, -1.0]"]),
        (
            3,
            UP,
            FLAT,
            "no_gain",
            "Don't group:",
            ["nothing is gained by 3 groups", "can't be told from zero"],
        ),
        (3, UP, DOWN, "loss", "Don't group:", ["gain nothing and lose something", "-2.0 [-3.0, -1.0]"]),
        (
            3,
            UP,
            (2.0,),
            "no_gain",
            "Don't group:",
            ["nothing is gained", "+2.00 in mean", "without an interval"],
        ),
        (3, UP, None, "predicted", "Group:", ["+2.0 [1.0, 3.0]", "the realised gain was not measured"]),
        (3, FLAT, None, "not_predicted", "Don't group:", ["no gain by 3 groups is shown", "not measured"]),
        (3, (2.0,), None, "not_predicted", "Don't group:", ["no gain by 3 groups is shown"]),
        (3, None, None, "not_predicted", "Don't group:", ["was not predicted", "was not measured"]),
        (
            1,
            FLAT,
            FLAT,
            "no_gain",
            "Don't group: train one policy for all 10 tasks",
            ["nothing is gained by split"],
        ),
        (1, FLAT, UP, "no_gain", "Don't group:", ["nothing is gained", "+2.0 [1.0, 3.0]"]),
        (1, FLAT, DOWN, "no_gain", "Don't group:", ["nothing is gained", "-2.0 [-3.0, -1.0]"]),
        (1, UP, None, "not_predicted", "Don't group:", ["nothing is gained", "not measured"]),
        (3, UP, (float("nan"), 0, 1), "predicted", "Group:", ["not measured"]),
        (3, UP, (2.0, float("nan"), 3.0), "no_gain", "Don't group:", ["without an interval"]),
    ],
)
def test_the_advice_says_what_was_found(k, predicted, realised, kind, start, parts):
    results = with_gain(k, predicted, realised)
    sentence = report.advice(results)
    assert report.verdict(results) == kind
    assert sentence.startswith(start) and sentence.endswith(".")
    assert sentence.count(". ") == 0, "one sentence"
    for part in parts:
        assert part in sentence
    assert sentence.startswith("Group") == (kind in ("gain", "predicted"))


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


def test_the_page_needs_no_other_file(tmp_path):
    html = render(example_results(), tmp_path)
    found = check(html)
    assert not {"script", "link", "iframe", "object", "img"} & set(found.tags)
    assert found.links, "the figures refer to their own marks"
    for link in found.links:
        assert link.startswith("data:image/png") or link[1:] in found.ids
    for target in re.findall(r"url\(([^)]*)\)", html):
        assert target.strip("\"'")[1:] in found.ids
    assert "@import" not in html and "nan" not in " ".join(found.words).lower().split()


def test_every_method_setting_task_and_figure_appears(tmp_path):
    results = example_results()
    html = render(results, tmp_path)
    words = unescape(re.sub(r"<[^>]+>", " ", html)).replace("−", "-")
    assert words.index(results["advice"]) < words.index("Comparison")
    for name in [*results["methods"], *results["task_names"], *results["test_tasks"]["names"]]:
        assert name in words
    for text in (
        "Gradient-similarity groups (dot product)",
        "is told which task it is in",
        "149.6 [147.3, 151.9]",
    ):
        assert text in words
    for text in ("2.1M", "146.1 [141.0, 151.2]", "exactly the true ones", "0.0171, 0.0215", "2 min 13 s"):
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
    assert html.count("<svg ") == len(figures.DRAWERS) == html.count("<figcaption>")


def test_figures_are_png_files_with_something_on_them(tmp_path):
    render(example_results(), tmp_path)
    files = sorted((tmp_path / "figures").iterdir())
    assert [file.stem for file in files] == sorted(figures.DRAWERS)
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        pixels = imread(file)
        assert min(pixels.shape[:2]) > 300
        inked = (np.abs(pixels[..., :3] - 1).max(axis=-1) > 0.2).mean()
        assert 0.005 < inked < 0.8, file.name
        colours = np.unique((pixels[..., :3] * 15).astype(int) @ [256, 16, 1])
        assert len(colours) > 30, file.name


def test_one_group_and_no_planted_truth(tmp_path):
    html = render(one_group(example_results()), tmp_path)
    check(html)
    assert "nothing is gained" in html and "No gain" in html
    assert "adjusted Rand" not in html and "Unseen test tasks" not in html and "True groups" not in html
    assert "<h3>Group 1<span>10 tasks" in html and "Group 2" not in html


def test_nothing_compared_and_k_given(tmp_path):
    results = example_results()
    ours = results["methods"]["policygradex"]
    results.update(methods={"policygradex": ours}, curves=None, path=None, test_tasks=None)
    results["gain"] = {"predicted": results["gain"]["predicted"], "realised": None}
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/path.png").write_bytes(b"stale")
    (tmp_path / "figures/mine.png").write_bytes(b"kept")
    html = render(results, tmp_path)
    check(html)
    assert "the realised gain was not measured" in html and "none is measured" in html
    assert "k was given" in html or "number of groups was given" in html
    written = {file.name for file in (tmp_path / "figures").iterdir()}
    assert written == {"affinity.png", "methods.png", "mine.png", "per_task.png", "pipeline.png"}


@pytest.mark.parametrize(
    "missing", ["affinity", "path", "curves", "timings", "diagnostics", "gain", "agreement"]
)
def test_any_missing_part_is_left_out(missing):
    results = example_results()
    results.pop(missing)
    check(page.render(results, CONFIG, {}))
    lost = {"timings": {"pipeline"}, "diagnostics": set(), "gain": set(), "agreement": set()}.get(
        missing, {missing}
    )
    drawn = {name for name, drawer in figures.DRAWERS.items() if drawer(results) is not None}
    assert set(figures.DRAWERS) - drawn == lost


def test_holes_in_the_numbers_do_not_break_the_page(tmp_path):
    results = example_results()
    results["methods"]["multitask"].update(mean=float("nan"), ci95=None, per_task=None, env_steps=None)
    results["methods"]["single_task"]["per_task"][3] = None
    results["methods"]["random"]["ci95"] = [float("-inf"), 1.0]
    results["curves"]["random"]["return"][0] = float("nan")
    results["affinity"]["matrix"][0][1] = float("nan")
    results["path"]["stderr"][2] = None
    results["path"]["score"][5] = None
    results["methods"] = {
        name: dict(entry, groups=entry["groups"] or None) for name, entry in results["methods"].items()
    }
    results["affinity"] = {key: np.array(value, dtype=float) for key, value in results["affinity"].items()}
    found = check(render(results, tmp_path))
    assert "nan" not in " ".join(found.words).lower().split()


def test_names_are_shown_as_text_and_never_run(tmp_path):
    results = example_results()
    evil = '<script>alert("x")</script> & $x_1$ href="#" [bold]'
    text = json.dumps(results).replace(results["task_names"][0], json.dumps(evil)[1:-1])
    results = json.loads(text)
    results["methods"]["random"].update(label=evil, note=evil)
    found = check(render(results, tmp_path))
    assert "script" not in found.tags
    assert sum(evil in words for words in found.words) > 3
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(report.terminal_table(results))
    assert "[bold]" in console.export_text()


def test_equal_results_give_an_equal_page(tmp_path):
    first = render(example_results(), tmp_path / "a")
    through_json = json.loads(serial.dumps(example_results()))
    assert render(through_json, tmp_path / "b") == first


def test_stages_stand_in_the_order_of_the_method():
    stages = [name for name, _ in wording.stage_seconds(example_results())]
    assert stages[:3] == ["meta_policy", "collect", "features"]
    assert (
        stages.index("grouping") < stages.index("policies") < stages.index("compare") < stages.index("report")
    )
    own = {"timings": {"stages": [["b", 1], ["a", 2.0], ["broken", None]]}}
    assert wording.stage_seconds(own) == [("b", 1.0), ("a", 2.0)]
    assert wording.total_seconds(own) == 3.0 and wording.total_seconds({}) is None


def test_the_axes_show_the_numbers():
    results = example_results()
    drawn = figures.draw_all(results)
    bars = drawn["per_task"].axes[0].containers[0]
    order = [name for group in results["groups"] for name in group]
    ours = dict(zip(results["task_names"], results["methods"]["policygradex"]["per_task"], strict=True))
    assert [bar.get_height() for bar in bars] == pytest.approx([ours[name] for name in order])
    image = np.asarray(drawn["affinity"].axes[0].images[0].get_array())
    position = [results["task_names"].index(name) for name in order]
    matrix = np.array(results["affinity"]["matrix"])[np.ix_(position, position)]
    off = ~np.eye(10, dtype=bool)
    assert image[off] == pytest.approx(matrix[off])
    lengths = [bar.get_width() for bar in drawn["pipeline"].axes[0].patches[:11]]
    assert max(lengths) == pytest.approx(64.9) and sum(lengths) == pytest.approx(131.4, abs=2)
    curve = max(drawn["curves"].axes[0].lines, key=lambda line: line.get_linewidth())
    assert curve.get_ydata()[-1] == pytest.approx(results["curves"]["policygradex"]["return"][-1])
    assert curve.get_xdata()[-1] == pytest.approx(1_228_800)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((149.6, 147.3, 151.9), "149.6 [147.3, 151.9]"),
        ((0.01934, 0.0171, 0.0215), "0.0193 [0.0171, 0.0215]"),
        ((1234.5, 1000.0, 1469.0), "1234 [1000, 1469]"),
        ((0.0, None, None), "0.0"),
        ((5.0, 5.0, 5.0), "5.00 [5.00, 5.00]"),
        ((None, None, None), "–"),
    ],
)
def test_numbers_are_rounded_to_what_their_interval_supports(value, text):
    assert wording.with_interval(wording.Estimate(*value)) == text


def test_steps_and_durations_are_short():
    assert [wording.steps(x) for x in (None, 999, 480_000, 999_900, 1_228_800, 2e9)] == [
        *("–", "999", "480k", "1M", "1.23M", "2G")
    ]
    assert [wording.duration(x) for x in (0.04, 41.23, 59.99, 125, 4320)] == [
        *("0.04 s", "41.2 s", "60.0 s", "2 min 5 s", "1 h 12 min")
    ]


def test_the_terminal_table_lists_every_method():
    results = example_results()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.terminal_table(results))
    text = console.export_text()
    rows = [line for line in text.splitlines() if "1.23M" in line or "2.1M" in line]
    assert len(rows) == len(results["methods"]) and "PolicyGradEx (ours)" in rows[0]
    assert "149.6 [147.3, 151.9]" in rows[0] and "same total" in text
    assert sum(" *" in row for row in rows) == 1


def test_results_that_are_no_run_are_refused(tmp_path):
    with pytest.raises(DataError, match="lack task_names, groups"):
        report.build({"n_tasks": 3, "k": 1, "methods": {}}, {}, tmp_path)
