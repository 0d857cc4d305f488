"""Stages of a run folder: what is saved comes back, whole or not at all, and nothing is executed."""

import json
import os
import pickle
import zipfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pgx_jax.errors import ConfigError, DataError, FolderError, FullError, NewerError
from pgx_jax.runs import serial
from pgx_jax.runs.store import RunStore, _arrays_name
from pgx_jax.types import Agent, Features, Grouping, Moments, Rows, Transitions


class Pair(NamedTuple):
    left: Any
    right: Any = None


class Renamed(NamedTuple):
    left: Any
    other: Any


class Widened(NamedTuple):
    left: Any
    right: Any
    extra: Any = 7


def identical(a, b) -> bool:
    """Slow, strict reference: same types, same keys in the same order, same bits."""
    if isinstance(a, (np.ndarray, np.generic)):
        return (
            type(a) is type(b)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b or (a != a and b != b)


def rewrite(store, change, stage="stage"):
    """Another header for a stage, as older code wrote it: without a checksum."""
    path = store.path / "stages" / stage / "structure.json"
    header = json.loads(path.read_text())
    del header["sha256"]
    path.write_text(json.dumps(change(header)))


def renamed(name):
    """The header of a Pair with another class's name."""
    return lambda header: json.loads(json.dumps(header).replace('"Pair"', f'"{name}"'))


@pytest.fixture
def store(tmp_path):
    return RunStore.create(tmp_path / "run", {"seed": 0})


DTYPES = st.sampled_from(["f4", "f8", "f2", "i4", "i8", "u4", "i1", "?", "c8", "U5", ">f4", "M8[s]"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    | hnp.arrays(st.sampled_from(["f4", "i8", "?"]), ()).map(lambda a: a[()])
)
TREES = st.recursive(
    LEAVES,
    lambda children: (
        st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=6) | st.integers(-3, 3), children, max_size=3)
        | st.builds(Pair, children, children)
        | st.builds(Moments, children, children, children)
    ),
    max_leaves=8,
)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(tree=TREES)
def test_nested_records_come_back_bit_for_bit(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "round-trip"
    store = RunStore(path)
    store.save("stage", tree)
    assert identical(store.load("stage", like=[Pair]), tree)


def test_keys_that_could_collide_or_escape_are_kept_apart(store):
    record = {
        "a/b": np.array(1),
        "a": {"b": np.array(2), "../../x": np.array(3), "": np.array(4)},
        1: np.array(5),
        "1": np.array(6),
        "#1": np.array(7),
        "file": np.array(8),
        "\u00e9\u2028\n": np.array(9),
    }
    store.save("stage", record)
    assert identical(store.load("stage"), record)


def test_jax_arrays_bfloat16_and_views_are_saved_by_value(store):
    base = np.arange(12.0).reshape(3, 4)
    half = jnp.linspace(0, 1, 5).astype(jnp.bfloat16)
    store.save("stage", {"half": half, "scalar": half[2], "cut": base[::2, ::-1], "fortran": base.T})
    loaded = store.load("stage")
    assert loaded["half"].dtype == jnp.bfloat16
    assert np.array_equal(loaded["half"].astype(float), np.asarray(half).astype(float))
    assert loaded["scalar"].shape == () and float(loaded["scalar"]) == float(half[2])
    assert np.array_equal(loaded["cut"], base[::2, ::-1])
    assert np.array_equal(loaded["fortran"], base.T)


def test_the_pipeline_records_return_as_their_own_classes(store):
    agent = Agent(
        actor={"params": {"Dense_0": {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.zeros((2, 4))}}},
        critic={"params": {}},
        observation=Moments(jnp.zeros((2, 3)), jnp.ones((2, 3)), jnp.ones(2)),
        reward=Moments(jnp.zeros((2, 5)), jnp.ones((2, 5)), jnp.ones((2, 5))),
    )
    rows = Rows(np.eye(2, 5, dtype=bool), np.array([10, 20]), jax.random.split(jax.random.PRNGKey(1)), agent)
    store.save("rows", rows)
    loaded = store.load("rows", like=Rows)
    assert isinstance(loaded.init, Agent) and isinstance(loaded.init.reward, Moments)
    assert jax.tree.structure(loaded) == jax.tree.structure(rows)
    jax.tree.map(np.testing.assert_array_equal, loaded, rows)
    store.save("rows", rows._replace(init=None))
    assert store.load("rows").init is None


def test_unknown_or_changed_classes_are_named(store):
    store.save("pair", Pair(np.zeros(2), 1))
    with pytest.raises(DataError, match="contains a Pair; pass that NamedTuple class as like="):
        store.load("pair")
    assert store.load("pair", like=Pair).right == 1
    with pytest.raises(DataError, match="holds a dict, not a Grouping"):
        store.save("plain", {"labels": np.zeros(3)})
        store.load("plain", like=Grouping)
    rewrite(store, renamed("Renamed"), "pair")
    with pytest.raises(DataError, match="Renamed with the fields .'left', 'right'.*another version"):
        store.load("pair", like=Renamed)


def test_a_new_field_with_a_default_does_not_break_old_runs(store):
    store.save("pair", Pair(np.zeros(2), 1))
    rewrite(store, renamed("Widened"), "pair")
    assert store.load("pair", like=Widened).extra == 7


def test_old_features_are_gaussian(store):
    store.save("new", Features(np.ones((1, 2, 3)), np.zeros(2, np.uint32), None, "sparse"))
    assert store.load("new", like=Features).projection == "sparse"

    def without(header):
        header["record"]["items"] = [item for item in header["record"]["items"] if item[0] != "projection"]
        return header

    rewrite(store, without, "new")
    assert store.load("new", like=Features).projection == "gaussian"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"f": np.sum}, "f is a"),
        ({"a": [1, {2}]}, "a/#1 is a set"),
        (Pair({"x": np.array([None, 1])}), "left/x is an array of Python objects"),
        ({"key": jax.random.key(0)}, "key_data"),
        ({(1, 2): 0}, "keys must be text or integers"),
    ],
)
def test_what_is_not_plain_data_is_refused_before_anything_is_written(store, record, message):
    with pytest.raises(DataError, match=message):
        store.save("stage", record)
    assert not store.has("stage") and not (store.path / "stages").exists()


def test_no_pickle_is_written_or_read(store, tmp_path):
    store.save("stage", {"a": np.arange(3), "t": np.array(["x"])})
    (archive,) = (store.path / "stages/stage").glob("*.npz")
    with np.load(archive, allow_pickle=False) as arrays:
        assert set(arrays.files) == {"a", "t"}
    flag = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (flag.touch, ())

    with zipfile.ZipFile(archive, "w") as file, file.open("a.npy", "w") as member:
        np.lib.format.write_array(member, np.array([Bomb()], dtype=object), allow_pickle=True)
    flag.unlink(missing_ok=True)
    with pytest.raises(DataError, match="damaged"):
        store.load("stage")
    archive.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="damaged"):
        store.load("stage")
    assert not flag.exists()


def test_any_single_cut_or_flip_is_noticed_or_harmless(store):
    record = {"a": np.arange(6.0), "b": [1.5, "x"]}
    store.save("stage", record)
    for path in (store.path / "stages/stage").iterdir():
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        broken = [whole[:cut] for cut in rng.integers(0, len(whole) - 1, 20)]
        broken += [b"", b"{}", b"[]", b"null", b"PK\x03\x04"]
        if path.suffix == ".npz":  # its payload is covered by checksums
            at = whole.index(np.arange(6.0).tobytes())
            broken.append(whole[:at] + b"\x01" + whole[at + 1 :])
        for content in broken:
            path.write_bytes(content)
            with pytest.raises(DataError, match="stage 'stage' .* is damaged .*delete the folder"):
                store.load("stage")
        path.write_bytes(whole)
    assert identical(store.load("stage"), record)
    (archive,) = (store.path / "stages/stage").glob("*.npz")
    archive.unlink()
    with pytest.raises(DataError, match="damaged"):
        store.load("stage")


def test_a_structure_cannot_point_outside_its_stage(store, tmp_path):
    store.save("stage", {"a": np.arange(3)})
    serial.write_arrays(tmp_path / "outside.npz", {"a": np.arange(3)})
    rewrite(store, lambda header: header | {"arrays": "../../../outside.npz"})
    with pytest.raises(DataError, match="can't name a file"):
        store.load("stage")


def test_a_stage_of_a_newer_version_is_not_to_be_deleted(store):
    store.save("stage", {"a": np.arange(3)})
    rewrite(store, lambda header: header | {"format": 99})
    with pytest.raises(NewerError, match=r"json was written in format 99, .* knows 1: install a newer"):
        store.load("stage")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc/x", ".hidden", "a\\b", "a\0", "x\n", 300 * "x", 3]
)
def test_names_cannot_leave_the_folder(store, name):
    for attempt in (
        lambda: store.save(name, {}),
        lambda: store.load(name),
        lambda: store.has(name),
        lambda: store.remove(name),
        lambda: store.write_json(name, {}),
        lambda: store.read_json(name),
    ):
        with pytest.raises(ConfigError, match="can't name a file"):
            attempt()


@pytest.mark.parametrize("failing", range(4))
def test_a_crash_at_any_replacement_leaves_the_old_record(store, monkeypatch, failing):
    store.save("stage", {"a": np.zeros(3)})
    calls = []

    def crash(*args):
        calls.append(args)
        if len(calls) == failing % 2 + 1:
            raise OSError(28, "No space left on device")
        return replace(*args)

    replace = os.replace
    monkeypatch.setattr(os, "replace", crash)
    new = {"a": np.ones(3)}
    with pytest.raises(FullError, match="run can't be written to .No space left on device.; what it holds"):
        store.save("stage" if failing < 2 else "fresh", new)
    monkeypatch.undo()
    assert identical(store.load("stage"), {"a": np.zeros(3)})
    assert store.stages() == ["stage"]
    assert not list(store.path.rglob("*.tmp"))
    store.save("stage", new)
    assert identical(store.load("stage"), new)
    assert len(list((store.path / "stages/stage").iterdir())) == 2


def test_stages_are_listed_in_the_order_of_their_first_saving(store):
    assert store.stages() == []
    for name in ("meta", "transitions", "affinity", "grouping"):
        store.save(name, {"a": np.zeros(1)})
    store.save("transitions", {"a": np.ones(1)})
    assert store.stages() == ["meta", "transitions", "affinity", "grouping"]
    store.remove("affinity")
    store.remove("affinity")
    (store.path / "stages/half").mkdir()
    assert store.stages() == ["meta", "transitions", "grouping"]
    assert not store.has("half") and not store.has("affinity") and store.has("meta")
    with pytest.raises(DataError, match=r"no stage 'affinity' \(it has meta, transitions, grouping\)"):
        store.load("affinity")


def test_equal_records_give_equal_files(tmp_path):
    record = Transitions(*(np.full((2, 3), i, np.float32) for i in range(6)))
    for name in "ab":
        RunStore.create(tmp_path / name, {}).save("data", record)
    files = [sorted((tmp_path / name / "stages/data").iterdir()) for name in "ab"]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


@pytest.mark.parametrize(
    ("shape", "compression"), [((1 << 40,), zipfile.ZIP_STORED), ((3,), zipfile.ZIP_DEFLATED)]
)
def test_no_more_is_allocated_than_the_file_holds(store, shape, compression):
    store.save("stage", {"x": np.zeros(3)})
    (path,) = (store.path / "stages" / "stage").glob("arrays-*.npz")
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
    with zipfile.ZipFile(path, "w", compression) as archive, archive.open(name, "w") as member:
        header = {"shape": shape, "fortran_order": False, "descr": "<f8"}
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(24))
    rewrite(store, lambda header: header | {"arrays": path.rename(path.with_name(_arrays_name(path))).name})
    with pytest.raises(DataError, match="damaged .*(should hold float64|is compressed)"):
        store.load("stage")


@pytest.mark.parametrize("link", ["metrics.jsonl", "figures", "stages/stage/structure.json"])
def test_links_that_leave_the_folder_are_refused(store, tmp_path, link):
    store.save("stage", {"x": np.zeros(3)})
    (store.path / "figures").mkdir()
    store.append_metrics({"x": 1})
    inside, outside = store.path / link, tmp_path / "elsewhere"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(FolderError, match=f"{link} is a link that leaves the run's folder"):
        RunStore.open(store.path)
    inside.unlink()
    inside.symlink_to(outside.rename(store.path / "moved"))
    RunStore.open(store.path).append_metrics({"x": 2})


def test_links_to_nothing_are_refused_and_not_written_through(store, tmp_path):
    outside = tmp_path / "elsewhere"
    (store.path / "metrics.jsonl").symlink_to(outside)
    with pytest.raises(FolderError, match="metrics.jsonl is a link that leaves the run's folder"):
        RunStore.open(store.path)
    RunStore.create(store.path, {}, overwrite=True).append_metrics({"x": 1})
    assert not outside.exists()
