"""``pgx-jax adapt``: a saved run on a task that it has not seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from pgx_jax.compare.finding import FINDERS
from pgx_jax.compare.unknown import task_of
from pgx_jax.errors import ConfigError
from pgx_jax.report.wording import with_interval
from pgx_jax.runs.adapting import AdaptedTask, TriedPolicy, adapt
from pgx_jax.runs.saved import load
from pgx_jax.types import Named


@dataclass(frozen=True)
class AdaptCommand:
    """Adapt a run's policies to a task that it has not seen: find its group, and train on."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    task: int | None = None
    """Number of an unseen task of the family's sampler, 0 to 49; 0 by default."""
    parameters: tuple[str, ...] = ()
    """A task of your own instead: NAME=VALUE of all parameters in which the run's tasks differ, arrays as in
    JSON (goal=[0.5,1])."""
    name: str | None = None
    """What it is called in the folder; by default its number, or "own" and a few letters, which every task of
    your own has others of."""
    seed: int | None = None
    """Seed of the sampler; the run's own by default."""
    steps: int = 200
    """Environment steps that may be taken on the task: half of them find its group's policy, and half train
    it; all of them find it where less than an episode would be left."""
    finder: Named[str, FINDERS] = "rewards"
    """How the task finds its group: by what the groups' policies and the meta-policy earn in an episode
    (successive halving where the steps allow whole ones, else a stretch of each), by that with halving
    always, by their critics' values of what is cut, by how well their critics foretell the rewards, or by the
    gain of the groups' surrogates on what the meta-policy experiences there. Policies that are
    told their task are tried as each of the tasks that they know (not by evidence)."""

    def __call__(self, console: Console) -> None:
        """Adapt to it."""
        own = self._own()
        run = load(self.run)
        task = task_of(run.family, own) if own else self.task or 0
        found = adapt(run, task, steps=self.steps, finder=self.finder, seed=self.seed, name=self.name)
        if found.tried:
            console.print(tried_table(found))
        whose = "the meta-policy" if found.group is None else f"the policy of {', '.join(found.group)}"
        told = "" if found.told is None else f", told that it is on {found.told}"
        lines = [
            f"{found.task}: goes on from {whose}{told}",
            f"{found.metric} before {with_interval(found.before)}, after {with_interval(found.after)}, by "
            f"{found.steps:,} of {self.steps:,} steps ({found.finding_steps:,} to find it)",
            _cut(found) if found.cut else "",
            f"saved: {self.run / 'stages' / (found.stage or '')}",
        ]
        for line in filter(None, lines):
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _own(self) -> dict[str, Any]:
        """The parameters of a task of one's own."""
        found: dict[str, Any] = {}
        for name, value in map(_named, self.parameters):
            if name in found:
                raise ConfigError(f"--parameters: {name} is given twice; give every parameter once")
            found[name] = value
        sampled = {"--task": self.task, "--seed": self.seed}
        if found and (given := [name for name, value in sampled.items() if value is not None]):
            raise ConfigError(
                f"{' and '.join(given)}: of a task of the family's sampler, and --parameters are your own; "
                f"give the one or the other"
            )
        return found


def _named(text: str) -> tuple[str, Any]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        wrong = f"value {value!r} is no number or JSON array" if equals else "there is no '='"
        raise ConfigError(f"--parameters {text}: {wrong}; write goal=0.5 or goal=[0.5,1]") from None


def _cut(found: AdaptedTask) -> str:
    """What was done with fewer steps than an episode may have."""
    if found.steps == found.finding_steps:
        return "fewer steps than an episode has: they went into finding the policy, which is not trained"
    return "fewer steps than an episode has: it was trained on a cut one"


def _called(entry: TriedPolicy, last: bool) -> str:
    """A policy by its tasks, and by what it was told."""
    whose = "all tasks (meta-policy)" if last else ", ".join(entry.tasks)
    return whose if entry.told is None else f"{whose}, told {entry.told}"


def tried_table(found: AdaptedTask) -> Table:
    """What the task's choice goes by."""
    table = Table("policy of", f"by {found.finder}", "± 95%", "", title=found.task)
    for i, entry in enumerate(found.tried):
        last = i == len(found.tried) - 1
        table.add_row(
            _called(entry, last),
            "not tried" if entry.value is None else f"{entry.value:.4g}",
            "" if entry.stderr is None else f"{1.96 * entry.stderr:.2g}",
            "chosen" if entry.chosen else "",
        )
    return table
