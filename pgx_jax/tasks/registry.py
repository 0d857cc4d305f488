"""Finding task families: they register under the entry-point group ``pgx_jax.families``.

An entry point names a factory, a function of keyword settings that returns a TaskFamily. Nothing
is imported before a family is asked for, so a missing environment library hurts its own family
alone.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from pgx_jax.errors import ConfigError, checked
from pgx_jax.tasks.family import TaskFamily

GROUP = "pgx_jax.families"
"""Entry points of families: name -> a function of keyword settings that returns a TaskFamily."""
ADAPTERS = "pgx_jax.adapters"
"""Entry points of adapters: name -> a function that makes a family of a library's environments."""


def families() -> dict[str, metadata.EntryPoint]:
    """Return the registered families, name -> entry point, sorted by name; imports none of them."""
    return {entry.name: entry for entry in sorted(_registered(), key=lambda entry: entry.name)}


@checked
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


def gymnax_family(*args: Any, **settings: Any) -> TaskFamily:
    """A family of gymnax environments (see `envs.gymnax_adapter.gymnax_family`)."""
    return _adapter("gymnax_family")(*args, **settings)


def gymnasium_family(*args: Any, **settings: Any) -> TaskFamily:
    """A family of Gymnasium environments (see `envs.gymnasium_adapter.gymnasium_family`)."""
    return _adapter("gymnasium_family")(*args, **settings)


def brax_family(*args: Any, **settings: Any) -> TaskFamily:
    """A family of Brax environments (see `envs.brax_adapter.brax_family`)."""
    return _adapter("brax_family")(*args, **settings)


def _adapter(name: str) -> Callable[..., TaskFamily]:
    """An adapter, which checks its arguments. It is found by entry point, so that somebody else's `envs` in
    the way is told."""
    matches = [entry for entry in metadata.entry_points(group=ADAPTERS) if entry.name == name]
    if not matches:
        raise ConfigError(f"the adapter {name!r} is not installed: reinstall pgx-jax")
    return checked(_load(matches[0]))


def load_factory(name: str) -> Callable[..., TaskFamily]:
    """Import and return the factory registered under ``name``.

    Raises:
        ConfigError: if the name is unknown, registered twice, or its module cannot be imported.
    """
    return _load(entry_point(name))


def entry_point(name: str) -> metadata.EntryPoint:
    """Where the family ``name`` is registered; imports nothing.

    Raises:
        ConfigError: if the name is unknown or registered twice.
    """
    matches = [entry for entry in _registered() if entry.name == name]
    if not matches:
        known = list(families())
        listed = f"the families are: {', '.join(known)}" if known else "none is installed: reinstall pgx-jax"
        raise ConfigError(f"there is no task family {name!r}{_nearest(name, known)}; {listed}")
    if len({entry.value for entry in matches}) > 1:
        places = " and ".join(f"{entry.value} ({_distribution(entry)})" for entry in matches)
        raise ConfigError(f"task family {name!r} is registered twice, by {places}: uninstall or rename one")
    return matches[0]


def _load(entry: metadata.EntryPoint) -> Callable[..., TaskFamily]:
    """What an entry point names.

    Raises:
        ConfigError: a package is missing, somebody else's is in the way, or the module says what it lacks.
    """
    try:
        return entry.load()
    except ConfigError:  # the module's own words
        raise
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        package = entry.module.partition(".")[0]
        own = _is_own(entry, package)
        if own and missing and missing.partition(".")[0] != package:
            raise ConfigError(
                f"{_kind(entry)} {entry.name!r} needs the package {missing!r}, which is not installed: "
                f"{installation(entry, missing)}"
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


def installation(entry: metadata.EntryPoint, package: str) -> str:
    """Say how to install a package: by the extra of the family's distribution that brings it, if one does.

    An extra brings what its requirements name, and the extras that it asks of them: ``gymnasium[box2d]``
    brings Box2D.
    """

    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "_", name.strip()).lower()

    wanted = plain(package.partition(".")[0])
    for requirement in (entry.dist.requires or []) if entry.dist is not None else []:
        found = re.match(r"([\w.-]+)\s*(?:\[([^\]]*)\])?.*;.*\bextra == [\"']([\w.-]+)[\"']", requirement)
        if found and wanted in map(plain, (found[1], *(found[2] or "").split(","))):
            return f'pip install "{_distribution(entry)}[{found[3]}]"'
    return f"install it, or the extra of {_distribution(entry)} that brings it"


def _in_the_way(entry: metadata.EntryPoint, reason: str) -> str:
    return (
        f"{_kind(entry)} {entry.name!r} is registered by {_distribution(entry)} as {entry.value}, which "
        f"cannot be loaded ({reason}): {whose_package(entry)}"
    )


def whose_package(entry: metadata.EntryPoint) -> str:
    """Say which files Python takes for the entry point's package, whose they should be, and what to do."""
    package = entry.module.partition(".")[0]
    found = location(package)
    where = f"Python takes the package {package!r} from {found}" if found else f"{package!r} is not found"
    owner = _distribution(entry)
    return (
        f"{where}. If that is not the package of {owner}, it is in the way: rename it, or start from a "
        f"folder that does not contain it; otherwise reinstall {owner}"
    )


def _is_own(entry: metadata.EntryPoint, package: str) -> bool:
    """Whether Python takes the package from where the entry point's distribution has put it (or where
    that is, is not recorded)."""
    if entry.dist is None:
        return True
    found, files = location(package), entry.dist.files or ()
    recorded = {Path(file.locate()).resolve() for file in files if file.parts[0] == package}
    origin = json.loads(entry.dist.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        root = Path(url2pathname(urlparse(origin["url"]).path)).resolve()
        return found is not None and root in Path(found).resolve().parents
    return not recorded or (found is not None and Path(found).resolve() in recorded)


def location(package: str) -> str | None:
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
