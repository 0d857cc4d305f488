"""What task families say of themselves: their settings, and their facts in words for a table.

`facts` builds a family to find them out. `listed` reads what the factory states in a paragraph of its
docstring, from its source, and imports nothing; the paragraph has five parts, or a sixth::

    Listed: device; 10 tasks; float [4]; choice of 2; 3 groups.
    Listed: host; 6 tasks; float [8]; choice of 4; not planted; needs Box2D.

They are those of `Facts`, at the default settings, and what the family imports only when it is built.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from typing import Any, NamedTuple

import docstring_parser
import numpy as np
from gymnasium import spaces

from pgx_jax.errors import ConfigError
from pgx_jax.tasks.registry import (
    entry_point,
    families,
    installation,
    load_factory,
    location,
    make_family,
    whose_package,
)


class Setting(NamedTuple):
    """One setting of a family's factory."""

    name: str
    annotation: str
    """The type as written in the signature; empty if it has none."""
    default: Any
    """inspect.Parameter.empty if the setting must be given."""
    help: str
    """The factory's docstring on it; empty if there is none."""


class FamilyInfo(NamedTuple):
    """What a family's factory says about itself."""

    name: str
    summary: str
    """First sentence of the factory's docstring."""
    settings: tuple[Setting, ...]
    origin: str
    """Where it is registered, "module:function"."""


class Facts(NamedTuple):
    """A family at its default settings, in words for a table; or why it cannot be built."""

    name: str
    summary: str
    origin: str
    engine: str = ""
    n: str = ""
    observation: str = ""
    action: str = ""
    conflict: str = ""
    """What is planted, or that the tasks weigh one vector reward."""
    drawn: bool = False
    """Whether `pgx-jax show` can draw it."""
    defaults: dict[str, Any] = {}
    """Settings of a run that the family prefers."""
    problem: str = ""
    """Empty if the family can be built; else what it needs."""
    remedy: str = ""
    """What to do about the problem, where that is a sentence of its own, common to a package's families."""


def describe_family(name: str) -> FamilyInfo:
    """Return a family's summary and settings, read from its factory's signature and docstring.

    Raises:
        ConfigError: if the name is unknown or the family cannot be imported.
    """
    factory = load_factory(name)
    text = inspect.getdoc(factory) or ""
    parsed = docstring_parser.parse(text, docstring_parser.DocstringStyle.GOOGLE)
    helps = {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}
    settings = tuple(
        Setting(p.name, _annotation(p), p.default, helps.get(p.name, ""))
        for p in inspect.signature(factory).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    )
    return FamilyInfo(name, _summary(text), settings, families()[name].value)


def facts(name: str) -> Facts:
    """Build a family at its defaults and tell what it is; what goes wrong on the way is told, not raised.

    Raises:
        ConfigError: if the name is unknown.
    """
    if name not in families():
        entry_point(name)  # says which names are near
    summary, origin = "", families()[name].value
    try:
        summary = describe_family(name).summary
        family = make_family(name)
    except Exception as error:  # whatever one family does, the others are listed
        install = re.search(r'pip install "[^"]+"', str(error))
        told = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        return Facts(name, summary, origin, problem=f"needs {install[0]}" if install else told)
    conflict = "not planted"
    if family.true_groups is not None:
        conflict = f"{len(np.unique(family.true_groups))} groups"
    if family.objectives is not None:
        weighed = f"weights of {family.objectives.shape[1]} rewards"
        conflict = weighed if family.true_groups is None else f"{conflict}, {weighed}"
    observation, action = short_space(family.observation_space), short_space(family.action_space)
    drawn = family.draw is not None or family.engine == "host"
    return Facts(
        name, summary, origin, family.engine, str(family.n), observation, action, conflict, drawn,
        family.defaults,
    )  # fmt: skip


def listed(name: str) -> Facts:
    """What a family's factory states, read from its source; what goes wrong is told, not raised.

    What it doesn't state is blank; ``drawn`` and ``defaults`` are left open.

    Raises:
        ConfigError: if the name is unknown.
    """
    if name not in families():
        entry_point(name)  # says which names are near
    found = Facts(name, "", families()[name].value)
    try:
        entry = entry_point(name)
        doc = _docstring(entry.module, entry.attr)
        found = found._replace(summary=_summary(doc))
        stated, needed = _stated(doc)
        needed |= _libraries(entry.module)
    except ConfigError as error:
        return found._replace(problem=str(error))
    except Exception as error:  # whatever one family's source is, the others are listed
        told = f"cannot be loaded ({type(error).__name__}: {error})"
        return found._replace(problem=told, remedy=whose_package(entry))
    missing = next((library for library in sorted(needed) if location(library) is None), None)
    return found._replace(**stated, problem=f"needs {installation(entry, missing)}" if missing else "")


def _stated(doc: str) -> tuple[dict[str, Any], set[str]]:
    """The facts that a docstring states, by their names, and the packages that the family needs.

    Raises:
        ConfigError: they are not five, or six with the packages.
    """
    found = re.search(r"^Listed:\s(.*?)(?:\n\s*\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    if not found:
        return {}, set()
    parts = [part.strip() for part in " ".join(found[1].split()).removesuffix(".").split(";")]
    names = ("engine", "n", "observation", "action", "conflict")
    needs = parts.pop() if parts[-1].startswith("needs ") else ""
    if len(parts) != len(names):
        raise ConfigError(f"its docstring lists {'; '.join(parts)}, where it should list {'; '.join(names)}")
    stated = dict(zip(names, parts, strict=True))
    return stated | {"n": stated["n"].removesuffix(" tasks")}, set(re.findall(r"[\w.]+", needs)[1:])


def _summary(doc: str) -> str:
    return " ".join(doc.split("\n\n")[0].split())


def _docstring(module: str, name: str) -> str:
    """The docstring of what a module calls ``name``, where it was imported from included; "" without one.

    Raises:
        ImportError: there is no such module, or nothing in it has the name.
        SyntaxError: it cannot be read.
    """
    if _spec(module) is None:
        raise ImportError(f"there is no module {module}")
    body = _body(module)
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return ast.get_docstring(node) or ""
        if isinstance(node, ast.ImportFrom):
            for alias in (one for one in node.names if name == (one.asname or one.name)):
                return _docstring(_origin(node, module), alias.name)
    words = {getattr(node, word, "") for node in _inside(body) for word in ("id", "name", "asname")}
    if body and not words & {name.partition(".")[0], "*", "__getattr__"}:
        raise ImportError(f"nothing in {module} is called {name}")
    return ""


def _inside(body: list[ast.stmt]) -> Iterator[ast.AST]:
    return itertools.chain.from_iterable(map(ast.walk, body))


def _libraries(module: str) -> set[str]:
    """Packages of others that a module, and those of its own package behind it, import at their top."""
    package = module.partition(".")[0]
    todo, seen, libraries = [module], set(), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for other in _imported(name):
            top = other.partition(".")[0]
            if top == package:
                todo.append(other)
            else:
                libraries.add(top)
    return libraries - sys.stdlib_module_names


def _imported(module: str) -> Iterator[str]:
    """What a module's top imports: modules, and names that may be modules."""
    for node in _body(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, module)
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def _origin(node: ast.ImportFrom, module: str) -> str:
    """The module that a statement of another one imports from."""
    spec = _spec(module)
    inside = spec is not None and spec.submodule_search_locations is not None
    package = module if inside else module.rpartition(".")[0]
    return resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""


def _body(module: str) -> list[ast.stmt]:
    """The statements of a module's top; none where it is not written in Python, or doesn't exist."""
    spec = _spec(module)
    source = getattr(spec.loader, "get_source", None) if spec is not None else None
    return _parsed(source(module) or "") if source is not None else []


@functools.cache
def _parsed(source: str) -> list[ast.stmt]:
    return ast.parse(source).body


def _spec(module: str) -> ModuleSpec | None:
    """Where a module is, None if nowhere; its packages are not imported, as `find_spec` would."""
    name, path, spec = "", None, None
    for part in module.split("."):
        if name and path is None:  # what is above is no package
            return None
        name = f"{name}.{part}" if name else part
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((one for one in found if one is not None), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec


def short_space(space: spaces.Space[Any]) -> str:
    """A space in two words: "choice of 4", "float [3]", "uint8 [64, 64, 3]"."""
    if isinstance(space, spaces.Discrete):
        return f"choice of {space.n}"
    if isinstance(space, spaces.MultiDiscrete):
        return f"choices of {space.nvec.tolist()}"
    dtype = "float" if np.issubdtype(space.dtype, np.floating) else str(space.dtype)
    return f"{dtype} {list(space.shape or ())}"


def _annotation(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
