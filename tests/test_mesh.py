"""Several devices, and several processes, come to what one device does."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from small import small
from spread import computed, found_in, grouped, spread_programs

from pgx_jax import config, make_family, mesh, run
from pgx_jax.cli.devices import DeviceArguments
from pgx_jax.errors import ConfigError
from pgx_jax.estimate import problems

SCRIPT = Path(__file__).with_name("spread.py")


def started(folder, devices, *meeting):
    folder.mkdir(exist_ok=True)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, str(SCRIPT), str(folder), *map(str, meeting)]
    return subprocess.Popen(
        command, env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(*processes):
    told = [process.communicate(timeout=500)[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n\n".join(told)
    return [text.strip().splitlines()[-1] for text in told]


@pytest.fixture(scope="module")
def alone(small_settings):
    """A run on one device."""
    return run(*small(small_settings))


def check(found, expected):
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-4, atol=1e-5, err_msg=name)


def test_eight_devices_come_to_what_one_does(alone, tmp_path):
    """Up to the groups, and in all that is spread; whole runs are those of two processes."""
    (told,) = ended(started(tmp_path / "eight", 8))
    assert told == "8 devices (cpu)"
    found = np.load(tmp_path / "eight" / "found.npz")
    assert found["devices"][0] == 8 and not found["missed"].size
    assert len(spread_programs()) == 14
    check(found, grouped(alone))
    known = alone.family, alone.policy, alone.config.ppo, alone.features, alone.transitions
    check(found, computed(*known))


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def test_two_processes_come_to_what_one_does(alone, address, tmp_path):
    """Each with the same results, of which the first alone writes, and none leaves before it has; a run that
    was stopped goes on, unless another one works on it, which is told to all."""
    folder = tmp_path / "two"
    told = ended(*(started(folder, 2, address, 2, number) for number in range(2)))
    assert told == ["4 devices (cpu) of 2 processes"] * 2
    for name in ("found", "others"):
        found = np.load(folder / f"{name}.npz")
        assert found["devices"][0] == 4 and found["refused"]
        check(found, found_in(alone))
        check(found, {f"again {name}": x for name, x in found_in(alone).items()})
    assert sorted(path.name for path in folder.iterdir()) == ["found.npz", "others.npz", "run"]
    assert (folder / "run" / "report.html").is_file() and (folder / "run" / "results.json").is_file()


def joined(address, out, number, *more):
    """`pgx-jax run` as one of two processes."""
    command = [sys.executable, "-m", "pgx_jax", "run", "points", "--n-tasks", "4", "--out", str(out), *more]
    command += ["--join", address, "2", str(number), "--compare", "none"]
    known = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, env=known, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_processes_with_other_settings_are_refused(address, tmp_path):
    both = [joined(address, tmp_path / "run", number, "--seed", str(number)) for number in range(2)]
    for process in both:
        told = process.communicate(timeout=200)[0]
        assert process.returncode == 2
        assert "processes 1 have other settings or versions than process 0" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_no_process_waits_for_one_that_was_killed(number, address, tmp_path):
    both = [joined(address, tmp_path / "run", i, "--steps-per-task", "400000") for i in range(2)]
    while not (tmp_path / "run" / "config.json").exists():
        time.sleep(0.2)
    time.sleep(20)  # they train
    both[number].kill()
    told = both[1 - number].communicate(timeout=120)[0]
    assert both[1 - number].returncode != 0, told


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_problems_are_listed_part_by_part(parts, monkeypatch):
    monkeypatch.setattr(problems, "mesh_size", lambda: parts)
    member = np.random.default_rng(0).random((70, 5)) < 0.4
    made = problems.make_problems(member)
    each, columns = len(made.size) // parts, made.slots.shape[1] // parts
    assert each * parts == len(made.size) >= 70 and each & (each - 1) == 0
    listed = made.listed()
    for task in range(5):
        assert sorted(x for x in listed[task] if x < 70) == np.flatnonzero(member[:, task]).tolist()
        for part in range(parts):  # each part lists its own, by their numbers there
            own = np.asarray(made.slots[task, part * columns : (part + 1) * columns])
            mine = member[part * each : (part + 1) * each, task]
            assert own[own < each].tolist() == np.flatnonzero(mine).tolist()
    whole = member.sum(1)
    assert np.asarray(made.size)[:70].tolist() == whole.tolist()


def test_one_device_needs_no_mesh():
    assert mesh.mesh() is None and mesh.mesh_size() == 1 and mesh.rounded(7) == 7
    x = np.arange(3)
    assert mesh.place(x, mesh.CUT) is x and mesh.whole(x) is x and mesh.padded(x) is x
    assert mesh.agreed(True) and mesh.leads() and not mesh.is_joined()
    assert mesh.in_use() == "1 device (cpu)"
    mesh.use_devices(1)
    assert mesh.mesh() is None
    mesh.use_devices()


def test_host_environments_are_not_shared_by_processes(monkeypatch):
    monkeypatch.setattr(config, "is_joined", lambda: True)
    with pytest.raises(ConfigError, match="'lunarlander' act on their host, .*: leave `join` out"):
        config.check(config.Config(), make_family("lunarlander"))


def test_devices_and_processes_that_are_not_there():
    for count in (0, 9):
        with pytest.raises(
            ConfigError, match=rf"devices = {count}, and JAX has {jax.device_count()} \(cpu\)"
        ):
            mesh.use_devices(count)
    with pytest.raises(ConfigError, match="process 2 of 2: they are numbered from 0 to 1"):
        DeviceArguments(join=("localhost:1", "2", "2")).settle()
    for wrong in (("localhost:1",), ("localhost:1", "two", "0")):
        with pytest.raises(ConfigError, match="give HOST:PORT, how many processes, and which one; or auto"):
            DeviceArguments(join=wrong).settle()
    with pytest.raises(ConfigError, match="the address of process 0 is HOST:PORT, not 'localhost'"):
        mesh.join("localhost", 2, 0)
    with pytest.raises(ConfigError, match="this process cannot meet the others at localhost:1: .*before"):
        DeviceArguments(join=("localhost:1", "2", "0")).settle()  # JAX has computed something already
