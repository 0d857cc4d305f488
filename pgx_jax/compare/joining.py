"""Groups that gain nothing by being apart become one again, so that a split that mixed tasks is undone: a
part of one group joins the group that its tasks belong to.

Two groups that were not split off one another at this look are asked where the meta-policy's own held-out
data show no gain in their being apart (which costs nothing). The policy of the larger one, the host, is tried
on the tasks of both, which is paid for beyond what looks for splits collect; they are joined where the steps
of either's tasks help the other's (on average over all tasks), and nothing tells that they gain by being
apart (`pipeline.join_groups`). The last two groups are not asked: that one policy is not enough has been
decided with all tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax import grouping, pipeline
from pgx_jax.compare.asking import Asking
from pgx_jax.errors import NoSignalError
from pgx_jax.pipeline import HeldOut
from pgx_jax.types import Agent


class Pair(NamedTuple):
    """Two groups, and what their question found."""

    host: int
    """The group whose policy was asked: the larger one."""
    guest: int
    member: Bool[np.ndarray, "n"]
    """bool [n]: the tasks of both."""
    collected: int
    """Environment steps."""
    gain: Float[np.ndarray, "3"]
    """float [3]: what being apart gains in standardised advantage a step, with its 95% interval."""
    joined: bool


def ask_pairs(
    asking: Asking,
    held_out: HeldOut,
    labels: Int[np.ndarray, "n"],
    origin: Sequence[int],
    agents: Sequence[Agent],
    number: int,
    afford: int,
) -> list[Pair]:
    """Ask all pairs of groups that are worth it; each group once at most.

    Args:
        asking: whose policies are asked, and how.
        held_out: what theta* has experienced.
        labels: int [n], the groups.
        origin: which policy each group has; those with the same one are not asked.
        agents: the policies.
        number: that of the look; its random numbers are its own.
        afford: environment steps that may be spent.
    """
    asked: list[Pair] = []
    pairs = worth_asking(held_out.afresh(), labels, origin)
    looks = pipeline.look_count(asking.config) * len(pairs)
    for host, guest in pairs:
        member = np.isin(labels, (host, guest))
        steps = asking.collecting(member)
        if not 0 < steps <= afford:
            continue
        afford -= steps
        tasks = np.flatnonzero(member)
        gain, joined = np.full(3, np.nan), False
        try:
            seen = asking.experience(agents[origin[host]], tasks, number)
            found, joined = pipeline.join_groups(
                asking.policy.log_prob, seen.params, seen.transitions, (labels[tasks] == guest).astype(int),
                asking.config, looks=looks, names=seen.family.task_names,
            )  # fmt: skip
            gain = np.array([found.gain, *grouping.interval(found.gain, found.stderr)])
        except NoSignalError:  # nothing speaks for company
            pass
        asked.append(Pair(host, guest, member, steps, gain, joined))
    return asked


def worth_asking(
    held_out: HeldOut, labels: Int[np.ndarray, "n"], origin: Sequence[int]
) -> list[tuple[int, int]]:
    """(host, guest) of the pairs that gain nothing by being apart where theta* is, by rising gain; each group
    once at most."""
    size = np.bincount(labels)
    pairs = [pair for pair in combinations(range(len(size)), 2) if len({origin[g] for g in pair}) == 2]
    if len(size) < 3 or not pairs:
        return []
    joined = np.array([np.where(labels == second, first, labels) for first, second in pairs])
    score = held_out(np.stack([labels, *joined]))
    apart = score(labels).gain
    known = held_out.data.task, len(labels), held_out.data.trajectory
    gain = [grouping.paired_difference(apart - score(x).gain, *known)[0] for x in joined]
    chosen: list[tuple[int, int]] = []
    for i in np.argsort(gain, kind="stable"):
        if gain[i] > 0 or set(pairs[i]) & {group for pair in chosen for group in pair}:
            continue
        first, second = pairs[i]
        chosen.append((first, second) if size[first] >= size[second] else (second, first))
    return chosen
