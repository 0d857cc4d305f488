"""Every command that a newcomer meets, once, on a run of seconds.

`python tests/smoke.py`, by any interpreter that has the package: nothing else of the checkout is read, and no
pytest is needed. What is written goes to a temporary folder.
"""

import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points, version
from pathlib import Path

RUN = (
    "run points --n-tasks 4 --set n_groups=2 horizon=15 --seed 5 --out run --steps-per-task 5400"
    " --compare none --episodes 8 --test-tasks 0 --policy.hidden 8 8"
    " --ppo.num-envs 12 --ppo.num-steps 15 --ppo.epochs 4 --ppo.minibatches 2"
    " --estimate.steps 960 --estimate.num-envs 16 --estimate.dim 48"
)


def main():
    command = entry_points(group="console_scripts", name="pgx-jax")["pgx-jax"]
    assert command.load(), command
    import envs
    import pgx_jax

    shown = [f"{name} {version(name)}" for name in ("pgx-jax", "jax", "jaxlib", "flax", "numpy")]
    print(f"Python {sys.version.split()[0]}, {', '.join(shown)}; {Path(pgx_jax.__file__).parent}")
    assert pgx_jax.__version__ == version("pgx-jax")
    missing = [name for name in pgx_jax.__all__ if not hasattr(pgx_jax, name)]
    assert not missing, missing
    assert Path(envs.__file__).parents[1] == Path(pgx_jax.__file__).parents[1]
    with tempfile.TemporaryDirectory(prefix="pgx_jax-smoke-") as folder:
        os.chdir(folder)
        os.environ["PGX_JAX_CACHE"] = str(Path(folder, "programs"))
        before_a_run()
        a_run(Path("run"))
        what_it_left(Path("run"))
    print("all well")


def call(line, status=0):
    """What a command prints, in a process of its own."""
    print(f"$ pgx-jax {line}", flush=True)
    given = [sys.executable, "-P", "-m", "pgx_jax", *shlex.split(line)]
    done = subprocess.run(given, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def before_a_run():
    assert "regroup" in call("--help")
    assert version("pgx-jax") in call("--version")
    assert "cartpole-goals" in call("families")
    assert "n_groups" in call("families points")
    assert "--steps-per-task" in call("run points --help")
    assert "complete" in call("completion bash")
    assert "did you mean points" in call("run point", status=2)


def a_run(path):
    """From start to end, and once more from where its policies are not trained yet."""
    call(f"{RUN} --dry-run")
    assert not path.exists()
    assert "report.html" in call(RUN)
    whole = read(path / "results.json")
    assert len(whole["groups"]) == whole["k"]
    (path / "results.json").unlink()
    for stage in ("policies", "similarity", "comparisons"):
        shutil.rmtree(path / "stages" / stage, ignore_errors=True)
    call(f"resume {path}")
    again = read(path / "results.json")
    assert whole.pop("timings") and again.pop("timings")
    assert again == whole


def read(path):
    return json.loads(path.read_text())


def what_it_left(path):
    call(f"regroup {path} --k 2")
    assert read(path / "regroup-k=2.json")["k"] == 2
    (path / "report.html").unlink()
    call(f"report {path}")
    assert "<svg" in (path / "report.html").read_text()
    call(f"analyse {path} approximation --approximation.transitions 64")
    assert read(path / "analysis" / "approximation.json")
    call(f"policy {path} --task 0 --out exported")
    acts_the_same(path, Path("exported"))
    call(f"show points --run {path} --steps 5 --out shown.gif")
    assert Path("shown.gif").read_bytes().startswith(b"GIF")


def acts_the_same(path, exported):
    """The policy of a task as the loaded run has it, and as its files of NumPy."""
    import numpy as np

    import pgx_jax

    run = pgx_jax.load(path)
    obs = np.linspace(-1, 1, 4, dtype=np.float32)
    wanted = run.group_policy.act(run.agent_for(run.family.task_names[0]), obs=obs)
    (script,) = exported.glob("*.py")
    alone = runpy.run_path(str(script))["Policy"](script.with_suffix(".npz"))
    np.testing.assert_allclose(alone.act(obs), wanted, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    main()
