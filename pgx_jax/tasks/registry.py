"""Finding task families: they register under the entry-point group ``pgx_jax.families``.

An entry point names a factory, a function of keyword settings that returns a TaskFamily. Nothing
is imported before a family is asked for, so a missing environment library hurts its own family
alone.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

import docstring_parser
import numpy as np
from gymnasium import spaces

from pgx_jax.errors import ConfigError
from pgx_jax.tasks.family import TaskFamily

GROUP = "pgx_jax.families"
"""Entry points of families: name -> a function of keyword settings that returns a TaskFamily."""
ADAPTERS = "pgx_jax.adapters"
"""Entry points of adapters: name -> a function that makes a family of a library's environments."""


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


def families() -> dict[str, metadata.EntryPoint]:
    """Return the registered families, name -> entry point, sorted by name; imports none of them."""
    return {entry.name: entry for entry in sorted(_registered(), key=lambda entry: entry.name)}


def make_family(name: str, **settings: Any) -> TaskFamily:
    """Build the family registered under ``name``.

    Raises:
        ConfigError: if the name or a setting is unknown (the message has the nearest ones), a
            setting is missing or out of range, or the family cannot be imported (it says why, and
            whose package is in the way where another one hides the family's).
    """
    factory = load_factory(name)
    parameters = inspect.signature(factory).parameters
    known = [p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD]
    if len(known) == len(parameters):
        for key in settings:
            if key not in known:
                raise ConfigError(
                    f"family {name!r} has no setting {key!r}{_nearest(key, known)}; "
                    f"its settings are: {', '.join(known)}"
                )
    required = [key for key in known if parameters[key].default is inspect.Parameter.empty]
    missing = [key for key in required if key not in settings]
    if missing:
        raise ConfigError(f"family {name!r} cannot be built without the setting(s) {', '.join(missing)}")
    family = factory(**settings)
    if not isinstance(family, TaskFamily):
        raise ConfigError(
            f"family {name!r} is registered as {families()[name].value}, which returned "
            f"{type(family).__name__} instead of a TaskFamily"
        )
    return family


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
    return FamilyInfo(name, " ".join(text.split("\n\n")[0].split()), settings, families()[name].value)


def facts(name: str) -> Facts:
    """Build a family at its defaults and tell what it is; what goes wrong on the way is told, not raised.

    Raises:
        ConfigError: if the name is unknown.
    """
    if name not in families():
        load_factory(name)  # says which names are near
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
    """What a family's factory says of itself, read from its source: nothing is imported or built.

    A factory states the facts of its defaults in a line of its docstring::

        Listed: device; 10 tasks; float [4]; choice of 2; 3 groups.

    Without that line they are blank; `facts` finds them out. ``drawn`` and ``defaults`` are left open.
    """
    entry = families()[name]
    try:
        doc, imported = _source(entry)
    except (OSError, SyntaxError, ValueError, ImportError) as error:
        return Facts(name, "", entry.value, problem=_in_the_way(entry, f"{type(error).__name__}: {error}"))
    summary = " ".join(doc.split("\n\n")[0].split())
    line = re.search(r"^\s*Listed: (.*?)\.$", doc, re.MULTILINE)
    stated = line[1].split("; ") if line else [""] * 5
    stated[1] = stated[1].removesuffix(" tasks")
    problem = next((f"needs {_installation(entry, lib)}" for lib in imported if _location(lib) is None), "")
    return Facts(name, summary, entry.value, *stated)._replace(problem=problem)


def _source(entry: metadata.EntryPoint) -> tuple[str, list[str]]:
    """The docstring of an entry point's function, and the packages of others that its module, and the
    modules of its own package behind it, import at their top.

    Raises:
        ImportError, OSError, SyntaxError, ValueError: the module or the function cannot be found or read.
    """
    package, libraries, doc = entry.module.partition(".")[0], [], ""
    todo, seen = [entry.module], set()
    while todo:
        module = todo.pop()
        file = _file(module)
        if module == entry.module and file is None:
            raise ImportError(f"there is no module {module}")
        if file is None or file in seen:
            continue
        seen.add(file)
        body = ast.parse(file.read_text("utf-8")).body
        if module == entry.module:
            found = [x for x in body if isinstance(x, ast.FunctionDef) and x.name == entry.attr]
            if not found:
                raise ImportError(f"{module} has no function {entry.attr}")
            doc = ast.get_docstring(found[0]) or ""
        for name in _imported(body):
            top = name.partition(".")[0]
            if top == package:
                todo.append(name)
            elif top not in sys.stdlib_module_names:
                libraries.append(top)
    return doc, sorted(set(libraries))


def _file(module: str) -> Path | None:
    """The source file of a module, found without importing its package; None if there is none."""
    package, *parts = module.split(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, *parts)
        for file in (path.with_suffix(".py") if parts else path / "__init__.py", path / "__init__.py"):
            if file.is_file():
                return file
    return Path(spec.origin) if spec is not None and not parts and spec.origin else None


def _imported(body: list[ast.stmt]) -> list[str]:
    """Modules that the statements of a module's top import, submodules included."""
    names = []
    for node in body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def short_space(space: spaces.Space[Any]) -> str:
    """A space in two words: "choice of 4", "float [3]", "uint8 [64, 64, 3]"."""
    if isinstance(space, spaces.Discrete):
        return f"choice of {space.n}"
    if isinstance(space, spaces.MultiDiscrete):
        return f"choices of {space.nvec.tolist()}"
    dtype = "float" if np.issubdtype(space.dtype, np.floating) else str(space.dtype)
    return f"{dtype} {list(space.shape or ())}"


def gymnax_family(*args: Any, **settings: Any) -> TaskFamily:
    """A family of gymnax environments (see `envs.gymnax_adapter.gymnax_family`)."""
    return _load(_adapter("gymnax_family"))(*args, **settings)


def gymnasium_family(*args: Any, **settings: Any) -> TaskFamily:
    """A family of Gymnasium environments (see `envs.gymnasium_adapter.gymnasium_family`)."""
    return _load(_adapter("gymnasium_family"))(*args, **settings)


def brax_family(*args: Any, **settings: Any) -> TaskFamily:
    """A family of Brax environments (see `envs.brax_adapter.brax_family`)."""
    return _load(_adapter("brax_family"))(*args, **settings)


def _adapter(name: str) -> metadata.EntryPoint:
    """Adapters are found by entry point, so that somebody else's `envs` in the way is told."""
    matches = [entry for entry in metadata.entry_points(group=ADAPTERS) if entry.name == name]
    if not matches:
        raise ConfigError(f"the adapter {name!r} is not installed: reinstall pgx-jax")
    return matches[0]


def load_factory(name: str) -> Callable[..., TaskFamily]:
    """Import and return the factory registered under ``name``.

    Raises:
        ConfigError: if the name is unknown, registered twice, or its module cannot be imported.
    """
    matches = [entry for entry in _registered() if entry.name == name]
    if not matches:
        known = list(families())
        listed = f"the families are: {', '.join(known)}" if known else "none is installed: reinstall pgx-jax"
        raise ConfigError(f"there is no task family {name!r}{_nearest(name, known)}; {listed}")
    if len({entry.value for entry in matches}) > 1:
        places = " and ".join(f"{entry.value} ({_distribution(entry)})" for entry in matches)
        raise ConfigError(f"task family {name!r} is registered twice, by {places}: uninstall or rename one")
    return _load(matches[0])


def _load(entry: metadata.EntryPoint) -> Callable[..., TaskFamily]:
    """What an entry point names.

    Raises:
        ConfigError: a package is missing, or somebody else's is in the way.
    """
    try:
        return entry.load()
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        package = entry.module.partition(".")[0]
        own = _is_own(entry, package)
        if own and missing and missing.partition(".")[0] != package:
            raise ConfigError(
                f"{_kind(entry)} {entry.name!r} needs the package {missing!r}, which is not installed: "
                f"{_installation(entry, missing)}"
            ) from error
        if own and not isinstance(error, ImportError | AttributeError):
            raise
        raise ConfigError(_in_the_way(entry, f"{type(error).__name__}: {error}")) from error


def _kind(entry: metadata.EntryPoint) -> str:
    return "adapter" if entry.group == ADAPTERS else "family"


def _registered() -> list[metadata.EntryPoint]:
    return list(metadata.entry_points(group=GROUP))


def _distribution(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown distribution"


def _installation(entry: metadata.EntryPoint, package: str) -> str:
    """Say how to install a package: by the extra of the family's distribution that names it, if one does."""
    for requirement in (entry.dist.requires or []) if entry.dist is not None else []:
        found = re.match(r"([\w.-]+).*;.*\bextra == [\"']([\w.-]+)[\"']", requirement)
        if found and re.sub(r"[-_.]+", "_", found[1]).lower() == package.partition(".")[0].lower():
            return f'pip install "{_distribution(entry)}[{found[2]}]"'
    return f"install it, or the extra of {_distribution(entry)} that brings it"


def _in_the_way(entry: metadata.EntryPoint, reason: str) -> str:
    """Say which files Python took for the entry point's package, whose they should be, and what to do."""
    package = entry.module.partition(".")[0]
    found = _location(package)
    where = f"Python takes the package {package!r} from {found}" if found else f"{package!r} is not found"
    return (
        f"{_kind(entry)} {entry.name!r} is registered by {_distribution(entry)} as {entry.value}, which "
        f"cannot be loaded ({reason}): {where}. If that is not the package of {_distribution(entry)}, it is "
        f"in the way: rename it, or start from a folder that does not contain it; otherwise reinstall "
        f"{_distribution(entry)}"
    )


def _is_own(entry: metadata.EntryPoint, package: str) -> bool:
    """Whether Python takes the package from where the entry point's distribution has put it (or where
    that is, is not recorded)."""
    if entry.dist is None:
        return True
    found, files = _location(package), entry.dist.files or ()
    recorded = {Path(file.locate()).resolve() for file in files if file.parts[0] == package}
    origin = json.loads(entry.dist.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        root = Path(url2pathname(urlparse(origin["url"]).path)).resolve()
        return found is not None and root in Path(found).resolve().parents
    return not recorded or (found is not None and Path(found).resolve() in recorded)


def _location(package: str) -> str | None:
    """Return the file, or for a package without ``__init__`` the folders, of an importable package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin and spec.has_location:
        return spec.origin
    return ", ".join(spec.submodule_search_locations or ()) or spec.origin


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.replace("_", "-"), list(known), n=3, cutoff=0.5)
    close = close or difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _annotation(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
