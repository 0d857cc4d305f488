"""Pictures of roll-outs: a task of a family, step by step, as a GIF, an MP4, or a PNG of some moments."""

from __future__ import annotations

import difflib
import importlib.util
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, Num, UInt8
from PIL import Image, ImageDraw, ImageFont

from pgx_jax.errors import ConfigError, PgxError, checked
from pgx_jax.steady import compiled
from pgx_jax.tasks import DeviceEnv, HostCopy, TaskFamily
from pgx_jax.tasks.checks import check_family, raised
from pgx_jax.types import Array, Key, PyTree

MOMENTS = 8
"""Frames of a PNG."""
DURATION = 50
"""Milliseconds that a GIF or MP4 shows a frame."""


class Player(NamedTuple):
    """Who acts in a roll-out."""

    act: Callable[[PyTree, Float[Array, "..."], PyTree, Key], Num[Array, "..."]]
    """(agent, obs, context, key) -> a legal action, as `Policy.action`."""
    knows: Callable[[int], tuple[PyTree, PyTree]]
    """The number of a task -> (agent, context), arrays."""


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
    """Refuse a file that cannot be a picture, by its name; None is any.

    Raises:
        ConfigError: another ending than those of `WRITERS`, or an MP4 without what makes one.
    """
    if path is None:
        return
    if path.suffix.lower() not in WRITERS:
        *others, last = WRITERS
        raise ConfigError(f"{path} must end in {', '.join(others)} or {last}")
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            f'{path}: an MP4 needs imageio-ffmpeg: pip install "pgx-jax[video]", or write a .gif'
        )


def task_number(family: TaskFamily, task: str | int | None) -> int:
    """The number of a task that is given by its name or number; the first by default.

    Raises:
        ConfigError: no such task; the message has the nearest names.
    """
    names = family.task_names
    if task is None:
        return 0
    task = str(task)
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


@checked
def roll_out(
    family: TaskFamily,
    task: int,
    *,
    steps: int = 100,
    seed: int = 0,
    player: Player | None = None,
) -> Picture:
    """Play and draw a task; episodes that end start again.

    Args:
        family: one that can be drawn.
        task: its number.
        steps: T.
        seed: of the environment and the policy.
        player: who acts (`Run.player`); uniformly random actions by default.

    Raises:
        ConfigError: the family cannot be drawn, its environment fails, or a number is out of range.
    """
    if steps < 1:
        raise ConfigError(f"steps = {steps}: a roll-out has at least 1")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed = {seed} must be a whole number in [0, 2^32)")
    if not 0 <= task < family.n:
        raise ConfigError(
            f"there is no task {task} of {family.name!r}; their numbers are 0 to {family.n - 1}"
        )
    who = "random actions" if player is None else "trained policy"
    player = player or _random(family.action_space)
    play = _play_device if family.engine == "device" else _play_host
    frames, reward, done = play(family, task, player, steps, seed)
    step, total = np.zeros(steps, int), np.zeros(steps)
    for t in range(1, steps):
        if not done[t - 1]:
            step[t], total[t] = step[t - 1] + 1, total[t - 1] + reward[t - 1]
    name = re.sub(r"[^\w.+-]+", "-", f"{family.name}-{family.task_names[task]}")
    return Picture(f"{family.name}, {family.task_names[task]}, {who}", frames, step, total, name)


def _random(space: spaces.Space[Any]) -> Player:
    """Uniform over the actions; a side of a Box without a bound counts as -1 or 1."""

    def act(agent: PyTree, obs: Array, context: PyTree, key: Key) -> Array:
        if isinstance(space, spaces.Discrete):
            return jax.random.randint(key, (), int(space.start), int(space.start) + int(space.n))
        if isinstance(space, spaces.MultiDiscrete):
            return np.asarray(space.start) + jax.random.randint(key, space.shape, 0, np.asarray(space.nvec))
        assert isinstance(space, spaces.Box)
        least = np.where(np.isfinite(space.low), space.low, -1.0)
        most = np.where(np.isfinite(space.high), space.high, 1.0)
        return jax.random.uniform(key, space.shape, jnp.float32, least, most)

    return Player(act, lambda task: ((), ()))


def _play_device(family: TaskFamily, task: int, player: Player, steps: int, seed: int) -> Played:
    """Play a device environment, in one program."""
    draw, env = family.draw, family.device_env
    if draw is None:
        raise ConfigError(f"family {family.name!r} cannot be drawn: it has no `draw`")
    check_family(family)
    own = _parameters(family, task)
    key = jax.random.PRNGKey(seed)
    played = _scan(env, player.act, family.horizon, steps, *player.knows(task), own, key)
    states, reward, done = jax.tree.map(np.asarray, played)
    frames = [draw(jax.tree.map(lambda leaf, t=t: leaf[t], states), own) for t in range(steps)]
    return frames, reward, done


@partial(compiled, quick=True, static_argnames=("env", "act", "horizon", "steps"))
def _scan(
    env: DeviceEnv, act: Any, horizon: int, steps: int, agent: PyTree, context: PyTree, task: PyTree, key: Key
) -> Any:
    """States [T, ...] before every step, rewards of the steps [T], and whether an episode ended there [T]."""

    def advance(carry: tuple[PyTree, Array, int], key: Array) -> tuple[Any, Any]:
        state, obs, age = carry
        keys = jax.random.split(key, 3)
        out = env.step(keys[1], state, act(agent, obs, context, keys[0]), task)
        done = out.terminated | (age + 1 >= horizon)
        fresh, ran = (*env.reset(keys[2], task), 0), (out.state, out.obs, age + 1)
        after = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, ran)
        return after, (state, out.reward, done)

    first, key = jax.random.split(key)
    return jax.lax.scan(advance, (*env.reset(first, task), 0), jax.random.split(key, steps))[1]


def _play_host(family: TaskFamily, task: int, player: Player, steps: int, seed: int) -> Played:
    """Play one copy of a host environment."""
    env, act = family.host_env, jax.jit(player.act)
    own, (agent, context) = _parameters(family, task), player.knows(task)

    def ask(what: str, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except PgxError:
            raise
        except Exception as error:
            told = f"task {family.task_names[task]!r} of {family.name!r} {raised(what, error)}"
            raise ConfigError(f"{told}; mend the environment") from error

    copy = ask("make", getattr(env, "make_drawn", env.make))
    keys = jax.random.split(jax.random.PRNGKey(seed), steps)
    seeds = np.random.SeedSequence(seed).generate_state(steps + 1) // 2
    frames, reward, ends, age = [], np.zeros(steps), np.zeros(steps, bool), 0
    try:
        if not hasattr(copy, "render"):
            raise ConfigError(f"family {family.name!r} cannot be drawn: its environment has no `render`")
        obs = ask("reset", copy.reset, int(seeds[0]), own)
        for t in range(steps):
            frames.append(_rendered(family, copy))
            action = np.asarray(act(agent, jnp.asarray(obs, jnp.float32), context, keys[t]))
            out = ask("step", copy.step, action)
            obs, reward[t], age = out.obs, out.reward, age + 1
            if out.terminated or out.truncated or age >= family.horizon:
                obs, ends[t], age = ask("reset", copy.reset, int(seeds[t + 1]), own), True, 0
    finally:
        copy.close()
    return frames, reward, ends


def _parameters(family: TaskFamily, task: int) -> PyTree:
    """Those of one task, as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[task], family.tasks)


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
    """Write a picture as a GIF, a PNG or an MP4, by the ending of the file's name; returns the path.

    Raises:
        ConfigError: another ending, a file that cannot be written, or an MP4 without what makes one.
    """
    path = path or Path(f"{picture.name}.gif")
    check_ending(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[path.suffix.lower()](picture, path)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"{path} cannot be written ({why}); choose another file") from error
    return path


def _write_gif(picture: Picture, path: Path) -> None:
    """All frames."""
    first, *rest = [_frame(picture, t) for t in range(len(picture.frames))]
    first.save(path, save_all=True, append_images=rest, duration=DURATION, loop=0)


def _write_png(picture: Picture, path: Path) -> None:
    """Some moments of the first episode."""
    sheet(picture).save(path)


def _write_mp4(picture: Picture, path: Path) -> None:
    """All frames, in sides of even length, which the codec needs."""
    import imageio_ffmpeg  # of the extra "video"

    frames = [np.asarray(_frame(picture, t)) for t in range(len(picture.frames))]
    height, width, _ = frames[0].shape
    odd = ((0, height % 2), (0, width % 2), (0, 0))
    size = (width + width % 2, height + height % 2)
    path.open("wb").close()  # ffmpeg would say at length why it cannot
    writer = imageio_ffmpeg.write_frames(path, size, fps=1000 / DURATION, codec="libx264", macro_block_size=2)
    with warnings.catch_warnings():  # the process of ffmpeg that is started here runs no JAX
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called")
        writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(np.pad(frame, odd, mode="edge")))
    writer.close()


WRITERS = {".gif": _write_gif, ".png": _write_png, ".mp4": _write_mp4}
"""Endings of files, and what writes them."""


def _frame(picture: Picture, t: int) -> Image.Image:
    """One frame under a line with its step and return."""
    drawn = Image.fromarray(picture.frames[t])
    image = Image.new("RGB", (drawn.width, drawn.height + 18), "white")
    image.paste(drawn, (0, 18))
    words = f"step {picture.step[t]}   return {picture.total[t]:.4g}"
    ImageDraw.Draw(image).text((4, 2), words, fill="black", font=ImageFont.load_default(12))
    return image


def sheet(picture: Picture, most: int = MOMENTS, ratio: float = 1.6) -> Image.Image:
    """Evenly spaced moments of the first episode, in rows that make the sheet ``ratio`` times as wide as
    high."""
    length = int(np.argmax(np.append(picture.step[1:] == 0, True))) + 1
    count = min(most, length)
    moments = [_frame(picture, t) for t in np.linspace(0, length - 1, count).astype(int)]
    width, height = moments[0].width + 6, moments[0].height + 6

    def shape(columns: int) -> tuple[int, int]:
        return columns * width, -(-count // columns) * height

    columns = min(range(1, count + 1), key=lambda c: abs(np.log(shape(c)[0] / shape(c)[1] / ratio)))
    drawn = Image.new("RGB", (shape(columns)[0], shape(columns)[1] + 24), (226, 229, 234))
    ImageDraw.Draw(drawn).text((6, 4), picture.title, fill="black", font=ImageFont.load_default(14))
    for i, moment in enumerate(moments):
        drawn.paste(moment, (3 + i % columns * width, 24 + i // columns * height))
    return drawn
