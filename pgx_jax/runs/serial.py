"""Nested records to plain arrays and JSON, and back: what the run folder is written with.

Nothing here can execute code on loading: arrays are stored as ``.npy`` members of an ordinary
zip file (readable with ``numpy.load``), everything else as JSON, and classes are looked up among
those that the caller names, never imported by name.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import quote

import numpy as np

from pgx_jax.errors import DataError
from pgx_jax.types import PyTree

_SCALARS = (bool, int, str)

Node = dict[str, Any]
"""Part of a structure: its "kind", and what belongs to that, as JSON can hold it."""


def is_namedtuple(value: Any) -> TypeGuard[NamedTuple]:
    """Whether ``value`` is an instance of a NamedTuple class."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def is_namedtuple_class(value: Any) -> TypeGuard[type[NamedTuple]]:
    """Whether ``value`` is a NamedTuple class."""
    return isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields")


def encode(record: PyTree) -> tuple[Node, dict[str, np.ndarray]]:
    """Split a record into its structure and its arrays.

    Args:
        record: NamedTuples, dicts with text or integer keys, lists and tuples, nested in any way,
            with arrays (NumPy or JAX), numbers, text, booleans and None as leaves.

    Returns:
        structure: nested dicts and lists that JSON can hold.
        arrays: flattened key path -> array, without dtypes that only extensions know.

    Raises:
        DataError: a leaf or a key of another type, with its path.
    """
    arrays: dict[str, np.ndarray] = {}
    return _encode(record, (), arrays), arrays


def decode(node: Node, arrays: Mapping[str, np.ndarray], classes: Mapping[str, type[NamedTuple]]) -> PyTree:
    """Rebuild the record that :func:`encode` took apart; arrays come back as NumPy arrays.

    Args:
        node: the structure.
        arrays: flattened key path -> array.
        classes: the NamedTuple classes that may occur, by name.

    Raises:
        DataError: a class that is not among ``classes`` or whose fields have changed.
        KeyError, TypeError, ValueError: the structure is damaged.
    """
    kind = node["kind"]
    if kind == "none":
        return None
    if kind == "scalar":
        return node["value"]
    if kind == "float":
        return float.fromhex(node["value"])
    if kind in ("array", "generic"):
        return _decode_array(node, arrays)
    if kind == "dict":
        return {key: decode(child, arrays, classes) for key, child in node["items"]}
    if kind in ("list", "tuple"):
        children = [decode(child, arrays, classes) for child in node["items"]]
        return children if kind == "list" else tuple(children)
    if kind == "namedtuple":
        return _decode_namedtuple(node, arrays, classes)
    raise ValueError(f"unknown kind {kind!r}")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an uncompressed ``.npz`` file; equal arrays give equal bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an ``.npz`` file that `write_arrays` has written. Nothing is allocated that is
    larger than the file, whatever it claims; pickled objects are refused.

    Raises:
        OSError, ValueError, EOFError, zipfile.BadZipFile: the file is missing or damaged.
    """
    most = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return {x.filename.removesuffix(".npy"): _read_array(archive, x, most) for x in archive.infolist()}


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> np.ndarray:
    """A member of an archive of ``most`` bytes, if it holds what its header says."""
    form = np.lib.format
    with archive.open(info) as member:
        read_header = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
        shape, _, dtype = read_header[form.read_magic(member)](member)
        held = info.file_size - member.tell()
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > most or dtype.hasobject:
        raise ValueError(f"{info.filename} is compressed, larger than the file, or holds objects")
    if math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{info.filename} should hold {dtype}{list(shape)}, and has {held} bytes")
    with archive.open(info) as member:
        array: np.ndarray = form.read_array(member, allow_pickle=False)
        return array


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old contents or the new ones, never a part."""
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def jsonable(value: Any, path: str = "") -> Any:
    """Convert settings and results to what JSON can hold.

    Non-finite numbers become null, arrays become lists, dataclasses and NamedTuples become
    objects, classes and functions become their dotted names.

    Raises:
        DataError: a value of another kind, with its path.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, np.bool_):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Path):
        return str(value)
    if is_namedtuple(value):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): jsonable(child, f"{path}.{key}") for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(child, f"{path}[{i}]") for i, child in enumerate(value)]
    if hasattr(value, "__array__") and not isinstance(value, type):
        return jsonable(np.asarray(value).tolist(), path)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = [f.name for f in dataclasses.fields(value) if f.repr]
        return {name: jsonable(getattr(value, name), f"{path}.{name}") for name in shown}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise DataError(
        f"{path.lstrip('.') or 'the value'} is a {type(value).__name__}, which JSON cannot hold; "
        "use numbers, text, lists, dicts, arrays or dataclasses"
    )


def dumps(value: Any, *, indent: int | None = 2) -> str:
    """JSON text of :func:`jsonable` with sorted keys, so that equal values give equal text."""
    return json.dumps(jsonable(value), indent=indent, sort_keys=True, allow_nan=False)


def _encode(value: Any, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Node:
    if value is None:
        return {"kind": "none"}
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        return _encode_array(value, path, arrays)
    if isinstance(value, _SCALARS):
        return {"kind": "scalar", "value": value}
    if isinstance(value, float):
        return {"kind": "float", "value": value.hex()}
    if is_namedtuple(value):
        fields = _encode_items(zip(value._fields, value, strict=True), path, arrays)
        return {"kind": "namedtuple", "class": type(value).__name__, "items": fields}
    if isinstance(value, Mapping):
        return {"kind": "dict", "items": _encode_items(value.items(), path, arrays)}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {"kind": kind, "items": [child for _, child in _encode_items(enumerate(value), path, arrays)]}
    raise DataError(
        f"{_at(path)} is a {type(value).__name__}, which cannot be saved as plain data; "
        "use arrays, numbers, text, None, and dicts, lists, tuples or NamedTuples of these"
    )


def _encode_items(
    items: Iterable[tuple[Any, Any]], path: tuple[str, ...], arrays: dict[str, np.ndarray]
) -> list[tuple[str | int, Node]]:
    encoded = []
    for key, child in items:
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise DataError(f"{_at(path)} has the key {key!r}; keys must be text or integers")
        name = f"#{key}" if isinstance(key, int) else quote(key, safe="", errors="surrogatepass")
        encoded.append((key, _encode(child, (*path, name), arrays)))
    return encoded


def _encode_array(value: Any, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Node:
    try:
        array = np.asarray(value)
    except TypeError as error:
        raise DataError(
            f"{_at(path)} cannot be turned into a plain array ({error}); "
            "typed random keys are saved as jax.random.key_data(key)"
        ) from error
    if array.dtype.hasobject:
        raise DataError(f"{_at(path)} is an array of Python objects; save numbers or text instead")
    name = "/".join(path) or "record"
    node = {"kind": "generic" if isinstance(value, np.generic) else "array", "name": name}
    if array.dtype.isbuiltin == 2:  # an extension's dtype, such as bfloat16: store its bytes
        node["dtype"] = array.dtype.name
        array = np.ascontiguousarray(array).reshape(array.shape).view(f"u{array.dtype.itemsize}")
    arrays[name] = array
    return node


def _decode_array(node: Node, arrays: Mapping[str, np.ndarray]) -> np.ndarray | np.generic:
    array = arrays[node["name"]]
    if "dtype" in node:
        array = array.view(np.dtype(node["dtype"]))
    return array[()] if node["kind"] == "generic" else array


def _decode_namedtuple(
    node: Node, arrays: Mapping[str, np.ndarray], classes: Mapping[str, type[NamedTuple]]
) -> PyTree:
    name = node["class"]
    if name not in classes:
        raise DataError(f"the record contains a {name}; pass that NamedTuple class as like=")
    values = {field: decode(child, arrays, classes) for field, child in node["items"]}
    cls = classes[name]
    required = set(cls._fields) - set(cls._field_defaults)
    if not required <= set(values) <= set(cls._fields):
        raise DataError(
            f"the record holds a {name} with the fields {sorted(values)}, but the class now has "
            f"{sorted(cls._fields)}; it was written by another version"
        )
    return cls._make((cls._field_defaults | values)[field] for field in cls._fields)


def _at(path: tuple[str, ...]) -> str:
    return "/".join(path) or "the record"
