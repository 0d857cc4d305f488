"""How much of the numerical core the tests hold fast: small errors are put into it, and the tests run.

    pip install -e ".[test,mutation]" -c constraints.txt
    python .ci/mutate.py map                    which test calls which function, and how long it takes
    python .ci/mutate.py run --sample 300       try a random sample of mutants; goes on where it stopped
    python .ci/mutate.py report                 killed and left, by file

Cosmic Ray changes the code; a mutant is a change at one place: another operator, comparison, number (one
more or less), truth value, a loop that does nothing, an argument left out, or a function's neighbour (`min`
for `max`). The sample is drawn by places, of each file in proportion to their number (rounded up), and of the
changes at a place one is taken. Left out are docstrings, annotations, imports, signatures' stars, assertions,
texts of errors (all that a `raise` says), decorators (compiled or not, and how precise an accelerator is, no
test on a processor sees), and what only checks or hastens (``strict=`` of `zip`, ``quick=`` of `compiled`).

Importing and collecting takes longer than most tests. So one process does both, and forks for every mutant
before JAX has begun anything; the child gives the mutated function its other code. (What is in no function is
imported anew; files stay as they are, and processes that tests start see no mutant.) First it runs tests of
some seconds that call the function, until one fails. What survives is tried with all tests of every file of
which some test calls it: what one test has traced, the others do not trace again. Limits are the processor's
seconds, so that it does not matter what else the machine does.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import gc
import hashlib
import importlib.abc
import importlib.machinery
import json
import math
import os
import random
import resource
import signal
import sys
import time
import traceback
import types
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "mutants"
FOLDERS = ("pgx_jax/estimate", "pgx_jax/grouping")
IMPORTED = (
    "numpy", "scipy.sparse.csgraph", "scipy.cluster.hierarchy", "scipy.optimize", "scipy.stats", "jax.numpy",
    "jax.experimental.compilation_cache.compilation_cache", "flax", "optax", "cvxpy", "sklearn.cluster",
    "sklearn.metrics", "sklearn.kernel_ridge", "sklearn.model_selection", "gymnasium", "msgspec",
    "jinja2", "tyro", "rich.console", "matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.Image",
    "hypothesis.extra.numpy", "hypothesis.strategies", "pytest", "_pytest.assertion.rewrite", "matfree.funm",
    "matfree.decomp", "platformdirs", "cloudpickle", "jaxtyping", "threadpoolctl",
)  # fmt: skip
"""What tests need of others, imported once; what begins threads (gymnax computes) is left to the children."""
TESTS = (
    "admm", "affinity", "alternatives", "complete", "crossfit", "features", "gradients", "lifting", "nested",
    "paired", "projections", "rounding", "sdp", "selection", "similarities", "solvers", "stability",
    "subsets", "surrogates", "scores", "shortage", "tables", "truth",
)  # fmt: skip
"""The test files that are about the two folders, and that JAX can wait for."""
LATE = {"precision": ("precision",), "private": ("private",), "tag": ("lookahead",), "checks": ("logged",)}
LATE |= {"sharing": ("objectives", "lookahead"), "config": ("config",)}
"""Those that compute as they are imported, by the file that they are about: they come last, and whole."""


class DropKeyword(Operator):
    """Leaves out a keyword argument of a call."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """One for every keyword argument."""
        for child in self._keywords(node):
            yield child.start_pos, child.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The call without the argument and its comma."""
        place = node.children.index(self._keywords(node)[index])
        first = place - 1 if node.type == "arglist" and place + 1 == len(node.children) else place
        del node.children[first : first + (2 if node.type == "arglist" else 1)]
        return node

    @staticmethod
    def _keywords(node: Any) -> list[Any]:
        if node.type not in ("arglist", "trailer"):
            return []
        return [c for c in node.children if c.type == "argument" and c.children[1] == "="]

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        """None."""
        return ()


SWAPPED = {
    "max": "min", "argmax": "argmin", "maximum": "minimum", "any": "all", "sum": "mean", "floor": "ceil",
    "zeros": "ones", "zeros_like": "ones_like",
}  # fmt: skip
"""Neighbours, both ways."""
SWAPPED |= {b: a for a, b in SWAPPED.items()} | {"sqrt": "square", "exp": "expm1", "log": "log1p"}


class SwapFunction(Operator):
    """Calls a function that is near to the one that is called, as `max` is to `min`."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """One for every call of a known function."""
        if node.type == "name" and node.value in SWAPPED and node.get_next_leaf().value == "(":
            if node.parent.type == "trailer" or node.value in ("max", "min", "any", "all"):
                yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The other's name."""
        node.value = SWAPPED[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        """None."""
        return ()


def _known(kind: str, pairs: str) -> list[str]:
    return ["_".join((kind, *pair.split(">"))) for pair in pairs.split()]


NAMES = [
    *_known("ReplaceBinaryOperator", "Add>Sub Sub>Add Mul>Div Div>Mul FloorDiv>Mul Mod>Mul Pow>Mul"),
    *_known("ReplaceBinaryOperator", "BitOr>BitAnd BitAnd>BitOr"),
    *_known("ReplaceComparisonOperator", "Lt>LtE Lt>GtE LtE>Lt LtE>Gt Gt>GtE Gt>LtE GtE>Gt GtE>Lt"),
    *_known("ReplaceComparisonOperator", "Eq>NotEq NotEq>Eq Is>IsNot IsNot>Is"),
    *_known("ReplaceUnaryOperator_Delete", "Not USub Invert"),
    "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "AddNot",
    "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop",
]  # fmt: skip
OPERATORS: dict[str, type[Operator]] = {name: get_operator(f"core/{name}") for name in NAMES}
OPERATORS |= {"DropKeyword": DropKeyword, "SwapFunction": SwapFunction}


class Mutant(NamedTuple):
    """A change at one place."""

    file: str
    line: int
    column: int
    operator: str
    occurrence: int
    function: str
    """The outermost function, or the method, that holds it; empty outside of any."""

    @property
    def name(self) -> str:
        """By which its result is known, as long as its line stays what it is."""
        text = (ROOT / self.file).read_text().splitlines()[self.line - 1].strip()
        mark = hashlib.sha256(text.encode()).hexdigest()[:6]
        return f"{self.file}:{self.line}:{self.column} {self.operator} {self.occurrence} {mark}"

    def text(self) -> str:
        """The file with the change."""
        changed = mutate_code((ROOT / self.file).read_text(), OPERATORS[self.operator](), self.occurrence)
        assert changed is not None
        return changed


def functions(file: str) -> dict[int, str]:
    """Name of the outermost function, or method, by line; the heads of functions belong to none."""
    found: dict[int, str] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                lines = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
                found.update(dict.fromkeys(lines, prefix + node.name))

    visit(ast.parse((ROOT / file).read_text()).body, "")
    return found


def left_out(node: Any) -> bool:
    """Whether a node of the syntax tree is not mutated (see the head of this file)."""
    if node.type == "operator" and node.parent.type == "parameters":
        return True
    if node.type == "operator" and node.value == "|" and "None" in node.parent.get_code():
        return True  # a type
    while (parent := node.parent) is not None:
        if node.type in ("raise_stmt", "assert_stmt", "import_name", "import_from", "decorator"):
            return True
        if node.type == "argument" and node.children[0].get_code().strip() in ("strict", "quick"):
            return True
        if parent.type == "annassign" and node is parent.children[1]:
            return True
        if parent.type == "funcdef" and node is not parent.children[-1]:
            return node.type != "parameters"
        node = parent
    return False


def files() -> list[str]:
    """That are mutated."""
    return sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def mutants() -> list[Mutant]:
    """All that there are."""
    found = []
    for file in files():
        tree, inside = get_ast((ROOT / file).read_text()), functions(file)
        for name, kind in OPERATORS.items():
            places = ((node, own) for node in ast_nodes(tree) for own, _ in kind().mutation_positions(node))
            for occurrence, (node, (line, column)) in enumerate(places):
                if not left_out(node) and not left_out(tree.get_leaf_for_position((line, column))):
                    found.append(Mutant(file, line, column, name, occurrence, inside.get(line, "")))
    return found


def sample(size: int, seed: int) -> list[Mutant]:
    """Mutants at random places, of each file in proportion; a smaller sample is part of a larger one."""
    places: dict[str, Any] = defaultdict(lambda: defaultdict(list))
    for mutant in mutants():
        places[mutant.file][mutant.line, mutant.column].append(mutant)
    total, taken = sum(map(len, places.values())), []
    for file, own in places.items():
        rng = random.Random(f"{seed} {file}")
        shuffled = [rng.choice(own[place]) for place in rng.sample(sorted(own), len(own))]
        taken += shuffled[: -(-size * len(own) // total)]
    return taken


class Finder(importlib.abc.MetaPathFinder):
    """Finds a module with another text than its file's."""

    def __init__(self, file: str, text: str):  # noqa: D107
        self.path, self.text = str(ROOT / file), text

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Of this module alone."""
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin != self.path:
            return None
        loader = importlib.machinery.SourceFileLoader(name, self.path)
        loader.get_code = lambda fullname: compile(self.text, self.path, "exec", dont_inherit=True)
        spec.loader = loader
        return spec


def telling(file: str) -> ast.Module:
    """A file whose functions tell when they are called: ``TOUCHED`` gets their names."""
    tree = ast.parse((ROOT / file).read_text())
    owned = [("", tree), *((f"{node.name}.", node) for node in tree.body if isinstance(node, ast.ClassDef))]
    for prefix, owner in owned:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef):
                place = int(ast.get_docstring(node) is not None and len(node.body) > 1)
                node.body[place:place] = ast.parse(f"TOUCHED.add({f'{file}::{prefix}{node.name}'!r})").body
    return ast.fix_missing_locations(tree)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Of all functions in a code, itself included."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def put(file: str, text: Any, name: str | None = None) -> None:
    """Give the functions of an imported module the code that they have in another text; one of the name must
    be there."""
    path = str(ROOT / file)
    changed = {one.co_qualname: one for one in codes(compile(text, path, "exec", dont_inherit=True))}
    found = [
        x for x in gc.get_objects() if isinstance(x, types.FunctionType) and x.__code__.co_filename == path
    ]
    assert name is None or name in {x.__code__.co_qualname for x in found}
    for function in found:
        if "<lambda>" not in function.__code__.co_qualname:
            function.__code__ = changed[function.__code__.co_qualname]


class Watcher:
    """A plugin of pytest: how long each test takes, what it calls, and which fails first."""

    def __init__(self, touched: set[str] | None = None):  # noqa: D107
        self.touched = set() if touched is None else touched
        self.order: list[str] | None = None
        self.whole: tuple[str, ...] = ()
        self.seconds: dict[str, float] = {}
        self.touches: dict[str, list[str]] = {}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Those that are to run, in their order, where one is given; then whole files."""
        if self.order is not None:
            place = {nodeid: i for i, nodeid in enumerate(self.order)}
            wanted = [x for x in items if x.nodeid in place or x.nodeid.startswith(self.whole)]
            items[:] = sorted(wanted, key=lambda x: place.get(x.nodeid, len(place)))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Takes the time."""
        self.begun = time.process_time()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Adds the processor's time up, and notes what was called."""
        self.seconds[report.nodeid] = time.process_time() - self.begun
        self.touches[report.nodeid] = sorted({*self.touches.get(report.nodeid, ()), *self.touched})
        self.touched.clear()
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported has failed, too."""
        if report.failed:
            self.failed = self.failed or report.nodeid or "import"


def in_child(work: Any, log: Path, limit: float | None = None) -> Any:
    """What ``work()`` returns in a process of its own, as JSON; or what killed it, if something did (more
    than ``limit`` seconds of the processor, say). What it prints goes to the file."""
    answer = log.with_suffix(".json")
    answer.unlink(missing_ok=True)
    if (child := os.fork()) == 0:
        try:
            os.setpgrp()
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1), os.dup2(out, 2)
            answer.write_text(json.dumps(work()))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(3)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it may have started
    if code > 0:
        raise RuntimeError(f"a child failed, see {log}")
    return json.loads(answer.read_text()) if code == 0 else signal.Signals(-code).name


ARGUMENTS = (
    "-n",
    "0",
    "-q",
    "-s",
    "-p",
    "no:cacheprovider",
    "--hypothesis-profile=mutants",
    "--tb=line",
    "-x",
)


class Collected:
    """A plugin of pytest that does something with the tests in place of running them."""

    def __init__(self, work: Any):  # noqa: D107
        self.work = work

    def pytest_runtestloop(self, session: Any) -> bool:
        """Does it."""
        assert len(os.listdir("/proc/self/task")) == 1, "a process of several threads cannot be forked"
        self.work({item.nodeid: item for item in session.items})
        return True


def run_items(items: list[Any], watcher: Watcher) -> None:
    """Run tests that are collected until one fails."""
    for item in items[:1]:
        item.config.pluginmanager.register(watcher)
    for item, following in zip(items, [*items[1:], None], strict=False):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if watcher.failed:
            return


def traced(items: list[Any]) -> dict[str, Any]:
    """Of tests their seconds, and the functions that they call."""
    builtins.TOUCHED = set()  # type: ignore[attr-defined]
    for file in files():
        put(file, telling(file))
    watcher = Watcher(builtins.TOUCHED)  # type: ignore[attr-defined]
    run_items(items, watcher)
    assert not watcher.failed, f"{watcher.failed} fails as it is"
    return {n: {"seconds": s, "touches": watcher.touches[n]} for n, s in watcher.seconds.items()}


def begin(work: Any) -> None:
    """Import all, collect the tests, and do something with them. JAX has begun nothing then."""
    import hypothesis
    import jax
    import numpy as np
    import pytest

    BUILD.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(BUILD / "programs"))
    os.environ |= {"OPENBLAS_NUM_THREADS": "1"}
    steps = [phase for phase in hypothesis.Phase if phase.name in ("explicit", "generate")]
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, phases=steps)
    for name in IMPORTED:
        import_module(name)
    for file in files():
        import_module(file.removesuffix("/__init__.py").removesuffix(".py").replace("/", "."))
    make_key = jax.random.PRNGKey

    def collected(items: dict[str, Any]) -> None:
        jax.random.PRNGKey = make_key
        work(items)

    jax.random.PRNGKey = lambda seed: np.array([0, seed], np.uint32)  # without a device
    tests = [f"tests/test_{name}.py" for name in TESTS]
    pytest.main([*ARGUMENTS, *tests], plugins=[Collected(collected)])


def draw_map(items: dict[str, Any]) -> None:
    """Write what the tests of every file call; files that have not changed since are left as they are."""
    place = BUILD / "map.json"
    known = json.loads(place.read_text()) if place.exists() else {}
    for name in TESTS:
        test = f"tests/test_{name}.py"
        mark = hashlib.sha256((ROOT / test).read_bytes()).hexdigest()
        own = [item for nodeid, item in items.items() if nodeid.startswith(f"{test}::")]
        if known.get(test, {}).get("mark") == mark:
            continue
        found = in_child(lambda own=own: traced(own), BUILD / f"child-{os.getpid()}.log")
        known[test] = {"mark": mark, "tests": found}
        place.write_text(json.dumps(known))
        print(
            f"{test}: {len(found)} tests, {sum(one['seconds'] for one in found.values()):.1f} s", flush=True
        )


def asked(mutant: Mutant, known: dict[str, Any], most: float) -> tuple[list[str], float]:
    """The tests that may see a mutant, in order, and the seconds that they take.

    Of ``most`` seconds those that call its function: of the file that is called like the mutant's first, then
    of files that are done soon; quick ones first. Of infinitely many, all tests of these files.
    """

    def calls(one: dict[str, Any]) -> bool:
        places = (place.split("::") for place in one["touches"])
        return any(f == mutant.file and mutant.function in ("", g) for f, g in places)

    stem = f"tests/test_{Path(mutant.file).stem}.py"
    tests = {test: one["tests"] for test, one in known.items() if any(map(calls, one["tests"].values()))}
    order, seconds = [], 0.0
    for test in sorted(tests, key=lambda t: (t != stem, sum(one["seconds"] for one in tests[t].values()))):
        for nodeid, one in sorted(tests[test].items(), key=lambda x: (not calls(x[1]), x[1]["seconds"])):
            if math.isinf(most) or (calls(one) and (not order or seconds + one["seconds"] < most)):
                order.append(nodeid)
                seconds += one["seconds"]
    return order, seconds


def tried(mutant: Mutant, items: list[Any]) -> dict[str, Any]:
    """Which test fails, if any does. What is in no function is imported again, with all that imported it."""
    import pytest

    late = [f"tests/test_{name}.py" for name in LATE.get(Path(mutant.file).stem, ())]
    watcher = Watcher()
    if mutant.function:
        put(mutant.file, mutant.text(), mutant.function)
        run_items(items, watcher)
    else:
        tests = [path.stem for path in (ROOT / "tests").glob("*.py")]
        for name in [name for name in sys.modules if name.split(".")[0] in ("pgx_jax", "envs", *tests)]:
            del sys.modules[name]
        sys.meta_path.insert(0, Finder(mutant.file, mutant.text()))
        watcher.order, watcher.whole = [item.nodeid for item in items], tuple(late)
        late += dict.fromkeys(str(item.path) for item in items)
    if late and not watcher.failed:
        code = pytest.main([*ARGUMENTS, *late], plugins=[watcher])
        watcher.failed = watcher.failed or ("" if code in (0, 5) else f"pytest ended with {code!r}")
    return {"failed": watcher.failed, "tests": len(watcher.seconds)}


def run(items: dict[str, Any], size: int, seed: int, most: float) -> None:
    """Try the mutants of a sample by tests of ``most`` seconds; then what survives by all tests, and again if
    tests have changed since."""
    text = (BUILD / "map.json").read_text()
    known, mark, drawn = json.loads(text), hashlib.sha256(text.encode()).hexdigest()[:12], sample(size, seed)
    for tests, limit in (("some", most), (mark, math.inf)):
        done = {one["mutant"]: one for one in results()}
        for mutant in drawn:
            before = done.get(mutant.name)
            if before is None or (tests == mark and not before["failed"] and before["by"] != mark):
                order, seconds = asked(mutant, known, limit)
                one = attempt(mutant, [items[nodeid] for nodeid in order], 4 * seconds) | {"by": tests}
                with (BUILD / "results.jsonl").open("a") as lines:
                    lines.write(json.dumps(one) + "\n")
                print(f"{one['failed'] or 'survived'}: {one['mutant']}", flush=True)


def attempt(mutant: Mutant, items: list[Any], limit: float) -> dict[str, Any]:
    """What comes of a mutant."""
    late, found = 600 * (Path(mutant.file).stem in LATE), {"failed": "", "tests": 0}
    if items or late:
        found = in_child(lambda: tried(mutant, items), BUILD / f"child-{os.getpid()}.log", 60 + limit + late)
    told = found if isinstance(found, dict) else {"failed": found}
    return {"mutant": mutant.name, "file": mutant.file, **told}


def results() -> list[dict[str, Any]]:
    """Of all mutants that were tried."""
    place = BUILD / "results.jsonl"
    return [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []


def report() -> None:
    """Print killed and left, by file and of all, with Wilson's 95% interval; and what is left."""
    from scipy.stats import binomtest

    last = {one["mutant"]: one for one in results()}
    count: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in last.values():
        for name in (one["file"], "all"):
            count[name][not one["failed"]] += 1
    for name, (killed, left) in sorted(count.items(), key=lambda x: (x[0] == "all", x[0])):
        print(f"{name}: {killed} killed, {left} left")
    killed, total = count["all"][0], sum(count["all"])
    low, high = binomtest(killed, total).proportion_ci(method="wilson")
    print(f"{100 * killed / total:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of {total} killed; left are:")
    print(*(name for name, one in last.items() if not one["failed"]), sep="\n")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["map", "run", "report"])
    parser.add_argument("--sample", type=int, default=300, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="of tests that each is tried by at first")
    asked = parser.parse_args()
    if asked.what == "report":
        report()
    elif asked.what == "map":
        begin(draw_map)
    else:
        begin(lambda items: run(items, asked.sample, asked.seed, asked.seconds))


if __name__ == "__main__":
    main()
