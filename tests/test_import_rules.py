"""Imports point one way, and each environment library is imported in one file.

The rules are the contracts of import-linter in pyproject.toml; here they are run, with those that it has
no words for.
"""

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import grimp
import pytest

import pgx_jax

ROOT = Path(__file__).resolve().parents[1]

LIBRARIES = ("brax", "envpool", "gym", "gymnasium", "gymnax", "highway_env", "metaworld", "mujoco")

pytestmark = pytest.mark.skipif(
    not (ROOT / "pgx_jax").is_dir() or not (ROOT / "envs").is_dir(), reason="no checkout around the tests"
)


def lint(folder: Path) -> str:
    """What import-linter says of the checkout in a folder."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"], cwd=folder, capture_output=True, text=True
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("pgx_jax", "envs", include_external_packages=True, cache_dir=None)


def test_the_contracts_are_kept():
    assert "4 kept, 0 broken" in (told := lint(ROOT)), told


@pytest.mark.parametrize(
    ("path", "line", "contract"),
    [
        ("pgx_jax/grouping/sdp.py", "from pgx_jax.learn import ppo", "Imports point one way"),
        ("pgx_jax/types.py", "def f():\n    from pgx_jax.runs import store", "Imports point one way"),
        ("pgx_jax/novelty.py", "import pgx_jax.types", "Imports point one way"),
        (
            "pgx_jax/estimate/projections/tiles.py",
            "from pgx_jax.estimate import lifting",
            "No modules import each",
        ),
        ("envs/points.py", "from pgx_jax import run", "Families know pgx_jax.tasks alone"),
        ("pgx_jax/cli/__init__.py", "from envs.points import points", "The core knows no family"),
        ("pgx_jax/learn/rollout.py", "import gymnax.environments", "The core knows no family"),
    ],
)
def test_the_contracts_can_be_broken(tmp_path, path, line, contract):
    for name in ("pgx_jax", "envs", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    with (tmp_path / path).open("a") as file:
        file.write(f"\n{line}\n")
    told = lint(tmp_path)
    assert re.search(f"^{contract}.* BROKEN", told, re.MULTILINE), told


def test_an_environment_library_is_imported_in_one_file(graph):
    spaces = re.compile(r"from gymnasium import spaces$|from gymnasium\.spaces import ")
    for library in set(LIBRARIES) & graph.modules:
        details = (
            graph.get_import_details(importer=user, imported=library)
            for user in graph.find_modules_that_directly_import(library)
        )
        users = {x["importer"] for x in chain(*details) if not spaces.match(x["line_contents"])}
        assert len(users) <= 1 and not any(user.startswith("pgx_jax") for user in users), (library, users)


def test_no_module_imports_the_package_that_it_is_part_of(graph):
    for module in graph.modules:
        for package in graph.find_modules_directly_imported_by(module):
            assert not module.startswith(f"{package}.") or module == "pgx_jax.__main__", (module, package)


def test_no_module_is_hidden_by_another_thing_of_its_name():
    for found in pkgutil.walk_packages(pgx_jax.__path__, "pgx_jax."):
        if found.name == "pgx_jax.__main__":
            continue
        module = importlib.import_module(found.name)
        package, _, name = found.name.rpartition(".")
        assert getattr(sys.modules[package], name) is module, found.name


def test_importing_loads_what_is_needed_alone():
    """The core no family and no environment library; runs and commands nothing that grouping alone needs."""
    show = "print(*{name.split('.')[0] for name in sys.modules})"
    script = (
        f"import sys, pgx_jax, pgx_jax.cli.main; {show}; import pgx_jax.runs.run, pgx_jax.cli.saved; {show}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    core, runs = (set(line.split()) for line in done.stdout.splitlines())
    assert "pgx_jax" in core and not core & {*LIBRARIES, "envs"} - {"gymnasium"}  # it has the spaces
    assert "jax" in runs and not runs & {"sklearn", "cvxpy"}
