"""Imports point one way, and each environment library is imported in one file."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = (
    {"types", "errors", "tasks"},
    {"learn", "estimate", "grouping"},
    {"config", "streams", "validation", "pipeline", "logged"},
    {"compare"},
    {"report"},
    {"runs"},
    {"show", "cli", "__main__", "__init__"},
)
"""Rooms of the package, from the ground up; a room imports from its own floor and those below."""

APART = ("learn", "estimate", "grouping")
"""Rooms on one floor that don't know each other."""

GROUND = {"types", "errors", "tasks"}
"""All that a family may import of the package."""

LIBRARIES = (
    "brax", "envpool", "gym", "gymnasium", "gymnax", "highway_env", "metaworld", "mujoco",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    not (ROOT / "pgx_jax").is_dir() or not (ROOT / "envs").is_dir(), reason="no checkout around the tests"
)


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exists(root: Path, name: str) -> bool:
    path = root / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imports(path: Path, root: Path) -> set[str]:
    """All modules that a file imports, anywhere in it, as absolute dotted names."""
    found = set()
    package = module_name(path, root).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(base + (node.module.split(".") if node.module else []))
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                submodule = exists(root, whole) or whole == "gymnasium.spaces"
                found.add(whole if submodule else base)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    return found


def graph(root: Path) -> dict[str, set[str]]:
    files = [path for room in ("pgx_jax", "envs") for path in sorted((root / room).rglob("*.py"))]
    return {module_name(path, root): imports(path, root) for path in files}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def violations(root: Path) -> list[str]:
    """Every import of pgx_jax/ and envs/ under ``root`` that breaks a rule, in words."""
    modules, broken = graph(root), []
    floor = {name: level for level, names in enumerate(LAYERS) for name in names}
    users = defaultdict(set)
    for module, imported in modules.items():
        inside = module.split(".")[0] == "pgx_jax"
        for target in imported:
            top = target.split(".")[0]
            if top in LIBRARIES and not target.startswith("gymnasium.spaces"):
                users[top].add(module)
                if inside:
                    broken.append(f"{module} imports the environment library {target}")
            if top == "envs" and inside:
                broken.append(f"{module} imports {target}: families are found by entry point")
            if top != "pgx_jax":
                continue
            here, there = room(module), room(target)
            if not inside:
                if there not in GROUND:
                    broken.append(f"{module} imports {target}: families know pgx_jax.tasks alone")
            elif here not in floor:
                broken.append(f"{module}: its place among the floors of LAYERS is not stated")
            elif there not in floor or floor[there] > floor[here]:
                broken.append(f"{module} imports {target}, which stands above it")
            elif here in APART and there in APART and here != there:
                broken.append(f"{module} imports {target}: these rooms don't know each other")
    for library, names in users.items():
        if len(names) > 1:
            broken.append(f"{library} is imported in {len(names)} files: {', '.join(sorted(names))}")
    return broken


def cycle(modules: dict[str, set[str]]) -> list[str] | None:
    """Modules that import each other in a circle, or None. Packages count as their __init__."""
    done, path = set(), []

    def visit(module):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done or module not in modules:
            return None
        path.append(module)
        for target in sorted(modules[module]):
            if found := visit(target):
                return found
        done.add(path.pop())
        return None

    return next((found for module in sorted(modules) if (found := visit(module))), None)


def test_imports_point_one_way():
    assert violations(ROOT) == []


def test_no_modules_import_each_other_in_a_circle():
    assert cycle(graph(ROOT)) is None


def test_importing_the_core_loads_no_family_and_no_environment_library():
    script = "import sys, pgx_jax, pgx_jax.cli.main; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pgx_jax" in loaded and not loaded & {*LIBRARIES, "envs"} - {"gymnasium"}  # it has the spaces


@pytest.mark.parametrize(
    "path, source, complaint",
    [
        ("pgx_jax/grouping/sdp.py", "from pgx_jax.learn import ppo", "don't know each other"),
        ("pgx_jax/estimate/scores.py", "def f():\n    from ..grouping.sdp import g", "don't know each other"),
        ("pgx_jax/learn/ppo.py", "from pgx_jax import pipeline", "stands above it"),
        ("pgx_jax/learn/ppo.py", "from pgx_jax import run", "stands above it"),
        ("pgx_jax/pipeline.py", "import pgx_jax.runs.store", "stands above it"),
        ("pgx_jax/report.py", "from .cli import main", "stands above it"),
        ("pgx_jax/types.py", "from pgx_jax.learn.ppo import x", "stands above it"),
        ("pgx_jax/novelty.py", "import pgx_jax.types", "not stated"),
        ("pgx_jax/cli.py", "from envs.points import points", "found by entry point"),
        ("pgx_jax/families.py", "import importlib\nimportlib.import_module('envs.points')", "entry point"),
        ("pgx_jax/learn/rollout.py", "import gymnax.environments", "environment library"),
        ("pgx_jax/learn/rollout.py", "import gymnasium", "environment library"),
        ("envs/points.py", "from pgx_jax.learn import ppo", "pgx_jax.tasks alone"),
        ("envs/points.py", "from pgx_jax import run", "pgx_jax.tasks alone"),
        ("envs/points.py", "def f():\n    import gymnax", "gymnax is imported in 2 files"),
        ("envs/points.py", "from gymnax.environments import x", "gymnax is imported in 2 files"),
    ],
)
def test_the_rules_can_be_broken(tmp_path, path, source, complaint):
    good = {
        "pgx_jax/__init__.py": "from pgx_jax.pipeline import run",
        "pgx_jax/types.py": "import jax",
        "pgx_jax/tasks.py": "from gymnasium import spaces\nfrom pgx_jax.types import Array",
        "pgx_jax/pipeline.py": "from pgx_jax.learn import ppo\nfrom pgx_jax import types",
        "pgx_jax/learn/__init__.py": "from . import ppo",
        "pgx_jax/learn/ppo.py": "from ..types import Array\nfrom gymnasium.spaces import Box",
        "pgx_jax/store.py": "from .types import Array",
        "pgx_jax/cli.py": "import pgx_jax\nfrom pgx_jax import pipeline, store",
        "envs/__init__.py": "",
        "envs/adapter.py": "import gymnax\nfrom pgx_jax.tasks import Step",
        "envs/points.py": "from gymnasium import spaces\nimport envs.adapter\nfrom pgx_jax import errors",
        "pgx_jax/errors.py": "",
    }
    for name, text in good.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == [] and cycle(graph(tmp_path)) is None
    target = tmp_path / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text((target.read_text() + "\n" if target.exists() else "") + source)
    assert any(complaint in message for message in violations(tmp_path)), violations(tmp_path)


def test_circles_are_seen():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "a"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
