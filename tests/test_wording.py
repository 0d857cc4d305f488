"""How results are put into words: the numbers, the stages, the table of the terminal."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from pgx_jax import report
from pgx_jax.compare.results import Interval, Timings
from pgx_jax.report import wording


def test_words_and_advice_load_nothing_to_draw_with():
    script = "import sys, pgx_jax.report.wording, pgx_jax.report.conclusion; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "msgspec" in loaded and not loaded & {"rich", "jinja2", "matplotlib", "numpy", "jax"}


def test_stages_stand_in_the_order_in_which_they_ran(run_results):
    names = [name for name, _ in wording.stage_seconds(run_results.timings)]
    assert names[:2] == ["meta", "transitions"] and names[-3:] == ["similarity", "comparisons", "evaluation"]
    assert [name for name in names if not wording.belongs_to_method(name)] == names[-3:]
    own = Timings([("b", 1.0), ("a", 2.0), ("broken", None)])
    assert wording.stage_seconds(own) == [("b", 1.0), ("a", 2.0)]
    assert wording.total_seconds(own) == 3.0 and wording.total_seconds(Timings()) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((149.6, 147.3, 151.9), "149.6 [147.3, 151.9]"),
        ((0.01934, 0.0171, 0.0215), "0.0193 [0.0171, 0.0215]"),
        ((1234.5, 1000.0, 1469.0), "1234 [1000, 1469]"),
        ((0.0, None, None), "0.0"),
        ((5.0, 5.0, 5.0), "5.00 [5.00, 5.00]"),
        ((None, None, None), "–"),
        ((-0.001, -0.9, 0.9), "0.00 [-0.90, 0.90]"),
    ],
)
def test_numbers_are_rounded_to_what_their_interval_supports(value, text):
    mean, low, high = value
    assert wording.with_interval(Interval(mean, None if low is None else (low, high))) == text


def test_steps_and_durations_are_short():
    assert [wording.steps(x) for x in (None, 999, 480_000, 999_900, 1_228_800, 2e9)] == [
        *("–", "999", "480k", "1M", "1.23M", "2G")
    ]
    assert [wording.duration(x) for x in (0.04, 41.23, 59.99, 125, 4320)] == [
        *("0.04 s", "41.2 s", "60.0 s", "2 min 5 s", "1 h 12 min")
    ]


def test_the_terminal_table_lists_every_method(run_results):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.terminal_table(run_results))
    text = console.export_text()
    rows = [line for line in text.splitlines() if "1.23M" in line or "2.1M" in line]
    assert len(rows) == len(wording.ordered_methods(run_results.methods)) and "PolicyGradEx (ours)" in rows[0]
    assert "149.6 [147.3, 151.9]" in rows[0] and "same total" in text
    assert sum(" *" in row for row in rows) == 1


def test_methods_with_the_same_groups_stand_once_under_all_their_names(run_results):
    methods = run_results.methods
    shown = [name for name in wording.ordered_methods(methods) if "similarity" in name]
    assert shown == ["gradient_similarity_cosine", "gradient_similarity_dot"]
    label = wording.method_label(methods, "gradient_similarity_dot")
    assert label == "Gradient similarity (dot, whitened)"  # at our k, dot comes to the same as alone
    name = "gradient_similarity_dot_our_k"
    assert name in wording.ordered_methods(methods, every=True)
    assert wording.method_label(methods, name, alone=True) == "Gradient similarity (dot at our k)"
