"""Pictures of roll-outs: a task of a family, step by step, as a moving GIF or a PNG of some moments."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, Num, UInt8
from PIL import Image, ImageDraw, ImageFont

from pgx_jax.errors import ConfigError
from pgx_jax.tasks import HostCopy, TaskFamily
from pgx_jax.types import Array, Key, PyTree

ENDINGS = (".gif", ".png")
MOMENTS = 8
"""Frames of a PNG."""
DURATION = 50
"""Milliseconds that a GIF shows a frame."""

Act = Callable[[Float[Array, "..."], Key], Num[Array, "..."]]
"""(obs, key) -> a legal action."""
Played = tuple[list[UInt8[np.ndarray, "H W 3"]], Float[np.ndarray, "T"], Bool[np.ndarray, "T"]]
"""T pictures; float [T], the rewards of the steps after them; bool [T], whether an episode ended there."""


class Picture(NamedTuple):
    """T drawn steps of one task."""

    title: str
    frames: list[UInt8[np.ndarray, "H W 3"]]
    """T pictures uint8 [H, W, 3], each drawn before its step."""
    step: Int[np.ndarray, "T"]
    """int [T]: steps since the reset."""
    total: Float[np.ndarray, "T"]
    """float [T]: return since the reset."""
    name: str
    """A file name without its ending."""


def check_ending(path: Path | None) -> None:
    """Raise ConfigError unless the file is a GIF or a PNG by its name, or None."""
    if path is not None and path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{path} must end in {' or '.join(ENDINGS)}")


def task_number(family: TaskFamily, task: str | None) -> int:
    """The number of a task that is given by its name or number; the first by default.

    Raises:
        ConfigError: no such task; the message has the nearest names.
    """
    names = family.task_names
    if task is None:
        return 0
    if task in names:
        return names.index(task)
    if task.isdecimal() and int(task) < family.n:
        return int(task)
    close = difflib.get_close_matches(task, names, n=3, cutoff=0.3)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise ConfigError(
        f"family {family.name!r} has no task {task!r}{hint}; its tasks are {', '.join(names)}, "
        f"or their numbers 0 to {family.n - 1}"
    )


def trained(path: Path, family: str) -> tuple[TaskFamily, Callable[[int], Act]]:
    """Open a saved run: its family, and the trained policy's act of each task (before it has adapted to the
    task, if its learner does so: `Run.agent_for`).

    Raises:
        ConfigError: no run there, one of another family, or one without trained policies.
    """
    from pgx_jax.runs import saved  # which imports all that makes a run: only where one is opened
    from pgx_jax.runs.store import RunStore

    store = RunStore.open(path)
    if store.config["family"] != family:
        raise ConfigError(f"the run {path} is one of {store.config['family']!r}, not of {family!r}")
    if not store.has("policies"):
        raise ConfigError(f"the run {path} has no policies yet; resume it first")
    run = saved.load(path)

    def agent(task: int) -> Act:
        policy, found = run.group_policy, run.agent_for(run.family.task_names[task])
        context = jnp.asarray(run.family.context[task])
        return lambda obs, key: policy.action(found, obs, context, key)

    return run.family, agent


def roll_out(
    family: TaskFamily,
    task: int,
    *,
    steps: int = 100,
    seed: int = 0,
    agent: Callable[[int], Act] | None = None,
) -> Picture:
    """Play and draw a task; episodes that end start again.

    Args:
        family: one that can be drawn.
        task: its number.
        steps: T.
        seed: of the environment and the policy.
        agent: task number -> policy; uniformly random actions by default.

    Raises:
        ConfigError: the family cannot be drawn, or a number out of range.
    """
    if steps < 1:
        raise ConfigError(f"steps = {steps}: a roll-out has at least 1")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed = {seed} must be a whole number in [0, 2^32)")
    act = agent(task) if agent else _random(family.action_space)
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[task], family.tasks)
    play = _play_device if family.engine == "device" else _play_host
    frames, reward, done = play(family, params, act, steps, seed)
    step, total = np.zeros(steps, int), np.zeros(steps)
    for t in range(1, steps):
        if not done[t - 1]:
            step[t], total[t] = step[t - 1] + 1, total[t - 1] + reward[t - 1]
    who = "trained policy" if agent else "random actions"
    name = re.sub(r"[^\w.+-]+", "-", f"{family.name}-{family.task_names[task]}")
    return Picture(f"{family.name}, {family.task_names[task]}, {who}", frames, step, total, name)


def _random(space: spaces.Space[Any]) -> Act:
    """Uniform over the actions; a side of a Box without a bound counts as -1 or 1."""
    if isinstance(space, spaces.Discrete):
        low, high = int(space.start), int(space.start) + int(space.n)
        return lambda obs, key: jax.random.randint(key, (), low, high)
    if isinstance(space, spaces.MultiDiscrete):
        start, count = np.asarray(space.start), np.asarray(space.nvec)
        return lambda obs, key: start + jax.random.randint(key, count.shape, 0, count)
    assert isinstance(space, spaces.Box)
    shape, least = space.shape, np.where(np.isfinite(space.low), space.low, -1.0)
    most = np.where(np.isfinite(space.high), space.high, 1.0)
    return lambda obs, key: jax.random.uniform(key, shape, jnp.float32, least, most)


def _play_device(family: TaskFamily, task: PyTree, act: Act, steps: int, seed: int) -> Played:
    """Play a device environment, in one program."""
    draw, env = family.draw, family.device_env
    if draw is None:
        raise ConfigError(f"family {family.name!r} cannot be drawn: it has no `draw`")

    def advance(carry: tuple[PyTree, Array, int], key: Array) -> tuple[Any, Any]:
        state, obs, age = carry
        keys = jax.random.split(key, 3)
        out = env.step(keys[1], state, act(obs, keys[0]), task)
        done = out.terminated | (age + 1 >= family.horizon)
        fresh, ran = (*env.reset(keys[2], task), 0), (out.state, out.obs, age + 1)
        after = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, ran)
        return after, (state, out.reward, done)

    @jax.jit
    def play(key: Array) -> Any:
        first, key = jax.random.split(key)
        start = (*env.reset(first, task), 0)
        return jax.lax.scan(advance, start, jax.random.split(key, steps))[1]

    states, reward, done = jax.tree.map(np.asarray, play(jax.random.PRNGKey(seed)))
    frames = [draw(jax.tree.map(lambda leaf, t=t: leaf[t], states), task) for t in range(steps)]
    return frames, reward, done


def _play_host(family: TaskFamily, task: PyTree, act: Act, steps: int, seed: int) -> Played:
    """Play one copy of a host environment."""
    env, act = family.host_env, jax.jit(act)
    copy = getattr(env, "make_drawn", env.make)()
    keys = jax.random.split(jax.random.PRNGKey(seed), steps)
    seeds = np.random.SeedSequence(seed).generate_state(steps + 1) // 2
    frames, reward, ends, age = [], np.zeros(steps), np.zeros(steps, bool), 0
    try:
        if not hasattr(copy, "render"):
            raise ConfigError(f"family {family.name!r} cannot be drawn: its environment has no `render`")
        obs = copy.reset(int(seeds[0]), task)
        for t in range(steps):
            frames.append(_rendered(family, copy))
            out = copy.step(np.asarray(act(jnp.asarray(obs, jnp.float32), keys[t])))
            obs, reward[t], age = out.obs, out.reward, age + 1
            if out.terminated or out.truncated or age >= family.horizon:
                obs, ends[t], age = copy.reset(int(seeds[t + 1]), task), True, 0
    finally:
        copy.close()
    return frames, reward, ends


def _rendered(family: TaskFamily, copy: HostCopy) -> np.ndarray:
    """The picture that a copy of a host environment draws of itself."""
    try:
        frame = np.asarray(copy.render())
    except Exception as error:
        reason = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"family {family.name!r} cannot be drawn ({reason})") from error
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        found = f"{frame.dtype}{list(frame.shape)}"
        raise ConfigError(
            f"family {family.name!r} cannot be drawn: its environment's `render` returned {found} instead "
            "of uint8 [H, W, 3]"
        )
    return frame


def write(picture: Picture, path: Path | None = None) -> Path:
    """Write a picture as a GIF or a PNG, by the ending of the file's name; returns the path.

    Raises:
        ConfigError: another ending, or a file that cannot be written.
    """
    path = path or Path(f"{picture.name}.gif")
    check_ending(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".gif":
            first, *rest = [_frame(picture, t) for t in range(len(picture.frames))]
            first.save(path, save_all=True, append_images=rest, duration=DURATION, loop=0)
        else:
            _sheet(picture).save(path)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"{path} cannot be written ({why}); choose another file") from error
    return path


def _frame(picture: Picture, t: int) -> Image.Image:
    """One frame under a line with its step and return."""
    drawn = Image.fromarray(picture.frames[t])
    image = Image.new("RGB", (drawn.width, drawn.height + 18), "white")
    image.paste(drawn, (0, 18))
    words = f"step {picture.step[t]}   return {picture.total[t]:.4g}"
    ImageDraw.Draw(image).text((4, 2), words, fill="black", font=ImageFont.load_default(12))
    return image


def _sheet(picture: Picture) -> Image.Image:
    """Evenly spaced moments of the first episode, in rows that make the sheet 1.6 times as wide as high."""
    length = int(np.argmax(np.append(picture.step[1:] == 0, True))) + 1
    count = min(MOMENTS, length)
    moments = [_frame(picture, t) for t in np.linspace(0, length - 1, count).astype(int)]
    width, height = moments[0].width + 6, moments[0].height + 6

    def shape(columns: int) -> tuple[int, int]:
        return columns * width, -(-count // columns) * height

    columns = min(range(1, count + 1), key=lambda c: abs(np.log(shape(c)[0] / shape(c)[1] / 1.6)))
    sheet = Image.new("RGB", (shape(columns)[0], shape(columns)[1] + 24), (226, 229, 234))
    ImageDraw.Draw(sheet).text((6, 4), picture.title, fill="black", font=ImageFont.load_default(14))
    for i, moment in enumerate(moments):
        sheet.paste(moment, (3 + i % columns * width, 24 + i // columns * height))
    return sheet
