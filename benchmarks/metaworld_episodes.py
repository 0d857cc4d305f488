"""Pictures of Meta-World's episodes: what a policy does on every task, a strip of frames each."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pgx_jax.errors import ConfigError
from pgx_jax.learn import Policy, take
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.report import wording
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent

FRAMES = 7
"""Of an episode: all but the last from its start to the first success, the last at the end."""
CROP = slice(100, 460), slice(40, 400)
"""The part of a picture in which things happen."""
SIDE, GAP, LINE, NAMES = 132, 4, 18, 150
"""Pixels of a frame, between frames, of the line below one, and of the tasks' names."""
DONE = (21, 154, 115)
"""Colour of frames in which the task is solved, which a word says as well."""


class Strip(NamedTuple):
    """Some frames of an episode."""

    frames: list[np.ndarray]
    """uint8 [360, 360, 3] each."""
    steps: list[int]
    """Steps before each."""
    solved: list[bool]
    """Whether the step that led to it was a success."""


def picture(cell: Mapping) -> str:
    """Name of the file of a cell's picture, without its ending."""
    k, total = cell.get("k") and f"k{cell['k']}", wording.steps(cell.get("steps") or cell["steps_per_task"])
    words = (cell["of"], cell.get("network"), cell.get("engine"), total, k, f"seed{cell['seed']}")
    return "_".join(("mt10_episodes", *filter(None, words)))


def missing_library(family: TaskFamily) -> str:
    """Why nothing can be drawn here; "" if it can."""
    copy = family.env.make_drawn()
    try:
        copy.reset(0, Tasks.of(family).params[0])
        copy.render()
    except ConfigError as error:
        return str(error)
    finally:
        copy.close()
    return ""


def strips(family: TaskFamily, policy: Policy, agents: Agent, count: int, seed: int) -> list[Strip]:
    """An episode of each of the first tasks, by its agent (leaves [n, ...]), with actions that are drawn as
    in training."""
    act = jax.jit(policy.action)
    keys, copy, found = (
        jax.random.split(jax.random.PRNGKey(seed), family.horizon),
        family.env.make_drawn(),
        [],
    )
    for i, task in enumerate(Tasks.of(family).params[:count]):
        agent, context = take(agents, i), jnp.asarray(family.context[i])
        obs, actions, solved = copy.reset(seed, task), [], []
        for key in keys:
            actions.append(np.asarray(act(agent, jnp.asarray(obs, jnp.float32), context, key)))
            step = copy.step(actions[-1])
            obs, solved = step.obs, [*solved, bool(step.success)]
        copy.reset(seed, task)  # and again: drawing takes a thousand times as long as stepping
        shown, frames = moments(solved), []
        for t in range(family.horizon + 1):
            if t in shown:
                frames.append(copy.render()[CROP])
            if t < family.horizon:
                copy.step(actions[t])
        found.append(Strip(frames, shown, [t > 0 and solved[t - 1] for t in shown]))
    copy.close()
    return found


def moments(solved: Sequence[bool]) -> list[int]:
    """Steps at which an episode is shown: evenly spaced from its start to the first success, and its end."""
    end = len(solved)
    if True not in solved:
        return np.unique(np.linspace(0, end, FRAMES).astype(int)).tolist()
    until = np.linspace(0, solved.index(True) + 1, FRAMES - 1).astype(int)
    return np.unique([*until, end]).tolist()


def sheet(names: Sequence[str], found: Sequence[Strip]) -> bytes:
    """All strips below each other, as a PNG of few colours."""
    width, height = NAMES + FRAMES * (SIDE + GAP), SIDE + LINE + GAP
    image = Image.new("RGB", (width, len(found) * height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for row, (name, strip) in enumerate(zip(names, found, strict=False)):
        top = row * height
        pen.text((GAP, top + SIDE // 2), name, fill="black", font=font)
        columns = [*range(len(strip.steps) - 1), FRAMES - 1]  # the end has a column of its own
        for column, frame, step, done in zip(columns, *strip, strict=True):
            left = NAMES + column * (SIDE + GAP)
            if done:
                pen.rectangle((left - 3, top, left + SIDE + 2, top + SIDE + 5), fill=DONE)
            image.paste(Image.fromarray(frame).resize((SIDE, SIDE)), (left, top + 3))
            told = f"step {step}{', solved' if done else ''}"
            pen.text((left, top + SIDE + 5), told, fill="black", font=font)
    buffer = io.BytesIO()
    image.quantize(255, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
