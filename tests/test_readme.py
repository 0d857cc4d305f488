"""The commands, snippets, names and links of README and docs."""

import importlib.util
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import pgx_jax
from pgx_jax import estimate, learn
from pgx_jax.tasks.checks import check_family

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.is_file(), reason="no checkout around the tests")

PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {"spaces.md": "test_spaces", "policies.md": "test_exporting", "watching.md": "test_planning"}
"""Pages whose examples other tests execute, and which."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def snippets() -> dict[str, str]:
    """The Python of all pages, by page and heading above it."""
    found = {}
    for page in (page for page in PAGES if page.name not in ELSEWHERE):
        text, heading = page.read_text(), ""
        for title, code in re.findall(r"^#+ ([^\n]*)$|```python\n(.*?)```", text, re.M | re.DOTALL):
            heading = title or heading
            if code:
                found[f"{page.relative_to(ROOT)}: {heading}"] = code
    return found


SNIPPETS = snippets()
LEARNT = "README.md: Install and run"
"""The one whose groups are learnt at its own size."""
RUNS = {
    f"{page}: {heading}"
    for page, heading in (
        ("README.md", "Your own environment"),
        ("docs/guides/environment.md", "gymnax"),
        ("docs/guides/environment.md", "Brax"),
        ("docs/guides/environment.md", "Vector rewards"),
    )
}
STAGES = "docs/tutorial.md: The same from Python"
GROUPED = {
    f"docs/guides/data.md: {name}" for name in ("From logged steps", "Preferences of a language model")
}
MODULES = {
    "docs/guides/data.md: A module of Flax NNX": "flax",
    "docs/guides/data.md: A module of Equinox": "equinox",
}
"""What goes on from the first of those, and the library that it needs."""
MADE = {
    "docs/guides/environment.md: Written from scratch": "family",
    "docs/guides/network.md: Your own network": "policy",
    "docs/guides/learner.md: Your own learner": "config",
    "docs/guides/score.md: Your own score, projection or solver": "config",
}
"""What they make that `test_what_snippets_make_works` tries."""


def test_every_python_block_is_executed():
    count = sum(len(blocks(page, "python")) for page in PAGES if page.name not in ELSEWHERE)
    assert set(SNIPPETS) == {LEARNT, STAGES, *RUNS, *GROUPED, *MODULES, *MADE} and len(SNIPPETS) == count


def execute(name: str, folder, monkeypatch, before: dict | None = None) -> dict:
    code = SNIPPETS[name]
    lines = code.splitlines()
    assert sum(map(bool, lines)) <= 20 and max(map(len, lines)) <= 110
    monkeypatch.chdir(folder)
    names = {"__name__": "example"} | (before or {})
    exec(compile(code, name, "exec"), names)
    return names


def test_the_python_example_runs_and_recovers_the_groups(tmp_path, monkeypatch):
    names = execute(LEARNT, tmp_path, monkeypatch)
    results = names["run"].results
    (split, *_) = [look for look in results.looks if len(look.groups) > 1]
    assert split.tasks == results.task_names and sorted(split.groups) == sorted(results.true_groups)
    planted = [set(group) for group in results.true_groups]  # which a further look may split on
    assert results.k > 1 and all(any(set(group) <= true for true in planted) for group in results.groups)
    assert (tmp_path / "runs" / "points" / "report.html").stat().st_size > 10_000
    assert names["action"].shape == (2,) and abs(names["action"]).max() <= 1


SMALL = {
    "min_updates": 1, "looks": 1, "policy": pgx_jax.PolicyConfig(hidden=(8, 8)),
    "estimate": pgx_jax.EstimateConfig(steps=960, num_envs=16, dim=48),
}  # fmt: skip


@pytest.fixture
def fewer_steps(monkeypatch):
    """Settings of runs are small where the examples don't give them, and a quarter of their steps is trained;
    nothing is compiled but what is needed."""

    def settings(steps_per_task, **given):
        return pgx_jax.config.Config(steps_per_task=steps_per_task // 4, **(SMALL | given))

    monkeypatch.setattr(pgx_jax, "Config", settings)
    monkeypatch.setattr(pgx_jax.Run, "rehearses", False)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_examples_of_runs(name, tmp_path, monkeypatch, fewer_steps):
    names = execute(name, tmp_path, monkeypatch)
    family, results = names["family"], names["run"].results
    assert sorted(sum(results.groups, [])) == sorted(family.task_names)
    assert all(abs(mean) < 1e9 for mean in results.methods["policygradex"].per_task)


def test_the_stages_of_the_tutorial(tmp_path, monkeypatch):
    """With the programs of the README's example."""
    run = execute(STAGES, tmp_path, monkeypatch)["run"]
    assert run.features.values.shape[:2] == run.transitions.advantage.shape


@pytest.mark.parametrize("name", sorted(GROUPED))
def test_examples_of_ones_own_data_tell_the_tasks_apart(name, tmp_path, monkeypatch):
    names = execute(name, tmp_path, monkeypatch)
    assert names["found"].grouping.labels.tolist() == [0, 0, 1, 1]
    assert names["found"].predicted["ci95"][0] > 0


def test_examples_of_modules_tell_the_tasks_apart(tmp_path, monkeypatch):
    before = execute("docs/guides/data.md: From logged steps", tmp_path, monkeypatch)
    for name, library in MODULES.items():
        if importlib.util.find_spec(library):  # the extra `test` has it
            names = execute(name, tmp_path, monkeypatch, before)
            assert names["found"] is not before["found"]
            assert names["found"].grouping.labels.tolist() == [0, 0, 1, 1]


@pytest.fixture
def tables():
    """What examples add to tables is gone afterwards."""
    known = [(table, dict(table)) for table in (learn.NETWORKS, learn.LEARNERS, estimate.SIMILARITIES)]
    yield
    for table, before in known:
        table.clear()
        table.update(before)


def test_what_snippets_make_works(tmp_path, monkeypatch, tables):
    """By tracing, as a run does before any work."""
    family, policy, learner, similar = (
        execute(name, tmp_path, monkeypatch)[what] for name, what in MADE.items()
    )
    check_family(family)
    goals = pgx_jax.make_family("cartpole-goals")
    made = learn.make_policy(goals, network=policy.network)
    agent = learn.check_networks(made, goals)
    assert agent.actor["params"]["Dense_1"]["kernel"].shape == (
        4,
        16,
    )  # named where they are made: outside in
    patient = learn.with_options(learn.LEARNERS[learner.learner](), "patient", {"gae_lambda": 0.9})
    learn.check_learner(patient, made, goals, agent, "patient")
    assert patient.gamma == 0.999 and learner.learner_options == ("gae_lambda=0.9",)
    signs = estimate.similarity(np.random.default_rng(0).normal(size=(4, 5)), kind=similar.similarities[1])
    assert (np.diag(signs) == 1).all()


def test_every_name_works_as_written():
    """What the text calls pgx_jax.… is there."""
    texts = "".join(page.read_text() for page in PAGES)
    names = set(re.findall(r"`(pgx_jax(?:\.\w+)+)", texts)) | set(re.findall(r"^::: (\S+)$", texts, re.M))
    assert {"pgx_jax.show.roll_out", "pgx_jax.learn.NETWORKS", "pgx_jax.tasks.HostEnv"} <= names
    for name in names:
        found(name)


def found(name: str):
    """What has a dotted name."""
    place, rest = pgx_jax, name.split(".")[1:]
    for i, part in enumerate(rest, 2):
        if part in getattr(place, "__dataclass_fields__", {}):
            continue
        if not hasattr(place, part):
            importlib.import_module(".".join(name.split(".")[:i]))
        place = getattr(place, part)
    return place


def test_the_api_has_every_public_name():
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    told = re.findall(r"^::: (\S+)$", pages, re.M)
    modules = {name for name in told if inspect.ismodule(found(name))}
    for name in pgx_jax.__all__:
        value = getattr(pgx_jax, name)
        if inspect.ismodule(value):
            here = name in ("config", "runs")  # whose names stand in `pgx_jax` itself
            assert here or any(each.startswith(f"pgx_jax.{name}") for each in told), name
        else:
            room = any(name in getattr(found(module), "__all__", ()) for module in modules)
            here = any(getattr(found(module), name, None) is value for module in modules)
            assert f"pgx_jax.{name}" in told or room or here, name


def test_continuous_integration_runs_the_command_of_the_readme():
    commands = [line for block in blocks(README, "sh") for line in block.splitlines()]
    tests = [line for line in commands if line.endswith("&& pytest")]
    assert len(tests) == 1 and "git clone" in commands[0] and "pgx-jax run cartpole-goals" in commands[1]
    pattern = re.search(r"s/\^\\\((.*?)\\\)\$/", (ROOT / ".ci" / "run").read_text())[1]
    assert re.fullmatch(pattern, tests[0])


def test_the_readme_is_one_page():
    words = re.sub(r"```.*?```", "", README.read_text(), flags=re.DOTALL).split()
    assert len(words) <= 900


def test_every_page_has_a_place_in_the_site():
    nav = (ROOT / ".mkdocs.yml").read_text()
    wanted = [str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]]
    wanted += [f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert not [page for page in wanted if f" {page}\n" not in nav]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
