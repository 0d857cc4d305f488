"""Our speed against that of peers, each in an environment of its own: `python benchmarks/peers.py`.

Rounds in turns on one pinned core, process time, equal settings. Peers and their versions stand in
peers/peers.toml; what cannot be installed here is left out with a message.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from common import ROOT, Preset, ResultFile, result_path, says_errors, uncached

from pgx_jax.errors import PgxError

HERE = Path(__file__).parent / "peers"
OURS = "pgx_jax"
CARTPOLE = {
    "num_envs": 40, "num_steps": 128, "epochs": 4, "minibatches": 4, "hidden": [64, 64],
    "learning_rate": 1e-3, "gamma": 0.99, "gae_lambda": 0.95, "clip": 0.2, "entropy": 0.01, "value": 0.5,
    "max_grad_norm": 0.5, "updates": 40,
}  # fmt: skip
SUBJECTS = {
    "PPO on CartPole-v1, 1 seed": ("cartpole", CARTPOLE | {"seeds": 1}),
    "PPO on CartPole-v1, 8 seeds": ("cartpole", CARTPOLE | {"seeds": 8}),
}
"""What is compared -> its part of peers.toml, and the settings that all have."""


@dataclass(frozen=True)
class Settings:
    """Time PPO against other libraries."""

    preset: Preset = "full"
    """full: what the README shows; small: one short round of ours alone, for tests."""
    rounds: int = 7
    """Rounds of each."""
    sources: Path | None = None
    """Folder with clones of the peers' repositories by name, where they cannot be cloned here."""
    environments: Path = ROOT / "runs" / "peers"
    """Folder of the peers' environments."""
    out: Path | None = None
    """File of the results."""


def peers(part: str) -> dict[str, dict]:
    """The peers of one part of peers.toml."""
    return tomllib.loads((HERE / "peers.toml").read_text())[part]


def installed(name: str, peer: Mapping, settings: Settings) -> tuple[Path, str]:
    """The Python of a peer's environment, made if it is missing, and what to put on its path.

    Raises:
        PgxError: it cannot be installed here; it says why.
    """
    wanted = [f"jax=={jax.__version__}", *peer["requirements"]]
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:8]
    folder = settings.environments / f"{name}-{digest}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        print(f"installing {name} into {folder}", flush=True)
        command([sys.executable, "-m", "venv", "--clear", str(folder)])
        command([str(python), "-m", "pip", "install", "-q", *wanted])
        done.touch()
    return python, _source(name, peer, settings) if "repository" in peer else ""


def _source(name: str, peer: Mapping, settings: Settings) -> str:
    """The folder of a peer's files, of which only those of the commit are looked at."""
    files = settings.environments / f"{name}-{peer['commit'][:8]}"
    if not files.exists():
        found = settings.sources / name if settings.sources else peer["repository"]
        command(["git", "clone", "-q", str(found), str(files)])
    command(["git", "-C", str(files), "checkout", "-q", peer["commit"]])
    return str(files / name)


def command(args: Sequence[str]) -> None:
    """Run a command.

    Raises:
        PgxError: it failed.
    """
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode:
        end = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise PgxError(f"`{' '.join(args)}` failed: {end}")


class Worker:
    """A peer's process, which runs a round whenever it is asked to."""

    def __init__(self, python: Path | str, script: str, path: str, wanted: Mapping):
        """Start it; it compiles.

        Raises:
            PgxError: it ended, or has other settings.
        """
        found = os.pathsep.join(filter(None, (str(HERE), path)))
        env = uncached(PYTHONPATH=found, JAX_PLATFORMS="cpu")
        self.process = subprocess.Popen(
            [str(python), str(HERE / script), json.dumps(wanted)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        self.told = self._read()
        if self.told["settings"] != dict(wanted):
            raise PgxError(f"{script} has other settings than it must: {self.told['settings']}")

    def round(self) -> dict:
        """One round: "cpu" seconds, and what it came to."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        assert self.process.stdout is not None and self.process.stderr is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise PgxError(f"{self.process.args} ended: {self.process.stderr.read()[-1000:]}")

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


@contextlib.contextmanager
def workers(part: str, wanted: Mapping, settings: Settings) -> Iterator[tuple[dict[str, Worker], dict]]:
    """The processes of ours and of all peers that can be installed, and why others cannot."""
    running, missing = {}, {}
    known = {} if settings.preset == "small" else peers(part)
    try:
        running[OURS] = Worker(sys.executable, f"ours_{part}.py", str(ROOT), wanted)
        for name, peer in known.items():
            try:
                running[name] = Worker(*_start(name, peer, settings), wanted)
            except PgxError as error:
                missing[name] = str(error)
                print(f"left out {name}: {error}", flush=True)
        yield running, missing
    finally:
        for worker in running.values():
            worker.close()


def _start(name: str, peer: Mapping, settings: Settings) -> tuple[Path, str, str]:
    python, path = installed(name, peer, settings)
    return python, peer["script"], path


def compute(subject: str, settings: Settings) -> dict:
    """All rounds of a subject, in turns."""
    part, wanted = SUBJECTS[subject]
    small = settings.preset == "small"
    if small:
        wanted = wanted | {"updates": 1, "num_envs": 4, "num_steps": 8, "hidden": [8]}
    with workers(part, wanted, settings) as (running, missing):
        rounds = [
            {name: worker.round() for name, worker in running.items()}
            for _ in range(1 if small else settings.rounds)
        ]
        told = {name: worker.told for name, worker in running.items()}
    return {
        "settings": wanted,
        "versions": {name: of["versions"] for name, of in told.items()},
        "missing": missing,
        "came_to": {name: [r[name].get("return") for r in rounds] for name in told},
        "timings": {name: [of["steps"] / r[name]["cpu"] for r in rounds] for name, of in told.items()},
    }


def ratios(cell: Mapping) -> dict[str, np.ndarray]:
    """Ours over every peer's steps a second, by round."""
    own = np.array(cell["timings"][OURS])
    rates = {name: np.array(cell["timings"][name]) for name in cell["versions"] if name != OURS}
    return {name: own / rate for name, rate in rates.items()}


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("peers", settings.preset, settings.out)
    results = ResultFile(path, name="peers", command="python benchmarks/peers.py")
    subjects = list(SUBJECTS)[:1] if settings.preset == "small" else list(SUBJECTS)
    results.run([{"subject": name} for name in subjects], lambda cell: compute(cell["subject"], settings))
    for cell in results.cells:
        for name, ratio in ratios(cell).items():
            low, high = ratio.min(), ratio.max()
            print(f"{cell['cell']['subject']}: {np.median(ratio):.2f} × {name} [{low:.2f}, {high:.2f}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
