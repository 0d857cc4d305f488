"""Families are found, built and described by name, and what is wrong is said."""

import ast
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from gymnasium import spaces

import pgx_jax
from pgx_jax.cli import main as cli
from pgx_jax.errors import ConfigError
from pgx_jax.tasks import TaskFamily, describing
from pgx_jax.tasks import registry as module
from pgx_jax.tasks.describing import describe_family, facts, listed, short_space
from pgx_jax.tasks.registry import families, make_family

OURS = ["cartpole-flip", "cartpole-goals", "cartpole-physics", "points", "points-hard", "points-objectives"]


@pytest.fixture
def register(monkeypatch):
    """Return a function that registers entry points beside the installed ones."""

    def add(**values):
        real = list(metadata.entry_points(group=module.GROUP))
        more = [metadata.EntryPoint(name, value, module.GROUP) for name, value in values.items()]
        monkeypatch.setattr(module.metadata, "entry_points", lambda group: real + more)

    return add


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that writes an importable module ``theirs_<name>`` and returns its name."""

    def write(name, text):
        path = tmp_path / f"theirs_{name}.py"
        path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
        return path.stem

    return write


def test_ours_are_registered_and_built():
    assert [name for name in families() if name in OURS] == OURS == sorted(OURS)
    for name in OURS:
        family = make_family(name, n_tasks=4, seed=7)
        assert isinstance(family, TaskFamily) and family.name == name and family.n == 4
        assert family.settings["n_tasks"] == 4 and family.settings["seed"] == 7
        assert set(family.settings) == {setting.name for setting in describe_family(name).settings}


def test_finding_families_imports_none_of_them():
    code = (
        "import sys; from pgx_jax.tasks.registry import families; assert 'points' in families();"
        "assert not [m for m in sys.modules if m.partition('.')[0] in ('envs', 'gymnax')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", OURS)
def test_every_setting_is_described(name):
    info = describe_family(name)
    assert info.name == name and info.summary.endswith(".") and "\n" not in info.summary
    for setting in info.settings:
        assert setting.annotation and setting.help.endswith("."), setting
    by_name = {setting.name: setting for setting in info.settings}
    assert by_name["n_tasks"].default == 10 and by_name["horizon"].help.startswith("Time limit")


def test_descriptions_of_many_lines_and_none(register, package):
    text = '''
def documented(a: int, b=(1, 2), **more):
    """Does this
    and that.

    Args:
        a: first line
            goes on: here.
        b (tuple): second.

    Raises:
        c: not a setting.
    """

def silent(x=None): pass
'''
    origin = package("described", text)
    register(documented=f"{origin}:documented", silent=f"{origin}:silent")
    info = describe_family("documented")
    assert info.summary == "Does this and that." and info.origin == f"{origin}:documented"
    assert [(s.name, s.help, s.annotation) for s in info.settings] == [
        ("a", "first line goes on: here.", "int"),
        ("b", "second.", ""),
    ]
    info = describe_family("silent")
    assert info.summary == "" and info.settings == (describing.Setting("x", "", None, ""),)


def test_a_users_own_family(register, package):
    origin = package(
        "own",
        "import dataclasses\nfrom pgx_jax.tasks.registry import make_family\n"
        "def mine(*, size, **more):\n"
        "    return dataclasses.replace(make_family('points', n_tasks=size), name='mine')\n"
        "def wrong(): return {'n': 3}\n",
    )
    register(mine=f"{origin}:mine", wrong=f"{origin}:wrong")
    assert "mine" in families() and make_family("mine", size=3, anything=1).n == 3
    with pytest.raises(ConfigError, match="size"):
        make_family("mine")
    with pytest.raises(ConfigError, match="returned dict"):
        make_family("wrong")


@pytest.mark.parametrize(
    "name,near",
    [("cartpole-goal", "cartpole-goals"), ("cartpole_goals", "cartpole-goals"), ("point", "points")],
)
def test_an_unknown_family_names_the_nearest(name, near):
    with pytest.raises(ConfigError, match=f"{name}.*did you mean {near}.*the families are: .*cartpole-flip"):
        make_family(name)


def test_a_name_like_no_other_lists_them_all():
    with pytest.raises(ConfigError, match="zzz.*the families are: .*cartpole-flip") as caught:
        make_family("zzz")
    assert "did you mean" not in str(caught.value)


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(ConfigError, match="goal_widht.*did you mean goal_width.*n_tasks, n_groups"):
        make_family("cartpole-goals", goal_widht=0.3)
    with pytest.raises(ConfigError, match="n_groups"):
        make_family("cartpole-physics", n_groups=2)


def test_no_family_installed(monkeypatch):
    monkeypatch.setattr(module.metadata, "entry_points", lambda group: [])
    with pytest.raises(ConfigError, match="reinstall"):
        make_family("points")


def test_a_name_registered_twice(register):
    register(points="elsewhere:points")
    with pytest.raises(ConfigError, match="twice.*envs.points:points.*elsewhere:points"):
        make_family("points")
    assert make_family("points-hard").n == 10


def test_the_same_registration_seen_twice_is_one(register):
    register(points="envs.points:points")
    assert make_family("points").n == 10


def test_a_missing_library_is_named(register, package):
    origin = package("needy", "import a_library_nobody_has\n")
    register(needy=f"{origin}:family")
    with pytest.raises(ConfigError, match="needs the package 'a_library_nobody_has'"):
        make_family("needy")


def test_the_extra_that_brings_a_library_is_named(package, tmp_path):
    info = tmp_path / "theirs_needy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: theirs-needy\nVersion: 1.0\nProvides-Extra: walks\n"
        'Requires-Dist: numpy\nRequires-Dist: A-Library.nobody-has>=2; extra == "walks"\n'
    )
    origin = package("needy", "import a_library_nobody_has.deep\n")
    (info / "entry_points.txt").write_text(f"[pgx_jax.families]\nneedy = {origin}:family\n")
    with pytest.raises(ConfigError, match=r'needs the package .*: pip install "theirs-needy\[walks\]"'):
        make_family("needy")
    found = facts("needy")
    assert found.problem == 'needs pip install "theirs-needy[walks]"' and found.engine == found.n == ""


def test_facts_of_ours():
    for name in OURS:
        found = facts(name)
        assert not found.problem and found.engine == "device" and found.n == "10" and found.drawn
        assert found.observation == "float [4]"
        assert found.action == ("float [2]" if "points" in name else "choice of 2")
    assert facts("points").conflict == "3 groups" and facts("cartpole-flip").conflict == "2 groups"
    assert facts("cartpole-physics").conflict == "not planted"
    with pytest.raises(ConfigError, match="did you mean points"):
        facts("point")


def test_facts_of_families_that_fail(register, package):
    text = (
        "def needs(size): pass\n"
        'def breaks():\n    """Breaks when it is built."""\n    return 1 / 0\n'
        "def lazy():\n    from pgx_jax.errors import ConfigError\n"
        "    raise ConfigError('walkers need Walk: pip install \"theirs[walk]\"')\n"
    )
    origin = package("failing", text)
    register(needs=f"{origin}:needs", breaks=f"{origin}:breaks", lazy=f"{origin}:lazy")
    assert "size" in facts("needs").problem
    assert facts("breaks").problem.startswith("ZeroDivisionError")
    assert facts("breaks").summary == "Breaks when it is built."
    assert facts("lazy").problem == 'needs pip install "theirs[walk]"'


def test_vector_rewards_and_pixels_in_words(register, package):
    text = (
        "import dataclasses\nimport numpy as np\nfrom pgx_jax.tasks.registry import make_family\n"
        "def mine(): return dataclasses.replace(make_family('points', n_tasks=3), objectives=np.eye(3))\n"
    )
    register(mine=f"{package('weighing', text)}:mine")
    assert facts("mine").conflict == "3 groups, weights of 3 rewards"
    assert short_space(spaces.Box(0, 255, (64, 64, 3), np.uint8)) == "uint8 [64, 64, 3]"


@pytest.mark.parametrize("text", ["", "from pgx_jax.types import Nothing\n"])
def test_a_broken_module_is_located(register, package, text, tmp_path):
    origin = package(f"broken{len(text)}", text)
    register(broken=f"{origin}:family")
    with pytest.raises(ConfigError) as caught:
        make_family("broken")
    assert str(tmp_path) in str(caught.value) and "rename it" in str(caught.value)


FOREIGN = [
    {},
    {"points.py": "easy = None\n"},
    {"points.py": "import nowhere_installed\n"},
    {"__init__.py": "import nowhere_installed\n"},
    {"__init__.py": "raise RuntimeError('not for you')\n"},
]
"""Files of folders `envs` that are somebody else's."""


def test_somebody_elses_envs_in_the_way_is_named(tmp_path):
    places = [tmp_path / str(i) for i in range(len(FOREIGN))]
    for place, files in zip(places, FOREIGN, strict=True):
        (place / "envs").mkdir(parents=True)
        for file, text in {"__init__.py": "", **files}.items():
            (place / "envs" / file).write_text(text)
    # An editable install finds our submodules even behind a foreign package; a wheel does not.
    code = """
import os, sys
from pgx_jax.errors import ConfigError
from pgx_jax.tasks.registry import make_family
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
for place in sys.argv[1:]:
    os.chdir(place)
    for name in [name for name in sys.modules if name.partition(".")[0] == "envs"]:
        del sys.modules[name]
    try:
        make_family("points")
    except ConfigError as error:
        print(str(error).replace("\\n", " "))
"""
    command = [sys.executable, "-c", code, *map(str, places)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    for place, told in zip(places, done.stdout.splitlines(), strict=True):
        assert str(place / "envs" / "__init__.py") in told
        assert "rename it" in told and "pgx-jax" in told


ALL = tuple(families())


@pytest.mark.parametrize("name", ALL)
def test_what_a_family_states_is_what_it_is(name):
    """The list of families reads what factories state, and builds none of them."""
    if name not in OURS and importlib.util.find_spec("brax") is None:
        pytest.skip("its library is not installed")
    blank = {"drawn": False, "defaults": {}}
    assert listed(name) == facts(name)._replace(**blank)


def test_a_family_that_states_nothing_is_listed_with_blanks(register, package):
    origin = package("quiet", 'def family():\n    """A quiet one.\n\n    More of it.\n    """\n')
    register(quiet=f"{origin}:family")
    found = listed("quiet")
    assert (found.summary, found.engine, found.n, found.problem) == ("A quiet one.", "", "", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import a_library_nobody_has\ndef family(): pass\n", "needs install it, or the extra"),
        ("def other(): pass\n", "nothing in theirs_odd18 is called family"),
        ("def family(:\n", "SyntaxError"),
    ],
)
def test_what_is_in_the_way_of_a_family_is_listed(register, package, text, words):
    origin = package(f"odd{len(text)}", text)
    register(odd=f"{origin}:family")
    assert words in listed("odd").problem


@pytest.mark.parametrize(
    "text",
    [
        "from theirs_walk import made as family\n",
        "from theirs_walk import *\n",
        "import functools\nfamily = functools.partial(print)\n",
        "try:\n    from theirs_walk import made as family\nexcept ImportError:\n    family = None\n",
        "def __getattr__(name): return print\n",
    ],
)
def test_a_family_that_is_made_elsewhere_is_listed_without_a_problem(register, package, text):
    package("walk", 'def made():\n    """Walkers.\n\n    Listed: host; 3 tasks; a; b; c.\n    """\n')
    register(walk=f"{package(f'far{len(text)}', text)}:family")
    found = listed("walk")
    assert not found.problem
    if text.startswith("from theirs_walk import made"):
        assert (found.summary, found.engine, found.n, found.conflict) == ("Walkers.", "host", "3", "c")


def test_a_package_of_its_own_is_read_with_its_relative_imports(register, tmp_path, monkeypatch):
    folder = tmp_path / "theirs_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .walk import family\nraise RuntimeError('imported')\n")
    walk = 'from . import physics\ndef family():\n    """Walkers."""\n'
    (folder / "walk.py").write_text(walk)
    (folder / "physics.py").write_text("import os\nimport a_library_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    register(
        walk="theirs_package:family", inner="theirs_package.walk:family", none="theirs_package.nowhere:x"
    )
    for name in ("walk", "inner"):
        assert listed(name).summary == "Walkers." and "needs install it" in listed(name).problem
    found = listed("none")
    assert "there is no module theirs_package.nowhere" in found.problem and str(folder) in found.remedy


@pytest.mark.parametrize("line", ["Listed: host.", "Listed: a; b; c; d; e; f.", "Listed: needs Walk."])
def test_facts_that_are_stated_wrongly_are_told(register, package, line):
    origin = package(f"wrong{len(line)}", f'def family():\n    """Walkers.\n\n    {line}\n    """\n')
    register(wrong=f"{origin}:family")
    found = listed("wrong")
    assert found.summary == "Walkers." and "engine; n; observation; action; conflict" in found.problem


def test_a_family_that_is_registered_twice_is_listed_so(register):
    register(points="elsewhere:points")
    assert "registered twice" in listed("points").problem
    with pytest.raises(ConfigError, match="did you mean points"):
        listed("point")


@pytest.mark.parametrize(
    ("family", "library", "extra"), [("lunarlander", "Box2D", "box2d"), ("ant-directions", "brax", "brax")]
)
def test_a_missing_extra_is_listed(monkeypatch, family, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    assert listed(family).problem == f'needs pip install "pgx-jax[{extra}]"'
    assert listed(family).engine and not listed("points").problem


def test_what_is_common_to_problems_is_said_once(register, package, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    origin = package("broken_list", "def family(:\n")
    register(aa=f"{origin}:family", bb=f"{origin}:family")
    assert cli.main(["families"]) == 0
    shown = capsys.readouterr().out
    assert "aa: cannot be loaded (SyntaxError" in shown and "bb: cannot be loaded (SyntaxError" in shown
    assert shown.count("rename it") == 1


def test_listing_imports_no_library_of_environments():
    code = (
        "import sys\nfrom pgx_jax.cli.main import main\nassert main(['families']) == 0\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "points-hard" in done.stdout
    assert not loaded & {
        "envs",
        "brax",
        "gymnax",
        "mujoco",
        "Box2D",
        "cvxpy",
        "sklearn",
        "matplotlib",
        "pandas",
        "scipy",
        "flax",
    }


@pytest.mark.parametrize("code", ["import pgx_jax", "from pgx_jax.cli.main import main; main(['--help'])"])
def test_starting_imports_nothing_heavy(code):
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"jax", "numpy", "cvxpy", "sklearn", "scipy", "matplotlib", "pandas", "tyro", "envs"}


def test_adapters_are_found_by_entry_point(tmp_path, monkeypatch):
    family = pgx_jax.gymnax_family("Pendulum-v1", {"g": [2.0, 4.0]}, horizon=20)
    assert family.n == 2 and family.horizon == 20
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    code = """
import sys
import pgx_jax
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
for adapter in (pgx_jax.gymnax_family, pgx_jax.gymnasium_family, pgx_jax.brax_family):
    try:
        adapter("Pendulum-v1")
    except pgx_jax.ConfigError as error:
        print(error)
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    for name in ("gymnax_family", "gymnasium_family", "brax_family"):
        assert f"adapter '{name}' is registered by pgx-jax" in done.stdout
    assert done.stdout.count("rename it") == 3 and str(tmp_path / "envs") in done.stdout


def test_public_names_are_there():
    assert set(pgx_jax.__all__) <= set(dir(pgx_jax)) and len(set(pgx_jax.__all__)) == len(pgx_jax.__all__)
    for name in pgx_jax.__all__:
        assert getattr(pgx_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pgx_jax.nothing  # noqa: B018
    tree = ast.parse(inspect.getsource(pgx_jax))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    ours = (node for node in block.body if node.module.startswith("pgx_jax"))
    typed = {alias.asname or alias.name for node in ours for alias in node.names}
    assert typed == set(pgx_jax.__all__), "what type checkers see is what there is"
