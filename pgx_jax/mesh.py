"""The devices that programs are spread over: all that JAX has, of all processes, along one axis.

What is spread (rows that train, transitions, subsets) is cut along one axis of its arrays, a part for each
device; all else is whole on every device. Where there is one device there is no mesh, and nothing here does
anything. Several processes (`join`) run the same program on the same data, and each has the same results.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from pgx_jax.errors import ConfigError, PgxError, is_address
from pgx_jax.types import PyTree

AXIS = "devices"
Lies = Any  # a PartitionSpec, or a tree of some in the place of arrays, whose types they have not
CUT: Lies = Spec(AXIS)
CUT_BY_COLUMNS: Lies = Spec(None, AXIS)
WHOLE: Lies = Spec()
"""How an array lies on the mesh: cut along its first axis, along its second one, or not at all."""

HEARTBEAT = 30
"""Seconds after which a process counts as lost that is not heard of."""

_CHOSEN: dict[str, int] = {}
""""count": devices that are used, if it is not all of them."""


def use_devices(count: int | None = None) -> None:
    """Spread programs over so many devices from here on, those that JAX lists first; over all by default.

    Of a CPU there are as many as are asked for, if JAX has not computed anything yet (each trains rows of its
    own, on cores that all share); else JAX knows one.

    Raises:
        ConfigError: there are fewer, or several processes are to leave out some of theirs.
    """
    _divide_cpu(count)
    known = jax.local_devices()
    if count is not None and not 1 <= count <= len(known):
        there = f"JAX has {len(known)} ({_kind(known[0])})"
        raise ConfigError(
            f"devices = {count}, and {there}: ask for fewer, or (of a CPU) before JAX has computed anything"
        )
    if count not in (None, len(known)) and is_joined():
        raise ConfigError(f"devices = {count}, and processes that are joined use all: leave it out")
    _CHOSEN.clear()
    if count is not None and not is_joined():
        _CHOSEN["count"] = count


def _divide_cpu(count: int | None) -> None:
    """Let JAX take its CPU for so many devices."""
    if count is not None and count > 0:
        with suppress(RuntimeError):  # it is too late
            jax.config.update("jax_num_cpu_devices", count)


def join(
    address: str | None = None,
    processes: int | None = None,
    number: int | None = None,
    *,
    devices: int | None = None,
) -> None:
    """Make this process one of several that share their devices (`jax.distributed`), on one machine or many.

    Call it before JAX has computed anything. It returns when all are there; after five minutes without them
    the process ends. Without arguments a cluster's manager is asked, if JAX knows it. At the end each waits
    for the others, five minutes at most: what one of them does alone should be done `in_first`.

    Args:
        address: HOST:PORT of process 0, which all can reach.
        processes: how many there are.
        number: which one this is, from 0 on.
        devices: into how many its CPU is divided.

    Raises:
        ConfigError: no such process or address, no manager, or it is too late.
    """
    if processes is not None and (number is None or not 0 <= number < processes):
        raise ConfigError(f"process {number} of {processes}: they are numbered from 0 to {processes - 1}")
    if address is not None and not is_address(address):
        raise ConfigError(f"the address of process 0 is HOST:PORT, not {address!r}")
    _divide_cpu(devices)
    with suppress(AttributeError):  # some versions take an ending signal for news to tell the others
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(address, processes, number, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        if address is None and "should be defined" in str(error):
            error = ValueError("no Slurm, Open MPI or TPU pod was found: give HOST:PORT PROCESSES NUMBER")
        where = f" at {address}" if address else ""
        raise ConfigError(f"this process cannot meet the others{where}: {error}") from error


def is_joined() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized()


def leads() -> bool:
    """Whether this process is the first one: it alone writes files, and tells how things go on."""
    return not is_joined() or jax.process_index() == 0


def in_use() -> str:
    """The devices in use, in a line."""
    count, several = _CHOSEN.get("count", jax.device_count()), jax.process_count()
    told = f"{count} device{'s' * (count > 1)} ({_kind(jax.devices()[0])})"
    return told + (f" of {several} processes" if several > 1 else "")


def _kind(device: jax.Device) -> str:
    same = device.device_kind.lower() == device.platform
    return device.platform if same else f"{device.platform}, {device.device_kind}"


def mesh() -> Mesh | None:
    """The mesh, if there is more than one device to use (and programs are compiled, for these)."""
    default = jax.config.jax_default_device  # type: ignore[attr-defined]  # flags are made late
    elsewhere = default is not None and getattr(default, "platform", default) != jax.default_backend()
    if jax.config.jax_disable_jit or elsewhere:  # type: ignore[attr-defined]
        return None
    return _mesh(_CHOSEN.get("count", jax.device_count()))


@functools.cache
def _mesh(count: int) -> Mesh | None:
    return Mesh(np.array(jax.devices()[:count]), (AXIS,)) if count > 1 else None


def mesh_size() -> int:
    """Into how many parts arrays are cut."""
    found = mesh()
    return 1 if found is None else int(found.size)


def rounded(count: int) -> int:
    """The least multiple of the number of parts that is not below ``count``."""
    return -(-count // mesh_size()) * mesh_size()


def padded(x: Any) -> Any:
    """The array with its last row once more, and more often, until it can be cut."""
    spare = rounded(len(x)) - len(x)
    return jnp.concatenate([x, jnp.repeat(x[-1:], spare, 0)]) if spare else x


def place(tree: PyTree, spec: Any) -> PyTree:
    """Arrays as they are to lie on the mesh, if there is one; those that do are left alone.

    Args:
        tree: arrays, the same in all processes.
        spec: `CUT`, `CUT_BY_COLUMNS` or `WHOLE`, for all or for parts of the tree.
    """
    found = mesh()
    if found is None:
        return tree
    lies = jax.tree.map(functools.partial(NamedSharding, found), jax.tree.broadcast(spec, tree))
    return jax.tree.map(_place, tree, lies)


def _place(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array):
        if not x.is_fully_addressable:  # it is on the mesh already
            return x
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            numbers = _place(jax.random.key_data(x), sharding)
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(x))
    if not is_joined():
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and sharding.is_fully_replicated:
        copies = [jax.device_put(x, device) for device in jax.local_devices()]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, copies)
    host = np.asarray(x)
    host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype))
    return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)


def local(tree: PyTree) -> PyTree:
    """Arrays that are whole on every device as arrays of this process's first one."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def whole(tree: PyTree) -> PyTree:
    """Arrays that lie cut on the mesh, put together; arrays of their own on this process's first device."""
    found = mesh()
    return tree if found is None else local(_gathered(found)(tree))


@functools.cache
def _gathered(found: Mesh) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(found, WHOLE))


def agreed(value: bool) -> bool:
    """What the first process says; the others hear it from there."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value))) if is_joined() else value


def in_first(call: Callable[[], object]) -> None:
    """Call something in the first process alone; the others go on once it is done.

    Raises:
        PgxError, OSError: what the call raised, in all processes.
    """
    failed: PgxError | OSError | None = None
    try:
        if leads():
            call()
    except (PgxError, OSError) as error:
        failed = error
    if is_joined():
        failed = pickle.loads(_from_first(pickle.dumps(failed)))
    if failed is not None:
        raise failed


def _from_first(text: bytes) -> bytes:
    """What the first process has."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    mine = np.resize(np.frombuffer(text, np.uint8), size)
    return np.asarray(multihost_utils.broadcast_one_to_all(mine)).astype(np.uint8).tobytes()


def check_equal(what: str, tell: Callable[[], object]) -> None:
    """Refuse to go on where processes have not been told the same; each must come here.

    Args:
        what: what it is, for messages.
        tell: what each has been told, compared by its `repr`; it is not asked for in a process alone.

    Raises:
        ConfigError: in all processes.
    """
    if not is_joined():
        return
    mine = np.frombuffer(hashlib.sha256(repr(tell()).encode()).digest(), np.uint8)
    every = np.asarray(multihost_utils.process_allgather(mine))
    if (every != every[0]).any():
        others = sorted({int(i) for i in np.flatnonzero((every != every[0]).any(1))})
        raise ConfigError(
            f"processes {', '.join(map(str, others))} have other {what} than process 0: start all with the "
            f"same command and versions, and a folder that all see"
        )
