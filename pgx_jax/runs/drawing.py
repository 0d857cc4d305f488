"""Pictures for the report: a task of every group, played by the policy that was trained for it."""

from __future__ import annotations

import io
from pathlib import Path

import jax

from pgx_jax import show
from pgx_jax.runs.records import Records
from pgx_jax.runs.serial import dumps
from pgx_jax.runs.store import RunStore

FOLDER = "pictures"
STEPS, MOMENTS, RATIO = 100, 4, 1.0
"""Steps of a roll-out; how many of its first episode are shown, and how wide their sheet is by its height."""
WIDTH = 800
"""Most pixels of a picture from left to right."""


def draw_groups(run: Records, store: RunStore) -> None:
    """Draw the first task of every group, where the family can be drawn and that was not done before. What
    goes wrong is told in the run's metrics: a report is a report without pictures."""
    groups, kept = run.results.groups, f"{FOLDER}/groups.json"
    shown, place = dumps(groups).encode(), store.path / kept
    if not _can_be_drawn(run) or (place.is_file() and place.read_bytes() == shown):
        return
    try:
        for i, tasks in enumerate(groups, 1):
            task = run.family.task_names.index(tasks[0])
            picture = show.roll_out(run.family, task, steps=STEPS, player=run.player)
            sheet = show.sheet(picture, MOMENTS, RATIO)
            sheet.thumbnail((WIDTH, sheet.height))
            buffer = io.BytesIO()
            sheet.save(buffer, "PNG", optimize=True)
            store.write_file(f"{FOLDER}/group-{i}.png", buffer.getvalue())
        store.write_file(kept, shown)  # last: pictures of other groups, or of some alone, are drawn again
    except Exception as error:  # of any library that draws
        store.append_metrics({"not_drawn": f"{type(error).__name__}: {error}"})


def drawn(store: RunStore, k: int) -> dict[int, bytes]:
    """The pictures of k groups (PNG), by the group's number from 1; of those that are there."""
    paths: dict[int, Path] = {i: store.path / FOLDER / f"group-{i}.png" for i in range(1, k + 1)}
    return {i: path.read_bytes() for i, path in paths.items() if path.is_file()}


def _can_be_drawn(run: Records) -> bool:
    """Whether there is something that draws, in the one process that there is."""
    return (run.family.draw is not None or run.family.engine == "host") and jax.process_count() == 1
