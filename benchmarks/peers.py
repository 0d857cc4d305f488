"""Our speed against that of peers, each in an environment of its own: `python benchmarks/peers.py`.

Rounds in turns on one pinned core, process time, equal settings. Peers and their versions stand in
peers/peers.toml; what cannot be installed here is left out with a message. What each is given, and what
differs from ours, its script in peers/ says.
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
from typing import NamedTuple

import jax
import numpy as np
import tyro
from common import ROOT, Preset, ResultFile, result_path, says_errors, uncached

from pgx_jax.errors import PgxError

HERE = Path(__file__).parent / "peers"
OURS = "pgx_jax"
PPO = {"hidden": [64, 64], "clip": 0.2, "value": 0.5, "max_grad_norm": 0.5, "epochs": 4, "seeds": 1}
CARTPOLE = PPO | {
    "num_envs": 40, "num_steps": 128, "minibatches": 4, "learning_rate": 1e-3, "gamma": 0.99,
    "gae_lambda": 0.95, "entropy": 0.01, "updates": 40,
}  # fmt: skip
REACHER = PPO | {
    "num_envs": 48, "num_steps": 50, "minibatches": 8, "learning_rate": 1e-3, "gamma": 0.95,
    "gae_lambda": 0.95, "entropy": 0.0, "squash": True, "normalise_observations": True, "horizon": 1000,
    "backend": "spring", "updates": 100,
}  # fmt: skip
LUNARLANDER = PPO | {
    "num_envs": 16, "num_steps": 1024, "minibatches": 256, "learning_rate": 3e-4, "gamma": 0.999,
    "gae_lambda": 0.98, "entropy": 0.01, "horizon": 1000, "updates": 2,
}  # fmt: skip
"""Those of RL Baselines3 Zoo; the family's own have larger minibatches."""
LARGER = {"num_envs": 24, "num_steps": 256, "minibatches": 32, "updates": 6}
FEATURES = {
    "parameters": 100_000, "p": 99_842, "layers": [[4, 312], [312, 312], [312, 2]], "dim": 400,
    "transitions": 4096,
}  # fmt: skip
SURROGATES = {"preset": "full", "transitions": 20_480, "dim": 400, "subsets": 60, "size": 4, "gap": 1e-4}
SMALL = {
    "cartpole": {"updates": 1, "num_envs": 4, "num_steps": 8, "hidden": [8]},
    "reacher": {"updates": 1, "num_envs": 8, "num_steps": 5, "hidden": [8]},
    "lunarlander": {"updates": 1, "num_envs": 4, "num_steps": 16, "minibatches": 4, "hidden": [8]},
    "features": {
        "parameters": 1000, "p": 1010, "layers": [[4, 28], [28, 28], [28, 2]], "dim": 20,
        "transitions": 64,
    },
    "surrogates": {"preset": "small", "transitions": 1024, "dim": 40, "subsets": 6, "size": 2},
}  # fmt: skip


class Subject(NamedTuple):
    """What is compared."""

    part: str
    """Of peers.toml; our script is called after it."""
    unit: str
    """What is counted."""
    settings: dict
    """What all have."""


SUBJECTS = {
    "PPO on CartPole-v1, 1 seed": Subject("cartpole", "steps", CARTPOLE),
    "PPO on CartPole-v1, 8 seeds": Subject("cartpole", "steps", CARTPOLE | {"seeds": 8}),
    "PPO on Brax's reacher": Subject("reacher", "steps", REACHER),
    "PPO on LunarLander-v3, minibatches of 64": Subject("lunarlander", "steps", LUNARLANDER),
    "PPO on LunarLander-v3, minibatches of 192": Subject("lunarlander", "steps", LUNARLANDER | LARGER),
    "Gradient features, p = 100k, d = 400": Subject("features", "transitions", FEATURES),
    "60 surrogates, ridge u": Subject("surrogates", "surrogates", SURROGATES | {"ridge": 1.0}),
    "60 surrogates, ridge .01 u": Subject("surrogates", "surrogates", SURROGATES | {"ridge": 0.01}),
}


@dataclass(frozen=True)
class Settings:
    """Time training and estimating against other libraries."""

    preset: Preset = "full"
    """full: what the README shows; small: one short round of ours alone, for tests."""
    rounds: int = 7
    """Rounds of each."""
    only: str = ""
    """Compare the subjects alone whose names contain this."""
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

    def __init__(self, python: Path | str, script: str, path: str, wanted: Mapping, shared: Path):
        """Start it; it compiles. What it has to hand to others it leaves in the folder ``shared``.

        Raises:
            PgxError: it ended, or has other settings.
        """
        found = os.pathsep.join(filter(None, (str(HERE), path, str(HERE.parent))))
        env = uncached(PYTHONPATH=found, PEERS_SHARED=str(shared), JAX_PLATFORMS="cpu")
        shared.mkdir(parents=True, exist_ok=True)
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
    running, missing, shared = {}, {}, settings.environments / "shared"
    known = {} if settings.preset == "small" else peers(part)
    try:
        running[OURS] = Worker(sys.executable, f"ours_{part}.py", str(ROOT), wanted, shared)
        for name, peer in known.items():
            try:
                running[name] = Worker(*_start(name, peer, settings), wanted, shared)
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
    part, _, wanted = SUBJECTS[subject]
    small = settings.preset == "small"
    if small:
        wanted = wanted | SMALL[part]
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
        "came_to": {name: [r[name]["came_to"] for r in rounds] for name in told},
        "timings": {name: [of["count"] / r[name]["cpu"] for r in rounds] for name, of in told.items()},
    }


def ratios(cell: Mapping) -> dict[str, np.ndarray]:
    """Ours over every peer's rate, by round."""
    own = np.array(cell["timings"][OURS])
    rates = {name: np.array(cell["timings"][name]) for name in cell["versions"] if name != OURS}
    return {name: own / rate for name, rate in rates.items()}


@says_errors
def main(args: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    path = result_path("peers", settings.preset, settings.out)
    results = ResultFile(path, name="peers", command="python benchmarks/peers.py")
    subjects = [name for name in SUBJECTS if settings.only in name]
    results.run([{"subject": name} for name in subjects], lambda cell: compute(cell["subject"], settings))
    for cell in results.cells:
        for name, ratio in ratios(cell).items():
            low, high = ratio.min(), ratio.max()
            print(f"{cell['cell']['subject']}: {np.median(ratio):.2f} × {name} [{low:.2f}, {high:.2f}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
