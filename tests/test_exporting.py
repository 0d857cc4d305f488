"""Policies as files: what others make of them is what the library's own policy does."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys_network  # noqa: F401  (adds its architecture to the table)
from gymnasium import spaces

import pgx_jax
from pgx_jax import show
from pgx_jax.cli import main as cli
from pgx_jax.errors import ConfigError
from pgx_jax.learn.policy import make_policy
from pgx_jax.runs.exporting import FORMATS, Subject, export_policy, standalone
from pgx_jax.types import Moments

BOX = spaces.Box(np.float32([-2, 0]), np.float32([2, 5]))
NAMES = ("a", "b", "c")


serialised = pytest.mark.skipif(
    importlib.util.find_spec("flatbuffers") is None, reason="JAX writes no programs without flatbuffers"
)


class Family:
    """What of a family policies are made by."""

    name, context = "made-up", np.eye(3, dtype=np.float32)

    def __init__(self, actions, shape=(4,), dtype=np.float32):
        self.action_space, self.observation_space = actions, spaces.Box(-9, 9, shape, np.float32)
        if dtype == np.uint8:
            self.observation_space = spaces.Box(0, 255, shape, np.uint8)


def made(actions, shape=(4,), dtype=np.float32, **settings) -> Subject:
    """A policy whose parameters are all of a size, for two of three tasks."""
    family = Family(actions, shape, dtype)
    policy = make_policy(family, **({"hidden": (5, 3)} | settings))
    agent = jax.eval_shape(lambda key: policy.init(key, shape, family.context), jax.random.PRNGKey(0))
    rng = np.random.default_rng(1)
    actor = jax.tree.map(lambda x: rng.normal(0, 0.7, x.shape).astype(np.float32), agent.actor)
    seen = Moments(rng.normal(size=shape), rng.uniform(0.1, 4, shape), np.ones(shape))
    agent = agent._replace(actor=actor, observation=jax.tree.map(np.float32, seen))
    tasks = {name: family.context[i].tolist() for i, name in enumerate(NAMES[:2])}
    return Subject(family.name, tasks, None, policy, agent, shape)


def observations(subject, count=7):
    obs = np.random.default_rng(2).normal(0, 2, (count, *subject.shape)).astype(np.float32)
    return np.abs(60 * obs) // 1 if subject.policy.scale != 1 else obs


def reference(subject, obs, contexts):
    """What the library's own policy does."""
    policy = subject.policy

    @jax.jit
    @jax.vmap
    def each(obs, context):
        inputs = policy.actor_input(policy.normalise(subject.agent, obs), context)
        params = policy.params(subject.agent.actor, inputs)
        return params, policy.action(subject.agent, obs, context)

    params, action = each(obs, contexts)
    own = (
        dict(zip(("mean", "log_std"), params, strict=True))
        if isinstance(params, tuple)
        else {"logits": params}
    )
    return jax.tree.map(np.asarray, {**own, "action": action})


def contexts_of(subject, count):
    return np.float32([list(subject.tasks.values())[i % len(subject.tasks)] for i in range(count)])


def agree(found, wanted):
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-5, err_msg=name)


def written(subject, format, folder):
    for ending, content in FORMATS[format].files(subject).items():
        (folder / f"policy{ending}").write_bytes(content)
    return folder / "policy"


PERCEPTRONS = {
    "discrete": {"actions": spaces.Discrete(3)},
    "discrete, told": {"actions": spaces.Discrete(3), "conditioned_actor": True},
    "several choices": {"actions": spaces.MultiDiscrete([2, 4]), "normalise_observations": True},
    "continuous": {"actions": BOX},
    "squashed, a deviation a task": {
        "actions": BOX, "squash": True, "conditioned_actor": True, "options": {"own_deviation": True},
    },
    "normalised, of two axes": {"actions": BOX, "shape": (2, 3), "normalise_observations": True},
    "bytes": {"actions": spaces.Discrete(2), "dtype": np.uint8},
    "one number": {"actions": spaces.Discrete(2), "shape": ()},
}  # fmt: skip


@pytest.mark.parametrize("name", PERCEPTRONS)
def test_numpy_alone_acts_as_the_policy_does(name, tmp_path):
    subject = made(**PERCEPTRONS[name])
    FORMATS["numpy"].check(subject)
    policy = standalone.Policy(written(subject, "numpy", tmp_path).with_suffix(".npz"))
    obs = observations(subject)
    contexts = contexts_of(subject, len(obs))
    wanted = reference(subject, obs, contexts)
    agree({**policy.distribution(obs, contexts), "action": policy.act(obs, contexts)}, wanted)
    alone = {**policy.distribution(obs[1], "b"), "action": policy.act(obs[1], "b")}  # the second task's
    agree(alone, {key: value[1] for key, value in wanted.items()})
    assert policy.about["family"] == "made-up" and list(policy.about["tasks"]) == ["a", "b"]


def test_draws_of_numpy_have_the_policy_s_distribution(tmp_path):
    rng, count = np.random.default_rng(0), 20_000
    for name, told in (("several choices", None), ("squashed, a deviation a task", "a")):
        folder = tmp_path / name
        folder.mkdir()
        subject = made(**PERCEPTRONS[name])
        policy = standalone.Policy(written(subject, "numpy", folder).with_suffix(".npz"))
        obs = observations(subject)[0]
        drawn = policy.act(np.repeat(obs[None], count, 0), told, rng)
        keys = jax.random.split(jax.random.PRNGKey(0), count)
        act = jax.vmap(subject.policy.action, (None, None, None, 0))
        theirs = np.asarray(act(subject.agent, obs, jnp.eye(3)[0], keys))
        assert drawn.shape == theirs.shape
        np.testing.assert_allclose(drawn.mean(0), theirs.mean(0), atol=0.05)
        np.testing.assert_allclose(drawn.std(0), theirs.std(0), atol=0.05)


ANY = {
    "discrete, told": PERCEPTRONS["discrete, told"],
    "continuous": PERCEPTRONS["normalised, of two axes"],
    "images": {"actions": spaces.MultiDiscrete([2, 3]), "shape": (6, 5, 1), "dtype": np.uint8},
    "mixtures": {"actions": BOX, "network": "paco", "hidden": None, "options": {"sets": 2, "hidden": (4,)}},
}


@serialised
@pytest.mark.parametrize("name", ANY)
def test_a_serialised_program_acts_as_any_policy_does(name, tmp_path):
    subject = made(**ANY[name])
    path = written(subject, "stablehlo", tmp_path).with_suffix(".stablehlo")
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    for count in (1, 4):  # of any number of observations
        obs = observations(subject, count)
        contexts = contexts_of(subject, count)
        told = (contexts,) if subject.policy.conditioned_actor else ()
        agree(program.call(obs, *told), reference(subject, obs, contexts))
    if subject.policy.conditioned_actor:
        one = FORMATS["stablehlo"].files(subject._replace(task="b"))[".stablehlo"]
        found = jax.export.deserialize(bytearray(one)).call(obs)
        agree(found, reference(subject, obs, np.float32([subject.tasks["b"]] * len(obs))))


def test_safetensors_hold_all_parameters(tmp_path):
    library = pytest.importorskip("safetensors")
    subject = made(**ANY["mixtures"], normalise_observations=True)
    path = written(subject, "safetensors", tmp_path).with_suffix(".safetensors")
    with library.safe_open(path, "numpy") as file:
        about, arrays = json.loads(file.metadata()["about"]), {x: file.get_tensor(x) for x in file.keys()}
    np.testing.assert_array_equal(arrays.pop("observation/mean"), subject.agent.observation.mean)
    arrays.pop("observation/var")
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(subject.agent.actor):
        flat["/".join(part.key for part in path)] = leaf
    assert "PaCo(" in about["network"] and set(arrays) == set(flat)
    jax.tree.map(np.testing.assert_array_equal, arrays, flat)


def test_formats_that_a_policy_cannot_have_are_refused(monkeypatch):
    for name, words in (("images", "CategoricalActor of images"), ("mixtures", "this policy is a PaCo")):
        with pytest.raises(ConfigError, match=f"'numpy' is for perceptrons of numbers.*{words}.*'stablehlo'"):
            FORMATS["numpy"].check(made(**ANY[name]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, package in (("safetensors", "safetensors"), ("stablehlo", "flatbuffers")):
        with pytest.raises(
            ConfigError, match=rf'needs the package {package}.* pip install "pgx-jax\[export\]"'
        ):
            FORMATS[name].check(made(**ANY["continuous"]))


def test_misuse_of_what_stands_alone(tmp_path):
    told = standalone.Policy(
        written(made(**PERCEPTRONS["discrete, told"]), "numpy", tmp_path).with_suffix(".npz")
    )
    with pytest.raises(ValueError, match=r"have the shape \(4,\), not \(2, 3\)"):
        told.act(np.zeros((2, 3)), "a")
    for wrong in (None, "c"):
        with pytest.raises(ValueError, match="told its task: give one of a, b"):
            told.act(np.zeros(4), wrong)


# Of a run


def call(capsys, *args):
    try:
        status = cli.main(["policy", *map(str, args)])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), " ".join(err.split())


def test_a_run_s_policy_is_used_without_pgx_jax(small_run, tmp_path, capsys, no_training):
    name = small_run.results.groups[1][0]
    status, out, err = call(capsys, small_run.store.path, "--group", 2, "--out", tmp_path)
    assert status == 0 and ", ".join(small_run.results.groups[1]) in out, err
    assert "from group_2 import Policy; Policy().act(obs)" in out
    obs = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    agent = small_run.agent_for(name)
    wanted = [small_run.group_policy.act(agent, one) for one in obs]
    code = f"""
import sys
from group_2 import Policy
print(Policy().act({obs.tolist()}).tolist())
assert not {{"jax", "pgx_jax", "flax"}} & set(sys.modules)
"""
    env = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    np.testing.assert_allclose(json.loads(done.stdout), wanted, atol=1e-5)


@serialised
def test_from_python_by_task_into_the_run_s_folder(small_run, tmp_path):
    names = small_run.family.task_names
    found = export_policy(small_run, task=names[3], format="stablehlo", out=tmp_path)
    assert names[3] in found.group and sorted(found.group) in map(sorted, small_run.results.groups)
    assert found.paths == [tmp_path / "task_3.stablehlo", tmp_path / "task_3.json"]
    assert json.loads(found.paths[1].read_text())["tasks"].keys() == {*found.group}
    obs = np.float32([[0.1, -0.2, 0.3, 0.4]])
    action = jax.export.deserialize(bytearray(found.paths[0].read_bytes())).call(obs)["action"]
    np.testing.assert_allclose(
        action[0], small_run.group_policy.act(small_run.agent_for(names[3]), obs[0]), atol=1e-5
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--group", 9], "there is no group 9; the run's groups are 1: task0"),
        ([], "give a group or a task; the run's groups are 1: task0"),
        (["--task", "tusk3"], "has no task 'tusk3' (did you mean task"),
        (["--group", 1, "--task", "0"], "give one of them"),
        (["--group", 1, "--format", "onnx"], "invalid choice"),
        (["--group", 1, "--out", "/dev/null/there"], "/dev/null is a file"),
    ],
)
def test_bad_arguments(args, words, small_run, capsys, monkeypatch):
    for name, own in FORMATS.items():
        monkeypatch.setitem(FORMATS, name, own._replace(files=None))  # nothing is written
    status, _, err = call(capsys, small_run.store.path, *args)
    assert status == 2 and words in err and "Traceback" not in err, err


def test_a_run_without_policies_is_named(small_run, tmp_path, capsys):
    (tmp_path / "config.json").write_text((small_run.store.path / "config.json").read_text())
    status, _, err = call(capsys, tmp_path, "--group", 1)
    assert status == 2 and "no policies yet; resume it" in err


DOCS = Path(__file__).resolve().parents[1] / "docs" / "guides" / "policies.md"


@serialised
@pytest.mark.skipif(not DOCS.is_file(), reason="no checkout around the tests")
def test_the_examples_of_the_page_run(small_run, tmp_path, monkeypatch):
    text = DOCS.read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "points").symlink_to(small_run.store.path)
    names = {"__name__": "example"}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, str(DOCS), "exec"), names)
    assert names["action"].shape == (2,) and (tmp_path / "exported" / "group_1.npz").is_file()
    assert all(f"`{name}`" in text for name in FORMATS) and all(f"`{x}`" in text for x in show.WRITERS)
    assert pgx_jax.export_policy is export_policy
