"""Make the results of README and docs from the result files: `python benchmarks/figures.py`.

What stands between markers in README.md is rewritten, and so are the pages of results in docs/; the figures
are drawn anew. Nothing is measured here and nothing is typed by hand; a result file that is missing
leaves a note.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ablation_tables
import approximation_tables
import calibration_tables
import cost_tables
import drawings
import environment_tables
import generalisation_tables
import language_tables
import learning_tables
import main_tables
import meta_tables
import metaworld_drawings
import metaworld_tables
import paper_tables
import scale_tables
import tables
import time_tables
import truth_tables
import tyro
from common import RESULTS, ROOT, changed, plain, read
from tables import Section

from pgx_jax.config import Config
from pgx_jax.report.wording import duration, flatten
from pgx_jax.runs.serial import write_atomically

MARKS = "<!-- {}:begin -->", "<!-- {}:end -->"
"""Around a part of the README, with its name in `PARTS`."""

STUDY = "python benchmarks/study.py"
FAMILIES = {f"study_{name}": f"{STUDY} {name}" for name in ("points", "points_hard", "flip", "physics")}


def by_script(title: str, name: str, table: Callable[[Mapping], str]) -> Section:
    """A section whose one result file has a script of its name."""
    return Section(title, {name: f"python benchmarks/{name}.py"}, table)


BROUGHT = ("highway_objectives", "reacher", "highway_traffic", "halfcheetah", "lunarlander")
BUDGETS = {
    "budget_goals": "10 tasks in 3 groups",
    "budget_goals_5": "10 tasks in 5 groups",
    "budget_goals_30": "30 tasks in 3 groups",
    "budget_points_hard": "points-hard",
    "budget_physics": "cartpole-physics, without conflict",
    "budget_reacher": "reacher-targets",
    "budget_highway_objectives": "highway-objectives",
}
ABLATIONS = {"ablations": "python benchmarks/ablations.py"}


class Page(NamedTuple):
    """A page of results in docs/."""

    title: str
    says: str
    """What it is about."""
    sections: tuple[Section, ...]


PAGES = {
    "results_returns.md": Page(
        "What methods earn",
        "every method on every family; returns by budget, number of tasks and groups, on unseen tasks, and "
        "of a language model",
        (
            Section(
                "Every method on every family",
                {
                    "main_table": "python benchmarks/main_table.py",
                    "method_search": "python benchmarks/method_search.py",
                },
                lambda found: (
                    main_tables.overview(found["main_table"], found["method_search"])
                    if found["main_table"]
                    else ""
                ),
                waits=True,
            ),
            Section(
                "The first moments on unseen tasks",
                {
                    "meta_rl": "python benchmarks/meta_rl.py",
                    "meta_search": "python benchmarks/meta_search.py",
                },
                lambda found: (
                    meta_tables.overview(found["meta_rl"], found["meta_search"]) if found["meta_rl"] else ""
                ),
                waits=True,
            ),
            Section(
                "Objectives of a language model",
                {"language": "python benchmarks/language.py"},
                language_tables.language,
                waits=True,
            ),
            *(
                Section(
                    f"Return against budget: {title}",
                    {f"study_{name}": f"{STUDY} {name}"},
                    tables.by_budget,
                    waits=True,
                )
                for name, title in BUDGETS.items()
            ),
            Section("CartPole with hidden goals", {"study_goals": f"{STUDY} goals"}, tables.goals),
            Section(
                "The same on family seeds that nothing was tuned on",
                {"study_goals_fresh": f"{STUDY} goals_fresh"},
                tables.goals,
            ),
            Section("Other families", FAMILIES, tables.families),
            Section(
                "Highway, Brax and LunarLander",
                {f"study_{name}": f"{STUDY} {name}" for name in BROUGHT},
                tables.families,
            ),
            Section(
                "Many planted groups, at 123k steps a task",
                {f"study_{name}": f"{STUDY} {name}" for name in ("many_10_5", "many_13_4", "many_16_5")},
                tables.families,
                waits=True,
            ),
            Section(
                "All 52 partitions of five tasks",
                {f"study_{name}": f"{STUDY} {name}" for name in ("oracle_goals", "oracle_points_hard")},
                tables.families,
                waits=True,
            ),
            Section(
                "How often to look, and what groups start from",
                {"study_looks": f"{STUDY} looks"},
                tables.looks,
                waits=True,
            ),
            Section("Numbers of tasks and groups", {"study_sizes": f"{STUDY} sizes"}, tables.sizes),
            Section("Rewards of different scales", {"study_scales": f"{STUDY} scales"}, tables.sizes),
            Section("Every option", {"study_options": f"{STUDY} options"}, tables.options),
            by_script("Batches and entropy bonuses", "search", tables.search),
        ),
    ),
    "results_estimate.md": Page(
        "How good the estimate is, and what it costs",
        "calibration, certainty of groups, estimates against true training, errors of first order, "
        "generalisation, many tasks, projections",
        (
            by_script("Calibration", "calibration", calibration_tables.calibration),
            by_script("How certain groups are", "stability", calibration_tables.stability),
            by_script("Estimated against true", "truth", truth_tables.truth),
            by_script("First order", "approximation", approximation_tables.first_order),
            by_script("Generalisation", "generalisation", generalisation_tables.generalisation),
            by_script("Cost of the estimate", "estimation", cost_tables.estimation),
            by_script("All surrogates at once", "surrogates", cost_tables.surrogates),
            Section("Many tasks", {"scale": "python benchmarks/scale.py"}, scale_tables.scale, waits=True),
            by_script("Gradient features", "features", cost_tables.features),
            by_script("Precision of the projection", "precision", cost_tables.precision),
            by_script("Other projections than the Gaussian", "projections", cost_tables.projections),
            Section(
                "What these studies take",
                time_tables.COMMANDS,
                time_tables.times,
                waits=True,
                figures=(),
                sourced=False,
            ),
        ),
    ),
    "results_ablations.md": Page(
        "What every setting does",
        "one setting at a time, with what to set",
        (
            Section("How to read this page", ABLATIONS, ablation_tables.introduction, waits=True, figures=()),
            *(
                Section(
                    words.title,
                    ABLATIONS,
                    partial(ablation_tables.ablation, axis=axis),
                    waits=True,
                    figures=(f"ablation_{axis}",),
                )
                for axis, words in ablation_tables.WORDS.items()
            ),
        ),
    ),
    "results_training.md": Page(
        "Training and environments",
        "PPO beside its peers and option by option, MT10, speed of everything",
        (
            by_script("PPO on stock environments", "ppo", cost_tables.ppo),
            by_script("PPO's learning curves and a peer's", "curves", learning_tables.curves),
            by_script("Options of PPO", "ppo_options", learning_tables.ppo_options),
            by_script("Other libraries on one core", "peers", cost_tables.peers),
            by_script("Highway, highway-env and EnvPool", "highway", environment_tables.highway),
            Section(
                "Meta-World's MT10",
                {"mt10": "python benchmarks/mt10.py --preset quick, then standard"},
                metaworld_tables.mt10,
                waits=True,
            ),
            by_script("The default command", "default_command", cost_tables.default_command),
            Section(
                "This code against an earlier one",
                {"against": "python benchmarks/against.py CHECKOUT"},
                cost_tables.against,
            ),
            by_script("Starting", "startup", cost_tables.startup),
            by_script("Rows of one program", "rows", cost_tables.rows),
            by_script("Steps of environments", "environments", environment_tables.environments),
        ),
    ),
}
"""By their names in docs/."""
SECTIONS = tuple(section for page in PAGES.values() for section in page.sections)


DOCUMENTED = ("main_table", "method_search", "meta_rl", "meta_search", "mt10")
"""Result files of the tables in docs/."""


@dataclass(frozen=True)
class Settings:
    """Write the results of the README and of docs/, and their figures, from the result files."""

    check: bool = False
    """Write nothing; exit with 1 if the README or a page is stale."""
    results: Path = RESULTS
    """Folder of the result files."""
    readme: Path = ROOT / "README.md"
    """File with the markers; the folder docs is beside it."""
    figures: bool = True
    """Draw the figures, too."""


def load(section: Section, folder: Path) -> dict[str, dict]:
    """The section's result files that exist and hold something."""
    paths = {name: folder / f"{name}.json" for name in section.sources}
    found = {name: read(path) for name, path in paths.items() if path.exists()}
    return {name: data for name, data in found.items() if data["cells"]}


def source(name: str, command: str, data: Mapping | None) -> str:
    """Where a table comes from: the command, and every environment that its cells ran in."""
    if data is None:
        return f"<sub>Not measured yet: `{name}.json`, made by `{command}`.</sub>"
    runs = f"{tables.seeds(data['cells'])}; " if name.startswith("study_") else ""
    used = sorted({cell["environment"] for cell in data["cells"]})
    places = _places(data["environments"][i] for i in used)
    notes = dict.fromkeys(f" {cell['note']}." for cell in data["cells"] if "note" in cell)
    notes |= dict.fromkeys(other_defaults(data))
    what = f"[`{name}.json`](benchmarks/results/{name}.json), `{command}`: {runs}{places}.{''.join(notes)}"
    return f"<sub>{what}</sub>"


def other_defaults(data: Mapping) -> list[str]:
    """What a study's defaults were, where they are other numbers today; a sentence, or none."""
    before, now = data["settings"].get("defaults", {}), plain(Config())
    told, numbers = dict(flatten(before)), dict(flatten(now))
    names = [name for name in changed(before, now) if numbers.get(name, "").replace(".", "", 1).isdigit()]
    words = [f"{name} = {told[name]}" if name in told else f"no {name}" for name in (names if before else ())]
    return [f" Of older code, with other defaults: {', '.join(words)}."] if words else []


def _places(environments: Iterable[Mapping]) -> str:
    """Machines, and the commits that ran on each."""
    commits: dict[str, list[str]] = {}
    for each in environments:
        cores, version = tables.plural(each["cores"], "core"), each["versions"]["jax"]
        device = "" if each["device"].startswith("cpu") else f"{each['device']}, "
        known = commits.setdefault(f"{device}{each['processor']}, {cores}, jax {version}", [])
        known += [] if each["commit"] in known else [each["commit"]]
    return "; ".join(
        f"{place}, commit{'s' * (len(several) > 1)} {', '.join(several)}"
        for place, several in commits.items()
    )


def figures_of(section: Section, source_name: str, data: Mapping) -> list[str]:
    """Names of the figures that a section shows of one of its sources."""
    names = drawings.of_source(source_name, data)
    return [name for name in names if section.figures is None or name in section.figures]


def render(section: Section, folder: Path) -> str:
    """A section, with links as of the README; a note where a result file is missing."""
    found = load(section, folder)
    pieces = [f"### {section.title}"]
    for name, data in found.items():
        for figure in figures_of(section, name, data):
            pieces.append(f"![{drawings.TITLES[figure]}](benchmarks/results/figures/{figure}.png)")
    if len(section.sources) > 1 and found:
        pieces.append(
            section.render({name.removeprefix("study_"): found.get(name) for name in section.sources})
        )
    elif found:
        pieces.append(section.render(*found.values()))
    if section.sourced:
        notes = [source(name, command, found.get(name)) for name, command in section.sources.items()]
        pieces.append("<br>\n".join(notes))
    return "\n\n".join(pieces)


INTRO = (
    "Generated by `python benchmarks/figures.py` from the files in `benchmarks/results/`. "
    "Brackets are 95% t-intervals over runs; differences are paired by run. "
    "All methods have the same total of environment steps unless marked †. "
    "Every table names the commit that it was measured at. Before b724860, PPO shuffled its batches in "
    "other ways, and long before it results depended on the number of cores: the studies that are older "
    "would draw other numbers today."
)


def rendered(sections: Sequence[Section], folder: Path) -> list[str]:
    """Those sections that there is something to say of."""
    shown = [section for section in sections if not section.waits or load(section, folder)]
    return [render(section, folder) for section in shown]


def results_text(folder: Path) -> str:
    """What stands between the README's markers of results: a table, and links to the pages."""
    path = folder / "main_table.json"
    shown = main_tables.headline(read(path)) if path.exists() else "Not measured yet: `main_table.json`."
    links = [f"- [{page.title}](docs/{name}): {page.says}" for name, page in PAGES.items()]
    links.append("- [The paper's tables beside ours](docs/paper.md)")
    return "\n\n".join([shown, "More results:", "\n".join(links)])


def output_text(folder: Path) -> str:
    """What the command of the quick start tells at its end, and how long it takes."""
    path = folder / "default_command.json"
    told = [cell for cell in read(path)["cells"] if "told" in cell] if path.exists() else []
    if not told:
        return "Not measured yet: `default_command.json`."
    first = told[0]["timings"]["wall"]
    kept = [cell["timings"]["wall"] for cell in told if cell["cell"].get("programs") == "kept"]
    again = f", {duration(kept[0])} where its programs are known from an earlier run" if kept else ""
    where = _places([read(path)["environments"][told[0]["environment"]]])
    shown = f"```text\n{told[0]['told']}\n```"
    return f"{shown}\n\nAfter {duration(first)}{again} ({where})."


PARTS: dict[str, Callable[[Path], str]] = {"output": output_text, "results": results_text}
"""What the README shows of results, by the names of its marks."""


def page_text(page: Page, folder: Path) -> str:
    """A page of results in docs/."""
    pieces = [f"# {page.title}", INTRO, *rendered(page.sections, folder)]
    return from_docs("\n\n".join(pieces)).replace("\n### ", "\n## ") + "\n"


def from_docs(text: str) -> str:
    """Markdown of the README with links that lead to the same files from docs/."""
    moved = re.sub(r"\]\((?!https?:|#|docs/)", "](../", text)
    return moved.replace("](docs/", "](")


def splice(readme: str, name: str, text: str) -> str:
    """The README with a part of it anew.

    Raises:
        ValueError: it lacks the marks of this part, in this order and once each.
    """
    begin, end = (mark.format(name) for mark in MARKS)
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise ValueError(f"the README needs one {begin} and one {end} behind it")
    before, after = readme[: readme.index(begin)], readme[readme.index(end) :]
    return f"{before}{begin}\n{text}\n{after}"


def documents(folder: Path) -> dict[str, str]:
    """What stands in docs/, by name: the pages, and tables that are too long for them."""
    known = {name: read(path) for name in DOCUMENTED if (path := folder / f"{name}.json").exists()}
    found = {name: page_text(page, folder) for name, page in PAGES.items()}
    if "main_table" in known:
        found["main_table.md"] = main_tables.whole(known["main_table"], known.get("method_search"))
    if "meta_rl" in known:
        found["meta_rl.md"] = meta_tables.whole(known["meta_rl"], known.get("meta_search"))
    if "mt10" in known:
        found["metaworld.md"] = metaworld_page(known["mt10"])
    beside = {name: read(path) for name in paper_tables.SOURCES if (path := folder / f"{name}.json").exists()}
    if beside:
        found["paper.md"] = paper_tables.whole(beside)
    return found


def metaworld_page(data: Mapping) -> str:
    """Meta-World's page, and where it comes from."""
    (section,) = (section for section in SECTIONS if "mt10" in section.sources)
    made = source("mt10", section.sources["mt10"], data)
    return f"{metaworld_tables.whole(data)}\n{from_docs(made)}\n"


def draw(folder: Path) -> dict[str, bytes]:
    """Every figure that the result files have the numbers for: name -> PNG."""
    found = {}
    for section in SECTIONS:
        for source_name, data in load(section, folder).items():
            for name in figures_of(section, source_name, data):
                found[name] = drawings.DRAWERS[name](data)
            if source_name == "mt10":
                found |= metaworld_drawings.draw(data)
    return found


def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    new = settings.readme.read_text()
    try:
        for name, text in PARTS.items():
            new = splice(new, name, text(settings.results))
    except ValueError as error:
        print(f"error: {settings.readme}: {error}", file=sys.stderr)
        return 2
    docs = settings.readme.parent / "docs"
    wanted = {settings.readme: new} | {docs / name: t for name, t in documents(settings.results).items()}
    if settings.check:
        stale = [path for path, t in wanted.items() if not path.exists() or path.read_text() != t]
        told = [f"{path} is stale: run python benchmarks/figures.py" for path in stale]
        print("\n".join(told) or "up to date")
        return int(bool(stale))
    for path, t in wanted.items():
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, t.encode())
    if settings.figures:
        for name, content in draw(settings.results).items():
            target = settings.results / "figures" / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, content)
            print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
